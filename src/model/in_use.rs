//! Who uses a target, as far as it could be seen: for people, in words, and for scripts, in fields.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::millis_option;

/// Why a process stands still, and will not let go of its locks by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standstill {
    /// By a signal (SIGSTOP, SIGTSTP…): SIGCONT lets it go on.
    Stopped,
    /// A debugger has it.
    Traced,
    /// Its cgroup is frozen: only whoever froze it can thaw it.
    Frozen,
    /// By a signal, and it cannot be told whether a cgroup freezer has it too.
    Unclear,
}

impl Standstill {
    /// For messages, behind the state letter.
    pub fn words(self) -> &'static str {
        match self {
            Standstill::Stopped => "stopped",
            Standstill::Traced => "stopped by a debugger",
            Standstill::Frozen => "frozen by its cgroup",
            Standstill::Unclear => "stopped, perhaps frozen",
        }
    }
}

/// Who uses a target.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct InUse {
    /// Processes that have it open; `None` when this look did not ask, which costs a pass over /proc.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub holders: Option<Vec<Holder>>,
    /// When `holders` were seen.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "millis_option::serialize", default)]
    pub holders_seen_at: Option<Timestamp>,
    /// Locks that say something: those that an idle program has all its life do not.
    pub locks: Vec<LockHeld>,
    /// What could not be seen, in words. All of it counts as "in use", but for programs of root where guardiand is an ordinary user.
    pub unseen: Vec<String>,
}

/// A process that has the target open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The process.
    pub pid: i32,
    /// The name of its program; never its command line.
    pub comm: String,
    /// Its effective user.
    pub uid: u32,
    /// Its state letter: `T` is stopped.
    pub state: char,
    /// What it has open.
    pub files: Vec<String>,
    /// Those of them whose name is gone.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub unlinked: Vec<String>,
    /// All that in a sentence.
    pub words: String,
}

/// A lock, and the process that has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LockHeld {
    /// The process; 0 when it cannot be named from here.
    pub pid: i32,
    /// The name of its program; never its command line.
    pub comm: String,
    /// Its state letter: `T` is stopped.
    pub state: char,
    /// Its name, such as `EXCLUSIVE`.
    pub lock: String,
    /// For how long it has been seen, in seconds: it is at least so old.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub held_seconds: Option<f64>,
    /// All that in a sentence.
    pub words: String,
}
