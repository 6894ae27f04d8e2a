//! Sound pages go to the new database as they are: to take every row of them apart and to put it together again costs ten times as much,
//! and gives the same bytes. Only the numbers of pages change. What is not sound to the byte is left for the way row by row.
//!
//! A tree of rowids gets new interior pages above its leaves, in the order of the rowids, so that it may lack leaves, or have some that
//! nothing led to. A tree of keys (WITHOUT ROWID, or an index) is taken as a whole or not at all: the order of its keys is not looked at
//! here. Who moves one has its order proven afterwards, and of an index, that it has what its table's rows say.

use super::super::Geometry;
use super::super::cell::Cell;
use super::super::overflow::OverflowChain;
use super::super::page::{BtreePage, PageKind};
use super::super::record::{Record, Soundness, Value, record_is_sound};
use super::super::tree::DEPTH_MAX;
use super::super::varint::varint_len;
use super::{Affinity, ColumnShape, Pages, Piece, Survey};

/// Where a page of the new database goes: its number and its bytes.
pub type Put<'a, E> = dyn FnMut(u32, &[u8]) -> Result<(), E> + 'a;

/// Hurt pages of one table that orphans are compared with; with more of them all orphans go row by row.
const HURT: usize = 1000;

/// What of a table went over as it was.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Moved {
    /// Rows.
    pub rows: u64,
    /// Of these: on pages that nothing led to.
    pub adopted: u64,
    /// Pages to be read row by row.
    pub left: Vec<Piece>,
}

/// Moves pages into one new database.
pub struct Transplant<'a> {
    pages: &'a dyn Pages,
    survey: &'a Survey,
    geometry: Geometry,
    /// The next page of the new database that nothing uses.
    next: u32,
    /// Overflow pages of the old one that a row has: a second row with the same one is damaged.
    used: Vec<u64>,
}

impl std::fmt::Debug for Transplant<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transplant").field("next", &self.next).finish_non_exhaustive()
    }
}

/// A leaf, or a page of keys, that is sound to the byte.
struct Sound {
    rows: u32,
    /// The rowid of the last row.
    high: i64,
    /// Per row that spills: where the number of its first overflow page stands, and its chain.
    chains: Vec<(usize, Vec<u32>)>,
}

