//! `guardiand incident ID`: one incident of the running daemon, in full.

use super::arguments::{Common, Incident as Asked};
use super::output::Output;
use super::{Done, socket};
use crate::api::control::ControlRequest;

pub(super) fn run(common: &Common, asked: &Asked, output: Output) -> Done {
    let (exit, incident) = socket::daemon(common, &ControlRequest::Incident { id: asked.id.clone() })?;
    output.facts(&incident, || socket::plain(&incident));
    Ok(exit)
}
