//! The online backup, in one pass: a stepped one that holds no transaction starts over with each commit of a foreign writer and never
//! ends (BASELINES, section 4).

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};

use super::{Access, Database, Deadline, FaultClass, SqliteFault};

/// Between two tries for a lock: short beside any deadline, long beside a transaction.
const RETRY: Duration = Duration::from_millis(10);

impl Database {
    /// Copies this database into a file that does not exist yet, page for page (the same page size, bad pages
    /// included: check the copy). Not synced: a snapshot of a WAL keeps it from being checkpointed, so it is held for no longer than
    /// the copying takes, and making the copy durable is the caller's. Nothing is left at `destination` on failure.
    ///
    /// # Errors
    /// SQLite's; BUSY when the lock was not to be had before `deadline`; a destination that exists.
    pub fn backup_to(&self, destination: &Path, deadline: &Deadline) -> Result<(), SqliteFault> {
        let operation = || format!("backing up {} to {}", self.path.display(), destination.display());
        // SQLite would make it readable for everybody, as far as the umask lets it.
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(destination);
        made.map_err(|error| SqliteFault::other(operation(), FaultClass::CannotOpen, error.to_string()))?;
        let mut target = Database::open(destination, Access::Create, Duration::ZERO, deadline.clone())?;
        target.batch("PRAGMA synchronous=OFF")?;
        let copied = self.backup_into(&mut target, deadline).and_then(|()| target.close());
        if copied.is_err() {
            for suffix in ["", "-journal", "-wal", "-shm"] {
                // It is ours and useless; the error to tell is the backup's.
                let _ = std::fs::remove_file(super::open::side_file(destination, suffix));
            }
        }
        copied
    }

    /// Copies this database over an open one through SQLite's locks, in one transaction of the target: its readers see
    /// the old content or the new. Where the target has another page size and is in WAL mode SQLite answers READONLY:
    /// convert the source first (`VACUUM INTO` at the target's page size).
    ///
    /// # Errors
    /// SQLite's; BUSY when a lock was not to be had before `deadline`. The target is then as it was.
    pub fn backup_into(&self, target: &mut Database, deadline: &Deadline) -> Result<(), SqliteFault> {
        let operation = format!("backing up {} to {}", self.path.display(), target.path.display());
        let backup = Backup::new(&self.connection, &mut target.connection)
            .map_err(|error| SqliteFault::new(&operation, &error, None))?;
        loop {
            match backup.step(-1).map_err(|error| SqliteFault::new(&operation, &error, Some(&self.connection)))? {
                StepResult::Done => return Ok(()),
                StepResult::Busy | StepResult::Locked if deadline.is_over() => {
                    let mut fault =
                        SqliteFault::other(operation, FaultClass::Busy, "the lock was not to be had in time");
                    fault.code = rusqlite::ffi::SQLITE_BUSY;
                    return Err(fault);
                }
                StepResult::Busy | StepResult::Locked => std::thread::sleep(deadline.bound(RETRY)),
                // One pass may still say "more" when the source grew; the next call ends it.
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn a_backup_has_every_row_and_the_page_size() {
        let dir = tempfile::tempdir().unwrap();
        let live = open(&dir.path().join("live.db"), Access::Create);
        live.batch("PRAGMA page_size=1024; PRAGMA journal_mode=wal; CREATE TABLE t(a); INSERT INTO t VALUES (1), (2)")
            .unwrap();
        let source = open(&dir.path().join("live.db"), Access::Probe);
        let copy = dir.path().join("copy.db");
        source.backup_to(&copy, &Deadline::never()).unwrap();
        let copied = open(&copy, Access::Immutable);
        assert!(copied.integrity_check(10).ok);
        assert_eq!((copied.page_size().unwrap(), copied.row_counts().unwrap()), (1024, vec![("t".to_owned(), 2)]));
        assert!(!super::super::open::side_file(&copy, "-wal").exists());
        let again = source.backup_to(&copy, &Deadline::never()).unwrap_err();
        assert!(again.message.contains("exists"));
    }

    #[test]
    fn a_held_lock_ends_a_backup_at_its_deadline_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = sample(dir.path());
        let holder = open(&path, Access::Repair);
        holder.batch("BEGIN EXCLUSIVE").unwrap();
        let copy = dir.path().join("copy.db");
        let fault = open(&path, Access::Probe).backup_to(&copy, &Deadline::after(Duration::ZERO)).unwrap_err();
        assert_eq!(fault.class, FaultClass::Busy);
        assert!(!copy.exists());
    }

    #[test]
    fn a_live_program_sees_what_was_restored_under_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = sample(dir.path());
        let good = dir.path().join("good.db");
        open(&path, Access::Probe).backup_to(&good, &Deadline::never()).unwrap();
        let app = open(&path, Access::Repair);
        app.batch("DELETE FROM t").unwrap();
        let mut target = open(&path, Access::Repair);
        open(&good, Access::Immutable).backup_into(&mut target, &Deadline::never()).unwrap();
        assert_eq!(app.row_counts().unwrap()[0].1, SAMPLE_ROWS);
    }
}
