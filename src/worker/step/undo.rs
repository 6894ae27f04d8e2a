//! Taking an install back: the old file from evidence over the new one, as long as nothing was committed to that.

use super::evidence::{copy_out, one, read_json, same_content};
use super::in_use::nobody_has;
use super::install::{Gap, LOCK_BYTES, RECORD, Record, archive, gap, resume};
use super::place::{Place, SIDES};
use super::{done, failed, refused, undone, while_};
use crate::host::{HostError, OfdLock};
use crate::job::{FileFacts, JobFailure, Progress, StepReport};

pub(super) fn undo(place: &Place<'_>) -> Result<StepReport, JobFailure> {
    let Some(record) = read_json::<Record>(&place.evidence, RECORD)? else {
        return Ok(undone("nothing was installed: every file is where it was"));
    };
    if old_is_back(place, &record)? {
        return finish(place);
    }
    let installed = place.stat(&place.name)?.filter(|main| main.ino == record.candidate.ino);
    let Some(installed) = installed else {
        // It never got as far as the rename, or somebody put another file there: the same table decides.
        let report = resume(place)?;
        return match report.progress {
            Progress::Done => undo(place),
            Progress::Nothing | Progress::Undone => Ok(report),
        };
    };
    untouched(place, &installed, &record)?;
    nobody_has(place, &record)?;
    put_back(place, &record)
}

/// True when a first try died after the old main file was back and before its side files were.
fn old_is_back(place: &Place<'_>, record: &Record) -> Result<bool, JobFailure> {
    let Some(marker) = read_json::<FileFacts>(&place.evidence, "undo.json")? else { return Ok(false) };
    let main = place.stat(&place.name)?;
    match main {
        Some(main) if main.ino == marker.ino && record.candidate.ino != marker.ino => {
            if same_content(&main, &marker) {
                return Ok(true);
            }
            Err(failed(format!(
                "{} was written after it was put back and before its side files were: they are in evidence; decide by hand",
                place.path().display()
            )))
        }
        _ => Ok(false),
    }
}

/// Refuses when anything was committed since the install: taking it back would lose that.
fn untouched(place: &Place<'_>, installed: &FileFacts, record: &Record) -> Result<(), JobFailure> {
    let written = !same_content(installed, &record.candidate);
    let mut in_side = false;
    for suffix in ["-wal", "-journal"] {
        in_side |= place.stat(&place.side(suffix))?.is_some_and(|facts| facts.size > 0);
    }
    if written || in_side {
        return Err(refused(format!(
            "{} was written since it was installed: taking it back would lose that. `guardiand rollback --accept-loss` preserves \
             the present state first",
            place.path().display()
        )));
    }
    Ok(())
}

fn put_back(place: &Place<'_>, record: &Record) -> Result<StepReport, JobFailure> {
    let locked = |name: &std::ffi::OsStr| -> Result<OfdLock, JobFailure> {
        let file = place.folder.open_for_writing_in(name).map_err(while_("opening a file to lock it"))?;
        match OfdLock::exclusive(file.into(), LOCK_BYTES) {
            Err(HostError::LockHeld(holder)) => {
                Err(refused(format!("{} is in use: locked {holder}", place.path().display())))
            }
            answer => answer.map_err(while_("locking a database to swap it")),
        }
    };
    let _new = locked(&place.name)?;
    nobody_has(place, record)?;
    // What a reader or a checkpoint left beside the installed file belongs to it, and is empty.
    for (suffix, _) in SIDES {
        place.remove(&place.side(suffix))?;
    }
    place.sync()?;
    let Some(generation) = record.generation else {
        // Nothing was there before: nothing is there again. The candidate keeps its bytes under its own name.
        place
            .folder
            .rename_noreplace(&place.name, &place.folder, place.candidate())
            .map_err(while_("taking the candidate away again"))?;
        place.sync()?;
        return finish(place);
    };
    let kept = one(&place.evidence, generation)?;
    for preserved in &kept.evidence.files {
        let name = place.ours(&format!("undo-{}", preserved.name));
        if let Some(first) = copy_out(place, &kept.folder, preserved, &name)?.first() {
            tracing::warn!(file = %place.path_of(&name).display(), reason = %first, "a file put back is not all as it was");
        }
    }
    let mut old = None;
    if record.old_main.is_some() {
        let name = place.ours("undo-main");
        old = Some(locked(&name)?);
        let facts = place.stat(&name)?.ok_or_else(|| failed("the copy out of evidence vanished"))?;
        super::evidence::write_json(&place.evidence, "undo.json", &facts)?;
        place.sync()?;
        nobody_has(place, record)?;
        place.folder.rename(&name, &place.folder, &place.name).map_err(while_("putting the old file back"))?;
    } else {
        place
            .folder
            .rename_noreplace(&place.name, &place.folder, place.candidate())
            .map_err(while_("taking the candidate away again"))?;
    }
    place.sync()?;
    gap(Gap::UndoMainBack);
    let report = finish(place);
    drop(old);
    report
}

/// The old main file is back: its side files follow, and the record goes.
fn finish(place: &Place<'_>) -> Result<StepReport, JobFailure> {
    for (suffix, name) in SIDES {
        let copy = place.ours(&format!("undo-{name}"));
        if place.stat(&copy)?.is_none() {
            continue;
        }
        if name == "shm" {
            // An index over the WAL of another time: SQLite builds it anew.
            place.remove(&copy)?;
            continue;
        }
        place
            .folder
            .rename_noreplace(&copy, &place.folder, place.side(suffix))
            .map_err(while_("putting a side file back"))?;
    }
    place.sync()?;
    match place.evidence.unlink("undo.json") {
        Err(error) if !error.is_absent() => return Err(while_("putting the undo's record away")(error)),
        _ => {}
    }
    archive(place, RECORD, "install-undone")?;
    let report = done("the files are back as they were, from evidence");
    Ok(StepReport { progress: Progress::Undone, ..report })
}
