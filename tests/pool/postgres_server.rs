//! A real PostgreSQL server of the test's own, on a free loopback port, in a folder that goes with it.

use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, geteuid, kill_process};

/// PostgreSQL refuses to run as root; this is who runs it then.
const NOBODY: u32 = 65534;

pub struct Postgres {
    programs: PathBuf,
    folder: tempfile::TempDir,
    port: u16,
    running: Option<Child>,
}

impl Postgres {
    /// `None`, and a word of it, where PostgreSQL is not installed.
    pub fn start(arguments: &[&str]) -> Option<Postgres> {
        let Some(programs) = programs() else {
            println!("skipped: PostgreSQL is not installed (Debian: postgresql)");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Postgres { programs, folder, port, running: None };
        server.give_to_nobody();
        static FRESH: OnceLock<tempfile::TempDir> = OnceLock::new();
        let fresh = FRESH.get_or_init(|| server.initialise());
        let copied = Command::new("cp").arg("-a").arg(fresh.path().join("data")).arg(server.data()).status().unwrap();
        assert!(copied.success());
        server.restart(arguments);
        Some(server)
    }

    /// A database cluster that was never started: making one takes longer than copying it.
    fn initialise(&self) -> tempfile::TempDir {
        let fresh = tempfile::tempdir().unwrap();
        std::fs::write(fresh.path().join("password"), "first").unwrap();
        give_to_nobody(fresh.path());
        let output = self
            .command("initdb")
            .args(["--username=tester", "--auth=scram-sha-256", "--no-sync", "--no-locale", "--encoding=UTF8"])
            .arg(format!("--pwfile={}", fresh.path().join("password").display()))
            .arg(fresh.path().join("data"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        fresh
    }

    pub fn address(&self, rest: &str) -> String {
        format!("postgres://tester:first@127.0.0.1:{}/postgres?{rest}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// A file that the server can read and nobody else.
    pub fn file(&self, name: &str, content: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        self.give_to_nobody();
        path
    }

    /// Starts it, and waits until it lets in.
    pub fn restart(&mut self, arguments: &[&str]) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let mut child = self.spawn(arguments);
            while child.try_wait().unwrap().is_none() {
                if self.is_ready() {
                    self.running = Some(child);
                    return;
                }
                assert!(Instant::now() < deadline, "PostgreSQL does not start: {}", self.log());
                std::thread::sleep(Duration::from_millis(20));
            }
            // The processes of one that was killed may hold its memory for a moment.
            assert!(Instant::now() < deadline, "PostgreSQL does not start: {}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn spawn(&self, arguments: &[&str]) -> Child {
        let log = std::fs::File::options().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        self.command("postgres")
            .arg("-D")
            .arg(self.data())
            .args(["-p", &self.port.to_string(), "-k", "", "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"])
            .args(["-c", "shared_buffers=16MB", "-c", "max_wal_senders=0", "-c", "superuser_reserved_connections=0"])
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    fn is_ready(&self) -> bool {
        let status = self
            .command("pg_isready")
            .args(["--quiet", "--host=127.0.0.1", "--dbname=postgres", "--port", &self.port.to_string()])
            .status();
        status.unwrap().success()
    }

    /// Ends in order, which every connection is told.
    pub fn stop(&mut self) {
        self.end(Signal::INT);
    }

    /// Ends at once, as for lack of memory.
    pub fn kill(&mut self) {
        self.end(Signal::KILL);
    }

    fn end(&mut self, signal: Signal) {
        let mut child = self.running.take().unwrap();
        kill_process(Pid::from_child(&child), signal).unwrap();
        child.wait().unwrap();
    }

    /// Stops every process of it, or lets all go on.
    pub fn signal_all(&self, signal: Signal) {
        let main = Pid::from_child(self.running.as_ref().unwrap());
        // The one that makes others first, so that none is made meanwhile.
        kill_process(main, signal).unwrap();
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", main.as_raw_nonzero())).unwrap();
        for child in children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().unwrap())) {
            let _ = kill_process(child, signal);
        }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.current_dir("/").env("LC_ALL", "C").stdin(Stdio::null());
        if geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    fn give_to_nobody(&self) {
        give_to_nobody(self.folder.path());
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(mut child) = self.running.take() {
            let _ = kill_process(Pid::from_child(&child), Signal::QUIT);
            let _ = child.wait();
        }
    }
}

/// A folder and what is in it, where it is not the test's own user who runs the server.
fn give_to_nobody(folder: &Path) {
    if geteuid().is_root() {
        let mut paths = vec![folder.to_owned()];
        paths.extend(std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
        for path in paths {
            std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }
}

/// Where its programs are: Debian keeps them out of the way, one folder a version.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    folders.sort();
    folders.extend(std::env::split_paths(&std::env::var_os("PATH")?));
    let has_all = |folder: &Path| ["initdb", "postgres", "pg_isready"].iter().all(|it| folder.join(it).is_file());
    folders.into_iter().find(|folder| has_all(folder))
}
