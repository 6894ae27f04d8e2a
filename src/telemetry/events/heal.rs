//! What healing did, step by step.

use crate::model::{IncidentId, StepOutcome};
use crate::telemetry::metrics;

/// How a playbook ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlaybookOutcome {
    /// Its steps succeeded and the detector agreed.
    Ok,
    /// A step failed, or the detector still saw the failure.
    Failed,
    /// It was taken back.
    Undone,
}

impl PlaybookOutcome {
    /// The label in metrics.
    pub fn name(self) -> &'static str {
        match self {
            PlaybookOutcome::Ok => "ok",
            PlaybookOutcome::Failed => "failed",
            PlaybookOutcome::Undone => "undone",
        }
    }
}

/// Why a gate held a heal back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeferReason {
    /// Too soon after the last attempt.
    Cooldown,
    /// Too many heals in the window.
    Budget,
    /// The same heal did not last.
    Repeat,
    /// Too many targets failed at once.
    Mass,
    /// A person paused the target.
    Paused,
    /// The policy is `observe` or `approve`.
    Policy,
    /// No durable intent could be written, or the evidence could not be kept.
    Journal,
}

impl DeferReason {
    /// All reasons.
    pub const ALL: [DeferReason; 7] = [
        DeferReason::Cooldown,
        DeferReason::Budget,
        DeferReason::Repeat,
        DeferReason::Mass,
        DeferReason::Paused,
        DeferReason::Policy,
        DeferReason::Journal,
    ];

    /// The label in metrics.
    pub fn name(self) -> &'static str {
        match self {
            DeferReason::Cooldown => "cooldown",
            DeferReason::Budget => "budget",
            DeferReason::Repeat => "repeat",
            DeferReason::Mass => "mass",
            DeferReason::Paused => "paused",
            DeferReason::Policy => "policy",
            DeferReason::Journal => "journal",
        }
    }
}

/// A playbook begins.
#[derive(Debug)]
pub struct PlaybookBegan<'a> {
    /// The incident.
    pub incident: &'a IncidentId,
    /// The target.
    pub target: &'a str,
    /// The failure mode.
    pub mode: &'a str,
    /// The playbook.
    pub playbook: &'a str,
    /// Why it is tried and what it costs.
    pub why: &'a str,
}

impl PlaybookBegan<'_> {
    /// Logs.
    pub fn emit(&self) {
        let Self { incident, target, mode, playbook, why } = self;
        tracing::info!(incident = %incident, target, mode, playbook, why, "playbook began");
    }
}

/// A step of a playbook ended.
#[derive(Debug)]
pub struct StepEnded<'a> {
    /// The incident.
    pub incident: &'a IncidentId,
    /// The target.
    pub target: &'a str,
    /// The failure mode.
    pub mode: &'a str,
    /// The step.
    pub step: &'a str,
    /// How it ended.
    pub outcome: StepOutcome,
    /// How long it took.
    pub seconds: f64,
    /// What it did, or why it did not.
    pub detail: &'a str,
}

impl StepEnded<'_> {
    /// Logs and counts.
    pub fn emit(&self) {
        let Self { incident, target, mode, step, seconds, detail, .. } = self;
        let outcome = self.outcome.name();
        match self.outcome {
            StepOutcome::Failed => {
                tracing::warn!(incident = %incident, target, mode, step, outcome, seconds, detail, "step failed");
            }
            StepOutcome::Ok | StepOutcome::Skipped | StepOutcome::Undone => {
                tracing::info!(incident = %incident, target, mode, step, outcome, seconds, detail, "step ended");
            }
        }
        if let Some(metrics) = metrics() {
            metrics.step_duration.with_label_values(&[self.mode, self.step, outcome]).observe(self.seconds);
        }
    }
}

/// A playbook ended.
#[derive(Debug)]
pub struct PlaybookEnded<'a> {
    /// The incident.
    pub incident: &'a IncidentId,
    /// The target.
    pub target: &'a str,
    /// The failure mode.
    pub mode: &'a str,
    /// The playbook.
    pub playbook: &'a str,
    /// How it ended.
    pub outcome: PlaybookOutcome,
    /// How long it took.
    pub seconds: f64,
}

impl PlaybookEnded<'_> {
    /// Logs and counts.
    pub fn emit(&self) {
        let Self { incident, target, mode, playbook, seconds, .. } = self;
        let outcome = self.outcome.name();
        tracing::info!(incident = %incident, target, mode, playbook, outcome, seconds, "playbook ended");
        if let Some(metrics) = metrics() {
            metrics.playbook_runs.with_label_values(&[self.mode, self.playbook, outcome]).inc();
        }
    }
}

/// A gate held a heal back.
#[derive(Debug)]
pub struct HealDeferred<'a> {
    /// The incident.
    pub incident: &'a IncidentId,
    /// The target.
    pub target: &'a str,
    /// The failure mode.
    pub mode: &'a str,
    /// Which gate.
    pub reason: DeferReason,
    /// Until when or until what, in words.
    pub detail: &'a str,
}

impl HealDeferred<'_> {
    /// Logs and counts.
    pub fn emit(&self) {
        let Self { incident, target, mode, detail, .. } = self;
        let reason = self.reason.name();
        tracing::warn!(incident = %incident, target, mode, outcome = "deferred", reason, detail, "heal deferred");
        if let Some(metrics) = metrics() {
            metrics.heals_deferred.with_label_values(&[self.target, self.mode, reason]).inc();
        }
    }
}
