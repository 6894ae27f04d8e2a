//! A real program that keeps its data in SQLite, for tests to damage the data of.
//!
//! ```text
//! writer DB JOURNAL_MODE COMMITS|forever LOG [flags]
//! ```
//!
//! Each commit inserts rows under one commit id; after COMMIT has returned, the id is appended to LOG. So LOG says what the
//! program was promised, and a test counts what of it is still there. `ready` on stdout says that the state that was asked
//! for is reached. The program ends when its stdin does, so that none outlives its test.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)] // a test program

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, params};

mod chores;

const USAGE: &str = "usage: writer DB wal|delete|truncate|persist COMMITS|forever LOG
  --busy-timeout MS     wait so long for a lock (default 2000)
  --synchronous LEVEL   off, normal or full (default normal)
  --no-checkpoint       wal_autocheckpoint=0
  --page-size BYTES     of a new database
  --rows-per-commit N   (default 1)
  --row-bytes N         (default 100)
  --pause MS            between commits
  --vfs NAME            such as unix-dotfile or unix-excl
  --exclusive           locking_mode=EXCLUSIVE
  --chores              between commits, all that programs do: VACUUM, schema changes, checkpoints, ATTACH, ROLLBACK
  --changes-mode        with --chores: and changes of the journal mode
  --shared              others commit to it too: take the next id that is free
  --existing            end with an error where there is no database with its tables
  --while-there FILE    end when FILE is gone, and not when stdin ends: for a program that nobody holds by its stdin
  --checkpoint          before it ends, write all of the WAL back: as the last to close does, who need not be this program
  after the commits:
  --hold-lock SECONDS   BEGIN EXCLUSIVE, held, released
  --hold-reader SECONDS a read transaction, held, released
  --hold-write SECONDS  a write transaction that has written, held, rolled back
  --open-idle           sit with the database open until stdin ends
  --leave-hot-journal   die by SIGKILL in the middle of a transaction that has spilled to the disk
  --die                 die by SIGKILL: nothing is closed";

struct Arguments {
    db: String,
    mode: String,
    /// `None`: for ever.
    commits: Option<u64>,
    log: String,
    busy_timeout: Duration,
    synchronous: String,
    no_checkpoint: bool,
    page_size: Option<u32>,
    rows_per_commit: i64,
    row_bytes: usize,
    pause: Duration,
    chores: bool,
    changes_mode: bool,
    shared: bool,
    existing: bool,
    while_there: Option<String>,
    hold_lock: Option<Duration>,
    hold_reader: Option<Duration>,
    hold_write: Option<Duration>,
    vfs: Option<String>,
    exclusive: bool,
    open_idle: bool,
    leave_hot_journal: bool,
    die: bool,
    checkpoint: bool,
}

fn arguments() -> Option<Arguments> {
    let mut words = std::env::args().skip(1);
    let (db, mode, commits, log) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let mut asked = Arguments {
        db,
        mode: Some(mode).filter(|mode| ["wal", "delete", "truncate", "persist"].contains(&mode.as_str()))?,
        commits: if commits == "forever" { None } else { Some(commits.parse().ok()?) },
        log,
        busy_timeout: Duration::from_secs(2),
        synchronous: "normal".to_owned(),
        no_checkpoint: false,
        page_size: None,
        rows_per_commit: 1,
        row_bytes: 100,
        pause: Duration::ZERO,
        chores: false,
        changes_mode: false,
        shared: false,
        existing: false,
        while_there: None,
        hold_lock: None,
        hold_reader: None,
        hold_write: None,
        vfs: None,
        exclusive: false,
        open_idle: false,
        leave_hot_journal: false,
        die: false,
        checkpoint: false,
    };
    while let Some(flag) = words.next() {
        let mut number = || words.next()?.parse::<u64>().ok();
        match flag.as_str() {
            "--busy-timeout" => asked.busy_timeout = Duration::from_millis(number()?),
            "--page-size" => asked.page_size = Some(number()?.try_into().ok()?),
            "--rows-per-commit" => asked.rows_per_commit = number()?.try_into().ok()?,
            "--row-bytes" => asked.row_bytes = number()?.try_into().ok()?,
            "--pause" => asked.pause = Duration::from_millis(number()?),
            "--while-there" => asked.while_there = Some(words.next()?),
            "--hold-lock" => asked.hold_lock = Some(Duration::from_secs(number()?)),
            "--hold-reader" => asked.hold_reader = Some(Duration::from_secs(number()?)),
            "--hold-write" => asked.hold_write = Some(Duration::from_secs(number()?)),
            "--vfs" => asked.vfs = Some(words.next()?),
            "--exclusive" => asked.exclusive = true,
            "--chores" => asked.chores = true,
            "--changes-mode" => asked.changes_mode = true,
            "--shared" => asked.shared = true,
            "--existing" => asked.existing = true,
            "--synchronous" => asked.synchronous = words.next()?,
            "--no-checkpoint" => asked.no_checkpoint = true,
            "--open-idle" => asked.open_idle = true,
            "--leave-hot-journal" => asked.leave_hot_journal = true,
            "--die" => asked.die = true,
            "--checkpoint" => asked.checkpoint = true,
            _ => return None,
        }
    }
    Some(asked)
}

