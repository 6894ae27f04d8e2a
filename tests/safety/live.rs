//! Around a program that lives: nothing of its is touched, and it is not kept waiting.

use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};

use crate::picture::{assert_same, picture};
use crate::support::command::guardiand;
use crate::support::daemon::Daemon;
use crate::support::damage::Dice;
use crate::support::scene::Scene;
use crate::support::truth::{beside, digest};

fn looks(daemon: &Daemon, name: &str) -> u64 {
    daemon.target(name).map_or(0, |target| target["total_checks"].as_u64().unwrap())
}

fn wait_for_looks(daemon: &mut Daemon, name: &str, more: u64) {
    let until = looks(daemon, name) + more;
    daemon.wait_for(&format!("{more} more looks at `{name}`"), |daemon| (looks(daemon, name) >= until).then_some(()));
}

#[test]
fn a_live_wal_is_never_deleted_nor_replaced() {
    // Far beyond what is allowed: it is checkpointed and cut, and stays the file that the program has open.
    let scene = Scene::of("wal_max = \"100KB\"\nbackup = { every = \"1h\" }");
    let program = scene.writer("wal", "200", &["--no-checkpoint", "--row-bytes", "2000", "--open-idle"]);
    let wal = beside(&scene.db(), "-wal");
    let inode = std::fs::metadata(&wal).unwrap().ino();
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    wait_for_looks(&mut daemon, "app", 2);
    guardiand(&scene.path(""), &["check", "--json", "--config", "guardian.toml"]).json_of(0);
    guardiand(&scene.path(""), &["heal", "app", "--json", "--config", "guardian.toml"]).json_of(0);
    let facts = std::fs::metadata(&wal).unwrap();
    assert_eq!((facts.ino(), facts.nlink()), (inode, 1), "the program's WAL was replaced");
    program.kill();
    assert_eq!(scene.lost(), 0);
}

#[test]
fn a_file_that_a_live_program_still_holds_is_not_replaced() {
    let scene = Scene::of("backup = { every = \"1h\" }");
    let program = scene.writer("wal", "20", &["--no-checkpoint", "--open-idle"]);
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    let wal = beside(&scene.db(), "-wal");
    let before = (std::fs::metadata(&wal).unwrap().ino(), digest(&wal));
    std::fs::remove_file(scene.db()).unwrap();
    let incident = daemon.escalated("app", 1);
    assert_eq!(incident["kind"], "db_file_unlinked", "{incident:#}");
    assert!(incident["reason"].as_str().unwrap().contains(&program.pid().to_string()), "{incident:#}");
    wait_for_looks(&mut daemon, "app", 2);
    assert!(!scene.db().exists(), "the data was split in two");
    assert_eq!((std::fs::metadata(&wal).unwrap().ino(), digest(&wal)), before);
    drop(program);
}

#[test]
fn a_locked_database_names_its_holder_and_is_left_alone() {
    let scene = Scene::of("lock_max_age = \"1s\"\nbusy_timeout = \"100ms\"");
    scene.commit("delete", 5, &[]);
    let program = scene.writer("delete", "1", &["--hold-lock", "600"]);
    let before = picture(&scene.path("data"));
    let mut daemon = scene.daemon();
    let incident = daemon.incident("app", 1, "open", |_| true);
    assert_eq!(incident["kind"], "db_locked", "{incident:#}");
    let detail = incident["findings"][0]["detail"].as_str().unwrap();
    assert!(detail.contains(&program.pid().to_string()) && detail.contains("writer"), "{detail}");
    wait_for_looks(&mut daemon, "app", 2);
    guardiand(&scene.path(""), &["check", "--json", "--config", "guardian.toml"]).json();
    assert_same(&before, &picture(&scene.path("data")), "a look at a locked database");
    assert!(program.finish().success(), "its transaction did not commit");
    assert_eq!(scene.lost(), 0);
    daemon.closed("app", 1);
    daemon.healthy("app");
}

