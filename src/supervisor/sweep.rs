//! The loop: what is due is looked at in one child, what is unhealthy is attended in a task of its own.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::RandomState;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::clock::Moment;
use crate::job::{FailureKind, JobFailure, Probe};
use crate::journal::{LeftOpen, Remembered};
use crate::model::{Check, Verdict};
use crate::modes::{Answer, Discovery, Look, Supervised};
use crate::telemetry::CheckDone;

use super::alarm::Alarm;
use super::aside::Aside;
use super::inbox::SlotId;
use super::schedule::Urgency;
use super::slot::Slot;
use super::{Context, Message};

/// Events of a folder full of globbed files are gathered for this long before it is listed again…
const LISTING_PAUSE: Duration = Duration::from_millis(50);
/// … and it is listed no more often than this: side files come and go in it with every commit.
const LISTING_GAP: Duration = Duration::from_secs(1);
/// Nothing is due: look at the clock again after this all the same.
const IDLE: Duration = Duration::from_secs(3600);

/// Messages that are taken in one round of the loop at most: the watchdog is fed once a round.
const ROUND: usize = 256;
/// How long what is under way has to end by itself once guardiand shall stop; a heal has until its next durable point.
const GRACE: Duration = Duration::from_secs(5);
/// Between looks whether it has.
const BREATH: Duration = Duration::from_millis(20);

/// Everything that shall be supervised.
#[derive(Default)]
pub struct Plant {
    /// Targets that are named one by one.
    pub targets: Vec<Box<dyn Supervised>>,
    /// Globs.
    pub discoveries: Vec<Box<dyn Discovery>>,
}

pub(super) struct Listing {
    pub(super) discovery: Box<dyn Discovery>,
    pub(super) due: Moment,
    pub(super) under_way: bool,
    /// When it last was, since it is configured as it is.
    pub(super) listed: Option<Moment>,
}

/// The supervisor: one loop over one inbox.
pub struct Supervisor {
    pub(super) cx: Context,
    pub(super) inbox: mpsc::UnboundedReceiver<Message>,
    pub(super) outbox: mpsc::UnboundedSender<Message>,
    pub(super) slots: BTreeMap<SlotId, Slot>,
    pub(super) listings: Vec<Listing>,
    pub(super) next_id: SlotId,
    pub(super) remembered: HashMap<(String, String), serde_json::Value>,
    pub(super) left_open: Vec<LeftOpen>,
    pub(super) unsaved: Vec<Remembered>,
    pub(super) watched: HashMap<PathBuf, Vec<SlotId>>,
    /// The folders that the watched paths are in.
    pub(super) folders: HashMap<PathBuf, Vec<SlotId>>,
    pub(super) watches: watch::Sender<BTreeSet<PathBuf>>,
    pub(super) seed: RandomState,
    pub(super) aside: Aside,
    pub(super) beat: Beat,
    pub(super) swept: bool,
    /// Every target that there was at the start has been looked at.
    pub(super) looked_at_all: bool,
    pub(super) alarm: Alarm,
}

/// What the loop does each time it comes round; told whether a sweep has ended since.
pub(super) struct Beat {
    every: Duration,
    tell: Box<dyn FnMut(bool) + Send>,
}

impl Supervisor {
    /// A supervisor of nothing yet. `inbox`'s sender is for events and commands; `watches` tells which paths to watch.
    pub fn new(
        cx: Context,
        (outbox, inbox): (mpsc::UnboundedSender<Message>, mpsc::UnboundedReceiver<Message>),
        watches: watch::Sender<BTreeSet<PathBuf>>,
    ) -> Supervisor {
        Supervisor {
            cx,
            inbox,
            outbox,
            slots: BTreeMap::new(),
            listings: Vec::new(),
            next_id: 0,
            remembered: HashMap::new(),
            left_open: Vec::new(),
            unsaved: Vec::new(),
            watched: HashMap::new(),
            folders: HashMap::new(),
            watches,
            seed: RandomState::new(),
            aside: Aside::default(),
            beat: Beat { every: IDLE, tell: Box::new(|_| {}) },
            swept: false,
            looked_at_all: false,
            alarm: Alarm::default(),
        }
    }

