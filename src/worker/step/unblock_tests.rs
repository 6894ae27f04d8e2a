//! The steps that unblock, where nothing is as the plan saw it.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use rustix::process::{Pid, Signal, WaitOptions, getuid, kill_process, waitpid};

use super::*;
use crate::host::ProcessFacts;
use crate::job::DatabaseSite;
use crate::sqlite::{Access, Database, Deadline};

struct Scene {
    dir: tempfile::TempDir,
    evidence: tempfile::TempDir,
}

impl Scene {
    fn new() -> Scene {
        Scene::with_evidence(tempfile::tempdir().unwrap())
    }

    fn with_evidence(evidence: tempfile::TempDir) -> Scene {
        let scene = Scene { dir: tempfile::tempdir().unwrap(), evidence };
        let db = Database::open(&scene.path(), Access::Create, std::time::Duration::ZERO, Deadline::never()).unwrap();
        db.batch("CREATE TABLE t(a)").unwrap();
        db.close().unwrap();
        // So that other users' processes, which an ordinary user cannot look into, cannot have it open.
        std::fs::set_permissions(scene.path(), std::fs::Permissions::from_mode(0o600)).unwrap();
        scene
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("app.db")
    }

    fn lock(&self) -> PathBuf {
        self.dir.path().join("app.db.lock")
    }

    fn run(&self, step: DatabaseStep) -> Result<StepReport, JobFailure> {
        run(&StepJob {
            site: DatabaseSite {
                name: "app".into(),
                path: self.path(),
                user: None,
                scratch: self.dir.path().join("scratch"),
                busy_ms: 50,
                block_max_ms: 2000,
            },
            incident: "20261122T030405.123Z-0a1b2c".into(),
            evidence: self.evidence.path().to_owned(),
            phase: Phase::Resume,
            step,
            last: None,
            basis: None,
            wal_verified: None,
        })
    }

    /// The step for the lock as it is now.
    fn seen(&self) -> DatabaseStep {
        let facts = std::fs::metadata(self.lock()).unwrap();
        DatabaseStep::MoveLockAside { ino: facts.ino(), made_ns: facts.mtime() * 1_000_000_000 + facts.mtime_nsec() }
    }

    fn names(&self) -> Vec<String> {
        names(self.dir.path())
    }

