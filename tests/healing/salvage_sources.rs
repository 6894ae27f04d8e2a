//! What `guardiand salvage` reads: an incident's evidence, and never what is no file.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::fs::{CWD, FileType, mknodat};

use super::support::command::guardiand;
use super::support::daemon::PATIENCE;
use super::support::damage::{self, Dice};
use super::support::guardiand as guardiand_binary;
use super::support::scene::Scene;
use super::support::truth;
use super::support::truth::beside;

/// A lossy heal keeps the files as they were. What was committed after the backup and stands on sound pages is in them.
#[test]
fn the_newest_evidence_of_an_incident_is_salvaged() {
    let scene = Scene::of("backup = { every = \"24h\", to = \"backups\" }");
    scene.commit("wal", 200, &["--rows-per-commit", "5"]);
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    scene.commit("wal", 30, &[]);
    daemon.caught_up("app");
    let bytes = damage::leaf(&scene.db(), "rows", &mut Dice::new());
    let incident = daemon.closed("app", 1);
    assert!(daemon.stop().success());

    let evidence = PathBuf::from(incident["evidence"].as_str().unwrap());
    let promised = truth::promised(&scene.log_of(&scene.db()));
    assert_eq!(promised.len(), 230);
    let salvage = |to: &str| {
        let to = scene.path(to);
        let ran = guardiand(&scene.path(""), &["salvage".as_ref(), evidence.as_os_str(), to.as_os_str()]);
        assert_eq!(ran.status, 1, "{ran:#?}");
        assert_eq!(truth::commits_of(&to), promised, "every commit is in a row that was not hit");
    };
    salvage("first.db");
    assert_eq!(fs::read(evidence.join("main")).unwrap(), bytes.to_vec(), "evidence was changed");

    // A later preservation of the same incident is what counts.
    fs::create_dir(evidence.join("2")).unwrap();
    for entry in fs::read_dir(&evidence).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
        fs::copy(entry.path(), evidence.join("2").join(entry.file_name())).unwrap();
    }
    fs::write(evidence.join("main"), b"nothing of a database").unwrap();
    salvage("second.db");
}

#[test]
fn what_is_no_file_is_refused_and_keeps_nobody_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let fifo = |name: &str| mknodat(CWD, at(name), FileType::Fifo, 0o600.into(), 0).unwrap();
    fifo("pipe");
    rusqlite::Connection::open(at("app.db")).unwrap().execute_batch("CREATE TABLE t(a)").unwrap();
    fs::create_dir(at("folder")).unwrap();
    // A command that waits for a writer would be stopped by the test's own patience.
    let refused = |source: &str, why: &str| {
        let ran = guardiand(folder.path(), &["salvage", source, "new.db"]);
        assert_eq!(ran.status, 1, "{ran:#?}");
        assert!(ran.stderr.contains(why), "{ran:#?}");
        assert!(!at("new.db").exists());
    };
    refused("pipe", "no regular file");
    refused("folder", "no incident's evidence");
    refused("nothing", "not there");
    for side in ["-wal", "-journal"] {
        let name = beside(&PathBuf::from("app.db"), side);
        fifo(name.to_str().unwrap());
        refused("app.db", "no regular file");
        fs::remove_file(at(name.to_str().unwrap())).unwrap();
    }
}

/// What it had made so far is of no use to anybody, and may be as large as the database.
#[test]
fn a_salvage_that_is_stopped_leaves_nothing_beside_its_destination() {
    let scene = Scene::of("");
    scene.commit("delete", 60, &["--rows-per-commit", "500", "--row-bytes", "1000"]);
    let bytes = damage::leaf(&scene.db(), "rows", &mut Dice::new());
    fs::create_dir(scene.path("to")).unwrap();
    // Of one that was killed outright.
    let mut dead = Command::new("true").spawn().unwrap();
    dead.wait().unwrap();
    fs::write(scene.path(&format!("to/.guardiand-salvage-{}.new", dead.id())), "x").unwrap();
    let stopped = Command::new(guardiand_binary())
        .args([OsStr::new("salvage"), scene.db().as_os_str(), scene.path("to/new.db").as_os_str()])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let old = format!(".guardiand-salvage-{}.new", dead.id());
    let until = Instant::now() + PATIENCE;
    while !truth::names(&scene.path("to")).iter().any(|name| name.starts_with(".guardiand-salvage-") && *name != old) {
        assert!(Instant::now() < until && !scene.path("to/new.db").exists(), "it was never seen at work");
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&stopped), rustix::process::Signal::TERM).unwrap();
    let ended = stopped.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("stopped by SIGTERM"), "{said}");
    assert!(truth::names(&scene.path("to")).is_empty(), "{:?}", truth::names(&scene.path("to")));
    assert_eq!(fs::read(scene.db()).unwrap(), bytes.to_vec(), "the source was changed");
}

/// A hole costs nothing on the disk, and 32 bytes of memory for each of its pages.
#[test]
fn a_file_of_more_pages_than_memory_has_room_for_is_refused() {
    let scene = Scene::of("");
    scene.commit("delete", 20, &[]);
    fs::File::options().write(true).open(scene.db()).unwrap().set_len(1 << 40).unwrap();
    let ran = guardiand(&scene.path(""), &["salvage", scene.db().to_str().unwrap(), "new.db"]);
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("268435456 pages") && ran.stderr.contains("too much memory"), "{}", ran.stderr);
    assert!(!scene.path("new.db").exists());
}
