//! Giving an entry of a folder another owner and mode, following no link.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid, chmod, chownat, fchmod, fchown, openat};
use rustix::io::Errno;

use super::{FileFacts, FileId, FileKind, Folder, planted_name};

/// Gives the entry `name` of `folder`, which must be this file still, to this owner, group and mode. The owner first: chown clears
/// set-id bits.
///
/// # Errors
/// The operating system's; `ESTALE` when another file stands there now, or it has a name that others may have planted.
pub fn give(folder: &Folder, name: &OsStr, file: FileId, uid: u32, gid: u32, mode: u32) -> io::Result<()> {
    let around = FileFacts::of_fd(folder).map_err(io::Error::other)?;
    let right = |fd: &OwnedFd| -> io::Result<()> {
        let facts = FileFacts::of_fd(fd).map_err(io::Error::other)?;
        let same = facts.id == file && facts.kind == FileKind::Regular && planted_name(&facts, &around).is_none();
        if same { Ok(()) } else { Err(Errno::STALE.into()) }
    };
    let folder = folder.as_fd();
    let (uid, gid, mode) = (Uid::from_raw(uid), Gid::from_raw(gid), Mode::from_raw_mode(mode));
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match openat(folder, name, flags, Mode::empty()) {
        Ok(file) => {
            right(&file)?;
            // An owner who gives nothing away needs no privilege to chmod.
            let now = rustix::fs::fstat(&file)?;
            if (now.st_uid, now.st_gid) != (uid.as_raw(), gid.as_raw()) {
                fchown(&file, Some(uid), Some(gid))?;
            }
            fchmod(&file, mode)?;
        }
        // An owner without read permission may not even open it: the entry itself is pinned by an O_PATH descriptor.
        Err(Errno::ACCESS) => {
            let pin = openat(folder, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
            right(&pin)?;
            let now = rustix::fs::fstat(&pin)?;
            if (now.st_uid, now.st_gid) != (uid.as_raw(), gid.as_raw()) {
                chownat(&pin, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
            }
            chmod(format!("/proc/self/fd/{}", pin.as_raw_fd()).as_str(), mode)?;
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
