//! What a database's own user may do with it: root can open everything, so what root sees proves nothing
//! (SQLITE.md, rule 9).

use std::path::{Path, PathBuf};

use rustix::fs::{Access as Ask, AtFlags, CWD, Gid, Uid, accessat};
use rustix::io::Errno;
use rustix::process::{
    DumpableBehavior, Signal, dumpable_behavior, getegid, geteuid, getgroups, parent_process_death_signal,
    set_dumpable_behavior, set_parent_process_death_signal,
};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use serde::{Deserialize, Serialize};

use super::error::{HostError, at};
use super::facts::{FileFacts, FileKind};
use super::user::User;

/// How an answer was come by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    /// The kernel said so, for that user: ACLs, security modules and read-only mounts included.
    Kernel,
    /// Reckoned from owner and mode along the path, because we may not act as that user: ACLs are not seen.
    ModeBits,
}

/// What one user may do with one file and the folder it is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// Whether the file can be read.
    pub readable: bool,
    /// Whether the file can be written.
    pub writable: bool,
    /// Whether files can be made in its folder, as SQLite must for its journal and WAL.
    pub folder_writable: bool,
    /// The first thing that stands in the way, in words: `/srv/app is drwx------ root: user app cannot enter`.
    pub denied: Option<String>,
    /// Its file system is mounted read-only: nobody may write, and neither owner nor mode is the reason.
    pub read_only: bool,
    /// How this is known.
    pub evidence: Evidence,
}

impl Access {
    /// What `user` may do with the file at `path`; links are followed, as the program would.
    ///
    /// As root, the calling thread takes on the user's rights for three system calls: only in a worker, never on a
    /// thread that does other work meanwhile.
    ///
    /// # Errors
    /// [`HostError::Stat`] when the file or a folder above it cannot be looked at by ourselves; `is_absent()` when it
    /// is missing.
    pub fn of(user: &User, path: &Path) -> Result<Access, HostError> {
        let path = path.canonicalize().map_err(at(path, HostError::stat))?;
        let folder = path.parent().unwrap_or(Path::new("/")).to_path_buf();
        let mut access = match ask_kernel(user, &path, &folder) {
            Some(access) => access,
            None => reckon(user, &path, &folder)?,
        };
        if !(access.readable && access.writable && access.folder_writable) && access.denied.is_none() {
            access.denied = Some(explain(user, &path, &folder)?);
        }
        Ok(access)
    }

    /// Whether a program of that user can use the database in full.
    pub fn is_full(&self) -> bool {
        self.readable && self.writable && self.folder_writable
    }
}

/// `None` when we may not act as that user.
fn ask_kernel(user: &User, path: &Path, folder: &Path) -> Option<Access> {
    let ourselves = geteuid();
    let _acting = if ourselves.as_raw() == user.uid {
        None
    } else if ourselves.is_root() {
        Some(ActingAs::begin(user).ok()?)
    } else {
        return None;
    };
    let may = |path: &Path, what| accessat(CWD, path, what, AtFlags::EACCESS);
    let write = may(path, Ask::WRITE_OK);
    let read_only = matches!(write, Err(Errno::ROFS));
    Some(Access {
        readable: may(path, Ask::READ_OK).is_ok(),
        writable: write.is_ok(),
        folder_writable: may(folder, Ask::WRITE_OK | Ask::EXEC_OK).is_ok(),
        denied: read_only.then(|| format!("{} is on a read-only file system", path.display())),
        read_only,
        evidence: Evidence::Kernel,
    })
}

fn reckon(user: &User, path: &Path, folder: &Path) -> Result<Access, HostError> {
    let entered = first_closed_folder(user, folder)?.is_none();
    let file = FileFacts::of_path(path, true)?;
    let above = FileFacts::of_path(folder, true)?;
    Ok(Access {
        readable: entered && bits_for(user, &file) & 4 != 0,
        writable: entered && bits_for(user, &file) & 2 != 0,
        folder_writable: entered && bits_for(user, &above) & 3 == 3,
        denied: None,
        read_only: false,
        evidence: Evidence::ModeBits,
    })
}

