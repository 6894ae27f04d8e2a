//! Open-file-description locks: the truth about who locks a byte, and locks that no stray `close` can drop.
//!
//! POSIX locks belong to the process, and closing any descriptor of the file drops them all; these belong to the open
//! file and conflict with the POSIX ones that SQLite takes (`fcntl_locking(2)`).
#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use super::error::HostError;
use super::lock_table::LockMode;

/// A range of bytes to lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bytes {
    /// First byte.
    pub start: u64,
    /// How many; 0 for "to the end, however far".
    pub len: u64,
}

impl Bytes {
    /// `len` bytes from `start` on.
    pub const fn new(start: u64, len: u64) -> Bytes {
        Bytes { start, len }
    }

    /// All bytes that there are or will be.
    pub const ALL: Bytes = Bytes { start: 0, len: 0 };

    fn end(self) -> u64 {
        if self.len == 0 { u64::MAX } else { self.start.saturating_add(self.len) }
    }
}

/// A lock of somebody else's that stands in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// Shared or exclusive.
    pub mode: LockMode,
    /// The process; `None` when it is in another PID namespace, on another machine, or the lock is an open file's.
    /// With no name to it nothing may be done about it (SQLITE.md, rule 13).
    pub pid: Option<i32>,
    /// An open file's, as guardiand takes them and SQLite does not.
    pub is_ofd: bool,
    /// First byte.
    pub start: u64,
    /// Byte after the last; `u64::MAX` for "to the end".
    pub end: u64,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = if self.mode == LockMode::Write { "exclusively" } else { "shared" };
        match self.pid {
            Some(pid) => write!(f, "{mode}, by process {pid}"),
            None => write!(f, "{mode}, by a process that cannot be named from here"),
        }
    }
}

/// Asks the kernel whether a lock of `mode` could be taken on `bytes`, and if not, for one lock that forbids it.
///
/// Only for a worker child that holds no locks of its own on this file: it needs a descriptor, and closing that
/// drops the process's POSIX locks. Ask each of SQLite's bytes apart, for the kernel names one conflict at a time.
///
/// # Errors
/// [`HostError::Lock`].
pub fn ask_lock(fd: impl AsFd, bytes: Bytes, mode: LockMode) -> Result<Option<Conflict>, HostError> {
    let mut question = flock(bytes, raw_mode(mode))?;
    fcntl(fd.as_fd(), libc::F_OFD_GETLK, &mut question).map_err(|source| failed("ask for", bytes, source))?;
    let mode = match i32::from(question.l_type) {
        libc::F_UNLCK => return Ok(None),
        libc::F_RDLCK => LockMode::Read,
        _ => LockMode::Write,
    };
    let start = u64::try_from(question.l_start).unwrap_or(0);
    let len = u64::try_from(question.l_len).unwrap_or(0);
    let pid = (question.l_pid > 0).then_some(question.l_pid);
    Ok(Some(Conflict { mode, pid, is_ofd: question.l_pid == -1, start, end: Bytes { start, len }.end() }))
}

/// A lock that is held until it is dropped.
#[derive(Debug)]
pub struct OfdLock {
    fd: OwnedFd,
    bytes: Bytes,
}

impl OfdLock {
    /// Takes an exclusive lock without waiting; the descriptor must be open for writing.
    ///
    /// # Errors
    /// [`HostError::LockHeld`] with the holder, or [`HostError::Lock`].
    pub fn exclusive(fd: OwnedFd, bytes: Bytes) -> Result<OfdLock, HostError> {
        OfdLock::take(fd, bytes, LockMode::Write)
    }

    /// Takes a shared lock without waiting; the descriptor must be open for reading.
    ///
    /// # Errors
    /// [`HostError::LockHeld`] with the holder, or [`HostError::Lock`].
    pub fn shared(fd: OwnedFd, bytes: Bytes) -> Result<OfdLock, HostError> {
        OfdLock::take(fd, bytes, LockMode::Read)
    }

