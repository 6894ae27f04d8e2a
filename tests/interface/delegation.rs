//! Never two healers: with a daemon on the same state directory, the command line lets it do the work.

use crate::promised;
use crate::support::command::guardiand;
use crate::support::scene::Scene;

#[test]
fn a_heal_is_done_by_the_running_daemon() {
    let scene = Scene::of("policy = \"observe\"");
    scene.commit("wal", 5, &[]);
    let mut daemon = scene.daemon();
    daemon.healthy("app");
    let asked = |arguments: &[&str]| guardiand(&scene.path(""), arguments);

    let report = asked(&["heal", "app", "--config", "guardian.toml", "--json"]).json_of(0);
    assert_eq!(report["outcome"], "healthy", "{report:#}");
    promised::check(&report["check"]);
    // The same target by its path, found by the state directory alone.
    let report = asked(&["heal", "data/app.db", "--state-dir", "state", "--json"]).json_of(0);
    assert_eq!(report["target"], "app", "{report:#}");
    let report = asked(&["heal", "app", "--socket", "state/control.sock", "--config", "guardian.toml", "--json"]);
    assert_eq!(report.json_of(0)["outcome"], "healthy");
    assert_eq!(daemon.log().matches("command=\"heal\"").count(), 3, "{}", daemon.log());

    // One that the daemon does not supervise is refused, and nothing is done beside it.
    let refused = asked(&["heal", "data/other.db", "--state-dir", "state", "--json"]);
    assert_eq!(refused.json_of(1)["exit"], 1, "{refused:#?}");
    assert!(refused.stderr.contains("other.db"), "{refused:#?}");
}

#[test]
fn a_heal_finds_the_daemon_wherever_its_socket_is() {
    let mut scene = Scene::of("");
    scene.guardian("control = \"elsewhere.sock\"");
    scene.commit("wal", 5, &[]);
    let mut daemon = scene.daemon();
    daemon.healthy("app");
    let report = guardiand(&scene.path(""), &["heal", "data/app.db", "--state-dir", "state", "--json"]).json_of(0);
    assert_eq!(report["target"], "app");
    assert!(daemon.log().contains("command=\"heal\""), "{}", daemon.log());
}

#[test]
fn a_second_daemon_on_the_same_state_directory_is_refused_and_says_who_has_it() {
    let scene = Scene::of("");
    scene.commit("wal", 5, &[]);
    let mut daemon = scene.daemon();
    daemon.healthy("app");
    let second = guardiand(&scene.path(""), &["--config", "guardian.toml"]);
    assert_eq!(second.status, 1, "{second:#?}");
    assert!(second.stderr.contains(&scene.path("state").display().to_string()), "{second:#?}");
    assert!(second.stderr.contains(&daemon.pid().to_string()), "it does not say who: {second:#?}");
    daemon.healthy("app");
}

#[test]
fn the_running_daemon_tells_its_status_and_incidents() {
    let scene = Scene::of("backup = { every = \"1h\" }");
    scene.commit("wal", 5, &[]);
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    std::fs::remove_file(scene.db()).unwrap();
    let incident = daemon.closed("app", 1);
    let id = incident["id"].as_str().unwrap();
    let asked = |arguments: &[&str]| {
        let mut all = vec!["--config", "guardian.toml", "--json"];
        all.extend(arguments);
        guardiand(&scene.path(""), &all)
    };
    assert_eq!(asked(&["status"]).json_of(0)["targets"][0]["name"], "app");
    let incidents = asked(&["incidents", "--target", "app", "--state", "closed", "--limit", "5"]).json_of(0);
    assert_eq!(incidents["incidents"][0]["id"], id);
    promised::healed_incident(&asked(&["incident", id]).json_of(0));
    assert_eq!(asked(&["incident", "none"]).json_of(1)["exit"], 1);
    let backup = asked(&["backup", "app"]).json_of(0);
    promised::time(&backup["manifest"]["taken_at"]);
    asked(&["reload"]).json_of(0);
    // For eyes, too, each says something.
    for words in [&["status"][..], &["incidents"], &["incident", id], &["reload"], &["backups", "app"]] {
        let mut all = vec!["--config", "guardian.toml"];
        all.extend(words);
        let ran = guardiand(&scene.path(""), &all);
        assert!(ran.status == 0 && !ran.stdout.trim().is_empty(), "{words:?}: {ran:#?}");
    }
}
