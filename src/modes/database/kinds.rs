//! The kinds and layers of a database's failures: names that users rely on.

use crate::model::{Kind, Layer};

/// The layers, in the order of looking.
pub const LAYERS: &[&str] = &["exists", "readable", "open", "integrity", "query", "wal", "locks"];

/// The path is there and is a regular file.
pub const EXISTS: Layer = Layer::new("exists");
/// The program's user may read and write it, and its header is one.
pub const READABLE: Layer = Layer::new("readable");
/// SQLite opens it and understands its schema.
pub const OPEN: Layer = Layer::new("open");
/// Its pages and indexes agree.
pub const INTEGRITY: Layer = Layer::new("integrity");
/// It answers.
pub const QUERY: Layer = Layer::new("query");
/// WAL and rollback journal.
pub const WAL: Layer = Layer::new("wal");
/// Who locks it, and for how long.
pub const LOCKS: Layer = Layer::new("locks");

/// Nothing at the path.
pub const FILE_MISSING: Kind = Kind::new("db_file_missing");
/// Deleted or replaced while a process still has the old file open.
pub const FILE_UNLINKED: Kind = Kind::new("db_file_unlinked");
/// Not a regular file.
pub const NOT_FILE: Kind = Kind::new("db_not_file");
/// The program's user may not use it.
pub const ACCESS_DENIED: Kind = Kind::new("db_access_denied");
/// Its header is not a database's.
pub const NOT_A_DATABASE: Kind = Kind::new("db_not_a_database");
/// Shorter than its header promises.
pub const TRUNCATED: Kind = Kind::new("db_truncated");
/// SQLite fails on its pages.
pub const CORRUPTED: Kind = Kind::new("db_corrupted");
/// A check lists what is wrong.
pub const INTEGRITY_FAILED: Kind = Kind::new("db_integrity_failed");
/// Only indexes are damaged.
pub const INDEX_CORRUPTED: Kind = Kind::new("db_index_corrupted");
/// The schema cannot be read.
pub const SCHEMA_CORRUPTED: Kind = Kind::new("db_schema_corrupted");
/// A lock is held too long.
pub const LOCKED: Kind = Kind::new("db_locked");
/// Opening it, or a probe of it, failed or timed out.
pub const CONNECTION_FAILED: Kind = Kind::new("db_connection_failed");
/// The canary failed.
pub const QUERY_FAILED: Kind = Kind::new("db_query_failed");
/// It cannot be written.
pub const WRITE_FAILED: Kind = Kind::new("db_write_failed");
/// The disk failed underneath.
pub const IO_ERROR: Kind = Kind::new("db_io_error");
/// No room to write.
pub const DISK_FULL: Kind = Kind::new("db_disk_full");
/// The WAL is larger than `wal_max`.
pub const WAL_TOO_LARGE: Kind = Kind::new("wal_file_too_large");
/// The WAL is larger than `wal_max`, and a reader keeps it from being checkpointed.
pub const WAL_STARVED: Kind = Kind::new("wal_checkpoint_starved");
/// Committed frames lie beyond a damaged one.
pub const WAL_CORRUPTED: Kind = Kind::new("wal_corrupted");
/// A dotfile lock without a living holder.
pub const STALE_LOCK_FILE: Kind = Kind::new("stale_lock_file");
/// A damaged rollback journal that a dead writer left behind.
pub const STALE_JOURNAL: Kind = Kind::new("stale_journal");

/// Every kind of this mode: the label's whole range.
pub const KINDS: &[Kind] = &[
    FILE_MISSING,
    FILE_UNLINKED,
    NOT_FILE,
    ACCESS_DENIED,
    NOT_A_DATABASE,
    TRUNCATED,
    CORRUPTED,
    INTEGRITY_FAILED,
    INDEX_CORRUPTED,
    SCHEMA_CORRUPTED,
    LOCKED,
    CONNECTION_FAILED,
    QUERY_FAILED,
    WRITE_FAILED,
    IO_ERROR,
    DISK_FULL,
    WAL_TOO_LARGE,
    WAL_STARVED,
    WAL_CORRUPTED,
    STALE_LOCK_FILE,
    STALE_JOURNAL,
];

/// True when nothing but the WAL's size is wrong: its content is judged all the same, and sound.
pub fn is_mild(kind: &Kind) -> bool {
    [WAL_TOO_LARGE, WAL_STARVED].contains(kind)
}

/// True when healing it may replace or rewrite the user's bytes.
pub fn is_destructive(kind: &Kind) -> bool {
    [
        FILE_MISSING,
        FILE_UNLINKED,
        NOT_FILE,
        NOT_A_DATABASE,
        TRUNCATED,
        CORRUPTED,
        INTEGRITY_FAILED,
        INDEX_CORRUPTED,
        SCHEMA_CORRUPTED,
        WAL_CORRUPTED,
        STALE_JOURNAL,
    ]
    .contains(kind)
}
