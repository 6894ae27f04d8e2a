//! `guardiand heal`: look, heal and prove once.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::arguments::{Common, Heal as Asked};
use super::output::{Failure, INCONCLUSIVE, Output, table};
use super::{Done, socket, subject};
use crate::api::control::ControlRequest;
use crate::daemon::one_pass::{self, HealOutcome, Subject};
use crate::model::shown;

pub(super) fn run(common: &Common, asked: &Asked, output: Output) -> Done {
    let Some(typed) = &asked.subject else { return finish_interrupted(common, asked, output) };
    let typed = std::slice::from_ref(typed);
    let (scope, subjects) = subject::resolve(common, typed, asked.state_dir.clone())?;
    let [subject] = subjects.as_slice() else { return Err(Failure::usage("name one target or one database")) };
    if matches!(subject, Subject::Path(_)) && scope.state_dir.is_none() && scope.config.is_none() {
        let words = "healing keeps the files as they were: say where with --state-dir DIR, or give --config FILE";
        return Err(Failure::usage(words));
    }
    let target = name(subject);
    let request = ControlRequest::Heal { target, dry_run: asked.dry_run };
    if let Some((exit, report)) = socket::delegate(common, &scope, &request)? {
        output.facts(&report, || delegated(&report));
        return Ok(exit);
    }
    let report = one_pass::heal(&scope, subject, asked.dry_run)?;
    output.facts(&report, || text(&json!(report)));
    Ok(exit(report.outcome, report.playbooks.is_empty()))
}

fn finish_interrupted(common: &Common, asked: &Asked, output: Output) -> Done {
    let (scope, _) = subject::resolve(common, &[], asked.state_dir.clone())?;
    let incidents = one_pass::finish_interrupted(&scope)?;
    let open = incidents.iter().any(|incident| incident.closed_at.is_none());
    output.facts(&json!({ "incidents": incidents }), || {
        let lines = incidents.iter().map(|incident| {
            let reason = incident.reason.as_ref().map(|reason| format!(": {}", shown(reason))).unwrap_or_default();
            format!("{} of {}: {}{reason}\n", incident.id, shown(&incident.target), incident.state.name())
        });
        let lines = lines.collect::<String>();
        if lines.is_empty() { "no heal was interrupted".to_owned() } else { lines }
    });
    Ok(if open { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// How a subject is named to the daemon: a path must not depend on who reads it.
pub(super) fn name(subject: &Subject) -> String {
    match subject {
        Subject::Named(name) => name.clone(),
        Subject::Path(path) => one_pass::settled(path).display().to_string(),
    }
}

pub(super) fn exit(outcome: HealOutcome, nothing_planned: bool) -> ExitCode {
    match outcome {
        HealOutcome::Healthy | HealOutcome::Healed => ExitCode::SUCCESS,
        HealOutcome::Planned if !nothing_planned => ExitCode::SUCCESS,
        HealOutcome::Planned | HealOutcome::Failed => ExitCode::FAILURE,
        HealOutcome::Unknown => ExitCode::from(INCONCLUSIVE),
    }
}

/// The report in words: of this process's own heal, or of the daemon's.
pub(super) fn text(report: &Value) -> String {
    let word = |of: &Value, pointer: &str| shown(&socket::part::<String>(of, pointer)).into_owned();
    let list = |pointer: &str| socket::part::<Vec<Value>>(report, pointer);
    let row =
        |kind: String, detail: String| vec![word(report, "/target"), word(report, "/check/verdict"), kind, detail];
    let findings = list("/check/findings");
    let rows = match findings.as_slice() {
        [] => vec![row(String::new(), word(report, "/check/reason"))],
        found => found.iter().map(|one| row(word(one, "/kind"), word(one, "/detail"))).collect(),
    };
    let mut text = format!("{}\n", table(&["TARGET", "VERDICT", "KIND", "DETAIL"], rows));
    for one in list("/check/holders").iter().chain(&list("/check/locks")) {
        text.push_str(&format!("\n{}: {}", word(report, "/target"), word(one, "/words")));
    }
    for one in &findings {
        text.push_str(&format!("\n{}: {}: {}", word(report, "/target"), word(one, "/kind"), word(one, "/remediation")));
    }
    for (n, playbook) in list("/playbooks").iter().enumerate() {
        text.push_str(&format!("\n{}. {}: {}\n", n + 1, word(playbook, "/name"), word(playbook, "/why")));
        for step in socket::part::<Vec<Value>>(playbook, "/steps") {
            text.push_str(&format!("     {}\n", word(&step, "/name")));
        }
    }
    if let Some(incident) = report.get("incident").filter(|incident| !incident.is_null()) {
        let rows = list("/incident/steps").into_iter().map(|step| {
            let seconds = socket::part::<f64>(&step, "/seconds");
            vec![word(&step, "/step"), word(&step, "/outcome"), format!("{seconds:.3} s"), word(&step, "/detail")]
        });
        text.push_str(&format!("\n\n{}\n", table(&["STEP", "OUTCOME", "TOOK", "DETAIL"], rows)));
        if let Some(loss) = incident.get("loss").filter(|loss| !loss.is_null()) {
            let lost = socket::part::<Option<u64>>(loss, "/rows_lost");
            let lost = lost.map_or_else(|| "unknown".to_owned(), |rows| rows.to_string());
            text.push_str(&format!("\nthe content is from {}; rows lost: {lost}", word(loss, "/source")));
        }
        if let Some(evidence) = socket::part::<Option<String>>(incident, "/evidence") {
            text.push_str(&format!("\nthe files as they were: {}", shown(&evidence)));
        }
        if let Some(seconds) = socket::part::<Option<f64>>(incident, "/mttr_seconds") {
            text.push_str(&format!("\nhealed and proven in {seconds:.3} s"));
        }
    }
    if let Some(reason) = socket::part::<Option<String>>(report, "/reason") {
        text.push_str(&format!("\n{}", shown(&reason)));
    }
    text
}

pub(super) fn delegated(report: &Value) -> String {
    format!("(done by the running daemon)\n{}", text(report))
}