/// Names the component that denies, by its mode.
fn explain(user: &User, path: &Path, folder: &Path) -> Result<String, HostError> {
    if let Some((closed, facts)) = first_closed_folder(user, folder)? {
        return Ok(words(user, &closed, &facts, "enter"));
    }
    let file = FileFacts::of_path(path, true)?;
    let bits = bits_for(user, &file);
    if bits & 6 != 6 && file.kind != FileKind::Folder {
        let cannot = match bits & 6 {
            0 => "read or write",
            2 => "read",
            _ => "write",
        };
        return Ok(words(user, path, &file, cannot));
    }
    let above = FileFacts::of_path(folder, true)?;
    if bits_for(user, &above) & 3 != 3 {
        return Ok(words(user, folder, &above, "make files in it, as SQLite must"));
    }
    Ok(format!(
        "user {} is denied {} although its mode would allow it: look for an ACL (getfacl), a security module \
         (SELinux, AppArmor) or an immutable flag (lsattr)",
        user.name,
        path.display()
    ))
}

fn words(user: &User, path: &Path, facts: &FileFacts, cannot: &str) -> String {
    let owner = User::numbered(facts.uid).map_or_else(|_| facts.uid.to_string(), |owner| owner.name);
    format!("{} is {} {owner}: user {} cannot {cannot}", path.display(), facts.mode_words(), user.name)
}

fn first_closed_folder(user: &User, folder: &Path) -> Result<Option<(PathBuf, FileFacts)>, HostError> {
    let mut folders: Vec<&Path> = folder.ancestors().collect();
    folders.reverse();
    for folder in folders {
        let facts = FileFacts::of_path(folder, true)?;
        if bits_for(user, &facts) & 1 == 0 {
            return Ok(Some((folder.into(), facts)));
        }
    }
    Ok(None)
}

/// The three bits of a mode that count for this user; the first class that fits decides, even if a later one gives more.
fn bits_for(user: &User, facts: &FileFacts) -> u32 {
    let shift = match () {
        () if user.uid == 0 => return 7,
        () if user.uid == facts.uid => 6,
        () if user.groups.contains(&facts.gid) => 3,
        () => 0,
    };
    (facts.mode >> shift) & 7
}

/// Does `work` with the rights of the user `uid` and of nobody's group; `None` when we may not act as that user.
pub(super) fn acting_as<T>(uid: u32, work: impl FnOnce() -> T) -> Option<T> {
    let user = User { name: uid.to_string(), uid, groups: Vec::new() };
    let _acting = ActingAs::begin(&user).ok()?;
    Some(work())
}

/// This thread with another user's rights, until it is dropped.
///
/// Only the effective ids of the calling thread change (raw system calls; the C library's would change all threads).
/// The kernel drops the parent-death signal and the dumpable flag on the way (`PR_SET_PDEATHSIG(2const)`,
/// `PR_SET_DUMPABLE(2const)`), so both are put back.
struct ActingAs {
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
    death_signal: Option<Signal>,
    dumpable: DumpableBehavior,
}

impl ActingAs {
    fn begin(user: &User) -> Result<ActingAs, Errno> {
        /// Nobody's group: for a user without any.
        const NO_GROUP: u32 = 65_534;
        let (uid, gid, old_groups) = (geteuid(), getegid(), getgroups()?);
        let (death_signal, dumpable) = (parent_process_death_signal()?, dumpable_behavior()?);
        let groups: Vec<Gid> = user.groups.iter().copied().map(Gid::from_raw).collect();
        let primary = groups.first().copied().unwrap_or(Gid::from_raw(NO_GROUP));
        // Refused in some user namespaces; nothing has changed then.
        set_thread_groups(&groups)?;
        // From here on `acting` restores whatever was changed, also when a later step fails. The user comes last:
        // without root's rights the groups could not be set any more.
        let acting = ActingAs { uid, gid, groups: old_groups, death_signal, dumpable };
        set_thread_res_gid(None, primary, None)?;
        set_thread_res_uid(None, Uid::from_raw(user.uid), None)?;
        Ok(acting)
    }

