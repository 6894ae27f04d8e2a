//! Running one playbook: intent made durable, step applied, result made durable; then proof.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

use crate::job::Phase;
use crate::journal::{Entry, JournalError};
use crate::model::{Check, Kind, Playbook, StepOutcome, StepRecord, StepSpec, Verdict};
use crate::modes::{Action, Look, StepResult, Supervised};
use crate::telemetry::{PlaybookBegan, PlaybookEnded, PlaybookOutcome, StepEnded};

use super::{Case, Context};

/// So often the detector is asked again when it cannot tell, over some 15 s.
const PROOF_LOOKS: usize = 10;

/// How a playbook ended.
pub(super) enum Ended {
    /// The detector says healthy.
    Proved(Check),
    /// It does not; why, for the next rung and for people.
    NotHealed(String),
    /// Something else is wrong by now; what, for people. It is to be planned for at once.
    Outdated(String),
    /// What it was for is over, and what it did stays; the detector says that something mild is left.
    Left(Check),
    /// Something outside of the playbook forbids it now, and no reason to take a rung that loses more.
    Held(String),
    /// What it did stays, and a person is needed all the same; what the detector says of it, and why.
    Stands(Check, String),
    /// guardiand is stopping; the rest is the next start's.
    Parked,
}

/// Runs `playbook`, which is number `index` of the incident's plan. If a step of it fails and the `next` one is to be finished by the same
/// steps, these are left to that one: its program is not started on what is damaged, to be stopped again in a moment.
pub(super) async fn run_playbook(
    cx: &Context,
    target: &mut dyn Supervised,
    case: &mut Case,
    (index, playbook): (usize, &Playbook),
    next: Option<&Playbook>,
) -> Result<Ended, JournalError> {
    let began = cx.now();
    case.tell(cx, Entry::PlaybookBegan { index, name: playbook.name.clone() }).await?;
    let incident = case.incident();
    PlaybookBegan {
        incident: &incident.id,
        target: &incident.target,
        mode: &incident.mode,
        playbook: &playbook.name,
        why: &playbook.why,
    }
    .emit();
    let ended = take_steps(cx, target, case, (index, playbook), next).await?;
    let outcome = match &ended {
        Ended::Proved(_) | Ended::Left(_) => PlaybookOutcome::Ok,
        Ended::NotHealed(_) | Ended::Outdated(_) | Ended::Held(_) | Ended::Stands(..) => PlaybookOutcome::Failed,
        Ended::Parked => return Ok(ended),
    };
    let incident = case.incident();
    PlaybookEnded {
        incident: &incident.id,
        target: &incident.target,
        mode: &incident.mode,
        playbook: &playbook.name,
        outcome,
        seconds: cx.now().since(began).as_secs_f64(),
    }
    .emit();
    Ok(ended)
}

async fn take_steps(
    cx: &Context,
    target: &mut dyn Supervised,
    case: &mut Case,
    (index, playbook): (usize, &Playbook),
    next: Option<&Playbook>,
) -> Result<Ended, JournalError> {
    let mut done = Vec::new();
    for (number, spec) in playbook.steps.iter().enumerate().filter(|(_, spec)| !spec.finally) {
        if cx.is_stopping() {
            return park(cx, target, case, index, playbook).await;
        }
        let result = take_step(cx, target, case, (index, number), spec, Phase::Apply).await?;
        match result.outcome {
            StepOutcome::Ok | StepOutcome::Skipped => done.push((number, spec)),
            StepOutcome::Failed | StepOutcome::Undone => {
                if cx.is_stopping() {
                    return park(cx, target, case, index, playbook).await;
                }
                if result.early {
                    let settings = target.settings();
                    cx.with_gates(|gates| gates.discount(&settings.target, settings.mode));
                }
                take_back(cx, target, case, index, &done).await?;
                let why = format!("step `{}` of `{}`: {}", spec.name, playbook.name, result.detail);
                let goes_on = !result.held && !result.outdated && next.is_some_and(|next| finishes(next, playbook));
                if goes_on {
                    return Ok(Ended::NotHealed(why));
                }
                return Ok(match finish(cx, target, case, index, playbook, Phase::Apply).await? {
                    Err(late) if result.held => Ended::Held(format!("{why}; and {late}")),
                    Err(late) => Ended::NotHealed(format!("{why}; and {late}")),
                    Ok(()) if result.outdated => Ended::Outdated(why),
                    Ok(()) if result.held => Ended::Held(why),
                    Ok(()) => Ended::NotHealed(why),
                });
            }
        }
    }
    // Before the proof: what the program does with what was put in place is part of it.
    let finished = finish(cx, target, case, index, playbook, Phase::Apply).await?;
    case.tell(cx, Entry::Verifying).await?;
    let check = prove_patiently(cx, target).await;
    let told = serde_json::to_value(&check).unwrap_or_default();
    if check.verdict == Verdict::Healthy {
        if let Err(late) = finished {
            // The database is well and its program is not: that is for a person, and never a reason to take anything back.
            case.tell(cx, Entry::Disproved { check: told }).await?;
            return Ok(Ended::Stands(check, format!("the database is healed and proven, but {late}")));
        }
        case.tell(cx, Entry::Proved { check: told }).await?;
        return Ok(Ended::Proved(check));
    }
    let seen = describe(&check.verdict);
    case.tell(cx, Entry::Disproved { check: told }).await?;
    if matches!(check.verdict, Verdict::Unknown(_)) {
        // Nothing speaks against what was done: it stays, and the next look that can tell ends the incident.
        let mut why = format!("`{}` is done and cannot be proven yet: {seen}", playbook.name);
        if let Err(late) = finished {
            why = format!("{why}; and {late}");
        }
        return Ok(if cx.is_stopping() { Ended::Parked } else { Ended::Stands(check, why) });
    }
    let stays = done.iter().any(|(_, spec)| target.leaves_a_trace(spec)) && is_mild(target, &check.verdict);
    if stays && finished.is_ok() {
        case.tell(cx, Entry::Interrupted).await?;
        return Ok(Ended::Left(check));
    }
    take_back(cx, target, case, index, &done).await?;
    Ok(Ended::NotHealed(format!("after `{}` the detector says: {seen}", playbook.name)))
}

