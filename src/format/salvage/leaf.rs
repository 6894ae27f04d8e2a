//! The rows of one page: each cell by itself, and where cell pointers are hurt, cells by their own bytes.
//!
//! A record proves itself: its header's types must add up to its payload's length, which stands before it. So a cell that is read at a
//! wrong place is noticed, and a cell whose pointer is gone can be looked for.

use super::super::Geometry;
use super::super::cell::Cell;
use super::super::overflow::{ChainError, OverflowChain};
use super::super::page::{BtreePage, PageKind};
use super::super::record::{Record, Value, record_is_sound};
use super::Pages;

/// No row is larger, in bytes, by SQLite's default (`SQLITE_MAX_LENGTH`); more is a damaged length.
const ROW_MAX: u32 = 1_000_000_000;
/// Chains from one page, in bytes together: many cells can point to one long chain.
const PAGE_ROWS_MAX: usize = 256 << 20;
/// Where a leaf's header has the lower byte of its count of cells.
const HEADER_COUNT_LOW: usize = 4;
/// What a disk writes whole, in bytes.
const SECTOR: u32 = 512;

/// A cell with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowCell {
    /// Where it begins.
    pub at: u16,
    /// Its rowid, on a table's page.
    pub rowid: Option<i64>,
    /// Columns of its record; 0 where its header does not end on the page.
    pub columns: u16,
    /// It was found by its own bytes, without a pointer.
    pub carved: bool,
}

/// The records of a leaf, or of an interior page of an index.
#[derive(Debug)]
pub struct Leaf<'a> {
    page: BtreePage<'a>,
    /// Cells whose records can be read, in the order of their pointers.
    pub cells: Vec<RowCell>,
    /// Cells that the page claims and that could not be read.
    pub lost: u32,
}

/// A row with all of its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whole {
    /// Its rowid, on a table's page.
    pub rowid: Option<i64>,
    /// The payload: all of it, or as much as there is.
    pub payload: Vec<u8>,
    /// Bytes that it should have.
    pub len: u32,
    /// Some of it may not be what was written: an overflow page is missing, or was guessed.
    pub uncertain: bool,
    /// It was found by its own bytes.
    pub carved: bool,
}

impl Whole {
    /// All of its bytes are there.
    pub fn is_complete(&self) -> bool {
        self.payload.len() >= self.len as usize
    }
}

