//! A look at one page by itself: all that can be said of it before it is known whose it is.

use super::super::coverage::Coverage;
use super::super::geometry::Geometry;
use super::super::page::{BtreePage, PageKind};
use super::super::record::{Soundness, record_is_sound};
use super::super::{Cell, bytes::be32};
use super::fault::ScrubFaultKind;

/// What is kept of a page: 16 bytes, because there is one for each, and a database of 10 GB has millions.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Note {
    /// The greatest rowid of a table's page; of what is no page of a tree, its first four bytes.
    key: i64,
    /// How far the least rowid is below the greatest.
    span: Span,
    /// Cells.
    pub cells: u16,
    /// `None` for what is no page of a tree.
    pub kind: Option<PageKind>,
    /// See the constants.
    flags: u8,
}

/// Something is wrong with it, should it be a page of a tree: looked at again then.
const BAD: u8 = 1;
/// Cells lead to overflow pages.
const SPILLS: u8 = 2;
/// A record's header goes on in an overflow page: to be judged once the chain is known.
const DEEP: u8 = 4;
/// It has rowids.
const KEYED: u8 = 8;

impl Note {
    /// The next page, should this be one of an overflow chain. `None` where the bytes are those of a page of a tree: they are read again
    /// if it is in a chain all the same.
    pub(super) fn next(&self) -> Option<u32> {
        self.kind.is_none().then_some(self.key as u32)
    }

    /// Whether all rowids of a table's page are above the one and not above the other. `false` may be said where the least is above it
    /// by less than the note can tell: then the page itself knows.
    pub(super) fn is_within(&self, above: Option<i64>, up_to: i64) -> bool {
        self.flags & KEYED == 0 || self.key <= up_to && above.is_none_or(|above| self.span.below(self.key) > above)
    }

    /// Something is wrong with the page, should it be one of a tree.
    pub(super) fn is_bad(&self) -> bool {
        self.flags & BAD != 0
    }

    /// Cells lead to overflow pages.
    pub(super) fn spills(&self) -> bool {
        self.flags & SPILLS != 0
    }

    /// A record's header goes on in an overflow page.
    pub(super) fn is_deep(&self) -> bool {
        self.flags & DEEP != 0
    }
}

/// A length in four bytes: the low 26 bits, shifted left by the high six. Exact below 2^26, else rounded up by less than a part in 2^25.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Span(u32);

const SPAN_BITS: u32 = 26;

impl Span {
    fn of(least: i64, most: i64) -> Span {
        let length = most.wrapping_sub(least).cast_unsigned();
        let shift = (u64::BITS - length.leading_zeros()).saturating_sub(SPAN_BITS);
        let rounded = |shift: u32| u128::from(length).div_ceil(1 << shift);
        // Rounded up it may need a bit more.
        let shift = shift + u32::from(rounded(shift) >> SPAN_BITS != 0);
        Span(shift << SPAN_BITS | rounded(shift) as u32)
    }

    /// The number so far below `most`, or the least there is.
    fn below(self, most: i64) -> i64 {
        let length = i128::from(self.0 & ((1 << SPAN_BITS) - 1)) << (self.0 >> SPAN_BITS);
        i64::try_from(i128::from(most) - length).unwrap_or(i64::MIN)
    }
}

/// The least and the greatest rowid of a table's page, as far as its cells can be read.
pub(super) fn rowids(bytes: &[u8], number: u32, geometry: &Geometry) -> Option<(i64, i64)> {
    let page = BtreePage::parse(bytes, number, geometry).ok()?;
    let rowids = page.cells().flatten().filter_map(|cell| cell.rowid);
    rowids.fold(None, |ends, rowid| {
        Some(ends.map_or((rowid, rowid), |(least, most): (i64, i64)| (least.min(rowid), most.max(rowid))))
    })
}

/// A cell's overflow chain.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    /// The page with the cell.
    pub owner: u32,
    /// The first page of the chain.
    pub first: u32,
    /// Pages that it must have.
    pub pages: u32,
}

