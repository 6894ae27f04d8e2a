//! SIGHUP and `guardiand reload`: all of a good file comes into force, nothing of a bad one.

use rustix::process::Signal;

use crate::support::command::guardiand;
use crate::support::daemon::Daemon;
use crate::support::scene::Scene;

fn wait_for_target(daemon: &mut Daemon, name: &str, there: bool) {
    daemon.wait_for(&format!("`{name}` to be there: {there}"), |daemon| {
        (daemon.target(name).is_some() == there).then_some(())
    });
}

#[test]
fn a_good_file_brings_its_targets_and_takes_the_others_series() {
    let mut scene = Scene::of("");
    scene.commit("wal", 3, &[]);
    scene.writer_of(&scene.path("data/new.db"), "wal", "3", &[]).finish();
    let mut daemon = scene.daemon();
    daemon.healthy("app");
    scene.forget_databases();
    scene.database("new", "data/new.db", "");
    scene.write_config();
    daemon.signal(Signal::HUP);
    wait_for_target(&mut daemon, "app", false);
    // A look is counted a moment after it is told: the one before the last has been.
    daemon.caught_up("new");
    let page = daemon.metrics();
    assert!(!page.contains("target=\"app\""), "{page}");
    assert_eq!(daemon.metric("guardian_target_up{mode=\"database\",target=\"new\"}"), 1.0);

    // What stays is not counted anew.
    let checks = daemon.target("new").unwrap()["total_checks"].as_u64().unwrap();
    scene.database("app", "data/app.db", "");
    scene.write_config();
    let answer = guardiand(&scene.path(""), &["reload", "--config", "guardian.toml", "--json"]);
    assert_eq!(answer.status, 0, "{answer:#?}");
    daemon.healthy("app");
    assert!(daemon.target("new").unwrap()["total_checks"].as_u64().unwrap() >= checks);
}

#[test]
fn a_bad_file_is_refused_with_its_errors_logged_and_the_old_one_stays() {
    let mut scene = Scene::of("");
    scene.commit("wal", 3, &[]);
    let mut daemon = scene.daemon();
    daemon.healthy("app");
    scene.database("new", "data/new.db", "wal_maxx = 1");
    scene.guardian("intervall = \"5s\"");
    scene.write_config();
    daemon.signal(Signal::HUP);
    daemon.wait_for("the errors in the log", |daemon| {
        let log = daemon.log();
        (log.contains("unknown key `intervall`") && log.contains("unknown key `wal_maxx`")).then_some(())
    });
    let socket = scene.path("state/control.sock").display().to_string();
    let refused = guardiand(&scene.path(""), &["reload", "--socket", &socket, "--json"]);
    assert_eq!(refused.json_of(78)["exit"], 78);
    assert!(refused.stderr.contains("unknown key `wal_maxx`"), "{refused:#?}");
    assert!(daemon.target("new").is_none());
    daemon.healthy("app");
    // And an empty or missing file is no reason to forget everything.
    std::fs::write(scene.path("guardian.toml"), "").unwrap();
    let refused = guardiand(&scene.path(""), &["reload", "--socket", &socket]);
    assert_eq!(refused.status, 78, "{refused:#?}");
    assert!(refused.stderr.contains("no [[database]] any more"), "{refused:#?}");
    daemon.healthy("app");
    std::fs::remove_file(scene.path("guardian.toml")).unwrap();
    let refused = guardiand(&scene.path(""), &["reload", "--socket", &socket]);
    assert_ne!(refused.status, 0);
    daemon.healthy("app");
}

#[test]
fn what_needs_a_restart_says_so_and_stays() {
    let mut scene = Scene::of("");
    scene.commit("wal", 3, &[]);
    let mut daemon = scene.daemon();
    let config = scene.path("guardian.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let text = text.replace("state_dir = \"state\"", "state_dir = \"other\"\ncontrol = \"other.sock\"");
    std::fs::write(&config, text).unwrap();
    let socket = scene.path("state/control.sock").display().to_string();
    let answer = guardiand(&scene.path(""), &["reload", "--socket", &socket]);
    assert_eq!(answer.status, 0, "{answer:#?}");
    assert!(answer.stdout.contains("state_dir") && answer.stdout.contains("control"), "{answer:#?}");
    assert!(answer.stdout.contains("restart"), "{answer:#?}");
    assert!(!scene.path("other").exists());
    daemon.healthy("app");
    scene.guardian("");
}

#[test]
fn a_glob_is_followed_live() {
    let mut scene = Scene::new();
    scene.database("shop", "data/*.db", "");
    scene.commit("wal", 3, &[]);
    let mut daemon = scene.daemon();
    daemon.healthy("shop/app");
    scene.writer_of(&scene.path("data/late.db"), "wal", "3", &[]).finish();
    daemon.healthy("shop/late");
}

#[test]
fn a_target_that_leaves_and_comes_back_while_it_is_healed_is_supervised_again() {
    // The canary fails, and all that a heal can do about that is to wait: long enough for two reloads.
    let lines = "canary = \"SELECT * FROM nowhere\"\nretry = { attempts = 1, initial = \"2s\" }";
    let mut scene = Scene::of(lines);
    scene.commit("wal", 3, &[]);
    let mut daemon = scene.daemon();
    daemon.incident("app", 1, "healing", |incident| incident["state"] == "healing");
    scene.forget_databases();
    scene.database("other", "data/other.db", "");
    scene.write_config();
    daemon.signal(Signal::HUP);
    wait_for_target(&mut daemon, "app", false);
    scene.database("app", "data/app.db", "");
    scene.write_config();
    daemon.signal(Signal::HUP);
    wait_for_target(&mut daemon, "app", true);
    // With the new configuration nothing is wrong with it.
    daemon.closed("app", 1);
    daemon.caught_up("app");
    assert_eq!(daemon.metric("guardian_target_up{mode=\"database\",target=\"app\"}"), 1.0);
}
