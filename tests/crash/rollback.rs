//! kill -9 after every append to the journal while a heal is taken back: the next start goes on with it, or it had not begun.

use std::fs;
use std::process::Command;

use serde_json::Value;

use super::support::command::run;
use super::support::daemon::Daemon;
use super::support::damage::{self, Dice};
use super::support::scene::Scene;
use super::support::service::Service;
use super::support::truth::{self, Bytes, beside, ownership};

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
    command.args(["rollback", id, "--config", "guardian.toml", "--json", "--accept-loss"]);
    if let Some(append) = killed_after {
        // A command that dies by a signal has no exit status to report: a shell gives it one.
        let binary = env!("CARGO_BIN_EXE_guardiand");
        command = Command::new("sh");
        command
            .arg("-c")
            .arg(format!("\"{binary}\" rollback {id} --config guardian.toml --json --accept-loss; exit $?"));
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

#[test]
fn a_rollback_of_a_group() {
    for append in 1..=APPENDS_MAX {
        let mut scene = Scene::new();
        let lines = "group = \"shop\"\nbackup = { every = \"24h\", to = \"backups\" }";
        scene.database("app", "data/app.db", lines);
        scene.database("stock", "data/stock.db", lines);
        let stock = scene.path("data/stock.db");
        for db in [&scene.db(), &stock] {
            assert!(scene.writer_of(db, "delete", "20", &[]).finish().success());
        }
        let mut daemon = scene.daemon();
        for name in ["app", "stock"] {
            daemon.backed_up(name);
            daemon.healthy(name);
        }
        assert!(scene.writer_of(&stock, "delete", "5", &[]).finish().success());
        daemon.caught_up("stock");
        damage::header(&scene.db(), &mut Dice::new());
        let both = || [scene.db(), stock.clone()].map(|db| Bytes(fs::read(db).unwrap()));
        let before = both();
        let id = daemon.closed("app", 1)["id"].as_str().unwrap().to_owned();
        daemon.healthy("app");
        assert!(daemon.stop().success());
        let healed = both();

        let done = rolls_back(&scene, &id, Some(append));
        let mut daemon = scene.daemon();
        let newest = daemon.wait_for("the end of the rollback", |daemon| {
            let newest = daemon.incidents("app").first().filter(|newest| newest["id"] != id.as_str())?.clone();
            matches!(newest["state"].as_str(), Some("escalated" | "closed")).then_some(newest)
        });
        daemon.caught_up_with_looks("app");
        daemon.caught_up_with_looks("stock");
        // Its first entries say what is asked for; from there on it goes on.
        let expected = if newest["state"] == "closed" && append <= 3 { &healed } else { &before };
        assert_eq!(&both(), expected, "killed after {append}: {newest:#}");
        let ours = scene.names().into_iter().filter(|name| name.contains("guardian")).collect::<Vec<_>>();
        assert_eq!(ours, Vec::<String>::new(), "killed after {append}: we left files behind");
        if done {
            assert!(append > 12, "the failpoint has no effect: is this a release build?");
            return;
        }
    }
    panic!("more than {APPENDS_MAX} appends: the rollback turns in circles");
}

/// A database that a service uses: a page of its rows was random bytes, with commits in its WAL, and it was healed.
struct Used {
    scene: Scene,
    service: Service,
    arguments: Option<Vec<String>>,
    /// The page that was random, and where it is.
    page: Vec<u8>,
    at: usize,
    id: String,
}

impl Used {
    fn healed() -> Used {
        let mut scene = Scene::new();
        // Each start of it is one commit. Two of them at once get on with each other.
        let service = Service::of(&scene, "wal", &["--busy-timeout", "10000", "--pause", "3600000", "--shared"]);
        // Its WAL accounts for a change of the main file: damage beside that shows by its content alone.
        let often = "integrity = { quick = \"300ms\", full = \"300ms\" }";
        let lines = format!("backup = {{ every = \"24h\", to = \"backups\" }}\n{often}\n{}", service.app());
        scene.database("app", "data/app.db", &lines);
        scene.commit("wal", 60, &["--rows-per-commit", "5"]);
        scene.give_away_if_root();
        let mut daemon = scene.daemon();
        daemon.backed_up("app");
        daemon.healthy("app");
        assert!(daemon.stop().success());
        scene.writer("wal", "10", &["--no-checkpoint", "--die"]).ended();
        let good = scene.bytes()[0].clone().unwrap();
        let bad = damage::first_leaf(&scene.db(), "rows", &mut Dice::new());
        let size = damage::page_size(&good);
        let at = (0..good.len()).step_by(size).find(|at| good[*at..at + size] != bad[*at..at + size]).unwrap();
        let page = bad[at..at + size].to_vec();
        let mut daemon = scene.daemon();
        let incident = daemon.closed("app", 1);
        assert_eq!(incident["outcome"], "healed", "{incident:#}");
        daemon.healthy("app");
        assert!(daemon.stop().success());
        let id = incident["id"].as_str().unwrap().to_owned();
        let promised = truth::promised(&scene.log_of(&scene.db())).len();
        service.start();
        service.wait_for("its commit", || truth::promised(&scene.log_of(&scene.db())).len() > promised);
        let arguments = service.arguments();
        Used { scene, service, arguments, page, at, id }
    }

    /// What must be true once a daemon has carried on; true when the heal is taken back.
    fn check(&self, mut daemon: Daemon, append: u32) -> bool {
        let told = daemon.wait_for("the end of the rollback", |daemon| {
            let incidents = daemon.incidents("app");
            let first = incidents.iter().find(|incident| incident["id"] == self.id.as_str()).cloned()?;
            let newest = incidents.first().filter(|newest| newest["id"] != self.id.as_str())?.clone();
            let settled = matches!(newest["state"].as_str(), Some("escalated" | "closed"));
            Some((first, newest)).filter(|_| settled)
        });
        let (first, second): (Value, Value) = told;
        let runs = || self.service.arguments() == self.arguments;
        self.service.wait_for("the program to run again", runs);
        daemon.caught_up_with_looks("app");
        assert!(runs(), "killed after {append}: {second:#}");
        assert_eq!(daemon.incidents("app").len(), 2, "killed after {append}");
        self.service.stop();
        let promised = truth::promised(&self.scene.log_of(&self.scene.db()));
        assert!(daemon.stop().success());

        let ours = self.scene.names().into_iter().filter(|name| name.contains("guardian")).collect::<Vec<_>>();
        assert_eq!(ours, Vec::<String>::new(), "killed after {append}: we left files behind");
        let mut known = truth::commits_of(&self.scene.db());
        for incident in [&first, &second].into_iter().filter(|incident| incident["evidence"].is_string()) {
            known.extend(truth::commits_in_evidence(incident));
        }
        let vanished = promised.difference(&known).collect::<Vec<_>>();
        assert_eq!(vanished, Vec::<&i64>::new(), "killed after {append}: neither there nor in evidence: {second:#}");
        let main = self.scene.bytes()[0].clone().unwrap();
        let is_back = main[self.at..self.at + self.page.len()] == self.page;
        assert_eq!(first["outcome"] == "rolled_back", is_back, "killed after {append}: {first:#}\n{second:#}");
        is_back
    }
}

/// Kills a rollback after each of its appends from `first` on, has `meanwhile` happen while nobody watches, and lets `check` judge
/// the daemon that follows, until one kill comes after the rollback's end: how many appends it took.
fn each_append(first: u32, meanwhile: impl Fn(&Used), check: impl Fn(&Used, Daemon, u32)) -> u32 {
    for append in first..=APPENDS_MAX {
        let used = Used::healed();
        let mut daemon = used.scene.launch(&[("GUARDIAND_KILL_AFTER_APPEND", &append.to_string())]).ready();
        let done = rolls_back(&used.scene, &used.id, None);
        if !done {
            daemon.wait();
            meanwhile(&used);
            daemon = used.scene.daemon();
        }
        check(&used, daemon, append);
        if done {
            return append - 1;
        }
    }
    panic!("more than {APPENDS_MAX} appends: the rollback turns in circles");
}

#[test]
fn a_rollback_that_stops_its_program() {
    // The first three say what is asked for; from there on it goes on.
    let appends = each_append(1, |_| {}, |used, daemon, append| assert_eq!(used.check(daemon, append), append > 3));
    println!("{appends} appends");
    assert!(appends > 13, "the failpoint has no effect: is this a release build?");
}

#[test]
fn a_rollback_whose_program_is_started_again_by_others_meanwhile() {
    // Whoever supervises it is not asked to wait for guardiand.
    let starts = |used: &Used| {
        if used.service.arguments().is_none() {
            used.service.launch();
        }
    };
    // It may have come in between: then all is as it was before, and a person knows.
    each_append(4, starts, |used, daemon, append| {
        used.check(daemon, append);
    });
}
