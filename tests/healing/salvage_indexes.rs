//! Indexes of a wreck: those that are sound and agree with their tables go over as they are, any other is made anew, and says so.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use serde_json::Value;

use super::support::command::guardiand;
use super::support::damage;

struct Wreck {
    folder: tempfile::TempDir,
}

const TABLES: &str = "PRAGMA page_size=1024;
    CREATE TABLE t(id INTEGER PRIMARY KEY, a INT, b TEXT COLLATE NOCASE, r REAL, n INT UNIQUE CHECK(n >= 0));
    CREATE TABLE w(k TEXT, v INT, x BLOB, PRIMARY KEY(v DESC, k)) WITHOUT ROWID;
    CREATE TABLE p(id INTEGER PRIMARY KEY, a INT, b TEXT);
    CREATE INDEX t_a ON t(a DESC, b); CREATE INDEX t_r ON t(r); CREATE UNIQUE INDEX t_b ON t(b COLLATE RTRIM, id);
    CREATE INDEX w_x ON w(x, k);
    CREATE INDEX p_a ON p(a) WHERE a > 50; CREATE INDEX p_b ON p(b); CREATE INDEX p_lower ON p(lower(b));";

const INDEXES: [&str; 8] = ["t_a", "t_r", "t_b", "w_x", "p_a", "p_b", "p_lower", "sqlite_autoindex_t_1"];

impl Wreck {
    fn new() -> Wreck {
        let wreck = Wreck { folder: tempfile::tempdir().unwrap() };
        let fill = |into: &str| {
            format!(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<800) INSERT INTO {into} FROM n;"
            )
        };
        // Filled row by row: pages that are full by half, as no index that is made at once has them.
        wreck.run(&format!(
            "{TABLES} {} {} {}",
            fill("t SELECT i, i * 7919 % 1000, 'Name ' || (i * 31 % 997), i / 2.0, i * 3"),
            fill(
                "w SELECT 'key ' || (i * 7919 % 800), i % 9, CASE i % 40 WHEN 0 THEN zeroblob(3000) ELSE x'c0ffee' END"
            ),
            fill("p SELECT i, i * 7919 % 100, 'text ' || i"),
        ));
        wreck
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, sql: &str) {
        Connection::open(self.path("app.db")).unwrap().execute_batch(sql).unwrap();
    }

    fn salvage(&self, status: i32) -> (Value, Connection) {
        let ran = guardiand(self.folder.path(), &["salvage", "--json", "app.db", "new.db"]);
        let report = ran.json_of(status);
        let db = Connection::open(self.path("new.db")).unwrap();
        assert_eq!(db.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)).unwrap(), "ok");
        (report, db)
    }
}

/// Every row of every table, and every index's definition.
fn contents(db: &Connection) -> Vec<String> {
    let read = |sql: &str| {
        let mut query = db.prepare(sql).unwrap();
        let columns = query.column_count();
        let mut rows = query.query([]).unwrap();
        let mut read = Vec::new();
        while let Some(row) = rows.next().unwrap() {
            let words: Vec<String> = (0..columns).map(|at| format!("{:?}", row.get_ref(at).unwrap())).collect();
            read.push(words.join(" "));
        }
        read
    };
    let from = ["SELECT * FROM t ORDER BY id", "SELECT * FROM w ORDER BY v, k", "SELECT * FROM p ORDER BY id"];
    let schema = "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY name";
    from.into_iter().chain([schema]).flat_map(read).collect()
}

/// The last leaf of an index, as it stands in the file: none of these has overflow pages.
fn leaf_of(path: &Path, index: &str) -> Vec<u8> {
    let db = Connection::open(path).unwrap();
    let root: u32 =
        db.query_row("SELECT rootpage FROM sqlite_schema WHERE name=?1", [index], |row| row.get(0)).unwrap();
    let bytes = fs::read(path).unwrap();
    let size = damage::page_size(&bytes);
    let page = |number: u32| bytes[(number as usize - 1) * size..][..size].to_vec();
    let be32 = |bytes: &[u8]| u32::from_be_bytes(bytes[..4].try_into().unwrap());
    let mut leaf = page(root);
    while leaf[0] == 2 {
        leaf = page(be32(&leaf[8..]));
    }
    assert_eq!(leaf[0], 10);
    leaf
}

