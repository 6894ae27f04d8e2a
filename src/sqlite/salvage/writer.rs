//! Writes the new database: tables, rows in bulk without a journal, then indexes, and views and triggers last.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use rusqlite::types::ValueRef;
use rusqlite::{ErrorCode, Statement};

use super::layout::{creates, guarded};
use super::{Layout, quoted};
use crate::format::{Encoding, KeyPart, SchemaKind, Value};
use crate::sqlite::{Access, Contents, Database, Deadline, IntegrityReport, SqliteFault};

/// Pages that SQLite keeps, in KiB. CREATE INDEX takes as much again to sort (`mxPmaSize` in vdbesort.c), beside what is known of every
/// page of the wreck: at 64 MiB each the salvage of 10 GB had 300 MB.
const CACHE_KIB: u32 = 16 << 10;

/// What the new database takes from the old one.
#[derive(Debug, Clone, Copy)]
pub struct NewDatabaseOptions {
    /// Bytes per page.
    pub page_size: u32,
    /// Of its texts.
    pub encoding: Encoding,
    /// 0 none, 1 full, 2 incremental.
    pub auto_vacuum: u8,
}

/// A database that is being filled.
#[derive(Debug)]
pub struct NewDatabase {
    db: Database,
    encoding: Encoding,
}

/// What became of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    /// It is in the table.
    Kept,
    /// A row with this key was there.
    Repeated,
    /// A constraint refuses it.
    Refused,
}

impl NewDatabase {
    /// Makes the file, which nobody else opens before it is done.
    ///
    /// # Errors
    /// SQLite's.
    pub fn create(path: &Path, options: &NewDatabaseOptions) -> Result<NewDatabase, SqliteFault> {
        let db = Database::open(path, Access::Create, Duration::ZERO, Deadline::never())?;
        let new = NewDatabase { db, encoding: options.encoding };
        let encoding = match options.encoding {
            Encoding::Utf16Le => "UTF-16le",
            Encoding::Utf16Be => "UTF-16be",
            Encoding::Utf8 | Encoding::Odd(_) => "UTF-8",
        };
        new.db.batch(&format!(
            "PRAGMA page_size={}; PRAGMA encoding='{encoding}'; PRAGMA auto_vacuum={}",
            options.page_size, options.auto_vacuum
        ))?;
        new.configure()
    }

    /// Opens it again, after pages were put into it.
    ///
    /// # Errors
    /// SQLite's.
    pub fn reopen(path: &Path, options: &NewDatabaseOptions) -> Result<NewDatabase, SqliteFault> {
        let db = Database::open(path, Access::Create, Duration::ZERO, Deadline::never())?;
        NewDatabase { db, encoding: options.encoding }.configure()
    }

    /// A crash leaves a file that nobody takes for a database of anything; it is made durable once, at the end.
    fn configure(self) -> Result<NewDatabase, SqliteFault> {
        self.db.batch(&format!(
            "PRAGMA journal_mode=MEMORY; PRAGMA synchronous=OFF; PRAGMA locking_mode=EXCLUSIVE; PRAGMA cache_size=-{CACHE_KIB};
             PRAGMA cache_spill=ON; PRAGMA cell_size_check=OFF",
        ))?;
        Ok(self)
    }

    /// The root page of each table and index, by its name in lower case; and how many pages there are.
    ///
    /// # Errors
    /// SQLite's.
    pub fn roots(&self) -> Result<(BTreeMap<String, u32>, u32), SqliteFault> {
        let number = |value: Option<&crate::sqlite::Value>| {
            value.and_then(crate::sqlite::Value::as_i64).and_then(|number| u32::try_from(number).ok()).unwrap_or(0)
        };
        let rows = self.db.rows("SELECT name, rootpage FROM sqlite_schema WHERE rootpage>0", &[])?;
        let root = |row: &Vec<crate::sqlite::Value>| Some((row.first()?.as_str()?.to_lowercase(), number(row.get(1))));
        let count = self.db.rows("PRAGMA page_count", &[])?;
        Ok((rows.iter().filter_map(root).collect(), number(count.first().and_then(|row| row.first()))))
    }

    /// What there is to compare in its tables, and what only SQLite can judge.
    ///
    /// # Errors
    /// SQLite's.
    pub fn contents(&self) -> Result<Contents, SqliteFault> {
        self.db.contents_beside_checks()
    }

