//! Rows out of a wreck into a new database: the source is only read, the new file is built aside, checked in full, and then named.

mod fill;
mod plan;
mod view;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::backup::side_name;
use crate::format::Header;
use crate::format::salvage::{Survey, assign};
use crate::host::Folder;
use crate::job::{FailureKind, JobFailure, SalvageJob, Salvaged};
use crate::sqlite::salvage::{NewDatabase, NewDatabaseOptions};
use crate::sqlite::{Access, Database, Deadline};

use plan::Plan;
use view::{Files, View};

/// Lines of SQLite's that a message repeats.
const SAID: usize = 3;

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
    let view = View::of(&files).map_err(|error| failed(error.to_string()))?;
    let Some(view) = view else {
        return Err(refused(format!("nothing in {} is a page of a database", job.source.display())));
    };
    let temporary = format!(".guardiand-salvage-{}.new", std::process::id());
    let result = build(job, &view, &to, &temporary).and_then(|salvaged| {
        files.are_still_so()?;
        to.rename_noreplace(&temporary, &to, &name).map_err(|error| failed(error.to_string()))?;
        to.sync().map_err(|error| failed(error.to_string()))?;
        Ok(salvaged)
    });
    if result.is_err() {
        for suffix in ["", "-journal", "-wal"] {
            let _ = to.unlink(side_name(OsStr::new(&temporary), suffix));
        }
    }
    result
}

fn build(job: &SalvageJob, view: &View<'_>, to: &Folder, temporary: &str) -> Result<Salvaged, JobFailure> {
    let path = to.path().join(temporary);
    let survey = Survey::of(view, view.geometry, view.encoding, view.header);
    let mut plan = Plan::of(view, &survey, job.schema.as_deref()).map_err(failed)?;
    let assignment = assign(view, &survey, &plan.trees(&survey), &plan.schema_pages);
    plan.make_up(view, &survey, &assignment);

    drop(to.create_in(temporary, 0o600).map_err(|error| failed(error.to_string()))?);
    let mut new = NewDatabase::create(&path, &options(view)).map_err(|fault| failed(fault.to_string()))?;
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
    fill::fill(&mut new, view, &survey, &mut plan, &assignment, &deleted, &mut report)
        .map_err(|fault| failed(fault.to_string()))?;
    new.close().map_err(|fault| failed(fault.to_string()))?;

    let file = to.open_for_writing_in(temporary).map_err(|error| failed(error.to_string()))?;
    file.sync_all().map_err(|error| failed(format!("fsync of {}: {error}", path.display())))?;
    report.size = file.metadata().map_or(0, |meta| meta.len());
    drop(file);
    check(&path, !plan.virtuals.is_empty(), &mut report)?;
    report.clean = report.damage.is_empty();
    Ok(report)
}

/// The full check, before anybody may see the file. With virtual tables all others were checked before these were there.
fn check(path: &Path, has_virtuals: bool, report: &mut Salvaged) -> Result<(), JobFailure> {
    let failed_check = |text: String| failed(format!("the new database did not pass its check: {text}"));
    let database = Database::open(path, Access::Immutable, Duration::ZERO, Deadline::never())
        .map_err(|fault| failed_check(fault.to_string()))?;
    let checked = database.integrity_check(20);
    if let Some(fault) = checked.fault {
        if has_virtuals {
            report.damage.push(format!("a virtual table keeps the new database from its check: {fault}"));
            return Ok(());
        }
        return Err(failed_check(fault.to_string()));
    }
    if !checked.ok {
        let said = checked.messages.iter().take(SAID).cloned().collect::<Vec<_>>().join("; ");
        report.damage.push(format!("the check of the new database says: {said}"));
    }
    Ok(())
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

/// A path with a suffix behind its name.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
