//! Full-text tables and R-Trees: their own tables are kept, and where these are hurt the index is built anew.

use std::fs;
use std::path::Path;

use rusqlite::Connection;

use super::support::command::guardiand;
use super::support::damage::{self, Dice};

const SCHEMA: &str = "PRAGMA page_size=1024;
    CREATE VIRTUAL TABLE f USING fts5(title, body);
    CREATE VIRTUAL TABLE r USING rtree(id, x0, x1, y0, y1, +name);
    CREATE VIRTUAL TABLE i USING rtree_i32(id, x0, x1);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<400)
      INSERT INTO f SELECT 'title ' || i, 'body of ' || (i * 7919 % 1000) FROM n;
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<400)
      INSERT INTO r SELECT i, i / 3.0, i / 3.0 + 1, i % 20, i % 20 + 2, 'name ' || i FROM n;
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<400)
      INSERT INTO i SELECT i, i * 2, i * 2 + 1 FROM n;";

/// A leaf of that table is overwritten; the new database.
fn salvaged(folder: &Path, table: Option<&str>) -> Connection {
    let (source, new) = (folder.join("app.db"), folder.join("new.db"));
    let _ = (fs::remove_file(&source), fs::remove_file(&new));
    Connection::open(&source).unwrap().execute_batch(SCHEMA).unwrap();
    if let Some(table) = table {
        damage::first_leaf(&source, table, &mut Dice::of(3));
    }
    let ran = guardiand(folder, &["salvage", "--json", "app.db", "new.db"]);
    let report = ran.json_of(i32::from(table.is_some()));
    let db = Connection::open(&new).unwrap();
    let check: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok", "{table:?}: {report}");
    db
}

fn count(db: &Connection, sql: &str) -> i64 {
    db.query_row(sql, [], |row| row.get(0)).unwrap()
}

#[test]
fn what_is_whole_comes_out_whole() {
    let folder = tempfile::tempdir().unwrap();
    let db = salvaged(folder.path(), None);
    assert_eq!(count(&db, "SELECT count(*) FROM f WHERE f MATCH 'body'"), 400);
    assert_eq!(count(&db, "SELECT count(*) FROM r WHERE x0 >= 0 AND name LIKE 'name %'"), 400);
}

#[test]
fn a_full_text_index_that_is_hurt_is_built_from_its_rows() {
    let folder = tempfile::tempdir().unwrap();
    let db = salvaged(folder.path(), Some("f_data"));
    assert_eq!(count(&db, "SELECT count(*) FROM f WHERE f MATCH 'title'"), 400);
    assert_eq!(count(&db, "SELECT count(*) FROM f WHERE f MATCH '\"body of 919\"'"), 1);
}

#[test]
fn an_r_tree_that_is_hurt_is_built_from_the_entries_that_are_left() {
    let folder = tempfile::tempdir().unwrap();
    // Where each entry is, is told by the nodes too; the names alone are gone.
    let db = salvaged(folder.path(), Some("r_rowid"));
    assert_eq!(count(&db, "SELECT count(*) FROM r WHERE x0 > -1"), 400);
    let named = count(&db, "SELECT count(*) FROM r WHERE name = 'name ' || id");
    assert!((300..400).contains(&named), "{named}");
    assert_eq!(count(&db, "SELECT count(*) FROM i WHERE x0 = 2 * id AND x1 = x0 + 1"), 400);
    // A node is gone: the root, which costs nothing, or one with entries.
    for (table, module) in [("r_node", "r"), ("i_node", "i")] {
        let db = salvaged(folder.path(), Some(table));
        let there = count(&db, &format!("SELECT count(*) FROM {module} WHERE x0 > -1"));
        assert!((200..=400).contains(&there), "{table}: {there}");
        assert_eq!(count(&db, "SELECT count(*) FROM r WHERE name <> 'name ' || id"), 0);
    }
}
