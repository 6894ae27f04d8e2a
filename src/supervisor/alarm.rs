//! The loop's side of the mass guard: before the first of many failures is attended, the others are looked at; too many at
//! once are held, and one incident is opened for what they have in common.

use std::time::Duration;

use crate::clock::Moment;
use crate::journal::LeftOpen;
use crate::model::{Check, Finding, Layer, Severity, Verdict};
use crate::telemetry::{DeferReason, HealDeferred};

use super::inbox::SlotId;
use super::mass::{Cause, Failing, GUARDIAN, MASS_FAILURE};
use super::policy::MassHold;
use super::slot::{Slot, Suspicion};
use super::sweep::Supervisor;
use super::{Case, Context, Message};

/// The others are waited for this long at most: a disk that hangs must not keep every other target from its heal.
const CENSUS_MAX: Duration = Duration::from_secs(1);
/// Of more targets than this, not all are looked at for each failure…
const CENSUS_TARGETS: usize = 256;
/// … but only when this has passed since they last were.
const CENSUS_GAP: Duration = Duration::from_secs(5);
/// Members of a cause that are named one by one.
const NAMED_MAX: usize = 10;
/// The mode that the cause's incident has: that of the targets, and the layer that noticed.
const MODE: &str = "database";
const LAYER: Layer = Layer::new("mass");

/// What is known of failures in common.
#[derive(Default)]
pub(super) struct Alarm {
    pub(super) failing: Failing,
    /// What is held now.
    cause: Option<Cause>,
    /// Its incident; while it is being opened there is none.
    case: Option<Case>,
    /// It is over before its incident was open.
    over: bool,
    opening: bool,
    /// A person explained it: not raised again before it is over.
    explained: bool,
    /// An earlier process raised it: whom it is about is known once everything was looked at.
    taken_over: bool,
    census: Option<Moment>,
    /// A cause shows, and no heal depends on it: those who fail a moment later shall be named, too.
    showing: Option<Moment>,
}

impl Supervisor {
    /// Attends to an unhealthy look, or looks at the others first: whether it fails alone decides what may be done.
    pub(super) fn suspect(&mut self, id: SlotId, check: Check, now: Moment) {
        let limits = self.cx.with_gates(|gates| gates.config()).mass;
        let alone = self.slots.len() < limits.min as usize;
        let settled = self.alarm.cause.is_some() || self.alarm.explained;
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let known = slot.open_case().is_some() || !slot.target.as_ref().is_some_and(|target| target.seen_healthy());
        if alone || settled || known {
            let since = slot.suspicion.take().map_or(now, |suspicion| suspicion.since);
            return self.attend(id, check, since);
        }
        let since = slot.suspicion.as_ref().map_or(now, |suspicion| suspicion.since);
        let first = slot.suspicion.replace(Suspicion { check, since }).is_none();
        let recent = self.alarm.census.is_some_and(|at| now.since(at) < CENSUS_GAP);
        if first && !(recent && self.slots.len() > CENSUS_TARGETS) {
            self.alarm.census = Some(now);
            for (id, slot) in self.slots.iter_mut().filter(|(_, slot)| slot.target.is_some() && !slot.looking) {
                if slot.suspicion.is_none() && !self.alarm.failing.looked_since(*id, since) {
                    slot.due.now(now);
                }
            }
        }
    }

    /// Raises or ends the alarm once all neighbours of what fails have been looked at, then attends to what fails.
    pub(super) fn review(&mut self) {
        let now = self.cx.now();
        let waiting = |slot: &Slot| slot.suspicion.as_ref().map(|suspicion| suspicion.since);
        let mut suspects = self.slots.iter().filter_map(|(id, slot)| Some((*id, waiting(slot)?))).collect::<Vec<_>>();
        if let Some(youngest) = suspects.iter().map(|(_, since)| *since).max_by_key(|since| since.boot_ms)
            && !self.is_census_complete(youngest)
        {
            suspects.retain(|(_, since)| now.since(*since) >= CENSUS_MAX);
            if suspects.is_empty() {
                return;
            }
        }
        if std::mem::take(&mut self.alarm.failing.news) || self.alarm.taken_over {
            self.judge_failures(now, !suspects.is_empty());
        }
        for (id, _) in suspects {
            let suspicion = self.slots.get_mut(&id).and_then(|slot| slot.suspicion.take());
            if let Some(Suspicion { check, since }) = suspicion {
                self.attend(id, check, since);
            }
        }
    }

