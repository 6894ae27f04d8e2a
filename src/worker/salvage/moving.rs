//! Puts pages that are sound into the new database while SQLite has it closed: those of tables, and of an index of a table that goes over
//! whole. That such an index is its table's is not looked at here: the check of the new database proves it, or nothing of it is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use super::failed;
use super::plan::{Plan, shape};
use super::progress;
use crate::format::SchemaKind;
use crate::format::salvage::{Affinity, Assignment, ColumnShape, Moved, Pages, Survey, Transplant};
use crate::job::JobFailure;
use crate::sqlite::salvage::NewDatabase;
use crate::sqlite::{Contents, SqliteFault};

/// Bytes that are written at once.
const BUFFER: usize = 1 << 20;
/// Where a header counts the database's pages.
const COUNT_AT: u64 = 28;

/// What may go over as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum May {
    /// Tables, and indexes.
    All,
    /// Tables alone.
    Tables,
    /// Nothing.
    Nothing,
}

/// What went over as it was.
#[derive(Debug, Clone, Default)]
pub(super) struct MovedTrees {
    /// Of each table of the plan.
    pub tables: Vec<Option<Moved>>,
    /// Indexes, by their names in lower case.
    pub indexes: BTreeSet<String>,
}

impl MovedTrees {
    /// Nothing went over.
    pub(super) fn is_empty(&self) -> bool {
        self.tables.iter().all(Option::is_none)
    }
}

/// The new database, which SQLite has closed.
pub(super) struct Target<'a> {
    pub file: &'a File,
    /// The roots of its tables and indexes, by their names in lower case.
    pub roots: &'a BTreeMap<String, u32>,
    /// Pages that it has.
    pub count: u32,
    /// What of it can be compared; nothing where no index may go over.
    pub contents: &'a Contents,
}

/// Creates the indexes of tables that will go over whole, so that these have roots. Those that do not go over are to be dropped again.
///
/// # Errors
/// SQLite's.
pub(super) fn define_indexes(
    new: &mut NewDatabase,
    plan: &Plan,
    (pages, survey): (&dyn Pages, &Survey),
    assignment: &Assignment,
) -> Result<Contents, SqliteFault> {
    if Transplant::into_database(pages, survey, 0).is_none() {
        return Ok(Contents::default());
    }
    let is_whole = |at: &usize| is_whole_table(plan, survey, assignment, *at);
    let whole = (0..plan.tables.len()).filter(is_whole).filter_map(|at| plan.tables.get(at));
    let whole: BTreeSet<String> = whole.map(|table| table.row.name.to_lowercase()).collect();
    for row in plan.last.iter().filter(|row| row.kind == SchemaKind::Index) {
        if let Some(sql) = row.sql.as_deref().filter(|_| whole.contains(&row.table.to_lowercase())) {
            // What fails does so again at the end, and is told then.
            let _ = new.define(SchemaKind::Index, sql);
        }
    }
    new.contents()
}

