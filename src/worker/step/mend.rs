//! A candidate from all that can be read of the WAL: over the main file, over a backup of the WAL's own time, or alone.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::place::{Place, need_space};
use super::settle::{Files, make_private};
use super::{failed, refused, while_};
use crate::backup::{hash, side_name};
use crate::format::{WalIndex, wal::WAL_HEADER_LEN};
use crate::host::Folder;
use crate::job::{JobFailure, WalBase, WalPosition};
use crate::worker::mend::{Mended, Sources, believed_index, is_whole, mend};
use crate::worker::probe::booted_ns;

/// Leaves what was put together at `part` in the target's folder.
pub(super) fn put_together(place: &Place<'_>, onto: &WalBase, part: &OsStr) -> Result<Mended, JobFailure> {
    let wal = place.folder.open_own_in(place.side("-wal")).map_err(while_("opening the WAL"))?;
    let (below, frames_min) = match onto {
        WalBase::Main => (Some(place.folder.open_own_in(&place.name).map_err(while_("opening the database"))?), 0),
        WalBase::Nothing => (None, 0),
        WalBase::Backup { file, blake3, wal: position } => {
            of_the_generation(&wal, position)?;
            (Some(verified(file, blake3)?), position.frame)
        }
    };
    let is_its_own = *onto == WalBase::Main;
    take(place, &Sources { wal: &wal, index: index(place)?, below: below.as_ref(), is_its_own, frames_min }, part)
}

/// What [`of_kept`] finds.
pub(super) enum Kept {
    /// There is no WAL, or SQLite reads all of it.
    Whole,
    /// Of a damaged WAL this was put together, at `part`.
    Mended(Mended),
    /// Nothing came of a damaged WAL, in words.
    Damaged(String),
}

/// The same of files that were kept of a database's own.
pub(super) fn of_kept(place: &Place<'_>, (folder, name): Files<'_>, part: &OsStr) -> Result<Kept, JobFailure> {
    let wal = match folder.open_own_in(side_name(name, "-wal")) {
        Err(error) if error.is_absent() => return Ok(Kept::Whole),
        wal => wal.map_err(while_("opening the WAL"))?,
    };
    let main = folder.open_in(name).map_err(while_("opening the database"))?;
    let sources = Sources { wal: &wal, index: None, below: Some(&main), is_its_own: true, frames_min: 0 };
    if is_whole(&sources).map_err(failed)? {
        return Ok(Kept::Whole);
    }
    Ok(take(place, &sources, part).map_or_else(|why| Kept::Damaged(why.message), Kept::Mended))
}

fn take(place: &Place<'_>, sources: &Sources<'_>, part: &OsStr) -> Result<Mended, JobFailure> {
    let size = |file: &File| file.metadata().map(|facts| facts.len()).map_err(while_("looking at a file's size"));
    // The WAL is written anew, and then once more into the main file.
    let needed = sources.below.map_or(Ok(0), size)?.saturating_add(size(sources.wal)?.saturating_mul(2));
    need_space(&place.folder, needed)?;
    let folder = make_private(place)?;
    let mended = mend(&folder, sources).map_err(failed)?;
    place.made(&folder.open_in(mended.name).map_err(while_("opening the mended copy"))?)?;
    folder.rename_noreplace(mended.name, &place.folder, part).map_err(while_("taking the mended copy"))?;
    Ok(mended)
}

fn index(place: &Place<'_>) -> Result<Option<WalIndex>, JobFailure> {
    let name = place.side("-shm");
    let Some(facts) = place.stat(&name)? else { return Ok(None) };
    let shm = place.folder.open_own_in(&name).map_err(while_("opening the WAL index"))?;
    Ok(believed_index(&shm, facts.mtime_ns, booted_ns()))
}

/// Refuses when the WAL has begun anew since the backup: between the two there was a checkpoint that neither has.
fn of_the_generation(wal: &File, position: &WalPosition) -> Result<(), JobFailure> {
    let mut head = [0_u8; WAL_HEADER_LEN];
    let read = wal.read_exact_at(&mut head, 0);
    let salt = |at: usize| head.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
    if read.is_err() || [salt(16), salt(20)] != position.salt.map(Some) {
        return Err(failed("its WAL has begun anew since that backup was taken, and does not go with it"));
    }
    Ok(())
}

/// The backup's file, once all of it is what its manifest says.
pub(super) fn verified(backup: &Path, blake3: &str) -> Result<File, JobFailure> {
    let (folder, name) = Folder::of_entry(backup).map_err(while_("opening the backup's folder"))?;
    let file = folder.open_in(&name).map_err(while_("opening the backup"))?;
    let found = hash(&file).map_err(|error| refused(format!("while reading the backup: {error}")))?;
    if found == blake3 {
        return Ok(file);
    }
    Err(failed(format!(
        "the backup {} is damaged: its BLAKE3 is {found}, its manifest says {blake3}",
        backup.display()
    )))
}
