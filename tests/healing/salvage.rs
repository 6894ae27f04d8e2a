//! `guardiand salvage` on wrecks of every kind: what stands in the new database is compared row by row with what the whole one had,
//! the wreck is left as it was, and the new database passes SQLite's own check.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rusqlite::Connection;
use serde_json::Value;

use super::support::damage::Dice;
use super::support::truth::beside;

type Rows = BTreeMap<String, u64>;

/// Every row of every table but `lost_and_found`, in words.
fn rows(db: &Connection) -> Rows {
    let names = "SELECT name FROM pragma_table_list WHERE schema='main' AND type IN ('table', 'shadow')
                 AND name NOT LIKE 'sqlite_%' AND name<>'lost_and_found'";
    let mut query = db.prepare(names).unwrap();
    let tables: Vec<String> = query.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let mut rows = Rows::new();
    for table in tables {
        let mut query = db.prepare(&format!("SELECT * FROM \"{table}\"")).unwrap();
        let columns = query.column_count();
        let mut found = query.query([]).unwrap();
        while let Some(row) = found.next().unwrap() {
            let words: Vec<String> = (0..columns).map(|at| format!("{:?}", row.get_ref(at).unwrap())).collect();
            *rows.entry(format!("{table}: {words:?}")).or_default() += 1;
        }
    }
    rows
}

/// A database with what is easily got wrong, and its rows.
struct Whole {
    folder: tempfile::TempDir,
    rows: Rows,
}

const TABLES: &str = "
    CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT NOT NULL, r REAL, b BLOB);
    CREATE TABLE w(k TEXT, v INT, n, PRIMARY KEY(v, k)) WITHOUT ROWID;
    CREATE TABLE g(id INTEGER PRIMARY KEY, a INT, v INT AS (a * 2), s TEXT AS ('s' || a) STORED, z TEXT);
    CREATE TABLE d(id INTEGER PRIMARY KEY DESC, x NUMERIC, day DATE);
    CREATE TABLE q(id INTEGER PRIMARY KEY AUTOINCREMENT, x TEXT UNIQUE);
    CREATE TABLE old(a INT);";
const REST: &str = "
    CREATE INDEX t_a ON t(a); CREATE INDEX g_z ON g(z, a);
    CREATE VIEW seen AS SELECT a FROM t; CREATE TRIGGER grow AFTER INSERT ON t BEGIN DELETE FROM old; END;
    PRAGMA user_version=7; PRAGMA application_id=8;";

fn whole(pragmas: &str) -> Whole {
    let folder = tempfile::tempdir().unwrap();
    let db = Connection::open(folder.path().join("app.db")).unwrap();
    let fill = |rows: u32, into: &str| {
        format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{rows}) INSERT INTO {into} FROM n;"
        )
    };
    db.execute_batch(&format!(
        "{pragmas}; {TABLES} {} {} {} {} {} INSERT INTO old VALUES (1), (2);
         ALTER TABLE old ADD COLUMN b TEXT NOT NULL DEFAULT 'later'; INSERT INTO old VALUES (3, 'now');
         INSERT INTO t VALUES (100001, 'nul' || char(0) || 'behind', 2.0, x'00ff'), (100002, 'long', -1.5, zeroblob(20000));
         DELETE FROM q WHERE id > 90; {REST}",
        fill(900, "t SELECT i * 3, 'text ' || (i * 7919 % 1000) || ' of é', i / 4.0, CASE i % 5 WHEN 0 THEN x'c0ffee' END"),
        fill(600, "w SELECT 'key ' || (i * 7919 % 600), i % 7, i * 1000003"),
        fill(500, "g(a, z) SELECT i * i, 'z' || i"),
        fill(300, "d SELECT i, i * 1.5, '2026-01-' || (i % 28 + 1)"),
        fill(100, "q(x) SELECT 'unique ' || i"),
    ))
    .unwrap();
    let rows = rows(&db);
    drop(db);
    Whole { folder, rows }
}

struct Salvaged {
    report: Value,
    db: Connection,
}

fn run(source: &Path, to: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_guardiand"))
        .args(["salvage", "--json"])
        .args([source, to])
        .args(more)
        .current_dir(to.parent().unwrap())
        .output()
        .unwrap()
}

impl Whole {
    fn path(&self) -> PathBuf {
        self.folder.path().join("app.db")
    }

    fn root(&self, of: &str) -> usize {
        let db = Connection::open(self.path()).unwrap();
        db.query_row("SELECT rootpage FROM sqlite_schema WHERE name=?1", [of], |row| row.get::<_, u32>(0)).unwrap()
            as usize
    }

