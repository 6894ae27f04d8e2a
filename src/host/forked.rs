//! Work in a forked copy of this process, which has none of its locks to lose.
//!
//! POSIX locks belong to a process, and closing any descriptor of a file drops all of its own. So what must read a database's
//! bytes while SQLite in this process holds locks on it does so in a copy: whatever that closes, our locks stay.
#![allow(unsafe_code)] // fork and _exit: the standard library has neither.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, getpid, waitpid};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::HostError;
use super::process::die_with_parent;

/// Runs `work` in a forked copy, which ends with it, and dies with us. For a worker child, which has one thread: of others,
/// a copy would have the locks and not the threads.
///
/// # Errors
/// [`HostError::Limit`] when there can be no copy, or it ended without an answer.
pub fn in_forked_child<T: Serialize + DeserializeOwned>(work: impl FnOnce() -> T) -> Result<T, HostError> {
    let failed = |source: std::io::Error| HostError::Limit { doing: "make a copy", source };
    let (answer, tell) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?;
    let ours = getpid().as_raw_nonzero().get();
    // SAFETY: the copy runs on with the one thread that called, on memory of its own; it never returns from this function, and
    // runs no destructor of what it inherited.
    match unsafe { libc::fork() } {
        -1 => Err(failed(std::io::Error::last_os_error())),
        0 => {
            drop(answer);
            let told = catch_unwind(AssertUnwindSafe(|| {
                die_with_parent(ours).ok()?;
                let answer = serde_json::to_vec(&work()).ok()?;
                File::from(tell).write_all(&answer).ok()
            }));
            let status = if matches!(told, Ok(Some(()))) { 0 } else { 1 };
            // SAFETY: ends the copy at once.
            unsafe { libc::_exit(status) }
        }
        copy => {
            drop(tell);
            let mut bytes = Vec::new();
            let read = File::from(answer).read_to_end(&mut bytes);
            if let Some(copy) = Pid::from_raw(copy) {
                while let Err(rustix::io::Errno::INTR) = waitpid(Some(copy), WaitOptions::empty()) {}
            }
            read.map_err(failed)?;
            serde_json::from_slice(&bytes).map_err(|_| failed(std::io::Error::other("it ended without an answer")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Bytes, LockMode, ask_lock};

    #[test]
    fn a_copy_answers_and_its_closing_drops_no_lock_of_ours() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut lock = libc::flock {
            l_type: libc::F_WRLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: 0,
            l_len: 1,
            l_pid: 0,
        };
        use std::os::fd::AsRawFd as _;
        // SAFETY: an open descriptor and one `struct flock`: a POSIX lock, as SQLite takes them.
        assert_eq!(unsafe { libc::fcntl(file.as_file().as_raw_fd(), libc::F_SETLK, &mut lock) }, 0);
        let path = file.path().to_path_buf();
        let read = in_forked_child(|| std::fs::read(&path).map(|bytes| bytes.len()).map_err(|error| error.to_string()));
        assert_eq!(read.unwrap(), Ok(0));
        let held = in_forked_child(|| {
            let other = File::open(&path).ok()?;
            ask_lock(&other, Bytes::new(0, 1), LockMode::Read).ok().flatten().map(|conflict| conflict.pid)
        });
        assert_eq!(held.unwrap(), Some(Some(getpid().as_raw_nonzero().get())));
    }

    #[test]
    fn a_copy_that_panics_or_ends_is_an_error() {
        let ended: Result<u32, _> = in_forked_child(|| std::panic::resume_unwind(Box::new("oh")));
        assert!(ended.unwrap_err().to_string().contains("without an answer"));
    }
}
