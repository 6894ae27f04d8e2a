//! Rows whose page is gone, put together from what indexes have of them, or taken from a backup.
//!
//! An index's entry proves that its row was there. A row is only built where every stored column is known: a NULL in the place of what is
//! not known would pass for the user's own. The others are counted, so that the loss is told even where no page tells it.

mod gaps;
mod keyed;
mod known;

use std::collections::VecDeque;
use std::convert::Infallible;

use gaps::Gaps;
use known::Missing;

use super::older::{Backup, RowPage};
use super::plan::{Plan, Table};
use crate::format::Value;
use crate::format::salvage::{Assignment, Gap, Leaf, Pages as _, Piece, Survey, Whole, values_of};
use crate::job::SalvagedTable;
use crate::sqlite::SqliteFault;
use crate::sqlite::salvage::{IndexColumn, IndexLayout, Inserted, Inserter, Layout, Layouts};

use super::view::View;

/// An index of the table whose rows are put together.
struct Index<'a> {
    layout: IndexLayout,
    pieces: &'a [Piece],
    /// It has an entry for every row of the table.
    is_whole: bool,
}

/// Puts together what one wreck lacks.
pub(super) struct Rebuild<'a> {
    pub view: &'a View<'a>,
    pub survey: &'a Survey,
    pub plan: &'a Plan,
    pub assignment: &'a Assignment,
    pub backup: Option<&'a Backup<'a>>,
    /// Rowids that no column names may have been given out anew since the backup: a row of it with the same one is another.
    pub renumbered: bool,
}

