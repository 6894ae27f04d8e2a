//! The program that uses a target.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The program that uses a target, and how to stop and start it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum App {
    /// A systemd unit.
    Unit(String),
    /// Commands, run without a shell.
    Commands {
        /// Ends once the program has stopped.
        stop: Vec<String>,
        /// The started program outlives guardiand.
        start: Vec<String>,
    },
}

/// A program as it is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Which, and how it is stopped and started.
    pub app: App,
    /// The longest that it may take to stop.
    pub stop_timeout: Duration,
    /// The longest that it may take until it is seen to run.
    pub start_timeout: Duration,
}
