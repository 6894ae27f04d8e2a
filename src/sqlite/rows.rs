//! Counting rows, so that a loss can be told in numbers.

use super::probe::{quoted, text};
use super::{Database, SqliteFault};

impl Database {
    /// Rows of every user table, by name. Virtual tables hold no rows of their own, and their shadow tables' rows are
    /// their module's affair: neither is counted. The table's own tree is counted, never an index of it, which may
    /// be the damaged part. Costs a read of every leaf; the deadline ends it.
    ///
    /// # Errors
    /// SQLite's.
    pub fn row_counts(&self) -> Result<Vec<(String, u64)>, SqliteFault> {
        let names = self.counted_tables().map_err(|error| self.fault("listing the tables of", &error))?;
        let mut counts = Vec::with_capacity(names.len());
        for name in names {
            let sql = format!("SELECT count(*) FROM main.{} NOT INDEXED", quoted(&name));
            let rows: i64 = self
                .connection
                .query_row(&sql, [], |row| row.get(0))
                .map_err(|error| self.fault(&format!("counting the rows of {name} in"), &error))?;
            counts.push((name, rows.unsigned_abs()));
        }
        Ok(counts)
    }

    fn counted_tables(&self) -> rusqlite::Result<Vec<String>> {
        let sql =
            "SELECT s.name FROM sqlite_schema s LEFT JOIN pragma_table_list l ON l.schema='main' AND l.name=s.name
                   WHERE s.type='table' AND s.rootpage>0 AND s.name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
                   AND coalesce(l.type,'table')<>'shadow' ORDER BY s.name";
        let mut statement = self.connection.prepare(sql)?;
        let mut rows = statement.query([])?;
        let mut names = Vec::new();
        while let Some(row) = rows.next()? {
            names.push(text(row.get_ref(0)?));
        }
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Access;
    use super::super::testing::*;

    #[test]
    fn every_user_table_is_counted_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = sample(dir.path());
        let db = open(&path, Access::Repair);
        db.batch(
            "CREATE TABLE \"odd \"\"name\"(x INTEGER PRIMARY KEY AUTOINCREMENT); INSERT INTO \"odd \"\"name\" DEFAULT VALUES;
             CREATE VIRTUAL TABLE f USING fts5(body); INSERT INTO f VALUES ('words'); CREATE VIEW v AS SELECT * FROM t;",
        )
        .unwrap();
        let counts = open(&path, Access::Probe).row_counts().unwrap();
        let expected = [("odd \"name".to_owned(), 1), ("t".to_owned(), SAMPLE_ROWS), ("w".to_owned(), 300)];
        assert_eq!(counts, expected);
    }
}
