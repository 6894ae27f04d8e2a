//! A look at a target ended.

use super::epoch_seconds;
use crate::model::{Check, LayerVerdict, Verdict};
use crate::telemetry::{Metrics, metrics};

/// A look at a target ended.
#[derive(Debug)]
pub struct CheckDone<'a> {
    /// What it said.
    pub check: &'a Check,
    /// Unhealthy looks since the last healthy one, this one included.
    pub consecutive_failures: u64,
    /// The verdict differs from the last one's: said at a level that people read. Otherwise a thousand targets would
    /// fill the log with what is known already.
    pub changed: bool,
    /// It is healthy as far as this look went, and an incident is open that only a full one ends: no recovery.
    pub unproven: bool,
}

impl CheckDone<'_> {
    /// Logs and counts.
    pub fn emit(&self) {
        self.log();
        if let Some(metrics) = metrics() {
            self.count(metrics);
        }
    }

    fn log(&self) {
        let Check { target, mode, verdict, duration_seconds: seconds, .. } = self.check;
        let outcome = verdict.name();
        match (verdict, self.changed) {
            (_, false) => tracing::debug!(target, mode, outcome, seconds, "checked"),
            (Verdict::Healthy, true) => tracing::info!(target, mode, outcome, seconds, "healthy"),
            (Verdict::Unhealthy(findings), true) => {
                for finding in findings {
                    let (kind, layer, detail) =
                        (finding.kind.as_str(), finding.layer.as_str(), finding.detail.as_str());
                    tracing::warn!(target, mode, outcome, seconds, kind, layer, detail, "found");
                }
            }
            (Verdict::Unknown(reason), true) => tracing::warn!(target, mode, outcome, seconds, reason, "cannot tell"),
        }
    }

    pub(super) fn count(&self, metrics: &Metrics) {
        let Check { target, mode, verdict, checked_at, .. } = self.check;
        let both = [target.as_str(), mode];
        metrics.checks.with_label_values(&[target.as_str(), mode, verdict.name()]).inc();
        metrics.last_check.with_label_values(&both).set(epoch_seconds(*checked_at));
        let failures = i64::try_from(self.consecutive_failures).unwrap_or(i64::MAX);
        metrics.consecutive_failures.with_label_values(&both).set(failures);
        match verdict {
            Verdict::Healthy if self.unproven => {}
            Verdict::Healthy => metrics.target_up.with_label_values(&both).set(1.0),
            Verdict::Unhealthy(_) => metrics.target_up.with_label_values(&both).set(0.0),
            // Not being able to tell is not a recovery: the last thing that was known stays.
            Verdict::Unknown(_) => {}
        }
        for layer in self.check.layers.iter().filter(|layer| layer.verdict != LayerVerdict::Skipped) {
            metrics.check_duration.with_label_values(&[mode, layer.layer.as_str()]).observe(layer.seconds);
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::model::{Finding, Kind, Layer, Severity};

    fn check(verdict: Verdict) -> Check {
        Check {
            target: "app".to_owned(),
            mode: "database",
            verdict,
            checked_at: Timestamp::from_millisecond(1_700_000_000_500).unwrap(),
            duration_seconds: 0.1,
            layers: Vec::new(),
            in_use: None,
        }
    }

    #[test]
    fn an_unknown_verdict_is_not_taken_for_a_recovery() {
        let metrics = Metrics::new("0", "0", "0").unwrap();
        let finding = Finding {
            kind: Kind::new("db_file_missing"),
            severity: Severity::Critical,
            layer: Layer::new("exists"),
            detail: String::new(),
            sqlite_code: None,
            at_stake: None,
            remediation: String::new(),
        };
        let up = || metrics.target_up.with_label_values(&["app", "database"]).get();
        for (verdict, unproven, expected) in [
            (Verdict::Healthy, false, 1.0),
            (Verdict::Unhealthy(vec![finding]), false, 0.0),
            (Verdict::Unknown("not mounted".to_owned()), false, 0.0),
            (Verdict::Healthy, true, 0.0),
        ] {
            CheckDone { check: &check(verdict), consecutive_failures: 3, changed: true, unproven }.count(&metrics);
            assert!((up() - expected).abs() < f64::EPSILON);
        }
        assert_eq!(metrics.checks.with_label_values(&["app", "database", "unknown"]).get(), 1);
        let last = metrics.last_check.with_label_values(&["app", "database"]).get();
        assert!((last - 1_700_000_000.5).abs() < 1e-3, "{last}");
    }
}
