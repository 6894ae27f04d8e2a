//! What the long run and one pass both stand on: the state directory's lock, the journal, the children's client, the gates.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, watch};

use crate::clock::{Clock, Moment};
use crate::job::{Client, ClientOptions, WorkerEvents};
use crate::journal::{History, Journal, LeftOpen, Remembered, StateLock};
use crate::model::{Resolution, RestartReason};
use crate::supervisor::{Context, FORGIVEN, Forgiven, Gates, GatesConfig, Notices, PAUSES, Pauses};
use crate::telemetry;

use super::DaemonError;
use super::scratch::Rousing;

/// The kernel's own link to this executable: children are of the same version also after an upgrade replaced the file.
const OURSELVES: &str = "/proc/self/exe";

/// Heals of longer ago say nothing of whether the present one would last.
const RECALLED_MAX: Duration = Duration::from_secs(31 * 24 * 3600);

/// Built once per process.
pub(super) struct Foundation {
    pub(super) cx: Context,
    pub(super) stop: watch::Sender<bool>,
    /// Told of each child that ended early: it may have left something behind.
    pub(super) ended: Arc<Notify>,
    /// One guardiand per state directory, for as long as this lives.
    lock: StateLock,
}

impl Foundation {
    /// Locks `state_dir` and starts the journal.
    ///
    /// # Errors
    /// When another guardiand holds the directory, or it cannot be used.
    pub(super) fn lay(
        state_dir: &Path,
        workers: usize,
        gates: GatesConfig,
        notices: Notices,
    ) -> Result<Foundation, DaemonError> {
        let lock = StateLock::acquire(state_dir).map_err(DaemonError::State)?;
        let clock = Clock::system();
        let journal = Journal::start(state_dir, clock.clone()).map_err(DaemonError::Journal)?;
        let (stop, stopping) = watch::channel(false);
        let gates = Arc::new(Mutex::new(Gates::new(gates)));
        // With one worker, the lane kept for probes is what keeps looking alive; a heal still needs one that no errand holds.
        let workers = workers.max(2);
        let errands = Arc::new(Semaphore::new(workers - 1));
        let board = Arc::default();
        let ended = Arc::new(Notify::new());
        let jobs = client_heard_by(workers, Arc::new(Rousing(Arc::clone(&ended))));
        let cx = Context { clock, jobs, errands, journal, gates, notices, board, stopping };
        Ok(Foundation { cx, stop, ended, lock })
    }

    /// Says where this process can be asked.
    pub(super) fn announce(&mut self, control: &Path) {
        self.lock.announce(control);
    }

    /// What earlier processes left: memories, open incidents, attempts that still count against the budget, heals that did
    /// not last, and what a person paused or forgave.
    pub(super) async fn recall(&self, limits: GatesConfig) -> (Vec<Remembered>, Vec<LeftOpen>) {
        let journal = &self.cx.journal;
        let left_open = journal.open_incidents().await.unwrap_or_else(|error| {
            tracing::error!(%error, "open incidents cannot be read");
            Vec::new()
        });
        let now = self.cx.clock.now();
        // Whether a heal lasted is judged by when its incident was opened.
        let oldest = left_open.iter().map(|left| left.replayed.incident.opened_at).min().unwrap_or(now.wall);
        let open_for = Duration::try_from(now.wall.duration_since(oldest)).unwrap_or(Duration::ZERO);
        let span = limits.heals_per.max(limits.repeat_within.saturating_add(open_for)).min(RECALLED_MAX);
        let hours = u32::try_from(span.as_secs().div_ceil(3600)).unwrap_or(u32::MAX);
        let pauses = journal.kept(PAUSES).await.map_err(|error| error.to_string());
        let forgiven = journal.kept(FORGIVEN).await.map_err(|error| error.to_string());
        let words = (Pauses::recall(pauses, now), Forgiven::recall(forgiven));
        let history = journal.stats(hours).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "earlier heals cannot be read: the budget starts afresh");
            Vec::new()
        });
        self.recall_gates(&history, words, now);
        let remembered = journal.load_memory().await.unwrap_or_else(|error| {
            tracing::warn!(%error, "what was remembered of the targets cannot be read: it is learnt again");
            Vec::new()
        });
        (remembered, left_open)
    }

    fn recall_gates(&self, history: &[History], (pauses, forgiven): (Pauses, Forgiven), now: Moment) {
        let mut gates = self.cx.gates.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        gates.recall_words(pauses, forgiven);
        for past in history {
            let incident = &past.incident;
            let (target, mode) = (&incident.target, &incident.mode);
            for run in &past.runs {
                if !gates.is_forgiven(target, run.began_at, now.wall) {
                    gates.recall(target, mode, at(now, run.began_at));
                }
            }
            if let (Some(Resolution::Healed), Some(closed_at)) = (incident.outcome, incident.closed_at)
                && !gates.is_forgiven(target, closed_at, now.wall)
            {
                gates.healed(target, mode, &incident.kind, closed_at);
            }
        }
    }
}

/// A client whose children are this program.
pub(super) fn client(workers: usize) -> Client {
    client_heard_by(workers, Arc::new(Telling))
}

/// The same, with another to hear what happens to children.
pub(super) fn client_heard_by(workers: usize, events: Arc<dyn WorkerEvents>) -> Client {
    let mut options = ClientOptions::new(OURSELVES);
    options.workers = workers;
    options.events = events;
    Client::new(options)
}

/// `wall` on both clocks, as seen from `now`.
fn at(now: Moment, wall: jiff::Timestamp) -> Moment {
    let ago = u64::try_from(now.wall.duration_since(wall).as_millis()).unwrap_or(0);
    Moment { wall, boot_ms: now.boot_ms.saturating_sub(ago) }
}

/// Passes what happens to children on to logs and metrics.
pub(super) struct Telling;

impl WorkerEvents for Telling {
    fn restarted(&self, reason: RestartReason, detail: &str) {
        telemetry::WorkerRestarted { reason, detail }.emit();
    }

    fn said(&self, pid: u32, line: &str) {
        tracing::warn!(pid, line, "a worker said");
    }

    fn abandoned(&self, pid: u32, now: usize) {
        tracing::error!(pid, abandoned = now, "not even SIGKILL ended a worker: a disk does not answer");
    }

    fn returned(&self, pid: u32, now: usize) {
        tracing::info!(pid, abandoned = now, "an abandoned worker ended after all");
    }
}
