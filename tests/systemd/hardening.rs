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
        run("writer", &["/elsewhere/app.db", "delete", "3", "/srv/app/elsewhere.log"]);
        guest.configure(&database("app", "/elsewhere/app.db", BACKUP));
        guest.done(&["start", "guardiand"]);
        guest.backed_up("app");
        println!("{:#}", guest.target("app").unwrap());
        fs::remove_file("/elsewhere/app.db").unwrap();
        let incident = guest.incident("escalated", |incident| incident["state"] == "escalated");
        println!("{incident:#}");
        // The drop-in that the unit speaks of.
        guest.done(&["stop", "guardiand"]);
        guest.drop_in("[Service]\nReadWritePaths=/elsewhere\n");
        guest.done(&["start", "guardiand"]);
        println!("{:#}", guest.healed());
    });
}
