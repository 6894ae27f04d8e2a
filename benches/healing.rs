//! Detection to verified: `mttr_seconds` of real incidents, beside the least that doing the same by hand would take.
//!
//! Parts, all without arguments: `small` (5,000 rows deleted, header overwritten), `wal` (150 MB checkpointed, against the
//! PRAGMA alone), `big` (1 GB restored, against cp, fsync and integrity_check).

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::print_stdout)] // a benchmark

mod support;

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};
use rustix::process::Signal;
use serde_json::Value;
use support::daemon::Daemon;
use support::databases;
use support::figures::{Figures, line, ratio};

const SMALL: Duration = Duration::from_millis(100);
const WAL_BYTES: u64 = 150_000_000;
/// After a heal the disk may still be at it; what comes next shall not pay for that.
const REST: Duration = Duration::from_millis(300);

fn main() {
    println!("detection to verified");
    if support::wanted("small") {
        small();
    }
    if support::wanted("wal") {
        wal();
    }
    if support::wanted("big") {
        big();
    }
}

const BACKED_UP: &str =
    "[[database]]\nname = \"app\"\npath = \"data/app.db\"\nbackup = { every = \"1h\", to = \"backups\" }\n";

fn scene(tables: &str, make: impl FnOnce(&Path)) -> (tempfile::TempDir, PathBuf, Daemon) {
    let folder = support::folder();
    let db = folder.path().join("data/app.db");
    std::fs::create_dir(folder.path().join("data")).unwrap();
    make(&db);
    let mut daemon = Daemon::start(folder.path(), "30s", tables);
    daemon.settled("app", tables.contains("backup"));
    (folder, db, daemon)
}

type Fault = fn(&Path);

fn small() {
    let rounds = support::number("GUARDIAN_BENCH_ROUNDS", 20);
    let (_folder, db, mut daemon) = scene(BACKED_UP, |db| databases::create(db, 5000, 100));
    let header: Fault = |db| File::options().write(true).open(db).unwrap().write_all_at(&[0xA5; 100], 0).unwrap();
    let faults: [(&str, Fault); 2] = [
        ("5,000 rows deleted -> restored", |db| std::fs::remove_file(db).unwrap()),
        ("header overwritten -> mended", header),
    ];
    let mut number = 0;
    for (what, fault) in faults {
        let (mut figures, mut steps) = (Figures::default(), Steps::default());
        for _ in 0..rounds {
            daemon.settled("app", true);
            std::thread::sleep(REST);
            fault(&db);
            number += 1;
            let incident = daemon.closed("app", number);
            figures.add(mttr(&incident));
            steps.add(&incident);
        }
        line(what, &figures, Some(("p50", figures.median(), SMALL)));
        steps.print();
    }
    daemon.stop();
}

fn wal() {
    let rounds = support::number("GUARDIAN_BENCH_WAL_ROUNDS", 7);
    let table = "[[database]]\nname = \"app\"\npath = \"data/app.db\"\nwal_max = \"100MB\"\n";
    let (_folder, db, mut daemon) = scene(table, |db| databases::create(db, 5000, 1000));
    let program = databases::open(&db);
    let (mut ours, mut alone, mut steps) = (Figures::default(), Figures::default(), Steps::default());
    for number in 1..=rounds {
        daemon.signal(Signal::STOP);
        databases::grow_wal(&program, &db, WAL_BYTES);
        alone.add(checkpoint(&db));
        databases::grow_wal(&program, &db, WAL_BYTES);
        daemon.signal(Signal::CONT);
        let incident = daemon.closed("app", number);
        ours.add(mttr(&incident));
        steps.add(&incident);
        std::thread::sleep(REST);
    }
    line("150 MB WAL -> checkpointed", &ours, None);
    steps.print();
    line("PRAGMA wal_checkpoint(TRUNCATE)", &alone, None);
    ratio("ours / the PRAGMA alone", &ours, &alone, 1.5);
    daemon.stop();
}

/// By hand, in a program of its own.
fn checkpoint(db: &Path) -> f64 {
    let hand = Connection::open(db).unwrap();
    hand.busy_timeout(Duration::from_secs(5)).unwrap();
    let began = Instant::now();
    let busy: i64 = hand.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).unwrap();
    let seconds = began.elapsed().as_secs_f64();
    assert_eq!(busy, 0);
    seconds
}

fn big() {
    let rounds = support::number("GUARDIAN_BENCH_BIG_ROUNDS", 3);
    let mib = support::number("GUARDIAN_BENCH_BIG_MIB", 1024);
    let (folder, db, mut daemon) = scene(BACKED_UP, |db| databases::create_big(db, mib));
    println!("  the database has {} bytes", std::fs::metadata(&db).unwrap().len());
    let (mut ours, mut hand, mut steps) = (Figures::default(), Figures::default(), Steps::default());
    for number in 1..=rounds {
        hand.add(copy_by_hand(&db, &folder.path().join("copy.db")));
        daemon.settled("app", true);
        std::fs::remove_file(&db).unwrap();
        let incident = daemon.closed("app", number);
        ours.add(mttr(&incident));
        steps.add(&incident);
        std::thread::sleep(REST);
    }
    line("1 GB deleted -> restored", &ours, None);
    steps.print();
    line("cp + fsync + integrity_check", &hand, None);
    ratio("ours / by hand", &ours, &hand, 1.5);
    daemon.stop();
}

fn copy_by_hand(source: &Path, copy: &Path) -> f64 {
    let began = Instant::now();
    assert!(Command::new("cp").arg(source).arg(copy).status().unwrap().success());
    File::open(copy).unwrap().sync_all().unwrap();
    let db = Connection::open_with_flags(copy, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let said: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    let seconds = began.elapsed().as_secs_f64();
    assert_eq!(said, "ok");
    drop(db);
    for suffix in ["db", "db-wal", "db-shm"] {
        let _ = std::fs::remove_file(copy.with_extension(suffix));
    }
    seconds
}

fn mttr(incident: &Value) -> f64 {
    assert_eq!(incident["outcome"], "healed", "{incident:#}");
    incident["mttr_seconds"].as_f64().unwrap()
}

/// Where the time of an incident went.
#[derive(Default)]
struct Steps(Vec<(String, Figures)>);

impl Steps {
    fn add(&mut self, incident: &Value) {
        let mut rest = mttr(incident);
        for step in incident["steps"].as_array().unwrap() {
            let seconds = step["seconds"].as_f64().unwrap();
            rest -= seconds;
            self.note(step["step"].as_str().unwrap(), seconds);
        }
        self.note("looks and journal", rest);
    }

    fn note(&mut self, name: &str, seconds: f64) {
        let at = self.0.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
            self.0.push((name.to_owned(), Figures::default()));
            self.0.len() - 1
        });
        self.0[at].1.add(seconds);
    }

    fn print(&self) {
        for (name, figures) in &self.0 {
            line(&format!("    of it {name}"), figures, None);
        }
    }
}
