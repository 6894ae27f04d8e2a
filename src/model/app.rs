//! The program that uses a target.

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
