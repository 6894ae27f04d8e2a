//! `guardiand resume`: end a pause, and look again at once.

use super::arguments::{Common, Resume as Asked};
use super::output::Output;
use super::{Done, socket};
use crate::api::control::ControlRequest;
use crate::model::{for_shell, shown};

pub(super) fn run(common: &Common, asked: &Asked, output: Output) -> Done {
    let (exit, answer) = socket::daemon(common, &ControlRequest::Resume { target: asked.target.clone() })?;
    output.facts(&answer, || {
        let yes = |pointer| socket::part::<bool>(&answer, pointer);
        let was = match (yes("/was_rolled_back"), yes("/was_paused"), yes("/was_held")) {
            (false, false, false) if yes("/was_refilled") => {
                "heals of before are no longer held against it: its budget of heals is full again, and no cooldown runs"
            }
            (true, ..) => "a heal of it was taken back, and it is healed like any other again",
            (false, true, _) => "the pause is over",
            (false, false, true) => "what was held together is let go",
            (false, false, false) => "it was not paused",
        };
        let names = |pointer| -> Vec<String> {
            socket::part::<Vec<String>>(&answer, pointer).iter().map(|name| shown(name).into_owned()).collect()
        };
        let left = match names("/rolled_back").as_slice() {
            [] => String::new(),
            left @ [first, ..] => format!(
                "\nleft alone, for a heal of each was taken back: {}; `guardiand resume {}` lets that one be healed again",
                left.join(", "),
                for_shell(first)
            ),
        };
        let left = match yes("/still_held") {
            true => format!(
                "{left}\nheld still, together with others that failed at once: `guardiand resume --all` lets all of them be healed"
            ),
            false => left,
        };
        format!("{was}; looked at again now: {}{left}", names("/targets").join(", "))
    });
    Ok(exit)
}
