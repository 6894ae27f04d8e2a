//! The check of a new database, before anybody may see it.
//!
//! Where rows came one by one, SQLite checks all of it. Where pages were moved, the structure of every tree and of the file is looked
//! through by the scrub, which says what SQLite's `quick_check` says at several times its speed; a NULL that is refused was looked for
//! while the pages went over; and SQLite looks at the tables with rules of other kinds. No index is compared with its table then: SQLite has
//! made each of them a moment ago, from the rows as they are.

use std::fs::File;
use std::path::Path;

use super::failed;
use crate::backup::structure;
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
        // SQLite has the file closed.
        Some(_) => structure(file, SAID).map_err(failed_check)?.iter().map(ToString::to_string).collect(),
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
