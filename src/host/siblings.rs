//! The other children of our supervisor: they may have a database open on its behalf, and are no users of it.

use rustix::process::getppid;

/// Our parent, when it is the same program as we are, and its other children. Empty when we were started by hand: then the
/// children of a shell are anybody.
pub fn supervisor_and_siblings() -> Vec<i32> {
    let Some(parent) = getppid().map(|parent| parent.as_raw_nonzero().get()) else { return Vec::new() };
    let program = |pid: &str| std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    if program("self").is_none() || program("self") != program(&parent.to_string()) {
        return Vec::new();
    }
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    let children = children.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok());
    std::iter::once(parent).chain(children).collect()
}
