//! Databases that are damaged while their programs run: restored under them, with them stopped, or not at all, as
//! `when_in_use` says.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::Value;

use super::support::command::guardiand;
use super::support::daemon::Daemon;
use super::support::damage::{self, Dice};
use super::support::program::executable;
use super::support::scene::Scene;
use super::support::service::Service;
use super::support::truth::{self, Bytes, Content, beside};

const BACKUP: &str = "backup = { every = \"24h\", to = \"backups\" }";
/// Damage behind SQLite's back does not show on a file that is written all the time but by its content.
const OFTEN: &str = "integrity = { quick = \"300ms\", full = \"300ms\" }";
/// What a well-kept program brings along.
const PATIENT: [&str; 4] = ["--busy-timeout", "10000", "--pause", "5"];

/// A scene with 200 commits, a backup of them, and a daemon that knows it.
fn prepared(mode: &str, lines: &str) -> (Scene, Daemon) {
    let mut scene = Scene::new();
    scene.database("app", "data/app.db", lines);
    let daemon = prepare(&scene, mode);
    (scene, daemon)
}

fn prepare(scene: &Scene, mode: &str) -> Daemon {
    scene.commit(mode, 200, &["--rows-per-commit", "5"]);
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    daemon
}

/// Every commit that a program was promised is in the database, or in the incident's evidence; and what is said of the loss
/// does not say less.
fn assert_nothing_vanished(scene: &Scene, incident: &Value) {
    let there = Content::of(&scene.db()).commits;
    let kept = truth::commits_in_evidence(incident);
    let promised = truth::promised(&scene.log_of(&scene.db()));
    let vanished = promised.iter().filter(|id| !there.contains(id) && !kept.contains(id)).collect::<Vec<_>>();
    assert_eq!(vanished, Vec::<&i64>::new(), "promised, and neither there nor in evidence: {incident:#}");
    if promised.iter().any(|id| !there.contains(id)) {
        assert_ne!(incident["loss"]["rows_lost"].as_u64(), Some(0), "{incident:#}");
    }
}

fn steps(incident: &Value) -> Vec<String> {
    let steps = incident["steps"].as_array().unwrap();
    steps
        .iter()
        .map(|step| format!("{} {}", step["step"].as_str().unwrap(), step["outcome"].as_str().unwrap()))
        .collect()
}

#[test]
fn in_place_a_writing_program_goes_on_with_all_that_it_wrote() {
    for mode in ["wal", "delete"] {
        let (scene, mut daemon) = prepared(mode, &format!("when_in_use = \"in-place\"\n{BACKUP}\n{OFTEN}"));
        let program = scene.writer(mode, "forever", &PATIENT);
        let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
        let (before, owner) = (inode(&scene.db()), truth::ownership(&scene.db()));
        damage::first_leaf(&scene.db(), "rows", &mut Dice::new());

        let incident = daemon.closed("app", 1);
        assert_eq!(incident["outcome"], "healed", "{mode}: {incident:#}");
        assert_eq!(incident["playbook"], "salvage_in_place", "{mode}: {incident:#}");
        assert_eq!((inode(&scene.db()), truth::ownership(&scene.db())), (before, owner), "{mode}");
        assert!(incident["loss"]["rows_kept"].as_u64().is_some_and(|rows| rows >= 1200), "{incident:#}");
        // The same process goes on, on the same file.
        let promised = || truth::promised(&scene.log_of(&scene.db())).len();
        let enough = promised() + 20;
        daemon.wait_for("the program to commit again", |_| (promised() >= enough).then_some(()));
        assert!(program.finish().success(), "{mode}");
        assert_nothing_vanished(&scene, &incident);
        // The page that was hurt is in the backup, and what it committed up to the lock was salvaged.
        assert_eq!(scene.lost(), 0, "{mode}: {incident:#}");
        daemon.stop();
        scene.assert_whole(mode);
    }
}

