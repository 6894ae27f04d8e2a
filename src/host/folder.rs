//! File operations relative to an open folder, following no links: a link that a program plants in its own folder
//! cannot lead a privileged guardian elsewhere. Each says what it takes to be durable.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, RenameFlags, fchmod, fsync, linkat, mkdirat, openat};
use rustix::fs::{renameat, renameat_with, statx, unlinkat};
use rustix::io::Errno;

use super::error::{HostError, at};
use super::facts::{FileFacts, FileKind};
use super::ours::OUR_PREFIX;
use super::way::{self, Last};

/// A folder that stays the same one, whatever happens to its name.
#[derive(Debug)]
pub struct Folder {
    fd: OwnedFd,
    path: PathBuf,
}

impl Folder {
    /// Opens a folder; links above it are followed where nobody can have planted them, one in its own last component is not.
    ///
    /// # Errors
    /// [`HostError::OpenFolder`]: `ENOTDIR` for a file or a link; [`HostError::Planted`].
    pub fn open(path: &Path) -> Result<Folder, HostError> {
        Folder::by_way(path, Last::Refuse, None)
    }

    /// As [`Folder::open`]; folders on the way that are missing are made, with this mode.
    ///
    /// # Errors
    /// As [`Folder::open`].
    pub fn make_all(path: &Path, mode: u32) -> Result<Folder, HostError> {
        Folder::by_way(path, Last::Refuse, Some(Mode::from_raw_mode(mode)))
    }

    /// The folder that an entry of that path is in, and the entry's name: `/srv/app.db` gives `/srv` and `app.db`. Links on the
    /// way are followed where nobody can have planted them; the entry itself is not touched.
    ///
    /// # Errors
    /// [`HostError::BadName`] for a path without a file name, else that of [`Folder::open`].
    pub fn of_entry(path: &Path) -> Result<(Folder, OsString), HostError> {
        let bad = || HostError::BadName { folder: path.into(), name: PathBuf::new() };
        let name = path.file_name().ok_or_else(bad)?;
        Ok((Folder::by_way(path.parent().ok_or_else(bad)?, Last::Follow, None)?, name.to_owned()))
    }

    fn by_way(path: &Path, last: Last, make: Option<Mode>) -> Result<Folder, HostError> {
        // Rebuilt from components, because "link/" with its slash would be followed.
        let path: PathBuf = path.components().collect();
        let target = if path.as_os_str().is_empty() { Path::new(".") } else { &path };
        let fd = way::open(target, last, make)?;
        Ok(Folder { fd, path })
    }

    /// A path to an entry that leads through this very folder, whatever happens to its name, as long as this lives: for what
    /// only takes paths.
    ///
    /// # Errors
    /// [`HostError::BadName`].
    pub fn through(&self, name: impl AsRef<OsStr>) -> Result<PathBuf, HostError> {
        self.entry(name.as_ref())?;
        Ok(Path::new(way::THROUGH).join(self.fd.as_raw_fd().to_string()).join(name.as_ref()))
    }

    /// Opens a folder in this one; a link is not followed.
    ///
    /// # Errors
    /// [`HostError::OpenFolder`] or [`HostError::BadName`].
    pub fn open_folder_in(&self, name: impl AsRef<OsStr>) -> Result<Folder, HostError> {
        let path = self.entry(name.as_ref())?;
        let fd =
            openat(&self.fd, name.as_ref(), Self::flags(), Mode::empty()).map_err(at(&path, HostError::open_folder))?;
        Ok(Folder { fd, path })
    }

    /// Makes a folder in this one; it must not exist. Durable after [`Folder::sync`] of this one.
    ///
    /// # Errors
    /// [`HostError::Open`] or [`HostError::BadName`].
    pub fn make_folder_in(&self, name: impl AsRef<OsStr>, mode: u32) -> Result<Folder, HostError> {
        let path = self.entry(name.as_ref())?;
        mkdirat(&self.fd, name.as_ref(), Mode::from_raw_mode(mode)).map_err(at(&path, HostError::open))?;
        let folder = self.open_folder_in(name)?;
        // Its name may have been given to another folder between the two calls, by whom this one belongs to.
        if FileFacts::of_fd(&folder)?.uid != rustix::process::geteuid().as_raw() {
            return Err(at(&path, HostError::open_folder)(Errno::STALE));
        }
        Ok(folder)
    }

