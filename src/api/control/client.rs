//! The asking side, for the command line: blocking, without a runtime.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use super::{ControlReply, ControlRequest, LINE_BYTES_MAX};

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum AskError {
    /// Nobody listens.
    #[error("no guardiand answers on {path}: {source}. Is it running, with this `control` socket?")]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// What connecting said.
        source: std::io::Error,
    },
    /// Somebody listens, but this user may not ask.
    #[error("{path} may not be used by this user: {source}. Ask as root, or as a member of the socket's group")]
    NotAllowed {
        /// The socket.
        path: PathBuf,
        /// What connecting said.
        source: std::io::Error,
    },
    /// The connection broke before the answer was complete, or it took too long.
    #[error("guardiand on {path} did not answer: {source}")]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What reading or writing said.
        source: std::io::Error,
    },
    /// The answer is not of this protocol.
    #[error("guardiand on {path} answered what this version does not understand: {source}")]
    Strange {
        /// The socket.
        path: PathBuf,
        /// What reading it said.
        source: serde_json::Error,
    },
}

/// Asks, and waits for the answer; for at most `patience`, where it is given.
///
/// # Errors
/// [`AskError::NotRunning`] when nobody listens, and the others where an answer cannot be had.
pub fn ask(path: &Path, request: &ControlRequest, patience: Option<Duration>) -> Result<ControlReply, AskError> {
    let owned = || path.to_path_buf();
    let broken = |source| AskError::Broken { path: owned(), source };
    let strange = |source| AskError::Strange { path: owned(), source };
    let mut stream = UnixStream::connect(path).map_err(|source| match source.kind() {
        ErrorKind::PermissionDenied => AskError::NotAllowed { path: owned(), source },
        _ => AskError::NotRunning { path: owned(), source },
    })?;
    stream.set_read_timeout(patience).map_err(broken)?;
    let mut line = serde_json::to_vec(request).map_err(strange)?;
    line.push(b'\n');
    stream.write_all(&line).map_err(broken)?;
    let mut answer = String::new();
    BufReader::new(stream).take(LINE_BYTES_MAX).read_line(&mut answer).map_err(broken)?;
    if answer.is_empty() {
        return Err(broken(ErrorKind::UnexpectedEof.into()));
    }
    serde_json::from_str(&answer).map_err(strange)
}