    /// Calls `tell` each time the loop comes round, at least `every` so often; with true when a sweep has ended since.
    pub fn on_beat(&mut self, every: Duration, tell: impl FnMut(bool) + Send + 'static) {
        self.beat = Beat { every, tell: Box::new(tell) };
    }

    /// What earlier processes remembered and left open. Before [`Supervisor::plant`].
    pub fn recall(&mut self, remembered: Vec<Remembered>, left_open: Vec<LeftOpen>) {
        self.remembered = remembered.into_iter().map(|memory| ((memory.target, memory.mode), memory.memory)).collect();
        let mut left_open = left_open;
        self.take_over_cause(&mut left_open);
        self.left_open = left_open;
    }

    /// Runs until `stopping` is true and everything under way is parked.
    pub async fn run(mut self) {
        let mut stopping = self.cx.stopping.clone();
        loop {
            self.list();
            self.end_pauses();
            self.review();
            self.sweep();
            (self.beat.tell)(std::mem::take(&mut self.swept));
            let next = self.next_due().min(self.beat.every);
            let clock = self.cx.clock.clone();
            tokio::select! {
                message = self.inbox.recv() => match message {
                    Some(message) => {
                        self.take(message);
                        // What else is there already comes in the same round: a round goes over every target.
                        for _ in 1..ROUND {
                            let Ok(message) = self.inbox.try_recv() else { break };
                            self.take(message);
                        }
                    }
                    None => break,
                },
                () = clock.sleep(next) => {}
                _ = stopping.wait_for(|stop| *stop) => break,
            }
        }
        self.park().await;
    }

    /// Waits for what is under way to reach its next durable point.
    async fn park(&mut self) {
        self.let_end().await;
        for slot in self.slots.values_mut() {
            slot.give_up_errand();
        }
        while self.slots.values().any(|slot| slot.target.is_none()) {
            match self.inbox.recv().await {
                Some(Message::Attended(id, attended)) => self.come_back(id, *attended),
                Some(_) => {}
                None => break,
            }
        }
        self.flush().await;
    }

    /// Gives looks and errands the moment that most need to end by themselves: whoever is killed with a resting WAL database
    /// open leaves an empty `-wal` and a `-shm` beside it.
    async fn let_end(&mut self) {
        self.cx.errands.close();
        let until = self.cx.now().after(GRACE);
        let clock = self.cx.clock.clone();
        while self.slots.values().any(Slot::is_out) && self.cx.now().boot_ms < until.boot_ms {
            tokio::select! {
                message = self.inbox.recv() => match message {
                    Some(Message::Looked(id, _)) => {
                        if let Some(slot) = self.slots.get_mut(&id) {
                            slot.looking = false;
                        }
                    }
                    // What came of it is remembered; nothing follows from it any more.
                    Some(Message::ErrandDone(id, name, answer, reply)) => self.errand_done(id, name, answer, reply),
                    Some(Message::Attended(id, attended)) => self.come_back(id, *attended),
                    Some(_) => {}
                    None => return,
                },
                () = clock.sleep(BREATH) => {}
            }
        }
    }

    fn next_due(&self) -> Duration {
        let now = self.cx.now();
        let slots = self.slots.values().filter(|slot| slot.target.is_some() && !slot.looking).map(|slot| slot.due.at());
        let listings = self.listings.iter().filter(|listing| !listing.under_way).map(|listing| listing.due);
        let pauses = self.cx.with_gates(|gates| gates.pauses.next_end());
        slots
            .chain(listings)
            .chain(pauses)
            .chain(self.next_review())
            .map(|at| at.since(now))
            .min()
            .unwrap_or(IDLE)
            .min(IDLE)
    }

