//! Whether the programs that use a database in WAL mode use these very files (SQLITE.md, sections 1 and 3).
//!
//! Every connection in WAL mode holds SHARED on the main file and one lock on the `-shm` as long as it lives. Where one of the two
//! is held and the other is not, a file was deleted or replaced under a living program: a second program that writes now, or
//! checkpoints, tears the database, and one that reads may see two databases in one.

use std::fs::File;
use std::time::Duration;

use super::error::HostError;
use super::lock_table::LockMode;
use super::ofd::ask_lock;
use super::sqlite_lock::SqliteLock;

/// Between opening and closing its two files a connection holds only one of the locks.
const LOOKS: u32 = 25;
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// Says what is apart, if anything is, and stays so. `files` opens the main file, and the `-shm` where there is one, anew for each
/// look. Only for a child without a SQLite connection to them: its descriptors are closed again.
///
/// # Errors
/// [`HostError`], also of `files`.
pub fn apart(
    mut files: impl FnMut() -> Result<(File, Option<File>), HostError>,
) -> Result<Option<&'static str>, HostError> {
    let mut seen = None;
    for look in 0..LOOKS {
        if look > 0 {
            std::thread::sleep(BETWEEN_LOOKS);
        }
        let (main, shm) = files()?;
        seen = at_once(&main, shm.as_ref())?;
        if seen.is_none() {
            break;
        }
    }
    Ok(seen)
}

fn at_once(main: &File, shm: Option<&File>) -> Result<Option<&'static str>, HostError> {
    let main = ask_lock(main, SqliteLock::Shared.bytes(), LockMode::Write)?;
    let index = match shm {
        Some(shm) => ask_lock(shm, SqliteLock::WalOpen.bytes(), LockMode::Write)?,
        None => None,
    };
    Ok(match (main, index) {
        // Held for writing it is `locking_mode=EXCLUSIVE` or `unix-excl`, which have no -shm.
        (Some(held), None) if held.mode == LockMode::Read => {
            Some("a program has it open, and not the -shm that is beside it: its own was deleted or replaced")
        }
        (None, Some(_)) => {
            Some("a program has the -shm beside it open, and not this file: its own was deleted or replaced")
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rusqlite::Connection;

    use super::*;

    fn ask(folder: &Path) -> Option<&'static str> {
        let open = |name: &str| File::options().read(true).write(true).open(folder.join(name)).ok();
        apart(|| Ok((open("app.db").unwrap(), open("app.db-shm")))).unwrap()
    }

    #[test]
    fn what_was_deleted_or_replaced_under_a_program_is_told_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let program = Connection::open(at("app.db")).unwrap();
        program.execute_batch("CREATE TABLE t(a)").unwrap();
        assert_eq!(ask(dir.path()), None, "rollback mode");
        program.execute_batch("PRAGMA journal_mode=wal; INSERT INTO t VALUES (1)").unwrap();
        // From another process: closing a descriptor here would drop the program's own locks.
        let told = || {
            let child = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "host::apart::tests::asked_by_the_other_test", "--nocapture"])
                .env("GUARDIAN_TEST_APART", dir.path())
                .output()
                .unwrap();
            assert!(child.status.success(), "{child:?}");
            String::from_utf8_lossy(&child.stdout)
                .lines()
                .find_map(|line| Some(line.split_once("apart: ")?.1.to_owned()))
        };
        assert_eq!(told().as_deref(), Some("None"));
        std::fs::rename(at("app.db-shm"), at("gone")).unwrap();
        assert!(told().unwrap().contains("not the -shm"));
        std::fs::rename(at("gone"), at("app.db-shm")).unwrap();
        std::fs::rename(at("app.db"), at("gone")).unwrap();
        std::fs::write(at("app.db"), b"").unwrap();
        assert!(told().unwrap().contains("not this file"));
        program.close().unwrap();
        assert_eq!(told().as_deref(), Some("None"));
    }

    #[test]
    fn asked_by_the_other_test() {
        if let Some(folder) = std::env::var_os("GUARDIAN_TEST_APART") {
            println!("apart: {:?}", ask(Path::new(&folder)));
        }
    }
}
