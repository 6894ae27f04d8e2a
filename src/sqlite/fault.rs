#![allow(unsafe_code)] // sqlite3_system_errno alone: rusqlite does not offer it.
//! What an error of SQLite's means for a detector: corrupt, busy, out of space, or none of the file's fault.

use crate::model::FaultClass;
use rusqlite::{Connection, Error, ffi};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// An error of SQLite's, as a value that travels between processes.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
#[error("{operation}: {message} (SQLite code {code}{})", errno.map(|errno| format!(", errno {errno}")).unwrap_or_default())]
pub struct SqliteFault {
    /// What was tried, and on what.
    pub operation: String,
    /// The extended result code; 0 when the error is not SQLite's but about its answer.
    pub code: i32,
    /// SQLite's words.
    pub message: String,
    /// The system's error behind it, where SQLite kept one.
    pub errno: Option<i32>,
    /// What it means.
    pub class: FaultClass,
}

// The values of Linux's errno.h that decide a class.
const EPERM: i32 = 1;
const EACCES: i32 = 13;
const ENOSPC: i32 = 28;
const EDQUOT: i32 = 122;

impl SqliteFault {
    /// The fault that `error` is, with the system's error that `connection` remembers.
    pub(super) fn new(operation: impl Into<String>, error: &Error, connection: Option<&Connection>) -> SqliteFault {
        let code = match error {
            Error::SqliteFailure(failure, _) => failure.extended_code,
            Error::SqlInputError { error, .. } => error.extended_code,
            _ => 0,
        };
        let message = match error {
            Error::SqliteFailure(_, Some(message)) => message.clone(),
            Error::SqlInputError { msg, .. } => msg.clone(),
            other => other.to_string(),
        };
        let errno = connection.and_then(|connection| system_errno(connection, code));
        SqliteFault { operation: operation.into(), code, message, errno, class: FaultClass::of(code, errno) }
    }

    /// A fault that SQLite did not report as one.
    pub(super) fn other(operation: impl Into<String>, class: FaultClass, message: impl Into<String>) -> SqliteFault {
        SqliteFault { operation: operation.into(), code: 0, message: message.into(), errno: None, class }
    }

    /// True when SQLite could not read the schema's text: CORRUPT by code, and yet perhaps a newer syntax over clean
    /// pages (rule 20).
    pub fn is_malformed_schema(&self) -> bool {
        self.code & 0xff == ffi::SQLITE_CORRUPT && self.message.starts_with("malformed database schema")
    }

    /// True when the code speaks of damaged bytes.
    pub fn is_corruption(&self) -> bool {
        matches!(self.class, FaultClass::Corrupt | FaultClass::NotADatabase)
    }
}

impl From<Error> for SqliteFault {
    fn from(error: Error) -> SqliteFault {
        SqliteFault::new("running SQL", &error, None)
    }
}

impl FaultClass {
    /// The class of an extended result code and the system error behind it.
    pub fn of(code: i32, errno: Option<i32>) -> FaultClass {
        match code {
            ffi::SQLITE_IOERR_NOMEM => return FaultClass::NoMemory,
            // Quotas and full disks arrive as plain write errors (rule 23).
            _ if code & 0xff == ffi::SQLITE_IOERR && matches!(errno, Some(ENOSPC | EDQUOT)) => return FaultClass::Full,
            _ => {}
        }
        match code & 0xff {
            ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED | ffi::SQLITE_PROTOCOL => FaultClass::Busy,
            ffi::SQLITE_NOTADB => FaultClass::NotADatabase,
            ffi::SQLITE_CORRUPT => FaultClass::Corrupt,
            ffi::SQLITE_CANTOPEN if matches!(errno, Some(EACCES | EPERM)) => FaultClass::Permission,
            ffi::SQLITE_CANTOPEN => FaultClass::CannotOpen,
            ffi::SQLITE_READONLY => FaultClass::ReadOnly,
            ffi::SQLITE_FULL => FaultClass::Full,
            ffi::SQLITE_IOERR => FaultClass::Io,
            ffi::SQLITE_NOMEM => FaultClass::NoMemory,
            ffi::SQLITE_ERROR | ffi::SQLITE_SCHEMA => FaultClass::Schema,
            ffi::SQLITE_INTERRUPT => FaultClass::Interrupted,
            ffi::SQLITE_PERM | ffi::SQLITE_AUTH => FaultClass::Permission,
            ffi::SQLITE_CONSTRAINT => FaultClass::Constraint,
            _ => FaultClass::Other,
        }
    }
}

/// The system's error of the last failure, kept by SQLite for the codes that come from the system.
fn system_errno(connection: &Connection, code: i32) -> Option<i32> {
    let from_system =
        [ffi::SQLITE_IOERR, ffi::SQLITE_CANTOPEN, ffi::SQLITE_FULL, ffi::SQLITE_READONLY, ffi::SQLITE_PERM];
    if !from_system.contains(&(code & 0xff)) {
        return None;
    }
    // SAFETY: the handle is that of a live connection, borrowed for the call; the function only reads a field of it.
    let errno = unsafe { ffi::sqlite3_system_errno(connection.handle()) };
    (errno != 0).then_some(errno)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_that_a_detector_acts_on_has_its_class() {
        let table = [
            (5, None, FaultClass::Busy),
            (517, None, FaultClass::Busy),
            (26, None, FaultClass::NotADatabase),
            (11, None, FaultClass::Corrupt),
            (267, None, FaultClass::Corrupt),
            (14, None, FaultClass::CannotOpen),
            (14, Some(EACCES), FaultClass::Permission),
            (1032, None, FaultClass::ReadOnly),
            (13, None, FaultClass::Full),
            (778, None, FaultClass::Io),
            (778, Some(EDQUOT), FaultClass::Full),
            (778, Some(ENOSPC), FaultClass::Full),
            (778, Some(5), FaultClass::Io),
            (3082, None, FaultClass::NoMemory),
            (7, None, FaultClass::NoMemory),
            (1, None, FaultClass::Schema),
            (257, None, FaultClass::Schema),
            (9, None, FaultClass::Interrupted),
            (2067, None, FaultClass::Constraint),
        ];
        for (code, errno, class) in table {
            assert_eq!(FaultClass::of(code, errno), class, "{code} {errno:?}");
        }
    }

    #[test]
    fn a_fault_survives_the_way_between_processes() {
        let fault = SqliteFault::other("checking /a b.db", FaultClass::Busy, "it is locked");
        let line = serde_json::to_string(&fault).unwrap();
        assert_eq!(serde_json::from_str::<SqliteFault>(&line).unwrap(), fault);
    }
}
