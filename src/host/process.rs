//! One process: its facts, a handle that cannot mean another, and the limits of our own children.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, getppid, getrlimit, pidfd_open, pidfd_send_signal,
    set_parent_process_death_signal, setrlimit, test_kill_process,
};
use serde::{Deserialize, Serialize};

use super::access::acting_as;
use super::error::HostError;
use super::proc_files::blind_everywhere;
use super::procfs;

/// Ticks of `/proc/PID/stat` per second: `USER_HZ`, which is 100 on every architecture that Rust's standard library
/// runs on with Linux.
const TICKS_PER_SECOND: u64 = 100;

/// What is said of a process. Never its command line: secrets are passed there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessFacts {
    /// Its number in this PID namespace.
    pub pid: i32,
    /// The name of its program, 15 bytes at most (`comm`).
    pub comm: String,
    /// Effective user.
    pub uid: u32,
    /// Effective group and supplementary groups.
    pub gids: Vec<u32>,
    /// State letter of `proc_pid_stat(5)`: R, S, D, T, Z…
    pub state: char,
    /// When it started, in milliseconds since boot (10 ms steps): with the pid, this names a process for good.
    pub started_boot_ms: u64,
}

impl ProcessFacts {
    /// The facts of process `pid`.
    ///
    /// # Errors
    /// [`HostError::ReadProc`], `is_absent()` when it is gone; [`HostError::ParseProc`].
    pub fn of(pid: i32) -> Result<ProcessFacts, HostError> {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let stat = read(&folder.join("stat"))?;
        let (comm, state, started_boot_ms) = parse_stat(&stat).ok_or_else(|| odd("a process", &folder, &stat))?;
        let status = read(&folder.join("status"))?;
        let (uid, gids) = parse_status(&status).ok_or_else(|| odd("uids", &folder, &status))?;
        Ok(ProcessFacts { pid, comm, uid, gids, state, started_boot_ms })
    }

    /// Whether it stands still by a signal or a tracer: it keeps its locks and will not let go of them.
    pub fn is_stopped(&self) -> bool {
        matches!(self.state, 'T' | 't')
    }
}

/// Whether a program of one of these names (`comm`) runs that was started at `since_boot_ms` or later; `None` where not all
/// processes can be seen.
pub fn runs_since(names: &[String], since_boot_ms: u64) -> Option<bool> {
    if !blind_everywhere(rustix::process::geteuid().is_root()).is_empty() {
        return None;
    }
    Some(procfs::pids().any(|pid| {
        ProcessFacts::of(pid).is_ok_and(|process| {
            !matches!(process.state, 'Z' | 'X')
                && process.started_boot_ms >= since_boot_ms
                && names.contains(&process.comm)
        })
    }))
}

/// A process that ends while it is read answers `ESRCH`, one that ended before `ENOENT`.
fn read(path: &Path) -> Result<String, HostError> {
    procfs::text(path)
}

fn odd(what: &'static str, folder: &Path, text: &str) -> HostError {
    HostError::ParseProc { what, path: folder.into(), line: text.lines().next().unwrap_or_default().to_owned() }
}

/// `pid (comm) state …`, where comm may hold blanks and parentheses: so from the last `)` on.
fn parse_stat(stat: &str) -> Option<(String, char, u64)> {
    let (before, after) = stat.rsplit_once(')')?;
    let comm = before.split_once('(')?.1.to_owned();
    let mut fields = after.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    // Field 22 of stat, of which state is the 3rd.
    let ticks: u64 = fields.nth(18)?.parse().ok()?;
    Some((comm, state, ticks.saturating_mul(1000 / TICKS_PER_SECOND)))
}

