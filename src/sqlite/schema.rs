//! The schema as a script: remembered while a database is well, applied when it must be recreated.

use std::fmt::Write as _;

use std::time::{Duration, Instant};

use rusqlite::Connection;
use rusqlite::limits::Limit;

use super::probe::{CANARY, is_query, text};
use super::{Database, FaultClass, SqliteFault};

/// A schema makes tables; one that takes longer does something else.
const TRIED_FOR: Duration = Duration::from_secs(5);

/// What of a script of [`Database::schema_sql`] changes only together with the schema's version: a program may set its own
/// `user_version`, say, whenever it likes.
pub fn creations_in(script: &str) -> &str {
    let from = script.find("BEGIN;\n").map_or(0, |begin| begin + "BEGIN;\n".len());
    let to = script.rfind("PRAGMA user_version=").filter(|to| *to >= from).unwrap_or(script.len());
    &script[from..to]
}

/// Why a person's schema file could not make a database, if so: told while the configuration is read, and not in the disaster that
/// it is for. Nothing outside of memory is opened or written.
pub fn schema_problem(sql: &str) -> Option<String> {
    let tried = (|| {
        let database = bare()?;
        database.execute_batch(sql)?;
        database.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0))
    })();
    match tried {
        Ok(0) => Some("it creates nothing".to_owned()),
        Ok(_) => None,
        Err(error) => Some(error.to_string()),
    }
}

/// Why a query can be no canary, whatever the database, if so.
pub fn canary_problem(sql: &str) -> Option<String> {
    if !is_query(sql) {
        return Some(CANARY.to_owned());
    }
    if let Some(problem) = problem_within(sql) {
        return Some(problem);
    }
    match bare().and_then(|database| database.prepare(sql).map(drop)) {
        // Which tables and columns there are only the database tells.
        Err(rusqlite::Error::SqlInputError { msg, .. }) if msg.contains("syntax error") => Some(msg),
        _ => None,
    }
}

/// Within a query in parentheses SQLite takes neither a second statement nor one that writes, as `WITH … DELETE` does.
fn problem_within(sql: &str) -> Option<String> {
    let alone = sql.trim_end_matches(|last: char| last == ';' || last.is_whitespace());
    let tried = bare().and_then(|database| database.prepare(&format!("SELECT * FROM (\n{alone}\n)")).map(drop));
    let Err(rusqlite::Error::SqlInputError { msg, .. }) = tried else { return None };
    let msg = msg.to_ascii_lowercase();
    let writes = ["delete", "insert", "update", "replace"].iter().any(|word| msg.contains(&format!("near \"{word}\"")));
    match msg.contains("near \";\"") {
        true => Some("is more than one statement".to_owned()),
        false => writes.then(|| CANARY.to_owned()),
    }
}

fn bare() -> rusqlite::Result<Connection> {
    let mut database = Connection::open_in_memory()?;
    database.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    let until = Instant::now() + TRIED_FOR;
    database.progress_handler(1000, Some(move || Instant::now() >= until))?;
    Ok(database)
}

impl Database {
    /// A script that recreates everything but rows: page size, encoding and auto-vacuum first (they hold only before the
    /// first table), then tables, indexes, views and triggers in order of creation. SQLite's own tables come back by
    /// themselves, `sqlite_sequence` with the first AUTOINCREMENT table; so do a virtual table's shadow tables.
    ///
    /// # Errors
    /// SQLite's.
    pub fn schema_sql(&self) -> Result<String, SqliteFault> {
        let mut script = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(script, "PRAGMA page_size={};", self.page_size()?);
        let _ = writeln!(script, "PRAGMA encoding='{}';", self.encoding()?);
        let _ = writeln!(script, "PRAGMA auto_vacuum={};", self.pragma_integer("auto_vacuum")?);
        script.push_str("BEGIN;\n");
        for statement in self.creations().map_err(|error| self.fault("reading the schema of", &error))? {
            script.push_str(&statement);
            // SQLite keeps what stands before the semicolon, so the text must not grow from copy to copy; but one that
            // ends in a comment would swallow it.
            let in_comment = statement.lines().last().is_some_and(|line| line.contains("--"));
            script.push_str(if in_comment { "\n;\n" } else { ";\n" });
        }
        let _ = writeln!(script, "PRAGMA user_version={};", self.pragma_integer("user_version")?);
        let _ = writeln!(script, "PRAGMA application_id={};", self.pragma_integer("application_id")?);
        script.push_str("COMMIT;\n");
        Ok(script)
    }

    fn creations(&self) -> rusqlite::Result<Vec<String>> {
        // Views before triggers, because an INSTEAD OF trigger needs its view.
        let sql = "SELECT s.sql FROM sqlite_schema s LEFT JOIN pragma_table_list l
                     ON l.schema='main' AND l.name=s.name AND s.type='table'
                   WHERE s.sql IS NOT NULL AND s.name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND coalesce(l.type,'')<>'shadow'
                   ORDER BY CASE s.type WHEN 'table' THEN 0 WHEN 'index' THEN 1 WHEN 'view' THEN 2 ELSE 3 END, s.rowid";
        let mut statement = self.connection.prepare(sql)?;
        let mut rows = statement.query([])?;
        let mut all = Vec::new();
        while let Some(row) = rows.next()? {
            all.push(text(row.get_ref(0)?));
        }
        Ok(all)
    }

