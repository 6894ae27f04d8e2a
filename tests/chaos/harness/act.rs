//! Plays a story: the program works, something happens, guardiand settles it, and where it calls a person, one comes.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::Report;
use super::fault::Fault;
use super::oracle;
use super::service::Service;
use super::story::{Act, Situation, Story};
use crate::support::daemon::Daemon;
use crate::support::damage::Dice;
use crate::support::program;
use crate::support::scene::Scene;
use crate::support::{
    self,
    command::{self, Ran},
};

/// The most that anything may take to be healed or handed to a person.
const PATIENCE: Duration = Duration::from_secs(60);
/// An incident that has waited for a person for so long waits for one.
const WAITS: Duration = Duration::from_millis(1500);
const PAUSE: Duration = Duration::from_millis(40);
/// So often a person follows the advice of one incident before it counts as not healed.
const VISITS: u32 = 3;

/// Plays it.
pub fn play(story: &Story) -> Report {
    let mut scene = Scene::new();
    let flags = story.flags.iter().map(String::as_str).collect::<Vec<_>>();
    let own = [flags.as_slice(), &["--existing", "--busy-timeout", "10000"]].concat();
    let own = story.app.then(|| support::service::Service::of(&scene, story.mode, &own));
    let app = own.as_ref().map(|own| format!("{}\nwhen_in_use = \"stop-app\"", own.app())).unwrap_or_default();
    scene.database("app", "data/app.db", &format!("{}\n{app}", story.lines));
    scene.commit(story.mode, 20, &flags);
    let daemon = scene.daemon();
    let mut stage = Stage {
        story,
        scene: &scene,
        daemon: Some(daemon),
        service: None,
        own,
        dice: Dice::of(story.seed ^ 0xC0FFEE),
        report: Report::default(),
        unhealed: None,
    };
    stage.daemon().healthy("app");
    if story.lines.contains("backup") {
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
    report
}

struct Stage<'a> {
    story: &'a Story,
    scene: &'a Scene,
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

    fn stop(&mut self, in_order: bool) {
        if let Some(own) = self.own.as_ref().filter(|own| own.pid().is_some()) {
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
        std::thread::sleep(act.after);
        match act.situation {
            Situation::Closed => self.stop(true),
            Situation::Killed => self.stop(false),
            Situation::Live => {}
        }
        let mut locks = Vec::new();
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
                _ => {}
            }
        }
        if let Some(after) = act.kill_after {
            std::thread::sleep(after);
            self.restart(true);
        }
        let time = Duration::from_millis(200 + self.dice.below(3000) as u64);
        if act.faults.iter().any(|fault| matches!(fault, Fault::Lock | Fault::Stop)) {
            std::thread::sleep(time);
            self.signal(Signal::CONT);
        }
        drop(locks);
        self.settle();
    }

    fn signal(&self, signal: Signal) {
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
                    self.stop(true);
                    self.guardiand(&["heal", "app", "--json"]);
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
