//! `guardiand scrub`: statuses and documents, on files at rest, under live programs, and as programs that died left them.

use std::path::Path;

use rusqlite::Connection;
use serde_json::Value;

use crate::support::command::{Ran, guardiand};
use crate::support::program::Program;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn scrub(&self, name: &str) -> Ran {
        self.scrub_with(name, &[])
    }

    fn scrub_with(&self, name: &str, flags: &[&str]) -> Ran {
        let (state, db) = (self.path("state"), self.path(name));
        let plain = ["scrub", "--json", db.to_str().unwrap(), "--state-dir", state.to_str().unwrap()];
        guardiand(self.0.path(), &[&plain[..], flags].concat())
    }

    fn program(&self, mode: &str, commits: &str, flags: &[&str]) -> Program {
        Program::start(&self.path("app.db"), mode, commits, &self.path("log"), flags)
    }

    /// The bytes of a database and its side files.
    fn bytes(&self) -> Vec<Option<Vec<u8>>> {
        ["app.db", "app.db-wal", "app.db-journal"].map(|name| std::fs::read(self.path(name)).ok()).to_vec()
    }
}

fn database(path: &Path) {
    let db = Connection::open(path).unwrap();
    db.execute_batch(
        "CREATE TABLE t(a INTEGER PRIMARY KEY, b); CREATE INDEX i ON t(b);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
           INSERT INTO t SELECT i, hex(randomblob(20)) FROM n;
         INSERT INTO t VALUES(9999, zeroblob(100000));",
    )
    .unwrap();
}

fn rows(document: &Value, table: &str) -> u64 {
    let tables = document["tables"].as_array().unwrap();
    tables.iter().find(|one| one["name"] == table).unwrap()["rows"].as_u64().unwrap()
}

#[test]
fn a_sound_database_is_0_and_a_hurt_page_is_1_with_its_number_and_its_owner() {
    let folder = Folder::new();
    database(&folder.path("app.db"));
    let before = folder.bytes();
    let document = folder.scrub("app.db").json_of(0);
    assert_eq!((&document["verdict"], &document["faults_total"]), (&"clean".into(), &0.into()));
    assert_eq!((rows(&document, "t"), rows(&document, "i")), (5001, 5001));
    assert_eq!(document["pages"].as_u64().unwrap() * 4096, before[0].as_ref().unwrap().len() as u64);
    assert_eq!(folder.bytes(), before);

    let mut bytes = before[0].clone().unwrap();
    let leaf = (1..bytes.len() / 4096).find(|page| bytes[page * 4096] == 13).unwrap();
    bytes[leaf * 4096 + 4] ^= 1;
    std::fs::write(folder.path("app.db"), &bytes).unwrap();
    let document = folder.scrub("app.db").json_of(1);
    let faults = document["faults"].as_array().unwrap();
    assert!(faults.iter().any(|fault| fault["page"] == leaf + 1 && fault["owner"] == "table t"), "{document:#}");
    assert_eq!(std::fs::read(folder.path("app.db")).unwrap(), bytes);
}