impl<'a> Transplant<'a> {
    /// Into a database that has so many pages of this size, all of them usable to the last byte, and no pointer maps. `None` where the old
    /// one's are others.
    pub fn into_database(pages: &'a dyn Pages, survey: &'a Survey, has: u32) -> Option<Transplant<'a>> {
        let geometry = survey.geometry;
        if geometry.usable() != geometry.page_size() || geometry.has_pointer_maps() {
            return None;
        }
        let used = vec![0; survey.notes.len() / 64 + 1];
        Some(Transplant { pages, survey, geometry, next: has.saturating_add(1), used })
    }

    /// Pages that the new database has.
    pub fn count(&self) -> u32 {
        self.next.saturating_sub(1)
    }

    /// Moves the leaves of a table of rowids with these columns, as far as it takes their rows, below its empty `root`. Of two leaves with a
    /// rowid in common the first piece goes.
    ///
    /// # Errors
    /// What `put` says.
    pub fn table<E>(
        &mut self,
        pieces: &[Piece],
        columns: &[ColumnShape],
        root: u32,
        put: &mut Put<'_, E>,
    ) -> Result<Moved, E> {
        let mut moved = Moved::default();
        let in_order = self.in_order(pieces);
        let mut is_left = vec![true; pieces.len()];
        // The last one waits: if it stays alone, it is the root.
        let mut waiting: Option<(Vec<u8>, Sound)> = None;
        let mut leaves: Vec<(u32, i64)> = Vec::new();
        for nth in in_order {
            let Some(piece) = pieces.get(nth as usize).copied() else { continue };
            let bytes = self.pages.page(piece.page);
            let sound = bytes.and_then(|bytes| Some((self.sound(&bytes, piece.page, columns)?, bytes)));
            let Some((sound, bytes)) = sound else { continue };
            if let Some(is_left) = is_left.get_mut(nth as usize) {
                *is_left = false;
            }
            moved.rows += u64::from(sound.rows);
            moved.adopted += if piece.orphan { u64::from(sound.rows) } else { 0 };
            if let Some((bytes, sound)) = waiting.replace((bytes, sound)) {
                let number = self.number();
                leaves.push((number, sound.high));
                self.put_rows(number, bytes, &sound, put)?;
            }
        }
        // In their order: the surest first.
        moved.left = pieces.iter().zip(is_left).filter_map(|(piece, is_left)| is_left.then_some(*piece)).collect();
        let Some((bytes, sound)) = waiting else { return Ok(moved) };
        let number = if leaves.is_empty() { root } else { self.number() };
        leaves.push((number, sound.high));
        self.put_rows(number, bytes, &sound, put)?;
        if leaves.len() > 1 {
            self.put_above(leaves, root, put)?;
        }
        Ok(moved)
    }

    /// The leaves that can be moved, by their rowids: their places among the pieces. Of two with a rowid in common the first piece goes;
    /// and a row of a page that is in its place and hurt is worth more than one of a page that nothing led to.
    fn in_order(&self, pieces: &[Piece]) -> Vec<u32> {
        let page = |nth: u32| pieces.get(nth as usize).map_or(0, |piece| piece.page);
        let ends = |nth: u32| {
            let note = self.survey.note(page(nth));
            (note.low, note.high)
        };
        let (mut all, mut hurt) = (Vec::with_capacity(pieces.len()), Vec::new());
        for (nth, piece) in (0..).zip(pieces) {
            let note = self.survey.note(piece.page);
            if note.sound && note.kind == Some(PageKind::TableLeaf) && note.cells > 0 {
                all.push(nth);
            } else if !piece.orphan && note.low <= note.high {
                hurt.push((note.low, note.high));
            }
        }
        all.sort_unstable_by_key(|nth| (ends(*nth).0, *nth));
        // What is dropped is the later one, which the earlier takes the place of.
        all.dedup_by(|leaf, before| {
            let is_apart = ends(*before).1 < ends(*leaf).0;
            *before = if is_apart { *before } else { (*before).min(*leaf) };
            !is_apart
        });
        let is_orphan = |nth: u32| pieces.get(nth as usize).is_none_or(|piece| piece.orphan);
        let meets = |(low, high)| hurt.iter().any(|hurt: &(i64, i64)| low <= hurt.1 && hurt.0 <= high);
        all.retain(|nth| !is_orphan(*nth) || hurt.len() < HURT && !meets(ends(*nth)));
        all
    }

    /// Moves the tree of a table WITHOUT ROWID, or of an index, whole, in place of the empty one at `root`; so many rows or entries. `None`
    /// when something of it is not sound: then nothing was moved.
    ///
    /// # Errors
    /// What `put` says.
    pub fn tree<E>(
        &mut self,
        old: u32,
        columns: &[ColumnShape],
        root: u32,
        put: &mut Put<'_, E>,
    ) -> Result<Option<u64>, E> {
        // Each page, with how many overflow pages go behind it, and whether nothing of it changes.
        let mut order: Vec<(u32, u32, bool)> = Vec::new();
        let before = self.used.clone();
        let mut waiting = vec![(old, 1)];
        let mut rows = 0;
        while let Some((page, depth)) = waiting.pop() {
            let note = self.survey.note(page);
            let is_keys = note.sound && note.kind.is_some_and(|kind| !kind.is_table());
            // The empty leaf of an empty table has no cells to be sound by: nothing to move.
            let bytes = self.pages.page(page).filter(|_| is_keys && depth <= DEPTH_MAX && self.take(page));
            let sound = bytes.and_then(|bytes| Some((self.sound(&bytes, page, columns)?, bytes)));
            let Some((sound, bytes)) = sound else {
                self.used = before;
                return Ok(None);
            };
            rows += u64::from(sound.rows);
            let is_leaf = note.kind.is_some_and(PageKind::is_leaf);
            let spilled = sound.chains.iter().map(|(_, chain)| chain.len() as u32).sum();
            order.push((page, spilled, is_leaf && spilled == 0));
            if let Ok(read) = BtreePage::parse(&bytes, page, &self.geometry)
                && !read.kind().is_leaf()
            {
                let left = read.cells().flatten().filter_map(|cell| cell.left_child);
                waiting.extend(left.chain(read.right_child()).map(|child| (child, depth + 1)));
            }
        }
        let mut numbers: Vec<(u32, u32)> = Vec::with_capacity(order.len());
        let start = self.next;
        for (page, spilled, _) in &order {
            let number = if *page == old { root } else { self.number() };
            numbers.push((*page, number));
            (0..*spilled).for_each(|_| {
                self.number();
            });
        }
        numbers.sort_unstable();
        self.next = start;
        self.used = before;
        for (page, _, as_it_is) in order {
            let Some(mut bytes) = self.pages.page(page) else { continue };
            self.take(page);
            if as_it_is {
                let number = if page == old { root } else { self.number() };
                put(number, &bytes)?;
                continue;
            }
            let Some(sound) = self.sound(&bytes, page, columns) else { continue };
            let mut children = Vec::new();
            if let Ok(read) = BtreePage::parse(&bytes, page, &self.geometry)
                && !read.kind().is_leaf()
            {
                children.extend(read.cells().flatten().map(|cell| (usize::from(cell.at), cell.left_child)));
                children.push((8, read.right_child()));
            }
            for (at, child) in children {
                let place = child.and_then(|child| numbers.binary_search_by_key(&child, |(page, _)| *page).ok());
                let number = place.and_then(|place| numbers.get(place)).map_or(0, |(_, number)| *number);
                put_be32(&mut bytes, at, number);
            }
            let number = if page == old { root } else { self.number() };
            self.put_rows(number, bytes, &sound, put)?;
        }
        Ok(Some(rows))
    }

    /// The next page that is free for use.
    fn number(&mut self) -> u32 {
        if self.next == self.geometry.lock_byte_page() {
            self.next += 1;
        }
        let number = self.next;
        self.next = self.next.saturating_add(1);
        number
    }

    /// False for a page that is taken.
    fn take(&mut self, page: u32) -> bool {
        let Some(word) = self.used.get_mut(page as usize / 64) else { return false };
        let bit = 1 << (page % 64);
        let is_free = *word & bit == 0;
        *word |= bit;
        is_free
    }

    fn sound(&mut self, bytes: &[u8], number: u32, columns: &[ColumnShape]) -> Option<Sound> {
        let page = BtreePage::parse(bytes, number, &self.geometry).ok()?;
        let mut sound = Sound { rows: 0, high: i64::MIN, chains: Vec::new() };
        // A leaf of which every cell was read has been looked through when it was surveyed, as far as its records stand on it.
        let is_read = page.kind().is_leaf() && self.survey.note(number).cells == page.cell_count();
        for cell in page.cells() {
            let cell = cell.ok()?;
            let is_known = is_read && cell.first_overflow.is_none();
            if !is_known && record_is_sound(cell.local, cell.payload_len) != Ok(Soundness::Sound) {
                return None;
            }
            if !is_taken(cell.local, columns) {
                return None;
            }
            if let Some(rowid) = cell.rowid {
                if rowid <= sound.high && sound.rows > 0 {
                    return None;
                }
                sound.high = rowid;
            }
            sound.rows += 1;
            if cell.first_overflow.is_some() {
                let at = usize::from(cell.at) + (cell.size as usize).checked_sub(4)?;
                sound.chains.push((at, self.chain(&cell)?));
            }
        }
        (sound.rows > 0).then_some(sound)
    }

    /// The chain of a row, if it is all there and nobody else's. Its pages are taken at once, so that many rows with one long chain cost
    /// no more than one.
    fn chain(&mut self, cell: &Cell<'_>) -> Option<Vec<u32>> {
        let pages = self.pages;
        OverflowChain::of(cell, pages.count(), &self.geometry.clone(), |page| pages.page(page))
            .map(|link| {
                let page = link.ok()?.page;
                let note = self.survey.note(page);
                (note.kind.is_none() && !note.free && self.take(page)).then_some(page)
            })
            .collect()
    }

    /// Puts a page and, behind it, its overflow pages.
    fn put_rows<E>(&mut self, number: u32, mut bytes: Vec<u8>, sound: &Sound, put: &mut Put<'_, E>) -> Result<(), E> {
        let first = self.next;
        for (at, chain) in &sound.chains {
            let numbers: Vec<u32> = chain.iter().map(|_| self.number()).collect();
            put_be32(&mut bytes, *at, numbers.first().copied().unwrap_or(0));
        }
        put(number, &bytes)?;
        self.next = first;
        for page in
            sound.chains.iter().flat_map(|(_, chain)| chain.iter().zip((1..chain.len()).map(Some).chain([None])))
        {
            let (page, behind) = page;
            let number = self.number();
            let next = self.next;
            // The number that the next call gives.
            let next = if next == self.geometry.lock_byte_page() { next + 1 } else { next };
            let mut bytes = self.pages.page(*page).unwrap_or_default();
            put_be32(&mut bytes, 0, behind.map_or(0, |_| next));
            put(number, &bytes)?;
        }
        Ok(())
    }

    /// Puts the interior pages above leaves that are in order, each with its highest rowid, up to the root.
    fn put_above<E>(&mut self, mut level: Vec<(u32, i64)>, root: u32, put: &mut Put<'_, E>) -> Result<(), E> {
        loop {
            let widest = level.iter().map(|(_, key)| varint_len(key.cast_unsigned())).max().unwrap_or(1);
            // The last child takes no cell.
            let most = (self.geometry.usable() as usize - 12) / (2 + 4 + widest) + 1;
            let groups = level.len().div_ceil(most);
            let mut upper = Vec::with_capacity(groups);
            let mut rest = level.as_slice();
            for left in (1..=groups).rev() {
                let (group, behind) = rest.split_at(rest.len().div_ceil(left).min(rest.len()));
                rest = behind;
                let number = if groups == 1 { root } else { self.number() };
                put(number, &interior(group, &self.geometry))?;
                upper.extend(group.last().map(|(_, key)| (number, *key)));
            }
            if groups <= 1 {
                return Ok(());
            }
            level = upper;
        }
    }
}