#[test]
fn a_heal_is_not_taken_back_because_the_wal_of_the_program_that_goes_on_is_too_large() {
    let mut scene = Scene::new();
    let service = Service::of(&scene, "wal", &["--no-checkpoint", "--busy-timeout", "10000", "--pause", "20"]);
    let lines =
        format!("when_in_use = \"stop-app\"\nwal_max = \"1KB\"\nbusy_timeout = \"500ms\"\n{}\n{BACKUP}", service.app());
    scene.database("app", "data/app.db", &lines);
    let mut daemon = prepare(&scene, "wal");
    // In its place one that writes nothing until it is stopped.
    fs::write(scene.path("service/run"), "").unwrap();
    let run = scene.path("service/run").display().to_string();
    let idle = scene.writer("wal", "0", &["--open-idle", "--while-there", &run]);
    fs::write(scene.path("service/pid"), idle.pid().to_string()).unwrap();
    daemon.caught_up("app");
    damage::header(&scene.db(), &mut Dice::new());

    let after = |incident: &Value, step: &str| steps(incident).iter().any(|done| done == step);
    let incident = daemon.incident("app", 1, "a checkpoint", |incident| {
        after(incident, "start_app ok") && steps(incident).iter().any(|done| done.starts_with("checkpoint"))
    });
    assert!(!steps(&incident).iter().any(|step| step.ends_with("undone") || step == "install failed"), "{incident:#}");
    service.stop();
    drop(idle);
    let incident = daemon.closed("app", 1);
    assert_eq!(incident["outcome"], "healed", "{incident:#}");
    assert!(incident["loss"].is_object(), "what the backup cost is forgotten: {incident:#}");
    assert_eq!(scene.lost(), 0, "{incident:#}");
    assert!(daemon.stop().success());
    scene.assert_whole("wal");
}

#[test]
fn a_program_is_stopped_for_the_swap_and_runs_again_with_the_same_arguments() {
    for mode in ["wal", "delete"] {
        let mut scene = Scene::new();
        let service = Service::of(&scene, mode, &PATIENT);
        let app = service.app();
        scene.database("app", "data/app.db", &format!("when_in_use = \"stop-app\"\n{app}\n{BACKUP}\n{OFTEN}"));
        let mut daemon = prepare(&scene, mode);
        service.start();
        let (pid, arguments) = (service.pid(), service.arguments());
        damage::first_leaf(&scene.db(), "rows", &mut Dice::new());

        let incident = daemon.closed("app", 1);
        assert_eq!(incident["outcome"], "healed", "{mode}: {incident:#}");
        // Whichever has more rows: it commits until it is stopped.
        let playbook = incident["playbook"].as_str().unwrap();
        assert!(["restore_backup", "salvage_rows"].contains(&playbook), "{mode}: {incident:#}");
        let steps = steps(&incident);
        assert!(steps.contains(&"stop_app ok".to_owned()) && steps.contains(&"start_app ok".to_owned()), "{steps:?}");
        service.wait_for("the program to run again", || service.arguments() == arguments);
        assert_ne!(service.pid(), pid, "it was never stopped");
        let promised = || truth::promised(&scene.log_of(&scene.db())).len();
        let enough = promised() + 20;
        service.wait_for("the program to commit again", || promised() >= enough);

        // It is nobody's child, and outlives guardiand whatever way that goes.
        let pid = service.pid();
        daemon.kill();
        let enough = promised() + 20;
        service.wait_for("the program to go on without guardiand", || promised() >= enough);
        assert_eq!(service.pid(), pid);
        service.stop();
        assert_nothing_vanished(&scene, &incident);
        scene.assert_whole(mode);
    }
}

#[test]
fn left_out_a_lossy_repair_waits_for_a_persons_word_and_is_then_done() {
    for mode in ["wal", "delete"] {
        let (scene, mut daemon) = prepared(mode, &format!("{BACKUP}\n{OFTEN}"));
        let program = scene.writer(mode, "0", &["--open-idle"]);
        let bytes = damage::first_leaf(&scene.db(), "rows", &mut Dice::new());

        let asked = |incident: &Value| incident["state"] == "awaiting_approval";
        let incident = daemon.incident("app", 1, "asked about", asked);
        let reason = incident["reason"].as_str().unwrap();
        assert!(reason.contains(&format!("pid {}", program.pid())) && reason.contains("app"), "{incident:#}");
        assert_eq!(incident["steps"].as_array().unwrap().len(), 0, "{incident:#}");
        assert_eq!(scene.bytes()[0].as_ref(), Some(&bytes), "a file in use was changed");

        let config = scene.write_config().display().to_string();
        let words = ["approve", incident["id"].as_str().unwrap(), "--config", &config, "--json"];
        let healed = guardiand(&scene.path(""), &words).json_of(0);
        assert_eq!(healed["outcome"], "healed", "{healed:#}");
        let incident = daemon.closed("app", 1);
        assert_eq!(incident["playbook"], "restore_in_place", "{incident:#}");
        scene.assert_evidence(&incident, &[("main", Some(&bytes))]);
        assert!(program.finish().success());
        assert_eq!(scene.lost(), 0);
        daemon.stop();
        scene.assert_honest(&incident, &scene.db());
        scene.assert_whole(mode);
    }
}

