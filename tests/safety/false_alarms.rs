//! Zero is the number: whatever programs do in order, no incident is opened.
//!
//! Busy writers in both journal modes and across changes of the mode, with VACUUM, schema changes, checkpoints of every kind,
//! transactions over attached databases, rolled back ones that spilled to the disk, ends in order and by SIGKILL; under a 1 s
//! interval, with a quick check every 2 s, a full one every 5 s and a backup every 2 s. Ten seconds in `cargo test`; as long as
//! one likes with `GUARDIAN_CALM_SECONDS=1800 cargo test --test safety -- --nocapture false_alarms`.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::daemon::Daemon;
use crate::support::damage::Dice;
use crate::support::program::Program;
use crate::support::scene::Scene;
use crate::support::truth::Content;

/// In half an hour the databases grow to where a VACUUM makes a WAL of more than the usual `wal_max`: that is no false alarm.
const LINES: &str = "wal_max = \"1GB\"\nintegrity = { quick = \"2s\", full = \"5s\" }\nbusy_timeout = \"10s\"\n\
    backup = { every = \"2s\", to = \"backups\", keep = { last = 3, hourly = 0, daily = 0, weekly = 0 } }\n\
    canary = \"SELECT count(*) FROM commits\"";

/// Journal mode and flags of a program.
type Writes = (&'static str, &'static [&'static str]);

/// A database, and the programs that write it. Each program's promises have a log of their own.
const DATABASES: &[(&str, &[Writes])] = &[
    ("wal", &[("wal", &["--chores", "--shared"]), ("wal", &["--shared", "--pause", "3", "--rows-per-commit", "20"])]),
    ("rollback", &[("delete", &["--chores", "--pause", "2"])]),
    ("persist", &[("persist", &["--chores", "--synchronous", "full", "--pause", "1"])]),
    ("modes", &[("wal", &["--chores", "--changes-mode", "--pause", "2"])]),
];

struct Writer {
    database: &'static str,
    mode: &'static str,
    flags: Vec<&'static str>,
    log: String,
    program: Option<Program>,
}

impl Writer {
    fn start(&mut self, scene: &Scene) {
        let flags = [&["--busy-timeout", "20000", "--row-bytes", "300"], self.flags.as_slice()].concat();
        let (db, log) = (scene.path(&format!("data/{}.db", self.database)), scene.path(&self.log));
        self.program = Some(Program::start(&db, self.mode, "forever", &log, &flags));
    }
}

fn writers() -> Vec<Writer> {
    let mut all = Vec::new();
    for (database, programs) in DATABASES {
        for (number, (mode, flags)) in programs.iter().enumerate() {
            let log = format!("{database}.db.{number}");
            all.push(Writer { database, mode, flags: flags.to_vec(), log, program: None });
        }
    }
    all
}

fn incidents(daemon: &Daemon) -> Vec<Value> {
    daemon.get("/api/v1/incidents?limit=1000")["incidents"].as_array().unwrap().clone()
}

#[test]
fn what_programs_do_in_order_is_never_taken_for_a_failure() {
    let seconds = std::env::var("GUARDIAN_CALM_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    let mut dice = Dice::new();
    let mut scene = Scene::new();
    scene.guardian("workers = 2");
    for (database, _) in DATABASES {
        scene.database(database, &format!("data/{database}.db"), LINES);
    }
    let mut writers = writers();
    writers.iter_mut().for_each(|writer| writer.start(&scene));
    let mut daemon = scene.daemon();
    let (until, mut restarts, mut kills) = (Instant::now() + Duration::from_secs(seconds), 0, 0);
    while Instant::now() < until {
        std::thread::sleep(Duration::from_millis(500));
        let at = dice.below(writers.len());
        let writer = &mut writers[at];
        let program = writer.program.take().unwrap();
        if dice.below(3) == 0 {
            kills += 1;
            program.kill();
        } else {
            restarts += 1;
            assert!(program.finish().success(), "{} did not end in order", writer.log);
        }
        writer.start(&scene);
        let seen = incidents(&daemon);
        assert!(seen.is_empty(), "after {restarts} restarts and {kills} kills: {seen:#?}");
        assert!(daemon.ended().is_none(), "the daemon ended");
    }
    // One more look at each, and none of these finds anything either.
    DATABASES.iter().for_each(|(database, _)| daemon.caught_up_with_looks(database));
    let seen = incidents(&daemon);
    assert!(seen.is_empty(), "{seen:#?}");
    let mut checks = 0.0;
    for (database, _) in DATABASES {
        let count = |verdict: &str| {
            daemon.metric(&format!(
                "guardian_checks_total{{mode=\"database\",target=\"{database}\",verdict=\"{verdict}\"}}"
            ))
        };
        let (healthy, unhealthy, unknown) = (count("healthy"), count("unhealthy"), count("unknown"));
        println!("{database}: {healthy} healthy, {unhealthy} unhealthy, {unknown} unknown");
        assert!(healthy > unhealthy + unknown, "{database}: it is hardly ever healthy");
        checks += healthy + unhealthy + unknown;
        let backups = daemon.metric(&format!("guardian_backups_total{{outcome=\"ok\",target=\"{database}\"}}"));
        let failed = daemon.metric(&format!("guardian_backups_total{{outcome=\"failed\",target=\"{database}\"}}"));
        println!("{database}: {backups} backups, {failed} failed");
    }
    assert_eq!(daemon.metric("guardian_worker_restarts_total{reason=\"crash\"}"), 0.0);
    println!("{seconds} s, {restarts} restarts, {kills} kills, {checks} checks, 0 incidents");
    for writer in &mut writers {
        assert!(writer.program.take().unwrap().finish().success());
    }
    assert!(daemon.stop().success());
    for writer in &writers {
        let db = scene.path(&format!("data/{}.db", writer.database));
        let (content, promised) = (Content::of(&db), crate::support::truth::promised(&scene.path(&writer.log)));
        assert_eq!(content.integrity, "ok");
        let lost = promised.difference(&content.commits).collect::<Vec<_>>();
        assert!(lost.is_empty(), "{}: commits are lost of {}: {lost:?}", writer.log, promised.len());
    }
}
