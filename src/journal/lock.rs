//! One daemon per state directory: two of them would heal the same database at the same time.

use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::ledger::make_folder;
use crate::host::{Bytes, HostError, OfdLock};

/// Held for as long as the daemon lives; the kernel lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub struct StateLock {
    _lock: OfdLock,
}

/// Why the state directory is not ours.
#[derive(Debug, Error)]
pub enum StateLockError {
    /// Another daemon has it.
    #[error("{}{path} is in use by another guardiand: stop that one, or give this one a `state_dir` of its own", pid.map(|pid| format!("process {pid}: ")).unwrap_or_default())]
    Held {
        /// The lock's file.
        path: PathBuf,
        /// Its process, if it wrote it down.
        pid: Option<i32>,
    },
    /// The lock's file cannot be made.
    #[error("cannot open the lock {path}: {source}; is `state_dir` writable?")]
    Open {
        /// The lock's file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The kernel refused.
    #[error("cannot lock {path}: {source}")]
    Lock {
        /// The lock's file.
        path: PathBuf,
        /// The host's answer.
        source: HostError,
    },
}

impl StateLock {
    /// Takes the state directory for this process, without waiting. The folder is made 0700 when missing.
    ///
    /// # Errors
    /// [`StateLockError::Held`] when another daemon has it.
    pub fn acquire(state_dir: &Path) -> Result<StateLock, StateLockError> {
        let path = state_dir.join("lock");
        let failed = |source| StateLockError::Open { path: path.clone(), source };
        if let Err(error) = make_folder(state_dir) {
            return Err(failed(io::Error::other(error)));
        }
        let nofollow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(nofollow);
        let mut file = options.open(&path).map_err(failed)?;
        let duplicate: OwnedFd = file.try_clone().map_err(failed)?.into();
        match OfdLock::exclusive(duplicate, Bytes::ALL) {
            Ok(lock) => {
                // For the other daemon's message alone; the lock is what counts, so a full disk is no obstacle.
                let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
                Ok(StateLock { _lock: lock })
            }
            Err(HostError::LockHeld(_)) => {
                let mut text = String::new();
                let _ = file.read_to_string(&mut text);
                Err(StateLockError::Held { path, pid: text.trim().parse().ok() })
            }
            Err(source) => Err(StateLockError::Lock { path, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_directory_has_one_daemon_and_it_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let first = StateLock::acquire(&state).unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        match StateLock::acquire(&state) {
            Err(StateLockError::Held { pid, .. }) => assert_eq!(pid, Some(own)),
            other => panic!("{other:?}"),
        }
        drop(first);
        StateLock::acquire(&state).unwrap();
    }
}
