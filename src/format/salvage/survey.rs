//! One pass over all pages: what each is by its own bytes. Then what the freelist owns.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use super::super::bytes::be32;
use super::super::coverage::Coverage;
use super::super::freelist::{FreelistItem, walk_freelist};
use super::super::page::{BtreePage, PageKind};
use super::super::pointer_map::{PointerMapKind, pointer_map_entries};
use super::super::{Encoding, Geometry, Header};
use super::leaf::page_of;
use super::measure::is_sound;
use super::{Leaf, Pages};

/// Bytes that are read at once.
const RUN: usize = 256 << 10;

/// What is known of a page from its own bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Note {
    /// A b-tree page's kind.
    pub kind: Option<PageKind>,
    /// It adds up to the byte.
    pub sound: bool,
    /// The freelist or a pointer map says that nothing uses it.
    pub free: bool,
    /// It could not be read.
    pub unreadable: bool,
    /// Cells that can be read.
    pub cells: u16,
    /// Columns of its first readable record; 0 where there is none.
    pub columns: u16,
    /// Of a table's leaf: the lowest rowid; of an interior page, the lowest key.
    pub low: i64,
    /// The highest.
    pub high: i64,
    /// Equal for pages of equal content.
    pub hash: u64,
}

/// What is known of every page.
#[derive(Debug)]
pub struct Survey {
    /// How the pages are read.
    pub geometry: Geometry,
    /// How texts are.
    pub encoding: Encoding,
    /// The header, where it can be believed.
    pub header: Option<Header>,
    /// Page 1 first.
    pub notes: Vec<Note>,
    /// The freelist is not what the header says.
    pub freelist_hurt: bool,
    /// Leaves whose own header does not say that they are: their cells do.
    pub told_by_cells: u32,
}

impl Survey {
    /// Looks at all pages, with so many threads.
    pub fn of(
        pages: &dyn Pages,
        geometry: Geometry,
        encoding: Encoding,
        header: Option<Header>,
        threads: usize,
    ) -> Survey {
        let (notes, told_by_cells) = look(pages, &geometry, threads);
        let mut survey = Survey { geometry, encoding, header, notes, freelist_hurt: false, told_by_cells };
        survey.mark_free(pages);
        survey
    }

    /// Of page `number`; of one that is not there, nothing is known.
    pub fn note(&self, number: u32) -> Note {
        let at = (number as usize).checked_sub(1);
        at.and_then(|at| self.notes.get(at)).copied().unwrap_or_default()
    }

    /// Pages.
    pub fn pages(&self) -> u32 {
        u32::try_from(self.notes.len()).unwrap_or(u32::MAX)
    }

    /// Pages that nothing uses, and that have a table's rows all the same: SQLite does not wipe what it frees.
    pub fn deleted(&self) -> Vec<u32> {
        let is_leaf = |number: &u32| {
            let note = self.note(*number);
            note.free && note.cells > 0 && note.kind == Some(PageKind::TableLeaf)
        };
        (2..=self.pages()).filter(is_leaf).collect()
    }

    /// Every page that another one leads to as its child.
    pub fn children(&self, pages: &dyn Pages) -> BTreeSet<u32> {
        let mut children = BTreeSet::new();
        for number in 1..=self.pages() {
            if self.note(number).kind.is_none_or(PageKind::is_leaf) {
                continue;
            }
            let Some(bytes) = pages.page(number) else { continue };
            if let Some(page) = BtreePage::lenient(&bytes, number, &self.geometry) {
                children.extend(page.cells().flatten().filter_map(|cell| cell.left_child).chain(page.right_child()));
            }
        }
        children
    }

    fn free(&mut self, number: u32) {
        if let Some(note) = (number as usize).checked_sub(1).and_then(|at| self.notes.get_mut(at)) {
            note.free = true;
        }
    }

    /// By the header's list; by pointer maps; and without a header by what can only be a trunk page.
    fn mark_free(&mut self, pages: &dyn Pages) {
        let (count, geometry) = (self.pages(), self.geometry);
        let mut heads: Vec<u32> = self.header.iter().map(|header| header.freelist_head).collect();
        if self.header.is_none() {
            heads = (2..=count).filter(|number| self.is_trunk(pages, *number)).collect();
        }
        for head in heads {
            let page = |number| Ok::<_, ()>(pages.page(number).unwrap_or_default());
            let mut listed = Vec::new();
            let mut faults = 0;
            let walked = walk_freelist(head, count, &geometry, page, |item| match item {
                FreelistItem::Trunk(page) | FreelistItem::Leaf { page, .. } => listed.push(page),
                FreelistItem::Fault(_) => faults += 1,
            });
            let promised = self.header.map(|header| header.freelist_count as usize);
            self.freelist_hurt |= promised.is_some_and(|promised| faults > 0 || promised != listed.len());
            // A closure that never fails.
            if walked.is_ok() {
                listed.into_iter().for_each(|number| self.free(number));
            }
        }
        for map in (2..=count).filter(|number| geometry.is_pointer_map(*number)) {
            let Some(bytes) = pages.page(map) else { continue };
            for (number, entry) in pointer_map_entries(&bytes, map, count, &geometry) {
                if entry.is_some_and(|entry| entry.kind == PointerMapKind::Free) {
                    self.free(number);
                }
            }
        }
    }

