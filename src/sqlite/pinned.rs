#![allow(unsafe_code)] // A VFS is a table of C functions, and so are its system calls.
//! SQLite's own file access, but for three things that would let the owner of a database's folder lead a privileged guardian
//! elsewhere.
//!
//! | SQLite | here |
//! | --- | --- |
//! | follows links when it makes a path absolute, whoever swapped them in since we looked | a path is taken as it is given: [`Pinned`] gives one that leads through an open folder, and SQLite itself opens nothing through a link in the last component |
//! | opens a side file whatever else it is a name of | a file of several names that others may have planted is refused after it was opened, before anything is done with it |
//! | gives a side file that it opens to the database's owner | only one without a byte, which it has just made: what was there before may be anybody's |

use std::ffi::{CStr, OsStr, c_char, c_int};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rusqlite::ffi;

use crate::host::{Folder, HostError, is_planted_at};

/// The VFS's name.
const NAME: &CStr = c"guardiand";

/// A database's path, through its folder as it was opened: valid as long as this lives.
#[derive(Debug)]
pub(super) struct Pinned {
    folder: Folder,
    pub(super) path: PathBuf,
}

impl Pinned {
    /// Opens the folder.
    pub(super) fn of(path: &Path) -> Result<Pinned, HostError> {
        let (folder, name) = Folder::of_entry(path)?;
        let through = folder.through(&name)?;
        Ok(Pinned { folder, path: through })
    }

    /// What `message` says of the pinned path, said of the one that it stands for.
    pub(super) fn in_words(&self, message: &str) -> String {
        let through = self.path.parent().unwrap_or(&self.path).display().to_string();
        message.replace(&through, &self.folder.path().display().to_string())
    }
}

/// The name of the VFS to open with; `None` where it could not be registered, and then nothing can be opened safely.
pub(super) fn vfs() -> Option<&'static CStr> {
    static REGISTERED: OnceLock<bool> = OnceLock::new();
    REGISTERED.get_or_init(register).then_some(NAME)
}

fn register() -> bool {
    // SAFETY: the default VFS is a static of SQLite's, valid for the life of the process, and a plain table: a copy of it with
    // another name works the same, for its methods only use the `pAppData` that is copied along. The copy is never freed, as
    // `sqlite3_vfs_register` asks for. Replacing a system call swaps one pointer of the table that this VFS and SQLite's own
    // share; ours do what the ones before did, and more only for paths through an open folder, respectively files with bytes.
    unsafe {
        let original = ffi::sqlite3_vfs_find(std::ptr::null());
        let Some(unix) = original.as_ref() else { return false };
        let Some(set_system_call) = unix.xSetSystemCall else { return false };
        let open: SystemCall = std::mem::transmute(open as unsafe extern "C" fn(*const c_char, c_int, c_int) -> c_int);
        let chown: SystemCall =
            std::mem::transmute(chown as unsafe extern "C" fn(c_int, libc::uid_t, libc::gid_t) -> c_int);
        if set_system_call(original, c"open".as_ptr(), open) != ffi::SQLITE_OK
            || set_system_call(original, c"fchown".as_ptr(), chown) != ffi::SQLITE_OK
        {
            return false;
        }
        let mut ours = *unix;
        ours.pNext = std::ptr::null_mut();
        ours.zName = NAME.as_ptr();
        ours.xFullPathname = Some(as_given);
        ffi::sqlite3_vfs_register(Box::into_raw(Box::new(ours)), 0) == ffi::SQLITE_OK
    }
}

type SystemCall = ffi::sqlite3_syscall_ptr;

/// `xFullPathname`: no link is resolved.
unsafe extern "C" fn as_given(_: *mut ffi::sqlite3_vfs, path: *const c_char, room: c_int, out: *mut c_char) -> c_int {
    // SAFETY: SQLite gives a NUL-terminated path, and a buffer of `room` bytes.
    unsafe {
        let path = CStr::from_ptr(path).to_bytes_with_nul();
        if path.first() != Some(&b'/') || usize::try_from(room).is_ok_and(|room| path.len() > room) || room < 0 {
            return ffi::SQLITE_CANTOPEN;
        }
        std::ptr::copy_nonoverlapping(path.as_ptr().cast(), out, path.len());
    }
    ffi::SQLITE_OK
}

/// `open(2)` as SQLite calls it.
unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: c_int) -> c_int {
    // SAFETY: SQLite gives a NUL-terminated path; the descriptor is ours to close until it is returned.
    unsafe {
        let fd = libc::open(path, flags, mode);
        let name = Path::new(OsStr::from_bytes(CStr::from_ptr(path).to_bytes()));
        if fd >= 0 && is_planted_at(name, BorrowedFd::borrow_raw(fd)) {
            libc::close(fd);
            *libc::__errno_location() = libc::ELOOP;
            return -1;
        }
        fd
    }
}

