//! SQLITE.md, section 1: side files that are deleted, and above all not by us.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use super::{commits, files, look_in_every_way, settled, sweep};
use crate::support::command::guardiand;
use crate::support::scene::Scene;
use crate::support::truth::{Content, beside, names};

const BACKUP: &str = "backup = { every = \"24h\", to = \"backups\" }";

/// 100 commits in the main file, and 80 in the WAL of a program that was killed.
fn killed() -> Scene {
    killed_in(Scene::of(BACKUP))
}

fn killed_in(scene: Scene) -> Scene {
    scene.commit("wal", 100, &[]);
    // Some time ago: on some file systems a file's times do not tell what was written within two seconds.
    let before = std::time::SystemTime::now() - std::time::Duration::from_secs(10);
    fs::File::options().write(true).open(scene.db()).unwrap().set_modified(before).unwrap();
    scene.writer("wal", "80", &["--no-checkpoint", "--die"]).ended();
    scene
}

/// The rows that the newest backup has.
fn saved_commits(scene: &Scene) -> usize {
    let folder = scene.path("backups/app");
    let newest = names(&folder).into_iter().rfind(|name| name.ends_with(".db")).unwrap();
    Content::of(&folder.join(newest)).commits.len()
}

#[test]
fn of_a_killed_writer_every_commit_is_there_and_no_byte_of_its_wal_goes() {
    let scene = killed();
    let before = commits(&scene);
    assert!(before.contains_key("-wal"));
    look_in_every_way(&scene);
    assert_eq!(commits(&scene), before, "a look");
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    sweep(&mut daemon);
    guardiand(&scene.path(""), &["heal", "app", "--config", "guardian.toml", "--json"]).json_of(0);
    assert_eq!(daemon.incidents("app"), Vec::<serde_json::Value>::new());
    assert!(daemon.stop().success());
    assert_eq!(commits(&scene), before, "the daemon");
    assert_eq!(saved_commits(&scene), 180, "the backup lacks what was in the WAL");
    assert_eq!(scene.lost(), 0);
    scene.assert_whole("wal");
}

#[test]
fn a_missing_wal_index_is_no_failure_and_costs_nothing() {
    let scene = killed();
    fs::remove_file(beside(&scene.db(), "-shm")).unwrap();
    let before = commits(&scene);
    look_in_every_way(&scene);
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    sweep(&mut daemon);
    assert_eq!(daemon.incidents("app"), Vec::<serde_json::Value>::new());
    // And deleted again, beside the daemon.
    let _ = fs::remove_file(beside(&scene.db(), "-shm"));
    sweep(&mut daemon);
    assert_eq!(daemon.incidents("app"), Vec::<serde_json::Value>::new());
    assert_eq!(commits(&scene), before);
    assert_eq!(saved_commits(&scene), 180);
    scene.assert_whole("wal");
}

#[test]
fn a_database_torn_by_the_loss_of_its_wal_is_healed_or_left_for_a_person() {
    let scene = Scene::of(BACKUP);
    scene.commit("wal", 300, &["--rows-per-commit", "5"]);
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    // A reader pins the WAL in its middle: the checkpoint behind it is a partial one. Nobody looks until it does: whoever closes a
    // database last moves its WAL into the main file.
    assert!(daemon.stop().success());
    scene.writer("wal", "30", &["--no-checkpoint", "--die"]).ended();
    let reader = scene.writer("wal", "0", &["--hold-reader", "3600"]);
    scene.writer("wal", "60", &["--no-checkpoint", "--rows-per-commit", "20", "--die"]).ended();
    let mut daemon = scene.daemon();
    daemon.caught_up("app");
    let db = rusqlite::Connection::open(scene.db()).unwrap();
    // A look of the daemon's own may pin an older moment, for as long as it lasts.
    let (frames, done) = daemon.wait_for("a partial checkpoint", |_| {
        let partial = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?));
        let partial = db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], partial).unwrap();
        (partial.1 > 0).then_some(partial)
    });
    assert!(done < frames, "{done} of {frames} frames: not a partial checkpoint");
    // Closed without a checkpoint, as a kill would; the file that is deleted then is nobody's any more.
    db.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    drop(db);
    reader.kill();
    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(beside(&scene.db(), suffix));
    }
    let torn = commits(&scene);
    let incident = settled(&mut daemon);
    match incident["state"].as_str().unwrap() {
        "closed" => {
            scene.assert_honest(&incident, &scene.db());
            scene.assert_whole("wal");
        }
        _ => assert_eq!(commits(&scene), torn, "{incident:#}"),
    }
}

/// What `rm *-wal` does, and whoever does it to clear a lock.
fn delete_side_files(scene: &Scene) {
    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(beside(&scene.db(), suffix));
    }
}

#[test]
fn what_was_deleted_with_the_wal_comes_back_out_of_a_backup_that_has_it() {
    for daemon_runs in [true, false] {
        let scene = killed();
        let mut daemon = scene.daemon();
        daemon.backed_up("app");
        daemon.caught_up("app");
        if daemon_runs {
            delete_side_files(&scene);
        } else {
            assert!(daemon.stop().success());
            delete_side_files(&scene);
            daemon = scene.daemon();
        }
        let incident = daemon.closed("app", 1);
        assert_eq!(incident["kind"], "wal_corrupted", "{incident:#}");
        assert_eq!((&incident["outcome"], &incident["playbook"]), (&"healed".into(), &"restore_backup".into()));
        assert_eq!(incident["loss"]["rows_kept"], 360, "{incident:#}");
        // Whether anything was committed after the last look nobody can know.
        assert!(incident["loss"]["rows_lost"].is_null(), "{incident:#}");
        assert_eq!(scene.lost(), 0);
        scene.assert_whole("wal");
    }
}

