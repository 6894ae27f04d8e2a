//! The lock entry of the dotfile VFS: `DB.lock`, a folder without an entry (files without a byte until 2012). It is made for
//! every lock, also for reading, and outlives a holder that dies (SQLITE.md, section 5).

use crate::host::{FileFacts, FileKind};
use crate::job::{DotfileLock, Users};

use super::files::Looked;

/// Which VFS-made files had: others' lock files of that name mostly have another.
const OLD_FILE_MODE: u32 = 0o600;

/// What stands there, if SQLite may have made it. Lock files of that name are made by others too, and are none of ours.
pub(super) fn entry(lock: &Looked) -> Option<DotfileLock> {
    let facts = lock.host.as_ref()?;
    let sqlites = match facts.kind {
        FileKind::Folder => std::fs::read_dir(&lock.path).is_ok_and(|mut entries| entries.next().is_none()),
        FileKind::Regular => is_old_file(facts),
        _ => false,
    };
    let made_ns = i64::try_from(facts.mtime_ns).unwrap_or(0);
    sqlites.then(|| DotfileLock { path: lock.path.clone(), ino: facts.id.ino, made_ns })
}

/// A *file* beside a database in use is some other program's: a SQLite so old is not the one that has it open. Left behind,
/// it cannot be told apart.
pub(super) fn may_be_sqlites(lock: &Looked, users: &Users) -> bool {
    let is_folder = lock.host.as_ref().is_some_and(|facts| facts.kind == FileKind::Folder);
    is_folder || users.holders.is_empty()
}

/// As SQLite made them before 2012.
fn is_old_file(facts: &FileFacts) -> bool {
    facts.size == 0 && facts.mode & 0o777 == OLD_FILE_MODE
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn only_what_sqlite_makes_is_its_lock() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("folder")).unwrap();
        std::fs::create_dir_all(at("full/x")).unwrap();
        for (name, bytes, mode) in [("old", "", 0o600), ("open", "", 0o644), ("pid", "812", 0o600)] {
            std::fs::write(at(name), bytes).unwrap();
            std::fs::set_permissions(at(name), std::fs::Permissions::from_mode(mode)).unwrap();
        }
        std::os::unix::fs::symlink("folder", at("link")).unwrap();
        for (name, is) in [
            ("folder", true),
            ("full", false),
            ("old", true),
            ("open", false),
            ("pid", false),
            ("link", false),
            ("none", false),
        ] {
            assert_eq!(entry(&Looked::at(at(name))).is_some(), is, "{name}");
        }
    }
}
