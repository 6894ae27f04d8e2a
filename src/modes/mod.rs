//! One folder per failure mode, and what the supervisor may ask of any of them.
//!
//! A mode never does IO. It *asks* for facts (a [`Job`] that a child runs), *judges* what came back, *plans*
//! playbooks and turns each step into a job again. So judging and planning are pure, and a hang, a crash or a
//! lie in a database is an [`Answer`] like any other.
//!
//! To add a mode: a folder with `mod.rs`, `detect.rs` (judge), `heal.rs` (plan) and `config.rs`, and its one line
//! in the list of modules below.

pub mod database;

pub mod config;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::clock::Moment;
use crate::job::{Job, JobFailure, Outcome, Phase};
use crate::model::{Check, Incident, Kind, Loss, Plan, Playbook, Policy, StepOutcome, StepSpec};

/// What came back for a job.
pub type Answer = Result<Outcome, JobFailure>;

/// How to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// The regular, cheap look: an unchanged target costs a `stat`.
    Sweep,
    /// The independent second look before anything is done: nothing is taken for granted from before, and
    /// everything that a plan needs to know is collected.
    Confirm,
    /// Everything, in full: only this closes an incident.
    Prove,
    /// A person asks: everything, its content included.
    Inspect,
}

/// What the supervisor must know of a target to schedule it and to gate its heals.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The configured name: the label in metrics.
    pub target: String,
    /// The failure mode.
    pub mode: &'static str,
    /// Look at least this often.
    pub interval: Duration,
    /// What may be done.
    pub policy: Policy,
    /// Delays of the playbook that waits: attempts, initial, factor, max.
    pub retry: Retry,
    /// A change of any of these paths wakes the target at once.
    pub watches: Vec<PathBuf>,
    /// Every layer of the mode, in order.
    pub layers: &'static [&'static str],
}

/// How a playbook that only waits spaces its looks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Retry {
    /// Looks.
    pub attempts: u32,
    /// Before the first.
    pub initial: Duration,
    /// Between one and the next.
    pub factor: f64,
    /// At most.
    pub max: Duration,
}

/// How a heal is to be taken back.
#[derive(Debug, Clone, PartialEq)]
pub struct Rollback {
    /// What to do; `None` when the files are as they were already.
    pub playbook: Option<Playbook>,
    /// What it brings back and what it costs, in words.
    pub words: String,
    /// What was committed since, and goes with the heal.
    pub loss: Option<Loss>,
    /// The same for programs.
    pub facts: serde_json::Value,
}

/// Why a heal is not taken back now.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// The reason, and the next command for a person.
    pub message: String,
    /// What was seen, for programs; null when nothing was.
    pub facts: serde_json::Value,
}

/// What the supervisor does for one step.
#[derive(Debug, Clone)]
pub enum Action {
    /// Run this in a child.
    Run(Box<Job>),
    /// Wait with the target's [`Retry`], looking after each delay; done when it is healthy.
    WaitUntilHealthy,
}

/// What a step came to.
#[derive(Debug, Clone, PartialEq)]
pub struct StepResult {
    /// How it ended.
    pub outcome: StepOutcome,
    /// What it did, or why it did not.
    pub detail: String,
    /// What is lost if this step's playbook is what heals; `None` when the step replaces nothing.
    pub loss: Option<Loss>,
    /// The incident's evidence folder has the files as they were, by this step.
    pub preserved: bool,
    /// It failed for a reason that is not the rung's own (in use, no room, no time): that is no reason to take a rung
    /// that loses more.
    pub held: bool,
    /// It failed because something else is wrong by now than what it was planned for: that needs a plan of its own.
    pub outdated: bool,
    /// It failed because its turn has not come (what it needs is in use until its program ends), and its playbook has only added to the
    /// evidence: that is no attempt, and the next waits for no gate.
    pub early: bool,
}

