//! What a database probe asks, and the facts it brings back. Facts only: judging them is the mode's.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::FaultClass;

/// How thorough the check of the database's content shall be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IntegrityLevel {
    /// None, unless the probe itself sees something suspicious (a change behind SQLite's back).
    Suspicion,
    /// `quick_check`.
    Quick,
    /// `integrity_check`.
    Full,
}

/// Where a database lives and who uses it: the part of a request that never changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseSite {
    /// The main file, absolute.
    pub path: PathBuf,
    /// The user whose access is judged; the file's owner when `None`.
    pub user: Option<String>,
    /// A folder of ours on any file system, for private copies; created 0700 when missing.
    pub scratch: PathBuf,
    /// How long SQLite waits for a lock in this job, in milliseconds.
    pub busy_ms: u64,
    /// The longest that a check or a backup may block a rollback-mode writer, in milliseconds.
    pub block_max_ms: u64,
}

/// A request to look at a database.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DatabaseProbe {
    /// Where it is.
    pub site: DatabaseSite,
    /// How deep to check.
    pub integrity: IntegrityLevel,
    /// A check on mere suspicion runs at once on files of at most so many bytes; on larger ones it is left to a job of
    /// its own, so that one large file does not hold up a sweep.
    pub inline_max_bytes: u64,
    /// Stop after `stat` when the files still look like this.
    pub known: Option<Fingerprint>,
    /// Judge "changed behind SQLite's back" against this.
    pub last_healthy: Option<Fingerprint>,
    /// Carry on with the WAL scan from here.
    pub wal_mark: Option<WalMark>,
    /// The WAL as it was when the scan got there.
    pub wal_marked: Option<FileFacts>,
    /// A read-only query that must succeed.
    pub canary: Option<String>,
    /// Also collect all that a plan needs: holders, a private copy's content, backups.
    pub diagnose: bool,
    /// The folder of this target's backups, for `diagnose`.
    pub backups: Option<PathBuf>,
}

/// What `stat` says of one path, never following a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum FileState {
    /// Nothing there.
    Missing,
    /// A regular file.
    File(FileFacts),
    /// A symbolic link.
    Symlink {
        /// Where it points.
        target: PathBuf,
    },
    /// Something else.
    Other {
        /// "a directory", "a FIFO", "a block device", "a character device", "a socket".
        what: String,
    },
    /// `stat` failed.
    Unreadable {
        /// The errno.
        errno: i32,
        /// In words, with the component that denies.
        message: String,
    },
}

impl FileState {
    /// The facts, if it is a regular file.
    pub fn file(&self) -> Option<&FileFacts> {
        match self {
            FileState::File(facts) => Some(facts),
            _ => None,
        }
    }

    /// The size in bytes; 0 unless it is a regular file.
    pub fn size(&self) -> u64 {
        self.file().map_or(0, |file| file.size)
    }
}

/// What `stat` says of a regular file. Times in nanoseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileFacts {
    /// Device.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
    /// Bytes.
    pub size: u64,
    /// Last content change.
    pub mtime_ns: i64,
    /// Last metadata change.
    pub ctime_ns: i64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits (07777).
    pub mode: u32,
    /// Hard links.
    pub nlink: u64,
}

/// Who owns a file and how it may be used: put back onto what replaces it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits (07777).
    pub mode: u32,
}

impl From<&FileFacts> for Owner {
    fn from(file: &FileFacts) -> Owner {
        Owner { uid: file.uid, gid: file.gid, mode: file.mode }
    }
}

/// The state of a database's files: equal means that nothing that `stat` and the header can tell has changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Main file.
    pub main: FileFacts,
    /// `-wal`, when there.
    pub wal: Option<FileFacts>,
    /// `-journal`, when there.
    pub journal: Option<FileFacts>,
    /// The header's change counter (offset 24).
    pub change_counter: u32,
    /// The header's schema cookie (offset 40).
    pub schema_cookie: u32,
    /// The header says WAL (bytes 18 and 19 are 2).
    pub wal_mode: bool,
    /// Not to be compared: a lock of SQLite's was held while we looked (`stat` is identical while a file is write-locked,
    /// rule 22), or a file had changed so shortly before that its time stamp could not show a further change. Locks that an
    /// idle program in WAL mode holds all its life do not count.
    pub locked: bool,
}

