//! Private copies of databases that children made and could not delete: whoever was killed leaves a whole copy behind.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::foundation::Telling;
use crate::job::{Client, Job, WorkerEvents};
use crate::model::RestartReason;

/// A folder with many files may take this long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Children that end early one after the other are swept up after together.
const REST: Duration = Duration::from_secs(1);

/// Passes what happens to children on, and rouses who sweeps up after those that ended early.
pub(super) struct Rousing(pub(super) Arc<Notify>);

impl WorkerEvents for Rousing {
    fn restarted(&self, reason: RestartReason, detail: &str) {
        Telling.restarted(reason, detail);
        self.0.notify_one();
    }

    fn said(&self, pid: u32, line: &str) {
        Telling.said(pid, line);
    }

    fn abandoned(&self, pid: u32, now: usize) {
        Telling.abandoned(pid, now);
    }

    fn returned(&self, pid: u32, now: usize) {
        Telling.returned(pid, now);
        self.0.notify_one();
    }
}

/// Removes what earlier processes left in `scratch`, and then what each child leaves whose early end `ended` tells of. Whom a copy belongs to
/// its name says: that of a living process stays, also of a command beside the daemon.
pub(super) async fn sweep_out(jobs: Client, scratch: PathBuf, ended: Arc<Notify>) {
    loop {
        // What it could not do is tried again the next time; that its own child failed is told already.
        let _ = jobs.run(Job::SweepOut { scratch: scratch.clone() }, PATIENCE).await;
        tokio::time::sleep(REST).await;
        ended.notified().await;
    }
}
