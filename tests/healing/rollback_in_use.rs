//! A heal is taken back while the database's program runs: with it stopped for that, as heals do, or not at all.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::SystemTime;

use serde_json::Value;

use super::support::command::{Ran, guardiand};
use super::support::daemon::Daemon;
use super::support::damage::{self, Dice};
use super::support::scene::Scene;
use super::support::service::Service;
use super::support::truth::{self, Bytes, beside};

const BACKUP: &str = "backup = { every = \"24h\", to = \"backups\" }";
/// A writer that comes and goes like a service, and is patient.
const PATIENT: [&str; 4] = ["--busy-timeout", "10000", "--pause", "5"];
/// One that has the database open, and leaves it as it is.
const IDLE: [&str; 2] = ["--existing", "--open-idle"];

/// A database whose page of rows was random bytes and that was healed by its backup; the bad page, its offset, the
/// incident.
struct Healed {
    daemon: Daemon,
    page: Vec<u8>,
    at: usize,
    id: String,
}

fn healed(scene: &Scene, mode: &str) -> Healed {
    scene.commit(mode, 60, &["--rows-per-commit", "5"]);
    scene.give_away_if_root();
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    assert!(daemon.stop().success());
    let Bytes(good) = scene.bytes()[0].clone().unwrap();
    let Bytes(bad) = damage::first_leaf(&scene.db(), "rows", &mut Dice::new());
    let size = damage::page_size(&good);
    let at = (0..good.len()).step_by(size).find(|at| good[*at..at + size] != bad[*at..at + size]).unwrap();
    let mut daemon = scene.daemon();
    let incident = daemon.closed("app", 1);
    // In rollback mode it is proven that the page alone has to come out of the backup.
    let playbook = if mode == "wal" { "restore_backup" } else { "mend_pages" };
    assert_eq!(incident["playbook"], playbook, "{incident:#}");
    daemon.healthy("app");
    Healed { daemon, page: bad[at..at + size].to_vec(), at, id: incident["id"].as_str().unwrap().to_owned() }
}

impl Healed {
    /// The damage is there again, whatever a program has written elsewhere since.
    fn is_back(&self, scene: &Scene) -> bool {
        scene.bytes()[0].as_ref().is_some_and(|main| main[self.at..self.at + self.page.len()] == self.page)
    }

    fn rollback(&self, scene: &Scene, flags: &[&str]) -> Ran {
        let words = [&["rollback", &self.id, "--config", "guardian.toml", "--json"], flags].concat();
        guardiand(&scene.path(""), &words)
    }
}

/// A scene with a service as the database's `app`.
fn scene_with(service: impl Fn(&Scene) -> Service, lines: &str) -> (Scene, Service) {
    let mut scene = Scene::new();
    let service = service(&scene);
    scene.database("app", "data/app.db", &format!("{}\n{BACKUP}\n{lines}", service.app()));
    (scene, service)
}

fn steps(incident: &Value) -> Vec<(&str, &str)> {
    let steps = incident["steps"].as_array().unwrap().iter();
    steps.map(|step| (step["step"].as_str().unwrap(), step["outcome"].as_str().unwrap())).collect()
}

#[test]
fn its_program_is_stopped_for_it_and_runs_again_and_all_that_it_wrote_is_kept() {
    for mode in ["wal", "delete"] {
        let (scene, service) = scene_with(|scene| Service::of(scene, mode, &PATIENT), "");
        let mut healed = healed(&scene, mode);
        service.start();
        let (pid, arguments) = (service.pid(), service.arguments());
        let promised = || truth::promised(&scene.log_of(&scene.db()));
        service.wait_for("a few commits", || promised().len() > 70);

        let planned = healed.rollback(&scene, &["--accept-loss", "--dry-run"]).json_of(0);
        assert!(planned["detail"].as_str().unwrap().contains("program stopped"), "{planned:#}");
        let refused = healed.rollback(&scene, &[]).json_of(1);
        assert_eq!(refused["outcome"], "refused", "{mode}: {refused:#}");
        assert!(refused["detail"].as_str().unwrap().contains("--accept-loss"), "{mode}: {refused:#}");
        assert!(service.pid() == pid && !healed.is_back(&scene), "{mode}: a refused rollback changed something");

        let report = healed.rollback(&scene, &["--accept-loss"]).json_of(0);
        assert_eq!(report["outcome"], "rolled_back", "{mode}: {report:#}");
        assert!(healed.is_back(&scene), "{mode}: {report:#}");
        let incident = healed.daemon.escalated("app", 2);
        assert_eq!(healed.daemon.incidents("app").len(), 2, "{mode}");
        let expected = ["preserve", "stop_app", "preserve", "roll_back", "start_app"].map(|step| (step, "ok"));
        assert_eq!(steps(&incident), expected, "{mode}: {incident:#}");
        service.wait_for("the program to run again", || service.arguments() == arguments);
        assert_ne!(service.pid(), pid, "{mode}: it was never stopped");
        let enough = promised().len() + 20;
        service.wait_for("the program to commit again", || promised().len() >= enough);
        service.stop();
        healed.daemon.stop();
        let (there, kept) = (truth::commits_of(&scene.db()), truth::commits_in_evidence(&incident));
        let vanished =
            promised().into_iter().filter(|id| !there.contains(id) && !kept.contains(id)).collect::<Vec<_>>();
        assert_eq!(vanished, Vec::<i64>::new(), "{mode}: promised, and neither there nor in evidence");
    }
}