    /// Breaks it, salvages it, and looks that the wreck is as it was.
    fn salvage(&self, status: i32, more: &[&str], wreck: impl FnOnce(&mut Vec<u8>, usize)) -> Salvaged {
        let mut bytes = fs::read(self.path()).unwrap();
        let size = match u16::from_be_bytes([bytes[16], bytes[17]]) {
            1 => 65_536,
            size => usize::from(size),
        };
        wreck(&mut bytes, size);
        let (source, to) = (self.folder.path().join("wreck.db"), self.folder.path().join("new.db"));
        fs::write(&source, &bytes).unwrap();
        for suffix in ["-wal", "-journal"] {
            if let Ok(side) = fs::read(beside(&self.path(), suffix)) {
                fs::write(beside(&source, suffix), side).unwrap();
            }
        }
        let _ = fs::remove_file(&to);
        let output = run(&source, &to, more);
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(status), "{said}");
        assert!(fs::read(&source).unwrap() == bytes, "the wreck was changed");
        let db = Connection::open(&to).unwrap();
        let check: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok");
        Salvaged { report: serde_json::from_slice(&output.stdout).unwrap(), db }
    }

    /// The same, and no row may be missing or added, nor an index, a view or a trigger.
    fn loses_nothing(&self, status: i32, wreck: impl FnOnce(&mut Vec<u8>, usize)) {
        let salvaged = self.salvage(status, &[], wreck);
        same(&self.rows, &rows(&salvaged.db));
        let objects: i64 = salvaged
            .db
            .query_row("SELECT count(*) FROM sqlite_schema WHERE name IN ('t_a', 'g_z', 'seen', 'grow')", [], |row| {
                row.get(0)
            })
            .unwrap();
        assert_eq!(objects, 4, "{}", salvaged.report["damage"]);
    }
}

fn same(wanted: &Rows, found: &Rows) {
    let missing: Vec<_> = wanted.iter().filter(|(row, times)| found.get(*row) != Some(times)).take(5).collect();
    let added: Vec<_> = found.iter().filter(|(row, times)| wanted.get(*row) != Some(times)).take(5).collect();
    assert!(missing.is_empty() && added.is_empty(), "missing {missing:?}, added {added:?}");
}

fn page(bytes: &mut [u8], size: usize, number: usize) -> &mut [u8] {
    &mut bytes[(number - 1) * size..number * size]
}

/// The first leaf below a root, by the bytes.
fn first_leaf(bytes: &[u8], size: usize, mut number: usize) -> usize {
    loop {
        let page = &bytes[(number - 1) * size..number * size];
        if page[0] == 13 || page[0] == 10 {
            return number;
        }
        let cell = usize::from(u16::from_be_bytes([page[12], page[13]]));
        number = u32::from_be_bytes(page[cell..cell + 4].try_into().unwrap()) as usize;
    }
}

#[test]
fn a_sound_database_comes_out_as_it_is_whatever_its_measures() {
    for pragmas in [
        "PRAGMA page_size=512",
        "PRAGMA page_size=65536",
        "PRAGMA page_size=1024; PRAGMA encoding='UTF-16le'; PRAGMA auto_vacuum=FULL",
        "PRAGMA encoding='UTF-16be'; PRAGMA auto_vacuum=INCREMENTAL",
    ] {
        let whole = whole(pragmas);
        whole.loses_nothing(0, |_, _| {});
        let db = Connection::open(whole.folder.path().join("new.db")).unwrap();
        let one = |sql: &str| db.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!((one("PRAGMA user_version"), one("PRAGMA application_id")), (7, 8));
        assert_eq!(one("SELECT seq FROM sqlite_sequence WHERE name='q'"), 100, "given rowids are not given again");
    }
}

#[test]
fn a_header_that_lies_or_is_gone_costs_nothing() {
    for pragmas in ["PRAGMA page_size=1024", "PRAGMA encoding='UTF-16le'"] {
        let whole = whole(pragmas);
        let mut dice = Dice::of(1);
        whole.loses_nothing(1, |bytes, _| bytes[..100].fill(0));
        whole.loses_nothing(1, |bytes, _| bytes[..100].copy_from_slice(&dice.bytes(100)));
        whole.loses_nothing(1, |bytes, _| bytes[..16].fill(0xa5));
        whole.loses_nothing(1, |bytes, _| bytes[18..20].fill(7));
        whole.loses_nothing(1, |bytes, _| bytes[16] ^= 0x18);
        whole.loses_nothing(1, |bytes, _| bytes[59] = 3 - bytes[59].min(2));
        whole.loses_nothing(0, |bytes, _| bytes.extend(dice.bytes(5000)));
    }
}