/// A sweep sees a busy writer's damaged pages only when a check is due: what a person said yes to is not forgotten over that.
#[test]
fn a_yes_is_acted_on_under_a_program_that_writes_too() {
    let (scene, mut daemon) = prepared("wal", &format!("{BACKUP}\nintegrity = {{ quick = \"2s\", full = \"1h\" }}"));
    let program = scene.writer("wal", "forever", &["--busy-timeout", "10000", "--pause", "20"]);
    daemon.caught_up("app");
    // A page that its writer leaves alone.
    damage::first_leaf(&scene.db(), "rows", &mut Dice::new());
    let config = scene.write_config().display().to_string();
    let run = |words: &[&str]| guardiand(&scene.path(""), &[words, &["--config", &config, "--json"]].concat());
    let asked = |incident: &Value| incident["state"] == "awaiting_approval";
    let incident = daemon.incident("app", 1, "asked about", asked);

    let healed = run(&["approve", incident["id"].as_str().unwrap()]).json_of(0);
    assert_eq!(healed["outcome"], "healed", "{healed:#}");
    let incident = daemon.closed("app", 1);
    assert_eq!(incident["playbook"], "salvage_in_place", "{incident:#}");
    assert!(program.finish().success());
    assert_nothing_vanished(&scene, &incident);
    assert_eq!(scene.lost(), 0, "{incident:#}");
}

#[test]
fn what_costs_nothing_is_done_under_a_program_without_asking() {
    for mode in ["wal", "delete"] {
        let (scene, mut daemon) = prepared(mode, BACKUP);
        let program = scene.writer(mode, "0", &["--open-idle"]);
        damage::first_leaf(&scene.db(), "rows_word", &mut Dice::new());
        let incident = daemon.closed("app", 1);
        assert_eq!(incident["playbook"], "rebuild_indexes", "{incident:#}");
        assert!(incident["loss"].is_null(), "{incident:#}");
        assert!(program.finish().success());
        assert_eq!(scene.lost(), 0);
        scene.assert_whole(mode);
    }
}

#[test]
fn refuse_means_that_nothing_is_touched_until_the_program_is_gone() {
    for mode in ["wal", "delete"] {
        let (scene, mut daemon) = prepared(mode, &format!("when_in_use = \"refuse\"\n{BACKUP}"));
        let program = scene.writer(mode, "0", &["--open-idle"]);
        let bytes = damage::first_leaf(&scene.db(), "rows", &mut Dice::new());
        let incident = daemon.escalated("app", 1);
        let reason = incident["reason"].as_str().unwrap();
        assert!(
            reason.contains(&format!("pid {}", program.pid())) && reason.contains("guardiand heal app"),
            "{reason}"
        );
        assert_eq!(scene.bytes()[0].as_ref(), Some(&bytes), "a file in use was changed");
        program.kill();
        assert_eq!(daemon.closed("app", 1)["outcome"], "healed");
        assert_eq!(scene.lost(), 0);
        scene.assert_whole(mode);
    }
}

#[test]
fn where_in_place_is_impossible_the_program_is_stopped_if_that_may_be_and_else_left_alone() {
    // In WAL mode a program holds its lock for its whole life: a first page that is gone cannot be put back under it.
    let lines = format!("when_in_use = \"in-place\"\n{BACKUP}");
    let (scene, mut daemon) = prepared("wal", &lines);
    let program = scene.writer("wal", "0", &["--open-idle"]);
    let bytes = damage::header(&scene.db(), &mut Dice::new());
    let incident = daemon.escalated("app", 1);
    let reason = incident["reason"].as_str().unwrap();
    assert!(reason.contains("WAL mode") && reason.contains("guardiand heal app"), "{reason}");
    assert_eq!(scene.bytes()[0].as_ref(), Some(&bytes), "a file in use was changed");
    drop((program, daemon));

    let mut scene = Scene::new();
    let service = Service::of(&scene, "wal", &["--busy-timeout", "10000", "--pause", "3600000"]);
    scene.database("app", "data/app.db", &format!("{lines}\n{}", service.app()));
    let mut daemon = prepare(&scene, "wal");
    service.start();
    // Its one commit goes into the database, so that page 1 is nowhere but there.
    daemon.wait_for("its one commit", |_| (truth::promised(&scene.log_of(&scene.db())).len() == 201).then_some(()));
    let checkpointed = || {
        rusqlite::Connection::open(scene.db())
            .unwrap()
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0))
    };
    assert_eq!(checkpointed().unwrap(), 0);
    daemon.caught_up("app");
    let arguments = service.arguments();
    damage::header(&scene.db(), &mut Dice::new());
    let incident = daemon.closed("app", 1);
    assert_eq!(incident["playbook"], "mend_header", "{incident:#}");
    assert_eq!(incident["loss"]["rows_lost"], 0, "the commit that the backup lacks is there: {incident:#}");
    service.wait_for("the program to run again", || service.arguments() == arguments);
}

