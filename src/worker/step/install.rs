//! Install: the guarded swap (SQLITE.md, section 2). A crash must never pair a new main file with an old WAL or journal.
//!
//! The side files are renamed aside first, within the folder; then the candidate over the path; then what was set aside is
//! unlinked, for evidence has it. The candidate and the old file change places in one step, so that what somebody put there
//! at the very last moment is found under the candidate's name, and goes back. All of it happens while the lock bytes of the old and the new main file are held
//! exclusively, so a program that starts meanwhile gets BUSY, and waits.
//!
//! | candidate | at the path | side files | what a resume does |
//! | --- | --- | --- | --- |
//! | there | the old file, or nothing as before | in place or aside | finishes; or, when it is in use now, takes back |
//! | gone, or the old file under its name | the candidate's inode | aside or gone | unlinks what is aside: done |
//! | something else under its name | the candidate's inode | aside | puts that back |
//! | gone | the old file, or nothing as before | in place or aside | takes back |
//! | any | another file | any | touches nothing, and says so |

use std::os::unix::fs::FileExt as _;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::evidence::{Evidence, latest, read_json, same_content, write_json};
use super::in_use::{Look, holders_of, nobody_has};
use super::place::{Place, SIDES};
use super::{done, failed, outdated, refused, undone, while_};
use crate::backup::hash;
use crate::format::{Header, header::HEADER_LEN};
use crate::host::{Bytes, Folder, HostError, Mounts, OfdLock};
use crate::job::{FileFacts, JobFailure, StepReport};

/// The record's name in evidence.
pub(super) const RECORD: &str = "install.json";

/// The old main file's second name while a swap is under way.
pub(super) const OLD_MAIN: &str = "old-main";

/// All of SQLite's lock bytes in a main file: PENDING, RESERVED and the 510 of SHARED.
pub(super) const LOCK_BYTES: Bytes = Bytes::new(1_073_741_824, 512);

/// What an install is about to do. Durable before the first name changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The shape's version.
    pub version: u32,
    pub begun_at: Timestamp,
    pub candidate: FileFacts,
    pub old_main: Option<FileFacts>,
    /// Suffix and facts of the side files that were there.
    pub sides: Vec<(String, FileFacts)>,
    /// The preservation that has them; `None` when nothing was there.
    pub generation: Option<u32>,
    /// The candidate's change counter: what is beyond it was committed since.
    #[serde(default)]
    pub change_counter: Option<u32>,
}

/// Places between two lines where a death must leave nothing that cannot be finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gap {
    Recorded,
    OneSideAside,
    SidesAside,
    SidesDurable,
    Renamed,
    RenamedDurable,
    Cleaned,
    UndoMainBack,
}

/// In tests, dies here if told to; locks go as they would with the process.
#[cfg(test)]
pub(super) fn gap(here: Gap) {
    if super::tests::DIE_AT.get() == Some(here) {
        std::panic::resume_unwind(Box::new("killed"));
    }
}

#[cfg(not(test))]
pub(super) fn gap(_here: Gap) {}

pub(super) fn apply(place: &Place<'_>) -> Result<StepReport, JobFailure> {
    if let Some(record) = read_json::<Record>(&place.evidence, RECORD)? {
        let another = place
            .stat(&place.candidate())?
            .is_some_and(|new| new.ino != record.candidate.ino && record.old_main.is_none_or(|old| new.ino != old.ino));
        if !another {
            return resume(place);
        }
        // An earlier playbook's install was finished, did not heal, and could not be taken back: this is the next one's.
        archive(place, RECORD, "install-earlier")?;
    }
    let mut record = plan(place)?;
    let _locks = lock(place, &record)?;
    record.generation = preserved(place, record.old_main.as_ref(), &record.sides)?;
    write_json(&place.evidence, RECORD, &record)?;
    gap(Gap::Recorded);
    // Only now: whoever came before the locks is seen here, whoever comes later gets BUSY.
    match nobody_has(place, &record).and_then(|()| swap(place, &record)) {
        Ok(()) => conclude(place, &record),
        Err(why) => {
            let back = take_back(place, &record).map_or_else(|error| error.message, |report| report.detail);
            Err(JobFailure { message: format!("{}; {back}", why.message), ..why })
        }
    }
}

