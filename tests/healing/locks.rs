//! Who locks a database: named, let go on where it was stopped, and left in peace where it lives. No side file is ever deleted
//! to clear a lock: each test compares inodes.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;

use serde_json::Value;

use super::support::command::guardiand;
use super::support::daemon::Daemon;
use super::support::program::Program;
use super::support::scene::Scene;
use super::support::truth::{beside, is_root, names};

/// A second of a lock is long here; looks are frequent, and what is waited for is waited for long enough on any machine.
const QUICK: &str =
    "busy_timeout = \"1s\"\nlock_max_age = \"1s\"\nretry = { attempts = 60, initial = \"50ms\", factor = 1.2 }";

/// The inode of each file in `data`, by its name.
fn inodes(scene: &Scene) -> BTreeMap<String, u64> {
    let inode = |name: &String| std::fs::metadata(scene.path("data").join(name)).map(|facts| facts.ino()).ok();
    scene.names().into_iter().filter_map(|name| inode(&name).map(|ino| (name, ino))).collect()
}

fn locked(lines: &str, mode: &str) -> (Scene, Daemon) {
    let scene = Scene::of(lines);
    scene.commit(mode, 40, &[]);
    let mut daemon = scene.daemon();
    daemon.healthy("app");
    (scene, daemon)
}

fn detail(incident: &Value) -> String {
    incident["findings"].as_array().unwrap().iter().map(|finding| finding["detail"].as_str().unwrap()).collect()
}

fn steps(incident: &Value) -> Vec<(&str, &str)> {
    let steps = incident["steps"].as_array().unwrap().iter();
    steps.map(|step| (step["step"].as_str().unwrap(), step["outcome"].as_str().unwrap())).collect()
}

#[test]
fn a_stopped_holder_goes_on_and_nobody_is_called() {
    // Each kind of lock that keeps others out, in both journal modes.
    for (mode, flags) in [
        ("delete", ["--hold-lock", "3600"]),
        ("delete", ["--hold-write", "3600"]),
        ("delete", ["--hold-reader", "3600"]),
        ("wal", ["--hold-write", "3600"]),
    ] {
        let (scene, mut daemon) = locked(QUICK, mode);
        let holder = scene.writer(mode, "0", &flags);
        // What it will do once it goes on: let go.
        holder.stop();
        let before = inodes(&scene);
        let started = holder.pid();
        let told =
            daemon.incident("app", 1, "named its holder", |incident| detail(incident).contains("state T (stopped)"));
        assert!(detail(&told).contains(&format!("pid {started} `writer`")), "{flags:?}: {told:#}");
        assert!(detail(&told).contains("since at least"), "{flags:?}: {told:#}");
        let resumed = daemon.wait_for("the holder to go on", |_| (!holder.is_stopped()).then(|| inodes(&scene)));
        assert_eq!(resumed, before, "{flags:?}: a file was deleted or made anew to clear a lock");
        assert!(holder.finish().success());
        let incident = daemon.closed("app", 1);
        assert_eq!(incident["outcome"], "healed", "{flags:?}: {incident:#}");
        assert_eq!(incident["playbook"], "unblock", "{flags:?}: {incident:#}");
        assert_eq!(steps(&incident)[0], ("resume_stopped", "ok"), "{incident:#}");
        assert!(incident["loss"].is_null(), "{incident:#}");
        assert_eq!(scene.lost(), 0);
        scene.assert_whole(mode);
    }
}

#[test]
fn a_stopped_holder_stays_stopped_when_that_is_wished_or_before_its_time() {
    for lines in
        [format!("{QUICK}\nresume_stopped = false"), QUICK.replace("lock_max_age = \"1s\"", "lock_max_age = \"1h\"")]
    {
        let never = lines.contains("resume_stopped");
        let (scene, mut daemon) = locked(&lines, "delete");
        let holder = scene.writer("delete", "0", &["--hold-lock", "3600"]);
        holder.stop();
        let incident = daemon.incident("app", 1, "seen", |_| true);
        assert_eq!(incident["kind"], "db_locked", "{incident:#}");
        if never {
            let incident = daemon.escalated("app", 1);
            assert!(incident["reason"].as_str().unwrap().contains("kill -CONT"), "{incident:#}");
        }
        daemon.caught_up_with_looks("app");
        assert!(holder.is_stopped(), "{lines}");
        holder.signal(rustix::process::Signal::CONT);
        assert!(holder.finish().success());
        daemon.closed("app", 1);
        scene.assert_whole("delete");
    }
}

