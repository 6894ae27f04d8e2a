//! /metrics: every promised name with its type and labels is there from the first scrape, at zero.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::support::http;
use crate::support::scene::Scene;

/// Name, type, labels: the table of INTERFACE.md, as far as a database target feeds it.
const PROMISED: [(&str, &str, &[&str]); 30] = [
    ("guardian_build_info", "gauge", &["version", "revision", "sqlite"]),
    ("guardian_target_up", "gauge", &["target", "mode"]),
    ("guardian_checks_total", "counter", &["target", "mode", "verdict"]),
    ("guardian_check_duration_seconds", "histogram", &["mode", "layer"]),
    ("guardian_last_check_timestamp_seconds", "gauge", &["target", "mode"]),
    ("guardian_consecutive_failures", "gauge", &["target", "mode"]),
    ("guardian_detection_seconds", "histogram", &["mode"]),
    ("guardian_incidents_total", "counter", &["target", "mode"]),
    ("guardian_incidents_by_kind_total", "counter", &["mode", "kind"]),
    ("guardian_incidents_escalated_total", "counter", &["target", "mode"]),
    ("guardian_incidents_open", "gauge", &["target", "mode"]),
    ("guardian_incidents_closed_total", "counter", &["target", "mode", "outcome"]),
    ("guardian_recovery_seconds", "histogram", &["mode", "kind"]),
    ("guardian_target_recovery_seconds", "summary", &["target", "mode"]),
    ("guardian_heals_deferred_total", "counter", &["target", "mode", "reason"]),
    ("guardian_rows_lost_total", "counter", &["target"]),
    ("guardian_rows_salvaged_total", "counter", &["target"]),
    ("guardian_database_size_bytes", "gauge", &["target"]),
    ("guardian_database_wal_bytes", "gauge", &["target"]),
    ("guardian_backup_last_success_timestamp_seconds", "gauge", &["target"]),
    ("guardian_backup_last_verified_timestamp_seconds", "gauge", &["target"]),
    ("guardian_backup_size_bytes", "gauge", &["target"]),
    ("guardian_backups_total", "counter", &["target", "outcome"]),
    ("guardian_worker_restarts_total", "counter", &["reason"]),
    ("process_cpu_seconds_total", "counter", &[]),
    ("process_open_fds", "gauge", &[]),
    ("process_max_fds", "gauge", &[]),
    ("process_virtual_memory_bytes", "gauge", &[]),
    ("process_resident_memory_bytes", "gauge", &[]),
    ("process_start_time_seconds", "gauge", &[]),
];

/// Fed by the first heal: there is no list of playbooks and steps to begin with.
const AFTER_A_HEAL: [(&str, &str, &[&str]); 2] = [
    ("guardian_playbook_runs_total", "counter", &["mode", "playbook", "outcome"]),
    ("guardian_playbook_step_duration_seconds", "histogram", &["mode", "step", "outcome"]),
];

struct Series<'a> {
    name: &'a str,
    labels: BTreeMap<&'a str, &'a str>,
    value: f64,
}

fn series(page: &str) -> impl Iterator<Item = Series<'_>> {
    page.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(|line| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.strip_suffix('}').unwrap();
        let label = |pair: &'_ str| -> (usize, usize) { (pair.find("=\"").unwrap(), pair.len() - 1) };
        // Names of targets in these tests have neither commas nor quotes.
        let labels = labels.split(',').filter(|pair| !pair.is_empty()).map(|pair| {
            let (at, end) = label(pair);
            (&pair[..at], &pair[at + 2..end])
        });
        Series { name, labels: labels.collect(), value: value.parse().unwrap() }
    })
}

fn assert_promised(page: &str, promised: &[(&str, &str, &[&str])]) {
    for (name, kind, labels) in promised {
        assert!(page.contains(&format!("# TYPE {name} {kind}\n")), "{name} is no {kind}:\n{page}");
        assert!(page.contains(&format!("# HELP {name} ")), "{name} is not explained");
        let mut of_name = 0;
        for series in series(page) {
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| series.name.strip_suffix(suffix));
            if series.name != *name && base != Some(*name) {
                continue;
            }
            of_name += 1;
            let found: BTreeSet<&str> = series.labels.keys().copied().filter(|label| *label != "le").collect();
            assert_eq!(found, labels.iter().copied().collect(), "{name}");
        }
        assert!(of_name > 0, "{name} has no series in\n{page}");
    }
}

