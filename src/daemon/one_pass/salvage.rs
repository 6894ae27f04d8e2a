//! `salvage`, in a child of its own.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{PassError, absolute, block_on, failed, foundation};
use crate::daemon::foundation::Telling;
use crate::job::{FailureKind, Job, Outcome, PartDone, SalvageJob, Salvaged, WorkerEvents};
use crate::model::RestartReason;

/// A salvage reads a whole database several times and writes it once; slower than any disk worth supervising.
const SALVAGE_PATIENCE: Duration = Duration::from_secs(24 * 3600);

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
        match jobs.run(Job::Salvage(job), SALVAGE_PATIENCE).await {
            Ok(Outcome::Salvaged(salvaged)) => Ok(*salvaged),
            Ok(_) => Err(failed("the salvage's job answered something else".to_owned())),
            Err(failure) => {
                let exit = if failure.kind == FailureKind::Refused { 3 } else { 1 };
                Err(PassError { exit, message: failure.message })
            }
        }
    })?
}
