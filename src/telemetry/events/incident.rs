//! The life of an incident.

use crate::model::{Incident, Resolution};
use crate::telemetry::{Metrics, metrics};

/// An incident was opened.
#[derive(Debug)]
pub struct IncidentOpened<'a>(pub &'a Incident);

/// An incident that an earlier process had opened is open still.
#[derive(Debug)]
pub struct IncidentResumed<'a>(pub &'a Incident);

/// An incident needs a person.
#[derive(Debug)]
pub struct IncidentEscalated<'a> {
    /// The incident.
    pub incident: &'a Incident,
    /// Why, and what to type next.
    pub reason: &'a str,
}

/// A plan waits for a person's yes.
#[derive(Debug)]
pub struct ApprovalAsked<'a> {
    /// The incident.
    pub incident: &'a Incident,
    /// To what, and how.
    pub reason: &'a str,
}

/// A person said yes to a plan.
#[derive(Debug)]
pub struct ApprovalGiven<'a> {
    /// The incident.
    pub incident: &'a Incident,
    /// The user.
    pub by: u32,
}

impl ApprovalAsked<'_> {
    /// Logs.
    pub fn emit(&self) {
        let Incident { id, target, mode, kind, .. } = self.incident;
        let outcome = "awaiting_approval";
        tracing::warn!(incident = %id, target, mode, kind = %kind, outcome, reason = self.reason, "a plan waits for approval");
    }
}

impl ApprovalGiven<'_> {
    /// Logs.
    pub fn emit(&self) {
        let Incident { id, target, mode, kind, .. } = self.incident;
        tracing::info!(incident = %id, target, mode, kind = %kind, uid = self.by, outcome = "approved", "a plan was approved");
    }
}

/// An incident is over.
#[derive(Debug)]
pub struct IncidentClosed<'a>(pub &'a Incident);

impl IncidentOpened<'_> {
    /// Logs and counts.
    pub fn emit(&self) {
        let Incident { id, target, mode, kind, detection_seconds, findings, .. } = self.0;
        let detail = findings.first().map_or("", |finding| finding.detail.as_str());
        tracing::warn!(incident = %id, target, mode, kind = %kind, detection_seconds, detail, "incident opened");
        if let Some(metrics) = metrics() {
            self.count(metrics);
        }
    }

    fn count(&self, metrics: &Metrics) {
        let Incident { target, mode, kind, detection_seconds, .. } = self.0;
        metrics.incidents.with_label_values(&[target, mode]).inc();
        metrics.incidents_by_kind.with_label_values(&[mode.as_str(), kind.as_str()]).inc();
        metrics.incidents_open.with_label_values(&[target, mode]).set(1);
        if let Some(seconds) = detection_seconds {
            metrics.detection.with_label_values(&[mode]).observe(*seconds);
        }
    }
}

impl IncidentResumed<'_> {
    /// Logs and counts it as open, not as new.
    pub fn emit(&self) {
        let Incident { id, target, mode, kind, state, .. } = self.0;
        tracing::warn!(incident = %id, target, mode, kind = %kind, outcome = state.name(), "incident resumed after a restart");
        if let Some(metrics) = metrics() {
            metrics.incidents_open.with_label_values(&[target, mode]).set(1);
        }
    }
}

impl IncidentEscalated<'_> {
    /// Logs and counts.
    pub fn emit(&self) {
        let Incident { id, target, mode, kind, .. } = self.incident;
        tracing::error!(
            incident = %id, target, mode, kind = %kind, outcome = "escalated", reason = self.reason,
            "incident needs a person"
        );
        if let Some(metrics) = metrics() {
            metrics.incidents_escalated.with_label_values(&[target, mode]).inc();
        }
    }
}

/// The playbooks that put salvaged rows in a database's place.
const SALVAGE: [&str; 2] = ["salvage_rows", "salvage_in_place"];

