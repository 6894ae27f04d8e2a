//! What /proc tells of one process's files, line by line, and what hides processes from us.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, openat, statx};
use rustix::io::Errno;

use super::facts::{Device, FileFacts, FileId};
use super::procfs;

/// What hides processes from us whatever the file.
pub(super) fn blind_everywhere(we_are_root: bool) -> Vec<String> {
    /// `PROC_PID_INIT_INO` of the kernel's `proc_ns.h`: the initial namespace's inode is fixed.
    const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;
    let mut blind = Vec::new();
    match FileFacts::of_path(Path::new("/proc/self/ns/pid"), true) {
        Ok(facts) if facts.id.ino == INITIAL_PID_NAMESPACE => {}
        Ok(_) => blind.push(
            "guardiand runs in a PID namespace of its own: processes outside of it cannot be seen; run it on the \
             host, or in a container with the host's PID namespace"
                .into(),
        ),
        Err(error) => blind.push(format!("it cannot be told in which PID namespace guardiand runs: {error}")),
    }
    if !we_are_root && !Path::new("/proc/1").exists() {
        blind.push(
            "/proc is mounted with hidepid: other users' processes cannot be seen; put guardiand's user into the \
             group of its gid= option"
                .into(),
        );
    }
    blind
}

#[derive(PartialEq)]
pub(super) enum DescriptorAccess {
    Read,
    Write,
}

/// How a descriptor was opened; `None` for `O_PATH`, which can neither read nor write.
pub(super) fn descriptor_access(pid: i32, fd: i32) -> Option<DescriptorAccess> {
    let info = procfs::text(Path::new(&format!("/proc/{pid}/fdinfo/{fd}"))).unwrap_or_default();
    let flags = procfs::field(&info, "flags").and_then(|octal| u32::from_str_radix(octal, 8).ok());
    // Unreadable: take the worse case.
    let Some(flags) = flags.map(OFlags::from_bits_retain) else { return Some(DescriptorAccess::Write) };
    if flags.contains(OFlags::PATH) {
        None
    } else if flags & OFlags::RWMODE == OFlags::RDONLY {
        Some(DescriptorAccess::Read)
    } else {
        Some(DescriptorAccess::Write)
    }
}

pub(super) fn open_folder(at: impl AsFd, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    openat(at, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// What it is, its names, and when it was made, where the file system knows that. Follows the magic link. `DONT_SYNC`, so that
/// a descriptor on a dead server cannot hold up the pass.
pub(super) fn identity(fds: &OwnedFd, name: &CStr) -> Result<(FileId, u32, Option<i128>), Errno> {
    let asked = StatxFlags::INO | StatxFlags::NLINK | StatxFlags::BTIME;
    let stat = statx(fds, name, AtFlags::STATX_DONT_SYNC, asked)?;
    let knows = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
    let born = &stat.stx_btime;
    let born_ns = knows.then(|| i128::from(born.tv_sec) * 1_000_000_000 + i128::from(born.tv_nsec));
    Ok((FileId::from_statx(&stat), stat.stx_nlink, born_ns))
}

/// What the kernel puts behind the name of an entry that is gone.
pub(super) const DELETED: &[u8] = b" (deleted)";

pub(super) fn deleted_name(path: &Path) -> Vec<u8> {
    [path.as_os_str().as_bytes(), DELETED].concat()
}

/// The name that an entry had.
pub(super) fn without_deleted(name: &[u8]) -> &[u8] {
    name.strip_suffix(DELETED).unwrap_or(name)
}

/// `7f0c-7f0d rw-s 00000000 fe:00 1234   /path`: permissions, device, inode, name.
pub(super) fn parse_mapping(line: &str) -> Option<(&str, Device, u64, &str)> {
    let mut fields = line.splitn(6, ' ');
    let permissions = fields.nth(1)?;
    let (major, minor) = fields.nth(1)?.split_once(':')?;
    let ino = fields.next()?.parse().ok().filter(|ino| *ino != 0)?;
    let device = Device { major: u32::from_str_radix(major, 16).ok()?, minor: u32::from_str_radix(minor, 16).ok()? };
    Some((permissions, device, ino, fields.next().unwrap_or_default().trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_gives_its_device_and_inode() {
        let line = "7f0c000-7f0d000 rw-s 00001000 fe:1f 1234      /srv/app data.db-shm (deleted)";
        let device = Device { major: 0xfe, minor: 0x1f };
        assert_eq!(parse_mapping(line), Some(("rw-s", device, 1234, "/srv/app data.db-shm (deleted)")));
        assert_eq!(parse_mapping("7f0c-7f0d rw-p 00000000 00:00 0 "), None);
        assert_eq!(parse_mapping("nonsense"), None);
    }
}
