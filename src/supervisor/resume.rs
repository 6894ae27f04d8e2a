//! Going on after a crash: every unfinished step is finished or taken back before anything else happens to its target.

use crate::job::Phase;
use crate::journal::{Entry, JournalError, LeftOpen};
use crate::model::{Check, IncidentState, Resolution, Verdict};
use crate::modes::{Look, Supervised};
use crate::telemetry::IncidentResumed;

use super::attend::Mandate;
use super::execute::{apply, finish, is_mild, left_undone, prove, prove_patiently, take_back};
use super::rollback::{Came, go_on};
use super::{Attended, Case, Context, attend};

/// Takes up an incident that an earlier process left open.
pub async fn resume(cx: &Context, mut target: Box<dyn Supervised>, left: LeftOpen) -> Attended {
    let mut case = Case::carry_on(left);
    IncidentResumed(case.incident()).emit();
    target.take_up(case.incident(), &cx.journal.evidence(case.id()));
    match settle(cx, target.as_mut(), &mut case).await {
        Ok(Settled::Proved(check)) => Attended { target, case: Some(case), check, retry_in: None },
        Ok(Settled::GoOn(check)) => {
            let opened = cx.now();
            attend(cx, target, Some(case), check, opened, Mandate::Resumed).await
        }
        Ok(Settled::Waiting) => {
            let check = cx.look(target.as_mut(), Look::Sweep).await;
            // What a person said yes to just before is begun, and not left until the next look.
            let retry_in = case.story().approved.is_some().then_some(std::time::Duration::ZERO);
            Attended { target, case: Some(case), check, retry_in }
        }
        Err(error) => {
            tracing::error!(incident = %case.id(), %error, "an interrupted heal cannot be resumed: its journal cannot be written");
            let check = cx.look(target.as_mut(), Look::Sweep).await;
            Attended { target, case: Some(case), check, retry_in: None }
        }
    }
}

enum Settled {
    /// The interrupted playbook had healed; or it was a rollback, and its last word is said.
    Proved(Check),
    /// Its steps are taken back; to be planned anew.
    GoOn(Check),
    /// No playbook was under way.
    Waiting,
}

async fn settle(cx: &Context, target: &mut dyn Supervised, case: &mut Case) -> Result<Settled, JournalError> {
    if let Some(open) = case.story().unfinished.clone() {
        let phase = match open.phase {
            Phase::Apply | Phase::Resume => Phase::Resume,
            Phase::Undo => Phase::Undo,
        };
        let (result, record) = apply(cx, target, case, &open.spec, phase).await;
        let (playbook, index) = (open.playbook, open.index);
        case.tell(cx, Entry::StepResumed { playbook, index, record, loss: result.loss }).await?;
    }
    if !matches!(case.state(), IncidentState::Healing | IncidentState::Verifying) {
        return Ok(match case.state() {
            // It had been recorded as proven, or as recovered, and only the last line is missing.
            IncidentState::Closed => {
                let check = prove(cx, target).await;
                case.close(cx, closing(case)).await?;
                Settled::Proved(check)
            }
            _ => Settled::Waiting,
        });
    }
    if case.story().rolling_back.is_some() {
        // A healthy database proves nothing here: that is what the rollback was to take away.
        return Ok(match go_on(cx, target, case).await? {
            Came::Back(check, _) | Came::Failed(_, check) => Settled::Proved(check),
            Came::Parked => Settled::Waiting,
        });
    }
    // What was let go on may need a moment to be seen well.
    let check = prove_patiently(cx, target).await;
    let told = serde_json::to_value(&check).unwrap_or_default();
    if check.verdict == Verdict::Healthy {
        if let Err(late) = finish_current(cx, target, case).await? {
            // The database is well and its program is not: a person hears of it before anything is called healed.
            case.escalate(cx, format!("after a restart of guardiand the database is proven healthy, but {late}"))
                .await?;
            return Ok(Settled::Waiting);
        }
        case.tell(cx, Entry::Proved { check: told }).await?;
        case.close(cx, Resolution::Healed).await?;
        return Ok(Settled::Proved(check));
    }
    let all_done = case.state() == IncidentState::Verifying;
    if all_done {
        case.tell(cx, Entry::Disproved { check: told }).await?;
    }
    // What its steps were for is over: what they did stays.
    let stays = all_done && is_mild(target, &check.verdict);
    if let Some(index) = case.story().current.filter(|_| !stays) {
        let steps = case.story().playbooks.get(index).map(|playbook| playbook.steps.clone()).unwrap_or_default();
        let begun = steps.iter().enumerate().collect::<Vec<_>>();
        take_back(cx, target, case, index, &begun).await?;
        if let Err(late) = finish_current(cx, target, case).await? {
            case.escalate(cx, format!("a heal was interrupted and its files are taken back, but {late}")).await?;
            return Ok(Settled::Waiting);
        }
    }
    case.tell(cx, Entry::Interrupted).await?;
    Ok(Settled::GoOn(check))
}

/// What its playbook stopped is started again. `Err` says that it could not be.
async fn finish_current(
    cx: &Context,
    target: &mut dyn Supervised,
    case: &mut Case,
) -> Result<Result<(), String>, JournalError> {
    let current = case.story().current;
    let Some((index, playbook)) =
        current.and_then(|index| case.story().playbooks.get(index).cloned().map(|playbook| (index, playbook)))
    else {
        return Ok(Ok(()));
    };
    match case.state() {
        IncidentState::Healing => finish(cx, target, case, index, &playbook, Phase::Resume).await,
        // Steps are taken while healing; once verified, they had been.
        _ => Ok(left_undone(case, &playbook)),
    }
}

fn closing(case: &Case) -> Resolution {
    let healed = case.story().runs.last().is_some_and(|run| run.success == Some(true));
    match (healed, &case.story().rolling_back) {
        (true, Some(_)) => Resolution::RolledBack,
        (true, None) => Resolution::Healed,
        (false, _) => Resolution::SelfResolved,
    }
}
