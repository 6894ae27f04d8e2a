//! `guardiand reload`: let the running daemon read its configuration again.

use super::arguments::Common;
use super::output::{Failure, Output};
use super::{Done, socket};
use crate::api::control::ControlRequest;

pub(super) fn run(common: &Common, output: Output) -> Done {
    let (exit, result) = socket::daemon(common, &ControlRequest::Reload).map_err(Failure::with_lines)?;
    output.facts(&result, || socket::part::<String>(&result, "/reloaded"));
    Ok(exit)
}
