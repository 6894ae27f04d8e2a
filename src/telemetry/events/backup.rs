//! Backups, and the sizes of databases.

use jiff::Timestamp;

use super::epoch_seconds;
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

/// A backup was tried.
#[derive(Debug)]
pub struct BackupEnded<'a> {
    /// The target.
    pub target: &'a str,
    /// How it ended.
    pub outcome: BackupOutcome,
    /// How long it took.
    pub seconds: f64,
    /// The file, or why there is none.
    pub detail: &'a str,
}

impl BackupEnded<'_> {
    /// Logs and counts. A good one is followed by [`BackupsKnown`].
    pub fn emit(&self) {
        let Self { target, seconds, detail, .. } = self;
        let outcome = self.outcome.name();
        match self.outcome {
            BackupOutcome::Ok => tracing::info!(target, outcome, seconds, detail, "backup taken"),
            BackupOutcome::Failed | BackupOutcome::Blocked => {
                tracing::warn!(target, outcome, seconds, detail, "no backup was taken");
            }
        }
        if let Some(metrics) = metrics() {
            metrics.backups.with_label_values(&[self.target, outcome]).inc();
        }
    }
}

/// What the newest good backup of a target is: at the start, and after each change.
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
