//! The new database of a salvage: what a definition means, and rows in bulk.
//!
//! Definitions come out of a wreck: none is run but what creates one object, and nothing that a definition says is run while it is
//! created (no SELECT, so no `CREATE TABLE … AS`).

mod layout;
mod rtree;
mod writer;

pub use layout::{IndexColumn, IndexLayout, Layout, LayoutColumn, Layouts};
pub use writer::{Inserted, Inserter, NewDatabase, NewDatabaseOptions, check_new};

/// A name as SQL has it.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
