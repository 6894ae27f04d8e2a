//! A salvage of a mixed database whose header is gone, beside a re-insert of the whole one through SQLite, and beside the library
//! `sqlite3_recover`.
//!
//! Parts: `tmpfs` (in `GUARDIAN_BENCH_TMPFS`, default `/dev/shm`) and `disk` (in `GUARDIAN_BENCH_DIR`). `GUARDIAN_BENCH_MIB` is the size.
//! `GUARDIAN_BENCH_RECOVER` names a program that is given a wreck and a new path and calls `sqlite3_recover_init(db, "main", new)`,
//! `_run` and `_finish`. Without it that line is left out.
//! Ours is the whole command, with its fsync and the check of the new database; the peer does neither check nor more than SQLite's own
//! syncs.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::print_stdout)] // a benchmark

mod support;

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use support::figures::{Figures, line, met};
use support::usage;

/// Times the speed of `sqlite3_recover`.
const TMPFS: f64 = 4.0;
const DISK: f64 = 2.5;
/// Of the worker, in MB.
const RESIDENT: f64 = 256.0;

const TABLES: &str = "
    CREATE TABLE small(id INTEGER PRIMARY KEY, k INT, name TEXT, score REAL, flag INT, at INT);
    CREATE TABLE texts(id INTEGER PRIMARY KEY, title TEXT NOT NULL, body TEXT, tag TEXT);
    CREATE TABLE blobs(id INTEGER PRIMARY KEY, kind INT, data BLOB);
    CREATE TABLE users(id INTEGER PRIMARY KEY, mail TEXT NOT NULL UNIQUE, n INT CHECK(n >= 0));
    CREATE TABLE pairs(a INT, b TEXT, n INT, PRIMARY KEY(a, b)) WITHOUT ROWID;";
const INDEXES: &str = "CREATE INDEX small_k ON small(k); CREATE INDEX texts_tag ON texts(tag, title);";
const NAMES: [&str; 5] = ["small", "texts", "blobs", "users", "pairs"];

fn main() {
    println!("salvage");
    let rounds = support::number("GUARDIAN_BENCH_ROUNDS", 5);
    let mib = support::number("GUARDIAN_BENCH_MIB", 100);
    if support::wanted("tmpfs") {
        let root = std::env::var_os("GUARDIAN_BENCH_TMPFS").map_or_else(|| "/dev/shm".into(), PathBuf::from);
        println!(" tmpfs");
        measure(
            tempfile::Builder::new().prefix("guardian-bench-").tempdir_in(root).unwrap().path(),
            mib,
            rounds,
            TMPFS,
        );
    }
    if support::wanted("disk") {
        println!(" disk");
        measure(support::folder().path(), mib, rounds, DISK);
    }
}

/// Small rows with an index, longer rows with an index, rows that spill, a unique column, a table without rowids, deleted rows.
fn create(path: &Path, mib: usize) {
    let db = Connection::open(path).unwrap();
    let fill = |rows: usize, what: &str| {
        format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) INSERT INTO {what} FROM n;"
        )
    };
    db.execute_batch(&format!(
        "PRAGMA journal_mode=off; PRAGMA synchronous=off; PRAGMA cache_size=-400000; BEGIN; {TABLES} {} {} {} {} {} {INDEXES}
         DELETE FROM blobs WHERE id % 10 = 0; DELETE FROM small WHERE id % 9 = 0; COMMIT;",
        fill(mib * 4000, "small SELECT i, i * 7919 % 1000003, 'name ' || (i * 31 % 99991), i / 7.0, i % 2, 1700000000 + i * 13"),
        fill(mib * 750, "texts SELECT i, 'title ' || i, hex(randomblob(150 + i % 220)), 'tag' || (i % 50)"),
        fill(mib * 11, "blobs SELECT i, i % 5, randomblob(i * 797 % 30000)"),
        fill(mib * 100, "users SELECT i, 'mail' || (i * 7919 % 1000003) || '@example.com', i"),
        fill(mib * 1500, "pairs SELECT i % 1000, 'key ' || i, i"),
    ))
    .unwrap();
}

