//! Letting a stopped program go on: one signal, to the one process that was seen, and only while it holds on.
//!
//! Everything is asked again here, for a plan is of another moment: that it is the same process, plain and of our namespace,
//! stopped by a signal and by nobody's debugger or freezer, and that it still keeps others waiting.

use std::time::{Duration, Instant};

use super::in_use::{Look, holders_of};
use super::place::Place;
use super::{done, failed, nothing, refused, while_};
use crate::host::{HostError, Mounts, ProcessFacts, ProcessHandle, not_ours_to_signal, standstill};
use crate::job::{JobFailure, StepReport};
use crate::model::Standstill;
use crate::worker::probe;

/// A process goes on at once; this is for a machine that does not.
const GOES_ON_WITHIN: Duration = Duration::from_secs(2);
/// Between two looks at it.
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);

/// The process, as it was seen.
pub(super) struct Stopped<'a> {
    pub pid: i32,
    pub started_ms: u64,
    pub uid: u32,
    pub comm: &'a str,
}

pub(super) fn apply(place: &Place<'_>, stopped: &Stopped<'_>) -> Result<StepReport, JobFailure> {
    let (pid, name) = (stopped.pid, format!("pid {} `{}`", stopped.pid, stopped.comm));
    let gone = || Ok(nothing(&format!("{name} has ended, and its locks with it")));
    // From here on the number means this process and no other.
    let handle = match ProcessHandle::open(pid, stopped.started_ms) {
        Ok(handle) => handle,
        Err(error) if error.is_absent() => return gone(),
        Err(error) => return Err(while_(format!("taking hold of {name}"))(error)),
    };
    let mounts = Mounts::read().map_err(while_("asking what is mounted"))?;
    let facts = match look(pid, stopped.uid, &mounts) {
        Ok(facts) => facts,
        Err(error) if error.is_absent() => return gone(),
        Err(error) => return Err(while_(format!("looking at {name}"))(error)),
    };
    if facts.comm != stopped.comm {
        return Err(refused(format!("{name} is another program by now (`{}`): it is left alone", facts.comm)));
    }
    if let Some(why) = facts.not_ours {
        return Err(refused(format!("{name} is not sent a signal: {why}; `kill -CONT {pid}` by hand lets it go on")));
    }
    match facts.still {
        None => return Ok(nothing(&format!("{name} goes on already"))),
        Some(Standstill::Stopped) => {}
        Some(other) => {
            return Err(refused(format!("{name} is {}, on purpose as it seems: it is left as it is", other.words())));
        }
    }
    if !holds_on(place, pid)? {
        return Ok(nothing(&format!("{name} is stopped, and keeps nobody waiting any more: it is left as it is")));
    }
    match handle.go_on(stopped.uid) {
        Err(error) if error.is_absent() => return gone(),
        answer => answer.map_err(while_(format!("sending SIGCONT to {name}")))?,
    }
    let until = Instant::now() + GOES_ON_WITHIN;
    loop {
        match standstill(pid, &mounts) {
            Ok(Some(Standstill::Stopped)) if Instant::now() < until => std::thread::sleep(BETWEEN_LOOKS),
            Ok(Some(Standstill::Stopped)) => {
                return Err(failed(format!("{name} was sent SIGCONT, and stands still again: see what stops it")));
            }
            Ok(_) => return Ok(done(format!("{name} was sent SIGCONT, and goes on"))),
            Err(error) if error.is_absent() => return gone(),
            Err(error) => return Err(while_(format!("looking at {name}"))(error)),
        }
    }
}

struct Facts {
    comm: String,
    still: Option<Standstill>,
    not_ours: Option<String>,
}

fn look(pid: i32, uid: u32, mounts: &Mounts) -> Result<Facts, HostError> {
    let comm = ProcessFacts::of(pid)?.comm;
    Ok(Facts { comm, still: standstill(pid, mounts)?, not_ours: not_ours_to_signal(pid, uid)? })
}

/// Whether it has a lock of SQLite's, or is the only one that has the database open beside a lock of the dotfile VFS.
fn holds_on(place: &Place<'_>, pid: i32) -> Result<bool, JobFailure> {
    let who = probe::who_locks(place.path());
    if who.locks.iter().any(|held| held.pid == pid) {
        return Ok(true);
    }
    if place.folder.stat_in(place.side(".lock")).is_err() {
        return Ok(false);
    }
    let holders = holders_of(place, std::slice::from_ref(&place.name), Look::Found)?;
    let this = format!("process {pid} (");
    Ok(!holders.is_empty() && holders.iter().all(|holder| holder.starts_with(&this)))
}