fn parse_status(status: &str) -> Option<(u32, Vec<u32>)> {
    // Uid:  real effective saved fs
    let effective = |key| procfs::field(status, key)?.split_ascii_whitespace().nth(1)?.parse().ok();
    let uid = effective("Uid")?;
    let mut gids = vec![effective("Gid")?];
    let groups = procfs::field(status, "Groups").unwrap_or_default();
    gids.extend(groups.split_ascii_whitespace().filter_map(|group| group.parse::<u32>().ok()));
    Some((uid, gids))
}

/// A process that stays the same process: signals through it never reach another one that got its number.
#[derive(Debug)]
pub struct ProcessHandle {
    pid: i32,
    pidfd: OwnedFd,
}

impl ProcessHandle {
    /// A handle on `pid`, if it is still the process that started at `started_boot_ms`.
    ///
    /// # Errors
    /// [`HostError::Process`] with `ESRCH` when it is gone or its number belongs to another by now.
    pub fn open(pid: i32, started_boot_ms: u64) -> Result<ProcessHandle, HostError> {
        let gone = || process_error("find", pid, rustix::io::Errno::SRCH.into());
        let raw = Pid::from_raw(pid).ok_or_else(gone)?;
        let pidfd = pidfd_open(raw, PidfdFlags::empty()).map_err(|errno| process_error("open", pid, errno.into()))?;
        // Read after the handle was opened: if the start time fits now, the handle is that process's.
        match ProcessFacts::of(pid) {
            Ok(facts) if facts.started_boot_ms == started_boot_ms => Ok(ProcessHandle { pid, pidfd }),
            Ok(_) => Err(gone()),
            Err(error) if error.is_absent() => Err(gone()),
            Err(error) => Err(error),
        }
    }

    /// Its number.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Lets a stopped process of the user `uid` go on (`SIGCONT`). Under its unit guardiand is root without `CAP_KILL`, so that
    /// nothing it runs can end whatever it likes: then the signal is sent with that user's own rights, which reach no other's.
    ///
    /// # Errors
    /// [`HostError::Process`].
    pub fn go_on(&self, uid: u32) -> Result<(), HostError> {
        let send = || self.signal("resume", Signal::CONT);
        match send() {
            Err(error) if error.is_forbidden() => acting_as(uid, send).unwrap_or(Err(error)),
            answer => answer,
        }
    }

    /// Makes it stand still (`SIGSTOP`).
    ///
    /// # Errors
    /// [`HostError::Process`].
    pub fn stop(&self) -> Result<(), HostError> {
        self.signal("stop", Signal::STOP)
    }

    /// Asks it to end (`SIGTERM`).
    ///
    /// # Errors
    /// [`HostError::Process`].
    pub fn terminate(&self) -> Result<(), HostError> {
        self.signal("terminate", Signal::TERM)
    }

    /// Ends it (`SIGKILL`).
    ///
    /// # Errors
    /// [`HostError::Process`].
    pub fn kill(&self) -> Result<(), HostError> {
        self.signal("kill", Signal::KILL)
    }

    /// Why it cannot be sent a signal, if so.
    pub fn cannot_be_signalled(&self) -> Option<HostError> {
        let pid = Pid::from_raw(self.pid)?;
        test_kill_process(pid).err().map(|errno| process_error("signal", self.pid, errno.into()))
    }

    /// Whether it belongs to this unit of systemd's.
    ///
    /// # Errors
    /// [`HostError::Process`].
    pub fn is_of_unit(&self, unit: &str) -> Result<bool, HostError> {
        let cgroups = procfs::text(Path::new(&format!("/proc/{}/cgroup", self.pid)))?;
        Ok(cgroups.lines().any(|line| line.split('/').any(|part| part == unit)))
    }

    /// Waits until it has ended, at most `limit`; whether it has. Blocks the thread.
    ///
    /// # Errors
    /// [`HostError::Process`].
    pub fn wait_gone(&self, limit: Duration) -> Result<bool, HostError> {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let limit = Timespec::try_from(limit).ok();
        let ready =
            poll(&mut fds, limit.as_ref()).map_err(|errno| process_error("wait for", self.pid, errno.into()))?;
        Ok(ready > 0)
    }

