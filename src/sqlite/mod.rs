//! The only user of rusqlite: open, check, count, back up, checkpoint, rebuild; and what SQLite's errors mean.
//!
//! It runs in a worker child for supervised files, on the journal's thread for our own `state.db`, and in a program of others
//! under its `pool`. The rule that
//! binds every caller: in a process with a connection to a file, nobody opens that file or its `-wal`/`-shm` by any
//! other way, because closing any descriptor of it drops SQLite's locks (SQLITE.md, section 6).

mod backup;
mod check;
mod checkpoint;
mod contents;
mod difference;
mod fault;
mod messages;
mod open;
mod owners;
mod pinned;
mod probe;
mod rebuild;
mod restore;
mod rows;
pub mod salvage;
mod schema;
mod store;
mod threaded;

pub use crate::model::FaultClass;
pub use check::IntegrityReport;
pub use checkpoint::CheckpointReport;
pub use contents::{Contents, LeftTable};
pub use difference::{Added, ByKey, Difference, add_missing, differences};
pub use fault::SqliteFault;
pub use open::{Access, Database, Deadline, limit_memory, sqlite_version, sqlite_version_number};
pub use probe::SchemaObjects;
pub use rebuild::{RebuildReport, Which};
pub use rusqlite;
pub use schema::{canary_problem, creations_in, schema_problem};
pub use store::Value;
pub use threaded::{Condition, Opening, SqliteError, Threaded};

#[cfg(test)]
mod testing;
