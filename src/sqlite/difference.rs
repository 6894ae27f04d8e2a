//! How the rows of two databases of one schema differ, table by table, by their keys; and rows that one of them lacks, put into it.
//!
//! A row's key is its INTEGER PRIMARY KEY, or the PRIMARY KEY of a table WITHOUT ROWID. The rowids of all other tables may be given out
//! anew by VACUUM (lang_vacuum.html, "may change the ROWIDs"): whoever asks says whether they are the same in both.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;

use super::open::uri;
use super::pinned::Pinned;
use super::probe::quoted;
use super::{Access, Database, Deadline, FaultClass, SqliteFault};

/// A comparison of more columns would be an expression deeper than SQLite takes (1000).
const COLUMNS_MAX: usize = 500;

/// How the rows of one table differ.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// The table.
    pub table: String,
    /// Rows here.
    pub here: u64,
    /// Rows there; none where there is no such table.
    pub there: u64,
    /// By their keys; `None` where keys do not tell.
    pub by_key: Option<ByKey>,
}

/// Rows, by their keys.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ByKey {
    /// With a key that is not there.
    pub only_here: u64,
    /// With a key that is not here.
    pub only_there: u64,
    /// In both, with another content.
    pub changed: u64,
    /// The key is a rowid.
    pub is_rowid: bool,
    /// Both have the same columns.
    pub same_columns: bool,
}

/// What became of rows that were put into a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Added {
    /// The table.
    pub table: String,
    /// So many are new in it.
    pub rows: u64,
}

/// A table as it is in one of the two.
struct Shape {
    /// All that are stored and not computed.
    columns: Vec<String>,
    key: Vec<String>,
    is_rowid: bool,
    /// The key is among the columns.
    is_named: bool,
}

/// Compares two database files that nobody writes; virtual tables and their own tables are left out. `same_rowids`: those that no
/// column names are the same in both.
///
/// # Errors
/// SQLite's, of one that cannot be read, or where their texts are of different encodings.
pub fn differences(here: &Path, there: &Path, same_rowids: bool) -> Result<Vec<Difference>, SqliteFault> {
    let db = Database::open(here, Access::Immutable, Duration::ZERO, Deadline::never())?;
    let pinned = attach(&db, there)?;
    let mut all = Vec::new();
    for (table, rows) in db.row_counts()? {
        let found = difference(&db.connection, &table, rows, same_rowids);
        all.push(found.map_err(|error| db.fault(&format!("comparing table {table} of"), &error))?);
    }
    db.close()?;
    drop(pinned);
    Ok(all)
}

/// Puts those rows of `from` into these tables of `into` whose keys are not there, as far as constraints let them. Nobody else has
/// either file open; no trigger runs.
///
/// # Errors
/// SQLite's; then `into` is of no use.
pub fn add_missing(into: &Path, from: &Path, tables: &[&str], same_rowids: bool) -> Result<Vec<Added>, SqliteFault> {
    let db = Database::open(into, Access::Copy, Duration::ZERO, Deadline::never())?;
    let pinned = attach(&db, from)?;
    let fault = |error: rusqlite::Error| db.fault("putting rows into", &error);
    db.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false).map_err(fault)?;
    // A crash leaves a file that has no name yet by which anybody knows it.
    db.batch("PRAGMA synchronous=OFF; BEGIN")?;
    let mut added = Vec::new();
    for table in tables {
        let Some((shape, _)) = shapes(&db.connection, table, same_rowids).map_err(fault)? else { continue };
        let all = shape.columns.iter().chain(shape.key.iter().filter(|_| !shape.is_named));
        let names: Vec<String> = all.map(|name| quoted(name)).collect();
        let (table_name, names) = (quoted(table), names.join(", "));
        let sql = format!("INSERT OR IGNORE INTO main.{table_name}({names}) SELECT {names} FROM other.{table_name}");
        let rows = db.connection.execute(&sql, []).map_err(fault)?;
        added.push(Added { table: (*table).to_owned(), rows: rows as u64 });
    }
    db.batch("COMMIT; DETACH other")?;
    db.close()?;
    drop(pinned);
    Ok(added)
}

