//! Tables that only SQLite can judge: their pages, and those of their indexes, are copied from the view into a private file with holes for
//! all others, and SQLite checks them there. So no lock is taken on the database, the answer is of the same state, and programs wait
//! for the copy alone.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _};
use std::time::Duration;

use tempfile::TempDir;

use super::view::View;
use super::{GoOn, Stop, fault, told};
use crate::format::{Geometry, Header, PageSource as _, Scrub};
use crate::host::Space;
use crate::job::{ScrubJob, ScrubVerdict, Scrubbed, ScrubbedBySqlite};
use crate::sqlite::{Access, Contents, Database, Deadline};

/// Left free on the scratch folder's file system, in bytes: it may be the programs' own.
const FLOOR: u64 = 64 << 20;
/// Bytes between two looks at the time.
const RUN_BYTES: usize = 1 << 20;
/// Lines of one table that are told.
const LINES: usize = 20;
const NAME: &str = "tables.db";

/// What is left to SQLite.
pub(super) struct Left {
    /// The private file; or why there is none.
    file: Result<TempDir, String>,
    tables: Vec<(String, String)>,
}

/// Copies what SQLite is to check. `go_on` is false once programs have waited long enough.
pub(super) fn take(
    job: &ScrubJob,
    view: &View,
    header: &Header,
    found: &Scrub,
    contents: &Contents,
    go_on: &GoOn<'_>,
) -> Result<Option<Left>, Stop> {
    let Some(geometry) = Geometry::of(header) else { return Ok(None) };
    // Of a tree that is damaged a scrub has told more than SQLite could.
    let is_sound = |table: &str| found.trees.iter().filter(|tree| tree.table == table).all(|tree| tree.is_sound);
    let all_sound = found.trees.iter().all(|tree| tree.is_sound);
    let left = contents.left.iter().filter(|one| if one.is_virtual { all_sound } else { is_sound(&one.name) });
    // Nobody can tell which tables a virtual one reads.
    let everything = left.clone().any(|one| one.is_virtual);
    let named = left.map(|one| (one.name.clone(), one.why.to_owned()));
    let undecided = found.undecided.iter().map(|(table, why)| (table.clone(), (*why).to_owned()));
    let tables: Vec<(String, String)> = named.chain(undecided).collect();
    if tables.is_empty() {
        return Ok(None);
    }
    let names: BTreeSet<&str> = tables.iter().map(|(table, _)| table.as_str()).collect();
    let wanted: BTreeSet<usize> =
        (0..).zip(&found.trees).filter(|(_, tree)| names.contains(tree.table.as_str())).map(|(at, _)| at).collect();
    // The schema is the first tree.
    let is_wanted = |page: u32| {
        everything
            || geometry.is_pointer_map(page)
            || found.owner_of(page).is_some_and(|owner| owner == 0 || wanted.contains(&owner))
    };
    let pages: Vec<u32> = (1..=found.pages).filter(|page| is_wanted(*page)).collect();
    let file = match copy(job, view, &geometry, found.pages, &pages, go_on) {
        Ok(file) => Ok(file),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(Stop::Time),
        Err(error) => Err(told("copying it")(error)),
    };
    Ok(Some(Left { file, tables }))
}

fn copy(
    job: &ScrubJob,
    view: &View,
    geometry: &Geometry,
    all: u32,
    pages: &[u32],
    go_on: &GoOn<'_>,
) -> io::Result<TempDir> {
    let size = geometry.page_size() as usize;
    DirBuilder::new().recursive(true).mode(0o700).create(&job.site.scratch)?;
    let (needed, free) =
        (pages.len() as u64 * size as u64, Space::at(&job.site.scratch).map_err(io::Error::other)?.free_bytes);
    if free < needed.saturating_add(FLOOR) {
        let message = format!("{} has {free} bytes free, and it takes {needed}", job.site.scratch.display());
        return Err(io::Error::new(io::ErrorKind::StorageFull, message));
    }
    let prefix = format!("probe-{}-", std::process::id());
    let folder = tempfile::Builder::new().prefix(&prefix).tempdir_in(&job.site.scratch)?;
    let file = File::create_new(folder.path().join(NAME))?;
    let most = (RUN_BYTES / size).max(1);
    let mut buffer = vec![0; most * size];
    for run in pages.chunk_by(|page, next| page + 1 == *next).flat_map(|run| run.chunks(most)) {
        if !go_on() {
            return Err(io::Error::from(io::ErrorKind::TimedOut));
        }
        let (Some(first), Some(bytes)) = (run.first(), buffer.get_mut(..run.len() * size)) else { continue };
        view.read(*first, bytes)?;
        file.write_all_at(bytes, geometry.offset_of(*first))?;
    }
    file.set_len(geometry.offset_of(all.saturating_add(1)))?;
    Ok(folder)
}

/// Has SQLite check what it was left, and adds what it says.
pub(super) fn check(left: Option<Left>, mut scrubbed: Scrubbed) -> Scrubbed {
    let Some(left) = left else { return scrubbed };
    let (mut opened, mut unchecked) = (None, Vec::new());
    match &left.file {
        Err(why) => unchecked.push(why.clone()),
        Ok(folder) => {
            let path = folder.path().join(NAME);
            // For reading alone SQLite would forget the CHECKs.
            match Database::open(&path, Access::Copy, Duration::ZERO, Deadline::never()) {
                Ok(database) => opened = Some(database),
                Err(fault) => unchecked.push(fault.message),
            }
        }
    }
    for (table, why) in left.tables {
        let mut checked = false;
        if let Some(database) = &opened {
            let report = database.check_table(&table);
            checked = report.fault.as_ref().is_none_or(|fault| fault.is_corruption());
            let owner = format!("table {table}");
            let lines =
                report.messages.iter().chain(report.fault.as_ref().filter(|_| checked).map(|fault| &fault.message));
            lines.take(LINES).for_each(|line| scrubbed.add(fault(&owner, line)));
            scrubbed.content.extend(report.content.into_iter().take(LINES));
            if let (false, Some(fault)) = (checked, report.fault) {
                unchecked.push(fault.message);
            }
        }
        scrubbed.by_sqlite.push(ScrubbedBySqlite { table, why, checked });
    }
    if let (Some(why), ScrubVerdict::Clean) = (unchecked.first(), scrubbed.verdict) {
        scrubbed.verdict = ScrubVerdict::Unknown;
        scrubbed.reason = Some(format!("what was looked at is sound, but not all could be: {why}"));
    }
    scrubbed
}