/// Whether a table takes this record as it is: it has no column too many, no NULL where none may be, and no value that the column would
/// have converted, as a bit that turned in a record's header makes one: an INSERT converts it, and SQLite's check is content then.
fn is_taken(local: &[u8], columns: &[ColumnShape]) -> bool {
    let Ok(record) = Record::parse(local) else { return false };
    let mut known = columns.iter();
    record.columns().all(|column| {
        let (Ok(column), Some(known)) = (column, known.next()) else { return false };
        // A float that is not a number is read as a NULL too.
        let may_be_null = matches!(column.serial_type, 0 | 7);
        let is_null = known.not_null && may_be_null && matches!(column.value(local), None | Some(Value::Null));
        let is_converted = match known.affinity {
            Affinity::Text => matches!(column.serial_type, 1..=9),
            Affinity::Integer | Affinity::Real | Affinity::Numeric => {
                matches!(column.value(local), Some(Value::Text(text)) if may_be_number(text))
            }
            Affinity::Blob => false,
        };
        !is_null && !is_converted
    })
}

/// A text that a column of numbers may make a number of, in any encoding; of some that it would not, too.
fn may_be_number(text: &[u8]) -> bool {
    let of_numbers = |byte: &u8| byte.is_ascii_digit() || b"+-.eE \t\n\x0b\x0c\r\0".contains(byte);
    text.iter().all(of_numbers) && text.iter().any(u8::is_ascii_digit)
}

