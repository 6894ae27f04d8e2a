//! What SQLite itself says: open, integrity, canary. All raw descriptors are closed by now.

use std::path::Path;
use std::time::Duration;

use super::scrub;
use crate::job::{DatabaseSite, IntegrityFacts, IntegrityLevel, OpenFacts, QueryFacts, SqliteFault, TableRows};
use crate::model::FaultClass;
use crate::sqlite::{self, Access, Database, Deadline, IntegrityReport};

/// Lines of a check that are kept.
const LINES: u32 = 20;
/// Rows of a canary that are stepped through: enough to know that it answers.
const CANARY_ROWS: usize = 1000;

/// A file to open, and how.
pub(super) struct Content<'a> {
    pub(super) path: &'a Path,
    pub(super) access: Access,
    /// How long SQLite waits for a lock.
    pub(super) busy: Duration,
    /// How long the user's query may run: in rollback mode it keeps writers out as long.
    pub(super) query: Duration,
}

impl Content<'_> {
    fn with<T>(
        &self,
        deadline: Deadline,
        work: impl FnOnce(&Database) -> Result<T, sqlite::SqliteFault>,
    ) -> Result<T, sqlite::SqliteFault> {
        let database = Database::open(self.path, self.access, self.busy, deadline)?;
        let result = work(&database);
        // What closing could not do (a checkpoint, say) the program's own close will.
        let _ = database.close();
        result
    }

    /// Opens it and reads the schema. The schema's text is told when its cookie is not `remembered`.
    pub(super) fn open(&self, remembered: Option<u32>) -> Result<OpenFacts, SqliteFault> {
        self.with(Deadline::never(), |database| {
            let schema_version = database.schema_version()?;
            let objects = database.touch_schema()?;
            let known = remembered.is_some_and(|cookie| i64::from(cookie.cast_signed()) == schema_version);
            let count = objects.tables.len() + objects.indexes.len() + objects.triggers.len() + objects.views.len();
            // Without a text nothing is remembered, and that is no failure of the database. A program may change its schema
            // between two of these questions: then the text is not that version's.
            let schema = if known { None } else { database.schema_sql().ok() };
            let schema = schema.filter(|_| database.schema_version().is_ok_and(|again| again == schema_version));
            Ok(OpenFacts {
                schema_version,
                journal_mode: database.journal_mode()?,
                objects: u32::try_from(count).unwrap_or(u32::MAX),
                schema,
            })
        })
        .map_err(fault)
    }

    /// The schema cookie alone, as SQLite sees it through a WAL; it is read without parsing the schema.
    pub(super) fn schema_version(&self) -> Option<i64> {
        self.with(Deadline::never(), Database::schema_version).ok()
    }

    /// Checks it, for at most `limit` where it may block writers.
    pub(super) fn check(&self, level: IntegrityLevel, limit: Option<Duration>) -> IntegrityFacts {
        let deadline = limit.map_or_else(Deadline::never, Deadline::after);
        let run = |database: &Database| {
            Ok(match level {
                IntegrityLevel::Full => database.integrity_check(LINES),
                IntegrityLevel::Quick | IntegrityLevel::Suspicion => database.quick_check(LINES),
            })
        };
        match self.with(deadline, run) {
            Ok(report) => facts(level, report),
            Err(error) => facts(level, IntegrityReport { fault: Some(error), ..IntegrityReport::default() }),
        }
    }

    /// Whether SQLite has all that the check would call: the check itself would say what is missing.
    pub(super) fn can_check(&self, level: IntegrityLevel) -> bool {
        let full = level == IntegrityLevel::Full;
        self.with(Deadline::never(), |database| database.can_check(full)).is_ok()
    }

    /// Runs the user's query.
    pub(super) fn query(&self, canary: &str) -> Result<QueryFacts, SqliteFault> {
        let rows = self.with(Deadline::after(self.query), |database| database.canary(canary, CANARY_ROWS));
        rows.map(|rows| QueryFacts { rows: rows as u64 }).map_err(fault)
    }

    /// Counts the rows of every table that can be read.
    pub(super) fn rows(&self) -> Result<Vec<TableRows>, SqliteFault> {
        let counts = self.with(Deadline::never(), Database::row_counts).map_err(fault)?;
        Ok(counts.into_iter().map(|(table, rows)| TableRows { table, rows }).collect())
    }
}

fn facts(level: IntegrityLevel, report: IntegrityReport) -> IntegrityFacts {
    IntegrityFacts {
        level,
        ok: report.ok,
        messages: report.messages,
        damaged_indexes: report.damaged_indexes,
        only_indexes: report.only_indexes,
        only_waste: report.only_waste,
        constraint_messages: report.content,
        fault: report.fault.map(fault),
        unfinished: None,
    }
}

/// What SQLite found, and what it does not see: an index that differs from its table, or a value that its column cannot have, may come from
/// a row whose record is broken, which SQLite reads all the same. An index that was rebuilt from that would forget what the row had held.
pub(super) fn with_records(found: IntegrityFacts, site: &DatabaseSite, path: &Path) -> IntegrityFacts {
    let is_doubtful = found.only_indexes || found.fault.is_none() && !found.constraint_messages.is_empty();
    if !is_doubtful {
        return found;
    }
    let broken = scrub::broken_tables(site, path, LINES as usize);
    if broken.is_empty() {
        return found;
    }
    let messages = broken.into_iter().chain(found.messages).take(LINES as usize).collect();
    IntegrityFacts { ok: false, only_indexes: false, only_waste: false, messages, ..found }
}