    /// Gives tables, indexes, views and triggers the text that a script of [`Database::schema_sql`] has for them, where theirs is
    /// another: of a private copy, for whoever has the schema in memory would not notice. Objects are told apart by type and
    /// name; one whose name is damaged too, by being the only one left. How many were put right.
    ///
    /// # Errors
    /// SQLite's, and where it cannot be told which text is whose: then nothing is changed.
    pub fn put_schema_back(&self, script: &str) -> Result<usize, SqliteFault> {
        let known = Connection::open_in_memory().map_err(|error| self.fault("reading the known schema of", &error))?;
        known.execute_batch(script).map_err(|error| self.fault("reading the known schema of", &error))?;
        let known = objects(&known).map_err(|error| self.fault("reading the known schema of", &error))?;
        // Also what SQLite cannot parse is read then.
        self.batch("PRAGMA writable_schema=ON")?;
        let done = self.transaction(|db| {
            let mut here = objects(&db.connection).map_err(|error| db.fault("reading the schema of", &error))?;
            let mut changed = Vec::new();
            let (same, other): (Vec<_>, Vec<_>) =
                known.into_iter().partition(|object| here.iter().any(|one| one.is_called_as(object)));
            for object in same {
                if let Some(at) = here.iter().position(|one| one.is_called_as(&object)) {
                    changed.push((here.remove(at), object));
                }
            }
            match (here.pop(), here.len(), other.as_slice()) {
                (None, _, []) => {}
                (Some(one), 0, [object]) => changed.push((one, object.clone())),
                _ => {
                    let operation = format!("putting the schema of {} back", db.path.display());
                    return Err(SqliteFault::other(
                        operation,
                        FaultClass::Schema,
                        "its objects are others than it had",
                    ));
                }
            }
            changed.retain(|(one, object)| !one.says_as(object));
            for (one, Object { kind, name, table, sql, .. }) in &changed {
                let put = "UPDATE main.sqlite_schema SET type=?1, name=?2, tbl_name=?3, sql=?4 WHERE rowid=?5";
                let values = [kind, name, table, sql].map(|text| text.as_str().into());
                db.execute(put, &[&values[..], &[one.rowid.into()]].concat())?;
            }
            Ok(changed.len())
        });
        self.batch("PRAGMA writable_schema=RESET")?;
        done
    }

    /// Runs a schema script, remembered or the user's, on a database that is being built.
    ///
    /// # Errors
    /// SQLite's; a transaction that the script left open is rolled back, what it had committed stays.
    pub fn apply_schema(&self, sql: &str) -> Result<(), SqliteFault> {
        let applied = self.connection.execute_batch(sql).map_err(|error| self.fault("applying the schema to", &error));
        if !self.connection.is_autocommit() {
            let closed = self.batch(if applied.is_ok() { "COMMIT" } else { "ROLLBACK" });
            return applied.and(closed);
        }
        applied
    }
}

/// A row of `sqlite_schema` that has a text.
#[derive(Debug, Clone)]
struct Object {
    rowid: i64,
    kind: String,
    name: String,
    table: String,
    sql: String,
}

impl Object {
    fn is_called_as(&self, other: &Object) -> bool {
        (&self.kind, &self.name) == (&other.kind, &other.name)
    }

    fn says_as(&self, other: &Object) -> bool {
        self.is_called_as(other) && (&self.table, &self.sql) == (&other.table, &other.sql)
    }
}

