//! Jobs and outcomes as values, and the client that runs children.
//!
//! A [`Job`] is all that ever touches a supervised file. It travels as one JSON line to a re-executed child and
//! comes back as an [`Outcome`] or a [`JobFailure`]: a hang, a crash or a refusal is a result like any other.

mod backup;
mod batch;
mod child;
mod client;
mod database;
mod events;
mod kept;
pub mod line;
mod pages;
mod progress;
mod rollback;
mod salvage;
mod scrub;
mod step;

pub use backup::{BackupEntry, BackupJob, BackupManifest, Keep, PruneJob, RestoreJob, Restored, WalPosition};
pub use batch::Probe;
pub use client::{Answer, Client, ClientOptions};
pub use database::{
    Access, Attributes, Basis, Copied, CutOff, CutOffHolder, DatabaseFacts, DatabaseProbe, DatabaseSite, Diagnosis,
    DotfileLock, Doubted, FileFacts, FileState, Fingerprint, FormatVersion, HeaderFacts, HeldCopy, HeldLock,
    HolderFacts, IntegrityFacts, IntegrityLevel, JournalFacts, JournalState, LayerTime, Member, MemberFacts,
    MendedCopy, OpenFacts, Owner, Place, QueryFacts, SettledCopy, SqliteFault, TableRows, Unread, Users, WalFacts,
    WalMark, WalState, WalUnread,
};
pub use events::WorkerEvents;
pub use pages::{KnownPages, KnownState, PAGE_MAP, PagesOf, Present, Unwritten};
pub use progress::PartDone;
pub use rollback::{KeptFile, KeptFiles, RowsSince, Since, WeighRollback, Weighed, WeighedMember};
pub use salvage::{SalvageJob, Salvaged, SalvagedTable};
pub use scrub::{ScrubJob, ScrubVerdict, Scrubbed, ScrubbedBySqlite, ScrubbedFault, ScrubbedTable};
pub use step::{
    Candidate, DatabaseStep, Ending, KnownPageOne, Phase, Progress, RowOrigins, RowsToSalvage, StepJob, StepReport,
    WalBase,
};

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One piece of work for a child.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Job {
    /// Look at a database.
    Probe(Box<DatabaseProbe>),
    /// Take a verified backup.
    Backup(Box<BackupJob>),
    /// Delete the backups that the retention no longer keeps.
    Prune(PruneJob),
    /// List the backups below a folder from their manifests.
    ListBackups {
        /// The folder of one target's backups.
        folder: PathBuf,
    },
    /// Restore a backup to a new path.
    Restore(RestoreJob),
    /// Look through all pages of a database.
    Scrub(Box<ScrubJob>),
    /// Rescue the rows of a wreck into a new database.
    Salvage(SalvageJob),
    /// Apply, resume or undo one step of a playbook.
    Step(Box<StepJob>),
    /// Say what putting an incident's evidence back would cost.
    WeighRollback(Box<WeighRollback>),
    /// List what an incident's evidence folder holds.
    ListEvidence {
        /// The folder.
        folder: PathBuf,
    },
    /// Remove the private copies of children that were killed.
    SweepOut {
        /// The folder that they are in.
        scratch: PathBuf,
    },
    /// Resolve a glob to the files that match it now.
    Expand {
        /// The pattern, absolute.
        pattern: String,
        /// What the wildcards may match and is no match all the same.
        #[serde(default)]
        exclude: Vec<String>,
        /// At most so many matches; more is said.
        max: usize,
        /// Whose index, evidence and backups are no matches.
        state_dir: PathBuf,
        /// Where backups of matches are that may be gone by now; `None`: not asked for.
        kept: Option<KeptMatches>,
    },
}

/// Where a glob's matches have their backups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptMatches {
    /// The folder with one folder for each target.
    pub folder: PathBuf,
    /// The glob's name.
    pub name: String,
}

/// What a job brought back.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Of [`Job::Probe`].
    Probed(Box<DatabaseFacts>),
    /// Of [`Job::Backup`].
    BackedUp(Box<BackupEntry>),
    /// Of [`Job::Prune`]: the backups that were deleted.
    Pruned {
        /// Their database files.
        deleted: Vec<PathBuf>,
    },
    /// Of [`Job::ListBackups`], newest first.
    Backups {
        /// Every backup with a readable manifest.
        backups: Vec<BackupEntry>,
        /// What looks like a backup and cannot be used, and why.
        unusable: Vec<String>,
    },
    /// Of [`Job::Restore`].
    Restored(Restored),
    /// Of [`Job::Scrub`].
    Scrubbed(Box<Scrubbed>),
    /// Of [`Job::Salvage`].
    Salvaged(Box<Salvaged>),
    /// Of [`Job::Step`].
    Stepped(Box<StepReport>),
    /// Of [`Job::WeighRollback`].
    Weighed(Box<Weighed>),
    /// Of [`Job::ListEvidence`], oldest first.
    Evidence {
        /// Every complete preservation.
        kept: Vec<KeptFiles>,
    },
    /// Of [`Job::SweepOut`].
    SweptOut,
    /// Of [`Job::Expand`].
    Expanded {
        /// Each match with what its wildcards matched, joined by `/`.
        matches: Vec<(PathBuf, String)>,
        /// There were more than `max`.
        truncated: bool,
        /// What could not be looked at, in words: a folder that denies, a name that is not UTF-8. Targets beneath it that were
        /// known before are not gone, they are unseen.
        #[serde(default)]
        unseen: Vec<String>,
        /// Further matches of before, by their backups: nothing is there now that matches.
        #[serde(default)]
        kept: Vec<(PathBuf, String)>,
    },
}

/// Why a job brought back nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct JobFailure {
    /// What kind of failure.
    pub kind: FailureKind,
    /// What was tried, on what, and what to do about it.
    pub message: String,
}

/// How a job can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// It did not end in time, and its child was killed.
    Deadline,
    /// Its child ended without an answer: a signal, an abort, or the memory limit.
    Crashed,
    /// Not even SIGKILL ended its child; the child was given up.
    Abandoned,
    /// It ran, and could not do its work.
    Failed,
    /// It ran, and declined: something must be true first that is not.
    Refused,
    /// It ran, and gave up what would have kept a program's writers out for longer than is allowed.
    Blocked,
    /// It ran, and found other files than those that it was planned for: they are to be looked at anew.
    Outdated,
}

/// Supervisor to child: one line each.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// A batch begins: what the host said to the last one (its locks, its mounts) is forgotten. There is no reply.
    Afresh,
    /// One piece of work.
    Job {
        /// Echoed in the reply.
        id: u64,
        /// What to do.
        job: Job,
    },
}

/// Child to supervisor: one line each. `started` comes before the work, so that a killed child names its culprit.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The job begins.
    Started {
        /// The request's.
        id: u64,
    },
    /// The job is done.
    Done {
        /// The request's.
        id: u64,
        /// What came of it.
        result: Result<Outcome, JobFailure>,
    },
}
