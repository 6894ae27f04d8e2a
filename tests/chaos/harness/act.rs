//! Plays a story: the program works, something happens, guardiand settles it, and where it calls a person, one comes.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::Report;
use super::fault::Fault;
use super::oracle;
use super::service::Service;
use super::story::{Act, Ending, Manner, Situation, Story};
use crate::support::daemon::Daemon;
use crate::support::damage::Dice;
use crate::support::mounts::Mount;
use crate::support::program;
use crate::support::scene::Scene;
use crate::support::{
    self,
    command::{self, Ran},
    truth,
};

/// The most that anything may take to be healed or handed to a person.
const PATIENCE: Duration = Duration::from_secs(240);
/// An incident that has waited for a person for so long waits for one.
const WAITS: Duration = Duration::from_millis(1500);
/// A small disk's size.
const SMALL: &str = "64m";
const PAUSE: Duration = Duration::from_millis(40);
/// So often a person follows the advice of one incident before it counts as not healed.
const VISITS: u32 = 3;

/// Plays it; nothing where this machine lacks what it is about.
pub fn play(story: &Story) -> Option<Report> {
    let mut scene = Scene::new();
    let disk = match story.small_disk {
        true if truth::is_root() => Some(Mount::tmpfs(&scene.path("data"), SMALL)?),
        true => return None,
        false => None,
    };
    let flags = story.flags.iter().map(String::as_str).collect::<Vec<_>>();
    let own = [flags.as_slice(), &["--existing", "--busy-timeout", "10000"]].concat();
    let own = (story.manner == Manner::StopApp).then(|| support::service::Service::of(&scene, story.mode, &own));
    let app = own.as_ref().map(|own| format!("{}\nwhen_in_use = \"stop-app\"", own.app())).unwrap_or_default();
    scene.database("app", "data/app.db", &format!("{}\n{app}", story.lines));
    scene.commit(story.mode, 20, &flags);
    let daemon = scene.daemon();
    let mut stage = Stage {
        story,
        scene: &scene,
        disk: disk.as_ref(),
        daemon: Some(daemon),
        service: None,
        own,
        dice: Dice::of(story.seed ^ 0xC0FFEE),
        report: Report::default(),
        unhealed: None,
    };
    stage.daemon().healthy("app");
    if story.has_backups() {
        stage.daemon().backed_up("app");
    }
    for act in &story.acts {
        stage.play(act);
        if stage.unhealed.is_some() {
            break;
        }
    }
    if stage.unhealed.is_none() {
        stage.start();
        std::thread::sleep(Duration::from_millis(100));
        stage.stop(true);
        stage.settle();
    }
    stage.stop(true);
    let Stage { daemon, mut report, unhealed, .. } = stage;
    let mut daemon = daemon.expect("it was started again");
    oracle::judge(&scene, &mut daemon, story, unhealed.as_deref(), &mut report);
    Some(report)
}

struct Stage<'a> {
    story: &'a Story,
    scene: &'a Scene,
    disk: Option<&'a Mount>,
    daemon: Option<Daemon>,
    service: Option<Service>,
    /// The program where guardiand stops and starts it.
    own: Option<support::service::Service>,
    dice: Dice,
    report: Report,
    /// Why neither guardiand nor a person who did what it said could heal it.
    unhealed: Option<String>,
}

