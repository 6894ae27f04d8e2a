//! What the supervisor asks of a database, one answer each.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;

use super::errands::DOUBT_RETRY;
use super::memory::Memory;
use super::{BUSY_LOOK_AGAIN, Database, SWEEP_PATIENCE, UNSEEN_PATIENCE, doubt, heal, kinds, rollback, steps};
use crate::clock::Moment;
use crate::host::Mounts;
use crate::job::{FileState, Job, Phase, WalState};
use crate::model::{Check, Incident, Kind, Plan, Playbook, Policy, StepSpec};
use crate::modes::{
    Action, Answer, Errand, ErrandResult, Look, Refusal, Rollback, Settings, StepResult, Supervised, Vitals,
};

/// So often is a lock looked at before it counts as too old.
const LOOKS_AT_A_LOCK: u32 = 6;

/// The mount that `path` is under as it is written, from the table of mounts alone. A link on the way may lead elsewhere, and most of
/// those are on the first mount of all: that one is not told, so that a link from there holds up nobody else.
fn mount_as_written(path: &Path) -> Option<String> {
    let mounts = Mounts::read().ok()?;
    let mount = mounts.of(path).filter(|mount| mount.point != Path::new("/"))?;
    Some(format!("{} at {}", mount.fs_type, mount.point.display()))
}

impl Supervised for Database {
    fn settings(&self) -> &Settings {
        &self.settings
    }

    fn ask(&self, look: Look, now: Moment) -> Job {
        Job::Probe(Box::new(self.probe(look, self.depth(look, now))))
    }

    fn take_up(&mut self, incident: &Incident, evidence: &Path) {
        self.hurt |= kinds::is_destructive(&incident.kind);
        self.case = Some((incident.id.to_string(), evidence.to_path_buf()));
    }

    fn turned(&mut self) -> bool {
        std::mem::take(&mut self.turned)
    }

    fn patience(&self, look: Look) -> Duration {
        match look {
            Look::Sweep => SWEEP_PATIENCE,
            // What did not answer in time is not given minutes to not answer again.
            Look::Confirm if self.kind.as_ref() == Some(&kinds::CONNECTION_FAILED) => SWEEP_PATIENCE,
            Look::Confirm | Look::Prove | Look::Inspect => self.whole_file_patience(),
        }
    }

    fn judge(&mut self, look: Look, answer: &Answer, now: Moment) -> Check {
        self.conclude(look, answer, now)
    }

    fn look_again(&self) -> Option<Duration> {
        if self.memory.busy_since.is_some() {
            return Some(BUSY_LOOK_AGAIN);
        }
        if self.is_in_doubt() {
            return Some(DOUBT_RETRY);
        }
        if let Some(again) = self.unlinked_look_again() {
            return Some(again);
        }
        // A lock that keeps others out is looked at when it becomes too old, not a whole interval later; and meanwhile, for
        // only one that is seen at every look is taken for one.
        let dotfile = self.facts.as_ref().is_some_and(|facts| facts.dotfile_lock.is_some());
        (self.memory.blocked || dotfile).then_some(self.config.lock_max_age / LOOKS_AT_A_LOCK)
    }

    fn ground(&self) -> Option<&str> {
        let known = self.memory.place.as_ref().map(|place| place.fs_id.as_str());
        let known = known.or(self.facts.as_ref().map(|facts| facts.place.fs_id.as_str())).filter(|id| !id.is_empty());
        // Before the first answer nothing may touch its disk: what hangs for one target hangs for all of that mount.
        known.or_else(|| self.mount.get_or_init(|| mount_as_written(&self.config.path)).as_deref())
    }

    fn seen_healthy(&self) -> bool {
        self.memory.ever_healthy
    }

    fn vitals(&self) -> Vitals {
        let facts = self.facts.as_ref();
        Vitals {
            size_bytes: facts.map(|facts| facts.main.size()),
            wal_bytes: facts.map(|facts| facts.wal_file.size()),
            last_backup_at: self.memory.backup.as_ref().map(|backup| backup.taken_at),
        }
    }

    fn fault_time(&self) -> Option<Timestamp> {
        let facts = self.facts.as_ref()?;
        let ns = match &facts.main {
            FileState::File(main) => main.mtime_ns.max(main.ctime_ns),
            _ if facts.place.folder_exists => facts.place.folder_mtime_ns,
            _ => return None,
        };
        let at = Timestamp::from_nanosecond(i128::from(ns)).ok()?;
        // What happened before the last healthy look is not what made it unhealthy.
        self.memory.healthy_at.is_none_or(|healthy| healthy <= at).then_some(at)
    }

    fn needs_second_look(&self, kind: &Kind) -> bool {
        kinds::is_destructive(kind)
    }

    fn is_mild(&self, kind: &Kind) -> bool {
        kinds::is_mild(kind)
    }

