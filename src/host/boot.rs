//! Which boot, and which file system: what tells a missing file from a missing mount.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::{HostError, at};
use super::facts::{Device, FileFacts};
use super::procfs;

/// The id of this boot, a UUID in text (`random(4)`, `/proc/sys/kernel/random/boot_id`).
///
/// # Errors
/// [`HostError::ReadProc`].
pub fn boot_id() -> Result<String, HostError> {
    let text = procfs::text(Path::new("/proc/sys/kernel/random/boot_id"))?;
    Ok(text.trim().to_owned())
}

/// Milliseconds since this boot, suspend included: what processes' starts are told in.
pub fn boot_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

/// The identity of a file system, to be remembered beside a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FsId {
    /// `f_type` of `statfs(2)`.
    pub fs_type: i64,
    /// `f_fsid` of `statvfs(2)`: derived from the UUID on ext4 and btrfs, from the device on xfs; 0 where unknown.
    pub fsid: u64,
    /// `st_dev`: may change from boot to boot.
    pub dev: Device,
}

impl FsId {
    /// The file system that `path` is on: a folder that exists, when the file itself may be gone.
    ///
    /// # Errors
    /// [`HostError::FileSystem`] or [`HostError::Stat`].
    pub fn of(path: &Path) -> Result<FsId, HostError> {
        FsId::beneath(path, FileFacts::of_path(path, true)?.id.dev)
    }

    /// As [`FsId::of`], of a path that was looked at: it is on the device `dev`.
    ///
    /// # Errors
    /// [`HostError::FileSystem`].
    pub fn beneath(path: &Path, dev: Device) -> Result<FsId, HostError> {
        let stat = rustix::fs::statfs(path).map_err(at(path, HostError::file_system))?;
        let vfs = rustix::fs::statvfs(path).map_err(at(path, HostError::file_system))?;
        // The type is 32 or 64 bits wide, by architecture.
        #[allow(clippy::useless_conversion)]
        let fs_type = i64::from(stat.f_type);
        Ok(FsId { fs_type, fsid: vfs.f_fsid, dev })
    }

    /// In words that stay the same from boot to boot, as far as the file system's own id does: the device's number counts only where
    /// there is nothing better.
    pub fn name(&self) -> String {
        match self.fsid {
            0 => format!("{:x}/dev {}", self.fs_type, self.dev),
            fsid => format!("{:x}/{fsid:x}", self.fs_type),
        }
    }

    /// Whether both are one file system: by its own id where it has one, else by device.
    pub fn same_as(&self, other: &FsId) -> bool {
        self.fs_type == other.fs_type && self.fsid == other.fsid && (self.fsid != 0 || self.dev == other.dev)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_id_is_a_uuid_that_stays() {
        let id = boot_id().unwrap();
        assert_eq!((id.len(), id.matches('-').count()), (36, 4), "{id}");
        assert_eq!(id, boot_id().unwrap());
    }

    #[test]
    fn two_file_systems_have_two_ids() {
        let root = FsId::of(Path::new("/")).unwrap();
        let proc = FsId::of(Path::new("/proc")).unwrap();
        assert!(root.same_as(&FsId::of(Path::new("/")).unwrap()));
        assert!(!root.same_as(&proc));
    }

    #[test]
    fn a_device_that_changed_its_number_over_a_boot_is_the_same_file_system() {
        let a = FsId { fs_type: 0xEF53, fsid: 77, dev: Device { major: 8, minor: 1 } };
        let moved = FsId { dev: Device { major: 8, minor: 17 }, ..a };
        assert!(a.same_as(&moved));
        assert!(!FsId { fsid: 0, ..a }.same_as(&FsId { fsid: 0, ..moved }));
    }
}
