//! `guardiand approve`: say yes to what an incident's plan would do.

use super::arguments::{Approve as Asked, Common};
use super::output::{Output, remark};
use super::{Done, heal, socket, subject};
use crate::api::control::ControlRequest;
use crate::daemon::one_pass::{self, Scope};

pub(super) fn run(common: &Common, asked: &Asked, output: Output) -> Done {
    let request = ControlRequest::Approve { id: asked.id.clone() };
    if common.socket.is_some() {
        let (exit, report) = socket::daemon(common, &request)?;
        output.facts(&report, || heal::delegated(&report));
        return Ok(exit);
    }
    // A database that was healed by its path needs no configuration.
    let by_path = asked.state_dir.is_some() && common.config.is_none();
    let config = if by_path { None } else { subject::config(common)? };
    let scope = Scope { config, state_dir: asked.state_dir.clone() };
    if let Some((exit, report)) = socket::delegate(common, &scope, &request)? {
        output.facts(&report, || heal::delegated(&report));
        return Ok(exit);
    }
    remark("no daemon runs on this state directory: it is done here");
    let report = one_pass::approve(&scope, &asked.id)?;
    output.facts(&report, || heal::text(&serde_json::json!(report)));
    Ok(heal::exit(report.outcome, report.playbooks.is_empty()))
}
