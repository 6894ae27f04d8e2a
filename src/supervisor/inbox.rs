//! What can happen to the supervisor: everything arrives in one inbox, so that nothing happens at the same time.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::oneshot;

use crate::model::{Check, Incident, IncidentId, Playbook};
use crate::modes::Answer;

use super::{Attended, Case, GatesConfig, Pause, Plant, RollbackAnswer, RollbackAsk};

/// Names a slot for as long as the daemon runs.
pub(super) type SlotId = u64;

/// One thing that happened.
pub enum Message {
    /// A file changed, as far as an event can be believed.
    Changed {
        /// It, or the watched folder that it is in.
        path: PathBuf,
        /// Bytes were written, and nothing else: a database's everyday.
        written: bool,
    },
    /// So much changed that nobody kept count.
    ChangedEverything,
    /// A look came back.
    #[doc(hidden)]
    Looked(u64, Answer),
    /// A sweep's last look came back.
    #[doc(hidden)]
    SweepDone,
    /// A target comes back from being attended.
    #[doc(hidden)]
    Attended(u64, Box<Attended>),
    /// An errand came back.
    #[doc(hidden)]
    ErrandDone(u64, &'static str, Answer, Option<oneshot::Sender<Answer>>),
    /// A glob was listed.
    #[doc(hidden)]
    Listed(usize, Answer),
    /// A person or the daemon asks for something.
    Command(Command),
    /// The incident for what many failures have in common is open, if only in memory.
    #[doc(hidden)]
    CauseOpened(Box<Case>),
}

/// What can be asked of a running supervisor.
pub enum Command {
    /// Look at a target now and heal it; policy and gates give way to the person who asks.
    Heal {
        /// The configured name.
        target: String,
        /// Only say what would be done.
        dry_run: bool,
        /// The answer; an error when there is no such target. One that is being attended comes next.
        reply: oneshot::Sender<Result<HealAnswer, String>>,
    },
    /// Look at a target now, in full, and heal nothing.
    Check {
        /// The configured name.
        target: String,
        /// The answer.
        reply: oneshot::Sender<Result<Check, String>>,
    },
    /// See who uses a target now; the status board has it afterwards.
    Who {
        /// The configured name.
        target: String,
        /// When it is there; an error when there is no such target, or it is being attended.
        reply: oneshot::Sender<Result<(), String>>,
    },
    /// Take a backup now.
    Backup {
        /// The configured name.
        target: String,
        /// The answer.
        reply: oneshot::Sender<Result<Answer, String>>,
    },
    /// Take the heal of an incident back; policy and gates give way to the person who asks.
    Rollback {
        /// What is asked for.
        ask: RollbackAsk,
        /// The incident, as the journal has it.
        of: Box<Incident>,
        /// The answer; an error when its target is not there. One that is being attended comes next.
        reply: oneshot::Sender<Result<RollbackAnswer, String>>,
    },
    /// A person says yes to what an incident's plan would do.
    Approve {
        /// The incident.
        incident: IncidentId,
        /// The user who says so.
        by: u32,
        /// What came of it; an error when it waits for no yes, or when the plan costs more by now.
        reply: oneshot::Sender<Result<HealAnswer, String>>,
    },
    /// Heal nothing of a target until further notice; looks and backups go on.
    Pause {
        /// The configured name, of a target or a glob; everything when there is none.
        name: Option<String>,
        /// It ends by itself after this.
        span: Option<Duration>,
        /// The user who says so.
        by: u32,
        /// As it is in force.
        reply: oneshot::Sender<Result<Pause, String>>,
    },
    /// End a pause, let go of what a gate holds until a person looked, and look again at once.
    Resume {
        /// The configured name, of a target or a glob; everything when there is none.
        name: Option<String>,
        /// The user who says so.
        by: u32,
        /// What was held back.
        reply: oneshot::Sender<Result<Resumed, String>>,
    },
    /// Another configuration from now on.
    Reconfigure {
        /// All targets and globs of it.
        plant: Plant,
        /// Its gates.
        gates: GatesConfig,
    },
}

/// What a heal that was asked for came to.
#[derive(Debug)]
pub struct HealAnswer {
    /// What the detector says now.
    pub check: Check,
    /// The incident, if there was one.
    pub incident: Option<Incident>,
    /// What was or would be tried.
    pub playbooks: Vec<Playbook>,
    /// Why nothing may be tried.
    pub refused: Option<String>,
}

/// What a resume ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Resumed {
    /// Targets that are looked at again at once.
    pub targets: Vec<String>,
    /// A pause was in force.
    pub was_paused: bool,
    /// They were held because too many failed at once.
    pub was_held: bool,
    /// Heals that had been made of them no longer count: the budget is full again, and no cooldown runs.
    pub was_refilled: bool,
    /// Some of them are held still, because too many failed at once: it takes a word about all.
    pub still_held: bool,
    /// It was left alone because a heal of it had been taken back, and is healed like any other again.
    pub was_rolled_back: bool,
    /// Targets that are left alone for that still: it takes the name of each.
    pub rolled_back: Vec<String>,
}
