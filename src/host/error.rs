//! What this room can fail at: one variant per operation, each with what it was tried on.

use std::io;
use std::path::{Path, PathBuf};

use super::ofd::Conflict;

/// An operation on the host that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// A file under /proc could not be read.
    #[error("cannot read {path}: {source}; is /proc mounted and readable?")]
    ReadProc {
        /// The file under /proc.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A line of a file under /proc is not what `proc(5)` says.
    #[error("cannot understand {what} in {path}: {line:?}")]
    ParseProc {
        /// What was looked for.
        what: &'static str,
        /// The file under /proc.
        path: PathBuf,
        /// The line as it stands.
        line: String,
    },
    /// A folder could not be opened.
    #[error("cannot open the folder {path}: {source}")]
    OpenFolder {
        /// The folder.
        path: PathBuf,
        /// The system's answer; `ENOTDIR` where the last component is a link, which is never followed.
        source: io::Error,
    },
    /// A link on the way to a folder is of a user's, and leads to what is not theirs.
    #[error(
        "{path} leads through {link}, a link of uid {owner}'s, to a folder of uid {leads_to}'s: it is not followed, for it may have \
         been planted. Name the folder that it leads to, or let root own the link"
    )]
    Planted {
        /// The path as it was given.
        path: PathBuf,
        /// The link.
        link: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Whose the folder is.
        leads_to: u32,
    },
    /// A file has several names, and others may have given it this one.
    #[error("{path} is not looked into: {why}")]
    PlantedName {
        /// The name that led to it.
        path: PathBuf,
        /// Why it is not trusted.
        why: String,
    },
    /// A file could not be opened or created.
    #[error("cannot open {path}: {source}")]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// What stands at the path is no regular file, and so was not opened.
    #[error("{path} is {kind}, not a regular file: it was not opened")]
    NotRegular {
        /// The path.
        path: PathBuf,
        /// What stands there, in words.
        kind: &'static str,
    },
    /// A name with a slash in it, or none at all, was given where one component was due.
    #[error("{name:?} is not the name of an entry of {folder}")]
    BadName {
        /// The folder.
        folder: PathBuf,
        /// The name.
        name: PathBuf,
    },
    /// The facts of a file could not be read.
    #[error("cannot stat {path}: {source}")]
    Stat {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A file could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Bytes could not be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A copy failed; the destination is incomplete.
    #[error("cannot copy: {step} failed after {copied} bytes: {source}")]
    Copy {
        /// The system call that failed.
        step: &'static str,
        /// Bytes that were copied by then.
        copied: u64,
        /// The system's answer.
        source: io::Error,
    },
    /// Something already stands where a file was to be put without replacing anything.
    #[error("{to} already exists: {from} was left where it is")]
    AlreadyThere {
        /// The file that was to be moved.
        from: PathBuf,
        /// What stands in the way.
        to: PathBuf,
    },
    /// A rename failed.
    #[error("cannot rename {from} to {to}: {source}")]
    Rename {
        /// The old name.
        from: PathBuf,
        /// The new name.
        to: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A hard link could not be made.
    #[error("cannot link {from} as {to}: {source}")]
    Link {
        /// The file.
        from: PathBuf,
        /// The further name.
        to: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A name could not be removed.
    #[error("cannot unlink {path}: {source}")]
    Unlink {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Data or a folder's entries could not be made durable.
    #[error("cannot make {path} durable: {source}; the disk may be failing")]
    Sync {
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Free space or the identity of a file system could not be asked.
    #[error("cannot ask the file system of {path}: {source}")]
    FileSystem {
        /// The path.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The kernel could not be asked about a lock, or refused to set one.
    #[error("cannot {doing} a lock on bytes {start}..{end}: {source}")]
    Lock {
        /// `ask for` or `set`.
        doing: &'static str,
        /// First byte.
        start: u64,
        /// Byte after the last.
        end: u64,
        /// The system's answer.
        source: io::Error,
    },
    /// Somebody else holds the lock.
    #[error("the lock is held: {0}")]
    LockHeld(Conflict),
    /// A process could not be reached: it is gone, or it is not ours to signal.
    #[error("cannot {doing} process {pid}: {source}")]
    Process {
        /// What was tried.
        doing: &'static str,
        /// The process.
        pid: i32,
        /// The system's answer; `ESRCH` when it is gone.
        source: io::Error,
    },
    /// A command did not do its work.
    #[error("`{program}` {why}")]
    Command {
        /// The program; never its arguments.
        program: String,
        /// How it failed.
        why: String,
    },
    /// A limit of this process could not be set.
    #[error("cannot {doing} of this process: {source}")]
    Limit {
        /// What was tried.
        doing: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// No such user is known to this host.
    #[error("no user {0:?} on this host: set `user` to a name or a number that `getent passwd` shows")]
    NoSuchUser(String),
    /// The user database could not be read.
    #[error("cannot look up user {name:?}: {source}")]
    User {
        /// Name or number.
        name: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The rights of another user could not be taken on.
    #[error("cannot act as uid {uid} to check its access: {source}")]
    Impersonate {
        /// The user.
        uid: u32,
        /// The system's answer.
        source: io::Error,
    },
    /// inotify could not be set up.
    #[error("cannot start watching files: {source}; raise fs.inotify.max_user_instances if it is exhausted")]
    WatchStart {
        /// The system's answer.
        source: io::Error,
    },
}

impl HostError {
    /// The system's error number, where the system answered.
    pub fn errno(&self) -> Option<rustix::io::Errno> {
        let source = std::error::Error::source(self)?.downcast_ref::<io::Error>()?;
        rustix::io::Errno::from_io_error(source)
    }

    /// Whether it failed because the path, name or process does not exist.
    pub fn is_absent(&self) -> bool {
        use rustix::io::Errno;
        matches!(self.errno(), Some(Errno::NOENT | Errno::SRCH))
    }

    /// True when we have not the right to do it.
    pub fn is_forbidden(&self) -> bool {
        self.errno() == Some(rustix::io::Errno::PERM)
    }
}

/// Makes the constructors of the path variants short where they are used: `.map_err(at(path, …))`.
pub(super) fn at<E: Into<io::Error>>(
    path: &Path,
    variant: impl FnOnce(PathBuf, io::Error) -> HostError,
) -> impl FnOnce(E) -> HostError {
    let path = path.to_path_buf();
    move |source| variant(path, source.into())
}

impl HostError {
    pub(super) fn stat(path: PathBuf, source: io::Error) -> HostError {
        HostError::Stat { path, source }
    }
    pub(super) fn open(path: PathBuf, source: io::Error) -> HostError {
        HostError::Open { path, source }
    }
    pub(super) fn open_folder(path: PathBuf, source: io::Error) -> HostError {
        HostError::OpenFolder { path, source }
    }
    pub(super) fn read(path: PathBuf, source: io::Error) -> HostError {
        HostError::Read { path, source }
    }
    pub(super) fn write(path: PathBuf, source: io::Error) -> HostError {
        HostError::Write { path, source }
    }
    pub(super) fn unlink(path: PathBuf, source: io::Error) -> HostError {
        HostError::Unlink { path, source }
    }
    pub(super) fn sync(path: PathBuf, source: io::Error) -> HostError {
        HostError::Sync { path, source }
    }
    pub(super) fn file_system(path: PathBuf, source: io::Error) -> HostError {
        HostError::FileSystem { path, source }
    }
    pub(super) fn read_proc(path: PathBuf, source: io::Error) -> HostError {
        HostError::ReadProc { path, source }
    }
}
