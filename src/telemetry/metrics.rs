//! The metrics: each is named, described and registered here and nowhere else.

use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder,
};

use super::recovery::TargetRecovery;
use super::{ProcessSample, TelemetryError, buckets, process};

/// Every metric of the process. Labels are bounded: a target is a configured name, never a path.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    pub(super) target_up: GaugeVec,
    pub(super) checks: IntCounterVec,
    pub(super) check_duration: HistogramVec,
    pub(super) last_check: GaugeVec,
    pub(super) consecutive_failures: IntGaugeVec,
    pub(super) detection: HistogramVec,
    pub(super) incidents: IntCounterVec,
    pub(super) incidents_by_kind: IntCounterVec,
    pub(super) incidents_escalated: IntCounterVec,
    pub(super) incidents_open: IntGaugeVec,
    pub(super) incidents_closed: IntCounterVec,
    pub(super) recovery: HistogramVec,
    pub(super) target_recovery: TargetRecovery,
    pub(super) playbook_runs: IntCounterVec,
    pub(super) step_duration: HistogramVec,
    pub(super) heals_deferred: IntCounterVec,
    pub(super) rows_lost: IntCounterVec,
    pub(super) rows_salvaged: IntCounterVec,
    pub(super) database_size: GaugeVec,
    pub(super) database_wal: GaugeVec,
    pub(super) backup_last_success: GaugeVec,
    pub(super) backup_last_verified: GaugeVec,
    pub(super) backup_size: GaugeVec,
    pub(super) backups: IntCounterVec,
    pub(super) worker_restarts: IntCounterVec,
    pub(super) notifications: IntCounterVec,
}

/// The labels of what is counted per (target, mode).
const TARGET_MODE: &[&str] = &["target", "mode"];

/// Registers as it creates, so that no metric can be created and forgotten.
struct Define<'a>(&'a Registry);

