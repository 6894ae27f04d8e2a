//! The wire of the seam: one JSON document a line, in both directions, no line longer than [`MAX_LINE`].

use std::io::{self, BufRead, Read, Write};

use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

/// The longest line that either side reads, in bytes: a schema or a listing of ten thousand matches fits many times.
pub const MAX_LINE: usize = 16 * 1024 * 1024;

/// Why a line could not be used.
#[derive(Debug, Error)]
pub enum LineError {
    /// The pipe failed.
    #[error("the pipe between guardiand and its worker failed: {0}")]
    Pipe(#[from] io::Error),
    /// No end of line within [`MAX_LINE`].
    #[error("a line of more than {MAX_LINE} bytes, which begins: {0}")]
    TooLong(String),
    /// The last line has no end: its writer died while it wrote.
    #[error("a line without an end: {0}")]
    Torn(String),
    /// Not what was expected.
    #[error("not a line of the protocol ({error}): {line}")]
    Garbage {
        /// Its beginning.
        line: String,
        /// What the parser said.
        error: serde_json::Error,
    },
}

/// The beginning of `line`, for a message.
fn beginning(line: &[u8]) -> String {
    String::from_utf8_lossy(&line[..line.len().min(200)]).trim_end().to_owned()
}

/// The value in `line`, which was read up to and with its end.
///
/// # Errors
/// [`LineError::TooLong`], [`LineError::Torn`] or [`LineError::Garbage`].
pub fn decode<T: DeserializeOwned>(line: &[u8]) -> Result<T, LineError> {
    if line.last() != Some(&b'\n') {
        let beginning = beginning(line);
        return Err(if line.len() > MAX_LINE { LineError::TooLong(beginning) } else { LineError::Torn(beginning) });
    }
    serde_json::from_slice(line).map_err(|error| LineError::Garbage { line: beginning(line), error })
}

/// `value` as one line with its end.
///
/// # Errors
/// When it cannot be serialized (a path that is not UTF-8), or is too long to be read again.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, LineError> {
    let mut line = serde_json::to_vec(value).map_err(|error| LineError::Garbage { line: String::new(), error })?;
    line.push(b'\n');
    if line.len() > MAX_LINE { Err(LineError::TooLong(beginning(&line))) } else { Ok(line) }
}

/// Reads the next value; `None` at the end.
///
/// # Errors
/// As [`decode`], and when the pipe fails.
pub fn read<T: DeserializeOwned>(from: &mut impl BufRead) -> Result<Option<T>, LineError> {
    let mut line = Vec::new();
    from.take(MAX_LINE as u64 + 1).read_until(b'\n', &mut line)?;
    if line.is_empty() { Ok(None) } else { decode(&line).map(Some) }
}

/// Writes `value` and flushes it.
///
/// # Errors
/// As [`encode`], and when the pipe fails.
pub fn write<T: Serialize>(to: &mut impl Write, value: &T) -> Result<(), LineError> {
    to.write_all(&encode(value)?)?;
    Ok(to.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_and_then_comes_the_end() {
        let mut pipe = Vec::new();
        write(&mut pipe, &"a\nb").unwrap();
        write(&mut pipe, &"c").unwrap();
        let mut from = pipe.as_slice();
        assert_eq!(read::<String>(&mut from).unwrap().as_deref(), Some("a\nb"));
        assert_eq!(read::<String>(&mut from).unwrap().as_deref(), Some("c"));
        assert!(read::<String>(&mut from).unwrap().is_none());
    }

    #[test]
    fn a_line_that_its_writer_did_not_finish_is_never_taken_for_a_value() {
        assert!(matches!(read::<u32>(&mut b"12".as_slice()), Err(LineError::Torn(_))));
    }

    #[test]
    fn garbage_is_quoted() {
        let error = read::<u32>(&mut b"hello\n".as_slice()).unwrap_err();
        assert!(error.to_string().contains("hello"), "{error}");
    }

    #[test]
    fn a_line_without_bound_is_refused_without_reading_it_all() {
        let mut endless = io::BufReader::new(io::repeat(b'x'));
        assert!(matches!(read::<u32>(&mut endless), Err(LineError::TooLong(_))));
    }
}