#[test]
fn a_program_that_restarts_by_itself_is_never_swapped_under_and_runs_on() {
    let mut scene = Scene::new();
    let service = Service::of(&scene, "wal", &PATIENT);
    // Its stop ends the writer, and a supervisor starts the next one at once.
    let keep = scene.path("keep");
    fs::write(&keep, "").unwrap();
    let supervisor = format!(
        "sh -c 'while [ -e {keep} ]; do sh {start}; done' </dev/null >/dev/null 2>&1 &",
        keep = keep.display(),
        start = scene.path("service/start").display(),
    );
    let app = service.app();
    scene.database("app", "data/app.db", &format!("when_in_use = \"stop-app\"\n{app}\n{BACKUP}\n{OFTEN}"));
    let mut daemon = prepare(&scene, "wal");
    let run = std::process::Command::new("setsid").args(["sh", "-c", &supervisor]).status().unwrap();
    assert!(run.success());
    service.wait_for("the service to run", || service.has_it_open());
    let arguments = service.arguments();
    let damaged = damage::first_leaf(&scene.db(), "rows", &mut Dice::new());

    let incident = daemon.escalated("app", 1);
    let reason = incident["reason"].as_str().unwrap();
    // It is there again at once, or while its rows are being salvaged.
    assert!(reason.contains("writer"), "{incident:#}");
    assert!(reason.contains("started it again") || reason.contains("is in use by"), "{incident:#}");
    assert!(steps(&incident).contains(&"start_app ok".to_owned()), "{incident:#}");
    assert_eq!(service.arguments(), arguments, "it runs on, and once");
    let Bytes(now) = scene.bytes()[0].clone().unwrap();
    assert_eq!(now[100..200], damaged[100..200], "it was replaced under its program");

    // The supervisor is told to give up: now it can be stopped, and is.
    fs::remove_file(&keep).unwrap();
    let config = scene.write_config().display().to_string();
    let healed = guardiand(&scene.path(""), &["heal", "app", "--config", &config, "--json"]).json_of(0);
    // guardiand may have been about to try again by itself.
    assert!(["healed", "healthy"].contains(&healed["outcome"].as_str().unwrap()), "{healed:#}");
    service.wait_for("the program to run again", || service.arguments() == arguments);
    service.stop();
    let incident = &daemon.incidents("app")[0];
    assert_eq!(incident["outcome"], "healed", "{incident:#}");
    assert_nothing_vanished(&scene, incident);
    daemon.stop();
    scene.assert_whole("wal");
}

#[test]
fn after_the_wal_reset_bug_the_programs_are_killed_and_not_asked_to_end() {
    use std::os::unix::fs::FileExt as _;
    let mut scene = Scene::new();
    let flags = ["--no-checkpoint", "--busy-timeout", "10000", "--pause", "20"];
    let service = Service::of(&scene, "wal", &flags);
    scene.database("app", "data/app.db", &format!("when_in_use = \"stop-app\"\n{}\n{BACKUP}\n{OFTEN}", service.app()));
    let mut daemon = prepare(&scene, "wal");
    service.start();
    let other = scene.writer("wal", "0", &["--no-checkpoint", "--hold-reader", "3600"]);
    daemon.caught_up("app");
    let (arguments, pid) = (service.arguments(), service.pid());
    // nBackfill, as that bug leaves it: more frames copied than there are.
    let shm = fs::File::options().write(true).open(beside(&scene.db(), "-shm")).unwrap();
    shm.write_all_at(&1_000_000_u32.to_ne_bytes(), 96).unwrap();
    // Whoever has the index open is taken for a connection, this test too.
    drop(shm);

    let incident = daemon.closed("app", 1);
    assert_eq!((&incident["kind"], &incident["outcome"]), (&"wal_corrupted".into(), &"healed".into()), "{incident:#}");
    assert_eq!(incident["playbook"], "kill_app", "{incident:#}");
    let mut done = steps(&incident);
    done.retain(|step| !step.starts_with("preserve "));
    assert_eq!(done, ["stop_app ok", "start_app ok"], "{incident:#}");
    assert!(incident["loss"].is_null(), "{incident:#}");
    // Each that had the wrong index in its memory; and the program runs again, anew.
    assert!(!other.ended().success(), "it ended in order");
    service.wait_for("the program to run again", || service.arguments() == arguments && service.pid() != pid);
    service.stop();
    daemon.stop();
    assert_eq!(scene.lost(), 0);
    scene.assert_whole("wal");
}

