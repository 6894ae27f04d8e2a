//! How it starts and how it ends: a damaged index, a second daemon, a polite end in the middle of a heal.

use std::fs;
use std::path::Path;

use super::support::daemon::Daemon;
use super::support::damage::{self, Dice};
use super::support::scene::Scene;
use super::support::truth::{beside, names};

const BACKUP: &str = "backup = { every = \"24h\", to = \"backups\" }";

fn make_pipe(path: &Path) {
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
}

/// A scene with one healed incident behind it.
fn healed() -> (Scene, Daemon) {
    let scene = Scene::of(BACKUP);
    scene.commit("wal", 60, &[]);
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    fs::remove_file(scene.db()).unwrap();
    daemon.closed("app", 1);
    daemon.healthy("app");
    (scene, daemon)
}

/// Nobody would know what it is, and it would stay for as long as the evidence.
#[test]
fn what_was_to_become_a_paper_of_the_evidence_goes_at_the_next_start() {
    let scene = Scene::of(&format!("policy = \"approve\"\n{BACKUP}"));
    scene.commit("wal", 60, &[]);
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    fs::write(scene.db(), vec![7; 8192]).unwrap();
    let incident = daemon.incident("app", 1, "asked about", |incident| incident["state"] == "awaiting_approval");
    daemon.kill();
    let mut dead = std::process::Command::new("true").spawn().unwrap();
    dead.wait().unwrap();
    let evidence = scene.path(&format!("state/incidents/{}/evidence", incident["id"].as_str().unwrap()));
    fs::create_dir_all(evidence.join("2")).unwrap();
    let left = ["", "2"].map(|folder| evidence.join(folder).join(format!(".guardiand-{}-0.tmp", dead.id())));
    for file in &left {
        fs::write(file, "{").unwrap();
    }
    let before = names(&evidence);
    let mut daemon = scene.daemon();
    daemon.incident("app", 1, "asked about", |incident| incident["state"] == "awaiting_approval");
    assert!(!left.iter().any(|file| file.exists()), "{:?}", names(&evidence));
    assert!(before.iter().filter(|name| !name.starts_with('.')).all(|name| evidence.join(name).exists()));
}

#[test]
fn a_damaged_or_missing_index_is_rebuilt_from_the_folders() {
    for damage in ["overwritten", "truncated", "missing", "not a file", "a pipe", "a pipe for a journal"] {
        let (scene, daemon) = healed();
        let before = daemon.incidents("app");
        assert!(daemon.stop().success());
        let index = scene.path("state/state.db");
        match damage {
            "overwritten" => drop(damage::overwrite(&index, 0, &Dice::new().bytes(4096))),
            "truncated" => fs::File::options().write(true).open(&index).unwrap().set_len(5000).unwrap(),
            "missing" => {
                for name in names(&scene.path("state")).iter().filter(|name| name.starts_with("state.db")) {
                    fs::remove_file(scene.path("state").join(name)).unwrap();
                }
            }
            "a pipe" => {
                fs::remove_file(&index).unwrap();
                make_pipe(&index);
            }
            "a pipe for a journal" => make_pipe(&beside(&index, "-journal")),
            _ => {
                fs::remove_file(&index).unwrap();
                fs::create_dir(&index).unwrap();
            }
        }
        let mut daemon = scene.daemon();
        assert_eq!(daemon.incidents("app"), before, "{damage}");
        daemon.healthy("app");
        let aside = names(&scene.path("state")).into_iter().filter(|name| name.starts_with("state.db.damaged")).count();
        // A cut one may still be whole through its own WAL.
        let must_be_aside = !["truncated", "missing"].contains(&damage);
        assert!(aside > 0 || !must_be_aside, "{damage}: what was damaged is kept aside");
        let told = daemon.log().contains("what was remembered of each target");
        assert_eq!(told, damage == "missing", "{damage}: who loses what was remembered is told");
        // What was remembered is gone with it; the backups are not.
        fs::remove_file(scene.db()).unwrap();
        let incident = daemon.closed("app", 2);
        assert_eq!(incident["outcome"], "healed", "{damage}: {incident:#}");
        assert_eq!(scene.lost(), 0);
        scene.assert_whole("wal");
    }
}

#[test]
fn rows_of_the_index_that_nobody_can_read_are_rebuilt_from_the_folders() {
    let (scene, daemon) = healed();
    let before = daemon.incidents("app");
    assert!(daemon.stop().success());
    // The file is a sound database all the same.
    let index = scene.path("state/state.db");
    let (mut bytes, word) = (fs::read(&index).unwrap(), b"\"opened_at\"");
    let found = (0..bytes.len() - word.len()).filter(|at| bytes[*at..].starts_with(word)).collect::<Vec<_>>();
    assert!(!found.is_empty());
    found.iter().for_each(|at| bytes[*at..*at + word.len()].fill(0xFF));
    fs::write(&index, bytes).unwrap();

    let daemon = scene.daemon();
    assert_eq!(daemon.incidents("app"), before);
    assert!(daemon.log().contains("rebuilt from the incident folders"), "it goes without a word");
    let aside = names(&scene.path("state")).into_iter().filter(|name| name.starts_with("state.db.damaged")).count();
    assert!(aside > 0, "what was damaged is kept aside");
}

