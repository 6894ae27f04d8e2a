//! Who a file belongs to and what may be done with it, kept from one file and put on its replacement.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{Gid, IFlags, Mode, Uid, XattrFlags, fchmod, fchown, fgetxattr, flistxattr, fremovexattr, fsetxattr};
use rustix::io::Errno;
use rustix::ioctl::{Getter, Opcode, Setter, ioctl, opcode};
use serde::{Deserialize, Serialize};

use super::error::HostError;
use super::facts::FileFacts;

/// The ACL of a file (`acl(5)`) as the kernel stores it.
const ACL: &str = "system.posix_acl_access";

/// Owner, mode, ACL, labels and project of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ownership {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits with set-id and sticky.
    pub mode: u32,
    /// Extended attributes: `user.*`, `security.selinux` and the ACL.
    pub xattrs: Vec<(String, Vec<u8>)>,
    /// Project of the quota, where the file system has one.
    pub project: Option<u32>,
    /// The file system overwrites its blocks in place instead of copying them (btrfs: `chattr +C`).
    #[serde(default)]
    pub no_cow: bool,
}

impl Ownership {
    /// Reads it from an open file.
    ///
    /// # Errors
    /// [`HostError::Stat`]; attributes that cannot be read are left out, as on a file system without any.
    pub fn of(fd: impl AsFd) -> Result<Ownership, HostError> {
        let fd = fd.as_fd();
        let facts = FileFacts::of_fd(fd)?;
        let project = project_of(fd).ok().map(|attributes| attributes.project);
        let no_cow = rustix::fs::ioctl_getflags(fd).is_ok_and(|flags| flags.contains(IFlags::NOCOW));
        Ok(Ownership { uid: facts.uid, gid: facts.gid, mode: facts.mode, xattrs: read_xattrs(fd), project, no_cow })
    }

    /// Puts on a file that is still *empty* what later has no effect: the flag against copy-on-write, and the project whose
    /// quota its blocks shall count against. What failed comes back in words.
    pub fn prepare(&self, fd: impl AsFd) -> Vec<String> {
        let fd = fd.as_fd();
        let mut failed = Vec::new();
        if self.no_cow {
            note(&mut failed, "the flag against copy-on-write", apply_no_cow(fd));
        }
        if let Some(project) = self.project {
            note(&mut failed, &format!("project {project}"), apply_project(fd, project));
        }
        failed
    }

    /// Puts it on an open file, as far as we may; what failed comes back in words, empty when nothing did.
    pub fn apply(&self, fd: impl AsFd) -> Vec<String> {
        let fd = fd.as_fd();
        let mut failed = Vec::new();
        // Owner first: changing it takes set-id bits away. ACL last: it holds the group's bits.
        note(&mut failed, &format!("owner {}:{}", self.uid, self.gid), self.apply_owner(fd));
        note(&mut failed, &format!("mode {:04o}", self.mode), fchmod(fd, Mode::from_raw_mode(self.mode)));
        if self.xattrs.iter().all(|(name, _)| name != ACL) {
            note(&mut failed, "absence of an ACL", remove_inherited_acl(fd));
        }
        let (acl, others): (Vec<_>, Vec<_>) = self.xattrs.iter().partition(|(name, _)| name == ACL);
        for (name, value) in others.into_iter().chain(acl) {
            note(&mut failed, name, fsetxattr(fd, name.as_str(), value, XattrFlags::empty()));
        }
        if let Some(project) = self.project {
            note(&mut failed, &format!("project {project}"), apply_project(fd, project));
        }
        failed
    }

    fn apply_owner(&self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        match FileFacts::of_fd(fd) {
            // Without privileges, changing it to what it is already would be refused.
            Ok(facts) if (facts.uid, facts.gid) == (self.uid, self.gid) => Ok(()),
            _ => fchown(fd, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid))),
        }
    }
}

fn note(failed: &mut Vec<String>, what: &str, answer: Result<(), Errno>) {
    if let Err(errno) = answer {
        failed.push(format!("{what} could not be set: {}", io::Error::from(errno)));
    }
}

/// Only an empty file takes it.
fn apply_no_cow(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    let now = rustix::fs::ioctl_getflags(fd)?;
    if now.contains(IFlags::NOCOW) {
        return Ok(());
    }
    rustix::fs::ioctl_setflags(fd, now | IFlags::NOCOW)
}

fn read_xattrs(fd: BorrowedFd<'_>) -> Vec<(String, Vec<u8>)> {
    let mut names = Vec::new();
    let listed = growing(|buffer| flistxattr(fd, buffer), &mut names);
    let wanted = |name: &&str| name.starts_with("user.") || *name == ACL || *name == "security.selinux";
    let names = if listed { String::from_utf8_lossy(&names).into_owned() } else { String::new() };
    let read = |name: &str| {
        let mut value = Vec::new();
        growing(|buffer| fgetxattr(fd, name, buffer), &mut value).then(|| (name.to_owned(), value))
    };
    names.split('\0').filter(wanted).filter_map(read).collect()
}

