//! The trees, from their roots down, over what the pass has noted. Pages with children are read again: they are few, and keeping
//! their children would cost more than it saves.

use std::collections::BTreeSet;

use super::super::bytes::be32;
use super::super::coverage::Coverage;
use super::super::geometry::Geometry;
use super::super::page::{BtreePage, PageError, PageKind};
use super::super::record::{Record, RecordError, Soundness, record_is_sound};
use super::super::{Cell, ChainError, DEPTH_MAX};
use super::accounts::{Accounts, Owner};
use super::fault::{PageUse, ScrubFaultKind};
use super::note::{Head, Note, look, rowids};
use super::sweep::Notes;
use super::{PageSource, ScrubError, Watch, gather, read_page};

/// Faults that are told of one page.
const PER_PAGE: usize = 4;
/// Pages between two looks at the watch.
const PER_LOOK: u32 = 1024;

/// What a tree came to.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Totals {
    pub pages: u32,
    pub overflow_pages: u32,
    /// Rows of a table, entries of an index.
    pub entries: u64,
    pub depth: u32,
}

pub(super) struct Walk<'a, S> {
    pub source: &'a S,
    pub geometry: &'a Geometry,
    pub pages: u32,
    pub notes: &'a Notes,
    pub accounts: &'a mut Accounts,
    pub coverage: Coverage,
    pub watch: &'a Watch<'a>,
    /// Of the pages of keys, where they are asked for.
    pub bounds: Option<Vec<Bounds>>,
}

/// A cell, by its page; page 0 for none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct CellAt {
    pub page: u32,
    pub cell: u16,
}

/// A page of keys, and the keys of pages above that all of its own lie between.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub page: u32,
    pub after: CellAt,
    pub before: CellAt,
}

/// A page that is to be visited, and the rowids that it may have.
#[derive(Clone, Copy)]
struct Visit {
    page: u32,
    depth: u32,
    /// All are above this; `None` on the left edge.
    above: Option<i64>,
    up_to: i64,
    /// In a tree of keys: those that its own lie between.
    after: CellAt,
    before: CellAt,
}

/// The tree that is walked.
struct Tree {
    owner: u32,
    is_table: bool,
    totals: Totals,
    leaf_depth: Option<u32>,
    waiting: Vec<Visit>,
}