#[test]
fn an_incident_that_was_open_is_open_again_when_the_index_is_lost() {
    let scene = Scene::of("when_in_use = \"refuse\"");
    scene.commit("wal", 60, &["--rows-per-commit", "5"]);
    let mut daemon = scene.daemon();
    daemon.healthy("app");
    // A program has it open, and nothing is to be done then: a person is needed.
    let _program = scene.writer("wal", "0", &["--open-idle"]);
    damage::leaf(&scene.db(), "rows", &mut Dice::new());
    let before = daemon.escalated("app", 1);
    daemon.kill();
    for name in names(&scene.path("state")).iter().filter(|name| name.starts_with("state.db")) {
        fs::remove_file(scene.path("state").join(name)).unwrap();
    }
    let mut daemon = scene.daemon();
    let after = daemon.escalated("app", 1);
    assert_eq!((&after["id"], &after["opened_at"]), (&before["id"], &before["opened_at"]), "{after:#}");
}

#[test]
fn a_second_daemon_on_the_same_state_is_refused_and_told_who_holds_it() {
    let (scene, mut first) = healed();
    let second = scene.launch(&[]);
    let (second_pid, status) = (second.pid(), second.wait());
    assert_eq!(status.code(), Some(1));
    let log = scene.path("daemon.log");
    let told = fs::read_to_string(log).unwrap();
    let refusal = told.lines().rfind(|line| line.contains(&first.pid().to_string()));
    assert!(refusal.is_some(), "pid {} is not named (second was {second_pid}) in\n{told}", first.pid());
    // The first one is not disturbed.
    fs::remove_file(scene.db()).unwrap();
    assert_eq!(first.closed("app", 2)["outcome"], "healed");
}

#[test]
fn a_polite_end_while_it_waits_parks_the_heal_and_the_next_start_carries_on() {
    let scene = Scene::of("busy_timeout = \"100ms\"\nretry = { attempts = 100, initial = \"1s\", factor = 1.0 }");
    scene.commit("delete", 20, &[]);
    let mut daemon = scene.daemon();
    daemon.healthy("app");
    let holder = scene.writer("delete", "0", &["--hold-lock", "3600"]);
    let before = daemon.incident("app", 1, "healing", |incident| incident["state"] == "healing");
    assert!(daemon.stop().success(), "parking is no failure");
    assert!(holder.finish().success());

    let mut daemon = scene.daemon();
    let incident = daemon.closed("app", 1);
    assert_eq!(incident["id"], before["id"]);
    assert_eq!(incident["outcome"], "healed", "{incident:#}");
    scene.assert_whole("delete");
}

#[test]
fn a_polite_end_in_the_middle_of_a_restore_leaves_it_whole() {
    // Some megabytes, so that the end often falls into a step; wherever it falls, what follows is the same.
    for pause_ms in [0, 5, 10, 20, 40, 80] {
        let scene = Scene::of(BACKUP);
        scene.commit("wal", 40, &["--row-bytes", "500000", "--synchronous", "off"]);
        let mut daemon = scene.daemon();
        daemon.backed_up("app");
        daemon.healthy("app");
        let bytes = damage::header(&scene.db(), &mut Dice::new());
        daemon.incident("app", 1, "seen", |_| true);
        // Not for luck: each pause is another place for the end to fall.
        std::thread::sleep(std::time::Duration::from_millis(pause_ms));
        assert!(daemon.stop().success(), "after {pause_ms} ms");

        let mut daemon = scene.daemon();
        let incident = daemon.closed("app", 1);
        assert_eq!(incident["outcome"], "healed", "after {pause_ms} ms: {incident:#}");
        assert_eq!(scene.lost(), 0);
        scene.assert_evidence(&incident, &[("main", Some(&bytes))]);
        scene.assert_whole("wal");
    }
}

#[test]
fn a_polite_end_in_the_middle_of_a_look_or_a_backup_leaves_nothing_beside_a_database_at_rest() {
    let scene = Scene::of("backup = { every = \"24h\", to = \"backups\" }");
    scene.commit("wal", 200, &["--rows-per-commit", "100", "--row-bytes", "1000"]);
    let before = scene.names();
    for _ in 0..6 {
        let mut daemon = scene.launch(&[]);
        // It is open now, for a look or for its backup: who is killed here leaves the two behind.
        daemon.wait_for("a look", |_| beside(&scene.db(), "-shm").exists().then_some(()));
        assert!(daemon.stop().success());
        assert_eq!(scene.names(), before);
        // The next one knows nothing of it either: it looks at all of it, and takes a backup.
        fs::remove_dir_all(scene.path("state")).unwrap();
        fs::remove_dir_all(scene.path("backups")).unwrap_or_default();
    }
}
