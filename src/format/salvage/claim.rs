//! Each tree claims its pages, from the root down, as far as it holds; a page has one owner.

use super::super::page::{BtreePage, PageKind};
use super::super::record::Record;
use super::super::tree::DEPTH_MAX;
use super::heard::Heard;
use super::leaf::Leaf;
use super::likeness::{Profile, TableShape};
use super::{Pages, Survey};

/// What a tree is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TreeUse {
    /// Rows of a table.
    Table,
    /// Keys of an index, whose rows stand in a table.
    Index,
}

/// A tree of the schema.
#[derive(Debug, Clone)]
pub struct Tree {
    /// Its root page; 0 where it is not known.
    pub root: u32,
    /// What for.
    pub use_: TreeUse,
    /// What its records look like.
    pub shape: TableShape,
    /// Of a table of which only its indexes tell: which trees these are.
    pub told_by: Vec<usize>,
    /// Of a table whose definition is gone: what SQLite's own tables say of it.
    pub heard: Option<Heard>,
}

/// A part that a tree lacks: keys above `low` up to `high`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// `None` for all below.
    pub low: Option<i64>,
    /// `None` for all above.
    pub high: Option<i64>,
}

impl Gap {
    /// Whether a row with this rowid would stand there.
    pub fn has(&self, rowid: i64) -> bool {
        self.low.is_none_or(|low| rowid > low) && self.high.is_none_or(|high| rowid <= high)
    }
}

/// A cell, by its page and where it begins there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CellPlace {
    /// The page.
    pub page: u32,
    /// In bytes from the page's beginning.
    pub at: u16,
}

/// A part that a tree of keys lacks: between the keys of two cells that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyGap {
    /// `None` for all before.
    pub after: Option<CellPlace>,
    /// `None` for all behind.
    pub before: Option<CellPlace>,
}

/// What a tree has.
#[derive(Debug, Default)]
pub(super) struct Claimed {
    /// Pages with rows that stand where they belong, in the order of the tree.
    pub live: Vec<u32>,
    /// Pages whose rowids are others than the page above says.
    pub doubtful: Vec<u32>,
    pub gaps: Vec<Gap>,
    /// Of a tree of keys: where keys may be missing, also around a page that is hurt.
    pub key_gaps: Vec<KeyGap>,
    pub profile: Profile,
}

impl Claimed {
    /// Something of it is missing.
    pub fn lacks(&self) -> bool {
        !self.gaps.is_empty()
    }

    /// What should stand there is not there.
    fn lack(&mut self, step: &Step) {
        self.gaps.push(Gap { low: step.low, high: step.high });
        self.lack_keys(step);
    }

    fn lack_keys(&mut self, step: &Step) {
        if step.has_keys {
            self.key_gaps.push(KeyGap { after: step.after, before: step.before });
        }
    }
}

/// Pages of a tree that are looked at to learn its rows, and rows of each.
const LEARN_PAGES: usize = 48;
const LEARN_ROWS: usize = 24;

pub(super) struct Claims<'a> {
    pub pages: &'a dyn Pages,
    pub survey: &'a Survey,
    /// Tree by page, from 1; 0 for none. Page 1 first.
    pub owners: Vec<u32>,
    /// Pages that a tree may not have, wherever it leads to them.
    pub astray: Vec<(usize, u32)>,
}

/// A page that is to be claimed, and what its rows lie between.
#[derive(Clone, Copy)]
struct Step {
    page: u32,
    low: Option<i64>,
    high: Option<i64>,
    /// In a tree of keys.
    has_keys: bool,
    after: Option<CellPlace>,
    before: Option<CellPlace>,
    depth: usize,
}