    fn signal(&self, doing: &'static str, signal: Signal) -> Result<(), HostError> {
        pidfd_send_signal(&self.pidfd, signal).map_err(|errno| process_error(doing, self.pid, errno.into()))
    }
}

fn process_error(doing: &'static str, pid: i32, source: io::Error) -> HostError {
    HostError::Process { doing, pid, source }
}

/// Has the kernel kill this process when its parent ends; `parent` is who should be the parent still.
///
/// Called first thing in a child. The kernel watches the *thread* that made the child, so that must be one that lives
/// as long as the process does (`PR_SET_PDEATHSIG(2const)`); and it forgets the wish when the child changes its uid.
///
/// # Errors
/// [`HostError::Limit`]; also when the parent had ended before: then the caller should exit.
pub fn die_with_parent(parent: i32) -> Result<(), HostError> {
    let failed = |source| HostError::Limit { doing: "tie the life to the parent", source };
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|errno| failed(errno.into()))?;
    if Pid::as_raw(getppid()) == parent {
        Ok(())
    } else {
        Err(failed(io::Error::other("the parent has already ended")))
    }
}

/// Bounds the address space of this process: beyond it, allocations fail (`RLIMIT_AS`).
///
/// # Errors
/// [`HostError::Limit`].
pub fn limit_memory(bytes: u64) -> Result<(), HostError> {
    lower(Resource::As, bytes).map_err(|errno| HostError::Limit { doing: "limit the memory", source: errno.into() })
}

/// The limits that this process had before it lowered them: what it starts shall not have less for having been started by it.
static FIRST_LIMITS: Mutex<Vec<(Resource, Rlimit)>> = Mutex::new(Vec::new());

/// Lowers the limit that counts, and leaves the one up to which it may be raised: nothing that a file can do raises it.
fn lower(resource: Resource, to: u64) -> rustix::io::Result<()> {
    let was = getrlimit(resource);
    let maximum = was.maximum;
    let mut first = FIRST_LIMITS.lock().unwrap_or_else(PoisonError::into_inner);
    if !first.iter().any(|(known, _)| *known == resource) {
        first.push((resource, was));
    }
    let to = maximum.map_or(to, |maximum| maximum.min(to));
    setrlimit(resource, Rlimit { current: Some(to), maximum })
}

/// What was lowered, as it was before.
pub(super) fn first_limits() -> Vec<(Resource, Rlimit)> {
    let first = FIRST_LIMITS.lock().unwrap_or_else(PoisonError::into_inner);
    let copy = |limit: &Rlimit| Rlimit { current: limit.current, maximum: limit.maximum };
    first.iter().map(|(resource, limit)| (*resource, copy(limit))).collect()
}

/// Keeps the bytes of a user's database out of core files, those piped to a collector included.
///
/// # Errors
/// [`HostError::Limit`].
pub fn no_core_dumps() -> Result<(), HostError> {
    let failed = |errno: rustix::io::Errno| HostError::Limit { doing: "forbid core dumps", source: errno.into() };
    // A core_pattern with a pipe ignores a limit of zero (core(5)), but not one of 1, which is below the smallest core there
    // is (`do_coredump` in the kernel's fs/coredump.c). PR_SET_DUMPABLE would do as well, but it hides the process's open
    // files from its own user: another guardiand of that user could then not tell whether a database is in use.
    lower(Resource::Core, 1).map_err(failed)
}