    /// Takes indexes out again that a definition of their own made: of a table, or of all; but those that `kept` names in lower case.
    ///
    /// # Errors
    /// SQLite's.
    pub fn drop_indexes_but(&self, kept: &BTreeSet<String>, of: Option<&str>) -> Result<(), SqliteFault> {
        let made = "SELECT name FROM sqlite_schema WHERE type='index' AND sql IS NOT NULL AND lower(tbl_name)=lower(ifnull(?1, tbl_name))";
        let names = self.db.rows(made, &[of.into()])?;
        let names = names.iter().filter_map(|row| row.first()?.as_str());
        names
            .filter(|name| !kept.contains(&name.to_lowercase()))
            .try_for_each(|name| self.db.batch(&format!("DROP INDEX main.{}", quoted(name))))
    }

    /// Fills the indexes that a table's constraints made, after pages were put into the table; but for those that `has` names.
    ///
    /// # Errors
    /// SQLite's; where rows repeat a key that must be unique nothing was filled.
    pub fn fill_indexes(&self, layout: &Layout, has: &BTreeSet<String>) -> Result<(), SqliteFault> {
        // The key of a table WITHOUT ROWID is the table itself.
        let of_it = "SELECT name FROM pragma_index_list(?1) WHERE origin='u' OR origin='pk' AND ?2";
        let names = self.db.rows(of_it, &[layout.name.as_str().into(), i64::from(layout.has_rowids).into()])?;
        let names = names.iter().filter_map(|row| row.first()?.as_str());
        for name in names.filter(|name| !has.contains(&name.to_lowercase())) {
            self.db.batch(&format!("REINDEX main.{}", quoted(name)))?;
        }
        Ok(())
    }

    /// Empties a table.
    ///
    /// # Errors
    /// SQLite's.
    pub fn empty(&self, layout: &Layout) -> Result<(), SqliteFault> {
        self.db.batch(&format!("DELETE FROM main.{}", quoted(&layout.name)))
    }

    /// Creates one object by its definition.
    ///
    /// # Errors
    /// SQLite's.
    pub fn define(&mut self, kind: SchemaKind, sql: &str) -> Result<(), SqliteFault> {
        let doing = "creating what the schema has in";
        if !creates(sql, kind) {
            let message = "the text creates something else".to_owned();
            return Err(SqliteFault::other(doing, crate::model::FaultClass::Schema, message));
        }
        let connection = &mut self.db.connection;
        // A view and a trigger are SELECTs that are only parsed.
        let ran = match kind {
            SchemaKind::View | SchemaKind::Trigger => {
                connection.prepare(sql).and_then(|mut statement| statement.raw_execute()).map(|_| ())
            }
            SchemaKind::Table | SchemaKind::Index => guarded(connection, sql),
        };
        ran.map_err(|error| self.db.fault(doing, &error))
    }

    /// Puts a virtual table into the schema beside its shadow tables. Where those are `hurt` and its module finds it damaged, it is built
    /// anew if the module can (full-text search), else taken out again. What the module says of one that was copied whole is a remark.
    ///
    /// # Errors
    /// Why it was left out, in words.
    pub fn define_virtual(&self, name: &str, sql: &str, hurt: bool) -> Result<Option<String>, String> {
        let words = |fault: SqliteFault| fault.to_string();
        let put = "INSERT INTO main.sqlite_schema(type, name, tbl_name, rootpage, sql) VALUES('table', ?1, ?1, 0, ?2)";
        self.edit_schema(put, &[name.into(), sql.into()]).map_err(words)?;
        let mut said = self.check_of(name);
        if hurt && said != Ok(None) && sql.to_ascii_lowercase().contains("fts") {
            let table = quoted(name);
            if self.db.batch(&format!("INSERT INTO main.{table}({table}) VALUES('rebuild')")).is_ok() {
                said = self.check_of(name);
            }
        }
        match said {
            Ok(None) => Ok(None),
            Ok(Some(remark)) | Err(remark) if !hurt => Ok(Some(remark)),
            Ok(Some(why)) | Err(why) => {
                let take = "DELETE FROM main.sqlite_schema WHERE type='table' AND name=?1 AND rootpage=0";
                self.edit_schema(take, &[name.into()]).map_err(words)?;
                if !is_rtree(sql) {
                    return Err(why);
                }
                let count = self.rebuild_rtree(name, sql).map_err(|fault| format!("{why}; {fault}"))?;
                Ok(Some(format!("it was built anew from the {count} entries that are left ({why})")))
            }
        }
    }

