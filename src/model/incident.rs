//! An incident and its life.
//!
//! ```text
//!            ┌────────────────────── Recovered (by itself) ─────────────────────┐
//!            │                                                                  ▼
//!  open ── Begin ──▶ healing ── StepsDone ──▶ verifying ── Proved ───────────▶ closed
//!   │ ▲                │  ▲                       │                             ▲
//!   │ │                │  └────── Disproved ──────┘                             │
//!   │ └── Interrupted ─┘ (resume after a crash)                                 │
//!   ├── Ask ──▶ awaiting_approval ── Begin ──▶ healing    (Ask: from escalated too) │
//!   └── Escalate (from any state but closed) ──▶ escalated ── Recovered ────────┘
//!                                                    └────── Begin (operator, resume) ──▶ healing
//! ```

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Kind, Loss, Playbook, Risk};
use crate::model::Finding;

/// Names an incident, its evidence folder and its log: sorts by time.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IncidentId(pub String);

impl fmt::Display for IncidentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where an incident stands. `escalated` is still open: a person is needed, and the detector goes on looking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IncidentState {
    /// Seen; nothing under way.
    Open,
    /// Planned; a person must say yes.
    AwaitingApproval,
    /// A playbook runs.
    Healing,
    /// The detector runs in full.
    Verifying,
    /// Out of playbooks, or not allowed to run them.
    Escalated,
    /// Over.
    Closed,
}

/// How an incident ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resolution {
    /// A playbook healed it, and the detector proved it.
    Healed,
    /// It was healthy again before anything was changed.
    SelfResolved,
    /// It was healthy again after it had been escalated.
    ResolvedByOperator,
    /// Its heal was taken back.
    RolledBack,
}

impl Resolution {
    /// The label in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Resolution::Healed => "healed",
            Resolution::SelfResolved => "self_resolved",
            Resolution::ResolvedByOperator => "resolved_by_operator",
            Resolution::RolledBack => "rolled_back",
        }
    }
}

/// What happens to an incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IncidentEvent {
    /// The policy wants a person's yes.
    Ask,
    /// A playbook begins.
    Begin,
    /// All its steps succeeded.
    StepsDone,
    /// The daemon died or stopped in the middle; its steps are finished or undone.
    Interrupted,
    /// The detector still sees the failure; the next playbook may follow.
    Disproved,
    /// The detector sees a healthy target after a playbook.
    Proved,
    /// The detector sees a healthy target, and no playbook changed anything.
    Recovered,
    /// Nobody but a person can go on.
    Escalate,
}

/// An event that cannot happen in a state: a bug, said aloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("an incident in state {state:?} cannot take the event {event:?}")]
pub struct Illegal {
    /// The state.
    pub state: IncidentState,
    /// The event.
    pub event: IncidentEvent,
}

impl IncidentState {
    /// The state after `event`.
    ///
    /// # Errors
    /// [`Illegal`] when the event cannot happen in this state.
    pub fn after(self, event: IncidentEvent) -> Result<IncidentState, Illegal> {
        use IncidentEvent as E;
        use IncidentState as S;
        match (self, event) {
            // Asked again when the plan changed; after an escalation when what forbade a plan is gone; after a restart in the
            // middle of a playbook when what is left to do costs more than what was approved.
            (S::Open | S::AwaitingApproval | S::Escalated, E::Ask) => Ok(S::AwaitingApproval),
            (S::Open | S::AwaitingApproval | S::Escalated, E::Begin) => Ok(S::Healing),
            (S::Healing, E::StepsDone) => Ok(S::Verifying),
            (S::Healing | S::Verifying, E::Interrupted) => Ok(S::Open),
            (S::Verifying, E::Disproved) => Ok(S::Healing),
            // A playbook whose last step failed may still have healed: the proof decides, not the step.
            (S::Verifying | S::Healing, E::Proved) => Ok(S::Closed),
            (S::Open | S::AwaitingApproval | S::Escalated | S::Healing, E::Recovered) => Ok(S::Closed),
            (S::Open | S::AwaitingApproval | S::Healing | S::Verifying | S::Escalated, E::Escalate) => Ok(S::Escalated),
            (state, event) => Err(Illegal { state, event }),
        }
    }

    /// The label in metrics and JSON.
    pub fn name(self) -> &'static str {
        match self {
            IncidentState::Open => "open",
            IncidentState::AwaitingApproval => "awaiting_approval",
            IncidentState::Healing => "healing",
            IncidentState::Verifying => "verifying",
            IncidentState::Escalated => "escalated",
            IncidentState::Closed => "closed",
        }
    }
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepOutcome {
    /// Applied and verified.
    Ok,
    /// Did not apply, or did not verify.
    Failed,
    /// Nothing to do.
    Skipped,
    /// Applied, then taken back.
    Undone,
}

impl StepOutcome {
    /// The label in metrics.
    pub fn name(self) -> &'static str {
        match self {
            StepOutcome::Ok => "ok",
            StepOutcome::Failed => "failed",
            StepOutcome::Skipped => "skipped",
            StepOutcome::Undone => "undone",
        }
    }
}

/// One step that was taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Its name.
    pub step: String,
    /// How it ended.
    pub outcome: StepOutcome,
    /// How long it took.
    pub seconds: f64,
    /// What it did, or why it did not.
    pub detail: String,
    /// The folder that it kept the files in, as they were.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub evidence: Option<String>,
}

