//! Files that are deleted or replaced under the programs that have them open: what the programs go on to commit lives in
//! descriptors alone, and comes back whole.

mod in_the_way;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rustix::process::Signal;
use serde_json::Value;

use super::support::command::guardiand;
use super::support::daemon::Daemon;
use super::support::damage;
use super::support::program::Program;
use super::support::scene::Scene;
use super::support::service::Service;
use super::support::truth::{self, Content, beside};

const BACKUP: &str = "backup = { every = \"24h\", to = \"backups\" }";
/// What a well-kept program brings along.
const PATIENT: [&str; 4] = ["--busy-timeout", "10000", "--pause", "5"];

/// What becomes of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    /// The main file is deleted.
    Deleted,
    /// An older copy is renamed over it.
    Replaced,
    /// It is renamed, and nothing is in its place.
    Moved,
    /// The WAL and its index are deleted, as people do who take them for leftovers.
    WalDeleted,
    /// They are moved away.
    WalMoved,
    /// All of it is deleted.
    AllDeleted,
}

impl Harm {
    fn befall(self, scene: &Scene) {
        let db = scene.db();
        match self {
            Harm::Deleted => fs::remove_file(db).unwrap(),
            Harm::Replaced => fs::rename(scene.path("older.db"), db).unwrap(),
            Harm::Moved => fs::rename(&db, scene.path("moved.db")).unwrap(),
            Harm::WalDeleted => ["-wal", "-shm"].iter().for_each(|side| fs::remove_file(beside(&db, side)).unwrap()),
            Harm::WalMoved => ["-wal", "-shm"]
                .iter()
                .for_each(|side| fs::rename(beside(&db, side), beside(&scene.path("moved.db"), side)).unwrap()),
            Harm::AllDeleted => {
                ["", "-wal", "-shm"].iter().for_each(|side| fs::remove_file(beside(&db, side)).unwrap());
            }
        }
    }
}

/// 100 commits in a database that a daemon knows and has a backup of; a copy of it as people make them.
fn prepare(scene: &Scene, mode: &str) -> Daemon {
    scene.commit(mode, 100, &["--rows-per-commit", "3"]);
    fs::copy(scene.db(), scene.path("older.db")).unwrap();
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    daemon
}

fn promised(scene: &Scene) -> usize {
    truth::promised(&scene.log_of(&scene.db())).len()
}

/// The program runs, the daemon has seen so, and it has committed what is nowhere but in its WAL.
fn runs(scene: &Scene, daemon: &mut Daemon) {
    daemon.wait_for("the program to commit", |_| (promised(scene) > 120).then_some(()));
    daemon.caught_up("app");
    let enough = promised(scene) + 10;
    daemon.wait_for("the program to commit", |_| (promised(scene) > enough).then_some(()));
}

fn goes_on(scene: &Scene, daemon: &mut Daemon) {
    let enough = promised(scene) + 20;
    daemon.wait_for("the program to go on", |_| (promised(scene) >= enough).then_some(()));
}

/// The folder in which what was held is kept.
fn held(incident: &Value) -> PathBuf {
    let evidence = PathBuf::from(incident["evidence"].as_str().unwrap_or_else(|| panic!("no evidence: {incident:#}")));
    kept_in(&evidence).unwrap_or_else(|| panic!("nothing is kept: {incident:#}"))
}

/// The newest whole copy of what was held; an older one goes when it is superseded.
fn kept_in(evidence: &Path) -> Option<PathBuf> {
    if !evidence.exists() {
        return None;
    }
    let number = |name: &String| name.strip_prefix("held-")?.parse::<u32>().ok();
    let numbers = truth::names(evidence).iter().filter_map(number).collect::<BTreeSet<_>>();
    let folders = numbers.into_iter().rev().map(|number| evidence.join(format!("held-{number}")));
    folders.into_iter().find(|folder| folder.join("manifest.json").exists())
}

fn assert_reclaimed(scene: &Scene, incident: &Value, what: &str) {
    assert_eq!(incident["kind"], "db_file_unlinked", "{what}: {incident:#}");
    assert_eq!(incident["outcome"], "healed", "{what}: {incident:#}");
    assert_eq!(incident["playbook"], "reclaim", "{what}: {incident:#}");
    // Who may not see every process cannot know that nobody wrote later.
    let unknown = incident["loss"]["rows_lost"].is_null() && !truth::is_root();
    assert!(unknown || incident["loss"]["rows_lost"] == 0, "{what}: {incident:#}");
    assert_eq!(scene.lost(), 0, "{what}: {incident:#}");
}