impl IncidentClosed<'_> {
    /// Logs and counts.
    pub fn emit(&self) {
        let Incident { id, target, mode, kind, outcome, mttr_seconds: seconds, loss, playbook, .. } = self.0;
        let outcome = outcome.map_or("closed", Resolution::name);
        match loss {
            Some(loss) if !loss.is_none_proven() => {
                let rows_lost = loss.rows_lost.map_or_else(|| "unknown".to_owned(), |rows| rows.to_string());
                tracing::warn!(
                    incident = %id, target, mode, kind = %kind, outcome, seconds, playbook, rows_lost, source = loss.source,
                    "incident closed with a loss"
                );
            }
            _ => {
                tracing::info!(incident = %id, target, mode, kind = %kind, outcome, seconds, playbook, "incident closed")
            }
        }
        if let Some(metrics) = metrics() {
            self.count(metrics);
        }
    }

    fn count(&self, metrics: &Metrics) {
        let Incident { target, mode, kind, outcome, mttr_seconds, loss, playbook, .. } = self.0;
        metrics.incidents_open.with_label_values(&[target, mode]).set(0);
        if let Some(outcome) = outcome {
            metrics.incidents_closed.with_label_values(&[target.as_str(), mode.as_str(), outcome.name()]).inc();
        }
        // MTTR is about what was healed: a failure that went away by itself would flatter it.
        if let (Some(Resolution::Healed), Some(seconds)) = (outcome, mttr_seconds) {
            metrics.recovery.with_label_values(&[mode.as_str(), kind.as_str()]).observe(*seconds);
            metrics.target_recovery.add(target, mode, *seconds);
        }
        let salvaged = *outcome == Some(Resolution::Healed) && SALVAGE.contains(&playbook.as_str());
        if let Some(rows) = loss.as_ref().and_then(|loss| loss.rows_kept).filter(|_| salvaged) {
            metrics.rows_salvaged.with_label_values(&[target]).inc_by(rows);
        }
        if let Some(rows) = loss.as_ref().and_then(|loss| loss.rows_lost) {
            metrics.rows_lost.with_label_values(&[target]).inc_by(rows);
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::model::{IncidentId, IncidentState, Kind, Loss};
    use crate::telemetry::ProcessSample;

    fn incident(outcome: Resolution) -> Incident {
        Incident {
            id: IncidentId("i".to_owned()),
            target: "app".to_owned(),
            mode: "database".to_owned(),
            kind: Kind::new("db_file_missing"),
            opened_at: Timestamp::UNIX_EPOCH,
            closed_at: Some(Timestamp::UNIX_EPOCH),
            state: IncidentState::Closed,
            outcome: Some(outcome),
            detection_seconds: Some(0.002),
            mttr_seconds: Some(0.25),
            heal_seconds: Some(0.2),
            playbook: "restore_backup".to_owned(),
            steps: Vec::new(),
            loss: Some(Loss {
                source: "a backup".to_owned(),
                rows_kept: Some(9),
                rows_lost: Some(3),
                tables: Vec::new(),
            }),
            evidence: None,
            evidence_expired_at: None,
            reason: None,
            plan: Vec::new(),
            approved_by: None,
            findings: Vec::new(),
        }
    }

    #[test]
    fn only_healed_incidents_count_into_mttr() {
        let metrics = Metrics::new("0", "0", "0").unwrap();
        IncidentOpened(&incident(Resolution::Healed)).count(&metrics);
        assert_eq!(metrics.incidents_open.with_label_values(&["app", "database"]).get(), 1);
        IncidentClosed(&incident(Resolution::Healed)).count(&metrics);
        IncidentClosed(&incident(Resolution::SelfResolved)).count(&metrics);

        let text = metrics.render(&ProcessSample::default()).unwrap();
        for line in [
            "guardian_recovery_seconds_sum{kind=\"db_file_missing\",mode=\"database\"} 0.25",
            "guardian_recovery_seconds_count{kind=\"db_file_missing\",mode=\"database\"} 1",
            "guardian_target_recovery_seconds_sum{mode=\"database\",target=\"app\"} 0.25",
            "guardian_target_recovery_seconds_count{mode=\"database\",target=\"app\"} 1",
            "guardian_incidents_closed_total{mode=\"database\",outcome=\"self_resolved\",target=\"app\"} 1",
            "guardian_incidents_open{mode=\"database\",target=\"app\"} 0",
            "guardian_rows_lost_total{target=\"app\"} 6",
        ] {
            assert!(text.lines().any(|is| is == line), "{line} is missing:\n{text}");
        }
    }
}
