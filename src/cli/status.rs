//! `guardiand status`: what the running daemon knows of every target.

use serde_json::Value;

use super::arguments::Common;
use super::output::{Output, table};
use super::{Done, socket};
use crate::api::control::ControlRequest;

pub(super) fn run(common: &Common, output: Output) -> Done {
    let (exit, status) = socket::daemon(common, &ControlRequest::Status)?;
    output.facts(&status, || {
        let targets: Vec<Value> = socket::part(&status, "/targets");
        let rows = targets.iter().map(|target| {
            let word = |pointer| socket::part::<String>(target, pointer);
            vec![word("/name"), word("/mode"), word("/state"), word("/last_check/checked_at"), word("/incident/id")]
        });
        table(&["TARGET", "MODE", "STATE", "LAST LOOK", "INCIDENT"], rows)
    });
    Ok(exit)
}