#[test]
fn with_its_program_stopped_every_commit_comes_back_and_the_program_goes_on() {
    for harm in [Harm::Deleted, Harm::Replaced, Harm::Moved, Harm::WalDeleted, Harm::AllDeleted] {
        let mut scene = Scene::new();
        let service = Service::of(&scene, "wal", &PATIENT);
        scene.database("app", "data/app.db", &format!("when_in_use = \"stop-app\"\n{}\n{BACKUP}", service.app()));
        let mut daemon = prepare(&scene, "wal");
        service.start();
        runs(&scene, &mut daemon);
        let arguments = service.arguments();
        let ownership = truth::ownership(&scene.db());
        harm.befall(&scene);

        let incident = daemon.closed("app", 1);
        service.wait_for("the program to run again", || service.arguments() == arguments);
        goes_on(&scene, &mut daemon);
        service.stop();
        assert_reclaimed(&scene, &incident, &format!("{harm:?}"));
        assert_eq!(truth::ownership(&scene.db()), ownership, "{harm:?}");
        daemon.healthy("app");
        assert_eq!(daemon.incidents("app").len(), 1, "{harm:?}");
        assert!(daemon.stop().success());
        scene.assert_whole("wal");
    }
}

#[test]
fn left_alone_it_is_kept_at_once_and_put_back_when_its_program_has_ended_whatever_way() {
    for (harm, killed) in [
        (Harm::Deleted, true),
        (Harm::Replaced, true),
        (Harm::Replaced, false),
        (Harm::WalDeleted, true),
        (Harm::WalMoved, true),
        (Harm::AllDeleted, false),
    ] {
        let scene = Scene::of(BACKUP);
        let mut daemon = prepare(&scene, "wal");
        let program = scene.writer("wal", "forever", &[&PATIENT[..], &["--no-checkpoint"]].concat());
        runs(&scene, &mut daemon);
        harm.befall(&scene);

        let incident = daemon.escalated("app", 1);
        assert_eq!(incident["kind"], "db_file_unlinked", "{incident:#}");
        let reason = incident["reason"].as_str().unwrap();
        assert!(reason.contains(&format!("kill {}", program.pid())), "{reason}");
        assert!(held(&incident).join("main").exists(), "{incident:#}");
        assert_ne!(
            scene.db().exists(),
            matches!(harm, Harm::Deleted | Harm::AllDeleted),
            "something was put in its way"
        );
        goes_on(&scene, &mut daemon);
        if killed {
            program.kill();
        } else {
            assert!(program.finish().success());
        }
        let incident = daemon.closed("app", 1);
        assert_reclaimed(&scene, &incident, &format!("{harm:?}"));
        scene.assert_honest(&incident, &scene.db());
        assert!(daemon.stop().success());
        scene.assert_whole("wal");
    }
}

/// Its program goes by the index in memory and notices nothing; SQLite alone would read nothing of such a WAL.
#[test]
fn a_damaged_wal_that_went_with_its_database_is_mended_on_the_way_back() {
    for harm in [|wal: &Path| drop(damage::overwrite(wal, 0, &[0xA5; 32])), |wal: &Path| drop(damage::wal_frame(wal))] {
        let scene = Scene::of(BACKUP);
        let mut daemon = prepare(&scene, "wal");
        let program = scene.writer("wal", "forever", &[&PATIENT[..], &["--no-checkpoint"]].concat());
        runs(&scene, &mut daemon);
        // Both at once, as far as guardiand can see.
        daemon.signal(Signal::STOP);
        harm(&beside(&scene.db(), "-wal"));
        fs::remove_file(scene.db()).unwrap();
        daemon.signal(Signal::CONT);
        daemon.escalated("app", 1);
        assert!(program.finish().success());
        let incident = daemon.closed("app", 1);
        assert_reclaimed(&scene, &incident, "a damaged WAL");
        assert!(daemon.stop().success());
        scene.assert_whole("wal");
    }
}

#[test]
fn what_a_program_goes_on_writing_under_no_name_is_preserved_once_however_long_it_does() {
    let scene = Scene::of(BACKUP);
    let mut daemon = prepare(&scene, "wal");
    let program = scene.writer("wal", "forever", &PATIENT);
    runs(&scene, &mut daemon);
    // Its WAL stays where it is, so every commit is seen.
    Harm::Deleted.befall(&scene);
    daemon.escalated("app", 1);
    for _ in 0..5 {
        goes_on(&scene, &mut daemon);
        daemon.caught_up_with_looks("app");
    }
    let incident = daemon.escalated("app", 1);
    let preserved = incident["steps"].as_array().unwrap().iter().filter(|step| step["step"] == "preserve").count();
    assert_eq!(preserved, 1, "{incident:#}");
    program.kill();
    assert_reclaimed(&scene, &daemon.closed("app", 1), "in the end");
    scene.assert_whole("wal");
}