/// The memory of this process that is in RAM, in bytes.
///
/// # Errors
/// [`HostError::ReadProc`] or [`HostError::ParseProc`].
pub fn resident_bytes() -> Result<u64, HostError> {
    let path = Path::new("/proc/self/statm");
    let text = read(path)?;
    let pages: Option<u64> = text.split_ascii_whitespace().nth(1).and_then(|field| field.parse().ok());
    let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
    pages.map(|pages| pages.saturating_mul(page)).ok_or_else(|| odd("resident pages", path, &text))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command};

    use super::*;

    fn sleeper() -> Child {
        Command::new("sleep").arg("1000").spawn().unwrap()
    }

    fn pid(child: &Child) -> i32 {
        i32::try_from(child.id()).unwrap()
    }

    #[test]
    fn a_name_with_blanks_and_parentheses_does_not_shift_the_fields() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 1234 20";
        let stat = format!("77 (a) (b c) {tail}");
        assert_eq!(parse_stat(&stat), Some(("a) (b c".to_owned(), 'S', 12_340)));
        assert_eq!(parse_stat("77 (short) S 1"), None);
        assert_eq!(parse_status("Uid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t9 10\n"), Some((2, vec![6, 9, 10])));
    }

    #[test]
    fn a_child_is_described_stopped_resumed_and_ended_by_its_handle() {
        let mut child = sleeper();
        let facts = ProcessFacts::of(pid(&child)).unwrap();
        assert_eq!(facts.uid, rustix::process::geteuid().as_raw());
        let handle = ProcessHandle::open(facts.pid, facts.started_boot_ms).unwrap();
        handle.stop().unwrap();
        let raw = Pid::from_raw(facts.pid).unwrap();
        let stopped = rustix::process::waitpid(Some(raw), rustix::process::WaitOptions::UNTRACED).unwrap();
        assert!(stopped.unwrap().1.stopped() && ProcessFacts::of(facts.pid).unwrap().is_stopped());
        handle.go_on(facts.uid).unwrap();
        assert!(!handle.wait_gone(Duration::ZERO).unwrap());
        handle.kill().unwrap();
        assert!(handle.wait_gone(Duration::from_secs(60)).unwrap());
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        assert!(ProcessFacts::of(facts.pid).unwrap_err().is_absent());
    }

    #[test]
    fn a_number_that_means_another_process_is_refused() {
        let mut child = sleeper();
        let facts = ProcessFacts::of(pid(&child)).unwrap();
        let error = ProcessHandle::open(facts.pid, facts.started_boot_ms + 10).unwrap_err();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(error.is_absent(), "{error}");
    }

    #[test]
    fn a_child_that_is_bound_dies_with_its_parent_and_gets_no_memory_beyond_its_limit() {
        const NAME: &str = "a_child_that_is_bound_dies_with_its_parent_and_gets_no_memory_beyond_its_limit";
        if std::env::var_os("GUARDIAN_TEST_CHILD").is_none() {
            let child = Command::new(std::env::current_exe().unwrap())
                .args([NAME, "--test-threads=1"])
                .env("GUARDIAN_TEST_CHILD", std::process::id().to_string())
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&child.stdout);
            return assert!(child.status.success() && said.contains("1 passed"), "{said}");
        }
        let parent: i32 = std::env::var("GUARDIAN_TEST_CHILD").unwrap().parse().unwrap();
        assert!(die_with_parent(parent + 1).is_err(), "another parent than expected has ended already");
        die_with_parent(parent).unwrap();
        assert_eq!(rustix::process::parent_process_death_signal().unwrap(), Some(Signal::KILL));
        let gigabyte = || Vec::<u8>::new().try_reserve_exact(1 << 30);
        gigabyte().unwrap();
        limit_memory(512 << 20).unwrap();
        gigabyte().unwrap_err();
        no_core_dumps().unwrap();
        assert_eq!(rustix::process::getrlimit(Resource::Core).current, Some(1));
        assert!(std::fs::read_dir("/proc/self/fd").is_ok(), "our own user must see what we have open");
    }

    #[test]
    fn our_own_memory_is_more_than_nothing_and_less_than_the_machine() {
        let bytes = resident_bytes().unwrap();
        assert!(bytes > 100_000 && bytes < 1 << 40, "{bytes}");
    }
}