fn attach(db: &Database, other: &Path) -> Result<Pinned, SqliteFault> {
    let operation = format!("opening {}", other.display());
    let pinned =
        Pinned::of(other).map_err(|error| SqliteFault::other(&operation, FaultClass::CannotOpen, error.to_string()))?;
    let uri = uri(&pinned.path, Access::Immutable);
    let run = || {
        db.connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 1)?;
        // Every byte of it is ASCII.
        db.connection.execute("ATTACH ?1 AS other", [uri.to_string_lossy()])
    };
    run().map_err(|error| SqliteFault::new(operation, &error, Some(&db.connection)))?;
    Ok(pinned)
}

fn difference(db: &Connection, table: &str, here: u64, same_rowids: bool) -> rusqlite::Result<Difference> {
    let name = quoted(table);
    let is_there = db
        .prepare("SELECT 1 FROM other.sqlite_schema WHERE type='table' AND rootpage>0 AND lower(name)=lower(?1)")?
        .exists([table])?;
    if !is_there {
        // A table that is new: every row is.
        let by_key = ByKey { only_here: here, ..ByKey::default() };
        return Ok(Difference { table: table.to_owned(), here, there: 0, by_key: Some(by_key) });
    }
    let count = format!("SELECT count(*) FROM other.{name} NOT INDEXED");
    let there = db.query_row(&count, [], |row| row.get::<_, i64>(0))?.unsigned_abs();
    let by_key = match shapes(db, table, same_rowids)? {
        Some((own, other)) => Some(by_key(db, &name, (&own, &other), there)?),
        None => None,
    };
    Ok(Difference { table: table.to_owned(), here, there, by_key })
}

fn by_key(db: &Connection, name: &str, (own, other): (&Shape, &Shape), there: u64) -> rusqlite::Result<ByKey> {
    let on: Vec<String> = own.key.iter().map(|key| format!("o.{0} = h.{0}", quoted(key))).collect();
    let (on, first) = (on.join(" AND "), own.key.first().map_or_else(String::new, |key| quoted(key)));
    let in_both = own.columns.iter().filter(|name| !own.key.contains(name) && other.columns.contains(name));
    let differ: Vec<String> = in_both.map(|name| format!("h.{0} IS NOT o.{0} COLLATE BINARY", quoted(name))).collect();
    let differ = if differ.is_empty() { "0".to_owned() } else { differ.join(" OR ") };
    let sql = format!(
        "SELECT coalesce(sum(o.{first} IS NULL), 0), coalesce(sum(o.{first} IS NOT NULL AND ({differ})), 0), count(*)
         FROM main.{name} AS h NOT INDEXED LEFT JOIN other.{name} AS o ON {on}"
    );
    let number = |row: &rusqlite::Row<'_>, at: usize| row.get::<_, i64>(at).map(i64::unsigned_abs);
    let (only_here, changed, here) =
        db.query_row(&sql, [], |row| Ok((number(row, 0)?, number(row, 1)?, number(row, 2)?)))?;
    let only_there = there.saturating_sub(here.saturating_sub(only_here));
    Ok(ByKey { only_here, only_there, changed, is_rowid: own.is_rowid, same_columns: own.columns == other.columns })
}

/// The table as it is in both, where a row of one can be known in the other.
fn shapes(db: &Connection, table: &str, same_rowids: bool) -> rusqlite::Result<Option<(Shape, Shape)>> {
    let (Some(own), Some(other)) = (shape(db, "main", table)?, shape(db, "other", table)?) else { return Ok(None) };
    let alike = own.key == other.key && own.is_rowid == other.is_rowid;
    let many = own.columns.len().max(other.columns.len()) > COLUMNS_MAX;
    Ok((alike && !many && (own.is_named || same_rowids)).then_some((own, other)))
}

