//! The check of a new database, before anybody may see it.
//!
//! Where rows came one by one, SQLite checks all of it. Where pages were moved, they have been [proven](super::prove), and SQLite looks at
//! the tables with rules of other kinds.

use std::path::Path;

use super::failed;
use super::prove::Proof;
use crate::job::{JobFailure, Salvaged};
use crate::sqlite::salvage::check_new;

/// Lines that a message repeats.
pub(super) const SAID: usize = 3;

/// Whether it passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Passed {
    Yes,
    No,
    /// Of a database that indexes went over into: they may be what is wrong with it, in these words; with none, they could not be compared.
    NotIndexes(Vec<String>),
}

/// Checks the database that was moved into, by what its pages have shown; with no proof, any.
pub(super) fn check(
    path: &Path,
    proof: Option<Proof>,
    has_virtuals: bool,
    report: &mut Salvaged,
) -> Result<Passed, JobFailure> {
    let failed_check = |text: String| failed(format!("the new database did not pass its check: {text}"));
    let (mut said, ruled) = proof.map_or((Vec::new(), None), |proof| (proof.said, Some(proof.ruled)));
    let ruled: Option<Vec<&str>> = ruled.as_ref().map(|ruled| ruled.iter().map(String::as_str).collect());
    let checked = check_new(path, ruled.as_deref()).map_err(|fault| failed_check(fault.to_string()))?;
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
