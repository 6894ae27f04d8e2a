//! Copying the bytes of one open file to another, by the cheapest way the file system has, durably.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{copy_file_range, fstat, fsync, ioctl_ficlone};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::error::HostError;

/// How a copy was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyMethod {
    /// Shared blocks: constant time, and one instant's content (`ioctl_ficlone(2)`).
    Reflink,
    /// Inside the kernel (`copy_file_range(2)`).
    Kernel,
    /// Read and written.
    ReadWrite,
}

/// What a copy came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copied {
    /// Bytes in the copy.
    pub bytes: u64,
    /// How it was made.
    pub method: CopyMethod,
}

/// Most that one call copies: a worker's deadline can only fall between two.
const CHUNK_BYTES: usize = 64 << 20;
/// One buffer of the last resort.
const BUFFER_BYTES: usize = 1 << 20;

/// Copies all bytes that `source` has *now* into `target`, an empty file, and syncs it.
///
/// Bytes appended meanwhile are left out, so a busy writer cannot keep it going; a source that shrinks ends it early:
/// compare [`Copied::bytes`]. Only a reflink is one instant's content: hold SQLite's locks for the others.
///
/// # Errors
/// [`HostError::Copy`]; `target` is incomplete then.
pub fn copy_file(source: impl AsFd, target: impl AsFd) -> Result<Copied, HostError> {
    let (source, target) = (source.as_fd(), target.as_fd());
    let copied = match ioctl_ficlone(target, source) {
        Ok(()) => Copied { bytes: size("fstat", target)?, method: CopyMethod::Reflink },
        // Any refusal only means that it is not possible here: EOPNOTSUPP, EXDEV, EINVAL, ENOTTY…
        Err(_) => copy_bytes(source, target)?,
    };
    // A reflink's extents and an extended size are metadata: fdatasync covers the size, fsync both.
    fsync(target).map_err(failed("fsync", copied.bytes))?;
    Ok(copied)
}

fn copy_bytes(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<Copied, HostError> {
    let size = size("fstat", source)?;
    let mut done = 0_u64;
    while done < size {
        let (mut from, mut to) = (done, done);
        let chunk = CHUNK_BYTES.min(usize::try_from(size - done).unwrap_or(CHUNK_BYTES));
        match copy_file_range(source, Some(&mut from), target, Some(&mut to), chunk) {
            Ok(0) => break,
            Ok(bytes) => done += u64::try_from(bytes).unwrap_or(0),
            Err(Errno::INTR) => {}
            Err(errno) if done == 0 && errno != Errno::NOSPC && errno != Errno::IO => break,
            Err(errno) => return Err(failed("copy_file_range", done)(errno)),
        }
    }
    if done > 0 || size == 0 {
        return Ok(Copied { bytes: done, method: CopyMethod::Kernel });
    }
    read_and_write(source, target, size)
}

fn read_and_write(source: BorrowedFd<'_>, target: BorrowedFd<'_>, size: u64) -> Result<Copied, HostError> {
    let mut buffer = vec![0_u8; BUFFER_BYTES];
    let mut done = 0_u64;
    while done < size {
        let want = BUFFER_BYTES.min(usize::try_from(size - done).unwrap_or(BUFFER_BYTES));
        let window = buffer.get_mut(..want).unwrap_or_default();
        let read = match rustix::io::pread(source, &mut *window, done) {
            Ok(0) => break,
            Ok(read) => read,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(failed("read", done)(errno)),
        };
        let mut rest = window.get(..read).unwrap_or_default();
        while !rest.is_empty() {
            match rustix::io::pwrite(target, rest, done) {
                Ok(0) => return Err(failed("write", done)(Errno::IO)),
                Ok(written) => {
                    done += u64::try_from(written).unwrap_or(0);
                    rest = rest.get(written..).unwrap_or_default();
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(failed("write", done)(errno)),
            }
        }
    }
    Ok(Copied { bytes: done, method: CopyMethod::ReadWrite })
}

fn size(step: &'static str, fd: BorrowedFd<'_>) -> Result<u64, HostError> {
    let stat = fstat(fd).map_err(failed(step, 0))?;
    Ok(u64::try_from(stat.st_size).unwrap_or(0))
}

fn failed(step: &'static str, copied: u64) -> impl FnOnce(Errno) -> HostError {
    move |errno| HostError::Copy { step, copied, source: io::Error::from(errno) }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use super::*;

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|index| u8::try_from(index * 31 % 251).unwrap()).collect()
    }

    #[test]
    fn a_copy_has_every_byte_whatever_the_size() {
        let dir = tempfile::tempdir().unwrap();
        for len in [0, 1, 4096, 3 * BUFFER_BYTES + 17] {
            let (from, to) = (dir.path().join("from"), dir.path().join(format!("to-{len}")));
            std::fs::write(&from, bytes(len)).unwrap();
            let copied = copy_file(File::open(&from).unwrap(), File::create(&to).unwrap()).unwrap();
            assert_eq!(copied.bytes, len as u64);
            assert_eq!(std::fs::read(&to).unwrap(), bytes(len));
        }
    }

    #[test]
    fn the_last_resort_copies_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let content = bytes(2 * BUFFER_BYTES + 5);
        std::fs::write(&from, &content).unwrap();
        let (source, target) = (File::open(&from).unwrap(), File::create(&to).unwrap());
        let copied = read_and_write(source.as_fd(), target.as_fd(), content.len() as u64 + 100).unwrap();
        assert_eq!(copied, Copied { bytes: content.len() as u64, method: CopyMethod::ReadWrite });
        assert_eq!(std::fs::read(&to).unwrap(), content);
    }

    #[test]
    fn a_full_disk_is_an_error_that_says_so() {
        let mut source = tempfile::tempfile().unwrap();
        source.write_all(b"data").unwrap();
        let full = File::options().write(true).open("/dev/full").unwrap();
        let error = copy_file(&source, &full).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::NOSPC), "{error}");
    }
}