/// A check that found nothing.
pub(super) fn sound(level: IntegrityLevel) -> IntegrityFacts {
    facts(level, IntegrityReport { ok: true, ..IntegrityReport::default() })
}

/// A check that was not begun, for it would not have ended in its time.
pub(super) fn interrupted(level: IntegrityLevel) -> IntegrityFacts {
    let message = "it would have kept writers out too long".to_owned();
    let fault = SqliteFault { code: 0, message, errno: None, class: FaultClass::Interrupted };
    IntegrityFacts { fault: Some(fault), ..facts(level, IntegrityReport::default()) }
}

/// True when the check was ended by its limit.
pub(super) fn was_interrupted(facts: &IntegrityFacts) -> bool {
    facts.fault.as_ref().is_some_and(|fault| fault.class == FaultClass::Interrupted)
}

/// True when the error speaks of damaged bytes, so that a check is due.
pub(super) fn speaks_of_damage<T>(result: Option<&Result<T, SqliteFault>>) -> bool {
    matches!(result, Some(Err(fault)) if fault.class == FaultClass::Corrupt)
}

/// True when it is the schema that cannot be read: damage, or words that a newer SQLite wrote.
pub(super) fn is_malformed_schema<T>(result: Option<&Result<T, SqliteFault>>) -> bool {
    matches!(result, Some(Err(fault)) if fault.class == FaultClass::Corrupt && fault.message.contains("malformed database schema"))
}

/// The room's fault as the wire has it.
fn fault(fault: sqlite::SqliteFault) -> SqliteFault {
    SqliteFault { code: fault.code, message: fault.message, errno: fault.errno, class: fault.class }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    /// A database of one row, and that row's record changed from `from` to `to`.
    fn changed(folder: &Path, schema: &str, from: &[u8], to: &[u8]) -> DatabaseSite {
        let path = folder.join("app.db");
        Connection::open(&path).unwrap().execute_batch(schema).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
        bytes[at..at + to.len()].copy_from_slice(to);
        std::fs::write(&path, &bytes).unwrap();
        let scratch = folder.join("scratch");
        DatabaseSite { name: "app".to_owned(), path, user: None, scratch, busy_ms: 20, block_max_ms: 1000 }
    }

    fn checked(site: &DatabaseSite) -> [IntegrityFacts; 2] {
        let content =
            Content { path: &site.path, access: Access::Probe, busy: Duration::ZERO, query: Duration::from_secs(1) };
        let found = content.check(IntegrityLevel::Full, None);
        [found.clone(), with_records(found, site, &site.path)]
    }

    // A text of 64 bytes has the type 141, in two bytes 0x81 0x0d. Less the first bit these are a number's type and an empty text's; SQLite
    // reads as many columns as the table has, and does not see that the record goes on.
    #[test]
    fn a_number_that_a_flipped_bit_made_of_a_text_is_damage() {
        let folder = tempfile::tempdir().unwrap();
        let schema =
            "CREATE TABLE t(id INTEGER PRIMARY KEY, b TEXT); INSERT INTO t(b) VALUES(printf('%-64s', 'sixty-four'))";
        let site = changed(folder.path(), schema, b"\x04\x00\x81\x0dsixty-four", b"\x04\x00\x01");
        let [by_sqlite, all] = checked(&site);
        assert!(by_sqlite.ok, "{by_sqlite:?}");
        assert_eq!(by_sqlite.constraint_messages, ["NUMERIC value in t.b"]);
        assert!(!all.ok, "{all:?}");
        assert!(all.messages[0].starts_with("page 2 of table t: cell 0: "), "{all:?}");
    }

    #[test]
    fn an_index_is_not_rebuilt_from_a_row_whose_record_is_broken() {
        let folder = tempfile::tempdir().unwrap();
        // Its index knows the text still.
        let schema =
            "CREATE TABLE t(b TEXT); CREATE INDEX i ON t(b); INSERT INTO t(b) VALUES(printf('%-64s', 'sixty-four'))";
        let site = changed(folder.path(), schema, b"\x03\x81\x0dsixty-four", b"\x03\x01");
        let [by_sqlite, all] = checked(&site);
        assert!(by_sqlite.only_indexes && !all.only_indexes, "{by_sqlite:?} {all:?}");
        assert!(all.messages.len() > by_sqlite.messages.len(), "{all:?}");
    }

    #[test]
    fn content_that_breaks_its_rules_is_none_and_an_index_that_lacks_a_row_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let schema = "CREATE TABLE t(b CHECK(b > 0)); CREATE TABLE u(b INT); CREATE INDEX i ON u(b);
             PRAGMA ignore_check_constraints=ON; INSERT INTO t VALUES(-7); INSERT INTO u VALUES(300)";
        // The entry of the index: 300, of the row 1.
        let site = changed(folder.path(), schema, b"\x03\x02\x09\x01\x2c", b"\x03\x02\x09\x01\x2d");
        let [by_sqlite, all] = checked(&site);
        assert!(by_sqlite.only_indexes && by_sqlite.constraint_messages.len() == 1, "{by_sqlite:?}");
        assert_eq!(by_sqlite, all);
    }
}