    fn take(fd: OwnedFd, bytes: Bytes, mode: LockMode) -> Result<OfdLock, HostError> {
        let mut wish = flock(bytes, raw_mode(mode))?;
        match fcntl(fd.as_fd(), libc::F_OFD_SETLK, &mut wish) {
            Ok(()) => Ok(OfdLock { fd, bytes }),
            Err(source) if matches!(source.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {
                // It may be gone by the time we ask; then nobody can be named.
                let unnamed =
                    Conflict { mode: LockMode::Write, pid: None, is_ofd: false, start: bytes.start, end: bytes.end() };
                Err(HostError::LockHeld(ask_lock(&fd, bytes, mode)?.unwrap_or(unnamed)))
            }
            Err(source) => Err(failed("set", bytes, source)),
        }
    }
}

impl AsFd for OfdLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for OfdLock {
    fn drop(&mut self) {
        // Said aloud rather than left to close(): a child caught between fork and exec has the descriptor still.
        if let Ok(mut release) = flock(self.bytes, libc::F_UNLCK) {
            let _closing_does_it_too = fcntl(self.fd.as_fd(), libc::F_OFD_SETLK, &mut release);
        }
    }
}

fn raw_mode(mode: LockMode) -> i32 {
    match mode {
        LockMode::Read => libc::F_RDLCK,
        LockMode::Write => libc::F_WRLCK,
    }
}

fn failed(doing: &'static str, bytes: Bytes, source: io::Error) -> HostError {
    HostError::Lock { doing, start: bytes.start, end: bytes.end(), source }
}

fn flock(bytes: Bytes, kind: i32) -> Result<libc::flock, HostError> {
    let too_far = |_| failed("set", bytes, io::Error::from_raw_os_error(libc::EOVERFLOW));
    Ok(libc::flock {
        l_type: libc::c_short::try_from(kind).unwrap_or_default(),
        l_whence: libc::c_short::try_from(libc::SEEK_SET).unwrap_or_default(),
        l_start: libc::off_t::try_from(bytes.start).map_err(too_far)?,
        l_len: libc::off_t::try_from(bytes.len).map_err(too_far)?,
        // The kernel answers EINVAL to anything else.
        l_pid: 0,
    })
}

fn fcntl(fd: BorrowedFd<'_>, command: libc::c_int, lock: &mut libc::flock) -> io::Result<()> {
    // SAFETY: the descriptor is open for the length of the borrow; the commands used here (F_OFD_GETLK, F_OFD_SETLK)
    // read and write one `struct flock`, which `lock` points to and nobody else has.
    let answer = unsafe { libc::fcntl(fd.as_raw_fd(), command, std::ptr::from_mut(lock)) };
    if answer == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use rustix::fs::{FlockOperation, fcntl_lock};

    use super::super::facts::FileFacts;
    use super::super::lock_table::{LockKind, LockTable};
    use super::super::mounts::Mounts;
    use super::*;

    fn open(path: &std::path::Path) -> OwnedFd {
        File::options().read(true).write(true).open(path).unwrap().into()
    }

    #[test]
    fn an_exclusive_lock_keeps_a_second_out_until_it_is_dropped() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let first = OfdLock::exclusive(open(file.path()), Bytes::ALL).unwrap();
        let second = OfdLock::exclusive(open(file.path()), Bytes::ALL);
        assert!(matches!(second, Err(HostError::LockHeld(Conflict { pid: None, mode: LockMode::Write, .. }))));
        drop(first);
        OfdLock::exclusive(open(file.path()), Bytes::ALL).unwrap();
    }

    #[test]
    fn shared_locks_stand_side_by_side_and_apart_from_other_bytes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let _one = OfdLock::shared(open(file.path()), Bytes::new(100, 10)).unwrap();
        let _two = OfdLock::shared(open(file.path()), Bytes::new(105, 10)).unwrap();
        let _apart = OfdLock::exclusive(open(file.path()), Bytes::new(115, 1)).unwrap();
        assert!(OfdLock::exclusive(open(file.path()), Bytes::new(109, 1)).is_err());
        let free = ask_lock(open(file.path()), Bytes::new(0, 100), LockMode::Write).unwrap();
        assert_eq!(free, None);
    }

    #[test]
    fn a_posix_lock_is_seen_with_its_process_by_the_kernel_and_in_proc_locks() {
        // This process takes it; to an open file description it is somebody else's all the same.
        let file = tempfile::NamedTempFile::new().unwrap();
        fcntl_lock(file.as_file(), FlockOperation::NonBlockingLockExclusive).unwrap();
        let me = i32::try_from(std::process::id()).unwrap();

        let facts = FileFacts::of_fd(file.as_file()).unwrap();
        let device = Mounts::read().unwrap().lock_device(&facts, file.path());
        let table = LockTable::read().unwrap();
        let [lock] = table.of(device, facts.id.ino) else { panic!("{:?}", table.of(device, facts.id.ino)) };
        assert_eq!((lock.kind, lock.mode, lock.pid), (LockKind::Posix, LockMode::Write, Some(me)));

        let asking = open(file.path());
        let conflict = ask_lock(&asking, Bytes::new(1_073_741_826, 510), LockMode::Read).unwrap().unwrap();
        assert_eq!((conflict.pid, conflict.mode, conflict.end), (Some(me), LockMode::Write, u64::MAX));
        assert!(conflict.to_string().contains(&me.to_string()));
    }
}
