//! What an error of SQLite's calls for: shared by the room that gets it and the rooms that judge it.

use serde::{Deserialize, Serialize};

/// What an error means. `NotADatabase` and `Corrupt` alone speak of the file's bytes, and even they are not proof
/// (rule 20: an encrypted file, a newer syntax).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultClass {
    /// Somebody holds a lock.
    Busy,
    /// NOTADB: the header is wrong.
    NotADatabase,
    /// CORRUPT, a malformed schema included.
    Corrupt,
    /// The file, its folder or a side file cannot be opened.
    CannotOpen,
    /// A write was refused.
    ReadOnly,
    /// No space, or no quota, left.
    Full,
    /// The disk, or the file system.
    Io,
    /// SQLite ran into its memory limit.
    NoMemory,
    /// The SQL does not fit this schema or this SQLite: a missing table, collation, function or module.
    Schema,
    /// Our deadline.
    Interrupted,
    /// The user may not.
    Permission,
    /// A constraint was violated.
    Constraint,
    /// Anything else.
    Other,
}
