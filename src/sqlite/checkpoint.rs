//! Emptying a WAL without losing, corrupting or stalling anything: TRUNCATE only (rule 15).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Database, FaultClass, SqliteFault};

/// What a checkpoint did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointReport {
    /// A reader or a writer held it back: the WAL is not truncated, though frames may have been copied.
    pub busy: bool,
    /// Frames in the WAL afterwards; 0 when it was truncated.
    pub log_frames: i64,
    /// Frames that are in the database too.
    pub checkpointed: i64,
}

impl Database {
    /// Copies the WAL into the database and truncates it. Waits up to `timeout` for readers to leave, and keeps
    /// writers out meanwhile: hold it below the program's own busy timeout. An incomplete PASSIVE or RESTART would leave
    /// what the WAL-reset bug of older programs needs; TRUNCATE does not (SQLITE.md, section 9).
    ///
    /// # Errors
    /// SQLite's, and where nothing was done because there is no WAL: −1 is not success.
    pub fn checkpoint_truncate(&self, timeout: Duration) -> Result<CheckpointReport, SqliteFault> {
        // A connection that has never read answers "done" without doing anything.
        self.touch_schema()?;
        let set =
            |span| self.connection.busy_timeout(span).map_err(|error| self.fault("setting the timeout of", &error));
        set(self.deadline.bound(timeout))?;
        let answer = self.connection.query_row("PRAGMA main.wal_checkpoint(TRUNCATE)", [], |row| {
            Ok(CheckpointReport {
                busy: row.get::<_, i64>(0)? != 0,
                log_frames: row.get(1)?,
                checkpointed: row.get(2)?,
            })
        });
        set(self.deadline.bound(self.busy_timeout))?;
        let report = answer.map_err(|error| self.fault("checkpointing", &error))?;
        if !report.busy && (report.log_frames < 0 || report.checkpointed < 0) {
            let operation = format!("checkpointing {}", self.path.display());
            return Err(SqliteFault::other(operation, FaultClass::Other, "nothing was done: it is not in WAL mode"));
        }
        Ok(report)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Access;
    use super::super::open::side_file;
    use super::super::testing::*;
    use super::*;

    #[test]
    fn a_checkpoint_empties_the_wal_and_keeps_every_row() {
        let dir = tempfile::tempdir().unwrap();
        let path = crashed_wal(dir.path());
        let db = open(&path, Access::Repair);
        let report = db.checkpoint_truncate(Duration::ZERO).unwrap();
        assert_eq!(report, CheckpointReport { busy: false, log_frames: 0, checkpointed: 0 });
        assert_eq!(side_file(&path, "-wal").metadata().unwrap().len(), 0);
        assert_eq!(db.row_counts().unwrap(), [("t".to_owned(), 10)]);
    }

    #[test]
    fn a_reader_holds_it_back_and_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = crashed_wal(dir.path());
        let (reader, writer) = (open(&path, Access::Probe), open(&path, Access::Repair));
        reader.batch("BEGIN").unwrap();
        reader.touch_schema().unwrap();
        writer.batch("INSERT INTO t VALUES (11)").unwrap();
        let report = writer.checkpoint_truncate(Duration::ZERO).unwrap();
        assert!(report.busy && report.log_frames > 0, "{report:?}");
        assert!(side_file(&path, "-wal").metadata().unwrap().len() > 0);
    }

    #[test]
    fn without_a_wal_nothing_is_claimed() {
        let dir = tempfile::tempdir().unwrap();
        let db = open(&sample(dir.path()), Access::Repair);
        assert!(db.checkpoint_truncate(Duration::ZERO).unwrap_err().message.contains("not in WAL mode"));
    }
}
