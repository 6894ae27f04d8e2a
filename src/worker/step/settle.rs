//! A private copy of main, WAL and journal, recovered by SQLite: what the next program to open the database would see, without
//! anything happening to the originals (rule 19).

use std::ffi::OsStr;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use super::place::Place;
use super::{failed, while_};
use crate::backup::{examine, journal_is_hot, side_name};
use crate::format::versions_put_right;
use crate::host::{Folder, Ownership, copy_file};
use crate::job::{JobFailure, TableRows};
use crate::sqlite::{Access, Database, Deadline};
use crate::worker::probe::put_versions_right;
use crate::worker::roll_back::{beyond_sqlite, roll_back};

/// How a copy came to rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settled {
    /// In words.
    pub how: String,
}

/// A database's files: the main file's folder and name; the side files are beside it.
pub(super) type Files<'a> = (&'a Folder, &'a OsStr);

/// Leaves the recovered copy at `part` in the target's folder, with the text of `schema` put back.
pub(super) fn settle(
    place: &Place<'_>,
    part: &OsStr,
    ownership: &Ownership,
    schema: Option<&str>,
) -> Result<Settled, JobFailure> {
    settle_with(place, (&place.folder, &place.name), part, (ownership, schema))
}

/// The same of other files.
pub(super) fn settle_from(
    place: &Place<'_>,
    from: Files<'_>,
    part: &OsStr,
    ownership: &Ownership,
) -> Result<Settled, JobFailure> {
    settle_with(place, from, part, (ownership, None))
}

/// Whose a copy shall be, and the schema whose text it shall have.
type Shall<'a> = (&'a Ownership, Option<&'a str>);

fn settle_with(place: &Place<'_>, from: Files<'_>, part: &OsStr, shall: Shall<'_>) -> Result<Settled, JobFailure> {
    let main = from.0.open_own_in(from.1).map_err(while_("opening the database"))?;
    let hot = journal_is_hot(from.0, from.1, &main)?;
    let mut head = [0; 20];
    let mode = match main.read_exact_at(&mut head, 0) {
        Ok(()) => {
            Some([head[18], head[19]]).filter(|mode| matches!(mode, [1, 1] | [2, 2])).or(versions_put_right(&head))
        }
        Err(_) => None,
    };
    drop(main);

    let folder = make_private(place)?;
    let (chosen, how) = choose(from, &folder, hot, shall)?;
    let file = folder.open_for_writing_in(chosen).map_err(while_("opening the recovered copy"))?;
    place.made(&file)?;
    if let Some(mode) = mode {
        file.write_all_at(&mode, 18).map_err(while_("keeping the journal mode"))?;
    }
    folder.rename_noreplace(chosen, &place.folder, part).map_err(while_("taking the recovered copy"))?;
    Ok(Settled { how })
}

/// The variant that goes back the furthest and passes.
fn choose(from: Files<'_>, folder: &Folder, hot: bool, shall: Shall<'_>) -> Result<(&'static str, String), JobFailure> {
    // Of a damaged journal more records verify than SQLite rolls back.
    let rolled_back = || variant(from, folder, ("rolled-back", Journal::AllThatVerifies), shall);
    let first = if hot { rolled_back()? } else { None };
    if let Some(Ok(how)) = first {
        return Ok(("rolled-back", how));
    }
    let with_journal = match variant(from, folder, ("recovered", Journal::BySqlite), shall)? {
        Some(Ok(_)) if hot => return Ok(("recovered", "with its journal rolled back".to_owned())),
        Some(Ok(_)) => return Ok(("recovered", "with its WAL checkpointed".to_owned())),
        Some(Err(failure)) => failure,
        None => failed("there is nothing to recover"),
    };
    if !hot {
        // A journal whose header is zeroed is at rest, or has lost its header.
        return match rolled_back()? {
            Some(Ok(how)) => Ok(("rolled-back", how)),
            _ => Err(with_journal),
        };
    }
    // Rolled back it is torn. Perhaps the transaction had not begun to write yet.
    match variant(from, folder, ("as-is", Journal::None), shall)? {
        Some(Err(without)) => Err(failed(format!(
            "neither with its journal rolled back ({}) nor without ({}) does the database pass its check",
            with_journal.message, without.message
        ))),
        _ => Ok(("as-is", "without its journal, which is damaged".to_owned())),
    }
}

