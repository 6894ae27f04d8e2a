//! A person wants a heal taken back: the files as they were before it, and guardiand's hands off them afterwards.
//!
//! A rollback is an incident's like any heal: the target's open one, else one of its own, of the kind that was healed. Its
//! steps are not proven but looked at: the database is probably as broken as it was. Then the incident stays open, escalated,
//! and nothing is done about it until a person says so. The log of the incident whose heal was taken back says `rolled_back`
//! in the end, after its `closed`.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use crate::clock::Moment;
use crate::job::Phase;
use crate::journal::{Entry, JournalError};
use crate::model::{
    Check, Finding, Incident, IncidentId, IncidentState, Layer, Playbook, Resolution, Severity, StepOutcome, Verdict,
    for_shell,
};
use crate::modes::{Look, Supervised};
use crate::telemetry::{PlaybookBegan, PlaybookEnded, PlaybookOutcome};

use super::attend::recovered;
use super::execute::{describe, finish, left_undone, prove_patiently, take_step};
use super::{Attended, Case, Context};

/// Evidence may be far larger than what is there now, and all of it is read to be verified.
const WEIGHING: Duration = Duration::from_secs(3600);

/// What a person asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RollbackAsk {
    /// The incident whose heal shall be taken back.
    pub incident: IncidentId,
    /// Which of its preservations comes back, from 1; the last when `None`.
    pub generation: Option<u32>,
    /// What was committed since may be in evidence alone.
    pub accept_loss: bool,
    /// Only say what it would do.
    pub dry_run: bool,
    /// Who asks, in words.
    pub by: String,
}

/// What it came to.
#[derive(Debug, Clone, Serialize)]
pub struct RollbackAnswer {
    /// The incident whose heal was to be taken back.
    pub rolled_back: IncidentId,
    /// The target.
    pub target: String,
    /// How it ended.
    pub outcome: RollbackOutcome,
    /// What came back, or why nothing did and what to type next.
    pub detail: String,
    /// What was seen before: the files in evidence, those that are there, the commits since.
    pub weighed: Value,
    /// The incident that tells of the rollback, and has what was there before it; none when nothing was touched.
    pub incident: Option<Incident>,
    /// The look after it.
    pub check: Option<Check>,
}

/// How a rollback ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RollbackOutcome {
    /// The files are as they were.
    RolledBack,
    /// They were already.
    NothingToDo,
    /// A dry run.
    Planned,
    /// Not without a person's further word, or not now.
    Refused,
    /// It was tried, and every file is where it was; or the detail says what is not.
    Failed,
    /// guardiand is stopping; its next start goes on.
    Parked,
}

impl RollbackOutcome {
    /// The command's exit status.
    pub fn exit(self) -> u8 {
        match self {
            RollbackOutcome::RolledBack | RollbackOutcome::NothingToDo | RollbackOutcome::Planned => 0,
            RollbackOutcome::Refused | RollbackOutcome::Failed | RollbackOutcome::Parked => 1,
        }
    }
}

/// Takes the heal of `of` back, as `ask` says.
pub async fn rollback_on_demand(
    cx: &Context,
    mut target: Box<dyn Supervised>,
    case: Option<Case>,
    of: &Incident,
    ask: &RollbackAsk,
) -> (RollbackAnswer, Attended) {
    let mut case = case.filter(Case::is_open);
    let mut answer = RollbackAnswer {
        rolled_back: of.id.clone(),
        target: of.target.clone(),
        outcome: RollbackOutcome::Failed,
        detail: String::new(),
        weighed: Value::Null,
        incident: None,
        check: None,
    };
    if let Err(error) = try_it(cx, target.as_mut(), &mut case, of, ask, &mut answer).await {
        (answer.outcome, answer.detail) = (RollbackOutcome::Failed, error.to_string());
    }
    let touched =
        matches!(answer.outcome, RollbackOutcome::RolledBack | RollbackOutcome::Failed | RollbackOutcome::Parked);
    answer.incident = case.as_ref().filter(|_| touched).map(|case| case.incident().clone());
    let check = match answer.check.clone() {
        Some(check) => check,
        None => cx.look(target.as_mut(), Look::Sweep).await,
    };
    (answer, Attended { target, case, check, retry_in: None })
}

