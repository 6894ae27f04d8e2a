//! Rolling a heal back: the files of a preservation in the place of those that are there, main and side files as one. The same
//! guarded swap as an install's, with one thing more: a main file and its WAL or journal belong together, and three names
//! cannot change at once. So a main file whose side files are not beside it yet has no permission bit: whoever starts in that
//! gap (even after we died in it) cannot open it, instead of reading a database that lacks its last commits, or is torn.
//!
//! What is there now was preserved by the step before, so a rollback can be rolled back.
//!
//! | at the path, once the swap is recorded | what a resume does |
//! | --- | --- |
//! | the file that was there; what comes back stands ready | finishes; or, when it is in use or was written, takes back |
//! | the file that was there; what comes back is incomplete | takes back |
//! | what came back | puts its side files beside it, gives it its mode: done |
//! | another file | touches nothing, and says so |

use std::ffi::OsString;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::evidence::{Kept, copy_out, one, read_json, same_content, write_json};
use super::in_use::{Look, holders_of, nobody_has_any};
use super::install::{Gap, OLD_MAIN, archive, change_counter, gap, lock_all, preserved, sides_aside, sides_home};
use super::place::{Place, SIDES, need_space};
use super::{done, failed, refused, undone, while_};
use crate::host::{self, Folder, Mounts, Ownership, give};
use crate::job::{DatabaseStep, FileFacts, JobFailure, StepReport};

/// The record's name in evidence while the swap is under way.
const RECORD: &str = "rollback.json";

/// And once it is done: what the files were then tells what was committed since.
pub(super) const DONE: &str = "rolled-back.json";

/// What comes back, beside the target.
const BACK: &str = "back";

/// What a rollback is about to do. Durable before the first name changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The shape's version.
    pub version: u32,
    pub begun_at: Timestamp,
    /// What was asked for: the record of another rollback says nothing of this one.
    pub step: DatabaseStep,
    /// The main file that comes back; `None` when there was none.
    pub main: Option<FileFacts>,
    /// Whose it shall be once its side files are beside it.
    pub ownership: Option<Ownership>,
    /// Suffix and facts of the side files that come back with it.
    pub sides: Vec<(String, FileFacts)>,
    /// The main file that is there now.
    pub old_main: Option<FileFacts>,
    /// Its side files.
    pub old_sides: Vec<(String, FileFacts)>,
    /// The preservation that has them; `None` when nothing is there.
    pub generation: Option<u32>,
    /// The change counter of the main file that comes back.
    pub change_counter: Option<u32>,
}

pub(super) fn apply(place: &Place<'_>) -> Result<StepReport, JobFailure> {
    if let Some(record) = read_json::<Record>(&place.evidence, RECORD)? {
        // One that could not be finished goes first.
        let report = settle(place, &record)?;
        if record.step == place.job.step {
            return Ok(report);
        }
    }
    // Of a group's files some may be back already when guardiand dies.
    if let Some(record) = read_json::<Record>(&place.evidence, DONE)?
        && record.step == place.job.step
        && is_as_it_came_back(place, &record)?
    {
        return Ok(told(&record));
    }
    let DatabaseStep::RollBack { evidence, generation, .. } = &place.job.step else {
        return Err(failed("it is no rollback"));
    };
    let evidence = Folder::open(evidence).map_err(while_("opening the evidence to put back"))?;
    let kept = one(&evidence, *generation)?;
    if kept.evidence.path != place.path() {
        return Err(refused(format!(
            "this evidence is of {}, and not of {}",
            kept.evidence.path.display(),
            place.path().display()
        )));
    }
    let mounts = Mounts::read().map_err(while_("asking what is mounted"))?;
    if let Some(why) = mounts.of(place.folder.path()).and_then(|mount| mount.observe_only()) {
        return Err(refused(why));
    }
    nobody_has_any(place, &names(place))?;
    discard(place)?;
    let built = build(place, &kept).and_then(|record| begin(place, record));
    match built {
        Ok(report) => Ok(report),
        Err(why) => {
            if read_json::<Record>(&place.evidence, RECORD)?.is_none() {
                discard(place)?;
            }
            Err(why)
        }
    }
}

