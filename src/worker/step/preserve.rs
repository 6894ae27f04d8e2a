//! Preserve: main, -wal, -shm and -journal as they are, into evidence, durable before any step changes a byte.
//!
//! By reflink where the file system can, which takes no time worth telling; else byte by byte. Never by hard link, although
//! that would cost nothing for a file that is about to be swapped out: until the swap it is the live file itself, and after
//! it whoever had it open goes on writing to it, so it would be a second name for what evidence must outlive.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::evidence::{Evidence, Kept, MANIFEST, Preserved, latest, next, originals, same_content, write_json};
use super::place::{Place, need_space};
use super::{done, failed, nothing, while_};
use crate::backup::{Bounded, copy_bounded, hash, shared_lock};
use crate::host::{Bytes, Folder, OfdLock, Ownership, in_forked_child};
use crate::job::{FileFacts, JobFailure, StepReport};

/// `-shm`'s byte that a checkpoint holds.
const WAL_CHECKPOINT: Bytes = Bytes::new(121, 1);

/// How often a file that changes under our hands is copied anew.
const TRIES: u32 = 3;

/// Who keeps the files still while they are copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keeper {
    /// We do, as far as it goes.
    Us,
    /// SQLite does, in the process that we are a copy of: nobody commits. In rollback mode there is a journal then, its own.
    Sqlite,
}

pub(super) fn apply(place: &Place<'_>) -> Result<StepReport, JobFailure> {
    keep_all(place, Keeper::Us)
}

/// Keeps what is there while SQLite in this process holds its lock for writing: in a copy of this process, for closing a file
/// here would drop that lock (rule 7).
pub(super) fn under_sqlites_lock(place: &Place<'_>) -> Result<StepReport, JobFailure> {
    let kept = in_forked_child(|| in_copy_of_locker(place));
    kept.map_err(while_("keeping what is about to be replaced"))?
}

/// The same in such a copy.
pub(super) fn in_copy_of_locker(place: &Place<'_>) -> Result<StepReport, JobFailure> {
    keep_all(place, Keeper::Sqlite)
}