#[test]
fn a_reader_that_keeps_a_writer_waiting_is_to_blame_and_not_the_writer() {
    let (scene, mut daemon) = locked(QUICK, "delete");
    let writer = scene.writer("delete", "forever", &["--busy-timeout", "600000", "--pause", "20"]);
    let reader = scene.writer("delete", "0", &["--busy-timeout", "30000", "--hold-reader", "3600"]);

    let incident = daemon.incident("app", 1, "names the reader", |incident| detail(incident).contains("SHARED"));
    assert_eq!(incident["kind"], "db_locked", "{incident:#}");
    let told = detail(&incident);
    assert!(told.contains(&format!("pid {} `writer` holds SHARED", reader.pid())), "{told}");
    assert!(told.contains(&format!("keeps pid {} `writer` from writing", writer.pid())), "{told}");
    assert!(reader.finish().success());
    daemon.closed("app", 1);
    assert!(writer.finish().success());
    assert_eq!(scene.lost(), 0);
    scene.assert_whole("delete");
}

#[test]
fn a_reader_that_keeps_nobody_waiting_is_no_failure_however_long_it_reads() {
    let (scene, mut daemon) = locked(QUICK, "delete");
    let reader = scene.writer("delete", "0", &["--hold-reader", "3600"]);
    let held = |daemon: &Daemon| daemon.target("app")?["locks"][0]["held_seconds"].as_f64();
    daemon.wait_for("a lock older than its time", |daemon| held(daemon).filter(|seconds| *seconds > 2.5));
    assert_eq!(daemon.incidents("app"), Vec::<Value>::new());
    assert!(reader.finish().success());
    scene.assert_whole("delete");
}

#[test]
fn a_program_that_locks_for_its_life_is_healthy_and_is_left_in_peace() {
    for (mode, flags) in [
        ("delete", vec!["--exclusive"]),
        ("truncate", vec!["--exclusive"]),
        ("persist", vec!["--exclusive"]),
        ("wal", vec!["--exclusive"]),
        ("delete", vec!["--vfs", "unix-excl"]),
        ("wal", vec!["--vfs", "unix-excl"]),
    ] {
        let (scene, mut daemon) = locked(QUICK, mode);
        let idle = [flags.as_slice(), &["--open-idle"]].concat();
        // It writes often while it is watched, and then sits there.
        let program = scene.writer(mode, "forever", &[flags.as_slice(), &["--pause", "30"]].concat());
        let looks = |daemon: &Daemon| daemon.target("app").unwrap()["total_checks"].as_u64().unwrap();
        let exclusive = |daemon: &Daemon| {
            let target = daemon.target("app")?;
            let lock = target["locks"].as_array()?.iter().any(|lock| lock["lock"] == "EXCLUSIVE");
            let asks = |layer: &Value| ["open", "integrity", "query"].iter().any(|name| layer["layer"] == *name);
            let layers = target["last_check"]["layers"].as_array()?;
            let asked = layers.iter().any(|layer| asks(layer) && layer["verdict"] != "skipped");
            (lock && !asked && target["state"] == "healthy").then_some(())
        };
        // The look during which it began to lock may have opened the database just before that; no later one asks it anything.
        daemon.wait_for("a look at the program", exclusive);
        let enough = looks(&daemon) + 10;
        daemon.wait_for("ten more looks", |daemon| (looks(daemon) >= enough).then_some(()));
        daemon.wait_for("another such look", exclusive);
        assert!(program.finish().success());
        let program = scene.writer(mode, "3", &idle);
        let enough = looks(&daemon) + 10;
        daemon.wait_for("ten looks at one that is idle", |daemon| (looks(daemon) >= enough).then_some(()));
        // One look in full finds no way in either, and misses nothing by that.
        if ["delete", "wal"].contains(&mode) {
            let config = scene.write_config().display().to_string();
            let check = guardiand(&scene.path(""), &["check", "app", "--config", &config, "--json"]).json_of(0);
            assert_eq!(check["verdict"], "healthy", "{mode} {flags:?}: {check:#}");
        }
        assert_eq!(daemon.incidents("app"), Vec::<Value>::new(), "{mode} {flags:?}");
        assert!(program.finish().success());
        assert_eq!(scene.lost(), 0);
        daemon.healthy("app");
        scene.assert_whole(mode);
    }
}

