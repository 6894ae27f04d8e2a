//! Building a candidate aside, in the target's own folder, checked in full before anything else happens.

use std::ffi::OsStr;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use super::place::{Place, need_space};
use super::settle::{Settled, settle};
use super::{failed, refused, undone, while_};
use crate::backup::{BackupError, Examined, examine, hash, ownership_of, verify};
use crate::host::{Folder, HostError, Ownership, copy_file};
use crate::job::{Candidate, JobFailure, Owner, Progress, StepReport, TableRows, WalBase};
use crate::sqlite::{Access, Database, Deadline};

/// From a backup.
pub(super) fn from_backup(
    place: &Place<'_>,
    backup: &Path,
    blake3: &str,
    owner: Option<&Owner>,
) -> Result<StepReport, JobFailure> {
    let part = fresh_part(place)?;
    let (folder, name) = Folder::of_entry(backup).map_err(while_("opening the backup's folder"))?;
    let source = folder.open_in(&name).map_err(while_("opening the backup"))?;
    let size = source.metadata().map_err(while_("looking at the backup"))?.len();
    need_space(&place.folder, size)?;
    let built = (|| {
        // Neither is the backup's fault: an older one, or none at all, would not be the answer to a full disk.
        let here = |doing: &'static str| move |error: HostError| refused(format!("while {doing}: {error}"));
        let target = place.folder.create_in(&part, 0o600).map_err(here("creating the candidate"))?;
        place.made(&target)?;
        let mut ownership = ownership(place, owner)?;
        // Of a file that is gone, the backup remembers what the target does not.
        if place.stat(&place.name)?.is_none()
            && let Ok((_, _, manifest)) = crate::backup::of_file(backup)
            && manifest.source == *place.path()
            && let Some(attributes) = &manifest.attributes
        {
            let owner = Owner { uid: ownership.uid, gid: ownership.gid, mode: ownership.mode };
            ownership = ownership_of(owner, Some(attributes));
        }
        // What could not be set is said once the file has its owner too.
        ownership.prepare(&target);
        copy_file(&source, &target).map_err(here("copying the backup"))?;
        let found = hash(&target).map_err(while_("reading the candidate back"))?;
        if found != blake3 {
            crate::backup::note_damage(backup);
            return Err(failed(format!(
                "the backup {} is damaged: its BLAKE3 is {found}, its manifest says {blake3}",
                backup.display()
            )));
        }
        drop(target);
        finish(place, &part, &ownership, format!("backup {}", backup.display()))
    })();
    clean_up(place, &part, built)
}

/// From a private copy of main, WAL and journal that SQLite has recovered, with the text of `schema` put back.
pub(super) fn from_copy(
    place: &Place<'_>,
    schema: Option<&str>,
    owner: Option<&Owner>,
) -> Result<StepReport, JobFailure> {
    let part = fresh_part(place)?;
    let mut size = 0;
    for name in [place.name.clone(), place.side("-wal"), place.side("-journal")] {
        size += place.stat(&name)?.map_or(0, |facts| facts.size);
    }
    // A damaged journal is tried in three ways.
    need_space(&place.folder, size.saturating_mul(3))?;
    let built = (|| {
        let ownership = ownership(place, owner)?;
        let Settled { how } = settle(place, &part, &ownership, schema)?;
        finish(place, &part, &ownership, format!("the database's own files, {how}"))
    })();
    clean_up(place, &part, built)
}

/// From all that can be read of the WAL.
pub(super) fn from_wal(place: &Place<'_>, onto: &WalBase, owner: Option<&Owner>) -> Result<StepReport, JobFailure> {
    let part = fresh_part(place)?;
    let built = (|| {
        let ownership = ownership(place, owner)?;
        let mended = super::mend::put_together(place, onto, &part)?;
        let base = match onto {
            WalBase::Main => "the database's own files".to_owned(),
            WalBase::Nothing => "its WAL alone".to_owned(),
            WalBase::Backup { file, .. } => format!("backup {} and the WAL of its time", file.display()),
        };
        let mut report = finish(place, &part, &ownership, format!("{base}, {}", mended.detail))?;
        if let Some(candidate) = &mut report.candidate {
            candidate.proven = mended.proven;
        }
        Ok(report)
    })();
    clean_up(place, &part, built)
}

/// An empty database is the last resort: a backup that was not restored for another reason than its own damage (no room, a
/// folder that is not mounted) is worth waiting for.
pub(super) fn no_backup_passes(backups: &[std::path::PathBuf]) -> Result<(), JobFailure> {
    for backup in backups {
        match verify(backup, &Deadline::never()) {
            Err(BackupError::Unsound { .. } | BackupError::Manifest { .. }) => {}
            Ok(_) => {
                return Err(refused(format!(
                    "the backup {} passes, and an empty database would lose its rows: see why it was not restored",
                    backup.display()
                )));
            }
            Err(error) => {
                return Err(refused(format!(
                    "it cannot be told whether the backup {} passes: {error}",
                    backup.display()
                )));
            }
        }
    }
    Ok(())
}

