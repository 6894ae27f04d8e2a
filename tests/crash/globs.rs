//! A glob's matches are known again after a kill, also the one that is missing just then.

use std::fs;

use super::support::command::guardiand;
use super::support::scene::Scene;

const BACKUP: &str = "backup = { every = \"24h\", to = \"backups\" }";
const APPENDS_MAX: u32 = 60;

/// Two tenants, backed up, and no daemon; one of them is gone.
fn deleted() -> Scene {
    let mut scene = Scene::new();
    scene.database("tenants", "data/*.db", BACKUP);
    for name in ["app", "other"] {
        assert!(scene.writer_of(&scene.path(&format!("data/{name}.db")), "wal", "20", &[]).finish().success());
    }
    let mut daemon = scene.daemon();
    for name in ["tenants/app", "tenants/other"] {
        daemon.backed_up(name);
        daemon.healthy(name);
    }
    assert!(daemon.stop().success());
    fs::remove_file(scene.db()).unwrap();
    scene
}

#[test]
fn a_match_that_is_missing_is_healed_whenever_guardiand_is_killed_meanwhile() {
    for append in 1..=APPENDS_MAX {
        let scene = deleted();
        let mut daemon = scene.launch(&[("GUARDIAND_KILL_AFTER_APPEND", &append.to_string())]);
        let killed = daemon.wait_for_end_or("the kill, or the incident's end", &mut |daemon| {
            if daemon.ended().is_some() {
                return Some(true);
            }
            let incidents = daemon.try_get("/api/v1/incidents?target=tenants/app")?["incidents"].clone();
            (incidents[0]["state"] == "closed").then_some(false)
        });
        let mut next = if killed { scene.daemon() } else { daemon };
        let incident = next.closed("tenants/app", 1);
        assert_eq!(incident["outcome"], "healed", "killed after {append}: {incident:#}");
        next.healthy("tenants/app");
        assert_eq!(next.incidents("tenants/app").len(), 1, "killed after {append}");
        assert_eq!(next.get("/api/v1/status")["totals"]["targets"], 2);
        assert_eq!(scene.lost(), 0);
        scene.assert_whole("wal");
        assert!(!next.log().contains("no longer configured"), "killed after {append}");
        if !killed {
            assert!(append > 6, "the failpoint has no effect: is this a release build?");
            return;
        }
    }
    panic!("more than {APPENDS_MAX} appends: the heal turns in circles");
}

#[test]
fn an_interrupted_heal_of_a_match_is_finished_by_the_command_too() {
    for append in [4, 6] {
        let scene = deleted();
        let daemon = scene.launch(&[("GUARDIAND_KILL_AFTER_APPEND", &append.to_string())]);
        daemon.wait();
        let ran = guardiand(&scene.path(""), &["--config", "guardian.toml", "--json", "heal", "--interrupted"]);
        assert_eq!(ran.status, 0, "killed after {append}: {ran:#?}");
        assert_eq!(scene.lost(), 0, "killed after {append}");
        scene.assert_whole("wal");
    }
}
