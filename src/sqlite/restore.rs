//! Putting a backup's content into a database that programs have open, through SQLite's own locking (SQLITE.md, section 4).

use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::config::DbConfig;

use super::{Database, Deadline, FaultClass, SqliteFault};

/// Between two tries for a lock.
const RETRY: Duration = Duration::from_millis(5);

impl Database {
    /// Copies this database over `target` in one transaction of the target's, once nobody else can commit to it any more and
    /// `kept` says that what is there was kept. False when it does not: nothing was written then. It must close no descriptor
    /// of the target's files in this process (rule 7).
    ///
    /// # Errors
    /// SQLite's; BUSY when the lock was not to be had before `deadline`. The target is then as it was.
    pub fn restore_into(
        &self,
        target: &mut Database,
        deadline: &Deadline,
        kept: impl FnOnce() -> bool,
    ) -> Result<bool, SqliteFault> {
        let operation = format!("restoring {} into {}", self.path.display(), target.path.display());
        let backup = Backup::new(&self.connection, &mut target.connection)
            .map_err(|error| SqliteFault::new(&operation, &error, None))?;
        let step = |pages: i32| {
            backup.step(pages).map_err(|error| SqliteFault::new(&operation, &error, Some(&self.connection)))
        };
        // A step of no page takes the lock that keeps every other writer out, and in rollback mode every reader; it is held until
        // the end, and the pages wait in the cache. Of this database nothing is held between two steps: `kept` may write it anew.
        while let StepResult::Busy | StepResult::Locked = step(0)? {
            if deadline.is_over() {
                let mut fault = SqliteFault::other(&operation, FaultClass::Busy, "the lock was not to be had in time");
                fault.code = rusqlite::ffi::SQLITE_BUSY;
                return Err(fault);
            }
            std::thread::sleep(deadline.bound(RETRY));
        }
        if !kept() {
            return Ok(false);
        }
        loop {
            match step(-1)? {
                StepResult::Done => return Ok(true),
                StepResult::Busy | StepResult::Locked if deadline.is_over() => {
                    return Err(SqliteFault::other(
                        &operation,
                        FaultClass::Busy,
                        "a reader kept it from being committed",
                    ));
                }
                _ => std::thread::sleep(RETRY),
            }
        }
    }

    /// Empties a database whose header or first page SQLite cannot read, so that a backup can be copied into it: it needs the
    /// database to itself for that moment. Whoever calls it has a durable copy, and a verified backup open.
    ///
    /// # Errors
    /// SQLite's: BUSY while any program reads or writes it, or has it open in WAL mode.
    pub fn reset(&self) -> Result<(), SqliteFault> {
        let set = |on| {
            self.connection
                .set_db_config(DbConfig::SQLITE_DBCONFIG_RESET_DATABASE, on)
                .map_err(|error| self.fault("resetting", &error))
        };
        set(true)?;
        let emptied = self.connection.execute_batch("VACUUM").map_err(|error| self.fault("emptying", &error));
        set(false)?;
        emptied.map(drop)
    }

    /// Gives a private copy another page size. Not where the backup lies: SQLite takes an immutable file for one in memory, and
    /// leaves its page size as it is.
    ///
    /// # Errors
    /// SQLite's.
    pub fn convert(&self, page_size: u32) -> Result<(), SqliteFault> {
        self.set_journal_mode("delete")?;
        self.connection
            .pragma_update(None, "page_size", page_size)
            .and_then(|()| self.connection.execute_batch("VACUUM"))
            .map_err(|error| self.fault(&format!("converting to pages of {page_size} bytes"), &error))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::super::{Access, Deadline};
    use std::path::Path;

    use super::*;

    fn backup_of(path: &Path, dir: &Path) -> std::path::PathBuf {
        let good = dir.join("good.db");
        open(path, Access::Probe).backup_to(&good, &Deadline::never()).unwrap();
        good
    }

    #[test]
    fn what_changed_before_the_lock_was_had_is_left_alone() {
        for mode in ["delete", "wal"] {
            let dir = tempfile::tempdir().unwrap();
            let path = sample(dir.path());
            open(&path, Access::Repair).set_journal_mode(mode).unwrap();
            let good = open(&backup_of(&path, dir.path()), Access::Immutable);
            let app = open(&path, Access::Repair);
            app.batch("DELETE FROM t WHERE a > 1").unwrap();
            let mut target = open(&path, Access::Repair);
            assert!(!good.restore_into(&mut target, &Deadline::never(), || false).unwrap());
            assert_eq!(app.row_counts().unwrap()[0].1, 1, "{mode}");
            let held_off = || app.batch("DELETE FROM t").is_err();
            assert!(
                good.restore_into(&mut target, &Deadline::never(), held_off).unwrap(),
                "{mode}: a commit came between"
            );
            assert_eq!(app.row_counts().unwrap()[0].1, SAMPLE_ROWS, "{mode}");
            assert_eq!(app.journal_mode().unwrap(), mode);
        }
    }

    /// Of what it copies from, SQLite holds nothing between two steps: with another change counter it is read anew.
    #[test]
    fn a_source_that_is_another_once_the_lock_is_had_is_copied_as_it_is_then() {
        for mode in ["delete", "wal"] {
            let dir = tempfile::tempdir().unwrap();
            let path = sample(dir.path());
            open(&path, Access::Repair).set_journal_mode(mode).unwrap();
            let (small, large) = (dir.path().join("small.db"), dir.path().join("large.db"));
            for (file, rows) in [(&small, 1), (&large, 5000)] {
                let db = open(file, Access::Create);
                let fill = format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{rows})");
                db.batch(&format!("CREATE TABLE t(a, b); {fill} INSERT INTO t SELECT i, 'row' FROM n")).unwrap();
            }
            for (first, then, rows) in [(&small, &large, 5000), (&large, &small, 1)] {
                let stand_in = dir.path().join("stand-in.db");
                std::fs::copy(first, &stand_in).unwrap();
                let source = open(&stand_in, Access::Copy);
                let app = open(&path, Access::Repair);
                let mut target = open(&path, Access::Repair);
                let exchange = || {
                    let mut bytes = std::fs::read(then).unwrap();
                    bytes[24..28].copy_from_slice(&4711_u32.to_be_bytes());
                    bytes[92..96].copy_from_slice(&4711_u32.to_be_bytes());
                    std::fs::write(&stand_in, bytes).unwrap();
                    app.batch("DELETE FROM t").is_err()
                };
                assert!(source.restore_into(&mut target, &Deadline::never(), exchange).unwrap(), "{mode}");
                assert_eq!(app.row_counts().unwrap(), [("t".to_owned(), rows)], "{mode}");
                assert!(app.integrity_check(10).ok, "{mode}");
                assert_eq!(app.journal_mode().unwrap(), mode);
            }
        }
    }