/// What its program commits goes into the WAL: that tears no page of the main file, and is nothing to wait for.
#[test]
fn damage_below_a_wal_is_found_however_busy_its_program_is() {
    let mut scene = Scene::new();
    // Longer than any test waits.
    scene.database("app", "data/app.db", &format!("busy_timeout = \"1h\"\n{BACKUP}"));
    let mut daemon = prepare(&scene, "wal");
    let program = scene.writer("wal", "forever", &["--no-checkpoint", "--pause", "1"]);
    daemon.caught_up("app");
    damage::first_leaf(&scene.db(), "rows", &mut Dice::new());
    let incident = daemon.incident("app", 1, "waiting", |incident| incident["state"] == "awaiting_approval");
    assert!(incident["reason"].as_str().unwrap().contains("has it open"), "{incident:#}");
    program.kill();
}

/// The WAL has a sound page 1, so that SQLite never misses that of the main file.
#[test]
fn a_main_file_overwritten_from_its_first_byte_is_found_beside_a_wal_that_hides_it() {
    let scene = Scene::of(&format!("busy_timeout = \"1s\"\n{BACKUP}"));
    let mut daemon = prepare(&scene, "wal");
    let program = scene.writer("wal", "forever", &["--no-checkpoint", "--pause", "1"]);
    daemon.caught_up("app");
    let size = fs::metadata(scene.db()).unwrap().len() as usize;
    damage::overwrite(&scene.db(), 0, &Dice::new().bytes(size));
    let began = std::time::Instant::now();
    daemon.incident("app", 1, "waiting", |incident| incident["state"] == "awaiting_approval");
    // What the mode makes up for what a sweep does not see comes after a minute.
    assert!(began.elapsed() < std::time::Duration::from_secs(30), "it was not seen by itself");
    program.kill();
}

/// As it ends in order it would write the damage back, and delete the WAL that has the rest.
#[test]
fn a_program_with_a_damaged_wal_is_stopped_and_the_wal_mended() {
    let steps = mended_under_a_program(&[], |page, frames| {
        // In what guardiand has not read yet, and not the last: what is behind it was promised too.
        let frame = (frames.start + frames.end) / 2;
        (32 + frame * (24 + page) + 24 + 100, 1)
    });
    assert!(steps.contains("its program is stopped, its WAL kept"), "{steps}");
}

/// It has the database to itself, index and all: no lock of ours can be had beside it.
#[test]
fn a_program_that_has_a_damaged_wal_to_itself_is_killed() {
    let steps = mended_under_a_program(&["--exclusive"], |page, frames| {
        let frame = (frames.start + frames.end) / 2;
        (32 + frame * (24 + page) + 24 + 100, 1)
    });
    assert!(steps.contains("its program is killed"), "{steps}");
}

#[test]
fn damage_in_what_was_read_of_a_wal_is_found_while_its_program_writes_on() {
    // A salt: nothing but that field is hurt, and SQLite would throw away whatever was committed from there on.
    mended_under_a_program(&[], |page, frames| (32 + frames.start / 2 * (24 + page) + 8, 4));
}

