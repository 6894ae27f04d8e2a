//! Rows whose page is gone: put together from indexes, or taken from a backup where nothing speaks against it; and counted else.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use serde_json::Value;

use super::support::command::guardiand;
use super::support::damage::{self, Dice};

const PAGE: &str = "PRAGMA page_size=1024;";

struct Wreck {
    folder: tempfile::TempDir,
}

fn fill(into: &str) -> String {
    format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<600) INSERT INTO {into} FROM n;")
}

impl Wreck {
    fn of(sql: &str) -> Wreck {
        let wreck = Wreck { folder: tempfile::tempdir().unwrap() };
        wreck.run(&format!("{PAGE} {sql}"));
        wreck
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, sql: &str) {
        Connection::open(self.path("app.db")).unwrap().execute_batch(sql).unwrap();
    }

    fn back_up(&self) {
        fs::copy(self.path("app.db"), self.path("backup.db")).unwrap();
    }

    /// A leaf of the table is overwritten; how many of its rows SQLite can no longer have.
    fn hurt(&self, table: &str) -> i64 {
        fs::copy(self.path("app.db"), self.path("whole.db")).unwrap();
        damage::first_leaf(&self.path("app.db"), table, &mut Dice::of(7));
        let read = |name: &str| {
            let db = Connection::open(self.path(name)).unwrap();
            let mut query = db.prepare(&format!("SELECT * FROM {table} NOT INDEXED ORDER BY 1 DESC")).unwrap();
            let mut rows = query.query([]).unwrap();
            let mut count = 0;
            while let Ok(Some(_)) = rows.next() {
                count += 1;
            }
            count
        };
        let gone = read("whole.db") - read("app.db");
        assert!((3..100).contains(&gone), "{gone}");
        gone
    }

    fn salvage(&self, more: &[&str]) -> (Value, Connection) {
        let _ = fs::remove_file(self.path("new.db"));
        let ran = guardiand(self.folder.path(), &[&["salvage", "--json", "app.db", "new.db"], more].concat());
        let db = Connection::open(self.path("new.db")).unwrap();
        assert_eq!(db.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)).unwrap(), "ok");
        (ran.json_of(1), db)
    }

    /// Rows of the table that are in one and not in the other: lost, and added.
    fn compared(&self, table: &str, new: &Connection) -> (i64, i64) {
        new.execute("ATTACH ?1 AS whole", [self.path("whole.db").to_str().unwrap()]).unwrap();
        let count = |from: &str, but: &str| {
            let sql = format!("SELECT count(*) FROM (SELECT * FROM {from}.{table} EXCEPT SELECT * FROM {but}.{table})");
            new.query_row(&sql, [], |row| row.get(0)).unwrap()
        };
        let compared = (count("whole", "main"), count("main", "whole"));
        new.execute("DETACH whole", []).unwrap();
        compared
    }
}

fn figure(report: &Value, table: &str, name: &str) -> i64 {
    let tables = report["tables"].as_array().unwrap();
    tables.iter().find(|one| one["table"] == table).unwrap()[name].as_i64().unwrap()
}

fn is_incomplete(report: &Value, table: &str) -> bool {
    let tables = report["tables"].as_array().unwrap();
    tables.iter().find(|one| one["table"] == table).unwrap()["incomplete"].as_bool().unwrap()
}

#[test]
fn a_row_of_which_indexes_have_every_column_is_put_together() {
    let wreck = Wreck::of(&format!(
        "CREATE TABLE p(id INTEGER PRIMARY KEY, a TEXT UNIQUE, b REAL, s TEXT AS (a || 's') STORED); CREATE INDEX p_b ON p(b);
         CREATE TABLE w(k TEXT PRIMARY KEY, v INT, n BLOB) WITHOUT ROWID; CREATE INDEX w_all ON w(n, v);
         {} {}",
        fill("p(a, b) SELECT 'name ' || i, i / 2.0"),
        fill("w SELECT 'key ' || i, i, CASE i % 3 WHEN 0 THEN NULL ELSE x'c0ffee' END")
    ));
    for table in ["p", "w"] {
        let gone = wreck.hurt(table);
        let (report, new) = wreck.salvage(&[]);
        assert_eq!(wreck.compared(table, &new), (0, 0), "{table}: {}", report["damage"]);
        assert_eq!((figure(&report, table, "kept"), figure(&report, table, "lost")), (600, 0));
        assert!(figure(&report, table, "rebuilt") >= gone - 1 && !is_incomplete(&report, table), "{report}");
        fs::copy(wreck.path("whole.db"), wreck.path("app.db")).unwrap();
    }
}

