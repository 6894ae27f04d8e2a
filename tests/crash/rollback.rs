//! kill -9 after every append to the journal while a heal is taken back: the next start goes on with it, or it had not begun.

use std::fs;
use std::process::Command;

use serde_json::Value;

use super::support::command::run;
use super::support::daemon::Daemon;
use super::support::damage::{self, Dice};
use super::support::scene::Scene;
use super::support::truth::{Bytes, beside, ownership};

/// A rollback writes fewer entries; more means that it turns in circles.
const APPENDS_MAX: u32 = 30;

type Files = [Option<Bytes>; 3];

/// A side file without a byte says nothing.
fn content(scene: &Scene) -> Files {
    let [main, wal, journal] = scene.bytes();
    [main, wal.filter(|bytes| !bytes.is_empty()), journal.filter(|bytes| !bytes.is_empty())]
}

/// A database with a damaged WAL was restored from its backup: what was there before, and the incident.
fn healed() -> (Scene, Files, String) {
    let scene = Scene::of("backup = { every = \"24h\", to = \"backups\" }");
    scene.commit("wal", 60, &["--rows-per-commit", "5"]);
    scene.give_away_if_root();
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    assert!(daemon.stop().success());
    scene.writer("wal", "10", &["--no-checkpoint", "--die"]).ended();
    damage::header(&scene.db(), &mut Dice::new());
    let wal = beside(&scene.db(), "-wal");
    // All of it: of a WAL that is hurt in one place more is left than the backup has.
    let length = fs::metadata(&wal).unwrap().len();
    damage::overwrite(&wal, 0, &vec![0xA5; length as usize]);
    let before = content(&scene);
    let mut daemon = scene.daemon();
    let incident = daemon.closed("app", 1);
    assert_eq!(incident["playbook"], "restore_backup", "{incident:#}");
    daemon.healthy("app");
    assert!(daemon.stop().success());
    (scene, before, incident["id"].as_str().unwrap().to_owned())
}

/// `guardiand rollback`, killed by its own failpoint or answered by a daemon that may be. True when it came to its end.
fn rolls_back(scene: &Scene, id: &str, killed_after: Option<u32>) -> bool {
    let mut command = Command::new(env!("CARGO_BIN_EXE_guardiand"));
    command.args(["rollback", id, "--config", "guardian.toml", "--json"]);
    if let Some(append) = killed_after {
        // A command that dies by a signal has no exit status to report: a shell gives it one.
        let binary = env!("CARGO_BIN_EXE_guardiand");
        command = Command::new("sh");
        command.arg("-c").arg(format!("\"{binary}\" rollback {id} --config guardian.toml --json; exit $?"));
        command.env("GUARDIAND_KILL_AFTER_APPEND", append.to_string());
    }
    run(&scene.path(""), command).status == 0
}

/// What must be true once a daemon has carried on.
fn check(scene: &Scene, daemon: &mut Daemon, (before, healed): (&Files, &Files), id: &str, append: u32) {
    let told = daemon.wait_for("the end of the rollback", |daemon| {
        let incidents = daemon.incidents("app");
        let of = |id: &str| incidents.iter().find(|incident| incident["id"] == id).cloned();
        let newest = incidents.first().filter(|newest| newest["id"] != id)?.clone();
        let settled = matches!(newest["state"].as_str(), Some("escalated" | "closed"));
        Some((of(id)?, newest)).filter(|_| settled)
    });
    let (first, second): (Value, Value) = told;
    daemon.caught_up_with_looks("app");
    let ours = scene.names().into_iter().filter(|name| name.contains("guardian")).collect::<Vec<_>>();
    assert_eq!(ours, Vec::<String>::new(), "killed after {append}: we left files behind");
    if second["state"] == "closed" {
        assert!(append <= 3, "killed after {append}: it had begun, and was given up: {second:#}");
        assert_eq!(&content(scene), healed, "killed after {append}");
        assert_eq!(first["outcome"], "healed", "killed after {append}: {first:#}");
        return;
    }
    assert_eq!(&content(scene), before, "killed after {append}: {second:#}");
    assert_ne!(ownership(&scene.db()).2, 0, "killed after {append}: its program cannot open it");
    assert_eq!(first["outcome"], "rolled_back", "killed after {append}: {first:#}");
    assert!(second["reason"].as_str().unwrap().contains("rolled back by"), "killed after {append}: {second:#}");
    assert_eq!(daemon.incidents("app").len(), 2, "killed after {append}");
}

#[test]
fn a_rollback_by_the_daemon() {
    for append in 1..=APPENDS_MAX {
        let (scene, before, id) = healed();
        let now = content(&scene);
        let daemon = scene.launch(&[("GUARDIAND_KILL_AFTER_APPEND", &append.to_string())]).ready();
        if rolls_back(&scene, &id, None) {
            println!("{} appends", append - 1);
            assert!(append > 8, "the failpoint has no effect: is this a release build?");
            let mut daemon = daemon;
            return check(&scene, &mut daemon, (&before, &now), &id, 99);
        }
        daemon.wait();
        check(&scene, &mut scene.daemon(), (&before, &now), &id, append);
    }
    panic!("more than {APPENDS_MAX} appends: the rollback turns in circles");
}

#[test]
fn a_rollback_without_a_daemon() {
    for append in 1..=APPENDS_MAX {
        let (scene, before, id) = healed();
        let now = content(&scene);
        let done = rolls_back(&scene, &id, Some(append));
        let killed_after = if done { 99 } else { append };
        check(&scene, &mut scene.daemon(), (&before, &now), &id, killed_after);
        if done {
            assert!(append > 8, "the failpoint has no effect: is this a release build?");
            return;
        }
    }
    panic!("more than {APPENDS_MAX} appends: the rollback turns in circles");
}

#[test]
fn a_rollback_that_dies_and_is_asked_for_again() {
    let (scene, before, id) = healed();
    for append in [2, 5, 1, 2, 3, 2, 1] {
        if rolls_back(&scene, &id, Some(append)) {
            break;
        }
    }
    rolls_back(&scene, &id, None);
    assert_eq!(content(&scene), before);
}