/// SQLite's own have none of which a script could speak.
fn objects(connection: &Connection) -> rusqlite::Result<Vec<Object>> {
    let sql = "SELECT rowid, type, name, tbl_name, sql FROM main.sqlite_schema
               WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY rowid";
    let mut statement = connection.prepare(sql)?;
    let object = |row: &rusqlite::Row<'_>| {
        let column = |at| Ok::<_, rusqlite::Error>(text(row.get_ref(at)?));
        Ok(Object { rowid: row.get(0)?, kind: column(1)?, name: column(2)?, table: column(3)?, sql: column(4)? })
    };
    statement.query_map([], object)?.collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_a_program_may_set_at_any_time_is_no_part_of_its_schema() {
        let dir = tempfile::tempdir().unwrap();
        let db = open(&sample(dir.path()), Access::Repair);
        let before = db.schema_sql().unwrap();
        assert!(super::creations_in(&before).starts_with("CREATE TABLE t("), "{before}");
        let version = db.schema_version().unwrap();
        db.batch("PRAGMA user_version=42; PRAGMA application_id=7").unwrap();
        let after = db.schema_sql().unwrap();
        assert_eq!(db.schema_version().unwrap(), version);
        assert_ne!(after, before);
        assert_eq!(super::creations_in(&after), super::creations_in(&before));
        assert_eq!(super::creations_in("CREATE TABLE t(a);"), "CREATE TABLE t(a);");
    }

    use super::super::testing::*;
    use super::super::{Access, FaultClass};

    #[test]
    fn a_database_recreated_from_its_script_has_the_same_script() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rich.db");
        let db = open(&path, Access::Create);
        db.batch(
            "PRAGMA page_size=8192; PRAGMA encoding='UTF-16be'; PRAGMA auto_vacuum=2;
             CREATE TABLE a(x INTEGER PRIMARY KEY AUTOINCREMENT, y TEXT UNIQUE, z AS (y||'!') STORED -- why
             );
             CREATE INDEX a_y ON a(y COLLATE NOCASE DESC) WHERE y IS NOT NULL;
             CREATE TRIGGER early AFTER INSERT ON a BEGIN SELECT 1; END;
             CREATE VIEW v AS SELECT x FROM a;
             CREATE TRIGGER through INSTEAD OF INSERT ON v BEGIN INSERT INTO a(y) VALUES (new.x); END;
             CREATE VIRTUAL TABLE f USING fts5(body);
             CREATE TABLE \"odd \"\"; name\"(k PRIMARY KEY, v) WITHOUT ROWID, STRICT_no(a);"
                .replace(", STRICT_no(a)", "")
                .as_str(),
        )
        .unwrap();
        db.batch("INSERT INTO a(y) VALUES ('x'); ANALYZE; PRAGMA user_version=9; PRAGMA application_id=-5").unwrap();
        let script = db.schema_sql().unwrap();
        let copy = open(&dir.path().join("copy.db"), Access::Create);
        copy.apply_schema(&script).unwrap();
        assert_eq!(copy.schema_sql().unwrap(), script);
        assert_eq!(copy.touch_schema().unwrap(), sorted(db.touch_schema().unwrap(), &copy.touch_schema().unwrap()));
        assert!(copy.row_counts().unwrap().iter().all(|(_, rows)| *rows == 0));
        copy.batch("INSERT INTO v VALUES (3); INSERT INTO f VALUES ('word')").unwrap();
        assert!(copy.integrity_check(10).ok);
    }

    /// `objects`, in the order of `like` where both have the same names: creation order differs between kinds.
    fn sorted(objects: super::super::SchemaObjects, like: &super::super::SchemaObjects) -> super::super::SchemaObjects {
        let mut both = (objects.clone(), like.clone());
        for side in [&mut both.0, &mut both.1] {
            side.tables.sort();
        }
        assert_eq!(both.0.tables, both.1.tables);
        super::super::SchemaObjects { tables: like.tables.clone(), ..objects }
    }

    #[test]
    fn a_damaged_text_is_put_back_and_every_row_is_there() {
        // The second cannot be parsed, in the third the name is hurt, and of the fourth SQLite says nothing.
        for (old, new) in [("b TEXT", "c TEXT"), ("CREATE TABLE w", "CREATE TABL# w"), ("t_b", "t_c"), ("(b)", "(u)")] {
            let dir = tempfile::tempdir().unwrap();
            let path = sample(dir.path());
            let well = open(&path, Access::Repair);
            let (script, rows) = (well.schema_sql().unwrap(), well.row_counts().unwrap());
            well.close().unwrap();
            replace(&path, old.as_bytes(), new.as_bytes());

            let hurt = open(&path, Access::Copy);
            assert_eq!(hurt.put_schema_back(&script).unwrap(), 1, "{old}");
            assert_eq!(hurt.put_schema_back(&script).unwrap(), 0, "{old}");
            hurt.close().unwrap();
            let healed = open(&path, Access::Probe);
            assert_eq!((healed.schema_sql().unwrap(), healed.row_counts().unwrap()), (script, rows), "{old}");
            assert!(healed.integrity_check(10).ok, "{old}");
        }
    }

    #[test]
    fn a_schema_of_other_objects_is_not_put_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = sample(dir.path());
        let db = open(&path, Access::Repair);
        let script = db.schema_sql().unwrap();
        db.batch("CREATE TABLE more(a); CREATE TABLE and_more(a)").unwrap();
        let now = db.schema_sql().unwrap();
        assert_eq!(db.put_schema_back(&script).unwrap_err().class, FaultClass::Schema);
        assert_eq!(db.schema_sql().unwrap(), now);
    }

    #[test]
    fn a_script_that_fails_leaves_no_half_of_its_transaction() {
        let dir = tempfile::tempdir().unwrap();
        let db = open(&dir.path().join("n.db"), Access::Create);
        let fault = db.apply_schema("BEGIN; CREATE TABLE a(x); CREATE TABLE b(x, x); COMMIT").unwrap_err();
        assert_eq!(fault.class, FaultClass::Schema);
        assert!(db.touch_schema().unwrap().is_empty());
    }
}
