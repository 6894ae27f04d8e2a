//! What is known of every target now: the one place that the API and the status line read.
//!
//! The supervisor's loop writes it, everybody else reads it. It is memory only, so that a scrape or a page never waits
//! for a disk.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::clock::Moment;
use crate::model::{Check, InUse, Incident, IncidentId, IncidentState, Kind, Verdict, millis_option};
use crate::modes::Vitals;

use super::Pause;

/// Every target, by its configured name.
#[derive(Debug, Default)]
pub struct StatusBoard {
    targets: BTreeMap<String, TargetStatus>,
}

/// What is known of one target.
#[derive(Debug, Clone, Serialize)]
pub struct TargetStatus {
    /// The configured name.
    pub name: String,
    /// The failure mode.
    pub mode: &'static str,
    /// `pending`, then the open incident's state, or the last verdict.
    pub state: &'static str,
    /// Looks since the start.
    pub total_checks: u64,
    /// Unhealthy looks since the start.
    pub total_failures: u64,
    /// Unhealthy looks since the last healthy one.
    pub consecutive_failures: u64,
    /// The open incident.
    pub incident: Option<OpenIncident>,
    /// A person's word that nothing is healed for now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<Pause>,
    /// The main file's size, for databases.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database_size_bytes: Option<u64>,
    /// The WAL's size, for databases.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database_wal_bytes: Option<u64>,
    /// When the newest good backup was taken.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "millis_option::serialize")]
    pub last_backup_at: Option<Timestamp>,
    /// The last look.
    pub last_check: Option<Check>,
    /// Who uses it, where that was looked at.
    #[serde(flatten)]
    pub in_use: Option<InUse>,
    /// The verdict that was told last.
    #[serde(skip)]
    told: Option<&'static str>,
}

/// The open incident of a target, in short.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OpenIncident {
    /// Its name, for `/api/v1/incidents/ID`.
    pub id: IncidentId,
    /// What failed.
    pub kind: Kind,
    /// Where it stands.
    pub state: IncidentState,
    /// Why a person is needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How many targets are in which state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// All.
    pub targets: usize,
    /// The last verdict was healthy.
    pub healthy: usize,
    /// The last verdict was unhealthy.
    pub unhealthy: usize,
    /// It could not be told.
    pub unknown: usize,
    /// Not looked at yet.
    pub pending: usize,
    /// Incidents that are open, escalated ones included.
    pub incidents_open: usize,
    /// Of these, those that need a person.
    pub escalated: usize,
}

impl StatusBoard {
    /// Adds a target that nothing is known of yet; one that is there already stays as it is.
    pub fn add(&mut self, name: &str, mode: &'static str) {
        self.targets.entry(name.to_owned()).or_insert_with(|| TargetStatus {
            name: name.to_owned(),
            mode,
            state: "pending",
            total_checks: 0,
            total_failures: 0,
            consecutive_failures: 0,
            incident: None,
            paused: None,
            database_size_bytes: None,
            database_wal_bytes: None,
            last_backup_at: None,
            last_check: None,
            in_use: None,
            told: None,
        });
    }

    /// Removes a target that is no longer configured.
    pub fn remove(&mut self, name: &str) {
        self.targets.remove(name);
    }

    /// Takes in a look. True when its verdict differs from the last one's. `unproven`: it says healthy of a target whose
    /// incident is open, which is no recovery.
    pub fn checked(&mut self, mut check: Check, unproven: bool) -> bool {
        let Some(target) = self.targets.get_mut(&check.target) else { return true };
        target.total_checks += 1;
        match &check.verdict {
            Verdict::Healthy if unproven => {}
            Verdict::Healthy => target.consecutive_failures = 0,
            Verdict::Unhealthy(_) => {
                target.total_failures += 1;
                target.consecutive_failures += 1;
            }
            // Not being able to tell is neither a failure nor a recovery.
            Verdict::Unknown(_) => {}
        }
        target.in_use = check.in_use.take().or(target.in_use.take());
        // A lock that is met once is a writer's everyday: it is news when it lasts.
        let changed = !unproven && !check.verdict.is_momentary() && target.told != Some(check.verdict.name());
        if changed {
            target.told = Some(check.verdict.name());
        }
        target.last_check = Some(check);
        target.settle();
        changed
    }

    /// Takes in what became of an incident; a closed one leaves the board.
    pub fn incident(&mut self, incident: &Incident) {
        let Some(target) = self.targets.get_mut(&incident.target) else { return };
        target.incident = (incident.state != IncidentState::Closed).then(|| OpenIncident {
            id: incident.id.clone(),
            kind: incident.kind.clone(),
            state: incident.state,
            reason: incident.reason.clone(),
        });
        target.settle();
    }

