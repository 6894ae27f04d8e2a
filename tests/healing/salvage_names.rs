//! Names of tables whose definitions are gone, where SQLite's own tables tell them, and where they could be another's.

use std::fs;

use rusqlite::Connection;

use super::support::command::guardiand;
use super::support::damage;

/// Those that can be told.
const TABLES: [&str; 4] = ["counted", "given", "named", "whole"];

fn rows(db: &Connection, sql: &str) -> Vec<String> {
    let mut query = db.prepare(sql).unwrap();
    let columns = query.column_count();
    let mut found = query.query([]).unwrap();
    let mut rows = Vec::new();
    while let Some(row) = found.next().unwrap() {
        let words: Vec<String> = (0..columns).map(|at| format!("{:?}", row.get_ref(at).unwrap())).collect();
        rows.push(words.join(" "));
    }
    rows
}

#[test]
fn a_table_is_called_by_what_analyze_and_autoincrement_left_where_no_other_can_be_meant() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let fill = |rows: u32, into: &str| {
        format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{rows}) INSERT INTO {into} FROM n;"
        )
    };
    let db = Connection::open(&path).unwrap();
    db.execute_batch(&format!(
        "CREATE TABLE counted(id INTEGER PRIMARY KEY, a TEXT, n INT); CREATE INDEX counted_a ON counted(a);
         CREATE TABLE stale(id INTEGER PRIMARY KEY, a TEXT); CREATE TABLE twin(x TEXT); CREATE TABLE other(y TEXT);
         CREATE TABLE named(x TEXT, n INT);
         {} {} {} {} {} ANALYZE; {}
         CREATE TABLE given(id INTEGER PRIMARY KEY AUTOINCREMENT, note TEXT);
         CREATE TABLE more(id INTEGER PRIMARY KEY AUTOINCREMENT, note TEXT);
         CREATE TABLE whole(id INTEGER PRIMARY KEY AUTOINCREMENT, note TEXT); {} {} {}
         INSERT INTO given VALUES (1000, 'the last'); INSERT INTO more VALUES (5000, 'x'); DELETE FROM more WHERE id > 40",
        fill(300, "counted SELECT i, 'a ' || i, i * i"),
        fill(200, "stale SELECT i, 'stale ' || i"),
        fill(60, "twin SELECT 'twin ' || i"),
        fill(60, "other SELECT 'other ' || i"),
        // As many columns as SQLite's own tables have, and no names.
        fill(150, "named SELECT 'named ' || i, i"),
        fill(7, "stale(a) SELECT 'later ' || i"),
        fill(40, "given(note) SELECT 'note ' || i"),
        fill(70, "more(note) SELECT 'more ' || i"),
        fill(77, "whole(note) SELECT 'whole ' || i"),
    ))
    .unwrap();
    let whole: Vec<Vec<String>> = TABLES.iter().map(|table| rows(&db, &format!("SELECT * FROM {table}"))).collect();
    drop(db);
    let size = damage::page_size(&fs::read(&path).unwrap());
    damage::overwrite(&path, 0, &vec![0; size]);

    let ran = guardiand(folder.path(), &["salvage", "--json", "app.db", "new.db"]);
    let report = ran.json_of(1);
    assert_eq!(ran.stderr, "", "how far it is, is for a terminal alone");
    let new = Connection::open(folder.path().join("new.db")).unwrap();
    let sql = "SELECT group_concat(name, ' ') FROM (SELECT name FROM sqlite_schema WHERE type='table' ORDER BY name)";
    let names: String = new.query_row(sql, [], |row| row.get(0)).unwrap();
    assert_eq!(names, "counted given lost_and_found named whole", "{report}");
    for (table, whole) in TABLES.iter().zip(whole) {
        assert_eq!(rows(&new, &format!("SELECT * FROM {table}")), whole, "{table}");
    }
    let kept: i64 = new
        .query_row(
            "SELECT count(DISTINCT c1) FROM lost_and_found WHERE c1 LIKE 'stale %' OR c1 LIKE 'later %'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(kept, 207, "a count of before the last rows came says nothing");
    let said = report["damage"].to_string();
    assert!(said.contains("the definition of table counted is gone"), "{said}");
}