fn main() {
    let Some(asked) = arguments() else {
        eprintln!("{USAGE}");
        std::process::exit(2);
    };
    let ended = match asked.while_there.clone() {
        Some(file) => watch_file(file),
        None => watch_stdin(),
    };
    if let Err(error) = run(&asked, &ended) {
        eprintln!("writer: {error}");
        std::process::exit(1);
    }
}

/// True once stdin has ended.
fn watch_stdin() -> Arc<AtomicBool> {
    let ended = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&ended);
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        seen.store(true, Ordering::Relaxed);
    });
    ended
}

/// True once the file is gone.
fn watch_file(file: String) -> Arc<AtomicBool> {
    let ended = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&ended);
    std::thread::spawn(move || {
        while Path::new(&file).exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        seen.store(true, Ordering::Relaxed);
    });
    ended
}

fn run(asked: &Arguments, ended: &AtomicBool) -> rusqlite::Result<()> {
    let db = open(asked)?;
    let mut log = File::options().append(true).create(true).open(&asked.log).unwrap();
    let mut id = next_id(&db, Path::new(&asked.log))?;
    let mut done = 0;
    while asked.commits.is_none_or(|commits| done < commits) && !ended.load(Ordering::Relaxed) {
        match commit(&db, id, asked) {
            // Busy for longer than the busy timeout: a service logs it and tries again.
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
                eprintln!("writer: commit {id}: {error}");
                continue;
            }
            // Another writer was promised that id.
            Err(error) if asked.shared && error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                id = next_id(&db, Path::new(&asked.log))?;
                continue;
            }
            committed => committed?,
        }
        // Acknowledged: from here on it is promised. In one write: killed between a number and its end, the next number would be
        // put to it, and a promise counted that nobody made.
        log.write_all(format!("{id}\n").as_bytes()).unwrap();
        if asked.chores {
            chores::after(&db, &asked.db, id, asked.changes_mode);
        }
        id += 1;
        done += 1;
        if asked.commits.is_none() && done == 1 {
            ready();
        }
        match asked.pause < Duration::from_millis(50) {
            true => std::thread::sleep(asked.pause),
            false => sit(asked.pause, ended),
        }
    }
    after(&db, asked, ended)?;
    if asked.checkpoint {
        write_back(&db)?;
    }
    db.close().map_err(|(_, error)| error)
}

/// Waits for readers, who come and go.
fn write_back(db: &Connection) -> rusqlite::Result<()> {
    while db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, bool>(0))? {}
    Ok(())
}

