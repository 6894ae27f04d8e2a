//! The child that is kept between sweeps: starting one costs more than all that it does for an unchanged database.
//!
//! It has only ever `stat`ed files and listed folders, so it holds no descriptor, no lock and nothing of SQLite's; what the
//! host told it is forgotten when the next batch begins. It lives for a while at most, so that nothing can pile up in it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::child::Worker;

/// The most batches that one child is asked.
pub(super) const BATCHES_MAX: u32 = 1000;
/// How long it may take to end when it is let go; then it is killed. It has no reason to take any time at all.
const FAREWELL: Duration = Duration::from_secs(2);

/// The kept child, if there is one. Only who has the probes' own lane takes it and puts it back.
#[derive(Default)]
pub(super) struct Kept(Mutex<Option<Idle>>);

/// A task has the child, so that one that ends meanwhile is reaped at once, and one that is not needed is let go in time.
struct Idle {
    call: oneshot::Sender<()>,
    worker: JoinHandle<Option<Worker>>,
}

impl Kept {
    /// Takes the child out; `None` when there is none, or none any more.
    pub(super) async fn take(&self) -> Option<Worker> {
        let idle = self.slot().take()?;
        // Nobody hears the call when the child has ended or is let go.
        idle.call.send(()).ok()?;
        idle.worker.await.ok().flatten()
    }

    /// Keeps a child for the next batch, for as long as is `left` of its life.
    pub(super) fn keep(&self, worker: Worker, left: Duration) {
        let (call, called) = oneshot::channel();
        let worker = tokio::spawn(idle(worker, left, called));
        *self.slot() = Some(Idle { call, worker });
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Idle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Until it is called for, or the client is gone, or it ended, or has lived long enough.
async fn idle(mut worker: Worker, left: Duration, mut called: oneshot::Receiver<()>) -> Option<Worker> {
    tokio::select! {
        biased;
        // With the client gone, nobody takes it: it is dropped, and killed by that.
        _ = &mut called => return Some(worker),
        _ = worker.child.wait() => return None,
        () = sleep(left) => {}
    }
    drop(called);
    worker.dismiss();
    if timeout(FAREWELL, worker.child.wait()).await.is_err() {
        // The error says only that it has ended already.
        let _ = worker.child.kill().await;
    }
    None
}