pub(super) fn resume(place: &Place<'_>) -> Result<StepReport, JobFailure> {
    if let Some(record) = read_json::<Record>(&place.evidence, RECORD)?
        && record.step == place.job.step
    {
        return settle(place, &record);
    }
    if let Some(record) = read_json::<Record>(&place.evidence, DONE)?
        && record.step == place.job.step
    {
        return Ok(told(&record));
    }
    // Not a name has changed yet, and all that it needs is there still, or is said to be gone.
    apply(place)
}

/// Copies what comes back beside the target, verified, and looks at what is there.
fn build(place: &Place<'_>, kept: &Kept) -> Result<Record, JobFailure> {
    need_space(&place.folder, kept.evidence.files.iter().map(|file| file.size).sum())?;
    let mut sides = Vec::new();
    for (suffix, name) in SIDES {
        // The -shm is an index over the WAL, which SQLite builds anew; a side file without a byte says nothing.
        let Some(file) = kept.evidence.file(name).filter(|file| name != "shm" && file.size > 0) else { continue };
        let facts = bring(place, kept, file, &format!("{BACK}{suffix}"))?;
        sides.push((suffix.to_owned(), facts));
    }
    let (mut main, mut ownership) = (None, None);
    if let Some(file) = kept.evidence.file("main") {
        main = Some(bring(place, kept, file, BACK)?);
        ownership = Some(file.ownership.clone());
    }
    let mut old_sides = Vec::new();
    for (suffix, _) in SIDES {
        if let Some(facts) = place.stat(&place.side(suffix))? {
            old_sides.push((suffix.to_owned(), facts));
        }
    }
    Ok(Record {
        version: 1,
        begun_at: Timestamp::now(),
        step: place.job.step.clone(),
        change_counter: main.and_then(|_| change_counter(place, &place.ours(BACK))),
        main,
        ownership,
        sides,
        old_main: place.stat(&place.name)?,
        old_sides,
        generation: None,
    })
}

fn bring(
    place: &Place<'_>,
    kept: &Kept,
    file: &super::evidence::Preserved,
    what: &str,
) -> Result<FileFacts, JobFailure> {
    let name = place.ours(what);
    for remark in copy_out(place, &kept.folder, file, &name)? {
        tracing::warn!(file = %file.original.display(), remark, "a file put back is not all as it was");
    }
    place.stat(&name)?.ok_or_else(|| failed("a copy out of evidence vanished"))
}

/// The swap, from its record on.
fn begin(place: &Place<'_>, mut record: Record) -> Result<StepReport, JobFailure> {
    let _locks = lock(place, &record)?;
    as_weighed(place, &record)?;
    record.generation = preserved(place, record.old_main.as_ref(), &record.old_sides)?;
    place.sync()?;
    write_json(&place.evidence, RECORD, &record)?;
    gap(Gap::Recorded);
    // Only now: whoever came before the locks is seen here, whoever comes later gets BUSY.
    match nobody_has_any(place, &names(place)).and_then(|()| swap(place, &record)) {
        Ok(()) => conclude(place, &record),
        Err(why) => {
            let back = reverse(place, &record).map_or_else(|error| error.message, |report| report.detail);
            Err(JobFailure { message: format!("{}; {back}", why.message), ..why })
        }
    }
}

