//! Reading from an offset of an open file, as far as the file goes, and by how many threads.

use std::fs::File;
use std::io;
use std::num::NonZero;
use std::os::unix::fs::FileExt as _;

/// Threads to read and look at pages with. More than these wait for memory.
#[must_use]
pub fn page_threads() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get).min(4)
}

/// What the file has from `at` on, and zeros behind its end.
///
/// # Errors
/// The system's.
pub fn fill(file: &File, at: u64, bytes: &mut [u8]) -> io::Result<()> {
    let length = read_up_to(file, at, bytes)?;
    if let Some(rest) = bytes.get_mut(length..) {
        rest.fill(0);
    }
    Ok(())
}

/// Fills as much of `bytes` as the file has from `at` on; so many bytes.
///
/// # Errors
/// The system's.
pub fn read_up_to(file: &File, at: u64, bytes: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < bytes.len() {
        match file.read_at(&mut bytes[length..], at + length as u64) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}