fn command(wreck: &Path, new: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_guardiand"));
    command.args(["salvage", "--json"]).args([wreck, new]).stdout(Stdio::piped());
    command
}

fn reinsert(whole: &Path, new: &Path) {
    let db = Connection::open(new).unwrap();
    db.execute_batch(&format!(
        "PRAGMA journal_mode=off; PRAGMA synchronous=off; PRAGMA cache_size=-65536; PRAGMA locking_mode=EXCLUSIVE;
         ATTACH '{}' AS old; BEGIN; {TABLES}",
        whole.display()
    ))
    .unwrap();
    for name in NAMES {
        db.execute_batch(&format!("INSERT OR IGNORE INTO main.{name} SELECT * FROM old.{name} NOT INDEXED")).unwrap();
    }
    db.execute_batch(&format!("{INDEXES} COMMIT")).unwrap();
    drop(db);
    File::open(new).unwrap().sync_all().unwrap();
    let db = Connection::open(new).unwrap();
    assert_eq!(db.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)).unwrap(), "ok");
}

fn counts(path: &Path) -> Vec<(i64, i64)> {
    let db = Connection::open(path).unwrap();
    let key = |name: &str| if name == "pairs" { "a" } else { "id" };
    let count = |name: &str| {
        let sql = format!("SELECT count(*), sum({}) FROM {name}", key(name));
        db.query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
    };
    NAMES.into_iter().map(count).collect()
}

/// Runs `work` on a path where nothing is; the seconds.
fn timed(new: &Path, into: &mut Figures, work: impl FnOnce()) {
    let _ = std::fs::remove_file(new);
    let begun = Instant::now();
    work();
    into.add(begun.elapsed().as_secs_f64());
}

fn measure(folder: &Path, mib: usize, rounds: usize, target: f64) {
    let (whole, wreck, new) = (folder.join("whole.db"), folder.join("wreck.db"), folder.join("new.db"));
    create(&whole, mib);
    std::fs::copy(&whole, &wreck).unwrap();
    let file = File::options().write(true).open(&wreck).unwrap();
    file.write_all_at(&[0; 100], 0).unwrap();
    file.sync_all().unwrap();
    println!("  {:.0} MB", wreck.metadata().unwrap().len() as f64 / 1e6);
    let peer = std::env::var_os("GUARDIAN_BENCH_RECOVER");
    let truth = counts(&whole);
    let [mut ours, mut floor, mut theirs] = [(); 3].map(|()| Figures::default());
    for _ in 0..rounds {
        timed(&new, &mut ours, || {
            let output = command(&wreck, &new).output().unwrap();
            assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
        });
        assert_eq!(counts(&new), truth, "a salvage that loses rows is not fast");
        timed(&new, &mut floor, || reinsert(&whole, &new));
        if let Some(peer) = &peer {
            timed(&new, &mut theirs, || assert!(Command::new(peer).args([&wreck, &new]).status().unwrap().success()));
        }
    }
    line("salvage, the whole command", &ours, None);
    line("re-insert through SQLite, checked", &floor, None);
    let beside = |what: &str, other: &Figures| {
        println!("  {what:<34} {:.2} x", other.median() / ours.median());
    };
    beside("as fast as the re-insert", &floor);
    if theirs.count() > 0 {
        line("sqlite3_recover", &theirs, None);
        let times = theirs.median() / ours.median();
        println!(
            "  {:<34} {times:.2} x   target >= {target} x: {}",
            "as fast as sqlite3_recover",
            met(times >= target)
        );
    }
    let _ = std::fs::remove_file(&new);
    let mut child = command(&wreck, &new).spawn().unwrap();
    let peak = usage::worker_peak(child.id(), Duration::from_secs_f64(ours.median() * 0.95)) as f64 / 1e6;
    child.wait().unwrap();
    println!(
        "  {:<34} {peak:.1} MB   target <= {RESIDENT} MB: {}",
        "resident memory of the worker",
        met(peak <= RESIDENT)
    );
}
