//! The command: run without a shell, the notice's JSON on its stdin, its end waited for; one that does not end is killed with
//! all that it started.

use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

/// What it says on stderr when it fails is passed on up to here.
const WORDS_MAX: u64 = 1000;

/// Its last words may still be in the pipe; but what it left running may hold that open for ever.
const LAST_WORDS: std::time::Duration = std::time::Duration::from_millis(200);

/// Its process group, killed when this is dropped before it ended.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Runs `argv` once. Dropped before its end (a deadline), it is killed.
pub(super) async fn run(argv: &[String], body: &[u8]) -> Result<(), String> {
    let Some((program, arguments)) = argv.split_first() else { return Ok(()) };
    let mut command = Command::new(program);
    command
        .args(arguments)
        // Ours, and not to be answered by others.
        .env_remove("NOTIFY_SOCKET")
        .env_remove("WATCHDOG_USEC")
        .env_remove("WATCHDOG_PID")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| format!("{program} cannot be run: {error}"))?;
    let mut group = Group(child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())));
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let feed = async {
        if let Some(mut stdin) = stdin {
            // One that does not read is its own affair: its status counts.
            let _ = stdin.write_all(body).await;
        }
    };
    let mut words = Vec::new();
    let (status, ()) = tokio::join!(ended(&mut child, stderr, &mut words), feed);
    let status = status.map_err(|error| format!("{program} cannot be waited for: {error}"))?;
    // Waited for: the number may be another's by now. What it started on purpose may go on.
    group.0 = None;
    match status.success() {
        true => Ok(()),
        false => Err(format!("{program} ended with {status}: {}", String::from_utf8_lossy(&words).trim())),
    }
}

async fn ended(
    child: &mut tokio::process::Child,
    stderr: Option<impl AsyncRead + Unpin>,
    words: &mut Vec<u8>,
) -> std::io::Result<ExitStatus> {
    let Some(mut stderr) = stderr else { return child.wait().await };
    let mut listen = std::pin::pin!(async {
        let _ = (&mut stderr).take(WORDS_MAX).read_to_end(words).await;
        // The rest is let go, so that a talkative one does not stand still on a full pipe.
        let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
    });
    tokio::select! {
        status = child.wait() => {
            let _ = tokio::time::timeout(LAST_WORDS, listen).await;
            status
        }
        () = &mut listen => child.wait().await,
    }
}
