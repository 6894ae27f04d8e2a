//! The loop: what is due is looked at in one child, what is unhealthy is attended in a task of its own.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use crate::clock::Moment;
use crate::job::{FailureKind, JobFailure};
use crate::journal::{LeftOpen, Remembered};
use crate::model::{Check, Verdict};
use crate::modes::{Answer, Discovery, Errand, Look, Supervised};
use crate::telemetry::{CheckDone, forget_target, register_target};

use super::attend::{Mandate, close_if_proven};
use super::inbox::SlotId;
use super::schedule::Due;
use super::slot::Slot;
use super::status::StatusBoard;
use super::{
    Attended, Case, Command, Context, GatesConfig, HealAnswer, Message, attend, check_on_demand, heal_on_demand, resume,
};

/// Globs are listed again at least this often; events make it sooner.
const LISTING_INTERVAL: Duration = Duration::from_secs(30);
/// Events of a folder full of globbed files are gathered for this long before it is listed again.
const LISTING_PAUSE: Duration = Duration::from_millis(50);
/// Listing is a walk over folders.
const LISTING_PATIENCE: Duration = Duration::from_secs(30);
/// Nothing is due: look at the clock again after this all the same.
const IDLE: Duration = Duration::from_secs(3600);

/// A target that left its slot, with its open incident.
type Borrowed = (SlotId, Box<dyn Supervised>, Option<Case>);

/// Everything that shall be supervised.
#[derive(Default)]
pub struct Plant {
    /// Targets that are named one by one.
    pub targets: Vec<Box<dyn Supervised>>,
    /// Globs.
    pub discoveries: Vec<Box<dyn Discovery>>,
}

struct Listing {
    discovery: Box<dyn Discovery>,
    due: Moment,
    under_way: bool,
}

/// The supervisor: one loop over one inbox.
pub struct Supervisor {
    cx: Context,
    inbox: mpsc::UnboundedReceiver<Message>,
    outbox: mpsc::UnboundedSender<Message>,
    slots: BTreeMap<SlotId, Slot>,
    listings: Vec<Listing>,
    next_id: SlotId,
    remembered: HashMap<(String, String), serde_json::Value>,
    left_open: Vec<LeftOpen>,
    unsaved: Vec<Remembered>,
    watched: HashMap<PathBuf, Vec<SlotId>>,
    watches: watch::Sender<BTreeSet<PathBuf>>,
    board: Arc<RwLock<StatusBoard>>,
    seed: RandomState,
    beat: Beat,
    swept: bool,
}

/// What the loop does each time it comes round; told whether a sweep has ended since.
struct Beat {
    every: Duration,
    tell: Box<dyn FnMut(bool) + Send>,
}

