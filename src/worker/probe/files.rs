//! What `stat` says of a database and its side files, and of the place they are in: nothing is opened here.

use std::hash::{Hash as _, Hasher as _};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::host::{self, Device, FileKind, Folder, FsId, HostError, Space};
use crate::job::{FileFacts, FileState, Fingerprint, Place};
use crate::worker::sweep::Sweep;

/// A path as it was looked at.
pub(super) struct Looked {
    /// Where.
    pub(super) path: PathBuf,
    /// What the system is asked for: the path, or one through the folder as it was opened.
    real: PathBuf,
    folder: Option<Arc<Folder>>,
    /// Why others may have given it this name, if so: then it is none of the database's, whenever it is looked at.
    planted: Option<String>,
    /// For the facts.
    pub(super) state: FileState,
    /// For the host's own tables of locks and mounts.
    pub(super) host: Option<host::FileFacts>,
}

/// A database and its side files.
pub(super) struct Files {
    pub(super) main: Looked,
    pub(super) wal: Looked,
    pub(super) shm: Looked,
    pub(super) journal: Looked,
}

impl Files {
    /// Looks at all four.
    pub(super) fn look(main: &Path) -> Files {
        Files {
            main: Looked::at(main.to_owned()),
            wal: Looked::at(with_suffix(main, "-wal")),
            shm: Looked::at(with_suffix(main, "-shm")),
            journal: Looked::at(with_suffix(main, "-journal")),
        }
    }

    /// Looks at all four through their folder, opened on a way that nobody can have planted: what is opened then is what was
    /// looked at, whatever happens to the names above it. A file with a planted name is none of the program's.
    pub(super) fn pinned(main: &Path) -> Files {
        let folder = match Folder::of_entry(main) {
            Ok((folder, _)) => Arc::new(folder),
            Err(error @ HostError::Planted { .. }) => return Files::refused(main, &error),
            // What `stat` says of it is more to the point.
            Err(_) => return Files::look(main),
        };
        let look = |suffix: &str| Looked::through(&folder, with_suffix(main, suffix));
        let mut files = Files { main: look(""), wal: look("-wal"), shm: look("-shm"), journal: look("-journal") };
        if let Some(why) = &files.main.planted {
            let message = format!("{} is not looked into: {why}", main.display());
            files.main = Looked { state: FileState::Unreadable { errno: 0, message }, host: None, ..files.main };
        }
        files
    }

    fn refused(main: &Path, error: &HostError) -> Files {
        let looked =
            |path: PathBuf, state| Looked { real: path.clone(), path, folder: None, planted: None, state, host: None };
        let side = |suffix: &str| looked(with_suffix(main, suffix), FileState::Missing);
        let state = FileState::Unreadable { errno: 0, message: error.to_string() };
        Files { main: looked(main.to_owned(), state), wal: side("-wal"), shm: side("-shm"), journal: side("-journal") }
    }

    /// What of a fingerprint `stat` can tell; counters are those of `known`, which were read when it was like this.
    pub(super) fn same_as(&self, known: &Fingerprint) -> bool {
        let regular = |looked: &Looked| matches!(looked.state, FileState::Missing | FileState::File(_));
        !known.locked
            && self.main.state.file() == Some(&known.main)
            && self.wal.state.file().map(side) == known.wal.as_ref().map(side)
            && self.journal.state.file().map(side) == known.journal.as_ref().map(side)
            && regular(&self.wal)
            && regular(&self.shm)
            && regular(&self.journal)
    }
}

/// What counts of a side file. Not the time of its last change of status: SQLite as root gives a side file its owner anew
/// each time it opens it, so that each look would make the next one find a change.
fn side(file: &FileFacts) -> FileFacts {
    FileFacts { ctime_ns: 0, ..*file }
}

/// `path` with `suffix` behind its name, as SQLite names its side files.
pub(in crate::worker) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

impl Looked {
    pub(super) fn at(path: PathBuf) -> Looked {
        Looked::by(path.clone(), path, None)
    }

