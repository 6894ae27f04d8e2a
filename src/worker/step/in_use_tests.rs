//! Steps on a database that programs use: restored under them, or with them stopped.

use super::tests::{Scene, insert, open, rows};
use super::*;
use crate::job::Ending;
use crate::model::App;
use crate::sqlite::{Access, Database};

impl Scene {
    fn in_place(&self, mode: &str) -> DatabaseStep {
        let DatabaseStep::BuildFromBackup { backup, blake3, .. } = self.restore_step() else { panic!("not a restore") };
        DatabaseStep::RestoreInPlace { backup, blake3, journal_mode: Some(mode.to_owned()) }
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.path()).unwrap()
    }

    fn damage(&self, at: u64, bytes: &[u8]) {
        use std::os::unix::fs::FileExt as _;
        std::fs::File::options().write(true).open(self.path()).unwrap().write_all_at(bytes, at).unwrap();
    }

    /// An app with a connection that has read.
    fn app(&self) -> Database {
        let app = open(&self.path(), Access::Repair);
        app.touch_schema().unwrap();
        app
    }

    fn inode(&self) -> u64 {
        use std::os::unix::fs::MetadataExt as _;
        std::fs::metadata(self.path()).unwrap().ino()
    }

    fn count(db: &Database) -> u64 {
        db.row_counts().unwrap()[0].1
    }
}

#[test]
fn damaged_pages_are_restored_under_an_idle_program_that_sees_it_and_goes_on() {
    for mode in ["delete", "wal"] {
        let scene = Scene::new(mode);
        let (app, inode) = (scene.app(), scene.inode());
        scene.damage(2 * 4096, &[0xa5; 4096]);
        let report = scene.run(scene.in_place(mode), Phase::Apply).unwrap();
        assert_eq!(report.progress, Progress::Done, "{mode}: {}", report.detail);
        assert!(report.detail.contains("integrity_check ok"), "{}", report.detail);
        assert_eq!((Scene::count(&app), scene.inode()), (100, inode), "{mode}");
        insert(&app, 1);
        assert_eq!(app.journal_mode().unwrap(), mode);
        app.close().unwrap();
        assert_eq!(rows(&scene.path()), 101);
        assert_eq!(scene.names(), ["app.db"], "{mode}");
    }
}

#[test]
fn a_header_that_is_gone_is_restored_where_section_4_says_so_and_refused_elsewhere() {
    for (mode, held, possible) in
        [("delete", true, true), ("delete", false, true), ("wal", false, true), ("wal", true, false)]
    {
        let scene = Scene::new(mode);
        let app = held.then(|| scene.app());
        scene.damage(0, &[0xa5; 100]);
        let broken = scene.bytes();
        let outcome = scene.run(scene.in_place(mode), Phase::Apply);
        if possible {
            assert_eq!(outcome.unwrap().progress, Progress::Done, "{mode} {held}");
            let db = app.unwrap_or_else(|| scene.app());
            assert_eq!((Scene::count(&db), db.journal_mode().unwrap()), (100, mode.to_owned()), "{held}");
        } else {
            let refused = outcome.unwrap_err();
            assert_eq!(refused.kind, FailureKind::Refused, "{}", refused.message);
            assert_eq!(scene.bytes(), broken, "it was changed although nothing could be done");
        }
        assert_eq!(std::fs::read(scene.evidence().join("main")).unwrap(), broken, "{mode} {held}");
    }
}

#[test]
fn a_cut_file_is_restored_in_place_and_one_without_a_byte_is_never_opened() {
    for mode in ["delete", "wal"] {
        let scene = Scene::new(mode);
        let app = scene.app();
        let half = scene.bytes().len() as u64 / 2 / 4096 * 4096;
        std::fs::File::options().write(true).open(scene.path()).unwrap().set_len(half).unwrap();
        let outcome = scene.run(scene.in_place(mode), Phase::Apply);
        assert_eq!(outcome.unwrap().progress, Progress::Done, "{mode}");
        assert_eq!(Scene::count(&app), 100, "{mode}");
    }
    let scene = Scene::with_wal();
    std::fs::write(scene.path(), b"").unwrap();
    let wal = std::fs::read(scene.folder().join("app.db-wal")).unwrap();
    for phase in [Phase::Apply, Phase::Resume] {
        let refused = scene.run(scene.in_place("wal"), phase).unwrap_err();
        assert!(refused.kind == FailureKind::Refused && refused.message.contains("0 bytes"), "{}", refused.message);
    }
    assert_eq!(std::fs::read(scene.folder().join("app.db-wal")).unwrap(), wal, "the program's WAL is gone");
}

