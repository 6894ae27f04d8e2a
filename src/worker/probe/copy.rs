//! Private copies: what may not be looked at in place is looked at there, and deleted afterwards.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{copy_file_range, ioctl_ficlone};
use rustix::io::Errno;

use super::files::{Files, Looked, open_raw, with_suffix};
use super::raw;
use crate::format::header::HEADER_LEN;
use crate::format::{Header, SCHEMA_FORMAT_MAX, versions_put_right};
use crate::host::{HostError, LockMode, OfdLock, Space, SqliteLock, ask_lock};
use crate::job::{DatabaseSite, FileState, JournalState};
use crate::sqlite::sqlite_version_number;

/// Bytes between two looks at the deadline.
const CHUNK: usize = 16 << 20;
/// Copies of files that a program changes meanwhile are taken so often.
const TRIES: u32 = 3;
/// Left free on the scratch folder's file system, in bytes: it may be the programs' own.
const FLOOR: u64 = 64 << 20;
/// What the name of a copy's folder begins with, before the pid.
const PREFIX: &str = "probe-";

/// A copy in a folder of its own (0700), deleted when dropped.
pub(in crate::worker) struct PrivateCopy {
    folder: tempfile::TempDir,
}

impl PrivateCopy {
    /// The copied main file.
    pub(in crate::worker) fn main(&self) -> PathBuf {
        self.folder.path().join("copy.db")
    }

    /// Where it is.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// Copies main, WAL and journal as they are, without locks; files that changed while they were copied are copied again.
pub(in crate::worker) fn of_all(site: &DatabaseSite) -> io::Result<PrivateCopy> {
    for _ in 0..TRIES {
        let files = Files::pinned(&site.path);
        let copy = begin(site, &files)?;
        for (looked, suffix) in [(&files.main, ""), (&files.wal, "-wal"), (&files.journal, "-journal")] {
            if matches!(looked.state, FileState::File(_)) {
                duplicate(&open_raw(looked)?, &with_suffix(&copy.main(), suffix), None)?;
            }
        }
        put_versions_right(&File::options().read(true).write(true).open(copy.main())?)?;
        if [&files.main, &files.wal, &files.journal].into_iter().all(Looked::is_still_so) {
            return Ok(copy);
        }
    }
    Err(io::Error::other("a program changed it whenever it was copied"))
}

/// Copies the main file of a rollback-mode database while SHARED is held on it, so that no program writes meanwhile
/// (rule 24). Programs that write wait at most `busy` for nothing, and `block_max` for the copy.
pub(super) fn under_shared_lock(site: &DatabaseSite) -> io::Result<PrivateCopy> {
    let files = Files::pinned(&site.path);
    let copy = begin(site, &files)?;
    let main = open_raw(&files.main)?;
    let _shared = share(&main, Duration::from_millis(site.busy_ms))?;
    let until = Instant::now() + Duration::from_millis(site.block_max_ms);
    // With SHARED held no transaction can write to the main file. A journal is a living writer's, who waits; or one was left
    // behind since the raw look, and then the main file alone is no database.
    let journal = raw::journal(&files, None, false)?;
    if matches!(journal.state, JournalState::Hot | JournalState::Damaged) {
        return Err(io::Error::other(format!("its rollback journal was {}", journal.detail)));
    }
    duplicate(&main, &copy.main(), Some(until))?;
    Ok(copy)
}

/// A damaged version of its format, or of its schema's, would keep SQLite from reading a copy, or from writing it. The newest
/// format of a schema reads what is in the older ones, but for the order of DESC indexes: where that is not theirs, the full check
/// of the copy finds it.
pub(in crate::worker) fn put_versions_right(copy: &File) -> io::Result<()> {
    let mut head = [0; HEADER_LEN];
    let length = copy.read_at(&mut head, 0)?;
    if let Some(versions) = versions_put_right(&head[..length]) {
        copy.write_all_at(&versions, 18)?;
    }
    match Header::parse(&head[..length]) {
        Ok(header) if header.schema_format > SCHEMA_FORMAT_MAX && header.sqlite_version <= sqlite_version_number() => {
            copy.write_all_at(&SCHEMA_FORMAT_MAX.to_be_bytes(), 44)
        }
        _ => Ok(()),
    }
}

/// An empty folder for copies of these files.
pub(super) fn begin(site: &DatabaseSite, files: &Files) -> io::Result<PrivateCopy> {
    DirBuilder::new().recursive(true).mode(0o700).create(&site.scratch)?;
    let needed = files.main.state.size() + files.wal.state.size() + files.journal.state.size();
    let free = Space::at(&site.scratch).map_err(io::Error::other)?.free_bytes;
    // Recovery can grow the copy by its WAL once more.
    if free < needed.saturating_mul(2).saturating_add(FLOOR) {
        let message =
            format!("{} has {free} bytes free, and a private copy may need {}", site.scratch.display(), needed * 2);
        return Err(io::Error::new(io::ErrorKind::StorageFull, message));
    }
    sweep_out(&site.scratch);
    let prefix = format!("{PREFIX}{}-", std::process::id());
    let folder = tempfile::Builder::new().prefix(&prefix).tempdir_in(&site.scratch)?;
    Ok(PrivateCopy { folder })
}

/// Removes the copies of workers that were killed before they could: their pid is in the name.
pub(in crate::worker) fn sweep_out(scratch: &Path) {
    crate::host::sweep_out(scratch, PREFIX);
}

/// SQLite's SHARED, as SQLite takes it: not past a waiting writer's PENDING.
pub(super) fn share(main: &File, busy: Duration) -> io::Result<OfdLock> {
    let until = Instant::now() + busy;
    loop {
        let pending = ask_lock(main, SqliteLock::Pending.bytes(), LockMode::Read).map_err(io::Error::other)?;
        let held = match pending {
            None => match OfdLock::shared(main.try_clone()?.into(), SqliteLock::Shared.bytes()) {
                Ok(lock) => return Ok(lock),
                Err(error @ HostError::LockHeld(_)) => error.to_string(),
                Err(error) => return Err(io::Error::other(error)),
            },
            Some(conflict) => format!("a writer waits: {conflict}"),
        };
        if Instant::now() >= until {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, held));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Copies the bytes, by reflink where the file system can. Not made durable: it is deleted soon.
pub(super) fn duplicate(from: &File, to: &Path, until: Option<Instant>) -> io::Result<()> {
    let target = File::options().write(true).create_new(true).mode(0o600).open(to)?;
    if ioctl_ficlone(&target, from).is_ok() {
        return Ok(());
    }
    let (mut at, mut by_hand) = (0_u64, false);
    let mut buffer = Vec::new();
    loop {
        if until.is_some_and(|until| Instant::now() >= until) {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the copy took longer than writers may be blocked"));
        }
        let copied = if by_hand {
            buffer.resize(1 << 20, 0);
            let read = rustix::io::pread(from, buffer.as_mut_slice(), at)?;
            target.write_all_at(&buffer[..read], at)?;
            read
        } else {
            let (mut from_at, mut to_at) = (at, at);
            match copy_file_range(from, Some(&mut from_at), &target, Some(&mut to_at), CHUNK) {
                Ok(copied) => copied,
                Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) if at == 0 => {
                    by_hand = true;
                    continue;
                }
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            }
        };
        if copied == 0 {
            return Ok(());
        }
        at += copied as u64;
    }
}