    fn restore(&self) -> Result<(), Errno> {
        set_thread_res_uid(None, self.uid, None)?;
        set_thread_res_gid(None, self.gid, None)?;
        set_thread_groups(&self.groups)?;
        if self.dumpable != DumpableBehavior::DumpableReadableOnlyByRoot {
            // That one is the kernel's own, and cannot be asked for.
            set_dumpable_behavior(self.dumpable)?;
        }
        set_parent_process_death_signal(self.death_signal)
    }
}

impl Drop for ActingAs {
    fn drop(&mut self) {
        if self.restore().is_err() {
            // A worker that is neither the one nor the other must not go on; its death is a result to the supervisor.
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn chmod(path: &Path, mode: u32) {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    fn stranger() -> User {
        User { name: "app".into(), uid: 3_456_789, groups: vec![3_456_789] }
    }

    #[test]
    fn the_first_class_that_fits_decides() {
        let mut facts = FileFacts::of_path(Path::new("/"), false).unwrap();
        (facts.uid, facts.gid) = (10, 20);
        let user = |uid, gid| User { name: String::new(), uid, groups: vec![gid] };
        for (mode, uid, gid, bits) in [
            (0o640, 10, 99, 6),
            (0o046, 10, 20, 0), // the owner is denied what others may
            (0o640, 11, 20, 4),
            (0o604, 11, 21, 4),
            (0o000, 0, 0, 7),
        ] {
            facts.mode = mode;
            assert_eq!(bits_for(&user(uid, gid), &facts), bits, "{mode:o} {uid}:{gid}");
        }
    }

    #[test]
    fn our_own_access_is_what_the_kernel_says() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.db");
        std::fs::write(&file, b"x").unwrap();
        let me = User::numbered(geteuid().as_raw()).unwrap();
        let access = Access::of(&me, &file).unwrap();
        assert!(access.is_full() && access.denied.is_none() && access.evidence == Evidence::Kernel, "{access:?}");
        assert!(Access::of(&me, &dir.path().join("none")).unwrap_err().is_absent());
    }

    #[test]
    fn mode_bits_name_the_component_that_denies() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        chmod(&root, 0o755);
        let inner = root.join("srv");
        std::fs::create_dir(&inner).unwrap();
        let file = inner.join("a.db");
        std::fs::write(&file, b"x").unwrap();
        let user = stranger();
        for (folder_mode, file_mode, full, says) in [
            (0o700, 0o666, false, "srv is drwx------"),
            (0o755, 0o600, false, "cannot read or write"),
            (0o755, 0o644, false, "a.db is -rw-r--r--"),
            (0o755, 0o666, false, "cannot make files in it"),
            (0o777, 0o666, true, ""),
        ] {
            chmod(&inner, folder_mode);
            chmod(&file, file_mode);
            let access = reckon(&user, &file, &inner).unwrap();
            assert_eq!(access.is_full(), full, "{folder_mode:o} {file_mode:o}");
            if !full {
                let words = explain(&user, &file, &inner).unwrap();
                assert!(words.contains(says) && words.contains("user app"), "{words}");
            }
        }
    }

    #[test]
    fn root_asks_as_the_user_and_is_root_again_afterwards() {
        if !geteuid().is_root() {
            return println!("skipped: needs root");
        }
        set_parent_process_death_signal(None).unwrap();
        let dir = tempfile::tempdir().unwrap();
        chmod(dir.path(), 0o700);
        let file = dir.path().join("a.db");
        std::fs::write(&file, b"x").unwrap();
        chmod(&file, 0o666);
        let groups = getgroups().unwrap();
        let closed = Access::of(&stranger(), &file).unwrap();
        assert_eq!(closed.evidence, Evidence::Kernel);
        assert!(!closed.readable && !closed.writable && !closed.folder_writable, "{closed:?}");
        assert!(closed.denied.unwrap().contains("cannot enter"));
        chmod(dir.path(), 0o777);
        assert!(Access::of(&stranger(), &file).unwrap().is_full());
        assert!(geteuid().is_root() && getegid().as_raw() == 0);
        assert_eq!(getgroups().unwrap(), groups);
        std::fs::write(dir.path().join("as-root"), b"x").unwrap();
        chmod(&file, 0o000);
        assert!(Access::of(&User::named("root").unwrap(), &file).unwrap().is_full());
    }
}
