//! What `statx` says of one file, as a value that can be kept and compared.

use std::fmt;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Statx, StatxFlags, statx};
use serde::{Deserialize, Serialize};

use super::error::{HostError, at};

/// A device number, as in `/proc/locks` and mountinfo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Device {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// What a file *is*, whatever it is called: `st_dev` and inode.
///
/// On btrfs `dev` is the subvolume's and differs from the one in `/proc/locks` and mountinfo (SQLITE.md, rule 21):
/// compare a `FileId` with another `stat`'s alone, and ask [`super::Mounts::lock_device`] for the other one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileId {
    /// `st_dev`.
    pub dev: Device,
    /// Inode number.
    pub ino: u64,
}

/// The kind of thing that stands at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A folder.
    Folder,
    /// A symbolic link, not followed.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A block device.
    BlockDevice,
    /// A character device.
    CharDevice,
    /// Nothing that this program knows.
    Unknown,
}

impl FileKind {
    /// In words, with the article: `a folder`.
    pub fn words(self) -> &'static str {
        match self {
            FileKind::Regular => "a regular file",
            FileKind::Folder => "a folder",
            FileKind::Symlink => "a symbolic link",
            FileKind::Fifo => "a named pipe",
            FileKind::Socket => "a socket",
            FileKind::BlockDevice => "a block device",
            FileKind::CharDevice => "a character device",
            FileKind::Unknown => "of an unknown kind",
        }
    }

    fn of(mode: u32) -> FileKind {
        match FileType::from_raw_mode(mode) {
            FileType::RegularFile => FileKind::Regular,
            FileType::Directory => FileKind::Folder,
            FileType::Symlink => FileKind::Symlink,
            FileType::Fifo => FileKind::Fifo,
            FileType::Socket => FileKind::Socket,
            FileType::BlockDevice => FileKind::BlockDevice,
            FileType::CharacterDevice => FileKind::CharDevice,
            FileType::Unknown => FileKind::Unknown,
        }
    }
}

/// The facts of one file at one instant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileFacts {
    /// What kind of thing it is.
    pub kind: FileKind,
    /// Device and inode.
    pub id: FileId,
    /// Size in bytes.
    pub size: u64,
    /// Last change of content, nanoseconds since the epoch.
    pub mtime_ns: i128,
    /// Last change of content or attributes, nanoseconds since the epoch.
    pub ctime_ns: i128,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits, with set-id and sticky: `0o7777` at most.
    pub mode: u32,
    /// Names the inode has; 0 when the last one was removed.
    pub nlink: u32,
    /// The mount it was reached through, as mountinfo numbers them (Linux 5.8).
    pub mount_id: Option<u64>,
}

impl FileFacts {
    /// The facts of what stands at `path`; a link in its last component is followed only if asked.
    ///
    /// # Errors
    /// [`HostError::Stat`]; `is_absent()` tells a missing file apart.
    pub fn of_path(path: &Path, follow_link: bool) -> Result<FileFacts, HostError> {
        let flags = if follow_link { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
        let stat = statx(CWD, path, flags, Self::mask()).map_err(at(path, HostError::stat))?;
        Ok(Self::from_statx(&stat))
    }

    /// The facts of an open file; `O_PATH` descriptors do too.
    ///
    /// # Errors
    /// [`HostError::Stat`], with the descriptor's number for a path.
    pub fn of_fd(fd: impl AsFd) -> Result<FileFacts, HostError> {
        use std::os::fd::AsRawFd;
        let fd = fd.as_fd();
        let stat = statx(fd, "", AtFlags::EMPTY_PATH, Self::mask())
            .map_err(at(Path::new(&format!("descriptor {}", fd.as_raw_fd())), HostError::stat))?;
        Ok(Self::from_statx(&stat))
    }

    /// When the file at `path` came to be, nanoseconds since the epoch; `None` where its file system does not say.
    pub fn born_ns(path: &Path) -> Option<i128> {
        let stat = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BTIME).ok()?;
        let said = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
        said.then(|| i128::from(stat.stx_btime.tv_sec) * 1_000_000_000 + i128::from(stat.stx_btime.tv_nsec))
    }