    /// Everybody who can be looked at was, since the youngest of the failures was seen.
    fn is_census_complete(&self, youngest: Moment) -> bool {
        let limited = self.slots.len() > CENSUS_TARGETS;
        let since = if limited { self.alarm.census.unwrap_or(youngest) } else { youngest };
        let answers = |(id, slot): (&SlotId, &Slot)| {
            slot.suspicion.is_some() || slot.target.is_none() || self.alarm.failing.looked_since(*id, since)
        };
        self.alarm.cause.is_some() || self.slots.iter().all(answers)
    }

    /// When the longest wait for a census is over.
    pub(super) fn next_review(&self) -> Option<Moment> {
        let since = self.slots.values().filter_map(|slot| slot.suspicion.as_ref()).map(|suspicion| suspicion.since);
        since.min_by_key(|since| since.boot_ms).or(self.alarm.showing).map(|since| since.after(CENSUS_MAX))
    }

    /// `urgent`: a heal begins right after this, if nothing is found to hold it.
    fn judge_failures(&mut self, now: Moment, urgent: bool) {
        let limits = self.cx.with_gates(|gates| gates.config()).mass;
        let total = self.slots.len();
        if self.alarm.taken_over {
            if !self.looked_at_all {
                return;
            }
            self.alarm.taken_over = false;
            self.alarm.cause = Some(self.alarm.failing.everything(total));
        }
        if let Some(cause) = &mut self.alarm.cause {
            // Those that failed a little later are part of it.
            let more = self.alarm.failing.cause(limits, total, now).filter(|more| more.ground == cause.ground);
            cause.members.extend(more.into_iter().flat_map(|more| more.members));
            if !self.alarm.failing.lasts(cause, limits) {
                self.release("it is over: fewer fail than the limit", now);
            }
            return;
        }
        match self.alarm.failing.cause(limits, total, now) {
            None => (self.alarm.explained, self.alarm.showing) = (false, None),
            Some(_) if self.alarm.explained => {}
            Some(cause) => {
                let since = *self.alarm.showing.get_or_insert(now);
                match urgent || now.since(since) >= CENSUS_MAX {
                    true => self.raise(cause, now),
                    false => self.alarm.failing.news = true,
                }
            }
        }
    }

    fn raise(&mut self, cause: Cause, now: Moment) {
        let detail = self.describe(&cause);
        tracing::error!(detail, "so many targets failed at once that none is healed");
        let words = format!(
            "mass: {detail}; the cause is most likely elsewhere, so nothing is healed: see `guardiand incidents --target {GUARDIAN}`, \
             and run `guardiand resume --all` once it is explained"
        );
        self.cx.with_gates(|gates| gates.mass = Some(MassHold { ground: cause.ground.clone(), words: words.clone() }));
        (self.alarm.cause, self.alarm.showing, self.alarm.over) = (Some(cause), None, false);
        // One before it whose incident is still being opened serves for this one too.
        if !self.alarm.opening {
            self.alarm.opening = true;
            let (cx, outbox, check) = (self.cx.clone(), self.outbox.clone(), check_of(detail, now));
            tokio::spawn(async move {
                let case = open(&cx, &check, now, words).await;
                let _ = outbox.send(Message::CauseOpened(Box::new(case)));
            });
        }
    }

    /// The incident for the cause is open, if only in memory.
    pub(super) fn cause_opened(&mut self, case: Box<Case>) {
        self.alarm.opening = false;
        self.alarm.case = Some(*case);
        if std::mem::take(&mut self.alarm.over) {
            self.close_cause();
        }
    }

    /// Ends what is held for a common cause; `why` is for the log. True when something was held.
    pub(super) fn release(&mut self, why: &str, now: Moment) -> bool {
        let held = self.alarm.cause.take().is_some() | std::mem::take(&mut self.alarm.taken_over);
        if !held {
            return false;
        }
        tracing::warn!(why, "targets that failed at once are healed again, each by itself");
        self.cx.with_gates(|gates| gates.mass = None);
        match self.alarm.opening {
            true => self.alarm.over = true,
            false => self.close_cause(),
        }
        self.slots.values_mut().for_each(|slot| slot.recheck(now));
        true
    }