impl StepResult {
    /// Ended so, with nothing lost and nothing kept.
    pub fn new(outcome: StepOutcome, detail: impl Into<String>) -> StepResult {
        StepResult {
            outcome,
            detail: detail.into(),
            loss: None,
            preserved: false,
            held: false,
            outdated: false,
            early: false,
        }
    }
}

/// Work that is due apart from looking: a scheduled check, a backup.
#[derive(Debug, Clone)]
pub struct Errand {
    /// Names it in logs, and in [`Supervised::errand_done`].
    pub name: &'static str,
    /// The work.
    pub job: Job,
    /// Its child is killed after this long.
    pub deadline: Duration,
    /// It does not wait behind the checks and backups of others: what it is for may be gone by then.
    pub urgent: bool,
}

/// What a finished errand says about its target.
#[derive(Debug, Default)]
pub struct ErrandResult {
    /// A check that the errand amounts to; judged like any other.
    pub check: Option<Check>,
    /// More work that follows from it, at once.
    pub then: Option<Errand>,
}

/// Figures for the status board, as far as a target has them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Vitals {
    /// The main file's size, in bytes.
    pub size_bytes: Option<u64>,
    /// The WAL's size, in bytes.
    pub wal_bytes: Option<u64>,
    /// When the newest good backup was taken.
    pub last_backup_at: Option<jiff::Timestamp>,
}

/// One (target, mode) under supervision.
pub trait Supervised: Send {
    /// Name, cadence, policy.
    fn settings(&self) -> &Settings;

    /// Its open incident, and where that one's evidence is kept: before anything is planned or proven for it, and again in
    /// each process that takes it up.
    fn take_up(&mut self, _incident: &Incident, _evidence: &Path) {}

    /// True once after a look that found what held the last attempt up to be over: then it is made again at once.
    fn turned(&mut self) -> bool {
        false
    }

    /// The job that collects the facts for this look.
    fn ask(&self, look: Look, now: Moment) -> Job;

    /// How long that job may take before its child is killed.
    fn patience(&self, look: Look) -> Duration;

    /// Judges what came back, and remembers what the next look needs.
    fn judge(&mut self, look: Look, answer: &Answer, now: Moment) -> Check;

    /// When to look again before the regular interval is over: while something is waited for. `None`: no need.
    fn look_again(&self) -> Option<Duration>;

    /// What it stands on, where that is known: targets with the same ground hang together when its disk does not answer.
    fn ground(&self) -> Option<&str>;

    /// True when it was seen healthy once, by this process or an earlier one: only then it can have begun to fail.
    fn seen_healthy(&self) -> bool;

    /// Figures for people.
    fn vitals(&self) -> Vitals;

    /// The fault's own time on the wall clock, where the last unhealthy answer tells it: `opened_at` minus this is the
    /// detection time.
    fn fault_time(&self) -> Option<jiff::Timestamp>;

    /// True when healing this kind replaces or rewrites the user's bytes, so that a second look must agree first.
    fn needs_second_look(&self, kind: &Kind) -> bool;

    /// True when a target with no other finding is in its content what it shall be: what was put in place for something worse is
    /// not taken back for it.
    fn is_mild(&self, _kind: &Kind) -> bool {
        false
    }

    /// What `look` saw may have been written just then, and read half: nothing is done about it before another look, this much
    /// later.
    fn unsettled(&self, _look: Look) -> Option<Duration> {
        None
    }

    /// Playbooks for what [`Look::Confirm`] found, the least lossy first; empty with a reason where there is nothing to try.
    ///
    /// # Errors
    /// Why no playbook may run, with the exact next command for a person.
    fn plan(&self, incident: &Incident) -> Result<Plan, String>;

    /// The job that says what taking back the heal of `incident` would cost. `generation` is which of its preservations comes
    /// back; the last when `None`.
    ///
    /// # Errors
    /// Why its heal cannot be taken back.
    fn weigh_rollback(&self, _incident: &Incident, _evidence: &Path, _generation: Option<u32>) -> Result<Job, String> {
        Err("the heals of this failure mode replace no file: there is nothing to roll back".to_owned())
    }