/// What is done with a rollback journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Journal {
    BySqlite,
    AllThatVerifies,
    None,
}

/// Copies the originals under the name `name`, has them recovered, and checks what came of it. `None` when this variant is none:
/// there is nothing beyond what SQLite rolls back.
fn variant(
    from: Files<'_>,
    folder: &Folder,
    (name, journal): (&str, Journal),
    (ownership, schema): Shall<'_>,
) -> Result<Option<Result<String, JobFailure>>, JobFailure> {
    let mut how = String::new();
    for suffix in ["", "-wal", "-journal"] {
        let source = match from.0.open_own_in(side_name(from.1, suffix)) {
            Ok(source) => source,
            Err(error) if error.is_absent() && suffix == "-journal" && journal == Journal::AllThatVerifies => {
                return Ok(None);
            }
            Err(error) if error.is_absent() && !suffix.is_empty() => continue,
            Err(error) => return Err(while_("opening the database's files")(error)),
        };
        match (suffix, journal) {
            ("-journal", Journal::None) => continue,
            ("-journal", Journal::AllThatVerifies) => {
                let main = folder.open_for_writing_in(name).map_err(while_("opening a private copy"))?;
                let reading = while_("reading the rollback journal");
                let Some(mended) = beyond_sqlite(&main, &source).map_err(reading)? else { return Ok(None) };
                match roll_back(&main, &source, &mended) {
                    Ok(done) => how = done,
                    Err(error) => return Ok(Some(Err(while_("rolling a private copy back")(error)))),
                }
                continue;
            }
            _ => {}
        }
        let target = folder.create_in(format!("{name}{suffix}"), 0o600).map_err(while_("creating a private copy"))?;
        if suffix.is_empty() {
            ownership.prepare(&target);
        }
        copy_file(&source, &target).map_err(while_("making a private copy"))?;
        if suffix.is_empty() {
            put_versions_right(&target).map_err(while_("putting the format's version right"))?;
        }
    }
    Ok(Some(recovered(folder, name, schema).map(|()| how)))
}

/// Lets SQLite recover a private copy, and checks what came of it.
fn recovered(folder: &Folder, name: &str, schema: Option<&str>) -> Result<(), JobFailure> {
    let path = folder.path().join(name);
    let database = Database::open(&path, Access::Copy, Duration::ZERO, Deadline::never())
        .map_err(while_("opening a private copy"))?;
    if let Some(schema) = schema {
        database.put_schema_back(schema).map_err(while_("putting the schema of a private copy back"))?;
    }
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

/// The rows that a database's files hold, as SQLite would recover them; nothing is left behind.
pub(super) fn rows_of(place: &Place<'_>, from: Files<'_>) -> Result<Vec<TableRows>, JobFailure> {
    let folder = make_private(place)?;
    let main = from.0.open_own_in(from.1).map_err(while_("opening the database"))?;
    let ownership = Ownership::of(&main).map_err(while_("reading its owner"))?;
    let recovered = variant(from, &folder, ("recovered", Journal::BySqlite), (&ownership, None));
    let examined = examine(&folder.path().join("recovered"), &Deadline::never());
    remove_private(place)?;
    match recovered? {
        Some(Err(failure)) => Err(failure),
        _ => Ok(examined?.tables),
    }
}

pub(super) fn make_private(place: &Place<'_>) -> Result<Folder, JobFailure> {
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
    for copy in folder.names().map_err(while_("listing a private folder of ours"))? {
        match folder.unlink(copy) {
            Err(error) if !error.is_absent() => return Err(while_("removing a private copy")(error)),
            _ => {}
        }
    }
    place.folder.remove_folder(&name).map_err(while_("removing a private folder"))
}
