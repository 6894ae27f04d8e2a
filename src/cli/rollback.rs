//! `guardiand rollback ID`: the files as they were before an incident was healed.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::arguments::{Common, Rollback as Asked};
use super::output::Output;
use super::{Done, socket, subject};
use crate::api::control::ControlRequest;
use crate::daemon::one_pass::{self, Scope};
use crate::model::shown;

pub(super) fn run(common: &Common, asked: &Asked, output: Output) -> Done {
    // A state directory says all; a configuration that was merely found is then not this command's business.
    let config = match (&asked.state_dir, &common.config) {
        (Some(_), None) => None,
        _ => subject::config(common)?,
    };
    let scope = Scope { config, state_dir: asked.state_dir.clone() };
    let Asked { accept_loss, dry_run, generation, .. } = *asked;
    let request = ControlRequest::Rollback { id: asked.id.clone(), generation, accept_loss, dry_run };
    if let Some((exit, report)) = socket::delegate(common, &scope, &request)? {
        output.facts(&report, || format!("(done by the running daemon)\n{}", text(&report)));
        return Ok(exit);
    }
    let answer = one_pass::rollback(&scope, &asked.id, generation, (accept_loss, dry_run))?;
    let report = json!(answer);
    output.facts(&report, || text(&report));
    Ok(ExitCode::from(answer.outcome.exit()))
}

fn text(report: &Value) -> String {
    let word = |pointer: &str| shown(report.pointer(pointer).and_then(Value::as_str).unwrap_or_default());
    let mut text = format!("{}: {}", word("/outcome"), word("/detail"));
    let (id, evidence) = (word("/incident/id"), word("/incident/evidence"));
    if !id.is_empty() {
        text.push_str(&format!("\nincident {id} tells of it"));
    }
    if !evidence.is_empty() {
        text.push_str(&format!("; what was there before is in {evidence}"));
    }
    let reason = word("/incident/reason");
    if !reason.is_empty() {
        text.push_str(&format!("\n{reason}"));
    }
    text
}