    /// The path under which it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The facts of an entry, a link's own.
    ///
    /// # Errors
    /// [`HostError::Stat`] or [`HostError::BadName`].
    pub fn stat_in(&self, name: impl AsRef<OsStr>) -> Result<FileFacts, HostError> {
        let path = self.entry(name.as_ref())?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let stat = statx(&self.fd, name.as_ref(), flags, FileFacts::mask()).map_err(at(&path, HostError::stat))?;
        Ok(FileFacts::from_statx(&stat))
    }

    /// Opens a regular file for reading. Anything else is refused before it is opened, for opening a device may act,
    /// and a pipe would hang.
    ///
    /// # Errors
    /// [`HostError::NotRegular`], [`HostError::Open`], [`HostError::Stat`] or [`HostError::BadName`].
    pub fn open_in(&self, name: impl AsRef<OsStr>) -> Result<File, HostError> {
        self.open_regular(name.as_ref(), OFlags::RDONLY)
    }

    /// As [`Folder::open_in`], for a file that is a database's own: one whose name others may have planted there is refused, as it
    /// was opened, and no byte of it is read.
    ///
    /// # Errors
    /// As [`Folder::open_in`]; [`HostError::PlantedName`].
    pub fn open_own_in(&self, name: impl AsRef<OsStr>) -> Result<File, HostError> {
        let file = self.open_in(name.as_ref())?;
        self.refuse_planted(name.as_ref(), &FileFacts::of_fd(&file)?)?;
        Ok(file)
    }

    /// Refuses a file whose name in this folder others may have planted.
    ///
    /// # Errors
    /// [`HostError::PlantedName`], [`HostError::Stat`] or [`HostError::BadName`].
    pub fn refuse_planted(&self, name: impl AsRef<OsStr>, file: &FileFacts) -> Result<(), HostError> {
        // Nearly always it has one name, and nothing needs to be asked of the folder.
        if file.nlink < 2 {
            return Ok(());
        }
        match way::planted_name(file, &FileFacts::of_fd(self)?) {
            Some(why) => Err(HostError::PlantedName { path: self.entry(name.as_ref())?, why }),
            None => Ok(()),
        }
    }

    /// Opens a regular file that exists for reading and writing; as [`Folder::open_in`].
    ///
    /// # Errors
    /// As [`Folder::open_in`].
    pub fn open_for_writing_in(&self, name: impl AsRef<OsStr>) -> Result<File, HostError> {
        self.open_regular(name.as_ref(), OFlags::RDWR)
    }

    /// Creates a file with exactly this mode, for reading and writing; it must not exist.
    ///
    /// # Errors
    /// [`HostError::Open`] (`EEXIST`) or [`HostError::BadName`].
    pub fn create_in(&self, name: impl AsRef<OsStr>, mode: u32) -> Result<File, HostError> {
        let path = self.entry(name.as_ref())?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Closed to others until the mode is what it shall be: the umask may have taken bits away.
        let fd = openat(&self.fd, name.as_ref(), flags, Mode::RUSR | Mode::WUSR).map_err(at(&path, HostError::open))?;
        fchmod(&fd, Mode::from_raw_mode(mode)).map_err(at(&path, HostError::open))?;
        Ok(File::from(fd))
    }

    /// Renames, replacing what is there. Durable after [`Folder::sync`] of both folders.
    ///
    /// # Errors
    /// [`HostError::Rename`] or [`HostError::BadName`].
    pub fn rename(&self, name: impl AsRef<OsStr>, to: &Folder, to_name: impl AsRef<OsStr>) -> Result<(), HostError> {
        let (from, target) = (self.entry(name.as_ref())?, to.entry(to_name.as_ref())?);
        renameat(&self.fd, name.as_ref(), &to.fd, to_name.as_ref()).map_err(|errno| HostError::Rename {
            from,
            to: target,
            source: errno.into(),
        })
    }