#[test]
fn another_page_size_is_converted_first_and_the_database_keeps_its_own() {
    for mode in ["delete", "wal"] {
        let scene = Scene::new("delete");
        // The backup has pages of 4096 bytes; the database was rebuilt with others since.
        let db = open(&scene.path(), Access::Repair);
        db.batch("PRAGMA page_size=1024; VACUUM").unwrap();
        db.set_journal_mode(mode).unwrap();
        db.close().unwrap();
        let app = scene.app();
        scene.damage(4 * 1024, &[0xa5; 1024]);
        let report = scene.run(scene.in_place(mode), Phase::Apply).unwrap();
        assert_eq!(report.progress, Progress::Done, "{}", report.detail);
        assert_eq!((app.page_size().unwrap(), Scene::count(&app)), (1024, 100), "{mode}");
        app.close().unwrap();
        assert_eq!(scene.names(), ["app.db"]);
    }
}

#[test]
fn a_program_in_a_transaction_is_waited_for_and_then_left_alone() {
    for (mode, transaction, possible) in [
        ("delete", "BEGIN; SELECT count(*) FROM t", false),
        ("wal", "BEGIN; SELECT count(*) FROM t", true),
        ("delete", "BEGIN IMMEDIATE", false),
        ("wal", "BEGIN IMMEDIATE", false),
    ] {
        let scene = Scene::new(mode);
        let app = scene.app();
        app.batch(transaction).unwrap();
        let outcome = scene.run(scene.in_place(mode), Phase::Apply);
        if possible {
            assert_eq!(outcome.unwrap().progress, Progress::Done, "{mode} {transaction}");
            assert_eq!(Scene::count(&app), 150, "its snapshot stays");
        } else {
            let refused = outcome.unwrap_err();
            assert_eq!(refused.kind, FailureKind::Refused, "{mode} {transaction}: {}", refused.message);
        }
        app.batch("COMMIT").unwrap();
        assert_eq!(Scene::count(&app), if possible { 100 } else { 150 }, "{mode} {transaction}");
    }
}

#[test]
fn what_was_committed_after_it_was_restored_is_not_lost_to_a_second_try() {
    for mode in ["delete", "wal"] {
        let scene = Scene::new(mode);
        let app = scene.app();
        scene.damage(2 * 4096, &[0xa5; 4096]);
        // Died before anything was written: it is done now.
        scene.run(scene.in_place(mode), Phase::Resume).unwrap();
        assert_eq!(Scene::count(&app), 100);
        insert(&app, 7);
        // Died before it could say so: it is not done again.
        let report = scene.run(scene.in_place(mode), Phase::Resume).unwrap();
        assert!(report.detail.contains("had been restored"), "{}", report.detail);
        assert_eq!(Scene::count(&app), 107, "{mode}");
        assert_eq!(scene.run(scene.in_place(mode), Phase::Undo).unwrap().progress, Progress::Nothing);
        assert_eq!(Scene::count(&app), 107, "{mode}");
    }
}

#[test]
fn a_backup_that_is_damaged_is_restored_over_nothing() {
    let scene = Scene::new("delete");
    let DatabaseStep::RestoreInPlace { backup, .. } = scene.in_place("delete") else { panic!("not a restore") };
    let mut bytes = std::fs::read(&backup).unwrap();
    bytes[5000] ^= 1;
    std::fs::write(&backup, bytes).unwrap();
    let before = scene.bytes();
    assert_eq!(scene.run(scene.in_place("delete"), Phase::Apply).unwrap_err().kind, FailureKind::Failed);
    assert_eq!(scene.bytes(), before);
}

/// A program of two scripts: it has the database open while a `sleep` with it as stdin lives.
fn program(scene: &Scene) -> App {
    let pid = scene.folder().with_file_name("pid").display().to_string();
    let db = scene.path().display().to_string();
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let start = format!("sleep 1000 <>{db} >/dev/null & echo $! > {pid}");
    App::Commands {
        stop: words(&["sh", "-c", &format!("kill $(cat {pid}); rm {pid}")]),
        start: words(&["sh", "-c", &start]),
    }
}

