//! `guardiand status`: what the running daemon knows of every target, or of one.

use serde_json::Value;

use super::arguments::{Common, Status};
use super::output::{Output, table};
use super::{Done, socket};
use crate::api::control::ControlRequest;
use crate::model::shown;

pub(super) fn run(common: &Common, asked: &Status, output: Output) -> Done {
    let (exit, status) = socket::daemon(common, &ControlRequest::Status { target: asked.target.clone() })?;
    match asked.target {
        Some(_) => output.facts(&status, || one(&status)),
        None => output.facts(&status, || {
            let targets: Vec<Value> = socket::part(&status, "/targets");
            rows(&targets)
        }),
    }
    Ok(exit)
}

fn rows(targets: &[Value]) -> String {
    let rows = targets.iter().map(|target| {
        let word = |pointer| socket::part::<String>(target, pointer);
        let paused = match target.pointer("/paused") {
            None => String::new(),
            Some(pause) => match socket::part::<Option<String>>(pause, "/until") {
                Some(until) => format!(" (paused until {until})"),
                None => " (paused)".to_owned(),
            },
        };
        let state = word("/state") + &paused;
        vec![word("/name"), word("/mode"), state, word("/last_check/checked_at"), word("/incident/id")]
    });
    table(&["TARGET", "MODE", "STATE", "LAST LOOK", "INCIDENT"], rows)
}

/// Its row, and below it a line for each user.
fn one(target: &Value) -> String {
    let words = |pointer: &str| -> Vec<String> {
        let list: Vec<Value> = socket::part(target, pointer);
        list.iter().map(|one| one.as_str().map_or_else(|| socket::part(one, "/words"), str::to_owned)).collect()
    };
    let mut text = rows(std::slice::from_ref(target));
    let found: Vec<Value> = socket::part(target, "/last_check/findings");
    for one in &found {
        let word = |pointer| socket::part::<String>(one, pointer);
        text += &format!("\nfound: {}: {}", word("/kind"), shown(&word("/detail")));
    }
    for (title, pointer) in [("cannot tell", "/last_check/reason"), ("incident", "/incident/reason")] {
        if let Some(why) = socket::part::<Option<String>>(target, pointer) {
            text += &format!("\n{title}: {}", shown(&why));
        }
    }
    for (title, lines) in
        [("open", words("/holders")), ("locks", words("/locks")), ("cannot be seen", words("/unseen"))]
    {
        for line in lines {
            text += &format!("\n{title}: {}", shown(&line));
        }
    }
    if target.pointer("/holders").is_some_and(|holders| holders.as_array().is_some_and(Vec::is_empty)) {
        text += "\nopen: nobody that can be seen";
    }
    text
}
