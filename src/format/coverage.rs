//! Whether a page's bytes add up: cells and freeblocks do not overlap, lie within the content, and what is between them is as much as
//! the header counts as fragments.
//!
//! `checkTreePage` in `btree.c` sorts the cells on a heap. Here each byte of the page has a bit: cells come in any order, most take one
//! or two words of bits, and the sum of their sizes is the covered part once no two overlap.

use thiserror::Error;

use super::cell::Cell;
use super::page::{BtreePage, FreeblockError};

/// A word of bits for each 64 bytes of the largest page.
const WORDS: usize = 65_536 / 64;

/// The bits, to be used for one page after the other: clearing what a page needs is cheaper than a new one.
#[derive(Debug, Clone)]
pub struct Coverage {
    taken: Box<[u64; WORDS]>,
    start: u32,
    covered: u32,
}

/// Why the bytes of a page do not add up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CoverageError {
    /// Two cells, two freeblocks or one of each have a byte in common, or it lies before the content.
    #[error("there are multiple uses of byte {0} of the page or of one behind it")]
    Overlap(u32),
    /// The chain of freeblocks.
    #[error(transparent)]
    Freeblock(#[from] FreeblockError),
    /// The header counts otherwise.
    #[error("{counted} bytes are fragments, and the page's header says {written}")]
    Fragments {
        /// Bytes of the content that no cell and no freeblock covers.
        counted: u32,
        /// Bytes by the header.
        written: u8,
    },
}

impl Default for Coverage {
    fn default() -> Coverage {
        Coverage::new()
    }
}

impl Coverage {
    /// Of no page yet.
    pub fn new() -> Coverage {
        Coverage { taken: Box::new([0; WORDS]), start: 0, covered: 0 }
    }

    /// Forgets the page before; then come its cells, by [`Coverage::take`], and [`Coverage::finish`].
    #[inline]
    pub fn begin(&mut self, page: &BtreePage<'_>) {
        let words = (page.geometry().usable() as usize).div_ceil(64);
        if let Some(taken) = self.taken.get_mut(..words) {
            taken.fill(0);
        }
        (self.start, self.covered) = (page.content_start(), 0);
    }

    /// Takes the bytes of a cell of that page.
    ///
    /// # Errors
    /// [`CoverageError::Overlap`].
    #[inline]
    pub fn take(&mut self, cell: &Cell<'_>) -> Result<(), CoverageError> {
        self.take_bytes(u32::from(cell.at), cell.size)
    }

    #[inline]
    fn take_bytes(&mut self, at: u32, len: u32) -> Result<(), CoverageError> {
        let end = at.saturating_add(len).saturating_sub(1);
        let (first, last) = (at as usize / 64, end as usize / 64);
        let (head, tail) = (u64::MAX << (at % 64), u64::MAX >> (63 - end % 64));
        let Some(words) = self.taken.get_mut(first..=last).filter(|_| at >= self.start) else {
            return Err(CoverageError::Overlap(at));
        };
        let taken = match words {
            [word] => take_word(word, head & tail),
            [a, b] => take_word(a, head) | take_word(b, tail),
            [a, between @ .., b] => {
                let ends = take_word(a, head) | take_word(b, tail);
                between.iter_mut().fold(ends, |taken, word| taken | take_word(word, u64::MAX))
            }
            [] => 0,
        };
        self.covered = self.covered.saturating_add(len);
        if taken == 0 { Ok(()) } else { Err(CoverageError::Overlap(at)) }
    }

    /// Takes the freeblocks, and compares what is left with the header's count.
    ///
    /// # Errors
    /// [`CoverageError`].
    #[inline]
    pub fn finish(&mut self, page: &BtreePage<'_>) -> Result<(), CoverageError> {
        for block in page.freeblocks() {
            let (at, len) = block?;
            self.take_bytes(u32::from(at), u32::from(len))?;
        }
        // Nothing overlaps and all lies between the start and the end, so that the sum is no more than that.
        let counted = page.geometry().usable().saturating_sub(self.start).saturating_sub(self.covered);
        let written = page.fragmented();
        if counted == u32::from(written) { Ok(()) } else { Err(CoverageError::Fragments { counted, written }) }
    }

    /// All of it for a page whose cells can all be read; one that cannot is left out, and then the fragments will not add up.
    ///
    /// # Errors
    /// [`CoverageError`].
    pub fn check(&mut self, page: &BtreePage<'_>) -> Result<(), CoverageError> {
        self.begin(page);
        for cell in page.cells().flatten() {
            self.take(&cell)?;
        }
        self.finish(page)
    }
}

/// The bits of `mask` that were taken before; all of them are now.
#[inline]
fn take_word(word: &mut u64, mask: u64) -> u64 {
    let before = *word & mask;
    *word |= mask;
    before
}
