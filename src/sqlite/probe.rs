//! Cheap questions to a database: each below a millisecond on a healthy one.

use rusqlite::types::ValueRef;

use super::{Database, FaultClass, SqliteFault};

/// The names in a schema, SQLite's own left out, in order of creation.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SchemaObjects {
    /// Tables, virtual and shadow ones included.
    pub tables: Vec<String>,
    /// Indexes that were created by name.
    pub indexes: Vec<String>,
    /// Triggers.
    pub triggers: Vec<String>,
    /// Views.
    pub views: Vec<String>,
}

impl SchemaObjects {
    /// True for a database in which nothing was ever created: "ok" by every check, and yet not health (rule 10).
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty() && self.views.is_empty()
    }
}

impl Database {
    /// The schema cookie. Reads the header through SQLite, and so through a WAL.
    ///
    /// # Errors
    /// SQLite's.
    pub fn schema_version(&self) -> Result<i64, SqliteFault> {
        self.pragma_integer("schema_version")
    }

    /// Forces SQLite to parse the whole schema, and lists it.
    ///
    /// # Errors
    /// SQLite's; see [`SqliteFault::is_malformed_schema`].
    pub fn touch_schema(&self) -> Result<SchemaObjects, SqliteFault> {
        let sql = "SELECT type, name FROM sqlite_schema WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY rowid";
        self.list_schema(sql).map_err(|error| self.fault("reading the schema of", &error))
    }

    fn list_schema(&self, sql: &str) -> rusqlite::Result<SchemaObjects> {
        let mut objects = SchemaObjects::default();
        let mut statement = self.connection.prepare(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let name = text(row.get_ref(1)?);
            match text(row.get_ref(0)?).as_str() {
                "table" => objects.tables.push(name),
                "index" => objects.indexes.push(name),
                "trigger" => objects.triggers.push(name),
                "view" => objects.views.push(name),
                _ => {}
            }
        }
        Ok(objects)
    }

    /// `delete`, `truncate`, `persist`, `wal`, `off` or `memory`.
    ///
    /// # Errors
    /// SQLite's.
    pub fn journal_mode(&self) -> Result<String, SqliteFault> {
        self.pragma_text("journal_mode")
    }

    /// Changes the journal mode, which needs the database to itself.
    ///
    /// # Errors
    /// SQLite's, and when SQLite stays in another mode than `mode`.
    pub fn set_journal_mode(&self, mode: &str) -> Result<(), SqliteFault> {
        let now: String = self
            .connection
            .pragma_update_and_check(None, "journal_mode", mode, |row| row.get(0))
            .map_err(|error| self.fault(&format!("setting journal_mode={mode} of"), &error))?;
        if now.eq_ignore_ascii_case(mode) {
            return Ok(());
        }
        let operation = format!("setting journal_mode={mode} of {}", self.path.display());
        Err(SqliteFault::other(operation, FaultClass::Other, format!("it stays in journal_mode={now}")))
    }

    /// Bytes per page.
    ///
    /// # Errors
    /// SQLite's.
    pub fn page_size(&self) -> Result<u32, SqliteFault> {
        Ok(u32::try_from(self.pragma_integer("page_size")?).unwrap_or(0))
    }

    /// `UTF-8`, `UTF-16le` or `UTF-16be`.
    ///
    /// # Errors
    /// SQLite's.
    pub fn encoding(&self) -> Result<String, SqliteFault> {
        self.pragma_text("encoding")
    }

    /// Runs the user's query and steps through at most `max_rows` of its answer; the number of rows seen.
    ///
    /// # Errors
    /// SQLite's, and SQL that would write or answers nothing.
    pub fn canary(&self, sql: &str, max_rows: usize) -> Result<usize, SqliteFault> {
        let fault = |error: rusqlite::Error| self.fault("running the canary on", &error);
        let refused = || {
            let operation = format!("running the canary on {}", self.path.display());
            SqliteFault::other(operation, FaultClass::Schema, format!("refused: {CANARY}"))
        };
        if !is_query(sql) {
            return Err(refused());
        }
        let mut statement = self.connection.prepare(sql).map_err(fault)?;
        if !statement.readonly() {
            return Err(refused());
        }
        let mut rows = statement.query([]).map_err(fault)?;
        let mut seen = 0;
        while seen < max_rows && rows.next().map_err(fault)?.is_some() {
            seen += 1;
        }
        Ok(seen)
    }

    /// Tries a write and takes it back. `BEGIN IMMEDIATE` alone passes on a read-only file and on a full disk; creating
    /// a table in it does not (SQLITE.md, section 7). A full disk under a WAL shows only at a commit: ask statvfs.
    ///
    /// # Errors
    /// SQLite's: BUSY, READONLY, FULL and so on.
    pub fn write_probe(&self) -> Result<(), SqliteFault> {
        let run = |sql: &str| self.connection.execute_batch(sql);
        let tried = run("PRAGMA query_only=OFF")
            .and_then(|()| run("BEGIN IMMEDIATE"))
            .and_then(|()| run("CREATE TABLE \"guardian write probe\"(x)"))
            .map_err(|error| self.fault("probing a write to", &error));
        let rolled_back = if self.connection.is_autocommit() {
            Ok(())
        } else {
            run("ROLLBACK").map_err(|error| self.fault("taking back the probing write to", &error))
        };
        if matches!(self.access, super::Access::Probe | super::Access::ReadOnly | super::Access::Immutable) {
            run("PRAGMA query_only=ON").map_err(|error| self.fault("ending the write probe of", &error))?;
        }
        tried.and(rolled_back)
    }