    fn unsettled(&self, look: Look) -> Option<Duration> {
        let facts = self.facts.as_ref()?;
        // Commits behind a damaged frame are no half-written end, and each look reads them twice. Meanwhile its program would write
        // the damage back.
        if facts.wal.as_ref().is_some_and(|wal| wal.state == WalState::Damaged && wal.stranded_commits > 0) {
            return None;
        }
        let torn = match doubt::lies_below_the_wal(facts, self.memory.journal_mode.as_deref()) {
            true => doubt::may_be_checkpointed(facts) || look == Look::Confirm && self.main_moved,
            false => doubt::is_being_written(facts) || look == Look::Confirm && self.moved,
        };
        torn.then_some(self.config.busy_timeout)
    }

    fn plan(&self, incident: &Incident) -> Result<Plan, String> {
        let facts = self.facts.as_ref().ok_or("nothing has been seen of it yet")?;
        let kind = self.kind.as_ref().unwrap_or(&incident.kind);
        heal::plan(kind, facts, &self.memory, &self.config, &incident.steps)
    }

    fn weigh_rollback(&self, incident: &Incident, evidence: &Path, generation: Option<u32>) -> Result<Job, String> {
        Ok(self.weigh(incident, evidence, generation))
    }

    fn plan_rollback(
        &self,
        incident: &Incident,
        evidence: &Path,
        weighed: &Answer,
        accept_loss: bool,
    ) -> Result<Rollback, Refusal> {
        let wal = self.facts.as_ref().and_then(|facts| facts.wal.as_ref());
        let reset_bug = wal.is_some_and(|wal| wal.reset_bug);
        rollback::plan(incident, evidence, weighed, accept_loss, (&self.config, reset_bug))
    }

    fn keep_first(&self, incident: &Incident) -> Option<Playbook> {
        let facts = self.facts.as_ref()?;
        let at_once = || {
            matches!(self.plan(incident), Ok(plan) if plan.approval.is_none()) && self.settings.policy == Policy::Heal
        };
        heal::keep_first(facts).filter(|_| !at_once())
    }

    fn keeps_bytes(&self, step: &StepSpec) -> Option<u64> {
        let facts = self.facts.as_ref()?;
        let files = [&facts.main, &facts.wal_file, &facts.journal_file];
        steps::keeps(step).then(|| files.iter().map(|file| file.size()).sum())
    }

    fn action(&self, incident: &Incident, evidence: &Path, spec: &StepSpec, phase: Phase) -> Result<Action, String> {
        self.step_action(incident, evidence, spec, phase)
    }

    fn leaves_a_trace(&self, spec: &StepSpec) -> bool {
        steps::leaves_a_trace(spec)
    }

    fn step_patience(&self, step: &StepSpec) -> Duration {
        if let Some(patience) = steps::app_patience(step) {
            return patience;
        }
        match steps::brings_back(step) {
            // What comes back may be far larger than what is there now.
            true => self.whole_file_patience().max(UNSEEN_PATIENCE),
            false => self.whole_file_patience(),
        }
    }

    fn step_result(&mut self, spec: &StepSpec, _phase: Phase, answer: &Answer) -> StepResult {
        self.step_came_to(spec, answer)
    }

    fn errand(&mut self, now: Moment) -> Option<Errand> {
        self.due_errand(now)
    }

    fn next_errand(&self, now: Moment) -> Option<Duration> {
        self.until_next_errand(now)
    }

    fn errand_now(&mut self, name: &str, now: Moment) -> Option<Errand> {
        self.errand_on_demand(name, now)
    }

    fn errand_done(&mut self, name: &'static str, answer: &Answer, now: Moment) -> ErrandResult {
        self.finish_errand(name, answer, now)
    }

    fn memory(&mut self) -> Option<serde_json::Value> {
        if self.memory.is_saved_as(&self.saved) {
            return None;
        }
        let changed = serde_json::to_value(&self.memory).ok()?;
        self.saved = self.memory.clone();
        Some(changed)
    }

    fn whole_memory(&self) -> serde_json::Value {
        serde_json::to_value(&self.memory).unwrap_or_default()
    }

    fn remember(&mut self, memory: serde_json::Value, _now: Moment) {
        match serde_json::from_value::<Memory>(memory) {
            Ok(memory) if !memory.is_of(&self.config.path) => {
                tracing::warn!(
                    target = self.settings.target,
                    path = %self.config.path.display(),
                    was = memory.path,
                    "the name is another file's now: what was remembered of the former is not believed of this one"
                );
            }
            Ok(memory) => {
                // A backup that was under way when guardiand ended was not tried: it is due as before.
                self.memory = Memory { path: self.memory.path.take(), backup_tried_at: None, ..memory };
                self.saved = self.memory.clone();
                self.tell_backup();
            }
            Err(error) => {
                tracing::warn!(target = self.settings.target, %error, "what was remembered cannot be read; starting afresh")
            }
        }
    }
}
