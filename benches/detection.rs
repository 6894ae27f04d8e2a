//! Fault to detection: how long after a file was hurt the daemon has an incident open, beside what a poller needs.
//!
//! `opened_at` of the incident less the wall clock just before the fault; the daemon's interval is the default 30 s, so it
//! is the file's event that wakes it. The API tells milliseconds.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::print_stdout)] // a benchmark

mod support;

use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use support::daemon::Daemon;
use support::databases;
use support::figures::{Figures, line, words};

const TARGET: Duration = Duration::from_millis(50);
/// The faults go round these, so that each has been quiet for a while when its turn comes.
const DATABASES: usize = 8;

type Fault = fn(&Path);

const FAULTS: [(&str, Fault); 4] = [
    ("deleted", |db| std::fs::remove_file(db).unwrap()),
    ("a cut copy renamed over it", |db| {
        let whole = std::fs::read(db).unwrap();
        let copy = db.with_extension("copy");
        std::fs::write(&copy, &whole[..whole.len() / 4096 * 6 / 10 * 4096]).unwrap();
        std::fs::rename(copy, db).unwrap();
    }),
    ("header overwritten", |db| {
        File::options().write(true).open(db).unwrap().write_all_at(&[0xA5; 100], 0).unwrap();
    }),
    ("truncated to 60 %", |db| {
        let file = File::options().write(true).open(db).unwrap();
        let pages = file.metadata().unwrap().len() / 4096;
        file.set_len(pages * 6 / 10 * 4096).unwrap();
    }),
];

fn main() {
    println!("fault to detection");
    let rounds = support::number("GUARDIAN_BENCH_ROUNDS", 25);
    let folder = support::folder();
    std::fs::create_dir(folder.path().join("data")).unwrap();
    let mut tables = String::new();
    for number in 0..DATABASES {
        databases::create(&folder.path().join(format!("data/{number}.db")), 5000, 100);
        let _ = writeln!(
            tables,
            "[[database]]\nname = \"db{number}\"\npath = \"data/{number}.db\"\nbackup = {{ every = \"1h\", to = \"backups\" }}"
        );
    }
    let mut daemon = Daemon::start(folder.path(), "30s", &tables);
    (0..DATABASES).for_each(|number| daemon.settled(&format!("db{number}"), true));

    let mut all = Figures::default();
    let mut polled = [(1.0, Figures::default()), (30.0, Figures::default())];
    let mut turn = 0;
    for (what, fault) in FAULTS {
        let mut figures = Figures::default();
        for _ in 0..rounds {
            let (number, incident) = (turn % DATABASES, turn / DATABASES + 1);
            let (db, name) = (folder.path().join(format!("data/{number}.db")), format!("db{number}"));
            daemon.settled(&name, false);
            let before = Timestamp::now();
            fault(&db);
            let closed = daemon.closed(&name, incident);
            let opened: Timestamp = closed["opened_at"].as_str().unwrap().parse().unwrap();
            // `opened_at` is cut to whole milliseconds.
            let seconds = opened.duration_since(before).as_secs_f64().max(0.0);
            figures.add(seconds);
            for (every, waits) in &mut polled {
                // A poller that ticks on whole seconds of this clock sees it at its next tick, at the earliest.
                let at = before.as_millisecond() as f64 / 1000.0;
                waits.add(*every - at % *every);
            }
            all.add(seconds);
            turn += 1;
        }
        line(what, &figures, None);
    }
    line("all faults", &all, Some(("p99", all.percentile(0.99), TARGET)));
    println!("the same faults, seen at the next tick of a poller that looks for free:");
    for (every, waits) in &polled {
        line(&format!("every {every} s"), waits, None);
        let times = waits.median() / all.median().max(0.0005);
        println!("  {:<34} {times:.0} x at the median (over all phases: {})", "", words(every / 2.0));
    }
    daemon.stop();
}
