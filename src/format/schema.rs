//! The rows of `sqlite_schema`: which tables, indexes, views and triggers there are, and where their trees begin.
//!
//! <https://sqlite.org/fileformat2.html#storage_of_the_sql_database_schema>: a table of five columns (type, name, tbl_name, rootpage,
//! sql) whose root is page 1. Read leniently: a row that is none is told and left out, and so is a page.

use std::cell::RefCell;

use thiserror::Error;

use super::Encoding;
use super::geometry::Geometry;
use super::overflow::{Shortfall, assemble};
use super::page::{BtreePage, PageKind};
use super::record::{Record, Value};
use super::tree::{TreeFault, walk_tree};

/// Bytes of a schema row's payload that are read; SQLite's own limit for one statement (`SQLITE_MAX_SQL_LENGTH`) is a thousand million,
/// and no real one comes near to this.
const PAYLOAD_LIMIT: usize = 16 << 20;
/// Bytes of all payloads together: many cells can point to one long chain, and would fill the memory with copies of it.
const SCHEMA_LIMIT: usize = 64 << 20;
/// Faults that are kept; the rest says no more.
const FAULTS_MAX: usize = 1000;

/// What a schema row describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SchemaKind {
    /// A table, also a virtual one.
    Table,
    /// An index, also one that a constraint made.
    Index,
    /// A view.
    View,
    /// A trigger.
    Trigger,
}

/// A row of `sqlite_schema`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SchemaRow {
    /// What it describes.
    pub kind: SchemaKind,
    /// Its name.
    pub name: String,
    /// The table that it belongs to; a table's own name.
    pub table: String,
    /// The root page of its tree; 0 for a view, a trigger and a virtual table, and where the column is not a page number.
    pub root: u32,
    /// The statement that made it; `None` for the index of a constraint.
    pub sql: Option<String>,
}

/// A row with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedSchemaRow {
    /// Its rowid.
    pub rowid: i64,
    /// The page that has it.
    pub page: u32,
    /// The row.
    pub row: SchemaRow,
}

/// What of a schema could be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Schema {
    /// Rows, in the order of the tree: the order in which they were made.
    pub rows: Vec<PlacedSchemaRow>,
    /// What could not, up to a thousand.
    pub faults: Vec<SchemaFault>,
}

/// What of a schema cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SchemaFault {
    /// A page.
    #[error(transparent)]
    Tree(#[from] TreeFault),
    /// A cell.
    #[error("cell {cell} of page {page} cannot be read")]
    Cell {
        /// The page.
        page: u32,
        /// Which cell, from 0.
        cell: u16,
    },
    /// A payload that is not all there; a row was made of what is, if it could be.
    #[error("the payload of cell {cell} of page {page} is cut: {shortfall}")]
    Cut {
        /// The page.
        page: u32,
        /// Which cell, from 0.
        cell: u16,
        /// Why.
        shortfall: Shortfall,
    },
    /// A record that is no row of a schema.
    #[error("cell {cell} of page {page} is no row of a schema")]
    NoRow {
        /// The page.
        page: u32,
        /// Which cell, from 0.
        cell: u16,
    },
}

impl SchemaKind {
    /// Of the first column's text.
    pub fn from_name(name: &str) -> Option<SchemaKind> {
        match name {
            "table" => Some(SchemaKind::Table),
            "index" => Some(SchemaKind::Index),
            "view" => Some(SchemaKind::View),
            "trigger" => Some(SchemaKind::Trigger),
            _ => None,
        }
    }
}

impl SchemaRow {
    /// Reads a payload as a row of a schema; `None` for what cannot be one. A cut payload is taken when all but its SQL is there. Also for
    /// leaves that nothing leads to: few other rows have these five columns.
    pub fn parse(payload: &[u8], encoding: Encoding) -> Option<SchemaRow> {
        let record = Record::parse(payload).ok()?;
        let columns: Vec<_> = record.columns().take(6).collect::<Result<_, _>>().ok()?;
        let [kind, name, table, root, sql] = columns.as_slice() else { return None };
        let text = |value: Option<Value<'_>>| match value? {
            Value::Text(bytes) => Some(encoding.decode(bytes)),
            _ => None,
        };
        let kind = SchemaKind::from_name(&text(kind.value(payload))?)?;
        let (name, table) = (text(name.value(payload))?, text(table.value(payload))?);
        let root = match root.value(payload)? {
            Value::Integer(root) => u32::try_from(root).unwrap_or(0),
            Value::Null => 0,
            _ => return None,
        };
        Some(SchemaRow { kind, name, table, root, sql: text(sql.value(payload)) })
    }
}

/// Reads the schema from page 1 down. `source` gives a page's bytes, `pages` is how many there are. Each page of its tree is read once,
/// and payloads are taken up to 16 MiB each and 64 MiB together.
pub fn read_schema<P: AsRef<[u8]>>(
    pages: u32,
    geometry: &Geometry,
    encoding: Encoding,
    source: impl Fn(u32) -> Option<P>,
) -> Schema {
    let (mut rows, mut payload, mut room) = (Vec::new(), Vec::new(), SCHEMA_LIMIT);
    let faults = RefCell::new(Vec::new());
    let fault = |fault| {
        if faults.borrow().len() < FAULTS_MAX {
            faults.borrow_mut().push(fault);
        }
    };
    let visit = |number: u32, page: &BtreePage<'_>| {
        if page.kind() != PageKind::TableLeaf {
            return;
        }
        for (cell, index) in page.cells().zip(0..) {
            let Ok(cell) = cell else {
                fault(SchemaFault::Cell { page: number, cell: index });
                continue;
            };
            if let Some(shortfall) = assemble(&cell, pages, geometry, PAYLOAD_LIMIT.min(room), &source, &mut payload) {
                fault(SchemaFault::Cut { page: number, cell: index, shortfall });
            }
            room = room.saturating_sub(payload.len());
            match SchemaRow::parse(&payload, encoding) {
                Some(row) => {
                    let rowid = cell.rowid.unwrap_or(0);
                    rows.push(PlacedSchemaRow { rowid, page: number, row });
                }
                None => fault(SchemaFault::NoRow { page: number, cell: index }),
            }
        }
    };
    walk_tree(1, pages, geometry, &source, visit, |found| fault(SchemaFault::Tree(found)));
    Schema { rows, faults: faults.into_inner() }
}
