//! Reading /proc as bytes: the two lines that every reader of it needs.
//!
//! Parsed by hand rather than through a crate, because one odd line (a mount point that is not UTF-8, a field of a
//! newer kernel) must not cost all the others.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use super::error::{HostError, at};

/// As much as one read of a file under /proc fills at most, and some more: its size says nothing (it is 0), and in small
/// pieces a table that changes meanwhile shows an entry twice, or not at all.
const AT_ONCE: usize = 16 * 1024;

/// A file under /proc as bytes.
pub(super) fn bytes(path: &Path) -> Result<Vec<u8>, HostError> {
    let mut bytes = Vec::with_capacity(AT_ONCE);
    let read = File::open(path).and_then(|mut file| file.read_to_end(&mut bytes));
    read.map(|_| bytes).map_err(at(path, HostError::read_proc))
}

/// A file under /proc as text; bytes that are no UTF-8 are replaced.
pub(super) fn text(path: &Path) -> Result<String, HostError> {
    let bytes = bytes(path)?;
    Ok(String::from_utf8(bytes).unwrap_or_else(|odd| String::from_utf8_lossy(odd.as_bytes()).into_owned()))
}

/// Every process there is, by its number; none where they cannot be listed.
pub(super) fn pids() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The value after `key:` in a file like `/proc/PID/status`.
pub(super) fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).map(str::trim)
}
