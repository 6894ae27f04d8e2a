//! The writer program as a child: what it does, what it was promised, how it ends.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

/// A running writer. Dropped, it is killed.
pub struct Program {
    child: Child,
}

impl Program {
    /// Starts `writer DB MODE COMMITS LOG FLAGS…` and waits until it says that it is ready.
    pub fn start(db: &Path, mode: &str, commits: &str, log: &Path, flags: &[&str]) -> Program {
        Program::try_start(Command::new(executable()), db, mode, commits, log, flags)
            .unwrap_or_else(|| panic!("the writer did not get ready"))
    }

    /// The same, by a command that runs the writer in its turn; `None` where it does not get ready.
    pub fn try_start(
        mut command: Command,
        db: &Path,
        mode: &str,
        commits: &str,
        log: &Path,
        flags: &[&str],
    ) -> Option<Program> {
        let command = command.arg(db).args([mode, commits]).arg(log).args(flags);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let program = Program { child };
        (line == "ready\n").then_some(program)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGSTOP, and waits until it stands still.
    pub fn stop(&self) {
        self.signal(rustix::process::Signal::STOP);
        while !self.is_stopped() {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }

    /// Any signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
    }

    /// Whether it stands still.
    pub fn is_stopped(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        stat.rsplit_once(')').unwrap().1.trim_start().starts_with(['T', 't'])
    }

    /// Asks it to finish, and does not wait: one that stands still ends as soon as it goes on.
    pub fn ask_to_finish(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Asks it to finish, and waits: everything is closed in order.
    pub fn finish(mut self) -> ExitStatus {
        drop(self.child.stdin.take());
        self.child.wait().unwrap()
    }

    /// SIGKILL: nothing is closed.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for an end that it was told to come to.
    pub fn ended(mut self) -> ExitStatus {
        let stdin = self.child.stdin.take();
        let status = self.child.wait().unwrap();
        drop(stdin);
        status
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Beside this test's own program: `cargo test` builds examples there.
pub fn executable() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().and_then(Path::parent).unwrap().join("examples/writer");
    assert!(
        path.exists(),
        "{} is not built: run `cargo build --example writer`, or plain `cargo test`",
        path.display()
    );
    path
}
