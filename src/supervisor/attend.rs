//! Attending to one unhealthy target: a second look, an incident, a plan, the gates, the playbooks, the end.

use std::time::Duration;

use crate::clock::Moment;
use crate::journal::{Entry, JournalError};
use crate::model::{Check, IncidentState, Plan, Playbook, Policy, Resolution, Risk, Verdict, for_shell};
use crate::modes::{Look, Supervised};
use crate::telemetry::{DeferReason, HealDeferred};

use super::execute::{Ended, describe, finish, finishes, is_mild, prove, run_playbook};
use super::keep_first::{keep_first, what_is_kept};
use super::policy::{Admission, Candidate};
use super::{Case, Context};
use crate::job::Phase;

/// When the second look could not tell, or the journal could not write, look again after this.
const UNSURE_RETRY: Duration = Duration::from_secs(5);

/// Nothing will be done about it until a person says so: the costly second look is not made at every sweep.
const HELD_RETRY: Duration = Duration::from_secs(300);

/// Files that change each time before what was planned for them begins are not looked at anew for ever.
const PLANNED_ANEW_MAX: u32 = 5;

/// On whose word a heal begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mandate {
    /// guardiand's own: policy and gates decide.
    Own,
    /// A crash interrupted it, and it had passed the gates.
    Resumed,
    /// A person asked for it: policy and gates give way. What a plan itself asks approval for it does not cover: the person
    /// has not seen yet what it costs and whom it touches.
    Operator,
}

/// What came of attending.
pub struct Attended {
    /// The target, back for its slot.
    pub target: Box<dyn Supervised>,
    /// Its incident, while it is open, or as it was closed just now.
    pub case: Option<Case>,
    /// The last thing that the detector said.
    pub check: Check,
    /// Look again after this, rather than after the interval.
    pub retry_in: Option<Duration>,
}

/// Attends to a target that `check` found unhealthy at `opened`, or whose incident is open.
pub async fn attend(
    cx: &Context,
    mut target: Box<dyn Supervised>,
    mut case: Option<Case>,
    check: Check,
    opened: Moment,
    mandate: Mandate,
) -> Attended {
    let was_escalated = case.as_ref().is_some_and(|case| case.state() == IncidentState::Escalated);
    let was_stuck = case.as_mut().is_some_and(Case::try_again);
    if let Some(case) = &mut case {
        case.planned_for.clear();
    }
    let mut visit = Visit {
        cx,
        target: target.as_mut(),
        case: &mut case,
        check,
        opened,
        mandate,
        retry_in: None,
        was_escalated,
        harmless_so_far: false,
        planned_anew: 0,
        nothing_done: false,
    };
    let went = loop {
        // It is planned anew only so often in a visit, so this ends.
        match visit.go().await {
            Ok(Then::Again) => {}
            Ok(Then::Done | Then::Left) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    match (went, visit.case.as_ref()) {
        (Err(error), _) => visit.held_by_journal(&error, was_stuck).await,
        // It may have had nothing to write.
        (Ok(()), Some(case)) if was_stuck => cx.journal.hide(case.id()).await,
        (Ok(()), _) => {}
    }
    let Visit { check, retry_in, .. } = visit;
    Attended { target, case, check, retry_in }
}

/// Ends an open incident if the detector, in full, says healthy; goes on with it, if not and a person said yes to that.
pub async fn close_if_proven(cx: &Context, mut target: Box<dyn Supervised>, case: Case) -> Attended {
    let check = prove(cx, target.as_mut()).await;
    let mut case = case;
    if case.story().approved.is_some() && matches!(check.verdict, Verdict::Unhealthy(_)) {
        let opened = cx.now();
        return attend(cx, target, Some(case), check, opened, Mandate::Own).await;
    }
    if check.verdict == Verdict::Healthy
        && let Err(error) = recovered(cx, &mut case).await
    {
        tracing::error!(incident = %case.id(), %error, "a recovered incident could not be closed in the journal");
    }
    Attended { target, case: Some(case), check, retry_in: None }
}

pub(super) async fn recovered(cx: &Context, case: &mut Case) -> Result<(), JournalError> {
    // After an escalation it was a person who brought it back, as far as anybody can tell.
    let by = match case.state() {
        _ if case.story().is_rolled_back() => Resolution::RolledBack,
        // What was put in its place could not be proven then, nor taken back: it is what is well now.
        _ if case.story().replaced => Resolution::Healed,
        IncidentState::Escalated => Resolution::ResolvedByOperator,
        // A step of ours was done, and the proof came later: guardiand died in between, say.
        IncidentState::Open | IncidentState::Healing | IncidentState::Verifying if case.story().acted => {
            Resolution::Healed
        }
        _ => Resolution::SelfResolved,
    };
    case.tell(cx, Entry::Recovered).await?;
    case.close(cx, by).await
}

/// What follows a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Done,
    /// Something else is wrong by now: from the second look on once more.
    Again,
    /// What it was for is over, and something mild is left.
    Left,
}

struct Visit<'a> {
    cx: &'a Context,
    target: &'a mut dyn Supervised,
    case: &'a mut Option<Case>,
    check: Check,
    opened: Moment,
    mandate: Mandate,
    retry_in: Option<Duration>,
    /// A person had been called before this visit.
    was_escalated: bool,
    /// An attempt passed the gates in this visit, and nothing of it could cost anything.
    harmless_so_far: bool,
    /// So often was it planned anew because what it was planned for was there no more.
    planned_anew: u32,
    /// What the gates let pass was given up before anything was replaced, and is still to be done.
    nothing_done: bool,
}

