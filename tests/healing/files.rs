//! The file itself: gone, overwritten, cut, something else in its place.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::support::command::guardiand;
use super::support::damage::{self, Dice};
use super::support::scene::Scene;
use super::support::truth::{self, Content, beside, is_root, ownership};

/// A first backup at once, and none after it.
const BACKUP: &str = "backup = { every = \"24h\", to = \"backups\" }";

/// A scene whose program has committed 200 times, and whose backup holds all of it.
fn saved(mode: &str) -> (Scene, super::support::daemon::Daemon) {
    let scene = Scene::of(BACKUP);
    scene.commit(mode, 200, &["--rows-per-commit", "5"]);
    fs::set_permissions(scene.db(), fs::Permissions::from_mode(0o640)).unwrap();
    scene.give_away_if_root();
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    (scene, daemon)
}

#[test]
fn a_deleted_file_is_restored_with_all_that_was_saved() {
    for mode in ["wal", "delete"] {
        let (scene, mut daemon) = saved(mode);
        let before = ownership(&scene.db());
        fs::remove_file(scene.db()).unwrap();

        let incident = daemon.closed("app", 1);
        assert_eq!(incident["kind"], "db_file_missing", "{incident:#}");
        assert_eq!(incident["outcome"], "healed", "{incident:#}");
        assert_eq!(incident["playbook"], "restore_backup", "{incident:#}");
        assert!(incident["mttr_seconds"].as_f64().unwrap() > 0.0);
        assert_eq!(ownership(&scene.db()), before);
        assert_eq!(scene.lost(), 0);
        scene.assert_honest(&incident, &scene.db());
        scene.assert_evidence(&incident, &[("main", None)]);
        scene.assert_whole(mode);
        assert_eq!(
            daemon.metric("guardian_incidents_closed_total{mode=\"database\",outcome=\"healed\",target=\"app\"}"),
            1.0
        );
    }
}

#[test]
fn commits_after_the_backup_are_lost_and_said_to_be() {
    let (scene, mut daemon) = saved("wal");
    scene.commit("wal", 40, &[]);
    daemon.healthy("app");
    fs::remove_file(scene.db()).unwrap();

    let incident = daemon.closed("app", 1);
    assert_eq!(incident["outcome"], "healed", "{incident:#}");
    assert_eq!(scene.lost(), 40);
    assert_ne!(incident["loss"]["rows_lost"], 0, "{incident:#}");
    scene.assert_honest(&incident, &scene.db());
    scene.assert_whole("wal");
}

#[test]
fn an_overwritten_header_is_healed() {
    for mode in ["wal", "delete"] {
        let (scene, mut daemon) = saved(mode);
        let before = ownership(&scene.db());
        let bytes = damage::header(&scene.db(), &mut Dice::new());

        let incident = daemon.closed("app", 1);
        assert_eq!(incident["kind"], "db_not_a_database", "{incident:#}");
        assert_eq!(incident["outcome"], "healed", "{incident:#}");
        assert_eq!(ownership(&scene.db()), before);
        assert_eq!(scene.lost(), 0);
        scene.assert_honest(&incident, &scene.db());
        scene.assert_evidence(&incident, &[("main", Some(&bytes)), ("wal", None), ("journal", None)]);
        scene.assert_whole(mode);
    }
}

#[test]
fn a_truncated_file_is_healed() {
    for mode in ["wal", "delete"] {
        let (scene, mut daemon) = saved(mode);
        let bytes = damage::truncate(&scene.db(), 0.6);

        let incident = daemon.closed("app", 1);
        assert_eq!(incident["kind"], "db_truncated", "{incident:#}");
        assert_eq!(incident["outcome"], "healed", "{incident:#}");
        assert_eq!(scene.lost(), 0);
        scene.assert_honest(&incident, &scene.db());
        scene.assert_evidence(&incident, &[("main", Some(&bytes))]);
        scene.assert_whole(mode);
    }
}

