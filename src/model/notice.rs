//! What people are told of, beyond logs and metrics.

use serde::{Deserialize, Serialize};

use super::Incident;

/// Why a person is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Occasion {
    /// Nobody but a person can go on.
    Escalated,
    /// A plan waits for a person's yes.
    AwaitingApproval,
    /// A heal lost something, or may have.
    Loss,
}

impl Occasion {
    /// The name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Occasion::Escalated => "escalated",
            Occasion::AwaitingApproval => "awaiting_approval",
            Occasion::Loss => "loss",
        }
    }

    /// What `incident`, as it stands, calls for.
    pub fn of(incident: &Incident) -> Option<Occasion> {
        use super::IncidentState as S;
        match incident.state {
            S::Escalated => Some(Occasion::Escalated),
            S::AwaitingApproval if incident.approved_by.is_none() => Some(Occasion::AwaitingApproval),
            S::Closed if incident.loss.as_ref().is_some_and(|loss| !loss.is_none_proven()) => Some(Occasion::Loss),
            _ => None,
        }
    }
}

/// One thing to tell people: the incident as it stands, and why. Its JSON is the incident's, with `occasion` beside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Notice {
    /// Why.
    pub occasion: Occasion,
    /// The incident.
    #[serde(flatten)]
    pub incident: Incident,
}

impl Notice {
    /// What `incident` calls for, if anything.
    pub fn of(incident: &Incident) -> Option<Notice> {
        Occasion::of(incident).map(|occasion| Notice { occasion, incident: incident.clone() })
    }

    /// Equal for what need not be told twice: one escalation of an incident, one question about one plan.
    pub fn key(&self) -> String {
        let mut key = format!("{} {}", self.incident.id, self.occasion.name());
        if self.occasion == Occasion::AwaitingApproval {
            let plan = self.incident.plan.iter().map(|rung| format!("{}: {}", rung.playbook, rung.why));
            key = format!("{key} {}", plan.collect::<Vec<_>>().join(", "));
        }
        key
    }
}