    /// Looks at an entry of an open folder.
    fn through(folder: &Arc<Folder>, path: PathBuf) -> Looked {
        match path.file_name().map(|name| folder.through(name)) {
            Some(Ok(real)) => Looked::by(path, real, Some(Arc::clone(folder))),
            _ => Looked::at(path),
        }
    }

    fn by(path: PathBuf, real: PathBuf, folder: Option<Arc<Folder>>) -> Looked {
        let (mut state, host) = match host::FileFacts::of_path(&real, false) {
            Ok(facts) => (state(&real, &facts), Some(facts)),
            Err(error) => (failed(&path, &error), None),
        };
        let planted = folder.as_ref().zip(host.as_ref()).zip(path.file_name()).and_then(|((folder, file), name)| {
            match folder.refuse_planted(name, file) {
                Err(HostError::PlantedName { why, .. }) => Some(why),
                refused => refused.err().map(|error| error.to_string()),
            }
        });
        if let Some(why) = &planted {
            state = FileState::Other { what: format!("a file that others may have planted: {why}") };
        }
        Looked { path, real, folder, planted, state, host }
    }

    /// Looks again.
    pub(super) fn again(&self) -> Looked {
        Looked::by(self.path.clone(), self.real.clone(), self.folder.clone())
    }

    /// Looks again and tells whether it is still the same.
    pub(super) fn is_still_so(&self) -> bool {
        self.again().state == self.state
    }
}

fn state(path: &Path, facts: &host::FileFacts) -> FileState {
    match facts.kind {
        FileKind::Regular => FileState::File(FileFacts {
            dev: rustix::fs::makedev(facts.id.dev.major, facts.id.dev.minor),
            ino: facts.id.ino,
            size: facts.size,
            mtime_ns: nanoseconds(facts.mtime_ns),
            ctime_ns: nanoseconds(facts.ctime_ns),
            uid: facts.uid,
            gid: facts.gid,
            mode: facts.mode,
            nlink: u64::from(facts.nlink),
        }),
        FileKind::Symlink => FileState::Symlink { target: std::fs::read_link(path).unwrap_or_default() },
        other => {
            let what = match other {
                FileKind::Folder => "a directory",
                FileKind::Fifo => "a FIFO",
                other => other.words(),
            };
            FileState::Other { what: what.to_owned() }
        }
    }
}

/// Time stamps beyond the year 2262 do not fit, and mean nothing.
fn nanoseconds(ns: i128) -> i64 {
    i64::try_from(ns).unwrap_or(if ns < 0 { i64::MIN } else { i64::MAX })
}

fn failed(path: &Path, error: &HostError) -> FileState {
    if error.is_absent() {
        return FileState::Missing;
    }
    let errno = error.errno().map_or(0, |errno| errno.raw_os_error());
    let denied = path.ancestors().skip(1).find(|folder| host::FileFacts::of_path(folder, true).is_ok());
    let message = match denied {
        Some(folder) => {
            let mode = host::FileFacts::of_path(folder, true).map(|facts| facts.mode_words()).unwrap_or_default();
            format!("{error}; the way ends at {} ({mode})", folder.display())
        }
        None => error.to_string(),
    };
    FileState::Unreadable { errno, message }
}

/// The file system under the database's folder, and this boot.
pub(super) fn place(main: &Looked, sweep: &Sweep) -> Place {
    let folder = main.path.parent().unwrap_or_else(|| Path::new("/"));
    let Ok(folder_facts) = host::FileFacts::of_path(folder, true) else {
        return Place { boot_id: sweep.boot_id().to_owned(), free_inodes: u64::MAX, ..Place::default() };
    };
    // A file can be a mount of its own.
    let (facts, path) = main.host.as_ref().map_or((&folder_facts, folder), |file| (file, main.path.as_path()));
    let mut place = sweep.ground(folder, facts, || ground(folder, folder_facts.id.dev, facts, path, sweep));
    place.way = digest(place.way, &folder_facts);
    place.folder_exists = folder_facts.kind == FileKind::Folder;
    place.folder_mtime_ns = nanoseconds(folder_facts.mtime_ns);
    place
}

