//! What will be done about an incident: playbooks of steps, the least lossy first.

use serde::{Deserialize, Serialize};

/// What guardiand may do about a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// Heal at once.
    Heal,
    /// Plan, then wait for `guardiand approve`.
    Approve,
    /// Tell, and touch nothing.
    Observe,
}

/// What a step can cost if it goes wrong; gates and approval go by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Risk {
    /// Changes no byte of the user's files: waiting, copying into evidence.
    Harmless,
    /// Changes bytes through SQLite's own locking, and loses nothing.
    Lossless,
    /// The content afterwards may be older or less than what was there.
    Lossy,
}

/// One step, as the journal keeps it: a later version of guardiand must be able to resume it, so the
/// arguments are plain data that the mode alone understands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepSpec {
    /// The step's name in incidents and metrics, such as `preserve`.
    pub name: String,
    /// The version of `args`' shape.
    pub version: u32,
    /// What it can cost.
    pub risk: Risk,
    /// What the mode needs to apply, verify, resume or undo it.
    pub args: serde_json::Value,
    /// Taken whether or not the steps before it succeeded, once they are done or taken back: what was stopped for a
    /// playbook is started again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub finally: bool,
}

/// One rung of a ladder: steps that are tried together, then proven together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Playbook {
    /// Its name in incidents and metrics, such as `restore_backup`.
    pub name: String,
    /// Why it is here and what it costs, for `--dry-run` and people.
    pub why: String,
    /// Applied in order; the first that fails ends the playbook, but for those that are to be taken `finally`.
    pub steps: Vec<StepSpec>,
}

impl Playbook {
    /// The worst risk of its steps.
    pub fn risk(&self) -> Risk {
        self.steps.iter().map(|step| step.risk).max().unwrap_or(Risk::Harmless)
    }
}

/// What shall be done about an incident.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// What to try, the least lossy first.
    pub playbooks: Vec<Playbook>,
    /// Why a person must say yes first, whatever the policy: what it costs, and whom it would touch.
    pub approval: Option<String>,
}

impl Plan {
    /// A plan that nobody needs to be asked about.
    pub fn of(playbooks: Vec<Playbook>) -> Plan {
        Plan { playbooks, approval: None }
    }
}
