//! Asking the running daemon.

use std::path::PathBuf;
use std::process::ExitCode;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::arguments::Common;
use super::output::Failure;
use super::subject;
use crate::api::control::{AskError, ControlReply, ControlRequest, ask};
use crate::config::{Config, Environment};
use crate::daemon::one_pass::Scope;
use crate::journal::announced;
use crate::model::shown_json;

/// The socket that `--socket` names, else the configuration's, else the default place.
fn path(common: &Common, config: Option<&Config>) -> PathBuf {
    let default = || {
        let environment = Environment::of_process();
        environment.runtime_directory.clone().unwrap_or_else(|| environment.state_dir()).join("control.sock")
    };
    let configured = || config.map(|config| config.guardian.control.clone());
    common.socket.clone().or_else(configured).unwrap_or_else(default)
}

/// Asks the daemon that `--socket` or the configuration names.
///
/// # Errors
/// When none answers, or it refuses.
pub(super) fn daemon(common: &Common, request: &ControlRequest) -> Result<(ExitCode, Value), Failure> {
    let config = match common.socket {
        Some(_) => None,
        None => subject::config(common)?,
    };
    // One that was started with another `control` goes on listening there until its restart.
    let announced = config.as_ref().and_then(|config| announced(&config.guardian.state_dir));
    done(ask(&announced.unwrap_or_else(|| path(common, config.as_ref())), request, None)?)
}

/// Asks the daemon that works on the same state directory, if one runs: there are never two healers.
///
/// # Errors
/// When it refuses.
pub(super) fn delegate(
    common: &Common,
    scope: &Scope,
    request: &ControlRequest,
) -> Result<Option<(ExitCode, Value)>, Failure> {
    let configured = || scope.config.as_ref().map(|config| config.guardian.state_dir.as_path());
    let socket = match (scope.state_dir.as_deref().or_else(configured), &common.socket) {
        // The holder of the state directory is the one to ask, wherever it listens.
        (Some(state_dir), None) => announced(state_dir).unwrap_or_else(|| match &scope.state_dir {
            Some(state_dir) => state_dir.join("control.sock"),
            None => path(common, scope.config.as_ref()),
        }),
        _ => path(common, scope.config.as_ref()),
    };
    match ask(&socket, request, None) {
        Ok(reply) => done(reply).map(Some),
        Err(AskError::NotRunning { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn done(reply: ControlReply) -> Result<(ExitCode, Value), Failure> {
    match reply {
        ControlReply::Done { exit, result } => Ok((ExitCode::from(exit), result)),
        ControlReply::Refused { exit, message } => Err(Failure::refused(exit, message)),
    }
}

/// The part of a daemon's document that a table shows; nothing when a newer daemon says it differently.
pub(super) fn part<T: DeserializeOwned + Default>(document: &Value, pointer: &str) -> T {
    document.pointer(pointer).cloned().and_then(|value| serde_json::from_value(value).ok()).unwrap_or_default()
}

/// A document as lines, where there is no table for it.
pub(super) fn plain(document: &Value) -> String {
    serde_json::to_string_pretty(document).map(|text| shown_json(&text).into_owned()).unwrap_or_default()
}
