//! What a person asks of a running supervisor.

use std::path::Path;

use tokio::sync::oneshot;

use crate::model::{Check, Incident, Verdict};
use crate::modes::{Answer, Supervised};

use super::attend::Mandate;
use super::inbox::SlotId;
use super::slot::Slot;
use super::sweep::{Supervisor, no_answer};
use super::{
    Attended, Case, Command, HealAnswer, Message, RollbackAnswer, RollbackAsk, attend, check_on_demand, heal_on_demand,
    rollback_on_demand,
};

/// What a name that nobody has is answered.
pub(super) fn no_target(name: &str) -> String {
    format!("there is no target named `{name}`: `guardiand status` lists them")
}

/// A target that left its slot, with its open incident.
type Borrowed = (SlotId, Box<dyn Supervised>, Option<Case>);

impl Supervisor {
    pub(super) fn obey(&mut self, command: Command) {
        let wanted = match &command {
            Command::Heal { target, .. } | Command::Backup { target, .. } => Some(target.as_str()),
            Command::Rollback { of, .. } => Some(of.target.as_str()),
            _ => None,
        };
        // It is attended at this moment: what a person wants comes next, after a look at what became of that.
        let is_wanted = |slot: &Slot| {
            wanted.is_some_and(|name| slot.name == name || slot.watches.iter().any(|path| path == Path::new(name)))
        };
        let away = self.slots.values_mut().find(|slot| slot.target.is_none() && !slot.gone && is_wanted(slot));
        if let Some(slot) = away {
            return slot.asked_meanwhile.push(command);
        }
        match command {
            Command::Heal { target, dry_run, reply } => self.heal_now(&target, dry_run, reply),
            Command::Check { target, reply } => self.check_now(&target, reply),
            Command::Who { target, reply } => self.who_now(&target, reply),
            Command::Backup { target, reply } => self.backup_now(&target, reply),
            Command::Rollback { ask, of, reply } => self.rollback_now(ask, of, reply),
            Command::Approve { incident, by, reply } => self.approve(incident, by, reply),
            Command::Pause { name, span, by, reply } => self.pause(name.as_deref(), span, by, reply),
            Command::Resume { name, by, reply } => self.resume(name, by, reply),
            Command::Reconfigure { plant, gates } => self.reconfigure(plant, gates),
        }
    }

    pub(super) fn find(&self, name: &str) -> Result<SlotId, String> {
        // A path means the target whose file it is.
        let watches = |slot: &Slot| {
            slot.target
                .as_ref()
                .is_some_and(|target| target.settings().watches.iter().any(|path| path == Path::new(name)))
        };
        let named = self.slots.iter().find(|(_, slot)| slot.name == name);
        let found = named.or_else(|| self.slots.iter().find(|(_, slot)| watches(slot)));
        let (id, slot) = found.ok_or_else(|| self.is_the_cause(name).unwrap_or_else(|| no_target(name)))?;
        match slot.target {
            Some(_) => Ok(*id),
            None => Err(format!("`{name}` is being attended to right now; see its incident")),
        }
    }

    pub(super) fn heal_now(&mut self, name: &str, dry_run: bool, reply: oneshot::Sender<Result<HealAnswer, String>>) {
        let (id, target, case) = match self.borrow(name) {
            Ok(borrowed) => borrowed,
            Err(error) => return drop(reply.send(Err(error))),
        };
        let (cx, outbox) = (self.cx.clone(), self.outbox.clone());
        tokio::spawn(async move {
            let (answer, attended) = heal_on_demand(&cx, target, case, dry_run).await;
            let _ = reply.send(Ok(answer));
            let _ = outbox.send(Message::Attended(id, Box::new(attended)));
        });
    }

    pub(super) fn check_now(&mut self, name: &str, reply: oneshot::Sender<Result<Check, String>>) {
        let (id, target, case) = match self.borrow(name) {
            Ok(borrowed) => borrowed,
            Err(error) => return drop(reply.send(Err(error))),
        };
        let (cx, outbox) = (self.cx.clone(), self.outbox.clone());
        tokio::spawn(async move {
            let opened = cx.now();
            let mut attended = check_on_demand(&cx, target, case).await;
            let _ = reply.send(Ok(attended.check.clone()));
            if matches!(attended.check.verdict, Verdict::Unhealthy(_)) {
                // It looked closer than a sweep does: the next sweep may not see it.
                let Attended { target, case, check, .. } = attended;
                attended = attend(&cx, target, case, check, opened, Mandate::Own).await;
            }
            let _ = outbox.send(Message::Attended(id, Box::new(attended)));
        });
    }

    fn rollback_now(
        &mut self,
        ask: RollbackAsk,
        of: Box<Incident>,
        reply: oneshot::Sender<Result<RollbackAnswer, String>>,
    ) {
        let (id, target, case) = match self.borrow(&of.target) {
            Ok(borrowed) => borrowed,
            Err(error) => return drop(reply.send(Err(error))),
        };
        let (cx, outbox) = (self.cx.clone(), self.outbox.clone());
        tokio::spawn(async move {
            let (answer, attended) = rollback_on_demand(&cx, target, case, &of, &ask).await;
            let _ = reply.send(Ok(answer));
            let _ = outbox.send(Message::Attended(id, Box::new(attended)));
        });
    }

    /// Takes a target out of its slot for somebody who asked for it by name.
    pub(super) fn borrow(&mut self, name: &str) -> Result<Borrowed, String> {
        let id = self.find(name)?;
        let slot = self.slots.get_mut(&id).ok_or("it is gone")?;
        let target = slot.target.take().ok_or("it is being attended to")?;
        slot.give_up_errand();
        Ok((id, target, slot.case.take().filter(Case::is_open)))
    }

    /// Who uses a target, once an errand has seen it. One that has no such errand has no users to see.
    pub(super) fn who_now(&mut self, name: &str, reply: oneshot::Sender<Result<(), String>>) {
        let now = self.cx.now();
        let id = match self.find(name) {
            Ok(id) => id,
            Err(error) => return drop(reply.send(Err(error))),
        };
        // A check or a backup under way is not given up for a question.
        let slot = self.slots.get_mut(&id).filter(|slot| slot.errand.is_none());
        let Some(errand) = slot.and_then(|slot| slot.target.as_mut()?.errand_now("who", now)) else {
            return drop(reply.send(Ok(())));
        };
        let (inner, answer) = oneshot::channel();
        self.run_errand(id, errand, Some(inner));
        tokio::spawn(async move {
            let seen = answer.await.unwrap_or_else(|_| Err(no_answer()));
            let _ = reply.send(seen.map(drop).map_err(|failure| failure.message));
        });
    }

    pub(super) fn backup_now(&mut self, name: &str, reply: oneshot::Sender<Result<Answer, String>>) {
        let now = self.cx.now();
        let id = match self.find(name) {
            Ok(id) => id,
            Err(error) => return drop(reply.send(Err(error))),
        };
        let errand = self.slots.get_mut(&id).and_then(|slot| slot.target.as_mut()?.errand_now("backup", now));
        let Some(errand) = errand else {
            return drop(reply.send(Err(format!("`{name}` has no `backup` table in the configuration"))));
        };
        let (inner, answer) = oneshot::channel();
        self.run_errand(id, errand, Some(inner));
        tokio::spawn(async move {
            let answer = answer.await.unwrap_or_else(|_| Err(no_answer()));
            let _ = reply.send(Ok(answer));
        });
    }
}
