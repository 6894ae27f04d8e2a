//! The documents of INTERFACE.md: which keys they have, and how times are written. Further keys are welcome.

use serde_json::Value;

pub const LAYERS: [&str; 7] = ["exists", "readable", "open", "integrity", "query", "wal", "locks"];

const KINDS: [&str; 21] = [
    "db_file_missing",
    "db_file_unlinked",
    "db_not_file",
    "db_access_denied",
    "db_not_a_database",
    "db_truncated",
    "db_corrupted",
    "db_integrity_failed",
    "db_index_corrupted",
    "db_schema_corrupted",
    "db_locked",
    "db_connection_failed",
    "db_query_failed",
    "db_write_failed",
    "db_io_error",
    "db_disk_full",
    "wal_file_too_large",
    "wal_checkpoint_starved",
    "wal_corrupted",
    "stale_lock_file",
    "stale_journal",
];

/// RFC 3339 with milliseconds, in UTC.
pub fn time(value: &Value) -> &str {
    let text = value.as_str().unwrap_or_else(|| panic!("no time: {value}"));
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(shape, "0000-00-00T00:00:00.000Z", "{text}");
    text
}

pub fn seconds(value: &Value) -> f64 {
    let seconds = value.as_f64().unwrap_or_else(|| panic!("no number of seconds: {value}"));
    assert!((0.0..3600.0).contains(&seconds), "{seconds}");
    seconds
}

fn one_of(value: &Value, words: &[&str]) {
    assert!(value.as_str().is_some_and(|word| words.contains(&word)), "{value} is none of {words:?}");
}

fn text(value: &Value) {
    assert!(value.as_str().is_some_and(|text| !text.is_empty()), "no text: {value}");
}

pub fn check(check: &Value) {
    text(&check["target"]);
    assert_eq!(check["mode"], "database");
    one_of(&check["verdict"], &["healthy", "unhealthy", "unknown"]);
    time(&check["checked_at"]);
    seconds(&check["duration_seconds"]);
    let findings = check["findings"].as_array().unwrap();
    assert_eq!(check["verdict"] == "unhealthy", !findings.is_empty(), "{check:#}");
    findings.iter().for_each(finding);
    let layers = check["layers"].as_array().unwrap();
    assert_eq!(layers.iter().map(|layer| layer["layer"].as_str().unwrap()).collect::<Vec<_>>(), LAYERS);
    for layer in layers {
        one_of(&layer["verdict"], &["ok", "failed", "skipped", "unknown"]);
        seconds(&layer["seconds"]);
    }
}

fn finding(finding: &Value) {
    one_of(&finding["kind"], &KINDS);
    one_of(&finding["severity"], &["critical", "high", "medium", "low"]);
    one_of(&finding["layer"], &LAYERS);
    text(&finding["detail"]);
    text(&finding["remediation"]);
    assert!(matches!(&finding["sqlite_code"], Value::Null | Value::Number(_)), "{finding:#}");
}

/// An incident that was opened and closed by a heal.
pub fn healed_incident(incident: &Value) {
    text(&incident["id"]);
    text(&incident["target"]);
    assert_eq!(incident["mode"], "database");
    one_of(&incident["kind"], &KINDS);
    assert_eq!(incident["state"], "closed");
    assert_eq!(incident["outcome"], "healed");
    assert!(time(&incident["opened_at"]) <= time(&incident["closed_at"]));
    let (mttr, heal) = (seconds(&incident["mttr_seconds"]), seconds(&incident["heal_seconds"]));
    assert!(heal <= mttr, "the heal is a part of the recovery: {incident:#}");
    text(&incident["playbook"]);
    let steps = incident["steps"].as_array().unwrap();
    assert!(!steps.is_empty(), "{incident:#}");
    for step in steps {
        text(&step["step"]);
        one_of(&step["outcome"], &["ok", "failed", "skipped", "undone"]);
        seconds(&step["seconds"]);
        assert!(step["detail"].is_string(), "{step:#}");
    }
}

/// What a lossy heal says of what it kept and lost.
pub fn loss(loss: &Value) {
    text(&loss["source"]);
    for count in [&loss["rows_kept"], &loss["rows_lost"]] {
        assert!(count.is_u64() || count.is_null(), "{loss:#}");
    }
    for table in loss["tables"].as_array().unwrap() {
        text(&table["table"]);
        assert!(table["rows_kept"].is_u64(), "{table:#}");
        assert!(table["rows_lost"].is_u64() || table["rows_lost"].is_null(), "{table:#}");
    }
}