/// Refuses when the files are not those of which a person was told what they would lose.
fn as_weighed(place: &Place<'_>, record: &Record) -> Result<(), JobFailure> {
    let DatabaseStep::RollBack { present, accept_loss: false, of, .. } = &record.step else { return Ok(()) };
    let side = |suffix: &str| record.old_sides.iter().find(|(known, _)| known == suffix).map(|(_, facts)| *facts);
    for (name, now) in [("main", record.old_main), ("wal", side("-wal")), ("journal", side("-journal"))] {
        let weighed = present.iter().find(|(known, _)| known == name).map(|(_, facts)| facts);
        let now = now.filter(|facts| name == "main" || facts.size > 0);
        let same = match (weighed, &now) {
            (Some(weighed), Some(now)) => same_content(weighed, now),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if !same {
            let when = match super::app::is_stopped(place) {
                true => "by its program since that was weighed, when it was stopped at the latest",
                false => "a moment ago",
            };
            return Err(refused(format!(
                "{} was written {when}: `guardiand rollback {of}` again says what it would cost now, and with `--accept-loss` it \
                 comes back whatever was written",
                place.path().display()
            )));
        }
    }
    Ok(())
}

fn settle(place: &Place<'_>, record: &Record) -> Result<StepReport, JobFailure> {
    let main = place.stat(&place.name)?;
    let is_back = record.main.zip(main).is_some_and(|(back, main)| back.ino == main.ino);
    let is_gone = record.main.is_none() && record.old_main.is_some() && main.is_none();
    if is_back || is_gone || side_is_back(place, record)? {
        return conclude(place, record);
    }
    let as_before = match (&main, &record.old_main) {
        (Some(main), Some(old)) => main.ino == old.ino,
        // Gone meanwhile: evidence has it, and nothing is replaced.
        (None, _) => true,
        (Some(_), None) => false,
    };
    if !as_before {
        return Err(failed(format!(
            "{} is neither the file that was there nor the one that was to come back: somebody put it there meanwhile. It is not \
             touched; what was to come back is beside it as {}*, and in evidence",
            place.path().display(),
            place.ours(BACK).display()
        )));
    }
    let written = main.zip(record.old_main).is_some_and(|(main, old)| !same_content(&main, &old));
    let finished = match (written, stands_ready(place, record)?) {
        (true, _) => Err(refused(format!("{} was written meanwhile", place.path().display()))),
        (false, false) => Err(failed("what was to come back is not complete")),
        (false, true) => finish_swap(place, record),
    };
    match finished {
        Ok(report) => Ok(report),
        Err(why) => {
            let mut report = take_back(place, record)?;
            report.detail = format!("{}: {}", report.detail, why.message);
            Ok(report)
        }
    }
}

fn finish_swap(place: &Place<'_>, record: &Record) -> Result<StepReport, JobFailure> {
    let _locks = lock(place, record)?;
    nobody_has_any(place, &names(place))?;
    swap(place, record)?;
    conclude(place, record)
}

fn stands_ready(place: &Place<'_>, record: &Record) -> Result<bool, JobFailure> {
    let mains = record.main.iter().map(|facts| (BACK.to_owned(), facts));
    let sides = record.sides.iter().map(|(suffix, facts)| (format!("{BACK}{suffix}"), facts));
    for (what, facts) in mains.chain(sides) {
        if !place.stat(&place.ours(&what))?.is_some_and(|present| same_content(&present, facts)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What this rollback put there is there, and nobody has written to it since.
fn is_as_it_came_back(place: &Place<'_>, record: &Record) -> Result<bool, JobFailure> {
    Ok(match (&record.main, place.stat(&place.name)?) {
        (Some(back), Some(main)) => same_content(back, &main),
        (None, None) => true,
        _ => false,
    })
}

fn side_is_back(place: &Place<'_>, record: &Record) -> Result<bool, JobFailure> {
    for (suffix, facts) in &record.sides {
        if place.stat(&place.side(suffix))?.is_some_and(|present| present.ino == facts.ino) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Every entry that somebody could have open.
fn names(place: &Place<'_>) -> Vec<OsString> {
    let mut names = vec![place.name.clone(), place.ours(BACK), place.ours(OLD_MAIN)];
    for (suffix, _) in SIDES {
        names.extend([place.side(suffix), place.ours(&format!("old{suffix}")), place.ours(&format!("{BACK}{suffix}"))]);
    }
    names
}

fn lock(place: &Place<'_>, record: &Record) -> Result<Vec<crate::host::OfdLock>, JobFailure> {
    let mut names = Vec::new();
    if let Some(ownership) = &record.ownership {
        // A swap that died may have taken its permissions already.
        set_mode(place, &place.ours(BACK), ownership.mode)?;
        names.push(place.ours(BACK));
    }
    if place.stat(&place.name)?.is_some() {
        names.push(place.name.clone());
    }
    lock_all(place, names)
}

/// The old side files aside, durable; then the main file, durable. Locks are held.
fn swap(place: &Place<'_>, record: &Record) -> Result<(), JobFailure> {
    sides_aside(place, &record.old_sides)?;
    if record.main.is_some() && !record.sides.is_empty() {
        set_mode(place, &place.ours(BACK), 0)?;
    }
    let main = place.stat(&place.name)?;
    let is_old = main.zip(record.old_main).is_some_and(|(main, old)| main.ino == old.ino);
    if main.is_some() && !is_old {
        return Err(failed(format!("{} is another file now", place.path().display())));
    }
    place.remove(&place.ours(OLD_MAIN))?;
    if main.is_some() && record.main.is_some() {
        // The old inode keeps a name where two names cannot be exchanged. Where there are no hard links, evidence must do.
        let _best_effort = place.folder.link(&place.name, &place.folder, place.ours(OLD_MAIN));
    }
    // A crash after the rename must find the side files gone, whatever the file system's order.
    place.sync()?;
    gap(Gap::SidesDurable);
    let (folder, back, name) = (&place.folder, place.ours(BACK), place.name.clone());
    let moved = match (record.main.is_some(), main.is_some()) {
        (true, true) => match folder.exchange(&back, &name) {
            Ok(true) => Ok(()),
            Ok(false) => folder.rename(&back, folder, &name),
            Err(error) => Err(error),
        },
        // Nothing there as far as we saw: then nothing may be replaced.
        (true, false) => folder.rename_noreplace(&back, folder, &name),
        (false, true) => folder.rename_noreplace(&name, folder, place.ours(OLD_MAIN)),
        (false, false) => Ok(()),
    };
    moved.map_err(while_("putting the files back"))?;
    gap(Gap::Renamed);
    place.sync()?;
    gap(Gap::RenamedDurable);
    Ok(())
}

/// The main file is back. Who opened the one that was there between our last look and the rename would go on writing to a file
/// without a name: then everything goes back. Otherwise the side files follow.
fn conclude(place: &Place<'_>, record: &Record) -> Result<StepReport, JobFailure> {
    place.sync()?;
    if !side_is_back(place, record)? {
        let out = swapped_out(place, record)?;
        let written = out.as_ref().zip(record.old_main).is_some_and(|((_, out), old)| !same_content(out, &old));
        let held: Vec<OsString> = out.into_iter().map(|(name, _)| name).collect();
        let late = holders_of(place, &held, Look::Found)?;
        if written || !late.is_empty() {
            go_back(place, record)?;
            let mut report = take_back(place, record)?;
            let who = late.first().map_or("somebody", String::as_str);
            report.detail = format!("{}: {who} opened the file that was there at the last moment", report.detail);
            return Ok(report);
        }
    }
    sides_back(place, record)?;
    gap(Gap::UndoMainBack);
    open_up(place, record)?;
    for (suffix, _) in &record.old_sides {
        place.remove(&place.ours(&format!("old{suffix}")))?;
    }
    if let Some((name, _)) = swapped_out(place, record)? {
        place.remove(&name)?;
    }
    place.remove(&place.ours(OLD_MAIN))?;
    gap(Gap::Cleaned);
    place.sync()?;
    place.evidence.rename(RECORD, &place.evidence, DONE).map_err(while_("putting the rollback's record away"))?;
    place.evidence.sync().map_err(while_("making the evidence folder durable"))?;
    Ok(told(record))
}

fn told(record: &Record) -> StepReport {
    let mut files: Vec<String> =
        record.main.iter().map(|main| format!("the main file ({} bytes)", main.size)).collect();
    files.extend(record.sides.iter().map(|(suffix, facts)| format!("{suffix} ({} bytes)", facts.size)));
    let kept = match record.generation {
        Some(_) => "; what was there is in this incident's evidence",
        None => "",
    };
    done(match files.is_empty() {
        true => format!("there is no file, as there was none before the heal{kept}"),
        false => format!("back as before the heal: {}{kept}", files.join(", ")),
    })
}

/// What was at the path when the main file came back, under the name that it has now.
fn swapped_out(place: &Place<'_>, record: &Record) -> Result<Option<(OsString, FileFacts)>, JobFailure> {
    for name in [place.ours(BACK), place.ours(OLD_MAIN)] {
        let facts = place.stat(&name)?.filter(|facts| record.main.is_none_or(|back| back.ino != facts.ino));
        if let Some(facts) = facts {
            return Ok(Some((name, facts)));
        }
    }
    Ok(None)
}

/// The main files change places again: nobody has written to the one that came back.
fn go_back(place: &Place<'_>, record: &Record) -> Result<(), JobFailure> {
    let (folder, back) = (&place.folder, place.ours(BACK));
    if !is_as_it_came_back(place, record)? {
        return Err(failed(format!(
            "{} was written since it came back, and so was what was there before, which is {}: decide by hand which to keep",
            place.path().display(),
            place.path_of(&back).display()
        )));
    }
    if record.main.is_none() {
        folder
            .rename_noreplace(place.ours(OLD_MAIN), folder, &place.name)
            .map_err(while_("putting back what was swapped out"))?;
    } else if place.stat(&back)?.is_some() {
        folder.exchange(&back, &place.name).map_err(while_("putting back what was swapped out"))?;
    } else {
        folder.link(&place.name, folder, &back).map_err(while_("keeping what was to come back"))?;
        folder.rename(place.ours(OLD_MAIN), folder, &place.name).map_err(while_("putting the old file back"))?;
    }
    place.sync()
}

/// The side files beside the main file that they belong to. A main file that was written meanwhile is not theirs any more.
fn sides_back(place: &Place<'_>, record: &Record) -> Result<(), JobFailure> {
    for (suffix, _) in &record.sides {
        let (from, to) = (place.ours(&format!("{BACK}{suffix}")), place.side(suffix));
        if place.stat(&from)?.is_none() {
            continue;
        }
        let there = place.stat(&to)?;
        if !is_as_it_came_back(place, record)? || there.is_some_and(|facts| facts.size > 0) {
            return Err(failed(format!(
                "somebody opened {} before its {suffix} was back beside it: that is {} still. Stop the program and decide by \
                 hand; all is in evidence too",
                place.path().display(),
                place.path_of(&from).display()
            )));
        }
        if there.is_some() {
            nobody_has_any(place, &names(place))?;
            place.remove(&to)?;
        }
        place.folder.rename_noreplace(&from, &place.folder, &to).map_err(while_("putting a side file back"))?;
    }
    place.sync()
}

/// Owner, mode and attributes as they were: from here on programs may open it.
fn open_up(place: &Place<'_>, record: &Record) -> Result<(), JobFailure> {
    let (Some(ownership), false) = (&record.ownership, record.sides.is_empty()) else { return Ok(()) };
    set_mode(place, &place.name, ownership.mode)?;
    let is_back = |file: &std::fs::File| {
        let facts = host::FileFacts::of_fd(file);
        record.main.is_some_and(|main| facts.is_ok_and(|facts| facts.id.ino == main.ino))
    };
    // Another file under its name is given to nobody.
    if let Some(file) = place.folder.open_for_writing_in(&place.name).ok().filter(is_back) {
        // The mode was its ACL's mask, too.
        for remark in ownership.apply(&file) {
            tracing::warn!(file = %place.path().display(), remark, "a file put back is not all as it was");
        }
        file.sync_all().map_err(while_("making the file that is back durable"))?;
    }
    Ok(())
}

fn set_mode(place: &Place<'_>, name: &std::ffi::OsStr, mode: u32) -> Result<(), JobFailure> {
    let Some(now) = place.stat(name)? else { return Ok(()) };
    let doing = format!("giving {} the mode {mode:04o}", place.path_of(name).display());
    let id = place.folder.stat_in(name).map_err(while_(&doing))?.id;
    give(&place.folder, name, id, now.uid, now.gid, mode).map_err(while_(doing))
}

/// A swap that failed half-way.
fn reverse(place: &Place<'_>, record: &Record) -> Result<StepReport, JobFailure> {
    let main = place.stat(&place.name)?;
    let moved = match &record.main {
        Some(back) => main.is_some_and(|main| main.ino == back.ino),
        None => main.is_none() && record.old_main.is_some(),
    };
    if moved {
        go_back(place, record)?;
    }
    take_back(place, record)
}

/// Everything as it was before the rollback.
fn take_back(place: &Place<'_>, record: &Record) -> Result<StepReport, JobFailure> {
    sides_home(place, record.old_main.as_ref(), &record.old_sides)?;
    archive(place, RECORD, "rollback-undone")?;
    discard(place)?;
    Ok(undone("the rollback was taken back: every file is where it was"))
}

/// Removes copies that were to come back. Evidence has them.
fn discard(place: &Place<'_>) -> Result<(), JobFailure> {
    place.remove(&place.ours(BACK))?;
    for (suffix, _) in SIDES {
        place.remove(&place.ours(&format!("{BACK}{suffix}")))?;
    }
    place.sync()
}
