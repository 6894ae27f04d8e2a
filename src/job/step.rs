//! The steps that heal a database, as values. Each is idempotent, and each can be resumed after a crash.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Basis, DatabaseSite, FileFacts, Fingerprint, KnownPages, Member, Owner, TableRows, WalPosition};
use crate::model::App;

/// One step on a database. Its serialized shape is what the journal keeps: add fields with defaults, never rename.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum DatabaseStep {
    /// Copy main, -wal, -shm and -journal into the evidence folder, fsynced, with a manifest.
    Preserve,
    /// Put owner and mode back: metadata only.
    RestoreAccess {
        /// As they were when the database was last seen healthy.
        owner: Owner,
        /// The file that was; another one under its name is not given away.
        #[serde(default)]
        inode: Option<u64>,
    },
    /// `wal_checkpoint(TRUNCATE)` after a read (rule 15).
    Checkpoint {
        /// How long to wait for readers and writers, in milliseconds: below the program's own busy timeout.
        timeout_ms: u64,
    },
    /// Rebuild these indexes from their tables, through SQLite, in one transaction.
    RebuildIndexes {
        /// All of the database's indexes when empty.
        indexes: Vec<String>,
    },
    /// Build a candidate beside the target from a backup, and check it in full.
    BuildFromBackup {
        /// The backup's database file.
        backup: PathBuf,
        /// Its manifest's BLAKE3.
        blake3: String,
        /// For the candidate, when the old file is gone.
        owner: Option<Owner>,
    },
    /// Build a candidate from a private copy of main, WAL and journal that SQLite has recovered, and check it in full.
    BuildFromCopy {
        /// For the candidate, when the old file is gone.
        owner: Option<Owner>,
        /// What its tables, indexes, views and triggers are created by, to be put back where their text is damaged.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        schema: Option<String>,
    },
    /// Build a candidate from all that can be read of the WAL, mended where it is damaged, and check it in full.
    BuildFromWal {
        /// What lies below the WAL.
        onto: WalBase,
        /// For the candidate, when the old file is gone.
        owner: Option<Owner>,
    },
    /// Build a candidate with its first page, or its list of free pages, put right, and check it in full.
    BuildMended {
        /// What is known of its first page.
        known: Box<KnownPageOne>,
    },
    /// Build a candidate with the pages put back that are not what they were at a moment since which nothing was committed, and check
    /// it in full.
    BuildFromPages {
        /// States of which every page is known: the first that is proven and can be had again is taken.
        known: Vec<KnownPages>,
        /// Backups that may have a page as it was, the newest first.
        #[serde(default)]
        sources: Vec<PathBuf>,
        /// For the candidate, when the old file is gone.
        owner: Option<Owner>,
    },
    /// Build a candidate from the rows that can be read of what was preserved, and check it in full.
    BuildFromSalvage(RowsToSalvage),
    /// Build an empty candidate from a schema.
    BuildFromSchema {
        /// The SQL.
        schema: String,
        /// `wal`, or leave it in rollback mode.
        journal_mode: String,
        /// For the candidate, when the old file is gone.
        owner: Option<Owner>,
        /// Backups that there are: each must be proven unsound first, because an empty database loses every row of it.
        #[serde(default)]
        unless: Vec<PathBuf>,
    },
    /// Let a program go on that was stopped by a signal and holds a lock: SIGCONT through a pidfd.
    ResumeStopped {
        /// The process.
        pid: i32,
        /// When it started, boot-clock milliseconds: the number alone may be another's by now.
        started_ms: u64,
        /// Its user.
        uid: u32,
        /// The name of its program, for people.
        comm: String,
    },
    /// Move a lock of the dotfile VFS that was left behind into evidence (rule 14).
    MoveLockAside {
        /// The entry's inode…
        ino: u64,
        /// … and when it was made, nanoseconds since the epoch: another one is somebody's lock.
        made_ns: i64,
    },
    /// Guarded swap: side files into evidence, fsync, then the candidate over the path (section 2).
    Install,
    /// Copy a backup's content into the file that programs have open, through SQLite's own locking (section 4).
    RestoreInPlace {
        /// The backup's database file.
        backup: PathBuf,
        /// Its manifest's BLAKE3.
        blake3: String,
        /// Its journal mode when it was healthy, to be put back.
        #[serde(default)]
        journal_mode: Option<String>,
    },
    /// Copy the rows that can be read, of all that was committed by then, into the file that programs have open, through SQLite's
    /// own locking.
    SalvageInPlace(RowsToSalvage),
    /// Guarded swap, the other way: a preservation's files in the place of those that are there, which were preserved before.
    RollBack {
        /// The incident whose heal is taken back.
        of: String,
        /// Its evidence folder.
        evidence: PathBuf,
        /// Which of its preservations.
        generation: u32,
        /// The files that were there when a person was told what it costs: `main`, `wal`, `journal`.
        present: Vec<(String, FileFacts)>,
        /// Whatever was committed since then may be in evidence alone.
        accept_loss: bool,
    },
    /// The same on another database of its group, which is kept and restored with it.
    OnMember {
        /// Which.
        member: Member,
        /// What is done with it.
        does: Box<DatabaseStep>,
    },
    /// Copy into evidence what programs have open under no name of the database's, and keep the descriptors until the programs
    /// have ended and all that they wrote is copied.
    KeepHeld,
    /// Build a candidate from that copy, once its programs have ended, and check it in full.
    BuildFromHeld,
    /// Stop the program that uses it, once it is written down whether it ran; done when nobody has the files any more.
    StopApp {
        /// The program.
        app: App,
        /// How long stopping it may take, in milliseconds.
        limit_ms: u64,
        /// How whoever uses it is made to end.
        #[serde(default)]
        ending: Ending,
        /// The incident whose heal is taken back, if it is stopped for that.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rollback_of: Option<String>,
        /// The other databases of its group: it may use one of these alone.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        members: Vec<Member>,
    },
    /// Start the program again, if [`DatabaseStep::StopApp`] of this incident stopped it.
    StartApp {
        /// The program.
        app: App,
        /// How long starting it may take, in milliseconds.
        limit_ms: u64,
        /// As for `StopApp`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        members: Vec<Member>,
    },
}