/// `hurt` says where, and how many bytes: of a WAL with pages of so many bytes, whose frames up to the start of the range were read
/// while they were sound.
fn mended_under_a_program(flags: &[&str], hurt: impl Fn(usize, std::ops::Range<usize>) -> (usize, usize)) -> String {
    let mut scene = Scene::new();
    let flags = [&["--no-checkpoint", "--busy-timeout", "10000", "--pause", "20"], flags].concat();
    let service = Service::of(&scene, "wal", &flags);
    scene.database("app", "data/app.db", &format!("when_in_use = \"stop-app\"\n{}\n{BACKUP}", service.app()));
    let mut daemon = prepare(&scene, "wal");
    service.start();
    let promised = || truth::promised(&scene.log_of(&scene.db())).len();
    let enough = promised() + 20;
    service.wait_for("its commits", || promised() >= enough);
    daemon.caught_up("app");
    let (arguments, pid) = (service.arguments(), service.pid());
    daemon.signal(Signal::STOP);
    let wal = beside(&scene.db(), "-wal");
    let (read, enough) = (fs::metadata(&wal).unwrap().len() as usize, promised() + 40);
    service.wait_for("its commits", || promised() >= enough);
    let bytes = fs::read(&wal).unwrap();
    let page = u32::from_be_bytes(bytes[8..12].try_into().unwrap()) as usize;
    let frames = read / (24 + page)..bytes.len() / (24 + page);
    let (at, length) = hurt(page, frames);
    let flipped = bytes[at..at + length].iter().map(|byte| byte ^ 0x40).collect::<Vec<_>>();
    damage::overwrite(&wal, at, &flipped);
    daemon.signal(Signal::CONT);

    let incident = daemon.closed("app", 1);
    assert_eq!((&incident["kind"], &incident["outcome"]), (&"wal_corrupted".into(), &"healed".into()), "{incident:#}");
    assert_eq!(
        (&incident["playbook"], &incident["loss"]["rows_lost"]),
        (&"mend_wal".into(), &0.into()),
        "{incident:#}"
    );
    service.wait_for("the program to run again", || service.arguments() == arguments && service.pid() != pid);
    service.stop();
    daemon.stop();
    assert_eq!(scene.lost(), 0, "{incident:#}");
    scene.assert_whole("wal");
    incident["steps"].to_string()
}

#[test]
fn a_program_that_cannot_be_started_again_is_a_persons_to_see_to() {
    let mut scene = Scene::new();
    let service = Service::of(&scene, "wal", &PATIENT);
    let app = service.app();
    scene.database("app", "data/app.db", &format!("when_in_use = \"stop-app\"\n{app}\n{BACKUP}\n{OFTEN}"));
    let mut daemon = prepare(&scene, "wal");
    service.start();
    fs::write(scene.path("service/start"), "exit 3\n").unwrap();
    damage::first_leaf(&scene.db(), "rows", &mut Dice::new());
    let escalated = "guardian_incidents_escalated_total{mode=\"database\",target=\"app\"}";
    daemon.wait_for("a person to be called", |daemon| (daemon.metric(escalated) >= 1.0).then_some(()));
    let incident = &daemon.incidents("app")[0];
    let start = incident["steps"].as_array().unwrap().iter().find(|step| step["step"] == "start_app").unwrap();
    assert_eq!(start["outcome"], "failed", "{incident:#}");
    assert!(start["detail"].as_str().unwrap().contains("start it by hand"), "{incident:#}");
    let reason = incident["reason"].as_str().unwrap();
    assert!(reason.contains("the database is healed and proven, but"), "{reason}");
    assert!(!reason.contains("nothing that was tried") && !reason.contains("the detector says"), "{reason}");
    // The database itself is well.
    daemon.healthy("app");
    scene.assert_whole("wal");
}

#[test]
fn a_page_that_rots_under_a_program_that_writes_is_found_by_its_trace() {
    // No check is due for an hour, and its commits go on all the time.
    let (scene, mut daemon) = prepared("wal", &format!("when_in_use = \"in-place\"\n{BACKUP}"));
    let program = scene.writer("wal", "forever", &["--busy-timeout", "10000", "--pause", "20", "--no-checkpoint"]);
    let commits = || truth::promised(&scene.log_of(&scene.db())).len();
    daemon.wait_for("it to commit", |_| (commits() > 205).then_some(()));
    daemon.caught_up("app");
    daemon.caught_up("app");
    damage::first_leaf(&scene.db(), "rows", &mut Dice::new());
    // What may be done about it under a program depends on what its WAL has of that page.
    let incident = daemon.incident("app", 1, "seen", |_| true);
    assert_eq!(incident["findings"][0]["layer"], "integrity", "{incident:#}");
    drop(program);
}