    #[test]
    fn a_file_whose_header_is_gone_is_emptied_and_filled_under_an_idle_program() {
        let dir = tempfile::tempdir().unwrap();
        let path = sample(dir.path());
        let good = open(&backup_of(&path, dir.path()), Access::Immutable);
        let app = open(&path, Access::Repair);
        app.touch_schema().unwrap();
        damage(&path, 0, &[0xa5; 100]);
        let mut target = open(&path, Access::Repair);
        let fault = good.restore_into(&mut target, &Deadline::never(), || true).unwrap_err();
        assert_eq!(fault.class, FaultClass::NotADatabase);
        target.reset().unwrap();
        assert!(good.restore_into(&mut target, &Deadline::never(), || true).unwrap());
        assert_eq!(app.row_counts().unwrap()[0].1, SAMPLE_ROWS);
    }

    #[test]
    fn a_converted_copy_has_the_page_size_and_every_row() {
        let dir = tempfile::tempdir().unwrap();
        let path = sample(dir.path());
        let converted = dir.path().join("conv.db");
        open(&path, Access::Repair).set_journal_mode("wal").unwrap();
        std::fs::copy(&path, &converted).unwrap();
        open(&converted, Access::Copy).convert(8192).unwrap();
        let db = open(&converted, Access::Immutable);
        assert_eq!((db.page_size().unwrap(), db.row_counts().unwrap()[0].1), (8192, SAMPLE_ROWS));
        assert!(db.integrity_check(10).ok);
    }

    /// SIGKILL at any moment of a restore leaves the old content or the new, whole: what SQLite wrote is undone by SQLite.
    #[test]
    fn killed_in_the_middle_the_program_finds_the_old_content_or_the_new() {
        const NAME: &str = "sqlite::restore::tests::killed_in_the_middle_the_program_finds_the_old_content_or_the_new";
        if let Some(dir) = std::env::var_os("GUARDIAN_TEST_RESTORE") {
            let dir = std::path::PathBuf::from(dir);
            let good = open(&dir.join("good.db"), Access::Immutable);
            let mut target = open(&dir.join("live.db"), Access::Repair);
            // A small cache: what does not fit is written before the commit.
            target.batch("PRAGMA cache_size=10").unwrap();
            let begun = || std::fs::write(dir.join("begun"), b"").is_ok();
            good.restore_into(&mut target, &Deadline::never(), begun).unwrap();
            return;
        }
        let (mut old, mut new) = (0, 0);
        for (mode, wait_us) in ["delete", "wal"].into_iter().flat_map(|mode| (0..12).map(move |n| (mode, n * n * 400)))
        {
            let dir = tempfile::tempdir().unwrap();
            let live = dir.path().join("live.db");
            let fill = "CREATE TABLE t(a INTEGER PRIMARY KEY, b);
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<3000) INSERT INTO t SELECT i, randomblob(2000) FROM n";
            open(&live, Access::Create).batch(fill).unwrap();
            backup_of(&live, dir.path());
            let app = open(&live, Access::Repair);
            app.set_journal_mode(mode).unwrap();
            app.batch("UPDATE t SET b = randomblob(2000); DELETE FROM t WHERE a > 2990").unwrap();
            let mut child = std::process::Command::new(std::env::current_exe().unwrap())
                .args([NAME, "--exact", "--test-threads=1"])
                .env("GUARDIAN_TEST_RESTORE", dir.path())
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap();
            let until = std::time::Instant::now() + Duration::from_secs(60);
            while !dir.path().join("begun").exists() {
                assert!(std::time::Instant::now() < until, "it did not begin");
                std::thread::yield_now();
            }
            std::thread::sleep(Duration::from_micros(wait_us));
            child.kill().unwrap();
            child.wait().unwrap();
            match app.row_counts().unwrap()[0].1 {
                2990 => old += 1,
                3000 => new += 1,
                rows => panic!("{mode}: {rows} rows after {wait_us} us"),
            }
            assert!(app.integrity_check(10).ok, "{mode} after {wait_us} us");
            app.batch("INSERT INTO t VALUES (100000, 1)").unwrap();
        }
        println!("killed in the middle: {old} kept the old content, {new} had the new");
        assert!(old > 0, "every kill came too late to prove anything");
    }
}
