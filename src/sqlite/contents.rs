//! What SQLite makes of the tables' definitions, for whoever compares rows with indexes by bytes alone; and which tables have something
//! that only SQLite can judge. Nothing but the schema is read.

use std::collections::BTreeMap;

use rusqlite::Connection;
use rusqlite::limits::Limit;
use rusqlite::types::Value;

use super::probe::text;
use super::{Database, SqliteFault};
use crate::format::salvage::Affinity;
use crate::format::{Absent, Allowed, Collation, IndexContent, KeyPart, StoredColumn, TableContent};

/// What there is to compare, and what is left.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Contents {
    /// Tables that can be compared.
    pub tables: Vec<TableContent>,
    /// Those that only SQLite can judge.
    pub left: Vec<LeftTable>,
}

/// A table that only SQLite can judge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftTable {
    /// Its name, as the schema has it.
    pub name: String,
    /// What it has, in words.
    pub why: &'static str,
    /// It has no tree: its rows are other tables', and perhaps any.
    pub is_virtual: bool,
}

/// A column of a table.
struct TableColumn {
    declared: String,
    not_null: bool,
    default: Option<String>,
    key: i64,
    hidden: i64,
}

/// A column of an index.
struct IndexColumn {
    column: i64,
    descending: bool,
    collation: String,
    is_key: bool,
}

/// A column that is computed when it is read.
const VIRTUAL: i64 = 2;

impl Database {
    /// Of all tables.
    ///
    /// # Errors
    /// SQLite's.
    pub fn contents(&self) -> Result<Contents, SqliteFault> {
        self.all_contents(false).map_err(|error| self.fault("reading the schema of", &error))
    }

    /// The same; one with a CHECK, which only SQLite can judge, is also told as one that can be compared with its indexes.
    ///
    /// # Errors
    /// SQLite's.
    pub fn contents_beside_checks(&self) -> Result<Contents, SqliteFault> {
        self.all_contents(true).map_err(|error| self.fault("reading the schema of", &error))
    }

    fn all_contents(&self, beside_checks: bool) -> rusqlite::Result<Contents> {
        let db = &self.connection;
        let sql = "SELECT s.name, s.rootpage, s.sql, l.wr, l.strict FROM sqlite_schema s JOIN pragma_table_list l
                   ON l.schema='main' AND l.name=s.name WHERE s.type='table' ORDER BY s.rowid";
        let mut statement = db.prepare(sql)?;
        let mut rows = statement.query([])?;
        let is_utf8 = db.query_row("PRAGMA encoding", [], |row| row.get::<_, String>(0))? == "UTF-8";
        let mut contents = Contents::default();
        while let Some(row) = rows.next()? {
            let (name, root) = (text(row.get_ref(0)?), row.get_ref(1)?.as_i64().unwrap_or(0));
            let (sql, without_rowids, strict) = (text(row.get_ref(2)?), row.get(3)?, row.get(4)?);
            let kind = Kind { without_rowids, strict, is_utf8 };
            let read = if root == 0 {
                Err("the rules of a virtual table")
            } else if has_check(&sql) {
                if beside_checks {
                    contents.tables.extend(table(db, &name, kind)?);
                }
                Err("a CHECK")
            } else {
                table(db, &name, kind)?
            };
            match read {
                Ok(content) => contents.tables.push(content),
                Err(why) => contents.left.push(LeftTable { name, why, is_virtual: root == 0 }),
            }
        }
        Ok(contents)
    }
}

/// A word of this kind, wherever it stands: a table too many is only checked in another way.
fn has_check(sql: &str) -> bool {
    sql.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')).any(|word| word.eq_ignore_ascii_case("check"))
}

#[derive(Clone, Copy)]
struct Kind {
    without_rowids: bool,
    strict: bool,
    is_utf8: bool,
}

/// The error is why only SQLite can judge it.
fn table(db: &Connection, name: &str, kind: Kind) -> rusqlite::Result<Result<TableContent, &'static str>> {
    let columns = table_columns(db, name)?;
    if columns.values().any(|column| column.hidden == VIRTUAL) {
        return Ok(Err("a column that is computed"));
    }
    let sql = "SELECT name, \"unique\", origin, partial FROM pragma_index_list(?1) ORDER BY seq";
    let mut statement = db.prepare(sql)?;
    let listed = statement.query_map([name], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
    let listed: Vec<(String, bool, String, bool)> = listed.collect::<Result<_, _>>()?;
    // A single column INTEGER PRIMARY KEY is the rowid, unless it has an index of its own (DESC).
    let keys: Vec<i64> = columns.iter().filter(|(_, column)| column.key > 0).map(|(at, _)| *at).collect();
    let has_key_index = listed.iter().any(|(_, _, origin, _)| origin == "pk");
    let alias = keys.first().copied().filter(|at| {
        let is_integer = columns.get(at).is_some_and(|column| column.declared.eq_ignore_ascii_case("integer"));
        keys.len() == 1 && !has_key_index && is_integer && !kind.without_rowids
    });
    // Which column a record's are, in its order.
    let mut order: Vec<i64> = columns.keys().copied().collect();
    let (mut key, mut indexes) = (Vec::new(), Vec::new());
    let mut entries = Vec::new();
    for (index, unique, origin, partial) in listed {
        if partial {
            return Ok(Err("an index over a part of its rows"));
        }
        let parts = index_columns(db, &index)?;
        if origin == "pk" && kind.without_rowids {
            order = parts.iter().map(|part| part.column).collect();
            key = parts.into_iter().filter(|part| part.is_key).collect();
        } else {
            entries.push((index, unique, parts));
        }
    }
    let place = |part: &IndexColumn| -> Result<KeyPart, &'static str> {
        let column = match part.column {
            -1 => None,
            column if alias == Some(column) => None,
            column => {
                let at = order.iter().position(|one| *one == column).ok_or("an index over an expression")?;
                Some(u16::try_from(at).map_err(|_| "too many columns")?)
            }
        };
        let collation = match part.collation.to_ascii_lowercase().as_str() {
            "binary" => Collation::Binary,
            "nocase" if kind.is_utf8 => Collation::NoCase,
            "rtrim" if kind.is_utf8 => Collation::RightTrim,
            "nocase" | "rtrim" => return Err("a collation that SQLite has for UTF-8 alone"),
            _ => return Err("a collation of its program's"),
        };
        Ok(KeyPart { column, collation, descending: part.descending })
    };
    let parts = |parts: &[IndexColumn]| parts.iter().map(place).collect::<Result<Vec<KeyPart>, _>>();
    for (index, unique, columns) in &entries {
        let unique = if *unique { columns.iter().filter(|part| part.is_key).count() } else { 0 };
        match parts(columns) {
            Ok(columns) => indexes.push(IndexContent { name: index.clone(), unique, columns }),
            Err(why) => return Ok(Err(why)),
        }
    }
    let key = match parts(&key) {
        Ok(key) => key,
        Err(why) => return Ok(Err(why)),
    };
    let stored = order.iter().filter_map(|at| columns.get(at).map(|column| (alias == Some(*at), column)));
    let columns = stored.map(|(is_rowid, column)| column.stored(is_rowid, kind)).collect();
    Ok(Ok(TableContent { name: name.to_owned(), columns, key, indexes }))
}

