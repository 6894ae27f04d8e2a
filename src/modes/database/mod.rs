//! The failure mode `database`: a SQLite database and its side files.
//!
//! [`detect`] judges, [`heal`] plans, [`memory`] remembers; this file ties them to one configured database. Nothing here
//! does IO: looking and doing are jobs.

pub mod config;
pub mod detect;
mod discover;
mod errands;
pub mod heal;
pub mod kinds;
pub mod memory;

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;

use crate::clock::Moment;
use crate::job::{
    DatabaseFacts, DatabaseProbe, DatabaseSite, DatabaseStep, FailureKind, FileFacts, FileState, IntegrityLevel, Job,
    Outcome, Phase, Progress, StepJob, WalMark,
};
use crate::model::{Check, Incident, Kind, Playbook, Policy, StepOutcome, StepSpec, Verdict};
use crate::modes::{Action, Answer, Errand, ErrandResult, Look, Retry, Settings, StepResult, Supervised, Vitals};

use crate::telemetry::{BackupsKnown, DatabaseMeasured};
use config::DatabaseConfig;
pub use discover::Glob;
use memory::Memory;

/// The mode's name: the label in metrics.
pub const MODE: &str = "database";

/// Files of at most this size are checked within a sweep when something is suspicious: about 0.1 s.
const INLINE_CHECK_MAX_BYTES: u64 = 64 * 1024 * 1024;
/// While SQLite answers BUSY, look again this often.
const BUSY_LOOK_AGAIN: Duration = Duration::from_millis(250);
/// A probe that has no large file to check is done in microseconds; this is for stuck disks and slow canaries.
const SWEEP_PATIENCE: Duration = Duration::from_secs(10);
/// Slower than any disk worth supervising: for deadlines of jobs that read a whole file several times.
const SLOWEST_BYTES_PER_SECOND: u64 = 5_000_000;

/// What every target shares: the daemon's own settings.
#[derive(Debug, Clone)]
pub struct Defaults {
    /// Where guardiand keeps its state, absolute.
    pub state_dir: PathBuf,
    /// Look at least this often.
    pub interval: Duration,
    /// What may be done.
    pub policy: Policy,
}

/// One database under supervision.
pub struct Database {
    settings: Settings,
    config: DatabaseConfig,
    scratch: PathBuf,
    memory: Memory,
    saved: Memory,
    facts: Option<DatabaseFacts>,
    healthy: bool,
    kind: Option<Kind>,
    /// A candidate that passed its full check was put in place during the present incident.
    replaced: bool,
    /// Its content was found damaged, here or before a restart, and no full check has passed since: whatever else is found
    /// and mended meanwhile, less than that proves nothing.
    hurt: bool,
    /// The BLAKE3 of the backup that the candidate was built from.
    built_from: Option<String>,
    backups_listed: bool,
}

impl Database {
    /// A database that nothing is known of yet.
    pub fn new(config: DatabaseConfig, defaults: &Defaults) -> Database {
        let watches = ["", "-wal", "-journal"].iter().map(|suffix| beside(&config.path, suffix)).collect();
        let settings = Settings {
            target: config.name.clone(),
            mode: MODE,
            interval: config.interval.unwrap_or(defaults.interval),
            policy: config.policy.unwrap_or(defaults.policy),
            retry: Retry {
                attempts: config.retry.attempts,
                initial: config.retry.initial,
                factor: config.retry.factor,
                max: config.retry.max,
            },
            watches,
            layers: kinds::LAYERS,
        };
        Database {
            settings,
            scratch: defaults.state_dir.join("scratch"),
            memory: Memory::of(&config.path),
            saved: Memory::of(&config.path),
            config,
            facts: None,
            healthy: false,
            kind: None,
            replaced: false,
            hurt: false,
            built_from: None,
            backups_listed: false,
        }
    }

    /// The folder of this target's backups, where backups are configured.
    pub fn backup_folder(&self) -> Option<PathBuf> {
        self.config.backup.as_ref().map(|backup| backup.folder(&self.config.name))
    }

    fn site(&self) -> DatabaseSite {
        DatabaseSite {
            path: self.config.path.clone(),
            user: self.config.user.clone(),
            scratch: self.scratch.clone(),
            // A look hardly waits: being busy is a fact, and how long it lasts is judged from look to look. A program that
            // commits without a pause leaves gaps, though, which only patience finds.
            busy_ms: if self.memory.busy_since.is_some() { 250 } else { 20 },
            block_max_ms: self.block_max_ms(),
        }
    }

