//! A person's word on what may be healed: approve, pause, resume.

use std::time::Duration;

use tokio::sync::oneshot;

use crate::model::{IncidentId, IncidentState, for_shell};
use crate::telemetry::DeferReason;

use super::commands::no_target;
use super::forgiven::FORGIVEN;
use super::inbox::SlotId;
use super::pause::PAUSES;
use super::slot::Slot;
use super::status::StatusBoard;
use super::sweep::Supervisor;
use super::{Case, Command, Context, HealAnswer, Message, Pause, Resumed, approve_on_demand, lift_hold};

/// Why a word about one target does not let it go on.
const WITH_OTHERS: &str =
    "it is held together with others that failed at once: `guardiand resume --all` lets all of them be healed";

impl Slot {
    /// Too many failed at once, and it is one of those on their ground.
    fn is_held_with_others(&self, cx: &Context) -> bool {
        let ground = self.target.as_ref().and_then(|target| target.ground());
        cx.with_gates(|gates| matches!(gates.hold(&self.name, ground), Some((DeferReason::Mass, _))))
    }
}

impl Supervisor {
    pub(super) fn approve(
        &mut self,
        incident: IncidentId,
        by: u32,
        reply: oneshot::Sender<Result<HealAnswer, String>>,
    ) {
        let shown = |slot: &Slot| {
            let is_it = |board: &mut StatusBoard| {
                let open = board.target(&slot.name).and_then(|target| target.incident.as_ref());
                open.is_some_and(|open| open.id == incident)
            };
            self.cx.with_board(is_it)
        };
        let here = |slot: &Slot| slot.open_case().is_some_and(|case| *case.id() == incident);
        let found = self.slots.iter().find(|(_, slot)| here(slot) || slot.target.is_none() && shown(slot));
        let Some(id) = found.map(|(id, _)| *id) else {
            let why = self.is_the_cause(&incident.0).unwrap_or_else(|| format!("there is no open incident {incident}"));
            return drop(reply.send(Err(why)));
        };
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if slot.target.is_none() {
            // It is being looked at; what follows from that may need no yes any more.
            return slot.asked_meanwhile.push(Command::Approve { incident, by, reply });
        }
        match slot.case.take() {
            Some(case) if case.state() == IncidentState::AwaitingApproval => self.run_approved(id, case, by, reply),
            case => {
                let state = case.as_ref().map_or(IncidentState::Closed, Case::state).name();
                let next = match slot.is_held_with_others(&self.cx) {
                    true => format!("{WITH_OTHERS}; `guardiand heal {}` heals this one", for_shell(&slot.name)),
                    false => format!(
                        "see `guardiand incident {incident}`, or run `guardiand heal {}`",
                        for_shell(&slot.name)
                    ),
                };
                slot.case = case;
                drop(reply.send(Err(format!("incident {incident} is `{state}` and waits for no approval; {next}"))));
            }
        }
    }