#[test]
fn a_full_scrub_also_compares_indexes_and_leaves_to_sqlite_what_is_its_to_say() {
    let folder = Folder::new();
    database(&folder.path("app.db"));
    let db = Connection::open(folder.path("app.db")).unwrap();
    db.execute_batch(
        "CREATE TABLE ruled(a INT NOT NULL, b CHECK(b > 0)); CREATE TABLE typed(a INT NOT NULL, b); CREATE INDEX part ON t(b) WHERE a > 9;
         CREATE TABLE plain(a, b); CREATE INDEX p ON plain(b); INSERT INTO plain SELECT a, b FROM t; INSERT INTO typed SELECT a, b FROM t;
         CREATE VIRTUAL TABLE words USING fts5(w); INSERT INTO words SELECT b FROM t LIMIT 100; INSERT INTO ruled VALUES(1, 1);",
    )
    .unwrap();
    drop(db);
    let before = folder.bytes();
    let document = folder.scrub_with("app.db", &["--full"]).json_of(0);
    assert_eq!((&document["verdict"], &document["content"]), (&"clean".into(), &Value::Null), "{document:#}");
    let left = document["by_sqlite"].as_array().unwrap();
    let named: Vec<&str> = left.iter().map(|one| one["table"].as_str().unwrap()).collect();
    assert_eq!(named, ["t", "ruled", "words"], "{document:#}");
    assert!(left.iter().all(|one| one["checked"] == true), "{document:#}");
    assert_eq!(folder.bytes(), before);

    // Rows that break a rule are no damage.
    let db = Connection::open(folder.path("app.db")).unwrap();
    db.execute_batch(
        "PRAGMA ignore_check_constraints=ON; INSERT INTO ruled VALUES(1, -1); PRAGMA writable_schema=ON;
         UPDATE sqlite_schema SET sql='CREATE TABLE typed(a INT, b)' WHERE name='typed'; PRAGMA writable_schema=RESET;
         INSERT INTO typed VALUES(NULL, 1); PRAGMA writable_schema=ON;
         UPDATE sqlite_schema SET sql='CREATE TABLE typed(a INT NOT NULL, b)' WHERE name='typed';",
    )
    .unwrap();
    drop(db);
    let document = folder.scrub_with("app.db", &["--full"]).json_of(0);
    let said: Vec<&str> = document["content"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    assert_eq!(said, ["CHECK constraint failed in ruled", "NULL value in typed.a"], "{document:#}");

    // An index without one of its table's rows is.
    let db = Connection::open(folder.path("app.db")).unwrap();
    db.execute_batch(
        "PRAGMA writable_schema=ON; CREATE TEMP TABLE kept AS SELECT * FROM sqlite_schema WHERE name='p';
         DELETE FROM sqlite_schema WHERE name='p'; PRAGMA writable_schema=RESET; UPDATE plain SET b='other' WHERE a=17;
         PRAGMA writable_schema=ON; INSERT INTO main.sqlite_schema SELECT * FROM temp.kept; PRAGMA writable_schema=RESET",
    )
    .unwrap();
    drop(db);
    assert_eq!(folder.scrub("app.db").json_of(0)["verdict"], "clean", "the structure is sound");
    let document = folder.scrub_with("app.db", &["--full"]).json_of(1);
    let faults = document["faults"].as_array().unwrap();
    assert!(faults.iter().any(|fault| fault["owner"] == "index p of plain"), "{document:#}");
    assert!(faults.iter().any(|fault| fault["what"] == "row 17 missing from index p"), "{document:#}");
}

#[test]
fn words_of_the_schema_that_sqlite_cannot_parse_are_1() {
    let folder = Folder::new();
    database(&folder.path("app.db"));
    let mut bytes = std::fs::read(folder.path("app.db")).unwrap();
    let at = bytes.windows(12).position(|window| window == b"CREATE TABLE").unwrap();
    bytes[at..at + 6].copy_from_slice(b"CRXATE");
    std::fs::write(folder.path("app.db"), &bytes).unwrap();
    let document = folder.scrub("app.db").json_of(1);
    assert_eq!(document["faults"][0]["owner"], "sqlite_schema", "{document:#}");
}

#[test]
fn what_is_no_database_is_3() {
    let folder = Folder::new();
    std::fs::write(folder.path("empty"), b"").unwrap();
    std::fs::write(folder.path("text"), "a text file, and no database\n".repeat(1000)).unwrap();
    std::os::unix::fs::symlink("text", folder.path("link")).unwrap();
    for name in ["empty", "text", "link", "nothing", "state"] {
        std::fs::create_dir_all(folder.path("state")).unwrap();
        let document = folder.scrub(name).json_of(3);
        assert!(!document["reason"].as_str().unwrap().is_empty(), "{name}: {document:#}");
    }
}

#[test]
fn a_program_that_commits_all_the_time_is_neither_kept_from_it_nor_called_damaged() {
    for (mode, flags) in [("wal", vec![]), ("wal", vec!["--page-size", "512"]), ("delete", vec![])] {
        let folder = Folder::new();
        // Chores: VACUUM, checkpoints, schema changes, rollbacks.
        let flags: Vec<&str> = flags.into_iter().chain(["--chores", "--rows-per-commit", "50"]).collect();
        let program = folder.program(mode, "forever", &flags);
        let mut clean = 0;
        for round in 0..8 {
            let ran = folder.scrub_with("app.db", if round % 2 == 0 { &["--full"] } else { &[] });
            let document = ran.json();
            assert_ne!(document["verdict"], "damaged", "{document:#}");
            clean += usize::from(ran.status == 0);
            if let Some(reason) = document["reason"].as_str() {
                println!("{mode}: {reason}");
            }
        }
        println!("{mode}: {clean} of 8 were clean, the others could not be told");
        assert!(clean > 0, "{mode}");
        let promised = std::fs::read_to_string(folder.path("log")).unwrap().lines().count();
        assert!(program.finish().success());
        assert!(std::fs::read_to_string(folder.path("log")).unwrap().lines().count() >= promised);
        let db = Connection::open(folder.path("app.db")).unwrap();
        assert_eq!(db.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)).unwrap(), "ok");
    }
}