    /// Takes in a pause, or its end.
    pub fn paused(&mut self, name: &str, pause: Option<Pause>) {
        if let Some(target) = self.targets.get_mut(name) {
            target.paused = pause;
        }
    }

    /// Takes in the figures that a target has.
    pub fn measured(&mut self, name: &str, vitals: Vitals) {
        if let Some(target) = self.targets.get_mut(name) {
            target.database_size_bytes = vitals.size_bytes.or(target.database_size_bytes);
            target.database_wal_bytes = vitals.wal_bytes.or(target.database_wal_bytes);
            target.last_backup_at = vitals.last_backup_at.or(target.last_backup_at);
        }
    }

    /// One target.
    pub fn target(&self, name: &str) -> Option<&TargetStatus> {
        self.targets.get(name)
    }

    /// Every target, by name.
    pub fn targets(&self) -> impl Iterator<Item = &TargetStatus> {
        self.targets.values()
    }

    /// How many are in which state.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals { targets: self.targets.len(), ..Totals::default() };
        for target in self.targets.values() {
            match target.last_check.as_ref().map(|check| &check.verdict) {
                None => totals.pending += 1,
                Some(Verdict::Healthy) => totals.healthy += 1,
                Some(Verdict::Unhealthy(_)) => totals.unhealthy += 1,
                Some(Verdict::Unknown(_)) => totals.unknown += 1,
            }
            if let Some(incident) = &target.incident {
                totals.incidents_open += 1;
                totals.escalated += usize::from(incident.state == IncidentState::Escalated);
            }
        }
        totals
    }
}

impl TargetStatus {
    fn settle(&mut self) {
        self.state = match (&self.incident, &self.last_check) {
            (Some(incident), _) => incident.state.name(),
            (None, Some(check)) => check.verdict.name(),
            (None, None) => "pending",
        };
    }
}

/// Whether the daemon is alive and ready: read by probes without waiting for anything.
#[derive(Debug, Default)]
pub struct Pulse {
    beat_ms: AtomicU64,
    ready: AtomicBool,
}

impl Pulse {
    /// The main loop came round.
    pub fn beat(&self, now: Moment) {
        self.beat_ms.store(now.boot_ms, Ordering::Relaxed);
    }

    /// The first sweep is done.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Relaxed);
    }

    /// True once the first sweep is done.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// How long ago the main loop came round.
    pub fn age(&self, now: Moment) -> Duration {
        Duration::from_millis(now.boot_ms.saturating_sub(self.beat_ms.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Finding, Layer, Severity};

    fn check(verdict: Verdict) -> Check {
        Check {
            target: "app".to_owned(),
            mode: "database",
            verdict,
            checked_at: Timestamp::UNIX_EPOCH,
            duration_seconds: 0.0,
            layers: Vec::new(),
            in_use: None,
        }
    }

    fn unhealthy() -> Verdict {
        Verdict::Unhealthy(vec![Finding {
            kind: Kind::new("db_locked"),
            severity: Severity::High,
            layer: Layer::new("locks"),
            detail: String::new(),
            sqlite_code: None,
            at_stake: None,
            remediation: String::new(),
        }])
    }

    #[test]
    fn failures_count_until_a_healthy_look_and_unknown_changes_nothing() {
        let mut board = StatusBoard::default();
        board.add("app", "database");
        assert_eq!(board.target("app").unwrap().state, "pending");
        let unknown = || Verdict::Unknown("not mounted".to_owned());
        for (verdict, changed, consecutive, state) in [
            (unhealthy(), true, 1, "unhealthy"),
            (unhealthy(), false, 2, "unhealthy"),
            (unknown(), true, 2, "unknown"),
            (unhealthy(), true, 3, "unhealthy"),
            (Verdict::Healthy, true, 0, "healthy"),
        ] {
            assert_eq!(board.checked(check(verdict), false), changed);
            let target = board.target("app").unwrap();
            assert_eq!((target.consecutive_failures, target.state), (consecutive, state));
        }
        assert_eq!(board.target("app").unwrap().total_failures, 3);
        assert_eq!(board.totals(), Totals { targets: 1, healthy: 1, ..Totals::default() });
    }

    #[test]
    fn the_pulse_tells_how_long_the_loop_has_been_silent() {
        let pulse = Pulse::default();
        let at = |boot_ms| Moment { wall: Timestamp::UNIX_EPOCH, boot_ms };
        pulse.beat(at(1000));
        assert_eq!(pulse.age(at(3500)), Duration::from_millis(2500));
        assert!(!pulse.is_ready());
        pulse.set_ready();
        assert!(pulse.is_ready());
    }
}