#[test]
fn a_start_command_after_which_nothing_runs_is_noticed() {
    let mut scene = Scene::new();
    let service = Service::of(&scene, "wal", &PATIENT);
    // A name that no other program on this host has.
    let name = format!("w-{}", std::process::id());
    let own = scene.path("service").join(&name);
    fs::copy(executable(), &own).unwrap();
    let start = fs::read_to_string(scene.path("service/start")).unwrap();
    fs::write(scene.path("service/start"), start.replace(executable().to_str().unwrap(), own.to_str().unwrap()))
        .unwrap();
    let app = service.app().replace(" }", ", start_timeout = \"1s\" }");
    scene.database("app", "data/app.db", &format!("when_in_use = \"stop-app\"\n{app}\n{BACKUP}\n{OFTEN}"));
    let mut daemon = prepare(&scene, "wal");
    service.start();
    fs::write(scene.path("service/start"), "exit 0\n").unwrap();
    damage::first_leaf(&scene.db(), "rows", &mut Dice::new());
    let escalated = "guardian_incidents_escalated_total{mode=\"database\",target=\"app\"}";
    daemon.wait_for("a person to be called", |daemon| (daemon.metric(escalated) >= 1.0).then_some(()));
    let incident = &daemon.incidents("app")[0];
    let start = incident["steps"].as_array().unwrap().iter().find(|step| step["step"] == "start_app").unwrap();
    let detail = start["detail"].as_str().unwrap();
    assert!(start["outcome"] == "failed" && detail.contains(&format!("no `{name}`")), "{incident:#}");
}

#[test]
fn databases_of_a_group_are_kept_and_restored_together() {
    let mut scene = Scene::new();
    let lines = format!("group = \"shop\"\n{BACKUP}");
    scene.database("app", "data/app.db", &lines);
    scene.database("stock", "data/stock.db", &lines);
    let stock = scene.path("data/stock.db");
    let commit = |db: &Path, commits: u32| scene.commit_to(db, "wal", commits, &["--rows-per-commit", "5"]);
    commit(&scene.db(), 60);
    commit(&stock, 70);
    let mut daemon = scene.daemon();
    for name in ["app", "stock"] {
        daemon.backed_up(name);
        daemon.healthy(name);
    }
    // Another round of backups: the other one's is taken a moment after that of the one that will fail.
    for (name, db) in [("app", scene.db()), ("stock", stock.clone())] {
        commit(&db, 20);
        let taken = guardiand(&scene.path(""), &["--config", "guardian.toml", "backup", name]);
        assert_eq!(taken.status, 0, "{}", taken.stderr);
    }
    commit(&stock, 10);
    daemon.caught_up("stock");
    let kept = Bytes(fs::read(&stock).unwrap());
    // A header alone is mended, and concerns nobody else.
    damage::leaf(&scene.db(), "rows", &mut Dice::new());

    let incident = daemon.closed("app", 1);
    assert_eq!(incident["outcome"], "healed", "{incident:#}");
    assert_eq!((scene.lost(), scene.lost_of(&stock)), (0, 10), "the other one is of the same moment: {incident:#}");
    let tables = incident["loss"]["tables"].as_array().unwrap();
    assert!(tables.iter().any(|table| table["table"] == "stock.commits"), "{incident:#}");
    let evidence = PathBuf::from(incident["evidence"].as_str().unwrap());
    let member = truth::names(&evidence).into_iter().find(|name| name.starts_with("member-")).unwrap();
    assert_eq!(fs::read(evidence.join(member).join("main")).map(Bytes).unwrap(), kept, "what was there is not kept");
    daemon.healthy("stock");
    daemon.stop();
    for db in [scene.db(), stock] {
        assert_eq!(Content::of(&db).integrity, "ok");
    }
    assert_eq!(scene.names().len(), 2, "{:?}", scene.names());
}

