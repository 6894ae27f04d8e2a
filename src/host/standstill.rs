//! Why a process stands still, and whether it is ours to let go on.
//!
//! A process that is stopped by a signal keeps its locks for ever (SQLITE.md, section 5), and one signal helps it. What a
//! debugger or a cgroup freezer holds was stopped on purpose, by somebody who will want it as it is.

use std::path::{Path, PathBuf};

use crate::model::Standstill;

use super::error::HostError;
use super::mounts::{Mount, Mounts};
use super::procfs;

/// Why `pid` stands still; `None` when it does not.
///
/// # Errors
/// [`HostError::ReadProc`], `is_absent()` when it is gone; [`HostError::ParseProc`].
pub fn standstill(pid: i32, mounts: &Mounts) -> Result<Option<Standstill>, HostError> {
    let folder = PathBuf::from(format!("/proc/{pid}"));
    let path = folder.join("status");
    let status = procfs::text(&path)?;
    let frozen = procfs::text(&folder.join("cgroup")).ok().and_then(|cgroups| is_frozen(&cgroups, mounts));
    why(&status, frozen).ok_or(HostError::ParseProc { what: "a state and a tracer", path, line: String::new() })
}

/// By the text of its status; `None` when that tells neither state nor tracer.
fn why(status: &str, frozen: Option<bool>) -> Option<Option<Standstill>> {
    let state = procfs::field(status, "State")?.chars().next()?;
    let tracer = procfs::field(status, "TracerPid")?;
    Some(match (state, frozen) {
        (_, Some(true)) => Some(Standstill::Frozen),
        ('t', _) => Some(Standstill::Traced),
        ('T', _) if tracer != "0" => Some(Standstill::Traced),
        ('T', Some(false)) => Some(Standstill::Stopped),
        ('T', None) => Some(Standstill::Unclear),
        _ => None,
    })
}

/// Why a signal to `pid` is not ours to send; `None` when it is. `uid`: whose process it was when its lock was seen.
///
/// A process that took on other rights than its user's may have been stopped by somebody who may not signal it; one of
/// another PID namespace is another administrator's, and its number here may be another's there.
///
/// # Errors
/// [`HostError::ReadProc`], `is_absent()` when it is gone.
pub fn not_ours_to_signal(pid: i32, uid: u32) -> Result<Option<String>, HostError> {
    let own = std::fs::read_link("/proc/self").ok();
    if own != Some(PathBuf::from(std::process::id().to_string())) {
        return Ok(Some("/proc is of another PID namespace than guardiand: its numbers are not ours".to_owned()));
    }
    let status = procfs::text(Path::new(&format!("/proc/{pid}/status")))?;
    Ok(refusal(&status, uid))
}

fn refusal(status: &str, uid: u32) -> Option<String> {
    let numbers =
        |key| -> Vec<&str> { procfs::field(status, key).unwrap_or_default().split_ascii_whitespace().collect() };
    if numbers("NSpid").len() != 1 {
        return Some("it is in another PID namespace than guardiand".to_owned());
    }
    let uids = numbers("Uid");
    let expected = uid.to_string();
    if uids.len() != 4 || uids.iter().any(|one| *one != expected) {
        return Some(format!("it runs as uids {} and not as uid {uid} alone", uids.join(", ")));
    }
    None
}

/// Whether one of its cgroups is frozen; `None` when that cannot be told.
fn is_frozen(cgroups: &str, mounts: &Mounts) -> Option<bool> {
    let mut frozen = false;
    for line in cgroups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let unified = controllers.is_empty();
        if !unified && !controllers.split(',').any(|one| one == "freezer") {
            continue;
        }
        // The root cannot be frozen; what is outside of our cgroup namespace (`/../x`) cannot be looked at.
        let below = path.strip_prefix('/')?;
        if below.is_empty() {
            continue;
        }
        if below.split('/').any(|part| part == "..") {
            return None;
        }
        let is_it = |mount: &&Mount| match unified {
            true => mount.fs_type == "cgroup2",
            false => mount.fs_type == "cgroup" && named_freezer(&mount.point),
        };
        let folder = mounts.all().iter().find(is_it)?.point.join(below);
        frozen |= match unified {
            true => procfs::text(&folder.join("cgroup.events")).ok()?.lines().any(|line| line == "frozen 1"),
            false => procfs::text(&folder.join("freezer.state")).ok()?.trim() != "THAWED",
        };
    }
    Some(frozen)
}

