//! A real SQLite file under the pool: replaced, deleted, locked, damaged, and healed by the daemon meanwhile.
//!
//! What is done to a file behind SQLite's back is done by another process: one that has it open by SQLite must not open and close
//! it by any other way.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use guardian::pool::{Manager, Params, Pool, Sqlite, SqliteError};
use rusqlite::Connection;
use tokio::time::{sleep, timeout};

use crate::callers::Callers;
use crate::support::program::Program;
use crate::support::scene::Scene;

const SIZE: u32 = 5;
/// Ends by an interrupt alone, and reads the file all the time.
const ENDLESS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) SELECT count(*) FROM n, notes";

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A database with one note, in this journal mode, and closed.
    fn database(&self, name: &str, mode: &str, note: &str) -> PathBuf {
        let path = self.path(name);
        let db = Connection::open(&path).unwrap();
        let sql =
            format!("PRAGMA journal_mode={mode}; CREATE TABLE notes(text TEXT); INSERT INTO notes VALUES ('{note}')");
        db.execute_batch(&sql).unwrap();
        path
    }
}

/// Runs a program of the system's on files, in a process of its own.
fn run(program: &str, arguments: &[&Path]) {
    assert!(Command::new(program).args(arguments).status().unwrap().success(), "{program} {arguments:?}");
}

fn pool_of(manager: &Sqlite) -> Pool<Sqlite> {
    // What was handed out before is handed out unseen: what the tests see is how the connection was given back.
    let params = Params { max_size: SIZE, validate_after: Duration::from_secs(3600), ..Params::default() };
    Pool::new("sqlite", manager.clone(), params)
}

async fn note(pool: &Pool<Sqlite>) -> Result<String, SqliteError> {
    let mut connection = pool.acquire().await.unwrap();
    connection.call(|db| db.query_row("SELECT text FROM notes", [], |row| row.get(0))).await
}