#[test]
fn a_directory_in_its_place_is_left_alone_until_it_is_gone() {
    let (scene, mut daemon) = saved("wal");
    fs::remove_file(scene.db()).unwrap();
    fs::create_dir(scene.db()).unwrap();
    fs::write(scene.db().join("somebody's"), "own").unwrap();

    // The file was missing for a moment: that may have been healed first, but never over what somebody put there.
    let incident = daemon.wait_for("an incident that needs a person", |daemon| {
        daemon.incidents("app").into_iter().find(|incident| incident["state"] == "escalated")
    });
    assert!(incident["reason"].as_str().unwrap().contains("move it away"), "{incident:#}");
    assert_eq!(fs::read_to_string(scene.db().join("somebody's")).unwrap(), "own");

    fs::rename(scene.db(), scene.path("moved away")).unwrap();
    daemon.healthy("app");
    assert_eq!(scene.lost(), 0);
    scene.assert_whole("wal");
}

#[test]
fn zero_bytes_beside_a_wal_never_cost_the_wal() {
    let scene = Scene::of(BACKUP);
    // Killed with 60 commits in the WAL alone.
    scene.commit("wal", 20, &[]);
    let killed = scene.writer("wal", "60", &["--no-checkpoint", "--die"]).ended();
    assert!(!killed.success());
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    let [_, wal, _] = scene.bytes();
    let wal = wal.unwrap();
    fs::File::options().write(true).open(scene.db()).unwrap().set_len(0).unwrap();

    let incident = daemon.closed("app", 1);
    assert_eq!(incident["kind"], "db_truncated", "{incident:#}");
    assert_eq!(incident["outcome"], "healed", "{incident:#}");
    scene.assert_evidence(&incident, &[("main", Some(b"")), ("wal", Some(&wal))]);
    assert_eq!(scene.lost(), 0);
    scene.assert_honest(&incident, &scene.db());
    scene.assert_whole("wal");
}

#[test]
fn a_file_that_its_program_may_not_read_gets_its_mode_back() {
    let (scene, mut daemon) = saved("delete");
    let (before, bytes) = (ownership(&scene.db()), scene.bytes());
    fs::set_permissions(scene.db(), fs::Permissions::from_mode(0o000)).unwrap();

    let incident = daemon.closed("app", 1);
    assert_eq!(incident["kind"], "db_access_denied", "{incident:#}");
    assert_eq!(incident["outcome"], "healed", "{incident:#}");
    assert!(incident["loss"].is_null(), "{incident:#}");
    assert_eq!(ownership(&scene.db()), before);
    assert_eq!(scene.bytes(), bytes, "nothing but the mode is touched");
    scene.assert_whole("delete");
}

