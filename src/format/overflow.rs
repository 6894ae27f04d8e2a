//! A chain of overflow pages: the number of the next page (4, big-endian; 0 on the last), then payload.
//!
//! <https://sqlite.org/fileformat2.html#cell_payload_overflow_pages>. The payload's length says how many pages there must be, so that a
//! chain that ends early, goes on or bites its tail is told.

use thiserror::Error;

use super::bytes::be32;
use super::cell::Cell;
use super::geometry::Geometry;

/// Why a chain does not give the payload that it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ChainError {
    /// The chain's end comes `missing` bytes of payload too early.
    #[error("the overflow chain ends {missing} bytes too early")]
    Ends {
        /// Bytes of payload that are not there.
        missing: u32,
    },
    /// Page 1, or a page that the database does not have.
    #[error("the overflow chain leads to page {0}, which can be none of it")]
    OutOfRange(u32),
    /// The source has no such page, or not all of it.
    #[error("page {0} of the overflow chain cannot be read")]
    Unreadable(u32),
    /// The chain comes back to itself.
    #[error("the overflow chain comes to page {0} again")]
    Loops(u32),
    /// The last page names a next one.
    #[error("the overflow chain goes on to page {0} behind its last")]
    GoesOn(u32),
}

/// A page of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link<P> {
    /// Its number.
    pub page: u32,
    /// The page, as the source gave it; its payload begins at byte 4.
    pub bytes: P,
    /// Bytes of payload on it.
    pub len: u32,
}

/// The walk along a chain. It ends with the payload or at the first error; an error is the last item. Memory and work are bounded by the
/// payload's length, and a loop is noticed after three times its own length at the most.
#[derive(Debug)]
pub struct OverflowChain<S> {
    source: S,
    geometry: Geometry,
    pages: u32,
    next: u32,
    left: u32,
    is_over: bool,
    /// Brent's way of finding a loop: a page to come back to, moved on after 1, 2, 4, ... steps.
    mark: u32,
    steps_to_mark: u32,
    steps: u32,
}

impl<S> OverflowChain<S> {
    /// The chain of `spilled` bytes from page `first` on, in a database of so many `pages`. `source` gives a page's bytes.
    pub fn new(first: u32, spilled: u32, pages: u32, geometry: &Geometry, source: S) -> OverflowChain<S> {
        OverflowChain {
            source,
            geometry: *geometry,
            pages,
            next: first,
            left: spilled,
            is_over: spilled == 0,
            mark: 0,
            steps_to_mark: 1,
            steps: 0,
        }
    }

    /// Of a cell; empty for one whose payload does not spill.
    pub fn of(cell: &Cell<'_>, pages: u32, geometry: &Geometry, source: S) -> OverflowChain<S> {
        let spilled = if cell.first_overflow.is_some() { cell.spilled() } else { 0 };
        OverflowChain::new(cell.first_overflow.unwrap_or(0), spilled, pages, geometry, source)
    }

    fn step<P: AsRef<[u8]>>(&mut self) -> Result<Link<P>, ChainError>
    where
        S: FnMut(u32) -> Option<P>,
    {
        let page = self.next;
        if page == 0 {
            return Err(ChainError::Ends { missing: self.left });
        }
        if page == 1 || page > self.pages || page == self.geometry.lock_byte_page() {
            return Err(ChainError::OutOfRange(page));
        }
        if page == self.mark {
            return Err(ChainError::Loops(page));
        }
        self.steps += 1;
        if self.steps == self.steps_to_mark {
            (self.mark, self.steps, self.steps_to_mark) = (page, 0, self.steps_to_mark.saturating_mul(2));
        }
        let bytes = (self.source)(page).ok_or(ChainError::Unreadable(page))?;
        let len = self.left.min(self.geometry.overflow_capacity());
        let next = be32(bytes.as_ref(), 0).ok_or(ChainError::Unreadable(page))?;
        if bytes.as_ref().len() < 4 + len as usize {
            return Err(ChainError::Unreadable(page));
        }
        self.next = next;
        self.left -= len;
        Ok(Link { page, bytes, len })
    }
}

impl<P: AsRef<[u8]>> Link<P> {
    /// The part of the payload that stands here.
    pub fn payload(&self) -> &[u8] {
        self.bytes.as_ref().get(4..4 + self.len as usize).unwrap_or_default()
    }
}

impl<P: AsRef<[u8]>, S: FnMut(u32) -> Option<P>> Iterator for OverflowChain<S> {
    type Item = Result<Link<P>, ChainError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        if self.left == 0 {
            self.is_over = true;
            // A chain that went on would share a page with another, or hide one.
            return (self.next != 0).then_some(Err(ChainError::GoesOn(self.next)));
        }
        let step = self.step();
        self.is_over = step.is_err();
        Some(step)
    }
}

