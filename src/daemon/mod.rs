//! Wiring: the long run, one pass, signals, shutdown.

pub mod one_pass;

use std::process::ExitCode;

use crate::config::Config;

/// Runs until SIGTERM. 0 when it was asked to stop, 1 when it could not run.
pub fn run(_config: Config) -> ExitCode {
    tracing::error!("`run` is not wired yet");
    ExitCode::FAILURE
}