impl<'a> Leaf<'a> {
    /// Reads page `number`. With `columns` cells are also looked for without pointers, where the page claims more than can be read; they
    /// must have so many columns, or with 0 as many as most of those found.
    pub fn read(bytes: &'a [u8], number: u32, geometry: &Geometry, columns: Option<u16>) -> Leaf<'a> {
        let page = page_of(bytes, number, geometry);
        Leaf::of(page.unwrap_or_else(|| BtreePage::assume(PageKind::TableLeaf, bytes, number, geometry)), columns)
    }

    fn of(page: BtreePage<'a>, columns: Option<u16>) -> Leaf<'a> {
        let kind = page.kind();
        let mut leaf = Leaf { page, cells: Vec::new(), lost: 0 };
        if kind == PageKind::TableInterior {
            return leaf;
        }
        let mut taken: Vec<(u32, u32)> = Vec::new();
        // A bit for each byte where a cell begins.
        let mut seen = vec![0u64; page.bytes().len() / 64 + 1];
        let mut is_new = |at: u16| {
            let word = seen.get_mut(usize::from(at) / 64);
            word.is_some_and(|word| {
                let bit = 1 << (at % 64);
                let is_new = *word & bit == 0;
                *word |= bit;
                is_new
            })
        };
        for at in page.pointers() {
            let read = page.cell_at(at).ok().and_then(|cell| Some((cell, columns_of(&cell)?)));
            match read.filter(|_| is_new(at)) {
                Some((cell, columns)) => {
                    taken.push((u32::from(at), u32::from(at) + cell.size));
                    leaf.cells.push(RowCell { at, rowid: cell.rowid, columns, carved: false });
                }
                None => leaf.lost += 1,
            }
        }
        if leaf.lost > 0 {
            leaf.leave_out_torn(&taken);
        }
        if let Some(columns) = columns.filter(|_| leaf.lost > 0) {
            leaf.carve(columns, taken);
            if columns == 0 {
                leaf.keep_the_usual();
            }
        }
        leaf
    }

    /// A write that was cut leaves zeros from a sector's beginning to the page's end. The cell across it has a sound header, and zeros
    /// for values that it had.
    fn leave_out_torn(&mut self, taken: &[(u32, u32)]) {
        let bytes = self.page.bytes();
        let zeros_from = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u32 + 1);
        let sector = zeros_from.next_multiple_of(SECTOR);
        if sector + SECTOR > self.page.geometry().page_size() {
            return;
        }
        let is_torn = |(start, end): &(u32, u32)| *start < sector && sector < *end;
        let torn: Vec<u32> = taken.iter().filter(|cell| is_torn(cell)).map(|(start, _)| *start).collect();
        self.cells.retain(|cell| !torn.contains(&u32::from(cell.at)));
        self.lost += torn.len() as u32;
    }

    /// Of cells that were found by their bytes, those with as many columns as most.
    fn keep_the_usual(&mut self) {
        let mut counts = std::collections::BTreeMap::new();
        for cell in &self.cells {
            *counts.entry(cell.columns).or_insert(0u32) += 1;
        }
        let usual = counts.into_iter().max_by_key(|(_, count)| *count).map(|(columns, _)| columns);
        self.cells.retain(|cell| !cell.carved || Some(cell.columns) == usual);
    }

    /// Looks for cells between those that are known, behind where the content begins, outside of freeblocks.
    fn carve(&mut self, columns: u16, mut taken: Vec<(u32, u32)>) {
        let usable = self.page.bytes().len() as u32;
        let header_end = (self.page.kind().header_len() + 2 * usize::from(self.page.cell_count())) as u32;
        let start = self.page.content_start();
        let start = if start >= header_end.min(usable) && start < usable { start } else { header_end.min(usable) };
        taken.extend(self.page.freeblocks().flatten().map(|(at, len)| (u32::from(at), u32::from(at) + u32::from(len))));
        taken.sort_unstable();
        let mut taken = taken.into_iter().peekable();
        let mut at = start;
        while at + 4 <= usable {
            while taken.next_if(|(_, end)| *end <= at).is_some() {}
            let next = taken.peek().copied().unwrap_or((usable, usable));
            if at >= next.0 {
                at = next.1.max(at + 1);
                continue;
            }
            let found = u16::try_from(at).ok().and_then(|at| {
                let cell = self.page.cell_at(at).ok()?;
                let has = columns_of(&cell).filter(|has| *has > 1 && (columns == 0 || *has == columns))?;
                (u32::from(at) + cell.size <= next.0).then_some((cell, has))
            });
            match found {
                Some((cell, columns)) => {
                    self.cells.push(RowCell { at: cell.at, rowid: cell.rowid, columns, carved: true });
                    self.lost = self.lost.saturating_sub(1);
                    at += cell.size;
                }
                None => at += 1,
            }
        }
    }

    /// The cell at this place.
    pub fn cell(&self, known: &RowCell) -> Option<Cell<'a>> {
        self.page.cell_at(known.at).ok()
    }

    /// The page's kind.
    pub fn kind(&self) -> PageKind {
        self.page.kind()
    }

    /// Each row, with its overflow pages. A chain that leads nowhere goes on at the page behind the last one where `is_overflow` says
    /// that it can be one: SQLite fills a file in that order.
    pub fn rows<'s>(
        &'s self,
        pages: &'s dyn Pages,
        is_overflow: &'s dyn Fn(u32) -> bool,
    ) -> impl Iterator<Item = Whole> + 's {
        let mut room = PAGE_ROWS_MAX;
        self.cells.iter().filter_map(move |known| {
            let cell = self.page.cell_at(known.at).ok()?;
            let mut row = whole(&cell, pages, self.page.geometry(), is_overflow, room)?;
            row.carved = known.carved;
            if cell.first_overflow.is_some() {
                room = room.saturating_sub(row.payload.len());
            }
            Some(row)
        })
    }
}

/// A page of a tree; also a leaf that only its cells tell, because the first bytes of its header are hurt.
pub fn page_of<'a>(bytes: &'a [u8], number: u32, geometry: &Geometry) -> Option<BtreePage<'a>> {
    BtreePage::lenient(bytes, number, geometry).or_else(|| {
        // The last page of an overflow chain begins like that, and behind what is left of its payload a leaf of before may stand.
        if bytes.starts_with(&[0; 4]) {
            return None;
        }
        let leaves = [PageKind::TableLeaf, PageKind::IndexLeaf];
        leaves.into_iter().find_map(|kind| told_by_its_cells(BtreePage::assume(kind, bytes, number, geometry)))
    })
}

