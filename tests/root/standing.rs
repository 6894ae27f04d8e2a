//! Programs that stand still, and are not ours to let go on: frozen by a cgroup, or of another PID namespace.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::support::daemon::Daemon;
use super::support::scene::Scene;
use super::support::truth::is_root;

const QUICK: &str = "busy_timeout = \"500ms\"\nlock_max_age = \"1s\"\nretry = { attempts = 2, initial = \"50ms\" }";

/// A cgroup of this test's own, thawed and removed when dropped.
struct Cgroup {
    folder: PathBuf,
    unified: bool,
}

impl Cgroup {
    fn make() -> Option<Cgroup> {
        let name = format!("guardiand-test-{}", std::process::id());
        for (root, unified) in [("/sys/fs/cgroup", true), ("/sys/fs/cgroup/freezer", false)] {
            let knob = if unified { "cgroup.freeze" } else { "freezer.state" };
            let folder = Path::new(root).join(&name);
            // Elsewhere it would be a folder like any other.
            if !Path::new(root).join("cgroup.procs").exists() || std::fs::create_dir(&folder).is_err() {
                continue;
            }
            if folder.join(knob).exists() {
                return Some(Cgroup { folder, unified });
            }
            let _ = std::fs::remove_dir(&folder);
        }
        None
    }

    fn take_in(&self, pid: u32) -> std::io::Result<()> {
        std::fs::write(self.folder.join("cgroup.procs"), pid.to_string())
    }

    fn set(&self, frozen: bool) -> std::io::Result<()> {
        match (self.unified, frozen) {
            (true, frozen) => std::fs::write(self.folder.join("cgroup.freeze"), if frozen { "1" } else { "0" }),
            (false, true) => std::fs::write(self.folder.join("freezer.state"), "FROZEN"),
            (false, false) => std::fs::write(self.folder.join("freezer.state"), "THAWED"),
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = self.set(false);
        // Empty once its only process has ended.
        for _ in 0..200 {
            if std::fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

fn told(daemon: &mut Daemon, words: &str) -> Value {
    daemon.incident("app", 1, words, |incident| incident.to_string().contains(words))
}

#[test]
fn a_frozen_holder_is_left_frozen_and_goes_on_once_it_is_thawed() {
    if !is_root() {
        return println!("skipped: needs root");
    }
    let Some(cgroup) = Cgroup::make() else { return println!("skipped: no cgroup can be made that can be frozen") };
    let scene = Scene::of(QUICK);
    scene.commit("delete", 20, &[]);
    let mut daemon = scene.daemon();
    daemon.healthy("app");
    let holder = scene.writer("delete", "0", &["--hold-lock", "3600"]);
    if let Err(error) = cgroup.take_in(holder.pid()) {
        return println!("skipped: a process cannot be put into a cgroup: {error}");
    }
    holder.stop();
    cgroup.set(true).unwrap();

    told(&mut daemon, "frozen by its cgroup");
    let incident = daemon.escalated("app", 1);
    let steps = incident["steps"].as_array().unwrap();
    assert!(!steps.iter().any(|step| step["step"] == "resume_stopped"), "{incident:#}");
    cgroup.set(false).unwrap();
    // Now nothing but the signal keeps it.
    daemon.wait_for("the holder to go on", |_| (!holder.is_stopped()).then_some(()));
    assert!(holder.finish().success());
    let incident = daemon.closed("app", 1);
    assert_eq!(incident["playbook"], "unblock", "{incident:#}");
    scene.assert_whole("delete");
}

/// The writer in a PID namespace of its own. Killed when dropped.
struct Apart(Child);

impl Apart {
    fn start(scene: &Scene) -> Option<Apart> {
        let writer = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("examples/writer");
        let mut child = Command::new("unshare")
            .args(["--pid", "--fork", "--kill-child"])
            .arg(writer)
            .arg(scene.db())
            .args(["delete", "0"])
            .arg(scene.log_of(&scene.db()))
            .args(["--hold-lock", "3600"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let started = Apart(child);
        (line == "ready\n").then_some(started)
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_stopped_holder_of_another_pid_namespace_is_named_and_sent_no_signal() {
    if !is_root() {
        return println!("skipped: needs root");
    }
    let scene = Scene::of(QUICK);
    scene.commit("delete", 20, &[]);
    let mut daemon = scene.daemon();
    daemon.healthy("app");
    let Some(apart) = Apart::start(&scene) else { return println!("skipped: no PID namespace can be made") };
    let pid = daemon.wait_for("its lock", |daemon| {
        let locks = daemon.target("app")?["locks"].as_array()?.clone();
        locks.iter().find(|lock| lock["comm"] == "writer")?["pid"].as_i64()
    });
    let pid = i32::try_from(pid).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::STOP).unwrap();

    let incident = told(&mut daemon, "in another PID namespace");
    assert!(incident.to_string().contains(&format!("pid {pid} `writer`")), "{incident:#}");
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    assert!(stat.contains(") T "), "it was sent a signal: {stat}");
    drop(apart);
    daemon.closed("app", 1);
    scene.assert_whole("delete");
}
