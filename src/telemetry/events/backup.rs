//! Backups, and the sizes of databases.

use std::path::Path;

use jiff::Timestamp;

use super::epoch_seconds;
use crate::model::for_shell;
use crate::telemetry::metrics;

/// How a backup ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupOutcome {
    /// Taken and verified.
    Ok,
    /// Not taken, or its copy did not pass.
    Failed,
    /// Writers would have been kept out for longer than `block_max`.
    Blocked,
}

impl BackupOutcome {
    /// All outcomes.
    pub const ALL: [BackupOutcome; 3] = [BackupOutcome::Ok, BackupOutcome::Failed, BackupOutcome::Blocked];

    /// The label in metrics.
    pub fn name(self) -> &'static str {
        match self {
            BackupOutcome::Ok => "ok",
            BackupOutcome::Failed => "failed",
            BackupOutcome::Blocked => "blocked",
        }
    }
}

/// A backup was taken, and passed its check.
#[derive(Debug)]
pub struct BackupTaken<'a> {
    /// The target.
    pub target: &'a str,
    /// The backup's database file.
    pub file: &'a Path,
    /// Its size.
    pub size_bytes: u64,
    /// When its content was current.
    pub taken_at: Timestamp,
    /// When it passed its check.
    pub verified_at: Timestamp,
    /// How long it took.
    pub seconds: f64,
}

impl BackupTaken<'_> {
    /// Logs and counts.
    pub fn emit(&self) {
        let Self { target, file, size_bytes, taken_at, verified_at, seconds } = *self;
        tracing::info!(target, outcome = "ok", seconds, size_bytes, file = %file.display(), "backup taken");
        count(target, BackupOutcome::Ok);
        BackupsKnown { target, taken_at, verified_at, size: size_bytes }.emit();
    }
}

/// A backup has less than half of the rows of the one before: the program deleted them, or made its database anew. That is legal, so it is
/// no incident, and whoever did not mean it must hear of it while the former can be had.
#[derive(Debug)]
pub struct RowsGone<'a> {
    /// The target.
    pub target: &'a str,
    /// All rows of the backup before.
    pub rows_before: u64,
    /// When that was taken.
    pub taken_before: Timestamp,
    /// All rows of the new one.
    pub rows: u64,
}

impl RowsGone<'_> {
    /// Logs.
    pub fn emit(&self) {
        let Self { target, rows_before, taken_before, rows } = *self;
        let word = for_shell(target);
        tracing::warn!(
            target,
            rows,
            rows_before,
            "most rows are gone: {rows} are left of the {rows_before} in the backup of {taken_before:.3}, which stays for 30 days after that. If \
             nobody meant that, `guardiand backups {word}` names its file, and `guardiand restore --from FILE --to PATH` brings it back"
        );
    }
}

/// No backup was taken, or its copy did not pass its check.
#[derive(Debug)]
pub struct BackupFailed<'a> {
    /// The target.
    pub target: &'a str,
    /// Why.
    pub error: &'a str,
}

impl BackupFailed<'_> {
    /// Logs and counts.
    pub fn emit(&self) {
        tracing::warn!(target = self.target, outcome = "failed", error = self.error, "no backup was taken");
        count(self.target, BackupOutcome::Failed);
    }
}

/// No backup was taken: writers would have been kept out for longer than `block_max`.
#[derive(Debug)]
pub struct BackupBlocked<'a> {
    /// The target.
    pub target: &'a str,
    /// For how long, and what can be done.
    pub detail: &'a str,
}

impl BackupBlocked<'_> {
    /// Logs and counts.
    pub fn emit(&self) {
        tracing::warn!(target = self.target, outcome = "blocked", detail = self.detail, "no backup was taken");
        count(self.target, BackupOutcome::Blocked);
    }
}

fn count(target: &str, outcome: BackupOutcome) {
    if let Some(metrics) = metrics() {
        metrics.backups.with_label_values(&[target, outcome.name()]).inc();
    }
}

/// What the newest good backup of a target is: at the start, and after each backup.
#[derive(Debug)]
pub struct BackupsKnown<'a> {
    /// The target.
    pub target: &'a str,
    /// When the newest was taken.
    pub taken_at: Timestamp,
    /// When it last passed its full check.
    pub verified_at: Timestamp,
    /// Its size in bytes.
    pub size: u64,
}

impl BackupsKnown<'_> {
    /// Counts.
    pub fn emit(&self) {
        if let Some(metrics) = metrics() {
            let target = [self.target];
            metrics.backup_last_success.with_label_values(&target).set(epoch_seconds(self.taken_at));
            metrics.backup_last_verified.with_label_values(&target).set(epoch_seconds(self.verified_at));
            metrics.backup_size.with_label_values(&target).set(self.size as f64);
        }
    }
}

/// The sizes that a look found.
#[derive(Debug)]
pub struct DatabaseMeasured<'a> {
    /// The target.
    pub target: &'a str,
    /// The main file, in bytes.
    pub size: u64,
    /// The WAL file, in bytes; 0 without one.
    pub wal: u64,
}

impl DatabaseMeasured<'_> {
    /// Counts.
    pub fn emit(&self) {
        if let Some(metrics) = metrics() {
            metrics.database_size.with_label_values(&[self.target]).set(self.size as f64);
            metrics.database_wal.with_label_values(&[self.target]).set(self.wal as f64);
        }
    }
}
