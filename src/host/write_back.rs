#![allow(unsafe_code)] // sync_file_range(2) alone: rustix does not offer it.
//! Writing a large file to disk without holding up those who write beside it.
//!
//! An fsync(2) of a program makes ext4 and XFS commit their journal, and that waits for what others have newly written in the same
//! transaction. A gigabyte that is synced in one go thus keeps every commit on the same file system waiting until all of it is on the
//! disk. In windows, with a rest after each, a commit waits for one window at most.

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

/// Bytes that are on their way to the disk at once: a few milliseconds of an SSD's, a tenth of a second of a slow one's.
pub const WINDOW_BYTES: u64 = 8 << 20;

/// A rest is so many times as long as the window before it took: two thirds of the disk are left to the program.
const REST: u32 = 2;

/// The longest rest after a window.
const LONGEST_REST: Duration = Duration::from_millis(250);

/// Has `range` of `file` written to the disk, as far as it is not there yet, and then rests for twice as long as that took. Says nothing of
/// the file's durability: an fsync(2) is due all the same, and has little left to do.
pub fn write_back_window(file: &File, range: Range<u64>) {
    let began = Instant::now();
    let (Ok(from), Ok(length)) = (i64::try_from(range.start), i64::try_from(range.end.saturating_sub(range.start)))
    else {
        return;
    };
    let all = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: a system call on a descriptor that is open for as long as `file` is borrowed; it takes numbers, and no memory.
    let answer = unsafe { libc::sync_file_range(file.as_raw_fd(), from, length, all) };
    // A file system that cannot (ESPIPE, ENOSYS) has its fsync still, and an error of the disk is reported there too.
    if answer == 0 {
        std::thread::sleep((began.elapsed() * REST).min(LONGEST_REST));
    }
}

/// All of `file`, window by window.
///
/// # Errors
/// When its size cannot be asked for.
pub fn write_back(file: &File) -> std::io::Result<()> {
    let size = file.metadata()?.len();
    let mut at = 0;
    while at < size {
        let end = size.min(at.saturating_add(WINDOW_BYTES));
        write_back_window(file, at..end);
        at = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_back_is_what_was_written() {
        let file = tempfile::tempfile().unwrap();
        let content = vec![7; WINDOW_BYTES as usize + 4097];
        std::os::unix::fs::FileExt::write_all_at(&file, &content, 0).unwrap();
        write_back(&file).unwrap();
        file.sync_all().unwrap();
        let mut read = vec![0; content.len()];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut read, 0).unwrap();
        assert_eq!(read, content);
    }
}
