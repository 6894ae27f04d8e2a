//! Every metric and every log event has its one definition here.
//!
//! An event is a struct whose `emit` writes the log line *and* moves the metrics, so that the two can never disagree.
//! Before [`start_metrics`] (in a worker, in a one-pass command) events only log.

mod buckets;
pub mod events;
mod log_fields;
mod logs;
mod metrics;
mod process;
mod recovery;
mod targets;

pub use events::{
    ApprovalAsked, ApprovalGiven, BackupBlocked, BackupFailed, BackupOutcome, BackupTaken, BackupsKnown, CheckDone,
    ConfigRefused, ConfigReloaded, ConfigWarning, ControlAsked, DatabaseMeasured, DeferReason, HealDeferred,
    IncidentClosed, IncidentEscalated, IncidentOpened, IncidentResumed, Notified, NotifyChannel, NotifyFailed,
    NotifyGaveUp, NotifyOutcome, PlaybookBegan, PlaybookEnded, PlaybookOutcome, PoolBreakerChanged, PoolBudgetChanged,
    PoolLeak, PoolStateChanged, StepEnded, WorkerRestarted,
};
pub use logs::{LogFormat, LogLevel, start_logs};
pub use metrics::Metrics;
pub use process::ProcessSample;
pub use targets::{forget_target, register_incidents_of, register_mode, register_target};

use std::sync::OnceLock;

use thiserror::Error;

static METRICS: OnceLock<Metrics> = OnceLock::new();

/// What telemetry could not do.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// A metric is defined twice or has an impossible name: a bug.
    #[error("cannot define the metrics: {0}")]
    Define(#[source] prometheus::Error),
    /// The metrics could not be written as text: a bug.
    #[error("cannot write the metrics as text: {0}")]
    Render(#[source] prometheus::Error),
    /// Another part of the process had set up logging.
    #[error("cannot set up logging: {0}")]
    Logs(#[source] tracing_subscriber::util::TryInitError),
}

/// Starts counting. `version`, `revision` and `sqlite` become the labels of `guardian_build_info`. A second call changes
/// nothing.
///
/// # Errors
/// [`TelemetryError::Define`], a bug in the definitions.
pub fn start_metrics(version: &str, revision: &str, sqlite: &str) -> Result<(), TelemetryError> {
    let metrics = Metrics::new(version, revision, sqlite).map_err(TelemetryError::Define)?;
    METRICS.get_or_init(|| metrics);
    Ok(())
}

/// The metrics of this process, once started.
fn metrics() -> Option<&'static Metrics> {
    METRICS.get()
}

/// All metrics in Prometheus' text format; only memory is read. Empty before [`start_metrics`].
///
/// # Errors
/// [`TelemetryError::Render`], a bug in the definitions.
pub fn render(process: &ProcessSample) -> Result<String, TelemetryError> {
    match metrics() {
        Some(metrics) => metrics.render(process),
        None => Ok(String::new()),
    }
}