#[test]
fn a_stopped_program_that_locked_for_its_life_is_let_go_on_and_is_healthy_again() {
    let (scene, mut daemon) = locked(QUICK, "delete");
    let program = scene.writer("delete", "3", &["--exclusive", "--open-idle"]);
    daemon.wait_for("a look at the program", |daemon| {
        let target = daemon.target("app")?;
        (target["locks"][0]["lock"] == "EXCLUSIVE" && target["state"] == "healthy").then_some(())
    });
    program.stop();
    let incident = daemon.closed("app", 1);
    assert_eq!(incident["playbook"], "unblock", "{incident:#}");
    assert!(!program.is_stopped());
    daemon.healthy("app");
    assert!(program.finish().success());
    scene.assert_whole("delete");
}

#[test]
fn a_transaction_that_holds_exclusive_is_a_lock_and_no_program_that_locks_for_its_life() {
    let (scene, mut daemon) =
        locked("busy_timeout = \"300ms\"\nretry = { attempts = 2, initial = \"50ms\" }", "delete");
    let holder = scene.writer("delete", "3", &["--hold-lock", "3600"]);
    let incident = daemon.escalated("app", 1);
    assert_eq!(incident["kind"], "db_locked", "{incident:#}");
    assert!(detail(&incident).contains("holds EXCLUSIVE"), "{incident:#}");
    assert!(holder.finish().success());
    daemon.closed("app", 1);
    scene.assert_whole("delete");
}

#[test]
fn on_lock_says_what_becomes_of_a_living_holder() {
    let (scene, mut daemon) = locked(&format!("{QUICK}\non_lock = \"escalate\""), "wal");
    let before = inodes(&scene);
    let holder = scene.writer("wal", "0", &["--hold-write", "3600"]);
    let incident = daemon.escalated("app", 1);
    let reason = incident["reason"].as_str().unwrap();
    assert!(reason.contains(&format!("pid {} `writer` is the WAL writer", holder.pid())), "{incident:#}");
    assert!(!steps(&incident).iter().any(|(step, _)| *step != "wait"), "{incident:#}");
    assert!(holder.finish().success());
    daemon.closed("app", 1);
    assert_eq!(inodes(&scene)["app.db"], before["app.db"]);
    scene.assert_whole("wal");
}

/// A writer that holds its lock for ever, as a service that can be stopped and started.
fn service(scene: &Scene) -> (String, std::path::PathBuf) {
    let (pidfile, script) = (scene.path("pid"), scene.path("service"));
    let writer = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("examples/writer");
    let text = format!(
        "#!/bin/sh\ncase $1 in\nstop) kill $(cat {pid}) && while kill -0 $(cat {pid}) 2>/dev/null; do sleep 0.02; done ;;\n\
         start) mkfifo {fifo} 2>/dev/null; exec 9<>{fifo}; echo $$ > {pid}; exec {writer} {db} wal 1 {log} --open-idle <&9 ;;\nesac\n",
        pid = pidfile.display(),
        fifo = scene.path("fifo").display(),
        writer = writer.display(),
        db = scene.db().display(),
        log = scene.log_of(&scene.db()).display(),
    );
    std::fs::write(&script, text).unwrap();
    let script = script.display();
    (
        format!(
            "app = {{ stop = [\"/bin/sh\", \"{script}\", \"stop\"], start = [\"/bin/sh\", \"{script}\", \"start\"] }}"
        ),
        pidfile,
    )
}