async fn try_it(
    cx: &Context,
    target: &mut dyn Supervised,
    case: &mut Option<Case>,
    of: &Incident,
    ask: &RollbackAsk,
    answer: &mut RollbackAnswer,
) -> Result<(), JournalError> {
    if let Some(at) = of.evidence_expired_at {
        answer.outcome = RollbackOutcome::Refused;
        answer.detail = format!(
            "the files as they were before incident {} was healed are kept no longer: they expired at {at:.0} (`evidence` in [guardian] says \
             how long, and how much, is kept). Older content: `guardiand backups {}`",
            of.id,
            for_shell(&of.target)
        );
        return Ok(());
    }
    let evidence = cx.journal.evidence(&of.id);
    let job = match target.weigh_rollback(of, &evidence, ask.generation) {
        Ok(job) => job,
        Err(reason) => {
            (answer.outcome, answer.detail) = (RollbackOutcome::Refused, reason);
            return Ok(());
        }
    };
    let weighed = cx.run(job, target.patience(Look::Inspect).max(WEIGHING)).await;
    let plan = match target.plan_rollback(of, &evidence, &weighed, ask.accept_loss) {
        Ok(plan) => plan,
        Err(refusal) => {
            answer.outcome = RollbackOutcome::Refused;
            (answer.detail, answer.weighed) = (refusal.message, refusal.facts);
            return Ok(());
        }
    };
    (answer.detail, answer.weighed) = (plan.words, plan.facts);
    let Some(playbook) = plan.playbook else {
        answer.outcome = RollbackOutcome::NothingToDo;
        return Ok(());
    };
    if ask.dry_run {
        answer.outcome = RollbackOutcome::Planned;
        return Ok(());
    }
    let case = match case {
        Some(case) => case,
        None => case.insert(open(cx, of, ask).await?),
    };
    target.take_up(case.incident(), &cx.journal.evidence(case.id()));
    case.tell(cx, Entry::Planned { playbooks: vec![playbook.clone()], approval: None }).await?;
    case.tell(cx, Entry::RollingBack { of: of.id.clone(), by: ask.by.clone(), loss: plan.loss }).await?;
    case.tell(cx, Entry::PlaybookBegan { index: 0, name: playbook.name.clone() }).await?;
    let incident = case.incident();
    PlaybookBegan {
        incident: &incident.id,
        target: &incident.target,
        mode: &incident.mode,
        playbook: &playbook.name,
        why: &playbook.why,
    }
    .emit();
    match go_on(cx, target, case).await? {
        Came::Back(check, late) => {
            let words = answer.detail.replace("come back", "are back");
            let words = format!("{words}: {}", describe(&check.verdict));
            (answer.outcome, answer.detail) = match late {
                None => (RollbackOutcome::RolledBack, words),
                Some(late) => (RollbackOutcome::Failed, format!("{late}; for the rest it is done: {words}")),
            };
            answer.check = Some(check);
        }
        Came::Failed(why, check) => {
            (answer.outcome, answer.detail) = (RollbackOutcome::Failed, why);
            answer.check = Some(check);
        }
        Came::Parked => {
            answer.outcome = RollbackOutcome::Parked;
            answer.detail = "guardiand is stopping; its next start goes on with the rollback".to_owned();
        }
    }
    Ok(())
}

/// An incident that tells of a rollback.
async fn open(cx: &Context, of: &Incident, ask: &RollbackAsk) -> Result<Case, JournalError> {
    let finding = Finding {
        kind: of.kind.clone(),
        severity: Severity::High,
        layer: of.findings.first().map_or(Layer::new("exists"), |finding| finding.layer.clone()),
        detail: format!("rolled back by {}: the heal of incident {} is taken back", ask.by, of.id),
        sqlite_code: None,
        at_stake: None,
        remediation: "a person asked for it; nothing is done by itself until a person says so".to_owned(),
    };
    let opened = cx.now();
    let incident = Case::drafted(&of.target, &of.mode, vec![finding], opened, None);
    Case::open(cx, incident, opened).await
}

/// What came of a rollback's steps.
pub(super) enum Came {
    /// The files are as they were; what the detector says of them, and what was not put right after it: a program that does not
    /// run again.
    Back(Check, Option<String>),
    /// They are not, and why.
    Failed(String, Check),
    /// guardiand is stopping.
    Parked,
}

