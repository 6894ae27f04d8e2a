//! No room to write, no leave to write, no file system: nothing is made worse, and what can be healed is, afterwards.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::support::command::guardiand;
use super::support::damage::{self, Dice};
use super::support::mounts::Mount;
use super::support::scene::Scene;
use super::support::truth::names;

const LINES: &str =
    "backup = { every = \"24h\", to = \"backups\" }\nretry = { attempts = 2, initial = \"50ms\", factor = 1.0 }";

#[test]
fn a_full_disk_is_said_and_nothing_is_written_until_there_is_room() {
    for mode in ["wal", "delete"] {
        let scene = Scene::of(LINES);
        let Some(disk) = Mount::tmpfs(&scene.path("data"), "64m") else { return };
        scene.commit(mode, 100, &[]);
        let mut daemon = scene.daemon();
        daemon.backed_up("app");
        daemon.healthy("app");
        let before = scene.bytes();
        let filler = disk.fill();

        let incident = daemon.escalated("app", 1);
        assert_eq!(incident["kind"], "db_disk_full", "{incident:#}");
        assert!(incident["loss"].is_null(), "{incident:#}");
        // A look in between may have a side file of its own for a moment.
        daemon.wait_for("the database and the filler alone", |_| (scene.names().len() == 2).then_some(()));
        assert_eq!(scene.bytes()[0], before[0]);
        fs::remove_file(filler).unwrap();
        let incident = daemon.closed("app", 1);
        assert_ne!(incident["outcome"], "rolled_back", "{incident:#}");
        assert_eq!(scene.lost(), 0);
        scene.assert_whole(mode);
    }
}

#[test]
fn damage_on_a_full_disk_waits_for_room_and_is_healed_then() {
    let scene = Scene::of(LINES);
    let Some(disk) = Mount::tmpfs(&scene.path("data"), "64m") else { return };
    scene.commit("wal", 100, &[]);
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    let filler = disk.fill();
    let bytes = damage::header(&scene.db(), &mut Dice::new());

    daemon.escalated("app", 1);
    assert_eq!(scene.bytes()[0].as_ref(), Some(&bytes), "it was touched without room to heal it");
    fs::remove_file(filler).unwrap();
    let incident = daemon.closed("app", 1);
    assert_eq!(incident["outcome"], "healed", "{incident:#}");
    scene.assert_evidence(&incident, &[("main", Some(&bytes))]);
    assert_eq!(scene.lost(), 0);
    scene.assert_whole("wal");
}

#[test]
fn a_read_only_file_system_is_said_and_left_alone() {
    for mode in ["wal", "delete"] {
        let scene = Scene::of(LINES);
        let Some(disk) = Mount::tmpfs(&scene.path("data"), "64m") else { return };
        scene.commit(mode, 100, &[]);
        let mut daemon = scene.daemon();
        daemon.backed_up("app");
        daemon.healthy("app");
        disk.read_only(true);

        let incident = daemon.escalated("app", 1);
        assert_eq!(incident["kind"], "db_write_failed", "{incident:#}");
        disk.read_only(false);
        daemon.closed("app", 1);
        assert_eq!(scene.lost(), 0);
        scene.assert_whole(mode);
    }
}

#[test]
fn a_file_system_that_is_not_mounted_is_not_a_deleted_database() {
    let scene = Scene::of(LINES);
    let store = scene.path("store");
    fs::create_dir(&store).unwrap();
    let Some(_disk) = Mount::tmpfs(&store, "64m") else { return };
    let mounted = Mount::bind(&store, &scene.path("data"));
    scene.commit("wal", 100, &[]);
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    drop(mounted);

    let target = daemon.wait_for("the file system to be missed", |daemon| {
        daemon.target("app").filter(|target| target["last_check"]["verdict"] == "unknown")
    });
    assert!(target["last_check"].to_string().contains("mounted"), "{target:#}");
    assert_eq!(names(&scene.path("data")).len(), 0, "something was put into the empty mount point");
    assert_eq!(daemon.incidents("app"), Vec::<serde_json::Value>::new());
    let _mounted = Mount::bind(&store, &scene.path("data"));
    daemon.healthy("app");
    assert_eq!(scene.lost(), 0);
    scene.assert_whole("wal");
}