/// Leaves the rest to the next start. Between two steps the files are consistent, so the program that was stopped for them
/// need not wait for it.
async fn park(
    cx: &Context,
    target: &mut dyn Supervised,
    case: &mut Case,
    index: usize,
    playbook: &Playbook,
) -> Result<Ended, JournalError> {
    if let Err(late) = finish(cx, target, case, index, playbook, Phase::Apply).await? {
        tracing::error!(incident = %case.id(), "while stopping: {late}");
    }
    Ok(Ended::Parked)
}

/// The detector, in full.
pub(super) async fn prove(cx: &Context, target: &mut dyn Supervised) -> Check {
    cx.look(target, Look::Prove).await
}

/// The detector, in full, until it can tell: a program that goes on at once keeps a look waiting for its locks.
pub(super) async fn prove_patiently(cx: &Context, target: &mut dyn Supervised) -> Check {
    let delays = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(2))
        .with_max_times(PROOF_LOOKS)
        .with_jitter()
        .build();
    let mut check = prove(cx, target).await;
    for delay in delays {
        if !matches!(check.verdict, Verdict::Unknown(_)) || !cx.rest(delay).await {
            break;
        }
        check = prove(cx, target).await;
    }
    check
}

/// True when nothing is found but what says nothing against the content.
pub(super) fn is_mild(target: &dyn Supervised, verdict: &Verdict) -> bool {
    let findings = verdict.findings();
    !findings.is_empty() && findings.iter().all(|finding| target.is_mild(&finding.kind))
}

/// What a verdict says, for people.
pub(super) fn describe(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Healthy => "healthy".to_owned(),
        Verdict::Unknown(reason) => format!("unknown: {reason}"),
        Verdict::Unhealthy(findings) => findings
            .iter()
            .map(|finding| format!("{}: {}", finding.kind, finding.detail))
            .collect::<Vec<_>>()
            .join("; "),
    }
}

/// Takes back what a playbook did, the last step first. A step that cannot be taken back says so, and stays: the evidence
/// has what was there.
pub(super) async fn take_back(
    cx: &Context,
    target: &mut dyn Supervised,
    case: &mut Case,
    index: usize,
    done: &[(usize, &StepSpec)],
) -> Result<(), JournalError> {
    for (number, spec) in done.iter().rev() {
        if target.leaves_a_trace(spec) {
            take_step(cx, target, case, (index, *number), spec, Phase::Undo).await?;
        }
    }
    Ok(())
}

/// Takes the steps of a playbook that are to be taken whatever became of the others; [`Phase::Resume`] when that playbook was
/// interrupted, and is about to be taken up again. `Err` says which of them failed.
pub(super) async fn finish(
    cx: &Context,
    target: &mut dyn Supervised,
    case: &mut Case,
    index: usize,
    playbook: &Playbook,
    phase: Phase,
) -> Result<Result<(), String>, JournalError> {
    for (number, spec) in playbook.steps.iter().enumerate().filter(|(_, spec)| spec.finally) {
        take_step(cx, target, case, (index, number), spec, phase).await?;
    }
    Ok(left_undone(case, playbook))
}

/// Whether `next` ends with just those steps of `playbook`, and there are some.
pub(super) fn finishes(next: &Playbook, playbook: &Playbook) -> bool {
    let last = |playbook: &Playbook| playbook.steps.iter().filter(|step| step.finally).cloned().collect::<Vec<_>>();
    let ends = last(playbook);
    !ends.is_empty() && last(next) == ends
}

