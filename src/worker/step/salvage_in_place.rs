//! Salvage in place: the rows that can be read, put through SQLite's own locking into the file that programs have open, where a
//! backup would lose what they committed since it was taken.
//!
//! What is salvaged must be all that was committed, and its programs go on committing. So rows are salvaged twice: first from what was
//! preserved, with nobody kept out, which says whether it can be done and is worth it; then, once SQLite's lock keeps every writer
//! out, what they committed meanwhile is kept and salvaged as well. The first result stands in for the second until then, because
//! SQLite takes that lock for a copy that has begun; whoever copies between two steps holds nothing of its source, and reads it anew
//! where its change counter is another (backup.html; fileformat2.html, section 1.3.6).
//!
//! | dying | leaves | resumed by |
//! | --- | --- | --- |
//! | before the commit | the old content, by SQLite's own recovery | doing it again |
//! | after the commit | the salvaged content, and what was written to it since | leaving it: it is sound |

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use super::place::{Place, need_space};
use super::restore_in_place::{Target, in_place_told, is_there, sound};
use super::{done, failed, preserve, salvage, while_};
use crate::backup::side_name;
use crate::host::{copy_file, in_forked_child};
use crate::job::{Candidate, JobFailure, Progress, RowsToSalvage, StepReport};
use crate::sqlite::{Access, Database, Deadline};

/// Where a header has its write and read version, and its change counter, twice (fileformat2.html, section 1.3).
const VERSIONS_AT: u64 = 18;
const COUNTER_AT: u64 = 24;
const COUNTED_AT: u64 = 92;

pub(super) fn apply(place: &Place<'_>, wanted: &RowsToSalvage) -> Result<StepReport, JobFailure> {
    let before = is_there(place)?;
    let result = put_in(place, wanted, before);
    clean(place)?;
    result
}

/// guardiand died in the middle. A file that is sound now has what was salvaged, and what was written since.
pub(super) fn resume(place: &Place<'_>, wanted: &RowsToSalvage) -> Result<StepReport, JobFailure> {
    let size = is_there(place)?;
    let Ok(tables) = sound(place, Deadline::never()) else { return apply(place, wanted) };
    clean(place)?;
    let source = "rows salvaged before guardiand was interrupted".to_owned();
    let candidate = Candidate::new(place.path().to_owned(), size, tables, source);
    let report = done("its rows had been put in place before guardiand was interrupted, and it is sound");
    Ok(StepReport { candidate: Some(candidate), ..report })
}

fn put_in(place: &Place<'_>, wanted: &RowsToSalvage, before: u64) -> Result<StepReport, JobFailure> {
    let mut salvaged = salvage::build(place, wanted)?;
    let page_size = open(place, &place.candidate(), Access::Immutable)?
        .page_size()
        .map_err(while_("looking at what was salvaged"))?;
    let target = Target::open(place, wanted.journal_mode.as_deref(), page_size)?;
    if target.page_size != page_size {
        // In WAL mode it takes no other.
        return Err(failed(format!(
            "{} has pages of {} bytes, and what was salvaged has pages of {page_size}",
            place.path().display(),
            target.page_size
        )));
    }
    let stand_in = StandIn::of_candidate(place)?;
    // A journal of all that is replaced, or a WAL of all that replaces it, beside what may be salvaged anew.
    need_space(&place.folder, before.max(stand_in.size()?))?;
    let source = open(place, &place.ours("part"), Access::Copy)?;
    let remarks = target.become_like(source, || {
        // In a copy of this process: closing a file of the database's here would drop SQLite's lock (rule 7).
        let newer = in_forked_child(|| all_that_was_committed(place, wanted, &stand_in));
        if let Some(newer) = newer.map_err(while_("salvaging under SQLite's lock"))?? {
            salvaged = newer;
        }
        Ok(())
    })?;
    let what = salvaged.candidate.as_ref().map_or("what was salvaged", |candidate| candidate.source.as_str());
    let told = in_place_told(place, what, &remarks)?;
    let size = place.stat(&place.name)?.map_or(0, |main| main.size);
    let in_place = |candidate: Candidate| Candidate { path: place.path().to_owned(), size, ..candidate };
    Ok(StepReport { candidate: salvaged.candidate.map(in_place), ..done(told) })
}

fn open(place: &Place<'_>, name: &OsStr, access: Access) -> Result<Database, JobFailure> {
    Database::open(&place.path_of(name), access, Duration::ZERO, Deadline::never())
        .map_err(while_("opening what was salvaged"))
}

/// Nobody commits now. `None` where nobody did since what was preserved.
fn all_that_was_committed(
    place: &Place<'_>,
    wanted: &RowsToSalvage,
    stand_in: &StandIn,
) -> Result<Option<StepReport>, JobFailure> {
    if preserve::in_copy_of_locker(place)?.progress == Progress::Nothing {
        return Ok(None);
    }
    let report = salvage::build(place, wanted)?;
    stand_in.become_candidate(place)?;
    Ok(Some(report))
}

/// The file that SQLite copies from.
struct StandIn {
    file: File,
}

impl StandIn {
    /// The candidate, under a name that the next one's building leaves to it.
    fn of_candidate(place: &Place<'_>) -> Result<StandIn, JobFailure> {
        let part = place.ours("part");
        place
            .folder
            .rename_noreplace(place.candidate(), &place.folder, &part)
            .map_err(while_("naming what was salvaged"))?;
        let file = place.folder.open_for_writing_in(&part).map_err(while_("opening what was salvaged"))?;
        place.is_made(&file)?;
        let stand_in = StandIn { file };
        stand_in.leave_journal_mode_to_its_target()?;
        Ok(stand_in)
    }

    /// Has the content of the next candidate, which is another version of it.
    fn become_candidate(&self, place: &Place<'_>) -> Result<(), JobFailure> {
        let doing = "exchanging what was salvaged";
        let mut counter = [0_u8; 4];
        self.file.read_exact_at(&mut counter, COUNTER_AT).map_err(while_(doing))?;
        let candidate = place.folder.open_in(place.candidate()).map_err(while_(doing))?;
        place.is_made(&candidate)?;
        self.file.set_len(0).map_err(while_(doing))?;
        copy_file(&candidate, &self.file).map_err(while_(doing))?;
        let next = u32::from_be_bytes(counter).wrapping_add(1).to_be_bytes();
        self.file.write_all_at(&next, COUNTER_AT).map_err(while_(doing))?;
        self.file.write_all_at(&next, COUNTED_AT).map_err(while_(doing))?;
        self.leave_journal_mode_to_its_target()
    }

    /// Copied, a database keeps its own; and this one is read without a WAL beside it.
    fn leave_journal_mode_to_its_target(&self) -> Result<(), JobFailure> {
        self.file.write_all_at(&[1, 1], VERSIONS_AT).map_err(while_("preparing what was salvaged"))
    }

    fn size(&self) -> Result<u64, JobFailure> {
        let facts = self.file.metadata().map_err(while_("looking at what was salvaged"))?;
        Ok(facts.len())
    }
}

/// Leaves nothing of ours behind.
fn clean(place: &Place<'_>) -> Result<(), JobFailure> {
    for suffix in ["", "-journal", "-wal", "-shm"] {
        place.remove(&side_name(&place.ours("part"), suffix))?;
    }
    place.remove(&place.candidate())?;
    super::settle::remove_private(place)?;
    place.sync()
}
