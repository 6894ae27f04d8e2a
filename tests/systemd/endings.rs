//! How it ends, and what systemd then does: the watchdog, SIGKILL and a stop in the middle of a heal, a bad configuration.

use std::fs;

use rustix::process::{Signal, kill_process};

use super::guest::{CONFIG, Guest, db};
use super::machine::on_the_machine;
use super::support::truth::Content;

#[test]
fn a_frozen_daemon_is_started_again_by_the_watchdog() {
    on_the_machine("endings::a_frozen_daemon_is_started_again_by_the_watchdog", |guest| {
        guest.drop_in("[Service]\nWatchdogSec=4s\n");
        guest.start();
        let frozen = guest.pid();
        // For longer than it may be silent: one that feeds the watchdog is not restarted.
        let since = std::time::Instant::now();
        guest.wait_for("six seconds", || (since.elapsed().as_secs() >= 6).then_some(()));
        assert_eq!(guest.property("NRestarts"), "0", "{}", guest.log());
        kill_process(frozen, Signal::STOP).unwrap();
        restarted(&guest, "1");
        assert_ne!(guest.pid(), frozen);
        guest.healthy("app");
        assert!(!guest.journal(&["--unit=guardiand", "--grep=atchdog timeout"]).is_empty(), "{}", guest.log());
    });
}

#[test]
fn killed_in_the_middle_of_a_heal_it_is_started_again_and_finishes() {
    on_the_machine("endings::killed_in_the_middle_of_a_heal_it_is_started_again_and_finishes", |guest| {
        // The fourth entry of the incident's log is in the middle of the playbook. The next process lives.
        fs::write("/run/failpoint", "GUARDIAND_KILL_AFTER_APPEND=4\n").unwrap();
        guest.drop_in("[Service]\nEnvironmentFile=-/run/failpoint\nExecStopPost=/bin/rm -f /run/failpoint\n");
        guest.start();
        guest.stop_the_program();
        fs::remove_file(db()).unwrap();
        restarted(&guest, "1");
        let incident = guest.healed();
        let id = format!("GUARDIAN_INCIDENT={}", incident["id"].as_str().unwrap());
        let resumed = guest.journal(&[&id, "MESSAGE=incident resumed after a restart"]);
        assert_eq!(resumed.len(), 1, "{incident:#}\n{}", guest.log());
        nothing_lost(&guest);
    });
}

#[test]
fn stopped_in_the_middle_of_a_heal_it_parks_and_finishes_after_the_next_start() {
    on_the_machine("endings::stopped_in_the_middle_of_a_heal_it_parks_and_finishes_after_the_next_start", |guest| {
        guest.start();
        guest.done(&["stop", "app"]);
        // Large enough that its heal takes longer than a stop does.
        let fill = "INSERT INTO rows(commit_id, text) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 8000)
                    SELECT 0, hex(randomblob(2000)) FROM n";
        rusqlite::Connection::open(db()).unwrap().execute_batch(fill).unwrap();
        guest.stop_the_program();
        fs::remove_file(db()).unwrap();
        let healing = guest.incident("healing", |incident| incident["state"] == "healing");
        guest.done(&["stop", "guardiand"]);
        assert_eq!(guest.property("Result"), "success", "{}", guest.log());
        assert_eq!(guest.property("ExecMainStatus"), "0", "{}", guest.log());
        let id = format!("GUARDIAN_INCIDENT={}", healing["id"].as_str().unwrap());
        let closed = guest.journal(&[&id, "MESSAGE=incident closed"]);
        assert!(closed.is_empty(), "it was not stopped in the middle: {closed:#?}");
        guest.done(&["start", "guardiand"]);
        assert_eq!(guest.healed()["id"], healing["id"]);
        nothing_lost(&guest);
    });
}

#[test]
fn a_bad_configuration_is_not_tried_again_and_again() {
    on_the_machine("endings::a_bad_configuration_is_not_tried_again_and_again", |guest| {
        fs::write(CONFIG, "[guardian]\ninterval = \"soon\"\n").unwrap();
        let start = guest.systemctl(&["start", "guardiand"]);
        assert_ne!(start.status, 0, "{start:#?}");
        // One that waits for its next try would be `activating`, in `auto-restart`.
        assert_eq!(guest.property("ActiveState"), "failed", "{}", guest.log());
        assert_eq!(guest.property("ExecMainStatus"), "78", "{}", guest.log());
        assert_eq!(guest.property("NRestarts"), "0", "{}", guest.log());
        let said = guest.journal(&["--unit=guardiand"]);
        assert!(said.iter().any(|entry| entry.to_string().contains("soon")), "{}", guest.log());
    });
}

fn restarted(guest: &Guest, times: &str) {
    guest.wait_for("systemd to start it again", || {
        (guest.property("NRestarts") == times && guest.property("ActiveState") == "active").then_some(())
    });
}

fn nothing_lost(guest: &Guest) {
    guest.healthy("app");
    guest.done(&["stop", "guardiand"]);
    assert!(guest.promised().is_subset(&Content::of(&db()).commits), "{}", guest.log());
}