    fn run_approved(&mut self, id: SlotId, case: Case, by: u32, reply: oneshot::Sender<Result<HealAnswer, String>>) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let Some(target) = slot.target.take() else { return };
        slot.give_up_errand();
        let (cx, outbox) = (self.cx.clone(), self.outbox.clone());
        tokio::spawn(async move {
            let (answer, attended) = approve_on_demand(&cx, target, case, by).await;
            let _ = reply.send(answer);
            let _ = outbox.send(Message::Attended(id, Box::new(attended)));
        });
    }

    pub(super) fn pause(
        &mut self,
        name: Option<&str>,
        span: Option<Duration>,
        by: u32,
        reply: oneshot::Sender<Result<Pause, String>>,
    ) {
        let now = self.cx.now();
        let name = match name.map(|name| self.known_as(name)).transpose() {
            Ok(name) => name,
            Err(error) => return drop(reply.send(Err(error))),
        };
        let pause = self.cx.with_gates(|gates| gates.pauses.pause(name.as_deref(), span, by, now).clone());
        self.show_pauses();
        self.keep_pauses(move |kept| {
            let _ = reply.send(kept.map(|()| pause).map_err(|error| {
                format!(
                    "it is paused, but only until the next restart, because that could not be made durable: {error}"
                )
            }));
        });
    }

    pub(super) fn resume(&mut self, name: Option<String>, by: u32, reply: oneshot::Sender<Result<Resumed, String>>) {
        let now = self.cx.now();
        let name = match name.map(|name| self.known_as(&name)).transpose() {
            Ok(name) => name,
            Err(error) => return drop(reply.send(Err(error))),
        };
        // It is being attended to: whether a rollback holds it is known when it is back.
        let is_away = |slot: &&mut Slot| Some(&slot.name) == name.as_ref() && slot.target.is_none() && !slot.gone;
        if let Some(slot) = self.slots.values_mut().find(is_away) {
            return slot.asked_meanwhile.push(Command::Resume { name, by, reply });
        }
        let was_paused = match self.cx.with_gates(|gates| gates.pauses.resume(name.as_deref())) {
            Ok(was_paused) => was_paused,
            Err(error) => return drop(reply.send(Err(error))),
        };
        let was_held = name.is_none() && self.explained(now);
        let was_refilled = self.cx.with_gates(|gates| gates.forgive(name.as_deref(), now.wall));
        let (mut targets, mut rolled_back, mut own, mut still_held) = (Vec::new(), Vec::new(), None, false);
        for (id, slot) in &mut self.slots {
            let named = |name: &String| slot.name == *name || slot.origin.as_ref() == Some(name);
            if name.as_ref().is_none_or(named) {
                slot.recheck(now);
                targets.push(slot.name.clone());
                still_held |= slot.is_held_with_others(&self.cx);
                // A word about one of them, not about many: nobody who lets all go on thinks of a heal that was taken back.
                match slot.open_case().is_some_and(|case| case.story().is_rolled_back()) {
                    true if name.as_ref() == Some(&slot.name) => own = Some(*id),
                    true => rolled_back.push(slot.name.clone()),
                    false => {}
                }
            }
        }
        let lifted = own.and_then(|id| self.lift(id, by));
        let resumed = Resumed {
            targets,
            was_paused,
            was_held,
            was_refilled,
            still_held,
            was_rolled_back: lifted.is_some(),
            rolled_back,
        };
        self.show_pauses();
        let (tell, kept) = oneshot::channel();
        self.keep_words(move |result| drop(tell.send(result)));
        tokio::spawn(async move {
            let kept = kept.await.unwrap_or_else(|_| Err("guardiand is stopping".to_owned()));
            let lifted = match lifted {
                Some(lifted) => lifted.await.unwrap_or_else(|_| Err("guardiand is stopping".to_owned())),
                None => Ok(()),
            };
            let kept = kept.map_err(|error| {
                format!(
                    "it goes on, but a restart would find it as it was before, because that could not be made durable: {error}"
                )
            });
            let lifted = lifted.map_err(|error| {
                format!("a heal of it was taken back, so it is left alone: that could not be lifted durably: {error}")
            });
            let _ = reply.send(kept.and(lifted).map(|()| resumed));
        });
    }

    /// Ends what a rollback holds; how that went comes later.
    fn lift(&mut self, id: SlotId, by: u32) -> Option<oneshot::Receiver<Result<(), String>>> {
        let slot = self.slots.get_mut(&id)?;
        let target = slot.target.take()?;
        let Some(case) = slot.case.take() else {
            slot.target = Some(target);
            return None;
        };
        slot.give_up_errand();
        let (cx, outbox) = (self.cx.clone(), self.outbox.clone());
        let (tell, lifted) = oneshot::channel();
        tokio::spawn(async move {
            let attended = lift_hold(&cx, target, case, by, tell).await;
            let _ = outbox.send(Message::Attended(id, Box::new(attended)));
        });
        Some(lifted)
    }

    /// The configured name of a target or a glob that a person means.
    fn known_as(&self, name: &str) -> Result<String, String> {
        let is_path =
            |slot: &Slot| slot.watches.first().is_some_and(|path| path.as_path() == std::path::Path::new(name));
        let glob = self.listings.iter().any(|listing| listing.discovery.name() == name);
        let found = self.slots.values().find(|slot| slot.name == name || is_path(slot));
        match found {
            Some(slot) => Ok(slot.name.clone()),
            None if glob => Ok(name.to_owned()),
            None => Err(self.is_the_cause(name).unwrap_or_else(|| no_target(name))),
        }
    }

    /// Pauses that are over by themselves: what they held is looked at again at once.
    pub(super) fn end_pauses(&mut self) {
        let now = self.cx.now();
        let of_slots = |supervisor: &Supervisor| {
            let paused = |slot: &Slot| supervisor.cx.with_gates(|gates| gates.pauses.of(&slot.name).is_some());
            supervisor.slots.iter().filter(|(_, slot)| paused(slot)).map(|(id, _)| *id).collect::<Vec<_>>()
        };
        if self.cx.with_gates(|gates| gates.pauses.next_end()).is_none_or(|end| end.boot_ms > now.boot_ms) {
            return;
        }
        let before = of_slots(self);
        self.cx.with_gates(|gates| gates.pauses.drop_ended(now));
        let still = of_slots(self);
        for id in before.into_iter().filter(|id| !still.contains(id)) {
            if let Some(slot) = self.slots.get_mut(&id) {
                tracing::info!(target = slot.name, "the pause is over");
                slot.recheck(now);
            }
        }
        self.show_pauses();
        self.keep_pauses(|_| {});
    }

    fn show_pauses(&self) {
        let names = self.slots.values().map(|slot| slot.name.as_str());
        names.for_each(|name| self.show_pause(name));
    }

    pub(super) fn show_pause(&self, name: &str) {
        let pause = self.cx.with_gates(|gates| gates.pauses.of(name).cloned());
        self.cx.with_board(|board| board.paused(name, pause));
    }

    /// Makes what is paused durable, in the order of the commands, and tells `done` how that went.
    fn keep_pauses(&self, done: impl FnOnce(Result<(), String>) + Send + 'static) {
        self.keep(vec![(PAUSES, self.cx.with_gates(|gates| gates.pauses.document()))], done);
    }

    /// The same, and whose earlier heals are forgiven.
    fn keep_words(&self, done: impl FnOnce(Result<(), String>) + Send + 'static) {
        let words =
            self.cx.with_gates(|gates| vec![(PAUSES, gates.pauses.document()), (FORGIVEN, gates.forgiven.document())]);
        self.keep(words, done);
    }

    fn keep(
        &self,
        documents: Vec<(&'static str, serde_json::Value)>,
        done: impl FnOnce(Result<(), String>) + Send + 'static,
    ) {
        let journal = self.cx.journal.clone();
        tokio::spawn(async move {
            let mut kept = Ok(());
            for (name, document) in documents {
                kept = kept.and(journal.keep(name, document).await.map_err(|error| error.to_string()));
            }
            if let Err(error) = &kept {
                tracing::error!(error, "what a person said could not be made durable");
            }
            done(kept);
        });
    }
}
