//! Putting an inotify watch on a folder, or on the nearest one above it that exists.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::inotify::{WatchFlags, add_watch};
use rustix::io::Errno;
use tokio::sync::mpsc::UnboundedSender;

/// Where a watch came to stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Nowhere yet, or no longer.
    Nowhere,
    /// On the folder itself.
    Folder(i32),
    /// The folder is missing: on the nearest one above it, until `next` appears there.
    Above {
        /// The watch descriptor.
        wd: i32,
        /// The name that must appear.
        next: OsString,
    },
}

impl Place {
    pub(super) fn wd(&self) -> Option<i32> {
        match self {
            Place::Nowhere => None,
            Place::Folder(wd) | Place::Above { wd, .. } => Some(*wd),
        }
    }
}

/// What became of one folder.
#[derive(Debug)]
pub(super) struct Armed {
    pub(super) folder: PathBuf,
    pub(super) place: Result<Place, String>,
}

/// How much is to be told of a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// Everything that may mean a failure.
    All,
    /// What comes into it or goes, and nothing that is written or created: see [`super::watch::Watcher`] on its rest.
    Resting,
}

/// Watches folders on a thread of its own, for a path call on a dead server never comes back; and that thread is
/// never waited for, not even when the program ends.
pub(super) fn arm_aside(inotify: &Arc<OwnedFd>, folders: Vec<PathBuf>, scope: Scope, results: &UnboundedSender<Armed>) {
    let (inotify, answers, mut left) = (Arc::clone(inotify), results.clone(), folders.clone());
    left.reverse();
    let thread = std::thread::Builder::new().name("watch".into()).stack_size(128 << 10).spawn(move || {
        while let Some(folder) = left.pop() {
            let place = arm(&inotify, &folder, scope).map_err(|errno| reason(&folder, errno));
            if answers.send(Armed { folder, place }).is_err() {
                return;
            }
        }
    });
    if let Err(error) = thread {
        for folder in folders {
            let place = Err(format!("{} cannot be watched: no thread: {error}", folder.display()));
            let _the_watcher_is_gone = results.send(Armed { folder, place });
        }
    }
}

fn arm(inotify: &OwnedFd, folder: &Path, scope: Scope) -> Result<Place, Errno> {
    if scope == Scope::Resting {
        // Without `MASK_ADD`: it takes the place of what was watched for.
        let less = WatchFlags::DELETE | WatchFlags::MOVED_FROM | WatchFlags::MOVED_TO | WatchFlags::ATTRIB;
        if let Ok(wd) = add_watch(inotify, folder, less | (itself() - WatchFlags::MASK_ADD)) {
            return Ok(Place::Folder(wd));
        }
    }
    // All flags that a folder needs; `MASK_ADD`, for it may also be watched on behalf of a missing folder below it.
    let entries = WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::MOVED_FROM
        | WatchFlags::MOVED_TO
        | WatchFlags::ATTRIB
        | WatchFlags::CLOSE_WRITE
        | WatchFlags::MODIFY
        | itself();
    // A folder that comes and goes while we look could keep this going: three rounds, then the next refresh.
    for _ in 0..3 {
        match add_watch(inotify, folder, entries) {
            Ok(wd) => return Ok(Place::Folder(wd)),
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(errno) => return Err(errno),
        }
        if let Some((wd, above, next)) = arm_above(inotify, folder)? {
            // It may have appeared before the watch stood; a file or dangling link in its place is waited out.
            if std::fs::metadata(above.join(&next)).is_ok_and(|meta| meta.is_dir()) {
                continue;
            }
            return Ok(Place::Above { wd, next });
        }
    }
    Err(Errno::AGAIN)
}

/// The nearest folder above that exists, and the name that is missing in it.
fn arm_above<'a>(inotify: &OwnedFd, folder: &'a Path) -> Result<Option<(i32, &'a Path, OsString)>, Errno> {
    let mut missing = folder;
    for above in folder.ancestors().skip(1) {
        match add_watch(inotify, above, WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::DELETE | itself()) {
            Ok(wd) => return Ok(missing.file_name().map(|name| (wd, above, name.to_owned()))),
            Err(Errno::NOENT | Errno::NOTDIR) => missing = above,
            Err(errno) => return Err(errno),
        }
    }
    Ok(None)
}

fn itself() -> WatchFlags {
    WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF | WatchFlags::ONLYDIR | WatchFlags::MASK_ADD
}

fn reason(folder: &Path, errno: Errno) -> String {
    let advice = match errno {
        Errno::NOSPC => "raise fs.inotify.max_user_watches",
        Errno::ACCESS => "let guardiand's user read and enter it",
        _ => "it is looked at in each sweep instead",
    };
    format!("{} cannot be watched: {}: {advice}", folder.display(), io::Error::from(errno))
}