/// Reads a page whose kind is none as this leaf, if every one of its cells says that it is one: that the count's lower byte, where the
/// content begins, and each pointer lead to two or more whole records, none within another, is no accident. The count's upper byte
/// stands with the kind in what is written over together.
fn told_by_its_cells(page: BtreePage<'_>) -> Option<BtreePage<'_>> {
    let start = page.content_start();
    let low = *page.bytes().get(HEADER_COUNT_LOW)?;
    let header = page.kind().header_len() as u32;
    let counts = (u32::from(low)..=page.geometry().max_cells()).step_by(256).filter(|count| *count >= 2);
    let fitting = counts.take_while(|count| header + 2 * count <= start).collect::<Vec<_>>();
    fitting.into_iter().rev().find_map(|count| {
        let page = page.with_cells(u16::try_from(count).ok()?);
        let mut taken = Vec::with_capacity(count as usize);
        for at in page.pointers() {
            let cell = Some(at).filter(|at| u32::from(*at) >= start).and_then(|at| page.cell_at(at).ok())?;
            columns_of(&cell).filter(|columns| *columns > 0)?;
            taken.push((u32::from(at), u32::from(at) + cell.size));
        }
        taken.sort_unstable();
        let is_apart = taken.windows(2).all(|pair| matches!(pair, [one, next] if one.1 <= next.0));
        (taken.len() == count as usize && is_apart).then_some(page)
    })
}

/// Columns of a record that adds up; 0 where its header goes on behind the page.
fn columns_of(cell: &Cell<'_>) -> Option<u16> {
    if cell.payload_len > ROW_MAX {
        return None;
    }
    match record_is_sound(cell.local, cell.payload_len) {
        Ok(super::super::Soundness::Sound) => {
            let columns = Record::parse(cell.local).ok()?.columns().count();
            u16::try_from(columns).ok().filter(|columns| *columns > 0)
        }
        Ok(super::super::Soundness::Unknown) => Some(0),
        Err(_) => None,
    }
}

fn whole(
    cell: &Cell<'_>,
    pages: &dyn Pages,
    geometry: &Geometry,
    is_overflow: &dyn Fn(u32) -> bool,
    room: usize,
) -> Option<Whole> {
    let mut row = Whole {
        rowid: cell.rowid,
        payload: cell.local.to_vec(),
        len: cell.payload_len,
        uncertain: false,
        carved: false,
    };
    let Some(mut first) = cell.first_overflow else { return Some(row) };
    if cell.payload_len as usize > room {
        return None;
    }
    let mut last = None;
    // Each turn takes a page at least, or ends.
    loop {
        let before = row.payload.len();
        let spilled = cell.payload_len.saturating_sub(before as u32);
        let mut broken = None;
        for link in OverflowChain::new(first, spilled, pages.count(), geometry, |number| pages.page(number)) {
            match link {
                // A page of a tree is no overflow page: the number before it is hurt.
                Ok(link) if !is_overflow(link.page) => {
                    broken = Some(ChainError::OutOfRange(link.page));
                    break;
                }
                Ok(link) => {
                    row.payload.extend_from_slice(link.payload());
                    last = Some(link.page);
                }
                Err(error) => broken = Some(error),
            }
        }
        match broken {
            None => return Some(row),
            Some(ChainError::GoesOn(_)) => return Some(Whole { uncertain: true, ..row }),
            // The number is right and its page is gone: what stands behind the last one is another row's.
            Some(ChainError::OutOfRange(page)) if page > pages.count() && page <= pages.counted() => {
                return Some(Whole { uncertain: true, ..row });
            }
            Some(_) => {}
        }
        row.uncertain = true;
        let next = last.map_or(0, |page: u32| page.saturating_add(1));
        if next == 0 || next > pages.count() || !is_overflow(next) || row.payload.len() == before {
            return Some(row);
        }
        first = next;
    }
}

/// A payload's values; of one that is cut, what there is of a text or a blob, and NULL for the rest.
pub fn values_of(payload: &[u8]) -> Vec<Value<'_>> {
    let Ok(record) = Record::parse(payload) else { return Vec::new() };
    let mut values = Vec::new();
    for column in record.columns().map_while(Result::ok) {
        values.push(column.value(payload).unwrap_or_else(|| {
            let there = usize::try_from(column.at).ok().and_then(|at| payload.get(at..)).unwrap_or_default();
            match column.serial_type {
                _ if there.is_empty() => Value::Null,
                12.. if column.serial_type % 2 == 0 => Value::Blob(there),
                12.. => Value::Text(there),
                _ => Value::Null,
            }
        }));
    }
    values
}
