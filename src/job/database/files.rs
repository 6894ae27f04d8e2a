//! What a probe says of the files, from `stat`, the mounts and the rights of the program's user.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What `stat` says of one path, never following a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileState {
    /// Nothing there.
    Missing,
    /// A regular file.
    File(FileFacts),
    /// A symbolic link.
    Symlink {
        /// Where it points.
        target: PathBuf,
    },
    /// Something else.
    Other {
        /// "a directory", "a FIFO", "a block device", "a character device", "a socket".
        what: String,
    },
    /// `stat` failed.
    Unreadable {
        /// The errno.
        errno: i32,
        /// In words, with the component that denies.
        message: String,
    },
}

impl FileState {
    /// The facts, if it is a regular file.
    pub fn file(&self) -> Option<&FileFacts> {
        match self {
            FileState::File(facts) => Some(facts),
            _ => None,
        }
    }

    /// The size in bytes; 0 unless it is a regular file.
    pub fn size(&self) -> u64 {
        self.file().map_or(0, |file| file.size)
    }
}

/// What `stat` says of a regular file. Times in nanoseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileFacts {
    /// Device.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
    /// Bytes.
    pub size: u64,
    /// Last content change.
    pub mtime_ns: i64,
    /// Last metadata change.
    pub ctime_ns: i64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits (07777).
    pub mode: u32,
    /// Hard links.
    pub nlink: u64,
}

impl FileFacts {
    /// The coarsest clock that Linux stamps a write with, in nanoseconds, with room to spare: a write so shortly after another does
    /// not show in the file's time.
    pub const WRITE_TICK_NS: i64 = 20_000_000;

    /// Whether a write after `at` would show in the file's time. A file system that has no finer clock than whole seconds (FAT: two of
    /// them) stamps a whole one.
    pub fn is_settled_at(&self, at: Timestamp) -> bool {
        let is_coarse = self.mtime_ns % 1_000_000_000 == 0;
        let tick_ns = if is_coarse { 2_000_000_000 } else { Self::WRITE_TICK_NS };
        at.as_nanosecond() > i128::from(self.mtime_ns) + i128::from(tick_ns)
    }

    /// Nobody has written the file since it was as `before` says. A device's number may change with the boot.
    pub fn is_unwritten_since(&self, before: &FileFacts) -> bool {
        (self.ino, self.size, self.mtime_ns) == (before.ino, before.size, before.mtime_ns)
    }
}

/// What a plan rests on: the files as the look saw them that it was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Basis {
    /// Main file.
    pub main: FileState,
    /// `-wal`.
    pub wal: FileState,
    /// `-journal`.
    pub journal: FileState,
    /// Nobody had it open, and another file shall take its place: then whatever was changed since was not judged. Else programs may
    /// go on writing, and what must be the same is which file it is, and that it has content.
    pub alone: bool,
}

/// Who owns a file and how it may be used: put back onto what replaces it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits (07777).
    pub mode: u32,
}

/// What a file has beside owner and mode: put back with them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// Extended attributes by name: `user.*`, `security.selinux` and the ACL.
    pub xattrs: Vec<(String, Vec<u8>)>,
    /// Project of the quota.
    pub project: Option<u32>,
    /// Its blocks are overwritten in place (btrfs).
    pub no_cow: bool,
}

impl From<&FileFacts> for Owner {
    fn from(file: &FileFacts) -> Owner {
        Owner { uid: file.uid, gid: file.gid, mode: file.mode }
    }
}

/// How much of a WAL is in the main file, as its index told while no checkpoint was under way and the main file stood still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copied {
    /// Salts of the WAL's generation.
    pub salt: [u32; 2],
    /// Its first so many frames.
    pub frames: u32,
}

/// The state of a database's files: equal means that nothing that `stat` and the header can tell has changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Main file.
    pub main: FileFacts,
    /// `-wal`, when there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal: Option<FileFacts>,
    /// `-journal`, when there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal: Option<FileFacts>,
    /// The header's change counter (offset 24).
    pub change_counter: u32,
    /// The header's schema cookie (offset 40).
    pub schema_cookie: u32,
    /// The header says WAL (bytes 18 and 19 are 2).
    pub wal_mode: bool,
    /// What checkpoints had copied into the main file by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copied: Option<Copied>,
    /// Not to be compared: a lock of SQLite's was held while we looked (`stat` is identical while a file is write-locked,
    /// rule 22), or a file had changed so shortly before that its time stamp could not show a further change. Locks that an
    /// idle program in WAL mode holds all its life do not count.
    pub locked: bool,
}

/// The file system and the boot that the file was seen on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Place {
    /// Identifies the mounted file system (type, device and id) under the file's folder; empty when the folder is missing.
    pub fs_id: String,
    /// Its type, such as `ext4`.
    pub fs_type: String,
    /// In memory only: its content does not outlive a boot.
    pub volatile: bool,
    /// Why nothing on it may be healed ("locks on NFS cannot be seen"); `None` on a local one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observe_only: Option<String>,
    /// Mounted read-only.
    pub read_only: bool,
    /// Read-only after an error, and how it is opened again: remounting does not help.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repair: Option<String>,
    /// Read-only for guardiand alone, by its own unit; programs can write.
    #[serde(default)]
    pub walled_off: bool,
    /// Bytes free for an ordinary user.
    pub free_bytes: u64,
    /// Inodes free; `u64::MAX` where the file system does not count them.
    pub free_inodes: u64,
    /// This boot.
    pub boot_id: String,
    /// Owner, group and mode of its folder and of all that it is in, as a digest: who may get to the file at all.
    #[serde(default)]
    pub way: u64,
    /// The folder itself is there.
    pub folder_exists: bool,
    /// The folder's last content change, nanoseconds since the epoch: when a file in it vanished.
    pub folder_mtime_ns: i64,
}

/// What the program's user may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// Whose access was judged.
    pub uid: u32,
    /// May read the file.
    pub read: bool,
    /// May write the file.
    pub write: bool,
    /// May create files beside it.
    pub folder_write: bool,
    /// What denies, with its mode; empty when all is granted.
    pub detail: String,
    /// The probing process itself may read the file.
    pub ours: bool,
}
