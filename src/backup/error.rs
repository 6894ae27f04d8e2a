//! What can go wrong with a backup, in words that say what to do.

use std::path::PathBuf;

use thiserror::Error;

use crate::host::HostError;
use crate::job::{FailureKind, JobFailure};
use crate::sqlite::SqliteFault;

/// An operation on backups that failed.
#[derive(Debug, Error)]
pub enum BackupError {
    /// A file or folder could not be worked on.
    #[error("while {doing}: {source}")]
    Host {
        /// What was being done.
        doing: &'static str,
        /// What the host said.
        source: HostError,
    },
    /// SQLite could not do it.
    #[error("while {doing}: {source}")]
    Sqlite {
        /// What was being done.
        doing: &'static str,
        /// What SQLite said.
        source: SqliteFault,
    },
    /// The source is not in a state that may be copied.
    #[error("no backup of {path} is taken: {reason}")]
    Source {
        /// The database.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// The source is damaged, and a copy would be too.
    #[error("no backup of {path} is taken: {reason}")]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What is damaged.
        reason: String,
    },
    /// A copy could not be had without keeping writers out longer than allowed.
    #[error(
        "backup_blocked: {path} cannot be copied within {limit_ms} ms of keeping writers out ({reason}); it is tried again at the next \
         turn. Raise `backup.block_max`, or let the program use WAL mode"
    )]
    Blocked {
        /// The database.
        path: PathBuf,
        /// The limit, in milliseconds.
        limit_ms: u64,
        /// What stood in the way.
        reason: String,
    },
    /// The disk would get too full.
    #[error(
        "{folder} has {free} bytes free; {needed} for the copy and a floor of {floor} are needed: free space, or lower `backup.max`"
    )]
    Space {
        /// The backup's folder.
        folder: PathBuf,
        /// Bytes free.
        free: u64,
        /// Bytes that the copy takes.
        needed: u64,
        /// Bytes that must stay free.
        floor: u64,
    },
    /// A copy did not pass its check, and was deleted.
    #[error("{path} does not pass its check: {reason}")]
    Unsound {
        /// The copy, or the backup that was verified.
        path: PathBuf,
        /// What the check said.
        reason: String,
    },
    /// Another backup of the same target is under way.
    #[error("another backup or cleaning is under way in {folder}; it is tried again at the next turn")]
    Busy {
        /// The backup's folder.
        folder: PathBuf,
    },
    /// A manifest cannot be used.
    #[error("the manifest {path} cannot be used: {reason}")]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A file that is there, without a manifest.
    #[error(
        "{path} is no backup that guardiand took: {manifest} is not beside it, which says what it must be. `guardiand backups TARGET` \
         lists those of a target; a database from elsewhere is copied as it is, once `guardiand check` finds it healthy"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The name that its manifest would have.
        manifest: String,
    },
    /// The destination of a restore is taken.
    #[error("{path} is there already: a restore never replaces anything. Move it away, or choose another path")]
    Taken {
        /// What is there.
        path: PathBuf,
    },
}

impl BackupError {
    pub(super) fn host(doing: &'static str) -> impl FnOnce(HostError) -> BackupError {
        move |source| BackupError::Host { doing, source }
    }

    pub(super) fn sqlite(doing: &'static str) -> impl FnOnce(SqliteFault) -> BackupError {
        move |source| BackupError::Sqlite { doing, source }
    }
}

impl From<BackupError> for JobFailure {
    fn from(error: BackupError) -> JobFailure {
        let kind = match &error {
            BackupError::Blocked { .. } => FailureKind::Blocked,
            BackupError::Source { .. }
            | BackupError::Space { .. }
            | BackupError::Busy { .. }
            | BackupError::Foreign { .. }
            | BackupError::Taken { .. } => FailureKind::Refused,
            BackupError::Host { .. }
            | BackupError::Damaged { .. }
            | BackupError::Sqlite { .. }
            | BackupError::Unsound { .. }
            | BackupError::Manifest { .. } => FailureKind::Failed,
        };
        JobFailure { kind, message: error.to_string() }
    }
}
