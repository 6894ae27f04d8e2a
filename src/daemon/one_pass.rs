//! One pass for the command line: no loop, no HTTP, no socket. Plain values in, documents out.

mod copies;
mod rollback;
mod salvage;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::clock::Clock;
use crate::config::{Config, Environment};
use crate::job::{Client, Outcome, Scrubbed};
use crate::journal::{LeftOpen, Limits, Remembered};
use crate::model::{Check, Incident, IncidentState, Playbook, Policy, Resolution, Verdict};
use crate::modes::database::config::{BackupPlan, DatabaseConfig};
use crate::modes::database::{Database, Defaults, Glob};
use crate::modes::{Discovery as _, Look, Recalled, Supervised};
use crate::supervisor::{
    Attended, Context, GatesConfig, HealAnswer, Notices, approve_on_demand, heal_on_demand, resume,
};

pub use copies::{Backups, RestoreFrom, backup, backups, restore};
pub use rollback::rollback;
pub use salvage::salvage;

use super::foundation::{self, Foundation};
use super::{DaemonError, block_on, targets};

/// What a command is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A configured target, or the name of a glob: all of its targets.
    Named(String),
    /// A database file, supervised with defaults.
    Path(PathBuf),
}

/// Where a command works.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    /// The configuration, where one was given or found.
    pub config: Option<Config>,
    /// `--state-dir`, which goes before the configuration's.
    pub state_dir: Option<PathBuf>,
}

/// Why a command did not do its work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PassError {
    /// The exit status: 1 failed, 2 wrong usage, 3 could not tell.
    pub exit: u8,
    /// What was tried, on what, and what to do about it.
    pub message: String,
}

/// What `heal` came to.
#[derive(Debug, Clone, Serialize)]
pub struct HealReport {
    /// The target's name.
    pub target: String,
    /// How it ended.
    pub outcome: HealOutcome,
    /// The last look: the proof, where something was healed.
    pub check: Check,
    /// What would be tried, in order; only of a dry run.
    pub playbooks: Vec<Playbook>,
    /// Why nothing may be tried, with the next command for a person.
    pub reason: Option<String>,
    /// The incident, where one was opened.
    pub incident: Option<Incident>,
}

/// How `heal` ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HealOutcome {
    /// Nothing was wrong.
    Healthy,
    /// Healed and proven.
    Healed,
    /// A dry run: see `playbooks`.
    Planned,
    /// Still unhealthy: see `reason` and `incident`.
    Failed,
    /// It could not be told.
    Unknown,
}

impl HealOutcome {
    /// The command's exit status (INTERFACE).
    pub fn exit(self) -> u8 {
        match self {
            HealOutcome::Healthy | HealOutcome::Healed | HealOutcome::Planned => 0,
            HealOutcome::Failed => 1,
            HealOutcome::Unknown => 3,
        }
    }
}

/// Looks once at each subject, or at every configured target; heals nothing.
///
/// # Errors
/// When nothing could be looked at.
pub fn check(scope: &Scope, subjects: &[Subject]) -> Result<Vec<Check>, PassError> {
    block_on(async {
        let mut site = Site::of(scope);
        let is_nowhere = scope.config.is_none() && scope.state_dir.is_none();
        let temporary = is_nowhere.then(private_folder).transpose()?;
        // Whoever knows more of it says more of it: what was there, and whose it was, when it was last healthy.
        let mut remembered = Vec::new();
        match &temporary {
            Some(folder) => site.defaults.state_dir = folder.path().to_path_buf(),
            None => remembered = crate::journal::glance(&site.state_dir),
        }
        site.recall(&remembered, &[]);
        let jobs = foundation::client(site.workers);
        let clock = Clock::system();
        let mut checks = Vec::new();
        for mut target in site.targets(&jobs, subjects).await? {
            remind(target.as_mut(), &remembered, &clock);
            let job = target.ask(Look::Inspect, clock.now());
            let answer = jobs.run(job, target.patience(Look::Inspect)).await;
            checks.push(target.judge(Look::Inspect, &answer, clock.now()));
        }
        Ok(checks)
    })?
}

/// Where private copies are made by what shall leave nothing behind: neither in the folder it was typed in, nor a state
/// directory that was not there.
fn private_folder() -> Result<tempfile::TempDir, PassError> {
    tempfile::Builder::new().prefix("guardiand-check-").tempdir().map_err(|error| {
        failed(format!("cannot make a temporary folder: {error}; name one that exists with --state-dir"))
    })
}

