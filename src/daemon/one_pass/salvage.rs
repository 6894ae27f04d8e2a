//! `salvage`, in a child of its own.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::{PassError, absolute, block_on, failed, foundation};
use crate::daemon::foundation::Telling;
use crate::host::{SALVAGE_PREFIX, sweep_out};
use crate::job::{FailureKind, Job, Outcome, PartDone, SalvageJob, Salvaged, WorkerEvents};
use crate::model::RestartReason;

/// A salvage reads a whole database several times and writes it once; slower than any disk worth supervising.
const SALVAGE_PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// A child that was killed is gone long before so many…
const SWEEPS: u32 = 100;
/// … looks whether it is; another salvage into the same folder is not waited for longer.
const BETWEEN_SWEEPS: Duration = Duration::from_millis(50);

/// Hears how far it is.
type Heard = Box<dyn Fn(PartDone) + Send + Sync>;

/// Tells how far the child is, and passes on the rest.
struct Following(Heard);

impl WorkerEvents for Following {
    fn restarted(&self, reason: RestartReason, detail: &str) {
        Telling.restarted(reason, detail);
    }

    fn said(&self, pid: u32, line: &str) {
        match PartDone::of_line(line) {
            Some(part) => (self.0)(part),
            None => Telling.said(pid, line),
        }
    }

    fn abandoned(&self, pid: u32, now: usize) {
        Telling.abandoned(pid, now);
    }

    fn returned(&self, pid: u32, now: usize) {
        Telling.returned(pid, now);
    }
}

/// What this process was told to end by.
async fn told_to_stop() -> Result<&'static str, PassError> {
    let heard = |kind| signal(kind).map_err(|error| failed(format!("signals could not be handled: {error}")));
    let (mut terminate, mut interrupt, mut hangup) =
        (heard(SignalKind::terminate())?, heard(SignalKind::interrupt())?, heard(SignalKind::hangup())?);
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
        _ = hangup.recv() => "SIGHUP",
    })
}

/// Waits for the killed child's end, and removes what it could not: nobody looks for a file with a name of ours.
async fn sweep_up(folder: &Path) {
    let is_left = || {
        let names = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
        names.into_iter().any(|name| name.as_encoded_bytes().starts_with(SALVAGE_PREFIX.as_bytes()))
    };
    for _ in 0..SWEEPS {
        sweep_out(folder, SALVAGE_PREFIX);
        if !is_left() {
            return;
        }
        tokio::time::sleep(BETWEEN_SWEEPS).await;
    }
}

/// Rescues the rows of `source` into a new database; `heard` is told now and then how far it is.
///
/// # Errors
/// With exit status 3 when it could not be told, 1 when the new database could not be made.
pub fn salvage(
    source: &Path,
    to: &Path,
    schema: Option<String>,
    backup: Option<&Path>,
    deleted: bool,
    heard: Heard,
) -> Result<Salvaged, PassError> {
    block_on(async {
        let jobs = foundation::client_heard_by(1, Arc::new(Following(heard)));
        let backup = backup.map(absolute);
        let job = SalvageJob {
            source: absolute(source),
            to: absolute(to),
            schema,
            backup,
            map: None,
            renumbered: false,
            deleted,
        };
        let folder = job.to.parent().map(Path::to_path_buf).unwrap_or_default();
        let answer = tokio::select! {
            answer = jobs.run(Job::Salvage(job), SALVAGE_PATIENCE) => answer,
            // The child is killed as its answer is waited for no longer.
            signal = told_to_stop() => {
                sweep_up(&folder).await;
                return Err(failed(format!("stopped by {}: nothing was made", signal?)));
            }
        };
        match answer {
            Ok(Outcome::Salvaged(salvaged)) => Ok(*salvaged),
            Ok(_) => Err(failed("the salvage's job answered something else".to_owned())),
            Err(failure) => {
                let exit = if failure.kind == FailureKind::Refused { 3 } else { 1 };
                Err(PassError { exit, message: failure.message })
            }
        }
    })?
}