#[test]
fn in_rollback_mode_an_idle_programs_file_is_put_back_too() {
    for harm in [Harm::Deleted, Harm::Replaced, Harm::Moved] {
        let scene = Scene::of(BACKUP);
        let mut daemon = prepare(&scene, "delete");
        let program = scene.writer("delete", "30", &["--open-idle"]);
        daemon.caught_up("app");
        harm.befall(&scene);
        let incident = daemon.escalated("app", 1);
        assert_eq!(incident["kind"], "db_file_unlinked", "{harm:?}: {incident:#}");
        program.kill();
        let incident = daemon.closed("app", 1);
        assert_reclaimed(&scene, &incident, &format!("{harm:?}"));
        scene.assert_whole("delete");
    }
}

#[test]
fn what_is_kept_is_kept_on_while_guardiand_itself_is_dead() {
    for restarted_first in [false, true] {
        let scene = Scene::of(BACKUP);
        let mut daemon = prepare(&scene, "wal");
        let program = scene.writer("wal", "forever", &PATIENT);
        runs(&scene, &mut daemon);
        Harm::Replaced.befall(&scene);
        daemon.escalated("app", 1);
        daemon.kill();
        let enough = promised(&scene) + 50;
        while promised(&scene) < enough {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let mut program = Some(program);
        if !restarted_first && let Some(program) = program.take() {
            program.kill();
        }
        let mut daemon = scene.daemon();
        if let Some(program) = program {
            goes_on(&scene, &mut daemon);
            program.kill();
        }
        let incident = daemon.closed("app", 1);
        assert_reclaimed(&scene, &incident, "after a restart");
        scene.assert_whole("wal");
    }
}

#[test]
fn two_programs_on_two_files_are_told_of_with_their_rows_and_neither_is_replaced() {
    let mut scene = Scene::new();
    let service = Service::of(&scene, "wal", &PATIENT);
    scene.database("app", "data/app.db", &format!("when_in_use = \"stop-app\"\n{}\n{BACKUP}", service.app()));
    scene.commit("wal", 100, &["--rows-per-commit", "3"]);
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    // A second database of the same kind, with rows of its own; its program comes with the file.
    let other = scene.path("other.db");
    let status = scene.writer_of(&other, "delete", "7", &[]).finish();
    assert!(status.success());
    let first = scene.writer("wal", "30", &["--no-checkpoint", "--open-idle"]);
    daemon.caught_up("app");
    assert!(daemon.stop().success());
    fs::rename(&other, scene.db()).unwrap();
    ["-wal", "-shm"].iter().for_each(|side| fs::remove_file(beside(&scene.db(), side)).unwrap());
    let second = Program::start(&scene.db(), "delete", "0", &scene.path("second.log"), &["--open-idle"]);
    let before = scene.bytes();
    let mut daemon = scene.daemon();

    let incident = daemon.escalated("app", 1);
    assert_eq!(incident["kind"], "db_file_unlinked", "{incident:#}");
    let reason = incident["reason"].as_str().unwrap();
    for word in [first.pid().to_string(), second.pid().to_string(), "commits 130".into(), "commits 7".into()] {
        assert!(reason.contains(&word), "no {word} in {reason}");
    }
    let kept = held(&incident);
    assert_eq!(
        truth::promised(&scene.log_of(&scene.db())).difference(&Content::of(&kept.join("main")).commits).count(),
        0
    );
    scene.assert_evidence(&incident, &[("main", before[0].as_deref())]);
    first.kill();
    second.kill();
    // Both have committed: that one of them has ended does not make the other's rows worth less.
    let told = |incident: &Value| incident["reason"].as_str().is_some_and(|reason| reason.contains("not-wanted"));
    let incident = daemon.incident("app", 1, "a choice to be made", told);
    assert_eq!(incident["state"], "escalated", "{incident:#}");
    assert_eq!(scene.bytes(), before, "one side was replaced");

    // A person keeps what is at the path.
    let kept = held(&incident);
    fs::rename(&kept, kept.parent().unwrap().join("not-wanted")).unwrap();
    let incident = daemon.closed("app", 1);
    assert_eq!(incident["outcome"], "resolved_by_operator", "{incident:#}");
    assert_eq!(Content::of(&scene.db()).commits.len(), 7);
}

#[test]
fn a_file_that_is_no_older_copy_is_only_replaced_on_a_persons_word() {
    let mut scene = Scene::new();
    let service = Service::of(&scene, "wal", &PATIENT);
    scene.database("app", "data/app.db", &format!("when_in_use = \"stop-app\"\n{}\n{BACKUP}", service.app()));
    let mut daemon = prepare(&scene, "wal");
    service.start();
    runs(&scene, &mut daemon);
    let deployed = scene.path("deployed.db");
    let db = Connection::open(&deployed).unwrap();
    for table in 0..50 {
        db.execute_batch(&format!("CREATE TABLE t{table}(x); INSERT INTO t{table} VALUES ({table})")).unwrap();
    }
    drop(db);
    let stranger = fs::read(&deployed).unwrap();
    fs::rename(&deployed, scene.db()).unwrap();

    let asked = |incident: &Value| incident["state"] == "awaiting_approval";
    let incident = daemon.incident("app", 1, "asked about", asked);
    assert!(incident["reason"].as_str().unwrap().contains("no older copy"), "{incident:#}");
    assert_eq!(fs::read(scene.db()).unwrap(), stranger);
    // Nothing waits with the keeping.
    let evidence = scene.path("state/incidents");
    let kept =
        || fs::read_dir(&evidence).unwrap().flatten().any(|entry| kept_in(&entry.path().join("evidence")).is_some());
    daemon.wait_for("it to be kept", |_| kept().then_some(()));
    goes_on(&scene, &mut daemon);

    let config = scene.write_config().display().to_string();
    let id = incident["id"].as_str().unwrap();
    let healed = guardiand(&scene.path(""), &["approve", id, "--config", &config, "--json"]).json_of(0);
    assert_eq!(healed["outcome"], "healed", "{healed:#}");
    goes_on(&scene, &mut daemon);
    service.stop();
    let incident = daemon.closed("app", 1);
    assert_reclaimed(&scene, &incident, "a stranger");
    let kept = PathBuf::from(incident["evidence"].as_str().unwrap()).join("main");
    assert_eq!(fs::read(kept).unwrap(), stranger, "the file that was there is not in evidence");
}

/// `rm -r` of the folder: there is nowhere to put anything back until a person makes it again.
#[test]
fn what_a_program_holds_is_kept_where_the_folder_is_gone_too_and_put_back_into_a_new_one() {
    for ended_first in [true, false] {
        let mut scene = Scene::new();
        let service = Service::of(&scene, "wal", &PATIENT);
        scene.database("app", "data/app.db", &format!("when_in_use = \"stop-app\"\n{}\n{BACKUP}", service.app()));
        let mut daemon = prepare(&scene, "wal");
        service.start();
        runs(&scene, &mut daemon);
        let arguments = service.arguments();
        fs::remove_dir_all(scene.path("data")).unwrap();

        let incident = daemon.escalated("app", 1);
        assert_eq!(incident["kind"], "db_file_unlinked", "{incident:#}");
        assert!(incident["reason"].as_str().unwrap().contains("mkdir -p"), "{incident:#}");
        let evidence = scene.path("state/incidents").join(incident["id"].as_str().unwrap()).join("evidence");
        daemon.wait_for("it to be kept", |_| kept_in(&evidence));
        // It is not stopped: it could not be started again.
        goes_on(&scene, &mut daemon);
        if ended_first {
            service.stop();
            let told = |incident: &Value| incident["reason"].as_str().is_some_and(|why| why.contains(" had is in "));
            daemon.incident("app", 1, "its end to be told", told);
        }
        assert!(!scene.path("data").exists(), "a folder was made");
        fs::create_dir(scene.path("data")).unwrap();
        let incident = daemon.closed("app", 1);
        service.wait_for("the program to run again", || ended_first || service.arguments() == arguments);
        if !ended_first {
            goes_on(&scene, &mut daemon);
            service.stop();
        }
        assert_reclaimed(&scene, &incident, &format!("ended first: {ended_first}"));
        assert!(daemon.stop().success());
        scene.assert_whole("wal");
    }
}

/// Why nothing is healed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Brake {
    Paused,
    Mass,
    Observed,
}