/// `fchown(2)` as SQLite calls it, as root alone: a new file only, and only where that changes something. SQLite calls it each
/// time it opens a WAL, and for an empty one that moved its ctime: a look, or a backup, was then taken for a change of the files.
unsafe extern "C" fn chown(fd: c_int, uid: libc::uid_t, gid: libc::gid_t) -> c_int {
    // SAFETY: a descriptor of SQLite's own, and a buffer for the answer.
    unsafe {
        let mut stat = std::mem::zeroed::<libc::stat>();
        if libc::geteuid() != 0 || libc::fstat(fd, &raw mut stat) != 0 || stat.st_size > 0 {
            return 0;
        }
        if (stat.st_uid, stat.st_gid) == (uid, gid) {
            return 0;
        }
        libc::fchown(fd, uid, gid)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, chown, symlink};
    use std::time::Duration;

    use super::super::testing::*;
    use super::super::{Access, Database, Deadline};

    const USER: u32 = 65_534;

    #[test]
    fn a_folder_behind_a_link_of_ours_is_the_same_folder() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("real")).unwrap();
        symlink("real", dir.path().join("link")).unwrap();
        let real = crashed_wal(&dir.path().join("real"));
        let linked = dir.path().join("link").join(real.file_name().unwrap());
        let db = open(&linked, Access::Probe);
        assert_eq!(db.row_counts().unwrap(), [("t".to_owned(), 10)], "its WAL was not found");
        db.close().unwrap();
    }

    #[test]
    fn a_link_in_the_place_of_a_database_or_of_a_side_file_is_never_followed() {
        let dir = tempfile::tempdir().unwrap();
        let secret = crashed_wal(dir.path());
        let before = std::fs::read(super::super::open::side_file(&secret, "-wal")).unwrap();
        let home = tempfile::tempdir().unwrap();
        let link = home.path().join("app.db");
        symlink(&secret, &link).unwrap();
        for access in [Access::Probe, Access::Copy, Access::Repair, Access::Create, Access::Immutable] {
            let fault = Database::open(&link, access, Duration::ZERO, Deadline::never()).unwrap_err();
            assert!(!fault.message.contains("/proc/self"), "{fault}");
        }
        std::fs::remove_file(&link).unwrap();
        std::fs::copy(&secret, &link).unwrap();
        for suffix in ["-wal", "-shm", "-journal"] {
            symlink(super::super::open::side_file(&secret, "-wal"), home.path().join(format!("app.db{suffix}")))
                .unwrap();
        }
        if let Ok(db) = Database::open(&link, Access::Repair, Duration::ZERO, Deadline::never()) {
            let _refused = db.batch("CREATE TABLE planted(a); PRAGMA wal_checkpoint(TRUNCATE)");
        }
        assert_eq!(std::fs::read(super::super::open::side_file(&secret, "-wal")).unwrap(), before);
    }

    #[test]
    fn a_file_of_roots_under_a_side_files_name_is_neither_read_into_it_nor_given_away() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        for (name, linked) in [("-wal", true), ("-journal", true), ("-wal", false), ("-journal", false)] {
            let (dir, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let db = sample(home.path());
            let side = super::super::open::side_file(&db, name);
            if name == "-wal" {
                rusqlite::Connection::open(&db).unwrap().execute_batch("PRAGMA journal_mode=wal").unwrap();
            }
            let secret = if linked { dir.path().join("secret") } else { side.clone() };
            std::fs::write(&secret, b"nobody else's").unwrap();
            if linked {
                std::fs::hard_link(&secret, &side).unwrap();
            }
            for theirs in [home.path(), &db] {
                chown(theirs, Some(USER), Some(USER)).unwrap();
            }
            for access in [Access::Probe, Access::Repair] {
                if let Ok(db) = Database::open(&db, access, Duration::ZERO, Deadline::never()) {
                    let _refused = db.batch("CREATE TABLE planted(a); PRAGMA wal_checkpoint(TRUNCATE)");
                    let _refused = db.touch_schema();
                }
                if let Ok(facts) = secret.metadata() {
                    assert_eq!(facts.uid(), 0, "{name}: given away");
                }
                if linked {
                    assert_eq!(std::fs::read(&secret).unwrap(), b"nobody else's", "{name}");
                }
            }
        }
    }

    #[test]
    fn a_look_at_an_empty_wal_changes_nothing_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = sample(dir.path());
        // Its program has it open, and everything is written back.
        let program = rusqlite::Connection::open(&path).unwrap();
        program
            .execute_batch("PRAGMA journal_mode=wal; CREATE TABLE more(a); PRAGMA wal_checkpoint(TRUNCATE)")
            .unwrap();
        let wal = super::super::open::side_file(&path, "-wal");
        let before = wal.metadata().unwrap();
        assert_eq!(before.len(), 0, "the WAL is not empty");
        // The clock of a file's times is coarse: a change shows only once it has ticked.
        let mark = dir.path().join("mark");
        while std::fs::write(&mark, b"x").is_ok_and(|()| mark.metadata().unwrap().ctime_nsec() == before.ctime_nsec()) {
        }
        let db = open(&path, Access::Probe);
        db.row_counts().unwrap();
        db.close().unwrap();
        let after = wal.metadata().unwrap();
        assert_eq!((after.ctime(), after.ctime_nsec()), (before.ctime(), before.ctime_nsec()));
        drop(program);
    }

    #[test]
    fn a_side_file_that_is_made_belongs_to_whom_the_database_does() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = sample(dir.path());
        for theirs in [dir.path(), &path] {
            chown(theirs, Some(USER), Some(USER)).unwrap();
        }
        let db = open(&path, Access::Repair);
        db.batch("PRAGMA journal_mode=wal; CREATE TABLE more(a)").unwrap();
        for suffix in ["-wal", "-shm"] {
            assert_eq!(super::super::open::side_file(&path, suffix).metadata().unwrap().uid(), USER, "{suffix}");
        }
    }
}
