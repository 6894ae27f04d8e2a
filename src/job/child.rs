//! One child and the talk with it: requests in, replies out, and its end, whatever way it comes.

use std::ops::ControlFlow;
use std::os::unix::process::ExitStatusExt;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::client::Inner;
use super::kept::BATCHES_MAX;
use super::{FailureKind, JobFailure, Outcome, Reply, Request, line};
use crate::model::RestartReason;

/// Lines are written together up to about so many bytes: a batch of hundreds is not as many system calls.
const FEED: usize = 16 * 1024;
/// A listing of more files than this leaves too much memory behind to be kept.
const LISTED_MAX: usize = 2000;

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
        let line = line::encode(&Request::Job { id: at as u64, job }).map_err(|error| JobFailure {
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
pub(super) async fn converse(inner: &Arc<Inner>, lane: Lane, asked: &[Asked], answered: &mut Answered<'_>) -> Ending {
    match Worker::start(inner) {
        Ok(worker) => Talk::new(inner, lane, asked, answered).with(worker, false).await,
        Err(failure) => Ending::NotStarted(failure),
    }
}

/// As [`converse`], with the child that is kept on the probes' own lane, if there is one, and if `lane` is that. When all that
/// this child was asked cost a `stat`, it is kept for the next batch.
pub(super) async fn converse_with_kept(
    inner: &Arc<Inner>,
    lane: Lane,
    asked: &[Asked],
    answered: &mut Answered<'_>,
) -> Ending {
    if !lane.reserved {
        return converse(inner, lane, asked, answered).await;
    }
    let mut talk = Talk::new(inner, lane, asked, answered);
    if let Some(mut worker) = inner.kept.take().await {
        let stop = talk.run(&mut worker).await;
        if !(matches!(stop, Some(Stop::Closed)) && talk.is_untouched()) {
            return talk.end(worker, stop, true).await;
        }
        // It ended while it had nothing to do (a person's kill, the kernel's want of memory): no job of ours was in it.
    }
    match Worker::start(inner) {
        Ok(worker) => talk.with(worker, true).await,
        Err(failure) => Ending::NotStarted(failure),
    }
}

/// Hears each answer, with its job's place in the batch.
pub(super) type Answered<'a> = dyn FnMut(usize, Result<Outcome, JobFailure>) + Send + 'a;

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

/// A child and its pipes. Killed when dropped.
pub(super) struct Worker {
    pub(super) child: Child,
    /// `None` once it was told that nothing more comes.
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    started: Instant,
    /// Batches that it was asked.
    batches: u32,
}

impl Worker {
    fn start(inner: &Inner) -> Result<Worker, JobFailure> {
        let started = spawn(inner).map_err(|error| {
            let program = inner.options.program.display();
            let message = format!("could not start a worker from {program}: {error}");
            JobFailure { kind: FailureKind::Failed, message }
        });
        let (child, stdin, stdout) = started?;
        let stdout = BufReader::with_capacity(64 * 1024, stdout);
        Ok(Worker { child, stdin: Some(stdin), stdout, started: Instant::now(), batches: 0 })
    }

    /// How long it may be kept, if it may; one that said what it was not asked may not.
    fn life_left(&self, whole: Duration) -> Option<Duration> {
        let left = whole.checked_sub(self.started.elapsed())?;
        (self.batches < BATCHES_MAX && self.stdout.buffer().is_empty()).then_some(left)
    }

    /// Lets it go: it ends at the end of its input.
    pub(super) fn dismiss(&mut self) {
        self.stdin = None;
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
            let mut stderr = BufReader::with_capacity(4096, stderr);
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

/// Writes the batch, some lines at a time. It ends with the child (EPIPE), whose end says more than the error.
async fn feed(stdin: &mut Option<ChildStdin>, asked: &[Asked]) {
    let Some(stdin) = stdin else { return };
    let mut bytes = line::encode(&Request::Afresh).unwrap_or_default();
    for (index, one) in asked.iter().enumerate() {
        bytes.extend_from_slice(&one.line);
        let last = index + 1 == asked.len();
        if last || bytes.len() >= FEED {
            if stdin.write_all(&bytes).await.is_err() {
                return;
            }
            bytes.clear();
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

struct Talk<'a, 'b> {
    inner: &'a Arc<Inner>,
    lane: Lane,
    asked: &'a [Asked],
    /// The first that is not answered: jobs are done in the order of asking.
    next: usize,
    /// It has begun.
    running: bool,
    /// Every answer cost a `stat`.
    cheap: bool,
    answered: &'a mut Answered<'b>,
}

impl<'a, 'b> Talk<'a, 'b> {
    fn new(inner: &'a Arc<Inner>, lane: Lane, asked: &'a [Asked], answered: &'a mut Answered<'b>) -> Talk<'a, 'b> {
        Talk { inner, lane, asked, next: 0, running: false, cheap: true, answered }
    }

    /// The whole talk with one child.
    async fn with(mut self, mut worker: Worker, keep: bool) -> Ending {
        let stop = self.run(&mut worker).await;
        self.end(worker, stop, keep).await
    }

    /// No job was begun.
    fn is_untouched(&self) -> bool {
        self.next == 0 && !self.running
    }

    /// Asks and listens at the same time, or both sides could wait for each other on full pipes.
    async fn run(&mut self, worker: &mut Worker) -> Option<Stop> {
        worker.batches += 1;
        let Worker { stdin, stdout, .. } = worker;
        let mut feeding = pin!(feed(stdin, self.asked));
        let mut listening = pin!(self.listen(stdout));
        tokio::select! {
            biased;
            stop = &mut listening => stop,
            () = &mut feeding => listening.await,
        }
    }

    /// Until all is answered (`None`), or the child ends or must.
    async fn listen(&mut self, stdout: &mut BufReader<ChildStdout>) -> Option<Stop> {
        let standstill = self.inner.options.standstill;
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            let patience = match self.asked.get(self.next) {
                Some(asked) if self.running => asked.patience,
                _ => standstill,
            };
            let limit = line::MAX_LINE as u64 + 1;
            match timeout(patience, (&mut *stdout).take(limit).read_until(b'\n', &mut bytes)).await {
                Err(_) if self.running => {
                    let detail = format!("no answer within {patience:?}");
                    return Some(Stop::Kill(RestartReason::Deadline, detail));
                }
                Err(_) => {
                    let what = if self.next < self.asked.len() { "began no job" } else { "did not end" };
                    let detail = format!("the worker {what} within {patience:?}");
                    return Some(Stop::Kill(RestartReason::Idle, detail));
                }
                Ok(Err(error)) => {
                    let detail = format!("reading from the worker failed: {error}");
                    return Some(Stop::Kill(RestartReason::Crash, detail));
                }
                Ok(Ok(0)) => return Some(Stop::Closed),
                Ok(Ok(_)) => match line::decode::<Reply>(&bytes) {
                    Ok(reply) => match self.take(reply) {
                        ControlFlow::Break(error) => return Some(Stop::Kill(RestartReason::Crash, error)),
                        ControlFlow::Continue(()) if self.next == self.asked.len() => return None,
                        ControlFlow::Continue(()) => {}
                    },
                    // A worker that dies in the middle of a line: its exit status tells more than the line.
                    Err(line::LineError::Torn(_)) => return Some(Stop::Closed),
                    Err(error) => return Some(Stop::Kill(RestartReason::Crash, format!("the worker said {error}"))),
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
                self.cheap &= costs_a_stat(&result);
                (self.answered)(self.asked[self.next].at, result);
                self.next += 1;
            }
            Reply::Started { id } | Reply::Done { id, .. } => {
                return ControlFlow::Break(format!("the worker spoke of job {id} when {expected:?} was due"));
            }
        }
        ControlFlow::Continue(())
    }

    /// Keeps the child where it may be kept, and sees it off otherwise.
    async fn end(mut self, mut worker: Worker, stop: Option<Stop>, keep: bool) -> Ending {
        let (inner, mut status) = (self.inner, None);
        let mut stop = match stop {
            Some(stop) => stop,
            // Kept in one go with the last answer, without a wait: who hears that one may end this talk by listening no longer.
            None => {
                if let Some(left) = worker.life_left(inner.options.keep).filter(|_| keep && self.cheap) {
                    inner.kept.keep(worker, left);
                    return Ending::Finished;
                }
                worker.dismiss();
                self.listen(&mut worker.stdout).await.unwrap_or(Stop::Closed)
            }
        };
        let Worker { mut child, stdin, .. } = worker;
        drop(stdin);
        let pid = child.id().unwrap_or(0);
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
                    give_up(inner, child, self.lane, pid);
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

/// Only files were `stat`ed, or folders listed: no database was opened, so that nothing of one can have stayed behind in the
/// child, neither a descriptor, nor a lock, nor SQLite's memory.
fn costs_a_stat(answer: &Result<Outcome, JobFailure>) -> bool {
    match answer {
        Ok(Outcome::Probed(facts)) => facts.unchanged,
        Ok(Outcome::Expanded { matches, .. }) => matches.len() <= LISTED_MAX,
        _ => false,
    }
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