/// It is gone with its program: no brake is a reason to wait with the copy.
#[test]
fn what_a_program_holds_is_kept_while_nothing_may_be_healed() {
    for brake in [Brake::Paused, Brake::Mass, Brake::Observed] {
        let mut scene = Scene::new();
        let names = ["a", "b", "c", "d"].map(|name| (name, scene.path(&format!("data/{name}.db"))));
        let names = &names[..if brake == Brake::Mass { 4 } else { 1 }];
        let lines = if brake == Brake::Observed { "policy = \"observe\"" } else { "" };
        for (name, db) in names {
            scene.database(name, &format!("data/{name}.db"), &format!("{lines}\n{BACKUP}"));
            assert!(scene.writer_of(db, "wal", "20", &[]).finish().success());
        }
        let mut daemon = scene.daemon();
        for (name, _) in names {
            daemon.backed_up(name);
            daemon.healthy(name);
        }
        let promised = |db: &Path| truth::promised(&scene.log_of(db)).len();
        let flags = [&PATIENT[..], &["--no-checkpoint"]].concat();
        let programs = names.iter().map(|(_, db)| scene.writer_of(db, "wal", "forever", &flags)).collect::<Vec<_>>();
        for (name, db) in names {
            daemon.wait_for("the program to commit", |_| (promised(db) > 40).then_some(()));
            daemon.caught_up(name);
        }
        let config = scene.write_config().display().to_string();
        let asked = |words: &[&str]| guardiand(&scene.path(""), &[words, &["--config", &config, "--json"]].concat());
        if brake == Brake::Paused {
            asked(&["pause", "a"]).json_of(0);
        }
        // At once as the daemon sees it, however slow the machine is.
        daemon.signal(Signal::STOP);
        for (_, db) in names {
            ["", "-wal", "-shm"].iter().for_each(|side| fs::remove_file(beside(db, side)).unwrap());
        }
        daemon.signal(Signal::CONT);
        let evidence =
            |incident: &Value| scene.path("state/incidents").join(incident["id"].as_str().unwrap()).join("evidence");
        for (name, db) in names {
            let incident = daemon.incident(name, 1, "held back", |incident| incident["reason"].is_string());
            let why = incident["reason"].as_str().unwrap();
            let word = [("paused", Brake::Paused), ("mass", Brake::Mass), ("the policy", Brake::Observed)];
            assert!(word.iter().any(|(word, of)| *of == brake && why.starts_with(word)), "{incident:#}");
            daemon.wait_for("it to be kept", |_| kept_in(&evidence(&incident)));
            let enough = promised(db) + 20;
            daemon.wait_for("the program to go on", |_| (promised(db) >= enough).then_some(()));
            assert!(!db.exists(), "{brake:?}: something was put in its way");
        }
        programs.into_iter().for_each(Program::kill);
        for (name, _) in names {
            let ended = |daemon: &Daemon| daemon.target(name).filter(|it| it.to_string().contains("and has ended"));
            daemon.wait_for("its end to be seen", ended);
        }
        match brake {
            Brake::Paused => drop(asked(&["resume", "a"]).json_of(0)),
            Brake::Mass => drop(asked(&["resume", "--all"]).json_of(0)),
            Brake::Observed => assert_eq!(asked(&["heal", "a"]).json_of(0)["outcome"], "healed"),
        }
        for (name, db) in names {
            let incident = daemon.closed(name, 1);
            assert_eq!(incident["playbook"], "reclaim", "{brake:?}: {incident:#}");
            assert_eq!(scene.lost_of(db), 0, "{brake:?}: {incident:#}");
            scene.assert_honest(&incident, db);
        }
        assert!(daemon.stop().success());
    }
}

#[test]
fn a_program_that_replaces_its_own_file_and_closes_the_old_one_is_left_alone() {
    let scene = Scene::of("");
    scene.commit("wal", 20, &[]);
    let mut daemon = scene.daemon();
    daemon.healthy("app");
    let mut db = Connection::open(scene.db()).unwrap();
    let looks = |daemon: &Daemon| daemon.target("app").unwrap()["total_checks"].as_u64().unwrap();
    let enough = looks(&daemon) + 10;
    let next = scene.path("next.db");
    while looks(&daemon) < enough {
        db.execute_batch("INSERT INTO commits DEFAULT VALUES; PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        fs::copy(scene.db(), &next).unwrap();
        fs::rename(&next, scene.db()).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(30));
        drop(db);
        db = Connection::open(scene.db()).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    drop(db);
    daemon.healthy("app");
    assert_eq!(daemon.incidents("app"), Vec::<Value>::new());
}
