//! Wiring: the long run, one pass, signals, shutdown. The only room that sees all others.

mod foundation;
pub mod one_pass;
mod reload;
mod scratch;
mod serve;
mod systemd;
mod targets;
mod watching;

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::config::Config;
use crate::journal::StateError;
use crate::notify;
use crate::supervisor::status::Pulse;
use crate::supervisor::{Notices, Supervisor};
use crate::telemetry;

use foundation::Foundation;
use reload::Reloader;

/// The main loop comes round at least this often, so that its pulse is known.
const BEAT: Duration = Duration::from_secs(5);
/// Old evidence is looked for this often.
const EXPIRE_EVERY: Duration = Duration::from_secs(3600);

/// Why the daemon could not start.
#[derive(Debug, Error)]
pub enum DaemonError {
    /// Its state directory.
    #[error(transparent)]
    State(StateError),
    /// No thread for the journal.
    #[error("the journal's thread could not be started: {0}")]
    Journal(#[source] std::io::Error),
    /// No runtime.
    #[error("the runtime could not be started: {0}")]
    Runtime(#[source] std::io::Error),
    /// A listening socket.
    #[error("{0}")]
    Listen(String),
    /// Signals.
    #[error("signals could not be handled: {0}")]
    Signals(#[source] std::io::Error),
    /// Metrics: a bug.
    #[error(transparent)]
    Telemetry(#[from] telemetry::TelemetryError),
}

/// Runs `work` on the one thread that everything in this process runs on: children die with the thread that started them.
///
/// # Errors
/// [`DaemonError::Runtime`].
pub fn block_on<T>(work: impl Future<Output = T>) -> Result<T, DaemonError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(DaemonError::Runtime)?;
    Ok(runtime.block_on(work))
}

/// The long run: until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start. Once it runs, nothing ends it but a signal.
pub async fn run(config: Config) -> Result<(), DaemonError> {
    let revision = option_env!("GUARDIAN_REVISION").unwrap_or("unknown");
    telemetry::start_metrics(env!("CARGO_PKG_VERSION"), revision, crate::sqlite::sqlite_version())?;
    targets::register_modes();
    for warning in &config.warnings {
        telemetry::ConfigWarning(warning).emit();
    }
    let (notices, to_tell) = mpsc::channel(notify::QUEUE);
    let (state_dir, notices) = (&config.guardian.state_dir, Notices::into_queue(notices));
    let mut foundation = Foundation::lay(state_dir, config.guardian.workers, targets::gates(&config), notices)?;
    let (channels, channels_now) = watch::channel(targets::channels(&config));
    let pulse = Arc::new(Pulse::default());
    let (outbox, inbox) = mpsc::unbounded_channel();
    let (wanted, watches) = watch::channel(Default::default());

    let mut supervisor = Supervisor::new(foundation.cx.clone(), (outbox.clone(), inbox), wanted);
    supervisor.on_beat(systemd::beat_interval().unwrap_or(BEAT).min(BEAT), beat(&pulse, &foundation));
    foundation.cx.journal.limit(targets::limits(&config));
    let reloader = Reloader::new(config.clone(), outbox.clone(), foundation.cx.journal.clone(), channels);
    // Before anything answers: who sees HTTP may send a signal, and one that nobody waits for kills.
    let signals = obey_signals(reloader.clone(), foundation.stop.clone()).map_err(DaemonError::Signals)?;
    let (remembered, left_open) = foundation.recall(targets::gates(&config)).await;
    supervisor.recall(remembered, left_open);
    supervisor.plant(targets::plant(&config));
    // Last of all: the first scrape has every series already, and the first `/healthz` a pulse.
    pulse.beat(foundation.cx.clock.now());
    serve::listen(&config, &foundation.cx, &pulse, &outbox, reloader).await?;
    foundation.announce(&config.guardian.control);
    tokio::spawn(watching::watch_files(watches, outbox.clone()));
    tokio::spawn(expire(foundation.cx.journal.clone()));
    let (jobs, ended) = (foundation.cx.jobs.clone(), Arc::clone(&foundation.ended));
    tokio::spawn(scratch::sweep_out(jobs, config.guardian.state_dir.join("scratch"), ended));
    let (journal, clock) = (foundation.cx.journal.clone(), foundation.cx.clock.clone());
    tokio::spawn(notify::tell(journal, clock, channels_now, to_tell));
    tokio::spawn(signals);
    systemd::ready();
    supervisor.run().await;
    // Closed in order, so that the index is one file and not a file and its WAL.
    foundation.cx.journal.clone().stop().await;
    tracing::info!("stopped; what was under way is in the journal");
    Ok(())
}

fn beat(pulse: &Arc<Pulse>, foundation: &Foundation) -> impl FnMut(bool) + Send + 'static {
    let (board, pulse, clock) = (Arc::clone(&foundation.cx.board), Arc::clone(pulse), foundation.cx.clock.clone());
    let (mut told, mut watchdog) = (String::new(), systemd::Watchdog::new());
    move |swept| {
        pulse.beat(clock.now());
        watchdog.feed(clock.now());
        if swept {
            pulse.set_ready();
            let line = systemd::line(board.read().unwrap_or_else(PoisonError::into_inner).totals());
            if line != told {
                systemd::status(&line);
                told = line;
            }
        }
    }
}

/// SIGTERM and SIGINT stop, SIGHUP reloads.
fn obey_signals(reloader: Reloader, stop: watch::Sender<bool>) -> std::io::Result<impl Future<Output = ()> + Send> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => drop(reloader.reload().await),
            }
        }
        systemd::stopping();
        stop.send_replace(true);
    })
}

async fn expire(journal: crate::journal::Journal) {
    loop {
        match journal.expire().await {
            Ok(expired) if expired.folders.is_empty() && expired.evidence.is_empty() => {}
            Ok(expired) => {
                tracing::info!(bytes = expired.bytes, incidents = expired.evidence.len(), "old evidence deleted");
            }
            Err(error) => tracing::warn!(%error, "old evidence could not be deleted"),
        }
        tokio::time::sleep(EXPIRE_EVERY).await;
    }
}