    /// Whether nobody seems to have touched the file between two looks: same inode, size and times.
    ///
    /// A write lock leaves no trace here (SQLITE.md, rule 22), nor does a write through a shared mapping at once.
    pub fn same_content_as(&self, earlier: &FileFacts) -> bool {
        self.id == earlier.id
            && self.size == earlier.size
            && self.mtime_ns == earlier.mtime_ns
            && self.ctime_ns == earlier.ctime_ns
    }

    /// Kind and permission bits as `ls -l` writes them: `drwx------`.
    pub fn mode_words(&self) -> String {
        let kind = match self.kind {
            FileKind::Regular => '-',
            FileKind::Folder => 'd',
            FileKind::Symlink => 'l',
            FileKind::Fifo => 'p',
            FileKind::Socket => 's',
            FileKind::BlockDevice => 'b',
            FileKind::CharDevice => 'c',
            FileKind::Unknown => '?',
        };
        let mut words = String::from(kind);
        for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
            let bits = self.mode >> shift;
            words.push(if bits & 4 != 0 { 'r' } else { '-' });
            words.push(if bits & 2 != 0 { 'w' } else { '-' });
            words.push(match (self.mode & special != 0, bits & 1 != 0) {
                (true, true) => letter,
                (true, false) => letter.to_ascii_uppercase(),
                (false, true) => 'x',
                (false, false) => '-',
            });
        }
        words
    }

    pub(super) fn mask() -> StatxFlags {
        StatxFlags::BASIC_STATS | StatxFlags::MNT_ID
    }

    pub(super) fn from_statx(stat: &Statx) -> FileFacts {
        let mode = u32::from(stat.stx_mode);
        let nanos = |seconds: i64, nanos: u32| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        FileFacts {
            kind: FileKind::of(mode),
            id: FileId::from_statx(stat),
            size: stat.stx_size,
            mtime_ns: nanos(stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
            ctime_ns: nanos(stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            mode: mode & 0o7777,
            nlink: stat.stx_nlink,
            mount_id: (stat.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(stat.stx_mnt_id),
        }
    }
}

impl FileId {
    pub(super) fn from_statx(stat: &Statx) -> FileId {
        FileId { dev: Device { major: stat.stx_dev_major, minor: stat.stx_dev_minor }, ino: stat.stx_ino }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn facts_are_what_stat_says() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, b"12345").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let meta = std::fs::metadata(&path).unwrap();
        let facts = FileFacts::of_path(&path, false).unwrap();
        assert_eq!((facts.kind, facts.size, facts.nlink), (FileKind::Regular, 5, 1));
        assert_eq!((facts.id.ino, facts.uid, facts.gid, facts.mode), (meta.ino(), meta.uid(), meta.gid(), 0o640));
        let device = rustix::fs::makedev(facts.id.dev.major, facts.id.dev.minor);
        assert_eq!(device, meta.dev());
        assert_eq!(facts.mtime_ns, i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec()));
        assert_eq!(facts.mode_words(), "-rw-r-----");
        assert_eq!(FileFacts::of_fd(std::fs::File::open(&path).unwrap()).unwrap(), facts);
    }

    #[test]
    fn a_link_is_followed_only_when_asked() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), b"x").unwrap();
        symlink("a", dir.path().join("l")).unwrap();
        assert_eq!(FileFacts::of_path(&dir.path().join("l"), false).unwrap().kind, FileKind::Symlink);
        assert_eq!(FileFacts::of_path(&dir.path().join("l"), true).unwrap().kind, FileKind::Regular);
        assert!(FileFacts::of_path(&dir.path().join("none"), true).unwrap_err().is_absent());
    }

    #[test]
    fn special_bits_are_written_as_ls_writes_them() {
        let dir = tempfile::tempdir().unwrap();
        let mut facts = FileFacts::of_path(dir.path(), false).unwrap();
        for (mode, words) in [(0o1777, "drwxrwxrwt"), (0o2750, "drwxr-s---"), (0o4600, "drwS------"), (0, "d---------")]
        {
            facts.mode = mode;
            assert_eq!(facts.mode_words(), words);
        }
    }
}
