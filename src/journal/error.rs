//! What can go wrong with the journal, in words that say what to do.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::replay::Illegal;
use crate::model::IncidentId;

/// An operation of the journal that failed.
#[derive(Debug, Error)]
pub enum JournalError {
    /// A folder of the state directory could not be made or made durable.
    #[error("cannot make the folder {path}: {source}; nothing is healed while intents cannot be made durable")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A log could not be created.
    #[error("cannot create the incident log {path}: {source}; nothing is healed while intents cannot be made durable")]
    Create {
        /// The log.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A log entry could not be made durable.
    #[error("cannot make an entry of {path} durable: {source}")]
    Append {
        /// The log.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A log could not be read.
    #[error("cannot read the incident log {path}: {source}")]
    Read {
        /// The log.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The end of a log that a crash tore could not be cut off.
    #[error("cannot cut the torn end off the incident log {path}: {source}")]
    Cut {
        /// The log.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A small document could not be made durable.
    #[error("cannot make {path} durable: {source}; free space on that file system")]
    Keep {
        /// The document.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A small document cannot be read.
    #[error("cannot read {path}: {reason}")]
    Kept {
        /// The document.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// An entry could not be put into words.
    #[error("cannot encode a journal entry: {0}")]
    Encode(serde_json::Error),
    /// The entry cannot follow what the log already says: a bug, said aloud.
    #[error(transparent)]
    Illegal(#[from] Illegal),
    /// No log of that name.
    #[error("there is no log of incident {0}")]
    Unknown(IncidentId),
    /// The index could not be read or written; the logs are not affected.
    #[error("cannot {what} in the index {path}: {reason}; it is rebuilt from the incident folders at the next start")]
    Index {
        /// What was tried.
        what: &'static str,
        /// The database.
        path: PathBuf,
        /// SQLite's answer.
        reason: String,
    },
    /// An expired folder could not be removed.
    #[error("cannot remove expired evidence in {path}: {source}")]
    Expire {
        /// The folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// No room for more evidence within what the configuration allows.
    #[error(
        "the evidence in {path} takes {total} bytes, {needed} more are needed, and `evidence.max` is {max}{}. Raise `evidence.max` in \
         [guardian], reload, and heal it again",
        what_stays(*.total)
    )]
    EvidenceFull {
        /// Bytes to be added.
        needed: u64,
        /// Bytes that are kept now.
        total: u64,
        /// Bytes that may be kept.
        max: u64,
        /// The folder of all incidents.
        path: PathBuf,
    },
    /// The journal's thread has ended.
    #[error("the journal's thread has ended; restart guardiand")]
    Gone,
}

/// Whose evidence was not deleted to make room, where there is any.
fn what_stays(total: u64) -> &'static str {
    match total {
        0 => ": this heal alone needs more than that",
        _ => ": what is left of it is of open incidents and of the last heals that lost rows",
    }
}