#[test]
fn a_row_that_is_not_known_in_full_is_counted_and_never_made_up() {
    let wreck = Wreck::of(&format!(
        "CREATE TABLE p(id INTEGER PRIMARY KEY, a TEXT, c TEXT); CREATE INDEX p_a ON p(a); {}",
        fill("p(a, c) SELECT 'name ' || i, 'unindexed ' || i")
    ));
    wreck.hurt("p");
    let (report, new) = wreck.salvage(&[]);
    let (lost, added) = wreck.compared("p", &new);
    assert!(lost > 3 && added == 0);
    assert_eq!((figure(&report, "p", "lost"), figure(&report, "p", "rebuilt")), (lost, 0));
    assert!(!is_incomplete(&report, "p"), "the index has every row: nothing more can be missing");
}

#[test]
fn a_backup_gives_what_is_gone_and_nothing_that_was_deleted_or_changed_since() {
    let wreck = Wreck::of(&format!(
        "CREATE TABLE p(id INTEGER PRIMARY KEY, a TEXT, c TEXT); CREATE INDEX p_a ON p(a); {}",
        fill("p(a, c) SELECT 'name ' || i, 'unindexed ' || i")
    ));
    wreck.back_up();
    wreck.run("DELETE FROM p WHERE id = 3; UPDATE p SET a = 'changed', c = 'changed' WHERE id = 5; INSERT INTO p VALUES (601, 'n', 'n')");
    wreck.hurt("p");
    let backup = fs::read(wreck.path("backup.db")).unwrap();
    let (report, new) = wreck.salvage(&["--backup", "backup.db"]);
    assert_eq!(wreck.compared("p", &new), (1, 0), "the changed row alone: {report}");
    let lost: i64 = new.query_row("SELECT count(*) FROM p WHERE id IN (3, 5)", [], |row| row.get(0)).unwrap();
    assert_eq!(lost, 0);
    assert_eq!(figure(&report, "p", "lost"), 1);
    assert!(figure(&report, "p", "from_backup") > 3);
    assert_eq!(fs::read(wreck.path("backup.db")).unwrap(), backup, "the backup was changed");
}

#[test]
fn without_an_index_a_backup_fills_the_gap_alone() {
    let wreck =
        Wreck::of(&format!("CREATE TABLE p(id INTEGER PRIMARY KEY, c TEXT); {}", fill("p(c) SELECT 'text ' || i")));
    wreck.back_up();
    wreck.run("DELETE FROM p WHERE id > 500; INSERT INTO p VALUES (1000, 'new')");
    wreck.hurt("p");
    let (report, new) = wreck.salvage(&["--backup", "backup.db"]);
    assert_eq!(wreck.compared("p", &new), (0, 0), "{report}");
    assert!(figure(&report, "p", "from_backup") > 3);
}

/// The way to all of a table is lost, and not a row: what is not on its pages was deleted.
#[test]
fn a_row_that_was_deleted_from_a_page_that_can_be_read_does_not_come_back() {
    let wreck =
        Wreck::of(&format!("CREATE TABLE p(id INTEGER PRIMARY KEY, c TEXT); {}", fill("p(c) SELECT 'text ' || i")));
    wreck.back_up();
    wreck.run("DELETE FROM p WHERE id % 50 = 7");
    fs::copy(wreck.path("app.db"), wreck.path("whole.db")).unwrap();
    let mut bytes = fs::read(wreck.path("app.db")).unwrap();
    assert_eq!(bytes[1024], 5, "page 2 is the root, and no leaf");
    bytes[1024..2048].fill(0);
    fs::write(wreck.path("app.db"), bytes).unwrap();
    let (report, new) = wreck.salvage(&["--backup", "backup.db"]);
    let (lost, added) = wreck.compared("p", &new);
    // Between two pages another may have stood: that is told.
    assert!(lost == 0 && added < 3, "{lost} lost, {added} added: {report}");
    assert_eq!((figure(&report, "p", "kept"), figure(&report, "p", "unproven")), (588 + added, added), "{report}");
}

