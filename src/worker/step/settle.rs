//! A private copy of main, WAL and journal, recovered by SQLite: what the next program to open the database would see, without
//! anything happening to the originals (rule 19).

use std::ffi::OsStr;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use super::place::Place;
use super::{failed, while_};
use crate::backup::{examine, journal_is_hot};
use crate::host::{Folder, Ownership, copy_file};
use crate::job::JobFailure;
use crate::sqlite::{Access, Database, Deadline};

/// How a copy came to rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settled {
    /// In words.
    pub how: &'static str,
}

const SIDES: [&str; 4] = ["", "-wal", "-shm", "-journal"];

/// Leaves the recovered copy at `part` in the target's folder.
pub(super) fn settle(place: &Place<'_>, part: &OsStr, ownership: &Ownership) -> Result<Settled, JobFailure> {
    let main = place.folder.open_in(&place.name).map_err(while_("opening the database"))?;
    let hot = journal_is_hot(&place.folder, &place.name, &main)?;
    let mut mode = [0_u8; 2];
    let known_mode = main.read_exact_at(&mut mode, 18).is_ok() && matches!(mode, [1, 1] | [2, 2]);
    drop(main);

    let folder = make_private(place)?;
    let recovered = variant(place, &folder, "recovered", true, ownership);
    let (chosen, how) = match recovered {
        Ok(()) if hot => ("recovered", "with its journal rolled back"),
        Ok(()) => ("recovered", "with its WAL checkpointed"),
        Err(with_journal) if hot => {
            // Rolled back it is torn. Perhaps the transaction had not begun to write yet.
            variant(place, &folder, "as-is", false, ownership).map_err(|without| {
                failed(format!(
                    "neither with its journal rolled back ({}) nor without ({}) does the database pass its check",
                    with_journal.message, without.message
                ))
            })?;
            ("as-is", "without its journal, which is damaged")
        }
        Err(failure) => return Err(failure),
    };
    if known_mode {
        let file = folder.open_for_writing_in(chosen).map_err(while_("opening the recovered copy"))?;
        file.write_all_at(&mode, 18).map_err(while_("keeping the journal mode"))?;
    }
    folder.rename_noreplace(chosen, &place.folder, part).map_err(while_("taking the recovered copy"))?;
    Ok(Settled { how })
}

/// Copies the originals under the name `name`, lets SQLite recover them, and checks what came of it.
fn variant(
    place: &Place<'_>,
    folder: &Folder,
    name: &str,
    with_journal: bool,
    ownership: &Ownership,
) -> Result<(), JobFailure> {
    for suffix in ["", "-wal", "-journal"] {
        if suffix == "-journal" && !with_journal {
            continue;
        }
        let source = match place.folder.open_in(place.side(suffix)) {
            Ok(source) => source,
            Err(error) if error.is_absent() && !suffix.is_empty() => continue,
            Err(error) => return Err(while_("opening the database's files")(error)),
        };
        let target = folder.create_in(format!("{name}{suffix}"), 0o600).map_err(while_("creating a private copy"))?;
        if suffix.is_empty() {
            ownership.prepare(&target);
        }
        copy_file(&source, &target).map_err(while_("making a private copy"))?;
    }
    let path = folder.path().join(name);
    let database = Database::open(&path, Access::Copy, Duration::ZERO, Deadline::never())
        .map_err(while_("opening a private copy"))?;
    // The read is what rolls a hot journal back and indexes the WAL.
    database.touch_schema().map_err(while_("recovering a private copy"))?;
    if database.journal_mode().map_err(while_("recovering a private copy"))? == "wal" {
        let report = database.checkpoint_truncate(Duration::ZERO).map_err(while_("recovering a private copy"))?;
        if report.busy {
            return Err(failed("a private copy is busy: somebody else has it open"));
        }
    }
    database.close().map_err(while_("closing a private copy"))?;
    let examined = examine(&path, &Deadline::never())?;
    if examined.empty {
        return Err(failed("the recovered copy has no table"));
    }
    Ok(())
}

fn make_private(place: &Place<'_>) -> Result<Folder, JobFailure> {
    remove_private(place)?;
    place.folder.make_folder_in(place.ours("d"), 0o700).map_err(while_("making a private folder"))
}

/// Removes the private folder and what is in it, if it is there.
pub(super) fn remove_private(place: &Place<'_>) -> Result<(), JobFailure> {
    let name = place.ours("d");
    let folder = match place.folder.open_folder_in(&name) {
        Ok(folder) => folder,
        Err(error) if error.is_absent() => return Ok(()),
        Err(error) => return Err(while_("opening a private folder of ours")(error)),
    };
    for copy in ["recovered", "as-is"] {
        for suffix in SIDES {
            match folder.unlink(format!("{copy}{suffix}")) {
                Err(error) if !error.is_absent() => return Err(while_("removing a private copy")(error)),
                _ => {}
            }
        }
    }
    place.folder.remove_folder(&name).map_err(while_("removing a private folder"))
}