impl Visit<'_> {
    async fn go(&mut self) -> Result<Then, JournalError> {
        if let Some(case) = self.case {
            case.write_down(self.cx).await?;
        }
        // A person wanted it as it is: guardiand would only do again what was taken back.
        let rolled_back = self.case.as_ref().is_some_and(|case| case.story().is_rolled_back());
        if rolled_back && self.mandate == Mandate::Own {
            return Ok(Then::Done);
        }
        if self.held().await? {
            return Ok(Then::Done);
        }
        let kind = self.check.verdict.findings().first().map(|finding| finding.kind.clone());
        let destructive = kind.as_ref().is_some_and(|kind| self.target.needs_second_look(kind));
        if destructive && !self.look_again_unhurried().await {
            return Ok(Then::Done);
        }
        if self.case.is_none() {
            let draft = Case::draft(&self.check, self.opened, self.target.fault_time());
            // It is an incident from here on, and the same one, also where the journal does not take it.
            self.case.insert(Case::in_memory(draft, self.opened)).write_down(self.cx).await?;
            if self.held().await? {
                return Ok(Then::Done);
            }
        }
        if !destructive && !self.look_again().await {
            self.end_if_healthy().await?;
            return Ok(Then::Done);
        }
        if let Some(case) = self.case {
            keep_first(self.cx, self.target, case).await?;
        }
        let Some(plan) = self.plan().await? else { return Ok(Then::Done) };
        if !self.admitted(&plan).await? {
            return Ok(Then::Done);
        }
        match self.heal(plan).await? {
            Then::Left => self.heal_what_is_left().await,
            then => Ok(then),
        }
    }

    /// A program that goes on at once may need a checkpoint before anybody can say healthy.
    async fn heal_what_is_left(&mut self) -> Result<Then, JournalError> {
        if !self.look_again().await {
            self.end_if_healthy().await?;
            return Ok(Then::Done);
        }
        let mild = is_mild(self.target, &self.check.verdict);
        match self.plan().await?.filter(|plan| mild && plan.approval.is_none()) {
            Some(plan) => self.heal(plan).await,
            None => Ok(Then::Done),
        }
    }

    /// True when nothing is begun for an open incident, whatever a plan would say: it is not even looked at again, nor is a
    /// person called for each of a thousand.
    async fn held(&mut self) -> Result<bool, JournalError> {
        let Some(case) = self.case.as_mut().filter(|_| self.mandate != Mandate::Operator) else { return Ok(false) };
        // The person who approved this one knew.
        if case.story().approved.is_some() {
            return Ok(false);
        }
        let (target, ground) = (&self.target.settings().target, self.target.ground());
        let Some((reason, words)) = self.cx.with_gates(|gates| gates.hold(target, ground)) else { return Ok(false) };
        // Why it needs a person is not forgotten over that.
        let before = case.incident().reason.as_ref().filter(|_| case.state() == IncidentState::Escalated);
        let words = before.map_or_else(|| words.clone(), |before| format!("{words} (before that: {before})"));
        // Nothing is healed, but what would be gone with a program is kept meanwhile: the target must know where.
        self.target.take_up(case.incident(), &self.cx.journal.evidence(case.id()));
        defer(self.cx, case, reason, words).await?;
        self.retry_in = Some(HELD_RETRY);
        Ok(true)
    }

    /// The second look before bytes are replaced. What was read while it was written may be torn: whoever writes is given the
    /// time that its own programs would give it.
    async fn look_again_unhurried(&mut self) -> bool {
        if let Some(wait) = self.target.unsettled(Look::Sweep)
            && !self.cx.rest(wait).await
        {
            return false;
        }
        let agrees = self.look_again().await;
        match self.target.unsettled(Look::Confirm).filter(|_| agrees) {
            Some(wait) => self.cx.rest(wait).await && self.look_again().await,
            None => agrees,
        }
    }

    /// The independent second look. True when it agrees that something is wrong.
    async fn look_again(&mut self) -> bool {
        self.check = self.cx.look(self.target, Look::Confirm).await;
        match &self.check.verdict {
            Verdict::Unhealthy(_) => true,
            Verdict::Healthy => false,
            Verdict::Unknown(_) => {
                self.retry_in = Some(UNSURE_RETRY);
                false
            }
        }
    }

    async fn end_if_healthy(&mut self) -> Result<(), JournalError> {
        match self.case {
            Some(case) if self.check.verdict == Verdict::Healthy => recovered(self.cx, case).await,
            _ => Ok(()),
        }
    }

    /// What may be tried, or `None` when a person is needed first.
    async fn plan(&mut self) -> Result<Option<Plan>, JournalError> {
        let Some(case) = self.case.as_mut() else { return Ok(None) };
        self.target.take_up(case.incident(), &self.cx.journal.evidence(case.id()));
        match self.target.plan(case.incident()) {
            Ok(Plan { playbooks, approval }) => {
                let story = case.story();
                let was_lossy = |name: &String| {
                    let known = story.playbooks.iter().chain(&playbooks).find(|playbook| playbook.name == *name);
                    known.is_none_or(|playbook| playbook.risk() > Risk::Lossless)
                };
                let tried = !case.held && story.attempts().iter().any(|run| was_lossy(&run.playbook));
                let again = self.mandate == Mandate::Own && self.was_escalated && tried;
                // What was given up is only tried again by itself where trying cannot cost anything. Having waited in vain
                // is no such attempt: it may be over, and damage come to light.
                // To wait once more for what the person knows of is what every look does: that is no heal under way.
                let known = case.says_already(&describe(&self.check.verdict));
                let target = &*self.target;
                let waits = |playbook: &Playbook| {
                    let keeps = playbook.steps.iter().any(|step| target.keeps_bytes(step).is_some());
                    playbook.risk() == Risk::Harmless && !keeps
                };
                let in_vain = self.mandate == Mandate::Own && self.was_escalated && known;
                let playbooks = playbooks
                    .into_iter()
                    .filter(|playbook| !again || playbook.risk() <= Risk::Lossless)
                    .filter(|playbook| !(in_vain && waits(playbook)));
                let plan = Plan { playbooks: playbooks.collect(), approval };
                Ok(Some(plan).filter(|plan| !plan.playbooks.is_empty()))
            }
            Err(reason) => {
                // What forbids it now (a file in use, a process that cannot be seen) may be gone at the next look.
                case.held = true;
                let kept_first = self.target.keep_first(case.incident()).is_some();
                let kept = if kept_first { what_is_kept(case.incident()) } else { String::new() };
                case.escalate(self.cx, format!("{reason}{kept}")).await?;
                Ok(None)
            }
        }
    }

    /// Policy, approval and gates.
    async fn admitted(&mut self, plan: &Plan) -> Result<bool, JournalError> {
        let settings = self.target.settings();
        let (target, mode, policy) = (settings.target.as_str(), settings.mode, settings.policy);
        let Some(case) = self.case.as_mut() else { return Ok(false) };
        let now = self.cx.now();
        let pass = || self.cx.with_gates(|gates| gates.note(target, mode, now));
        if policy == Policy::Observe && self.mandate != Mandate::Operator {
            case.planned(self.cx, plan).await?;
            let reason = "the policy is `observe`: nothing is touched".to_owned();
            defer(self.cx, case, DeferReason::Policy, reason).await?;
            self.retry_in = Some(HELD_RETRY);
            return Ok(false);
        }
        let by_policy = policy == Policy::Approve && self.mandate != Mandate::Operator;
        if plan.approval.is_some() || by_policy {
            let why = match case.story().approved.as_ref().map(|approved| plan.exceeds(approved)) {
                Some(None) => {
                    pass();
                    return Ok(true);
                }
                Some(Some(change)) => format!("the plan is no longer the one that was approved: {change}"),
                None => plan.approval.clone().unwrap_or_else(|| "the policy is `approve`".to_owned()),
            };
            // What was approved and did not heal is not asked about for ever.
            let in_vain = case.state() == IncidentState::Escalated && !case.held && !case.story().attempts().is_empty();
            if !(in_vain && self.mandate == Mandate::Own) && case.ask(self.cx, plan, &why).await? {
                emit_deferred(case, DeferReason::Policy, "waits for approval");
            }
            return Ok(false);
        }
        if self.mandate != Mandate::Own {
            pass();
            return Ok(true);
        }
        if std::mem::take(&mut self.nothing_done) {
            return Ok(true);
        }
        // The same attempt, which goes on with another plan that costs nothing either.
        if self.harmless_so_far && plan.playbooks.iter().all(|playbook| playbook.risk() <= Risk::Lossless) {
            return Ok(true);
        }
        let (kind, opened_at) = (&case.incident().kind, case.incident().opened_at);
        let candidate = Candidate { target, mode, kind, opened_at };
        match self.cx.with_gates(|gates| gates.admit(candidate, now)) {
            Admission::Go => Ok(true),
            Admission::Hold { reason, left } => {
                self.retry_in = Some(left);
                let opens = now.after(left).wall;
                match (case.state(), reason) {
                    // A person was called already, and for a better reason than that it is not tried again yet.
                    (IncidentState::Escalated, _) => {}
                    (_, DeferReason::Budget) => {
                        let target = for_shell(&settings.target);
                        let words = format!(
                            "its budget of heals is used up ([gates] heals): they do not last, so see what damages it. guardiand \
                             tries again by itself at {opens:.0}; `guardiand heal {target}` tries at once"
                        );
                        emit_deferred(case, reason, &words);
                        case.escalate(self.cx, words).await?;
                    }
                    _ => {
                        let words = format!("{} holds the next attempt back until {opens:.0}", reason.name());
                        defer(self.cx, case, reason, words).await?;
                    }
                }
                Ok(false)
            }
            Admission::GiveUp { times, within } => {
                case.planned(self.cx, plan).await?;
                if case.state() != IncidentState::Escalated {
                    emit_deferred(case, DeferReason::Repeat, "the heal does not last");
                }
                let words = format!(
                    "repeat: {} was healed {times} times within {} s and came back, so the heal does not last and is not tried \
                     again; find what breaks it, then run `guardiand resume {target}`, or `guardiand heal {target}` to heal once more",
                    case.incident().kind,
                    within.as_secs(),
                    target = for_shell(&settings.target)
                );
                case.escalate(self.cx, words).await?;
                Ok(false)
            }
        }
    }

    async fn heal(&mut self, plan: Plan) -> Result<Then, JournalError> {
        let Some(case) = self.case.as_mut() else { return Ok(Then::Done) };
        case.planned_for.extend(self.check.verdict.findings().first().map(|finding| finding.kind.clone()));
        self.harmless_so_far = true;
        let Plan { playbooks, approval } = plan;
        case.tell(self.cx, Entry::Planned { playbooks: playbooks.clone(), approval }).await?;
        let planned_for = self.check.verdict.findings().first().map(|finding| finding.kind.clone());
        let mut tried = Vec::new();
        case.held = false;
        // The rung whose program is stopped still, for the next one.
        let mut unfinished = None;
        for (index, playbook) in playbooks.iter().enumerate() {
            // What the last rung did not do somebody else may have done: a lossier one needs a look of its own.
            if index > 0 {
                self.check = self.cx.look(self.target, Look::Confirm).await;
                if self.check.verdict == Verdict::Healthy {
                    self.check = prove(self.cx, self.target).await;
                }
                let found = self.check.verdict.findings().first().map(|finding| &finding.kind);
                match self.check.verdict {
                    Verdict::Unhealthy(_)
                        if found != planned_for.as_ref()
                            && playbook.risk() > Risk::Lossless
                            && self.planned_anew < PLANNED_ANEW_MAX =>
                    {
                        self.planned_anew += 1;
                        self.nothing_done = true;
                        let _told_by_its_step = end_of(self.cx, self.target, case, &mut unfinished).await?;
                        case.tell(self.cx, Entry::Interrupted).await?;
                        return Ok(Then::Again);
                    }
                    Verdict::Unhealthy(_) => {}
                    Verdict::Healthy => {
                        if let Err(late) = end_of(self.cx, self.target, case, &mut unfinished).await? {
                            case.held = true;
                            case.escalate(self.cx, format!("it is healthy, but {late}")).await?;
                            return Ok(Then::Done);
                        }
                        recovered(self.cx, case).await?;
                        return Ok(Then::Done);
                    }
                    Verdict::Unknown(_) => break,
                }
            }
            self.harmless_so_far &= playbook.risk() <= Risk::Lossless;
            let next = playbooks.get(index + 1);
            // From here on it is this rung's to end what the last one left.
            unfinished = None;
            match run_playbook(self.cx, self.target, case, (index, playbook), next).await? {
                Ended::Proved(check) => {
                    self.check = check;
                    case.close(self.cx, Resolution::Healed).await?;
                    return Ok(Then::Done);
                }
                Ended::Left(check) => {
                    self.check = check;
                    return Ok(Then::Left);
                }
                Ended::Outdated(why) if self.planned_anew < PLANNED_ANEW_MAX => {
                    self.planned_anew += 1;
                    self.nothing_done = playbook.risk() > Risk::Lossless;
                    tracing::info!(incident = %case.id(), why, "planned anew");
                    case.tell(self.cx, Entry::Interrupted).await?;
                    if self.look_again().await {
                        return Ok(Then::Again);
                    }
                    self.end_if_healthy().await?;
                    return Ok(Then::Done);
                }
                Ended::NotHealed(why) => {
                    tried.push(why);
                    unfinished = next.filter(|next| finishes(next, playbook)).map(|_| (index, playbook));
                }
                Ended::Held(why) | Ended::Outdated(why) => {
                    tried.push(why);
                    case.held = true;
                    break;
                }
                Ended::Stands(check, why) => {
                    self.check = check;
                    case.held = true;
                    tried.push(why);
                    let reason = format!("{}{}", tried.join("; "), kept(case));
                    case.escalate(self.cx, reason).await?;
                    return Ok(Then::Done);
                }
                Ended::Parked => return Ok(Then::Done),
            }
        }
        if let Err(late) = end_of(self.cx, self.target, case, &mut unfinished).await? {
            tried.push(late);
        }
        let seen = describe(&self.check.verdict);
        let (tried, kept) = (tried.join("; "), kept(case));
        let reason = match case.story().replaced {
            true => format!("{tried}; the detector says {seen}{kept}"),
            false => format!("nothing that was tried healed it ({tried}); it is still {seen}{kept}"),
        };
        case.escalate(self.cx, reason).await?;
        Ok(Then::Done)
    }

    /// Nothing is healed, and what failed is an incident all the same: in memory, until it can be written down. `known`: so it
    /// was at the last visit, and is not said again.
    async fn held_by_journal(&mut self, error: &JournalError, known: bool) {
        self.retry_in = Some(UNSURE_RETRY);
        let settings = self.target.settings();
        if !known {
            let (target, mode) = (settings.target.as_str(), settings.mode);
            tracing::error!(target, mode, %error, "no heal without a durable intent: guardiand goes on once it can write");
        }
        // What is held anyway calls nobody: one person for what a thousand have in common, and none for a pause.
        let is_held = self.cx.with_gates(|gates| gates.hold(&settings.target, self.target.ground()).is_some());
        let (check, opened, fault) = (&self.check, self.opened, self.target.fault_time());
        let case = self.case.get_or_insert_with(|| Case::in_memory(Case::draft(check, opened, fault), opened));
        if case.is_open() {
            if !known {
                emit_deferred(case, DeferReason::Journal, &error.to_string());
            }
            case.cannot_write(self.cx, error, !is_held || self.mandate == Mandate::Operator).await;
        }
    }
}