/// The page that is gone may have had rows below all others, but not more than it had room for.
#[test]
fn what_a_queue_has_forgotten_does_not_come_back() {
    let wreck =
        Wreck::of(&format!("CREATE TABLE p(id INTEGER PRIMARY KEY, c TEXT); {}", fill("p(c) SELECT 'text ' || i")));
    wreck.back_up();
    wreck.run("DELETE FROM p WHERE id <= 300");
    wreck.hurt("p");
    let (report, new) = wreck.salvage(&["--backup", "backup.db"]);
    let (lost, added) = wreck.compared("p", &new);
    let from_backup = figure(&report, "p", "from_backup");
    assert!(lost == 0 && added < 60 && from_backup > 3, "{lost} lost, {added} added: {report}");
    assert_eq!(figure(&report, "p", "unproven"), from_backup, "no index names them: {report}");
}

#[test]
fn what_was_dropped_since_the_backup_does_not_come_back() {
    let wreck = Wreck::of(&format!(
        "CREATE TABLE p(id INTEGER PRIMARY KEY, c TEXT); CREATE TABLE old(a); INSERT INTO old VALUES (1);
         CREATE INDEX p_c ON p(c); CREATE TRIGGER p_new AFTER INSERT ON p BEGIN DELETE FROM old; END; {}",
        fill("p(c) SELECT 'text ' || i")
    ));
    wreck.back_up();
    wreck.run("DROP TRIGGER p_new; DROP INDEX p_c; DROP TABLE old");
    wreck.hurt("p");
    let (report, new) = wreck.salvage(&["--backup", "backup.db"]);
    let objects: i64 = new.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap();
    assert_eq!(objects, 1, "{report}");
    assert!(figure(&report, "p", "from_backup") > 3, "{report}");
}

#[test]
fn a_row_without_a_rowid_is_taken_from_a_backup_by_its_key_where_an_index_names_it() {
    let wreck = Wreck::of(&format!(
        "CREATE TABLE w(k TEXT, v REAL, n TEXT, PRIMARY KEY(k, v)) WITHOUT ROWID;
         CREATE INDEX w_n ON w(n); {}",
        fill("w SELECT 'key ' || i, i / 2.0, 'n ' || i % 50")
    ));
    wreck.back_up();
    let nth = |nth: u32| format!("k = (SELECT k FROM w ORDER BY k LIMIT 1 OFFSET {nth})");
    wreck.run(&format!(
        "DELETE FROM w WHERE {}; UPDATE w SET n = 'changed' WHERE {}; INSERT INTO w VALUES ('zzz', 1, 'new')",
        nth(3),
        nth(5)
    ));
    wreck.hurt("w");
    let (report, new) = wreck.salvage(&["--backup", "backup.db"]);
    // Of the two that are not in the backup, or not so, the index has every column.
    assert_eq!(wreck.compared("w", &new), (0, 0), "{report}");
    assert!(figure(&report, "w", "rebuilt") > 3 && !is_incomplete(&report, "w"), "{report}");

    // One column that no index has: then only the backup knows.
    let wreck = Wreck::of(&format!(
        "CREATE TABLE w(k TEXT PRIMARY KEY, n TEXT, u INT) WITHOUT ROWID; CREATE INDEX w_n ON w(n); {}",
        fill("w SELECT 'key ' || i, 'n ' || i % 50, i")
    ));
    wreck.back_up();
    let nth = |nth: u32| format!("k = (SELECT k FROM w ORDER BY k LIMIT 1 OFFSET {nth})");
    wreck.run(&format!("DELETE FROM w WHERE {}; UPDATE w SET n = 'changed', u = 0 WHERE {}", nth(3), nth(5)));
    let gone = wreck.hurt("w");
    let (report, new) = wreck.salvage(&["--backup", "backup.db"]);
    assert_eq!(wreck.compared("w", &new), (1, 0), "the changed row alone: {report}");
    assert_eq!((figure(&report, "w", "lost"), figure(&report, "w", "from_backup")), (1, gone - 1), "{report}");
    assert!(!is_incomplete(&report, "w"), "{report}");
}

