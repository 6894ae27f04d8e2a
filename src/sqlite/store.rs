//! Plain SQL with values, for our own `state.db`: so that rusqlite stays inside this room.

use rusqlite::params_from_iter;
use rusqlite::types::{ToSqlOutput, ValueRef};

use super::{Database, SqliteFault};

/// A value in a row or a parameter.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// NULL.
    Null,
    /// A 64-bit integer.
    Integer(i64),
    /// A floating-point number.
    Real(f64),
    /// Text; bytes that are not UTF-8 are replaced on reading.
    Text(String),
    /// Bytes.
    Blob(Vec<u8>),
}

impl Value {
    /// The integer, when it is one.
    pub fn as_i64(&self) -> Option<i64> {
        if let Value::Integer(number) = self { Some(*number) } else { None }
    }

    /// The number, when it is one.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Integer(number) => Some(*number as f64),
            Value::Real(number) => Some(*number),
            Value::Null | Value::Text(_) | Value::Blob(_) => None,
        }
    }

    /// The text, when it is text.
    pub fn as_str(&self) -> Option<&str> {
        if let Value::Text(text) = self { Some(text) } else { None }
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Value {
        Value::Integer(number)
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Value {
        Value::Real(number)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(text)
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Value {
        value.map_or(Value::Null, Into::into)
    }
}

impl rusqlite::ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Value::Null => ValueRef::Null,
            Value::Integer(number) => ValueRef::Integer(*number),
            Value::Real(number) => ValueRef::Real(*number),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
            Value::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

impl From<ValueRef<'_>> for Value {
    fn from(value: ValueRef<'_>) -> Value {
        match value {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(number) => Value::Integer(number),
            ValueRef::Real(number) => Value::Real(number),
            ValueRef::Text(bytes) => Value::Text(String::from_utf8_lossy(bytes).into_owned()),
            ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec()),
        }
    }
}

impl Database {
    /// Runs statements that answer nothing of interest.
    ///
    /// # Errors
    /// SQLite's, at the first statement that fails; those before it stay done.
    pub fn batch(&self, sql: &str) -> Result<(), SqliteFault> {
        self.connection.execute_batch(sql).map_err(|error| self.fault("running SQL on", &error))
    }

    /// Runs one statement with parameters; the number of rows that it changed.
    ///
    /// # Errors
    /// SQLite's.
    pub fn execute(&self, sql: &str, parameters: &[Value]) -> Result<usize, SqliteFault> {
        let run = || self.connection.prepare(sql)?.execute(params_from_iter(parameters));
        run().map_err(|error| self.fault("running SQL on", &error))
    }

    /// Runs one query and gathers all of its rows: for answers that are known to be small.
    ///
    /// # Errors
    /// SQLite's.
    pub fn rows(&self, sql: &str, parameters: &[Value]) -> Result<Vec<Vec<Value>>, SqliteFault> {
        let run = || -> rusqlite::Result<Vec<Vec<Value>>> {
            let mut statement = self.connection.prepare(sql)?;
            let columns = statement.column_count();
            let mut rows = statement.query(params_from_iter(parameters))?;
            let mut all = Vec::new();
            while let Some(row) = rows.next()? {
                all.push((0..columns).map(|n| row.get_ref(n).map(Value::from)).collect::<rusqlite::Result<_>>()?);
            }
            Ok(all)
        };
        run().map_err(|error| self.fault("querying", &error))
    }

    /// Runs `work` in one transaction that takes the write lock at once: all of it happens, or nothing.
    ///
    /// # Errors
    /// SQLite's, and whatever `work` gives; then everything is rolled back.
    pub fn transaction<T>(&self, work: impl FnOnce(&Database) -> Result<T, SqliteFault>) -> Result<T, SqliteFault> {
        self.batch("BEGIN IMMEDIATE")?;
        let done = work(self).and_then(|value| self.batch("COMMIT").map(|()| value));
        if done.is_err() && !self.connection.is_autocommit() {
            // The first error is the one to tell; a rollback that fails is repeated by SQLite at the next open.
            let _ = self.batch("ROLLBACK");
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::super::{Access, FaultClass};
    use super::*;

    #[test]
    fn values_come_back_as_they_went_in() {
        let dir = tempfile::tempdir().unwrap();
        let db = open(&dir.path().join("s.db"), Access::Create);
        db.batch("CREATE TABLE t(a)").unwrap();
        let values =
            [Value::Null, 7.into(), 1.5.into(), "ä'".into(), Value::Blob(vec![0, 255]), Value::from(None::<i64>)];
        for value in &values {
            assert_eq!(db.execute("INSERT INTO t VALUES (?1)", std::slice::from_ref(value)).unwrap(), 1);
        }
        let rows = db.rows("SELECT a FROM t ORDER BY rowid", &[]).unwrap();
        assert_eq!(rows.concat(), values);
    }

    #[test]
    fn a_transaction_that_fails_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let db = open(&dir.path().join("s.db"), Access::Create);
        db.batch("CREATE TABLE t(a UNIQUE)").unwrap();
        let failed = db.transaction(|db| {
            db.execute("INSERT INTO t VALUES (1)", &[])?;
            db.execute("INSERT INTO t VALUES (1)", &[])
        });
        assert_eq!(failed.unwrap_err().class, FaultClass::Constraint);
        assert_eq!(db.row_counts().unwrap(), [("t".to_owned(), 0)]);
        db.transaction(|db| db.execute("INSERT INTO t VALUES (1)", &[])).unwrap();
        assert_eq!(db.row_counts().unwrap(), [("t".to_owned(), 1)]);
    }
}
