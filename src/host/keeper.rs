//! A process of ours that outlives us, because what it holds open is nowhere but in descriptors.
//!
//! The bytes of an unlinked file live as long as somebody has it open. A worker ends with its job and guardiand can be killed;
//! this one is nobody's child, has nothing but the descriptors that it was made with, and ends by itself.
#![allow(unsafe_code)] // fork and _exit: the standard library has neither.

use std::ffi::CStr;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use rustix::fs::OFlags;
use rustix::pipe::{PipeFlags, pipe_with};

use super::error::HostError;
use super::facts::{FileFacts, FileId, FileKind};
use super::process::ProcessFacts;

/// What it is called in lists of processes.
const NAME: &CStr = c"guardiand-keep";

/// A keeper of our own user: it has files open for us, and is no user of them.
pub(super) fn is_ours(process: &ProcessFacts) -> bool {
    Ok(process.comm.as_str()) == NAME.to_str() && process.uid == rustix::process::geteuid().as_raw()
}

/// Makes a keeper that does `work` on copies of our descriptors, in a session of its own; it ends with the work. Returns what
/// it says first, through `tell`. For a worker child, which has one thread: of others, a copy would have the locks and not the
/// threads.
///
/// # Errors
/// [`HostError::Limit`] when there can be none, or when it ended without a word.
pub fn fork_keeper(work: impl FnOnce(&mut dyn FnMut(&str))) -> Result<String, HostError> {
    let failed = |source: std::io::Error| HostError::Limit { doing: "make a keeper", source };
    let (answer, told) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?;
    // SAFETY: the copy runs on with the one thread that called, on memory of its own; it never returns from this function, and
    // runs no destructor of what it inherited.
    match unsafe { libc::fork() } {
        -1 => Err(failed(std::io::Error::last_os_error())),
        0 => {
            drop(answer);
            let mut told = Some(File::from(told));
            let done = catch_unwind(AssertUnwindSafe(|| {
                detach().ok()?;
                work(&mut |word| {
                    if let Some(mut told) = told.take() {
                        let _ = told.write_all(word.as_bytes());
                    }
                });
                Some(())
            }));
            // SAFETY: ends the copy at once.
            unsafe { libc::_exit(i32::from(!matches!(done, Ok(Some(()))))) }
        }
        _ => {
            drop(told);
            let mut word = String::new();
            File::from(answer).read_to_string(&mut word).map_err(failed)?;
            if word.is_empty() {
                return Err(failed(std::io::Error::other("it ended without a word")));
            }
            Ok(word)
        }
    }
}

/// Opens once more what process `pid` has open as `fd`, whether or not it has a name; refused when that is not `file`.
///
/// # Errors
/// [`HostError::Open`] or [`HostError::Stat`].
pub fn open_descriptor_of(pid: i32, fd: i32, file: FileId, writing: bool) -> Result<File, HostError> {
    let path = PathBuf::from(format!("/proc/{pid}/fd/{fd}"));
    // A pipe that took its number meanwhile is no reason to wait.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let failed = |source| HostError::Open { path: path.clone(), source };
    let opened = File::options().read(true).write(writing).custom_flags(flags).open(&path).map_err(failed)?;
    let facts = FileFacts::of_fd(&opened)?;
    match facts.id == file && facts.kind == FileKind::Regular {
        true => Ok(opened),
        false => Err(failed(std::io::Error::other("it is another file by now, or none"))),
    }
}

/// Nobody's: no terminal, no pipe that somebody waits on, no name of a worker's. That it should end with its parent was not
/// inherited (`PR_SET_PDEATHSIG(2const)`).
fn detach() -> rustix::io::Result<()> {
    rustix::process::setsid()?;
    let nothing = rustix::fs::open("/dev/null", OFlags::RDWR, rustix::fs::Mode::empty())?;
    for standard in 0..=2 {
        // SAFETY: two numbers; what the standard descriptors were is let go in this process alone.
        if unsafe { libc::dup2(nothing.as_raw_fd(), standard) } < 0 {
            return Err(rustix::io::Errno::BADF);
        }
    }
    rustix::thread::set_name(NAME)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_keeper_says_a_word_goes_on_with_what_it_has_open_and_ends_by_itself() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("unlinked");
        std::fs::write(&path, b"the last copy").unwrap();
        let held = File::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let (go, done) = (folder.path().join("go"), folder.path().join("done"));
        let word = fork_keeper(|tell| {
            tell(&format!("{}", std::process::id()));
            while !go.exists() {
                std::thread::sleep(Duration::from_millis(5));
            }
            let mut bytes = Vec::new();
            (&held).read_to_end(&mut bytes).unwrap();
            std::fs::write(&done, bytes).unwrap();
        });
        let pid: i32 = word.unwrap().parse().unwrap();
        drop(held);
        let facts = ProcessFacts::of(pid).unwrap();
        assert!(is_ours(&facts), "{facts:?}");
        std::fs::write(&go, b"").unwrap();
        let until = Instant::now() + Duration::from_secs(30);
        while std::fs::read(&done).unwrap_or_default() != b"the last copy" {
            assert!(Instant::now() < until, "it wrote nothing");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn one_that_cannot_begin_is_an_error() {
        assert!(fork_keeper(|_| std::panic::resume_unwind(Box::new("oh"))).is_err());
    }
}