impl Stage<'_> {
    fn daemon(&mut self) -> &mut Daemon {
        self.daemon.as_mut().expect("it is started again at once")
    }

    fn start(&mut self) {
        if let Some(own) = &self.own {
            if own.arguments().is_none() {
                own.start();
            }
        } else if self.service.is_none() {
            let db = self.scene.db();
            self.service = Some(Service::start(&db, self.story.mode, &self.scene.log_of(&db), &self.story.flags));
        }
    }

    /// Live means that the program has the file open and goes on, unless what befell it before keeps it from that until a person
    /// comes.
    fn wait_for_a_commit(&mut self) {
        let log = self.scene.log_of(&self.scene.db());
        let size = || std::fs::metadata(&log).map_or(0, |facts| facts.len());
        let before = size();
        self.daemon().wait_for("a commit", |daemon| {
            let given_up = || daemon.incidents("app").iter().any(|incident| incident["state"] == "escalated");
            (size() > before || given_up()).then_some(())
        });
    }

    fn stop(&mut self, in_order: bool) {
        if let Some(own) = self.own.as_ref().filter(|own| own.pid().is_some()) {
            self.signal(Signal::CONT);
            if !in_order {
                self.signal(Signal::KILL);
            }
            own.stop();
        }
        if let Some(service) = self.service.take() {
            service.end(in_order);
        }
    }

    fn play(&mut self, act: &Act) {
        let db = self.scene.db();
        let older = self.scene.path("older.db");
        let _ = std::fs::copy(&db, &older);
        self.start();
        self.wait_for_a_commit();
        std::thread::sleep(act.after);
        match act.situation {
            Situation::Closed => self.stop(true),
            Situation::Killed => self.stop(false),
            Situation::Live => {}
        }
        let (mut locks, mut fillers) = (Vec::new(), Vec::new());
        for fault in &act.faults {
            self.report.faults.push(format!("{:?}/{fault:?}", act.situation));
            fault.harm(&db, &older, &mut self.dice);
            match fault {
                Fault::Lock => locks.extend(self.lock()),
                Fault::Stop => self.signal(Signal::STOP),
                Fault::KillProgram => self.signal(Signal::KILL),
                Fault::KillGuardian => self.restart(true),
                Fault::RestartGuardian => self.restart(false),
                Fault::KillWorkers => self.kill_workers(),
                Fault::FullDisk => fillers.extend(self.disk.map(Mount::fill)),
                _ => {}
            }
        }
        if let Some((after, ending)) = act.then_restart {
            std::thread::sleep(after);
            self.restart(ending == Ending::Killed);
        }
        let time = Duration::from_millis(200 + self.dice.below(3000) as u64);
        if act.faults.iter().any(|fault| matches!(fault, Fault::Lock | Fault::Stop | Fault::FullDisk)) {
            std::thread::sleep(time);
            self.signal(Signal::CONT);
        }
        drop(locks);
        for filler in fillers {
            std::fs::remove_file(filler).unwrap();
        }
        self.settle();
    }

    fn signal(&self, signal: Signal) {
        let own = self.own.as_ref().filter(|own| own.arguments().is_some()).and_then(|own| own.pid());
        if let Some(pid) = own.and_then(|pid| Pid::from_raw(pid.try_into().ok()?)) {
            let _ = kill_process(pid, signal);
        }
        if let Some(service) = &self.service {
            service.signal(signal);
        }
    }

    fn restart(&mut self, killed: bool) {
        let daemon = self.daemon.take().expect("it runs");
        if killed {
            daemon.kill();
        } else {
            let status = daemon.stop();
            assert!(status.success(), "guardiand ended with {status}");
        }
        self.daemon = Some(self.scene.daemon());
    }

    fn kill_workers(&mut self) {
        let parent = self.daemon().pid();
        for pid in children(parent) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    /// A program that locks the database and keeps it; it ends when it is dropped.
    fn lock(&self) -> Option<Locker> {
        let mut child = Command::new(program::executable())
            .arg(self.scene.db())
            .args([self.story.mode, "0"])
            .arg(self.scene.path("locker.log"))
            .args(["--existing", "--hold-lock", "3600"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let stdin = child.stdin.take();
        Some(Locker { child, stdin })
    }

    fn guardiand(&self, words: &[&str]) -> Ran {
        let config = self.scene.path("guardian.toml");
        let config = config.to_str().expect("a plain path");
        command::guardiand(&self.scene.path("."), &[words, &["--config", config]].concat())
    }

    /// What a reason leaves to a person.
    fn do_by_hand(&self, reason: &str) {
        let db = self.scene.db();
        if reason.ends_with("then `VACUUM` it") {
            // It is sound, and has pages that belong to nothing.
            rusqlite::Connection::open(&db).unwrap().execute_batch("VACUUM").unwrap();
        }
        if reason.contains("put the text back (PRAGMA writable_schema)") {
            self.put_the_schema_back();
        }
        if let Some(mode) = between(reason, "`chmod ", "` it") {
            let mode = u32::from_str_radix(mode, 8).unwrap();
            std::fs::set_permissions(&db, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        // Two sides committed: the one at the path is kept.
        if let Some((folder, aside)) = between(reason, "run `mv ", "`").and_then(|words| words.split_once(' ')) {
            std::fs::rename(folder, aside).unwrap();
        }
    }

    /// The text of each object as the newest backup has it.
    fn put_the_schema_back(&self) {
        let backups = self.guardiand(&["backups", "app", "--json"]).json_of(0);
        let newest = backups[0]["file"].as_str().expect("a backup").to_owned();
        let db = rusqlite::Connection::open(self.scene.db()).unwrap();
        db.execute("ATTACH ?1 AS backup", [format!("file:{newest}?immutable=1")]).unwrap();
        db.execute_batch(
            "PRAGMA writable_schema = ON;
             UPDATE main.sqlite_schema AS here SET sql = saved.sql FROM backup.sqlite_schema AS saved
             WHERE saved.rowid = here.rowid AND saved.sql IS NOT here.sql;
             PRAGMA writable_schema = RESET;",
        )
        .unwrap();
    }

    /// Until a full check says healthy and no incident is open, or nobody knows further.
    fn settle(&mut self) {
        let (until, mut waiting, mut visits) = (Instant::now() + PATIENCE, None::<Instant>, 0);
        loop {
            assert!(
                Instant::now() < until,
                "neither healed nor handed to a person: {:#?}\n{:#?}",
                self.daemon().target("app"),
                self.daemon().incidents("app")
            );
            std::thread::sleep(PAUSE);
            let incidents = self.daemon().incidents("app");
            match incidents.iter().find(|incident| incident["state"] != "closed") {
                None => {
                    waiting = None;
                    if self.guardiand(&["check", "app", "--json"]).status == 0
                        && self.daemon().incidents("app").iter().all(|incident| incident["state"] == "closed")
                    {
                        return;
                    }
                }
                Some(open) if open["state"] == "escalated" || open["state"] == "awaiting_approval" => {
                    if waiting.get_or_insert_with(Instant::now).elapsed() < WAITS {
                        continue;
                    }
                    waiting = None;
                    visits += 1;
                    if visits > VISITS {
                        self.unhealed = Some(open["reason"].as_str().unwrap_or_default().to_owned());
                        return;
                    }
                    // A person: stops the program, and does what the reason says.
                    self.report.operator += 1;
                    let id = open["id"].as_str().unwrap_or_default();
                    let asks = open["state"] == "awaiting_approval";
                    self.stop(true);
                    self.do_by_hand(open["reason"].as_str().unwrap_or_default());
                    if !asks || self.guardiand(&["approve", id, "--json"]).status != 0 {
                        self.guardiand(&["heal", "app", "--json"]);
                    }
                }
                Some(open) => {
                    waiting = None;
                    // A program without checkpoints outgrows its limit as fast as it is checkpointed.
                    let grows = open["kind"].as_str().is_some_and(|kind| kind.starts_with("wal_"));
                    if grows && Instant::now() + PATIENCE / 2 > until {
                        self.stop(true);
                    }
                }
            }
        }
    }
}

/// The words of `reason` between `before` and `after`.
fn between<'a>(reason: &'a str, before: &str, after: &str) -> Option<&'a str> {
    Some(reason.split_once(before)?.1.split_once(after)?.0)
}

struct Locker {
    child: std::process::Child,
    stdin: Option<std::process::ChildStdin>,
}

impl Drop for Locker {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

fn children(parent: u32) -> Vec<Pid> {
    let stat = |pid: &PathBuf| {
        let stat = std::fs::read_to_string(pid.join("stat")).ok()?;
        let after = stat.rsplit_once(") ")?.1;
        after.split(' ').nth(1)?.parse::<u32>().ok()
    };
    let pids = std::fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
    pids.filter(|path| stat(path) == Some(parent))
        .filter_map(|path| Pid::from_raw(path.file_name()?.to_str()?.parse().ok()?))
        .collect()
}