/// Takes the steps that are still to be taken, and says in every place that has to know what came of them. After a crash it
/// goes on from wherever it was.
pub(super) async fn go_on(cx: &Context, target: &mut dyn Supervised, case: &mut Case) -> Result<Came, JournalError> {
    let began = cx.now();
    let story = case.story();
    let current = story.current.and_then(|index| story.playbooks.get(index).cloned().map(|playbook| (index, playbook)));
    let (Some((index, playbook)), Some((of, by))) = (current, story.rolling_back.clone()) else {
        return Ok(Came::Failed("no rollback is under way".to_owned(), cx.look(target, Look::Sweep).await));
    };
    if case.state() == IncidentState::Healing {
        let taken = take_steps(cx, target, case, index, &playbook).await?;
        // Whatever came of it: what was stopped for it runs again.
        let late = finish(cx, target, case, index, &playbook, Phase::Apply).await?.err();
        match taken {
            Taken::All => {}
            Taken::Failed(why) => return failed(cx, target, case, (&playbook, began), (why, late)).await,
            Taken::Parked => {
                if let Some(late) = late {
                    tracing::error!(incident = %case.id(), "while stopping: {late}");
                }
                return Ok(Came::Parked);
            }
        }
        if of != *case.id() {
            cx.journal.rolled_back(&of, case.id(), &by).await?;
        }
        case.tell(cx, Entry::Verifying).await?;
        ended(case, &playbook, PlaybookOutcome::Ok, began, cx.now());
    }
    let late = left_undone(case, &playbook).err();
    // A program that goes on at once keeps a look waiting for its locks.
    let check = prove_patiently(cx, target).await;
    let told = serde_json::to_value(&check).unwrap_or_default();
    if check.verdict == Verdict::Healthy && late.is_none() {
        case.tell(cx, Entry::Proved { check: told }).await?;
        case.close(cx, Resolution::RolledBack).await?;
        return Ok(Came::Back(check, None));
    }
    case.tell(cx, Entry::Disproved { check: told }).await?;
    let but = late.as_ref().map_or_else(String::new, |late| format!(". But {late}"));
    let target = for_shell(&case.incident().target);
    let reason = format!(
        "rolled back by {by}: the files are as they were before incident {of} was healed, and that is {}{but}. Nothing is done about \
         it by itself: `guardiand heal {target}` heals it again, `guardiand resume {target}` leaves that to guardiand as before, \
         `guardiand rollback {}` takes this rollback back",
        describe(&check.verdict),
        case.id()
    );
    case.escalate(cx, reason).await?;
    Ok(Came::Back(check, late))
}

/// The files are where they were: said to whoever asked, and to whom it concerns besides.
async fn failed(
    cx: &Context,
    target: &mut dyn Supervised,
    case: &mut Case,
    (playbook, began): (&Playbook, Moment),
    (why, late): (String, Option<String>),
) -> Result<Came, JournalError> {
    ended(case, playbook, PlaybookOutcome::Failed, began, cx.now());
    // Who asked gets no answer any more after a restart, and a program that does not run is a person's to see to.
    let unheard = !case.is_ours() || late.is_some();
    let why = late.map_or_else(|| why.clone(), |late| format!("{why}; and {late}"));
    let check = prove_patiently(cx, target).await;
    match check.verdict {
        Verdict::Healthy if !unheard => recovered(cx, case).await?,
        _ => {
            let seen = describe(&check.verdict);
            case.escalate(cx, format!("the rollback failed: {why}; it is still {seen}")).await?;
        }
    }
    Ok(Came::Failed(why, check))
}

/// How far the steps that bring the files back were taken.
enum Taken {
    All,
    /// One failed; which, and why.
    Failed(String),
    /// guardiand is stopping.
    Parked,
}

async fn take_steps(
    cx: &Context,
    target: &mut dyn Supervised,
    case: &mut Case,
    index: usize,
    playbook: &Playbook,
) -> Result<Taken, JournalError> {
    let steps = playbook.steps.iter().enumerate().filter(|(_, spec)| !spec.finally).collect::<Vec<_>>();
    let Some((last, swap)) = steps.last() else { return Ok(Taken::All) };
    // What came of the last, which brings the files back, before a restart, stands…
    match case.story().taken.iter().rev().find(|(known, _)| known == last).map(|(_, outcome)| *outcome) {
        Some(StepOutcome::Ok | StepOutcome::Skipped) => return Ok(Taken::All),
        Some(StepOutcome::Failed | StepOutcome::Undone) => {
            let record = case.incident().steps.iter().rev().find(|record| record.step == swap.name);
            let detail = record.map_or("", |record| record.detail.as_str());
            return Ok(Taken::Failed(format!("step `{}`: {detail}", swap.name)));
        }
        None => {}
    }
    // … and what comes before it is taken anew: programs may have gone on meanwhile, and doing it twice is doing it once.
    let mut back = Vec::new();
    for (number, spec) in steps.iter().copied() {
        if cx.is_stopping() {
            return Ok(Taken::Parked);
        }
        let result = take_step(cx, target, case, (index, number), spec, Phase::Apply).await?;
        if matches!(result.outcome, StepOutcome::Failed | StepOutcome::Undone) {
            let mut why = format!("step `{}`: {}", spec.name, result.detail);
            if !back.is_empty() {
                let id = case.id();
                why += &format!("; done before it was {}: `guardiand rollback {id}` takes that back", back.join(", "));
            }
            return Ok(Taken::Failed(why));
        }
        if spec.name == swap.name {
            back.push(result.detail);
        }
    }
    Ok(Taken::All)
}

fn ended(case: &Case, playbook: &Playbook, outcome: PlaybookOutcome, began: Moment, now: Moment) {
    let incident = case.incident();
    PlaybookEnded {
        incident: &incident.id,
        target: &incident.target,
        mode: &incident.mode,
        playbook: &playbook.name,
        outcome,
        seconds: now.since(began).as_secs_f64(),
    }
    .emit();
}