pub(super) fn resume(place: &Place<'_>) -> Result<StepReport, JobFailure> {
    let Some(record) = read_json::<Record>(&place.evidence, RECORD)? else {
        return Ok(undone("the swap had not begun: every file is where it was"));
    };
    let candidate = place.stat(&place.candidate())?.filter(|new| same_content(new, &record.candidate));
    let main = place.stat(&place.name)?;
    let as_before = match (&main, &record.old_main) {
        (Some(main), Some(old)) => main.ino == old.ino,
        // Gone meanwhile: evidence has it, and nothing is replaced.
        (None, _) => true,
        (Some(_), None) => false,
    };
    match (candidate, main) {
        (_, Some(main)) if main.ino == record.candidate.ino => conclude(place, &record),
        (Some(_), main) if as_before => {
            // A program that started after the crash may have written: what it committed must not be swapped away.
            let written = main.zip(record.old_main).is_some_and(|(main, old)| !same_content(&main, &old));
            let swapped = if written {
                Err(refused(format!("{} was written meanwhile", place.path().display())))
            } else {
                finish_swap(place, &record)
            };
            match swapped {
                Ok(report) => Ok(report),
                Err(why) => {
                    let mut report = take_back(place, &record)?;
                    report.detail = format!("{}: {}", report.detail, why.message);
                    Ok(report)
                }
            }
        }
        (None, _) if as_before => take_back(place, &record),
        _ => Err(failed(format!(
            "{} is neither the file that was there nor the one that was built: somebody put it there meanwhile. It is not touched; \
             the old side files are beside it as {}*, and in evidence",
            place.path().display(),
            place.ours("old").display()
        ))),
    }
}

fn finish_swap(place: &Place<'_>, record: &Record) -> Result<StepReport, JobFailure> {
    let _locks = lock(place, record)?;
    nobody_has(place, record)?;
    swap(place, record)?;
    conclude(place, record)
}

/// What is there now, if it may be swapped at all.
fn plan(place: &Place<'_>) -> Result<Record, JobFailure> {
    let candidate = place.stat(&place.candidate())?.ok_or_else(|| {
        failed(format!("there is no candidate {}: build one first", place.path_of(&place.candidate()).display()))
    })?;
    let mut sides = Vec::new();
    for (suffix, _) in SIDES {
        if let Some(facts) = place.stat(&place.side(suffix))? {
            sides.push((suffix.to_owned(), facts));
        }
    }
    let old_main = place.stat(&place.name)?;
    let mounts = Mounts::read().map_err(while_("asking what is mounted"))?;
    if let Some(why) = mounts.of(place.folder.path()).and_then(|mount| mount.observe_only()) {
        return Err(refused(why));
    }
    let change_counter = change_counter(place, &place.candidate());
    let begun_at = Timestamp::now();
    let record = Record { version: 1, begun_at, candidate, old_main, sides, generation: None, change_counter };
    nobody_has(place, &record)?;
    Ok(record)
}

/// The change counter in a database file's header; what is no header counts nothing.
pub(super) fn change_counter(place: &Place<'_>, name: &std::ffi::OsStr) -> Option<u32> {
    let file = place.folder.open_in(name).ok()?;
    let mut bytes = [0_u8; HEADER_LEN];
    file.read_exact_at(&mut bytes, 0).ok()?;
    Header::parse(&bytes).ok().map(|header| header.change_counter)
}

/// Holds the lock bytes of the candidate and of the old main file.
fn lock(place: &Place<'_>, record: &Record) -> Result<Vec<OfdLock>, JobFailure> {
    let mut names = vec![place.candidate()];
    if record.old_main.is_some() && place.stat(&place.name)?.is_some() {
        names.push(place.name.clone());
    }
    lock_all(place, names)
}

/// Holds the lock bytes of main files in the target's folder.
pub(super) fn lock_all(place: &Place<'_>, names: Vec<std::ffi::OsString>) -> Result<Vec<OfdLock>, JobFailure> {
    let mut locks = Vec::new();
    for name in names {
        let file = place.folder.open_for_writing_in(&name).map_err(while_("opening a file to lock it"))?;
        match OfdLock::exclusive(file.into(), LOCK_BYTES) {
            Ok(lock) => locks.push(lock),
            Err(HostError::LockHeld(holder)) => {
                let path = place.path_of(&name);
                return Err(refused(format!(
                    "{} is in use: locked {holder}; stop the program, then {}",
                    path.display(),
                    place.again()
                )));
            }
            Err(error) => return Err(while_("locking a database to swap it")(error)),
        }
    }
    Ok(locks)
}

/// Refuses unless evidence holds exactly what is about to go.
pub(super) fn preserved(
    place: &Place<'_>,
    main: Option<&FileFacts>,
    sides: &[(String, FileFacts)],
) -> Result<Option<u32>, JobFailure> {
    let present = main.iter().map(|facts| ("main", place.name.clone(), *facts));
    let sides = sides.iter().filter_map(|(suffix, facts)| {
        let (_, name) = SIDES.into_iter().find(|(known, _)| known == suffix)?;
        Some((name, place.side(suffix), facts))
    });
    let gone: Vec<_> = present.chain(sides).collect();
    if gone.is_empty() {
        return Ok(None);
    }
    let Some(kept) = latest(place)? else {
        return Err(outdated("nothing was preserved yet: no file is replaced before its copy is durable"));
    };
    for (name, original, _) in gone {
        same_as_evidence(place, &kept.evidence, name, &original)?;
    }
    Ok(Some(kept.generation))
}

