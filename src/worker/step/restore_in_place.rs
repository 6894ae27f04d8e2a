//! Restore in place: a backup's content through SQLite's own locking into the file that programs have open (SQLITE.md, section
//! 4). Nothing is renamed or unlinked, so nobody is cut off; SQLite undoes it whole if we die in the middle.
//!
//! What the programs committed up to the very moment of the restore is in evidence: it is kept once SQLite's own lock keeps them
//! off, and before the first page is written.
//!
//! | dying | leaves | resumed by |
//! | --- | --- | --- |
//! | before the commit | the old content, by SQLite's own recovery | doing it again |
//! | between the reset of a file that has no header and the commit | an empty database | doing it again |
//! | after the commit | the restored content, and what was written to it since | leaving it: it is sound |

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::place::{Place, need_space};
use super::{done, failed, preserve, refused, while_};
use crate::backup::{Examined, examine, verify};
use crate::host::{Folder, copy_file};
use crate::job::{Candidate, JobFailure, StepReport, TableRows};
use crate::sqlite::{Access, Database, Deadline, FaultClass, SqliteFault};

/// The checkpoint afterwards holds writers up: it is no more than a courtesy to the disk.
const CHECKPOINT_MAX: Duration = Duration::from_millis(500);

/// A file that was emptied for it must not stay empty for a lock that is held for a moment.
const EMPTY_MAX: Duration = Duration::from_secs(30);

/// What is restored.
pub(super) struct Wanted<'a> {
    /// The backup's database file.
    pub backup: &'a Path,
    /// Its manifest's BLAKE3.
    pub blake3: &'a str,
    /// The database's journal mode as it was when healthy.
    pub journal_mode: Option<&'a str>,
}

pub(super) fn apply(place: &Place<'_>, wanted: &Wanted<'_>) -> Result<StepReport, JobFailure> {
    let before = is_there(place)?;
    let (manifest, examined) = verify(wanted.backup, &Deadline::never())?;
    if manifest.blake3 != wanted.blake3 {
        return Err(failed(format!("{} is another backup than was planned with", wanted.backup.display())));
    }
    if examined.empty {
        return Err(failed(format!("the backup {} holds no table", wanted.backup.display())));
    }
    // A journal of all that is replaced, or a WAL of all that replaces it.
    need_space(&place.folder, before.max(manifest.size))?;
    let result = overwrite(place, wanted, &examined).and_then(|remarks| conclude(place, wanted, &examined, &remarks));
    for suffix in ["", "-journal", "-wal", "-shm"] {
        place.remove(&crate::backup::side_name(&place.ours("part"), suffix))?;
    }
    result
}

/// guardiand died in the middle. A file that is sound now was restored: doing it again would lose what was written since.
pub(super) fn resume(place: &Place<'_>, wanted: &Wanted<'_>) -> Result<StepReport, JobFailure> {
    is_there(place)?;
    if let Ok(tables) = sound(place, Deadline::never()) {
        let report = done("it had been restored before guardiand was interrupted, and is sound");
        return with_candidate(report, place, wanted, tables);
    }
    apply(place, wanted)
}

/// Never a file without a byte: opening it would destroy the WAL of a living program.
pub(super) fn is_there(place: &Place<'_>) -> Result<u64, JobFailure> {
    match place.stat(&place.name)? {
        Some(main) if main.size > 0 => Ok(main.size),
        Some(_) => Err(refused(format!(
            "{} has 0 bytes, and opening it would destroy the WAL of the program that has it open: stop that program, then {}",
            place.path().display(),
            place.again()
        ))),
        None => Err(refused(format!("{} is not there any more", place.path().display()))),
    }
}

/// Remarks.
fn overwrite(place: &Place<'_>, wanted: &Wanted<'_>, examined: &Examined) -> Result<Vec<String>, JobFailure> {
    let target = Target::open(place, wanted.journal_mode, examined.page_size)?;
    let file = fitting(place, wanted, examined, target.page_size)?;
    let source = Database::open(&file, Access::Immutable, Duration::ZERO, Deadline::never())
        .map_err(while_("opening the backup"))?;
    // Whatever hinders it is none of the backup's fault.
    target.become_like(source, || preserve::under_sqlites_lock(place).map(drop).map_err(|why| refused(why.message)))
}

/// The database that its programs have open.
pub(super) struct Target<'a> {
    place: &'a Place<'a>,
    database: Database,
    /// Bytes a page.
    pub page_size: u32,
    /// The journal mode that it shall have.
    mode: String,
}

