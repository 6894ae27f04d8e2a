//! Whether anybody has the files of a swap open (rules 4 and 13). What cannot be told is refused, never taken for "nobody".

use std::ffi::OsString;
use std::time::{Duration, Instant};

use super::install::{OLD_MAIN, Record};
use super::place::{Place, SIDES};
use super::{refused, while_};
use crate::host::{Device, FileId, Holder, Holders, Mounts, Scan, Sought, find_holders_patiently, supervisor};
use crate::job::{FileFacts, JobFailure};

/// The tag of a file that is gone from the target's path.
const DELETED: &str = "the file that was there";

/// Somebody who is only passing (a fork before its exec, an indexer) is given this many looks to be gone.
const LOOKS: u32 = 4;

/// Time between two looks.
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// What a look of guardiand's own is waited for: it meets the swap's locks, and gives up.
const OWN_LOOK_MAX: Duration = Duration::from_secs(3);

/// How to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Before a swap: mappings too, and a deleted file of the target's name; refused when it cannot be told.
    Complete,
    /// Who can be found.
    Found,
}

/// Refuses when anybody has one of the files open, or when that cannot be told.
pub(super) fn nobody_has(place: &Place<'_>, record: &Record) -> Result<(), JobFailure> {
    let mut names: Vec<OsString> = vec![place.name.clone(), place.candidate(), place.ours(OLD_MAIN)];
    names.extend(SIDES.map(|(suffix, _)| place.side(suffix)));
    names.extend(record.sides.iter().map(|(suffix, _)| place.ours(&format!("old{suffix}"))));
    nobody_has_any(place, &names)
}

/// The same for these entries of the target's folder.
pub(super) fn nobody_has_any(place: &Place<'_>, names: &[OsString]) -> Result<(), JobFailure> {
    match lasting_holders(place, names)?.as_slice() {
        [] => Ok(()),
        [first, others @ ..] => Err(refused(format!(
            "{} is in use by {first}{}: stop it, then {}",
            place.path().display(),
            if others.is_empty() { String::new() } else { format!(", and {} more", others.len()) },
            place.again()
        ))),
    }
}

/// Who has them open and is not only passing; refused when that cannot be told.
pub(super) fn lasting_holders(place: &Place<'_>, names: &[OsString]) -> Result<Vec<String>, JobFailure> {
    let look = || holders_of(place, names, Look::Complete);
    let mut found = look();
    for _ in 1..LOOKS {
        // What cannot be told has been looked at for long enough already.
        if found.as_ref().map_or(true, Vec::is_empty) {
            break;
        }
        std::thread::sleep(BETWEEN_LOOKS);
        found = look();
    }
    found
}

/// Who uses the database now.
#[derive(Debug)]
pub(super) struct Users {
    /// One for each process and file.
    pub found: Vec<User>,
    /// Why there may be more, or some although none was found.
    pub blind: Option<String>,
}

/// A process that has one of its files open.
#[derive(Debug, Clone)]
pub(super) struct User {
    pub pid: i32,
    pub started_boot_ms: u64,
    /// The program's name.
    pub comm: String,
    pub words: String,
}

/// Who has the main file or a side file open, guardiand's own children left out.
pub(super) fn users(place: &Place<'_>) -> Result<Users, JobFailure> {
    let mut names = vec![place.name.clone()];
    names.extend(SIDES.map(|(suffix, _)| place.side(suffix)));
    let scan = Scan { maps: false, but_children_of: supervisor() };
    let holders = look_for(place, &names, Look::Complete, &scan)?;
    let user = |holder: &Holder<String>| User {
        pid: holder.pid,
        started_boot_ms: holder.started_boot_ms,
        comm: holder.comm.clone(),
        words: format!("process {} ({}) has {} open", holder.pid, holder.comm, holder.what),
    };
    Ok(Users { found: holders.found.iter().map(user).collect(), blind: blind_to(&holders) })
}

/// The processes that have the WAL or its index, as every connection has that uses a database in WAL mode (one that has it to itself has
/// no index); guardiand's own children left out.
pub(super) fn with_wal(place: &Place<'_>) -> Result<Vec<Holder<String>>, JobFailure> {
    let scan = Scan { maps: true, but_children_of: supervisor() };
    let mut holders = look_for(place, &[place.side("-shm"), place.side("-wal")], Look::Found, &scan)?;
    if let Some(why) = blind_to(&holders) {
        return Err(refused(format!("it cannot be told who has {} open: {why}", place.path().display())));
    }
    holders.found.sort_by_key(|holder| holder.pid);
    holders.found.dedup_by_key(|holder| holder.pid);
    Ok(holders.found)
}

