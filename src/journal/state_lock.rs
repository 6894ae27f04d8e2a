//! One guardiand per state directory.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use crate::host::{Bytes, HostError, OfdLock, ProcessFacts};

/// How often a lock that a dead process seems to hold is asked for; with the pause, a second.
const TRIES: u32 = 40;
const BETWEEN_TRIES: Duration = Duration::from_millis(25);

/// Why a state directory cannot be had.
#[derive(Debug, Error)]
pub enum StateError {
    /// Another guardiand has it.
    #[error("another guardiand ({who}) uses the state directory {dir}: stop it, or give this one another `state_dir`")]
    Held {
        /// The directory.
        dir: PathBuf,
        /// Its pid, as it wrote it down.
        who: String,
        /// The same as a number.
        pid: Option<i32>,
    },
    /// It cannot be used.
    #[error("cannot use the state directory {dir}: {source}; it must be writable for the user that guardiand runs as")]
    Unusable {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The lock itself failed.
    #[error("cannot lock the state directory {dir}: {source}")]
    Lock {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: HostError,
    },
}

/// Holds a state directory until it is dropped, or the process dies: an open-file-description lock cannot go stale.
#[derive(Debug)]
pub struct StateLock {
    _lock: OfdLock,
    file: std::fs::File,
}

impl StateLock {
    /// Takes `dir`, making it when it is not there. A holder that was killed in the instant of starting a child lives on in
    /// that child until it has become the worker (the descriptor closes at exec), so what a dead process holds is waited for.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn acquire(dir: &Path) -> Result<StateLock, StateError> {
        for _ in 1..TRIES {
            match StateLock::try_acquire(dir) {
                Err(StateError::Held { pid, .. }) if pid.is_some_and(is_dead) => std::thread::sleep(BETWEEN_TRIES),
                answer => return answer,
            }
        }
        StateLock::try_acquire(dir)
    }

    fn try_acquire(dir: &Path) -> Result<StateLock, StateError> {
        let unusable = |source| StateError::Unusable { dir: dir.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(unusable)?;
        let path = dir.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(unusable)?;
        let shared = file.try_clone().map_err(unusable)?;
        match OfdLock::exclusive(shared.into(), Bytes::ALL) {
            Ok(lock) => {
                // For people, and for the message of the next one who asks; the lock does not depend on it.
                let written = file.set_len(0).and_then(|()| file.write_all(std::process::id().to_string().as_bytes()));
                if let Err(error) = written {
                    tracing::debug!(%error, "the pid could not be written into the lock file");
                }
                Ok(StateLock { _lock: lock, file })
            }
            Err(HostError::LockHeld(_)) => {
                let mut pid = String::new();
                let read = file.rewind().and_then(|()| file.take(32).read_to_string(&mut pid));
                let pid = read.ok().and_then(|_| pid.lines().next()?.parse().ok());
                let who = pid.map_or_else(|| "of unknown pid".to_owned(), |pid: i32| format!("pid {pid}"));
                Err(StateError::Held { dir: dir.to_owned(), who, pid })
            }
            Err(source) => Err(StateError::Lock { dir: dir.to_owned(), source }),
        }
    }
}

impl StateLock {
    /// Writes down where the holder can be asked, for commands that know the state directory alone.
    pub fn announce(&mut self, control: &Path) {
        if let Err(error) = write!(self.file, "\n{}", control.display()) {
            tracing::debug!(%error, "the control socket's path could not be written into the lock file");
        }
    }
}

/// Gone, or only waiting for its parent to take note of it.
fn is_dead(pid: i32) -> bool {
    match ProcessFacts::of(pid) {
        Ok(facts) => matches!(facts.state, 'Z' | 'X'),
        Err(error) => error.is_absent(),
    }
}

/// Where the last holder of `dir` said that it can be asked; whether it still lives is told by asking.
pub fn announced(dir: &Path) -> Option<PathBuf> {
    let text = std::fs::read_to_string(dir.join("lock")).ok()?;
    text.lines().nth(1).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_guardiand_is_refused_and_told_who_the_first_is() {
        let dir = tempfile::tempdir().unwrap();
        let held = StateLock::acquire(dir.path()).unwrap();
        let refused = StateLock::acquire(dir.path()).unwrap_err();
        assert!(refused.to_string().contains(&format!("pid {}", std::process::id())), "{refused}");
        drop(held);
        StateLock::acquire(dir.path()).unwrap();
    }
}