    fn block_max_ms(&self) -> u64 {
        let block_max = self.config.backup.as_ref().map_or(Duration::from_secs(2), |backup| backup.block_max);
        u64::try_from(block_max.as_millis()).unwrap_or(u64::MAX)
    }

    fn probe(&self, look: Look, integrity: IntegrityLevel) -> DatabaseProbe {
        let sweep = look == Look::Sweep;
        // An unchanged file is only taken for healthy when nothing is being waited for.
        let trust = sweep && self.healthy && self.memory.locks.is_empty() && integrity == IntegrityLevel::Suspicion;
        let first = !self.memory.ever_healthy && !self.backups_listed;
        let marked = self.verified_wal(look);
        DatabaseProbe {
            site: self.site(),
            integrity,
            inline_max_bytes: if sweep { INLINE_CHECK_MAX_BYTES } else { u64::MAX },
            known: self.memory.last_healthy.clone().filter(|_| trust),
            last_healthy: self.memory.last_healthy.clone().filter(|_| look != Look::Prove),
            wal_mark: marked.map(|(mark, _)| mark),
            wal_marked: marked.and_then(|(_, file)| file),
            canary: self.config.canary.clone(),
            diagnose: look == Look::Confirm || first,
            backups: self.backup_folder(),
        }
    }

    /// What of the WAL need not be read again, and the file as it was then.
    fn verified_wal(&self, look: Look) -> Option<(WalMark, Option<FileFacts>)> {
        let mark = self.memory.wal_mark?;
        let seen = self.facts.as_ref().filter(|facts| facts.wal.as_ref().is_some_and(|wal| wal.mark == Some(mark)));
        let trusted = match look {
            Look::Sweep => true,
            // A checkpoint makes of the WAL's frames the database's pages: every frame is verified once in each incident
            // before that, by the look that opened it or by this one.
            Look::Confirm => {
                let harmless = self.kind.as_ref().is_some_and(|kind| !kinds::is_destructive(kind));
                harmless && seen.is_some_and(|facts| facts.wal.as_ref().is_some_and(|wal| wal.whole))
            }
            Look::Prove | Look::Inspect => false,
        };
        let healthy = || self.memory.last_healthy.as_ref().and_then(|print| print.wal);
        let file = seen.map_or_else(healthy, |facts| facts.wal_file.file().copied());
        trusted.then_some((mark, file))
    }

    /// How deep a look must go to see again what the last one saw.
    fn depth(&self, look: Look) -> IntegrityLevel {
        let seen = self.facts.as_ref().and_then(|facts| facts.integrity.as_ref()).filter(|integrity| !integrity.ok);
        match look {
            Look::Sweep => IntegrityLevel::Suspicion,
            Look::Confirm => seen.map_or(IntegrityLevel::Suspicion, |integrity| integrity.level),
            // After a restart nothing is known of what was seen: then nothing less than everything is a proof.
            Look::Prove if (self.hurt || self.kind.is_none()) && !self.replaced => IntegrityLevel::Full,
            Look::Prove => IntegrityLevel::Suspicion,
            Look::Inspect => IntegrityLevel::Full,
        }
    }

    /// Time for a job that reads and writes the whole database a few times.
    fn whole_file_patience(&self) -> Duration {
        let bytes = self.facts.as_ref().map_or(0, |facts| facts.main.size() + facts.wal_file.size());
        let backup = self.memory.backup.as_ref().map_or(0, |backup| backup.size);
        Duration::from_secs(60 + bytes.max(backup) / SLOWEST_BYTES_PER_SECOND)
    }

    fn conclude(&mut self, look: Look, answer: &Answer, now: Moment) -> Check {
        let (verdict, facts) = match answer {
            Ok(Outcome::Probed(facts)) => {
                if let Some(diagnosis) = &facts.diagnosis {
                    self.backups_listed = true;
                    diagnosis.backups.iter().for_each(|backup| self.memory.note_backup(backup));
                    self.tell_backup();
                }
                (detect::judge(facts, &self.memory, &self.config, now), Some(facts.as_ref()))
            }
            Ok(_) => (Verdict::Unknown("the probe answered something else".to_owned()), None),
            Err(failure) => (detect::judge_failure(failure), None),
        };
        if let Some(facts) = facts {
            self.memory.note(facts, now);
            if verdict == Verdict::Healthy {
                self.memory.note_healthy(facts, now);
            }
            if !facts.unchanged {
                let (size, wal) = (facts.main.size(), facts.wal_file.size());
                DatabaseMeasured { target: &self.settings.target, size, wal }.emit();
                self.facts = Some(facts.clone());
            }
        }
        self.healthy = verdict == Verdict::Healthy;
        self.kind = verdict.findings().first().map(|finding| finding.kind.clone()).or(self.kind.take());
        self.hurt |= verdict.findings().iter().any(|finding| kinds::is_destructive(&finding.kind));
        let checked = facts.and_then(|facts| facts.integrity.as_ref());
        let passed = checked.is_some_and(|check| check.ok && check.level == IntegrityLevel::Full);
        if self.healthy && (passed || look == Look::Prove && self.replaced) {
            self.hurt = false;
        }
        if self.healthy && look == Look::Prove && std::mem::take(&mut self.replaced) {
            self.memory.restored = self.built_from.take().zip(self.memory.last_healthy.clone());
        }
        let layers = detect::layers(facts, &verdict);
        Check {
            target: self.settings.target.clone(),
            mode: MODE,
            verdict,
            checked_at: facts.map_or(now.wall, |facts| facts.looked_at),
            duration_seconds: layers.iter().map(|layer| layer.seconds).sum(),
            layers,
        }
    }
}

