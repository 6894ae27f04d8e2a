//! A look at one page by itself: all that can be said of it before it is known whose it is.

use super::super::coverage::Coverage;
use super::super::geometry::Geometry;
use super::super::page::{BtreePage, PageKind};
use super::super::record::{Soundness, record_is_sound};
use super::super::{Cell, bytes::be32};
use super::fault::ScrubFaultKind;

/// What is kept of a page: small, because there is one for each.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Note {
    /// The least rowid of a table's page; with no cell, above [`Note::most`].
    pub least: i64,
    /// The greatest.
    pub most: i64,
    /// The first four bytes: the next page, should this be one of an overflow chain.
    pub next: u32,
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

impl Note {
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
    let mut note = Note { next: be32(bytes, 0).unwrap_or(0), least: i64::MAX, most: i64::MIN, ..Note::default() };
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
    (note.least, note.most, note.flags) = (least, most, flags);
}