#[test]
fn an_idle_program_needs_nobodys_word_and_without_a_daemon_it_is_the_same() {
    for mode in ["wal", "delete"] {
        let (scene, service) = scene_with(|scene| Service::committing(scene, mode, "0", &IDLE), "");
        let healed = healed(&scene, mode);
        service.start();
        let (pid, arguments) = (service.pid(), service.arguments());
        let Healed { daemon, .. } = healed;
        assert!(daemon.stop().success());
        let words = ["rollback", &healed.id, "--config", "guardian.toml", "--json"];
        let report = guardiand(&scene.path(""), &words).json_of(0);
        assert_eq!(report["outcome"], "rolled_back", "{mode}: {report:#}");
        let main = scene.bytes()[0].clone().unwrap();
        assert_eq!(main[healed.at..healed.at + healed.page.len()], healed.page, "{mode}: {report:#}");
        service.wait_for("the program to run again", || service.arguments() == arguments);
        assert_ne!(service.pid(), pid, "{mode}: it was never stopped");
    }
}

#[test]
fn what_a_program_writes_while_it_stops_is_not_taken_without_a_word() {
    for mode in ["wal", "delete"] {
        let (scene, service) = scene_with(|scene| Service::committing(scene, mode, "0", &IDLE), "");
        let mut healed = healed(&scene, mode);
        service.start();
        let arguments = service.arguments();
        // Its last word: one commit, when it is told to end.
        let writer = arguments.as_ref().unwrap()[0].clone();
        let (db, log) = (scene.db(), scene.log_of(&scene.db()));
        let (db, log) = (db.display(), log.display());
        let last = format!("'{writer}' '{db}' {mode} 1 '{log}' --while-there '{db}' </dev/null >/dev/null 2>&1");
        service.after_its_end(&last);

        let report = healed.rollback(&scene, &[]).json_of(1);
        assert_eq!(report["outcome"], "failed", "{mode}: {report:#}");
        let detail = report["detail"].as_str().unwrap();
        assert!(detail.contains("by its program") && detail.contains("--accept-loss"), "{mode}: {detail}");
        assert!(!healed.is_back(&scene), "{mode}: {report:#}");
        service.wait_for("the program to run again", || service.arguments() == arguments);
        assert_eq!(scene.lost(), 0, "{mode}: {report:#}");
        healed.daemon.healthy("app");

        let refused = healed.rollback(&scene, &[]).json_of(1);
        assert_eq!(refused["outcome"], "refused", "{mode}: {refused:#}");
        let report = healed.rollback(&scene, &["--accept-loss"]).json_of(0);
        assert_eq!(report["outcome"], "rolled_back", "{mode}: {report:#}");
        assert!(healed.is_back(&scene), "{mode}: {report:#}");
        let incident = healed.daemon.escalated("app", 3);
        let kept = truth::commits_in_evidence(&incident);
        assert!(truth::promised(&scene.log_of(&scene.db())).is_subset(&kept), "{mode}: {incident:#}");
        service.wait_for("the program to run again", || service.arguments() == arguments);
    }
}