/// Detects, heals and proves once; `dry_run` plans and touches nothing.
///
/// # Errors
/// When the state directory is held by another guardiand, or nothing could be looked at.
pub fn heal(scope: &Scope, subject: &Subject, dry_run: bool) -> Result<HealReport, PassError> {
    block_on(async {
        let mut site = Site::of(scope);
        let temporary = (dry_run && !site.state_dir.exists()).then(private_folder).transpose()?;
        if let Some(folder) = &temporary {
            site.defaults.state_dir = folder.path().to_path_buf();
        }
        let state_dir = &site.defaults.state_dir;
        let foundation = Foundation::lay(state_dir, site.workers, site.gates, Notices::none())?;
        let cx = &foundation.cx;
        cx.journal.limit(site.limits);
        let (remembered, left_open) = foundation.recall(site.gates).await;
        site.recall(&remembered, &left_open);
        let mut targets = site.targets(&cx.jobs, std::slice::from_ref(subject)).await?;
        let Some(mut target) = targets.pop() else { return Err(failed("nothing matches".to_owned())) };
        if !targets.is_empty() {
            return Err(PassError { exit: 2, message: "name one target: several match".to_owned() });
        }
        let (name, mode) = (target.settings().target.clone(), target.settings().mode);
        remind(target.as_mut(), &remembered, &cx.clock);
        let mut case = None;
        let of_target = |incident: &Incident| incident.target == name && incident.mode == mode;
        if let Some(left) = left_open.into_iter().find(|left| of_target(&left.replayed.incident)) {
            let attended = resume(cx, target, left).await;
            (target, case) = (attended.target, attended.case);
        }
        let (answer, attended) = heal_on_demand(cx, target, case, dry_run).await;
        saved(cx, attended.target, &name, mode).await?;
        Ok(report(answer, dry_run))
    })?
}

/// Gives a target what earlier processes remembered of it. False when that is nothing.
fn remind(target: &mut dyn Supervised, remembered: &[Remembered], clock: &Clock) -> bool {
    let of_it = |known: &&Remembered| known.target == target.settings().target && known.mode == target.settings().mode;
    let Some(memory) = remembered.iter().find(of_it).map(|known| known.memory.clone()) else { return false };
    target.remember(memory, clock.now());
    true
}

/// Saves what a target has learnt.
async fn saved(cx: &Context, mut target: Box<dyn Supervised>, name: &str, mode: &str) -> Result<(), PassError> {
    let Some(memory) = target.memory() else { return Ok(()) };
    let saved = Remembered { target: name.to_owned(), mode: mode.to_owned(), memory };
    cx.journal.save_memory(vec![saved]).await.map_err(|error| failed(error.to_string()))
}

/// Says yes to what the plan of incident `id` would do, and heals; while no daemon runs.
///
/// # Errors
/// When there is no such incident, it waits for no yes, or the plan costs more by now than what it asked for.
pub fn approve(scope: &Scope, id: &str) -> Result<HealReport, PassError> {
    block_on(async {
        let mut site = Site::with_incidents(scope, id)?;
        let foundation = Foundation::lay(&site.state_dir, site.workers, site.gates, Notices::none())?;
        let cx = &foundation.cx;
        cx.journal.limit(site.limits);
        let (remembered, left_open) = foundation.recall(site.gates).await;
        site.recall(&remembered, &left_open);
        let left = left_open.into_iter().find(|left| left.replayed.incident.id.0 == id);
        let left = left.ok_or_else(|| failed(format!("there is no open incident {id}")))?;
        let incident = left.replayed.incident.clone();
        if incident.state != IncidentState::AwaitingApproval {
            return Err(failed(format!("incident {id} is `{}` and waits for no approval", incident.state.name())));
        }
        let subject = match incident.target.starts_with('/') {
            true => Subject::Path(PathBuf::from(&incident.target)),
            false => Subject::Named(incident.target.clone()),
        };
        let mut targets = site.targets(&cx.jobs, std::slice::from_ref(&subject)).await?;
        let Some(mut target) = targets.pop() else { return Err(failed("nothing matches".to_owned())) };
        remind(target.as_mut(), &remembered, &cx.clock);
        let attended = resume(cx, target, left).await;
        let Attended { target, case: Some(case), .. } = attended else {
            return Err(failed(format!("incident {id} could not be taken up")));
        };
        let by = rustix::process::getuid().as_raw();
        let (answer, attended) = approve_on_demand(cx, target, case, by).await;
        saved(cx, attended.target, &incident.target, &incident.mode).await?;
        answer.map(|answer| report(answer, false)).map_err(failed)
    })?
}