/// The file system and the boot that the file was seen on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Place {
    /// Identifies the mounted file system (type, device and id) under the file's folder; empty when the folder is missing.
    pub fs_id: String,
    /// Its type, such as `ext4`.
    pub fs_type: String,
    /// In memory only: its content does not outlive a boot.
    pub volatile: bool,
    /// Why nothing on it may be healed ("locks on NFS cannot be seen"); `None` on a local one.
    pub observe_only: Option<String>,
    /// Mounted read-only.
    pub read_only: bool,
    /// Bytes free for an ordinary user.
    pub free_bytes: u64,
    /// Inodes free; `u64::MAX` where the file system does not count them.
    pub free_inodes: u64,
    /// This boot.
    pub boot_id: String,
    /// The folder itself is there.
    pub folder_exists: bool,
    /// The folder's last content change, nanoseconds since the epoch: when a file in it vanished.
    pub folder_mtime_ns: i64,
}

/// What the program's user may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// Whose access was judged.
    pub uid: u32,
    /// May read the file.
    pub read: bool,
    /// May write the file.
    pub write: bool,
    /// May create files beside it.
    pub folder_write: bool,
    /// What denies, with its mode; empty when all is granted.
    pub detail: String,
    /// The probing process itself may read the file.
    pub ours: bool,
}

/// The database header, or why it is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "header", rename_all = "snake_case")]
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
        /// All of it is a header but for its version, which is newer than ours.
        #[serde(default)]
        newer_format: bool,
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
        /// The file is shorter than its pages: bytes missing.
        missing_bytes: u64,
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
    /// The reader that holds a checkpoint back: pid, `comm` and the frame its snapshot ends at.
    pub held_back_by: Vec<HeldLock>,
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
}

/// An error that SQLite returned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SqliteFault {
    /// The extended result code.
    pub code: i32,
    /// SQLite's own words.
    pub message: String,
    /// What the operating system said underneath.
    pub errno: Option<i32>,
    /// What it calls for.
    pub class: FaultClass,
}

/// What opening through SQLite said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenFacts {
    /// `PRAGMA schema_version`.
    pub schema_version: i64,
    /// Such as `wal` or `delete`.
    pub journal_mode: String,
    /// Tables, indexes, triggers and views.
    pub objects: u32,
    /// The whole schema as SQL, when the cookie differs from `last_healthy`'s or nothing was remembered.
    pub schema: Option<String>,
}

/// What a content check said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntegrityFacts {
    /// Which check ran.
    pub level: IntegrityLevel,
    /// Nothing was wrong.
    pub ok: bool,
    /// SQLite's lines, at most 20.
    pub messages: Vec<String>,
    /// Only indexes are damaged, and these.
    pub damaged_indexes: Vec<String>,
    /// Everything that is wrong is in `damaged_indexes`.
    pub only_indexes: bool,
    /// Everything that is wrong is that nothing refers to some pages: no row that can be reached is hurt.
    #[serde(default)]
    pub only_waste: bool,
    /// Rows that break a NOT NULL, CHECK or UNIQUE constraint: content, not corruption.
    pub constraint_messages: Vec<String>,
    /// The check itself failed.
    pub fault: Option<SqliteFault>,
    /// It was not finished because it would have blocked writers too long, and why.
    pub unfinished: Option<String>,
}

/// What the canary said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryFacts {
    /// Rows it returned.
    pub rows: u64,
}