impl<'a> Target<'a> {
    /// `journal_mode` and `page_size` are what it has where it cannot be read.
    pub(super) fn open(
        place: &'a Place<'a>,
        journal_mode: Option<&str>,
        page_size: u32,
    ) -> Result<Target<'a>, JobFailure> {
        let patience = Duration::from_millis(place.job.site.busy_ms);
        let database = Database::open(place.path(), Access::Repair, patience, Deadline::never())
            .map_err(while_("opening the database"))?;
        // What cannot be read has no page size of its own, nor a journal mode.
        let readable = database.touch_schema();
        let page_size = match &readable {
            Err(fault) if matches!(fault.class, FaultClass::NotADatabase) => page_size,
            _ => database.page_size().unwrap_or(page_size),
        };
        let mode = match (journal_mode, database.journal_mode()) {
            (Some(mode), _) => mode.to_owned(),
            (None, Ok(mode)) => mode,
            (None, Err(_)) => "delete".to_owned(),
        };
        Ok(Target { place, database, page_size, mode })
    }

    /// Copies `source` over it, once nobody else can commit to it any more and `keep` has kept what is there. Remarks.
    pub(super) fn become_like(
        self,
        source: Database,
        mut keep: impl FnMut() -> Result<(), JobFailure>,
    ) -> Result<Vec<String>, JobFailure> {
        let Target { place, database: mut target, mode, .. } = self;
        let patience = Duration::from_millis(place.job.site.busy_ms);
        let mut not_kept = None;
        let mut keep = || match keep() {
            Ok(()) => true,
            Err(failure) => {
                not_kept = Some(failure);
                false
            }
        };
        let restored = match source.restore_into(&mut target, &Deadline::after(patience), &mut keep) {
            // To nobody is it a database now, so nobody commits to it; and what passed its check, with its page size, is open.
            Err(fault) if matches!(fault.class, FaultClass::NotADatabase | FaultClass::Corrupt) && keep() => {
                target.reset().map_err(|fault| told(place, "emptying what has no header", &fault))?;
                source.restore_into(&mut target, &Deadline::after(patience.max(EMPTY_MAX)), || true)
            }
            answer => answer,
        };
        if let Some(failure) = not_kept {
            return Err(failure);
        }
        restored.map_err(|fault| told(place, "restoring in place", &fault))?;
        drop(source);
        let remarks = settle_mode(&target, &mode, patience);
        target.close().map_err(while_("closing the database"))?;
        Ok(remarks)
    }
}

/// The backup, or a copy of it with the database's own page size: a WAL takes no other.
fn fitting(place: &Place<'_>, wanted: &Wanted<'_>, examined: &Examined, page_size: u32) -> Result<PathBuf, JobFailure> {
    if page_size == examined.page_size || page_size == 0 {
        return Ok(wanted.backup.to_owned());
    }
    // The copy, and VACUUM's of that, beside what the restore itself takes.
    let size = std::fs::metadata(wanted.backup).map_err(while_("looking at the backup"))?.len();
    need_space(&place.folder, size.saturating_mul(3))?;
    let part = place.ours("part");
    place.remove(&part)?;
    let (folder, name) = Folder::of_entry(wanted.backup).map_err(while_("opening the backup's folder"))?;
    let backup = folder.open_in(&name).map_err(while_("opening the backup"))?;
    let target = place.folder.create_in(&part, 0o600).map_err(while_("creating a converted copy"))?;
    copy_file(&backup, &target).map_err(while_("copying the backup to convert it"))?;
    drop(target);
    let path = place.path_of(&part);
    let copy = Database::open(&path, Access::Copy, Duration::ZERO, Deadline::never())
        .map_err(while_("opening a converted copy"))?;
    copy.convert(page_size).map_err(while_("converting the backup to the database's page size"))?;
    copy.close().map_err(while_("closing a converted copy"))?;
    let converted = examine(&path, &Deadline::never())?;
    if converted.page_size != page_size || converted.tables != examined.tables {
        return Err(failed(format!("a copy of the backup with pages of {page_size} bytes is not what the backup is")));
    }
    Ok(path)
}