fn named_freezer(point: &Path) -> bool {
    let name = point.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.split(',').any(|part| part == "freezer")
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

    use super::*;

    /// Killed and reaped when dropped.
    struct Sleeper(Child);

    impl Sleeper {
        fn start() -> Sleeper {
            Sleeper(Command::new("sleep").arg("1000").spawn().unwrap())
        }

        fn pid(&self) -> i32 {
            i32::try_from(self.0.id()).unwrap()
        }

        fn stop(&self) {
            let pid = Pid::from_raw(self.pid()).unwrap();
            kill_process(pid, Signal::STOP).unwrap();
            assert!(waitpid(Some(pid), WaitOptions::UNTRACED).unwrap().unwrap().1.stopped());
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_process_is_stopped_by_a_signal_and_goes_on() {
        let sleeper = Sleeper::start();
        let mounts = Mounts::read().unwrap();
        assert_eq!(standstill(sleeper.pid(), &mounts).unwrap(), None);
        sleeper.stop();
        let seen = standstill(sleeper.pid(), &mounts).unwrap();
        // In a container without the cgroups' file system it cannot be told whether a freezer has it too.
        assert!(matches!(seen, Some(Standstill::Stopped | Standstill::Unclear)), "{seen:?}");
    }

    #[test]
    fn only_a_plain_stop_by_a_signal_is_called_one() {
        let status = |state: &str, tracer: &str| format!("State:\t{state}\nTracerPid:\t{tracer}\n");
        for (state, tracer, frozen, still) in [
            ("S (sleeping)", "0", Some(false), None),
            ("S (sleeping)", "77", Some(false), None),
            ("T (stopped)", "0", Some(false), Some(Standstill::Stopped)),
            ("T (stopped)", "0", None, Some(Standstill::Unclear)),
            ("T (stopped)", "77", Some(false), Some(Standstill::Traced)),
            ("t (tracing stop)", "77", Some(false), Some(Standstill::Traced)),
            ("S (sleeping)", "0", Some(true), Some(Standstill::Frozen)),
            ("T (stopped)", "0", Some(true), Some(Standstill::Frozen)),
            ("D (disk sleep)", "0", None, None),
        ] {
            assert_eq!(why(&status(state, tracer), frozen), Some(still), "{state} {tracer} {frozen:?}");
        }
        assert_eq!(why("State:\tT (stopped)\n", Some(false)), None, "a kernel that does not tell the tracer");
    }

    #[test]
    fn whose_cgroup_is_frozen_is_told_and_what_cannot_be_told_is_not_guessed() {
        let dir = tempfile::tempdir().unwrap();
        let point = dir.path().display();
        let mounts = Mounts::parse(
            format!("1 0 0:1 / {point}/v2 rw - cgroup2 cgroup2 rw\n2 0 0:2 / {point}/freezer rw - cgroup cgroup rw,freezer\n")
                .as_bytes(),
        );
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("v2/app/cgroup.events", "populated 1\nfrozen 0\n");
        write("v2/cold/cgroup.events", "populated 1\nfrozen 1\n");
        write("freezer/app/freezer.state", "THAWED\n");
        write("freezer/cold/freezer.state", "FROZEN\n");
        for (cgroups, frozen) in [
            ("0::/\n", Some(false)),
            ("6:freezer:/\n4:memory:/x\n0::/\n", Some(false)),
            ("0::/app\n", Some(false)),
            ("0::/cold\n", Some(true)),
            ("6:freezer:/cold\n0::/app\n", Some(true)),
            ("6:freezer:/app\n0::/app\n", Some(false)),
            ("0::/gone\n", None),
            ("0::/../other\n", None),
            ("6:cpu,freezer:/gone\n0::/\n", None),
            ("nonsense\n", None),
        ] {
            assert_eq!(is_frozen(cgroups, &mounts), frozen, "{cgroups:?}");
        }
        assert_eq!(is_frozen("0::/app\n", &Mounts::default()), None, "the cgroups are not mounted here");
    }

    #[test]
    fn only_a_plain_process_of_its_user_and_of_our_namespace_is_signalled() {
        let status = |uids: &str, ns: &str| format!("Name:\tx\nUid:\t{uids}\nNSpid:\t{ns}\n");
        assert_eq!(refusal(&status("1000\t1000\t1000\t1000", "77"), 1000), None);
        for (uids, ns, words) in [
            ("1000\t0\t0\t0", "77", "uids 1000, 0, 0, 0"),
            ("1001\t1001\t1001\t1001", "77", "not as uid 1000"),
            ("1000\t1000\t1000\t1000", "77\t1", "PID namespace"),
            ("", "77", "not as uid"),
        ] {
            let why = refusal(&status(uids, ns), 1000).unwrap();
            assert!(why.contains(words), "{why}");
        }
        assert!(refusal("Uid:\t1000\t1000\t1000\t1000\n", 1000).is_some(), "a kernel that does not say");
        let sleeper = Sleeper::start();
        let own = rustix::process::getuid().as_raw();
        assert_eq!(not_ours_to_signal(sleeper.pid(), own).unwrap(), None);
    }
}