/// Moves what can be moved.
pub(super) fn run(
    target: &Target<'_>,
    plan: &Plan,
    pages: &dyn Pages,
    survey: &Survey,
    assignment: &Assignment,
) -> Result<MovedTrees, JobFailure> {
    let mut moved = MovedTrees { tables: plan.tables.iter().map(|_| None).collect(), ..MovedTrees::default() };
    let Some(mut transplant) = Transplant::into_database(pages, survey, target.count) else { return Ok(moved) };
    let page_size = survey.geometry.page_size() as usize;
    let mut writer = Writer { file: target.file, page_size, at: 0, buffer: Vec::new() };
    let words = |error: io::Error| failed(format!("writing the new database: {error}"));
    progress::part(progress::MOVING, pages.count().into());
    let mut put = |number: u32, page: &[u8]| writer.put(number, page);
    for (at, table) in plan.tables.iter().enumerate() {
        let (Some(layout), Some(pieces)) = (&table.layout, assignment.pieces.get(at)) else { continue };
        let Some(root) = target.roots.get(&layout.name.to_lowercase()).copied().filter(|_| !table.made_up) else {
            continue;
        };
        let columns = shape(layout).columns;
        let done = if layout.has_rowids {
            Some(transplant.table(pieces, &columns, root, &mut put).map_err(words)?)
        } else if assignment.lacking.get(at) == Some(&false) && pieces.iter().all(|piece| !piece.orphan) {
            let rows = transplant.tree(table.row.root, &columns, root, &mut put).map_err(words)?;
            rows.map(|rows| Moved { rows, ..Moved::default() })
        } else {
            None
        };
        if let Some(slot) = moved.tables.get_mut(at) {
            *slot = done.filter(|moved| moved.rows > 0);
        }
    }
    for (tree, row) in plan.index_trees() {
        let at = plan.tables.iter().position(|table| table.row.name.eq_ignore_ascii_case(&row.table));
        let table = at.filter(|at| is_whole_table(plan, survey, assignment, *at));
        let rows = table.and_then(|at| moved.tables.get(at)?.as_ref()).filter(|moved| moved.left.is_empty());
        let (Some(rows), true) = (rows.map(|moved| moved.rows), is_whole(survey, assignment, tree)) else { continue };
        let columns = entry_columns(target.contents, &row.table, &row.name);
        let (Some(columns), Some(root)) = (columns, target.roots.get(&row.name.to_lowercase()).copied()) else {
            continue;
        };
        if transplant.tree(row.root, &columns, root, &mut put).map_err(words)? == Some(rows) {
            moved.indexes.insert(row.name.to_lowercase());
        }
    }
    writer.flush().map_err(words)?;
    if transplant.count() > target.count {
        target.file.write_all_at(&transplant.count().to_be_bytes(), COUNT_AT).map_err(words)?;
    }
    Ok(moved)
}

/// Nothing is missing of a table, and nothing of it is hurt.
fn is_whole_table(plan: &Plan, survey: &Survey, assignment: &Assignment, at: usize) -> bool {
    plan.tables.get(at).is_some_and(|table| !table.made_up) && is_whole(survey, assignment, at)
}

fn is_whole(survey: &Survey, assignment: &Assignment, tree: usize) -> bool {
    let pieces = assignment.pieces.get(tree).map(Vec::as_slice).unwrap_or_default();
    let is_sound = |piece: &crate::format::salvage::Piece| !piece.orphan && survey.note(piece.page).sound;
    assignment.lacking.get(tree) == Some(&false) && !pieces.is_empty() && pieces.iter().all(is_sound)
}

/// What an index's entries have, where the index can be compared with its table.
fn entry_columns(contents: &Contents, table: &str, index: &str) -> Option<Vec<ColumnShape>> {
    let table = contents.tables.iter().find(|content| content.name.eq_ignore_ascii_case(table))?;
    let index = table.indexes.iter().find(|content| content.name.eq_ignore_ascii_case(index))?;
    let any = ColumnShape { affinity: Affinity::Blob, not_null: false, is_rowid: false };
    Some(vec![any; index.columns.len()])
}

/// Writes pages whose numbers mostly follow each other.
struct Writer<'a> {
    file: &'a File,
    page_size: usize,
    /// Where the buffer goes, in bytes.
    at: u64,
    buffer: Vec<u8>,
}

impl Writer<'_> {
    fn put(&mut self, number: u32, page: &[u8]) -> io::Result<()> {
        let at = u64::from(number.saturating_sub(1)) * self.page_size as u64;
        if at != self.at + self.buffer.len() as u64 || self.buffer.len() >= BUFFER {
            self.flush()?;
            self.at = at;
        }
        self.buffer.extend_from_slice(page);
        progress::step(progress::MOVING, 1);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.buffer, self.at)?;
        self.buffer.clear();
        Ok(())
    }
}
