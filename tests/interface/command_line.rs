//! Exit statuses and documents of the commands, on files that are there or not.

use serde_json::Value;

use crate::support::scene::Scene;
use crate::{guardiand, stderr, stdout};

#[test]
fn wrong_usage_is_2_and_help_is_0() {
    for (arguments, status) in [
        (vec!["--help"], 0),
        (vec!["--version"], 0),
        (vec!["check", "--help"], 0),
        (vec!["dance"], 2),
        (vec!["heal"], 2),
        (vec!["restore", "--to", "x"], 2),
        (vec!["check", "--colour"], 2),
        (vec!["check", "nobody"], 2),
        (vec!["heal", "./a.db"], 2),
    ] {
        let output = guardiand(&arguments);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {said}");
        assert!(!said.contains("panicked"), "{arguments:?}: {said}");
        assert!(!said.is_empty() || !stdout(&output).is_empty(), "{arguments:?} said nothing");
    }
}

#[test]
fn without_a_configuration_there_is_nothing_to_run() {
    // Where guardiand is installed, its own configuration would be found, and be right.
    if std::path::Path::new("/etc/guardiand/guardian.toml").exists() {
        return;
    }
    for arguments in [vec![], vec!["run"], vec!["check"]] {
        let output = guardiand(&arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains("there is no configuration"), "{}", stderr(&output));
    }
}

#[test]
fn commands_to_a_daemon_that_is_not_there_are_1_and_say_where_they_asked() {
    for arguments in [vec!["status"], vec!["incidents"], vec!["incident", "x"], vec!["reload"]] {
        let mut arguments = arguments.clone();
        arguments.extend(["--socket", "/nowhere/control.sock", "--json"]);
        let output = guardiand(&arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(stderr(&output).contains("/nowhere/control.sock"), "{}", stderr(&output));
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(document["exit"], 1);
    }
}

#[test]
fn where_nothing_was_ever_kept_there_is_no_incident_and_none_is_made() {
    let folder = tempfile::tempdir().unwrap();
    for command in ["approve", "rollback"] {
        let ran = crate::support::command::guardiand(folder.path(), &[command, "x", "--state-dir", "state"]);
        assert_eq!(ran.status, 1, "{ran:?}");
        assert!(ran.stderr.contains("no incident x"), "{ran:?}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_healthy_database_is_0_and_left_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let database = rusqlite::Connection::open(&path).unwrap();
    database.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (1), (2);").unwrap();
    drop(database);
    let before = std::fs::read(&path).unwrap();
    let shown = path.display().to_string();

    let output = guardiand(&["check", "--json", &shown]);
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    let check: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(check["verdict"], "healthy");
    assert_eq!(check["mode"], "database");
    assert_eq!(check["findings"], Value::Array(Vec::new()));
    let layers: Vec<_> =
        check["layers"].as_array().unwrap().iter().map(|layer| layer["layer"].as_str().unwrap()).collect();
    assert_eq!(layers, ["exists", "readable", "open", "integrity", "query", "wal", "locks"]);

    assert_eq!(std::fs::read(&path).unwrap(), before);
    let left = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 1, "a side file was left behind");
}

#[test]
fn a_missing_database_is_1_and_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gone.db").display().to_string();
    let output = guardiand(&["check", "--json", &path]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let check: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(check["findings"][0]["kind"], "db_file_missing");
    assert_eq!(check["findings"][0]["severity"], "critical");
    assert!(!check["findings"][0]["remediation"].as_str().unwrap().is_empty());

    let table = guardiand(&["check", &path]);
    assert_eq!(table.status.code(), Some(1));
    assert!(stdout(&table).contains("db_file_missing"), "{}", stdout(&table));
}

#[test]
fn several_databases_are_a_list_and_the_worst_counts() {
    let folder = tempfile::tempdir().unwrap();
    let good = folder.path().join("good.db");
    let database = rusqlite::Connection::open(&good).unwrap();
    database.execute_batch("CREATE TABLE t (x)").unwrap();
    drop(database);
    let (good, gone) = (good.display().to_string(), folder.path().join("gone.db").display().to_string());
    let output = guardiand(&["check", "--json", &good, &gone]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let checks: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(checks.as_array().unwrap().len(), 2);
}

#[test]
fn a_closed_pipe_is_not_a_crash() {
    let output = std::process::Command::new("sh")
        .args(["-c", "\"$0\" config check --json \"$1\" | true; \"$0\" --help | true"])
        .args([env!("CARGO_BIN_EXE_guardiand"), concat!(env!("CARGO_MANIFEST_DIR"), "/config/guardian.toml")])
        .output()
        .unwrap();
    assert!(!stderr(&output).contains("panicked"), "{}", stderr(&output));
}

#[test]
fn an_answer_that_a_full_disk_took_is_no_success() {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let scene = Scene::of("");
    scene.commit("delete", 3, &[]);
    let answer = std::process::Command::new(env!("CARGO_BIN_EXE_guardiand"))
        .args(["check", "--json"])
        .arg(scene.db())
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(answer.status.code(), Some(1), "{answer:?}");
    assert!(String::from_utf8_lossy(&answer.stderr).contains("could not be written"), "{answer:?}");
}