/// The journal mode as it was, and a WAL that is not as large as the database for longer than it must be.
fn settle_mode(target: &Database, mode: &str, patience: Duration) -> Vec<String> {
    let mut remarks = Vec::new();
    let is_wal = |mode: &str| mode.eq_ignore_ascii_case("wal");
    let now = target.journal_mode().unwrap_or_default();
    if is_wal(&now) != is_wal(mode) {
        let to = if is_wal(mode) { "wal" } else { "delete" };
        if let Err(fault) = target.set_journal_mode(to) {
            remarks.push(format!("its journal mode is {now} now and was {mode}: {fault}"));
        }
    }
    if is_wal(mode) {
        match target.checkpoint_truncate(CHECKPOINT_MAX.min(patience / 2)) {
            Ok(report) if report.busy => remarks.push("its WAL was not checkpointed: it is being read".to_owned()),
            Ok(_) => {}
            Err(fault) => remarks.push(format!("its WAL was not checkpointed: {fault}")),
        }
    }
    remarks
}

/// What was put in place, in words, with how it passed its check.
fn conclude(
    place: &Place<'_>,
    wanted: &Wanted<'_>,
    examined: &Examined,
    remarks: &[String],
) -> Result<StepReport, JobFailure> {
    let told = in_place_told(place, &format!("backup {}", wanted.backup.display()), remarks)?;
    with_candidate(done(told), place, wanted, examined.tables.clone())
}

/// Checked through the live file, as its programs see it; in words.
pub(super) fn in_place_told(place: &Place<'_>, what: &str, remarks: &[String]) -> Result<String, JobFailure> {
    // Rule 11: in rollback mode a check keeps writers out for its whole length.
    let bound = Duration::from_millis(place.job.site.block_max_ms);
    let wal = place.stat(&place.side("-wal"))?.is_some();
    let deadline = if wal { Deadline::never() } else { Deadline::after(bound) };
    let checked = match sound(place, deadline) {
        Ok(tables) => {
            let rows = TableRows::sum(&tables);
            format!("integrity_check ok through the live file, {rows} rows")
        }
        Err(Unsound::Unfinished) => format!("not checked here: it would keep writers out longer than {bound:?}"),
        Err(Unsound::Damaged(why)) => {
            return Err(failed(format!(
                "it was restored in place, and is not sound: {why}; evidence has what was there"
            )));
        }
    };
    let mut told = format!("in place, under the programs that have it open: {what}; {checked}");
    for remark in remarks {
        told += &format!("; {remark}");
    }
    Ok(told)
}

pub(super) enum Unsound {
    Unfinished,
    Damaged(String),
}

pub(super) fn sound(place: &Place<'_>, deadline: Deadline) -> Result<Vec<crate::job::TableRows>, Unsound> {
    let damaged = |fault: SqliteFault| match fault.class {
        FaultClass::Interrupted | FaultClass::Busy => Unsound::Unfinished,
        _ => Unsound::Damaged(fault.to_string()),
    };
    let busy = Duration::from_millis(place.job.site.busy_ms);
    let database = Database::open(place.path(), Access::Probe, busy, deadline).map_err(damaged)?;
    let check = database.integrity_check(10);
    if let Some(fault) = check.fault {
        return Err(damaged(fault));
    }
    if !check.ok {
        return Err(Unsound::Damaged(check.messages.join("; ")));
    }
    if database.touch_schema().map_err(damaged)?.is_empty() {
        return Err(Unsound::Damaged("it has no table".to_owned()));
    }
    let rows = database.row_counts().map_err(damaged)?;
    Ok(rows.into_iter().map(|(table, rows)| crate::job::TableRows { table, rows }).collect())
}

fn with_candidate(
    report: StepReport,
    place: &Place<'_>,
    wanted: &Wanted<'_>,
    tables: Vec<crate::job::TableRows>,
) -> Result<StepReport, JobFailure> {
    let size = place.stat(&place.name)?.map_or(0, |main| main.size);
    let source = format!("backup {}", wanted.backup.display());
    let candidate = Candidate::new(place.path().to_owned(), size, tables, source);
    Ok(StepReport { candidate: Some(candidate), ..report })
}

fn told(place: &Place<'_>, doing: &str, fault: &SqliteFault) -> JobFailure {
    match fault.class {
        // Waiting helps, and nothing lossier does.
        FaultClass::Busy => refused(format!(
            "while {doing}: {fault}: a program reads or writes {} without a break, or has it open in WAL mode; stop it, then \
             {}",
            place.path().display(),
            place.again()
        )),
        // The backup is not to blame for a disk.
        FaultClass::Full | FaultClass::Io | FaultClass::ReadOnly | FaultClass::CannotOpen => {
            refused(format!("while {doing}: {fault}"))
        }
        _ => failed(format!("while {doing}: {fault}")),
    }
}
