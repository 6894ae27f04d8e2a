//! The events: one struct each, and `emit` writes the log line and moves the metrics.
//!
//! Fields have the same name everywhere: `incident`, `target`, `mode`, `step`, `outcome`, `seconds`.

mod backup;
mod check;
mod daemon;
mod heal;
mod incident;
mod notify;
mod pool;

pub use backup::{BackupBlocked, BackupFailed, BackupOutcome, BackupTaken, BackupsKnown, DatabaseMeasured, RowsGone};
pub use check::CheckDone;
pub use daemon::{ConfigRefused, ConfigReloaded, ConfigWarning, ControlAsked, WorkerRestarted};
pub use heal::{DeferReason, HealDeferred, PlaybookBegan, PlaybookEnded, PlaybookOutcome, StepEnded};
pub use incident::{ApprovalAsked, ApprovalGiven, IncidentClosed, IncidentEscalated, IncidentOpened, IncidentResumed};
pub use notify::{Notified, NotifyChannel, NotifyFailed, NotifyGaveUp, NotifyOutcome};
pub use pool::{PoolBreakerChanged, PoolBudgetChanged, PoolLeak, PoolStateChanged};

/// Seconds since the epoch, with a fraction: what Prometheus takes for a time.
fn epoch_seconds(at: jiff::Timestamp) -> f64 {
    at.as_duration().as_secs_f64()
}
