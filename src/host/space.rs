//! How much room a file system has left, for a program without privileges.

use std::path::Path;

use rustix::fs::{StatVfsMountFlags, statvfs};
use serde::{Deserialize, Serialize};

use super::error::{HostError, at};

/// Free room on one file system (`statvfs(3)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// Bytes that an unprivileged program may still use; root's reserve is not counted. `u64::MAX` where the file system does
    /// not count them.
    pub free_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
    /// Inodes that an unprivileged program may still use; `None` where the file system does not count them.
    pub free_inodes: Option<u64>,
    /// Whether it is mounted read-only.
    pub read_only: bool,
    /// Size of a block in bytes: what the smallest file takes.
    pub block_bytes: u64,
}

impl Space {
    /// Of so many bytes that should stay free, what may be asked of a file system of this size: a small one would never have them.
    pub fn floor(&self, bytes: u64) -> u64 {
        bytes.min(self.total_bytes / 16)
    }

    /// The room on the file system that holds `path`, which must exist.
    ///
    /// # Errors
    /// [`HostError::FileSystem`].
    pub fn at(path: &Path) -> Result<Space, HostError> {
        let vfs = statvfs(path).map_err(at(path, HostError::file_system))?;
        // btrfs and others without a fixed inode table report zero of zero.
        let counts_inodes = vfs.f_files > 0;
        // So do FUSE file systems that do not implement statfs, and say nothing of being full.
        let counts_blocks = vfs.f_blocks > 0;
        Ok(Space {
            free_bytes: if counts_blocks { vfs.f_bavail.saturating_mul(vfs.f_frsize) } else { u64::MAX },
            total_bytes: vfs.f_blocks.saturating_mul(vfs.f_frsize),
            free_inodes: counts_inodes.then_some(vfs.f_favail),
            read_only: vfs.f_flag.contains(StatVfsMountFlags::RDONLY),
            block_bytes: vfs.f_frsize,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_can_be_written_to_has_room_and_is_not_read_only() {
        let dir = tempfile::tempdir().unwrap();
        let space = Space::at(dir.path()).unwrap();
        assert!(space.free_bytes > 0 && space.free_bytes <= space.total_bytes, "{space:?}");
        assert!(!space.read_only && space.block_bytes >= 512, "{space:?}");
    }

    #[test]
    fn a_file_system_that_counts_no_blocks_is_not_full() {
        assert_eq!(Space::at(Path::new("/proc")).unwrap().free_bytes, u64::MAX);
    }

    #[test]
    fn a_path_that_is_gone_is_an_error_that_names_it() {
        let error = Space::at(Path::new("/no/such/folder")).unwrap_err();
        assert!(error.is_absent() && error.to_string().contains("/no/such/folder"), "{error}");
    }
}
