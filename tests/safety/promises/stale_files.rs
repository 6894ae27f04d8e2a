//! SQLITE.md, section 2: side files that belong to no main file, or to another one.

use std::fs;

use super::{commits, look_in_every_way, settled, sweep};
use crate::support::command::guardiand;
use crate::support::daemon::Daemon;
use crate::support::damage::{self, Dice};
use crate::support::scene::Scene;
use crate::support::truth::{Content, beside};

const BACKUP: &str = "backup = { every = \"24h\", to = \"backups\" }";

/// A killed program's database with commits in its WAL, that the daemon knows.
fn killed(lines: &str) -> (Scene, Daemon) {
    let scene = Scene::of(lines);
    scene.commit("wal", 100, &[]);
    scene.writer("wal", "80", &["--no-checkpoint", "--die"]).ended();
    let mut daemon = scene.daemon();
    daemon.healthy("app");
    (scene, daemon)
}

#[test]
fn no_look_costs_the_wal_of_a_main_file_that_is_missing_or_empty() {
    for empty in [false, true] {
        // Told, and not healed: every look is made, again and again.
        let (scene, mut daemon) = killed(&format!("policy = \"observe\"\n{BACKUP}"));
        match empty {
            true => fs::File::options().write(true).open(scene.db()).unwrap().set_len(0).unwrap(),
            false => fs::remove_file(scene.db()).unwrap(),
        }
        let before = commits(&scene);
        assert!(before.contains_key("-wal"));
        sweep(&mut daemon);
        look_in_every_way(&scene);
        sweep(&mut daemon);
        assert_eq!(commits(&scene), before, "empty: {empty}");
        drop(daemon);
        // Nor without a daemon, nor by one that never saw it.
        look_in_every_way(&scene);
        fs::remove_dir_all(scene.path("state")).unwrap();
        look_in_every_way(&scene);
        assert_eq!(commits(&scene), before, "empty: {empty}, unknown");
    }
}

#[test]
fn an_empty_main_file_under_a_program_costs_nobody_the_wal() {
    let scene = Scene::of(BACKUP);
    scene.commit("wal", 100, &[]);
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    let program = scene.writer("wal", "50", &["--no-checkpoint", "--open-idle"]);
    daemon.caught_up("app");
    fs::File::options().write(true).open(scene.db()).unwrap().set_len(0).unwrap();
    let before = commits(&scene);
    let incident = settled(&mut daemon);
    assert_eq!(incident["kind"], "db_truncated", "{incident:#}");
    assert_eq!(incident["state"], "escalated", "a file in use: {incident:#}");
    look_in_every_way(&scene);
    sweep(&mut daemon);
    assert_eq!(commits(&scene), before, "the WAL of a living program is gone");
    program.kill();
}

#[test]
fn the_wal_of_another_database_is_never_replayed_onto_a_restored_one() {
    let scene = Scene::of(BACKUP);
    scene.commit("wal", 100, &[]);
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    let other = scene.path("other.db");
    scene.writer_of(&other, "wal", "7", &["--no-checkpoint", "--die"]).ended();
    let foreign = fs::read(beside(&other, "-wal")).unwrap();
    // The main file goes, and a WAL comes that is sound by every sum: of somebody else.
    daemon.signal(rustix::process::Signal::STOP);
    fs::remove_file(scene.db()).unwrap();
    fs::write(beside(&scene.db(), "-wal"), &foreign).unwrap();
    daemon.signal(rustix::process::Signal::CONT);
    let incident = settled(&mut daemon);
    if incident["state"] == "closed" {
        scene.assert_evidence(&incident, &[("wal", Some(&foreign))]);
        assert_eq!(scene.lost(), 0, "the other database's content shows: {incident:#}");
        scene.assert_whole("wal");
    } else {
        // A person decides: then everything is where it was.
        assert_eq!(fs::read(beside(&scene.db(), "-wal")).unwrap(), foreign);
        assert!(!scene.db().exists(), "{incident:#}");
    }
}

#[test]
fn a_stale_journal_is_never_rolled_back_onto_a_restored_file() {
    let scene = Scene::of(BACKUP);
    scene.commit("delete", 200, &["--rows-per-commit", "5"]);
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    scene.writer("delete", "0", &["--leave-hot-journal"]).ended();
    let journal = fs::read(beside(&scene.db(), "-journal")).unwrap();
    fs::remove_file(scene.db()).unwrap();
    let incident = daemon.closed("app", 1);
    assert_eq!(incident["outcome"], "healed", "{incident:#}");
    scene.assert_evidence(&incident, &[("main", None), ("journal", Some(&journal))]);
    assert!(!beside(&scene.db(), "-journal").exists(), "the journal is still beside the restored file");
    // Rolled back onto it, older pages would be in it again.
    assert_eq!(scene.lost(), 0);
    scene.assert_honest(&incident, &scene.db());
    scene.assert_whole("delete");
}

#[test]
fn a_restore_by_hand_refuses_a_path_with_side_files_of_another_time() {
    for suffix in ["-wal", "-journal", "-shm", ""] {
        let scene = Scene::of(BACKUP);
        scene.commit("wal", 20, &[]);
        scene.write_config();
        guardiand(&scene.path(""), &["backup", "app", "--config", "guardian.toml", "--json"]).json_of(0);
        let to = scene.path("restored.db");
        fs::write(beside(&to, suffix), Dice::new().bytes(5000)).unwrap();
        let before = fs::read(beside(&to, suffix)).unwrap();
        let words = ["restore", "app", "--to", to.to_str().unwrap(), "--config", "guardian.toml", "--json"];
        let ran = guardiand(&scene.path(""), &words);
        assert_ne!(ran.status, 0, "beside {suffix:?}: {ran:#?}");
        assert_eq!(fs::read(beside(&to, suffix)).unwrap(), before);
        assert!(suffix.is_empty() || !to.exists(), "restored beside {suffix}");
        fs::remove_file(beside(&to, suffix)).unwrap();
        guardiand(&scene.path(""), &words).json_of(0);
        assert_eq!(Content::of(&to).commits.len(), 20);
    }
}

#[test]
fn a_damaged_main_file_and_its_own_wal_are_kept_and_put_aside_together() {
    let (scene, mut daemon) = killed(BACKUP);
    daemon.backed_up("app");
    let wal = fs::read(beside(&scene.db(), "-wal")).unwrap();
    let bytes = damage::truncate(&scene.db(), 0.5);
    let incident = settled(&mut daemon);
    scene.assert_evidence(&incident, &[("main", Some(&bytes)), ("wal", Some(&wal))]);
    assert_eq!(incident["state"], "closed", "{incident:#}");
    assert_eq!(scene.lost(), 0);
    scene.assert_whole("wal");
}