    /// Swaps the files of two names of this folder at once; false where the file system cannot. What somebody put under either
    /// name at the last moment is then under the other, and not gone. Durable after [`Folder::sync`].
    ///
    /// # Errors
    /// [`HostError::Rename`] or [`HostError::BadName`].
    pub fn exchange(&self, name: impl AsRef<OsStr>, with: impl AsRef<OsStr>) -> Result<bool, HostError> {
        let (from, to) = (self.entry(name.as_ref())?, self.entry(with.as_ref())?);
        match renameat_with(&self.fd, name.as_ref(), &self.fd, with.as_ref(), RenameFlags::EXCHANGE) {
            Ok(()) => Ok(true),
            Err(Errno::INVAL | Errno::NOSYS) => Ok(false),
            Err(errno) => Err(HostError::Rename { from, to, source: errno.into() }),
        }
    }

    /// Renames if nothing is there: what somebody else put there meanwhile is never replaced.
    ///
    /// # Errors
    /// [`HostError::AlreadyThere`], [`HostError::Rename`] or [`HostError::BadName`].
    pub fn rename_noreplace(
        &self,
        name: impl AsRef<OsStr>,
        to: &Folder,
        to_name: impl AsRef<OsStr>,
    ) -> Result<(), HostError> {
        let (name, to_name) = (name.as_ref(), to_name.as_ref());
        let (from, target) = (self.entry(name)?, to.entry(to_name)?);
        let answer = match renameat_with(&self.fd, name, &to.fd, to_name, RenameFlags::NOREPLACE) {
            // A file system that does not know the flag: a link refuses to replace as well.
            Err(Errno::INVAL | Errno::NOSYS) => linkat(&self.fd, name, &to.fd, to_name, AtFlags::empty())
                .and_then(|()| unlinkat(&self.fd, name, AtFlags::empty())),
            answer => answer,
        };
        answer.map_err(|errno| match errno {
            Errno::EXIST => HostError::AlreadyThere { from, to: target },
            errno => HostError::Rename { from, to: target, source: errno.into() },
        })
    }

    /// Gives an entry a further name, which must be free; a link is not followed.
    ///
    /// # Errors
    /// [`HostError::AlreadyThere`], [`HostError::Link`] or [`HostError::BadName`].
    pub fn link(&self, name: impl AsRef<OsStr>, to: &Folder, to_name: impl AsRef<OsStr>) -> Result<(), HostError> {
        let (from, target) = (self.entry(name.as_ref())?, to.entry(to_name.as_ref())?);
        linkat(&self.fd, name.as_ref(), &to.fd, to_name.as_ref(), AtFlags::empty()).map_err(|errno| match errno {
            Errno::EXIST => HostError::AlreadyThere { from, to: target },
            errno => HostError::Link { from, to: target, source: errno.into() },
        })
    }

    /// Removes the name of a file or link.
    ///
    /// # Errors
    /// [`HostError::Unlink`] or [`HostError::BadName`].
    pub fn unlink(&self, name: impl AsRef<OsStr>) -> Result<(), HostError> {
        let path = self.entry(name.as_ref())?;
        unlinkat(&self.fd, name.as_ref(), AtFlags::empty()).map_err(at(&path, HostError::unlink))
    }

    /// Removes a folder, which must be empty: what a dead `unix-dotfile` holder leaves (SQLITE.md, rule 14).
    ///
    /// # Errors
    /// [`HostError::Unlink`] or [`HostError::BadName`].
    pub fn remove_folder(&self, name: impl AsRef<OsStr>) -> Result<(), HostError> {
        let path = self.entry(name.as_ref())?;
        unlinkat(&self.fd, name.as_ref(), AtFlags::REMOVEDIR).map_err(at(&path, HostError::unlink))
    }