#[test]
fn a_folder_that_its_program_may_not_write_any_more_is_noticed_though_no_file_has_changed() {
    for above in [false, true] {
        let scene = Scene::of("");
        scene.commit("delete", 10, &[]);
        scene.give_away_if_root();
        let folder = scene.path("data");
        if is_root() {
            std::os::unix::fs::chown(&folder, Some(4321), Some(4322)).unwrap();
            fs::set_permissions(scene.path(""), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let mut daemon = scene.daemon();
        daemon.caught_up("app");
        // Whom its own folder lets in, the one above may not.
        let (hurt, mode) = if above && is_root() { (scene.path(""), 0o700) } else { (folder, 0o555) };
        let before = fs::metadata(&hurt).unwrap().permissions();
        fs::set_permissions(&hurt, fs::Permissions::from_mode(mode)).unwrap();
        let incident = daemon.incident("app", 1, "seen", |_| true);
        assert_eq!(incident["kind"], "db_access_denied", "{incident:#}");
        // Who only looks once goes by what the daemon knew: the program could write before.
        assert!(daemon.stop().success());
        let checks = guardiand(&scene.path(""), &["check", "--config", "guardian.toml", "--json"]).json_of(1);
        assert_eq!(checks[0]["findings"][0]["kind"], "db_access_denied", "{checks:#}");
        fs::set_permissions(&hurt, before).unwrap();
        scene.daemon().closed("app", 1);
        scene.assert_whole("delete");
    }
}

#[test]
fn of_damaged_backups_the_next_older_one_is_taken() {
    let mut scene = Scene::of("backup = { every = \"100ms\", to = \"backups\" }");
    scene.commit("wal", 50, &[]);
    let backups = scene.path("backups/app");
    let count = || {
        truth::names(&backups)
            .into_iter()
            .filter(|name| name.starts_with("20") && name.ends_with(".db"))
            .collect::<Vec<_>>()
    };
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.wait_for("three backups", |_| (count().len() >= 3).then_some(()));
    daemon.stop();

    // Names sort by time. The newest two are damaged: one in its content, one cut short.
    let names = count();
    let newest = |nth: usize| backups.join(&names[names.len() - 1 - nth]);
    damage::overwrite(&newest(0), 8192, &Dice::new().bytes(4096));
    damage::truncate(&newest(1), 0.5);
    let good = names[names.len() - 3].clone();
    scene.forget_databases();
    scene.database("app", "data/app.db", BACKUP);
    let mut daemon = scene.daemon();
    daemon.healthy("app");
    fs::remove_file(scene.db()).unwrap();

    let incident = daemon.closed("app", 1);
    assert_eq!(incident["outcome"], "healed", "{incident:#}");
    let steps = incident["steps"].as_array().unwrap();
    assert!(steps.iter().any(|step| step["outcome"] == "failed"), "{incident:#}");
    let built = steps.iter().rfind(|step| step["step"] == "build_from_backup").unwrap();
    assert!(built["outcome"] == "ok" && built["detail"].as_str().unwrap().contains(&good), "{good}: {incident:#}");
    assert_eq!(scene.lost(), 0);
    scene.assert_honest(&incident, &scene.db());
    scene.assert_whole("wal");
}

#[test]
fn without_any_backup_an_empty_database_with_the_same_schema_takes_its_place() {
    for mode in ["wal", "delete"] {
        let scene = Scene::of("");
        scene.commit(mode, 50, &[]);
        let schema = Content::of(&scene.db()).schema;
        let mut daemon = scene.daemon();
        daemon.healthy("app");
        fs::remove_file(scene.db()).unwrap();

        let incident = daemon.closed("app", 1);
        assert_eq!(incident["outcome"], "healed", "{incident:#}");
        assert_eq!(incident["playbook"], "recreate", "{incident:#}");
        assert!(incident["loss"]["rows_lost"].is_null(), "it cannot be known: {incident:#}");
        assert_eq!(incident["loss"]["rows_kept"], 0, "{incident:#}");
        assert_eq!(Content::of(&scene.db()).schema, schema);
        scene.assert_whole(mode);
    }
}

#[test]
fn the_log_of_a_deleted_database_is_never_replayed_onto_its_backup() {
    let scene = Scene::of(BACKUP);
    scene.commit("wal", 100, &["--rows-per-commit", "20"]);
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    // Checkpointed in part, then killed: this WAL fits no backup. While nobody looks: whoever closes a database last moves its WAL
    // into the main file, and that could be a look.
    assert!(daemon.stop().success());
    scene.commit("wal", 50, &[]);
    scene.writer("wal", "50", &["--no-checkpoint", "--die"]).ended();
    let mut daemon = scene.daemon();
    daemon.caught_up("app");
    let [_, wal, _] = scene.bytes();
    let wal = wal.unwrap();
    fs::remove_file(scene.db()).unwrap();

    let incident = daemon.closed("app", 1);
    assert_eq!(incident["outcome"], "healed", "{incident:#}");
    scene.assert_evidence(&incident, &[("main", None), ("wal", Some(&wal))]);
    assert!(!beside(&scene.db(), "-wal").exists(), "the old WAL is still beside the restored file");
    assert_eq!(scene.lost(), 100);
    scene.assert_honest(&incident, &scene.db());
    scene.assert_whole("wal");
}

#[test]
fn an_empty_database_never_replaces_one_whose_backups_are_out_of_reach() {
    let (scene, mut daemon) = saved("wal");
    fs::rename(scene.path("backups"), scene.path("not mounted")).unwrap();
    fs::remove_file(scene.db()).unwrap();

    let incident = daemon.escalated("app", 1);
    assert!(incident["reason"].as_str().unwrap().contains("mounted"), "{incident:#}");
    assert!(!scene.db().exists());
    fs::rename(scene.path("not mounted"), scene.path("backups")).unwrap();
    let incident = daemon.closed("app", 1);
    assert_eq!(incident["playbook"], "restore_backup", "{incident:#}");
    assert_eq!(incident["outcome"], "healed", "{incident:#}");
    assert_eq!(scene.lost(), 0);
    scene.assert_whole("wal");
}

#[test]
fn backups_whose_manifests_cannot_be_read_are_named_and_nothing_takes_their_place() {
    let (scene, mut daemon) = saved("wal");
    let folder = scene.path("backups/app");
    let names = truth::names(&folder);
    let manifest = folder.join(names.iter().find(|name| name.ends_with(".db.json")).unwrap());
    let sound = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, sound.replace("\"version\": 1,", "\"version\": 99,")).unwrap();
    // A second one, of which nothing can be read at all.
    let second = folder.join("20000101T000000.000Z.db");
    fs::write(&second, "x").unwrap();
    fs::write(beside(&second, ".json"), "{").unwrap();
    fs::remove_file(scene.db()).unwrap();

    let incident = daemon.escalated("app", 1);
    let reason = incident["reason"].as_str().unwrap();
    for word in ["version 99", second.to_str().unwrap(), manifest.to_str().unwrap()] {
        assert!(reason.contains(word), "{word}: {reason}");
    }
    assert!(!scene.db().exists(), "{incident:#}");
    fs::write(&manifest, sound).unwrap();
    let incident = daemon.closed("app", 1);
    assert_eq!(incident["playbook"], "restore_backup", "{incident:#}");
    assert_eq!(scene.lost(), 0);
    scene.assert_whole("wal");
}

#[test]
fn an_empty_database_never_replaces_one_whose_backups_nobody_can_read() {
    let mut scene = Scene::of("");
    scene.commit("wal", 20, &[]);
    let mut daemon = scene.daemon();
    daemon.healthy("app");
    assert!(daemon.stop().success());
    // Nothing is remembered of these.
    scene.forget_databases();
    scene.database("app", "data/app.db", BACKUP);
    let backup = scene.path("backups/app/20000101T000000.000Z.db");
    fs::create_dir_all(backup.parent().unwrap()).unwrap();
    fs::write(&backup, "x").unwrap();
    fs::write(beside(&backup, ".json"), "{").unwrap();
    fs::remove_file(scene.db()).unwrap();

    let mut daemon = scene.daemon();
    let incident = daemon.escalated("app", 1);
    assert!(incident["reason"].as_str().unwrap().contains(backup.to_str().unwrap()), "{incident:#}");
    assert!(!scene.db().exists(), "an empty database took its place: {incident:#}");
}

#[test]
fn when_every_backup_is_damaged_what_can_be_read_of_the_newest_takes_the_place_and_of_noise_an_empty_database() {
    for (noise, playbook) in [(false, "salvage_rows"), (true, "recreate")] {
        let (scene, mut daemon) = saved("wal");
        let before = Content::of(&scene.db());
        for name in truth::names(&scene.path("backups/app")).iter().filter(|name| name.ends_with(".db")) {
            let backup = scene.path("backups/app").join(name);
            let size = fs::metadata(&backup).unwrap().len() as usize;
            // Like no page of a tree, whatever dice would say.
            let (at, length) = if noise { (0, size) } else { (8192, 4096) };
            damage::overwrite(&backup, at, &vec![0xa5; length]);
        }
        fs::remove_file(scene.db()).unwrap();

        let incident = daemon.closed("app", 1);
        assert_eq!(incident["playbook"], playbook, "{incident:#}");
        assert!(incident["loss"]["rows_lost"].is_null(), "{incident:#}");
        let after = Content::of(&scene.db());
        assert_eq!(after.schema, before.schema);
        let rows = |content: &Content| content.rows.values().sum::<i64>();
        // Of a page that is gone the indexes know most; of noise nothing is.
        assert_eq!(rows(&after) > rows(&before) / 2, !noise, "{incident:#}");
        assert_eq!(rows(&after) == 0, noise, "{incident:#}");
        scene.assert_whole("wal");
    }
}