    /// What to do about the answer to that job.
    ///
    /// # Errors
    /// Why nothing may be done, with the next command for a person.
    fn plan_rollback(
        &self,
        _incident: &Incident,
        _evidence: &Path,
        weighed: &Answer,
        _accept_loss: bool,
    ) -> Result<Rollback, Refusal> {
        let message = weighed.as_ref().err().map_or_else(String::new, |failure| failure.message.clone());
        Err(Refusal { message, facts: serde_json::Value::Null })
    }

    /// What goes into evidence before anybody is waited for, because the program that has it can destroy it at any time; `None`
    /// where nothing is at stake, or the plan begins with it and waits for nobody. Asked for again it says the same: what was
    /// kept is in the incident.
    fn keep_first(&self, _incident: &Incident) -> Option<Playbook> {
        None
    }

    /// Bytes that this step adds to an incident's evidence; `None` when it adds none.
    fn keeps_bytes(&self, _step: &StepSpec) -> Option<u64> {
        None
    }

    /// What to do for `step` in `phase`.
    ///
    /// # Errors
    /// When the step is of a shape that this version does not know.
    fn action(&self, incident: &Incident, evidence: &Path, step: &StepSpec, phase: Phase) -> Result<Action, String>;

    /// True when an applied step of this kind must be taken back if its playbook does not heal.
    fn leaves_a_trace(&self, step: &StepSpec) -> bool;

    /// How long that action may take before its child is killed.
    fn step_patience(&self, step: &StepSpec) -> Duration;

    /// What the action came to.
    fn step_result(&mut self, step: &StepSpec, phase: Phase, answer: &Answer) -> StepResult;

    /// The next errand that is due, if any. At most one is under way per target.
    fn errand(&mut self, now: Moment) -> Option<Errand>;

    /// When the next errand falls due, for the schedule.
    fn next_errand(&self, now: Moment) -> Option<Duration>;

    /// An errand that a person asks for now, by name; `None` when this target has no such errand.
    fn errand_now(&mut self, name: &str, now: Moment) -> Option<Errand>;

    /// What an errand came to.
    fn errand_done(&mut self, name: &'static str, answer: &Answer, now: Moment) -> ErrandResult;

    /// What must outlive this process, when it changed since the last call.
    fn memory(&mut self) -> Option<serde_json::Value>;

    /// All that must outlive this process, changed or not.
    fn whole_memory(&self) -> serde_json::Value;

    /// Takes back what an earlier process remembered. Unreadable memory is dropped with a log line: never seen healthy is
    /// the safe thing to believe.
    fn remember(&mut self, memory: serde_json::Value, now: Moment);
}

/// What an earlier process knew of one target.
#[derive(Debug, Clone, Copy)]
pub struct Recalled<'a> {
    /// Its name.
    pub target: &'a str,
    /// The failure mode.
    pub mode: &'a str,
    /// See [`Supervised::whole_memory`].
    pub memory: &'a serde_json::Value,
    /// It has an incident that was left open.
    pub left_open: bool,
}

/// Targets that come and go: a glob.
pub trait Discovery: Send {
    /// Names it in logs.
    fn name(&self) -> &str;

    /// The job that lists what is there now.
    fn ask(&self) -> Job;

    /// The folders whose change calls for a new look.
    fn watches(&self) -> Vec<PathBuf>;

    /// True for a match that the configuration wants not to be a target.
    fn excludes(&self, target: &str) -> bool;

    /// A target for each that was known before, whether it is there now or not: before anything is listed.
    fn recall(&mut self, recalled: &[Recalled<'_>]) -> Vec<Box<dyn Supervised>>;

    /// A target for each further match. An `Err` says what is wrong, for the log.
    ///
    /// # Errors
    /// When the listing failed: the present targets stay.
    fn targets(&mut self, answer: &Answer) -> Result<Vec<Box<dyn Supervised>>, String>;
}