#[test]
fn what_a_dead_program_left_is_looked_at_as_sqlite_would_see_it_and_left_as_it_is() {
    for (mode, flag) in [("wal", "--die"), ("delete", "--leave-hot-journal"), ("delete", "--open-idle")] {
        let folder = Folder::new();
        let flags = ["--rows-per-commit", "20", "--no-checkpoint", flag];
        let program = folder.program(mode, "40", &flags);
        if flag != "--open-idle" {
            program.ended();
        }
        let before = folder.bytes();
        let full = folder.scrub_with("app.db", &["--full"]).json_of(0);
        let document = folder.scrub("app.db").json_of(0);
        assert_eq!((&full["tables"], &full["reason"]), (&document["tables"], &document["reason"]), "{full:#}");
        assert_eq!(folder.bytes(), before, "{mode} {flag}");
        assert_eq!(document["reason"].is_string(), flag == "--leave-hot-journal", "{document:#}");
        let copy = folder.path("copy.db");
        for (bytes, suffix) in before.iter().zip(["", "-wal", "-journal"]) {
            if let Some(bytes) = bytes {
                std::fs::write(format!("{}{suffix}", copy.display()), bytes).unwrap();
            }
        }
        // The copy's journal has no master's name in it, so that SQLite rolls it back.
        let db = Connection::open(&copy).unwrap();
        for table in document["tables"].as_array().unwrap().iter().filter(|table| table["index_of"].is_null()) {
            let sql = format!("SELECT count(*) FROM {}", table["name"].as_str().unwrap());
            let counted: i64 = db.query_row(&sql, [], |row| row.get(0)).unwrap();
            assert_eq!(table["rows"].as_i64(), Some(counted), "{sql}");
        }
    }
}

/// Large enough for a content check to begin with a scrub.
#[test]
fn a_content_check_of_a_large_database_says_what_sqlite_says() {
    for mode in ["delete", "wal"] {
        let folder = Folder::new();
        let path = folder.path("app.db");
        let db = Connection::open(&path).unwrap();
        db.execute_batch(&format!(
            "PRAGMA journal_mode={mode}; CREATE TABLE t(a INTEGER PRIMARY KEY, b); CREATE INDEX i ON t(b); CREATE TABLE c(a NOT NULL, b CHECK(b > a));
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000) INSERT INTO t SELECT i, hex(randomblob(100)) FROM n;
             INSERT INTO c SELECT a, a + 1 FROM t LIMIT 99;"
        ))
        .unwrap();
        drop(db);
        assert!(path.metadata().unwrap().len() > 8 << 20);
        let check = |status| {
            let document = guardiand(folder.0.path(), &["check", "--json", path.to_str().unwrap()]).json_of(status);
            let kinds = document["findings"]
                .as_array()
                .unwrap()
                .iter()
                .map(|finding| finding["kind"].as_str().unwrap().to_owned());
            (kinds.collect::<Vec<_>>(), document)
        };
        assert_eq!(check(0).0, Vec::<String>::new());
        let db = Connection::open(&path).unwrap();
        db.execute_batch(
            "PRAGMA writable_schema=ON; CREATE TEMP TABLE kept AS SELECT * FROM sqlite_schema WHERE name='i';
             DELETE FROM sqlite_schema WHERE name='i'; PRAGMA writable_schema=RESET; UPDATE t SET b='other' WHERE a=17;
             PRAGMA writable_schema=ON; INSERT INTO main.sqlite_schema SELECT * FROM temp.kept; PRAGMA writable_schema=RESET",
        )
        .unwrap();
        drop(db);
        let (kinds, document) = check(1);
        assert_eq!(kinds, ["db_index_corrupted"], "{mode}: {document:#}");
        assert!(document.to_string().contains("row 17 missing from index i"), "{mode}: {document:#}");
        let mut bytes = std::fs::read(&path).unwrap();
        let leaf = (1..bytes.len() / 4096).find(|page| bytes[page * 4096] == 13).unwrap();
        bytes[leaf * 4096 + 3] ^= 0xff;
        std::fs::write(&path, &bytes).unwrap();
        let (kinds, document) = check(1);
        assert_eq!(kinds, ["db_corrupted"], "{mode}: {document:#}");
    }
}