/// Waits for what other threads are about to do.
async fn until(what: &str, mut seen: impl FnMut() -> bool) {
    let waited = timeout(Duration::from_secs(30), async {
        while !seen() {
            sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "waited in vain: {what}");
}

#[tokio::test]
async fn a_database_that_is_missing_or_empty_is_told_and_not_created() {
    let folder = Folder::new();
    let missing = folder.path("missing.db");
    let diagnosis = pool_of(&Sqlite::new(&missing)).health_check().await;
    assert!(!diagnosis.healthy && diagnosis.summary.contains("there is no file"), "{diagnosis:?}");
    assert!(!missing.exists());
    let empty = folder.path("empty.db");
    std::fs::write(&empty, "").unwrap();
    let error = Sqlite::new(&empty).connect().await.map(drop).unwrap_err();
    assert!(error.to_string().contains("it is empty"), "{error}");
    assert_eq!(empty.metadata().unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_tasks_lose_no_change_and_the_last_connection_leaves_no_side_file() {
    let folder = Folder::new();
    let path = folder.database("app.db", "delete", "first");
    let pool = pool_of(&Sqlite::new(&path).busy_timeout(Duration::from_secs(30)));
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move {
                for _ in 0..10 {
                    let mut connection = pool.acquire().await.unwrap();
                    let insert = |db: &mut Connection| db.execute("INSERT INTO notes VALUES ('more')", []);
                    connection.call(insert).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let mut connection = pool.acquire().await.unwrap();
    let count = |db: &mut Connection| db.query_row("SELECT count(*) FROM notes", [], |row| row.get::<_, i64>(0));
    assert_eq!(connection.call(count).await.unwrap(), 201);
    let mode = |db: &mut Connection| db.query_row("PRAGMA journal_mode", [], |row| row.get::<_, String>(0));
    assert_eq!(connection.call(mode).await.unwrap(), "wal");
    drop(connection);
    let status = pool.status();
    assert!(status.opened_total <= u64::from(SIZE) + 1 && status.healthy, "{status:?}");
    assert!(pool.drain(Duration::from_secs(10)).await);
    until("the connections to close", || !folder.path("app.db-wal").exists() && !folder.path("app.db-shm").exists())
        .await;
}

#[tokio::test]
async fn looking_alone_writes_nothing_and_leaves_nothing() {
    let folder = Folder::new();
    let path = folder.database("app.db", "wal", "first");
    let before = std::fs::read(&path).unwrap();
    let pool = pool_of(&Sqlite::new(&path).read_only());
    let (mut first, mut second) = (pool.acquire().await.unwrap(), pool.acquire().await.unwrap());
    for connection in [&mut first, &mut second] {
        let read = |db: &mut Connection| db.query_row("SELECT text FROM notes", [], |row| row.get::<_, String>(0));
        assert_eq!(connection.call(read).await.unwrap(), "first");
        let error = connection.call(|db| db.execute("DELETE FROM notes", [])).await.unwrap_err();
        assert_eq!(error.code(), Some(rusqlite::ffi::SQLITE_READONLY), "{error}");
    }
    assert!(folder.path("app.db-wal").exists(), "SQLite needs one for reading: there is nothing to take away");
    drop((first, second));
    assert!(pool.drain(Duration::from_secs(10)).await);
    until("the side files to go", || !folder.path("app.db-wal").exists() && !folder.path("app.db-shm").exists()).await;
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn commits_that_a_killed_program_left_in_its_wal_stay_there_when_they_are_only_read() {
    let folder = Folder::new();
    let path = folder.path("app.db");
    let log = folder.path("log");
    Program::start(&path, "wal", "20", &log, &["--no-checkpoint", "--die"]).ended();
    let (main, wal) = (std::fs::read(&path).unwrap(), std::fs::read(folder.path("app.db-wal")).unwrap());
    let manager = Sqlite::new(&path).read_only();
    let mut connection = manager.connect().await.unwrap();
    let count = |db: &mut Connection| db.query_row("SELECT count(*) FROM rows", [], |row| row.get::<_, i64>(0));
    assert_eq!(connection.call(count).await.unwrap(), 20);
    drop(connection);
    // A second one, which is opened after: the first has closed once it is gone from the system's list of open files.
    let open = || {
        let links =
            std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|link| link.unwrap().path().read_link().ok());
        links.filter(|link| link.starts_with(folder.0.path())).count()
    };
    until("the connection to close", || open() == 0).await;
    assert_eq!((std::fs::read(&path).unwrap(), std::fs::read(folder.path("app.db-wal")).unwrap()), (main, wal));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_whose_caller_goes_away_holds_no_lock_and_its_connection_is_used_again() {
    let folder = Folder::new();
    let path = folder.database("app.db", "delete", "first");
    let pool = pool_of(&Sqlite::new(&path).keep_journal_mode());
    let other = Connection::open(&path).unwrap();
    other.busy_timeout(Duration::ZERO).unwrap();
    let mut connection = pool.acquire().await.unwrap();
    connection.call(|db| db.execute_batch("BEGIN")).await.unwrap();
    let query = connection.call(|db| db.query_row(ENDLESS, [], |_| Ok(())));
    assert!(timeout(Duration::from_millis(200), query).await.is_err(), "the query ended by itself");
    // Given up: neither the query nor the transaction that it was in holds its lock on.
    until("the lock to go", || other.execute_batch("BEGIN EXCLUSIVE; ROLLBACK").is_ok()).await;
    let error = connection.call(|_| Ok(())).await.unwrap_err();
    assert!(matches!(error, SqliteError::CutOff { .. }), "{error}");
    drop(connection);
    assert_eq!(note(&pool).await.unwrap(), "first");
    let status = pool.status();
    assert!(status.opened_total == 1 && status.healthy, "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_query_holds_its_lock_until_then() {
    let folder = Folder::new();
    let path = folder.database("app.db", "delete", "first");
    let mut connection = Sqlite::new(&path).keep_journal_mode().connect().await.unwrap();
    let other = Connection::open(&path).unwrap();
    other.busy_timeout(Duration::ZERO).unwrap();
    let query = tokio::spawn(async move { connection.call(|db| db.query_row(ENDLESS, [], |_| Ok(()))).await });
    until("the query to take its lock", || {
        let locked = other.execute_batch("BEGIN EXCLUSIVE");
        let _ = other.execute_batch("ROLLBACK");
        locked.is_err()
    })
    .await;
    query.abort();
    until("the lock to go", || other.execute_batch("BEGIN EXCLUSIVE; ROLLBACK").is_ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_for_a_lock_ends_with_its_caller() {
    let folder = Folder::new();
    let path = folder.database("app.db", "delete", "first");
    let pool = pool_of(&Sqlite::new(&path).keep_journal_mode().busy_timeout(Duration::from_secs(3600)));
    let mut connection = pool.acquire().await.unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let read = connection.call(|db| db.query_row("SELECT text FROM notes", [], |_| Ok(())));
    assert!(timeout(Duration::from_millis(100), read).await.is_err(), "it was not locked");
    drop(connection);
    // Behind the wait in its line, were that still going on.
    let mut connection = pool.acquire().await.unwrap();
    let at_once = connection.call(|db| Ok(db.is_autocommit()));
    assert!(timeout(Duration::from_secs(30), at_once).await.expect("the wait goes on").unwrap());
    assert_eq!(pool.status().opened_total, 1);
}

#[tokio::test]
async fn what_was_left_in_the_middle_of_a_transaction_is_rolled_back() {
    let folder = Folder::new();
    let path = folder.database("app.db", "wal", "first");
    let pool = pool_of(&Sqlite::new(&path));
    let mut connection = pool.acquire().await.unwrap();
    connection.call(|db| db.execute_batch("BEGIN IMMEDIATE; UPDATE notes SET text = 'never said'")).await.unwrap();
    drop(connection);
    let mut connection = pool.acquire().await.unwrap();
    assert!(
        connection.call(|db| Ok(db.is_autocommit())).await.unwrap(),
        "the next caller is in somebody's transaction"
    );
    drop(connection);
    assert_eq!(note(&pool).await.unwrap(), "first");
    assert_eq!(pool.status().opened_total, 1);
}

#[tokio::test]
async fn a_call_that_panics_costs_its_connection_and_says_nothing_about_the_file() {
    let folder = Folder::new();
    let path = folder.database("app.db", "wal", "first");
    let pool = pool_of(&Sqlite::new(&path));
    let mut connection = pool.acquire().await.unwrap();
    let error = connection.call(|_| -> rusqlite::Result<()> { panic!("in a caller's code") }).await.unwrap_err();
    assert!(matches!(error, SqliteError::Ended { .. }), "{error}");
    drop(connection);
    assert_eq!(note(&pool).await.unwrap(), "first");
    assert!(pool.status().healthy);
}

#[tokio::test]
async fn a_file_that_was_replaced_is_noticed_by_who_has_the_old_one_and_the_new_one_is_read() {
    let folder = Folder::new();
    for mode in ["delete", "wal"] {
        let path = folder.database(&format!("{mode}.db"), mode, "old");
        let new = folder.database("new.db", mode, "new");
        let pool = pool_of(&Sqlite::new(&path).keep_journal_mode());
        let mut held = pool.acquire().await.unwrap();
        let mut idle = pool.acquire().await.unwrap();
        idle.call(|_| Ok(())).await.unwrap();
        drop(idle);
        std::fs::rename(&new, &path).unwrap();
        let update = |db: &mut Connection| db.execute("UPDATE notes SET text = 'lost'", []);
        let error = held.call(update).await.unwrap_err();
        assert!(matches!(error, SqliteError::Moved { .. }), "{mode}: {error}");
        drop(held);
        // The idle one has seen nothing yet, and was opened before the pool knew: it is no more handed out.
        until("the pool to look at the file", || pool.status().healthy).await;
        assert_eq!(note(&pool).await.unwrap(), "new", "{mode}");
        assert!(pool.drain(Duration::from_secs(10)).await);
        std::fs::remove_file(&path).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_was_deleted_and_put_back() {
    let folder = Folder::new();
    let (path, saved) = (folder.database("app.db", "delete", "first"), folder.path("saved.db"));
    let manager = Sqlite::new(&path).keep_journal_mode();
    let pool = pool_of(&manager);
    std::fs::copy(&path, &saved).unwrap();
    let callers = Callers::begin(&pool, &manager);
    callers.all_are_served().await;
    std::fs::remove_file(&path).unwrap();
    callers.some_fail().await;
    sleep(Duration::from_millis(500)).await;
    assert!(!path.exists(), "the pool made a file");
    std::fs::rename(&saved, &path).unwrap();
    callers.all_are_served().await;
    assert_eq!(note(&pool).await.unwrap(), "first");
    callers.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_another_program_kept_locked() {
    let folder = Folder::new();
    let (path, log) = (folder.database("app.db", "delete", "first"), folder.path("log"));
    let manager = Sqlite::new(&path).keep_journal_mode().busy_timeout(Duration::from_millis(50));
    let pool = pool_of(&manager);
    let callers = Callers::begin(&pool, &manager);
    callers.all_are_served().await;
    let place = path.clone();
    let locker = tokio::task::spawn_blocking(move || {
        Program::start(&place, "delete", "1", &log, &["--busy-timeout", "30000", "--hold-lock", "3600"])
    });
    let locker = locker.await.unwrap();
    callers.some_fail().await;
    let mut connection = manager.connect().await.unwrap();
    let error = manager.is_valid(&mut connection).await.unwrap_err();
    assert_eq!(error.code(), Some(rusqlite::ffi::SQLITE_BUSY), "{error}");
    locker.kill();
    callers.all_are_served().await;
    callers.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_was_damaged_and_mended_in_place() {
    let folder = Folder::new();
    let (path, saved) = (folder.database("app.db", "delete", "first"), folder.path("saved.db"));
    let noise = folder.path("noise");
    std::fs::copy(&path, &saved).unwrap();
    std::fs::write(&noise, "no database".repeat(1000)).unwrap();
    let manager = Sqlite::new(&path).keep_journal_mode();
    let pool = pool_of(&manager);
    let callers = Callers::begin(&pool, &manager);
    callers.all_are_served().await;
    run("cp", &[&noise, &path]);
    callers.some_fail().await;
    let mut connection = manager.connect().await.unwrap();
    let error = manager.is_valid(&mut connection).await.unwrap_err();
    assert_eq!(error.code(), Some(rusqlite::ffi::SQLITE_NOTADB), "{error}");
    drop(connection);
    run("cp", &[&saved, &path]);
    callers.all_are_served().await;
    assert_eq!(note(&pool).await.unwrap(), "first");
    callers.end().await;
}

/// The daemon heals a file under the pool's callers: nobody restarts anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_file_that_the_daemon_restores() {
    for mode in ["delete", "wal"] {
        let scene = Scene::of("backup = { every = \"24h\", to = \"backups\" }");
        let db = scene.db();
        let (scene, mut daemon) = tokio::task::spawn_blocking(move || {
            scene.commit(mode, 50, &[]);
            let mut daemon = scene.daemon();
            daemon.backed_up("app");
            daemon.healthy("app");
            (scene, daemon)
        })
        .await
        .unwrap();
        let manager = Sqlite::new(&db).keep_journal_mode();
        let pool = pool_of(&manager);
        let callers = Callers::begin(&pool, &manager);
        callers.all_are_served().await;
        std::fs::remove_file(&db).unwrap();
        let (incident, daemon) = tokio::task::spawn_blocking(move || (daemon.closed("app", 1), daemon)).await.unwrap();
        let healed = Instant::now();
        assert_eq!(
            (&incident["kind"], &incident["outcome"]),
            (&"db_file_missing".into(), &"healed".into()),
            "{incident:#}"
        );
        callers.all_are_served().await;
        println!("{mode}: all callers are served {:?} after the incident was closed", healed.elapsed());
        let mut connection = pool.acquire().await.unwrap();
        let count = |db: &mut Connection| db.query_row("SELECT count(*) FROM rows", [], |row| row.get::<_, i64>(0));
        assert_eq!(connection.call(count).await.unwrap(), 50, "{mode}");
        drop(connection);
        callers.end().await;
        tokio::task::spawn_blocking(move || drop((daemon, scene))).await.unwrap();
    }
}
