//! One child and the talk with it: requests in, replies out, and its end, whatever way it comes.

use std::ops::ControlFlow;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::client::Inner;
use super::{FailureKind, JobFailure, Outcome, Reply, Request, line};
use crate::model::RestartReason;

/// A request, already a line, with its place in the batch and its patience.
pub(super) struct Asked {
    /// The place of the job in its batch; the request's id on the wire.
    pub(super) at: usize,
    /// The request.
    pub(super) line: Arc<[u8]>,
    /// How long the job may take from its `started`.
    pub(super) patience: Duration,
}

impl Asked {
    /// Puts `job` on a line.
    pub(super) fn new(at: usize, job: super::Job, patience: Duration) -> Result<Asked, JobFailure> {
        let line = line::encode(&Request { id: at as u64, job }).map_err(|error| JobFailure {
            kind: FailureKind::Refused,
            message: format!("could not put the job on a line for a worker: {error}"),
        })?;
        Ok(Asked { at, line: line.into(), patience })
    }
}

/// How the talk with one child ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Every request was answered.
    Finished,
    /// This job did not end, and this is its result; the ones after it were not begun.
    Culprit(usize, JobFailure),
    /// The child ended, or stood still, between jobs.
    BetweenJobs(JobFailure),
    /// No child could be started.
    NotStarted(JobFailure),
}

/// Starts a child, asks it all of `asked`, hands each answer to `answered`, and sees the child off.
///
/// `lane` is given back when the child has ended, except for a child that is given up: it keeps `lane` until it really
/// ends when `lane` is a worker's, and gives it back at once when it is the probes' own, so that probes go on.
pub(super) async fn converse(
    inner: &Arc<Inner>,
    lane: Lane,
    asked: &[Asked],
    answered: &mut (dyn FnMut(usize, Result<Outcome, JobFailure>) + Send),
) -> Ending {
    let (child, stdin, stdout) = match spawn(inner) {
        Ok(parts) => parts,
        Err(error) => {
            let program = inner.options.program.display();
            let message = format!("could not start a worker from {program}: {error}");
            return Ending::NotStarted(JobFailure { kind: FailureKind::Failed, message });
        }
    };
    let lines: Vec<Arc<[u8]>> = asked.iter().map(|one| Arc::clone(&one.line)).collect();
    // Apart from the reading, or both sides could wait for each other on full pipes. It ends with the child (EPIPE).
    tokio::spawn(feed(stdin, lines));
    let mut talk = Talk { asked, next: 0, running: false, answered };
    let stop = talk.listen(stdout, inner.options.standstill).await;
    talk.end(inner, child, lane, stop).await
}

/// The permit that a child runs on.
pub(super) struct Lane {
    permit: OwnedSemaphorePermit,
    reserved: bool,
}

impl Lane {
    /// One of the `workers`.
    pub(super) fn worker(permit: OwnedSemaphorePermit) -> Lane {
        Lane { permit, reserved: false }
    }

    /// The one kept for probes.
    pub(super) fn reserved(permit: OwnedSemaphorePermit) -> Lane {
        Lane { permit, reserved: true }
    }
}

fn spawn(inner: &Inner) -> std::io::Result<(Child, ChildStdin, ChildStdout)> {
    let mut command = Command::new(&inner.options.program);
    command
        .arg("worker")
        .arg(inner.options.memory.to_string())
        .arg(std::process::id().to_string())
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command.spawn()?;
    let pid = child.id().unwrap_or(0);
    if let Some(stderr) = child.stderr.take() {
        let events = Arc::clone(&inner.options.events);
        tokio::spawn(async move {
            let mut stderr = BufReader::new(stderr);
            let mut line = Vec::new();
            while let Ok(1..) = (&mut stderr).take(4096).read_until(b'\n', &mut line).await {
                events.said(pid, String::from_utf8_lossy(&line).trim_end());
                line.clear();
            }
        });
    }
    match (child.stdin.take(), child.stdout.take()) {
        (Some(stdin), Some(stdout)) => Ok((child, stdin, stdout)),
        _ => Err(std::io::Error::other("its pipes are missing")),
    }
}

async fn feed(mut stdin: ChildStdin, lines: Vec<Arc<[u8]>>) {
    for line in lines {
        if stdin.write_all(&line).await.is_err() {
            return;
        }
    }
}

/// Why the listening stopped.
enum Stop {
    /// The child closed its output.
    Closed,
    /// It must be killed for this.
    Kill(RestartReason, String),
}

struct Talk<'a> {
    asked: &'a [Asked],
    /// The first that is not answered: jobs are done in the order of asking.
    next: usize,
    /// It has begun.
    running: bool,
    answered: &'a mut (dyn FnMut(usize, Result<Outcome, JobFailure>) + Send),
}

