//! A backup put where nothing is, and a stored backup checked again.

use std::ffi::OsStr;
use std::path::Path;

use super::source::{ownership_of, side_name, stat_of};
use super::take::lock;
use super::{BackupError, Examined, examine, hash, manifest, of_file};
use crate::host::{Folder, Ownership, Space, copy_file};
use crate::job::{BackupManifest, RestoreJob, Restored};
use crate::sqlite::Deadline;

/// Checks a stored backup again: hash first, then `integrity_check`.
///
/// # Errors
/// [`BackupError::Unsound`] when it is not what was taken.
pub fn verify(file: &Path, deadline: &Deadline) -> Result<(BackupManifest, Examined), BackupError> {
    let (folder, name, manifest) = of_file(file)?;
    let stored = folder.open_in(&name).map_err(BackupError::host("opening a backup"))?;
    if let Err(unsound) = same_hash(&stored, file, &manifest.blake3) {
        note_damage(file);
        return Err(unsound);
    }
    drop(stored);
    let examined = examine(file, deadline)?;
    Ok((manifest, examined))
}

/// Says in the manifest of a stored backup that its file has changed, where reading it once more finds that too: it shall not be listed, nor
/// count for the retention, nor let older ones go. Of use where it can be done, and no reason to fail.
pub fn note_damage(file: &Path) {
    let Ok((folder, name, manifest)) = of_file(file) else { return };
    let Ok(_alone) = lock(&folder) else { return };
    let Ok(stored) = folder.open_in(&name) else { return };
    // A read that fails may succeed another time.
    let Ok(found) = hash(&stored) else { return };
    if found == manifest.blake3 || manifest.damaged.is_some() {
        return;
    }
    let reason = changed(&found, &manifest.blake3);
    let noted = manifest::write(&folder, &name, &BackupManifest { damaged: Some(reason), ..manifest });
    if let Err(error) = noted {
        tracing::warn!(backup = %file.display(), %error, "that a backup is damaged could not be noted");
    }
}

pub(super) fn same_hash(file: &std::fs::File, path: &Path, expected: &str) -> Result<(), BackupError> {
    let unsound = |reason| BackupError::Unsound { path: path.to_owned(), reason };
    let found = hash(file).map_err(|error| unsound(format!("it cannot be read: {error}")))?;
    if found == expected {
        return Ok(());
    }
    Err(unsound(changed(&found, expected)))
}

fn changed(found: &str, expected: &str) -> String {
    format!("its content changed since it was taken (BLAKE3 {found}, the manifest says {expected})")
}

/// Restores a backup to a path where nothing is.
///
/// # Errors
/// [`BackupError::Taken`] when the path, or a side file of it, is there; [`BackupError::Unsound`] when the backup is not what
/// was taken.
pub fn restore(job: &RestoreJob) -> Result<Restored, BackupError> {
    let (folder, name, manifest) = of_file(&job.backup)?;
    let (to, to_name) = Folder::of_entry(&job.to).map_err(BackupError::host("opening the folder to restore into"))?;
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let side = side_name(&to_name, suffix);
        match to.stat_in(&side) {
            Ok(_) => return Err(BackupError::Taken { path: to.path().join(side) }),
            Err(error) if error.is_absent() => {}
            Err(error) => return Err(BackupError::host("looking at the restore's destination")(error)),
        }
    }
    let space = Space::at(to.path()).map_err(BackupError::host("asking for free space"))?;
    if space.free_bytes < manifest.size {
        let (free, needed) = (space.free_bytes, manifest.size);
        return Err(BackupError::Space { folder: to.path().to_owned(), free, needed, floor: 0 });
    }
    let temporary = format!(".guardiand-restore-{}.new", std::process::id());
    let result = put(&folder, &name, &to, &temporary, &to_name, &manifest);
    if result.is_err() {
        let _ = to.unlink(&temporary);
        // It may have failed for want of room, say: then there is nothing to read once more.
        if matches!(result, Err(BackupError::Unsound { .. })) {
            note_damage(&job.backup);
        }
    }
    let examined = result?;
    Ok(Restored { path: job.to.clone(), tables: examined.tables, taken_at: manifest.taken_at, size: manifest.size })
}

fn put(
    folder: &Folder,
    name: &str,
    to: &Folder,
    temporary: &str,
    to_name: &OsStr,
    manifest: &BackupManifest,
) -> Result<Examined, BackupError> {
    if stat_of(to, OsStr::new(temporary))?.is_some() {
        to.unlink(temporary).map_err(BackupError::host("removing a leftover"))?;
    }
    let source = folder.open_in(name).map_err(BackupError::host("opening a backup"))?;
    let target = to.create_in(temporary, 0o600).map_err(BackupError::host("creating the restored file"))?;
    // The project is that of the place it is restored to: its quota is another folder's.
    let ownership = Ownership { project: None, ..ownership_of(manifest.owner, manifest.attributes.as_ref()) };
    ownership.prepare(&target);
    copy_file(&source, &target).map_err(BackupError::host("copying a backup"))?;
    same_hash(&target, &folder.path().join(name), &manifest.blake3)?;
    for failed in ownership.apply(&target) {
        tracing::warn!(path = %to.path().join(to_name).display(), failed, "a restored file is not as its source was");
    }
    target
        .sync_all()
        .map_err(|error| BackupError::Unsound { path: to.path().join(temporary), reason: format!("fsync: {error}") })?;
    drop(target);
    // SQLite opens it by name, so before it has the name that a program may open.
    let examined = examine(&to.path().join(temporary), &Deadline::never())?;
    to.rename_noreplace(temporary, to, to_name).map_err(BackupError::host("putting the restored file in place"))?;
    to.sync().map_err(BackupError::host("making the restored file durable"))?;
    Ok(examined)
}