/// Looks at page `number`. Chains go to `head`, what is wrong goes to `fault`; a caller that only counts pays for no words.
#[inline]
pub(super) fn look(
    bytes: &[u8],
    number: u32,
    geometry: &Geometry,
    coverage: &mut Coverage,
    mut head: impl FnMut(Head),
    mut fault: impl FnMut(ScrubFaultKind),
) -> Note {
    let mut note = Note { key: be32(bytes, 0).unwrap_or(0).into(), ..Note::default() };
    let page = match BtreePage::parse(bytes, number, geometry) {
        Ok(page) => page,
        Err(error) => {
            fault(error.into());
            note.flags = BAD;
            note.kind = BtreePage::lenient(bytes, number, geometry).map(|page| page.kind());
            return note;
        }
    };
    note.kind = Some(page.kind());
    note.cells = page.cell_count();
    // One loop for each kind, so that what a kind does not have costs it nothing.
    let mut walk = |kind| cells(&page, kind, number, geometry, coverage, &mut note, &mut head, &mut fault);
    match page.kind() {
        PageKind::TableLeaf => walk(PageKind::TableLeaf),
        PageKind::IndexLeaf => walk(PageKind::IndexLeaf),
        PageKind::IndexInterior => walk(PageKind::IndexInterior),
        PageKind::TableInterior => walk(PageKind::TableInterior),
    }
    note
}

#[inline(always)]
#[allow(clippy::too_many_arguments)] // inlined four times: a struct of them would be taken apart again
fn cells(
    page: &BtreePage<'_>,
    kind: PageKind,
    number: u32,
    geometry: &Geometry,
    coverage: &mut Coverage,
    note: &mut Note,
    head: &mut impl FnMut(Head),
    fault: &mut impl FnMut(ScrubFaultKind),
) {
    let mut readable = true;
    let (mut least, mut most, mut flags) = (i64::MAX, i64::MIN, 0);
    coverage.begin(page);
    for (index, at) in (0..).zip(page.pointers()) {
        let cell = match Cell::parse(page.bytes(), at, kind, geometry) {
            Ok(cell) => cell,
            Err(error) => {
                fault(ScrubFaultKind::Cell { cell: index, error });
                flags |= BAD;
                readable = false;
                continue;
            }
        };
        if let Err(error) = coverage.take(&cell) {
            fault(error.into());
            flags |= BAD;
        }
        if kind != PageKind::TableInterior {
            match record_is_sound(cell.local, cell.payload_len) {
                Ok(Soundness::Sound) => {}
                Ok(Soundness::Unknown) => flags |= DEEP,
                Err(error) => {
                    fault(ScrubFaultKind::Record { cell: index, error });
                    flags |= BAD;
                }
            }
            if let Some(first) = cell.first_overflow {
                flags |= SPILLS;
                head(Head { owner: number, first, pages: geometry.overflow_pages(cell.spilled()) });
            }
        }
        if let Some(rowid) = cell.rowid {
            if rowid <= most && index > 0 {
                fault(ScrubFaultKind::RowidOrder { cell: index, rowid });
                flags |= BAD;
            }
            least = least.min(rowid);
            most = most.max(rowid);
        }
    }
    // With a cell missing the sum means nothing.
    if readable && let Err(error) = coverage.finish(page) {
        fault(error.into());
        flags |= BAD;
    }
    if least <= most {
        (note.key, note.span) = (most, Span::of(least, most));
        flags |= KEYED;
    }
    note.flags = flags;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_small() {
        // A database of 10 GB has 2.6 million pages; its scrub has 64 MB for all that it does.
        assert_eq!(size_of::<Note>(), 16);
    }

    #[test]
    fn the_least_rowid_is_never_said_to_be_greater_than_it_is() {
        let mut lengths: Vec<u64> = (0..64).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) + 1]).collect();
        lengths.extend([u64::MAX, u64::MAX - 1, 0x0123_4567_89ab_cdef, (1 << 26) - 1, (1 << 52) - 1]);
        for length in lengths {
            for most in [i64::MAX, 1 << 40, 0] {
                let Some(least) = most.checked_sub_unsigned(length) else { continue };
                let told = Span::of(least, most).below(most);
                let off = least.wrapping_sub(told).cast_unsigned();
                assert!(told <= least && (told == i64::MIN || off <= length >> 25), "{most} - {length}: {told}");
                assert!(length >= 1 << SPAN_BITS || told == least, "{most} - {length}: {told}");
            }
        }
    }
}