fn same_as_evidence(
    place: &Place<'_>,
    evidence: &Evidence,
    name: &str,
    original: &std::ffi::OsStr,
) -> Result<(), JobFailure> {
    let changed = || {
        outdated(format!(
            "{} is not what was preserved: somebody wrote to it meanwhile. Preserve again, then go on",
            place.path_of(original).display()
        ))
    };
    let kept = evidence.file(name).ok_or_else(changed)?;
    // An index over the WAL, which SQLite builds anew: no content of its own.
    if name == "shm" {
        return Ok(());
    }
    let file = place.folder.open_in(original).map_err(while_("opening a file that is to be replaced"))?;
    let found = hash(&file).map_err(while_("reading a file that is to be replaced"))?;
    if found == kept.blake3 { Ok(()) } else { Err(changed()) }
}

/// Moves side files aside. Locks are held; every one of them must still be as it was, and there may be no other.
pub(super) fn sides_aside(place: &Place<'_>, sides: &[(String, FileFacts)]) -> Result<(), JobFailure> {
    for (suffix, facts) in sides {
        let side = place.side(suffix);
        match place.stat(&side)? {
            // An index over the WAL changes with every reader, and has no content of its own.
            Some(present) if same_content(&present, facts) || (suffix == "-shm" && present.ino == facts.ino) => {
                let aside = place.ours(&format!("old{suffix}"));
                let moved = place.folder.rename_noreplace(&side, &place.folder, &aside);
                moved.map_err(while_("setting a side file aside"))?;
                gap(Gap::OneSideAside);
            }
            Some(_) => {
                return Err(failed(format!(
                    "{} is not as it was: somebody opened the database",
                    place.path_of(&side).display()
                )));
            }
            None => {}
        }
    }
    for (suffix, _) in SIDES {
        if place.stat(&place.side(suffix))?.is_some() {
            return Err(failed(format!(
                "{} appeared: somebody opened the database",
                place.path_of(&place.side(suffix)).display()
            )));
        }
    }
    gap(Gap::SidesAside);
    Ok(())
}

/// Side files aside, durable; then the candidate over the path, durable. Locks are held.
fn swap(place: &Place<'_>, record: &Record) -> Result<(), JobFailure> {
    sides_aside(place, &record.sides)?;
    // The old inode keeps a name until nobody can have opened it meanwhile. Where there are no hard links, evidence must do.
    if place.stat(&place.name)?.is_some() {
        place.remove(&place.ours(OLD_MAIN))?;
        let _best_effort = place.folder.link(&place.name, &place.folder, place.ours(OLD_MAIN));
    }
    // A crash after the rename must find the side files gone, whatever the file system's order.
    place.sync()?;
    gap(Gap::SidesDurable);
    let (from, to) = (place.candidate(), place.name.clone());
    let renamed = match place.stat(&place.name)? {
        Some(main) if record.old_main.is_some_and(|old| old.ino == main.ino) => {
            match place.folder.exchange(&from, &to) {
                Ok(true) => Ok(()),
                Ok(false) => place.folder.rename(&from, &place.folder, &to),
                Err(error) => Err(error),
            }
        }
        // Nothing there as far as we saw: then nothing may be replaced.
        _ => place.folder.rename_noreplace(&from, &place.folder, &to),
    };
    renamed.map_err(while_("putting the candidate in place"))?;
    gap(Gap::Renamed);
    place.sync()?;
    gap(Gap::RenamedDurable);
    Ok(())
}

