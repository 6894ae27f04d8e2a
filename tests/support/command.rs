//! The command line as a script sees it: a status, one document, and what was said beside it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::daemon::PATIENCE;

const PAUSE: Duration = Duration::from_millis(5);

/// How a command ended.
#[derive(Debug)]
pub struct Ran {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Stdout as the one document that it must be.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("no single document ({error}): {self:#?}"))
    }

    /// The same, once the status is right.
    pub fn json_of(&self, status: i32) -> Value {
        assert_eq!(self.status, status, "{self:#?}");
        self.json()
    }
}

/// Runs the real binary in `folder`, away from any configuration of this machine; one that hangs fails the test.
pub fn guardiand<A: AsRef<std::ffi::OsStr>>(folder: &Path, arguments: &[A]) -> Ran {
    let mut command = Command::new(super::guardiand());
    command.args(arguments);
    run(folder, command)
}

/// Runs any command to its end, bounded.
pub fn run(folder: &Path, mut command: Command) -> Ran {
    let mut child = command
        .current_dir(folder)
        .env_remove("STATE_DIRECTORY")
        .env_remove("RUNTIME_DIRECTORY")
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    // Read aside: a full pipe must not look like a hang.
    let out = std::thread::spawn(move || read(&mut out));
    let err = std::thread::spawn(move || read(&mut err));
    let until = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() >= until {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{command:?} did not end within {PATIENCE:?}");
        }
        std::thread::sleep(PAUSE);
    };
    let ran = Ran {
        status: status.code().unwrap_or_else(|| panic!("{command:?} ended with {status}")),
        stdout: out.join().unwrap(),
        stderr: err.join().unwrap(),
    };
    assert!(!ran.stderr.contains("panicked"), "{ran:#?}");
    ran
}

fn read(from: &mut impl std::io::Read) -> String {
    let mut text = Vec::new();
    let _ = from.read_to_end(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}
