//! What a page map of an earlier, sound moment says of pages that nothing leads to now.
//!
//! It is a hint and no proof: since then a page may have been freed and given to another table, and VACUUM moves every page. What it says
//! of a page that is the same to the byte is believed as far as the table's own columns allow; of a page that was written since, only
//! where the map is still of this file at all, and where the rows look like those that are surely the table's.

use std::collections::BTreeMap;

use super::super::page_map::{MappedTree, RememberedPages, page_hash};
use super::{Pages, Survey};

/// Pages that are compared to tell whether the map is of this file, and those of one tree.
const SAMPLE_PAGES: usize = 256;
const TREE_PAGES: usize = 32;

/// A page map, for the salvage of a file with pages of the same size.
#[derive(Debug)]
pub struct Recall {
    map: Box<dyn RememberedPages>,
    /// A quarter of the pages or more are what they were: the others have been written since, and not moved.
    is_near: bool,
}

/// A table that was there, and of which pages still are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecalledTable {
    /// Its name.
    pub name: String,
    /// Its root page; 0 where what is on that page now may be something else.
    pub root: u32,
    /// Its tree is one of rowids.
    pub has_rowids: bool,
}

impl Recall {
    /// `None` where the map is of a file with other measures.
    pub fn of(map: Box<dyn RememberedPages>, pages: &dyn Pages, survey: &Survey) -> Option<Recall> {
        if map.page_size() != survey.geometry.page_size() {
            return None;
        }
        let mut recall = Recall { map, is_near: false };
        let in_use: Vec<u32> =
            (2..=survey.pages().min(recall.map.pages())).filter(|page| is_used(survey, *page)).collect();
        let step = in_use.len().div_ceil(SAMPLE_PAGES).max(1);
        let sample: Vec<bool> = in_use.iter().step_by(step).map(|page| recall.is_same(pages, *page)).collect();
        let same = sample.iter().filter(|is_same| **is_same).count();
        recall.is_near = same > 0 && same * 4 >= sample.len();
        Some(recall)
    }

    /// The trees that were there.
    pub fn trees(&self) -> &[MappedTree] {
        self.map.trees()
    }

    /// The tables that were there, and of which some page is what it was and was not freed.
    pub fn tables(&self, pages: &dyn Pages, survey: &Survey) -> Vec<RecalledTable> {
        let mut looked: BTreeMap<usize, usize> = BTreeMap::new();
        let mut kinds: BTreeMap<usize, bool> = BTreeMap::new();
        for page in (2..=survey.pages().min(self.map.pages())).filter(|page| is_used(survey, *page)) {
            let place = self.map.place_of(page).and_then(|at| Some((at, self.map.trees().get(at)?)));
            let Some((at, tree)) = place.filter(|(_, tree)| !tree.is_index) else { continue };
            let looked = looked.entry(at).or_default();
            // A root is asked for below; whatever else is the same tells as much as any other page.
            if *looked >= TREE_PAGES && page != tree.root || kinds.contains_key(&at) {
                continue;
            }
            *looked += 1;
            if self.is_same(pages, page)
                && let Some(kind) = survey.note(page).kind
            {
                kinds.insert(at, kind.is_table());
            }
        }
        let table = |(at, has_rowids): (usize, bool)| {
            let tree = self.map.trees().get(at)?;
            let is_root = is_used(survey, tree.root) && self.is_same(pages, tree.root);
            let is_root = is_root && survey.note(tree.root).kind.is_some_and(|kind| kind.is_table() == has_rowids);
            Some(RecalledTable { name: tree.name.clone(), root: if is_root { tree.root } else { 0 }, has_rowids })
        };
        kinds.into_iter().filter_map(table).collect()
    }

    /// The page is what it was, to the byte.
    fn is_same(&self, pages: &dyn Pages, page: u32) -> bool {
        let was = self.map.hash_of(page);
        was.is_some() && pages.page(page).map(|bytes| page_hash(&bytes)) == was
    }
}

/// A b-tree page with something on it that nothing calls free.
fn is_used(survey: &Survey, page: u32) -> bool {
    let note = survey.note(page);
    note.kind.is_some() && note.cells > 0 && !note.free
}

/// A map, and which of the trees of now each of its trees is.
#[derive(Debug, Clone, Copy)]
pub struct Recalled<'a> {
    /// The map.
    pub recall: &'a Recall,
    /// By tree of the map: its place among those of now; `None` for one that is not there any more, or of which nothing is known.
    pub places: &'a [Option<usize>],
}

/// Whose pages were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Was {
    /// Most of them are what they were, and were this tree's.
    Surely(usize),
    /// They were this tree's, and have been written since.
    Perhaps(usize),
}

impl Recalled<'_> {
    /// Whose pages were that belong together; `None` where the map does not tell it of one tree alone.
    pub(super) fn was(&self, pages: &dyn Pages, numbers: &[u32]) -> Option<Was> {
        let step = numbers.len().div_ceil(SAMPLE_PAGES).max(1);
        let (mut same, mut other) = (BTreeMap::new(), BTreeMap::new());
        let mut looked = 0;
        for page in numbers.iter().step_by(step) {
            looked += 1;
            let Some(at) = self.recall.map.place_of(*page) else { continue };
            let votes = if self.recall.is_same(pages, *page) { &mut same } else { &mut other };
            *votes.entry(at).or_insert(0usize) += 1;
        }
        let place = |at: usize| self.places.get(at).copied().flatten();
        match sole(&same) {
            Some((at, votes)) if votes * 2 >= looked => return place(at).map(Was::Surely),
            None if !same.is_empty() => return None,
            _ => {}
        }
        if !self.recall.is_near {
            return None;
        }
        same.into_iter().for_each(|(at, votes)| *other.entry(at).or_default() += votes);
        let (at, votes) = sole(&other)?;
        place(at).filter(|_| votes * 2 >= looked).map(Was::Perhaps)
    }
}

/// What nine of ten are for.
fn sole(votes: &BTreeMap<usize, usize>) -> Option<(usize, usize)> {
    let all: usize = votes.values().sum();
    let (at, most) = votes.iter().max_by_key(|(_, votes)| **votes)?;
    (most * 10 >= all * 9).then_some((*at, *most))
}