#[test]
fn indexes_that_agree_with_their_tables_go_over_as_they_are() {
    let wreck = Wreck::new();
    let whole = contents(&Connection::open(wreck.path("app.db")).unwrap());
    let leaves: Vec<Vec<u8>> = INDEXES.iter().map(|index| leaf_of(&wreck.path("app.db"), index)).collect();
    damage::overwrite(&wreck.path("app.db"), 0, &[0; 100]);
    let (_, new) = wreck.salvage(1);
    assert_eq!(contents(&new), whole);
    let bytes = fs::read(wreck.path("new.db")).unwrap();
    let is_there = |leaf: &Vec<u8>| bytes.chunks(leaf.len()).any(|page| page == leaf);
    let went_over: Vec<&str> =
        INDEXES.iter().zip(&leaves).filter(|(_, leaf)| is_there(leaf)).map(|(name, _)| *name).collect();
    // Those of a table with an index over a part of it, or over an expression, cannot be compared by bytes.
    assert_eq!(went_over, ["t_a", "t_r", "t_b", "w_x", "sqlite_autoindex_t_1"]);
}

#[test]
fn an_index_that_does_not_agree_with_its_table_is_made_anew_and_told() {
    for (index, change) in [
        ("t_a", "UPDATE t SET a = a + 1 WHERE id = 77"),
        ("t_r", "DELETE FROM t WHERE id = 5; INSERT INTO t VALUES (5, 1, 'new', 0.25, 9999)"),
        ("w_x", "UPDATE w SET x = x'00' WHERE v = 3 AND k = (SELECT min(k) FROM w WHERE v = 3)"),
    ] {
        let wreck = Wreck::new();
        // SQLite does not see the index while the table is written.
        wreck.run(&format!(
            "CREATE TABLE kept AS SELECT * FROM sqlite_schema WHERE name='{index}'; PRAGMA writable_schema=ON;
             DELETE FROM sqlite_schema WHERE name='{index}'"
        ));
        wreck.run(change);
        wreck.run("PRAGMA writable_schema=ON; INSERT INTO sqlite_schema SELECT * FROM kept; DROP TABLE kept");
        let db = Connection::open(wreck.path("app.db")).unwrap();
        let check: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_ne!(check, "ok");
        let tables = |db: &Connection| {
            contents(db).into_iter().filter(|line| !line.contains("sqlite_autoindex")).collect::<Vec<_>>()
        };
        let whole = tables(&db);
        drop(db);
        let (report, new) = wreck.salvage(1);
        assert_eq!(tables(&new), whole, "{index}");
        let told = report["damage"].to_string();
        assert!(told.contains(index) && told.contains("made anew"), "{told}");
    }
}

#[test]
fn an_index_whose_keys_are_out_of_order_is_made_anew() {
    let wreck = Wreck::new();
    let leaf = leaf_of(&wreck.path("app.db"), "t_r");
    let bytes = fs::read(wreck.path("app.db")).unwrap();
    let at = bytes.chunks(leaf.len()).position(|page| page == leaf).unwrap() * leaf.len();
    // Two cells change places: each is sound, the sums are the same, and a search finds neither.
    let mut swapped = leaf.clone();
    swapped[8..10].copy_from_slice(&leaf[10..12]);
    swapped[10..12].copy_from_slice(&leaf[8..10]);
    damage::overwrite(&wreck.path("app.db"), at, &swapped);
    let (report, new) = wreck.salvage(1);
    let found: i64 =
        new.query_row("SELECT count(*) FROM t AS a JOIN t AS b ON a.r = b.r", [], |row| row.get(0)).unwrap();
    assert_eq!(found, 800);
    assert!(report["damage"].to_string().contains("t_r"), "{report}");
}

#[test]
fn indexes_that_only_sqlite_can_compare_are_made_anew_and_are_no_damage() {
    let wreck = Wreck::new();
    fs::remove_file(wreck.path("app.db")).unwrap();
    let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<300)";
    for sql in [
        // The rows have no such column, and its default is a text of another encoding than the definition.
        "PRAGMA encoding='UTF-16le'; CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT UNIQUE); INSERT INTO t {} SELECT i, 'a' || i FROM n;
         ALTER TABLE t ADD COLUMN b TEXT DEFAULT 'later'; CREATE INDEX t_b ON t(b)",
        // The first file format knows no DESC.
        "PRAGMA legacy_file_format=ON; CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT); CREATE INDEX t_a ON t(a DESC);
         INSERT INTO t {} SELECT i, 'a' || i FROM n",
    ] {
        let db = Connection::open(wreck.path("app.db")).unwrap();
        db.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_LEGACY_FILE_FORMAT, sql.contains("legacy")).unwrap();
        db.execute_batch(&sql.replace("{}", fill)).unwrap();
        drop(db);
        let (report, new) = wreck.salvage(0);
        assert_eq!(report["clean"], true, "{report}");
        let counted: i64 = new.query_row("SELECT count(*) FROM t WHERE a LIKE 'a%'", [], |row| row.get(0)).unwrap();
        assert_eq!(counted, 300);
        fs::remove_file(wreck.path("app.db")).unwrap();
        fs::remove_file(wreck.path("new.db")).unwrap();
    }
}