    /// A person explained it.
    pub(super) fn explained(&mut self, now: Moment) -> bool {
        let held = self.release("a person said so", now);
        self.alarm.explained |= held;
        held
    }

    /// What to do instead, where a person names what many have in common: it is no target, and has no plan.
    pub(super) fn is_the_cause(&self, target_or_incident: &str) -> Option<String> {
        let case = self.alarm.case.as_ref().filter(|case| case.is_open())?;
        (target_or_incident == GUARDIAN || target_or_incident == case.id().0).then(|| {
            format!(
                "incident {} is what many targets have in common, and there is nothing to heal in it: `guardiand resume --all` lets each of \
                 them be healed, `guardiand heal TARGET` heals one",
                case.id()
            )
        })
    }

    fn close_cause(&mut self) {
        let Some(mut case) = self.alarm.case.take() else { return };
        let cx = self.cx.clone();
        tokio::spawn(async move {
            if let Err(error) = super::attend::recovered(&cx, &mut case).await {
                tracing::error!(incident = %case.id(), %error, "the incident of what many failures had in common could not be closed");
            }
        });
    }

    /// An earlier process held everything, and died: so does this one, until all has been looked at.
    pub(super) fn take_over_cause(&mut self, left_open: &mut Vec<LeftOpen>) {
        let is_cause = |left: &LeftOpen| {
            let incident = &left.replayed.incident;
            incident.target == GUARDIAN && incident.kind == MASS_FAILURE
        };
        while let Some(at) = left_open.iter().position(is_cause) {
            let case = Case::carry_on(left_open.remove(at));
            let words = case.incident().reason.clone().unwrap_or_else(|| "mass: too many failed at once".to_owned());
            self.cx.with_gates(|gates| gates.mass = Some(MassHold { ground: None, words }));
            (self.alarm.case, self.alarm.taken_over) = (Some(case), true);
        }
    }

    fn describe(&self, cause: &Cause) -> String {
        let names = cause.members.iter().filter_map(|id| self.slots.get(id)).map(|slot| slot.name.as_str());
        let mut named = names.clone().take(NAMED_MAX).collect::<Vec<_>>().join(", ");
        if cause.members.len() > NAMED_MAX {
            named = format!("{named} and {} more", cause.members.len() - NAMED_MAX);
        }
        let what = match &cause.ground {
            None => format!("of {} targets", cause.of),
            Some(ground) => format!("of the {} targets on file system {ground}", cause.of),
        };
        format!("{} {what} failed at once: {named}", cause.members.len())
    }
}

fn check_of(detail: String, now: Moment) -> Check {
    let finding = Finding {
        kind: MASS_FAILURE,
        severity: Severity::Critical,
        layer: LAYER,
        detail,
        sqlite_code: None,
        at_stake: None,
        remediation:
            "look for what they have in common (a disk, a mount, a deployment); when it is put right they recover by \
                      themselves; `guardiand resume --all` heals each of them all the same"
                .to_owned(),
    };
    Check {
        target: GUARDIAN.to_owned(),
        mode: MODE,
        verdict: Verdict::Unhealthy(vec![finding]),
        checked_at: now.wall,
        duration_seconds: 0.0,
        layers: Vec::new(),
        in_use: None,
    }
}

async fn open(cx: &Context, check: &Check, now: Moment, words: String) -> Case {
    let mut case = Case::in_memory(Case::draft(check, now, None), now);
    let told = async {
        case.write_down(cx).await?;
        let incident = case.incident();
        let (incident, reason) = (&incident.id, DeferReason::Mass);
        HealDeferred { incident, target: GUARDIAN, mode: MODE, reason, detail: &words }.emit();
        case.escalate(cx, words).await
    };
    if let Err(error) = told.await {
        tracing::error!(%error, "the incident of what many failures have in common cannot be written down; nothing is healed all the same");
        case.cannot_write(cx, &error, true).await;
    }
    case
}