#[test]
fn pages_that_nothing_leads_to_go_back_to_their_table() {
    let whole = whole("PRAGMA page_size=512");
    for table in ["t", "g", "d"] {
        let root = whole.root(table);
        whole.loses_nothing(1, |bytes, size| page(bytes, size, root).fill(0));
    }
    let root = whole.root("t");
    let child = |bytes: &[u8]| u32::from_be_bytes(bytes[(root - 1) * 512 + 8..][..4].try_into().unwrap());
    // The right child leads back to the root.
    whole.loses_nothing(1, |bytes, size| {
        page(bytes, size, root)[8..12].copy_from_slice(&(root as u32).to_be_bytes());
    });
    // Two pages changed places.
    whole.loses_nothing(1, |bytes, size| {
        let (one, other) = (first_leaf(bytes, size, root), first_leaf(bytes, size, child(bytes) as usize));
        let kept = page(bytes, size, one).to_vec();
        let moved = page(bytes, size, other).to_vec();
        page(bytes, size, one).copy_from_slice(&moved);
        page(bytes, size, other).copy_from_slice(&kept);
    });
    // Cell pointers are gone, and the cells are not.
    whole.loses_nothing(1, |bytes, size| {
        let leaf = first_leaf(bytes, size, root);
        page(bytes, size, leaf)[8..20].fill(0xff);
    });
}

#[test]
fn indexes_and_the_freelist_cost_nothing_and_what_was_deleted_stays_so() {
    let whole = whole("PRAGMA page_size=512");
    let index = whole.root("t_a");
    let mut dice = Dice::of(2);
    whole.loses_nothing(1, |bytes, size| {
        let leaf = first_leaf(bytes, size, index);
        page(bytes, size, leaf).copy_from_slice(&dice.bytes(512));
    });
    let live = first_leaf(&fs::read(whole.path()).unwrap(), 512, whole.root("t")) as u32;
    whole.loses_nothing(1, |bytes, _| bytes[32..36].copy_from_slice(&live.to_be_bytes()));

    Connection::open(whole.path()).unwrap().execute_batch("DELETE FROM t WHERE id % 3 = 0").unwrap();
    let left = rows(&Connection::open(whole.path()).unwrap());
    same(&left, &rows(&whole.salvage(0, &[], |_, _| {}).db));
    let without_header = whole.salvage(1, &[], |bytes, _| bytes[..100].fill(0));
    same(&left, &rows(&without_header.db));
    let salvaged = whole.salvage(0, &["--deleted"], |_, _| {});
    same(&left, &rows(&salvaged.db));
    assert!(salvaged.report["deleted"].as_u64().unwrap() > 100, "{}", salvaged.report);
}

#[test]
fn what_is_gone_is_counted_and_nothing_is_made_up() {
    let whole = whole("PRAGMA page_size=1024");
    let mut dice = Dice::of(3);
    let subset = |salvaged: &Salvaged| {
        let found = rows(&salvaged.db);
        let added: Vec<_> = found.keys().filter(|row| !whole.rows.contains_key(*row)).collect();
        assert!(added.is_empty(), "{added:?}");
        found.len()
    };
    for table in ["t", "w", "g"] {
        let root = whole.root(table);
        let salvaged = whole.salvage(1, &[], |bytes, size| {
            let leaf = first_leaf(bytes, size, root);
            page(bytes, size, leaf).copy_from_slice(&dice.bytes(1024));
        });
        let kept = subset(&salvaged);
        // An index has all that `g` stores.
        let all = if table == "g" { 0 } else { 1 };
        assert!(
            kept <= whole.rows.len() - all && kept > whole.rows.len() - 60,
            "{table}: {kept} of {}",
            whole.rows.len()
        );
    }
    // Half of a leaf.
    let root = whole.root("t");
    let salvaged = whole.salvage(1, &[], |bytes, size| {
        let leaf = first_leaf(bytes, size, root);
        page(bytes, size, leaf)[512..].fill(0);
    });
    let lost = salvaged.report["tables"].as_array().unwrap().iter().find(|table| table["table"] == "t").unwrap();
    assert_eq!(subset(&salvaged) as u64 + lost["lost"].as_u64().unwrap(), whole.rows.len() as u64);
}

#[test]
fn of_a_file_that_was_cut_every_row_in_front_of_the_cut_is_kept() {
    let whole = whole("PRAGMA page_size=4096");
    let salvaged = whole.salvage(1, &[], |bytes, size| bytes.truncate(bytes.len() / size / 2 * size + 100));
    let found = rows(&salvaged.db);
    assert!(found.keys().all(|row| whole.rows.contains_key(row)) && found.len() > whole.rows.len() / 4);
}