/// Finishes every heal that was interrupted, and what follows from it; the incidents as they are then.
///
/// # Errors
/// When the state directory is held by another guardiand (which finishes them itself), or the targets cannot be listed.
pub fn finish_interrupted(scope: &Scope) -> Result<Vec<Incident>, PassError> {
    block_on(async {
        let mut site = Site::of(scope);
        let foundation = Foundation::lay(&site.state_dir, site.workers, site.gates, Notices::none())?;
        let cx = &foundation.cx;
        cx.journal.limit(site.limits);
        let (remembered, left_open) = foundation.recall(site.gates).await;
        site.recall(&remembered, &left_open);
        let interrupted = left_open.into_iter().filter(|left| left.replayed.is_interrupted()).collect::<Vec<_>>();
        if interrupted.is_empty() {
            return Ok(Vec::new());
        }
        let mut targets = site.targets(&cx.jobs, &[]).await?;
        let mut incidents = Vec::new();
        for left in interrupted {
            let incident = left.replayed.incident.clone();
            let its = (incident.target.as_str(), incident.mode.as_str());
            let mut names = targets.iter().map(|target| (target.settings().target.as_str(), target.settings().mode));
            let Some(at) = names.position(|name| name == its) else {
                incidents.push(incident);
                continue;
            };
            let mut target = targets.swap_remove(at);
            remind(target.as_mut(), &remembered, &cx.clock);
            let attended = resume(cx, target, left).await;
            saved(cx, attended.target, &incident.target, &incident.mode).await?;
            incidents.push(attended.case.map_or(incident, |case| case.incident().clone()));
        }
        Ok(incidents)
    })?
}

/// What the command prints of a heal that was asked for.
pub(super) fn report(answer: HealAnswer, dry_run: bool) -> HealReport {
    let HealAnswer { check, incident, playbooks, refused } = answer;
    let target = check.target.clone();
    let healed = incident.as_ref().is_some_and(|incident| incident.outcome == Some(Resolution::Healed));
    let outcome = match (&check.verdict, dry_run) {
        (Verdict::Healthy, _) if healed => HealOutcome::Healed,
        (Verdict::Healthy, _) => HealOutcome::Healthy,
        (Verdict::Unknown(_), _) => HealOutcome::Unknown,
        (Verdict::Unhealthy(_), true) => HealOutcome::Planned,
        (Verdict::Unhealthy(_), false) => HealOutcome::Failed,
    };
    let playbooks = if dry_run { playbooks } else { Vec::new() };
    HealReport { target, outcome, check, playbooks, reason: refused, incident }
}

/// Looks through all pages of a database, telling at most so many faults; `full`: also through what indexes hold.
///
/// # Errors
/// When no child could do it; what could not be told is a verdict.
pub fn scrub(scope: &Scope, subject: &Subject, faults_max: usize, full: bool) -> Result<Scrubbed, PassError> {
    block_on(async {
        let site = Site::of(scope);
        let jobs = foundation::client(site.workers);
        let databases = site.databases(&jobs, std::slice::from_ref(subject)).await?;
        let Some(database) = databases.first() else { return Err(failed("nothing matches".to_owned())) };
        match jobs.run(database.scrub(faults_max, full), SCRUB_PATIENCE).await {
            Ok(Outcome::Scrubbed(found)) => Ok(*found),
            Ok(_) => Err(failed("the scrub's job answered something else".to_owned())),
            // A child that died or was killed says nothing of the database.
            Err(failure) => Err(PassError { exit: 3, message: failure.message }),
        }
    })?
}

/// A scrub reads a whole database once, or three times where a program writes to it.
const SCRUB_PATIENCE: Duration = Duration::from_secs(6 * 3600);

/// Listing reads small files in one folder.
const LIST_PATIENCE: Duration = Duration::from_secs(60);

/// What a command works on, resolved.
struct Site<'a> {
    config: Option<&'a Config>,
    state_dir: PathBuf,
    workers: usize,
    gates: GatesConfig,
    limits: Limits,
    defaults: Defaults,
    /// What is remembered of each target, and whether an incident of it was left open.
    known: Vec<(Remembered, bool)>,
}