impl Define<'_> {
    fn add<C: Collector + Clone + 'static>(&self, metric: C) -> prometheus::Result<C> {
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counter(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    fn gauge(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<GaugeVec> {
        self.add(GaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn count_gauge(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn histogram(&self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> prometheus::Result<HistogramVec> {
        self.add(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels)?)
    }
}

impl Metrics {
    /// Defines and registers all metrics.
    ///
    /// # Errors
    /// When a definition is impossible: a bug, caught by the tests.
    pub fn new(version: &str, revision: &str, sqlite: &str) -> prometheus::Result<Metrics> {
        let registry = Registry::new();
        let define = Define(&registry);
        let build = Opts::new("guardian_build_info", "Constant 1; the labels say what is running.")
            .const_label("version", version)
            .const_label("revision", revision)
            .const_label("sqlite", sqlite);
        define.add(Gauge::with_opts(build)?)?.set(1.0);

        Ok(Metrics {
            target_up: define.gauge(
                "guardian_target_up",
                "1 when the last verdict was healthy, 0 when unhealthy, NaN until known.",
                TARGET_MODE,
            )?,
            checks: define.counter("guardian_checks_total", "Checks that ended.", &["target", "mode", "verdict"])?,
            check_duration: define.histogram(
                "guardian_check_duration_seconds",
                "Time spent looking at one layer of a target.",
                &["mode", "layer"],
                buckets::CHECK,
            )?,
            last_check: define.gauge(
                "guardian_last_check_timestamp_seconds",
                "When the last check ended; 0 before the first.",
                TARGET_MODE,
            )?,
            consecutive_failures: define.count_gauge(
                "guardian_consecutive_failures",
                "Unhealthy checks since the last healthy one.",
                TARGET_MODE,
            )?,
            detection: define.histogram(
                "guardian_detection_seconds",
                "From the fault to its detection, where the fault's time is known.",
                &["mode"],
                buckets::DETECTION,
            )?,
            incidents: define.counter("guardian_incidents_total", "Incidents opened.", TARGET_MODE)?,
            incidents_by_kind: define.counter(
                "guardian_incidents_by_kind_total",
                "Incidents opened, by what failed.",
                &["mode", "kind"],
            )?,
            incidents_escalated: define.counter(
                "guardian_incidents_escalated_total",
                "Incidents that need a person.",
                TARGET_MODE,
            )?,
            incidents_open: define.count_gauge(
                "guardian_incidents_open",
                "1 while an incident is open, escalated ones included.",
                TARGET_MODE,
            )?,
            incidents_closed: define.counter(
                "guardian_incidents_closed_total",
                "Incidents closed, by how they ended.",
                &["target", "mode", "outcome"],
            )?,
            recovery: define.histogram(
                "guardian_recovery_seconds",
                "From the first unhealthy look to proven health, healed incidents only; sum/count is the MTTR.",
                &["mode", "kind"],
                buckets::RECOVERY,
            )?,
            target_recovery: define.add(TargetRecovery::new()?)?,
            playbook_runs: define.counter(
                "guardian_playbook_runs_total",
                "Playbooks that ended.",
                &["mode", "playbook", "outcome"],
            )?,
            step_duration: define.histogram(
                "guardian_playbook_step_duration_seconds",
                "Time that one step of a playbook took.",
                &["mode", "step", "outcome"],
                buckets::STEP,
            )?,
            heals_deferred: define.counter(
                "guardian_heals_deferred_total",
                "Heals that a gate held back.",
                &["target", "mode", "reason"],
            )?,
            rows_lost: define.counter(
                "guardian_rows_lost_total",
                "Rows that heals are known to have lost; what cannot be counted is not in here.",
                &["target"],
            )?,
            rows_salvaged: define.counter(
                "guardian_rows_salvaged_total",
                "Rows that were rescued from damaged databases.",
                &["target"],
            )?,
            database_size: define.gauge("guardian_database_size_bytes", "Size of the main file.", &["target"])?,
            database_wal: define.gauge("guardian_database_wal_bytes", "Size of the WAL file.", &["target"])?,
            backup_last_success: define.gauge(
                "guardian_backup_last_success_timestamp_seconds",
                "When the newest good backup was taken; 0 when there is none.",
                &["target"],
            )?,
            backup_last_verified: define.gauge(
                "guardian_backup_last_verified_timestamp_seconds",
                "When the newest backup last passed its full check; 0 when none has.",
                &["target"],
            )?,
            backup_size: define.gauge("guardian_backup_size_bytes", "Size of the newest backup.", &["target"])?,
            backups: define.counter("guardian_backups_total", "Backups that were tried.", &["target", "outcome"])?,
            worker_restarts: define.counter(
                "guardian_worker_restarts_total",
                "Worker children that were ended or died before their work was done.",
                &["reason"],
            )?,
            notifications: define.counter(
                "guardian_notifications_total",
                "Attempts to tell people, and notices that were given up.",
                &["channel", "outcome"],
            )?,
            registry,
        })
    }

    /// All metrics as text, with the process's own figures at the end.
    ///
    /// # Errors
    /// When a family cannot be written: a bug, caught by the tests.
    pub fn render(&self, sample: &ProcessSample) -> Result<String, TelemetryError> {
        let families = self.registry.gather();
        let mut text = Vec::with_capacity(64 * 1024);
        TextEncoder::new().encode(&families, &mut text).map_err(TelemetryError::Render)?;
        let mut text = String::from_utf8_lossy(&text).into_owned();
        process::append(&mut text, sample);
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::telemetry::targets;

    fn sample() -> ProcessSample {
        ProcessSample {
            cpu_seconds: 1.5,
            open_fds: 12,
            max_fds: 1024,
            virtual_bytes: 1 << 30,
            virtual_max_bytes: u64::MAX,
            resident_bytes: 1 << 24,
            start_time_seconds: 1.7e9,
        }
    }

    fn touched() -> Metrics {
        let metrics = Metrics::new("0.1.0", "abc", "3.54.1").unwrap();
        targets::register_mode_in(&metrics, "database", &["exists", "wal"], &["db_file_missing"]);
        targets::register_target_in(&metrics, "app", "database");
        metrics.playbook_runs.with_label_values(&["database", "restore_backup", "ok"]).inc();
        metrics.step_duration.with_label_values(&["database", "preserve", "ok"]).observe(0.01);
        metrics
    }

    #[test]
    fn every_promised_metric_is_in_the_first_scrape() {
        let text = touched().render(&sample()).unwrap();
        for name in [
            "guardian_build_info",
            "guardian_target_up",
            "guardian_checks_total",
            "guardian_check_duration_seconds_bucket",
            "guardian_last_check_timestamp_seconds",
            "guardian_consecutive_failures",
            "guardian_detection_seconds_bucket",
            "guardian_incidents_total",
            "guardian_incidents_by_kind_total",
            "guardian_incidents_escalated_total",
            "guardian_incidents_open",
            "guardian_incidents_closed_total",
            "guardian_recovery_seconds_bucket",
            "guardian_target_recovery_seconds_sum",
            "guardian_target_recovery_seconds_count",
            "guardian_playbook_runs_total",
            "guardian_playbook_step_duration_seconds_bucket",
            "guardian_heals_deferred_total",
            "guardian_rows_lost_total",
            "guardian_rows_salvaged_total",
            "guardian_database_size_bytes",
            "guardian_database_wal_bytes",
            "guardian_backup_last_success_timestamp_seconds",
            "guardian_backup_last_verified_timestamp_seconds",
            "guardian_backup_size_bytes",
            "guardian_backups_total",
            "guardian_worker_restarts_total",
            "guardian_notifications_total",
            "process_cpu_seconds_total",
            "process_open_fds",
            "process_max_fds",
            "process_virtual_memory_bytes",
            "process_virtual_memory_max_bytes",
            "process_resident_memory_bytes",
            "process_start_time_seconds",
        ] {
            assert!(
                text.lines()
                    .any(|line| line.starts_with(&format!("{name}{{")) || line.starts_with(&format!("{name} "))),
                "{name} is not in the scrape:\n{text}"
            );
        }
        assert!(text.contains("guardian_target_up{mode=\"database\",target=\"app\"} NaN\n"), "{text}");
        assert!(
            text.contains("guardian_build_info{revision=\"abc\",sqlite=\"3.54.1\",version=\"0.1.0\"} 1\n"),
            "{text}"
        );
    }

    #[test]
    fn a_thousand_targets_scrape_in_three_megabytes() {
        let metrics = touched();
        for n in 0..1000 {
            targets::register_target_in(&metrics, &format!("tenants/customer-{n:04}"), "database");
        }
        let text = metrics.render(&sample()).unwrap();
        assert!(text.len() <= 3_000_000, "{} bytes", text.len());
    }

    #[test]
    fn promtool_finds_nothing_to_complain_about() {
        let Ok(mut promtool) = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
        else {
            return; // `.ci/run` installs it; elsewhere the other tests must do.
        };
        let text = touched().render(&sample()).unwrap();
        promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = promtool.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.trim().is_empty(), "{said}\n{text}");
    }
}
