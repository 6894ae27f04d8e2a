//! Targets that leave their slot to be attended, come back, and run errands.

use tokio::sync::oneshot;

use crate::clock::Moment;
use crate::model::{Check, Verdict};
use crate::modes::{Answer, Errand};

use super::attend::{Mandate, close_if_proven};
use super::inbox::SlotId;
use super::slot::Slot;
use super::sweep::{Supervisor, observe};
use super::{Attended, Case, Message, attend};

impl Supervisor {
    /// Attends to what `check` found wrong, first seen at `opened`.
    pub(super) fn attend(&mut self, id: SlotId, check: Check, opened: Moment) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let Some(target) = slot.target.take() else { return };
        // Its child has the database open, which would look like a user of it.
        slot.give_up_errand();
        let case = slot.case.take().filter(Case::is_open);
        let (cx, outbox) = (self.cx.clone(), self.outbox.clone());
        tokio::spawn(async move {
            let attended = attend(&cx, target, case, check, opened, Mandate::Own).await;
            let _ = outbox.send(Message::Attended(id, Box::new(attended)));
        });
    }

    pub(super) fn close(&mut self, id: SlotId) {
        let now = self.cx.now();
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let wants = slot.wants_attention(now);
        let (Some(target), Some(case)) = (slot.target.take(), slot.case.take()) else { return };
        let (cx, outbox) = (self.cx.clone(), self.outbox.clone());
        tokio::spawn(async move {
            let mut attended = close_if_proven(&cx, target, case).await;
            // What only a full check sees was seen by this one, and by no look before it.
            if wants && matches!(attended.check.verdict, Verdict::Unhealthy(_)) {
                let Attended { target, case, check, .. } = attended;
                attended = attend(&cx, target, case, check, now, Mandate::Own).await;
            }
            let _ = outbox.send(Message::Attended(id, Box::new(attended)));
        });
    }

    pub(super) fn come_back(&mut self, id: SlotId, attended: Attended) {
        let now = self.cx.now();
        let Attended { target, case, check, retry_in } = attended;
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if slot.gone {
            self.slots.remove(&id);
            return;
        }
        let interval = target.settings().interval;
        slot.case = case;
        let slot_is_open = slot.open_case().is_some();
        slot.pace(now, retry_in, interval);
        // While nothing may be done yet, it is looked at as often as ever.
        let again = target.look_again().filter(|_| slot_is_open);
        slot.due.attended(now, retry_in.into_iter().chain(again).min().or(target.look_again()));
        if let Some(urgency) = slot.changed_meanwhile.take() {
            slot.due.wake(now, urgency);
        }
        self.alarm.failing.saw(id, &check.verdict, target.seen_healthy(), target.ground(), now);
        slot.target = Some(target);
        let asked = std::mem::take(&mut slot.asked_meanwhile);
        observe(&self.cx, &check, slot_is_open && check.verdict == Verdict::Healthy);
        self.swap_in_replacement(id);
        self.unsaved.extend(self.slots.get_mut(&id).and_then(Slot::learnt));
        self.show(id);
        asked.into_iter().for_each(|command| self.obey(command));
    }

    pub(super) fn run_errand(&mut self, id: SlotId, errand: Errand, reply: Option<oneshot::Sender<Answer>>) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let (jobs, outbox) = (self.cx.jobs.clone(), self.outbox.clone());
        let lanes = self.cx.errands.clone();
        let task = tokio::spawn(async move {
            // Closed once guardiand shall stop: what has not begun by then does not.
            let lane = if errand.urgent { Ok(None) } else { lanes.acquire_owned().await.map(Some) };
            let Ok(_lane) = lane else { return };
            let answer = jobs.run(errand.job, errand.deadline).await;
            let _ = outbox.send(Message::ErrandDone(id, errand.name, answer, reply));
        });
        slot.errand = Some(task.abort_handle());
    }

    pub(super) fn errand_done(
        &mut self,
        id: SlotId,
        name: &'static str,
        answer: Answer,
        reply: Option<oneshot::Sender<Answer>>,
    ) {
        let now = self.cx.now();
        let Some(slot) = self.slots.get_mut(&id) else { return };
        slot.errand = None;
        let Some(target) = slot.target.as_mut() else { return };
        let result = target.errand_done(name, &answer, now);
        // A backup that was taken just before a stop is not taken again at the next start.
        self.unsaved.extend(slot.learnt());
        if let Some(reply) = reply {
            let _ = reply.send(answer);
        }
        if let Some(then) = result.then {
            self.run_errand(id, then, None);
        } else if let Some(check) = &result.check {
            self.judged(id, check, now);
        } else if let Some(next) = slot.target.as_mut().and_then(|target| target.errand(now)) {
            self.run_errand(id, next, None);
        }
        self.show(id);
        self.flush_later();
    }
}
