//! The other children of our supervisor: they may have a database open on its behalf, and are no users of it.

use rustix::process::getppid;

/// Our parent, when it is the same program as we are. `None` when we were started by hand: then the children of a shell are anybody.
pub fn supervisor() -> Option<i32> {
    let parent = getppid()?.as_raw_nonzero().get();
    let program = |pid: &str| std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    (program("self").is_some() && program("self") == program(&parent.to_string())).then_some(parent)
}

/// Whether a process is `supervisor` or one of its children, also one that began just now.
pub(super) fn is_of(pid: i32, supervisor: i32) -> bool {
    pid == supervisor || parent_of(pid) == Some(supervisor)
}

/// The second field behind the command's name, which may hold spaces and parentheses itself (proc(5)).
fn parent_of(pid: i32) -> Option<i32> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let fields = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    fields.split_ascii_whitespace().nth(1)?.parse().ok()
}