impl<S: PageSource> Walk<'_, S> {
    /// The tree `owner` at `root`; `is_table`: by the schema its keys are rowids.
    pub(super) fn tree(&mut self, owner: u32, root: u32, is_table: bool) -> Result<Totals, ScrubError<S::Error>> {
        if let Err(fault) = self.accounts.claim(root, PageUse::Root, 0, Owner::Tree(owner)) {
            self.accounts.fault(root, Owner::Tree(owner), fault);
            return Ok(Totals::default());
        }
        let found = self.notes.of(root).kind.map(PageKind::is_table);
        if found.is_some_and(|found| found != is_table) {
            self.accounts.fault(root, Owner::Tree(owner), ScrubFaultKind::OtherTree);
        }
        let none = CellAt::default();
        let first = Visit { page: root, depth: 1, above: None, up_to: i64::MAX, after: none, before: none };
        let is_table = found.unwrap_or(is_table);
        let mut tree = Tree { owner, is_table, totals: Totals::default(), leaf_depth: None, waiting: vec![first] };
        // A page waits once at the most: it was claimed.
        while let Some(visit) = tree.waiting.pop() {
            self.visit(&mut tree, visit)?;
            if tree.totals.pages.is_multiple_of(PER_LOOK) && !(self.watch)(0) {
                return Err(ScrubError::Stopped);
            }
        }
        Ok(tree.totals)
    }

    fn visit(&mut self, tree: &mut Tree, visit: Visit) -> Result<(), ScrubError<S::Error>> {
        let (page, note) = (visit.page, self.notes.of(visit.page));
        tree.totals.pages += 1;
        tree.totals.depth = tree.totals.depth.max(visit.depth);
        if visit.depth as usize > DEPTH_MAX {
            self.fault(tree, page, ScrubFaultKind::TooDeep);
            return Ok(());
        }
        let Some(kind) = note.kind else {
            let bytes = read_page(self.source, page, self.geometry)?;
            let error = BtreePage::parse(&bytes, page, self.geometry).err().unwrap_or(PageError::UnknownKind(0));
            self.fault(tree, page, error.into());
            return Ok(());
        };
        if kind.is_table() != tree.is_table {
            self.fault(tree, page, ScrubFaultKind::OtherTree);
            return Ok(());
        }
        if let (false, Some(bounds)) = (kind.is_table(), &mut self.bounds) {
            bounds.push(Bounds { page, after: visit.after, before: visit.before });
        }
        if kind.is_leaf() || !kind.is_table() {
            tree.totals.entries += u64::from(note.cells);
        }
        if kind.is_table() && !note.is_within(visit.above, visit.up_to) {
            self.range(tree, visit)?;
        }
        if kind.is_leaf() {
            let expected = *tree.leaf_depth.get_or_insert(visit.depth);
            if expected != visit.depth {
                self.fault(tree, page, ScrubFaultKind::Depth { found: visit.depth, expected });
            }
        }
        let is_plain = !(note.is_bad() || note.is_deep());
        if is_plain && note.spills() {
            let notes = self.notes;
            for head in notes.heads(page) {
                self.chain(tree, head)?;
            }
        }
        if is_plain && kind.is_leaf() {
            return Ok(());
        }
        let bytes = read_page(self.source, page, self.geometry)?;
        if !is_plain {
            self.again(tree, page, &bytes, note)?;
        }
        if !kind.is_leaf() {
            self.children(tree, visit, &bytes);
        }
        Ok(())
    }

    /// Tells of a page whose rowids are others than the pages above say.
    fn range(&mut self, tree: &Tree, visit: Visit) -> Result<(), ScrubError<S::Error>> {
        let (above, up_to) = (visit.above, visit.up_to);
        let bytes = read_page(self.source, visit.page, self.geometry)?;
        let found = rowids(&bytes, visit.page, self.geometry);
        let is_outside = |(least, most): &(i64, i64)| *most > up_to || above.is_some_and(|above| *least <= above);
        if let Some((least, most)) = found.filter(is_outside) {
            let above = above.unwrap_or(i64::MIN);
            self.fault(tree, visit.page, ScrubFaultKind::RowidRange { least, most, above, up_to });
        }
        Ok(())
    }

    /// Looks at a page again: for the words of what is wrong with it, for its chains, for records that go on in them.
    fn again(&mut self, tree: &mut Tree, page: u32, bytes: &[u8], note: Note) -> Result<(), ScrubError<S::Error>> {
        let (mut heads, mut faults) = (Vec::new(), Vec::new());
        let geometry = self.geometry;
        look(bytes, page, geometry, &mut self.coverage, |head| heads.push(head), |fault| faults.push(fault));
        let mut whole = BTreeSet::new();
        for head in &heads {
            if self.chain(tree, head)? {
                whole.insert(head.first);
            }
        }
        let cells = BtreePage::parse(bytes, page, geometry).ok().filter(|_| note.is_deep());
        for (index, cell) in (0..).zip(cells.iter().flat_map(BtreePage::cells)) {
            let Ok(cell) = cell else { continue };
            // What is wrong with a chain is told. One that is whole is this cell's alone, so that no page is read for many.
            let is_whole = cell.first_overflow.is_some_and(|first| whole.contains(&first));
            if is_whole && record_is_sound(cell.local, cell.payload_len) == Ok(Soundness::Unknown) {
                let error = self.record(&cell)?.err();
                faults.extend(error.map(|error| ScrubFaultKind::Record { cell: index, error }));
            }
        }
        for fault in faults.into_iter().take(PER_PAGE) {
            self.fault(tree, page, fault);
        }
        Ok(())
    }

    fn children(&mut self, tree: &mut Tree, visit: Visit, bytes: &[u8]) {
        // Of a page that is hurt, whatever of it can be read.
        let Some(page) = BtreePage::lenient(bytes, visit.page, self.geometry) else { return };
        let mut next = Visit { depth: visit.depth + 1, ..visit };
        for (index, cell) in (0..).zip(page.cells()) {
            let Ok(cell) = cell else { continue };
            next.up_to = cell.rowid.unwrap_or(i64::MAX);
            next.before = CellAt { page: visit.page, cell: index };
            if let Some(child) = cell.left_child {
                self.child(tree, visit.page, Visit { page: child, ..next });
            }
            (next.above, next.after) = (cell.rowid.or(next.above), next.before);
        }
        if let Some(child) = page.right_child() {
            self.child(tree, visit.page, Visit { page: child, up_to: visit.up_to, before: visit.before, ..next });
        }
    }

    fn child(&mut self, tree: &mut Tree, parent: u32, child: Visit) {
        match self.accounts.claim(child.page, PageUse::Tree, parent, Owner::Tree(tree.owner)) {
            Ok(()) => tree.waiting.push(child),
            Err(fault) => self.fault(tree, parent, fault),
        }
    }

    /// Judges a record whose header goes on in overflow pages.
    fn record(&self, cell: &Cell<'_>) -> Result<Result<(), RecordError>, ScrubError<S::Error>> {
        // The header alone, which tells its own length.
        let len = Record::parse(cell.local).map_or(0, |record| record.header_len() as usize);
        let mut payload = Vec::new();
        gather(self.source, cell, self.pages, self.geometry, len, &mut payload)?;
        Ok(Record::parse(&payload).and_then(|record| record.check(cell.payload_len)))
    }

    /// Follows a chain; false when something is wrong with it, which is told.
    fn chain(&mut self, tree: &mut Tree, head: &Head) -> Result<bool, ScrubError<S::Error>> {
        let wrong = self.follow(tree, head)?;
        let is_whole = wrong.is_none();
        wrong.into_iter().for_each(|fault| self.fault(tree, head.owner, fault));
        Ok(is_whole)
    }

    /// What is wrong with a chain.
    fn follow(&mut self, tree: &mut Tree, head: &Head) -> Result<Option<ScrubFaultKind>, ScrubError<S::Error>> {
        let (mut page, mut parent, mut what) = (head.first, head.owner, PageUse::FirstOverflow);
        let first = head.first;
        for done in 0..head.pages {
            if page == 0 {
                let missing = (head.pages - done).saturating_mul(self.geometry.overflow_capacity());
                return Ok(Some(ScrubFaultKind::Chain { first, error: ChainError::Ends { missing } }));
            }
            if let Err(fault) = self.accounts.claim(page, what, parent, Owner::Tree(tree.owner)) {
                return Ok(Some(fault));
            }
            tree.totals.overflow_pages += 1;
            let next = match self.notes.of(page).next() {
                Some(next) => next,
                None => be32(&read_page(self.source, page, self.geometry)?, 0).unwrap_or(0),
            };
            (parent, page, what) = (page, next, PageUse::LaterOverflow);
        }
        Ok((page != 0).then_some(ScrubFaultKind::Chain { first, error: ChainError::GoesOn(page) }))
    }

    fn fault(&mut self, tree: &Tree, page: u32, what: ScrubFaultKind) {
        self.accounts.fault(page, Owner::Tree(tree.owner), what);
    }
}
