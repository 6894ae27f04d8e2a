//! The child that is kept between sweeps: asked again while it is sound, replaced when it is not, and never behind the times.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use guardian::job::{Client, ClientOptions, DatabaseFacts, DatabaseProbe, FileState, Job, Outcome, WorkerEvents};
use guardian::model::RestartReason;
use rustix::process::{Pid, Signal, kill_process};

use super::support::{Host, PATIENCE, options};

#[derive(Default)]
struct Heard(Mutex<Vec<RestartReason>>);

impl WorkerEvents for Heard {
    fn restarted(&self, reason: RestartReason, detail: &str) {
        println!("{reason:?}: {detail}");
        self.0.lock().unwrap().push(reason);
    }
    fn said(&self, pid: u32, line: &str) {
        println!("worker {pid}: {line}");
    }
    fn abandoned(&self, _pid: u32, _now: usize) {}
    fn returned(&self, _pid: u32, _now: usize) {}
}

/// A client whose children write down their pids as they start.
struct Watched {
    client: Client,
    heard: Arc<Heard>,
    starts: PathBuf,
    _folder: tempfile::TempDir,
}

impl Watched {
    fn new(change: impl FnOnce(&mut ClientOptions)) -> Watched {
        let folder = tempfile::tempdir().unwrap();
        let (program, starts) = (folder.path().join("guardiand"), folder.path().join("starts"));
        let own = options().program;
        let text = format!("#!/bin/sh\necho $$ >> '{}'\nexec '{}' \"$@\"\n", starts.display(), own.display());
        write_program(&program, &text);
        let heard = Arc::new(Heard::default());
        let mut options = ClientOptions { program, events: heard.clone(), ..options() };
        change(&mut options);
        Watched { client: Client::new(options), heard, starts, _folder: folder }
    }

    /// Every child that was started, in order.
    fn pids(&self) -> Vec<Pid> {
        let text = std::fs::read_to_string(&self.starts).unwrap_or_default();
        text.lines().map(|line| Pid::from_raw(line.parse().unwrap()).unwrap()).collect()
    }

    fn last(&self) -> Pid {
        *self.pids().last().unwrap()
    }

    fn reasons(&self) -> Vec<RestartReason> {
        self.heard.0.lock().unwrap().clone()
    }

    async fn look(&self, probe: &DatabaseProbe) -> DatabaseFacts {
        let job = Job::Probe(Box::new(probe.clone()));
        let mut answers = self.client.probe_batch(vec![(0, job, PATIENCE)]);
        let answer = answers.recv().await.unwrap().1;
        assert!(answers.recv().await.is_none());
        match answer.unwrap() {
            Outcome::Probed(facts) => *facts,
            other => panic!("{other:?}"),
        }
    }

    /// A probe of a database that is taken for unchanged, and the child that was kept after it.
    async fn settled(&self, host: &Host, path: &Path) -> (DatabaseProbe, Pid) {
        let mut probe = host.probe(path);
        let began = Instant::now();
        // A file that was written just now is looked at in full, for its time stamp could not tell a further write.
        while !self.look(&probe).await.unchanged {
            assert!(began.elapsed() < PATIENCE, "it never came to rest");
            let facts = self.look(&host.probe(path)).await;
            probe.known = facts.fingerprint.clone();
            probe.known_way = facts.place.way;
            probe.last_healthy = facts.fingerprint;
        }
        (probe, self.last())
    }
}

/// Written by another process: a child that another test is starting just then would have our descriptor until it is another
/// program, and what anybody has open for writing cannot be run (ETXTBSY).
fn write_program(path: &Path, text: &str) {
    let mut shell = Command::new("sh");
    shell.args(["-c", "cat > \"$0\" && chmod 755 \"$0\""]).arg(path).stdin(Stdio::piped());
    let mut shell = shell.spawn().unwrap();
    shell.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(shell.wait().unwrap().success());
}

fn exists(pid: Pid) -> bool {
    Path::new(&format!("/proc/{}", pid.as_raw_nonzero())).exists()
}

/// Until the process is gone and reaped.
async fn is_gone(pid: Pid) {
    let began = Instant::now();
    while exists(pid) {
        assert!(began.elapsed() < PATIENCE, "{pid:?} is still there");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "current_thread")]
async fn one_child_serves_sweep_after_sweep_and_holds_nothing_in_between() {
    let (host, watched) = (Host::new(), Watched::new(|_| {}));
    let (probe, child) = watched.settled(&host, &host.database("t.db", "wal")).await;
    let started = watched.pids().len();
    for _ in 0..5 {
        assert!(watched.look(&probe).await.unchanged);
        let descriptors = std::fs::read_dir(format!("/proc/{}/fd", child.as_raw_nonzero())).unwrap();
        let open: Vec<_> = descriptors.map(|entry| std::fs::read_link(entry.unwrap().path()).unwrap()).collect();
        // Pipes, and what the program that runs the tests left open in all its children.
        let held = |path: &&PathBuf| path.starts_with(host.folder.path()) || path.starts_with("/proc");
        assert_eq!(open.iter().find(held), None);
    }
    assert_eq!((watched.pids().len(), watched.last()), (started, child));
    assert_eq!(watched.reasons(), []);
}

#[tokio::test(flavor = "current_thread")]
async fn a_child_that_opened_a_database_is_not_kept() {
    let (host, watched) = (Host::new(), Watched::new(|_| {}));
    let (probe, child) = watched.settled(&host, &host.database("t.db", "delete")).await;
    assert!(!watched.look(&host.probe(&probe.site.path)).await.unchanged);
    is_gone(child).await;
    assert!(watched.look(&probe).await.unchanged);
    assert_ne!(watched.last(), child);
    assert_eq!(watched.reasons(), []);
}

