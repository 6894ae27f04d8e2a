//! What SQLite and the lock table answer.

use std::fmt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::IntegrityLevel;
use crate::model::{FaultClass, Standstill};

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
    /// The holder's effective user.
    #[serde(default)]
    pub uid: u32,
    /// Why the holder stands still, if it does.
    #[serde(default)]
    pub standstill: Option<Standstill>,
    /// Of a WAL reader: the frame that its snapshot ends at.
    #[serde(default)]
    pub frame: Option<u32>,
    /// `EXCLUSIVE` without the byte of `PENDING`: only the `unix-excl` VFS holds that, and all its life.
    #[serde(default)]
    pub without_pending: bool,
}

/// A process that has the database or a side file open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolderFacts {
    /// The process.
    pub pid: i32,
    /// Its `comm`.
    pub comm: String,
    /// Its effective user.
    #[serde(default)]
    pub uid: u32,
    /// Its state letter.
    pub state: char,
    /// When it started, boot-clock milliseconds: with `pid` it names one process for ever.
    #[serde(default)]
    pub started_ms: u64,
    /// What it has open: `main`, `wal`, `shm`, `journal`.
    pub files: Vec<String>,
    /// Those of them whose name is gone: it was deleted or replaced, and the old file lives on in this process.
    #[serde(default)]
    pub unlinked: Vec<String>,
}

/// Who has a database and its side files open.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Users {
    /// Processes that have it open.
    pub holders: Vec<HolderFacts>,
    /// What could not be seen, in words; anything here counts as "in use".
    pub blind: Vec<String>,
    /// Root's processes were not looked at, for we are not root; counts as nothing, for it is so on every host.
    #[serde(default)]
    pub root_unseen: bool,
}

/// A lock entry of the dotfile VFS. It outlives its holder, and no other lock shows what such a program does (rule 14).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DotfileLock {
    /// `DB.lock`.
    pub path: PathBuf,
    /// Its inode: the same entry at the next look is the same lock, held on.
    pub ino: u64,
    /// When it was made, nanoseconds since the epoch: it is made anew for each lock.
    pub made_ns: i64,
}

/// A process that goes on with files which are not at the database's path any more: deleted, renamed, or replaced by others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutOffHolder {
    /// The process.
    pub pid: i32,
    /// Its `comm`.
    pub comm: String,
    /// Its state letter.
    pub state: char,
    /// When it started, boot-clock milliseconds: with `pid` it names one process for ever.
    pub started_ms: u64,
    /// Which of its files are gone from the path: `main`, `wal`, `shm`.
    pub gone: Vec<String>,
    /// Inodes of the main files that it has open: more than one when it has connections of before and after.
    pub mains: Vec<u64>,
    /// Inodes of the WALs that it has open.
    pub wals: Vec<u64>,
}

/// Who goes on with files that are not at the path any more, and who uses those that are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutOff {
    /// The processes that are cut off.
    pub holders: Vec<CutOffHolder>,
    /// Processes that use the file which is at the path now: pid and `comm`.
    pub others: Vec<(i32, String)>,
}

impl CutOff {
    /// Two sides commit, each to files of its own: neither may take the other's place.
    pub fn is_contested(&self) -> bool {
        let one = |of: fn(&CutOffHolder) -> &Vec<u64>| {
            let mut all = self.holders.iter().flat_map(of).collect::<Vec<_>>();
            all.sort_unstable();
            all.dedup();
            all.len() <= 1
        };
        !self.others.is_empty() || !one(|holder| &holder.mains) || !one(|holder| &holder.wals)
    }

    /// Why nothing is put back yet, and what a person may do.
    pub fn waits_for_its_end(&self, path: &Path, evidence: &Path) -> String {
        let pid = self.holders.first().map_or(0, |holder| holder.pid);
        format!(
            "{self} still has the old file of {} open; what it has committed is being kept in {}. Stop it in order (`kill {pid}`, or as its \
             service is stopped) and do not start it again: guardiand then puts back what it had",
            path.display(),
            evidence.display()
        )
    }
}

/// `writer (pid 12) and 2 more`.
impl fmt::Display for CutOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.holders.as_slice() {
            [] => f.write_str("nobody"),
            [one] => write!(f, "{} (pid {})", one.comm, one.pid),
            [one, others @ ..] => write!(f, "{} (pid {}) and {} more", one.comm, one.pid, others.len()),
        }
    }
}

/// What is kept, in an incident's evidence, of files that programs had open under no name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldCopy {
    /// Where.
    pub folder: PathBuf,
    /// Whose they were, in words.
    pub by: String,
    /// When the copy was made.
    pub taken_at: Timestamp,
    /// Made when nobody had them open any more, from descriptors of ours: nothing was committed since.
    pub complete: bool,
    /// A process of ours has them open still.
    pub kept: bool,
    /// Why it does not go back to the path by itself: more than one side committed.
    pub contested: Option<String>,
}

/// Rows of one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRows {
    /// The table.
    pub table: String,
    /// Its rows.
    pub rows: u64,
}

impl TableRows {
    /// The rows of all of `tables`.
    pub fn sum(tables: &[TableRows]) -> u64 {
        tables.iter().map(|table| table.rows).sum()
    }
}