    /// A next page and leaves that are all in bounds, and more than none of them, and nothing behind.
    fn is_trunk(&self, pages: &dyn Pages, number: u32) -> bool {
        if self.note(number).kind.is_some() {
            return false;
        }
        let Some(bytes) = pages.page(number) else { return false };
        let (Some(next), Some(leaves)) = (be32(&bytes, 0), be32(&bytes, 4)) else { return false };
        let count = self.pages();
        if next > count || next == 1 || next == number || leaves == 0 || leaves > self.geometry.max_trunk_leaves() {
            return false;
        }
        let mut listed: Vec<u32> = (0..leaves as usize).filter_map(|at| be32(&bytes, 8 + 4 * at)).collect();
        let in_bounds = listed.iter().all(|leaf| (2..=count).contains(leaf) && *leaf != number);
        listed.sort_unstable();
        listed.dedup();
        in_bounds && listed.len() == leaves as usize
    }
}

/// Each page by itself, and how many are leaves by their cells alone. Threads take runs of pages, in the order of the file, and write
/// their notes where these stay.
fn look(pages: &dyn Pages, geometry: &Geometry, threads: usize) -> (Vec<Note>, u32) {
    let size = geometry.page_size() as usize;
    let per_run = (RUN / size).max(1);
    let mut notes = vec![Note::default(); pages.count() as usize];
    let runs = Mutex::new((1u32..).step_by(per_run).zip(notes.chunks_mut(per_run)));
    let told_by_cells = AtomicU32::new(0);
    let work = || {
        let (mut coverage, mut bytes) = (Coverage::new(), Vec::new());
        loop {
            // Nothing is half done where this can panic.
            let run = runs.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((first, notes)) = run else { return };
            bytes.resize(notes.len() * size, 0);
            let is_whole = pages.run(first, geometry.page_size(), &mut bytes);
            for ((number, slot), bytes) in (first..).zip(notes).zip(bytes.chunks_exact(size)) {
                let own = if is_whole { None } else { Some(pages.page(number)) };
                *slot = match &own {
                    None => note(bytes, number, geometry, &mut coverage),
                    Some(Some(own)) => note(own, number, geometry, &mut coverage),
                    Some(None) => Note { unreadable: true, ..Note::default() },
                };
                let own = own.as_ref().and_then(Option::as_deref).unwrap_or(bytes);
                if slot.kind.is_some() && BtreePage::lenient(own, number, geometry).is_none() {
                    told_by_cells.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        work();
        for other in others {
            if let Err(panicked) = other.join() {
                // A panic of a thread is one of the pass.
                std::panic::resume_unwind(panicked);
            }
        }
    });
    (notes, told_by_cells.into_inner())
}

fn note(bytes: &[u8], number: u32, geometry: &Geometry, coverage: &mut Coverage) -> Note {
    if number == geometry.lock_byte_page() || geometry.is_pointer_map(number) {
        return Note::default();
    }
    let Some(page) = page_of(bytes, number, geometry) else { return Note::default() };
    let sound = is_sound(bytes, number, geometry, coverage);
    let mut note = Note { kind: Some(page.kind()), sound, hash: hash(bytes), ..Note::default() };
    let mut keys: Option<(i64, i64)> = None;
    let mut widen = |rowid: i64| {
        keys = Some(keys.map_or((rowid, rowid), |(low, high)| (low.min(rowid), high.max(rowid))));
    };
    if page.kind() == PageKind::TableInterior {
        for cell in page.cells().flatten() {
            note.cells += 1;
            cell.rowid.into_iter().for_each(&mut widen);
        }
        // One without cells has a right child all the same.
        note.cells = note.cells.max(u16::from(page.right_child().is_some()));
    } else {
        let leaf = Leaf::read(bytes, number, geometry, None);
        // Without one good pointer: only a page whose header is plausible is worth the search.
        let hurt = leaf.cells.is_empty() && page.cell_count() > 0 && has_plausible_header(&page);
        let leaf = if hurt { Leaf::read(bytes, number, geometry, Some(0)) } else { leaf };
        for cell in &leaf.cells {
            note.columns = if note.cells == 0 { cell.columns } else { note.columns };
            note.cells += 1;
            cell.rowid.into_iter().for_each(&mut widen);
        }
        if note.cells == 0 && (page.cell_count() > 0 || !sound_empty(&page)) {
            note.kind = None;
        }
    }
    (note.low, note.high) = keys.unwrap_or((0, -1));
    note
}

fn has_plausible_header(page: &BtreePage<'_>) -> bool {
    let behind = (page.kind().header_len() + 2 * usize::from(page.cell_count())) as u32;
    (behind..page.geometry().usable()).contains(&page.content_start()) && page.fragmented() <= 60
}

/// A leaf without cells, as SQLite leaves one behind: the last row of a table is gone.
fn sound_empty(page: &BtreePage<'_>) -> bool {
    page.cell_count() == 0 && page.content_start() == page.geometry().usable() && page.kind().is_leaf()
}

fn hash(bytes: &[u8]) -> u64 {
    // FNV-1a over words: it only tells pages apart that are there by accident. A page is a multiple of eight bytes.
    let (words, _) = bytes.as_chunks::<8>();
    words.iter().fold(0xcbf2_9ce4_8422_2325, |hash, word| {
        (hash ^ u64::from_le_bytes(*word)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23)
    })
}
