//! Where log lines go: stderr as text or JSON, or the journal with fields of its own.

use std::io::IsTerminal;

use serde::{Deserialize, Serialize};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::TelemetryError;
use super::log_fields::TextFields;

/// The shape of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people, on stderr.
    #[default]
    Text,
    /// One JSON object a line, on stderr.
    Json,
    /// Native journal fields: `journalctl GUARDIAN_INCIDENT=<id>`.
    Journald,
}

/// The least severe level that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// A person is needed.
    Error,
    /// Something was lost, refused or escalated.
    Warn,
    /// Incidents and what was done about them.
    #[default]
    Info,
    /// Every check.
    Debug,
    /// Everything.
    Trace,
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> LevelFilter {
        match level {
            LogLevel::Error => LevelFilter::ERROR,
            LogLevel::Warn => LevelFilter::WARN,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Debug => LevelFilter::DEBUG,
            LogLevel::Trace => LevelFilter::TRACE,
        }
    }
}

/// Starts logging. Where there is no journal, `journald` falls back to text and says so.
///
/// # Errors
/// [`TelemetryError::Logs`] when the process logs already.
pub fn start_logs(format: LogFormat, level: LogLevel) -> Result<(), TelemetryError> {
    let registry = tracing_subscriber::registry().with(LevelFilter::from(level));
    let text = || {
        tracing_subscriber::fmt::layer()
            .fmt_fields(TextFields)
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false)
    };
    match format {
        LogFormat::Text => registry.with(text()).try_init(),
        LogFormat::Json => {
            let json = tracing_subscriber::fmt::layer().json().flatten_event(true).with_target(false);
            registry.with(json.with_writer(std::io::stderr)).try_init()
        }
        LogFormat::Journald => match tracing_journald::layer() {
            // The prefix makes the field `incident` the journal's GUARDIAN_INCIDENT.
            Ok(journal) => {
                let journal = journal.with_field_prefix(Some("GUARDIAN".to_owned()));
                registry.with(journal.with_priority_mappings(priorities())).try_init()
            }
            Err(error) => {
                let started = registry.with(text()).try_init();
                tracing::warn!(%error, "the journal cannot be reached: logging text to stderr instead");
                started
            }
        },
    }
    .map_err(TelemetryError::Logs)
}

/// syslog(3)'s own levels: what went as it should is information and not a notice, which some hosts mail to a person.
fn priorities() -> PriorityMappings {
    PriorityMappings { info: Priority::Informational, debug: Priority::Debug, ..PriorityMappings::new() }
}