#[test]
fn without_an_index_a_backup_fills_a_gap_between_keys_alone() {
    for (key, deleted) in [
        ("k TEXT PRIMARY KEY, u TEXT", "> 'key 5'"),
        ("k TEXT, u TEXT, PRIMARY KEY(k COLLATE NOCASE DESC)", "< 'key 3'"),
    ] {
        let wreck = Wreck::of(&format!(
            "CREATE TABLE w({key}) WITHOUT ROWID; {}",
            fill("w SELECT CASE i % 2 WHEN 0 THEN 'KEY ' ELSE 'key ' END || i, 'unindexed ' || i")
        ));
        wreck.back_up();
        wreck.run(&format!(
            "DELETE FROM w WHERE lower(k) {deleted}; INSERT INTO w VALUES ('zzz', 'new'), ('AAA', 'new')"
        ));
        fs::copy(wreck.path("app.db"), wreck.path("whole.db")).unwrap();
        damage::first_leaf(&wreck.path("app.db"), "w", &mut Dice::of(7));
        let (report, new) = wreck.salvage(&["--backup", "backup.db"]);
        let (lost, added) = wreck.compared("w", &new);
        assert_eq!((lost, added), (1, 0), "the new row of the leaf alone: {report}");
        let taken = figure(&report, "w", "from_backup");
        assert!(taken > 3 && figure(&report, "w", "unproven") == taken, "{report}");
    }
}

#[test]
fn a_schema_that_is_gone_is_taken_from_a_backup() {
    let wreck = Wreck::of(&format!(
        "CREATE TABLE p(id INTEGER PRIMARY KEY, c TEXT); CREATE TABLE q(id INTEGER PRIMARY KEY, c TEXT);
         CREATE TABLE w(k TEXT PRIMARY KEY, v INT) WITHOUT ROWID; CREATE INDEX q_c ON q(c); {} {} {}",
        fill("p(c) SELECT 'text ' || i"),
        // Rows alike, to be told apart by the backup's roots alone.
        fill("q(c) SELECT 'text ' || i * 7"),
        fill("w SELECT 'key ' || i, i"),
    ));
    wreck.back_up();
    wreck.run("INSERT INTO p(c) VALUES ('later'); DELETE FROM w WHERE v < 9");
    fs::copy(wreck.path("app.db"), wreck.path("whole.db")).unwrap();
    let mut bytes = fs::read(wreck.path("app.db")).unwrap();
    bytes[..1024].fill(0);
    fs::write(wreck.path("app.db"), bytes).unwrap();
    let (report, new) = wreck.salvage(&["--backup", "backup.db"]);
    for table in ["p", "q", "w"] {
        assert_eq!(wreck.compared(table, &new), (0, 0), "{table}: {report}");
    }
    assert_eq!(report["lost_and_found"], 0, "{report}");
}

#[test]
fn a_backup_that_is_none_is_told_and_nothing_is_written() {
    let wreck = Wreck::of("CREATE TABLE p(id INTEGER PRIMARY KEY, c TEXT); INSERT INTO p VALUES (1, 'x')");
    fs::write(wreck.path("backup.db"), b"no database").unwrap();
    for (backup, why) in [("backup.db", "nothing in the backup"), ("nothing.db", "is not there")] {
        let ran = guardiand(wreck.folder.path(), &["salvage", "app.db", "new.db", "--backup", backup]);
        assert_eq!(ran.status, 1, "{ran:#?}");
        assert!(ran.stderr.contains(why), "{ran:#?}");
        assert!(!Path::new(&wreck.path("new.db")).exists());
    }
}