/// Rows that are to be salvaged, and what the new file shall have beside them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RowsToSalvage {
    /// What its tables are created by, for what of that cannot be read any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// The journal mode that it had, where its header does not say.
    #[serde(default)]
    pub journal_mode: Option<String>,
    /// The schema cookie that the new file shall have: not the one that another text of the schema was known by.
    #[serde(default)]
    pub schema_cookie: Option<u32>,
    /// The rows of a backup, which takes its place unless there are more to be salvaged. `None`: whatever there is.
    #[serde(default)]
    pub more_than: Option<Vec<TableRows>>,
    /// Backups, the newest first. The first that passes is what more is to be salvaged than, and gives what the wreck lacks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backups: Vec<PathBuf>,
    /// A damaged backup whose rows are salvaged, in the place of what was preserved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of_backup: Option<PathBuf>,
    /// For the candidate, when the old file is gone.
    pub owner: Option<Owner>,
}

/// How programs end that are stopped for a heal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// In order, as they are asked to. The last one copies the WAL into the database and deletes it.
    #[default]
    InOrder,
    /// In order, under locks that keep the WAL as it is and out of the main file; killed, where these cannot be had.
    WalKept,
    /// Killed, all at once: where what they do before they end would tear the database.
    Killed,
}

/// What is remembered of a database's first page.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KnownPageOne {
    /// Its schema as a script: page size, encoding, auto-vacuum, `user_version` and `application_id` are in it.
    pub schema: Option<String>,
    /// The header's schema cookie that goes with it.
    pub schema_cookie: Option<u32>,
    /// The header's change counter when it was last healthy.
    pub change_counter: Option<u32>,
    /// It was in WAL mode.
    pub wal_mode: bool,
    /// Backups of the same schema with the same cookie: their first page is this one's but for its header. The newest first.
    pub page_ones: Vec<PathBuf>,
    /// For the candidate, when the old file is gone.
    pub owner: Option<Owner>,
}

/// What a WAL is read over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WalBase {
    /// The database's own main file.
    Main,
    /// Nothing: the WAL has every page.
    Nothing,
    /// A backup that was taken while the WAL was of the generation that it is of now. What was checkpointed since is in the WAL
    /// still, so that the backup and the WAL together are the database.
    Backup {
        /// The backup's database file.
        file: PathBuf,
        /// Its manifest's BLAKE3.
        blake3: String,
        /// Where the WAL was then.
        wal: WalPosition,
    },
}