#[test]
fn without_room_for_its_journal_nothing_is_healed_and_everything_is_watched() {
    let mut scene = Scene::of(LINES);
    let pager = scene.path("page-me");
    fs::write(&pager, format!("#!/bin/sh\n{{ cat; echo; }} >> {}\n", scene.path("told").display())).unwrap();
    fs::set_permissions(&pager, fs::Permissions::from_mode(0o755)).unwrap();
    scene.raw(&format!("[notify]\ncommand = [\"{}\"]\n", pager.display()));
    fs::create_dir(scene.path("state")).unwrap();
    let Some(disk) = Mount::tmpfs(&scene.path("state"), "64m") else { return };
    scene.commit("wal", 100, &[]);
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    let filler = disk.fill();
    let bytes = damage::header(&scene.db(), &mut Dice::new());

    // An incident like any other, in memory, which calls a person: that needs no disk.
    let held = daemon.escalated("app", 1);
    let reason = held["reason"].as_str().unwrap();
    for part in ["No space left", &scene.path("state").display().to_string(), " 0 bytes free", "make room", "by itself"]
    {
        assert!(reason.contains(part), "{part}: {held:#}");
    }
    // The shell makes the file before `cat` fills it: a notice is there once its last line ends.
    let notice = daemon.wait_for("a person to be called", |_| {
        fs::read_to_string(scene.path("told")).ok().filter(|told| told.ends_with('\n'))
    });
    assert!(notice.contains("make room there"), "{notice}");
    let labels = "{mode=\"database\",target=\"app\"}";
    assert_eq!(daemon.metric(&format!("guardian_incidents_open{labels}")), 1.0);
    assert_eq!(daemon.target("app").unwrap()["incident"]["id"], held["id"]);
    let heal = guardiand(&scene.path(""), &["heal", "app", "--config", "guardian.toml"]);
    assert_ne!(heal.status, 0, "{heal:?}");
    assert!(format!("{heal:?}").contains("make room there"), "{heal:?}");
    daemon.caught_up_with_looks("app");
    daemon.caught_up_with_looks("app");
    assert_eq!(scene.bytes()[0].as_ref(), Some(&bytes), "a byte was changed without a durable intent");
    assert_eq!(fs::read_dir(scene.path("state/incidents")).unwrap().count(), 0, "a folder of nothing is left");
    assert_eq!(daemon.metric(&format!("guardian_incidents_escalated_total{labels}")), 1.0);
    let deferred = "guardian_heals_deferred_total{mode=\"database\",reason=\"journal\",target=\"app\"}";
    assert_eq!(daemon.metric(deferred), 1.0);
    fs::remove_file(filler).unwrap();
    let incident = daemon.closed("app", 1);
    assert_eq!(incident["outcome"], "healed", "{incident:#}");
    // From the first unhealthy look on, and not from the first that could be written down.
    assert_eq!((&incident["id"], &incident["opened_at"]), (&held["id"], &held["opened_at"]), "{incident:#}");
    let log = fs::read_to_string(scene.path(&format!("state/incidents/{}/log.jsonl", held["id"].as_str().unwrap())));
    let log = log.unwrap();
    assert!(log.lines().next().unwrap().contains(held["opened_at"].as_str().unwrap()), "{log}");
    assert_eq!(fs::read_to_string(scene.path("told")).unwrap().lines().count(), 1, "called once");
    scene.assert_evidence(&incident, &[("main", Some(&bytes))]);
    assert_eq!(scene.lost(), 0);
    scene.assert_whole("wal");
}

#[test]
fn without_room_for_the_evidence_nothing_is_replaced_until_a_person_says_so() {
    let scene = Scene::of(LINES);
    fs::create_dir(scene.path("state")).unwrap();
    let Some(disk) = Mount::tmpfs(&scene.path("state"), "4m") else { return };
    scene.commit("wal", 100, &["--row-bytes", "60000"]);
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    // A log still fits; six megabytes of evidence do not.
    let bytes = damage::header(&scene.db(), &mut Dice::new());

    let incident = daemon.escalated("app", 1);
    assert!(incident["reason"].as_str().unwrap().contains("preserve"), "{incident:#}");
    assert_eq!(scene.bytes()[0].as_ref(), Some(&bytes), "replaced without evidence");
    drop(disk);
    drop(daemon);
    // The state directory is gone with its file system; the backups are not.
    let config = scene.write_config();
    let healed = guardiand(&scene.path("."), &["--config", config.to_str().unwrap(), "heal", "app", "--json"]);
    assert_eq!(healed.status, 0, "{healed:?}");
    assert_eq!(scene.lost(), 0);
    scene.assert_whole("wal");
}

#[test]
fn a_file_system_that_an_error_shut_is_to_be_repaired_and_not_remounted() {
    let scene = Scene::of("");
    let Some(disk) = Mount::ext4(&scene.path("image"), &scene.path("data")) else { return };
    scene.commit("wal", 10, &[]);
    let mut daemon = scene.daemon();
    daemon.healthy("app");
    disk.abort();
    let finding = daemon.wait_for("the finding", |daemon| {
        let finding = daemon.target("app")?["last_check"]["findings"][0].clone();
        (finding["kind"] == "db_write_failed").then_some(finding)
    });
    let todo = finding["remediation"].as_str().unwrap();
    assert!(todo.contains(&format!("`umount {}`", scene.path("data").display())), "{finding:#}");
    assert!(todo.contains("fsck /dev/loop") && !todo.contains("remount,rw"), "{finding:#}");
    daemon.stop();
}