#[test]
fn a_fast_writer_in_rollback_mode_hardly_ever_finds_it_busy() {
    let scene = Scene::of("");
    scene.commit("delete", 5, &[]);
    let mut daemon = scene.daemon();
    daemon.healthy("app");
    let before = looks(&daemon, "app");
    // A program without any patience, in this process: it opens the file with no other SQLite than this one.
    let db = Connection::open(scene.db()).unwrap();
    db.busy_timeout(Duration::ZERO).unwrap();
    db.execute_batch("PRAGMA synchronous=off").unwrap();
    let (mut episodes, mut longest, mut id) = (0u64, Duration::ZERO, 1_000_000);
    let (mut busy, mut busy_total, mut total) = (None::<Duration>, Duration::ZERO, Duration::ZERO);
    let mut tried = Instant::now();
    // Until the daemon has looked while it wrote, so often that its looks must have met.
    while looks_seen(&daemon, before, id) < 8 {
        let result = db.execute("INSERT INTO commits(id) VALUES (?1)", [id]);
        // What passed between two tries, but for a machine that stood still: nobody was kept waiting by a look then.
        let passed = std::mem::replace(&mut tried, Instant::now()).elapsed().min(STANDSTILL);
        total += passed;
        match result {
            Ok(_) => {
                id += 1;
                if let Some(busy) = busy.take() {
                    longest = longest.max(busy + passed);
                    busy_total += busy + passed;
                }
            }
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
                episodes += u64::from(busy.is_none());
                busy = Some(busy.map_or(Duration::ZERO, |busy| busy + passed));
            }
            Err(error) => panic!("{error}"),
        }
    }
    let looks = looks(&daemon, "app") - before;
    let commits = id - 1_000_000;
    println!("{commits} commits, {looks} looks, {episodes} times busy, the longest {longest:?}, of {total:?} in all");
    assert!(commits > 100, "only {commits} commits in {total:?}");
    // A look takes the lock a few times, each for less than a commit takes; the bounds are far above, for slow machines.
    assert!(episodes <= 10 * (looks + 1), "{episodes} times busy in {looks} looks");
    assert!(longest < Duration::from_secs(2), "busy for {longest:?} at a stretch");
    assert!(busy_total * 2 < total, "busy for {busy_total:?} of {total:?}");
    daemon.healthy("app");
}

/// A try that is refused takes no such time, whoever has the lock.
const STANDSTILL: Duration = Duration::from_millis(100);

/// Asked now and then: it is the writer that shall be busy.
fn looks_seen(daemon: &Daemon, before: u64, id: i64) -> u64 {
    if id % 64 == 0 { looks(daemon, "app") - before } else { 0 }
}

#[test]
fn a_name_that_is_given_to_another_file_lends_it_nothing() {
    let mut scene = Scene::of("backup = { every = \"1h\" }");
    scene.commit("delete", 5, &[]);
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    assert!(daemon.stop().success());
    // Never seen healthy, under a name that was: an encrypted database, perhaps.
    let foreign = Dice::new().bytes(16 * 4096);
    std::fs::write(scene.path("data/other.db"), &foreign).unwrap();
    scene.forget_databases();
    scene.database("app", "data/other.db", "backup = { every = \"1h\" }");
    let mut daemon = scene.daemon();
    wait_for_looks(&mut daemon, "app", 3);
    assert_eq!(daemon.target("app").unwrap()["last_check"]["verdict"], "unknown");
    assert_eq!(std::fs::read(scene.path("data/other.db")).unwrap(), foreign);
    // And on the way of a reload.
    scene.forget_databases();
    scene.database("app", "data/app.db", "backup = { every = \"1h\" }");
    scene.write_config();
    daemon.signal(rustix::process::Signal::HUP);
    daemon.healthy("app");
    scene.forget_databases();
    scene.database("app", "data/other.db", "backup = { every = \"1h\" }");
    scene.write_config();
    daemon.signal(rustix::process::Signal::HUP);
    daemon.wait_for("the other file to be looked at", |daemon| {
        daemon.target("app").filter(|target| target["last_check"]["verdict"] == "unknown")
    });
    wait_for_looks(&mut daemon, "app", 3);
    assert_eq!(std::fs::read(scene.path("data/other.db")).unwrap(), foreign);
}
