//! What the long run and one pass both stand on: the state directory's lock, the journal, the children's client, the gates.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};

use crate::clock::{Clock, Moment};
use crate::job::{Client, ClientOptions, WorkerEvents};
use crate::journal::{Journal, LeftOpen, Remembered, StateLock};
use crate::model::RestartReason;
use crate::supervisor::{Context, Gates, GatesConfig};
use crate::telemetry;

use super::DaemonError;

/// The kernel's own link to this executable: children are of the same version also after an upgrade replaced the file.
const OURSELVES: &str = "/proc/self/exe";

/// Built once per process.
pub(super) struct Foundation {
    pub(super) cx: Context,
    pub(super) stop: watch::Sender<bool>,
    /// One guardiand per state directory, for as long as this lives.
    lock: StateLock,
}

impl Foundation {
    /// Locks `state_dir` and starts the journal.
    ///
    /// # Errors
    /// When another guardiand holds the directory, or it cannot be used.
    pub(super) fn lay(state_dir: &Path, workers: usize, gates: GatesConfig) -> Result<Foundation, DaemonError> {
        let lock = StateLock::acquire(state_dir).map_err(DaemonError::State)?;
        let clock = Clock::system();
        let journal = Journal::start(state_dir, clock.clone()).map_err(DaemonError::Journal)?;
        let (stop, stopping) = watch::channel(false);
        let gates = Arc::new(Mutex::new(Gates::new(gates)));
        // With one worker, the lane kept for probes is what keeps looking alive; a heal still needs one that no errand holds.
        let workers = workers.max(2);
        let errands = Arc::new(Semaphore::new(workers - 1));
        let cx = Context { clock, jobs: client(workers), errands, journal, gates, stopping };
        Ok(Foundation { cx, stop, lock })
    }

    /// Says where this process can be asked.
    pub(super) fn announce(&mut self, control: &Path) {
        self.lock.announce(control);
    }

    /// What earlier processes left: memories, open incidents, and attempts that still count against the budget.
    pub(super) async fn recall(&self, budget: Duration) -> (Vec<Remembered>, Vec<LeftOpen>) {
        let journal = &self.cx.journal;
        let hours = u32::try_from(budget.as_secs().div_ceil(3600)).unwrap_or(u32::MAX);
        match journal.stats(hours).await {
            Ok(history) => {
                let now = self.cx.clock.now();
                let mut gates = self.cx.gates.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                for past in &history {
                    for run in &past.runs {
                        gates.recall(&past.incident.target, &past.incident.mode, at(now, run.began_at));
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "earlier heals cannot be read: the budget starts afresh"),
        }
        let remembered = journal.load_memory().await.unwrap_or_else(|error| {
            tracing::warn!(%error, "what was remembered of the targets cannot be read: it is learnt again");
            Vec::new()
        });
        let left_open = journal.open_incidents().await.unwrap_or_else(|error| {
            tracing::error!(%error, "open incidents cannot be read");
            Vec::new()
        });
        (remembered, left_open)
    }
}

/// A client whose children are this program.
pub(super) fn client(workers: usize) -> Client {
    let mut options = ClientOptions::new(OURSELVES);
    options.workers = workers;
    options.events = Arc::new(Telling);
    Client::new(options)
}

/// `wall` on both clocks, as seen from `now`.
fn at(now: Moment, wall: jiff::Timestamp) -> Moment {
    let ago = u64::try_from(now.wall.duration_since(wall).as_millis()).unwrap_or(0);
    Moment { wall, boot_ms: now.boot_ms.saturating_sub(ago) }
}

/// Passes what happens to children on to logs and metrics.
struct Telling;

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
