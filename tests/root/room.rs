//! No room to write, no leave to write, no file system: nothing is made worse, and what can be healed is, afterwards.

use std::fs;

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
    let scene = Scene::of(LINES);
    fs::create_dir(scene.path("state")).unwrap();
    let Some(disk) = Mount::tmpfs(&scene.path("state"), "64m") else { return };
    scene.commit("wal", 100, &[]);
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    let filler = disk.fill();
    let bytes = damage::header(&scene.db(), &mut Dice::new());

    daemon.wait_for("the failure to be seen", |daemon| {
        daemon.target("app").filter(|target| target["last_check"]["verdict"] == "unhealthy")
    });
    daemon.caught_up_with_looks("app");
    assert_eq!(scene.bytes()[0].as_ref(), Some(&bytes), "a byte was changed without a durable intent");
    fs::remove_file(filler).unwrap();
    let incident = daemon.wait_for("the heal", |daemon| {
        daemon.incidents("app").into_iter().find(|incident| incident["state"] == "closed")
    });
    assert_eq!(incident["outcome"], "healed", "{incident:#}");
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
