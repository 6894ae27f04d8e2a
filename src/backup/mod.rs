//! Verified copies of databases: take, list, keep, verify, restore.
//!
//! A copy counts only once it has passed `integrity_check` in full and its manifest is durable; one that fails is deleted and
//! displaces nothing. Everything here runs in a worker child, never beside an open SQLite connection to the source:
//! closing a raw descriptor would drop SQLite's locks (SQLITE.md, rule 7).

mod error;
mod examine;
mod manifest;
mod raw;
mod restore;
mod retention;
mod source;
mod take;

pub use error::BackupError;
pub use examine::{Examined, QuietFile, examine, hash};
pub use manifest::{Listing, file_name, folder_name, is_backup_name, list, manifest_name, of_file, source_in};
pub use raw::{Bounded, copy_bounded, shared_lock};
pub use restore::{note_damage, restore, verify};
pub use retention::to_delete;
pub use source::{apart_in, job_facts, journal_is_hot, ownership_of, side_name, stat_of};
pub use take::{prune, take};

#[cfg(test)]
mod testing;

#[cfg(test)]
mod tests;
