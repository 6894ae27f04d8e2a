//! What a database probe asks, and the facts it brings back. Facts only: judging them is the mode's.

mod answers;
mod files;
mod raw;

pub use answers::{
    CutOff, CutOffHolder, DotfileLock, HeldCopy, HeldLock, HolderFacts, IntegrityFacts, OpenFacts, QueryFacts,
    SqliteFault, TableRows, Users,
};
pub use files::{Access, Attributes, Basis, Copied, FileFacts, FileState, Fingerprint, Owner, Place};
pub use raw::{FormatVersion, HeaderFacts, JournalFacts, JournalState, Unread, WalFacts, WalMark, WalState};

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::KnownState;

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
    /// What a person calls it on the command line.
    pub name: String,
    /// The main file, absolute.
    pub path: PathBuf,
    /// The user whose access is judged; the file's owner when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known: Option<Fingerprint>,
    /// And the way to them like this ([`Place::way`]).
    #[serde(default)]
    pub known_way: u64,
    /// Judge "changed behind SQLite's back" against this; against `known` when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_healthy: Option<Fingerprint>,
    /// Nobody looked since then: what came and went meanwhile left no trace but in the content.
    #[serde(default)]
    pub unwatched: bool,
    /// The files when they were last healthy, where neither of the two above tells: programs may have these open under no name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_files: Option<Fingerprint>,
    /// Carry on with the WAL scan from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal_mark: Option<WalMark>,
    /// The WAL as it was when the scan got there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal_marked: Option<FileFacts>,
    /// Frames before the mark were read by looks before the last, and may have been hurt since.
    #[serde(default)]
    pub wal_unread: WalUnread,
    /// A read-only query that must succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<String>,
    /// Also collect all that a plan needs: holders, a private copy's content, backups.
    pub diagnose: bool,
    /// Its schema as it was known, for `diagnose`: what of its text is damaged can be put back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// Also see who has it open: a pass over all processes.
    #[serde(default)]
    pub users: bool,
    /// The folder of this target's backups, for `diagnose`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backups: Option<PathBuf>,
    /// The other databases of its group, for `diagnose`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<Member>,
    /// The open incident's evidence, where copies of files may be that programs had open under no name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<PathBuf>,
    /// A check that passes is followed by a map of the pages, beside the backups.
    #[serde(default)]
    pub map_pages: bool,
    /// What an earlier look found damaged: read from the disk anew, past the page cache, as far as the kernel lets go of it.
    #[serde(default, skip_serializing_if = "Doubted::is_nothing")]
    pub doubted: Doubted,
}

/// Whether a WAL is due to be read from its beginning again, beyond the mark of an earlier look: who writes to the file in its middle
/// leaves no trace that a commit would not leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WalUnread {
    /// It was read in full as it is.
    #[default]
    Nothing,
    /// When nobody writes to it any more.
    AtRest,
    /// Now.
    Now,
}

/// Bytes whose cached content is not believed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Doubted {
    /// Of the main file: offset and length.
    pub main: Vec<(u64, u64)>,
    /// All of the WAL and of the rollback journal.
    pub sides: bool,
}

impl Doubted {
    fn is_nothing(&self) -> bool {
        self.main.is_empty() && !self.sides
    }
}

impl DatabaseProbe {
    /// The files when they were last seen healthy.
    pub fn healthy_before(&self) -> Option<&Fingerprint> {
        self.last_healthy.as_ref().or(self.known.as_ref())
    }
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
    /// So it is with [`DatabaseProbe::schema`] put back.
    #[serde(default)]
    pub schema_put_back: bool,
}

/// What comes of the WAL when all is read of it that can be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MendedCopy {
    /// A private copy of it passed `integrity_check`, and has a schema.
    pub sound: bool,
    /// Nothing that was committed is missing: proven.
    pub proven: bool,
    /// In words.
    pub detail: String,
    /// Its rows.
    pub tables: Vec<TableRows>,
}

/// Another database of the same group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its configured name.
    pub name: String,
    /// Its main file, absolute.
    pub path: PathBuf,
    /// The user whose access is judged; the file's owner when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The folder of its backups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backups: Option<PathBuf>,
}

/// What a plan needs to know of another database of the same group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemberFacts {
    /// Which.
    pub member: Member,
    /// Processes that have it open, and what could not be seen.
    pub users: Users,
    /// Its backups, newest first.
    pub backups: Vec<crate::job::BackupEntry>,
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
    /// What the WAL gives: over the main file where the WAL is damaged, alone where the main file is gone.
    #[serde(default)]
    pub mended: Option<MendedCopy>,
    /// Backups of this target, newest first.
    pub backups: Vec<crate::job::BackupEntry>,
    /// Those of them that were found damaged, newest first: rows may be salvaged from them.
    #[serde(default)]
    pub damaged: Vec<crate::job::BackupEntry>,
    /// What looks like a backup of it and cannot be used, and why; or that nobody can tell.
    #[serde(default)]
    pub unusable: Vec<String>,
    /// The other databases of its group.
    #[serde(default)]
    pub members: Vec<MemberFacts>,
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
    /// Why that could not be asked, although we ourselves may read the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_unasked: Option<String>,
    /// The raw header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<HeaderFacts>,
    /// The raw WAL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal: Option<WalFacts>,
    /// The raw rollback journal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal: Option<JournalFacts>,
    /// Locks of SQLite's that are held now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub locks: Vec<HeldLock>,
    /// A lock entry of the dotfile VFS, its holder's or left behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dotfile_lock: Option<DotfileLock>,
    /// Who has it open, where that was asked for or mattered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub users: Option<Users>,
    /// Changed since `last_healthy` in a way that SQLite does not: why it was suspected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind_sqlite: Option<String>,
    /// The check that this calls for.
    #[serde(default)]
    pub suspicion: Option<IntegrityLevel>,
    /// `open`, `integrity` and `query` were judged on a private copy, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_copy: Option<String>,
    /// Why nothing was opened, where nothing was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_opened: Option<String>,
    /// Programs that go on with files which are not at the path any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut_off: Option<CutOff>,
    /// What is kept of files that programs had open under no name, and is not back at the path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<HeldCopy>,
    /// Judging it takes a private copy that is too large to be made in passing: it waits for a look of its own.
    #[serde(default)]
    pub copy_waits: bool,
    /// What of its raw bytes could not be read.
    #[serde(default)]
    pub unread: Option<Unread>,
    /// `PRAGMA schema_version` where the schema itself could not be read: it needs no schema, and it knows the WAL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema_version: Option<i64>,
    /// Opening through SQLite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open: Option<Result<OpenFacts, SqliteFault>>,
    /// The content check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub integrity: Option<IntegrityFacts>,
    /// The state that the page map beside the backups is of, where this look made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapped: Option<KnownState>,
    /// The canary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<Result<QueryFacts, SqliteFault>>,
    /// The present fingerprint, when the main file is a regular file with a header; none when it is `known` still.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<Fingerprint>,
    /// For a plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diagnosis: Option<Diagnosis>,
    /// What each layer cost, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<LayerTime>,
    /// When the worker looked.
    pub looked_at: Timestamp,
}
