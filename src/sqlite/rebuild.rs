//! Rebuilding indexes from their tables, at no loss.
//!
//! REINDEX frees the old tree page by page and so fails where that tree cannot be read. Then the index's schema row is
//! what is taken away: for an index with SQL the row is deleted and the index created anew; one that a UNIQUE or PRIMARY
//! KEY made has no SQL, so a twin is built and its root put into the row. The old tree's pages stay unused until the VACUUM
//! that follows (SQLITE.md, section 8).

use serde::{Deserialize, Serialize};

use super::probe::{quoted, text};
use super::{Database, FaultClass, SqliteFault};

/// Which indexes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Which {
    /// Every index of the database.
    All,
    /// These.
    Names(Vec<String>),
}

/// What was rebuilt.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebuildReport {
    /// By REINDEX.
    pub reindexed: Vec<String>,
    /// By a new tree beside the unreadable one.
    pub recreated: Vec<String>,
    /// Why the pages of the unreadable trees could not be freed: the rebuild holds, and a check will call them
    /// "never used" until a VACUUM succeeds.
    pub unreclaimed: Option<SqliteFault>,
}

struct Index {
    name: String,
    table: String,
    sql: Option<String>,
}

/// The twin's name while it is built, inside one transaction.
const TWIN: &str = "guardian rebuild";

impl Database {
    /// Rebuilds indexes in one transaction; then, when a tree had to be abandoned, runs VACUUM.
    ///
    /// # Errors
    /// SQLite's, and a name that is no index. CONSTRAINT when rows violate the index's UNIQUE: a person must choose which
    /// row to keep. On any error nothing has changed.
    pub fn rebuild_indexes(&self, which: &Which) -> Result<RebuildReport, SqliteFault> {
        let mut unreadable = Vec::new();
        // Each turn finds one more tree that REINDEX cannot free, or ends: so there are as many turns as indexes, at most.
        let mut report = loop {
            let mut failed = None;
            match self.transaction(|db| db.rebuild_all(&db.chosen(which)?, &unreadable, &mut failed)) {
                Ok(report) => break report,
                Err(fault) => match failed {
                    // Not in a savepoint of the same transaction: after that failure SQLite answers CORRUPT to an edit of the
                    // schema's rows too (seen with 3.54.1).
                    Some(name) if fault.is_corruption() => unreadable.push(name),
                    _ => return Err(fault),
                },
            }
        };
        if !report.recreated.is_empty() {
            report.unreclaimed = self.batch("VACUUM").err();
        }
        Ok(report)
    }

    fn rebuild_all(
        &self,
        indexes: &[Index],
        unreadable: &[String],
        failed: &mut Option<String>,
    ) -> Result<RebuildReport, SqliteFault> {
        let mut report = RebuildReport::default();
        let (abandoned, sound): (Vec<_>, Vec<_>) = indexes.iter().partition(|index| unreadable.contains(&index.name));
        for index in abandoned {
            let rebuilt = match &index.sql {
                Some(sql) => self.recreate(index, sql),
                None => self.twin(index),
            };
            if rebuilt.is_err() {
                // The flag outlives the transaction that is about to be rolled back; the error to tell is the first.
                let _ = self.batch("PRAGMA writable_schema=RESET");
            }
            rebuilt?;
            report.recreated.push(index.name.clone());
        }
        for index in sound {
            if let Err(fault) = self.batch(&format!("REINDEX main.{}", quoted(&index.name))) {
                *failed = Some(index.name.clone());
                return Err(fault);
            }
            report.reindexed.push(index.name.clone());
        }
        Ok(report)
    }

    fn recreate(&self, index: &Index, sql: &str) -> Result<(), SqliteFault> {
        self.batch("PRAGMA writable_schema=ON")?;
        let delete = "DELETE FROM sqlite_schema WHERE type='index' AND name=?1";
        self.execute(delete, &[index.name.as_str().into()])?;
        // Forgets the schema in memory too, where the index still exists.
        self.batch("PRAGMA writable_schema=RESET")?;
        self.batch(sql)
    }

    fn twin(&self, index: &Index) -> Result<(), SqliteFault> {
        let columns = self.key_columns(&index.name)?;
        let create = format!("CREATE UNIQUE INDEX {} ON {}({columns})", quoted(TWIN), quoted(&index.table));
        self.batch(&create)?;
        self.batch("PRAGMA writable_schema=ON")?;
        let swap =
            "UPDATE sqlite_schema SET rootpage=(SELECT rootpage FROM sqlite_schema WHERE type='index' AND name=?1)
                    WHERE type='index' AND name=?2";
        self.execute(swap, &[TWIN.into(), index.name.as_str().into()])?;
        self.execute("DELETE FROM sqlite_schema WHERE type='index' AND name=?1", &[TWIN.into()])?;
        self.batch("PRAGMA writable_schema=RESET")
    }