/// Puts a cell's payload into `into`, which is cleared first: what stands on the page, then what the chain gives. At most `limit` bytes
/// are taken. `None` when all of the payload is there; else why what is there is only its beginning, or, with
/// [`ChainError::GoesOn`], why it is doubtful although it is all there.
pub fn assemble<P: AsRef<[u8]>>(
    cell: &Cell<'_>,
    pages: u32,
    geometry: &Geometry,
    limit: usize,
    source: impl FnMut(u32) -> Option<P>,
    into: &mut Vec<u8>,
) -> Option<Shortfall> {
    into.clear();
    into.extend_from_slice(cell.local.get(..limit.min(cell.local.len())).unwrap_or_default());
    for link in OverflowChain::of(cell, pages, geometry, source) {
        let link = match link {
            Ok(link) => link,
            Err(error) => return Some(Shortfall::Chain(error)),
        };
        let payload = link.payload();
        let room = limit.saturating_sub(into.len());
        into.extend_from_slice(payload.get(..room.min(payload.len())).unwrap_or_default());
        if room < payload.len() {
            return Some(Shortfall::Limit);
        }
    }
    (into.len() < cell.payload_len as usize).then_some(Shortfall::Limit)
}

/// Why an assembled payload is not whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Shortfall {
    /// The chain.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The caller's limit.
    #[error("the payload is larger than the limit")]
    Limit,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages of 512 bytes whose next page is the given one; page 1 is the first.
    fn chain(next: &[u32], first: u32, spilled: u32) -> (Vec<u32>, Option<ChainError>) {
        let geometry = Geometry::new(512, 0).unwrap();
        let source = |page: u32| {
            let mut bytes = vec![page as u8; 512];
            bytes[..4].copy_from_slice(&next[page as usize - 1].to_be_bytes());
            Some(bytes)
        };
        let (mut pages, mut error) = (Vec::new(), None);
        for link in OverflowChain::new(first, spilled, next.len() as u32, &geometry, source) {
            assert_eq!(error, None, "an error is the last item");
            match link {
                Ok(link) => {
                    assert!(link.payload().iter().all(|byte| u32::from(*byte) == link.page));
                    pages.push(link.page);
                }
                Err(found) => error = Some(found),
            }
        }
        (pages, error)
    }

    #[test]
    fn a_chain_is_as_long_as_its_payload_or_it_is_told() {
        assert_eq!(chain(&[0, 3, 0], 2, 509), (vec![2, 3], None));
        assert_eq!(chain(&[0, 3, 0], 2, 508), (vec![2], Some(ChainError::GoesOn(3))));
        assert_eq!(chain(&[0, 3, 0], 2, 1020), (vec![2, 3], Some(ChainError::Ends { missing: 4 })));
        assert_eq!(chain(&[0, 4, 0], 2, 600), (vec![2], Some(ChainError::OutOfRange(4))));
        assert_eq!(chain(&[0, 1, 0], 2, 600), (vec![2], Some(ChainError::OutOfRange(1))));
        assert_eq!(chain(&[0, 0], 0, 5), (vec![], Some(ChainError::Ends { missing: 5 })));
        assert_eq!(chain(&[0, 0], 9, 0), (vec![], None));
    }

    #[test]
    fn a_loop_is_noticed_long_before_the_payload_is_full() {
        let (pages, error) = chain(&[0, 3, 4, 5, 3], 2, i32::MAX as u32);
        assert!(matches!(error, Some(ChainError::Loops(3..=5))) && pages.len() < 20, "{error:?} {pages:?}");
        assert!(matches!(chain(&[0, 2], 2, 5000), (_, Some(ChainError::Loops(2)))));
    }

    #[test]
    fn a_payload_stops_at_its_limit_and_at_the_chains_end() {
        let geometry = Geometry::new(512, 0).unwrap();
        let cell = Cell {
            at: 0,
            size: 4,
            left_child: None,
            rowid: None,
            payload_len: 300,
            local: b"abc",
            first_overflow: Some(2),
        };
        let page = |_| Some([0u8; 512]);
        let mut bytes = Vec::new();
        assert_eq!(assemble(&cell, 9, &geometry, 300, page, &mut bytes), None);
        assert_eq!((bytes.len(), &bytes[..3]), (300, &b"abc"[..]));
        assert_eq!(assemble(&cell, 9, &geometry, 299, page, &mut bytes), Some(Shortfall::Limit));
        assert_eq!(bytes.len(), 299);
        assert_eq!(assemble(&cell, 9, &geometry, 2, page, &mut bytes), Some(Shortfall::Limit));
        assert_eq!(bytes, b"ab");
        let none = |_| None::<Vec<u8>>;
        let lost = Some(Shortfall::Chain(ChainError::Unreadable(2)));
        assert_eq!(assemble(&cell, 9, &geometry, 300, none, &mut bytes), lost);
        assert_eq!(bytes, b"abc");
    }
}
