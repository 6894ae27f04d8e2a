//! The supervisor's own process never opens a supervised file (POSIX locks: SQLITE.md, section 6). strace sees it.

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};

use crate::support::command::guardiand;
use crate::support::daemon::PATIENCE;
use crate::support::scene::Scene;

struct Traced(Child);

impl Drop for Traced {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn only_children_open_a_supervised_file() {
    if Command::new("strace").arg("--version").stdout(Stdio::null()).status().is_err() {
        return println!("skipped: needs strace");
    }
    let scene = Scene::of("backup = { every = \"1h\" }");
    scene.writer("wal", "20", &["--no-checkpoint", "--die"]).ended();
    let config = scene.write_config();
    let trace = scene.path("trace");
    let strace = Command::new("strace")
        .args(["-f", "-qq", "-s", "4096", "-e", "trace=open,openat,openat2,creat,execve", "-o"])
        .arg(&trace)
        .arg(env!("CARGO_BIN_EXE_guardiand"))
        .arg("--config")
        .arg(&config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut traced = Traced(strace.unwrap());
    let asked = |arguments: &[&str]| {
        let mut all = vec!["--config", "guardian.toml", "--json"];
        all.extend(arguments);
        guardiand(&scene.path(""), &all)
    };
    let wait_for = |what: &str, seen: &dyn Fn() -> bool| {
        let until = std::time::Instant::now() + PATIENCE;
        while !seen() {
            if std::time::Instant::now() > until {
                panic!("waited in vain for {what}; status: {:?}", asked(&["status"]));
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    };
    let target = || asked(&["status"]).json()["targets"][0].clone();
    let status = asked(&["status"]);
    let refused = status.status != 0 && traced.0.try_wait().unwrap().is_some();
    if refused {
        return println!("skipped: needs the right to trace");
    }
    wait_for("a backup", &|| target()["last_backup_at"].is_string());
    // Every way in: sweeps, a look and a heal that were asked for, a backup, a fault and its heal, a reload.
    assert_eq!(asked(&["heal", "app"]).json_of(0)["outcome"], "healthy");
    asked(&["backup", "app"]).json_of(0);
    std::fs::remove_file(scene.db()).unwrap();
    wait_for("the heal", &|| {
        let incidents = asked(&["incidents"]).json();
        incidents["incidents"][0]["state"] == "closed" && target()["state"] == "healthy"
    });
    asked(&["reload"]).json_of(0);
    let looks = || target()["total_checks"].as_u64().unwrap_or(0);
    let before = looks();
    wait_for("another look", &|| looks() > before);

    // The daemon, not strace: strace would take it along, but not let it end in order.
    let pid = std::fs::read_to_string(scene.path("state/lock")).unwrap().lines().next().unwrap().parse().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::TERM).unwrap();
    assert!(traced.0.wait().unwrap().success());
    assert_only_workers_open(&std::fs::read_to_string(&trace).unwrap());
}

/// A worker is what was executed as one; all other lines are the supervisor's, whichever of its threads it was.
fn assert_only_workers_open(trace: &str) {
    let mut workers = BTreeSet::new();
    let mut opened_by_workers = 0;
    for line in trace.lines() {
        let Some((pid, call)) = line.split_once(char::is_whitespace) else { continue };
        let call = call.trim_start();
        if call.starts_with("execve(") && call.contains("\"worker\"") {
            workers.insert(pid);
            continue;
        }
        let opens = call.starts_with("open") || call.starts_with("creat");
        let supervised =
            ["", "-wal", "-shm", "-journal"].iter().any(|suffix| call.contains(&format!("app.db{suffix}\"")));
        // An O_PATH descriptor opens nothing: closing it drops no lock (open(2)).
        if !opens || !supervised || call.contains("O_PATH") {
            continue;
        }
        assert!(workers.contains(pid), "the supervisor opened a supervised file: {line}");
        opened_by_workers += 1;
    }
    assert!(workers.len() > 3, "the trace saw {} workers", workers.len());
    assert!(opened_by_workers > 3, "the trace saw {opened_by_workers} opens");
}
