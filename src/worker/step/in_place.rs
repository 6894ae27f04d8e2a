//! Steps through SQLite's own locking, with the program alive: nothing is lost, and nothing is swapped.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::evidence::{read_json, same_content, write_json};
use super::place::Place;
use super::{done, failed, nothing, refused, while_};
use crate::backup::apart_in;
use crate::job::{JobFailure, StepReport};
use crate::sqlite::{Access, Database, Deadline, FaultClass, Which};
use crate::worker::probe;

/// `wal_checkpoint(TRUNCATE)` after a read (rule 15), of a WAL that is sound: as it was when it was verified, or read once more.
pub(super) fn checkpoint(place: &Place<'_>, timeout_ms: u64) -> Result<StepReport, JobFailure> {
    let before = place.stat(&place.side("-wal"))?.map_or(0, |wal| wal.size);
    if before == 0 {
        return Ok(nothing("the WAL is empty"));
    }
    super::readers::make_way(place)?;
    // The look that called for this is a while ago: what was damaged since would be thrown away with it.
    let now = place.stat(&place.side("-wal"))?;
    let as_verified = now.zip(place.job.wal_verified).is_some_and(|(now, then)| same_content(&now, &then));
    if !as_verified && let Some(damage) = probe::wal_damage(place.path()).map_err(while_("reading the WAL"))? {
        return Err(refused(format!("the WAL is damaged by now, and a checkpoint would lose commits: {damage}")));
    }
    let database = open(place)?;
    let report = database.checkpoint_truncate(Duration::from_millis(timeout_ms)).map_err(while_("checkpointing"))?;
    database.close().map_err(while_("closing the database"))?;
    let after = place.stat(&place.side("-wal"))?.map_or(0, |wal| wal.size);
    if report.busy {
        return Err(failed(format!(
            "the checkpoint was held back for {timeout_ms} ms: {} of {} frames are in the database, the WAL has {after} bytes. A \
             reader that does not end, or a writer, holds it: `guardiand status` names it",
            report.checkpointed, report.log_frames
        )));
    }
    Ok(done(format!("the WAL went from {before} to {after} bytes")))
}

/// In evidence while a rebuild is under way. A tree that cannot be read is abandoned by it, and its pages are given back at the very
/// end: a death in between leaves them, and what is left then is no lost write's.
const REBUILD: &str = "rebuild.json";

#[derive(Serialize, Deserialize)]
struct RebuildBegun {
    begun_at: Timestamp,
}

/// Rebuilds indexes from their tables, in one transaction.
pub(super) fn rebuild_indexes(place: &Place<'_>, indexes: &[String]) -> Result<StepReport, JobFailure> {
    let was_cut_off = read_json::<RebuildBegun>(&place.evidence, REBUILD)?.is_some();
    write_json(&place.evidence, REBUILD, &RebuildBegun { begun_at: Timestamp::now() })?;
    let report = rebuild(place, indexes, was_cut_off);
    place.evidence.unlink(REBUILD).map_err(while_("removing a paper from evidence"))?;
    report
}

fn rebuild(place: &Place<'_>, indexes: &[String], was_cut_off: bool) -> Result<StepReport, JobFailure> {
    let had_wal = place.stat(&place.side("-wal"))?.is_some_and(|wal| wal.size > 0);
    let database = open(place)?;
    if had_wal {
        // If this does not heal it, the next rung may need what was committed since a backup, and it is nowhere else.
        database.leave_wal().map_err(while_("leaving the WAL as it is"))?;
    }
    let which = if indexes.is_empty() { Which::All } else { Which::Names(indexes.to_vec()) };
    let report = database.rebuild_indexes(&which).map_err(|fault| match fault.class {
        // Somebody is at it: waiting helps, and nothing lossier does.
        FaultClass::Busy => refused(format!("while rebuilding indexes: {fault}")),
        _ => while_("rebuilding indexes")(fault),
    })?;
    let wal = database.journal_mode().is_ok_and(|mode| mode == "wal");
    database.close().map_err(while_("closing the database"))?;

    let mut detail = format!("reindexed {:?}, recreated {:?}", report.reindexed, report.recreated);
    if let Some(fault) = report.unreclaimed {
        detail += &format!("; their old pages are not freed yet: {fault}");
    }
    // Rule 11: in rollback mode a check keeps writers out for its whole length.
    let bound = Duration::from_millis(place.job.site.block_max_ms);
    let checked = || {
        let deadline = if wal { Deadline::never() } else { Deadline::after(bound) };
        let database = open_with(place, Access::Probe, deadline)?;
        let check = database.integrity_check(10);
        database.close().map_err(while_("closing the database"))?;
        Ok::<_, JobFailure>(check)
    };
    let mut check = checked()?;
    if check.only_waste && was_cut_off {
        let database = open(place)?;
        database
            .batch("VACUUM")
            .map_err(while_("giving back the pages that a rebuild had abandoned when it was cut off"))?;
        database.close().map_err(while_("closing the database"))?;
        detail += ", and gave back the pages that a rebuild had left when it was cut off";
        check = checked()?;
    }
    match check.fault {
        Some(fault) if fault.class == FaultClass::Interrupted => {
            Ok(done(format!("{detail}; not checked here: it would keep writers out longer than {bound:?}")))
        }
        Some(fault) => Err(failed(format!("{detail}; and the check failed: {fault}"))),
        None if check.ok => {
            if had_wal {
                // Nobody else may have it open, who would write the WAL back as he ends.
                let database = open(place)?;
                let _schema = database.schema_version().map_err(while_("opening it once more"))?;
                database.close().map_err(while_("closing the database"))?;
            }
            Ok(done(format!("{detail}; integrity_check ok")))
        }
        None => Err(failed(format!("{detail}; and still: {}", check.messages.join("; ")))),
    }
}

fn open(place: &Place<'_>) -> Result<Database, JobFailure> {
    open_with(place, Access::Repair, Deadline::never())
}

fn open_with(place: &Place<'_>, access: Access, deadline: Deadline) -> Result<Database, JobFailure> {
    if place.stat(&place.name)?.is_none_or(|main| main.size == 0) {
        return Err(refused(format!("{} is not there, or empty: it is not opened", place.path().display())));
    }
    let apart = apart_in(&place.folder, &place.name).map_err(while_("asking who has the database open"))?;
    if let Some(why) = apart {
        return Err(refused(format!("{} is not opened: {why}", place.path().display())));
    }
    let busy = Duration::from_millis(place.job.site.busy_ms);
    Database::open(place.path(), access, busy, deadline).map_err(while_("opening the database"))
}
