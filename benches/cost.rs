//! What guardiand costs the program that it watches: commits per second and their latency with it (a sweep each second, a backup
//! every ten) and without, and beside `sqlite3 .backup` every ten seconds.
//!
//! Parts, all without arguments: `wal-10mb`, `wal-1gb`, `rollback-10mb`, `rollback-1gb`. The program has one connection,
//! `synchronous=FULL`, and updates one row a commit: as fast as it can, then at half of that. There, a commit's latency counts from
//! when it was due, so that one that waits for another's wait is seen to wait.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::print_stdout)] // a benchmark

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rusqlite::Connection;
use serde_json::Value;
use support::daemon::Daemon;
use support::databases;
use support::figures::{Figures, met, words};

/// The least share of a saturating program's commits that guardiand leaves it while it only looks, and during a backup.
const WATCHED: f64 = 0.97;
const BACKED_UP: f64 = 0.65;
/// The most that the 99th percentile of the latency grows to at half of the load.
const LATENCY: f64 = 1.2;
const DB: &str = "app.db";
const WARM: Duration = Duration::from_secs(2);
const EVERY: Duration = Duration::from_secs(10);
/// So many times as many turns are short ones: a slow second of the machine is then one turn's, and the median does not show it.
const MORE: usize = 3;
/// What is shorter in sum tells nothing.
const ENOUGH: f64 = 1.0;

fn main() {
    println!("cost to the program");
    for (part, mode, mib, seconds) in [
        ("wal-10mb", "wal", 10, 20),
        ("wal-1gb", "wal", 1000, 30),
        ("rollback-10mb", "delete", 10, 20),
        ("rollback-1gb", "delete", 1000, 30),
    ] {
        if support::wanted(part) {
            println!(" {part}");
            measure(mode, mib, seconds);
        }
    }
}

/// When something took place, on the clock that a backup's manifest has too.
type Span = (Timestamp, Timestamp);

/// What one phase saw: its commits, its length in seconds, and the backups in it.
struct Phase {
    commits: Vec<Commit>,
    all: Span,
    backups: Vec<Span>,
}

struct Commit {
    at: Span,
    /// From when it was due, in seconds.
    latency: f64,
}

/// Commits per second, and their latencies.
struct Side {
    seconds: f64,
    rate: f64,
    latency: Figures,
}

fn seconds((from, to): Span) -> f64 {
    to.duration_since(from).as_secs_f64()
}

fn overlap(a: Span, b: Span) -> f64 {
    seconds((a.0.max(b.0), a.1.min(b.1))).max(0.0)
}

impl Phase {
    /// The commits during backups, or those apart from them.
    fn side(&self, during: bool) -> Side {
        let backups: f64 = self.backups.iter().map(|backup| overlap(*backup, self.all)).sum();
        let seconds = if during { backups } else { seconds(self.all) - backups };
        let mut latency = Figures::default();
        latency.extend(self.commits_of(during).map(|commit| commit.latency));
        Side { seconds, rate: latency.count() as f64 / seconds, latency }
    }

    fn commits_of(&self, during: bool) -> impl Iterator<Item = &Commit> {
        let is_during = |commit: &Commit| self.backups.iter().any(|backup| overlap(*backup, commit.at) > 0.0);
        self.commits.iter().filter(move |commit| is_during(commit) == during)
    }
}

fn measure(mode: &str, mib: usize, length: usize) {
    let length = Duration::from_secs(support::number("GUARDIAN_BENCH_COST_SECONDS", length) as u64);
    let folder = support::folder();
    let db = folder.path().join(DB);
    databases::create_big(&db, mib);
    let program = Connection::open(&db).unwrap();
    program.busy_timeout(Duration::from_secs(60)).unwrap();
    let now: String = program.query_row(&format!("PRAGMA journal_mode={mode}"), [], |row| row.get(0)).unwrap();
    assert_eq!(now, mode);
    program.execute_batch("PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=1000").unwrap();
    run(&program, None, Duration::from_secs(3));

    let rate = saturated(&program, folder.path(), length);
    let pace = Duration::from_secs_f64(2.0 / rate);
    at_half(&program, folder.path(), pace, length);
}

