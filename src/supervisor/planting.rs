//! Targets that come and go: the configuration's, and what its globs match.

use std::collections::{BTreeSet, HashMap};
use std::hash::BuildHasher as _;
use std::path::PathBuf;
use std::time::Duration;

use crate::job::FailureKind;
use crate::journal::LeftOpen;
use crate::modes::{Answer, Discovery, Recalled, Supervised};
use crate::telemetry::{forget_target, register_target};

use super::inbox::SlotId;
use super::schedule::Due;
use super::slot::Slot;
use super::sweep::{Listing, Plant, Supervisor, no_answer};
use super::{GatesConfig, Message, resume};

/// Globs are listed again at least this often; events make it sooner.
const LISTING_INTERVAL: Duration = Duration::from_secs(30);
/// A folder that does not answer costs a child each time that could not be ended.
const STUCK_LISTING_INTERVAL: Duration = Duration::from_secs(300);
/// Listing is a walk over folders.
const LISTING_PATIENCE: Duration = Duration::from_secs(30);

/// The slots, to be found without going over all of them for each target that is added.
#[derive(Default)]
struct Known {
    names: HashMap<(String, &'static str), SlotId>,
    paths: HashMap<(PathBuf, &'static str), SlotId>,
}

impl Known {
    /// Takes note of what `slot` supervises; the one that came first has the path.
    fn see(&mut self, id: SlotId, slot: &Slot) {
        if let Some(path) = slot.path.clone().filter(|_| !slot.gone) {
            self.paths.entry((path, slot.mode)).or_insert(id);
        }
    }
}

impl Supervisor {
    /// Takes targets and globs under supervision; interrupted heals are resumed before anything else touches them.
    pub fn plant(&mut self, mut plant: Plant) {
        let (of, mut known) = (plant.targets.len(), self.known());
        for (index, target) in plant.targets.into_iter().enumerate() {
            self.add(target, &mut known, None, (index, of));
        }
        for discovery in &mut plant.discoveries {
            let name = discovery.name().to_owned();
            let matches = self.recalled(discovery.as_mut());
            let of = matches.len();
            for (index, target) in matches.into_iter().enumerate() {
                self.add(target, &mut known, Some(name.clone()), (index, of));
            }
        }
        let now = self.cx.now();
        self.listings = plant
            .discoveries
            .into_iter()
            .map(|discovery| Listing { discovery, due: now, under_way: false, listed: None })
            .collect();
        self.publish_watches();
        self.say_orphans();
    }

    /// What a glob has matched before: by what earlier processes remembered, and by the targets that are there.
    fn recalled(&self, discovery: &mut dyn Discovery) -> Vec<Box<dyn Supervised>> {
        let its = |slot: &&Slot| slot.origin.as_deref() == Some(discovery.name());
        let running = self.slots.values().filter(its);
        let running = running.filter_map(|slot| Some((slot, slot.target.as_ref()?.whole_memory()))).collect::<Vec<_>>();
        let open = self.left_open.iter().map(|left| &left.replayed.incident);
        let open = open.map(|incident| (incident.target.as_str(), incident.mode.as_str())).collect::<BTreeSet<_>>();
        let mut all = Vec::new();
        for ((target, mode), memory) in &self.remembered {
            let left_open = open.contains(&(target.as_str(), mode.as_str()));
            all.push(Recalled { target, mode, memory, left_open });
        }
        for (slot, memory) in &running {
            let left_open = slot.open_case().is_some();
            all.push(Recalled { target: &slot.name, mode: slot.mode, memory, left_open });
        }
        discovery.recall(&all)
    }

    /// Says of which incidents that were left open there is no target any more; once every glob was listed.
    fn say_orphans(&self) {
        if self.listings.iter().any(|listing| listing.listed.is_none()) {
            return;
        }
        for orphan in &self.left_open {
            let incident = &orphan.replayed.incident;
            tracing::warn!(incident = %incident.id, target = incident.target, "an open incident's target is no longer configured; its files are kept");
        }
    }

    pub(super) fn list(&mut self) {
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

    pub(super) fn listed(&mut self, index: usize, answer: &Answer) {
        let now = self.cx.now();
        let Some(listing) = self.listings.get_mut(index) else { return };
        let first = listing.due == now;
        listing.under_way = false;
        let stuck = matches!(answer, Err(failure) if failure.kind == FailureKind::Abandoned);
        listing.due = now.after(if stuck { STUCK_LISTING_INTERVAL } else { LISTING_INTERVAL });
        let anew = listing.listed.replace(now).is_none();
        let name = listing.discovery.name().to_owned();
        match listing.discovery.targets(answer) {
            Ok(targets) if targets.is_empty() => {
                if !first && !self.slots.values().any(|slot| slot.origin.as_deref() == Some(&name)) {
                    tracing::warn!(glob = name, "no file matches yet");
                }
            }
            Ok(mut news) => {
                let mut known = self.known();
                // Those that are known are as they were, unless the configuration changed.
                news.retain(|target| anew || !known.names.contains_key(&key_of(target.as_ref())));
                let of = news.len();
                for (index, target) in news.into_iter().enumerate() {
                    self.add(target, &mut known, Some(name.clone()), (index, of));
                }
                if of > 0 {
                    self.publish_watches();
                }
            }
            Err(error) => tracing::warn!(glob = name, error, "the files that match could not be listed"),
        }
        if anew {
            self.say_orphans();
        }
        // With nothing to look at, having looked for targets is the whole sweep.
        self.swept |= self.slots.is_empty();
    }

    /// The slots by name and by path.
    fn known(&self) -> Known {
        let mut known = Known::default();
        for (id, slot) in &self.slots {
            known.names.insert((slot.name.clone(), slot.mode), *id);
            known.see(*id, slot);
        }
        known
    }

    /// Takes one target under supervision, number `index` of `of`; in the place of the one of its name, if there is one.
    fn add(
        &mut self,
        mut target: Box<dyn Supervised>,
        known: &mut Known,
        origin: Option<String>,
        (index, of): (usize, usize),
    ) {
        let (name, mode) = key_of(target.as_ref());
        let of_name = known.names.get(&(name.clone(), mode)).copied();
        if let Some((id, slot)) = of_name.and_then(|id| Some((id, self.slots.get_mut(&id)?))) {
            slot.origin = origin;
            if std::mem::take(&mut slot.gone) {
                // It left the configuration while it was attended, and is in it again before it came back.
                register_target(&name, mode);
                self.cx.with_board(|board| board.add(&name, mode));
            }
            slot.watches = target.settings().watches.clone();
            slot.replacement = Some(target);
            self.swap_in_replacement(id);
            if let Some(slot) = self.slots.get(&id) {
                known.see(id, slot);
            }
            return;
        }
        // Two healers of one file would undo each other's work; the one that came first, which is the one named, has it.
        let path = target.settings().watches.first().cloned();
        let place = path.clone().map(|path| (path, mode));
        let of_path = place.as_ref().and_then(|place| known.paths.get(place));
        // The path may have been another slot's until the configuration changed.
        let is_twin = |slot: &&Slot| slot.mode == mode && slot.path == path && !slot.gone;
        if let Some(twin) = of_path.and_then(|id| self.slots.get(id)).filter(is_twin) {
            tracing::warn!(target = name, path = ?path, "this path is supervised as `{}` already: left to that", twin.name);
            return;
        }
        let now = self.cx.now();
        let key = (name.clone(), mode.to_owned());
        if let Some(memory) = self.remembered.remove(&key) {
            target.remember(memory, now);
        }
        register_target(&name, mode);
        self.cx.with_board(|board| board.add(&name, mode));
        self.show_pause(&name);
        let due = Due::first(index, of, target.settings().interval, now, self.seed.hash_one(&key));
        let id = self.next_id;
        self.next_id += 1;
        self.slots.insert(id, Slot::new(target, origin, due));
        known.paths.extend(place.map(|place| (place, id)));
        self.resume_left_open(id, &key);
    }

    pub(super) fn resume_left_open(&mut self, id: SlotId, (name, mode): &(String, String)) {
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
    pub(super) fn swap_in_replacement(&mut self, id: SlotId) {
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
        slot.recheck(now);
        slot.path = target.settings().watches.first().cloned();
        if let Some(case) = slot.open_case() {
            target.take_up(case.incident(), &self.cx.journal.evidence(case.id()));
        }
        slot.target = Some(target);
    }

    pub(super) fn reconfigure(&mut self, plant: Plant, gates: GatesConfig) {
        self.cx.with_gates(|known| known.reconfigure(gates));
        let globs = plant.discoveries.iter().map(|discovery| (discovery.name(), discovery)).collect::<HashMap<_, _>>();
        let kept = plant.targets.iter().map(|target| target.settings().target.clone()).collect::<BTreeSet<_>>();
        let stays = |slot: &Slot| {
            let glob = slot.origin.as_ref().and_then(|glob| globs.get(glob.as_str()));
            kept.contains(&slot.name) || glob.is_some_and(|glob| !glob.excludes(&slot.name))
        };
        let leaving = self.slots.iter().filter(|(_, slot)| !stays(slot)).map(|(id, _)| *id).collect::<Vec<_>>();
        for id in leaving {
            self.drop_slot(id);
        }
        self.plant(plant);
    }

    pub(super) fn drop_slot(&mut self, id: SlotId) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        forget_target(&slot.name, slot.mode);
        self.alarm.failing.forget(id);
        self.cx.with_board(|board| board.remove(&slot.name));
        slot.give_up_errand();
        match slot.target {
            Some(_) => drop(self.slots.remove(&id)),
            None => slot.gone = true,
        }
    }

    pub(super) fn publish_watches(&mut self) {
        self.watched.clear();
        self.folders.clear();
        for (id, slot) in &self.slots {
            for path in &slot.watches {
                self.watched.entry(path.clone()).or_default().push(*id);
            }
            let folders = slot.watches.iter().filter_map(|path| path.parent()).collect::<BTreeSet<_>>();
            for folder in folders {
                self.folders.entry(folder.to_path_buf()).or_default().push(*id);
            }
        }
        let mut all = self.watched.keys().cloned().collect::<BTreeSet<_>>();
        all.extend(self.listings.iter().flat_map(|listing| listing.discovery.watches()));
        self.watches.send_replace(all);
    }
}

fn key_of(target: &dyn Supervised) -> (String, &'static str) {
    (target.settings().target.clone(), target.settings().mode)
}
