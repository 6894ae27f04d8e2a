//! `guardiand run`: the daemon, in the foreground.

use std::process::ExitCode;

use super::Done;
use super::arguments::Common;
use super::output::{Failure, Output, remark};
use super::subject;
use crate::daemon;
use crate::telemetry::start_logs;

pub(super) fn run(common: &Common, _output: Output) -> Done {
    let Some(config) = subject::config(common)? else {
        return Err(Failure::usage(
            "there is no configuration: give --config FILE, or write ./guardian.toml or /etc/guardiand/guardian.toml",
        ));
    };
    if let Err(error) = start_logs(config.log.format, config.log.level) {
        remark(&error.to_string());
    }
    daemon::block_on(daemon::run(config)).flatten().map_err(|error| Failure::refused(1, error.to_string()))?;
    Ok(ExitCode::SUCCESS)
}