#[test]
fn a_program_that_does_not_start_again_is_told_of() {
    let (scene, service) = scene_with(|scene| Service::committing(scene, "delete", "0", &IDLE), "");
    let mut healed = healed(&scene, "delete");
    service.start();
    service.first("start", "echo out of order; exit 3");
    let report = healed.rollback(&scene, &[]).json_of(1);
    assert_eq!(report["outcome"], "failed", "{report:#}");
    let detail = report["detail"].as_str().unwrap();
    assert!(detail.contains("start it by hand") && detail.contains("are back"), "{detail}");
    assert!(healed.is_back(&scene), "{report:#}");
    let incident = healed.daemon.escalated("app", 2);
    let reason = incident["reason"].as_str().unwrap();
    assert!(reason.contains("rolled back by uid") && reason.contains("start it by hand"), "{reason}");
    let escalated = "guardian_incidents_escalated_total{mode=\"database\",target=\"app\"}";
    // Called once it is durable that one is needed, and once.
    healed.daemon.wait_for("a person to be called", |daemon| (daemon.metric(escalated) > 0.0).then_some(()));
    healed.daemon.caught_up_with_looks("app");
    assert_eq!(healed.daemon.metric(escalated), 1.0);
    let first = healed.daemon.incident("app", 1, "rolled back", |incident| incident["outcome"] == "rolled_back");
    assert_eq!(first["id"], healed.id.as_str());
}

#[test]
fn a_program_that_cannot_be_stopped_keeps_its_files() {
    let (scene, service) = scene_with(|scene| Service::committing(scene, "wal", "0", &IDLE), "");
    let mut healed = healed(&scene, "wal");
    service.start();
    let (pid, arguments) = (service.pid(), service.arguments());
    service.first("stop", "echo not now; exit 3");
    let report = healed.rollback(&scene, &["--accept-loss"]).json_of(1);
    assert_eq!(report["outcome"], "failed", "{report:#}");
    assert!(report["detail"].as_str().unwrap().contains("was not stopped"), "{report:#}");
    assert!(!healed.is_back(&scene), "{report:#}");
    assert_eq!((service.pid(), service.arguments()), (pid, arguments), "it was disturbed");
    healed.daemon.healthy("app");
}

#[test]
fn refuse_means_refuse() {
    let (scene, service) =
        scene_with(|scene| Service::committing(scene, "wal", "0", &IDLE), "when_in_use = \"refuse\"");
    let healed = healed(&scene, "wal");
    service.start();
    let pid = service.pid();
    for flags in [&[][..], &["--accept-loss"]] {
        let refused = healed.rollback(&scene, flags).json_of(1);
        assert_eq!(refused["outcome"], "refused", "{refused:#}");
        let detail = refused["detail"].as_str().unwrap();
        assert!(detail.contains(&pid.unwrap().to_string()) && detail.contains("`when_in_use`"), "{detail}");
        assert!(service.pid() == pid && !healed.is_back(&scene), "{refused:#}");
    }
    assert_eq!(healed.daemon.incidents("app").len(), 1);
}

#[test]
fn a_program_that_must_not_end_in_order_is_not_stopped_for_it() {
    let (scene, service) = scene_with(|scene| Service::of(scene, "wal", &["--pause", "3600000"]), "");
    let mut healed = healed(&scene, "wal");
    service.start();
    service.wait_for("its commit", || truth::promised(&scene.log_of(&scene.db())).len() == 61);
    // The trace of the WAL-reset bug: its index says that more frames are copied than there are.
    let (wal, shm) = (beside(&scene.db(), "-wal"), beside(&scene.db(), "-shm"));
    File::options().write(true).open(&shm).unwrap().write_all_at(&951_u32.to_ne_bytes(), 96).unwrap();
    File::options().write(true).open(&wal).unwrap().set_modified(SystemTime::now()).unwrap();
    healed.daemon.escalated("app", 2);
    let pid = service.pid();
    let refused = healed.rollback(&scene, &["--accept-loss"]).json_of(1);
    assert_eq!(refused["outcome"], "refused", "{refused:#}");
    let detail = refused["detail"].as_str().unwrap();
    assert!(detail.contains("WAL-reset") && detail.contains("guardiand heal app"), "{detail}");
    assert!(service.arguments().is_some() && service.pid() == pid && !healed.is_back(&scene), "{refused:#}");
    let program = rustix::process::Pid::from_raw(i32::try_from(pid.unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(program, rustix::process::Signal::KILL).unwrap();
    healed.daemon.closed("app", 2);
    assert_eq!(scene.lost(), 0);
}