/// An interior page of a tree of rowids.
fn interior(children: &[(u32, i64)], geometry: &Geometry) -> Vec<u8> {
    let mut page = vec![0; geometry.page_size() as usize];
    let Some(((right, _), cells)) = children.split_last() else { return page };
    let mut at = geometry.usable() as usize;
    let mut pointers = Vec::with_capacity(2 * cells.len());
    for (child, key) in cells {
        let mut cell = child.to_be_bytes().to_vec();
        push_varint(&mut cell, key.cast_unsigned());
        at -= cell.len();
        if let Some(room) = page.get_mut(at..at + cell.len()) {
            room.copy_from_slice(&cell);
        }
        pointers.extend_from_slice(&(at as u16).to_be_bytes());
    }
    let count = cells.len() as u16;
    // 65,536 is written as 0.
    let [c0, c1] = count.to_be_bytes();
    let [s0, s1] = (at as u16).to_be_bytes();
    let [r0, r1, r2, r3] = right.to_be_bytes();
    let head = [5, 0, 0, c0, c1, s0, s1, 0, r0, r1, r2, r3];
    page.iter_mut().zip(head.into_iter().chain(pointers)).for_each(|(byte, new)| *byte = new);
    page
}

fn put_be32(bytes: &mut [u8], at: usize, number: u32) {
    if let Some(place) = bytes.get_mut(at..at + 4) {
        place.copy_from_slice(&number.to_be_bytes());
    }
}

fn push_varint(into: &mut Vec<u8>, value: u64) {
    let len = varint_len(value);
    if len == 9 {
        into.extend((0..8).rev().map(|n| (value >> (8 + 7 * n)) as u8 | 0x80));
        into.push(value as u8);
        return;
    }
    into.extend((1..len).rev().map(|n| (value >> (7 * n)) as u8 | 0x80));
    into.push(value as u8 & 0x7f);
}
