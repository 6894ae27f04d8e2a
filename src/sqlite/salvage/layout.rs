//! How SQLite stores the rows of a table with this definition: which column of a record is which column of the table.

use std::time::{Duration, Instant};

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;

use crate::format::{SchemaKind, SchemaRow};

/// A definition that takes longer does something else.
const TRIED_FOR: Duration = Duration::from_secs(5);

/// What SQLite makes of a table's definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The table.
    pub name: String,
    /// Its tree is one of rowids.
    pub has_rowids: bool,
    /// What a record has, in its order.
    pub columns: Vec<LayoutColumn>,
    /// Columns of the key of a table without rowids: its first; 0 for a table of rowids.
    pub key: usize,
    /// The rowid's name where no column is it, and none hides it.
    pub rowid_name: Option<&'static str>,
    /// It may refuse more than a NULL in a column that it stores, or has keys in an order that only SQLite knows.
    pub has_rules: bool,
}

/// A column of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayoutColumn {
    /// Its name.
    pub name: String,
    /// Its declared type.
    pub declared: String,
    /// NULL is refused.
    pub not_null: bool,
    /// The rowid by another name: NULL in a record.
    pub is_rowid: bool,
    /// Stored, and computed from others: not to be inserted.
    pub generated: bool,
}

/// What an entry of an index repeats of its row, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexLayout {
    /// Each column of an entry.
    pub columns: Vec<IndexColumn>,
    /// It has an entry for each row; one over a part of them has not.
    pub is_of_all: bool,
}

/// A column of an index's entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IndexColumn {
    /// The row's rowid.
    Rowid,
    /// That column of the table's layout.
    Column(usize),
    /// An expression, or a column that the table does not store.
    Other,
}

/// Tries definitions, in memory.
#[derive(Debug)]
pub struct Layouts {
    connection: Connection,
}

impl Layouts {
    /// Nothing tried yet.
    ///
    /// # Errors
    /// SQLite's, in words.
    pub fn new() -> Result<Layouts, String> {
        let connection = bare().map_err(|error| error.to_string())?;
        Ok(Layouts { connection })
    }

    /// What a definition makes of a table of this name.
    ///
    /// # Errors
    /// Why it makes none, in words.
    pub fn table(&mut self, name: &str, sql: &str) -> Result<Layout, String> {
        if !creates(sql, SchemaKind::Table) {
            return Err("its definition creates no table".to_owned());
        }
        let words = |error: rusqlite::Error| error.to_string();
        self.connection.execute_batch("SAVEPOINT tried").map_err(words)?;
        let made = guarded(&mut self.connection, sql).and_then(|()| self.read(name, sql)).map_err(words);
        self.connection.execute_batch("ROLLBACK TO tried; RELEASE tried").map_err(words)?;
        made?.ok_or_else(|| "its definition is another table's".to_owned())
    }

    /// What an index of a table has; `sql` is none for one that a constraint made.
    ///
    /// # Errors
    /// Why it makes none, in words.
    pub fn index(
        &mut self,
        table: (&Layout, &str),
        name: &str,
        sql: Option<&str>,
    ) -> Result<Option<IndexLayout>, String> {
        let (layout, table_sql) = table;
        if sql.is_some_and(|sql| !creates(sql, SchemaKind::Index)) || !creates(table_sql, SchemaKind::Table) {
            return Err("a definition creates something else".to_owned());
        }
        let words = |error: rusqlite::Error| error.to_string();
        self.connection.execute_batch("SAVEPOINT tried").map_err(words)?;
        let made = [Some(table_sql), sql].into_iter().flatten().try_for_each(|sql| guarded(&mut self.connection, sql));
        let made = made.and_then(|()| self.read_index(layout, name)).map_err(words);
        self.connection.execute_batch("ROLLBACK TO tried; RELEASE tried").map_err(words)?;
        made
    }

