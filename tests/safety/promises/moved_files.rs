//! SQLITE.md, section 3: files that are renamed or unlinked under a program.

use std::fs;

use super::{commits, look_in_every_way, settled, sweep};
use crate::support::command::guardiand;
use crate::support::scene::Scene;
use crate::support::truth::beside;

const BACKUP: &str = "backup = { every = \"24h\", to = \"backups\" }";

#[test]
fn a_file_unlinked_under_a_program_in_rollback_mode_is_noticed_and_nothing_is_put_there() {
    let scene = Scene::of(BACKUP);
    scene.commit("delete", 100, &[]);
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    // Idle, and so without any lock: only its open descriptor tells of it.
    let program = scene.writer("delete", "20", &["--open-idle"]);
    daemon.caught_up("app");
    fs::remove_file(scene.db()).unwrap();
    let incident = daemon.incident("app", 1, "opened", |_| true);
    assert_eq!(incident["kind"], "db_file_unlinked", "{incident:#}");
    let incident = settled(&mut daemon);
    let told = incident.to_string();
    assert!(told.contains(&program.pid().to_string()), "{incident:#}");
    sweep(&mut daemon);
    if scene.db().exists() {
        // Reclaimed: then all of it.
        assert_eq!(scene.lost(), 0, "{incident:#}");
    }
    // Whatever was done, what the program has is its own still, or was kept.
    drop(program);
}

#[test]
fn nothing_is_written_into_a_file_that_was_put_under_a_programs_wal() {
    // Another sound database over the path: old commits in the WAL, and the program goes on with the file that has no name.
    let scene = Scene::of(&format!("wal_max = \"100KB\"\npolicy = \"observe\"\n{BACKUP}"));
    scene.commit("wal", 50, &[]);
    let program = scene.writer("wal", "200", &["--no-checkpoint", "--row-bytes", "2000", "--open-idle"]);
    let other = scene.path("other.db");
    assert!(scene.writer_of(&other, "wal", "30", &[]).finish().success());
    fs::rename(&other, scene.db()).unwrap();
    let before = commits(&scene);
    let mut daemon = scene.daemon();
    sweep(&mut daemon);
    look_in_every_way(&scene);
    // A checkpoint now would write the old database's pages into the new one.
    let ran = guardiand(&scene.path(""), &["heal", "app", "--config", "guardian.toml", "--json"]);
    assert_ne!(ran.status, 0, "{ran:#?}");
    let ran = guardiand(&scene.path(""), &["backup", "app", "--config", "guardian.toml", "--json"]);
    assert_ne!(ran.status, 0, "two databases in one were kept as a backup: {ran:#?}");
    sweep(&mut daemon);
    assert_eq!(commits(&scene), before, "a file was written that two programs take for theirs");
    assert!(beside(&scene.db(), "-wal").exists());
    drop(program);
}