/// The shares of its commits that are left to a program that never rests; gives its rate without anything.
fn saturated(program: &Connection, folder: &Path, length: Duration) -> f64 {
    println!("  as fast as it can, a turn without before and after each turn with it:");
    // After a pause, such as the daemon's start is to the program, the disk is slow for a second or two whatever runs beside it.
    let warm = |length| {
        run(program, None, WARM);
        run(program, None, length)
    };
    let alone = || warm(length / 4);
    let mut without = vec![alone().side(false)];
    let mut turns = Turns::default();
    for _ in 0..rounds() * MORE {
        let watched = beside_guardiand(folder, false, alone).side(false);
        turns.add(Turn::Watched, &watched, &mut without, alone);
    }
    for _ in 0..rounds() {
        let backed_up = beside_guardiand(folder, true, || warm(length)).side(true);
        turns.add(Turn::BackedUp, &backed_up, &mut without, alone);
        let peer = beside_sqlite3(folder, || warm(length)).side(true);
        turns.add(Turn::Peer, &peer, &mut without, alone);
    }
    let mut rates = Figures::default();
    rates.extend(without.iter().map(|side| side.rate));
    let rate = rates.median();
    println!(
        "    {rate:.0} commits/s without guardiand ({:.0} to {:.0})",
        rates.percentile(0.0),
        rates.percentile(1.0)
    );
    turns.tell("nothing, beside nothing", Turn::Nothing, None);
    turns.tell("watched each second", Turn::Watched, Some(WATCHED));
    turns.tell("during its backups, every 10 s", Turn::BackedUp, Some(BACKED_UP));
    turns.tell("during `sqlite3 .backup`, every 10 s", Turn::Peer, None);
    rate
}

/// What its commits wait at one each `pace`, in short turns too.
fn at_half(program: &Connection, folder: &Path, pace: Duration, length: Duration) {
    let paced = |length| run(program, Some(pace), length);
    // Long enough for one backup.
    let length = length * 3 / 5;
    let p99 = |side: &Side| side.latency.percentile(0.99);
    let mut before = paced(length / 2).side(false);
    println!(
        "  at half of that, in turns: {:.0} commits/s, p99 {} without guardiand",
        before.rate,
        words(p99(&before))
    );
    let (mut kept, mut grown, mut nothing) = (Figures::default(), Figures::default(), Figures::default());
    let (mut calm, mut during) = (Figures::default(), Figures::default());
    for _ in 0..rounds() * MORE {
        let phase = beside_guardiand(folder, true, || paced(length));
        let after = paced(length / 2).side(false);
        let usual = (p99(&before) + p99(&after)) / 2.0;
        kept.extend([phase.commits.len() as f64 / seconds(phase.all) * 2.0 / (before.rate + after.rate)]);
        grown.extend([p99(&phase.side(false)) / usual]);
        nothing.extend([p99(&after) / p99(&before)]);
        calm.extend([p99(&phase.side(false))]);
        during.extend(phase.commits_of(true).map(|commit| commit.latency));
        before = after;
    }
    let spread = |figures: &Figures| format!("({:.2} to {:.2})", figures.percentile(0.0), figures.percentile(1.0));
    let share = kept.median();
    println!("    throughput                             {share:.3} x   target: none lost: {}", met(share >= 0.995));
    println!("    p99, nothing beside nothing            {:.2} x {}", nothing.median(), spread(&nothing));
    println!(
        "    p99, watched each second               {} ({:.2} x {})   target <= {LATENCY} x: {}",
        words(calm.median()),
        grown.median(),
        spread(&grown),
        met(grown.median() <= LATENCY)
    );
    let reported = |what: &str, latency: &Figures| {
        if latency.count() > 0 {
            println!("    {what:<38} p99 {}, max {}", words(latency.percentile(0.99)), words(latency.percentile(1.0)));
        }
    };
    reported("during its backups", &during);
    reported("during `sqlite3 .backup`", &beside_sqlite3(folder, || paced(length * 2)).side(true).latency);
}

fn rounds() -> usize {
    support::number("GUARDIAN_BENCH_ROUNDS", 3)
}

/// What goes on beside the program. `Nothing` tells how much the machine itself differs from turn to turn.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    Nothing,
    Watched,
    BackedUp,
    Peer,
}

/// Rates as shares of the mean of those without anything, before and after.
#[derive(Default)]
struct Turns(BTreeMap<Turn, Figures>);

impl Turns {
    fn add(&mut self, turn: Turn, side: &Side, alone: &mut Vec<Side>, after: impl FnOnce() -> Phase) {
        let before = alone.last().unwrap().rate;
        let after = after().side(false);
        if side.seconds >= ENOUGH {
            self.0.entry(turn).or_default().extend([side.rate * 2.0 / (before + after.rate)]);
        }
        self.0.entry(Turn::Nothing).or_default().extend([after.rate / before]);
        alone.push(after);
    }

