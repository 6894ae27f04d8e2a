//! What becomes of children that hang, die, or want too much, and of the jobs beside theirs.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use guardian::job::{Client, FailureKind, Job, Outcome, Reply, Request, WorkerEvents, line};
use guardian::model::{FaultClass, RestartReason};

use super::support::{Host, PATIENCE, options};

#[derive(Default)]
struct Heard(Mutex<Vec<RestartReason>>);

impl Heard {
    fn reasons(&self) -> Vec<RestartReason> {
        self.0.lock().unwrap().clone()
    }
}

impl WorkerEvents for Heard {
    fn restarted(&self, reason: RestartReason, detail: &str) {
        assert!(!detail.is_empty());
        self.0.lock().unwrap().push(reason);
    }
    fn said(&self, pid: u32, line: &str) {
        println!("worker {pid}: {line}");
    }
    fn abandoned(&self, _pid: u32, _now: usize) {}
    fn returned(&self, _pid: u32, _now: usize) {}
}

fn client() -> (Client, Arc<Heard>) {
    let heard = Arc::new(Heard::default());
    let mut options = options();
    options.events = heard.clone();
    (Client::new(options), heard)
}

/// A canary that neither ends nor lets SQLite look at its deadline soon: the deadline is an hour.
fn endless(host: &Host, name: &str) -> Job {
    let mut probe = host.probe(&host.database(name, "delete"));
    probe.site.busy_ms = 3_600_000;
    probe.canary = Some("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) SELECT max(i) FROM n".into());
    Job::Probe(Box::new(probe))
}

fn sound(host: &Host, name: &str) -> Job {
    Job::Probe(Box::new(host.probe(&host.database(name, "delete"))))
}

async fn collect(client: &Client, jobs: Vec<(u64, Job, Duration)>) -> Vec<(u64, Result<Outcome, FailureKind>)> {
    let mut answers = client.probe_batch(jobs);
    let mut all = Vec::new();
    while let Some((id, answer)) = answers.recv().await {
        all.push((id, answer.map_err(|failure| failure.kind)));
    }
    all.sort_by_key(|(id, _)| *id);
    all
}

#[tokio::test(flavor = "current_thread")]
async fn a_job_that_hangs_is_killed_at_its_deadline() {
    let host = Host::new();
    let (client, heard) = client();
    let job = endless(&host, "a.db");
    let before = host.content();
    let failure = client.run(job, Duration::from_millis(300)).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Deadline);
    assert_eq!(heard.reasons(), [RestartReason::Deadline]);
    assert_eq!(host.content(), before);
    assert_eq!(client.abandoned(), 0);
}

#[tokio::test(flavor = "current_thread")]
async fn a_batch_with_one_culprit_in_the_middle_answers_all_the_others() {
    let host = Host::new();
    let (client, heard) = client();
    let jobs = (0..9).map(|n| match n {
        4 => (n, endless(&host, "4.db"), Duration::from_millis(300)),
        _ => (n, sound(&host, &format!("{n}.db")), PATIENCE),
    });
    let answers = collect(&client, jobs.collect()).await;
    assert_eq!(answers.iter().map(|(id, _)| *id).collect::<Vec<_>>(), (0..9).collect::<Vec<_>>());
    for (id, answer) in answers {
        match answer {
            Ok(Outcome::Probed(facts)) => assert!(id != 4 && facts.open.unwrap().is_ok()),
            Err(kind) => assert_eq!((id, kind), (4, FailureKind::Deadline)),
            Ok(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(heard.reasons(), [RestartReason::Deadline]);
}

#[tokio::test(flavor = "current_thread")]
async fn a_batch_of_many_culprits_still_answers_every_job_once() {
    let host = Host::new();
    let (client, heard) = client();
    let jobs = (0..8).map(|n| match n % 2 {
        0 => (n, sound(&host, &format!("{n}.db")), PATIENCE),
        _ => (n, endless(&host, &format!("{n}.db")), Duration::from_millis(300)),
    });
    let answers = collect(&client, jobs.collect()).await;
    let sound: Vec<_> = answers.iter().map(|(id, answer)| (*id, answer.is_ok())).collect();
    assert_eq!(sound, (0..8).map(|n| (n, n % 2 == 0)).collect::<Vec<_>>());
    assert_eq!(heard.reasons(), [RestartReason::Deadline; 4]);
}

/// The children of this process that are workers now.
fn workers() -> Vec<i32> {
    let own = std::process::id().to_string();
    let parent_of = |pid: &str| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1).map(str::to_owned)
    };
    let pids = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    pids.filter(|pid| parent_of(pid).as_ref() == Some(&own)).filter_map(|pid| pid.parse().ok()).collect()
}

/// The ticks of CPU that each worker has had.
fn ticks() -> BTreeMap<i32, u64> {
    let of = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(11)?.parse().ok()
    };
    workers().into_iter().filter_map(|pid| Some((pid, of(&pid)?))).collect()
}