/// Calls `read` with a buffer that grows until the answer fits; the kernel's own limit is 64 KiB.
fn growing(mut read: impl FnMut(&mut [u8]) -> Result<usize, Errno>, out: &mut Vec<u8>) -> bool {
    for size in [1 << 8, 1 << 12, 1 << 16] {
        out.resize(size, 0);
        match read(out) {
            Ok(len) => {
                out.truncate(len);
                return true;
            }
            Err(Errno::RANGE) => {}
            Err(_) => break,
        }
    }
    out.clear();
    false
}

/// A folder's default ACL gives new files one that the original did not have.
fn remove_inherited_acl(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    match fremovexattr(fd, ACL) {
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        answer => answer,
    }
}

/// `struct fsxattr` of `linux/fs.h`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct FsAttributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    padding: [u8; 8],
}

/// `FS_IOC_FSGETXATTR`.
const GET: Opcode = opcode::read::<FsAttributes>(b'X', 31);
/// `FS_IOC_FSSETXATTR`.
const SET: Opcode = opcode::write::<FsAttributes>(b'X', 32);

fn project_of(fd: BorrowedFd<'_>) -> Result<FsAttributes, Errno> {
    // SAFETY: this opcode writes one `struct fsxattr`, whose layout `FsAttributes` has; any bits are valid integers.
    unsafe { ioctl(fd, Getter::<GET, FsAttributes>::new()) }
}

fn apply_project(fd: BorrowedFd<'_>, project: u32) -> Result<(), Errno> {
    let now = project_of(fd)?;
    if now.project == project {
        return Ok(());
    }
    // SAFETY: this opcode reads one `struct fsxattr`, whose layout `FsAttributes` has.
    unsafe { ioctl(fd, Setter::<SET, FsAttributes>::new(FsAttributes { project, ..now })) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mode_and_attributes_pass_from_one_file_to_another() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let old = std::fs::File::create(dir.path().join("old")).unwrap();
        let new = std::fs::File::create(dir.path().join("new")).unwrap();
        fchmod(&old, Mode::from_raw_mode(0o2640)).unwrap();
        let large = vec![7_u8; 1000];
        match fsetxattr(&old, "user.guardian.test", &large, XattrFlags::empty()) {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP) => return println!("skipped: the file system has no user attributes"),
            Err(errno) => panic!("{errno}"),
        }
        let ownership = Ownership::of(&old).unwrap();
        assert_eq!(ownership.mode, 0o2640);
        assert_eq!(ownership.xattrs, [("user.guardian.test".to_owned(), large)]);
        assert_eq!(ownership.apply(&new), Vec::<String>::new());
        assert_eq!(Ownership::of(&new).unwrap(), ownership);
    }

    #[test]
    fn root_owner_and_acl_pass_too_and_an_inherited_acl_goes() {
        if !rustix::process::geteuid().is_root() {
            return println!("skipped: needs root");
        }
        let dir = tempfile::tempdir_in(".").unwrap();
        let [plain, listed, new] = ["plain", "listed", "new"].map(|name| dir.path().join(name));
        let [plain, listed, new] = [plain, listed, new].map(|path| std::fs::File::create(path).unwrap());
        fchown(&listed, Some(Uid::from_raw(12345)), Some(Gid::from_raw(54321))).unwrap();
        // Version 2; owner rw-, user 4242 r--, group r--, mask r--, other ---.
        let mut acl = vec![2, 0, 0, 0];
        for (tag, bits, id) in [(1, 6, u32::MAX), (2, 4, 4242), (4, 4, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)]
        {
            acl.extend_from_slice(&[tag, 0, bits, 0]);
            acl.extend_from_slice(&u32::to_le_bytes(id));
        }
        match fsetxattr(&listed, ACL, &acl, XattrFlags::empty()) {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP) => return println!("skipped: the file system has no ACLs"),
            Err(errno) => panic!("{errno}"),
        }
        let ownership = Ownership::of(&listed).unwrap();
        assert_eq!((ownership.uid, ownership.gid, &ownership.xattrs[0].1), (12345, 54321, &acl));
        assert_eq!(ownership.apply(&new), Vec::<String>::new());
        assert_eq!(Ownership::of(&new).unwrap(), ownership);
        let without = Ownership::of(&plain).unwrap();
        assert_eq!(without.apply(&new), Vec::<String>::new());
        assert_eq!(Ownership::of(&new).unwrap(), without);
    }
}
