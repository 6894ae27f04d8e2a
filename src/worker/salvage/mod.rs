//! Rows out of a wreck into a new database: the source is only read, the new file is built aside, checked in full, and then named.

mod beyond;
mod check;
mod fill;
mod memory;
mod moving;
mod older;
mod plan;
mod progress;
mod prove;
mod rebuild;
mod view;

#[cfg(test)]
mod cut_tests;
#[cfg(test)]
mod memory_tests;
#[cfg(test)]
mod page_tests;

use std::ffi::OsStr;

use crate::backup::side_name;
use crate::format::salvage::{Assignment, Pages as _, Recall, Recalled, Survey, assign};
use crate::format::{Header, SCHEMA_FORMAT_MAX};
use crate::host::{Folder, SALVAGE_PREFIX, page_threads, sweep_out};
use crate::job::{FailureKind, JobFailure, SalvageJob, Salvaged};
use crate::sqlite::salvage::{NewDatabase, NewDatabaseOptions};
use crate::sqlite::{Contents, SqliteFault};

pub(super) use beyond::beyond;
use check::{Passed, SAID, check};
use moving::{May, MovedTrees, Target};
use older::Backup;
use plan::Plan;
use rebuild::Rebuild;
use view::{Files, View};

/// Salvages, and says on the standard error how far it is.
///
/// # Errors
/// As [`run`].
pub(super) fn run_and_tell(job: &SalvageJob) -> Result<Salvaged, JobFailure> {
    progress::tell();
    run(job)
}

/// Salvages.
///
/// # Errors
/// `Refused` where it cannot be told (a live program, a source that changes, nothing that is a database), or where something is in
/// the way; `Failed` where the new file could not be written.
pub(super) fn run(job: &SalvageJob) -> Result<Salvaged, JobFailure> {
    let (to, name) = Folder::of_entry(&job.to).map_err(|error| failed(error.to_string()))?;
    for suffix in ["", "-wal", "-shm", "-journal"] {
        match to.stat_in(side_name(&name, suffix)) {
            Ok(_) => {
                let path = to.path().join(side_name(&name, suffix));
                return Err(failed(format!("{} is there already: name a path where nothing is", path.display())));
            }
            Err(error) if error.is_absent() => {}
            Err(error) => return Err(failed(error.to_string())),
        }
    }
    let files = Files::open(&job.source)?;
    let view = View::of(&files).map_err(|error| failed(format!("{}: {error}", job.source.display())))?;
    let Some(view) = view else {
        return Err(refused(format!("nothing in {} is a page of a database", job.source.display())));
    };
    // Of one that was killed: a whole database's worth of bytes.
    sweep_out(to.path(), SALVAGE_PREFIX);
    let temporary = format!("{SALVAGE_PREFIX}{}.new", std::process::id());
    let clean = || {
        for suffix in ["", "-journal", "-wal"] {
            let _ = to.unlink(side_name(OsStr::new(&temporary), suffix));
        }
    };
    let map = memory::map_of(job);
    let survey = survey_of(&view);
    let recall = map.and_then(|map| Recall::of(map, &view, &survey));
    let backup_files = job.backup.as_deref().map(Files::open).transpose()?;
    let backup = backup_files.as_ref().map(Backup::of).transpose()?;
    let (plan, assignment) = plan(job, (&view, &survey), (backup.as_ref(), recall))?;
    let (backup, renumbered) = (backup.as_ref(), job.renumbered);
    let source = Rebuild { view: &view, survey: &survey, plan: &plan, assignment: &assignment, backup, renumbered };
    let new = |may_move| build(job, &source, &to, &temporary, may_move);
    // In a schema of an older format DESC means nothing, and in the new one it does.
    let is_older = view.header.is_some_and(|header| (1..SCHEMA_FORMAT_MAX).contains(&header.schema_format));
    let mut result = new(if is_older { May::Tables } else { May::All });
    if let Ok((_, Passed::NotIndexes(said))) = &result {
        let said = said.join("; ");
        clean();
        result = new(May::Tables);
        if let (Ok((salvaged, _)), false) = (&mut result, said.is_empty()) {
            salvaged.damage.push(format!("its indexes did not agree with its rows; they were made anew ({said})"));
            salvaged.clean = false;
        }
    }
    if matches!(result, Ok((_, Passed::No | Passed::NotIndexes(_))) | Err(_)) {
        // Sound pages can hold rows that their table refuses: SQLite has to look at each.
        clean();
        result = new(May::Nothing);
    }
    let result = result.and_then(|(salvaged, _)| {
        files.are_still_so()?;
        backup_files.iter().try_for_each(Files::are_still_so)?;
        to.rename_noreplace(&temporary, &to, &name).map_err(|error| failed(error.to_string()))?;
        to.sync().map_err(|error| failed(error.to_string()))?;
        Ok(salvaged)
    });
    if result.is_err() {
        clean();
    }
    result
}