    fn tell(&self, what: &str, turn: Turn, least: Option<f64>) {
        let Some(shares) = self.0.get(&turn) else { return println!("    {what:<38} too short to tell") };
        let share = shares.median();
        let target = least.map_or_else(String::new, |least| format!("   target >= {least}: {}", met(share >= least)));
        let (low, high) = (shares.percentile(0.0), shares.percentile(1.0));
        println!("    {what:<38} {share:.2} x ({low:.2} to {high:.2}, {} turns){target}", shares.count());
    }
}

/// Commits for `length`, one each `pace`, or one after the other.
fn run(program: &Connection, pace: Option<Duration>, length: Duration) -> Phase {
    let rows: i64 = program.query_row("SELECT max(id) FROM rows", [], |row| row.get(0)).unwrap();
    let mut update = program.prepare("UPDATE rows SET payload = randomblob(400) WHERE id = ?1").unwrap();
    let (from, began) = (Timestamp::now(), Instant::now());
    let (mut commits, mut number) = (Vec::new(), 0_u32);
    // Rows near and far, the same in every phase.
    let row = |number: u32| i64::from(number.wrapping_mul(2_654_435_761)) % rows;
    while began.elapsed() < length {
        let due = pace.map(|pace| began + pace * number);
        if let Some(left) = due.map(|due| due.saturating_duration_since(Instant::now())) {
            std::thread::sleep(left);
        }
        let (wall, start) = (Timestamp::now(), Instant::now());
        assert_eq!(update.execute([row(number)]).unwrap(), 1);
        commits.push(Commit { at: (wall, Timestamp::now()), latency: due.unwrap_or(start).elapsed().as_secs_f64() });
        number += 1;
    }
    Phase { commits, all: (from, Timestamp::now()), backups: Vec::new() }
}

/// The same while guardiand looks, and backs up.
fn beside_guardiand(folder: &Path, backs_up: bool, run: impl FnOnce() -> Phase) -> Phase {
    let backups = folder.join("backups");
    let keep = "keep = { last = 20, hourly = 0, daily = 0, weekly = 0 }";
    let mut table = "[[database]]\nname = \"app\"\npath = \"app.db\"\n".to_owned();
    if backs_up {
        table += &format!("backup = {{ every = \"{}s\", to = \"backups\", {keep} }}\n", EVERY.as_secs());
    }
    let mut daemon = Daemon::start(folder, "1s", &table);
    daemon.settled("app", backs_up);
    daemon.at_rest();
    let mut phase = run();
    daemon.stop();
    if backs_up {
        phase.backups = spans(&backups.join("app"));
        std::fs::remove_dir_all(backups).unwrap();
    }
    std::fs::remove_dir_all(folder.join("state")).unwrap();
    phase
}

/// When the backups of a folder were made, their verification included.
fn spans(folder: &Path) -> Vec<Span> {
    let manifests = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let manifests = manifests.filter(|path| path.extension().is_some_and(|suffix| suffix == "json"));
    let span = |path: &Path| {
        let manifest: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let end: Timestamp = manifest["verified_at"].as_str().unwrap().parse().unwrap();
        let took = Duration::from_secs_f64(manifest["duration_seconds"].as_f64().unwrap());
        (end - took, end)
    };
    let spans: Vec<_> = manifests.map(|path| span(&path)).collect();
    assert!(!spans.is_empty(), "no backup was made");
    spans
}

/// The same while the shell makes a copy every ten seconds, the first at once.
fn beside_sqlite3(folder: &Path, run: impl FnOnce() -> Phase) -> Phase {
    let ended = AtomicBool::new(false);
    let db = folder.join(DB);
    let copy = db.with_extension("copy");
    std::thread::scope(|scope| {
        let copies = scope.spawn(|| {
            let mut spans = Vec::new();
            let mut due = Instant::now();
            while !ended.load(Ordering::Relaxed) {
                if Instant::now() < due {
                    std::thread::sleep(Duration::from_millis(20));
                    continue;
                }
                due = Instant::now() + EVERY;
                let from = Timestamp::now();
                let command = format!(".backup '{}'", copy.display());
                let mut child = match Command::new("sqlite3").arg(&db).args([".timeout 60000", &command]).spawn() {
                    Ok(child) => child,
                    Err(error) => panic!("`sqlite3`, the peer, is needed: {error}"),
                };
                // Under a program that never rests it may never finish: its end is not waited for beyond the phase.
                while child.try_wait().unwrap().is_none() {
                    if ended.load(Ordering::Relaxed) {
                        child.kill().unwrap();
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
                spans.push((from, Timestamp::now()));
                let _ = std::fs::remove_file(&copy);
            }
            spans
        });
        let mut phase = run();
        ended.store(true, Ordering::Relaxed);
        phase.backups = copies.join().unwrap();
        phase
    })
}