/// `path` with `suffix` appended to its last component, byte for byte.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

impl Supervised for Database {
    fn settings(&self) -> &Settings {
        &self.settings
    }

    fn ask(&self, look: Look, _now: Moment) -> Job {
        Job::Probe(Box::new(self.probe(look, self.depth(look))))
    }

    fn take_up(&mut self, incident: &Incident) {
        self.hurt |= kinds::is_destructive(&incident.kind);
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
        // A lock that keeps writers out is looked at when it becomes too old, not a whole interval later.
        (!self.memory.locks.is_empty()).then_some(self.config.lock_max_age)
    }

    fn ground(&self) -> Option<&str> {
        let known = self.memory.place.as_ref().map(|place| place.fs_id.as_str());
        known.or(self.facts.as_ref().map(|facts| facts.place.fs_id.as_str())).filter(|id| !id.is_empty())
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

    fn plan(&self, incident: &Incident) -> Result<Vec<Playbook>, String> {
        let facts = self.facts.as_ref().ok_or("nothing has been seen of it yet")?;
        let kind = self.kind.as_ref().unwrap_or(&incident.kind);
        heal::plan(kind, facts, &self.memory, &self.config)
    }

    fn action(&self, incident: &Incident, evidence: &Path, spec: &StepSpec, phase: Phase) -> Result<Action, String> {
        if spec.name == heal::WAIT {
            return Ok(Action::WaitUntilHealthy);
        }
        if spec.version > heal::STEP_VERSION {
            return Err(format!("step `{}` is of version {}, written by a newer guardiand", spec.name, spec.version));
        }
        let step = serde_json::from_value::<DatabaseStep>(spec.args.clone())
            .map_err(|error| format!("step `{}` cannot be read back: {error}", spec.name))?;
        let mut site = self.site();
        site.busy_ms = u64::try_from(self.config.busy_timeout.as_millis()).unwrap_or(u64::MAX);
        Ok(Action::Run(Box::new(Job::Step(Box::new(StepJob {
            site,
            incident: incident.id.to_string(),
            evidence: evidence.to_path_buf(),
            phase,
            step,
        })))))
    }

    fn leaves_a_trace(&self, spec: &StepSpec) -> bool {
        let step = serde_json::from_value::<DatabaseStep>(spec.args.clone());
        matches!(
            step,
            Ok(DatabaseStep::Install
                | DatabaseStep::BuildFromBackup { .. }
                | DatabaseStep::BuildFromCopy { .. }
                | DatabaseStep::BuildFromSchema { .. })
        )
    }

    fn step_patience(&self, _step: &StepSpec) -> Duration {
        self.whole_file_patience()
    }

    fn step_result(&mut self, spec: &StepSpec, _phase: Phase, answer: &Answer) -> StepResult {
        let report = match answer {
            Ok(Outcome::Stepped(report)) => report,
            Ok(_) => return failed("the step answered something else".to_owned()),
            Err(failure) => {
                let step = serde_json::from_value::<DatabaseStep>(spec.args.clone()).ok();
                return StepResult { held: is_held(step.as_ref(), failure.kind), ..failed(failure.message.clone()) };
            }
        };
        let outcome = match report.progress {
            Progress::Done => StepOutcome::Ok,
            Progress::Nothing => StepOutcome::Skipped,
            Progress::Undone => StepOutcome::Undone,
        };
        let step = serde_json::from_value::<DatabaseStep>(spec.args.clone()).ok();
        match &step {
            Some(DatabaseStep::Install) => self.replaced = outcome != StepOutcome::Undone,
            Some(DatabaseStep::BuildFromBackup { blake3, .. }) => self.built_from = Some(blake3.clone()),
            Some(DatabaseStep::BuildFromCopy { .. } | DatabaseStep::BuildFromSchema { .. }) => self.built_from = None,
            _ => {}
        }
        let loss =
            step.as_ref().zip(report.candidate.as_ref()).and_then(|(step, candidate)| self.loss(step, candidate));
        let preserved = matches!(step, Some(DatabaseStep::Preserve)) && outcome != StepOutcome::Undone;
        let held = outcome == StepOutcome::Undone;
        StepResult { outcome, detail: report.detail.clone(), loss, preserved, held }
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
        // When it was last healthy changes with each look, and alone is not worth a write.
        self.saved.healthy_at = self.memory.healthy_at;
        let changed = serde_json::to_value(&self.memory).ok()?;
        if serde_json::to_value(&self.saved).ok()? == changed {
            return None;
        }
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
                self.memory = Memory { path: self.memory.path.take(), ..memory };
                self.saved = self.memory.clone();
                self.tell_backup();
            }
            Err(error) => {
                tracing::warn!(target = self.settings.target, %error, "what was remembered cannot be read; starting afresh")
            }
        }
    }
}

