//! `salvage`, in a child of its own.

use std::path::Path;
use std::time::Duration;

use super::{PassError, absolute, block_on, failed, foundation};
use crate::job::{FailureKind, Job, Outcome, SalvageJob, Salvaged};

/// A salvage reads a whole database several times and writes it once; slower than any disk worth supervising.
const SALVAGE_PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// Rescues the rows of `source` into a new database.
///
/// # Errors
/// With exit status 3 when it could not be told, 1 when the new database could not be made.
pub fn salvage(
    source: &Path,
    to: &Path,
    schema: Option<String>,
    backup: Option<&Path>,
    deleted: bool,
) -> Result<Salvaged, PassError> {
    block_on(async {
        let jobs = foundation::client(1);
        let backup = backup.map(absolute);
        let job = SalvageJob { source: absolute(source), to: absolute(to), schema, backup, renumbered: false, deleted };
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
