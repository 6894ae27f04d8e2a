//! What others may read over HTTP, and what they may ask over the control socket.
//!
//! HTTP is read-only and on loopback by default: nothing that is reachable over it changes anything. Actions go through a
//! Unix socket whose file permissions decide who may act.

pub mod control;
mod guard;
mod http;
mod page;
mod source;
mod stats;

use std::future::Future;
use std::sync::{Arc, RwLock};

use jiff::Timestamp;
use tokio::net::TcpListener;

pub use guard::Hosts;
pub use source::{Fetched, IncidentSource, Run, Story};
pub use stats::{Stats, stats};

use crate::clock::Clock;
use crate::supervisor::status::{Pulse, StatusBoard};
use crate::telemetry::ProcessSample;

/// What every request is answered from.
#[derive(Clone)]
pub struct Shared {
    /// Every target, now.
    pub board: Arc<RwLock<StatusBoard>>,
    /// Whether the main loop is alive.
    pub pulse: Arc<Pulse>,
    /// The time.
    pub clock: Clock,
    /// Incidents, from the journal.
    pub incidents: Arc<dyn IncidentSource>,
    /// The process's own figures.
    pub process: Arc<dyn Fn() -> ProcessSample + Send + Sync>,
    /// Names that HTTP answers to.
    pub hosts: Hosts,
    /// When the daemon started.
    pub started_at: Timestamp,
}

/// Serves HTTP until `stop` resolves; requests under way are finished.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    shared: Shared,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    axum::serve(listener, http::router(shared)).with_graceful_shutdown(stop).await
}

#[cfg(test)]
mod tests;
