//! A check: what one look at one target said.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Finding, InUse, Layer};

/// The reason of a look that met a lock: it looks again soon, and says more when the lock lasts.
pub const LOCKED_FOR_NOW: &str = "it is locked; looking again until its busy timeout has passed";

/// What a reason ends with where a program keeps everybody out, and it cannot be told for how long it will.
pub const LOCKED_BY_A_PROGRAM: &str = "a program in locking_mode=EXCLUSIVE, or a transaction that has not written yet";

/// What a detector concluded. `Unknown` opens, heals and closes nothing.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Every layer that was looked at is sound.
    Healthy,
    /// At least one finding, the worst first.
    Unhealthy(Vec<Finding>),
    /// It could not be told, and why.
    Unknown(String),
}

impl Verdict {
    /// `healthy`, `unhealthy` or `unknown`: the label in metrics and JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Verdict::Healthy => "healthy",
            Verdict::Unhealthy(_) => "unhealthy",
            Verdict::Unknown(_) => "unknown",
        }
    }

    /// It is over with the next look, or turns into a finding.
    pub fn is_momentary(&self) -> bool {
        matches!(self, Verdict::Unknown(reason) if reason == LOCKED_FOR_NOW)
    }

    /// A living program's lock kept the look out: that says nothing of the file, nor of what is beneath it.
    pub fn is_kept_out(&self) -> bool {
        matches!(self, Verdict::Unknown(reason) if reason == LOCKED_FOR_NOW || reason.ends_with(LOCKED_BY_A_PROGRAM))
    }

    /// The findings; none unless unhealthy.
    pub fn findings(&self) -> &[Finding] {
        match self {
            Verdict::Unhealthy(findings) => findings,
            Verdict::Healthy | Verdict::Unknown(_) => &[],
        }
    }
}

/// What one layer said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LayerVerdict {
    /// Looked at and sound.
    Ok,
    /// A finding names this layer.
    Failed,
    /// Not looked at: not due, or a layer beneath had failed.
    Skipped,
    /// Looked at, and nothing could be told.
    Unknown,
}

/// One layer of a check.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerResult {
    /// Which layer.
    pub layer: Layer,
    /// What it said.
    pub verdict: LayerVerdict,
    /// What looking cost.
    pub seconds: f64,
}

/// The result of one look at one target, as INTERFACE's `check` JSON has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    /// The configured name.
    pub target: String,
    /// The failure mode that looked.
    pub mode: &'static str,
    /// The conclusion.
    pub verdict: Verdict,
    /// When the look ended.
    pub checked_at: Timestamp,
    /// How long it took.
    pub duration_seconds: f64,
    /// Every layer of the mode, in order.
    pub layers: Vec<LayerResult>,
    /// Who uses it, where that was looked at.
    pub in_use: Option<InUse>,
}

impl Serialize for Check {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Wire<'a> {
            target: &'a str,
            mode: &'a str,
            verdict: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            reason: Option<&'a str>,
            checked_at: String,
            duration_seconds: f64,
            findings: &'a [Finding],
            layers: &'a [LayerResult],
            #[serde(flatten)]
            in_use: Option<&'a InUse>,
        }
        Wire {
            target: &self.target,
            mode: self.mode,
            verdict: self.verdict.name(),
            reason: match &self.verdict {
                Verdict::Unknown(reason) => Some(reason),
                Verdict::Healthy | Verdict::Unhealthy(_) => None,
            },
            checked_at: super::incident::rfc3339_millis(self.checked_at),
            duration_seconds: self.duration_seconds,
            findings: self.verdict.findings(),
            layers: &self.layers,
            in_use: self.in_use.as_ref(),
        }
        .serialize(serializer)
    }
}