#[test]
fn a_broken_overflow_chain_never_passes_for_a_whole_value() {
    let whole = whole("PRAGMA page_size=4096");
    let first = first_leaf(&fs::read(whole.path()).unwrap(), 4096, whole.root("t"));
    // The blob of 20,000 zeros: its chain's pages have nothing but the number of the next.
    let salvaged = whole.salvage(1, &[], |bytes, size| {
        let is_link =
            |page: &[u8]| page[..2] == [0, 0] && page[2..4] != [0, 0] && page[4..].iter().all(|byte| *byte == 0);
        let links: Vec<usize> =
            (0..bytes.len() / size).filter(|at| is_link(&bytes[at * size..(at + 1) * size])).collect();
        assert!(links.len() > 2);
        let at = links[links.len() / 2];
        let leaf = page(bytes, size, first).to_vec();
        page(bytes, size, at + 1)[..4].fill(0xff);
        // Behind it stands a tree's page: nothing can be taken for what follows.
        page(bytes, size, at + 2).copy_from_slice(&leaf);
    });
    let long = "SELECT count(*) FROM t WHERE a='long'";
    assert_eq!(salvaged.db.query_row(long, [], |row| row.get::<_, i64>(0)).unwrap(), 0);
    let there =
        "SELECT count(*) FROM lost_and_found WHERE c1='long' AND id=100002 AND length(c3) BETWEEN 500 AND 19999";
    assert_eq!(salvaged.db.query_row(there, [], |row| row.get::<_, i64>(0)).unwrap(), 1);
}

#[test]
fn a_schema_that_is_gone_is_taken_from_a_file_or_the_rows_are_kept_nameless() {
    let whole = whole("PRAGMA page_size=16384");
    let nameless = whole.salvage(1, &[], |bytes, size| page(bytes, size, 1).fill(0));
    assert!(rows(&nameless.db).is_empty());
    // Rows of tables and entries of indexes, which nobody can tell from tables WITHOUT ROWID.
    assert!(nameless.report["lost_and_found"].as_u64().unwrap() >= whole.rows.values().sum::<u64>());

    let schema = whole.folder.path().join("schema.sql");
    fs::write(&schema, format!("{TABLES} ALTER TABLE old ADD COLUMN b TEXT NOT NULL DEFAULT 'later'; {REST}")).unwrap();
    let salvaged =
        whole.salvage(1, &["--schema", schema.to_str().unwrap()], |bytes, size| page(bytes, size, 1).fill(0));
    same(&whole.rows, &rows(&salvaged.db));
}

