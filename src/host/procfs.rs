//! Reading /proc as bytes: the two lines that every reader of it needs.
//!
//! Parsed by hand rather than through a crate, because one odd line (a mount point that is not UTF-8, a field of a
//! newer kernel) must not cost all the others.

use std::path::Path;

use super::error::{HostError, at};

/// A file under /proc as bytes.
pub(super) fn bytes(path: &Path) -> Result<Vec<u8>, HostError> {
    std::fs::read(path).map_err(at(path, HostError::read_proc))
}

/// A file under /proc as text; bytes that are no UTF-8 are replaced.
pub(super) fn text(path: &Path) -> Result<String, HostError> {
    Ok(String::from_utf8_lossy(&bytes(path)?).into_owned())
}

/// The value after `key:` in a file like `/proc/PID/status`.
pub(super) fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).map(str::trim)
}