fn survey_of(view: &View<'_>) -> Survey {
    progress::part(progress::READING, view.count().into());
    Survey::of(view, view.geometry, view.encoding, view.header, page_threads())
}

/// What the new database shall have, and which pages it is on.
fn plan(
    job: &SalvageJob,
    (view, survey): (&View<'_>, &Survey),
    (backup, recall): (Option<&Backup<'_>>, Option<Recall>),
) -> Result<(Plan, Assignment), JobFailure> {
    let known = (backup.map(|backup| &backup.plan), recall.as_ref());
    let mut plan = Plan::of(view, survey, job.schema.as_deref(), known).map_err(failed)?;
    let places = recall.as_ref().map(|recall| plan.places(recall));
    let recalled = recall.as_ref().zip(places.as_deref()).map(|(recall, places)| Recalled { recall, places });
    let assignment = assign(view, survey, &plan.trees(survey), &plan.schema_pages, recalled);
    plan.make_up(view, survey, &assignment);
    Ok((plan, assignment))
}

/// Builds the new database, into which sound pages go as they are where they may.
fn build(
    job: &SalvageJob,
    source: &Rebuild<'_>,
    to: &Folder,
    temporary: &str,
    may_move: May,
) -> Result<(Salvaged, Passed), JobFailure> {
    let Rebuild { view, survey, plan, assignment, .. } = *source;
    let path = to.path().join(temporary);
    drop(to.create_in(temporary, 0o600).map_err(|error| failed(error.to_string()))?);
    let words = |fault: SqliteFault| failed(fault.to_string());
    let mut new = NewDatabase::create(&path, &options(view)).map_err(words)?;
    let mut report = Salvaged {
        path: job.to.clone(),
        clean: false,
        damage: view.damage.clone(),
        tables: Vec::new(),
        lost_and_found: 0,
        deleted: 0,
        page_size: view.geometry.page_size(),
        pages: survey.pages(),
        size: 0,
    };
    let deleted = if job.deleted { survey.deleted() } else { Vec::new() };
    fill::define_tables(&mut new, plan, &mut report);
    let mut moved = MovedTrees::default();
    if may_move != May::Nothing {
        let contents = match may_move {
            May::All => moving::define_indexes(&mut new, plan, (view, survey), assignment).map_err(words)?,
            _ => Contents::default(),
        };
        let (roots, count) = new.roots().map_err(words)?;
        new.close().map_err(words)?;
        let file = to.open_for_writing_in(temporary).map_err(|error| failed(error.to_string()))?;
        let target = Target { file: &file, roots: &roots, count, contents: &contents };
        moved = moving::run(&target, plan, view, survey, assignment)?;
        drop(file);
        new = NewDatabase::reopen(&path, &options(view)).map_err(words)?;
        new.drop_indexes_but(&moved.indexes, None).map_err(words)?;
    }
    let moved = fill::fill(&mut new, source, moved, &deleted, &mut report).map_err(words)?;
    let contents = if moved.is_empty() { Contents::default() } else { new.contents().map_err(words)? };
    new.close().map_err(words)?;

    let file = to.open_for_writing_in(temporary).map_err(|error| failed(error.to_string()))?;
    file.sync_all().map_err(|error| failed(format!("fsync of {}: {error}", path.display())))?;
    report.size = file.metadata().map_or(0, |meta| meta.len());
    let mut proof = None;
    if !moved.is_empty() {
        let proven = prove::prove(&file, plan, &moved, &contents, SAID);
        let proven = proven.map_err(|error| failed(format!("the new database could not be checked: {error}")))?;
        if proven.is_of_indexes && (proven.is_open || !proven.said.is_empty()) {
            return Ok((report, Passed::NotIndexes(proven.said)));
        }
        proof = Some(proven);
    }
    let passed = check(&path, proof, !plan.virtuals.is_empty(), &mut report)?;
    report.clean = report.damage.is_empty();
    Ok((report, passed))
}

fn options(view: &View<'_>) -> NewDatabaseOptions {
    let auto = |header: &Header| match (header.largest_root, header.incremental_vacuum) {
        (0, _) => 0,
        (_, false) => 1,
        (_, true) => 2,
    };
    let auto_vacuum = view.header.as_ref().map_or(u8::from(view.geometry.has_pointer_maps()), auto);
    NewDatabaseOptions { page_size: view.geometry.page_size(), encoding: view.encoding, auto_vacuum }
}

pub(super) fn failed(message: impl Into<String>) -> JobFailure {
    JobFailure { kind: FailureKind::Failed, message: message.into() }
}

pub(super) fn refused(message: impl Into<String>) -> JobFailure {
    JobFailure { kind: FailureKind::Refused, message: message.into() }
}