/// Ten ticks since `before`: more than it takes to begin the next job, however slow the machine has been until then.
fn kill_the_busy_worker(before: &BTreeMap<i32, u64>) {
    loop {
        let busy = |(pid, ticks): &(i32, u64)| *ticks >= before.get(pid).unwrap_or(&0) + 10;
        if let Some((pid, _)) = ticks().into_iter().find(busy) {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            return rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
    }
}

#[test]
fn a_child_that_is_killed_from_outside_is_a_crash_of_its_job_alone() {
    // In a process of its own, so that the child to kill cannot be another test's.
    const MARK: &str = "GUARDIAND_TEST_KILLS_ITS_CHILD";
    if std::env::var_os(MARK).is_none() {
        let own = std::env::current_exe().unwrap();
        let name = "children::a_child_that_is_killed_from_outside_is_a_crash_of_its_job_alone";
        let status = Command::new(own).args(["--exact", name, "--nocapture"]).env(MARK, "1").status().unwrap();
        assert!(status.success());
        return;
    }
    let host = Host::new();
    let (client, heard) = client();
    let jobs = vec![
        (0, sound(&host, "0.db"), PATIENCE),
        (1, endless(&host, "1.db"), PATIENCE),
        (2, sound(&host, "2.db"), PATIENCE),
    ];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answers = runtime.block_on(async {
        let mut answers = client.probe_batch(jobs);
        let first = answers.recv().await.unwrap();
        // The first is answered and the second never is: once the child works again, it works on the second. Apart from the
        // runtime's thread, which is still feeding the child.
        let before = ticks();
        tokio::task::spawn_blocking(move || kill_the_busy_worker(&before)).await.unwrap();
        let mut all = vec![first];
        while let Some(answer) = answers.recv().await {
            all.push(answer);
        }
        all
    });
    let kinds: Vec<_> =
        answers.into_iter().map(|(id, answer)| (id, answer.map(drop).map_err(|why| why.kind))).collect();
    assert_eq!(kinds, [(0, Ok(())), (1, Err(FailureKind::Crashed)), (2, Ok(()))]);
    assert_eq!(heard.reasons(), [RestartReason::Crash]);
}

#[tokio::test(flavor = "current_thread")]
async fn a_job_that_wants_more_memory_than_its_limit_fails_alone() {
    let host = Host::new();
    let mut options = options();
    options.memory = 256 << 20;
    let client = Client::new(options);
    let mut probe = host.probe(&host.database("hungry.db", "delete"));
    probe.site.busy_ms = 3_600_000;
    // Four hundred million bytes, twice; SQLite's own bound on a value is a thousand million.
    probe.canary = Some("SELECT length(replace(hex(zeroblob(200000000)), '0', '11'))".into());
    let jobs = vec![(0, Job::Probe(Box::new(probe)), PATIENCE), (1, sound(&host, "sound.db"), PATIENCE)];
    let answers = collect(&client, jobs).await;
    match &answers[0].1 {
        Ok(Outcome::Probed(facts)) => {
            assert_eq!(facts.query.as_ref().unwrap().as_ref().unwrap_err().class, FaultClass::NoMemory);
        }
        Err(kind) => assert_eq!(*kind, FailureKind::Crashed),
        Ok(other) => panic!("{other:?}"),
    }
    assert!(answers[1].1.is_ok());
}

#[tokio::test(flavor = "current_thread")]
async fn a_child_that_cannot_live_within_its_memory_is_a_crash_that_is_told() {
    let host = Host::new();
    let (_, heard) = client();
    let mut options = options();
    (options.memory, options.events) = (32 << 20, heard.clone());
    let client = Client::new(options);
    // A request that alone is half of what the child may have, and is copied as it grows.
    let mut probe = host.probe(&host.database("a.db", "delete"));
    probe.canary = Some("x".repeat(15 << 20));
    let hungry = Job::Probe(Box::new(probe));
    let failure = client.run(hungry.clone(), PATIENCE).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Crashed, "{failure}");
    let jobs = vec![(0, hungry.clone(), PATIENCE), (1, sound(&host, "1.db"), PATIENCE), (2, hungry, PATIENCE)];
    let answers = collect(&client, jobs).await;
    let sound: Vec<_> = answers.iter().map(|(id, answer)| (*id, answer.is_ok())).collect();
    assert_eq!(sound, [(0, false), (1, true), (2, false)], "{answers:?}");
    assert!(heard.reasons().iter().all(|reason| *reason == RestartReason::Crash), "{:?}", heard.reasons());
}