impl Site<'_> {
    fn of(scope: &Scope) -> Site<'_> {
        let config = scope.config.as_ref();
        let state_dir = scope.state_dir.as_deref().map(absolute);
        let state_dir = state_dir
            .or_else(|| config.map(|config| config.guardian.state_dir.clone()))
            .unwrap_or_else(|| Environment::of_process().state_dir());
        let defaults = match config {
            Some(config) => Defaults { state_dir: state_dir.clone(), ..targets::defaults(config) },
            None => Defaults { state_dir: state_dir.clone(), interval: Duration::from_secs(30), policy: Policy::Heal },
        };
        Site {
            config,
            state_dir,
            workers: config.map_or(1, |config| config.guardian.workers),
            limits: config.map_or_else(Limits::default, targets::limits),
            gates: config.map_or(GatesConfig::OPEN, targets::gates),
            defaults,
            known: Vec::new(),
        }
    }

    /// Where incident `id` should be. What nothing was ever kept in has no incident, and is not made for the sake of the answer.
    fn with_incidents<'s>(scope: &'s Scope, id: &str) -> Result<Site<'s>, PassError> {
        let site = Site::of(scope);
        if !site.state_dir.exists() {
            return Err(failed(format!("there is no incident {id}: {} does not exist", site.state_dir.display())));
        }
        Ok(site)
    }

    async fn targets(&self, jobs: &Client, subjects: &[Subject]) -> Result<Vec<Box<dyn Supervised>>, PassError> {
        let databases = self.databases(jobs, subjects).await?;
        Ok(databases.into_iter().map(|database| Box::new(database) as Box<dyn Supervised>).collect())
    }

    /// The databases that are meant; all that are configured when nothing is named.
    async fn databases(&self, jobs: &Client, subjects: &[Subject]) -> Result<Vec<Database>, PassError> {
        let mut all = Vec::new();
        for subject in subjects {
            if let Subject::Path(path) = subject {
                // Without a configuration its backups are where they would be with one.
                let backup = Some(BackupPlan::standard(&self.state_dir));
                let config = DatabaseConfig { backup, ..DatabaseConfig::for_path(&settled(path), Path::new("/")) };
                all.push(self.database(config));
            }
        }
        let named = |config: &DatabaseConfig| {
            subjects.is_empty()
                || subjects.iter().any(|subject| matches!(subject, Subject::Named(name) if config.name == *name))
        };
        for config in self.config.iter().flat_map(|config| &config.databases) {
            if !config.is_glob() {
                all.extend(named(config).then(|| self.database(config.clone())));
                continue;
            }
            let below = |name: &str| name.strip_prefix(&config.name).is_some_and(|rest| rest.starts_with('/'));
            let asked = subjects.iter().any(|subject| matches!(subject, Subject::Named(name) if below(name)));
            if named(config) || asked {
                let found = self.expand(jobs, config).await?.into_iter();
                let wanted = found.filter(|database| named(config) || named(database));
                all.extend(wanted.map(|database| self.database(database)));
            }
        }
        match all.is_empty() {
            true => Err(failed("no target matches".to_owned())),
            false => Ok(all),
        }
    }

    async fn expand(&self, jobs: &Client, config: &DatabaseConfig) -> Result<Vec<DatabaseConfig>, PassError> {
        let mut glob = Glob::new(config.clone(), &self.defaults);
        let recalled = self.known.iter().map(|(remembered, left_open)| Recalled {
            target: &remembered.target,
            mode: &remembered.mode,
            memory: &remembered.memory,
            left_open: *left_open,
        });
        let mut found = glob.matches_recalled(&recalled.collect::<Vec<_>>());
        found.extend(glob.matches_listed(&jobs.run(glob.ask(), LIST_PATIENCE).await).map_err(failed)?);
        found.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(found)
    }

    /// What earlier processes knew, for the globs.
    fn recall(&mut self, remembered: &[Remembered], left_open: &[LeftOpen]) {
        let is_open = |one: &Remembered| {
            let of = |left: &LeftOpen| {
                (&left.replayed.incident.target, &left.replayed.incident.mode) == (&one.target, &one.mode)
            };
            left_open.iter().any(of)
        };
        self.known = remembered.iter().map(|one| (one.clone(), is_open(one))).collect();
    }

    fn database(&self, config: DatabaseConfig) -> Database {
        Database::new(config, &self.defaults)
    }
}

/// The one way to write a path that was typed: what is remembered of a file, and where its backups are, goes by it. Its
/// own name is left as it is, for links are not followed.
pub fn settled(path: &Path) -> PathBuf {
    let whole = absolute(path);
    match (whole.parent().map(Path::canonicalize), whole.file_name()) {
        (Some(Ok(folder)), Some(name)) => folder.join(name),
        _ => whole,
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}

fn failed(message: String) -> PassError {
    PassError { exit: 1, message }
}

impl From<DaemonError> for PassError {
    fn from(error: DaemonError) -> PassError {
        failed(error.to_string())
    }
}