    pub(super) fn rows(&self, sql: &str) -> Result<Vec<Vec<crate::sqlite::Value>>, SqliteFault> {
        self.db.rows(sql, &[])
    }

    pub(super) fn run(&self, sql: &str, values: &[crate::sqlite::Value]) -> Result<usize, SqliteFault> {
        self.db.execute(sql, values)
    }

    fn edit_schema(&self, sql: &str, values: &[crate::sqlite::Value]) -> Result<(), SqliteFault> {
        self.db.batch("PRAGMA writable_schema=ON")?;
        let done = self.db.execute(sql, values);
        self.db.batch("PRAGMA writable_schema=RESET")?;
        done.map(|_| ())
    }

    /// The full check, while there is no virtual table whose module could keep it from the rest.
    ///
    /// # Errors
    /// What it says.
    pub fn check(&self) -> Result<(), String> {
        let said = self.db.integrity_check(20);
        match said.fault {
            Some(fault) => Err(fault.to_string()),
            None if !said.ok => Err(said.messages.join("; ")),
            None => Ok(()),
        }
    }

    /// What the full check says of one table; `None` for "ok".
    fn check_of(&self, name: &str) -> Result<Option<String>, String> {
        let rows = self.db.rows(&format!("PRAGMA main.integrity_check({})", quoted(name)), &[]);
        let said = rows.map_err(|fault| fault.to_string())?;
        let first = said.first().and_then(|row| row.first()).and_then(crate::sqlite::Value::as_str).unwrap_or("");
        Ok((first != "ok").then(|| first.to_owned()))
    }

    /// From here on rows are written without a journal: what fails cannot be undone, and only INSERT OR IGNORE runs.
    ///
    /// # Errors
    /// SQLite's.
    pub fn begin_rows(&self) -> Result<(), SqliteFault> {
        self.db.batch("PRAGMA journal_mode=OFF; BEGIN")
    }

    /// The rows are in.
    ///
    /// # Errors
    /// SQLite's.
    pub fn end_rows(&self) -> Result<(), SqliteFault> {
        self.db.batch("COMMIT; PRAGMA journal_mode=MEMORY")
    }

    /// Runs SQL of ours.
    ///
    /// # Errors
    /// SQLite's.
    pub fn batch(&self, sql: &str) -> Result<(), SqliteFault> {
        self.db.batch(sql)
    }

    /// Closes the file.
    ///
    /// # Errors
    /// SQLite's.
    pub fn close(self) -> Result<(), SqliteFault> {
        self.db.close()
    }

    /// For the rows of one table.
    pub fn inserter(&self, layout: &Layout) -> Inserter<'_> {
        Inserter { new: self, layout: layout.clone(), by_length: Vec::new(), is_there: None }
    }

    /// Rowids that AUTOINCREMENT tables have given out.
    ///
    /// # Errors
    /// SQLite's.
    pub fn raise_sequence(&self, table: &str, given: i64) -> Result<(), SqliteFault> {
        let is_there = self.db.rows("SELECT 1 FROM sqlite_schema WHERE name='sqlite_sequence'", &[])?;
        if is_there.is_empty() {
            return Ok(());
        }
        let known = self
            .db
            .execute("UPDATE sqlite_sequence SET seq=max(seq, ?2) WHERE name=?1", &[table.into(), given.into()])?;
        if known == 0 {
            let put = "INSERT INTO sqlite_sequence(name, seq) SELECT ?1, ?2 FROM sqlite_schema WHERE name=?1 AND type='table'";
            self.db.execute(put, &[table.into(), given.into()])?;
        }
        Ok(())
    }
}

