//! The supervisor's side of the seam: runs jobs in re-executed children, and turns hangs and crashes into answers.
//!
//! A child lives for all the cheap probes of a sweep, or for one long job; POSIX locks are dropped by its exit, and what went
//! wrong in it ends with it. Starting one costs some milliseconds of CPU, which is more than all the looks of a sweep over
//! unchanged files: so a child that did nothing but `stat` is kept for the next sweep, for a while ([`ClientOptions::keep`]). It holds
//! nothing meanwhile, and looks at the host afresh for each batch.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::batch::{self, Probe};
use super::child::{self, Asked, Ending, Lane};
use super::kept::Kept;
use super::{FailureKind, Job, JobFailure, Outcome, WorkerEvents};

/// What came back for a job.
pub type Answer = Result<Outcome, JobFailure>;

/// How children are run.
#[derive(Clone)]
pub struct ClientOptions {
    /// The program to re-execute; its first argument will be `worker`.
    pub program: PathBuf,
    /// Long jobs at once, at least 1; one more lane is kept for probes.
    pub workers: usize,
    /// The address space of a child, in bytes (`RLIMIT_AS`).
    pub memory: u64,
    /// How long a child may work on nothing: before its first job, or between two.
    pub standstill: Duration,
    /// How long a child may take to end after SIGKILL, before it is given up.
    pub kill_grace: Duration,
    /// How long a child that did nothing but `stat` may be kept for the next sweep, from its start.
    pub keep: Duration,
    /// Hears of restarts.
    pub events: Arc<dyn WorkerEvents>,
}

impl ClientOptions {
    /// Two workers of 1 GiB each, re-executing `program`. The daemon gives the kernel's own link to its executable, so that
    /// children are of the same version also when its file was replaced by an update meanwhile.
    pub fn new(program: impl Into<PathBuf>) -> ClientOptions {
        ClientOptions {
            program: program.into(),
            workers: 2,
            memory: 1 << 30,
            standstill: Duration::from_secs(10),
            kill_grace: Duration::from_secs(2),
            keep: Duration::from_secs(600),
            events: Arc::new(()),
        }
    }
}

/// Runs jobs in children. Cheap to clone; clones share the lanes.
///
/// To be used on a runtime whose threads live as long as the children: a child dies with the *thread* that started it
/// (`PR_SET_PDEATHSIG`, prctl(2)).
#[derive(Clone)]
pub struct Client(Arc<Inner>);

pub(super) struct Inner {
    pub(super) options: ClientOptions,
    pub(super) workers: Arc<Semaphore>,
    pub(super) probes: Arc<Semaphore>,
    pub(super) kept: Kept,
    pub(super) abandoned: AtomicUsize,
}

impl Client {
    /// A client with lanes of its own.
    pub fn new(options: ClientOptions) -> Client {
        Client(Arc::new(Inner {
            workers: Arc::new(Semaphore::new(options.workers.max(1))),
            probes: Arc::new(Semaphore::new(1)),
            kept: Kept::default(),
            abandoned: AtomicUsize::new(0),
            options,
        }))
    }

    /// Children that not even SIGKILL has ended yet.
    pub fn abandoned(&self) -> usize {
        self.0.abandoned.load(Ordering::Relaxed)
    }

    /// Runs one long job in a child of its own, when one of the `workers` is free. `patience` counts from its beginning.
    /// Dropping the future kills the child.
    ///
    /// # Errors
    /// The job's own failure; or `Deadline`, `Crashed`, `Abandoned` for its child's.
    pub async fn run(&self, job: Job, patience: Duration) -> Answer {
        let asked = Asked::new(0, job, patience)?;
        let lane = Lane::worker(self.0.worker().await?);
        run_alone(&self.0, lane, &asked).await
    }

    /// Runs cheap probes in one child on the lane kept for them (or a worker's, when one is free and that lane is not),
    /// and hands out each answer as it comes, with the caller's id. Every job is answered exactly once. The patience of each
    /// counts from its own beginning. Dropping the receiver before the last answer kills the child.
    ///
    /// On the lane kept for them the child of the last batch is asked again, when that one did nothing but `stat`: see
    /// [`ClientOptions::keep`]. If it was killed meanwhile another takes its place, and nothing is made of it.
    ///
    /// A job that hangs or crashes is known by its `started`; the rest goes on in a fresh batch without it. After a second such
    /// job the rest runs one by one, each in a child of its own and beside each other as lanes allow, so that a folder full of
    /// culprits cannot hold up the sound ones for the sum of their deadlines.
    pub fn probe_batch(&self, jobs: Vec<(u64, Job, Duration)>) -> mpsc::UnboundedReceiver<(u64, Answer)> {
        self.probe_grounds(
            jobs.into_iter().map(|(id, job, patience)| Probe { id, job, patience, ground: None }).collect(),
        )
    }

    /// As [`Client::probe_batch`]. When not even SIGKILL ends a child, the others with the ground of its job are answered for as it
    /// is, and none of them costs a child of its own.
    pub fn probe_grounds(&self, probes: Vec<Probe>) -> mpsc::UnboundedReceiver<(u64, Answer)> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let inner = Arc::clone(&self.0);
        tokio::spawn(async move {
            tokio::select! {
                () = batch::run(&inner, probes, &sender) => {}
                () = sender.closed() => {}
            }
        });
        receiver
    }
}

impl Inner {
    async fn worker(&self) -> Result<OwnedSemaphorePermit, JobFailure> {
        Arc::clone(&self.workers).acquire_owned().await.map_err(closed)
    }

    /// The lane kept for probes, or a free worker's, whichever comes first.
    pub(super) async fn probe_lane(&self) -> Result<Lane, JobFailure> {
        tokio::select! {
            biased;
            permit = Arc::clone(&self.probes).acquire_owned() => permit.map(Lane::reserved).map_err(closed),
            permit = Arc::clone(&self.workers).acquire_owned() => permit.map(Lane::worker).map_err(closed),
        }
    }
}

/// Runs one job in a child of its own on `lane`.
pub(super) async fn run_alone(inner: &Arc<Inner>, lane: Lane, asked: &Asked) -> Answer {
    let mut answer = None;
    let ending = child::converse(inner, lane, std::slice::from_ref(asked), &mut |_, got| answer = Some(got)).await;
    match (answer, ending) {
        (Some(answer), _) => answer,
        (None, Ending::Culprit(_, failure) | Ending::BetweenJobs(failure) | Ending::NotStarted(failure)) => {
            Err(failure)
        }
        (None, Ending::Finished) => Err(JobFailure {
            kind: FailureKind::Crashed,
            message: "the job's worker ended without an answer".to_owned(),
        }),
    }
}

fn closed(_: tokio::sync::AcquireError) -> JobFailure {
    JobFailure { kind: FailureKind::Refused, message: "guardiand is stopping: no job is started any more".to_owned() }
}
