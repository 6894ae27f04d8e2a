//! Puts pages that are sound into the new database while SQLite has it closed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use super::failed;
use super::plan::{Plan, shape};
use crate::format::salvage::{Assignment, Moved, Pages, Survey, Transplant};
use crate::job::JobFailure;

/// Bytes that are written at once.
const BUFFER: usize = 1 << 20;
/// Where a header counts the database's pages.
const COUNT_AT: u64 = 28;

/// Moves what can be moved, for each table of the plan in its order. `roots` tells its root in the new database, by its name in lower case;
/// that database has `count` pages.
pub(super) fn run(
    file: &File,
    plan: &Plan,
    pages: &dyn Pages,
    survey: &Survey,
    assignment: &Assignment,
    roots: &BTreeMap<String, u32>,
    count: u32,
) -> Result<Vec<Option<Moved>>, JobFailure> {
    let nothing = || plan.tables.iter().map(|_| None).collect();
    let Some(mut transplant) = Transplant::into_database(pages, survey, count) else { return Ok(nothing()) };
    let mut writer = Writer { file, page_size: survey.geometry.page_size() as usize, at: 0, buffer: Vec::new() };
    let mut moved: Vec<Option<Moved>> = nothing();
    let words = |error: io::Error| failed(format!("writing the new database: {error}"));
    for (at, table) in plan.tables.iter().enumerate() {
        let (Some(layout), Some(pieces)) = (&table.layout, assignment.pieces.get(at)) else { continue };
        let Some(root) = roots.get(&layout.name.to_lowercase()).copied().filter(|_| !table.made_up) else { continue };
        let columns = shape(layout).columns;
        let mut put = |number: u32, page: &[u8]| writer.put(number, page);
        let done = if layout.has_rowids {
            Some(transplant.table(pieces, &columns, root, &mut put).map_err(words)?)
        } else if assignment.lacking.get(at) == Some(&false) && pieces.iter().all(|piece| !piece.orphan) {
            let rows = transplant.tree(table.row.root, &columns, root, &mut put).map_err(words)?;
            rows.map(|rows| Moved { rows, ..Moved::default() })
        } else {
            None
        };
        if let Some(slot) = moved.get_mut(at) {
            *slot = done.filter(|moved| moved.rows > 0);
        }
    }
    writer.flush().map_err(words)?;
    if transplant.count() > count {
        file.write_all_at(&transplant.count().to_be_bytes(), COUNT_AT).map_err(words)?;
    }
    Ok(moved)
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
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.buffer, self.at)?;
        self.buffer.clear();
        Ok(())
    }
}
