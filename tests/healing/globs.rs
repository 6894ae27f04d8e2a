//! A glob's matches outlive the process that found them.

use std::fs;

use super::support::command::{Ran, guardiand};
use super::support::daemon::Daemon;
use super::support::scene::Scene;
use super::support::truth::names;

const BACKUP: &str = "backup = { every = \"24h\", to = \"backups\" }";

/// Two tenants that were seen healthy, and backed up where `lines` say so; no daemon.
fn seen(lines: &str) -> Scene {
    let mut scene = Scene::new();
    scene.database("tenants", "data/*.db", lines);
    for name in ["app", "other"] {
        assert!(scene.writer_of(&scene.path(&format!("data/{name}.db")), "wal", "20", &[]).finish().success());
    }
    let mut daemon = scene.daemon();
    for name in ["tenants/app", "tenants/other"] {
        if lines.contains("backup") {
            daemon.backed_up(name);
        }
        daemon.healthy(name);
    }
    assert!(daemon.stop().success());
    scene
}

/// What was remembered is lost.
fn forget(scene: &Scene) {
    for name in names(&scene.path("state")).iter().filter(|name| name.starts_with("state.db")) {
        fs::remove_file(scene.path("state").join(name)).unwrap();
    }
}

fn asked(scene: &Scene, arguments: &[&str]) -> Ran {
    let mut all = vec!["--config", "guardian.toml", "--json"];
    all.extend(arguments);
    guardiand(&scene.path(""), &all)
}

fn assert_healed(scene: &Scene, daemon: &mut Daemon) {
    let incident = daemon.closed("tenants/app", 1);
    assert_eq!(incident["outcome"], "healed", "{incident:#}");
    daemon.healthy("tenants/app");
    assert_eq!(scene.lost(), 0);
    assert_eq!(daemon.get("/api/v1/status")["totals"]["targets"], 2);
}

#[test]
fn a_match_that_was_deleted_while_guardiand_did_not_run_is_healed() {
    let scene = seen(BACKUP);
    fs::remove_file(scene.db()).unwrap();
    assert_healed(&scene, &mut scene.daemon());
}

#[test]
fn a_match_that_was_deleted_is_known_by_its_backups_when_the_index_is_lost() {
    let scene = seen(BACKUP);
    fs::remove_file(scene.db()).unwrap();
    forget(&scene);
    assert_healed(&scene, &mut scene.daemon());
}

#[test]
fn a_match_that_was_deleted_is_checked_and_restored_and_healed_by_hand() {
    let scene = seen(BACKUP);
    fs::remove_file(scene.db()).unwrap();
    let checks = asked(&scene, &["check"]).json_of(1);
    let check = checks.as_array().unwrap().iter().find(|check| check["target"] == "tenants/app").unwrap();
    assert_eq!((&check["verdict"], &check["findings"][0]["kind"]), (&"unhealthy".into(), &"db_file_missing".into()));
    assert_eq!(asked(&scene, &["backups", "tenants/app"]).json_of(0).as_array().unwrap().len(), 1);
    asked(&scene, &["restore", "tenants/app", "--to", "copy.db"]).json_of(0);
    let healed = asked(&scene, &["heal", "tenants/app"]).json_of(0);
    assert_eq!(healed["outcome"], "healed", "{healed:#}");
    assert_eq!(scene.lost(), 0);
}

#[test]
fn a_match_without_backups_is_missed_too() {
    let scene = seen("");
    fs::remove_file(scene.db()).unwrap();
    let mut daemon = scene.daemon();
    let incident = daemon.incident("tenants/app", 1, "seen", |_| true);
    assert_eq!(incident["kind"], "db_file_missing", "{incident:#}");
}

#[test]
fn an_open_incident_of_a_match_is_open_after_a_restart() {
    let scene = seen("policy = \"observe\"");
    let mut daemon = scene.daemon();
    daemon.healthy("tenants/app");
    fs::remove_file(scene.db()).unwrap();
    let before = daemon.incident("tenants/app", 1, "seen", |_| true);
    assert!(daemon.stop().success());
    let mut daemon = scene.daemon();
    daemon.caught_up_with_looks("tenants/app");
    let after = daemon.incidents("tenants/app");
    assert_eq!((after.len(), &after[0]["id"], &after[0]["state"]), (1, &before["id"], &"open".into()), "{after:#?}");
    assert_eq!(daemon.get("/api/v1/status")["totals"]["incidents_open"], 1);
    assert_eq!(daemon.metric("guardian_target_up{mode=\"database\",target=\"tenants/app\"}"), 0.0);
}

#[test]
fn a_match_that_is_excluded_may_go_and_is_not_missed() {
    let mut scene = seen(BACKUP);
    let mut daemon = scene.daemon();
    daemon.healthy("tenants/app");
    scene.forget_databases();
    scene.database("tenants", "data/*.db", &format!("exclude = [\"app\"]\n{BACKUP}"));
    scene.write_config();
    daemon.signal(rustix::process::Signal::HUP);
    daemon.wait_for("it to be let go of", |daemon| daemon.target("tenants/app").is_none().then_some(()));
    fs::remove_file(scene.db()).unwrap();
    daemon.caught_up("tenants/other");
    assert!(daemon.stop().success());
    let mut daemon = scene.daemon();
    daemon.caught_up("tenants/other");
    assert!(daemon.target("tenants/app").is_none());
    // Side files may be there: a reader that ends while its database is deleted leaves them, as any program does.
    assert!(!scene.names().contains(&"app.db".to_owned()), "restored: {:?}", scene.names());
    asked(&scene, &["check"]).json_of(0);
}

#[test]
fn what_is_excluded_takes_nobodys_room_among_max_targets() {
    let mut scene = Scene::new();
    scene.database("tenants", "data/*.db", "max_targets = 2\nexclude = [\"a\", \"b\"]");
    for name in ["a", "b", "c", "d"] {
        scene.commit_to(&scene.path(&format!("data/{name}.db")), "wal", 5, &[]);
    }
    let mut daemon = scene.daemon();
    daemon.healthy("tenants/c");
    daemon.healthy("tenants/d");
    assert_eq!(daemon.get("/api/v1/status")["totals"]["targets"], 2);
    assert!(!daemon.log().contains("max_targets"), "{}", daemon.log());
    let checks = asked(&scene, &["check"]).json_of(0);
    assert_eq!(checks.as_array().map_or(0, Vec::len), 2, "{checks:#}");

    // One more is one too many, and one that is gone is watched all the same.
    fs::remove_file(scene.path("data/a.db")).unwrap();
    scene.commit_to(&scene.path("data/e.db"), "wal", 5, &[]);
    daemon.wait_for("a word about the rest", |daemon| daemon.log().contains("max_targets").then_some(()));
    assert_eq!(daemon.get("/api/v1/status")["totals"]["targets"], 2);
    fs::remove_file(scene.path("data/c.db")).unwrap();
    assert_eq!(daemon.closed("tenants/c", 1)["outcome"], "healed");
    daemon.caught_up("tenants/d");
    assert_eq!(daemon.get("/api/v1/status")["totals"]["targets"], 2);
}
