//! A database's path that leads to another file system than where it was last healthy: most often its own is not mounted, and what
//! is found there is what a program made in its absence.

use crate::job::{DatabaseFacts, Place};
use crate::model::for_shell;

use super::memory::Memory;

impl Memory {
    /// The path leads to another file system now than when the database was last healthy.
    pub fn is_elsewhere(&self, place: &Place) -> bool {
        let Some(known) = &self.place else { return false };
        !known.fs_id.is_empty() && !place.fs_id.is_empty() && known.fs_id != place.fs_id
    }

    /// What is at the path is on another file system and is not the database itself: nothing, no byte, or another file.
    ///
    /// The number of a file system may change from boot to boot (xfs has its device's); the file's own number does not then.
    pub fn has_a_stand_in(&self, facts: &DatabaseFacts) -> bool {
        let known = self.last_healthy.as_ref().map(|print| print.main.ino);
        let is_itself = facts.main.file().is_some_and(|main| main.size > 0 && Some(main.ino) == known);
        self.is_elsewhere(&facts.place) && !is_itself
    }
}

/// What a person can do where `name`'s file system is not the one that it was on.
pub fn what_to_do(name: &str, path: &std::path::Path) -> String {
    let (name, path) = (for_shell(name), for_shell(path.display()));
    format!(
        "is its file system mounted? Mount it, and guardiand goes on. If the database moved here for good, `mv` what is at {path} away and \
         run `guardiand restore {name} --to {path}`: it is known again by its tables. If it is another database, give it another name in \
         the configuration"
    )
}

/// The command by which what stands at `path` makes room for what belongs there.
pub fn move_away(path: impl std::fmt::Display) -> String {
    format!("`mv {} {}`", for_shell(&path), for_shell(format_args!("{path}.not-wanted")))
}
