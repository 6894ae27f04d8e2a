//! `guardiand heal`: look, heal and prove once.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::arguments::{Common, Heal as Asked};
use super::output::{Failure, INCONCLUSIVE, Output, table};
use super::{Done, check, socket, subject};
use crate::api::control::ControlRequest;
use crate::daemon::one_pass::{self, HealOutcome, HealReport, Subject};

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
    output.facts(&report, || text(&report));
    Ok(exit(report.outcome, report.playbooks.is_empty()))
}

fn finish_interrupted(common: &Common, asked: &Asked, output: Output) -> Done {
    let (scope, _) = subject::resolve(common, &[], asked.state_dir.clone())?;
    let incidents = one_pass::finish_interrupted(&scope)?;
    let open = incidents.iter().any(|incident| incident.closed_at.is_none());
    output.facts(&json!({ "incidents": incidents }), || {
        let lines = incidents.iter().map(|incident| {
            let reason = incident.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            format!("{} of {}: {}{reason}\n", incident.id, incident.target, incident.state.name())
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

pub(super) fn text(report: &HealReport) -> String {
    let mut text = check::text(std::slice::from_ref(&report.check));
    for (n, playbook) in report.playbooks.iter().enumerate() {
        text.push_str(&format!("\n{}. {}: {}\n", n + 1, playbook.name, playbook.why));
        for step in &playbook.steps {
            text.push_str(&format!("     {}\n", step.name));
        }
    }
    if let Some(incident) = &report.incident {
        let rows = incident.steps.iter().map(|step| {
            vec![
                step.step.clone(),
                step.outcome.name().to_owned(),
                format!("{:.3} s", step.seconds),
                step.detail.clone(),
            ]
        });
        text.push_str(&format!("\n\n{}\n", table(&["STEP", "OUTCOME", "TOOK", "DETAIL"], rows)));
        if let Some(loss) = &incident.loss {
            let lost = loss.rows_lost.map_or_else(|| "unknown".to_owned(), |rows| rows.to_string());
            text.push_str(&format!("\nthe content is from {}; rows lost: {lost}", loss.source));
        }
        if let Some(evidence) = &incident.evidence {
            text.push_str(&format!("\nthe files as they were: {evidence}"));
        }
        if let Some(seconds) = incident.mttr_seconds {
            text.push_str(&format!("\nhealed and proven in {seconds:.3} s"));
        }
    }
    if let Some(reason) = &report.reason {
        text.push_str(&format!("\n{reason}"));
    }
    text
}

pub(super) fn delegated(report: &Value) -> String {
    format!("(done by the running daemon)\n{}", socket::plain(report))
}