/// One failure of one target, from the first unhealthy look to proven health.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    /// Its name.
    pub id: IncidentId,
    /// The configured name of what failed.
    pub target: String,
    /// The failure mode.
    pub mode: String,
    /// The worst finding's kind when it was opened.
    pub kind: Kind,
    /// The first unhealthy look.
    #[serde(with = "millis")]
    pub opened_at: Timestamp,
    /// Its end.
    #[serde(with = "millis_option", skip_serializing_if = "Option::is_none", default)]
    pub closed_at: Option<Timestamp>,
    /// Where it stands.
    pub state: IncidentState,
    /// How it ended.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub outcome: Option<Resolution>,
    /// From the fault to `opened_at`, where the fault's time is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub detection_seconds: Option<f64>,
    /// From `opened_at` to proven healthy, on the boot-time clock.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub mttr_seconds: Option<f64>,
    /// The part of it that playbooks ran.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub heal_seconds: Option<f64>,
    /// The playbook that ran last; empty before the first.
    pub playbook: String,
    /// Every step that was taken, in order.
    pub steps: Vec<StepRecord>,
    /// What the heal cost; `None` when nothing was replaced.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub loss: Option<Loss>,
    /// The folder with the files as they were.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub evidence: Option<String>,
    /// When these files were deleted, because they were older than `evidence.keep` or others needed their room: then `evidence` is absent.
    #[serde(with = "millis_option", skip_serializing_if = "Option::is_none", default)]
    pub evidence_expired_at: Option<Timestamp>,
    /// Why a person is needed and what to type next, or what holds the heal back.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// What will be tried, or would be if policy and gates allowed it, the least lossy first; empty before the first plan.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plan: Vec<Rung>,
    /// The user who said yes to that plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_by: Option<u32>,
    /// What was found, the worst first.
    #[serde(default)]
    pub findings: Vec<Finding>,
}

/// One playbook of an incident's plan, in short.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rung {
    /// Its name.
    pub playbook: String,
    /// Why it is here and what it costs.
    pub why: String,
    /// What it can cost at worst.
    pub risk: Risk,
    /// Its steps' names, in order.
    pub steps: Vec<String>,
}

impl From<&Playbook> for Rung {
    fn from(playbook: &Playbook) -> Rung {
        Rung {
            playbook: playbook.name.clone(),
            why: playbook.why.clone(),
            risk: playbook.risk(),
            steps: playbook.steps.iter().map(|step| step.name.clone()).collect(),
        }
    }
}

impl Incident {
    /// Moves on by `event`.
    ///
    /// # Errors
    /// [`Illegal`], and the incident stays as it was.
    pub fn advance(&mut self, event: IncidentEvent) -> Result<(), Illegal> {
        self.state = self.state.after(event)?;
        Ok(())
    }
}

/// RFC 3339 in UTC with exactly three decimals.
pub(crate) fn rfc3339_millis(at: Timestamp) -> String {
    format!("{at:.3}")
}

pub(crate) mod millis {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(at: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&super::rfc3339_millis(*at))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
        Timestamp::deserialize(from)
    }
}

/// For `#[serde(with)]`: times that may be missing, as [`rfc3339_millis`] writes them.
pub(crate) mod millis_option {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(at: &Option<Timestamp>, to: S) -> Result<S::Ok, S::Error> {
        match at {
            Some(at) => to.serialize_str(&super::rfc3339_millis(*at)),
            None => to.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Timestamp>, D::Error> {
        Option::<Timestamp>::deserialize(from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [IncidentState; 6] = [
        IncidentState::Open,
        IncidentState::AwaitingApproval,
        IncidentState::Healing,
        IncidentState::Verifying,
        IncidentState::Escalated,
        IncidentState::Closed,
    ];
    const EVENTS: [IncidentEvent; 8] = [
        IncidentEvent::Ask,
        IncidentEvent::Begin,
        IncidentEvent::StepsDone,
        IncidentEvent::Interrupted,
        IncidentEvent::Disproved,
        IncidentEvent::Proved,
        IncidentEvent::Recovered,
        IncidentEvent::Escalate,
    ];

    #[test]
    fn nothing_happens_after_the_end() {
        for event in EVENTS {
            assert!(IncidentState::Closed.after(event).is_err(), "{event:?}");
        }
    }

    #[test]
    fn no_state_is_a_dead_end_but_the_end() {
        for state in STATES.into_iter().filter(|state| *state != IncidentState::Closed) {
            assert!(EVENTS.iter().any(|event| state.after(*event).is_ok_and(|next| next != state)), "{state:?}");
        }
    }

    #[test]
    fn nothing_is_healing_without_a_beginning() {
        assert!(IncidentState::Open.after(IncidentEvent::StepsDone).is_err());
        assert!(IncidentState::Open.after(IncidentEvent::Proved).is_err());
        assert!(IncidentState::Escalated.after(IncidentEvent::Proved).is_err());
    }

    #[test]
    fn times_have_three_decimals() {
        assert_eq!(rfc3339_millis(Timestamp::from_second(0).unwrap()), "1970-01-01T00:00:00.000Z");
    }
}