/// `before`, and whose this folder is and who may do what in it. What is in it is the files' own affair.
fn digest(before: u64, folder: &host::FileFacts) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    (before, folder.id.ino, folder.uid, folder.gid, folder.mode).hash(&mut hasher);
    hasher.finish()
}

/// What does not depend on the file, but on where it is.
fn ground(folder: &Path, dev: Device, facts: &host::FileFacts, path: &Path, sweep: &Sweep) -> Place {
    let mut place = Place { boot_id: sweep.boot_id().to_owned(), free_inodes: u64::MAX, ..Place::default() };
    if let Some(mount) = sweep.mounts().of_file(facts, path) {
        place.fs_type = mount.fs_type.clone();
        place.volatile = mount.is_volatile();
        place.observe_only = mount.observe_only();
        place.read_only = mount.read_only();
        place.repair = mount.repair();
    } else {
        place.observe_only = Some(format!("the mount of {} is not in the table of mounts", path.display()));
    }
    if let Ok(space) = Space::at(folder) {
        place.free_bytes = space.free_bytes;
        place.free_inodes = space.free_inodes.unwrap_or(u64::MAX);
        place.read_only |= space.read_only;
    }
    place.walled_off = place.read_only && sweep.mounts().walled_off(path);
    let above = folder.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty());
    let above = above.filter_map(|above| host::FileFacts::of_path(above, true).ok());
    place.way = above.fold(0, |way, above| digest(way, &above));
    if let Ok(id) = FsId::beneath(folder, dev) {
        place.fs_id = id.name();
    }
    place
}

/// Opens a regular file for raw reading. A link in the last component, a FIFO or a device put there meanwhile is an error,
/// never a hang; so is, in a folder that was opened, a file whose name there others may have planted.
pub(super) fn open_raw(looked: &Looked) -> io::Result<std::fs::File> {
    use rustix::fs::{Mode, OFlags};
    if let Some((folder, name)) = looked.folder.as_ref().zip(looked.path.file_name()) {
        return folder.open_own_in(name).map_err(|error| match error.errno() {
            Some(errno) => errno.into(),
            None => io::Error::other(error),
        });
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = std::fs::File::from(rustix::fs::open(&looked.real, flags, Mode::empty())?);
    let facts = host::FileFacts::of_fd(&file).map_err(io::Error::other)?;
    if facts.kind != FileKind::Regular {
        return Err(io::Error::other(format!("{} is {}", looked.path.display(), facts.kind.words())));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_thing_in_the_way_is_named_and_none_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), b"12345").unwrap();
        std::os::unix::fs::symlink("file", at("link")).unwrap();
        std::fs::create_dir(at("folder")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let state = |name: &str| Looked::at(at(name)).state;
        assert_eq!(state("file").size(), 5);
        assert_eq!(state("none"), FileState::Missing);
        assert_eq!(state("link"), FileState::Symlink { target: "file".into() });
        assert_eq!(state("folder"), FileState::Other { what: "a directory".into() });
        assert_eq!(state("fifo"), FileState::Other { what: "a FIFO".into() });
        assert!(matches!(state("file/below"), FileState::Unreadable { errno: 20, .. }));
        assert!(open_raw(&Looked::at(at("fifo"))).is_err());
        assert!(open_raw(&Looked::at(at("link"))).is_err());
    }

    #[test]
    fn a_place_is_told_even_when_the_file_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let place_of = |path: PathBuf| place(&Looked::at(path), &Sweep::default());
        let there = place_of(dir.path().join("none.db"));
        assert!(there.folder_exists && !there.fs_id.is_empty() && there.free_bytes > 0 && !there.boot_id.is_empty());
        let gone = place_of(dir.path().join("no/folder.db"));
        assert!(!gone.folder_exists && gone.fs_id.is_empty());
    }
}
