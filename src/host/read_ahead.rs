//! Reading a file into the page cache in order, before somebody reads it out of order.
//!
//! A check of a cold database walks its b-trees, which lie scattered: read ahead in order first, and it is six to
//! fifteen times faster (SQLITE.md, rule 12 and section 6).

use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

use rustix::fs::{Advice, fadvise};
use serde::{Deserialize, Serialize};

/// Size of one read: 1 MiB, at which the disk's own limit was reached (BASELINES.md, section 1).
const CHUNK_BYTES: usize = 1 << 20;

/// How far a read-ahead came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadAhead {
    /// Bytes that were read.
    pub bytes: u64,
    /// Whether the end of the file was reached, within `max_bytes` and before the deadline.
    pub complete: bool,
}

/// Reads a file in order, up to `max_bytes` and until `deadline`, and keeps nothing but the kernel's cache.
///
/// # Errors
/// That of the read which failed: a bad sector shows here as `EIO`.
pub fn read_ahead(fd: impl AsFd, max_bytes: u64, deadline: Instant) -> io::Result<ReadAhead> {
    let fd = fd.as_fd();
    // Doubles the kernel's own read-ahead; a file system that does not know it may refuse.
    let _only_a_hint = fadvise(fd, 0, None, Advice::Sequential);
    let mut buffer = vec![0_u8; CHUNK_BYTES];
    let mut bytes = 0_u64;
    while bytes < max_bytes && Instant::now() < deadline {
        match rustix::io::pread(fd, buffer.as_mut_slice(), bytes) {
            Ok(0) => return Ok(ReadAhead { bytes, complete: true }),
            Ok(read) => bytes += u64::try_from(read).unwrap_or(0),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(ReadAhead { bytes, complete: false })
}

/// Lets the kernel drop a file's clean pages from its cache, so that reading a backup does not push out the program's
/// own working set. A wish that may be refused.
pub fn forget_cached(fd: impl AsFd) {
    let _only_a_hint = fadvise(fd, 0, None, Advice::DontNeed);
}

/// The kernel caches in pieces of up to so many bytes, each at a multiple of its size, and lets only whole ones go.
const PIECE_BYTES: u64 = 2 << 20;

/// The same for the pieces that some bytes are in, so that they are read from the disk next: what is mapped or not written yet
/// stays.
pub fn forget_cached_range(fd: impl AsFd, offset: u64, length: u64) {
    let first = offset / PIECE_BYTES * PIECE_BYTES;
    let end = offset.saturating_add(length).div_ceil(PIECE_BYTES).saturating_mul(PIECE_BYTES);
    if let Some(length) = std::num::NonZeroU64::new(end.saturating_sub(first)).filter(|_| length > 0) {
        let _only_a_hint = fadvise(fd, first, Some(length), Advice::DontNeed);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::Duration;

    use rustix::io::{Errno, ReadWriteFlags, preadv2};

    use super::*;

    #[test]
    fn it_reads_to_the_end_or_to_its_bounds() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let size = 3 * (CHUNK_BYTES as u64) + 17;
        file.as_file().set_len(size).unwrap();
        let later = Instant::now() + Duration::from_secs(600);
        let open = || File::open(file.path()).unwrap();
        assert_eq!(read_ahead(open(), u64::MAX, later).unwrap(), ReadAhead { bytes: size, complete: true });
        let bounded = read_ahead(open(), 2 * CHUNK_BYTES as u64, later).unwrap();
        assert_eq!(bounded, ReadAhead { bytes: 2 * CHUNK_BYTES as u64, complete: false });
        let late = read_ahead(open(), u64::MAX, Instant::now()).unwrap();
        assert_eq!(late, ReadAhead { bytes: 0, complete: false });
        forget_cached(open());
    }

    #[test]
    fn what_is_forgotten_is_read_from_the_disk_again_and_nothing_else_is() {
        // Beside the sources: /tmp may be memory, which forgets nothing.
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = dir.path().join("pages");
        std::fs::write(&path, vec![7_u8; 2048 * 4096]).unwrap();
        let file = File::open(&path).unwrap();
        file.sync_all().unwrap();
        // The cache's alone, or EAGAIN.
        let cached = |page: u64| {
            let mut byte = [0_u8];
            let mut buffers = [std::io::IoSliceMut::new(&mut byte)];
            preadv2(&file, &mut buffers, page * 4096, ReadWriteFlags::NOWAIT).map(|_| ())
        };
        if cached(3).is_err() {
            return println!("skipped: this file system does not tell what it has cached");
        }
        forget_cached_range(&file, 600 * 4096, 8 * 4096);
        let gone: Vec<u64> = (0..2048).filter(|page| cached(*page) == Err(Errno::AGAIN)).collect();
        assert!((600..608).all(|page| gone.contains(&page)), "{gone:?}");
        assert!(gone.iter().all(|page| (512..1024).contains(page)), "{gone:?}");
    }
}