#[test]
fn the_loss_of_a_wal_is_told_where_no_backup_has_it_and_nothing_is_touched() {
    let scene = killed_in(Scene::of(""));
    let mut daemon = scene.daemon();
    daemon.caught_up("app");
    delete_side_files(&scene);
    let left = commits(&scene);
    let incident = daemon.escalated("app", 1);
    assert_eq!(incident["kind"], "wal_corrupted", "{incident:#}");
    let told = format!("{} {}", incident["findings"][0]["detail"], incident["reason"]);
    assert!(told.contains("frames 1 to ") && told.contains("no backup"), "{incident:#}");
    sweep(&mut daemon);
    assert_eq!(commits(&scene), left);
    // Life goes on: what is written from here on is as safe as ever.
    scene.commit("wal", 10, &[]);
    let incident = daemon.closed("app", 1);
    assert_eq!(incident["outcome"], "resolved_by_operator", "{incident:#}");
    scene.assert_whole("wal");
}

#[test]
fn a_database_that_was_written_after_its_wal_was_lost_is_not_set_back() {
    let scene = killed();
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.caught_up("app");
    assert!(daemon.stop().success());
    delete_side_files(&scene);
    scene.writer("wal", "30", &["--no-checkpoint", "--die"]).ended();
    let present = commits(&scene);
    let mut daemon = scene.daemon();
    let incident = daemon.escalated("app", 1);
    assert_eq!(incident["kind"], "wal_corrupted", "{incident:#}");
    let reason = incident["reason"].as_str().unwrap();
    assert!(reason.contains("written since") && reason.contains("backups/app/"), "{incident:#}");
    sweep(&mut daemon);
    assert_eq!(commits(&scene), present);
}

/// A program with 40 commits that are in its WAL alone, whose `deleted` files are then deleted; the looks of a daemon; and what is
/// there once the program has ended in order.
fn deleted_under_a_program(deleted: &[&str]) {
    let scene = Scene::of(BACKUP);
    scene.commit("wal", 100, &[]);
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    let program = scene.writer("wal", "40", &["--no-checkpoint", "--open-idle"]);
    daemon.caught_up("app");
    for suffix in deleted {
        fs::remove_file(beside(&scene.db(), suffix)).unwrap();
    }
    let main = files(&scene)[""].clone();
    sweep(&mut daemon);
    look_in_every_way(&scene);
    guardiand(&scene.path(""), &["heal", "app", "--config", "guardian.toml", "--json"]).json();
    sweep(&mut daemon);
    assert_eq!(files(&scene)[""], main, "the main file was written under a program that does not see it");
    // It has its old files still, and writes all of it back when it closes.
    assert!(program.finish().success());
    drop(daemon);
    assert_eq!(Content::of(&scene.db()).integrity, "ok");
    assert_eq!(scene.lost(), 0, "{deleted:?}");
}

#[test]
fn a_program_whose_side_files_were_deleted_keeps_every_commit_under_our_eyes() {
    deleted_under_a_program(&["-wal", "-shm"]);
}

#[test]
fn a_program_whose_wal_was_deleted_keeps_every_commit_under_our_eyes() {
    deleted_under_a_program(&["-wal"]);
}

#[test]
fn nothing_is_written_beside_a_program_whose_wal_index_was_deleted() {
    // So large that it would be checkpointed: through an index of its own, a second writer tears the database.
    let scene = Scene::of(&format!("wal_max = \"100KB\"\npolicy = \"observe\"\n{BACKUP}"));
    scene.commit("wal", 20, &[]);
    let program = scene.writer("wal", "200", &["--no-checkpoint", "--row-bytes", "2000", "--open-idle"]);
    fs::remove_file(beside(&scene.db(), "-shm")).unwrap();
    let before = commits(&scene);
    let mut daemon = scene.daemon();
    sweep(&mut daemon);
    // A person's word passes every gate, and not this one.
    let ran = guardiand(&scene.path(""), &["heal", "app", "--config", "guardian.toml", "--json"]);
    assert_ne!(ran.status, 0, "{ran:#?}");
    let ran = guardiand(&scene.path(""), &["backup", "app", "--config", "guardian.toml", "--json"]);
    assert_ne!(ran.status, 0, "{ran:#?}");
    assert_eq!(commits(&scene), before, "written beside the program");
    drop(daemon);
    assert!(program.finish().success());
    assert_eq!(Content::of(&scene.db()).integrity, "ok");
    assert_eq!(scene.lost(), 0);
}

#[test]
fn a_live_programs_side_files_stay_the_same_files() {
    let scene = Scene::of(&format!("wal_max = \"100KB\"\n{BACKUP}"));
    let program = scene.writer("wal", "200", &["--no-checkpoint", "--row-bytes", "2000", "--open-idle"]);
    let inodes =
        || ["-wal", "-shm"].map(|suffix| beside(&scene.db(), suffix).metadata().map(|facts| facts.ino()).unwrap());
    let before = inodes();
    let shm = beside(&scene.db(), "-shm").metadata().unwrap().len();
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    look_in_every_way(&scene);
    assert_eq!(inodes(), before);
    assert!(beside(&scene.db(), "-shm").metadata().unwrap().len() >= shm, "cut under a program that has it mapped");
    program.kill();
    sweep(&mut daemon);
    assert_eq!(inodes(), before, "deleted behind a program that was killed");
    assert_eq!(scene.lost(), 0);
}
