//! How systemd sees it start, reload and report.

use std::fs;

use super::guest::{BACKUP, CONFIG, database, run};
use super::machine::on_the_machine;

#[test]
fn it_is_active_once_it_is_ready_and_not_before() {
    on_the_machine("starts::it_is_active_once_it_is_ready_and_not_before", |guest| {
        run("mkfifo", &["/run/gate"]);
        guest.drop_in(&format!(
            "[Service]\nExecStart=\nExecStart=/bin/sh -c 'read -r _ </run/gate; exec /usr/bin/guardiand run --config {CONFIG}'"
        ));
        guest.done(&["start", "app"]);
        guest.done(&["start", "--no-block", "guardiand"]);
        guest.wait_for("it to be started", || (guest.property("MainPID") != "0").then_some(()));
        assert_eq!(guest.property("ActiveState"), "activating", "{}", guest.log());
        fs::write("/run/gate", "go\n").unwrap();
        guest.wait_for("it to be active", || (guest.property("ActiveState") == "active").then_some(()));
        // No waiting here: active says that it answers.
        assert!(guest.get("/api/v1/status").is_some(), "{}", guest.log());
    });
}

#[test]
fn its_status_says_how_the_targets_are() {
    on_the_machine("starts::its_status_says_how_the_targets_are", |guest| {
        guest.start();
        guest.healthy("app");
        guest.wait_for("the status line", || {
            let status = guest.systemctl(&["status", "--no-pager", "guardiand"]).stdout;
            status.contains("Status: \"1 of 1 targets healthy\"").then_some(())
        });
    });
}

#[test]
fn a_reload_takes_up_a_good_configuration_and_refuses_a_bad_one() {
    on_the_machine("starts::a_reload_takes_up_a_good_configuration_and_refuses_a_bad_one", |guest| {
        guest.start();
        let pid = guest.pid();
        let app = database("app", "/srv/app/app.db", BACKUP);
        run("writer", &["/srv/app/more.db", "wal", "3", "/srv/app/more.log"]);
        guest.configure(&format!("{app}{}", database("more", "/srv/app/more.db", BACKUP)));
        guest.done(&["reload", "guardiand"]);
        guest.healthy("more");
        for signal in [false, true] {
            guest.configure(&format!("{app}{}", database("app", "/srv/app/other.db", "interval = \"soon\"")));
            match signal {
                true => drop(guest.done(&["kill", "--kill-who=main", "--signal=HUP", "guardiand"])),
                false => {
                    let reload = guest.systemctl(&["reload", "guardiand"]);
                    assert_ne!(reload.status, 0, "a person must be told: {reload:#?}");
                }
            }
            let priority = if signal { "--priority=err" } else { "--priority=info" };
            let refused = || {
                let said = guest.journal(&["--unit=guardiand", "--since=-10s", priority]);
                said.iter().any(|entry| entry.to_string().contains("soon")).then_some(())
            };
            guest.wait_for("the mistake in the journal", refused);
            guest.wait_for("the reload's end", || (guest.property("ActiveState") == "active").then_some(()));
            assert_eq!(guest.pid(), pid);
            guest.healthy("more");
        }
    });
}
