//! One pass for the command line: no loop, no HTTP, no socket. Plain values in, documents out.

use std::path::PathBuf;

use serde::Serialize;

use crate::config::Config;
use crate::job::{BackupEntry, Restored};
use crate::model::{Check, Incident, Playbook};

/// What a command is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A configured target, or the name of a glob: all of its targets.
    Named(String),
    /// A database file, supervised with defaults.
    Path(PathBuf),
}

/// Where a command works.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    /// The configuration, where one was given or found.
    pub config: Option<Config>,
    /// `--state-dir`, which goes before the configuration's.
    pub state_dir: Option<PathBuf>,
}

/// Why a command did not do its work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PassError {
    /// The exit status: 1 failed, 2 wrong usage, 3 could not tell.
    pub exit: u8,
    /// What was tried, on what, and what to do about it.
    pub message: String,
}

/// What `heal` came to.
#[derive(Debug, Clone, Serialize)]
pub struct HealReport {
    /// The target's name.
    pub target: String,
    /// How it ended.
    pub outcome: HealOutcome,
    /// The last look: the proof, where something was healed.
    pub check: Check,
    /// What would be tried, in order; only of a dry run.
    pub playbooks: Vec<Playbook>,
    /// Why nothing may be tried, with the next command for a person.
    pub reason: Option<String>,
    /// The incident, where one was opened.
    pub incident: Option<Incident>,
}

/// How `heal` ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HealOutcome {
    /// Nothing was wrong.
    Healthy,
    /// Healed and proven.
    Healed,
    /// A dry run: see `playbooks`.
    Planned,
    /// Still unhealthy: see `reason` and `incident`.
    Failed,
    /// It could not be told.
    Unknown,
}

/// Which backup to restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RestoreFrom {
    /// The newest that passes its check.
    Newest(Subject),
    /// This file.
    Backup(PathBuf),
}

fn not_wired<T>(command: &str) -> Result<T, PassError> {
    Err(PassError { exit: 1, message: format!("`{command}` is not wired yet") })
}

/// Looks once at each subject, or at every configured target; heals nothing.
///
/// # Errors
/// When nothing could be looked at.
pub fn check(_scope: &Scope, _subjects: &[Subject]) -> Result<Vec<Check>, PassError> {
    not_wired("check")
}

/// Detects, heals and proves once; `dry_run` plans and touches nothing.
///
/// # Errors
/// When the state directory is held by another guardiand, or nothing could be looked at.
pub fn heal(_scope: &Scope, _subject: &Subject, _dry_run: bool) -> Result<HealReport, PassError> {
    not_wired("heal")
}

/// Takes a verified backup now.
///
/// # Errors
/// When none could be taken.
pub fn backup(_scope: &Scope, _subject: &Subject) -> Result<BackupEntry, PassError> {
    not_wired("backup")
}

/// Lists backups, newest first.
///
/// # Errors
/// When they could not be listed.
pub fn backups(_scope: &Scope, _subject: &Subject) -> Result<Vec<BackupEntry>, PassError> {
    not_wired("backups")
}

/// Restores a backup to a path where nothing is.
///
/// # Errors
/// When no backup passes, or something is there.
pub fn restore(_scope: &Scope, _from: &RestoreFrom, _to: &std::path::Path) -> Result<Restored, PassError> {
    not_wired("restore")
}