impl Claims<'_> {
    pub fn owner(&self, page: u32) -> u32 {
        (page as usize).checked_sub(1).and_then(|at| self.owners.get(at)).copied().unwrap_or(0)
    }

    /// Gives `page` to `tree`; false when it has an owner.
    pub fn take(&mut self, page: u32, tree: usize) -> bool {
        let slot = (page as usize).checked_sub(1).and_then(|at| self.owners.get_mut(at));
        match slot {
            Some(owner) if *owner == 0 => {
                *owner = u32::try_from(tree + 1).unwrap_or(u32::MAX);
                true
            }
            _ => false,
        }
    }

    /// Every page that `tree` has is nobody's again.
    pub fn give_back(&mut self, tree: usize) {
        let its = u32::try_from(tree + 1).unwrap_or(u32::MAX);
        self.owners.iter_mut().filter(|owner| **owner == its).for_each(|owner| *owner = 0);
    }

    /// Walks the tree at `root` and takes its pages for `tree`.
    pub fn claim(&mut self, tree: usize, root: u32, shape: &TableShape, claimed: &mut Claimed) {
        let has_keys = !shape.has_rowids;
        let top = Step { page: root, low: None, high: None, has_keys, after: None, before: None, depth: 1 };
        let mut waiting = vec![top];
        while let Some(step) = waiting.pop() {
            let note = self.survey.note(step.page);
            let of_kind = note.kind.filter(|kind| kind.is_table() == shape.has_rowids);
            let Some(kind) = of_kind.filter(|_| step.depth <= DEPTH_MAX) else {
                claimed.lack(&step);
                continue;
            };
            let strange = step.depth > 1 && kind == PageKind::TableLeaf && note.cells > 0 && {
                let below = step.low.is_some_and(|low| note.high <= low);
                below || step.high.is_some_and(|high| note.low > high)
            };
            let other = kind != PageKind::TableInterior && note.cells > 0 && self.is_of_another(step.page, shape);
            if other || self.astray.contains(&(tree, step.page)) || !self.take(step.page, tree) {
                claimed.lack(&step);
                continue;
            }
            if !note.sound {
                claimed.lack_keys(&step);
            }
            match (kind == PageKind::TableInterior, strange) {
                (true, _) => {}
                (false, false) => claimed.live.push(step.page),
                (false, true) => {
                    // What should stand here is somewhere else.
                    claimed.lack(&step);
                    claimed.doubtful.push(step.page);
                }
            }
            if !kind.is_leaf() {
                self.children(&step, claimed, &mut waiting);
            }
        }
    }

    fn children(&self, step: &Step, claimed: &mut Claimed, waiting: &mut Vec<Step>) {
        let Some(bytes) = self.pages.page(step.page) else {
            claimed.lack(step);
            return;
        };
        let Some(page) = BtreePage::lenient(&bytes, step.page, &self.survey.geometry) else {
            claimed.lack(step);
            return;
        };
        let mut children: Vec<Step> = Vec::new();
        let (mut low, mut after) = (step.low, step.after);
        let below = Step { depth: step.depth + 1, ..*step };
        let mut hurt = false;
        for cell in page.cells() {
            let Ok(cell) = cell else {
                hurt = true;
                continue;
            };
            let Some(child) = cell.left_child else { continue };
            // A key out of order bounds nothing.
            let key =
                cell.rowid.filter(|key| low.is_none_or(|low| *key > low) && step.high.is_none_or(|high| *key <= high));
            let place = Some(CellPlace { page: step.page, at: cell.at });
            children.push(Step { page: child, low, high: key.or(step.high), after, before: place, ..below });
            (low, after) = (key.or(low), place);
        }
        if let Some(child) = page.right_child() {
            children.push(Step { page: child, low, after, ..below });
        }
        if hurt || page.cell_count() == 0 || !self.survey.note(step.page).sound {
            claimed.lack(step);
        }
        waiting.extend(children.into_iter().rev());
    }

    /// Pages that an interior page leads to, as far as they can be read.
    pub fn children_of(&self, page: u32) -> Vec<u32> {
        let Some(bytes) = self.pages.page(page) else { return Vec::new() };
        let Some(read) = BtreePage::lenient(&bytes, page, &self.survey.geometry) else { return Vec::new() };
        if read.kind().is_leaf() {
            return Vec::new();
        }
        let left = read.cells().flatten().filter_map(|cell| cell.left_child);
        left.chain(read.right_child()).collect()
    }

    /// True for a page of which hardly a row can be this tree's.
    fn is_of_another(&self, page: u32, shape: &TableShape) -> bool {
        let columns = usize::from(self.survey.note(page).columns);
        if !shape.known || columns == shape.columns.len() || columns == 0 {
            return false;
        }
        let (fitting, rows) = self.fitting(page, shape);
        rows > 0 && fitting * 4 < rows
    }

    /// How many of a page's first rows fit, and of how many.
    pub fn fitting(&self, page: u32, shape: &TableShape) -> (usize, usize) {
        let mut count = (0, 0);
        self.each_row(page, LEARN_ROWS, |record| {
            count.0 += usize::from(shape.fits(record));
            count.1 += 1;
        });
        count
    }

    /// The first rows of a page, as far as they stand on it.
    pub fn each_row(&self, page: u32, limit: usize, mut visit: impl FnMut(&Record<'_>)) {
        self.each_keyed_row(page, limit, |_, record| visit(record));
    }

    /// The same with rowids, where there are any.
    pub fn each_keyed_row(&self, page: u32, limit: usize, mut visit: impl FnMut(Option<i64>, &Record<'_>)) {
        let Some(bytes) = self.pages.page(page) else { return };
        let leaf = Leaf::read(&bytes, page, &self.survey.geometry, None);
        for known in leaf.cells.iter().take(limit) {
            let Some(cell) = leaf.cell(known) else { continue };
            if let Ok(record) = Record::parse(cell.local) {
                visit(cell.rowid, &record);
            }
        }
    }

    /// Learns what a tree's rows look like from pages spread over it.
    pub fn learn(&self, claimed: &mut Claimed) {
        let step = claimed.live.len().div_ceil(LEARN_PAGES).max(1);
        let mut profile = std::mem::take(&mut claimed.profile);
        for page in claimed.live.iter().step_by(step) {
            self.each_row(*page, LEARN_ROWS, |record| profile.learn(record));
        }
        claimed.profile = profile;
    }
}
