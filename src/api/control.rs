//! The control socket: one JSON line asks, one JSON line answers.
//!
//! Who may connect is decided by the socket's file permissions (0660); who did is logged.

mod client;
mod server;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use client::{AskError, ask};
pub use server::{ControlError, Handler, Peer, serve};

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum ControlRequest {
    /// Detect, plan, heal and prove now.
    Heal {
        /// The configured name.
        target: String,
        /// Plan only.
        #[serde(default)]
        dry_run: bool,
    },
    /// Look now, heal nothing.
    Check {
        /// The configured names; all when empty.
        #[serde(default)]
        targets: Vec<String>,
    },
    /// Take a backup now.
    Backup {
        /// The configured name.
        target: String,
    },
    /// What is known of every target, or of one, whose users are looked for first.
    Status {
        /// The configured name.
        #[serde(default)]
        target: Option<String>,
    },
    /// Incidents, newest first.
    Incidents {
        /// Of this target.
        #[serde(default)]
        target: Option<String>,
        /// In this state.
        #[serde(default)]
        state: Option<String>,
        /// At most so many.
        #[serde(default)]
        limit: Option<usize>,
    },
    /// One incident.
    Incident {
        /// Its name.
        id: String,
    },
    /// Take the heal of an incident back.
    Rollback {
        /// The incident's name.
        id: String,
        /// Which of its preservations comes back, from 1; the last when left out.
        #[serde(default)]
        generation: Option<u32>,
        /// What was committed since may be in evidence alone.
        #[serde(default)]
        accept_loss: bool,
        /// Only say what it would do.
        #[serde(default)]
        dry_run: bool,
    },
    /// Say yes to what an incident's plan would do.
    Approve {
        /// The incident.
        id: String,
    },
    /// Heal nothing for a while; looks and backups go on.
    Pause {
        /// The configured name, of a target or a glob; everything when there is none.
        #[serde(default)]
        target: Option<String>,
        /// It ends by itself after so many milliseconds.
        #[serde(default)]
        for_ms: Option<u64>,
    },
    /// End a pause, and look again at once.
    Resume {
        /// The configured name, of a target or a glob; everything when there is none.
        #[serde(default)]
        target: Option<String>,
    },
    /// Read the configuration again.
    Reload,
}

impl ControlRequest {
    /// The command's name, and what it is about: for the log.
    pub fn subject(&self) -> (&'static str, &str) {
        match self {
            ControlRequest::Heal { target, .. } => ("heal", target),
            ControlRequest::Check { targets } => ("check", targets.first().map_or("", String::as_str)),
            ControlRequest::Backup { target } => ("backup", target),
            ControlRequest::Status { target } => ("status", target.as_deref().unwrap_or("")),
            ControlRequest::Incidents { target, .. } => ("incidents", target.as_deref().unwrap_or("")),
            ControlRequest::Incident { id } => ("incident", id),
            ControlRequest::Rollback { id, .. } => ("rollback", id),
            ControlRequest::Approve { id } => ("approve", id),
            ControlRequest::Pause { target, .. } => ("pause", target.as_deref().unwrap_or("")),
            ControlRequest::Resume { target } => ("resume", target.as_deref().unwrap_or("")),
            ControlRequest::Reload => ("reload", ""),
        }
    }
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum ControlReply {
    /// It was done, or read.
    Done {
        /// The exit status of a command that only passes this on: 0, 1 or 3.
        exit: u8,
        /// The command's document.
        result: Value,
    },
    /// It was not done.
    Refused {
        /// The exit status: 1 or 2.
        exit: u8,
        /// What was tried, and what to do.
        message: String,
    },
}

/// A line is never longer: a status of ten thousand targets fits, a hostile peer does not.
const LINE_BYTES_MAX: u64 = 64 << 20;
