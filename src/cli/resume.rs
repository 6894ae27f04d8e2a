//! `guardiand resume`: end a pause, and look again at once.

use super::arguments::{Common, Resume as Asked};
use super::output::Output;
use super::{Done, socket};
use crate::api::control::ControlRequest;

pub(super) fn run(common: &Common, asked: &Asked, output: Output) -> Done {
    let (exit, answer) = socket::daemon(common, &ControlRequest::Resume { target: asked.target.clone() })?;
    output.facts(&answer, || {
        let yes = |pointer| socket::part::<bool>(&answer, pointer);
        let was = match (yes("/was_paused"), yes("/was_held")) {
            (true, _) => "the pause is over",
            (false, true) => "what was held together is let go",
            (false, false) => "it was not paused",
        };
        let targets = socket::part::<Vec<String>>(&answer, "/targets");
        format!("{was}; looked at again now: {}", targets.join(", "))
    });
    Ok(exit)
}
