//! A target's series exist from the first scrape, at zero, and go when the target goes: an alert on a rate must not wait
//! for the first failure, and a removed target must not look like a dead one.

use super::events::{BackupOutcome, DeferReason, NotifyChannel, NotifyOutcome};
use super::{Metrics, metrics};
use crate::model::{Resolution, RestartReason};

/// The verdicts, as labels.
const VERDICTS: [&str; 3] = ["healthy", "unhealthy", "unknown"];

/// The mode whose targets have a database's own figures.
const DATABASE: &str = "database";

const RESOLUTIONS: [Resolution; 4] =
    [Resolution::Healed, Resolution::SelfResolved, Resolution::ResolvedByOperator, Resolution::RolledBack];

/// Creates every series of a target, at zero.
pub fn register_target(target: &str, mode: &str) {
    if let Some(metrics) = metrics() {
        register_target_in(metrics, target, mode);
    }
}

/// Creates the series of a mode that carry no target, at zero.
pub fn register_mode(mode: &str, layers: &[&str], kinds: &[&str]) {
    if let Some(metrics) = metrics() {
        register_mode_in(metrics, mode, layers, kinds);
    }
}

/// Creates the series of incidents that are of no configured target, at zero.
pub fn register_incidents_of(target: &str, mode: &str, kind: &str) {
    let Some(metrics) = metrics() else { return };
    let both = [target, mode];
    metrics.incidents.with_label_values(&both);
    metrics.incidents_escalated.with_label_values(&both);
    metrics.incidents_open.with_label_values(&both);
    metrics.incidents_by_kind.with_label_values(&[mode, kind]);
    for resolution in RESOLUTIONS {
        metrics.incidents_closed.with_label_values(&[target, mode, resolution.name()]);
    }
    metrics.heals_deferred.with_label_values(&[target, mode, DeferReason::Mass.name()]);
}

/// Removes every series of a target that is no longer configured.
pub fn forget_target(target: &str, mode: &str) {
    if let Some(metrics) = metrics() {
        forget_target_in(metrics, target, mode);
    }
}

pub(super) fn register_target_in(metrics: &Metrics, target: &str, mode: &str) {
    let both = [target, mode];
    metrics.target_up.with_label_values(&both).set(f64::NAN);
    metrics.last_check.with_label_values(&both);
    metrics.consecutive_failures.with_label_values(&both);
    metrics.incidents.with_label_values(&both);
    metrics.incidents_escalated.with_label_values(&both);
    metrics.incidents_open.with_label_values(&both);
    metrics.target_recovery.touch(target, mode);
    for verdict in VERDICTS {
        metrics.checks.with_label_values(&[target, mode, verdict]);
    }
    for resolution in RESOLUTIONS {
        metrics.incidents_closed.with_label_values(&[target, mode, resolution.name()]);
    }
    for reason in DeferReason::ALL {
        metrics.heals_deferred.with_label_values(&[target, mode, reason.name()]);
    }
    if mode == DATABASE {
        for vec in [&metrics.rows_lost, &metrics.rows_salvaged] {
            vec.with_label_values(&[target]);
        }
        for vec in database_gauges(metrics) {
            vec.with_label_values(&[target]);
        }
        for outcome in BackupOutcome::ALL {
            metrics.backups.with_label_values(&[target, outcome.name()]);
        }
    }
}

pub(super) fn register_mode_in(metrics: &Metrics, mode: &str, layers: &[&str], kinds: &[&str]) {
    metrics.detection.with_label_values(&[mode]);
    for layer in layers {
        metrics.check_duration.with_label_values(&[mode, layer]);
    }
    for kind in kinds {
        metrics.incidents_by_kind.with_label_values(&[mode, kind]);
        metrics.recovery.with_label_values(&[mode, kind]);
    }
    for channel in NotifyChannel::ALL {
        for outcome in NotifyOutcome::ALL {
            metrics.notifications.with_label_values(&[channel.name(), outcome.name()]);
        }
    }
    for reason in RestartReason::ALL {
        metrics.worker_restarts.with_label_values(&[reason.name()]);
    }
}

// A series that was never created cannot be removed: those errors say nothing new.
fn forget_target_in(metrics: &Metrics, target: &str, mode: &str) {
    let both = [target, mode];
    let _ = metrics.target_up.remove_label_values(&both);
    let _ = metrics.last_check.remove_label_values(&both);
    let _ = metrics.consecutive_failures.remove_label_values(&both);
    let _ = metrics.incidents.remove_label_values(&both);
    let _ = metrics.incidents_escalated.remove_label_values(&both);
    let _ = metrics.incidents_open.remove_label_values(&both);
    metrics.target_recovery.remove(target, mode);
    for verdict in VERDICTS {
        let _ = metrics.checks.remove_label_values(&[target, mode, verdict]);
    }
    for resolution in RESOLUTIONS {
        let _ = metrics.incidents_closed.remove_label_values(&[target, mode, resolution.name()]);
    }
    for reason in DeferReason::ALL {
        let _ = metrics.heals_deferred.remove_label_values(&[target, mode, reason.name()]);
    }
    if mode == DATABASE {
        for vec in [&metrics.rows_lost, &metrics.rows_salvaged] {
            let _ = vec.remove_label_values(&[target]);
        }
        for vec in database_gauges(metrics) {
            let _ = vec.remove_label_values(&[target]);
        }
        for outcome in BackupOutcome::ALL {
            let _ = metrics.backups.remove_label_values(&[target, outcome.name()]);
        }
    }
}

fn database_gauges(metrics: &Metrics) -> [&prometheus::GaugeVec; 5] {
    [
        &metrics.database_size,
        &metrics.database_wal,
        &metrics.backup_last_success,
        &metrics.backup_last_verified,
        &metrics.backup_size,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::ProcessSample;

    #[test]
    fn a_forgotten_target_leaves_no_series_behind() {
        let metrics = Metrics::new("0", "0", "0").unwrap();
        register_target_in(&metrics, "kept", DATABASE);
        let before = metrics.render(&ProcessSample::default()).unwrap();
        register_target_in(&metrics, "gone", DATABASE);
        assert!(metrics.render(&ProcessSample::default()).unwrap().contains("\"gone\""));
        forget_target_in(&metrics, "gone", DATABASE);
        assert_eq!(metrics.render(&ProcessSample::default()).unwrap(), before);
    }
}
