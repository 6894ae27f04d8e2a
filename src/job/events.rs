//! What the client tells about its children, for metrics and logs: this room may not know those.

use crate::model::RestartReason;

/// Hears what happens to children. Called on the supervisor's own thread: an implementation returns at once.
pub trait WorkerEvents: Send + Sync {
    /// A child was killed, or died, before its work was done. `detail` says on which job and how.
    fn restarted(&self, reason: RestartReason, detail: &str);

    /// A line that a child wrote to its standard error: a panic's message, say.
    fn said(&self, pid: u32, line: &str);

    /// Not even SIGKILL ended the child `pid`, and it was given up; so many are now in this state.
    fn abandoned(&self, pid: u32, now: usize);

    /// A child that had been given up ended after all; so many still have not.
    fn returned(&self, pid: u32, now: usize);
}

/// Hears nothing.
impl WorkerEvents for () {
    fn restarted(&self, _reason: RestartReason, _detail: &str) {}
    fn said(&self, _pid: u32, _line: &str) {}
    fn abandoned(&self, _pid: u32, _now: usize) {}
    fn returned(&self, _pid: u32, _now: usize) {}
}