#[tokio::test(flavor = "current_thread")]
async fn a_program_that_is_no_worker_is_a_failure_that_names_it() {
    let mut options = options();
    options.program = "/nonexistent/guardiand".into();
    let job = || Job::Expand { pattern: "/*".into(), exclude: Vec::new(), max: 1, state_dir: "/s".into(), kept: None };
    let failure = Client::new(options.clone()).run(job(), PATIENCE).await.unwrap_err();
    assert!(failure.message.contains("/nonexistent/guardiand"), "{failure}");
    options.program = "/bin/echo".into();
    let failure = Client::new(options).run(job(), PATIENCE).await.unwrap_err();
    assert!(failure.kind == FailureKind::Crashed && failure.message.contains("worker 1"), "{failure}");
}

#[test]
fn the_protocol_is_one_line_each_way_and_ends_with_the_input() {
    let host = Host::new();
    let mut child = Command::new(env!("CARGO_BIN_EXE_guardiand"))
        .arg("worker")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    for id in [7, 9] {
        line::write(&mut stdin, &Request::Job { id, job: sound(&host, &format!("{id}.db")) }).unwrap();
    }
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let mut from = output.stdout.as_slice();
    let mut ids = Vec::new();
    while let Some(reply) = line::read::<Reply>(&mut from).unwrap() {
        ids.push(match reply {
            Reply::Started { id } => ("started", id),
            Reply::Done { id, result } => (if result.is_ok() { "done" } else { "failed" }, id),
        });
    }
    assert_eq!(ids, [("started", 7), ("done", 7), ("started", 9), ("done", 9)]);
}

#[test]
fn garbage_on_its_input_ends_a_worker_without_a_panic() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_guardiand"))
        .arg("worker")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"{\"id\":1,\"job\":\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("not a line of the protocol") && !said.contains("panicked"), "{said}");
}

#[tokio::test(flavor = "current_thread")]
async fn a_batch_larger_than_any_pipe_does_not_block_itself() {
    let host = Host::new();
    let path = host.database("a.db", "delete");
    let (client, heard) = client();
    let mut probe = host.probe(&path);
    probe.canary = Some(format!("SELECT '{}'", "x".repeat(4000)));
    let jobs = (0..500).map(|n| (n, Job::Probe(Box::new(probe.clone())), PATIENCE)).collect();
    let answers = collect(&client, jobs).await;
    assert_eq!(answers.len(), 500);
    assert!(answers.iter().all(|(_, answer)| answer.is_ok()));
    assert!(heard.reasons().is_empty());
}