/// A lock, in words that name its holder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldLock {
    /// The holder; 0 when it is in another PID namespace.
    pub pid: i32,
    /// Its `comm`; never its command line.
    pub comm: String,
    /// Its state letter: `T` is stopped.
    pub state: char,
    /// When the holder started, boot-clock milliseconds: with `pid` it names one process for ever.
    pub started_ms: u64,
    /// SQLite's name for the lock: `EXCLUSIVE`, `RESERVED`, `PENDING`, `SHARED`, `WAL write`, `WAL reader at frame 213`.
    pub lock: String,
    /// It keeps others from reading.
    pub blocks_readers: bool,
    /// It keeps others from writing.
    pub blocks_writers: bool,
}

/// A process that has the database or a side file open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolderFacts {
    /// The process.
    pub pid: i32,
    /// Its `comm`.
    pub comm: String,
    /// Its state letter.
    pub state: char,
    /// What it has open: `main`, `wal`, `shm`, `journal`.
    pub files: Vec<String>,
    /// Those of them whose name is gone: it was deleted or replaced, and the old file lives on in this process.
    #[serde(default)]
    pub unlinked: Vec<String>,
}

/// Rows of one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRows {
    /// The table.
    pub table: String,
    /// Its rows.
    pub rows: u64,
}

/// What a private copy of main, WAL and journal looks like after SQLite has recovered it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettledCopy {
    /// It passed `integrity_check`, and has a schema.
    pub sound: bool,
    /// In words.
    pub detail: String,
    /// Its rows.
    pub tables: Vec<TableRows>,
}

/// What a plan needs to know beyond the layers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// Processes that have it open.
    pub holders: Vec<HolderFacts>,
    /// What could not be seen, in words; anything here counts as "in use".
    pub blind: Vec<String>,
    /// The private copy, where the raw scan calls for one.
    pub settled: Option<SettledCopy>,
    /// Backups of this target, newest first.
    pub backups: Vec<super::BackupEntry>,
}

/// What one layer cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerTime {
    /// The layer's name in INTERFACE.
    pub layer: String,
    /// Seconds.
    pub seconds: f64,
}

/// Everything a probe saw. What was not looked at is `None`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DatabaseFacts {
    /// Nothing that `stat` can tell differs from `known`; nothing further was looked at.
    pub unchanged: bool,
    /// The main file.
    pub main: FileState,
    /// `-wal`.
    pub wal_file: FileState,
    /// `-shm`.
    pub shm_file: FileState,
    /// `-journal`.
    pub journal_file: FileState,
    /// Where it lives.
    pub place: Place,
    /// What the program's user may do.
    pub access: Option<Access>,
    /// The raw header.
    pub header: Option<HeaderFacts>,
    /// The raw WAL.
    pub wal: Option<WalFacts>,
    /// The raw rollback journal.
    pub journal: Option<JournalFacts>,
    /// Locks of SQLite's that are held now, and leftover `*.lock` entries.
    pub locks: Vec<HeldLock>,
    /// A leftover lock entry of the dotfile VFS.
    pub dotfile_lock: Option<PathBuf>,
    /// Changed since `last_healthy` in a way that SQLite does not: why it was suspected.
    pub behind_sqlite: Option<String>,
    /// `open`, `integrity` and `query` were judged on a private copy, and why.
    pub on_copy: Option<String>,
    /// Why nothing was opened, where nothing was.
    pub not_opened: Option<String>,
    /// `PRAGMA schema_version` where the schema itself could not be read: it needs no schema, and it knows the WAL.
    #[serde(default)]
    pub schema_version: Option<i64>,
    /// Opening through SQLite.
    pub open: Option<Result<OpenFacts, SqliteFault>>,
    /// The content check.
    pub integrity: Option<IntegrityFacts>,
    /// The canary.
    pub query: Option<Result<QueryFacts, SqliteFault>>,
    /// The present fingerprint, when the main file is a regular file with a header.
    pub fingerprint: Option<Fingerprint>,
    /// For a plan.
    pub diagnosis: Option<Diagnosis>,
    /// What each layer cost, in order.
    pub layers: Vec<LayerTime>,
    /// When the worker looked.
    pub looked_at: Timestamp,
}