/// What of those steps failed when it was taken last, as the journal has it: known also after a restart.
pub(super) fn left_undone(case: &Case, playbook: &Playbook) -> Result<(), String> {
    let failed = |index: usize| {
        let last = case.story().taken.iter().rev().find(|(known, _)| *known == index);
        last.is_some_and(|(_, outcome)| matches!(outcome, StepOutcome::Failed | StepOutcome::Undone))
    };
    let steps = playbook.steps.iter().enumerate().filter(|(index, spec)| spec.finally && failed(*index));
    let late = steps.map(|(_, spec)| {
        let record = case.incident().steps.iter().rev().find(|record| record.step == spec.name);
        format!("step `{}` failed: {}", spec.name, record.map_or("", |record| record.detail.as_str()))
    });
    let late = late.collect::<Vec<_>>();
    if late.is_empty() { Ok(()) } else { Err(late.join("; ")) }
}

/// One step in one phase, between its two journal entries.
pub(super) async fn take_step(
    cx: &Context,
    target: &mut dyn Supervised,
    case: &mut Case,
    (playbook, index): (usize, usize),
    spec: &StepSpec,
    phase: Phase,
) -> Result<StepResult, JournalError> {
    case.tell(cx, Entry::StepIntended { playbook, index, spec: spec.clone(), phase }).await?;
    let (result, record) = apply(cx, target, case, spec, phase).await;
    case.tell(cx, Entry::StepEnded { playbook, index, record, loss: result.loss.clone() }).await?;
    Ok(result)
}

/// Does the step, and says so.
pub(super) async fn apply(
    cx: &Context,
    target: &mut dyn Supervised,
    case: &Case,
    spec: &StepSpec,
    phase: Phase,
) -> (StepResult, StepRecord) {
    let began = cx.now();
    let evidence = cx.journal.evidence(case.id());
    let full = match (phase, target.keeps_bytes(spec)) {
        (Phase::Apply | Phase::Resume, Some(bytes)) => cx.journal.make_room(case.id(), bytes).await.err(),
        _ => None,
    };
    let result = match target.action(case.incident(), &evidence, spec, phase) {
        _ if full.is_some() => {
            // No heal without evidence, and no reason to take a rung that loses more.
            let detail = full.map_or_else(String::new, |full| full.to_string());
            StepResult { held: true, ..StepResult::new(StepOutcome::Failed, detail) }
        }
        Err(detail) => StepResult::new(StepOutcome::Failed, detail),
        Ok(Action::Run(job)) => {
            let answer = cx.run(*job, target.step_patience(spec)).await;
            target.step_result(spec, phase, &answer)
        }
        Ok(Action::WaitUntilHealthy) => {
            // After a restart nobody knows any more but what it was opened for.
            let opened_for = std::slice::from_ref(&case.incident().kind);
            let planned_for = if case.planned_for.is_empty() { opened_for } else { &case.planned_for };
            wait_until_healthy(cx, target, planned_for).await
        }
    };
    let record = StepRecord {
        step: spec.name.clone(),
        outcome: result.outcome,
        seconds: cx.now().since(began).as_secs_f64(),
        detail: result.detail.clone(),
        evidence: result.preserved.then(|| evidence.display().to_string()),
    };
    let incident = case.incident();
    StepEnded {
        incident: &incident.id,
        target: &incident.target,
        mode: &incident.mode,
        step: &record.step,
        outcome: record.outcome,
        seconds: record.seconds,
        detail: &record.detail,
    }
    .emit();
    (result, record)
}

/// Looks again after growing delays, with jitter so that a thousand targets behind one disk do not look in step.
/// What it was not planned for is not waited for: damage that comes to light, or a lock that has lost its owner, has a plan of
/// its own.
async fn wait_until_healthy(cx: &Context, target: &mut dyn Supervised, planned_for: &[Kind]) -> StepResult {
    let retry = target.settings().retry;
    let delays = ExponentialBuilder::default()
        .with_min_delay(retry.initial)
        .with_factor(retry.factor as f32)
        .with_max_delay(retry.max)
        .with_max_times(retry.attempts as usize)
        .with_jitter()
        .build();
    let mut looks = 0;
    let mut seen = String::new();
    for delay in delays {
        if !cx.rest(delay).await {
            return StepResult::new(StepOutcome::Failed, "guardiand is stopping");
        }
        looks += 1;
        let check = cx.look(target, Look::Confirm).await;
        if check.verdict == Verdict::Healthy {
            return StepResult::new(StepOutcome::Ok, format!("healthy again at look {looks}"));
        }
        seen = describe(&check.verdict);
        let found = check.verdict.findings().first();
        if found.is_some_and(|found| !planned_for.contains(&found.kind)) {
            let detail = format!("at look {looks} it is something else: {seen}");
            return StepResult { outdated: true, ..StepResult::new(StepOutcome::Failed, detail) };
        }
    }
    StepResult::new(StepOutcome::Failed, format!("still unhealthy after {looks} looks: {seen}"))
}
