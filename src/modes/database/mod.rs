//! The failure mode `database`: a SQLite database and its side files.
//!
//! [`detect`] judges, [`heal`] plans, [`memory`] remembers, `steps` turns steps into jobs; this file ties them to one
//! configured database, and `supervised` answers the supervisor. Nothing here does IO: looking and doing are jobs.

pub mod blame;
pub mod config;
pub mod detect;
mod discover;
mod doubt;
mod elsewhere;
mod errands;
pub mod heal;
pub mod kinds;
pub mod memory;
mod rollback;
mod seen;
mod steps;
mod supervised;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use crate::clock::Moment;
use crate::job::{
    DatabaseFacts, DatabaseProbe, DatabaseSite, FileFacts, IntegrityLevel, Job, Outcome, ScrubJob, WalMark, WalUnread,
};
use crate::model::{Check, InUse, Kind, Loss, Policy, Verdict};
use crate::modes::{Answer, Look, Retry, Settings};

use crate::telemetry::{BackupsKnown, DatabaseMeasured};
use config::DatabaseConfig;
pub use discover::Glob;
use memory::Memory;

/// The mode's name: the label in metrics.
pub const MODE: &str = "database";

/// Files of at most this size are checked within a sweep when something is suspicious: about 0.1 s.
const INLINE_CHECK_MAX_BYTES: u64 = 64 * 1024 * 1024;
/// So often such a file is checked for structure within a sweep while it is being written, and once more when it has come to rest:
/// damage by others hides among the program's own commits. Some milliseconds a minute.
const WRITTEN_CHECK_EVERY: Duration = Duration::from_secs(60);
/// While SQLite answers BUSY, look again this often.
const BUSY_LOOK_AGAIN: Duration = Duration::from_millis(250);
/// A probe that has no large file to check is done in microseconds; this is for stuck disks and slow canaries.
const SWEEP_PATIENCE: Duration = Duration::from_secs(10);
/// For jobs on files whose size nobody knows before they are opened: evidence, and what was not looked at yet.
const UNSEEN_PATIENCE: Duration = Duration::from_secs(3600);
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
    /// The mount that its path is under, until it is known what it stands on.
    mount: OnceLock<Option<String>>,
    /// Who used it when that was last seen.
    in_use: Option<InUse>,
    /// The files changed between the last two looks.
    moved: bool,
    /// The main file did.
    main_moved: bool,
    healthy: bool,
    /// The worst that the last look found.
    found: Option<Kind>,
    kind: Option<Kind>,
    /// A candidate that passed its full check was put in place during the present incident.
    replaced: bool,
    /// Its content was found damaged, here or before a restart, and no full check has passed since: whatever else is found
    /// and mended meanwhile, less than that proves nothing.
    hurt: bool,
    /// The BLAKE3 of the backup that the candidate was built from.
    built_from: Option<String>,
    backups_listed: bool,
    /// What the other databases of its group lose if the present playbook heals; by name.
    members_lost: Vec<(String, Loss)>,
    /// A look called for so deep a check, and did not make it.
    doubt: Option<IntegrityLevel>,
    /// When an errand last checked it.
    checked: Option<Moment>,
    /// When its content was last checked within a sweep, or that was tried.
    skimmed: Option<Moment>,
    /// The open incident, and its evidence.
    case: Option<(String, PathBuf)>,
    /// What held a heal up was over at the last look.
    turned: bool,
    /// When it was last seen to that what a program holds under no name is kept.
    held_at: Option<Moment>,
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
            mount: OnceLock::new(),
            in_use: None,
            moved: false,
            main_moved: false,
            healthy: false,
            found: None,
            kind: None,
            replaced: false,
            hurt: false,
            built_from: None,
            backups_listed: false,
            members_lost: Vec::new(),
            doubt: None,
            checked: None,
            skimmed: None,
            case: None,
            turned: false,
            held_at: None,
        }
    }

    /// The folder of this target's backups, where backups are configured.
    pub fn backup_folder(&self) -> Option<PathBuf> {
        self.config.backup.as_ref().map(|backup| backup.folder(&self.config.name))
    }

    /// The job that scrubs it, telling at most so many faults; `full`: indexes against tables, too.
    pub fn scrub(&self, faults_max: usize, full: bool) -> Job {
        Job::Scrub(Box::new(ScrubJob { site: self.site(), faults_max, full }))
    }

    fn site(&self) -> DatabaseSite {
        DatabaseSite {
            name: self.config.name.clone(),
            path: self.config.path.clone(),
            user: self.config.user.clone(),
            scratch: self.scratch.clone(),
            // A look hardly waits: being busy is a fact, and how long it lasts is judged from look to look. A program that
            // commits without a pause leaves gaps, though, which only patience finds.
            busy_ms: if self.memory.busy_since.is_some() { 250 } else { 20 },
            block_max_ms: self.block_max_ms(),
        }
    }

    /// For what is more than a look: it waits for a lock as a program of the database's own does.
    fn patient_site(&self) -> DatabaseSite {
        let busy_ms = u64::try_from(self.config.busy_timeout.as_millis()).unwrap_or(u64::MAX);
        DatabaseSite { busy_ms, ..self.site() }
    }

    fn block_max_ms(&self) -> u64 {
        let block_max = self.config.backup.as_ref().map_or(Duration::from_secs(2), |backup| backup.block_max);
        u64::try_from(block_max.as_millis()).unwrap_or(u64::MAX)
    }

    fn probe(&self, look: Look, integrity: IntegrityLevel) -> DatabaseProbe {
        let sweep = look == Look::Sweep;
        // An unchanged file is only taken for healthy when nothing is being waited for.
        let trust = sweep && self.healthy && !self.memory.blocked && integrity == IntegrityLevel::Suspicion;
        let first = !self.memory.ever_healthy && !self.backups_listed;
        let marked = self.verified_wal(look);
        let healthy = self.memory.last_healthy.as_ref();
        let wal_unread = if sweep { self.memory.wal_unread() } else { WalUnread::Nothing };
        let trust = trust && wal_unread == WalUnread::Nothing;
        DatabaseProbe {
            // What says whether bytes are to be replaced gets in between two commits, however busy the program is.
            site: if !sweep && self.hurt { self.patient_site() } else { self.site() },
            integrity,
            inline_max_bytes: if sweep { INLINE_CHECK_MAX_BYTES } else { u64::MAX },
            known: healthy.filter(|_| trust).cloned(),
            known_way: self.memory.way,
            unwatched: self.facts.is_none(),
            last_healthy: healthy.filter(|_| look != Look::Prove && !trust).cloned(),
            wal_mark: marked.map(|(mark, _)| mark),
            wal_marked: marked.and_then(|(_, file)| file),
            wal_unread,
            canary: self.config.canary.clone(),
            diagnose: look == Look::Confirm || first,
            schema: self.memory.schema.clone().filter(|_| look == Look::Confirm),
            users: look == Look::Inspect,
            backups: self.backup_folder(),
            members: self.config.members.clone(),
            map_pages: sweep && integrity > IntegrityLevel::Suspicion && self.memory.calls_for_a_map(),
            doubted: self.facts.as_ref().filter(|_| look == Look::Confirm).map(doubt::of).unwrap_or_default(),
            evidence: self.case.as_ref().map(|(_, evidence)| evidence.clone()),
            last_files: healthy.filter(|_| look == Look::Prove && !trust).cloned(),
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
    fn depth(&self, look: Look, now: Moment) -> IntegrityLevel {
        let seen = self.facts.as_ref().and_then(|facts| facts.integrity.as_ref()).filter(|integrity| !integrity.ok);
        match look {
            Look::Sweep if self.is_written_unchecked(now) => IntegrityLevel::Quick,
            Look::Sweep => IntegrityLevel::Suspicion,
            // A later look may have seen less, and something harmless beside the damage: what is planned must know of both.
            Look::Confirm if self.hurt => IntegrityLevel::Full,
            Look::Confirm => seen.map_or(IntegrityLevel::Suspicion, |integrity| integrity.level),
            // After a restart nothing is known of what was seen: then nothing less than everything is a proof.
            Look::Prove if (self.hurt || self.kind.is_none()) && !self.replaced => IntegrityLevel::Full,
            Look::Prove => IntegrityLevel::Suspicion,
            Look::Inspect => IntegrityLevel::Full,
        }
    }

    /// It was written since its content was last checked, and is small enough for a check in passing.
    fn is_written_unchecked(&self, now: Moment) -> bool {
        let Some(print) = self.memory.last_healthy.as_ref().filter(|_| self.healthy) else { return false };
        let is_due = self.skimmed.is_none_or(|last| now.since(last) >= WRITTEN_CHECK_EVERY);
        let is_small = print.main.size + print.wal.map_or(0, |wal| wal.size) <= INLINE_CHECK_MAX_BYTES;
        // What is written within a tick of the clock after the check may bear an earlier time.
        let written = i128::from(print.main.mtime_ns) + i128::from(FileFacts::WRITE_TICK_NS);
        is_due && is_small && self.memory.quick_at.is_some_and(|checked| written > checked.as_nanosecond())
    }

    /// Time for a job that reads and writes the whole database a few times.
    fn whole_file_patience(&self) -> Duration {
        let bytes = self.facts.as_ref().map_or(0, |facts| facts.main.size() + facts.wal_file.size());
        let backup = self.memory.backup.as_ref().map_or(0, |backup| backup.size);
        let patience = Duration::from_secs(60 + bytes.max(backup) / SLOWEST_BYTES_PER_SECOND);
        // A command that looks at nothing before, a step that goes on after a restart: nobody has seen how large it is.
        if self.facts.is_none() { patience.max(UNSEEN_PATIENCE) } else { patience }
    }

    fn judge_facts(&self, look: Look, facts: &DatabaseFacts, now: Moment) -> Verdict {
        let verdict = detect::judge(facts, &self.memory, &self.config, now);
        // A scheduled check has another turn; what a heal or a person goes by has not.
        let doubtful = (look != Look::Sweep).then_some(facts.integrity.as_ref()).flatten();
        let exclusive = detect::exclusive(facts, &self.memory);
        // Beside a program that locks for its life no check can be made, and none is missing.
        let shut = detect::answered_busy(facts) && matches!(exclusive, detect::Exclusive::Program(_));
        let doubtful = doubtful.filter(|_| !shut);
        if let Some(why) = doubtful.and_then(detect::cut_short).filter(|_| verdict == Verdict::Healthy) {
            return Verdict::Unknown(format!("its check was not finished: {why}"));
        }
        // It may end what has nothing to do with its content.
        let ends = !self.hurt && (look == Look::Prove || self.case.is_some());
        if let Some(why) = self.memory.unjudged_by(facts).filter(|_| verdict == Verdict::Healthy && !ends && !shut) {
            return Verdict::Unknown(format!("its content cannot be checked here: {why}"));
        }
        let unproven = self.hurt && !self.replaced && verdict == Verdict::Healthy;
        let passed = facts.integrity.as_ref().is_some_and(|check| check.ok && check.level == IntegrityLevel::Full);
        match exclusive {
            // Healthy is what it does, and says nothing of what is in the file.
            detect::Exclusive::Program(held) if unproven => Verdict::Unknown(format!(
                "it was found damaged, and while {} it cannot be told whether it still is",
                blame::words(held, self.memory.age_of(held))
            )),
            // That the content was not looked at refutes nothing. An open incident is ended by more than a sweep in any case.
            _ if unproven && !passed && look == Look::Sweep && self.case.is_none() => Verdict::Unknown(
                "it was found damaged, and its content could not be checked again yet: it is tried again".to_owned(),
            ),
            _ => verdict,
        }
    }

    /// It was found damaged, no incident tells of it yet, and nothing has confirmed or refuted it.
    fn is_in_doubt(&self) -> bool {
        self.hurt && !self.replaced && !self.healthy && self.found.is_none() && self.case.is_none()
    }

    fn conclude(&mut self, look: Look, answer: &Answer, now: Moment) -> Check {
        let (verdict, facts) = match answer {
            Ok(Outcome::Probed(facts)) => {
                if let Some(diagnosis) = &facts.diagnosis {
                    self.backups_listed = true;
                    // The newest is the first; older ones prove no less that it was healthy once.
                    diagnosis.backups.first().into_iter().for_each(|backup| self.memory.note_backup(backup));
                    diagnosis.backups.iter().skip(1).for_each(|backup| self.memory.note_source(backup));
                    self.tell_backup();
                }
                (self.judge_facts(look, facts, now), Some(facts.as_ref()))
            }
            Ok(_) => (Verdict::Unknown("the probe answered something else".to_owned()), None),
            Err(failure) => (detect::judge_failure(failure), None),
        };
        if let Some(facts) = facts {
            let held = |facts: &DatabaseFacts| facts.held.as_ref().is_some_and(|held| held.complete);
            let cut_off = |facts: &DatabaseFacts| facts.cut_off.is_some();
            self.turned |=
                self.facts.as_ref().is_some_and(|was| cut_off(was) && !cut_off(facts) || !held(was) && held(facts));
            self.memory.note(facts, now);
            if verdict == Verdict::Healthy {
                self.memory.note_healthy(facts, now);
                self.case = None;
            }
            self.in_use = seen::in_use(facts, &self.memory, self.in_use.take());
            if facts.integrity.is_some() {
                self.skimmed = Some(now);
            } else {
                self.doubt = self.doubt.max(facts.suspicion).max(facts.copy_waits.then_some(IntegrityLevel::Quick));
            }
            if !facts.unchanged {
                let (size, wal) = (facts.main.size(), facts.wal_file.size());
                DatabaseMeasured { target: &self.settings.target, size, wal }.emit();
                self.moved = self.facts.as_ref().is_some_and(|before| doubt::have_moved(before, facts));
                self.main_moved = self.facts.as_ref().is_some_and(|before| doubt::has_main_moved(before, facts));
                self.facts = Some(facts.clone());
            }
        }
        self.healthy = verdict == Verdict::Healthy;
        self.found = verdict.findings().first().map(|finding| finding.kind.clone());
        self.kind = self.found.clone().or(self.kind.take());
        self.hurt |= verdict.findings().iter().any(|finding| kinds::is_destructive(&finding.kind));
        let checked = facts.and_then(|facts| facts.integrity.as_ref());
        let passed = checked.is_some_and(|check| check.ok && check.level == IntegrityLevel::Full);
        if self.healthy && (passed || look == Look::Prove && self.replaced) {
            self.hurt = false;
        }
        if self.healthy && look == Look::Prove && std::mem::take(&mut self.replaced) {
            self.memory.restored = self.built_from.take().zip(self.memory.last_healthy.clone());
        }
        let layers = detect::layers(facts, &self.memory, &verdict);
        Check {
            target: self.settings.target.clone(),
            mode: MODE,
            verdict,
            checked_at: facts.map_or(now.wall, |facts| facts.looked_at),
            duration_seconds: layers.iter().map(|layer| layer.seconds).sum(),
            layers,
            in_use: self.in_use.clone(),
        }
    }

    /// What is known of the newest backup, for metrics: also of one that an earlier process took.
    fn tell_backup(&self) {
        if let Some(backup) = &self.memory.backup {
            let (taken_at, verified_at) = (backup.taken_at, backup.verified_at.unwrap_or(backup.taken_at));
            BackupsKnown { target: &self.settings.target, taken_at, verified_at, size: backup.size }.emit();
        }
    }
}

/// `path` with `suffix` appended to its last component, byte for byte.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
