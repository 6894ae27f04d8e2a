//! The machine from the inside: its systemd, its journal, guardiand as a unit, and a program as a unit of another user.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::support::command::{self, Ran};
use super::support::http;

/// The user `app` of `init.sh`.
const APP: u32 = 1234;
const PATIENCE: Duration = Duration::from_secs(45);
const PAUSE: Duration = Duration::from_millis(60);
const DROP_INS: &str = "/etc/systemd/system/guardiand.service.d";
pub const CONFIG: &str = "/etc/guardiand/guardian.toml";
pub const BACKUP: &str = "backup = { every = \"24h\" }";

/// The machine, with nothing of an earlier test left on it. `app.service` writes to `/srv/app/app.db`.
pub struct Guest;

impl Guest {
    pub fn fresh() -> Guest {
        let guest = Guest;
        guest.systemctl(&["stop", "app", "guardiand"]);
        guest.systemctl(&["reset-failed"]);
        for folder in [DROP_INS, "/var/lib/guardiand", "/srv/app"] {
            let _ = fs::remove_dir_all(folder);
        }
        fs::create_dir_all("/srv/app").unwrap();
        chown("/srv/app", Some(APP), Some(APP)).unwrap();
        fs::write("/etc/systemd/system/app.service", APP_SERVICE).unwrap();
        guest.configure(&database("app", "/srv/app/app.db", BACKUP));
        guest.done(&["daemon-reload"]);
        guest
    }

    /// Writes the configuration, with these `[[database]]`s.
    pub fn configure(&self, databases: &str) {
        let guardian = "[guardian]\nstate_dir = \"/var/lib/guardiand\"\ncontrol = \"/run/guardiand/control.sock\"\ninterval = \"5s\"";
        let text = format!("{guardian}\n[gates]\ncooldown = \"0s\"\n[log]\nformat = \"journald\"\n{databases}");
        fs::write(CONFIG, text).unwrap();
    }

    /// Puts a drop-in beside the unit.
    pub fn drop_in(&self, text: &str) {
        fs::create_dir_all(DROP_INS).unwrap();
        fs::write(Path::new(DROP_INS).join("test.conf"), text).unwrap();
        self.done(&["daemon-reload"]);
    }

    /// `systemctl`, which ends in bounded time.
    pub fn systemctl(&self, words: &[&str]) -> Ran {
        run("systemctl", words)
    }

    /// `systemctl`, which must succeed.
    pub fn done(&self, words: &[&str]) -> Ran {
        let ran = self.systemctl(words);
        assert_eq!(ran.status, 0, "systemctl {words:?}: {ran:#?}\n{}", self.log());
        ran
    }

    /// A property of guardiand's unit.
    pub fn property(&self, name: &str) -> String {
        self.done(&["show", "--value", "--property", name, "guardiand"]).stdout.trim().to_owned()
    }

