//! The other children of our supervisor: they may have a database open on its behalf, and are no users of it.

use rustix::process::getppid;

use super::procfs;

/// Our parent, when it is the same program as we are, and its other children. Empty when we were started by hand: then the
/// children of a shell are anybody.
pub fn supervisor_and_siblings() -> Vec<i32> {
    let Some(parent) = getppid().map(|parent| parent.as_raw_nonzero().get()) else { return Vec::new() };
    let program = |pid: &str| std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    if program("self").is_none() || program("self") != program(&parent.to_string()) {
        return Vec::new();
    }
    std::iter::once(parent).chain(procfs::pids().filter(|pid| parent_of(*pid) == Some(parent))).collect()
}

/// The second field behind the command's name, which may hold spaces and parentheses itself (proc(5)).
fn parent_of(pid: i32) -> Option<i32> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let fields = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    fields.split_ascii_whitespace().nth(1)?.parse().ok()
}