/// Checks a new database that nobody has open: all of it, and all that SQLite can tell; or each of these tables by itself, without a
/// comparison of their indexes.
///
/// # Errors
/// SQLite's at opening it; what the check says is a result.
pub fn check_new(path: &Path, tables: Option<&[&str]>) -> Result<Vec<IntegrityReport>, SqliteFault> {
    // Not immutable: SQLite 3.54 says nothing of CHECK constraints where it cannot write.
    let db = Database::open(path, Access::Copy, Duration::ZERO, Deadline::never())?;
    // A check reads a page more than once, and looks at each cell itself.
    db.batch("PRAGMA cache_size=-65536; PRAGMA cell_size_check=OFF")?;
    let Some(tables) = tables else { return Ok(vec![db.integrity_check(20)]) };
    let check = |table: &&str| {
        let rows = db.rows(&format!("PRAGMA main.quick_check({})", quoted(table)), &[])?;
        let lines = rows.iter().filter_map(|row| row.first()?.as_str()).filter(|line| *line != "ok");
        Ok(IntegrityReport { content: lines.map(str::to_owned).collect(), ..IntegrityReport::default() })
    };
    tables.iter().map(check).collect()
}

/// Puts rows into one table. A row's statement depends on how many columns its record has: those that it lacks take their defaults.
pub struct Inserter<'a> {
    new: &'a NewDatabase,
    layout: Layout,
    by_length: Vec<Option<(Statement<'a>, Vec<Bound>)>>,
    is_there: Option<Statement<'a>>,
}

impl std::fmt::Debug for Inserter<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inserter").field("layout", &self.layout).finish_non_exhaustive()
    }
}

/// What a parameter takes.
#[derive(Debug, Clone, Copy)]
enum Bound {
    Rowid,
    Column(usize),
}

