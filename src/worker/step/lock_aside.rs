//! A lock of the dotfile VFS that nobody has any more: moved into evidence, never deleted (SQLITE.md, rule 14).
//!
//! As long as it stands there, no program of that VFS gets in: so nobody can take it while we look whose it is. Only somebody
//! who takes it away by hand could let a new one be made in between; then what was moved has another inode, and goes back.
//!
//! | dying after | leaves | resumed by |
//! | --- | --- | --- |
//! | the record | the lock where it was | doing it again |
//! | the first rename | the lock under a name of ours, beside the database | moving it on into evidence |
//! | the second | it is done | finding it in evidence |

use std::ffi::{OsStr, OsString};

use serde::{Deserialize, Serialize};

use super::evidence::{read_json, write_json};
use super::in_use::lasting_holders;
use super::place::{Place, SIDES};
use super::{done, failed, nothing, refused, while_};
use crate::host::{FileFacts, FileKind, Folder, HostError, Mounts};
use crate::job::{JobFailure, StepReport};

/// The suffix that the VFS gives its locks.
const SUFFIX: &str = ".lock";
/// More locks than this in one incident mean that something turns in circles.
const LOCKS_MAX: u32 = 100;

/// What was moved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Record {
    path: std::path::PathBuf,
    ino: u64,
    folder: bool,
    uid: u32,
    gid: u32,
    mode: u32,
    /// When it was made, nanoseconds since the epoch.
    made_ns: i64,
    /// Its name in evidence.
    kept_as: String,
}

/// The lock, as it was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub ino: u64,
    pub made_ns: i64,
}

impl Seen {
    /// An inode's number is soon another's: the lock that somebody makes next has the same one, and another time.
    fn is(self, facts: &FileFacts) -> bool {
        self == Seen { ino: facts.id.ino, made_ns: made(facts) }
    }
}

fn made(facts: &FileFacts) -> i64 {
    i64::try_from(facts.mtime_ns).unwrap_or(0)
}

pub(super) fn apply(place: &Place<'_>, seen: &Seen) -> Result<StepReport, JobFailure> {
    let (name, ours) = (place.side(SUFFIX), place.ours("lock"));
    if entry(&place.folder, &ours)?.is_some() {
        return keep(place, &ours);
    }
    let Some(lock) = entry(&place.folder, &name)? else {
        let is_it = |record: &Record| Seen { ino: record.ino, made_ns: record.made_ns } == *seen;
        let kept = last_record(&place.evidence)?.filter(is_it);
        return Ok(match kept {
            Some(record) => nothing(&format!("it is in evidence already, as {}", record.kept_as)),
            None => nothing("it is gone"),
        });
    };
    is_nobodys(place, &name, &lock, *seen)?;
    let record = Record {
        path: place.path_of(&name),
        ino: seen.ino,
        folder: lock.kind == FileKind::Folder,
        uid: lock.uid,
        gid: lock.gid,
        mode: lock.mode,
        made_ns: seen.made_ns,
        kept_as: free_name(&place.evidence)?,
    };
    write_json(&place.evidence, &paper_of(&record.kept_as), &record)?;
    place.folder.rename_noreplace(&name, &place.folder, &ours).map_err(while_("moving the lock aside"))?;
    if entry(&place.folder, &ours)?.is_none_or(|moved| !seen.is(&moved)) {
        place.folder.rename_noreplace(&ours, &place.folder, &name).map_err(while_("putting a lock back"))?;
        return Err(refused("another lock was made at the last moment: it is its program's, and is back in its place"));
    }
    place.sync()?;
    keep(place, &ours)
}

fn entry(folder: &Folder, name: &OsStr) -> Result<Option<FileFacts>, JobFailure> {
    match folder.stat_in(name) {
        Ok(facts) => Ok(Some(facts)),
        Err(error) if error.is_absent() => Ok(None),
        Err(error) => Err(while_("looking at the lock")(error)),
    }
}