#[test]
fn a_definition_that_cannot_be_read_costs_names_and_no_values() {
    let whole = whole("PRAGMA page_size=4096");
    let salvaged = whole.salvage(1, &[], |bytes, _| {
        let at = bytes.windows(14).position(|bytes| bytes == b"CREATE TABLE d").unwrap();
        bytes[at + 8] = b'#';
    });
    let query = "SELECT count(*), count(DISTINCT c0), min(c2) FROM d";
    let found: (i64, i64, String) =
        salvaged.db.query_row(query, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    assert_eq!(found, (300, 300, "2026-01-1".to_owned()), "{}", salvaged.report["damage"]);
    // The row of the schema is gone, and an index tells the table's name.
    let salvaged = whole.salvage(1, &[], |bytes, _| {
        let at = bytes.windows(14).position(|bytes| bytes == b"CREATE TABLE t").unwrap();
        bytes[at - 12..at + 4].fill(0xfe);
    });
    let query = "SELECT count(*) FROM t WHERE c1 LIKE 'text %' AND c0 % 3 = 0";
    assert_eq!(salvaged.db.query_row(query, [], |row| row.get::<_, i64>(0)).unwrap(), 900);
}

/// Pages that are sound to the byte, with rows that their table refuses: none is taken, and none is lost.
#[test]
fn rows_that_break_a_constraint_are_told_apart_on_sound_pages_too() {
    for (damage, why) in [
        (
            "UPDATE t SET a = 'twice' WHERE id IN (30, 60)",
            "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT NOT NULL UNIQUE, r REAL, b BLOB)",
        ),
        (
            "UPDATE t SET r = -1 WHERE id IN (30, 60)",
            "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT NOT NULL, r REAL CHECK(r<>-1), b BLOB)",
        ),
        (
            "UPDATE t SET b = NULL; UPDATE t SET r = NULL WHERE id IN (30, 60)",
            "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT NOT NULL, r REAL NOT NULL, b BLOB)",
        ),
    ] {
        let whole = whole("PRAGMA page_size=1024");
        let db = Connection::open(whole.path()).unwrap();
        db.execute_batch(&format!("BEGIN; UPDATE t SET a = 'text ' || id, r = 1; {damage}; PRAGMA writable_schema=ON"))
            .unwrap();
        // SQLite has no index for a UNIQUE that was not there when the table was made: the text alone says so.
        db.execute("UPDATE sqlite_schema SET sql=?1 WHERE name='t'", [why]).unwrap();
        db.execute_batch("COMMIT").unwrap();
        drop(db);
        let salvaged = whole.salvage(1, &[], |_, _| {});
        let count = |sql: &str| salvaged.db.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        // Of two that must differ, one stays.
        let refused = if why.contains("UNIQUE") { 1 } else { 2 };
        assert_eq!(count("SELECT count(*) FROM t"), 902 - refused, "{why}: {}", salvaged.report["damage"]);
        assert_eq!(count("SELECT count(*) FROM lost_and_found"), refused, "{why}");
        assert_eq!(count("SELECT count(*) FROM w"), 600);
    }
}

#[test]
fn a_wal_is_read_also_where_sqlite_does_not() {
    let whole = whole("PRAGMA page_size=1024; PRAGMA journal_mode=WAL");
    // A program that died: the WAL stays.
    let db = Connection::open(whole.path()).unwrap();
    db.execute_batch("PRAGMA wal_autocheckpoint=0; UPDATE t SET a='new ' || id; DELETE FROM g WHERE id<100;").unwrap();
    let left = rows(&db);
    let wal = fs::read(beside(&whole.path(), "-wal")).unwrap();
    let main = fs::read(whole.path()).unwrap();
    drop(db);
    fs::write(whole.path(), main).unwrap();
    let at = beside(&whole.path(), "-wal");
    fs::write(&at, &wal).unwrap();
    same(&left, &rows(&whole.salvage(0, &[], |_, _| {}).db));
    let mut hurt = wal.clone();
    hurt[..32].fill(0);
    fs::write(&at, &hurt).unwrap();
    same(&left, &rows(&whole.salvage(1, &[], |_, _| {}).db));
    fs::write(&at, &wal).unwrap();
    same(&left, &rows(&whole.salvage(0, &[], |bytes, size| page(bytes, size, 1).fill(0)).db));
}

#[test]
fn what_cannot_be_told_is_3_and_what_is_in_the_way_stays() {
    let folder = tempfile::tempdir().unwrap();
    let (source, to) = (folder.path().join("a"), folder.path().join("b"));
    fs::write(&source, b"no database at all").unwrap();
    assert_eq!(run(&source, &to, &[]).status.code(), Some(3));
    assert!(!to.exists());
    fs::write(&to, b"precious").unwrap();
    assert_eq!(run(&source, &to, &[]).status.code(), Some(1));
    assert_eq!(fs::read(&to).unwrap(), b"precious");

    let whole = whole("PRAGMA journal_mode=WAL");
    let program = Connection::open(whole.path()).unwrap();
    program.execute_batch("INSERT INTO t VALUES (5, 'live', 1, NULL)").unwrap();
    let new = whole.folder.path().join("new.db");
    let output = run(&whole.path(), &new, &[]);
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stderr).contains("in use"));
    program.execute_batch("INSERT INTO t VALUES (7, 'goes on', 1, NULL)").unwrap();
    drop(program);
    assert_eq!(run(&whole.path(), &new, &[]).status.code(), Some(0));
}

/// Files with random damage of every size: an answer in time, and a database that passes its check or none.
#[test]
fn no_damage_makes_it_crash() {
    let whole = whole("PRAGMA page_size=512");
    let sound = fs::read(whole.path()).unwrap();
    for seed in 0..40 {
        let mut dice = Dice::of(seed);
        let mut bytes = sound.clone();
        for _ in 0..1 + dice.below(30) {
            let (at, length) = (dice.below(bytes.len()), 1 + dice.below(600));
            let end = (at + length).min(bytes.len());
            let noise = dice.bytes(end - at);
            bytes[at..end].copy_from_slice(&noise);
        }
        let (source, to) = (whole.folder.path().join("mutant.db"), whole.folder.path().join(format!("{seed}.db")));
        fs::write(&source, &bytes).unwrap();
        let output = run(&source, &to, &[]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(matches!(output.status.code(), Some(0 | 1 | 3)) && !said.contains("bug"), "seed {seed}: {said}");
        if to.exists() {
            let db = Connection::open(&to).unwrap();
            assert_eq!(db.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)).unwrap(), "ok");
        } else {
            assert!(!said.is_empty(), "seed {seed}");
        }
    }
}