#[test]
fn a_program_that_holds_on_is_restarted_where_that_is_wished() {
    let mut scene = Scene::new();
    let (app, pidfile) = service(&scene);
    scene.database("app", "data/app.db", &format!("{QUICK}\non_lock = \"restart-app\"\n{app}"));
    scene.commit("wal", 40, &[]);
    let mut daemon = scene.daemon();
    daemon.healthy("app");
    let holder = scene.writer("wal", "0", &["--hold-write", "3600"]);
    let pid = holder.pid();
    std::fs::write(&pidfile, pid.to_string()).unwrap();
    // Its end is waited for by its parent, which is this test.
    let ended = std::thread::spawn(move || holder.ended());

    let incident = daemon.closed("app", 1);
    assert_eq!(incident["playbook"], "restart_app", "{incident:#}");
    assert_eq!(incident["outcome"], "healed", "{incident:#}");
    assert_eq!(steps(&incident), [("stop_app", "ok"), ("start_app", "ok")], "{incident:#}");
    assert!(!ended.join().unwrap().success(), "it was ended by a signal");
    let new = daemon.wait_for("the program to run again", |_| {
        let new = std::fs::read_to_string(&pidfile).ok()?.trim().parse::<u32>().ok()?;
        (new != pid && std::path::Path::new(&format!("/proc/{new}")).exists()).then_some(new)
    });
    daemon.healthy("app");
    let pid = rustix::process::Pid::from_raw(i32::try_from(new).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    daemon.wait_for("its end", |_| (!std::path::Path::new(&format!("/proc/{new}")).exists()).then_some(()));
    assert_eq!(scene.lost(), 0);
    scene.assert_whole("wal");
}

#[test]
fn a_program_is_not_restarted_again_for_a_lock_that_another_one_holds() {
    let mut scene = Scene::new();
    scene.gates("cooldown = \"1s\"\nheals = { max = 100, per = \"1h\" }\nrepeat = { max = 100, within = \"10m\" }");
    let (app, pidfile) = service(&scene);
    scene.database("app", "data/app.db", &format!("{QUICK}\non_lock = \"restart-app\"\n{app}"));
    scene.commit("wal", 40, &[]);
    let mut daemon = scene.daemon();
    daemon.healthy("app");
    let own = scene.writer("wal", "0", &["--open-idle"]);
    std::fs::write(&pidfile, own.pid().to_string()).unwrap();
    let ended = std::thread::spawn(move || own.ended());
    let holder = scene.writer("wal", "0", &["--hold-write", "3600"]);

    let stops = |incident: &Value| steps(incident).iter().filter(|(step, _)| *step == "stop_app").count();
    let incident = daemon.incident("app", 1, "tried twice", |incident| stops(incident) >= 2);
    let stopped: Vec<&Value> =
        incident["steps"].as_array().unwrap().iter().filter(|step| step["step"] == "stop_app").collect();
    let detail = |step: &Value| step["detail"].as_str().unwrap().to_owned();
    assert!(detail(stopped[0]).contains("was stopped, and process"), "{incident:#}");
    let again = detail(stopped[1]);
    assert!(again.contains(&format!("End process {} (writer)", holder.pid())), "{incident:#}");
    ended.join().unwrap();
    let first = || std::fs::read_to_string(&pidfile).unwrap();
    let runs = first();
    daemon.incident("app", 1, "tried once more", |incident| stops(incident) >= 3);
    assert_eq!(first(), runs, "it was stopped and started again");
    drop(holder);
    assert_eq!(daemon.closed("app", 1)["kind"], "db_locked");
    let pid = rustix::process::Pid::from_raw(runs.trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    daemon.wait_for("its end", |_| (!std::path::Path::new(&format!("/proc/{}", runs.trim())).exists()).then_some(()));
    assert_eq!(scene.lost(), 0);
}

#[test]
fn a_person_who_wishes_to_be_called_for_a_lock_is_called_once() {
    let (scene, mut daemon) = locked("lock_max_age = \"1s\"\non_lock = \"escalate\"", "wal");
    let holder = scene.writer("wal", "0", &["--hold-write", "3600"]);
    daemon.escalated("app", 1);
    daemon.wait_for("it to be held for longer", |daemon| {
        let said = daemon.target("app")?["last_check"].to_string();
        let age = said.split("since at least ").nth(1)?.split(' ').next()?.parse::<u32>().ok()?;
        (age >= 4).then_some(())
    });
    let reason = daemon.escalated("app", 1)["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains(&format!("pid {} `writer`", holder.pid())), "{reason}");
    assert!(reason.contains("since at least 1 s") && reason.contains("`guardiand check app`"), "{reason}");
    assert_eq!(daemon.metric("guardian_incidents_escalated_total{mode=\"database\",target=\"app\"}"), 1.0, "{reason}");
}

#[test]
fn a_lock_that_a_dead_program_of_the_dotfile_vfs_left_is_moved_into_evidence() {
    let (scene, mut daemon) = locked("lock_max_age = \"1s\"\nretry = { attempts = 2, initial = \"50ms\" }", "delete");
    let program = scene.writer("delete", "5", &["--vfs", "unix-dotfile", "--hold-write", "3600"]);
    let lock = beside(&scene.db(), ".lock");
    let ino = std::fs::metadata(&lock).unwrap().ino();
    let main = inodes(&scene)["app.db"];
    // While it lives its lock is its own, however old.
    let living = daemon.incident("app", 1, "seen", |incident| incident["state"] != "closed");
    assert_eq!(living["kind"], "db_locked", "{living:#}");
    assert!(detail(&living).contains(&format!("pid {} `writer`", program.pid())), "{living:#}");
    assert_eq!(std::fs::metadata(&lock).unwrap().ino(), ino);
    program.kill();

    daemon.wait_for("the lock to be moved", |_| (!lock.exists()).then_some(()));
    daemon.healthy("app");
    let incidents = daemon.incidents("app");
    let moved = incidents
        .iter()
        .find(|incident| steps(incident).contains(&("move_lock_aside", "ok")))
        .unwrap_or_else(|| panic!("{incidents:#?}"));
    assert_eq!(moved["outcome"], "healed", "{moved:#}");
    let evidence = std::path::PathBuf::from(format!(
        "{}/incidents/{}/evidence",
        scene.path("state").display(),
        moved["id"].as_str().unwrap()
    ));
    assert!(names(&evidence).contains("lock") && names(&evidence).contains("lock.json"), "{:?}", names(&evidence));
    assert_eq!(std::fs::metadata(evidence.join("lock")).unwrap().ino(), ino, "renamed, and not made anew");
    assert_eq!(inodes(&scene)["app.db"], main);
    // Whoever uses that VFS gets in again.
    assert!(scene.writer("delete", "5", &["--vfs", "unix-dotfile"]).finish().success());
    assert_eq!(scene.lost(), 0);
    scene.assert_whole("delete");
}

#[test]
fn what_was_a_living_programs_lock_is_not_waited_for_once_it_is_nobodys() {
    // It would be waited for until long after this test.
    let patient =
        "busy_timeout = \"1s\"\nlock_max_age = \"1s\"\nretry = { attempts = 100, initial = \"600ms\", factor = 1.0 }";
    let mut scene = Scene::of(patient);
    scene.gates("cooldown = \"2s\"\nheals = { max = 100, per = \"1h\" }");
    scene.commit("delete", 40, &[]);
    let mut daemon = scene.daemon();
    daemon.healthy("app");
    let program = scene.writer("delete", "5", &["--vfs", "unix-dotfile", "--hold-write", "3600"]);
    let lock = beside(&scene.db(), ".lock");
    let waiting = |incident: &Value| incident["state"] == "healing" && incident["playbook"] == "wait_and_retry";
    let told = daemon.incident("app", 1, "waited for", waiting);
    assert_eq!(told["kind"], "db_locked", "{told:#}");
    // Whoever asks sees it while it goes on.
    let shown = |daemon: &Daemon| daemon.target("app").is_some_and(|app| app["incident"]["state"] == "healing");
    daemon.wait_for("the target to show it", |daemon| shown(daemon).then_some(()));
    program.kill();
    daemon.wait_for("the lock to be moved", |_| (!lock.exists()).then_some(()));
    let incident = daemon.closed("app", 1);
    assert_eq!(incident["outcome"], "healed", "{incident:#}");
    let taken = steps(&incident);
    assert_eq!((taken[0], *taken.last().unwrap()), (("wait", "failed"), ("move_lock_aside", "ok")), "{incident:#}");
    let waited = incident["steps"][0]["detail"].as_str().unwrap();
    assert!(waited.contains("something else: stale_lock_file"), "{incident:#}");
    // Who is just ending cannot be looked into, and a step that cannot tell is tried again after the cooldown. Else it is one
    // attempt, and no gate stands in its middle.
    if taken.len() == 3 {
        let held = "guardian_heals_deferred_total{mode=\"database\",reason=\"cooldown\",target=\"app\"}";
        assert_eq!(daemon.metric(held), 0.0, "{incident:#}");
    }
    daemon.healthy("app");
    assert_eq!(daemon.incidents("app").len(), 1);
    assert_eq!(scene.lost(), 0);
    scene.assert_whole("delete");
}

#[test]
fn a_lock_of_the_dotfile_vfs_stays_as_long_as_anybody_has_the_database_open() {
    let (scene, mut daemon) = locked("lock_max_age = \"1s\"\nretry = { attempts = 2, initial = \"50ms\" }", "delete");
    let other = scene.writer("delete", "0", &["--open-idle"]);
    let lock = beside(&scene.db(), ".lock");
    std::fs::create_dir(&lock).unwrap();
    let incident = daemon.escalated("app", 1);
    assert_eq!(incident["kind"], "db_locked", "{incident:#}");
    assert!(detail(&incident).contains(&format!("pid {} `writer`", other.pid())), "{incident:#}");
    assert!(lock.exists());
    assert!(other.finish().success());
    daemon.wait_for("the lock to be moved", |_| (!lock.exists()).then_some(()));
    daemon.healthy("app");
    scene.assert_whole("delete");
}

#[test]
fn a_lock_file_of_somebody_elses_making_is_none_of_ours() {
    let (scene, mut daemon) = locked(QUICK, "wal");
    let lock = beside(&scene.db(), ".lock");
    std::fs::write(&lock, "812\n").unwrap();
    daemon.caught_up("app");
    scene.commit("wal", 3, &[]);
    daemon.caught_up("app");
    assert_eq!(daemon.incidents("app"), Vec::<Value>::new());
    assert_eq!(std::fs::read_to_string(&lock).unwrap(), "812\n");
}

#[test]
fn a_stopped_reader_that_holds_the_wal_back_goes_on_and_the_wal_is_written_back() {
    // As long as that is how long the checkpoint waits for the reader to end.
    let (scene, mut daemon) = locked("busy_timeout = \"20s\"\nlock_max_age = \"1s\"\nwal_max = \"200KB\"", "wal");
    // Whoever closes last writes the WAL back: that is not the reader.
    let other = scene.writer("wal", "0", &["--open-idle"]);
    let mut reader: Program = scene.writer("wal", "1", &["--hold-reader", "3600"]);
    // Before the WAL grows: what is told of it first shall be that it stands still. Once it goes on it ends.
    reader.stop();
    reader.ask_to_finish();
    scene.commit("wal", 300, &["--no-checkpoint", "--rows-per-commit", "5", "--row-bytes", "500"]);
    let incident = daemon.incident("app", 1, "names the reader", |incident| detail(incident).contains("state T"));
    assert_eq!(incident["kind"], "wal_checkpoint_starved", "{incident:#}");
    let told = detail(&incident);
    assert!(told.contains(&format!("pid {} `writer` is a WAL reader at frame ", reader.pid())), "{told}");
    let incident = daemon.closed("app", 1);
    assert_eq!(incident["outcome"], "healed", "{incident:#}");
    assert_eq!(incident["playbook"], "unblock", "{incident:#}");
    assert_eq!(steps(&incident), [("resume_stopped", "ok"), ("checkpoint", "ok")], "{incident:#}");
    assert!(reader.ended().success() && other.finish().success());
    daemon.healthy("app");
    assert_eq!(scene.lost(), 0);
    scene.assert_whole("wal");
}

#[test]
fn a_checkpoint_beside_a_reader_that_stays_is_not_even_tried() {
    let (scene, mut daemon) = locked(&format!("{QUICK}\nwal_max = \"200KB\""), "wal");
    let reader = scene.writer("wal", "1", &["--hold-reader", "3600"]);
    scene.commit("wal", 300, &["--no-checkpoint", "--rows-per-commit", "5", "--row-bytes", "500"]);
    let shm = |at: usize| {
        let bytes = std::fs::read(beside(&scene.db(), "-shm")).unwrap();
        u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
    };
    let (before, backfilled) = (inodes(&scene), shm(96));
    let incident = daemon.escalated("app", 1);
    assert_eq!(incident["kind"], "wal_checkpoint_starved", "{incident:#}");
    let reason = incident["reason"].as_str().unwrap();
    assert!(reason.contains("nothing was tried") && reason.contains(&format!("pid {}", reader.pid())), "{incident:#}");
    // Not a frame was copied: what the WAL-reset bug of old programs needs was not made.
    assert_eq!(shm(96), backfilled);
    assert_eq!(inodes(&scene), before);
    assert!(reader.finish().success());
    daemon.closed("app", 1);
    assert_eq!(scene.lost(), 0);
    scene.assert_whole("wal");
}

#[test]
fn the_trace_of_the_wal_reset_bug_calls_a_person_and_nothing_is_touched() {
    use std::os::unix::fs::FileExt as _;
    let (scene, mut daemon) = locked(QUICK, "wal");
    let program = scene.writer("wal", "20", &["--no-checkpoint", "--open-idle"]);
    daemon.caught_up("app");
    let (shm, wal) = (beside(&scene.db(), "-shm"), beside(&scene.db(), "-wal"));
    let bytes = std::fs::read(&wal).unwrap();
    // nBackfill, as that bug leaves it: 951 frames copied of 20 or so.
    std::fs::File::options().write(true).open(&shm).unwrap().write_all_at(&951_u32.to_ne_bytes(), 96).unwrap();
    std::fs::File::options().write(true).open(&wal).unwrap().set_modified(std::time::SystemTime::now()).unwrap();

    let incident = daemon.escalated("app", 1);
    assert_eq!(incident["kind"], "wal_corrupted", "{incident:#}");
    let reason = incident["reason"].as_str().unwrap();
    assert!(reason.contains("WAL-reset bug") && reason.contains(&format!("kill -9 {}", program.pid())), "{incident:#}");
    assert_eq!(std::fs::read(&wal).unwrap(), bytes);
    assert!(reason.contains("recovers all that the WAL still has"), "{incident:#}");
    // What programs may yet destroy is kept, and nothing else is done.
    assert_eq!(steps(&incident), [("preserve", "ok")], "{incident:#}");
    program.kill();
    let incident = daemon.closed("app", 1);
    assert_eq!(incident["loss"], Value::Null, "{incident:#}");
    assert_eq!(scene.lost(), 0);
    scene.assert_whole("wal");
}

#[test]
fn who_uses_a_database_is_told_wherever_people_look() {
    let (scene, mut daemon) = locked("", "wal");
    let reader = scene.writer("wal", "5", &["--hold-reader", "3600"]);
    let pid = reader.pid();
    daemon.caught_up("app");

    let said = |document: &Value| {
        let locks = document["locks"].as_array().unwrap_or_else(|| panic!("{document:#}")).clone();
        let lock = locks.into_iter().find(|lock| lock["pid"] == pid).unwrap_or_else(|| panic!("{document:#}"));
        assert!(lock["words"].as_str().unwrap().contains("is a WAL reader at frame "), "{lock:#}");
        assert_eq!(lock["comm"], "writer");
        let holders = document["holders"].as_array().unwrap_or_else(|| panic!("{document:#}")).clone();
        let holder = holders.into_iter().find(|holder| holder["pid"] == pid).unwrap_or_else(|| panic!("{document:#}"));
        assert!(holder["files"].as_array().unwrap().contains(&"main".into()), "{holder:#}");
        let unseen = document["unseen"].as_array().unwrap_or_else(|| panic!("{document:#}"));
        let of_root = unseen.iter().any(|words| words.as_str().unwrap().contains("programs of root"));
        assert_eq!(of_root, !is_root(), "{document:#}");
        assert!(!document.to_string().contains("--hold-reader"), "a command line is nobody's business");
    };
    let config = scene.path("guardian.toml");
    let config = config.to_str().unwrap();
    said(&guardiand(&scene.path(""), &["check", "--json", scene.db().to_str().unwrap()]).json_of(0));
    said(&guardiand(&scene.path(""), &["status", "app", "--json", "--config", config]).json_of(0));
    // And then the API has it, too.
    said(&daemon.target("app").unwrap());
    let shown = guardiand(&scene.path(""), &["status", "app", "--config", config]).stdout;
    assert!(shown.contains(&format!("open: pid {pid} `writer`")) && shown.contains("locks: pid"), "{shown}");
    let none = guardiand(&scene.path(""), &["status", "nobody", "--config", config]);
    assert_eq!(none.status, 1, "{none:?}");
    assert!(reader.finish().success());
}