/// The swap is done. Who opened the old file between our last look and the rename waits for its lock still, and would go on
/// writing to a file without a name: then everything goes back.
fn conclude(place: &Place<'_>, record: &Record) -> Result<StepReport, JobFailure> {
    // A resume may find the rename done but not yet durable.
    place.sync()?;
    if let Some(out) = swapped_out(place, record)?
        && record.old_main.is_none_or(|old| !same_content(&out, &old))
    {
        // Somebody wrote to it, or put another file there, after we had last looked: no evidence has that.
        if !place.stat(&place.name)?.is_some_and(|main| same_content(&main, &record.candidate)) {
            return Err(failed(format!(
                "{} was written since it was put in place, and what somebody had put there before is {}: decide by hand which \
                 to keep",
                place.path().display(),
                place.path_of(&place.candidate()).display()
            )));
        }
        swap_back(place)?;
        return take_back(place, record);
    }
    let late = holders_of(place, &[place.ours(OLD_MAIN)], Look::Found)?;
    if let Some(late) = late.first() {
        let untouched = place.stat(&place.name)?.is_some_and(|main| same_content(&main, &record.candidate));
        if untouched && holders_of(place, std::slice::from_ref(&place.name), Look::Found)?.is_empty() {
            swap_back(place)?;
            let mut report = take_back(place, record)?;
            report.detail = format!("{}: {late} opened the old file at the last moment", report.detail);
            return Ok(report);
        }
        tracing::warn!(path = %place.path().display(), holder = %late, "a program still has the old file open: restart it");
    }
    clean(place, record)?;
    let sides: Vec<&str> = record.sides.iter().map(|(suffix, _)| suffix.as_str()).collect();
    Ok(done(format!(
        "{} is in place ({} bytes){}{}{}",
        place.path().display(),
        record.candidate.size,
        if record.old_main.is_some() { "; the old one is in evidence" } else { "" },
        if sides.is_empty() { String::new() } else { format!(", its side files {} too", sides.join(", ")) },
        late.first().map(|late| format!("; {late} still has the old file open: restart it")).unwrap_or_default()
    )))
}

/// What was set aside may go, evidence has it.
fn clean(place: &Place<'_>, record: &Record) -> Result<(), JobFailure> {
    for (suffix, _) in &record.sides {
        place.remove(&place.ours(&format!("old{suffix}")))?;
    }
    if swapped_out(place, record)?.is_some() {
        place.remove(&place.candidate())?;
    }
    place.remove(&place.ours(OLD_MAIN))?;
    gap(Gap::Cleaned);
    place.sync()
}

/// What was at the path when the candidate took its place, under the candidate's name.
fn swapped_out(place: &Place<'_>, record: &Record) -> Result<Option<FileFacts>, JobFailure> {
    Ok(place.stat(&place.candidate())?.filter(|out| out.ino != record.candidate.ino))
}

/// What was at the path there again, the candidate under its own name: atomic steps, and the path is never empty.
fn swap_back(place: &Place<'_>) -> Result<(), JobFailure> {
    let (folder, candidate) = (&place.folder, place.candidate());
    if place.stat(&candidate)?.is_some() {
        folder.exchange(&candidate, &place.name).map_err(while_("putting back what was swapped out"))?;
        return place.sync();
    }
    folder.link(&place.name, folder, candidate).map_err(while_("keeping the candidate"))?;
    folder.rename(place.ours(OLD_MAIN), folder, &place.name).map_err(while_("putting the old file back"))?;
    place.sync()
}

fn take_back(place: &Place<'_>, record: &Record) -> Result<StepReport, JobFailure> {
    sides_home(place, record.old_main.as_ref(), &record.sides)?;
    archive(place, RECORD, "install-undone")?;
    Ok(undone("the swap was taken back: every file is where it was"))
}

/// Puts side files back beside the old main file. Not when that was written meanwhile: a WAL replayed onto it would tear it.
pub(super) fn sides_home(
    place: &Place<'_>,
    old_main: Option<&FileFacts>,
    sides: &[(String, FileFacts)],
) -> Result<(), JobFailure> {
    let main = place.stat(&place.name)?;
    let same = match (&main, old_main) {
        (Some(main), Some(old)) => same_content(main, old),
        (None, _) => true,
        (Some(_), None) => false,
    };
    for (suffix, _) in sides {
        let aside = place.ours(&format!("old{suffix}"));
        if place.stat(&aside)?.is_none() {
            continue;
        }
        if !same {
            return Err(failed(format!(
                "{} was written after its side files were set aside: they stay at {}*, and in evidence. Decide by hand which to \
                 keep: `put_back` in {} says how",
                place.path().display(),
                place.ours("old").display(),
                place.evidence.path().join(super::evidence::MANIFEST).display()
            )));
        }
        let back = place.folder.rename_noreplace(&aside, &place.folder, place.side(suffix));
        back.map_err(while_("putting a side file back"))?;
    }
    place.remove(&place.ours(OLD_MAIN))?;
    place.sync()
}

/// Keeps the record for people, under a name that no resume acts on.
pub(super) fn archive(place: &Place<'_>, record: &str, name: &str) -> Result<(), JobFailure> {
    let free = |evidence: &Folder, name: &str| evidence.stat_in(name).is_err_and(|error| error.is_absent());
    let names = (1..1000).map(|number| format!("{name}-{number}.json"));
    let name = names.into_iter().find(|name| free(&place.evidence, name)).unwrap_or_else(|| format!("{name}.json"));
    place.evidence.rename(record, &place.evidence, name).map_err(while_("putting a swap's record away"))?;
    place.evidence.sync().map_err(while_("making the evidence folder durable"))
}