    pub(super) fn pragma_integer(&self, name: &str) -> Result<i64, SqliteFault> {
        self.connection
            .pragma_query_value(None, name, |row| row.get(0))
            .map_err(|error| self.fault(&format!("reading {name} of"), &error))
    }

    pub(super) fn pragma_text(&self, name: &str) -> Result<String, SqliteFault> {
        self.connection
            .pragma_query_value(None, name, |row| row.get(0))
            .map_err(|error| self.fault(&format!("reading {name} of"), &error))
    }
}

/// What a canary must be.
pub(super) const CANARY: &str = "a canary is one read-only SELECT, WITH or VALUES";

/// By its first word, because a PRAGMA takes effect when it is prepared, before it could be judged.
pub(super) fn is_query(sql: &str) -> bool {
    let word: String = sql.trim_start().chars().take_while(char::is_ascii_alphabetic).collect();
    ["select", "with", "values"].contains(&word.to_ascii_lowercase().as_str())
}

/// A value as text, whatever a hostile file put there.
pub(super) fn text(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => String::new(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => String::from_utf8_lossy(bytes).into_owned(),
    }
}

/// A name as SQL: in double quotes, with those inside it doubled.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::super::{Access, FaultClass};

    #[test]
    fn a_canary_reads_and_never_writes() {
        let dir = tempfile::tempdir().unwrap();
        let db = open(&sample(dir.path()), Access::Probe);
        assert_eq!(db.canary("SELECT * FROM t", 5).unwrap(), 5);
        assert_eq!(db.canary("SELECT count(*) FROM t", 5).unwrap(), 1);
        for sql in [
            "DELETE FROM t",
            "CREATE TABLE x(y)",
            "PRAGMA user_version=5",
            "VACUUM INTO 'x'",
            "PRAGMA query_only=OFF",
            "nonsense",
            "",
        ] {
            db.canary(sql, 5).unwrap_err();
        }
        assert_eq!(db.canary("SELECT * FROM missing", 1).unwrap_err().class, FaultClass::Schema);
        db.canary("ATTACH 'other.db' AS o", 1).unwrap_err();
        assert_eq!(db.row_counts().unwrap()[0], ("t".to_owned(), SAMPLE_ROWS));
    }

    #[test]
    fn a_write_probe_leaves_nothing_and_notices_a_writer() {
        let dir = tempfile::tempdir().unwrap();
        let path = sample(dir.path());
        let before = std::fs::read(&path).unwrap();
        let db = open(&path, Access::Probe);
        db.write_probe().unwrap();
        let other = open(&path, Access::Repair);
        other.batch("BEGIN IMMEDIATE").unwrap();
        assert_eq!(db.write_probe().unwrap_err().class, FaultClass::Busy);
        other.batch("ROLLBACK").unwrap();
        db.write_probe().unwrap();
        db.canary("DELETE FROM t", 1).unwrap_err();
        drop((db, other));
        assert_eq!(std::fs::read(&path).unwrap(), before);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_write_that_is_refused_is_told_apart() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = sample(dir.path());
        let backup = open(&path, Access::Immutable);
        assert_eq!(backup.write_probe().unwrap_err().class, FaultClass::ReadOnly);
        drop(backup);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o444)).unwrap();
        if !rustix::process::geteuid().is_root() {
            assert_eq!(open(&path, Access::Probe).write_probe().unwrap_err().class, FaultClass::ReadOnly);
        }
    }

    #[test]
    fn a_smashed_header_and_a_smashed_schema_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = sample(dir.path());
        damage(&path, 0, &[0xa5; 100]);
        assert_eq!(open(&path, Access::Probe).touch_schema().unwrap_err().class, FaultClass::NotADatabase);

        let dir = tempfile::tempdir().unwrap();
        let path = sample(dir.path());
        replace(&path, b"CREATE TABLE t(", b"CREATE TABLU t(");
        let fault = open(&path, Access::Probe).touch_schema().unwrap_err();
        assert!(fault.is_malformed_schema() && fault.is_corruption(), "{fault}");
    }

    #[test]
    fn an_empty_schema_is_seen_as_empty() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("e.db");
        std::fs::write(&path, b"").unwrap();
        assert!(open(&path, Access::Probe).touch_schema().unwrap().is_empty());
        let objects = open(&sample(dir.path()), Access::Probe).touch_schema().unwrap();
        assert_eq!(
            (objects.tables.as_slice(), objects.indexes.as_slice()),
            (["t".into(), "w".into()].as_slice(), ["t_b".into()].as_slice())
        );
    }
}