    pub fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_raw(self.property("MainPID").parse().unwrap()).unwrap()
    }

    /// Starts the program, waits for its first commit; then guardiand, and waits until it has a backup to heal from.
    pub fn start(&self) {
        self.done(&["start", "app"]);
        self.wait_for("a first commit", || (!self.promised().is_empty()).then_some(()));
        self.done(&["start", "guardiand"]);
        self.backed_up("app");
    }

    /// Stops the program, closes what it left open, and takes a backup of all it was promised.
    pub fn stop_the_program(&self) {
        self.done(&["stop", "app"]);
        let db = rusqlite::Connection::open(db()).unwrap();
        db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0).map(|busy| assert_eq!(busy, 0)))
            .unwrap();
        db.close().unwrap();
        let ran = run("guardiand", &["backup", "app", "--config", CONFIG]);
        assert_eq!(ran.status, 0, "{ran:#?}");
        self.healthy("app");
    }

    /// The commits that the program was promised.
    pub fn promised(&self) -> std::collections::BTreeSet<i64> {
        super::support::truth::promised(Path::new("/srv/app/app.log"))
    }

    /// A document of the API, from a daemon that may not be there.
    pub fn get(&self, path: &str) -> Option<Value> {
        let (status, body) = http::get(SocketAddr::from(([127, 0, 0, 1], 9617)), path).ok()?;
        (status == 200).then(|| serde_json::from_str(&body).unwrap())
    }

    pub fn target(&self, name: &str) -> Option<Value> {
        self.get(&format!("/api/v1/targets/{name}"))
    }

    pub fn healthy(&self, name: &str) -> Value {
        self.wait_for(&format!("`{name}` to be healthy"), || {
            self.target(name).filter(|target| target["state"] == "healthy" && target["incident"].is_null())
        })
    }

    pub fn backed_up(&self, name: &str) {
        self.wait_for(&format!("a backup of `{name}`"), || {
            self.target(name).filter(|target| target["last_backup_at"].is_string())
        });
    }

    /// Waits for a target's only incident to be like this.
    pub fn incident(&self, what: &str, like: impl Fn(&Value) -> bool) -> Value {
        self.wait_for(&format!("an incident: {what}"), || {
            let mut incidents = self.get("/api/v1/incidents?target=app")?["incidents"].as_array()?.clone();
            assert!(incidents.len() <= 1, "{incidents:#?}");
            incidents.pop().filter(|incident| like(incident))
        })
    }

    /// Waits until a target's only incident is closed, and healed.
    pub fn healed(&self) -> Value {
        let incident = self.incident("closed", |incident| incident["state"] == "closed");
        assert_eq!(incident["outcome"], "healed", "{incident:#}");
        incident
    }

    /// The journal's entries that these words match.
    pub fn journal(&self, words: &[&str]) -> Vec<Value> {
        run("journalctl", &["--sync"]);
        let ran = run("journalctl", &[&["--output=json", "--all", "--no-pager"], words].concat());
        ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// What guardiand and systemd said about it last, for a test that failed.
    pub fn log(&self) -> String {
        let entries = self.journal(&["--lines=40", "--unit=guardiand", "--unit=app"]);
        let lines = entries.iter().map(|entry| {
            let fields = entry.as_object().unwrap().iter().filter(|(name, _)| name.starts_with("GUARDIAN_"));
            let fields = fields.map(|(name, value)| format!(" {name}={value}")).collect::<String>();
            format!("{} {}{fields}\n", entry["_COMM"], entry["MESSAGE"])
        });
        lines.collect()
    }

    pub fn wait_for<T>(&self, what: &str, mut seen: impl FnMut() -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = seen() {
                return found;
            }
            assert!(
                Instant::now() < until,
                "waited {PATIENCE:?} in vain for {what}\n{}\n{}",
                self.systemctl(&["status", "--no-pager", "guardiand", "app"]).stdout,
                self.log()
            );
            std::thread::sleep(PAUSE);
        }
    }
}

/// A table of the configuration.
pub fn database(name: &str, path: &str, lines: &str) -> String {
    format!("[[database]]\nname = \"{name}\"\npath = \"{path}\"\n{lines}\n")
}

pub fn db() -> PathBuf {
    PathBuf::from("/srv/app/app.db")
}

pub fn run(program: &str, words: &[&str]) -> Ran {
    let mut command = Command::new(program);
    command.args(words).env("SYSTEMD_COLORS", "0");
    command::run(Path::new("/"), command)
}

/// The program ends when its stdin does, so it has a pipe that never ends: one that it holds open itself.
const APP_SERVICE: &str = "[Service]
User=app
UMask=0027
RuntimeDirectory=app
ExecStartPre=/usr/bin/mkfifo /run/app/stdin
ExecStart=/bin/sh -c 'exec /usr/bin/writer /srv/app/app.db wal forever /srv/app/app.log --pause 300 <>/run/app/stdin'
";