impl Supervisor {
    /// A supervisor of nothing yet. `inbox`'s sender is for events and commands; `watches` tells which paths to watch.
    pub fn new(
        cx: Context,
        (outbox, inbox): (mpsc::UnboundedSender<Message>, mpsc::UnboundedReceiver<Message>),
        watches: watch::Sender<BTreeSet<PathBuf>>,
        board: Arc<RwLock<StatusBoard>>,
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
            watches,
            board,
            seed: RandomState::new(),
            beat: Beat { every: IDLE, tell: Box::new(|_| {}) },
            swept: false,
        }
    }

    /// Calls `tell` each time the loop comes round, at least `every` so often; with true when a sweep has ended since.
    pub fn on_beat(&mut self, every: Duration, tell: impl FnMut(bool) + Send + 'static) {
        self.beat = Beat { every, tell: Box::new(tell) };
    }

    /// What earlier processes remembered and left open. Before [`Supervisor::plant`].
    pub fn recall(&mut self, remembered: Vec<Remembered>, left_open: Vec<LeftOpen>) {
        self.remembered = remembered.into_iter().map(|memory| ((memory.target, memory.mode), memory.memory)).collect();
        self.left_open = left_open;
    }

    /// Takes targets and globs under supervision; interrupted heals are resumed before anything else touches them.
    pub fn plant(&mut self, plant: Plant) {
        let of = plant.targets.len();
        for (index, target) in plant.targets.into_iter().enumerate() {
            self.add(target, None, index, of);
        }
        let now = self.cx.now();
        self.listings =
            plant.discoveries.into_iter().map(|discovery| Listing { discovery, due: now, under_way: false }).collect();
        self.publish_watches();
    }

    /// Incidents that were left open and whose targets are no longer configured.
    pub fn orphans(&self) -> &[LeftOpen] {
        &self.left_open
    }

    /// Runs until `stopping` is true and everything under way is parked.
    pub async fn run(mut self) {
        let mut stopping = self.cx.stopping.clone();
        loop {
            self.list();
            self.sweep();
            (self.beat.tell)(std::mem::take(&mut self.swept));
            let next = self.next_due().min(self.beat.every);
            let clock = self.cx.clock.clone();
            tokio::select! {
                message = self.inbox.recv() => match message {
                    Some(message) => self.take(message),
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
        for slot in self.slots.values_mut() {
            if let Some(errand) = slot.errand.take() {
                errand.abort();
            }
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

    fn next_due(&self) -> Duration {
        let now = self.cx.now();
        let slots = self.slots.values().filter(|slot| slot.target.is_some() && !slot.looking).map(|slot| slot.due.at());
        let listings = self.listings.iter().filter(|listing| !listing.under_way).map(|listing| listing.due);
        slots.chain(listings).map(|at| at.since(now)).min().unwrap_or(IDLE).min(IDLE)
    }

    /// Looks at all that is due, in one child.
    fn sweep(&mut self) {
        let now = self.cx.now();
        let idle = |slot: &Slot| slot.target.is_some() && !slot.looking;
        if !self.slots.values().any(|slot| idle(slot) && slot.due.at().boot_ms <= now.boot_ms) {
            return;
        }
        let mut batch = Vec::new();
        for (id, slot) in self.slots.iter_mut().filter(|(_, slot)| idle(slot) && slot.due.is_due(now)) {
            if let Some(target) = &slot.target {
                batch.push((*id, target.ask(Look::Sweep, now), target.patience(Look::Sweep)));
                slot.looking = true;
                slot.changed_meanwhile = false;
            }
        }
        let mut answers = self.cx.jobs.probe_batch(batch);
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
            Message::Changed(path) => self.changed(&path),
            Message::ChangedEverything => {
                let now = self.cx.now();
                self.slots.values_mut().for_each(|slot| slot.due.now(now));
                self.listings.iter_mut().for_each(|listing| listing.due = now);
            }
            Message::Looked(id, answer) => self.looked(id, &answer),
            Message::SweepDone => {
                self.swept = true;
                self.flush_later();
            }
            Message::Attended(id, attended) => {
                self.come_back(id, *attended);
                self.flush_later();
            }
            Message::ErrandDone(id, name, answer, reply) => self.errand_done(id, name, answer, reply),
            Message::Listed(index, answer) => self.listed(index, &answer),
            Message::Command(command) => self.obey(command),
        }
    }

    fn changed(&mut self, path: &Path) {
        let now = self.cx.now();
        // A watched folder itself: it came, went, or is watched from now on.
        let inside = self.watched.iter().filter(|(watched, _)| watched.parent() == Some(path)).flat_map(|(_, ids)| ids);
        let ids = self.watched.get(path).into_iter().flatten().chain(inside).copied().collect::<BTreeSet<_>>();
        for id in ids {
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.changed_meanwhile |= slot.looking || slot.target.is_none();
                slot.due.wake(now);
                slot.forget_pace();
            }
        }
        for listing in &mut self.listings {
            let below = |watch: &PathBuf| watch.parent() == path.parent() || watch.parent() == Some(path);
            if listing.discovery.watches().iter().any(below) {
                let soon = now.after(LISTING_PAUSE);
                listing.due = if soon.boot_ms < listing.due.boot_ms { soon } else { listing.due };
            }
        }
    }

    fn looked(&mut self, id: SlotId, answer: &Answer) {
        let now = self.cx.now();
        let Some(slot) = self.slots.get_mut(&id) else { return };
        slot.looking = false;
        let Some(target) = slot.target.as_mut() else { return };
        let check = target.judge(Look::Sweep, answer, now);
        slot.due.looked(now, target.look_again());
        if std::mem::take(&mut slot.changed_meanwhile) {
            slot.due.wake(now);
        }
        self.judged(id, &check, now);
    }

    /// What follows from a check, of a look or of an errand.
    fn judged(&mut self, id: SlotId, check: &Check, now: Moment) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        observe(&self.board, check);
        if let Some(target) = slot.target.as_mut()
            && let Some(memory) = target.memory()
        {
            self.unsaved.push(Remembered { target: slot.name.clone(), mode: slot.mode.to_owned(), memory });
        }
        match &check.verdict {
            Verdict::Unhealthy(_) if slot.wants_attention(now) => self.attend(id, check.clone()),
            Verdict::Healthy if slot.open_case().is_some() => self.close(id),
            Verdict::Healthy if slot.errand.is_none() => {
                if let Some(errand) = slot.target.as_mut().and_then(|target| target.errand(now)) {
                    self.run_errand(id, errand, None);
                }
            }
            Verdict::Healthy | Verdict::Unhealthy(_) | Verdict::Unknown(_) => {}
        }
        self.show(id);
    }

    fn attend(&mut self, id: SlotId, check: Check) {
        let now = self.cx.now();
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let Some(target) = slot.target.take() else { return };
        // Its child has the database open, which would look like a user of it.
        if let Some(errand) = slot.errand.take() {
            errand.abort();
        }
        let case = slot.case.take().filter(Case::is_open);
        let (cx, outbox) = (self.cx.clone(), self.outbox.clone());
        tokio::spawn(async move {
            let attended = attend(&cx, target, case, check, now, Mandate::Own).await;
            let _ = outbox.send(Message::Attended(id, Box::new(attended)));
        });
    }

    fn close(&mut self, id: SlotId) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let (Some(target), Some(case)) = (slot.target.take(), slot.case.take()) else { return };
        let (cx, outbox) = (self.cx.clone(), self.outbox.clone());
        tokio::spawn(async move {
            let attended = close_if_proven(&cx, target, case).await;
            let _ = outbox.send(Message::Attended(id, Box::new(attended)));
        });
    }

    fn come_back(&mut self, id: SlotId, attended: Attended) {
        let now = self.cx.now();
        let Attended { target, case, check, retry_in } = attended;
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if slot.gone {
            self.slots.remove(&id);
            return;
        }
        let interval = target.settings().interval;
        slot.case = case;
        slot.pace(now, retry_in, interval);
        slot.due.looked(now, retry_in.or(target.look_again()));
        if std::mem::take(&mut slot.changed_meanwhile) {
            slot.due.wake(now);
        }
        slot.target = Some(target);
        observe(&self.board, &check);
        self.swap_in_replacement(id);
        if let Some(slot) = self.slots.get_mut(&id)
            && let Some(memory) = slot.target.as_mut().and_then(|target| target.memory())
        {
            self.unsaved.push(Remembered { target: slot.name.clone(), mode: slot.mode.to_owned(), memory });
        }
        self.show(id);
    }

    fn run_errand(&mut self, id: SlotId, errand: Errand, reply: Option<oneshot::Sender<Answer>>) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let (jobs, outbox) = (self.cx.jobs.clone(), self.outbox.clone());
        let task = tokio::spawn(async move {
            let answer = jobs.run(errand.job, errand.deadline).await;
            let _ = outbox.send(Message::ErrandDone(id, errand.name, answer, reply));
        });
        slot.errand = Some(task.abort_handle());
    }

    fn errand_done(&mut self, id: SlotId, name: &'static str, answer: Answer, reply: Option<oneshot::Sender<Answer>>) {
        let now = self.cx.now();
        let Some(slot) = self.slots.get_mut(&id) else { return };
        slot.errand = None;
        let Some(target) = slot.target.as_mut() else { return };
        let result = target.errand_done(name, &answer, now);
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

    fn list(&mut self) {
        let now = self.cx.now();
        for (index, listing) in self.listings.iter_mut().enumerate() {
            if listing.under_way || listing.due.boot_ms > now.boot_ms {
                continue;
            }
            listing.under_way = true;
            let (jobs, outbox, job) = (self.cx.jobs.clone(), self.outbox.clone(), listing.discovery.ask());
            tokio::spawn(async move {
                let mut answers = jobs.probe_batch(vec![(0, job, LISTING_PATIENCE)]);
                let answer = answers.recv().await.map_or_else(|| Err(no_answer()), |(_, answer)| answer);
                let _ = outbox.send(Message::Listed(index, answer));
            });
        }
    }

    fn listed(&mut self, index: usize, answer: &Answer) {
        let now = self.cx.now();
        let Some(listing) = self.listings.get_mut(index) else { return };
        let first = listing.due == now;
        listing.under_way = false;
        listing.due = now.after(LISTING_INTERVAL);
        let name = listing.discovery.name().to_owned();
        match listing.discovery.targets(answer) {
            Ok(targets) if targets.is_empty() => {
                if !first && !self.slots.values().any(|slot| slot.origin.as_deref() == Some(&name)) {
                    tracing::warn!(glob = name, "no file matches yet");
                }
            }
            Ok(targets) => {
                let of = targets.len();
                for (index, target) in targets.into_iter().enumerate() {
                    self.add(target, Some(name.clone()), index, of);
                }
                self.publish_watches();
            }
            Err(error) => tracing::warn!(glob = name, error, "the files that match could not be listed"),
        }
    }

    fn add(&mut self, mut target: Box<dyn Supervised>, origin: Option<String>, index: usize, of: usize) {
        let (name, mode) = (target.settings().target.clone(), target.settings().mode);
        if let Some((id, slot)) = self.slots.iter_mut().find(|(_, slot)| slot.name == name && slot.mode == mode) {
            let id = *id;
            slot.origin = origin;
            slot.replacement = Some(target);
            self.swap_in_replacement(id);
            return;
        }
        let now = self.cx.now();
        let key = (name.clone(), mode.to_owned());
        if let Some(memory) = self.remembered.remove(&key) {
            target.remember(memory, now);
        }
        register_target(&name, mode);
        self.board.write().unwrap_or_else(PoisonError::into_inner).add(&name, mode);
        let due = Due::first(index, of, target.settings().interval, now, self.seed.hash_one(&key));
        let id = self.next_id;
        self.next_id += 1;
        self.slots.insert(id, Slot::new(target, origin, due));
        self.resume_left_open(id, &key);
    }

    fn resume_left_open(&mut self, id: SlotId, (name, mode): &(String, String)) {
        let of_target = |left: &LeftOpen| {
            let incident = &left.replayed.incident;
            incident.target == *name && incident.mode == *mode
        };
        let Some(at) = self.left_open.iter().position(of_target) else { return };
        let left = self.left_open.remove(at);
        let Some(target) = self.slots.get_mut(&id).and_then(|slot| slot.target.take()) else { return };
        let (cx, outbox) = (self.cx.clone(), self.outbox.clone());
        tokio::spawn(async move {
            let attended = resume(&cx, target, left).await;
            let _ = outbox.send(Message::Attended(id, Box::new(attended)));
        });
    }

    /// The configuration changed: the new target takes over what the old one remembers.
    fn swap_in_replacement(&mut self, id: SlotId) {
        let now = self.cx.now();
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if slot.target.is_none() || slot.looking {
            return;
        }
        let Some(mut target) = slot.replacement.take() else { return };
        if let Some(old) = &slot.target {
            target.remember(old.whole_memory(), now);
        }
        slot.due.reinterval(target.settings().interval);
        slot.due.now(now);
        slot.target = Some(target);
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Heal { target, dry_run, reply } => self.heal_now(&target, dry_run, reply),
            Command::Check { target, reply } => self.check_now(&target, reply),
            Command::Backup { target, reply } => self.backup_now(&target, reply),
            Command::Reconfigure { plant, gates } => self.reconfigure(plant, gates),
        }
    }

    fn find(&self, name: &str) -> Result<SlotId, String> {
        let found = self.slots.iter().find(|(_, slot)| slot.name == name);
        let (id, slot) = found.ok_or_else(|| format!("there is no target named `{name}`"))?;
        match slot.target {
            Some(_) => Ok(*id),
            None => Err(format!("`{name}` is being attended to right now; see its incident")),
        }
    }

    fn heal_now(&mut self, name: &str, dry_run: bool, reply: oneshot::Sender<Result<HealAnswer, String>>) {
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

    fn check_now(&mut self, name: &str, reply: oneshot::Sender<Result<Check, String>>) {
        let (id, target, case) = match self.borrow(name) {
            Ok(borrowed) => borrowed,
            Err(error) => return drop(reply.send(Err(error))),
        };
        let (cx, outbox) = (self.cx.clone(), self.outbox.clone());
        tokio::spawn(async move {
            let attended = check_on_demand(&cx, target, case).await;
            let _ = reply.send(Ok(attended.check.clone()));
            let _ = outbox.send(Message::Attended(id, Box::new(attended)));
        });
    }

    /// Takes a target out of its slot for somebody who asked for it by name.
    fn borrow(&mut self, name: &str) -> Result<Borrowed, String> {
        let id = self.find(name)?;
        let slot = self.slots.get_mut(&id).ok_or("it is gone")?;
        let target = slot.target.take().ok_or("it is being attended to")?;
        if let Some(errand) = slot.errand.take() {
            errand.abort();
        }
        Ok((id, target, slot.case.take().filter(Case::is_open)))
    }

    fn backup_now(&mut self, name: &str, reply: oneshot::Sender<Result<Answer, String>>) {
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

    fn reconfigure(&mut self, plant: Plant, gates: GatesConfig) {
        self.cx.with_gates(|known| known.reconfigure(gates));
        let globs = plant.discoveries.iter().map(|discovery| discovery.name().to_owned()).collect::<BTreeSet<_>>();
        let kept = plant.targets.iter().map(|target| target.settings().target.clone()).collect::<BTreeSet<_>>();
        let stays =
            |slot: &Slot| kept.contains(&slot.name) || slot.origin.as_ref().is_some_and(|glob| globs.contains(glob));
        let leaving = self.slots.iter().filter(|(_, slot)| !stays(slot)).map(|(id, _)| *id).collect::<Vec<_>>();
        for id in leaving {
            self.drop_slot(id);
        }
        self.plant(plant);
    }

    fn drop_slot(&mut self, id: SlotId) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        forget_target(&slot.name, slot.mode);
        self.board.write().unwrap_or_else(PoisonError::into_inner).remove(&slot.name);
        if let Some(errand) = slot.errand.take() {
            errand.abort();
        }
        match slot.target {
            Some(_) => drop(self.slots.remove(&id)),
            None => slot.gone = true,
        }
    }

    fn publish_watches(&mut self) {
        self.watched.clear();
        for (id, slot) in &self.slots {
            for path in slot.target.iter().flat_map(|target| target.settings().watches.iter()) {
                self.watched.entry(path.clone()).or_default().push(*id);
            }
        }
        let mut all = self.watched.keys().cloned().collect::<BTreeSet<_>>();
        all.extend(self.listings.iter().flat_map(|listing| listing.discovery.watches()));
        self.watches.send_replace(all);
    }

    fn show(&self, id: SlotId) {
        let Some(slot) = self.slots.get(&id) else { return };
        let mut board = self.board.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(case) = &slot.case {
            board.incident(case.incident());
        }
        if let Some(target) = &slot.target {
            board.measured(&slot.name, target.vitals());
        }
    }

    fn flush_later(&mut self) {
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

/// Takes a check into account, and says it.
fn observe(board: &RwLock<StatusBoard>, check: &Check) {
    let mut board = board.write().unwrap_or_else(PoisonError::into_inner);
    let changed = board.checked(check.clone());
    let consecutive_failures = board.target(&check.target).map_or(0, |target| target.consecutive_failures);
    drop(board);
    CheckDone { check, consecutive_failures, changed }.emit();
}

async fn save(journal: &crate::journal::Journal, batch: Vec<Remembered>) {
    if let Err(error) = journal.save_memory(batch).await {
        tracing::warn!(%error, "what is known of the targets could not be saved; it will be learnt again");
    }
}

fn no_answer() -> JobFailure {
    JobFailure { kind: FailureKind::Crashed, message: "the job was given up before it ended".to_owned() }
}
