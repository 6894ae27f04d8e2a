//! What is in a WAL is not lost because a part of it is hurt, or because its main file is.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::support::daemon::Daemon;
use super::support::damage;
use super::support::scene::Scene;
use super::support::truth::{Bytes, beside};

const BACKUP: &str = "backup = { every = \"24h\", to = \"backups\" }";
const FRAME: usize = 24 + 4096;

/// A scene whose program was killed with 300 commits, all in the WAL, and which was seen healthy so.
fn killed_with_300_commits_in_the_wal(lines: &str) -> (Scene, Daemon) {
    let scene = Scene::of(lines);
    scene.writer("wal", "300", &["--no-checkpoint", "--die"]).ended();
    let mut daemon = scene.daemon();
    daemon.healthy("app");
    (scene, daemon)
}

fn wal_of(scene: &Scene) -> PathBuf {
    beside(&scene.db(), "-wal")
}

/// Where the frame in the middle begins.
fn middle(wal: &Path) -> usize {
    let frames = (fs::metadata(wal).unwrap().len() as usize - 32) / FRAME;
    assert!(frames > 200, "{frames} frames");
    32 + frames / 2 * FRAME
}

/// SQLite alone reads 0, 73 or 292 of them (SQLITE.md, section 8).
#[test]
fn three_hundred_commits_of_three_hundred_come_back_from_a_damaged_wal() {
    type Wound = fn(&Path) -> Bytes;
    let wounds: [(&str, Wound); 6] = [
        ("the header zeroed", |wal| damage::overwrite(wal, 0, &[0; 32])),
        ("the header's salts", |wal| damage::overwrite(wal, 16, b"saltsalt")),
        ("a frame's sum", |wal| damage::overwrite(wal, middle(wal) + 16, b"not it!!")),
        ("a frame's whole header", |wal| damage::overwrite(wal, middle(wal), &[0; 24])),
        ("one bit of a page", |wal| {
            let at = middle(wal) + 24 + 800;
            damage::overwrite(wal, at, &[fs::read(wal).unwrap()[at] ^ 4])
        }),
        ("a late frame's sum, and an early one's salts", |wal| {
            let late = 32 + (fs::metadata(wal).unwrap().len() as usize - 32) / FRAME * FRAME - 2 * FRAME;
            damage::overwrite(wal, 32 + 5 * FRAME + 8, &[0; 8]);
            damage::overwrite(wal, late + 16, &[0; 8])
        }),
    ];
    for (name, wound) in wounds {
        println!("{name}");
        let (scene, mut daemon) = killed_with_300_commits_in_the_wal("");
        let main = scene.bytes()[0].clone();
        let hurt = wound(&wal_of(&scene));

        let incident = daemon.closed("app", 1);
        assert_eq!(incident["kind"], "wal_corrupted", "{name}: {incident:#}");
        assert_eq!(incident["playbook"], "mend_wal", "{name}: {incident:#}");
        assert_eq!(incident["outcome"], "healed", "{name}: {incident:#}");
        assert_eq!(incident["loss"]["rows_lost"], 0, "{name}: {incident:#}");
        assert_eq!(scene.lost(), 0, "{name}: {incident:#}");
        scene.assert_evidence(&incident, &[("main", main.as_deref()), ("wal", Some(&hurt))]);
        scene.assert_honest(&incident, &scene.db());
        scene.assert_whole("wal");
    }
}

fn words_of(incident: &Value, step: &str) -> String {
    let steps = incident["steps"].as_array().unwrap();
    let step = steps.iter().find(|taken| taken["step"] == step).unwrap_or_else(|| panic!("no {step}: {incident:#}"));
    step["detail"].as_str().unwrap().to_owned()
}

#[test]
fn a_page_that_is_garbage_in_the_wal_costs_that_page_and_not_the_commits_behind_it() {
    let (scene, mut daemon) = killed_with_300_commits_in_the_wal("");
    let wal = wal_of(&scene);
    damage::overwrite(&wal, middle(&wal) + 24 + 512, &[0xa5; 1024]);

    let incident = daemon.closed("app", 1);
    assert_eq!(incident["playbook"], "mend_wal", "{incident:#}");
    assert_eq!(incident["loss"]["rows_lost"], Value::Null, "{incident:#}");
    // Each commit's page is written again by the next: the version that is hurt is not the last.
    assert!(scene.lost() <= 1, "{} lost: {incident:#}", scene.lost());
    let words = words_of(&incident, "build_from_wal");
    assert!(words.contains("1 frame with a hurt page left out"), "{words}");
    scene.assert_honest(&incident, &scene.db());
    scene.assert_whole("wal");
}

