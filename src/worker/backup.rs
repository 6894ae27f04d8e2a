//! The worker's jobs on backups.

use std::path::{Path, PathBuf};

use crate::backup;
use crate::job::{BackupEntry, BackupJob, JobFailure, Outcome, PruneJob, RestoreJob, Restored};

/// Takes a verified backup.
///
/// # Errors
/// Why there is none.
pub fn take(job: &BackupJob) -> Result<BackupEntry, JobFailure> {
    Ok(backup::take(job)?)
}

/// Applies the retention; the deleted files.
///
/// # Errors
/// Why nothing, or not all, could be deleted.
pub fn prune(job: &PruneJob) -> Result<Vec<PathBuf>, JobFailure> {
    Ok(backup::prune(job)?)
}

/// Lists a folder's backups, newest first, and what cannot be used of them.
///
/// # Errors
/// When the folder cannot be read.
pub fn list(folder: &Path) -> Result<Outcome, JobFailure> {
    let listing = backup::list(folder)?;
    let damaged = listing.damaged.into_iter().map(|entry| {
        let reason = entry.manifest.damaged.unwrap_or_default();
        format!("{}: {reason}; `guardiand salvage` gives the rows that can be read", entry.file.display())
    });
    let unusable = damaged.chain(listing.skipped).collect();
    Ok(Outcome::Backups { backups: listing.entries, unusable })
}

/// Restores a backup to a path where nothing is.
///
/// # Errors
/// Why nothing was restored.
pub fn restore(job: &RestoreJob) -> Result<Restored, JobFailure> {
    Ok(backup::restore(job)?)
}
