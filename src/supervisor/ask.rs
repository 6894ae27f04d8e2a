//! A person asks for a heal: look in full, then plan or heal, whatever policy and gates say.

use tokio::sync::oneshot;

use crate::journal::{Entry, JournalError};
use crate::model::{IncidentState, Plan, Playbook, Verdict};
use crate::modes::{Look, Supervised};
use crate::telemetry::ApprovalGiven;

use super::attend::{Mandate, close_if_proven, recovered};
use super::{Attended, Case, Context, HealAnswer, attend};

/// Looks at `target` in full and heals it; with `dry_run` only says what would be done.
pub async fn heal_on_demand(
    cx: &Context,
    mut target: Box<dyn Supervised>,
    mut case: Option<Case>,
    dry_run: bool,
) -> (HealAnswer, Attended) {
    let opened = cx.now();
    let mut check = cx.look(target.as_mut(), Look::Inspect).await;
    let unhealthy = matches!(check.verdict, Verdict::Unhealthy(_));
    if !unhealthy || dry_run {
        let mut plan = Ok(Plan::default());
        if unhealthy {
            check = cx.look(target.as_mut(), Look::Confirm).await;
            let draft = Case::draft(&check, opened, target.fault_time());
            plan = target.plan(&draft);
        } else if let Err(error) = end(cx, &mut case, &check.verdict, dry_run).await {
            plan = Err(error.to_string());
        }
        let (playbooks, refused) = split(plan);
        let incident = case.as_ref().map(|case| case.incident().clone());
        let answer = HealAnswer { check: check.clone(), incident, playbooks, refused };
        return (answer, Attended { target, case, check, retry_in: None });
    }
    let attended = attend(cx, target, case, check, opened, Mandate::Operator).await;
    let incident = attended.case.as_ref().map(|case| case.incident().clone());
    let refused = incident.as_ref().and_then(|incident| incident.reason.clone());
    let playbooks = attended.case.as_ref().map(|case| case.story().playbooks.clone()).unwrap_or_default();
    (HealAnswer { check: attended.check.clone(), incident, playbooks, refused }, attended)
}

/// A person says yes to what the incident's plan would do: a fresh look, a fresh plan, and the heal, unless it would cost
/// more than what the yes was said to. Then it is asked about again.
pub async fn approve_on_demand(
    cx: &Context,
    mut target: Box<dyn Supervised>,
    mut case: Case,
    by: u32,
) -> (Result<HealAnswer, String>, Attended) {
    // A sweep may not see what the plan is about: damage in the content, while a program writes.
    let check = cx.look(target.as_mut(), Look::Inspect).await;
    if let Err(error) = case.tell(cx, Entry::Approved { by }).await {
        let refused = Err(format!("the approval could not be made durable: {error}"));
        return (refused, Attended { target, case: Some(case), check, retry_in: None });
    }
    ApprovalGiven { incident: case.incident(), by }.emit();
    let attended = match check.verdict {
        Verdict::Unhealthy(_) => {
            let opened = cx.now();
            attend(cx, target, Some(case), check, opened, Mandate::Own).await
        }
        Verdict::Healthy => close_if_proven(cx, target, case).await,
        // Begun as soon as it can be told.
        Verdict::Unknown(_) => Attended { target, case: Some(case), check, retry_in: None },
    };
    let incident = attended.case.as_ref().map(|case| case.incident().clone());
    let reason = incident.as_ref().and_then(|incident| incident.reason.clone());
    let again = incident
        .as_ref()
        .is_some_and(|incident| incident.state == IncidentState::AwaitingApproval && incident.approved_by.is_none());
    if let (true, Some(reason)) = (again, reason.clone()) {
        return (Err(reason), attended);
    }
    (Ok(HealAnswer { check: attended.check.clone(), incident, playbooks: Vec::new(), refused: reason }), attended)
}

/// A person lets a target be healed like any other again, although a heal of it was taken back: `lifted` hears whether that is
/// durable, and then a look follows, and what policy and gates allow.
pub async fn lift_hold(
    cx: &Context,
    mut target: Box<dyn Supervised>,
    mut case: Case,
    by: u32,
    lifted: oneshot::Sender<Result<(), String>>,
) -> Attended {
    let told = case.tell(cx, Entry::HoldLifted { by }).await.map_err(|error| error.to_string());
    let is_durable = told.is_ok();
    let _ = lifted.send(told);
    let opened = cx.now();
    let check = cx.look(target.as_mut(), Look::Sweep).await;
    match check.verdict {
        Verdict::Unhealthy(_) if is_durable => attend(cx, target, Some(case), check, opened, Mandate::Own).await,
        Verdict::Healthy => close_if_proven(cx, target, case).await,
        Verdict::Unhealthy(_) | Verdict::Unknown(_) => Attended { target, case: Some(case), check, retry_in: None },
    }
}

/// Looks at `target` in full, and heals nothing.
pub async fn check_on_demand(cx: &Context, mut target: Box<dyn Supervised>, case: Option<Case>) -> Attended {
    let check = cx.look(target.as_mut(), Look::Inspect).await;
    Attended { target, case, check, retry_in: Some(std::time::Duration::ZERO) }
}

async fn end(cx: &Context, case: &mut Option<Case>, verdict: &Verdict, dry_run: bool) -> Result<(), JournalError> {
    match case {
        Some(case) if *verdict == Verdict::Healthy && !dry_run && case.is_open() => recovered(cx, case).await,
        _ => Ok(()),
    }
}

fn split(plan: Result<Plan, String>) -> (Vec<Playbook>, Option<String>) {
    match plan {
        Ok(plan) => (plan.playbooks, plan.approval),
        Err(reason) => (Vec::new(), Some(reason)),
    }
}