#[test]
fn a_mended_wal_that_lacks_nothing_goes_before_any_backup() {
    let (scene, mut daemon) = killed_with_300_commits_in_the_wal(BACKUP);
    daemon.backed_up("app");
    damage::overwrite(&wal_of(&scene), 0, &[0; 32]);

    let incident = daemon.closed("app", 1);
    assert_eq!(incident["playbook"], "mend_wal", "{incident:#}");
    assert_eq!(scene.lost(), 0);
    scene.assert_whole("wal");
}

/// What is sound again is less than it was, and nobody can count it any more.
#[test]
fn a_damaged_wal_that_a_program_throws_away_before_a_heal_is_not_closed_without_a_word() {
    let (scene, mut daemon) = killed_with_300_commits_in_the_wal("policy = \"observe\"");
    damage::overwrite(&wal_of(&scene), 0, &[0; 32]);
    let incident = daemon.incident("app", 1, "open", |incident| incident["kind"] == "wal_corrupted");
    assert_ne!(incident["state"], "closed", "{incident:#}");

    scene.commit("wal", 5, &[]);
    let incident = daemon.closed("app", 1);
    assert_ne!(incident["outcome"], "healed", "{incident:#}");
    assert!(scene.lost() > 100);
    assert_eq!(incident["loss"]["rows_lost"], Value::Null, "{incident:#}");
    assert!(incident["loss"]["source"].as_str().unwrap().contains("damaged WAL"), "{incident:#}");
}

/// Whoever opens it after its program's death, a supervisor's new one say, throws away all that is behind the damage.
#[test]
fn a_damaged_wal_under_a_program_is_kept_before_anybody_acts() {
    for lines in ["", "policy = \"observe\"", "policy = \"approve\""] {
        let scene = Scene::of(lines);
        scene.writer("wal", "200", &["--no-checkpoint", "--die"]).ended();
        let program = scene.writer("wal", "100", &["--no-checkpoint", "--hold-reader", "3600"]);
        let mut daemon = scene.daemon();
        daemon.caught_up("app");
        let wal = wal_of(&scene);
        let at = middle(&wal) + 24 + 100;
        damage::overwrite(&wal, at, &[0xa5; 8]);
        let [main, damaged, _] = scene.bytes();

        let incident = daemon.incident("app", 1, "in evidence", |incident| {
            incident["reason"].is_string() && incident["evidence"].is_string()
        });
        assert_eq!(incident["kind"], "wal_corrupted", "{incident:#}");
        let kept = [("main", main.as_ref().map(|bytes| &*bytes.0)), ("wal", damaged.as_ref().map(|bytes| &*bytes.0))];
        scene.assert_evidence(&incident, &kept);
        let steps = incident["steps"].as_array().unwrap();
        assert_eq!((steps.len(), &steps[0]["step"]), (1, &"preserve".into()), "{incident:#}");
        assert_eq!(scene.bytes()[1], damaged, "its program's own file was touched");
        if lines.is_empty() {
            assert_eq!(incident["state"], "escalated", "{incident:#}");
            let folder = incident["evidence"].as_str().unwrap();
            let reason = incident["reason"].as_str().unwrap();
            assert!(reason.contains("kill -9") && reason.contains(folder), "{reason}");
        }
        assert_eq!(daemon.metric("guardian_incidents_total{mode=\"database\",target=\"app\"}"), 1.0);
        drop(daemon);
        // What is kept is enough to get it all back, but for the page that is hurt.
        program.kill();
        scene.commit("wal", 1, &[]);
        assert!(scene.lost() > 50, "it was thrown away: else this proves nothing");
        scene.assert_evidence(&incident, &kept);
    }
}

#[test]
fn a_main_file_that_is_gone_is_rebuilt_from_a_wal_that_has_every_page() {
    for cut in [false, true] {
        let (scene, mut daemon) = killed_with_300_commits_in_the_wal("");
        // A crashed program's database: never checkpointed, all of it in the WAL.
        let wal = Bytes(fs::read(wal_of(&scene)).unwrap());
        match cut {
            false => fs::remove_file(scene.db()).unwrap(),
            true => fs::File::options().write(true).open(scene.db()).unwrap().set_len(0).unwrap(),
        }
        let incident = daemon.closed("app", 1);
        assert_eq!(incident["playbook"], "rebuild_from_wal", "{incident:#}");
        assert_eq!(incident["loss"]["rows_lost"], 0, "{incident:#}");
        assert_eq!(scene.lost(), 0, "{incident:#}");
        scene.assert_evidence(&incident, &[("wal", Some(&wal))]);
        scene.assert_honest(&incident, &scene.db());
        scene.assert_whole("wal");
    }
}

