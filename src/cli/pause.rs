//! `guardiand pause`: heal nothing of a target for a while.

use super::arguments::{Common, Pause as Asked};
use super::output::Output;
use super::{Done, socket};
use crate::api::control::ControlRequest;
use crate::model::shown;

pub(super) fn run(common: &Common, asked: &Asked, output: Output) -> Done {
    let for_ms = asked.span.map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
    let request = ControlRequest::Pause { target: asked.target.clone(), for_ms };
    let (exit, answer) = socket::daemon(common, &request)?;
    output.facts(&answer, || {
        let what = asked.target.as_deref().map_or("everything".into(), shown);
        let until = socket::part::<Option<String>>(&answer, "/paused/until");
        let until = until.map_or_else(|| "until it is resumed".to_owned(), |until| format!("until {until}"));
        format!("{what} is paused {until}: looked at and backed up, not healed; a heal under way goes on to its end")
    });
    Ok(exit)
}