impl DatabaseStep {
    /// The step's name in incidents and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            DatabaseStep::Preserve => "preserve",
            DatabaseStep::RestoreAccess { .. } => "restore_access",
            DatabaseStep::Checkpoint { .. } => "checkpoint",
            DatabaseStep::RebuildIndexes { .. } => "rebuild_indexes",
            DatabaseStep::BuildFromBackup { .. } => "build_from_backup",
            DatabaseStep::BuildFromCopy { .. } => "build_from_copy",
            DatabaseStep::BuildFromWal { .. } => "build_from_wal",
            DatabaseStep::BuildMended { .. } => "build_mended",
            DatabaseStep::BuildFromPages { .. } => "build_from_pages",
            DatabaseStep::BuildFromSalvage(_) => "build_from_salvage",
            DatabaseStep::BuildFromSchema { .. } => "build_from_schema",
            DatabaseStep::ResumeStopped { .. } => "resume_stopped",
            DatabaseStep::MoveLockAside { .. } => "move_lock_aside",
            DatabaseStep::Install => "install",
            DatabaseStep::RestoreInPlace { .. } => "restore_in_place",
            DatabaseStep::SalvageInPlace(_) => "salvage_in_place",
            DatabaseStep::OnMember { does, .. } => does.name(),
            DatabaseStep::KeepHeld => "keep_held",
            DatabaseStep::BuildFromHeld => "build_from_held",
            DatabaseStep::StopApp { .. } => "stop_app",
            DatabaseStep::StartApp { .. } => "start_app",
            DatabaseStep::RollBack { .. } => "roll_back",
        }
    }
}

/// What to do with a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Do it. Doing it twice is doing it once.
    Apply,
    /// guardiand died between its intent and its result: finish it if all that it needs is there, else take it back.
    Resume,
    /// Take it back.
    Undo,
}

/// A request to work on one step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepJob {
    /// Where the database is.
    pub site: DatabaseSite,
    /// The incident, for names of temporary files.
    pub incident: String,
    /// The incident's evidence folder.
    pub evidence: PathBuf,
    /// What to do with the step.
    pub phase: Phase,
    /// The step.
    pub step: DatabaseStep,
    /// The files when it was last seen healthy: programs may have them open under no name.
    #[serde(default)]
    pub last: Option<Fingerprint>,
    /// What the step's plan was made from, where it must still be so; `None` when it is not known, as after a crash.
    #[serde(default)]
    pub basis: Option<Basis>,
    /// The WAL as it was when every frame of it had been verified: as another it is read again before it is checkpointed.
    #[serde(default)]
    pub wal_verified: Option<FileFacts>,
}

/// How far a step got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// Applied, now or before.
    Done,
    /// There was nothing to do.
    Nothing,
    /// Taken back, or never begun: the files are as they were.
    Undone,
}

/// A database file that was built aside and passed its check in full.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Where it stands, in the target's folder.
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
    /// Its rows.
    pub tables: Vec<TableRows>,
    /// Where its content came from, in words.
    pub source: String,
    /// Nothing that was committed is missing in it: proven.
    #[serde(default)]
    pub proven: bool,
    /// Of tables of which it was counted: the rows that are known to be lost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<TableRows>,
    /// Of tables that have such rows: those that did not come from where the others did.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub origins: Vec<RowOrigins>,
}

impl Candidate {
    /// One whose losses are not known.
    #[must_use]
    pub fn new(path: PathBuf, size: u64, tables: Vec<TableRows>, source: String) -> Candidate {
        Candidate { path, size, tables, source, proven: false, lost: Vec::new(), origins: Vec::new() }
    }
}

/// Rows of one table of a candidate that did not come from where the others did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RowOrigins {
    /// The table.
    pub table: String,
    /// Put together from indexes, which have all of their columns.
    pub rebuilt: u64,
    /// In what was salvaged: taken from the backup. In a backup: taken from what was salvaged.
    pub filled: u64,
    /// So many may not be as they were: nothing proves that they were not changed or deleted since the backup, or that they were read right.
    pub uncertain: u64,
}

/// What a step did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// How far it got.
    pub progress: Progress,
    /// In words, with numbers.
    pub detail: String,
    /// What was built aside.
    pub candidate: Option<Candidate>,
}
