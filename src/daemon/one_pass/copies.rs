//! `backup`, `backups` and `restore`: each in a child, without a daemon.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{LIST_PATIENCE, PassError, Scope, Site, Subject, absolute, block_on, failed, foundation, remind};
use crate::clock::Clock;
use crate::job::{BackupEntry, Client, Job, Outcome, RestoreJob, Restored};
use crate::modes::database::Database;
use crate::modes::{Look, Supervised as _};

/// A restore reads and writes a whole database; slower than any disk worth supervising.
const RESTORE_PATIENCE: Duration = Duration::from_secs(3600);

/// Which backup to restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RestoreFrom {
    /// The newest that passes its check.
    Newest(Subject),
    /// This file.
    Backup(PathBuf),
}

/// Takes a verified backup now.
///
/// # Errors
/// When none could be taken.
pub fn backup(scope: &Scope, subject: &Subject) -> Result<BackupEntry, PassError> {
    block_on(async {
        let mut site = Site::of(scope);
        let remembered = crate::journal::glance(&site.state_dir);
        site.recall(&remembered, &[]);
        let jobs = foundation::client(site.workers);
        let mut databases = site.databases(&jobs, std::slice::from_ref(subject)).await?;
        let Some(mut database) = databases.pop() else { return Err(failed("nothing matches".to_owned())) };
        let clock = Clock::system();
        if remind(&mut database, &remembered, &clock) {
            // Where it is known to be is where it was last healthy: it may have moved since.
            let job = database.ask(Look::Sweep, clock.now());
            let answer = jobs.run(job, database.patience(Look::Sweep)).await;
            database.judge(Look::Sweep, &answer, clock.now());
        }
        let errand = database.errand_now("backup", clock.now()).ok_or_else(|| without_backups(&database))?;
        let answer = jobs.run(errand.job, errand.deadline).await;
        let then = database.errand_done(errand.name, &answer, clock.now()).then;
        let entry = match answer {
            Ok(Outcome::BackedUp(entry)) => *entry,
            Ok(_) => return Err(failed("the backup's job answered something else".to_owned())),
            Err(failure) => return Err(failed(failure.message)),
        };
        // `keep` and `max` hold whoever takes it. What cannot be deleted now is tried again after the next.
        if let Some(prune) = then {
            let _ = jobs.run(prune.job, prune.deadline).await;
        }
        Ok(entry)
    })?
}

/// The backups of a database, or of several.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Backups {
    /// Newest first.
    pub entries: Vec<BackupEntry>,
    /// What looks like a backup and cannot be used, and why.
    pub unusable: Vec<String>,
}

/// Lists backups.
///
/// # Errors
/// When they could not be listed.
pub fn backups(scope: &Scope, subject: &Subject) -> Result<Backups, PassError> {
    block_on(async {
        let site = Site::of(scope);
        let jobs = foundation::client(site.workers);
        let mut all = Backups::default();
        for database in site.databases(&jobs, std::slice::from_ref(subject)).await? {
            let listed = list(&jobs, &database).await?;
            all.entries.extend(listed.entries);
            all.unusable.extend(listed.unusable);
        }
        Ok(all)
    })?
}

/// Restores a backup to a path where nothing is.
///
/// # Errors
/// When no backup passes, or something is there.
pub fn restore(scope: &Scope, from: &RestoreFrom, to: &Path) -> Result<Restored, PassError> {
    block_on(async {
        let site = Site::of(scope);
        let jobs = foundation::client(site.workers);
        let mut tried = Vec::new();
        let candidates = match from {
            RestoreFrom::Backup(file) => vec![absolute(file)],
            RestoreFrom::Newest(subject) => {
                let databases = site.databases(&jobs, std::slice::from_ref(subject)).await?;
                let Some(database) = databases.first() else { return Err(failed("nothing matches".to_owned())) };
                let listed = list(&jobs, database).await?;
                tried = listed.unusable;
                listed.entries.into_iter().map(|entry| entry.file).collect()
            }
        };
        for backup in candidates {
            let job = Job::Restore(RestoreJob { backup: backup.clone(), to: absolute(to) });
            match jobs.run(job, RESTORE_PATIENCE).await {
                Ok(Outcome::Restored(restored)) => return Ok(restored),
                Ok(_) => return Err(failed("the restore's job answered something else".to_owned())),
                // What is in the way is in the way of each.
                Err(failure) if tried.contains(&failure.message) => {}
                Err(failure) => tried.push(failure.message),
            }
        }
        Err(failed(match tried.is_empty() {
            true => "there is no backup of it".to_owned(),
            false => tried.join("; "),
        }))
    })?
}

async fn list(jobs: &Client, database: &Database) -> Result<Backups, PassError> {
    let folder = database.backup_folder();
    let folder = folder.ok_or_else(|| without_backups(database))?;
    match jobs.run(Job::ListBackups { folder }, LIST_PATIENCE).await {
        Ok(Outcome::Backups { backups: entries, unusable }) => Ok(Backups { entries, unusable }),
        Ok(_) => Err(failed("the listing's job answered something else".to_owned())),
        Err(failure) => Err(failed(failure.message)),
    }
}

fn without_backups(database: &Database) -> PassError {
    failed(format!("`{}` has no `backup` table in the configuration: none are taken of it", database.settings().target))
}
