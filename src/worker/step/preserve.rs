//! Preserve: main, -wal, -shm and -journal as they are, into evidence, durable before any step changes a byte.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use jiff::Timestamp;

use super::evidence::{Evidence, Kept, MANIFEST, Preserved, latest, next, originals, same_content, write_json};
use super::place::{Place, need_space};
use super::{done, failed, nothing, while_};
use crate::backup::{hash, shared_lock};
use crate::host::{Bytes, Folder, OfdLock, Ownership, copy_file};
use crate::job::{JobFailure, StepReport};

/// `-shm`'s byte that a checkpoint holds.
const WAL_CHECKPOINT: Bytes = Bytes::new(121, 1);

/// How often a file that changes under our hands is copied anew.
const TRIES: u32 = 3;

pub(super) fn apply(place: &Place<'_>) -> Result<StepReport, JobFailure> {
    let mut sources = Vec::new();
    for (original, name) in originals(place) {
        if let Some(facts) = place.stat(&original)? {
            sources.push((original, name, facts));
        }
    }
    if let Some(Kept { folder, evidence, .. }) = latest(place)? {
        let same = evidence.files.len() == sources.len()
            && sources.iter().all(|(_, name, facts)| {
                evidence.file(name).is_some_and(|kept| same_content(&kept.facts, facts))
                    && folder.stat_in(name).is_ok_and(|copy| copy.size == facts.size)
            });
        if same {
            return Ok(nothing(&format!("{} holds these files already", folder.path().display())));
        }
    }
    need_space(&place.evidence, sources.iter().map(|(_, _, facts)| facts.size).sum())?;

    let folder = next(place)?;
    let mut remarks = Vec::new();
    // Nobody commits in rollback mode while SHARED is held, and no frame leaves the WAL while the checkpoint's byte is. A live
    // program waits as long as the copying takes: a reflink's moment, or what copying costs.
    let _still = hold_still(place, &mut remarks);
    let mut files = Vec::new();
    for (original, name, _) in &sources {
        if let Some(preserved) = keep(place, &folder, original, name, &mut remarks)? {
            files.push(preserved);
        }
    }
    folder.sync().map_err(while_("making the evidence durable"))?;
    let bytes: u64 = files.iter().map(|file| file.size).sum();
    let count = files.len();
    let evidence = Evidence {
        version: 1,
        incident: place.job.incident.clone(),
        path: place.path().to_owned(),
        preserved_at: Timestamp::now(),
        put_back: put_back(place, &folder, &files),
        files,
        remarks,
    };
    write_json(&folder, MANIFEST, &evidence)?;
    Ok(done(format!("{count} files, {bytes} bytes, in {}", folder.path().display())))
}

/// Locks that keep the files still, as far as they can be had.
fn hold_still(place: &Place<'_>, remarks: &mut Vec<String>) -> Vec<OfdLock> {
    let mut held = Vec::new();
    if let Ok(main) = place.folder.open_in(&place.name) {
        match shared_lock(&main, Duration::from_millis(place.job.site.busy_ms)) {
            Ok(lock) => held.push(lock),
            Err(error) => remarks.push(format!("copied while it may have been written: {error}")),
        }
    }
    if let Ok(shm) = place.folder.open_for_writing_in(place.side("-shm")) {
        match OfdLock::exclusive(shm.into(), WAL_CHECKPOINT) {
            Ok(lock) => held.push(lock),
            Err(error) => remarks.push(format!("copied while a checkpoint may have run: {error}")),
        }
    }
    held
}

fn keep(
    place: &Place<'_>,
    folder: &Folder,
    original: &std::ffi::OsStr,
    name: &'static str,
    remarks: &mut Vec<String>,
) -> Result<Option<Preserved>, JobFailure> {
    for attempt in 1..=TRIES {
        let Some(before) = place.stat(original)? else { return Ok(None) };
        let source = match place.folder.open_in(original) {
            Ok(source) => source,
            Err(error) if error.is_absent() => return Ok(None),
            Err(error) => return Err(while_("opening a file to preserve")(error)),
        };
        let target = folder.create_in(name, 0o600).map_err(while_("creating a file in evidence"))?;
        let copied = copy_file(&source, &target).map_err(while_(format!("copying {name} into evidence")))?;
        let after = place.stat(original)?;
        // The -shm is an index over the WAL and changes with every reader; SQLite builds it anew.
        let still = name == "shm" || after.is_some_and(|after| same_content(&before, &after));
        if !still && attempt < TRIES {
            folder.unlink(name).map_err(while_("removing a copy that is not one moment's"))?;
            continue;
        }
        if !still {
            remarks.push(format!("{name} changed while it was copied: it may be more than one moment's"));
        }
        same_bytes(&source, &target, copied.bytes, still)?;
        let ownership = Ownership::of(&source).map_err(while_("reading a file's owner"))?;
        return Ok(Some(Preserved {
            name: name.to_owned(),
            original: place.path_of(original),
            facts: before,
            size: copied.bytes,
            blake3: hash(&target).map_err(while_("reading a copy back"))?,
            ownership,
        }));
    }
    Err(failed(format!("{name} was not preserved")))
}

/// The ends of a copy are read back: a copy that is short or shifted shows there, and the whole is hashed besides.
fn same_bytes(source: &File, target: &File, bytes: u64, still: bool) -> Result<(), JobFailure> {
    let window = bytes.min(4096);
    for at in [0, bytes - window] {
        let (mut a, mut b) = (vec![0_u8; window as usize], vec![0_u8; window as usize]);
        let read = source.read_exact_at(&mut a, at).and_then(|()| target.read_exact_at(&mut b, at));
        if still && (read.is_err() || a != b) {
            return Err(failed("a copy in evidence is not what its source is: the disk may be failing"));
        }
    }
    Ok(())
}

fn put_back(place: &Place<'_>, folder: &Folder, files: &[Preserved]) -> String {
    let mut text = format!(
        "By hand: stop every program that uses {path}. Move {path}, {path}-wal, {path}-shm and {path}-journal away, all of them. \
         Then copy these, with owner and mode: ",
        path = place.path().display()
    );
    for file in files.iter().filter(|file| file.name != "shm") {
        text += &format!(
            "{} to {} ({}:{} mode {:o}); ",
            folder.path().join(&file.name).display(),
            file.original.display(),
            file.facts.uid,
            file.facts.gid,
            file.facts.mode
        );
    }
    text + "and start the programs. Never leave a -wal or -journal beside another main file: SQLite would replay it."
}
