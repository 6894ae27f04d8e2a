//! What watching costs while nothing happens: CPU, reads and memory of the daemon and its children.
//!
//! Parts, all without arguments: `big` (sweeps over an unchanged 1 GB database), `hundred` (100 idle WAL databases, open in a
//! program and closed), `thousand` (memory and scrape with 1,000 targets).

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::print_stdout)] // a benchmark

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use support::daemon::Daemon;
use support::databases;
use support::figures::met;
use support::usage::{Usage, memory, worker_peak};

/// A fresh daemon learns, checks and backs up; what comes after that is idling.
const SETTLE: Duration = Duration::from_secs(5);
const MIB: u64 = 1 << 20;

fn main() {
    println!("idle");
    if support::wanted("big") {
        big();
    }
    if support::wanted("hundred") {
        hundred(false);
        hundred(true);
    }
    if support::wanted("thousand") {
        thousand();
    }
}

fn measure(pid: u32, during: Duration) -> (Usage, f64) {
    let (before, began) = (Usage::of(pid), Instant::now());
    std::thread::sleep(during);
    (Usage::of(pid).since(before), began.elapsed().as_secs_f64())
}

/// The sum of a counter's series whose labels have `having`.
fn sum(page: &str, name: &str, having: &str) -> f64 {
    let of_name =
        |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{') && rest.contains(having));
    page.lines().filter(of_name).map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
}

/// Looks that found a database healthy.
fn looks(daemon: &Daemon) -> f64 {
    sum(&daemon.page("/metrics"), "guardian_checks_total", "verdict=\"healthy\"")
}

fn big() {
    let mib = support::number("GUARDIAN_BENCH_BIG_MIB", 1024);
    let sweeps = support::number("GUARDIAN_BENCH_SWEEPS", 120);
    let folder = support::folder();
    let db = folder.path().join("app.db");
    databases::create_big(&db, mib);
    let table = "[[database]]\nname = \"app\"\npath = \"app.db\"\n";
    let mut daemon = Daemon::start(folder.path(), "500ms", table);
    daemon.settled("app", false);
    std::thread::sleep(SETTLE);
    let first = looks(&daemon);
    let (used, _) = measure(daemon.pid(), Duration::from_millis(500) * u32::try_from(sweeps).unwrap());
    let count = looks(&daemon) - first;
    let (cpu_ms, read) = (used.cpu / count * 1e3, used.read_chars as f64 / count);
    let bytes = std::fs::metadata(&db).unwrap().len();
    println!("  a sweep over an unchanged database of {bytes} bytes ({count} sweeps):");
    println!("    CPU of daemon and child            {cpu_ms:.2} ms   target <= 1 ms: {}", met(cpu_ms <= 1.0));
    println!(
        "    read (all of it, /proc included)   {:.1} KB, {} bytes from storage   target: no data: {}",
        read / 1e3,
        used.read_disk,
        met(read < 262_144.0)
    );
    daemon.stop();
    println!(
        "    beside it, an empty program each    {:.2} ms of CPU: the floor of a look in a child",
        empty_program() * 1e3
    );
    println!("    beside it, an integrity_check each  {:.2} s of CPU", check(&db));
}

/// What starting and reaping `true` costs on this machine.
fn empty_program() -> f64 {
    const TIMES: u32 = 200;
    let before = Usage::of(std::process::id());
    for _ in 0..TIMES {
        assert!(std::process::Command::new("true").status().unwrap().success());
    }
    Usage::of(std::process::id()).since(before).cpu / f64::from(TIMES)
}

fn check(db: &Path) -> f64 {
    let before = Usage::of(std::process::id());
    let said: String = databases::open(db).query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(said, "ok");
    Usage::of(std::process::id()).since(before).cpu
}

fn hundred(open: bool) {
    let seconds = support::number("GUARDIAN_BENCH_IDLE_SECONDS", 65);
    let folder = support::folder();
    let paths: Vec<_> = (0..100).map(|number| folder.path().join(format!("{number:03}.db"))).collect();
    paths.iter().for_each(|path| databases::create(path, 100, 100));
    let programs: Vec<_> = paths.iter().filter(|_| open).map(|path| databases::open(path)).collect();
    let table = "[[database]]\nname = \"app\"\npath = \"*.db\"\n";
    let mut daemon = Daemon::start(folder.path(), "30s", table);
    paths.iter().enumerate().for_each(|(number, _)| daemon.settled(&format!("app%2F{number:03}"), false));
    std::thread::sleep(SETTLE);
    let (used, elapsed) = measure(daemon.pid(), Duration::from_secs(seconds as u64));
    let share = used.cpu / elapsed * 100.0;
    let rss = memory(daemon.pid(), "VmRSS").unwrap();
    daemon.stop();
    // The same with sweeps often enough to catch children in the act.
    let mut daemon = Daemon::start(folder.path(), "500ms", table);
    daemon.settled("app%2F000", false);
    let worker = worker_peak(daemon.pid(), Duration::from_secs(10));
    daemon.stop();
    let sum = (rss + worker).div_ceil(MIB);
    println!(
        "  100 idle WAL databases, {} (interval 30 s, {elapsed:.0} s):",
        if open { "open in a program" } else { "closed" }
    );
    println!("    CPU of daemon and children         {share:.3} % of a core   target <= 0.3 %: {}", met(share <= 0.3));
    println!(
        "    resident: daemon {} MiB + child {} MiB    {sum} MiB   target <= 40 MB: {}",
        rss.div_ceil(MIB),
        worker.div_ceil(MIB),
        met(sum * MIB <= 40_000_000)
    );
    drop(programs);
}

fn thousand() {
    let folder = support::folder();
    let model = folder.path().join("model");
    databases::create(&model, 100, 100);
    std::fs::create_dir(folder.path().join("data")).unwrap();
    for number in 0..1000 {
        std::fs::copy(&model, folder.path().join(format!("data/{number:04}.db"))).unwrap();
    }
    let table = "[[database]]\nname = \"app\"\npath = \"data/*.db\"\n";
    let mut daemon = Daemon::start(folder.path(), "2s", table);
    // Each is checked in full once, in a child of its own: that is how a database is learnt, and no idling.
    daemon.wait_for("1,000 targets to be checked in full", |daemon| {
        std::thread::sleep(Duration::from_secs(1));
        let checked = sum(&daemon.page("/metrics"), "guardian_check_duration_seconds_count", "layer=\"integrity\"");
        (checked >= 1000.0).then_some(())
    });
    std::thread::sleep(SETTLE);
    let began = Instant::now();
    let page = daemon.page("/metrics");
    let took = began.elapsed().as_secs_f64();
    let first = looks(&daemon);
    let (used, _) = measure(daemon.pid(), Duration::from_secs(20));
    let count = looks(&daemon) - first;
    let (rss, peak) = (memory(daemon.pid(), "VmRSS").unwrap(), memory(daemon.pid(), "VmHWM").unwrap());
    println!("  1,000 targets (interval 2 s):");
    println!(
        "    scrape                             {:.2} MB in {:.1} ms   target <= 3 MB: {}",
        page.len() as f64 / 1e6,
        took * 1e3,
        met(page.len() <= 3_000_000)
    );
    println!("    resident: daemon {} MiB now, {} MiB at most", rss.div_ceil(MIB), peak.div_ceil(MIB));
    println!("    CPU of daemon and child            {:.0} us a target and look", used.cpu / count * 1e6);
    daemon.stop();
}
