//! Why a worker child had to be replaced: counted by the one, seen by the other.

/// Why a child had to be replaced before its work was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RestartReason {
    /// A job ran past its patience.
    Deadline,
    /// It ended by itself in the middle: a signal, an abort, the memory limit, or it spoke garbage.
    Crash,
    /// It worked on nothing, and neither went on nor ended.
    Idle,
}

impl RestartReason {
    /// Every reason.
    pub const ALL: [RestartReason; 3] = [RestartReason::Deadline, RestartReason::Crash, RestartReason::Idle];

    /// The label of `guardian_worker_restarts_total`.
    pub fn name(self) -> &'static str {
        match self {
            RestartReason::Deadline => "deadline",
            RestartReason::Crash => "crash",
            RestartReason::Idle => "idle",
        }
    }
}