fn shape(db: &Connection, schema: &str, table: &str) -> rusqlite::Result<Option<Shape>> {
    let wr = "SELECT wr FROM pragma_table_list WHERE schema=?1 AND lower(name)=lower(?2) AND type='table'";
    let without_rowids: Vec<bool> =
        db.prepare(wr)?.query_map([schema, table], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let Some(without_rowids) = without_rowids.first().copied() else { return Ok(None) };
    let mut statement = db.prepare("SELECT name, type, pk, hidden FROM pragma_table_xinfo(?1, ?2) ORDER BY cid")?;
    let read = |row: &rusqlite::Row<'_>| {
        let declared = row.get::<_, Option<String>>(1)?.unwrap_or_default();
        Ok((row.get::<_, String>(0)?, declared, row.get::<_, i64>(2)?, row.get::<_, i64>(3)?))
    };
    let all: Vec<(String, String, i64, i64)> = statement.query_map([table, schema], read)?.collect::<Result<_, _>>()?;
    let mut keys: Vec<&(String, String, i64, i64)> = all.iter().filter(|(_, _, key, _)| *key > 0).collect();
    keys.sort_unstable_by_key(|(_, _, key, _)| *key);
    // One that has an index (DESC) is no rowid.
    let indexed = db.prepare("SELECT 1 FROM pragma_index_list(?1, ?2) WHERE origin='pk'")?.exists([table, schema])?;
    let is_alias = !without_rowids
        && !indexed
        && matches!(keys.as_slice(), [(_, declared, ..)] if declared.eq_ignore_ascii_case("integer"));
    let is_free = |name: &&str| !all.iter().any(|(column, ..)| column.eq_ignore_ascii_case(name));
    let key = match (without_rowids || is_alias, ["rowid", "_rowid_", "oid"].iter().copied().find(is_free)) {
        (true, _) => keys.into_iter().map(|(name, ..)| name.clone()).collect(),
        (false, Some(name)) => vec![name.to_owned()],
        (false, None) => return Ok(None),
    };
    let is_named = without_rowids || is_alias;
    let columns = all.iter().filter(|(.., hidden)| *hidden == 0).map(|(name, ..)| name.clone()).collect();
    Ok(Some(Shape { columns, key, is_rowid: !without_rowids, is_named }))
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    /// Two databases of these tables, filled and then changed.
    fn two(dir: &Path, tables: &str, changes: &str) -> (std::path::PathBuf, std::path::PathBuf) {
        let (old, new) = (dir.join("old.db"), dir.join("new.db"));
        let db = open(&old, Access::Create);
        db.batch(tables).unwrap();
        db.close().unwrap();
        std::fs::copy(&old, &new).unwrap();
        let db = open(&new, Access::Repair);
        db.batch(changes).unwrap();
        db.close().unwrap();
        (old, new)
    }

    const TABLES: &str = "
        CREATE TABLE k(id INTEGER PRIMARY KEY, a TEXT COLLATE NOCASE, b AS (a || '!'), c AS (a || '?') STORED);
        CREATE TABLE w(x TEXT, y INT, v, PRIMARY KEY(x, y)) WITHOUT ROWID;
        CREATE TABLE r(a, rowid);
        CREATE TABLE d(id INTEGER PRIMARY KEY DESC, a);
        INSERT INTO k(id, a) VALUES (1, 'one'), (2, 'two'), (3, 'three'), (4, NULL);
        INSERT INTO w VALUES ('a', 1, 1), ('a', 2, 2), ('b', 1, 3);
        INSERT INTO r VALUES ('x', 1), ('y', 2);
        INSERT INTO d VALUES (7, 'seven');";

    fn of(all: &[Difference], table: &str) -> (u64, u64, Option<(u64, u64, u64)>) {
        let one = all.iter().find(|one| one.table == table).unwrap();
        (one.here, one.there, one.by_key.map(|keys| (keys.only_here, keys.only_there, keys.changed)))
    }

    #[test]
    fn rows_are_told_apart_by_their_keys_and_never_by_their_number() {
        let dir = tempfile::tempdir().unwrap();
        // As many rows as before, and none of the counts says that anything happened.
        let changes = "
            DELETE FROM k WHERE id = 2; INSERT INTO k(id, a) VALUES (9, 'nine'); UPDATE k SET a = 'ONE' WHERE id = 1;
            UPDATE k SET a = 'four' WHERE id = 4;
            DELETE FROM w WHERE x = 'b'; INSERT INTO w VALUES ('c', 1, 3); UPDATE w SET v = 1.0 WHERE y = 1;
            DELETE FROM r WHERE a = 'x'; INSERT INTO r VALUES ('z', 3);
            CREATE TABLE n(a); INSERT INTO n VALUES (1), (2);";
        let (old, new) = two(dir.path(), TABLES, changes);
        let all = differences(&new, &old, true).unwrap();
        assert_eq!(of(&all, "k"), (4, 4, Some((1, 1, 2))), "a letter of another case is another text");
        assert_eq!(of(&all, "w"), (3, 3, Some((1, 1, 0))), "1 and 1.0 are one number");
        assert_eq!(of(&all, "n"), (2, 0, Some((2, 0, 0))), "a table that is new");
        assert_eq!(of(&all, "r"), (2, 2, Some((1, 1, 0))));
        assert_eq!(of(&all, "d"), (1, 1, Some((0, 0, 0))));
        assert_eq!(differences(&new, &new, true).unwrap().iter().map(|one| one.here).sum::<u64>(), 12);

        // After a VACUUM a rowid without a name is another row's.
        let all = differences(&new, &old, false).unwrap();
        assert_eq!((of(&all, "r"), of(&all, "d")), ((2, 2, None), (1, 1, None)));
        assert_eq!(of(&all, "k"), (4, 4, Some((1, 1, 2))));
    }

    #[test]
    fn only_rows_with_a_new_key_are_put_in_and_only_where_constraints_let_them() {
        let dir = tempfile::tempdir().unwrap();
        let tables = "
            CREATE TABLE k(id INTEGER PRIMARY KEY AUTOINCREMENT, a TEXT UNIQUE, s AS (a || '!') STORED, CHECK (a <> 'no'));
            CREATE TABLE said(what); CREATE TABLE r(a);
            CREATE TRIGGER k_new AFTER INSERT ON k BEGIN INSERT INTO said VALUES (new.a); END;
            INSERT INTO k(a) VALUES ('one'), ('two'); INSERT INTO r VALUES ('x');";
        let changes = "UPDATE k SET a = 'TWO' WHERE id = 2; INSERT INTO k(a) VALUES ('three'), ('two'); INSERT INTO r VALUES ('y')";
        let (old, new) = two(dir.path(), tables, changes);
        let before = std::fs::read(&new).unwrap();
        let added = add_missing(&old, &new, &["k", "r"], true).unwrap();
        assert_eq!(added.iter().map(|one| one.rows).collect::<Vec<_>>(), [1, 1], "`two` is another row's still");
        let db = open(&old, Access::Copy);
        let texts = |sql: &str| {
            let rows = db.rows(sql, &[]).unwrap();
            rows.iter().map(|row| row[0].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(texts("SELECT s FROM k ORDER BY id"), ["one!", "two!", "three!"]);
        assert_eq!(texts("SELECT a FROM r ORDER BY rowid"), ["x", "y"]);
        assert_eq!(texts("SELECT what FROM said"), ["one", "two"], "a trigger ran");
        // No id is given out twice, that of a row which was refused included.
        assert_eq!(db.rows("SELECT seq FROM sqlite_sequence", &[]).unwrap()[0][0].as_i64(), Some(4));
        assert_eq!(std::fs::read(&new).unwrap(), before);
        assert!(!dir.path().join("old.db-journal").exists());
    }

    #[test]
    fn what_cannot_be_compared_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let (old, _) = two(dir.path(), "CREATE TABLE t(a)", "SELECT 1");
        let wide = dir.path().join("wide.db");
        let db = open(&wide, Access::Create);
        db.batch("PRAGMA encoding='UTF-16le'; CREATE TABLE t(a)").unwrap();
        db.close().unwrap();
        assert!(differences(&old, &wide, true).is_err());
        assert!(differences(&old, &dir.path().join("none.db"), true).is_err());
        assert!(!dir.path().join("none.db").exists());
    }
}