fn stop(app: &App) -> DatabaseStep {
    DatabaseStep::StopApp {
        app: app.clone(),
        limit_ms: 30_000,
        ending: Ending::InOrder,
        rollback_of: None,
        members: Vec::new(),
    }
}

fn start(app: &App) -> DatabaseStep {
    DatabaseStep::StartApp { app: app.clone(), limit_ms: 30_000, members: Vec::new() }
}

fn running(scene: &Scene) -> bool {
    let pid = std::fs::read_to_string(scene.folder().with_file_name("pid"));
    pid.is_ok_and(|pid| std::path::Path::new(&format!("/proc/{}", pid.trim())).exists())
}

/// Starts it as guardiand would, and waits until it has the database open.
fn launch(scene: &Scene, app: &App) {
    let how =
        crate::host::Starting { name: "test", stop_name: "test-stop", limit: Duration::from_secs(30), no_wait: false };
    crate::host::start_app(app, &how).unwrap();
    has_it_open(scene);
}

fn has_it_open(scene: &Scene) {
    let until = std::time::Instant::now() + Duration::from_secs(30);
    let open = || {
        let pid = std::fs::read_to_string(scene.folder().with_file_name("pid")).unwrap_or_default();
        // Between the shell's fork and its exec it has the database open already, under the shell's name.
        let is_itself =
            std::fs::read_to_string(format!("/proc/{}/comm", pid.trim())).is_ok_and(|comm| comm == "sleep\n");
        is_itself && std::fs::read_link(format!("/proc/{}/fd/0", pid.trim())).is_ok_and(|open| open == scene.path())
    };
    while !open() {
        assert!(std::time::Instant::now() < until, "the program did not open the database");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_ran_is_stopped_and_started_again_once() {
    let scene = Scene::new("delete");
    let app = program(&scene);
    launch(&scene, &app);
    assert!(running(&scene));
    assert_eq!(scene.run(stop(&app), Phase::Apply).unwrap().progress, Progress::Done);
    assert!(!running(&scene));
    assert_eq!(scene.run(start(&app), Phase::Apply).unwrap().progress, Progress::Done);
    has_it_open(&scene);
    let pid = std::fs::read_to_string(scene.folder().with_file_name("pid")).unwrap();
    for phase in [Phase::Apply, Phase::Resume] {
        assert_eq!(scene.run(start(&app), phase).unwrap().progress, Progress::Nothing);
    }
    assert_eq!(std::fs::read_to_string(scene.folder().with_file_name("pid")).unwrap(), pid, "it was started twice");
    crate::host::stop_app(&app, "test-stop", Duration::from_secs(30)).unwrap();
}

#[test]
fn what_did_not_run_is_left_alone() {
    let scene = Scene::new("delete");
    let app = program(&scene);
    assert_eq!(scene.run(stop(&app), Phase::Apply).unwrap().progress, Progress::Nothing);
    assert_eq!(scene.run(start(&app), Phase::Apply).unwrap().progress, Progress::Nothing);
    assert!(!running(&scene));
}

#[test]
fn a_stop_that_was_interrupted_or_failed_ends_with_the_program_running() {
    let scene = Scene::new("delete");
    let app = program(&scene);
    launch(&scene, &app);
    let App::Commands { start: begin, .. } = &app else { panic!("no commands") };
    let failing = App::Commands { stop: vec!["false".to_owned()], start: begin.clone() };
    let refused = scene.run(stop(&failing), Phase::Apply).unwrap_err();
    assert!(refused.kind == FailureKind::Refused && refused.message.contains("`false`"), "{}", refused.message);
    let report = scene.run(start(&failing), Phase::Apply).unwrap();
    assert!(running(&scene) && report.detail.contains("was not stopped"), "{}", report.detail);

    assert_eq!(scene.run(stop(&app), Phase::Apply).unwrap().progress, Progress::Done);
    // Died now: the next process finds it stopped, and the last step starts it.
    assert_eq!(scene.run(stop(&app), Phase::Resume).unwrap().progress, Progress::Done);
    scene.run(start(&app), Phase::Resume).unwrap();
    has_it_open(&scene);
    crate::host::stop_app(&app, "test-stop", Duration::from_secs(30)).unwrap();
}

#[test]
fn a_program_that_two_heals_need_stopped_is_started_by_the_last() {
    let (scene, other) = (Scene::new("delete"), Scene::new("delete"));
    let app = program(&scene);
    launch(&scene, &app);
    // Another incident of another database of the same program, with the same state directory.
    let second = |step: DatabaseStep| {
        let mut site = other.site();
        site.scratch = scene.site().scratch;
        run(&StepJob {
            site,
            incident: "20261122T030405.124Z-ffffff".into(),
            evidence: other.evidence(),
            phase: Phase::Apply,
            step,
            last: None,
            basis: None,
            wal_verified: None,
        })
    };
    assert_eq!(scene.run(stop(&app), Phase::Apply).unwrap().progress, Progress::Done);
    // It does not run, and yet it did: a stop command that does nothing more is no failure.
    let App::Commands { start: begin, .. } = &app else { panic!("no commands") };
    let gentle = App::Commands { stop: vec!["true".to_owned()], start: begin.clone() };
    assert_eq!(
        second(stop(&app)).map(|report| report.progress).ok(),
        None,
        "this stop command fails when it has ended"
    );
    assert_eq!(second(start(&app)).unwrap().progress, Progress::Done);
    assert!(!running(&scene), "the first still needs it stopped");
    assert_eq!(scene.run(start(&app), Phase::Apply).unwrap().progress, Progress::Done);
    has_it_open(&scene);
    drop(gentle);
    crate::host::stop_app(&app, "test-stop", Duration::from_secs(30)).unwrap();
}

#[test]
fn somebody_else_who_has_the_files_is_named_and_the_program_runs_on() {
    let scene = Scene::new("delete");
    let app = program(&scene);
    launch(&scene, &app);
    let other = std::fs::File::options().read(true).write(true).open(scene.path()).unwrap();
    let mut stranger = std::process::Command::new("sleep").arg("1000").stdin(other).spawn().unwrap();
    // What a person was doing is what is to be done again.
    let of = "20261122T010203.000Z-000001";
    let DatabaseStep::StopApp { app: same, limit_ms, ending, .. } = stop(&app) else { panic!("no stop") };
    let for_rollback =
        DatabaseStep::StopApp { app: same, limit_ms, ending, rollback_of: Some(of.to_owned()), members: Vec::new() };
    let refused = scene.run(for_rollback, Phase::Apply).unwrap_err();
    assert!(refused.message.contains(&format!("process {}", stranger.id())), "{}", refused.message);
    assert!(refused.message.contains(&format!("`guardiand rollback {of}` again")), "{}", refused.message);
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    scene.run(start(&app), Phase::Apply).unwrap();
    has_it_open(&scene);
    crate::host::stop_app(&app, "test-stop", Duration::from_secs(30)).unwrap();
}

#[test]
fn a_program_is_started_again_though_another_of_its_name_has_the_file_open_all_along() {
    let scene = Scene::new("delete");
    let app = program(&scene);
    launch(&scene, &app);
    let before = std::fs::read_to_string(scene.folder().with_file_name("pid")).unwrap();
    let other = std::fs::File::options().read(true).write(true).open(scene.path()).unwrap();
    let mut stranger = std::process::Command::new("sleep").arg("1000").stdin(other).spawn().unwrap();
    let refused = scene.run(stop(&app), Phase::Apply).unwrap_err();
    assert!(refused.message.contains(&format!("process {}", stranger.id())), "{}", refused.message);
    assert!(!running(&scene));
    assert_eq!(scene.run(start(&app), Phase::Apply).unwrap().progress, Progress::Done);
    has_it_open(&scene);
    assert_ne!(std::fs::read_to_string(scene.folder().with_file_name("pid")).unwrap(), before);
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    crate::host::stop_app(&app, "test-stop", Duration::from_secs(30)).unwrap();
}

#[test]
fn a_process_is_named_once_with_all_the_files_that_it_has_open() {
    let file = crate::host::FileId { dev: crate::host::Device { major: 8, minor: 1 }, ino: 12 };
    let holder = |pid, comm: &str, what: &str| crate::host::Holder {
        what: what.to_owned(),
        file,
        pid,
        comm: comm.to_owned(),
        uid: 1000,
        state: 'S',
        started_boot_ms: 1,
        fds: vec![3],
        mapped: false,
        deleted: false,
        read_only: false,
    };
    let found = [holder(812, "app", "app.db"), holder(900, "job", "app.db"), holder(812, "app", "app.db-wal")];
    let said = in_use::in_words(&found);
    assert_eq!(
        said,
        ["process 812 (app), which has app.db, app.db-wal open", "process 900 (job), which has app.db open"]
    );
}
