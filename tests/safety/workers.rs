//! What takes a worker down takes down nothing else.

use crate::support::daemon::Daemon;
use crate::support::scene::Scene;

const ENDLESS: &str =
    "canary = \"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n\"";

/// Doubles what it holds until there is no more.
const HUNGRY: &str = "canary = \"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) \
                      SELECT group_concat(hex(zeroblob(10000000))) FROM n\"";

fn scene(lines: &str) -> Scene {
    let mut scene = Scene::of("");
    scene.database("odd", "data/odd.db", lines);
    scene.commit("wal", 5, &[]);
    scene.writer_of(&scene.path("data/odd.db"), "wal", "5", &[]).finish();
    scene
}

fn looks(daemon: &Daemon) -> u64 {
    daemon.target("app").map_or(0, |target| target["total_checks"].as_u64().unwrap())
}

fn wait_for_looks(daemon: &mut Daemon, more: u64) {
    let until = looks(daemon) + more;
    daemon.wait_for("the other target to be looked at", |daemon| (looks(daemon) >= until).then_some(()));
    assert_eq!(daemon.target("app").unwrap()["last_check"]["verdict"], "healthy");
}

/// The daemon's children, by the kernel's table.
fn children(daemon: &Daemon) -> Vec<i32> {
    let of = |entry: std::fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse::<i32>().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<u32>().ok()?;
        (parent == daemon.pid()).then_some(pid)
    };
    std::fs::read_dir("/proc").unwrap().filter_map(|entry| of(entry.ok()?)).collect()
}

#[test]
fn a_canary_that_never_ends_is_a_finding_and_the_others_go_on() {
    let scene = scene(ENDLESS);
    let mut daemon = scene.daemon();
    let incident = daemon.incident("odd", 1, "open", |_| true);
    assert_eq!(incident["kind"], "db_connection_failed", "{incident:#}");
    wait_for_looks(&mut daemon, 3);
    assert!(daemon.incidents("app").is_empty());
    assert!(daemon.stop().success());
}

/// Whole copies of databases would fill the disk up: who was killed could not delete its own.
#[test]
fn what_killed_workers_left_goes_at_the_start_and_after_a_kill() {
    let scene = scene("");
    let left_by = |pid: u32| {
        let folder = scene.path(&format!("state/scratch/probe-{pid}-abc"));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("copy.db"), "x").unwrap();
        folder
    };
    let mut dead = std::process::Command::new("true").spawn().unwrap();
    dead.wait().unwrap();
    let (left, living) = (left_by(dead.id()), left_by(std::process::id()));
    let mut daemon = scene.daemon();
    daemon.wait_for("the copy of a dead worker to go", |_| (!left.exists()).then_some(()));
    let later = left_by(dead.id());
    daemon.wait_for("a worker to be killed in the middle", |daemon| {
        let worker = children(daemon).into_iter().find_map(rustix::process::Pid::from_raw)?;
        rustix::process::kill_process(worker, rustix::process::Signal::KILL).ok()?;
        (!later.exists()).then_some(())
    });
    assert!(living.join("copy.db").exists(), "that of a living process is its own");
    assert!(daemon.stop().success());
}

#[test]
fn a_canary_that_eats_memory_is_a_finding_and_the_others_go_on() {
    let scene = scene(HUNGRY);
    let mut daemon = scene.daemon();
    let incident = daemon.incident("odd", 1, "open", |_| true);
    let kind = incident["kind"].as_str().unwrap();
    assert!(["db_query_failed", "db_connection_failed"].contains(&kind), "{incident:#}");
    wait_for_looks(&mut daemon, 3);
    assert!(daemon.incidents("app").is_empty());
    let resident = daemon.metric("process_resident_memory_bytes");
    assert!(resident < 100e6, "the supervisor itself holds {resident} bytes");
    assert!(daemon.stop().success());
}

#[test]
fn a_worker_that_is_killed_in_the_middle_is_only_one_look_less() {
    let scene = scene(ENDLESS);
    let mut daemon = scene.launch(&[]);
    let mut killed = 0;
    while killed < 3 {
        let worker = daemon.wait_for("a worker", |daemon| children(daemon).first().copied());
        // It may have ended by itself meanwhile.
        if let Some(pid) = rustix::process::Pid::from_raw(worker)
            && rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_ok()
        {
            killed += 1;
        }
        daemon.wait_for("the worker to be gone", |daemon| (!children(daemon).contains(&worker)).then_some(()));
    }
    let mut daemon = daemon.ready();
    wait_for_looks(&mut daemon, 3);
    assert!(daemon.metric("guardian_worker_restarts_total{reason=\"crash\"}") >= 1.0);
    assert!(daemon.incidents("app").is_empty(), "a crash of ours was taken for a fault of the database");
    assert!(daemon.stop().success());
}

#[test]
fn garbage_on_a_workers_input_ends_it_with_status_1() {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    for garbage in ["garbage\n", "{}\n", "{\"id\":1,\"job\":{\"dance\":{}}}\n", "\u{0}\u{0}\n", "[[[[[[[["] {
        let mut worker = Command::new(env!("CARGO_BIN_EXE_guardiand"))
            .arg("worker")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        worker.stdin.take().unwrap().write_all(garbage.as_bytes()).unwrap();
        let output = worker.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{garbage:?}: {said}");
        assert!(!said.is_empty() && !said.contains("panicked"), "{garbage:?}: {said}");
    }
}