    fn read_index(&self, layout: &Layout, name: &str) -> rusqlite::Result<Option<IndexLayout>> {
        let db = &self.connection;
        let of = "SELECT partial FROM pragma_index_list(?1) WHERE name=?2 COLLATE NOCASE";
        let mut statement = db.prepare(of)?;
        let mut rows = statement.query([&layout.name, name])?;
        let Some(partial) = rows.next()?.map(|row| row.get::<_, bool>(0)).transpose()? else { return Ok(None) };
        let mut statement = db.prepare("SELECT cid, name FROM pragma_index_xinfo(?1) ORDER BY seqno")?;
        let column = |row: &rusqlite::Row<'_>| {
            let (cid, name): (i64, Option<String>) = (row.get(0)?, row.get(1)?);
            let at = || layout.columns.iter().position(|column| Some(&column.name) == name.as_ref());
            Ok(match cid {
                -1 => IndexColumn::Rowid,
                0.. => at().map_or(IndexColumn::Other, IndexColumn::Column),
                _ => IndexColumn::Other,
            })
        };
        let columns = statement.query_map([name], column)?.collect::<Result<_, _>>()?;
        Ok(Some(IndexLayout { columns, is_of_all: !partial }))
    }

    fn read(&self, name: &str, sql: &str) -> rusqlite::Result<Option<Layout>> {
        let db = &self.connection;
        let listed = "SELECT wr FROM pragma_table_list WHERE schema='main' AND name=?1 COLLATE NOCASE AND type='table'";
        let Some(without) = one(db, listed, name)? else { return Ok(None) };
        let strict = "SELECT strict FROM pragma_table_list WHERE schema='main' AND name=?1 COLLATE NOCASE";
        let generated = "SELECT count(*) FROM pragma_table_xinfo(?1) WHERE hidden<>0";
        let has_rules = without != 0
            || one(db, strict, name)? != Some(0)
            || one(db, generated, name)? != Some(0)
            || sql.to_ascii_lowercase().contains("check");
        let mut statement =
            db.prepare("SELECT name, type, \"notnull\", pk, hidden FROM pragma_table_xinfo(?1) ORDER BY cid")?;
        let rows = statement.query_map([name], |row| {
            let column = LayoutColumn {
                name: row.get(0)?,
                declared: row.get::<_, Option<String>>(1)?.unwrap_or_default(),
                not_null: row.get(2)?,
                is_rowid: false,
                generated: row.get::<_, i64>(4)? == 3,
            };
            Ok((column, row.get::<_, i64>(3)?, row.get::<_, i64>(4)?))
        })?;
        let all: Vec<(LayoutColumn, i64, i64)> = rows.collect::<Result<_, _>>()?;
        let names: Vec<String> = all.iter().map(|(column, ..)| column.name.to_lowercase()).collect();
        // Virtual columns are not stored.
        let stored: Vec<(LayoutColumn, i64)> =
            all.into_iter().filter(|(.., hidden)| *hidden != 2).map(|(column, key, _)| (column, key)).collect();
        let mut layout = Layout {
            name: name.to_owned(),
            has_rowids: without == 0,
            columns: Vec::new(),
            key: 0,
            rowid_name: None,
            has_rules,
        };
        if without != 0 {
            let mut keys: Vec<_> = stored.iter().filter(|(_, key)| *key > 0).cloned().collect();
            keys.sort_by_key(|(_, key)| *key);
            layout.key = keys.len();
            let rest = stored.into_iter().filter(|(_, key)| *key == 0);
            layout.columns = keys.into_iter().chain(rest).map(|(column, _)| column).collect();
            return Ok(Some(layout));
        }
        // A single column INTEGER PRIMARY KEY is the rowid, unless it has an index of its own (DESC).
        let indexed = one(db, "SELECT count(*) FROM pragma_index_list(?1) WHERE origin='pk'", name)?.unwrap_or(0);
        let keys = stored.iter().filter(|(_, key)| *key > 0).count();
        for (mut column, key) in stored {
            column.is_rowid = key > 0 && keys == 1 && indexed == 0 && column.declared.eq_ignore_ascii_case("integer");
            column.not_null &= !column.is_rowid;
            layout.columns.push(column);
        }
        if !layout.columns.iter().any(|column| column.is_rowid) {
            layout.rowid_name =
                ["rowid", "_rowid_", "oid"].into_iter().find(|name| !names.iter().any(|one| one == name));
        }
        Ok(Some(layout))
    }

    /// The objects that a person's schema script makes.
    ///
    /// # Errors
    /// SQLite's, in words.
    pub fn objects_of(script: &str) -> Result<Vec<SchemaRow>, String> {
        let words = |error: rusqlite::Error| error.to_string();
        let db = bare().map_err(words)?;
        db.execute_batch(script).map_err(words)?;
        let mut statement =
            db.prepare("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY rowid").map_err(words)?;
        let rows = statement.query_map([], |row| {
            let kind: String = row.get(0)?;
            Ok((kind, row.get(1)?, row.get(2)?, row.get(3)?))
        });
        let mut objects = Vec::new();
        for row in rows.map_err(words)? {
            let (kind, name, table, sql) = row.map_err(words)?;
            if let Some(kind) = SchemaKind::from_name(&kind) {
                objects.push(SchemaRow { kind, name, table, root: 0, sql });
            }
        }
        Ok(objects)
    }
}

/// Runs a definition, and nothing that it would read.
pub(super) fn guarded(db: &mut Connection, sql: &str) -> rusqlite::Result<()> {
    let allowed = |context: AuthContext<'_>| match context.action {
        AuthAction::Select | AuthAction::Attach { .. } | AuthAction::Recursive => Authorization::Deny,
        _ => Authorization::Allow,
    };
    db.authorizer(Some(allowed))?;
    let ran = db.prepare(sql).and_then(|mut statement| statement.raw_execute());
    db.authorizer(None::<fn(AuthContext<'_>) -> Authorization>)?;
    ran.map(|_| ())
}

/// Whether a text begins as the creation of such an object does.
pub(super) fn creates(sql: &str, kind: SchemaKind) -> bool {
    let mut words = sql.split_ascii_whitespace().map(str::to_ascii_lowercase);
    if words.next().as_deref() != Some("create") {
        return false;
    }
    let word = words.next().unwrap_or_default();
    let begins = |with: &str| word.starts_with(with);
    match kind {
        SchemaKind::Table => begins("table"),
        SchemaKind::Index => begins("index") || word == "unique",
        SchemaKind::View => begins("view"),
        SchemaKind::Trigger => begins("trigger"),
    }
}

fn bare() -> rusqlite::Result<Connection> {
    let mut db = Connection::open_in_memory()?;
    db.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    let until = Instant::now() + TRIED_FOR;
    db.progress_handler(1000, Some(move || Instant::now() >= until))?;
    Ok(db)
}

fn one(db: &Connection, sql: &str, name: &str) -> rusqlite::Result<Option<i64>> {
    let mut statement = db.prepare(sql)?;
    let mut rows = statement.query([name])?;
    rows.next()?.map(|row| row.get(0)).transpose()
}