fn promtool(page: &str) {
    let spawned = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = spawned else { return println!("skipped: needs promtool") };
    promtool.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}

#[test]
fn every_series_of_a_target_is_there_from_the_first_scrape_at_zero() {
    let mut scene = Scene::new();
    // Its first look does not end soon: the first scrape comes before it.
    scene.database("app", "data/app.db", crate::ENDLESS_CANARY);
    scene.database("other", "data/other.db", "");
    scene.commit("wal", 5, &[]);
    let mut daemon = scene.launch(&[]);
    let (status, page) = daemon.wait_for("the first scrape", |daemon| http::get(daemon.address(), "/metrics").ok());
    assert_eq!(status, 200);
    assert_promised(&page, &PROMISED);
    let per_target = ["guardian_backup_", "guardian_database_", "guardian_rows_"];
    for target in ["app", "other"] {
        for (name, _, labels) in PROMISED.iter().filter(|(_, _, labels)| labels.contains(&"target")) {
            let there = series(&page).any(|series| {
                series.name.starts_with(name)
                    && series.labels["target"] == target
                    && (!labels.contains(&"mode") || series.labels["mode"] == "database")
            });
            assert!(there, "{name} of {target} is missing:\n{page}");
        }
    }
    for series in
        series(&page).filter(|series| series.name.starts_with("guardian_") && series.labels.contains_key("target"))
    {
        let expected_nan = series.name == "guardian_target_up";
        let measured = per_target.iter().any(|start| series.name.starts_with(start));
        assert!(
            (expected_nan && series.value.is_nan()) || series.value == 0.0 || (measured && series.value > 0.0),
            "{} {:?} is {} before the first look",
            series.name,
            series.labels,
            series.value
        );
    }
    assert!(!page.contains("/data/"), "a path became a label");
    promtool(&page);
}

#[test]
fn a_heal_is_counted_once_and_everywhere() {
    let scene = Scene::of("backup = { every = \"1h\" }");
    scene.commit("wal", 5, &[]);
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    assert_eq!(daemon.metric("guardian_target_up{mode=\"database\",target=\"app\"}"), 1.0);
    std::fs::remove_file(scene.db()).unwrap();
    let incident = daemon.closed("app", 1);
    // A look is counted a moment after it is told: the one before the last has been.
    daemon.caught_up("app");
    let page = daemon.metrics();
    assert_promised(&page, &PROMISED);
    assert_promised(&page, &AFTER_A_HEAL);
    for (name, expected) in [
        ("guardian_incidents_total{mode=\"database\",target=\"app\"}", 1.0),
        ("guardian_incidents_by_kind_total{kind=\"db_file_missing\",mode=\"database\"}", 1.0),
        ("guardian_incidents_open{mode=\"database\",target=\"app\"}", 0.0),
        ("guardian_incidents_closed_total{mode=\"database\",outcome=\"healed\",target=\"app\"}", 1.0),
        ("guardian_recovery_seconds_count{kind=\"db_file_missing\",mode=\"database\"}", 1.0),
        ("guardian_target_recovery_seconds_count{mode=\"database\",target=\"app\"}", 1.0),
        ("guardian_playbook_runs_total{mode=\"database\",outcome=\"ok\",playbook=\"restore_backup\"}", 1.0),
        ("guardian_target_up{mode=\"database\",target=\"app\"}", 1.0),
        ("guardian_consecutive_failures{mode=\"database\",target=\"app\"}", 0.0),
    ] {
        assert_eq!(daemon.metric(name), expected, "{name}");
    }
    let sum = daemon.metric("guardian_target_recovery_seconds_sum{mode=\"database\",target=\"app\"}");
    assert!((sum - incident["mttr_seconds"].as_f64().unwrap()).abs() < 0.002, "{sum} and {incident:#}");
    promtool(&page);
}
