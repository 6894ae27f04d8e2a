//! The daemon as a child: started, asked, waited for, killed.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::http;

/// Longer than anything takes on a slow machine: only a failure waits for it.
pub const PATIENCE: Duration = Duration::from_secs(120);

const PAUSE: Duration = Duration::from_millis(20);

/// A running daemon. Dropped, it is killed; when its test fails, its log is printed.
pub struct Daemon {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
}

impl Daemon {
    /// Starts it; it need not get far.
    pub fn launch(config: &Path, address: SocketAddr, log: &Path, environment: &[(&str, &str)]) -> Daemon {
        let stderr = File::options().append(true).create(true).open(log).unwrap();
        let child = Command::new(super::guardiand())
            .arg("--config")
            .arg(config)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(stderr.try_clone().unwrap())
            .stderr(stderr)
            .spawn()
            .unwrap();
        Daemon { child, address, log: log.to_owned() }
    }

    /// Waits until its first sweep is done.
    pub fn ready(mut self) -> Daemon {
        self.wait_for("the first sweep", |daemon| {
            http::get(daemon.address, "/readyz").is_ok_and(|(status, _)| status == 200).then_some(())
        });
        self
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end.
    pub fn wait(mut self) -> ExitStatus {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(Instant::now() < until, "the daemon did not end");
            std::thread::sleep(PAUSE);
        }
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Where its HTTP listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Any signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
    }

    /// SIGTERM, and its end.
    pub fn stop(self) -> ExitStatus {
        self.terminate();
        self.wait()
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// A JSON document of the API.
    pub fn get(&self, path: &str) -> Value {
        let (status, body) = http::get(self.address, path).unwrap();
        assert_eq!(status, 200, "GET {path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    pub fn metrics(&self) -> String {
        http::get(self.address, "/metrics").unwrap().1
    }

    /// The value of one series, written as in the page.
    pub fn metric(&self, series: &str) -> f64 {
        let page = self.metrics();
        let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no series {series} in\n{page}")).parse().unwrap()
    }

    /// What the API says of a target; nothing while it knows none of the name.
    pub fn target(&self, name: &str) -> Option<Value> {
        let (status, body) = http::get(self.address, &format!("/api/v1/targets/{name}")).unwrap();
        (status == 200).then(|| serde_json::from_str(&body).unwrap())
    }

    /// A target's incidents, the newest first.
    pub fn incidents(&self, target: &str) -> Vec<Value> {
        self.get(&format!("/api/v1/incidents?target={target}"))["incidents"].as_array().unwrap().clone()
    }

    /// Waits for `seen` to see something. While it waits, the daemon must live.
    pub fn wait_for<T>(&mut self, what: &str, mut seen: impl FnMut(&Daemon) -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = seen(self) {
                return found;
            }
            if let Some(status) = self.ended() {
                panic!("waiting for {what}: the daemon ended with {status}");
            }
            assert!(Instant::now() < until, "waited {PATIENCE:?} in vain for {what}");
            std::thread::sleep(PAUSE);
        }
    }

    /// Waits for `seen` to see something, whether the daemon lives or not.
    pub fn wait_for_end_or<T>(&mut self, what: &str, seen: &mut impl FnMut(&mut Daemon) -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = seen(self) {
                return found;
            }
            assert!(Instant::now() < until, "waited {PATIENCE:?} in vain for {what}");
            std::thread::sleep(PAUSE);
        }
    }

    /// A JSON document of the API, from a daemon that may not listen yet or may be dead.
    pub fn try_get(&self, path: &str) -> Option<Value> {
        let (status, body) = http::get(self.address, path).ok()?;
        (status == 200).then(|| serde_json::from_str(&body).unwrap())
    }

    /// Waits until a target is healthy, has no open incident.
    pub fn healthy(&mut self, name: &str) -> Value {
        self.wait_for(&format!("`{name}` to be healthy"), |daemon| {
            daemon.target(name).filter(|target| target["state"] == "healthy" && target["incident"].is_null())
        })
    }

    /// Waits until a target has been looked at since now, and is healthy: what was done before is known to the daemon.
    pub fn caught_up(&mut self, name: &str) {
        self.caught_up_with_looks(name);
        self.healthy(name);
    }

    /// Waits until a target has been looked at since now.
    pub fn caught_up_with_looks(&mut self, name: &str) {
        let looks = |daemon: &Daemon| daemon.target(name).map_or(0, |target| target["total_checks"].as_u64().unwrap());
        // One look may be under way, and have begun before.
        let enough = looks(self) + 2;
        self.wait_for(&format!("another look at `{name}`"), |daemon| (looks(daemon) >= enough).then_some(()));
    }

    /// Waits until a target has been backed up.
    pub fn backed_up(&mut self, name: &str) {
        self.wait_for(&format!("a backup of `{name}`"), |daemon| {
            daemon.target(name).filter(|target| target["last_backup_at"].is_string())
        });
    }

    /// Waits for incident number `number` (from 1) of a target to satisfy `like`.
    pub fn incident(&mut self, target: &str, number: usize, what: &str, like: impl Fn(&Value) -> bool) -> Value {
        self.wait_for(&format!("incident {number} of `{target}`: {what}"), |daemon| {
            let mut incidents = daemon.incidents(target);
            incidents.reverse();
            incidents.into_iter().nth(number - 1).filter(|incident| like(incident))
        })
    }

    /// Waits for incident number `number` (from 1) of a target to be closed.
    pub fn closed(&mut self, target: &str, number: usize) -> Value {
        self.incident(target, number, "closed", |incident| incident["state"] == "closed")
    }

    /// Waits for incident number `number` (from 1) of a target to be escalated.
    pub fn escalated(&mut self, target: &str, number: usize) -> Value {
        self.incident(target, number, "escalated", |incident| incident["state"] == "escalated")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            println!("--- the daemon's log ({})\n{}", self.log.display(), self.log());
        }
    }
}