impl Database {
    /// What is known of the newest backup, for metrics: also of one that an earlier process took.
    fn tell_backup(&self) {
        if let Some(backup) = &self.memory.backup {
            let (taken_at, verified_at) = (backup.taken_at, backup.verified_at.unwrap_or(backup.taken_at));
            BackupsKnown { target: &self.settings.target, taken_at, verified_at, size: backup.size }.emit();
        }
    }

    fn loss(&self, step: &DatabaseStep, candidate: &crate::job::Candidate) -> Option<crate::model::Loss> {
        match step {
            DatabaseStep::BuildFromBackup { backup, .. } => {
                let entry = self.facts.as_ref().and_then(|facts| {
                    let listed = &facts.diagnosis.as_ref()?.backups;
                    listed.iter().find(|entry| entry.file == *backup).map(|entry| (entry, facts))
                });
                Some(match entry {
                    Some((entry, facts)) => heal::loss_of_backup(entry, &candidate.tables, &self.memory, facts),
                    None => heal::loss_unknown(candidate),
                })
            }
            DatabaseStep::BuildFromCopy { .. } => Some(heal::loss_of_copy(&candidate.tables)),
            DatabaseStep::BuildFromSchema { .. } => Some(heal::loss_of_recreation(&self.memory, self.facts.as_ref())),
            DatabaseStep::Preserve
            | DatabaseStep::RestoreAccess { .. }
            | DatabaseStep::Checkpoint { .. }
            | DatabaseStep::RebuildIndexes { .. }
            | DatabaseStep::Install => None,
        }
    }
}

/// Whether a failure says nothing against the rung that it happened on. A backup that fails its check is its own fault, and
/// the next one is tried; that the file is in use, the disk is full or time ran out would only hit a worse candidate less.
fn is_held(step: Option<&DatabaseStep>, kind: FailureKind) -> bool {
    use DatabaseStep as Step;
    match step {
        Some(Step::BuildFromBackup { .. } | Step::BuildFromCopy { .. } | Step::BuildFromSchema { .. }) => {
            kind != FailureKind::Failed
        }
        Some(Step::Preserve | Step::Install) => true,
        Some(Step::RestoreAccess { .. } | Step::Checkpoint { .. } | Step::RebuildIndexes { .. }) | None => {
            matches!(kind, FailureKind::Refused | FailureKind::Deadline | FailureKind::Abandoned)
        }
    }
}

fn failed(detail: String) -> StepResult {
    StepResult::new(StepOutcome::Failed, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_candidate_that_was_tried_in_vain_lets_a_lossier_one_have_its_turn() {
        let backup = DatabaseStep::BuildFromBackup { backup: "b.db".into(), blake3: String::new(), owner: None };
        let table = [
            (&backup, FailureKind::Failed, false),
            (&backup, FailureKind::Refused, true),
            (&backup, FailureKind::Deadline, true),
            (&backup, FailureKind::Crashed, true),
            (&DatabaseStep::Install, FailureKind::Refused, true),
            (&DatabaseStep::Install, FailureKind::Failed, true),
            (&DatabaseStep::Preserve, FailureKind::Failed, true),
            (&DatabaseStep::Checkpoint { timeout_ms: 1 }, FailureKind::Failed, false),
            (&DatabaseStep::Checkpoint { timeout_ms: 1 }, FailureKind::Refused, true),
        ];
        for (step, kind, held) in table {
            assert_eq!(is_held(Some(step), kind), held, "{step:?} {kind:?}");
        }
    }
}