#[tokio::test(flavor = "current_thread")]
async fn a_kept_child_that_is_killed_is_replaced_and_nothing_is_made_of_it() {
    let (host, watched) = (Host::new(), Watched::new(|_| {}));
    let (probe, child) = watched.settled(&host, &host.database("t.db", "delete")).await;
    // Once with time to notice its end, and once just before the next batch.
    kill_process(child, Signal::KILL).unwrap();
    is_gone(child).await;
    assert!(watched.look(&probe).await.unchanged);
    let second = watched.last();
    assert_ne!(second, child);
    kill_process(second, Signal::KILL).unwrap();
    assert!(watched.look(&probe).await.unchanged);
    assert!(![child, second].contains(&watched.last()));
    assert_eq!(watched.reasons(), []);
}

#[tokio::test(flavor = "current_thread")]
async fn a_kept_child_that_stands_still_is_killed_and_another_answers() {
    let (host, watched) = (Host::new(), Watched::new(|options| options.standstill = Duration::from_secs(3)));
    let (probe, child) = watched.settled(&host, &host.database("t.db", "delete")).await;
    let before = watched.reasons().len();
    kill_process(child, Signal::STOP).unwrap();
    assert!(watched.look(&probe).await.unchanged);
    assert_ne!(watched.last(), child);
    assert!(watched.reasons()[before..].starts_with(&[RestartReason::Idle]), "{:?}", watched.reasons());
    assert!(!exists(child));
}

#[tokio::test(flavor = "current_thread")]
async fn a_job_that_hangs_in_the_kept_child_is_killed_with_it() {
    let (host, watched) = (Host::new(), Watched::new(|_| {}));
    let (probe, child) = watched.settled(&host, &host.database("t.db", "delete")).await;
    let mut endless = host.probe(&probe.site.path);
    endless.site.busy_ms = 3_600_000;
    endless.canary = Some("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) SELECT max(i) FROM n".into());
    let jobs = vec![
        (0, Job::Probe(Box::new(probe.clone())), PATIENCE),
        (1, Job::Probe(Box::new(endless)), Duration::from_millis(300)),
        (2, Job::Probe(Box::new(probe.clone())), PATIENCE),
    ];
    let mut answers = watched.client.probe_batch(jobs);
    let mut sound = Vec::new();
    while let Some((id, answer)) = answers.recv().await {
        sound.push((id, answer.is_ok()));
    }
    assert_eq!(sound, [(0, true), (1, false), (2, true)]);
    assert_eq!(watched.reasons(), [RestartReason::Deadline]);
    assert!(!exists(child), "the culprit was asked in the kept child");
    assert!(watched.look(&probe).await.unchanged);
}

#[tokio::test(flavor = "current_thread")]
async fn a_lock_that_was_taken_between_two_sweeps_is_seen_by_the_child_that_was_kept() {
    let (host, watched) = (Host::new(), Watched::new(|_| {}));
    let path = host.database("t.db", "delete");
    let (probe, child) = watched.settled(&host, &path).await;
    let started = watched.pids().len();
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute_batch("BEGIN IMMEDIATE").unwrap();
    let facts = watched.look(&probe).await;
    let held: Vec<_> = facts.locks.iter().map(|lock| lock.lock.as_str()).collect();
    assert!(!facts.unchanged && held.contains(&"RESERVED"), "{held:?}");
    assert_eq!((watched.pids().len(), watched.last()), (started, child));
    db.execute_batch("ROLLBACK").unwrap();
    assert!(watched.look(&probe).await.unchanged, "and so is that it was released");
}

#[tokio::test(flavor = "current_thread")]
async fn a_kept_child_is_let_go_in_time_and_goes_with_its_client() {
    let host = Host::new();
    let path = host.database("t.db", "delete");
    let brief = Watched::new(|options| options.keep = Duration::from_secs(2));
    let (_, child) = brief.settled(&host, &path).await;
    is_gone(child).await;
    assert_eq!(brief.reasons(), []);

    let watched = Watched::new(|_| {});
    let (_, child) = watched.settled(&host, &path).await;
    assert!(exists(child));
    drop(watched);
    is_gone(child).await;
}

#[tokio::test(flavor = "current_thread")]
async fn root_an_unmount_between_two_sweeps_is_seen_by_the_child_that_was_kept() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let (host, watched) = (Host::new(), Watched::new(|_| {}));
    let point = host.path("mnt");
    std::fs::create_dir(&point).unwrap();
    let mount = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&point).status();
    if !mount.is_ok_and(|status| status.success()) {
        println!("skipped: needs root that may mount");
        return;
    }
    let (probe, child) = watched.settled(&host, &host.database("mnt/t.db", "delete")).await;
    let started = watched.pids().len();
    let mounted = watched.look(&probe).await.place;
    assert_eq!((mounted.fs_type.as_str(), mounted.volatile), ("tmpfs", true));
    let unmounted = Command::new("umount").arg(&point).status().unwrap();
    assert!(unmounted.success(), "a kept child keeps no file system busy");
    let facts = watched.look(&probe).await;
    assert!(!facts.unchanged && facts.main == FileState::Missing);
    assert!(facts.place.fs_id != mounted.fs_id && facts.place.fs_type != mounted.fs_type, "{:?}", facts.place);
    assert_eq!((watched.pids().len(), watched.last()), (started, child));
}