    /// Looks at all that is due, in one child.
    fn sweep(&mut self) {
        let now = self.cx.now();
        let idle = |slot: &Slot| slot.target.is_some() && !slot.looking;
        if !self.slots.values().any(|slot| idle(slot) && slot.due.at().boot_ms <= now.boot_ms) {
            return;
        }
        let mut batch = Vec::new();
        let mut due = self.slots.iter_mut().filter(|(_, slot)| idle(slot) && slot.due.is_due(now)).collect::<Vec<_>>();
        // Where a disk is tried again, another one tries than before: it may be that one alone which hangs.
        due.sort_by_key(|(_, slot)| slot.stuck);
        for (id, slot) in due {
            if let Some(target) = &slot.target {
                if let Some(until) = self.aside.holds(target.ground(), now) {
                    slot.due.not_before(until);
                    continue;
                }
                let (job, patience) = (target.ask(Look::Sweep, now), target.patience(Look::Sweep));
                batch.push(Probe { id: *id, job, patience, ground: target.ground().map(str::to_owned) });
                slot.looking = true;
                slot.changed_meanwhile = None;
            }
        }
        if batch.is_empty() {
            return;
        }
        let mut answers = self.cx.jobs.probe_grounds(batch);
        let outbox = self.outbox.clone();
        tokio::spawn(async move {
            while let Some((id, answer)) = answers.recv().await {
                let _ = outbox.send(Message::Looked(id, answer));
            }
            let _ = outbox.send(Message::SweepDone);
        });
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Changed { path, written } => self.changed(&path, written),
            Message::ChangedEverything => {
                let now = self.cx.now();
                self.slots.values_mut().for_each(|slot| slot.due.now(now));
                self.listings.iter_mut().for_each(|listing| listing.due = now);
            }
            Message::Looked(id, answer) => self.looked(id, &answer),
            Message::SweepDone => {
                self.swept = true;
                self.looked_at_all |= self.slots.keys().all(|id| self.alarm.failing.is_known(*id));
                self.flush_later();
            }
            Message::Attended(id, attended) => {
                self.come_back(id, *attended);
                self.flush_later();
            }
            Message::ErrandDone(id, name, answer, reply) => self.errand_done(id, name, answer, reply),
            Message::Listed(index, answer) => self.listed(index, &answer),
            Message::Command(command) => self.obey(command),
            Message::CauseOpened(case) => self.cause_opened(case),
        }
    }

    fn changed(&mut self, path: &Path, written: bool) {
        let now = self.cx.now();
        // A watched folder itself: it came, went, or is watched from now on.
        let inside = self.folders.get(path).into_iter().flatten();
        let ids = self.watched.get(path).into_iter().flatten().chain(inside).copied().collect::<BTreeSet<_>>();
        for id in ids {
            if let Some(slot) = self.slots.get_mut(&id) {
                // Side files come and go with every commit: only the main file's coming and going is news.
                let main =
                    slot.watches.first().is_none_or(|main| main == path) || !slot.watches.iter().any(|it| it == path);
                let urgency = match (main, written) {
                    (true, false) => Urgency::AtOnce,
                    (true, true) => Urgency::Soon,
                    (false, _) => Urgency::Eventually,
                };
                if slot.looking || slot.target.is_none() {
                    slot.changed_meanwhile = slot.changed_meanwhile.max(Some(urgency));
                }
                slot.due.wake(now, urgency);
                slot.forget_pace(now, !written);
            }
        }
        // Bytes written make no file match that did not.
        for listing in self.listings.iter_mut().filter(|_| !written) {
            let below = |watch: &PathBuf| watch.parent() == path.parent() || watch.parent() == Some(path);
            if listing.discovery.watches().iter().any(below) {
                let (soon, next) = (now.after(LISTING_PAUSE), listing.listed.map(|listed| listed.after(LISTING_GAP)));
                let soon = next.filter(|next| next.boot_ms > soon.boot_ms).unwrap_or(soon);
                listing.due = if soon.boot_ms < listing.due.boot_ms { soon } else { listing.due };
            }
        }
    }

    fn looked(&mut self, id: SlotId, answer: &Answer) {
        let now = self.cx.now();
        let Some(slot) = self.slots.get_mut(&id) else { return };
        slot.looking = false;
        let Some(target) = slot.target.as_mut() else { return };
        let stuck = matches!(answer, Err(failure) if failure.kind == FailureKind::Abandoned);
        // As it was asked: the first answer tells better what it stands on.
        let ground = target.ground().filter(|ground| stuck || self.aside.has(ground)).map(str::to_owned);
        let check = target.judge(Look::Sweep, answer, now);
        slot.stuck = stuck && ground.as_ref().is_none_or(|ground| self.aside.stuck(ground, now));
        // What was not begun for another one's sake says no more than that one.
        let ground = ground.filter(|_| !stuck || slot.stuck);
        let again = target.look_again();
        slot.due.looked(now, again.into_iter().chain(slot.retry_left(now)).min());
        if let Some(urgency) = slot.changed_meanwhile.take() {
            slot.due.wake(now, urgency);
        }
        self.judged(id, &check, now);
        self.put_aside(ground, answer, now);
    }

    /// What one target's answer says about the disk under others.
    fn put_aside(&mut self, ground: Option<String>, answer: &Answer, now: Moment) {
        let Some(ground) = ground else { return };
        let stuck = matches!(answer, Err(failure) if failure.kind == FailureKind::Abandoned);
        if !stuck && !self.aside.answered(&ground) {
            return;
        }
        let on_it = |slot: &Slot| slot.target.as_ref().and_then(|target| target.ground()) == Some(&ground);
        for (id, slot) in self.slots.iter_mut().filter(|(_, slot)| on_it(slot)) {
            match (stuck, &mut slot.target) {
                (true, Some(target)) => {
                    let check = target.judge(Look::Sweep, answer, now);
                    self.alarm.failing.saw(*id, &check.verdict, target.seen_healthy(), Some(&ground), now);
                    observe(&self.cx, &check, false);
                }
                _ => slot.due.now(now),
            }
        }
    }

    /// What follows from a check, of a look or of an errand.
    pub(super) fn judged(&mut self, id: SlotId, check: &Check, now: Moment) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        // A look that sees nothing ends no incident: only a full one does, and says so when it comes back.
        observe(&self.cx, check, slot.open_case().is_some() && check.verdict == Verdict::Healthy);
        if let Some(target) = &slot.target {
            self.alarm.failing.saw(id, &check.verdict, target.seen_healthy(), target.ground(), now);
        }
        if !matches!(check.verdict, Verdict::Unhealthy(_)) {
            slot.suspicion = None;
        }
        self.unsaved.extend(slot.learnt());
        if slot.target.as_mut().is_some_and(|target| target.turned()) {
            slot.recheck(now);
        }
        match &check.verdict {
            Verdict::Unhealthy(_) if slot.wants_attention(now) => self.suspect(id, check.clone(), now),
            Verdict::Healthy if slot.open_case().is_some() && slot.may_be_proven(now) => self.close(id),
            Verdict::Healthy if slot.open_case().is_some() => {}
            // What a target that is not healthy may still be asked for is its mode's to say.
            _ if slot.errand.is_none() => {
                if let Some(errand) = slot.target.as_mut().and_then(|target| target.errand(now)) {
                    self.run_errand(id, errand, None);
                }
            }
            _ => {}
        }
        self.show(id);
    }

    pub(super) fn show(&self, id: SlotId) {
        let Some(slot) = self.slots.get(&id) else { return };
        self.cx.with_board(|board| {
            if let Some(case) = &slot.case {
                board.incident(case.incident());
            }
            if let Some(target) = &slot.target {
                board.measured(&slot.name, target.vitals());
            }
        });
    }

    pub(super) fn flush_later(&mut self) {
        let batch = std::mem::take(&mut self.unsaved);
        if batch.is_empty() {
            return;
        }
        let journal = self.cx.journal.clone();
        tokio::spawn(async move { save(&journal, batch).await });
    }

    async fn flush(&mut self) {
        let batch = std::mem::take(&mut self.unsaved);
        save(&self.cx.journal, batch).await;
    }
}

/// Takes a check into account, and says it. `unproven`: it says healthy of a target whose incident is open.
pub(super) fn observe(cx: &Context, check: &Check, unproven: bool) {
    let (changed, consecutive_failures) = cx.with_board(|board| {
        let changed = board.checked(check.clone(), unproven);
        (changed, board.target(&check.target).map_or(0, |target| target.consecutive_failures))
    });
    CheckDone { check, consecutive_failures, changed, unproven }.emit();
}

async fn save(journal: &crate::journal::Journal, batch: Vec<Remembered>) {
    if let Err(error) = journal.save_memory(batch).await {
        tracing::warn!(%error, "what is known of the targets could not be saved; it will be learnt again");
    }
}

pub(super) fn no_answer() -> JobFailure {
    JobFailure { kind: FailureKind::Crashed, message: "the job was given up before it ended".to_owned() }
}