#[test]
fn a_program_that_has_only_the_other_database_of_a_group_open_is_stopped_for_it() {
    let mut scene = Scene::new();
    let stock = scene.path("data/stock.db");
    let service = Service::committing_to(&scene, stock.clone(), "wal", "forever", &PATIENT);
    let lines = format!("group = \"shop\"\nwhen_in_use = \"stop-app\"\n{}\n{BACKUP}", service.app());
    scene.database("app", "data/app.db", &lines);
    scene.database("stock", "data/stock.db", &lines);
    scene.commit("wal", 60, &["--rows-per-commit", "5"]);
    scene.commit_to(&stock, "wal", 70, &[]);
    let mut daemon = scene.daemon();
    for name in ["app", "stock"] {
        daemon.backed_up(name);
        daemon.healthy(name);
    }
    service.start();
    damage::leaf(&scene.db(), "rows", &mut Dice::new());

    let incident = daemon.closed("app", 1);
    assert_eq!(incident["outcome"], "healed", "{incident:#}");
    let steps = incident["steps"].as_array().unwrap();
    let of = |name: &str| steps.iter().filter(|step| step["step"] == name).collect::<Vec<_>>();
    assert!(of("install").iter().all(|step| step["outcome"] == "ok"), "{incident:#}");
    assert!(of("stop_app")[0]["detail"].as_str().unwrap().contains("stopped (it was process"), "{incident:#}");
    // The rung before the one that healed failed: its program was not started on the damage meanwhile.
    assert_eq!(
        (of("stop_app").len(), of("build_from_salvage")[0]["outcome"].as_str()),
        (2, Some("failed")),
        "{incident:#}"
    );
    assert_eq!(of("start_app").len(), 1, "{incident:#}");
    service.wait_for("it to run again", || service.has_it_open());
    let tables = incident["loss"]["tables"].as_array().unwrap();
    assert!(tables.iter().any(|table| table["table"] == "stock.commits"), "{incident:#}");
    assert!(incident["loss"]["rows_lost"].is_null(), "what was not counted is not guessed: {incident:#}");
    assert_eq!(scene.lost(), 0);
    service.stop();
    daemon.stop();
}

/// A program that ends in order deletes the WAL, which alone has what was committed since the backup.
#[test]
fn a_wal_that_a_heal_needs_outlives_the_end_of_its_program() {
    let mut scene = Scene::new();
    let flags = [&PATIENT[..], &["--no-checkpoint", "--rows-per-commit", "5"]].concat();
    let service = Service::of(&scene, "wal", &flags);
    // However long a slow disk makes this take: a checkpoint would change the main file while it is damaged.
    let lines = format!("when_in_use = \"stop-app\"\nwal_max = \"100GB\"\n{}\n{BACKUP}", service.app());
    scene.database("app", "data/app.db", &lines);
    scene.commit("wal", 200, &["--rows-per-commit", "5"]);
    service.start();
    let commits = || truth::promised(&scene.log_of(&scene.db())).len();
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    let then = commits();
    daemon.wait_for("commits since the backup", |_| (commits() > then + 20).then_some(()));
    // It has seen how much of the WAL is in the main file: what writes there now is no checkpoint.
    daemon.caught_up("app");
    damage::first_leaf(&scene.db(), "rows", &mut Dice::new());

    let incident = daemon.closed("app", 1);
    assert_eq!(incident["outcome"], "healed", "{incident:#}");
    service.wait_for("it to run again", || service.has_it_open());
    assert_eq!(scene.lost(), 0, "{incident:#}");
    assert_eq!(incident["playbook"], "restore_backup_and_wal", "{incident:#}");
    assert_eq!(incident["loss"]["rows_lost"], 0, "{incident:#}");
    let why = incident["plan"].to_string();
    assert!(why.contains("stopped for it under locks on its WAL, which has what was committed since"), "{incident:#}");
    let steps = incident["steps"].to_string();
    assert!(steps.contains("its program is stopped, its WAL kept"), "{incident:#}");
    service.stop();
    daemon.stop();
}

#[test]
fn a_group_is_left_alone_while_a_program_has_one_of_it_open() {
    let mut scene = Scene::new();
    let lines = format!("group = \"shop\"\nwhen_in_use = \"in-place\"\n{BACKUP}");
    scene.database("app", "data/app.db", &lines);
    scene.database("stock", "data/stock.db", &lines);
    let stock = scene.path("data/stock.db");
    scene.commit("wal", 60, &[]);
    assert!(scene.writer_of(&stock, "wal", "70", &[]).finish().success());
    let mut daemon = scene.daemon();
    for name in ["app", "stock"] {
        daemon.backed_up(name);
        daemon.healthy(name);
    }
    let program = scene.writer_of(&stock, "wal", "0", &["--open-idle"]);
    let bytes = damage::header(&scene.db(), &mut Dice::new());
    let incident = daemon.escalated("app", 1);
    let reason = incident["reason"].as_str().unwrap();
    assert!(reason.contains("stock.db") && reason.contains(&format!("pid {}", program.pid())), "{incident:#}");
    assert_eq!(scene.bytes()[0].as_ref(), Some(&bytes), "one of the group was replaced alone");
    assert!(program.finish().success());
    assert_eq!(daemon.closed("app", 1)["outcome"], "healed");
    assert_eq!((scene.lost(), scene.lost_of(&stock)), (0, 0));
}
