//! The daemon as a user runs it: a configuration, a process, its HTTP.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

#[path = "../../tests/support/http.rs"]
mod http;

/// Longer than anything takes: only a failure waits for it.
const PATIENCE: Duration = Duration::from_secs(300);
/// Between two questions to the daemon: it shall heal, not answer us.
const PAUSE: Duration = Duration::from_millis(20);

/// A running daemon. Killed when dropped.
pub struct Daemon {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
}

impl Daemon {
    /// Starts one in `folder` with these tables, and waits for its first sweep. Cooldowns are off: it is its speed that is
    /// asked for.
    pub fn start(folder: &Path, interval: &str, tables: &str) -> Daemon {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let level = std::env::var("GUARDIAN_BENCH_LOG").unwrap_or_else(|_| "warn".to_owned());
        let text = format!(
            "[guardian]\nstate_dir = \"state\"\ninterval = \"{interval}\"\nhttp = \"{address}\"\n\
             [gates]\ncooldown = \"0s\"\nheals = {{ max = 1000000, per = \"1h\" }}\nrepeat = {{ max = 1000000, within = \"10m\" }}\nmass = {{ min = 1000000 }}\n[log]\nlevel = \"{level}\"\n{tables}"
        );
        let config = folder.join("guardian.toml");
        std::fs::write(&config, text).unwrap();
        let log = folder.join("daemon.log");
        let stderr = File::create(&log).unwrap();
        // Another build, to be measured by the same yardstick.
        let program = std::env::var_os("GUARDIAN_BENCH_PROGRAM");
        let child = Command::new(program.unwrap_or_else(|| env!("CARGO_BIN_EXE_guardiand").into()))
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(stderr.try_clone().unwrap())
            .stderr(stderr)
            .spawn()
            .unwrap();
        let mut daemon = Daemon { child, address, log };
        daemon.wait_for("its first sweep", |daemon| {
            http::get(daemon.address, "/readyz").is_ok_and(|(status, _)| status == 200).then_some(())
        });
        daemon
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub fn page(&self, path: &str) -> String {
        let (status, body) = http::get(self.address, path).unwrap();
        assert_eq!(status, 200, "GET {path}: {body}");
        body
    }

    fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.page(path)).unwrap()
    }

    /// Waits until `seen` sees something.
    pub fn wait_for<T>(&mut self, what: &str, mut seen: impl FnMut(&Daemon) -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = seen(self) {
                return found;
            }
            let ended = self.child.try_wait().unwrap();
            if ended.is_some() || Instant::now() > until {
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                panic!("waiting for {what} in vain (daemon: {ended:?}); its log:\n{log}");
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Waits until a target is healthy, without an open incident, and backed up if it has backups.
    pub fn settled(&mut self, target: &str, backed_up: bool) {
        self.wait_for(&format!("`{target}` to be healthy"), |daemon| {
            let (status, body) = http::get(daemon.address, &format!("/api/v1/targets/{target}")).unwrap();
            let state: Value = serde_json::from_str(&body).unwrap_or_default();
            let healthy = status == 200 && state["state"] == "healthy" && state["incident"].is_null();
            (healthy && (!backed_up || state["last_backup_at"].is_string())).then_some(())
        });
    }

    /// Waits until the checks are through that it begins with, as it does each day: what it costs after that is what it costs.
    pub fn at_rest(&self) {
        /// Longer than it waits before it checks what has come to rest.
        const REST: Duration = Duration::from_millis(2500);
        const IDLE: u64 = 10;
        let until = Instant::now() + PATIENCE;
        let mut before = self.ticks();
        loop {
            std::thread::sleep(REST);
            let now = self.ticks();
            if now.abs_diff(before) <= IDLE {
                return;
            }
            assert!(Instant::now() < until, "it does not come to rest");
            before = now;
        }
    }

    /// The time on a processor that it and its children had, in hundredths of a second.
    fn ticks(&self) -> u64 {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid())).into_iter().flatten().flatten();
        let children =
            threads.map(|thread| std::fs::read_to_string(thread.path().join("children")).unwrap_or_default());
        let children = children.collect::<String>();
        let pids = children.split_whitespace().map(str::to_owned).chain([self.pid().to_string()]);
        let of = |pid: String| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let after_name = stat.rsplit(')').next().unwrap_or_default().to_owned();
            after_name.split_whitespace().skip(11).take(4).filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>()
        };
        pids.map(of).sum()
    }

    /// Waits for the `number`th incident of a target (from 1) to be closed.
    pub fn closed(&mut self, target: &str, number: usize) -> Value {
        self.wait_for(&format!("incident {number} of `{target}` to be closed"), |daemon| {
            let found = daemon.json(&format!("/api/v1/incidents?target={target}&limit=1000"));
            let incidents = found["incidents"].as_array().unwrap();
            let incident = incidents.len().checked_sub(number).and_then(|at| incidents.get(at))?;
            assert!(incident["state"] != "escalated", "{incident:#}");
            (incident["state"] == "closed").then(|| incident.clone())
        })
    }

    /// SIGTERM, and its end.
    pub fn stop(mut self) {
        self.signal(Signal::TERM);
        self.child.wait().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
