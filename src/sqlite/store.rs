//! A small database of guardiand's own: the journal's index. Never a supervised file.

use std::path::Path;
use std::time::Duration;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, ToSql, params_from_iter};
use thiserror::Error;

/// A value of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// NULL.
    Null,
    /// A whole number.
    Integer(i64),
    /// Text.
    Text(String),
}

impl Value {
    /// The text, if it is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            Value::Null | Value::Integer(_) => None,
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.to_owned())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Value {
        Value::Integer(number)
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Value {
        value.map_or(Value::Null, Into::into)
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        match self {
            Value::Null => Ok(rusqlite::types::Null.into()),
            Value::Integer(number) => number.to_sql(),
            Value::Text(text) => text.to_sql(),
        }
    }
}

/// SQLite refused.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct StoreError(#[from] rusqlite::Error);

/// An open database of our own.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
}

impl Store {
    /// Opens or creates the database at `path` in WAL mode. What is in it can be built anew, so a commit need not wait for
    /// the disk (`synchronous=NORMAL`).
    ///
    /// # Errors
    /// When it cannot be opened, or does not pass `quick_check`.
    pub fn open(path: &Path) -> Result<Store, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(Duration::from_secs(2))?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", "normal")?;
        let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if verdict == "ok" {
            Ok(Store { connection })
        } else {
            let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
            Err(StoreError(rusqlite::Error::SqliteFailure(code, Some(verdict))))
        }
    }

    /// A database in memory, for when there is no place on disk.
    ///
    /// # Errors
    /// When memory is out.
    pub fn in_memory() -> Result<Store, StoreError> {
        Ok(Store { connection: Connection::open_in_memory()? })
    }

    /// Runs several statements without parameters.
    ///
    /// # Errors
    /// SQLite's.
    pub fn run(&self, sql: &str) -> Result<(), StoreError> {
        Ok(self.connection.execute_batch(sql)?)
    }

    /// Runs one statement; returns how many rows it changed.
    ///
    /// # Errors
    /// SQLite's.
    pub fn execute(&self, sql: &str, parameters: &[Value]) -> Result<usize, StoreError> {
        Ok(self.connection.prepare(sql)?.execute(params_from_iter(parameters))?)
    }

    /// The rows of one query. Numbers that are not whole, and blobs, come back as [`Value::Null`]: we store none.
    ///
    /// # Errors
    /// SQLite's.
    pub fn query(&self, sql: &str, parameters: &[Value]) -> Result<Vec<Vec<Value>>, StoreError> {
        let mut statement = self.connection.prepare(sql)?;
        let columns = statement.column_count();
        let rows = statement.query_map(params_from_iter(parameters), |row| {
            (0..columns).map(|column| row.get_ref(column).map(value)).collect::<rusqlite::Result<Vec<Value>>>()
        })?;
        Ok(rows.collect::<rusqlite::Result<Vec<_>>>()?)
    }

    /// Runs `work` in one transaction: all of it, or none.
    ///
    /// # Errors
    /// `work`'s, or the commit's.
    pub fn transaction(&self, work: impl FnOnce(&Store) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let transaction = self.connection.unchecked_transaction()?;
        work(self)?;
        Ok(transaction.commit()?)
    }
}

fn value(from: ValueRef<'_>) -> Value {
    match from {
        ValueRef::Integer(number) => Value::Integer(number),
        ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Null | ValueRef::Real(_) | ValueRef::Blob(_) => Value::Null,
    }
}
