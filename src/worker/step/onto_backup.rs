//! A candidate from a backup that lost the fewest rows, with those that only the wreck has: nothing that was committed is left behind
//! that can be had. Rows that both have stay as the backup has them, so that the backup is of one moment but for what was added.

use std::ffi::OsStr;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::build::finish_examined;
use super::place::Place;
use super::salvage::{LOST_AND_FOUND, Rival};
use super::{failed, while_};
use crate::backup::{examine, hash};
use crate::host::{Folder, Ownership, copy_file};
use crate::job::{JobFailure, RowOrigins, Salvaged, StepReport};
use crate::sqlite::{Deadline, Difference, add_missing, differences};

/// The new file's name in the private folder.
const NAME: &str = "united";

/// Builds it; `why` the backup won. An error with that where nothing is to be added: the backup's own rung is the next.
///
/// # Errors
/// [`crate::job::FailureKind::Failed`]: the backup alone takes the place.
pub(super) fn unite(
    place: &Place<'_>,
    (folder, part): (&Folder, &OsStr),
    (wreck, salvaged): (&Path, &Salvaged),
    rival: &Rival,
    (ownership, mode): (&Ownership, Option<[u8; 2]>),
    why: &str,
) -> Result<StepReport, JobFailure> {
    // Its own tables are written by its module alone.
    if rival.manifest.schema.to_ascii_lowercase().contains("create virtual table") {
        return Err(failed(why));
    }
    let Ok(found) = differences(wreck, &rival.file, rival.same_rowids) else { return Err(failed(why)) };
    let of = |name: &str| salvaged.tables.iter().find(|table| table.table == name);
    let is_new = |one: &&Difference| {
        let is_known = one.table != LOST_AND_FOUND && of(&one.table).is_some_and(|table| !table.made_up);
        is_known && one.by_key.is_some_and(|keys| keys.only_here > 0 && keys.same_columns)
    };
    let new: Vec<&Difference> = found.iter().filter(is_new).collect();
    if new.is_empty() {
        return Err(failed(why));
    }
    let backup = copy(place, folder, rival)?;
    let names: Vec<&str> = new.iter().map(|one| one.table.as_str()).collect();
    let path = folder.path().join(NAME);
    let added = add_missing(&path, wreck, &names, rival.same_rowids)
        .map_err(|fault| failed(format!("{why}; nothing was added to it: {fault}")))?;
    let file = folder.open_for_writing_in(NAME).map_err(while_("opening the copy of the backup"))?;
    file.write_all_at(&mode.unwrap_or(backup), 18).map_err(while_("keeping the journal mode"))?;
    drop(file);

    let rows: u64 = added.iter().map(|one| one.rows).sum();
    let wanted: u64 = new.iter().filter_map(|one| one.by_key).map(|keys| keys.only_here).sum();
    if rows == 0 {
        return Err(failed(format!("{why}; its constraints refuse each of the {wanted} rows that only the wreck has")));
    }
    let examined = examine(&path, &Deadline::never())?;
    folder.rename_noreplace(NAME, &place.folder, part).map_err(while_("taking the copy of the backup"))?;
    let refused = match wanted.saturating_sub(rows) {
        0 => String::new(),
        refused => format!(" ({refused} more are refused by its constraints)"),
    };
    let source = format!("backup {}, and {rows} rows that only the wreck has{refused}; {why}", rival.file.display());
    let mut report = finish_examined(place, part, ownership, source, examined)?;
    if let Some(candidate) = &mut report.candidate {
        let origins = added.into_iter().filter(|one| one.rows > 0).map(|one| {
            let unsure = of(&one.table).map_or(0, |table| table.uncertain + table.carved);
            RowOrigins { uncertain: unsure.min(one.rows), filled: one.rows, table: one.table, ..RowOrigins::default() }
        });
        candidate.origins = origins.collect();
    }
    Ok(report)
}

/// A copy of the backup that SQLite opens without a WAL; its mode as it was.
fn copy(place: &Place<'_>, folder: &Folder, rival: &Rival) -> Result<[u8; 2], JobFailure> {
    let (from, name) = Folder::of_entry(&rival.file).map_err(while_("opening the backup's folder"))?;
    let source = from.open_in(&name).map_err(while_("opening the backup"))?;
    drop(folder.create_in(NAME, 0o600).map_err(while_("creating a copy of the backup"))?);
    let target = folder.open_for_writing_in(NAME).map_err(while_("opening a copy of the backup"))?;
    place.made(&target)?;
    copy_file(&source, &target).map_err(while_("copying the backup"))?;
    if hash(&target).map_err(while_("reading the copy back"))? != rival.manifest.blake3 {
        return Err(failed(format!("the backup {} is damaged", rival.file.display())));
    }
    let mut mode = [0_u8; 2];
    target.read_exact_at(&mut mode, 18).map_err(while_("reading the copy's header"))?;
    target.write_all_at(&[1, 1], 18).map_err(while_("putting the journal mode aside"))?;
    Ok(mode)
}