    /// The columns of an index's key, as SQL.
    fn key_columns(&self, name: &str) -> Result<String, SqliteFault> {
        let sql = "SELECT name, coll, \"desc\" FROM pragma_index_xinfo(?1) WHERE key=1 ORDER BY seqno";
        let columns = self.rows(sql, &[name.into()])?.into_iter().map(|row| match row.as_slice() {
            [column, collation, descending] => {
                let (column, collation) = (column.as_str().unwrap_or(""), collation.as_str().unwrap_or("BINARY"));
                let order = if descending.as_i64() == Some(1) { " DESC" } else { "" };
                format!("{} COLLATE {}{order}", quoted(column), quoted(collation))
            }
            _ => String::new(),
        });
        Ok(columns.collect::<Vec<_>>().join(", "))
    }

    fn chosen(&self, which: &Which) -> Result<Vec<Index>, SqliteFault> {
        let all = self.indexes().map_err(|error| self.fault("listing the indexes of", &error))?;
        let Which::Names(names) = which else {
            return Ok(all);
        };
        if let Some(name) = names.iter().find(|name| !all.iter().any(|index| index.name == **name)) {
            let operation = format!("rebuilding an index of {}", self.path.display());
            return Err(SqliteFault::other(operation, FaultClass::Schema, format!("there is no index {name}")));
        }
        Ok(all.into_iter().filter(|index| names.contains(&index.name)).collect())
    }

    fn indexes(&self) -> rusqlite::Result<Vec<Index>> {
        let sql = "SELECT name, tbl_name, sql FROM sqlite_schema WHERE type='index' ORDER BY rowid";
        let mut statement = self.connection.prepare(sql)?;
        let mut rows = statement.query([])?;
        let mut all = Vec::new();
        while let Some(row) = rows.next()? {
            let sql = match row.get_ref(2)? {
                rusqlite::types::ValueRef::Null => None,
                value => Some(text(value)),
            };
            all.push(Index { name: text(row.get_ref(0)?), table: text(row.get_ref(1)?), sql });
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Access;
    use super::super::testing::*;
    use super::*;

    fn rows(db: &Database) -> Vec<Vec<super::super::Value>> {
        db.rows("SELECT rowid, a, b, u FROM t NOT INDEXED ORDER BY rowid", &[]).unwrap()
    }

    #[test]
    fn a_differing_entry_is_reindexed() {
        let dir = tempfile::tempdir().unwrap();
        let path = sample(dir.path());
        mismatch(&path);
        let db = open(&path, Access::Repair);
        let report = db.rebuild_indexes(&Which::Names(vec!["t_b".into()])).unwrap();
        assert_eq!((report.reindexed, report.recreated), (vec!["t_b".to_owned()], vec![]));
        assert!(db.integrity_check(10).ok);
    }

    #[test]
    fn an_unreadable_index_is_built_anew_without_losing_a_row() {
        for name in ["t_b", "sqlite_autoindex_t_1"] {
            for which in [Which::All, Which::Names(vec![name.into()])] {
                let dir = tempfile::tempdir().unwrap();
                let path = sample(dir.path());
                let before = rows(&open(&path, Access::Probe));
                for page in [leaf_of(&path, name), root_of(&path, name)] {
                    damage(&path, (page - 1) * 4096, &[0xa5; 4096]);
                }
                let db = open(&path, Access::Repair);
                let report = db.rebuild_indexes(&which).unwrap();
                assert_eq!((report.recreated, report.unreclaimed), (vec![name.to_owned()], None));
                let again = open(&path, Access::Probe);
                let check = again.integrity_check(10);
                assert!(check.ok, "{check:?}");
                assert_eq!(rows(&again), before);
                let duplicate = db.batch("INSERT INTO t(b, u) VALUES ('x', 'u7')");
                assert_eq!(duplicate.unwrap_err().class, FaultClass::Constraint);
                assert_eq!(db.canary("SELECT 1 FROM sqlite_schema WHERE name LIKE 'guardian%'", 1).unwrap(), 0);
            }
        }
    }

    #[test]
    fn rows_that_violate_unique_are_reported_and_nothing_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = sample(dir.path());
        let leaf = leaf_of(&path, "t");
        let bytes = std::fs::read(&path).unwrap();
        let page = &bytes[((leaf - 1) * 4096) as usize..(leaf * 4096) as usize];
        // Row 12's `u` becomes that of row 11: twice the same in the table, and the index says otherwise.
        let at = page.windows(3).position(|window| window == b"u12").unwrap();
        damage(&path, (leaf - 1) * 4096 + at as u64, b"u11");
        let before = std::fs::read(&path).unwrap();
        let db = open(&path, Access::Repair);
        let fault = db.rebuild_indexes(&Which::All).unwrap_err();
        assert_eq!(fault.class, FaultClass::Constraint);
        drop(db);
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn a_name_that_is_no_index_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let db = open(&sample(dir.path()), Access::Repair);
        assert!(db.rebuild_indexes(&Which::Names(vec!["t".into()])).unwrap_err().message.contains("no index t"));
    }
}