impl Talk<'_> {
    async fn listen(&mut self, stdout: ChildStdout, standstill: Duration) -> Stop {
        let mut stdout = BufReader::with_capacity(64 * 1024, stdout);
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            let patience = match self.asked.get(self.next) {
                Some(asked) if self.running => asked.patience,
                _ => standstill,
            };
            let limit = line::MAX_LINE as u64 + 1;
            match timeout(patience, (&mut stdout).take(limit).read_until(b'\n', &mut bytes)).await {
                Err(_) if self.running => {
                    return Stop::Kill(RestartReason::Deadline, format!("no answer within {patience:?}"));
                }
                Err(_) => {
                    let what = if self.next < self.asked.len() { "began no job" } else { "did not end" };
                    return Stop::Kill(RestartReason::Idle, format!("the worker {what} within {patience:?}"));
                }
                Ok(Err(error)) => {
                    return Stop::Kill(RestartReason::Crash, format!("reading from the worker failed: {error}"));
                }
                Ok(Ok(0)) => return Stop::Closed,
                Ok(Ok(_)) => match line::decode::<Reply>(&bytes) {
                    Ok(reply) => {
                        if let ControlFlow::Break(error) = self.take(reply) {
                            return Stop::Kill(RestartReason::Crash, error);
                        }
                    }
                    // A worker that dies in the middle of a line: its exit status tells more than the line.
                    Err(line::LineError::Torn(_)) => return Stop::Closed,
                    Err(error) => return Stop::Kill(RestartReason::Crash, format!("the worker said {error}")),
                },
            }
        }
    }

    fn take(&mut self, reply: Reply) -> ControlFlow<String> {
        let expected = self.asked.get(self.next).map(|asked| asked.at as u64);
        match reply {
            Reply::Started { id } if Some(id) == expected && !self.running => self.running = true,
            Reply::Done { id, result } if Some(id) == expected && self.running => {
                self.running = false;
                (self.answered)(self.asked[self.next].at, result);
                self.next += 1;
            }
            Reply::Started { id } | Reply::Done { id, .. } => {
                return ControlFlow::Break(format!("the worker spoke of job {id} when {expected:?} was due"));
            }
        }
        ControlFlow::Continue(())
    }

    async fn end(self, inner: &Arc<Inner>, mut child: Child, lane: Lane, stop: Stop) -> Ending {
        let pid = child.id().unwrap_or(0);
        let (mut stop, mut status) = (stop, None);
        if matches!(stop, Stop::Closed) {
            match timeout(inner.options.kill_grace, child.wait()).await {
                Ok(ended) => status = ended.ok(),
                Err(_) => stop = Stop::Kill(RestartReason::Idle, "the worker did not end after its work".to_owned()),
            }
        }
        let (kind, reason, detail) = match (stop, status) {
            (Stop::Closed, Some(status)) if status.success() && self.next == self.asked.len() => {
                return Ending::Finished;
            }
            (Stop::Closed, status) => (FailureKind::Crashed, RestartReason::Crash, in_words(status, inner)),
            (Stop::Kill(reason, detail), _) => {
                // The error says only that it has ended already.
                let _ = child.start_kill();
                let abandoned = timeout(inner.options.kill_grace, child.wait()).await.is_err();
                if abandoned {
                    give_up(inner, child, lane, pid);
                }
                let kind = match (abandoned, reason) {
                    (true, _) => FailureKind::Abandoned,
                    (false, RestartReason::Deadline) => FailureKind::Deadline,
                    (false, _) => FailureKind::Crashed,
                };
                let fate = if abandoned { "not even SIGKILL ended it" } else { "it was killed" };
                (kind, reason, format!("{detail}; {fate} (pid {pid})"))
            }
        };
        inner.options.events.restarted(reason, &detail);
        let failure = JobFailure { kind, message: format!("the job's worker failed: {detail}") };
        match self.asked.get(self.next) {
            Some(asked) if self.running => Ending::Culprit(asked.at, failure),
            Some(_) => Ending::BetweenJobs(failure),
            // All was answered; how the child ended is for the log alone.
            None => Ending::Finished,
        }
    }
}

/// Waits in the background for a child that is in uninterruptible sleep, so that it is reaped and counted.
fn give_up(inner: &Arc<Inner>, mut child: Child, lane: Lane, pid: u32) {
    let kept = (!lane.reserved).then_some(lane.permit);
    let now = inner.abandoned.fetch_add(1, Ordering::Relaxed) + 1;
    inner.options.events.abandoned(pid, now);
    let inner = Arc::clone(inner);
    tokio::spawn(async move {
        let _ = child.wait().await;
        let now = inner.abandoned.fetch_sub(1, Ordering::Relaxed) - 1;
        inner.options.events.returned(pid, now);
        drop(kept);
    });
}

fn in_words(status: Option<ExitStatus>, inner: &Inner) -> String {
    let memory = inner.options.memory >> 20;
    match status.map(|status| (status.signal(), status.code())) {
        Some((Some(6), _)) => format!("it aborted (SIGABRT): its memory limit of {memory} MiB, or a bug"),
        Some((Some(9), _)) => {
            "it was killed from outside (SIGKILL): out of memory on the host, or by a person".to_owned()
        }
        Some((Some(signal), _)) => format!("it died of signal {signal}"),
        Some((_, Some(code))) => format!("it ended with exit status {code} before its work was done"),
        _ => "it ended, and how could not be told".to_owned(),
    }
}
