//! The check of a new database, before anybody may see it.
//!
//! Where rows came one by one, SQLite checks all of it. Where pages were moved, the structure of every tree and of the file is looked
//! through by the scrub, which says what SQLite's `quick_check` says at several times its speed; a NULL that is refused was looked for
//! while the pages went over; and SQLite looks at the tables with rules of other kinds. No index is compared with its table then: SQLite has
//! made each of them a moment ago, from the rows as they are.

use std::fs::File;
use std::io;
use std::path::Path;

use super::{failed, threads};
use crate::format::{Geometry, Header, PageSource, ScrubError, ScrubPlan, scrub};
use crate::host::fill;
use crate::job::{JobFailure, Salvaged};
use crate::sqlite::salvage::check_new;

/// Lines that a message repeats.
const SAID: usize = 3;

/// Whether it passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Passed {
    Yes,
    No,
}

/// A file that nobody writes.
struct Whole<'a> {
    file: &'a File,
    geometry: Geometry,
}

impl PageSource for Whole<'_> {
    type Error = io::Error;

    fn read(&self, first: u32, into: &mut [u8]) -> io::Result<()> {
        fill(self.file, self.geometry.offset_of(first), into)
    }
}

/// Checks the database that was moved into, or with no tables given, any. `ruled` are the tables that only SQLite can judge.
pub(super) fn check(
    path: &Path,
    file: &File,
    ruled: Option<&[&str]>,
    has_virtuals: bool,
    report: &mut Salvaged,
) -> Result<Passed, JobFailure> {
    let failed_check = |text: String| failed(format!("the new database did not pass its check: {text}"));
    let mut said = match ruled {
        Some(_) => structure(file).map_err(failed_check)?,
        None => Vec::new(),
    };
    let checked = check_new(path, ruled).map_err(|fault| failed_check(fault.to_string()))?;
    for one in checked {
        if let Some(fault) = one.fault {
            if has_virtuals {
                report.damage.push(format!("a virtual table keeps the new database from its check: {fault}"));
                continue;
            }
            return Err(failed_check(fault.to_string()));
        }
        said.extend(one.messages.into_iter().chain(one.content));
    }
    if said.is_empty() {
        return Ok(Passed::Yes);
    }
    let said = said.into_iter().take(SAID).collect::<Vec<_>>().join("; ");
    report.damage.push(format!("the check of the new database says: {said}"));
    Ok(Passed::No)
}

/// What a scrub finds wrong. SQLite has the file closed.
fn structure(file: &File) -> Result<Vec<String>, String> {
    let mut head = [0; 100];
    fill(file, 0, &mut head).map_err(|error| error.to_string())?;
    let header = Header::parse(&head).map_err(|error| error.to_string())?;
    let geometry = Geometry::of(&header).ok_or("its page size is none")?;
    let len = file.metadata().map_err(|error| error.to_string())?.len();
    let there = u32::try_from(len.div_ceil(u64::from(header.page_size))).unwrap_or(u32::MAX);
    let counted = header.counted_pages().unwrap_or(there);
    let plan = ScrubPlan { header, counted, there, threads: threads(), faults_max: SAID, contents: None };
    match scrub(&Whole { file, geometry }, &plan, &|_| true) {
        Ok(found) => Ok(found.faults.iter().map(|fault| format!("page {}: {}", fault.page, fault.what)).collect()),
        Err(ScrubError::Read { page, source }) => Err(format!("page {page} could not be read: {source}")),
        Err(error) => Err(error.to_string()),
    }
}