/// Who has any of these entries of the target's folder open, in words. Only a look of guardiand's own at the same file, or at
/// another of its group, is waited for: it ends by itself, and has no need of what it has open.
pub(super) fn holders_of(place: &Place<'_>, names: &[OsString], look: Look) -> Result<Vec<String>, JobFailure> {
    let scan = Scan { maps: look != Look::Found, but_children_of: None };
    let until = Instant::now() + OWN_LOOK_MAX;
    let is_own = |holder: &Holder<String>| Ok(holder.comm.as_str()) == crate::worker::NAME.to_str();
    let mut holders = look_for(place, names, look, &scan)?;
    while !holders.found.is_empty() && holders.found.iter().all(is_own) && Instant::now() < until {
        std::thread::sleep(BETWEEN_LOOKS);
        holders = look_for(place, names, look, &scan)?;
    }
    if let (Look::Complete, Some(why)) = (look, blind_to(&holders)) {
        // Its program is stopped by us: who else there may be is held off by locks, as far as locks can.
        if !super::app::is_stopped(place) {
            return Err(refused(format!("it cannot be told whether {} is in use: {why}", place.path().display())));
        }
    }
    Ok(in_words(&holders.found))
}

/// A line for each process: what a person has to stop are processes, however many files one has open.
pub(super) fn in_words(found: &[Holder<String>]) -> Vec<String> {
    let mut processes: Vec<(&Holder<String>, Vec<&str>)> = Vec::new();
    for holder in found {
        match processes.iter_mut().find(|(known, _)| known.pid == holder.pid) {
            Some((_, files)) => files.push(&holder.what),
            None => processes.push((holder, vec![&holder.what])),
        }
    }
    let words = |(holder, mut files): (&Holder<String>, Vec<&str>)| {
        files.dedup();
        format!("process {} ({}), which has {} open", holder.pid, holder.comm, files.join(", "))
    };
    processes.into_iter().map(words).collect()
}

fn look_for(place: &Place<'_>, names: &[OsString], look: Look, scan: &Scan) -> Result<Holders<String>, JobFailure> {
    let mounts = Mounts::read().map_err(while_("asking what is mounted"))?;
    let mut sought = Vec::new();
    for name in names {
        if let Ok(facts) = place.folder.stat_in(name) {
            let device = mounts.lock_device(&facts, &place.path_of(name));
            sought.push(Sought::File { tag: name.to_string_lossy().into_owned(), facts, device });
        }
    }
    if look == Look::Complete {
        let path = std::path::absolute(place.path()).unwrap_or_else(|_| place.path().to_owned());
        // What replaces it has its owner and mode.
        let like = [&place.name, &place.candidate()].into_iter().find_map(|name| place.folder.stat_in(name).ok());
        sought.push(Sought::UnlinkedFrom { tag: DELETED.into(), path, like });
        let known = |id: FileId| sought.iter().any(|one| matches!(one, Sought::File { facts, .. } if facts.id == id));
        if let Some(last) = place.job.last.as_ref().map(|last| last.main).filter(|last| !known(id_of(last))) {
            let rights = (last.uid, last.gid, last.mode);
            let changed_ns = i128::from(last.ctime_ns);
            sought.push(Sought::Known { tag: DELETED.into(), id: id_of(&last), changed_ns, rights });
        }
    }
    if sought.is_empty() {
        return Ok(Holders {
            found: Vec::new(),
            blind: Vec::new(),
            blind_for: Vec::new(),
            passing: false,
            root_unseen: false,
        });
    }
    find_holders_patiently(&sought, scan).map_err(while_("looking for programs that use the database"))
}

fn id_of(facts: &FileFacts) -> FileId {
    FileId { dev: Device { major: rustix::fs::major(facts.dev), minor: rustix::fs::minor(facts.dev) }, ino: facts.ino }
}

/// What could not be seen and matters. Who was found says enough by itself.
fn blind_to(holders: &Holders<String>) -> Option<String> {
    if !holders.found.is_empty() {
        return None;
    }
    let of_one = holders.blind_for.first().map(|(_, why)| why);
    holders.blind.first().or(of_one).cloned()
}