impl Rebuild<'_> {
    /// Rows of table `at` that are not there.
    ///
    /// # Errors
    /// SQLite's at writing.
    pub(super) fn table(
        &self,
        at: usize,
        inserter: &mut Inserter<'_>,
        told: &mut SalvagedTable,
    ) -> Result<(), SqliteFault> {
        let Some(table) = self.plan.tables.get(at) else { return Ok(()) };
        let Some(layout) = table.layout.as_ref().filter(|_| !table.made_up) else { return Ok(()) };
        if !told.incomplete && told.lost + told.uncertain == 0 {
            return Ok(());
        }
        let indexes = self.indexes(table, layout);
        if !layout.has_rowids {
            return self.by_keys(at, layout, &indexes, inserter, told);
        }
        let covered = self.covered(at);
        let is_whole = indexes.iter().any(|index| index.is_whole);
        let mut gone = 0;
        let mut missing = Missing::new(layout, Some);
        while missing.begin_round() {
            self.learn_rows(&indexes, &covered, &mut missing, inserter)?;
            missing.insert_complete(inserter, told)?;
            self.take_from_backup(at, layout, (&mut missing, is_whole, &covered), inserter, told)?;
            gone += missing.count();
        }
        tell_lost(told, gone, is_whole);
        Ok(())
    }

    fn indexes(&self, table: &Table, layout: &Layout) -> Vec<Index<'_>> {
        let Ok(mut layouts) = Layouts::new() else { return Vec::new() };
        let mut indexes = Vec::new();
        for (tree, row) in self.plan.index_trees() {
            if !row.table.eq_ignore_ascii_case(&table.row.name) {
                continue;
            }
            let made = layouts.index((layout, &table.sql), &row.name, row.sql.as_deref());
            let (Ok(Some(made)), Some(pieces)) = (made, self.assignment.pieces.get(tree)) else { continue };
            let is_sound = |piece: &Piece| !piece.orphan && self.survey.note(piece.page).sound;
            let lacks = self.assignment.lacking.get(tree).copied().unwrap_or(true);
            let is_whole = made.is_of_all && !lacks && !pieces.is_empty() && pieces.iter().all(is_sound);
            indexes.push(Index { layout: made, pieces, is_whole });
        }
        indexes
    }

    /// The rowids of pages of which every row was read.
    fn covered(&self, at: usize) -> Vec<(i64, i64)> {
        let notes = self.assignment.pieces.get(at).into_iter().flatten().map(|piece| self.survey.note(piece.page));
        let sound = notes.filter(|note| note.sound && note.cells > 0);
        let mut covered: Vec<(i64, i64)> = sound.map(|note| (note.low, note.high)).collect();
        covered.sort_unstable();
        covered
    }

    /// Each entry of an index that stands where it belongs.
    fn each_entry<E>(&self, index: &Index<'_>, visit: &mut dyn FnMut(&[Value<'_>]) -> Result<(), E>) -> Result<(), E> {
        for piece in index.pieces.iter().filter(|piece| !piece.orphan && self.survey.note(piece.page).sound) {
            let Some(bytes) = self.view.page(piece.page) else { continue };
            let leaf = Leaf::read(&bytes, piece.page, &self.survey.geometry, None);
            for row in leaf.rows(self.view, &|page| self.survey.note(page).kind.is_none()) {
                if row.is_complete() && !row.uncertain {
                    visit(&values_of(&row.payload))?;
                }
            }
        }
        Ok(())
    }

    /// What indexes have and the table has not.
    fn learn_rows(
        &self,
        indexes: &[Index<'_>],
        covered: &[(i64, i64)],
        missing: &mut Missing<'_, i64>,
        inserter: &mut Inserter<'_>,
    ) -> Result<(), SqliteFault> {
        for index in indexes {
            let Some(rowid_at) = index.layout.columns.iter().position(|column| *column == IndexColumn::Rowid) else {
                continue;
            };
            self.each_entry(index, &mut |values| {
                let Some(Value::Integer(rowid)) = values.get(rowid_at).copied() else { return Ok(()) };
                if has(covered, rowid) || !missing.has_its_turn(rowid) {
                    return Ok(());
                }
                if missing.get(rowid).is_some() || inserter.has(rowid)? == Some(false) {
                    missing.learn(rowid, &index.layout, values);
                }
                Ok::<_, SqliteFault>(())
            })?;
        }
        Ok(())
    }

    /// Rows that are gone and that the backup has: those of which an index says that they were there, and where no index has every row,
    /// those that would stand where a part of the tree is missing: between pages that were read, never on one (`covered`), where they
    /// were deleted. Those that are found leave `missing`.
    fn take_from_backup(
        &self,
        at: usize,
        layout: &Layout,
        (missing, is_whole, covered): (&mut Missing<'_, i64>, bool, &[(i64, i64)]),
        inserter: &mut Inserter<'_>,
        told: &mut SalvagedTable,
    ) -> Result<(), SqliteFault> {
        // Texts go over as bytes: those of another encoding would be others.
        let Some(backup) = self.backup.filter(|backup| backup.view.encoding == self.view.encoding) else {
            return Ok(());
        };
        if self.renumbered && !layout.columns.iter().any(|column| column.is_rowid) {
            return Ok(());
        }
        let names = |layout: &Layout| layout.columns.iter().map(|column| column.name.clone()).collect::<Vec<_>>();
        let pages = backup.pages_of(&layout.name, |theirs| theirs.has_rowids && names(theirs) == names(layout));
        let gaps = self.gaps(at);
        let floor = if is_whole || pages.is_empty() { i64::MAX } else { self.floor(at, &gaps, backup, pages) };
        for page in pages {
            let rowids = page.rowids();
            if !gaps.meets(&rowids) && !missing.has_any(rowids) {
                continue;
            }
            backup.each_row(page.number, &mut |row| {
                let Some(rowid) = row.rowid.filter(|_| row.is_complete() && !row.uncertain) else { return Ok(()) };
                let values = values_of(&row.payload);
                let may_be_gone = || !is_whole && rowid >= floor && gaps.has(rowid) && !has(covered, rowid);
                let is_it = match missing.get(rowid) {
                    Some(known) => known.agrees(&values),
                    None => missing.has_its_turn(rowid) && may_be_gone() && inserter.has(rowid)? == Some(false),
                };
                if is_it && inserter.insert(Some(rowid), &values)? == Inserted::Kept {
                    told.unproven += u64::from(!missing.forget(rowid));
                    (told.kept, told.from_backup) = (told.kept + 1, told.from_backup + 1);
                }
                Ok::<_, SqliteFault>(())
            })?;
        }
        Ok(())
    }

    /// The least rowid that is taken of the backup's rows below all that the wreck still has. There a queue forgets its oldest rows: of
    /// what the backup has of these, no more can be lost than the damaged pages had room for, and the last of them are.
    fn floor(&self, at: usize, gaps: &Gaps, backup: &Backup<'_>, pages: &[RowPage]) -> i64 {
        let own = self.assignment.pieces.get(at).into_iter().flatten().map(|piece| self.survey.note(piece.page));
        let lowest = own.clone().filter(|note| note.cells > 0).map(|note| note.low).min().unwrap_or(i64::MAX);
        let hurt = own.filter(|note| !note.sound).count() as u64;
        // A page that was of a tree, and is nothing that can be told by now. Others of those are of chains.
        let is_gone = |page: &u32| {
            let now = self.survey.note(*page);
            now.kind.is_none() && !now.free && backup.may_be_of_a_tree(*page)
        };
        let gone = (1..=self.survey.pages()).filter(is_gone).count() as u64;
        let usable = u64::from(self.view.geometry.usable());
        let room = (gone + hurt).max(1) * usable;
        let mut below: Vec<&RowPage> = pages.iter().filter(|page| page.low < lowest).collect();
        below.sort_unstable_by_key(|page| page.low);
        let (mut last, mut size, mut floor) = (VecDeque::new(), 0, i64::MIN);
        let mut take = |row: &Whole| {
            let Some(rowid) = row.rowid.filter(|rowid| *rowid < lowest) else { return };
            if !gaps.has(rowid) {
                return;
            }
            // Of one with a chain so much stands in the tree at least (fileformat2.html, section 1.6).
            let length = row.payload.len() as u64;
            let length = if length > usable - 35 { (usable - 12) * 32 / 255 - 23 } else { length };
            last.push_back((rowid, length));
            size += length;
            while size > room
                && let Some((rowid, length)) = last.pop_front()
            {
                (size, floor) = (size - length, rowid.saturating_add(1));
            }
        };
        for page in below {
            let Ok(()) = backup.each_row(page.number, &mut |row| {
                take(row);
                Ok::<_, Infallible>(())
            });
        }
        floor
    }

    /// Where rows may be missing: below pages that are gone, and between the neighbours of one that is hurt.
    fn gaps(&self, at: usize) -> Gaps {
        let mut gaps = self.assignment.gaps.get(at).cloned().unwrap_or_default();
        let pieces = self.assignment.pieces.get(at).into_iter().flatten().map(|piece| piece.page);
        let mut pages: Vec<u32> = pieces.filter(|page| self.survey.note(*page).cells > 0).collect();
        pages.sort_unstable_by_key(|page| self.survey.note(*page).low);
        let note = |at: Option<usize>| at.and_then(|at| pages.get(at)).map(|page| self.survey.note(*page));
        for at in 0..pages.len() {
            let Some(hurt) = note(Some(at)).filter(|note| !note.sound) else { continue };
            let low = note(at.checked_sub(1)).map(|before| before.high.min(hurt.low.saturating_sub(1)));
            let high = note(at.checked_add(1)).map(|behind| behind.low.saturating_sub(1));
            gaps.push(Gap { low, high });
        }
        Gaps::of(gaps)
    }
}

/// Whether it lies in one of these ranges.
fn has(covered: &[(i64, i64)], rowid: i64) -> bool {
    let before = covered.partition_point(|(low, _)| *low <= rowid).checked_sub(1);
    before.and_then(|at| covered.get(at)).is_some_and(|(_, high)| *high >= rowid)
}

/// `gone` rows stay gone; an index that has every row has told all that is lost.
fn tell_lost(told: &mut SalvagedTable, gone: u64, is_whole: bool) {
    told.lost = told.lost.saturating_sub(told.rebuilt + told.from_backup).max(gone);
    told.incomplete &= !is_whole;
}
