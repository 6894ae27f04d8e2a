//! The unit's walls: high enough, and no higher.

use super::guest::run;
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
