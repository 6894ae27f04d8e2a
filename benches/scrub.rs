//! A scrub beside SQLite's `quick_check`, a full one beside its `integrity_check`, and beside plainly reading the file: a mixed database of 100 MB and of 1 GB.
//!
//! Parts, both without arguments: `100mb`, `1gb`. `GUARDIAN_BENCH_FILE` names a database to be measured instead. Warm, all of the
//! file is in the page cache; cold, the kernel was asked to forget it before each round.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::print_stdout)] // a benchmark

mod support;

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use guardian::format::{Hashing, Header, PageMap, PageSource, ScrubPlan, scrub};
use guardian::host::{fill, forget_cached};
use rusqlite::Connection;
use support::figures::{self, Figures, line, met};
use support::usage;

/// Times `quick_check`'s throughput, warm.
const WARM: f64 = 4.0;
/// Times `integrity_check`'s throughput, warm, with `--full`.
const FULL: f64 = 5.0;
/// Times the time of plainly reading the file, cold.
const COLD: f64 = 1.3;
/// Of the worker, in MB.
const RESIDENT: f64 = 64.0;

fn main() {
    println!("scrub");
    let rounds = support::number("GUARDIAN_BENCH_ROUNDS", 9);
    if let Some(file) = std::env::var_os("GUARDIAN_BENCH_FILE").map(PathBuf::from) {
        return measure(&file, rounds);
    }
    for (part, mib) in [("100mb", 100), ("1gb", 1000)] {
        if support::wanted(part) {
            println!(" {part}");
            let folder = support::folder();
            let path = folder.path().join("mixed.db");
            create(&path, mib);
            measure(&path, rounds);
        }
    }
}

/// Small rows with two indexes, longer rows, rows that spill, a table without rowids, deleted rows.
fn create(path: &Path, mib: usize) {
    let db = Connection::open(path).unwrap();
    db.execute_batch(&format!(
        "PRAGMA journal_mode=off; PRAGMA synchronous=off; PRAGMA cache_size=-400000; BEGIN;
         CREATE TABLE small(id INTEGER PRIMARY KEY, k INT, name TEXT, score REAL, flag INT, at INT);
         CREATE TABLE texts(id INTEGER PRIMARY KEY, title TEXT NOT NULL, body TEXT, tag TEXT);
         CREATE TABLE blobs(id INTEGER PRIMARY KEY, kind INT, data BLOB);
         CREATE TABLE pairs(a INT, b TEXT, n INT, PRIMARY KEY(a, b)) WITHOUT ROWID;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {mib} * 4200)
           INSERT INTO small SELECT i, i * 7919 % 1000003, 'name ' || (i * 31 % 99991), i / 7.0, i % 2, 1700000000 + i * 13 FROM n;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {mib} * 750)
           INSERT INTO texts SELECT i, 'title ' || i, hex(randomblob(150 + i % 220)), 'tag' || (i % 50) FROM n;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {mib} * 11)
           INSERT INTO blobs SELECT i, i % 5, randomblob(i * 797 % 30000) FROM n;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {mib} * 1500)
           INSERT INTO pairs SELECT i % 1000, 'key ' || i, i FROM n;
         CREATE INDEX small_k ON small(k); CREATE INDEX texts_tag ON texts(tag, title);
         DELETE FROM blobs WHERE id % 10 = 0; DELETE FROM small WHERE id % 9 = 0; COMMIT; PRAGMA journal_mode=wal;"
    ))
    .unwrap();
}

/// What the command says and costs.
struct Scrubbed {
    /// The pass itself, as the command tells it.
    pass: f64,
    /// From the command's start to its end, processes and all.
    whole: f64,
}

fn scrub_once(path: &Path, flags: &[&str]) -> Scrubbed {
    let begun = Instant::now();
    let output = command(path, flags).output().unwrap();
    let whole = begun.elapsed().as_secs_f64();
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["verdict"], "clean", "{document:#}");
    Scrubbed { pass: document["seconds"].as_f64().unwrap(), whole }
}

fn command(path: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_guardiand"));
    command.args(["scrub", "--json"]).args(flags).arg(path).arg("--state-dir").arg(path.with_extension("state"));
    command.stdout(Stdio::piped());
    command
}

/// The most that the worker had resident, as far as quick looks at it see.
fn resident(path: &Path, flags: &[&str], seconds: f64) -> u64 {
    let mut child = command(path, flags).spawn().unwrap();
    let peak = usage::worker_peak(child.id(), Duration::from_secs_f64(seconds));
    child.wait().unwrap();
    peak
}

fn read_once(path: &Path) {
    let file = File::open(path).unwrap();
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        match file.read_at(&mut buffer, at).unwrap() {
            0 => break,
            read => at += read as u64,
        }
    }
}

fn check_once(path: &Path, pragma: &str) {
    let db = Connection::open(path).unwrap();
    let answer: String = db.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get(0)).unwrap();
    assert_eq!(answer, "ok");
}

fn timed(into: &mut Figures, work: impl FnOnce()) {
    let begun = Instant::now();
    work();
    into.add(begun.elapsed().as_secs_f64());
}