#[test]
fn a_main_file_that_is_gone_is_left_so_when_the_wal_has_only_a_part_and_nothing_else_is_there() {
    let scene = Scene::of("");
    scene.commit("wal", 200, &["--rows-per-commit", "5"]);
    scene.writer("wal", "10", &["--no-checkpoint", "--die"]).ended();
    let mut daemon = scene.daemon();
    daemon.healthy("app");
    let wal = Bytes(fs::read(wal_of(&scene)).unwrap());
    fs::remove_file(scene.db()).unwrap();

    let incident = daemon.incident("app", 1, "escalated", |incident| incident["state"] == "escalated");
    assert_eq!(incident["kind"], "db_file_missing", "{incident:#}");
    assert!(!scene.db().exists(), "a part is no database");
    assert_eq!(fs::read(wal_of(&scene)).unwrap(), wal.0, "the commits in it are still there");
}

/// Commits in the WAL alone before and after the backup, the last ones by a program that then was killed.
#[test]
fn a_backup_and_the_wal_of_its_time_together_lose_nothing() {
    type Fault = fn(&Path);
    let faults: [(&str, Fault); 2] =
        [("deleted", |db| fs::remove_file(db).unwrap()), ("cut", |db| drop(damage::truncate(db, 0.5)))];
    for (name, fault) in faults {
        let scene = Scene::of(BACKUP);
        scene.commit("wal", 200, &["--rows-per-commit", "5"]);
        scene.writer("wal", "40", &["--no-checkpoint", "--die"]).ended();
        let mut daemon = scene.daemon();
        daemon.backed_up("app");
        scene.writer("wal", "40", &["--no-checkpoint", "--die"]).ended();
        daemon.caught_up("app");
        fault(&scene.db());

        let incident = daemon.closed("app", 1);
        assert_eq!(scene.lost(), 0, "{name}: {incident:#}");
        assert_eq!(incident["playbook"], "restore_backup_and_wal", "{name}: {incident:#}");
        assert_eq!(incident["loss"]["rows_lost"], 0, "{name}: {incident:#}");
        scene.assert_whole("wal");
    }
}

#[test]
fn a_backup_is_not_put_under_a_wal_that_has_begun_anew_since() {
    let scene = Scene::of(BACKUP);
    scene.commit("wal", 200, &["--rows-per-commit", "5"]);
    scene.writer("wal", "40", &["--no-checkpoint", "--die"]).ended();
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    // Closed in order, which checkpoints: 20 commits that neither the backup nor the new WAL has.
    scene.commit("wal", 20, &[]);
    scene.writer("wal", "40", &["--no-checkpoint", "--die"]).ended();
    daemon.caught_up("app");
    fs::remove_file(scene.db()).unwrap();

    let incident = daemon.closed("app", 1);
    assert_eq!(incident["playbook"], "restore_backup", "{incident:#}");
    assert_eq!(incident["loss"]["rows_lost"], Value::Null, "{incident:#}");
    assert_eq!(scene.lost(), 60);
    scene.assert_honest(&incident, &scene.db());
    scene.assert_whole("wal");
}

/// Waits for a look so long after the main file's last write that its times tell whether it was written since.
fn settled(scene: &Scene, daemon: &mut Daemon) {
    let written = fs::metadata(scene.db()).unwrap().modified().unwrap();
    let written = written.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let looked = "guardian_last_check_timestamp_seconds{mode=\"database\",target=\"app\"}";
    daemon.wait_for("a look well after the last write", |daemon| (daemon.metric(looked) > written + 0.1).then_some(()));
    daemon.caught_up("app");
}

/// The WAL was begun after the backup, over the main file that it is a copy of: together they are everything.
#[test]
fn a_wal_that_was_begun_after_the_backup_goes_with_it() {
    type Wound = fn(&Path);
    let wounds: [(&str, Wound); 2] = [
        ("the main file is deleted", |db| fs::remove_file(db).unwrap()),
        ("the main file is emptied", |db| fs::write(db, b"").unwrap()),
    ];
    for (name, wound) in wounds {
        println!("{name}");
        let scene = Scene::of(BACKUP);
        scene.commit("wal", 40, &[]);
        // File times are no proof within a tick of the clock: a backup that is taken sooner may lack a write that does not show.
        let written = fs::metadata(scene.db()).unwrap().modified().unwrap();
        while written.elapsed().is_ok_and(|passed| passed < Duration::from_millis(50)) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut daemon = scene.daemon();
        daemon.healthy("app");
        daemon.backed_up("app");
        // While nobody looks: whoever closes a database last moves its WAL into the main file, and that could be a look.
        assert!(daemon.stop().success());
        scene.writer("wal", "60", &["--no-checkpoint", "--shared", "--die"]).ended();
        let mut daemon = scene.daemon();
        settled(&scene, &mut daemon);
        wound(&scene.db());

        let incident = daemon.closed("app", 1);
        assert_eq!(incident["playbook"], "restore_backup_and_wal", "{name}: {incident:#}");
        assert_eq!(incident["loss"]["rows_lost"], 0, "{name}: {incident:#}");
        assert_eq!(scene.lost(), 0, "{name}: {incident:#}");
        scene.assert_whole("wal");
    }
}