    /// Makes its entries durable: what was created, renamed and unlinked in it.
    ///
    /// # Errors
    /// [`HostError::Sync`].
    pub fn sync(&self) -> Result<(), HostError> {
        fsync(self.readable()?).map_err(at(&self.path, HostError::sync))
    }

    /// The names of its entries, in no order.
    ///
    /// # Errors
    /// [`HostError::Read`] or [`HostError::OpenFolder`].
    pub fn names(&self) -> Result<Vec<OsString>, HostError> {
        let mut names = Vec::new();
        for entry in Dir::read_from(self.readable()?).map_err(at(&self.path, HostError::read))? {
            let entry = entry.map_err(at(&self.path, HostError::read))?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name.to_vec()));
            }
        }
        Ok(names)
    }

    /// Puts `bytes` at `name`, replacing a file there, so that a crash leaves the old content or the new, durably.
    ///
    /// # Errors
    /// That of the step which failed; the temporary file is gone again then, but for a crash.
    pub fn write_atomically(&self, name: impl AsRef<OsStr>, bytes: &[u8], mode: u32) -> Result<(), HostError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        self.entry(name.as_ref())?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let temporary = format!("{OUR_PREFIX}{}-{number}.tmp", std::process::id());
        let path = self.path.join(&temporary);
        let written = self.create_in(&temporary, mode).and_then(|mut file| {
            file.write_all(bytes).map_err(at(&path, HostError::write))?;
            file.sync_all().map_err(at(&path, HostError::sync))?;
            self.rename(&temporary, self, name.as_ref())
        });
        if let Err(error) = written {
            // A leftover of a dead process with our number may be in the way: it goes too, and the next try succeeds.
            let _best_effort = self.unlink(&temporary);
            return Err(error);
        }
        self.sync()
    }

    fn flags() -> OFlags {
        OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
    }

    /// An `O_PATH` descriptor can neither be listed nor synced.
    fn readable(&self) -> Result<OwnedFd, HostError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(&self.fd, ".", flags, Mode::empty()).map_err(at(&self.path, HostError::open_folder))
    }

    fn open_regular(&self, name: &OsStr, access: OFlags) -> Result<File, HostError> {
        let path = self.entry(name)?;
        let refuse = |kind: FileKind| HostError::NotRegular { path: path.clone(), kind: kind.words() };
        let before = self.stat_in(name)?;
        if before.kind != FileKind::Regular {
            return Err(refuse(before.kind));
        }
        let flags = access | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = openat(&self.fd, name, flags, Mode::empty()).map_err(at(&path, HostError::open))?;
        // It may have been exchanged between the two calls; O_NONBLOCK has kept a pipe from hanging us.
        match FileFacts::of_fd(&fd)?.kind {
            FileKind::Regular => Ok(File::from(fd)),
            kind => Err(refuse(kind)),
        }
    }

    /// The path of an entry, for messages, if the name is one component.
    fn entry(&self, name: &OsStr) -> Result<PathBuf, HostError> {
        let bytes = name.as_bytes();
        if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') {
            return Err(HostError::BadName { folder: self.path.clone(), name: name.into() });
        }
        Ok(self.path.join(name))
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn folder() -> (tempfile::TempDir, Folder) {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        (dir, folder)
    }

    #[test]
    fn a_link_is_never_followed_in_the_last_component() {
        let (dir, folder) = folder();
        std::fs::create_dir(dir.path().join("real")).unwrap();
        symlink("real", dir.path().join("to-folder")).unwrap();
        std::fs::write(dir.path().join("file"), b"x").unwrap();
        symlink("file", dir.path().join("to-file")).unwrap();
        for path in ["to-folder", "to-folder/", "to-folder/."] {
            let error = Folder::open(&dir.path().join(path)).unwrap_err();
            assert_eq!(error.errno(), Some(Errno::NOTDIR), "{path}");
        }
        assert!(folder.open_folder_in("to-folder").is_err() && folder.open_folder_in("real").is_ok());
        assert!(matches!(folder.open_in("to-file"), Err(HostError::NotRegular { kind: "a symbolic link", .. })));
        assert!(folder.create_in("to-file", 0o600).is_err());
        assert_eq!(folder.stat_in("to-file").unwrap().kind, FileKind::Symlink);
    }

    #[test]
    fn pipes_folders_and_devices_are_refused_unopened() {
        let (_dir, folder) = folder();
        rustix::fs::mknodat(&folder, "pipe", rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        folder.make_folder_in("sub", 0o700).unwrap();
        assert!(matches!(folder.open_in("pipe"), Err(HostError::NotRegular { kind: "a named pipe", .. })));
        assert!(matches!(folder.open_for_writing_in("sub"), Err(HostError::NotRegular { kind: "a folder", .. })));
        let dev = Folder::open(Path::new("/dev")).unwrap();
        assert!(matches!(dev.open_in("null"), Err(HostError::NotRegular { kind: "a character device", .. })));
    }

    #[test]
    fn a_name_is_one_component() {
        let (_dir, folder) = folder();
        for name in ["", ".", "..", "a/b", "/etc/passwd", "../x"] {
            assert!(matches!(folder.stat_in(name), Err(HostError::BadName { .. })), "{name:?}");
        }
    }

    #[test]
    fn a_rename_that_must_not_replace_does_not() {
        let (dir, folder) = folder();
        std::fs::write(dir.path().join("new"), b"new").unwrap();
        std::fs::write(dir.path().join("app.db"), b"somebody's").unwrap();
        let refused = folder.rename_noreplace("new", &folder, "app.db");
        assert!(matches!(refused, Err(HostError::AlreadyThere { .. })), "{refused:?}");
        assert_eq!(std::fs::read(dir.path().join("app.db")).unwrap(), b"somebody's");
        assert_eq!(std::fs::read(dir.path().join("new")).unwrap(), b"new");
        folder.unlink("app.db").unwrap();
        folder.rename_noreplace("new", &folder, "app.db").unwrap();
        folder.link("app.db", &folder, "kept").unwrap();
        assert!(matches!(folder.link("app.db", &folder, "kept"), Err(HostError::AlreadyThere { .. })));
        folder.sync().unwrap();
        assert_eq!(folder.stat_in("kept").unwrap().nlink, 2);
    }

    #[test]
    fn an_atomic_write_leaves_the_new_bytes_its_mode_and_nothing_else() {
        let (dir, folder) = folder();
        folder.write_atomically("x.json", b"one", 0o640).unwrap();
        folder.write_atomically("x.json", b"two", 0o604).unwrap();
        assert_eq!(std::fs::read(dir.path().join("x.json")).unwrap(), b"two");
        let mode = std::fs::metadata(dir.path().join("x.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o604);
        assert_eq!(folder.names().unwrap(), ["x.json"]);
        // Where it cannot be put, nothing is left behind.
        folder.make_folder_in("sub", 0o700).unwrap();
        assert!(matches!(folder.write_atomically("sub", b"x", 0o600), Err(HostError::Rename { .. })));
        assert_eq!(folder.names().unwrap().len(), 2);
    }

    #[test]
    fn it_stays_the_same_folder_when_its_name_goes_to_another() {
        let (dir, outer) = folder();
        let inner = outer.make_folder_in("a", 0o700).unwrap();
        std::fs::rename(dir.path().join("a"), dir.path().join("b")).unwrap();
        symlink("/tmp", dir.path().join("a")).unwrap();
        inner.create_in("f", 0o600).unwrap();
        assert!(dir.path().join("b/f").exists());
    }

    #[test]
    fn an_entry_is_split_into_its_folder_and_its_name() {
        let (dir, _folder) = folder();
        let (parent, name) = Folder::of_entry(&dir.path().join("app.db")).unwrap();
        assert_eq!((parent.path(), name.as_os_str()), (dir.path(), OsStr::new("app.db")));
        assert!(Folder::of_entry(Path::new("/")).is_err());
        assert_eq!(Folder::of_entry(Path::new("app.db")).unwrap().1, "app.db");
    }
}