/// From a schema: nothing but the schema is left.
pub(super) fn from_schema(
    place: &Place<'_>,
    schema: &str,
    journal_mode: &str,
    owner: Option<&Owner>,
) -> Result<StepReport, JobFailure> {
    let part = fresh_part(place)?;
    need_space(&place.folder, 1 << 20)?;
    let built = (|| {
        // SQLite opens by name: the file is made by us first, and by nobody else.
        let ownership = ownership(place, owner)?;
        let file = place.folder.create_in(&part, 0o600).map_err(while_("creating the candidate"))?;
        place.made(&file)?;
        ownership.prepare(file);
        let path = place.path_of(&part);
        let database = Database::open(&path, Access::Create, Duration::ZERO, Deadline::never())
            .map_err(while_("opening the candidate"))?;
        database.apply_schema(schema).map_err(while_("creating the schema"))?;
        if journal_mode.eq_ignore_ascii_case("wal") {
            database.set_journal_mode("wal").map_err(while_("setting the journal mode"))?;
        }
        database.close().map_err(while_("closing the candidate"))?;
        finish(place, &part, &ownership, "the schema alone, without a row".into())
    })();
    clean_up(place, &part, built)
}

/// Takes a build back.
pub(super) fn undo(place: &Place<'_>) -> Result<StepReport, JobFailure> {
    fresh_part(place)?;
    place.remove(&place.candidate())?;
    place.sync()?;
    Ok(undone("the candidate is removed"))
}

/// The name under which a candidate is built, free of what an earlier try left. An earlier candidate goes too: it may be
/// another backup's.
pub(super) fn fresh_part(place: &Place<'_>) -> Result<std::ffi::OsString, JobFailure> {
    let part = place.ours("part");
    for suffix in ["", "-wal", "-shm", "-journal"] {
        place.remove(&crate::backup::side_name(&part, suffix))?;
    }
    place.remove(&place.candidate())?;
    super::settle::remove_private(place)?;
    Ok(part)
}

/// Checks in full, gives owner and mode, makes durable, and only then the final name.
pub(super) fn finish(
    place: &Place<'_>,
    part: &OsStr,
    ownership: &Ownership,
    source: String,
) -> Result<StepReport, JobFailure> {
    let examined = examine(&place.path_of(part), &Deadline::never())?;
    finish_examined(place, part, ownership, source, examined)
}

/// The same of a file that has passed its check, and that nobody else could write since.
pub(super) fn finish_examined(
    place: &Place<'_>,
    part: &OsStr,
    ownership: &Ownership,
    source: String,
    Examined { tables, empty, .. }: Examined,
) -> Result<StepReport, JobFailure> {
    if empty {
        return Err(failed(format!("{source} holds no table: it is not put in anybody's place")));
    }
    for suffix in ["-wal", "-shm", "-journal"] {
        let side = crate::backup::side_name(part, suffix);
        match place.stat(&side)? {
            Some(facts) if facts.size > 0 && suffix != "-shm" => {
                return Err(failed(format!("{} was left beside the candidate", place.path_of(&side).display())));
            }
            Some(_) => place.remove(&side)?,
            None => {}
        }
    }
    let target = place.folder.open_for_writing_in(part).map_err(while_("opening the candidate"))?;
    place.is_made(&target)?;
    let remarks = ownership.apply(&target);
    target.sync_all().map_err(while_("making the candidate durable"))?;
    let size = target.metadata().map_err(while_("looking at the candidate"))?.len();
    let mut head = [0_u8; 2];
    target.read_exact_at(&mut head, 18).map_err(while_("reading the candidate's header"))?;
    drop(target);
    let candidate = place.candidate();
    place.folder.rename_noreplace(part, &place.folder, &candidate).map_err(while_("naming the candidate"))?;
    place.sync()?;
    let rows = TableRows::sum(&tables);
    let mode = if head == [2, 2] { "WAL" } else { "rollback" };
    let mut detail = format!("{source}: {size} bytes, {rows} rows, {mode} mode, integrity_check ok");
    for remark in remarks {
        detail += &format!("; {remark}");
    }
    let candidate = Candidate::new(place.path_of(&candidate), size, tables, source);
    Ok(StepReport { progress: Progress::Done, detail, candidate: Some(candidate) })
}

/// Whose the candidate shall be: the old file's, else what is remembered, else what the folder lets expect.
pub(super) fn ownership(place: &Place<'_>, owner: Option<&Owner>) -> Result<Ownership, JobFailure> {
    if place.stat(&place.name)?.is_some() {
        let old = place.folder.open_in(&place.name).map_err(while_("opening the old file"))?;
        return Ownership::of(&old).map_err(while_("reading the old file's owner"));
    }
    let (uid, gid, mode) = match owner {
        Some(owner) => (owner.uid, owner.gid, owner.mode),
        None => {
            let folder = crate::host::FileFacts::of_fd(&place.folder).map_err(while_("looking at the folder"))?;
            // Readable for those who may read the folder, writable for its owner.
            (folder.uid, folder.gid, (folder.mode & 0o444) | 0o600)
        }
    };
    Ok(Ownership { uid, gid, mode, xattrs: Vec::new(), project: None, no_cow: false })
}

pub(super) fn clean_up(
    place: &Place<'_>,
    part: &OsStr,
    built: Result<StepReport, JobFailure>,
) -> Result<StepReport, JobFailure> {
    super::settle::remove_private(place)?;
    if built.is_err() {
        for suffix in ["", "-wal", "-shm", "-journal"] {
            place.remove(&crate::backup::side_name(part, suffix))?;
        }
    }
    // A refusal of the host's for a file that is no regular one must not read as "try the next backup".
    built.map_err(|failure| if failure.message.is_empty() { refused("nothing could be built") } else { failure })
}