fn keep_all(place: &Place<'_>, keeper: Keeper) -> Result<StepReport, JobFailure> {
    let mut sources = Vec::new();
    for (original, name) in originals(place) {
        if name == "journal" && keeper == Keeper::Sqlite {
            continue;
        }
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
        // A clock too coarse to tell hides no commit in rollback mode.
        let head_in = |folder: &Folder, name: &OsStr| folder.open_own_in(name).ok().and_then(|main| head(&main));
        if same && head_in(&folder, OsStr::new("main")) == head_in(&place.folder, &place.name) {
            return Ok(nothing(&format!("{} holds these files already", folder.path().display())));
        }
    }
    need_space(&place.evidence, sources.iter().map(|(_, _, facts)| facts.size).sum())?;

    let folder = next(place)?;
    let mut remarks = Vec::new();
    let mut still = Still::hold(place, keeper, &mut remarks);
    let mut taken = Vec::new();
    for (original, name, _) in &sources {
        taken.extend(take(place, &folder, original, name, &mut still, &mut remarks)?);
    }
    if still.given_up {
        of_one_moment(place, &taken, &mut remarks)?;
    }
    // Whoever waited goes on: what is left to do is done with our own copies.
    drop(still);
    let files = taken.into_iter().map(|taken| finish(place, taken)).collect::<Result<Vec<_>, _>>()?;
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

/// Locks that keep the files still, as far as they can be had. Nobody commits in rollback mode while SHARED is held, and no
/// frame leaves the WAL while the checkpoint's byte is.
struct Still {
    locks: Vec<OfdLock>,
    /// Writers of a rollback-mode database are kept out no longer than this (rule 24). In WAL mode nobody waits for us.
    until: Option<Instant>,
    /// It took longer, and the locks were let go.
    given_up: bool,
}

impl Still {
    fn hold(place: &Place<'_>, keeper: Keeper, remarks: &mut Vec<String>) -> Still {
        let mut still = Still { locks: Vec::new(), until: None, given_up: false };
        if keeper == Keeper::Us
            && let Ok(main) = place.folder.open_own_in(&place.name)
        {
            match shared_lock(&main, Duration::from_millis(place.job.site.busy_ms)) {
                Ok(lock) => still.locks.push(lock),
                Err(error) => remarks.push(format!("copied while it may have been written: {error}")),
            }
            let in_wal_mode = head(&main).is_some_and(|head| head[18..20] == [2, 2]);
            let block_max = Duration::from_millis(place.job.site.block_max_ms);
            still.until = (!in_wal_mode).then(|| Instant::now() + block_max);
        }
        if let Ok(shm) = place.folder.open_for_writing_in(place.side("-shm")) {
            match OfdLock::exclusive(shm.into(), WAL_CHECKPOINT) {
                Ok(lock) => still.locks.push(lock),
                Err(error) => remarks.push(format!("copied while a checkpoint may have run: {error}")),
            }
        }
        still
    }

    /// Copies what `source` has now into the empty `target`; without locks when that takes too long with them.
    fn copy(&mut self, source: &File, target: &File) -> std::io::Result<u64> {
        if let Bounded::Complete(bytes) = copy_bounded(source, target, self.until)? {
            return Ok(bytes);
        }
        self.locks.clear();
        (self.until, self.given_up) = (None, true);
        target.set_len(0)?;
        match copy_bounded(source, target, None)? {
            Bounded::Complete(bytes) | Bounded::OutOfTime(bytes) => Ok(bytes),
        }
    }
}

/// A file that is copied, and not yet durable.
struct Taken {
    name: &'static str,
    original: OsString,
    before: FileFacts,
    /// Its first bytes, before and after: each commit in rollback mode counts the change counter up, so that a clock too coarse
    /// to tell cannot hide one.
    head: Option<Head>,
    source: File,
    target: File,
    bytes: u64,
    still: bool,
}

type Head = [u8; 100];

fn head(main: &File) -> Option<Head> {
    let mut head = [0_u8; 100];
    main.read_exact_at(&mut head, 0).ok().map(|()| head)
}

fn take(
    place: &Place<'_>,
    folder: &Folder,
    original: &OsStr,
    name: &'static str,
    still: &mut Still,
    remarks: &mut Vec<String>,
) -> Result<Option<Taken>, JobFailure> {
    for attempt in 1..=TRIES {
        let Some(before) = place.stat(original)? else { return Ok(None) };
        let source = match place.folder.open_own_in(original) {
            Ok(source) => source,
            Err(error) if error.is_absent() => return Ok(None),
            Err(error) => return Err(while_("opening a file to preserve")(error)),
        };
        let head = head(&source);
        let target = folder.create_in(name, 0o600).map_err(while_("creating a file in evidence"))?;
        let bytes = still.copy(&source, &target).map_err(while_(format!("copying {name} into evidence")))?;
        let mut taken = Taken { name, original: original.to_owned(), before, head, source, target, bytes, still: true };
        // The -shm is an index over the WAL and changes with every reader; SQLite builds it anew.
        taken.still = name == "shm" || is_as_it_was(place, &taken)?;
        if taken.still {
            return Ok(Some(taken));
        }
        if attempt == TRIES {
            remarks.push(format!("{name} changed while it was copied: it may be more than one moment's"));
            return Ok(Some(taken));
        }
        folder.unlink(name).map_err(while_("removing a copy that is not one moment's"))?;
    }
    Err(failed(format!("{name} was not preserved")))
}

fn is_as_it_was(place: &Place<'_>, taken: &Taken) -> Result<bool, JobFailure> {
    let after = place.stat(&taken.original)?;
    Ok(after.is_some_and(|after| same_content(&taken.before, &after))
        && (taken.name != "main" || head(&taken.source) == taken.head))
}

/// Copied one after the other without locks, the files are of one moment only if none of them changed until the last was done.
fn of_one_moment(place: &Place<'_>, taken: &[Taken], remarks: &mut Vec<String>) -> Result<(), JobFailure> {
    for taken in taken.iter().filter(|taken| taken.name != "shm" && taken.still) {
        if !is_as_it_was(place, taken)? {
            remarks.push(format!(
                "{} was written while the others were copied: they may be of different moments",
                taken.name
            ));
        }
    }
    Ok(())
}

/// Makes a copy durable and writes down what it is.
fn finish(place: &Place<'_>, taken: Taken) -> Result<Preserved, JobFailure> {
    let checked = taken.still && taken.name != "shm";
    // Whoever was kept out may have written since.
    if checked && !same_bytes(&taken.source, &taken.target, taken.bytes) && is_as_it_was(place, &taken)? {
        return Err(failed("a copy in evidence is not what its source is: the disk may be failing"));
    }
    let Taken { name, original, before, source, target, bytes, .. } = taken;
    target.sync_all().map_err(while_("making a copy in evidence durable"))?;
    let ownership = Ownership::of(&source).map_err(while_("reading a file's owner"))?;
    Ok(Preserved {
        name: name.to_owned(),
        original: place.path_of(&original),
        facts: before,
        size: bytes,
        blake3: hash(&target).map_err(while_("reading a copy back"))?,
        ownership,
    })
}

/// The ends of a copy are read back: a copy that is short or shifted shows there, and the whole is hashed besides.
fn same_bytes(source: &File, target: &File, bytes: u64) -> bool {
    let window = bytes.min(4096);
    [0, bytes - window].into_iter().all(|at| {
        let (mut a, mut b) = (vec![0_u8; window as usize], vec![0_u8; window as usize]);
        let read = source.read_exact_at(&mut a, at).and_then(|()| target.read_exact_at(&mut b, at));
        read.is_ok() && a == b
    })
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