    fn kept(&self) -> Vec<String> {
        names(self.evidence.path())
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect::<Vec<_>>();
    names.sort();
    names
}

#[test]
fn a_lock_is_moved_once_and_a_second_one_beside_it() {
    let scene = Scene::new();
    for kept in ["lock", "lock-2"] {
        std::fs::create_dir(scene.lock()).unwrap();
        let step = scene.seen();
        assert_eq!(scene.run(step.clone()).unwrap().progress, Progress::Done);
        assert_eq!(scene.names(), ["app.db"]);
        assert!(scene.kept().contains(&kept.to_owned()), "{:?}", scene.kept());
        assert_eq!(scene.run(step).unwrap().progress, Progress::Nothing);
    }
    assert_eq!(scene.kept(), ["lock", "lock-2", "lock-2.json", "lock.json"]);
}

#[test]
fn a_lock_goes_into_evidence_on_another_file_system_too() {
    let Ok(evidence) = tempfile::tempdir_in("/dev/shm") else { return println!("skipped: no /dev/shm") };
    let scene = Scene::with_evidence(evidence);
    if std::fs::metadata(scene.dir.path()).unwrap().dev() == std::fs::metadata(scene.evidence.path()).unwrap().dev() {
        return println!("skipped: /dev/shm is no file system of its own");
    }
    std::fs::create_dir(scene.lock()).unwrap();
    assert_eq!(scene.run(scene.seen()).unwrap().progress, Progress::Done);
    assert_eq!((scene.names(), scene.kept()), (vec!["app.db".to_owned()], vec!["lock".into(), "lock.json".into()]));
}

#[test]
fn a_death_between_the_two_renames_is_finished() {
    let scene = Scene::new();
    std::fs::create_dir(scene.lock()).unwrap();
    let step = scene.seen();
    scene.run(step.clone()).unwrap();
    // As it was just after the first: the record is there, and the lock under a name of ours.
    let ours = scene.dir.path().join(".guardiand-20261122T030405.123Z-0a1b2c.lock");
    std::fs::rename(scene.evidence.path().join("lock"), ours).unwrap();
    assert_eq!(scene.run(step).unwrap().progress, Progress::Done);
    assert_eq!((scene.names(), scene.kept()), (vec!["app.db".to_owned()], vec!["lock".into(), "lock.json".into()]));
}

#[test]
fn a_lock_that_is_somebodys_stays() {
    let scene = Scene::new();
    let refused = |step: DatabaseStep, words: &str| {
        let failure = scene.run(step).unwrap_err();
        assert!(failure.kind == FailureKind::Refused && failure.message.contains(words), "{failure:?}");
        assert!(scene.lock().exists() && scene.kept().is_empty(), "{:?}", scene.names());
    };
    std::fs::create_dir(scene.lock()).unwrap();
    let DatabaseStep::MoveLockAside { ino, made_ns } = scene.seen() else { unreachable!() };
    refused(DatabaseStep::MoveLockAside { ino: ino + 1, made_ns }, "another lock");
    // An inode's number is soon another's.
    refused(DatabaseStep::MoveLockAside { ino, made_ns: made_ns - 1 }, "another lock");
    let file = std::fs::File::open(scene.path()).unwrap();
    let mut holder = Command::new("sleep").arg("1000").stdin(file).spawn().unwrap();
    refused(scene.seen(), &format!("process {}", holder.id()));
    holder.kill().unwrap();
    holder.wait().unwrap();
    std::fs::write(scene.lock().join("owner"), "812").unwrap();
    refused(scene.seen(), "not a lock as SQLite makes them");
}

/// Stopped; killed and reaped when dropped.
struct Sleeper(Child);

impl Sleeper {
    fn stopped() -> Sleeper {
        let sleeper = Sleeper(Command::new("sleep").arg("1000").spawn().unwrap());
        kill_process(sleeper.pid(), Signal::STOP).unwrap();
        assert!(waitpid(Some(sleeper.pid()), WaitOptions::UNTRACED).unwrap().unwrap().1.stopped());
        sleeper
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }

    fn facts(&self) -> ProcessFacts {
        ProcessFacts::of(self.pid().as_raw_nonzero().get()).unwrap()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn only_the_process_that_was_seen_is_sent_a_signal_and_only_while_it_holds_on() {
    let scene = Scene::new();
    let sleeper = Sleeper::stopped();
    let facts = sleeper.facts();
    let uid = getuid().as_raw();
    let step = |started_ms, uid, comm: &str| DatabaseStep::ResumeStopped {
        pid: facts.pid,
        started_ms,
        uid,
        comm: comm.into(),
    };
    let report = |step| scene.run(step).map(|report| (report.progress, report.detail));

    let (progress, said) = report(step(facts.started_boot_ms + 10, uid, "sleep")).unwrap();
    assert!(progress == Progress::Nothing && said.contains("has ended"), "another process has its number: {said}");
    let failure = report(step(facts.started_boot_ms, uid, "other")).unwrap_err();
    assert!(failure.kind == FailureKind::Refused && failure.message.contains("another program"), "{failure:?}");
    let failure = report(step(facts.started_boot_ms, uid + 1, "sleep")).unwrap_err();
    assert!(failure.kind == FailureKind::Refused && failure.message.contains("uid"), "{failure:?}");
    // In a container without the cgroups' file system it is refused before that.
    if let Ok((progress, said)) = report(step(facts.started_boot_ms, uid, "sleep")) {
        assert!(progress == Progress::Nothing && said.contains("keeps nobody waiting"), "{said}");
    }
    assert_eq!(sleeper.facts().state, 'T', "it was sent a signal");
    kill_process(sleeper.pid(), Signal::CONT).unwrap();
    while sleeper.facts().state == 'T' {
        std::thread::yield_now();
    }
    assert_eq!(report(step(facts.started_boot_ms, uid, "sleep")).unwrap().0, Progress::Nothing);
}
