//! What the raw scan of header, WAL and rollback journal says, before SQLite opens anything.

use serde::{Deserialize, Serialize};

use super::HeldLock;

/// Raw bytes that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unread {
    /// The system's error, where it was one.
    pub errno: Option<i32>,
    /// What could not be read, and why.
    pub message: String,
}

impl Unread {
    /// `what` of a database could not be read.
    pub fn of(what: &str, error: &std::io::Error) -> Unread {
        Unread { errno: error.raw_os_error(), message: format!("its {what} could not be read: {error}") }
    }
}

/// What a field of the header says of the format that it takes to read or to write the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FormatVersion {
    /// One that SQLite reads and writes.
    #[default]
    Known,
    /// One that SQLite does not know, of a writer that may.
    Newer,
    /// One that SQLite does not know, although the last writer was none newer: an overwritten byte.
    Damaged,
}

/// The database header, or why it is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeaderFacts {
    /// The file has no byte.
    Empty,
    /// Not a header.
    Bad {
        /// What is wrong with it.
        reason: String,
        /// Of the pages behind it that were sampled, how many are b-tree pages of SQLite's: (like, sampled). An
        /// encrypted file has none; a database whose first bytes were overwritten has nearly all.
        #[serde(default)]
        pages_like_sqlite: Option<(u32, u32)>,
        /// What bytes 18 and 19 say, where it is they that make it none.
        #[serde(default)]
        format: FormatVersion,
    },
    /// A header.
    Good {
        /// Bytes a page.
        page_size: u32,
        /// Pages that the header promises, when it can be believed.
        page_count: Option<u32>,
        /// Offset 24.
        change_counter: u32,
        /// Offset 40.
        schema_cookie: u32,
        /// Bytes 18 and 19 are 2.
        wal_mode: bool,
        /// `UTF-8`, `UTF-16le`, `UTF-16be`.
        encoding: String,
        /// Version of SQLite that wrote last, such as 3054001.
        sqlite_version: u32,
        /// What byte 18 says: whether SQLite also writes it.
        #[serde(default)]
        format: FormatVersion,
        /// What the schema format at offset 44 says: whether SQLite reads it.
        #[serde(default)]
        schema_format: FormatVersion,
        /// The file is shorter than its pages: bytes missing.
        missing_bytes: u64,
        /// The first page that is missing at rest, whole or in part: it is in use, nobody is writing, and no WAL and no journal
        /// has it.
        #[serde(default)]
        lost_page: Option<u32>,
        /// The file is longer than its pages: bytes over.
        extra_bytes: u64,
    },
}

/// Where a WAL scan got to; a WAL that only grew is scanned on from its last commit, because what lies behind a commit may
/// be rolled back and written anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalMark {
    /// Salts of the generation.
    pub salt: [u32; 2],
    /// Bytes a page.
    pub page_size: u32,
    /// Checksums are big-endian.
    pub big_endian: bool,
    /// Frames that verified: `last_commit` or more.
    pub frames: u32,
    /// The last of them that commits.
    pub last_commit: u32,
    /// The cumulative checksum after frame `last_commit`.
    pub checksum: [u32; 2],
    /// Pages in the database after frame `last_commit`.
    pub database_pages: u32,
}

/// What the raw scan of the WAL says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WalState {
    /// No file, or 0 bytes.
    Absent,
    /// Shorter than a header, or nothing valid and nothing committed behind it.
    Unused,
    /// A sound chain, perhaps with an unfinished tail.
    Sound,
    /// Damage is proven: committed frames lie beyond the first bad one, or the header of a WAL with frames is bad.
    Damaged,
    /// It is not a regular file.
    NotAFile,
}

/// The WAL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalFacts {
    /// What the scan says.
    pub state: WalState,
    /// In words, with frame numbers.
    pub detail: String,
    /// Where the scan got to.
    pub mark: Option<WalMark>,
    /// Every frame was read by this look; none is taken from the mark of an earlier one.
    #[serde(default)]
    pub whole: bool,
    /// Commits beyond the damage, as far as their frames can be told.
    pub stranded_commits: u32,
    /// `mxFrame` of the WAL index, where there is a sound one.
    pub index_max_frame: Option<u32>,
    /// `nBackfill` of the WAL index.
    pub index_backfill: Option<u32>,
    /// More may be copied than `index_backfill` says: a checkpoint is under way, of which SQLite tells only once all of it is durable,
    /// which on a busy disk takes seconds; or one began or ended while this was looked at, and the main file is no longer as it was.
    #[serde(default)]
    pub checkpointing: bool,
    /// The readers that hold a checkpoint back.
    pub held_back_by: Vec<HeldLock>,
    /// Twice in a row its index said that more frames are copied into the database than there are: the trace of the
    /// WAL-reset bug of SQLite before 3.51.3 (rule 16).
    #[serde(default)]
    pub reset_bug: bool,
}

/// What the raw scan of the rollback journal says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JournalState {
    /// No file, 0 bytes, or a zeroed header (journal_mode TRUNCATE or PERSIST at rest).
    Absent,
    /// A transaction is under way: its writer holds RESERVED or more.
    InUse,
    /// Left behind by a writer that died, and sound: SQLite will roll it back without loss.
    Hot,
    /// Left behind, and damaged: rolling it back would tear the database.
    Damaged,
    /// It is not a regular file.
    NotAFile,
}

/// The rollback journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalFacts {
    /// What the scan says.
    pub state: JournalState,
    /// In words, with record numbers.
    pub detail: String,
    /// What tells its transaction from others, where its header has been written: another one means that the one before
    /// has ended.
    #[serde(default)]
    pub nonce: Option<u32>,
    /// The main file was written after this file was made, and no transaction stands in it: one has ended, and its writer
    /// kept the file. That is the way of `locking_mode=EXCLUSIVE`, and of `journal_mode` TRUNCATE and PERSIST.
    #[serde(default)]
    pub outlived_one: bool,
}
