//! The check of a new database that pages were moved into: the structure of every tree and of the file, by the scrub, which says what
//! SQLite's `quick_check` says at several times its speed; of tables whose indexes went over, that each index has what the rows say, by
//! the same pass; and SQLite looks at the tables with rules that no look at pages tells. An index that SQLite made a moment ago, of a table
//! of which none went over, is not compared: it was made from the rows as they are.

use std::collections::BTreeSet;
use std::fs::File;

use super::moving::MovedTrees;
use super::plan::Plan;
use super::progress;
use crate::backup::QuietFile;
use crate::format::{Allowed, Scrub, TableContent, scrub};
use crate::sqlite::Contents;

/// What the pages of a new database show.
#[derive(Debug, Default)]
pub(super) struct Proof {
    /// What is wrong, in words; the first of it.
    pub said: Vec<String>,
    /// Indexes went over, and what is wrong may be theirs.
    pub is_of_indexes: bool,
    /// Of those that went over some could not be compared with their table, which is no fault of theirs.
    pub is_open: bool,
    /// Tables that only SQLite can judge.
    pub ruled: Vec<String>,
}

/// Looks through the file, which SQLite has closed. `contents` is what SQLite makes of its schema.
///
/// # Errors
/// Why it could not be looked through.
pub(super) fn prove(
    file: &File,
    plan: &Plan,
    moved: &MovedTrees,
    contents: &Contents,
    faults_max: usize,
) -> Result<Proof, String> {
    let ruled: BTreeSet<&str> = plan.ruled().into_iter().collect();
    let compared = compared(plan, moved, contents, &ruled);
    let found = look(file, &compared, faults_max)?;
    let undecided: BTreeSet<&str> = found.undecided.iter().map(|(table, _)| table.as_str()).collect();
    let mut proof = Proof { is_of_indexes: !moved.indexes.is_empty(), ..Proof::default() };
    proof.said.extend(found.faults.iter().map(|fault| format!("{}: {}", fault.owner, fault.what)));
    proof.is_open =
        compared.iter().any(|content| undecided.contains(content.name.as_str()) && has_moved(content, moved));
    let left: BTreeSet<&str> = contents.left.iter().map(|left| left.name.as_str()).collect();
    let is_judged = |name: &str| {
        let is_compared = compared.iter().any(|content| content.name.eq_ignore_ascii_case(name));
        is_compared && !left.contains(name) && !undecided.contains(name)
    };
    proof.ruled = ruled.into_iter().filter(|name| !is_judged(name)).map(str::to_owned).collect();
    Ok(proof)
}

/// Tables of which the pass is to compare something: with their rules where it can tell them.
fn compared(plan: &Plan, moved: &MovedTrees, contents: &Contents, ruled: &BTreeSet<&str>) -> Vec<TableContent> {
    let mut compared = Vec::new();
    for (table, moved_table) in plan.tables.iter().zip(&moved.tables) {
        let (Some(layout), Some(_)) = (&table.layout, moved_table) else { continue };
        let content = contents.tables.iter().find(|content| content.name.eq_ignore_ascii_case(&layout.name));
        let Some(content) = content else { continue };
        let is_left = contents.left.iter().any(|left| left.name == content.name);
        let is_judged = ruled.contains(layout.name.as_str()) && !is_left;
        if !is_judged && !has_moved(content, moved) {
            continue;
        }
        let mut content = content.clone();
        if !is_judged {
            content.columns.iter_mut().for_each(|column| column.allowed = Allowed::ANY);
        }
        compared.push(content);
    }
    compared
}

fn has_moved(content: &TableContent, moved: &MovedTrees) -> bool {
    content.indexes.iter().any(|index| moved.indexes.contains(&index.name.to_lowercase()))
}

fn look(file: &File, contents: &[TableContent], faults_max: usize) -> Result<Scrub, String> {
    let file = QuietFile::of(file)?;
    let contents = Some(contents).filter(|contents| !contents.is_empty());
    // Each page is read once, and those that are compared twice.
    progress::part(progress::CHECKING, file.counted().into());
    let watch = |pages: u32| {
        progress::step(progress::CHECKING, pages.into());
        true
    };
    scrub(&file, &file.plan(contents, faults_max), &watch).map_err(|error| error.to_string())
}
