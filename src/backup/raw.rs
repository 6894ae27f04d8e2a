//! Copying a live rollback-mode database's bytes under SQLite's own SHARED lock, for a bounded time (rule 24).
//!
//! The lock is an open-file-description lock on a raw descriptor: it stands against SQLite's POSIX locks like any other
//! process's, no `close` of ours drops it early, and this process has no SQLite connection to the file.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{copy_file_range, ioctl_ficlone};
use rustix::io::Errno;

use crate::host::{HostError, OfdLock, SqliteLock, WINDOW_BYTES, page_threads, read_up_to, write_back_window};

/// How a bounded copy ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bounded {
    /// All bytes that the source had when it began.
    Complete(u64),
    /// Time was up after so many.
    OutOfTime(u64),
}

/// Bytes per call: a few milliseconds each, so that the bound holds.
const CHUNK_BYTES: u64 = WINDOW_BYTES;

/// Bytes that are compared at once: both sides stay in the processor's cache.
const COMPARED_BYTES: usize = 256 << 10;

/// Between two tries to get a lock. A program that commits without a pause leaves gaps of some tenths of a millisecond.
const RETRY: Duration = Duration::from_micros(250);

/// Takes SHARED on a database's main file as SQLite does: PENDING must be free for a moment, or a writer waits for readers to
/// leave and we would starve it.
///
/// # Errors
/// [`HostError::LockHeld`] when it could not be had within `patience`; [`HostError::Lock`].
pub fn shared_lock(main: &File, patience: Duration) -> Result<OfdLock, HostError> {
    let until = Instant::now() + patience;
    loop {
        match try_shared(main) {
            Err(HostError::LockHeld(_)) if Instant::now() < until => std::thread::sleep(RETRY),
            answer => return answer,
        }
    }
}

fn try_shared(main: &File) -> Result<OfdLock, HostError> {
    let duplicate = || -> Result<OwnedFd, HostError> {
        main.try_clone()
            .map(OwnedFd::from)
            .map_err(|source| HostError::Open { path: "a descriptor again".into(), source })
    };
    let pending = OfdLock::shared(duplicate()?, SqliteLock::Pending.bytes())?;
    let shared = OfdLock::shared(duplicate()?, SqliteLock::Shared.bytes())?;
    drop(pending);
    Ok(shared)
}

/// Copies what `source` has now into the empty file `target`, until `deadline`. By reflink where the file system can: then it
/// takes no time worth telling. Not synced: that may be done after a lock is released.
///
/// # Errors
/// The system's, of the call that failed.
pub fn copy_bounded(source: &File, target: &File, deadline: Option<Instant>) -> io::Result<Bounded> {
    let size = source.metadata()?.len();
    // Any refusal only means that it is not possible here.
    if ioctl_ficlone(target, source).is_ok() {
        return Ok(Bounded::Complete(size));
    }
    let mut buffer = Vec::new();
    let mut done = 0;
    while done < size {
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Ok(Bounded::OutOfTime(done));
        }
        match copy_chunk(source, target, done, (size - done).min(CHUNK_BYTES), &mut buffer)? {
            0 => break,
            copied => done += copied,
        }
    }
    Ok(Bounded::Complete(done))
}

/// Copies what `source` has into `target` without any lock and without haste, already on its way to the disk: pages of several
/// moments, to be made one moment's by [`bring_up_to_date`] under a lock. That finds most of it done, and takes a third of the time
/// of a copy.
///
/// # Errors
/// The system's, of the call that failed.
pub fn copy_ahead(source: &File, target: &File, is_over: impl Fn() -> bool) -> io::Result<()> {
    let size = source.metadata()?.len();
    let (mut buffer, mut done) = (Vec::new(), 0);
    while done < size && !is_over() {
        let copied = copy_chunk(source, target, done, (size - done).min(CHUNK_BYTES), &mut buffer)?;
        if copied == 0 {
            break;
        }
        write_back_window(target, done..done + copied);
        done += copied;
    }
    Ok(())
}