fn table_columns(db: &Connection, name: &str) -> rusqlite::Result<BTreeMap<i64, TableColumn>> {
    let sql = "SELECT cid, type, \"notnull\", dflt_value, pk, hidden FROM pragma_table_xinfo(?1)";
    let mut statement = db.prepare(sql)?;
    let columns = statement.query_map([name], |row| {
        let column = TableColumn {
            declared: row.get::<_, Option<String>>(1)?.unwrap_or_default(),
            not_null: row.get(2)?,
            default: row.get(3)?,
            key: row.get(4)?,
            hidden: row.get(5)?,
        };
        Ok((row.get(0)?, column))
    })?;
    columns.collect()
}

fn index_columns(db: &Connection, index: &str) -> rusqlite::Result<Vec<IndexColumn>> {
    let sql = "SELECT cid, \"desc\", coll, \"key\" FROM pragma_index_xinfo(?1) ORDER BY seqno";
    let mut statement = db.prepare(sql)?;
    let columns = statement.query_map([index], |row| {
        let collation = row.get::<_, Option<String>>(2)?.unwrap_or_default();
        Ok(IndexColumn { column: row.get(0)?, descending: row.get(1)?, collation, is_key: row.get(3)? })
    })?;
    columns.collect()
}

impl TableColumn {
    /// The rules are those of `integrity_check` (`pragma.c`, "Verify datatypes for all columns").
    fn stored(&self, is_rowid: bool, kind: Kind) -> StoredColumn {
        if is_rowid {
            return StoredColumn { allowed: Allowed::ANY, absent: Absent::Null };
        }
        let affinity = Affinity::of(&self.declared);
        let mut allowed = match (kind.strict, affinity) {
            (true, _) => match self.declared.to_ascii_uppercase().as_str() {
                "INT" | "INTEGER" => Allowed::NULL | Allowed::INTEGER,
                "REAL" => Allowed::NULL | Allowed::INTEGER | Allowed::REAL,
                "TEXT" => Allowed::NULL | Allowed::TEXT,
                "BLOB" => Allowed::NULL | Allowed::BLOB,
                _ => Allowed::ANY,
            },
            (false, Affinity::Blob) => Allowed::ANY,
            (false, Affinity::Text) => Allowed::NULL | Allowed::TEXT | Allowed::BLOB,
            (false, _) => Allowed::ANY | Allowed::NO_NUMBER,
        };
        if self.not_null {
            allowed &= !Allowed::NULL;
        }
        StoredColumn { allowed, absent: self.absent(affinity, kind) }
    }

    /// A column that was added later has a constant for its default: SQLite takes no other.
    fn absent(&self, affinity: Affinity, kind: Kind) -> Absent {
        let Some(default) = self.default.as_deref().map(str::trim) else { return Absent::Null };
        let is_literal = default.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '\'' | '+' | '-' | '.'));
        let is_literal = is_literal || default.eq_ignore_ascii_case("null");
        match is_literal.then(|| literal(default, affinity, kind.strict)).and_then(Result::ok) {
            Some(Value::Null) => Absent::Null,
            Some(Value::Integer(value)) => Absent::Integer(value),
            Some(Value::Real(value)) => Absent::Real(value),
            Some(Value::Text(value)) if kind.is_utf8 => Absent::Text(value.into_bytes()),
            Some(Value::Blob(value)) => Absent::Blob(value),
            _ => Absent::Unknown,
        }
    }
}

/// What a column of this kind makes of it; in memory.
fn literal(text: &str, affinity: Affinity, strict: bool) -> rusqlite::Result<Value> {
    let declared = match affinity {
        Affinity::Integer => "INTEGER",
        Affinity::Real => "REAL",
        Affinity::Text => "TEXT",
        Affinity::Blob => "BLOB",
        Affinity::Numeric if strict => "BLOB",
        Affinity::Numeric => "NUMERIC",
    };
    let db = Connection::open_in_memory()?;
    db.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    // One statement, whatever the text goes on with.
    db.execute(&format!("CREATE TABLE d(c {declared} DEFAULT {text})"), [])?;
    db.execute("INSERT INTO d DEFAULT VALUES", [])?;
    db.query_row("SELECT c FROM d", [], |row| row.get(0))
}