fn memory(name: &str, path: &Path, flags: &[&str], seconds: f64) {
    let peak = resident(path, flags, seconds * 0.95) as f64 / 1e6;
    println!("  {name:<34} {peak:.1} MB   target <= {RESIDENT} MB: {}", met(peak <= RESIDENT));
}

/// A file that nobody writes.
struct Pages {
    file: File,
    size: u32,
}

impl PageSource for Pages {
    type Error = std::io::Error;

    fn read(&self, first: u32, into: &mut [u8]) -> std::io::Result<()> {
        fill(&self.file, u64::from(first - 1) * u64::from(self.size), into)
    }
}

/// What a page map costs beyond the scrub that it is made by.
fn mapped(path: &Path, rounds: usize) {
    let file = File::open(path).unwrap();
    let mut head = [0; 100];
    file.read_exact_at(&mut head, 0).unwrap();
    let header = Header::parse(&head).unwrap();
    let pages = Pages { size: header.page_size, file };
    let counted = header.counted_pages().unwrap();
    let threads = std::thread::available_parallelism().unwrap().get();
    let plan = ScrubPlan { header, counted, there: counted, threads, faults_max: 1, contents: Some(&[]) };
    let [mut plain, mut with_map] = [(); 2].map(|()| Figures::default());
    let mut len = 0;
    for _ in 0..rounds {
        timed(&mut plain, || assert_eq!(scrub(&pages, &plan, &|_| true).unwrap().faults_total, 0));
        timed(&mut with_map, || {
            let hashing = Hashing::new(&pages, header.page_size, counted);
            let found = scrub(&hashing, &plan, &|_| true).unwrap();
            let map = PageMap::of_scrub(&found, header.page_size, hashing.into_hashes(), Vec::new()).unwrap();
            len = map.encode().unwrap().len();
        });
    }
    line("warm: scrub with owners, in process", &plain, None);
    line("warm: the same, and a page map", &with_map, None);
    let (times, share) = (with_map.median() / plain.median(), len as f64 / pages.file.metadata().unwrap().len() as f64);
    println!("  {:<34} {times:.2} x the scrub's time; {:.2} % of the database's size", "a page map", share * 100.0);
}

fn measure(path: &Path, rounds: usize) {
    File::open(path).unwrap().sync_all().unwrap();
    let bytes = path.metadata().unwrap().len() as f64;
    let rate = |figures: &Figures| bytes / figures.median() / 1e9;
    println!("  {:.0} MB", bytes / 1e6);
    let [mut check, mut pass, mut whole, mut read] = [(); 4].map(|()| Figures::default());
    read_once(path);
    for _ in 0..rounds {
        timed(&mut check, || check_once(path, "quick_check"));
        let ours = scrub_once(path, &[]);
        pass.add(ours.pass);
        whole.add(ours.whole);
        timed(&mut read, || read_once(path));
    }
    line("warm: quick_check", &check, None);
    line("warm: scrub, the pass", &pass, None);
    line("warm: scrub, the whole command", &whole, None);
    line("warm: plain read, one thread", &read, None);
    let times = check.median() / pass.median();
    println!(
        "  {:<34} {times:.2} x   ({:.2} and {:.2} GB/s; the whole command {:.2} x)   target >= {WARM} x: {}",
        "scrub, as fast as quick_check",
        rate(&pass),
        rate(&check),
        check.median() / whole.median(),
        met(times >= WARM)
    );
    memory("resident memory of the worker", path, &[], whole.median());
    let [mut check, mut pass, mut whole] = [(); 3].map(|()| Figures::default());
    for _ in 0..rounds.min(5) {
        timed(&mut check, || check_once(path, "integrity_check"));
        let ours = scrub_once(path, &["--full"]);
        pass.add(ours.pass);
        whole.add(ours.whole);
    }
    line("warm: integrity_check", &check, None);
    line("warm: scrub --full, the passes", &pass, None);
    line("warm: scrub --full, whole command", &whole, None);
    let times = check.median() / pass.median();
    println!(
        "  {:<34} {times:.2} x   (the whole command {:.2} x)   target >= {FULL} x: {}",
        "scrub --full beside integrity_check",
        check.median() / whole.median(),
        met(times >= FULL)
    );
    memory("resident memory, --full", path, &["--full"], whole.median());
    mapped(path, rounds.min(5));
    let [mut check, mut pass, mut read] = [(); 3].map(|()| Figures::default());
    let cold = || forget_cached(File::open(path).unwrap());
    for round in 0..rounds.min(7) {
        cold();
        pass.add(scrub_once(path, &[]).pass);
        cold();
        timed(&mut read, || read_once(path));
        if round == 0 {
            cold();
            timed(&mut check, || check_once(path, "quick_check"));
        }
    }
    line("cold: quick_check", &check, None);
    line("cold: scrub, the pass", &pass, None);
    line("cold: plain read, one thread", &read, None);
    figures::ratio("scrub beside plain read", &pass, &read, COLD);
}