impl<'a> Inserter<'a> {
    /// Puts a row in.
    ///
    /// # Errors
    /// SQLite's; a constraint is no error.
    pub fn insert(&mut self, rowid: Option<i64>, values: &[Value<'_>]) -> Result<Inserted, SqliteFault> {
        let length = values.len().min(self.layout.columns.len());
        let db = &self.new.db;
        let doing = "writing rows to";
        if self.by_length.len() <= length {
            self.by_length.resize_with(length + 1, || None);
        }
        let Some(slot) = self.by_length.get_mut(length) else { return Ok(Inserted::Refused) };
        if slot.is_none() {
            let (sql, bound) = insert_sql(&self.layout, length);
            let statement = db.connection.prepare(&sql).map_err(|error| db.fault(doing, &error))?;
            *slot = Some((statement, bound));
        }
        let Some((statement, bound)) = slot else { return Ok(Inserted::Refused) };
        for (at, bound) in bound.iter().enumerate() {
            let value = match bound {
                Bound::Rowid => rowid.map_or(Value::Null, Value::Integer),
                Bound::Column(column) => values.get(*column).copied().unwrap_or(Value::Null),
            };
            bind(statement, at + 1, value, self.new.encoding).map_err(|error| db.fault(doing, &error))?;
        }
        let ran = statement.raw_execute();
        match ran {
            Ok(1..) => Ok(Inserted::Kept),
            Ok(0) => self.why_not(rowid),
            Err(rusqlite::Error::SqliteFailure(failure, _))
                if matches!(
                    failure.code,
                    ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig
                ) =>
            {
                self.why_not(rowid)
            }
            Err(error) => Err(db.fault(doing, &error)),
        }
    }

    fn why_not(&mut self, rowid: Option<i64>) -> Result<Inserted, SqliteFault> {
        let Some(rowid) = rowid.filter(|_| self.layout.has_rowids) else { return Ok(Inserted::Repeated) };
        Ok(if self.has(rowid)? == Some(true) { Inserted::Repeated } else { Inserted::Refused })
    }

    /// Whether there is a row with this rowid; `None` where none of its names is free to ask by.
    ///
    /// # Errors
    /// SQLite's.
    pub fn has(&mut self, rowid: i64) -> Result<Option<bool>, SqliteFault> {
        let db = &self.new.db;
        let fault = |error: rusqlite::Error| db.fault("reading rows of", &error);
        let by_column = self.layout.columns.iter().find(|column| column.is_rowid).map(|column| quoted(&column.name));
        let Some(name) = by_column.or(self.layout.rowid_name.map(str::to_owned)) else { return Ok(None) };
        if self.is_there.is_none() {
            let sql = format!("SELECT 1 FROM main.{} WHERE {name}=?1", quoted(&self.layout.name));
            self.is_there = Some(db.connection.prepare(&sql).map_err(fault)?);
        }
        let Some(is_there) = &mut self.is_there else { return Ok(None) };
        is_there.exists([rowid]).map(Some).map_err(fault)
    }

    /// Whether there is a row with this key, in a table without rowids.
    ///
    /// # Errors
    /// SQLite's.
    pub fn has_key(&mut self, key: &[Value<'_>]) -> Result<bool, SqliteFault> {
        let db = &self.new.db;
        let fault = |error: rusqlite::Error| db.fault("reading rows of", &error);
        if self.is_there.is_none() {
            let columns = self.layout.columns.iter().take(self.layout.key).enumerate();
            let same: Vec<String> =
                columns.map(|(at, column)| format!("{}=?{}", quoted(&column.name), at + 1)).collect();
            let sql = format!("SELECT 1 FROM main.{} WHERE {}", quoted(&self.layout.name), same.join(" AND "));
            self.is_there = Some(db.connection.prepare(&sql).map_err(fault)?);
        }
        let Some(is_there) = &mut self.is_there else { return Ok(false) };
        for (at, value) in key.iter().take(self.layout.key).enumerate() {
            bind(is_there, at + 1, *value, self.new.encoding).map_err(fault)?;
        }
        is_there.raw_query().next().map(|row| row.is_some()).map_err(fault)
    }

    /// How the keys of a table without rowids are ordered; `None` where only SQLite knows.
    ///
    /// # Errors
    /// SQLite's.
    pub fn key_parts(&self) -> Result<Option<Vec<KeyPart>>, SqliteFault> {
        let contents = self.new.contents()?;
        Ok(contents.tables.into_iter().find(|table| table.name == self.layout.name).map(|table| table.key))
    }
}

/// A definition that makes an R-Tree, and nothing else.
fn is_rtree(sql: &str) -> bool {
    let words: Vec<String> = sql.split_ascii_whitespace().take(12).map(str::to_ascii_lowercase).collect();
    let of = words.iter().position(|word| word == "using").and_then(|at| words.get(at + 1));
    let module = of.and_then(|of| of.split('(').next());
    words.starts_with(&["create".to_owned(), "virtual".to_owned()]) && matches!(module, Some("rtree" | "rtree_i32"))
}

fn insert_sql(layout: &Layout, length: usize) -> (String, Vec<Bound>) {
    let (mut names, mut bound) = (Vec::new(), Vec::new());
    if let Some(name) = layout.rowid_name.filter(|_| layout.has_rowids) {
        names.push(name.to_owned());
        bound.push(Bound::Rowid);
    }
    for (at, column) in layout.columns.iter().enumerate() {
        if column.is_rowid {
            names.push(quoted(&column.name));
            bound.push(Bound::Rowid);
        } else if at < length && !column.generated {
            names.push(quoted(&column.name));
            bound.push(Bound::Column(at));
        }
    }
    let marks: Vec<String> = (1..=names.len()).map(|at| format!("?{at}")).collect();
    let table = quoted(&layout.name);
    if names.is_empty() {
        return (format!("INSERT OR IGNORE INTO main.{table} DEFAULT VALUES"), bound);
    }
    (format!("INSERT OR IGNORE INTO main.{table}({}) VALUES({})", names.join(","), marks.join(",")), bound)
}

fn bind(statement: &mut Statement<'_>, at: usize, value: Value<'_>, encoding: Encoding) -> rusqlite::Result<()> {
    let borrowed = |value| rusqlite::types::ToSqlOutput::Borrowed(value);
    match value {
        Value::Null => statement.raw_bind_parameter(at, rusqlite::types::Null),
        Value::Integer(number) => statement.raw_bind_parameter(at, number),
        Value::Real(number) => statement.raw_bind_parameter(at, number),
        Value::Blob(bytes) => statement.raw_bind_parameter(at, borrowed(ValueRef::Blob(bytes))),
        Value::Text(bytes) if matches!(encoding, Encoding::Utf8 | Encoding::Odd(_)) => {
            statement.raw_bind_parameter(at, borrowed(ValueRef::Text(bytes)))
        }
        Value::Text(bytes) => statement.raw_bind_parameter(at, encoding.decode(bytes)),
    }
}