/// What follows the commits.
fn after(db: &Connection, asked: &Arguments, ended: &AtomicBool) -> rusqlite::Result<()> {
    if let Some(time) = asked.hold_lock {
        db.execute_batch("BEGIN EXCLUSIVE")?;
        ready();
        sit(time, ended);
        db.execute_batch("COMMIT")?;
    } else if let Some(time) = asked.hold_reader {
        db.execute_batch("BEGIN")?;
        db.query_row("SELECT count(*) FROM rows", [], |_| Ok(()))?;
        ready();
        sit(time, ended);
        db.execute_batch("COMMIT")?;
    } else if let Some(time) = asked.hold_write {
        db.execute_batch("BEGIN IMMEDIATE; INSERT INTO rows(commit_id, word, text) VALUES (0, 'half', 'done')")?;
        ready();
        sit(time, ended);
        db.execute_batch("ROLLBACK")?;
    } else if asked.open_idle {
        db.query_row("SELECT count(*) FROM rows", [], |_| Ok(()))?;
        ready();
        sit(Duration::MAX, ended);
    } else if asked.leave_hot_journal {
        // A cache of five pages: what is changed spills into the file, under a journal that is on the disk already.
        db.execute_batch("PRAGMA cache_size=5; BEGIN; UPDATE rows SET text = 'half done ' || text")?;
        ready();
        kill_myself();
    } else if asked.commits.is_some() {
        ready();
    }
    if asked.die {
        kill_myself();
    }
    Ok(())
}

fn open(asked: &Arguments) -> rusqlite::Result<Connection> {
    let create = if asked.existing { OpenFlags::empty() } else { OpenFlags::SQLITE_OPEN_CREATE };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | create;
    let db = match &asked.vfs {
        Some(vfs) => Connection::open_with_flags_and_vfs(&asked.db, flags, vfs.as_str())?,
        None => Connection::open_with_flags(&asked.db, flags)?,
    };
    db.busy_timeout(asked.busy_timeout)?;
    if let Some(size) = asked.page_size {
        db.execute_batch(&format!("PRAGMA page_size={size}"))?;
    }
    if asked.exclusive {
        db.execute_batch("PRAGMA locking_mode=EXCLUSIVE")?;
    }
    if asked.chores {
        chores::mode(&db, &asked.mode);
    }
    db.execute_batch(&format!("PRAGMA synchronous={}", asked.synchronous))?;
    if !asked.chores {
        db.execute_batch(&format!("PRAGMA journal_mode={}", asked.mode))?;
    }
    if asked.no_checkpoint {
        db.execute_batch("PRAGMA wal_autocheckpoint=0")?;
    }
    if asked.existing {
        return Ok(db);
    }
    db.execute_batch(
        "CREATE TABLE IF NOT EXISTS commits(id INTEGER PRIMARY KEY, made_at TEXT DEFAULT CURRENT_TIMESTAMP);
         CREATE TABLE IF NOT EXISTS rows(id INTEGER PRIMARY KEY, commit_id INTEGER NOT NULL, word TEXT, text TEXT);
         CREATE INDEX IF NOT EXISTS rows_word ON rows(word)",
    )?;
    Ok(db)
}

/// Above all that is there, and above all that was ever promised: a lost id is never used again.
fn next_id(db: &Connection, log: &Path) -> rusqlite::Result<i64> {
    let there: i64 = db.query_row("SELECT ifnull(max(id), 0) FROM commits", [], |row| row.get(0))?;
    let promised = std::fs::read_to_string(log).unwrap_or_default();
    let last = promised.lines().filter_map(|line| line.parse::<i64>().ok()).max().unwrap_or(0);
    Ok(there.max(last) + 1)
}

fn commit(db: &Connection, id: i64, asked: &Arguments) -> rusqlite::Result<()> {
    let all = db.unchecked_transaction()?;
    all.prepare("INSERT INTO commits(id) VALUES (?1)")?.execute([id])?;
    let mut insert = all.prepare("INSERT INTO rows(commit_id, word, text) VALUES (?1, ?2, ?3)")?;
    for row in 0..asked.rows_per_commit {
        let text = format!("row {row} of commit {id} ");
        let text = text.repeat(asked.row_bytes / text.len() + 1);
        insert.execute(params![id, format!("{:08x}", ((id << 16) | row).wrapping_mul(0x9E37_79B9) as u32), text])?;
    }
    drop(insert);
    all.commit()
}

fn ready() {
    println!("ready");
    std::io::stdout().flush().unwrap();
}

fn sit(time: Duration, ended: &AtomicBool) {
    let since = Instant::now();
    while since.elapsed() < time && !ended.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn kill_myself() -> ! {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    unreachable!("SIGKILL is not survived")
}
