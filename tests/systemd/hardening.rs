//! The unit's walls: high enough, and no higher.

use std::fs;

use super::guest::{BACKUP, database, run};
use super::machine::on_the_machine;

/// Of ten; `systemd-analyze security` calls up to 4.9 "OK".
const EXPOSURE_MAX: f64 = 3.0;

#[test]
fn little_is_exposed() {
    on_the_machine("hardening::little_is_exposed", |_guest| {
        let unit = "/etc/systemd/system/guardiand.service";
        let ran = run("systemd-analyze", &["security", "--no-pager", "--offline=true", unit]);
        let level =
            ran.stdout.lines().find_map(|line| line.split_once("Overall exposure level for guardiand.service: "));
        let level: f64 =
            level.and_then(|(_, rest)| rest.split(' ').next()?.parse().ok()).unwrap_or_else(|| panic!("{ran:#?}"));
        println!("exposure: {level}");
        assert!(level <= EXPOSURE_MAX, "{}", ran.stdout);
    });
}

#[test]
fn a_database_behind_the_walls_is_seen_and_left_alone() {
    on_the_machine("hardening::a_database_behind_the_walls_is_seen_and_left_alone", |guest| {
        fs::create_dir_all("/elsewhere").unwrap();
        for mode in ["wal", "delete"] {
            let path = format!("/elsewhere/{mode}.db");
            run("writer", &[&path, mode, "3", "/srv/app/elsewhere.log"]);
        }
        guest.configure(
            &["wal", "delete"].map(|mode| database(mode, &format!("/elsewhere/{mode}.db"), BACKUP)).concat(),
        );
        guest.done(&["start", "guardiand"]);
        for mode in ["wal", "delete"] {
            // Nothing is wrong with it: it is guardiand that could not heal it, and says what to do about that.
            guest.wait_for("its state to be unknown", || (guest.target(mode)?["state"] == "unknown").then_some(()));
        }
        let said = guest.journal(&["--unit=guardiand", "MESSAGE=cannot tell"]);
        assert!(said.iter().any(|entry| entry.to_string().contains("ReadWritePaths=")), "{}", guest.log());
        let incidents = guest.get("/api/v1/incidents").unwrap();
        assert_eq!(incidents["incidents"].as_array().unwrap().len(), 0, "{incidents:#}");
        guest.drop_in("[Service]\nReadWritePaths=/elsewhere\n");
        guest.done(&["restart", "guardiand"]);
        guest.healthy("wal");
        guest.healthy("delete");
    });
}