/// Where the files are as they were.
fn kept(case: &Case) -> String {
    let folder = case.incident().evidence.as_ref();
    folder.map(|folder| format!("; the files as they were are in {folder}")).unwrap_or_default()
}

async fn defer(cx: &Context, case: &mut Case, reason: DeferReason, words: String) -> Result<(), JournalError> {
    // Said once for each reason, not at every look; the seconds in it change.
    let known =
        case.incident().reason.as_deref().is_some_and(|known| known.starts_with(reason.name()) || *known == words);
    if !known {
        emit_deferred(case, reason, &words);
        case.tell(cx, Entry::Deferred { reason: words }).await?;
    }
    Ok(())
}

fn emit_deferred(case: &Case, reason: DeferReason, detail: &str) {
    let incident = case.incident();
    HealDeferred { incident: &incident.id, target: &incident.target, mode: &incident.mode, reason, detail }.emit();
}

/// Ends a rung that was left to a next one, which is not taken now. `Err` says what of that failed.
async fn end_of(
    cx: &Context,
    target: &mut dyn Supervised,
    case: &mut Case,
    unfinished: &mut Option<(usize, &Playbook)>,
) -> Result<Result<(), String>, JournalError> {
    match unfinished.take() {
        Some((index, playbook)) => finish(cx, target, case, index, playbook, Phase::Apply).await,
        None => Ok(Ok(())),
    }
}
