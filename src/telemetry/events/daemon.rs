//! What the daemon itself did.

use std::path::Path;

use crate::model::RestartReason;
use crate::telemetry::metrics;

/// A worker child ended before its work was done.
#[derive(Debug)]
pub struct WorkerRestarted<'a> {
    /// Why.
    pub reason: RestartReason,
    /// What it was working on, and how it ended.
    pub detail: &'a str,
}

impl WorkerRestarted<'_> {
    /// Logs and counts.
    pub fn emit(&self) {
        let reason = self.reason.name();
        tracing::warn!(reason, detail = self.detail, "worker replaced");
        if let Some(metrics) = metrics() {
            metrics.worker_restarts.with_label_values(&[reason]).inc();
        }
    }
}

/// Something in the configuration that works, but probably not as meant.
#[derive(Debug)]
pub struct ConfigWarning<'a>(pub &'a str);

impl ConfigWarning<'_> {
    /// Logs.
    pub fn emit(&self) {
        tracing::warn!(detail = self.0, "configuration");
    }
}

/// The configuration was read again and is in force.
#[derive(Debug)]
pub struct ConfigReloaded<'a> {
    /// The file.
    pub path: &'a Path,
    /// What changed, in words.
    pub detail: &'a str,
}

impl ConfigReloaded<'_> {
    /// Logs.
    pub fn emit(&self) {
        tracing::info!(path = %self.path.display(), detail = self.detail, "configuration reloaded");
    }
}

/// The configuration was read again and refused; the old one stays in force.
#[derive(Debug)]
pub struct ConfigRefused<'a> {
    /// The file.
    pub path: &'a Path,
    /// Its errors, with line and caret.
    pub errors: &'a str,
}

impl ConfigRefused<'_> {
    /// Logs.
    pub fn emit(&self) {
        tracing::error!(
            path = %self.path.display(), detail = self.errors,
            "configuration refused: the running one stays in force"
        );
    }
}

/// Somebody asked for something over the control socket.
#[derive(Debug)]
pub struct ControlAsked<'a> {
    /// The command.
    pub command: &'a str,
    /// What it is about; empty when about nothing in particular.
    pub target: &'a str,
    /// The asking process, where the kernel names it.
    pub pid: Option<i32>,
    /// The asking user.
    pub uid: u32,
}

impl ControlAsked<'_> {
    /// Logs: who acted is part of an incident's story.
    pub fn emit(&self) {
        let Self { command, target, pid, uid } = self;
        tracing::info!(command, target, pid, uid, "control request");
    }
}