/// Makes `target` what `source` is now, until `deadline`: only what differs is written. Not synced. By several threads, for writers wait
/// meanwhile.
///
/// # Errors
/// The system's, of the call that failed.
pub fn bring_up_to_date(source: &File, target: &File, deadline: Option<Instant>) -> io::Result<Bounded> {
    let size = source.metadata()?.len();
    target.set_len(size)?;
    let next = AtomicU64::new(0);
    let level = || -> io::Result<Bounded> {
        let (mut theirs, mut ours) = (vec![0_u8; COMPARED_BYTES], vec![0_u8; COMPARED_BYTES]);
        loop {
            let at = next.fetch_add(COMPARED_BYTES as u64, Ordering::Relaxed);
            if at >= size {
                return Ok(Bounded::Complete(size));
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(Bounded::OutOfTime(at));
            }
            let wanted = usize::try_from(size - at).unwrap_or(usize::MAX).min(COMPARED_BYTES);
            let (theirs, ours) =
                (theirs.get_mut(..wanted).unwrap_or_default(), ours.get_mut(..wanted).unwrap_or_default());
            let read = read_up_to(source, at, theirs)?;
            let there = read_up_to(target, at, ours)?;
            let now = theirs.get(..read).unwrap_or_default();
            if ours.get(..there).unwrap_or_default().get(..read) != Some(now) {
                target.write_all_at(now, at)?;
            }
            if read < wanted {
                // It was cut meanwhile: nobody who holds to SQLite's locks does that.
                return Ok(Bounded::Complete(at + read as u64));
            }
        }
    };
    let ends = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..page_threads()).map(|_| scope.spawn(level)).collect();
        let joined =
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread died"))));
        joined.collect::<io::Result<Vec<_>>>()
    })?;
    // The first place that was not reached, or where it ended.
    let least = |bounded: &Bounded| match *bounded {
        Bounded::OutOfTime(at) => (0, at),
        Bounded::Complete(at) => (1, at),
    };
    Ok(ends.into_iter().min_by_key(least).unwrap_or(Bounded::Complete(0)))
}

fn copy_chunk(source: &File, target: &File, at: u64, length: u64, buffer: &mut Vec<u8>) -> io::Result<u64> {
    if buffer.is_empty() {
        let (mut from, mut to) = (at, at);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        match copy_file_range(source, Some(&mut from), target, Some(&mut to), length) {
            Ok(copied) => return Ok(copied as u64),
            Err(errno @ (Errno::NOSPC | Errno::DQUOT | Errno::IO)) => return Err(errno.into()),
            // Not here (EXDEV, EINVAL, ENOSYS, EOPNOTSUPP): read and write from here on.
            Err(_) => buffer.resize(1 << 20, 0),
        }
    }
    let read = source.read_at(buffer, at)?;
    target.write_all_at(buffer.get(..read).unwrap_or_default(), at)?;
    Ok(read as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bounded_copy_has_every_byte_or_says_that_time_was_up() {
        let dir = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..(CHUNK_BYTES as usize * 2 + 77)).map(|at| (at % 251) as u8).collect();
        std::fs::write(dir.path().join("from"), &content).unwrap();
        let source = File::open(dir.path().join("from")).unwrap();
        let target = File::create_new(dir.path().join("to")).unwrap();
        assert_eq!(copy_bounded(&source, &target, None).unwrap(), Bounded::Complete(content.len() as u64));
        assert_eq!(std::fs::read(dir.path().join("to")).unwrap(), content);

        let late = File::create_new(dir.path().join("late")).unwrap();
        let outcome = copy_bounded(&source, &late, Some(Instant::now())).unwrap();
        // A reflink needs no time.
        assert!(matches!(outcome, Bounded::OutOfTime(0) | Bounded::Complete(_)), "{outcome:?}");
    }

    #[test]
    fn what_was_copied_ahead_becomes_what_the_source_is_now() {
        use std::os::unix::fs::FileExt as _;
        let (source, target) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let mut content: Vec<u8> = (0..COMPARED_BYTES * 3 + 4096).map(|at| (at % 253) as u8).collect();
        source.write_all_at(&content, 0).unwrap();
        copy_ahead(&source, &target, || false).unwrap();
        for size in [content.len(), COMPARED_BYTES * 2 + 77, COMPARED_BYTES * 4] {
            content.resize(size, 9);
            content[size / 2] ^= 0xff;
            content[size - 1] ^= 0xff;
            source.set_len(size as u64).unwrap();
            source.write_all_at(&content, 0).unwrap();
            let late = bring_up_to_date(&source, &target, Some(Instant::now())).unwrap();
            assert_eq!(late, Bounded::OutOfTime(0));
            assert_eq!(bring_up_to_date(&source, &target, None).unwrap(), Bounded::Complete(size as u64));
            let mut copy = vec![0; size + 1];
            assert_eq!(read_up_to(&target, 0, &mut copy).unwrap(), size);
            assert!(copy[..size] == content[..], "{size}");
        }
    }

    #[test]
    fn the_shared_lock_stands_against_a_writer_and_goes_with_its_guard() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        std::fs::write(&path, b"x").unwrap();
        let open = || File::options().read(true).write(true).open(&path).unwrap();
        let main = open();
        let held = shared_lock(&main, Duration::ZERO).unwrap();
        let exclusive = || OfdLock::exclusive(open().into(), SqliteLock::Shared.bytes());
        assert!(matches!(exclusive(), Err(HostError::LockHeld(_))));
        drop(held);
        let writer = exclusive().unwrap();
        assert!(matches!(shared_lock(&main, Duration::from_millis(5)), Err(HostError::LockHeld(_))));
        drop(writer);
        shared_lock(&main, Duration::ZERO).unwrap();
    }
}
