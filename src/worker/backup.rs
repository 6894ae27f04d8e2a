//! Backups.

use std::path::{Path, PathBuf};

use crate::job::{BackupEntry, BackupJob, FailureKind, JobFailure, PruneJob, RestoreJob, Restored};

fn missing() -> JobFailure {
    JobFailure { kind: FailureKind::Refused, message: "backups are not built yet".to_owned() }
}

pub(super) fn take(_: &BackupJob) -> Result<BackupEntry, JobFailure> {
    Err(missing())
}

pub(super) fn prune(_: &PruneJob) -> Result<Vec<PathBuf>, JobFailure> {
    Err(missing())
}

pub(super) fn list(_: &Path) -> Result<Vec<BackupEntry>, JobFailure> {
    Err(missing())
}

pub(super) fn restore(_: &RestoreJob) -> Result<Restored, JobFailure> {
    Err(missing())
}