/// Refuses when it is another lock than was seen, or not one of SQLite's, or anybody has the database open, or that cannot be
/// told.
fn is_nobodys(place: &Place<'_>, name: &OsStr, lock: &FileFacts, seen: Seen) -> Result<(), JobFailure> {
    let path = place.path_of(name);
    let other = || refused(format!("{} is another lock than was seen: somebody lives who makes them", path.display()));
    if !seen.is(lock) {
        return Err(other());
    }
    let mounts = Mounts::read().map_err(while_("asking what is mounted"))?;
    if let Some(why) = mounts.of_file(lock, &path).and_then(crate::host::Mount::observe_only) {
        return Err(refused(format!("it cannot be told whether {} is in use: {why}", place.path().display())));
    }
    let is_empty = match lock.kind {
        FileKind::Folder => {
            place.folder.open_folder_in(name).and_then(|folder| folder.names()).is_ok_and(|it| it.is_empty())
        }
        FileKind::Regular => lock.size == 0,
        _ => false,
    };
    if !is_empty {
        return Err(refused(format!("{} is not a lock as SQLite makes them: look at it by hand", path.display())));
    }
    let mut names: Vec<OsString> = vec![place.name.clone(), name.to_owned()];
    names.extend(SIDES.map(|(suffix, _)| place.side(suffix)));
    if let [first, ..] = lasting_holders(place, &names)?.as_slice() {
        return Err(refused(format!("{} is in use by {first}: its lock stays", place.path().display())));
    }
    // And it is still the same one.
    match entry(&place.folder, name)? {
        Some(now) if seen.is(&now) => Ok(()),
        _ => Err(other()),
    }
}

/// From the name of ours into evidence.
fn keep(place: &Place<'_>, ours: &OsStr) -> Result<StepReport, JobFailure> {
    let record = last_record(&place.evidence)?.ok_or_else(|| {
        failed(format!("{} has no record in evidence: move it by hand", place.path_of(ours).display()))
    })?;
    match place.folder.rename_noreplace(ours, &place.evidence, &record.kept_as) {
        Ok(()) => {}
        // Evidence is on another file system: an empty entry is all in its record, and made there anew.
        Err(HostError::Rename { source, .. })
            if source.raw_os_error() == Some(rustix::io::Errno::XDEV.raw_os_error()) =>
        {
            remake(place, &record)?;
            let gone = if record.folder { place.folder.remove_folder(ours) } else { place.folder.unlink(ours) };
            gone.map_err(while_("removing the lock that evidence has"))?;
        }
        Err(error) => return Err(while_("moving the lock into evidence")(error)),
    }
    place.evidence.sync().map_err(while_("making the evidence durable"))?;
    place.sync()?;
    let kept = place.evidence.path().join(&record.kept_as);
    Ok(done(format!("{} is nobody's, and is kept as {}", record.path.display(), kept.display())))
}

fn remake(place: &Place<'_>, record: &Record) -> Result<(), JobFailure> {
    let made = match record.folder {
        true => place.evidence.make_folder_in(&record.kept_as, 0o700).map(drop),
        false => place.evidence.create_in(&record.kept_as, 0o600).map(drop),
    };
    match made {
        // By a first try that died here.
        Err(error) if error.errno() == Some(rustix::io::Errno::EXIST) => Ok(()),
        made => made.map_err(while_("keeping the lock in evidence")),
    }?;
    place.evidence.sync().map_err(while_("making the evidence durable"))
}

/// A later lock of the same incident never takes the place of an earlier one, nor its paper.
fn free_name(evidence: &Folder) -> Result<String, JobFailure> {
    for name in names() {
        if entry(evidence, OsStr::new(&name))?.is_none() {
            return Ok(name);
        }
    }
    Err(failed("a hundred locks were moved aside in this incident already"))
}

fn last_record(evidence: &Folder) -> Result<Option<Record>, JobFailure> {
    let mut last = None;
    for name in names() {
        match read_json::<Record>(evidence, &paper_of(&name))? {
            Some(record) => last = Some(record),
            None => break,
        }
    }
    Ok(last)
}

fn names() -> impl Iterator<Item = String> {
    (1..=LOCKS_MAX).map(|number| if number == 1 { "lock".to_owned() } else { format!("lock-{number}") })
}

fn paper_of(name: &str) -> String {
    format!("{name}.json")
}
