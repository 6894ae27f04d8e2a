#![allow(unsafe_code)] // sqlite3_file_control alone: rusqlite does not offer SQLITE_FCNTL_HAS_MOVED.
//! A connection on a thread of its own, for tasks that must not block: calls wait in line, and one whose caller goes away is
//! interrupted.

use std::cell::RefCell;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, InterruptHandle, MAIN_DB, OpenFlags, ffi};
use tokio::sync::oneshot;

use super::open::{refuse_orphaned_side_files, side_file, uri};
use super::{Access, FaultClass, SqliteFault};

/// Threads that never came back from opening one file, at most: a disk that hangs must not cost a thread with each try.
const STUCK_MAX: isize = 4;

/// How long a new connection waits for those who stand in the way of WAL mode.
const WAL_PATIENCE: Duration = Duration::from_millis(100);

/// How often a call is looked at for whether its caller has gone, in steps of SQLite's virtual machine.
const PROGRESS_STEPS: i32 = 4000;

/// How a file is opened that a program works with.
#[derive(Debug, Clone)]
pub struct Opening {
    /// The database. It must exist and hold something: none is created.
    pub path: PathBuf,
    /// How long a statement waits for others' locks.
    pub busy_timeout: Duration,
    /// Puts the file into WAL mode. Left undone where it cannot be written, or where others use it just now.
    pub wal: bool,
    /// Refuses to write, and takes its `-wal` and `-shm` away again.
    pub only_reads: bool,
}

/// Why a call on a database did not bring what it should.
#[derive(Debug, thiserror::Error)]
pub enum SqliteError {
    /// The database could not be opened.
    #[error(transparent)]
    Open(#[from] SqliteFault),
    /// The system has no thread to give.
    #[error("cannot start a thread for {}: {source}", path.display())]
    Thread {
        /// The database.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The disk does not answer.
    #[error("{} is not opened: {STUCK_MAX} threads have not come back from opening it; does its disk hang?", path.display())]
    Stuck {
        /// The database.
        path: PathBuf,
    },
    /// Another file is at the path, or none. What was written meanwhile went into the old one, if anywhere.
    #[error("{} was moved, replaced or deleted while it was open: take a new connection", path.display())]
    Moved {
        /// The database.
        path: PathBuf,
    },
    /// SQLite's own.
    #[error("a call on {} failed: {source}", path.display())]
    Call {
        /// The database.
        path: PathBuf,
        /// SQLite's words and code.
        source: rusqlite::Error,
    },
    /// An earlier call of this holder was dropped before it ended, and its transaction is rolled back.
    #[error("an earlier call on {} was cut off: take a new connection", path.display())]
    CutOff {
        /// The database.
        path: PathBuf,
    },
    /// The thread is gone: a call panicked.
    #[error("the connection to {} has ended: a call on it panicked", path.display())]
    Ended {
        /// The database.
        path: PathBuf,
    },
}

/// What was done, told once the connection is in order again.
type Answer = Box<dyn FnOnce() + Send>;

struct Job {
    cut: Arc<AtomicBool>,
    work: Box<dyn FnOnce(&mut Connection) -> Answer + Send>,
}

/// What the thread and its holder both see.
#[derive(Default)]
struct Shared {
    /// The call that runs, so that none other is interrupted in its place.
    running: Mutex<Option<(Arc<AtomicBool>, Arc<InterruptHandle>)>>,
    in_transaction: AtomicBool,
    /// The file, or the way to it, has failed.
    failed: AtomicBool,
}

/// An open connection. Dropping it closes it, on its thread.
pub struct Threaded {
    path: PathBuf,
    shared: Arc<Shared>,
    jobs: mpsc::Sender<Job>,
    /// A call was begun, and not seen to its end.
    is_cut: bool,
    /// The thread is gone.
    has_ended: bool,
}

/// How a connection is after its holder is done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// It can be used.
    Good,
    /// Its file failed.
    Failed,
    /// It has ended, and its file need not have failed.
    Ended,
}

impl Threaded {
    /// Opens a connection. `stuck` counts, over all calls for one file, the threads that have not come back.
    ///
    /// # Errors
    /// [`SqliteError::Open`], [`SqliteError::Thread`], [`SqliteError::Stuck`], [`SqliteError::Ended`].
    pub async fn open(opening: Opening, stuck: Arc<AtomicIsize>) -> Result<Threaded, SqliteError> {
        let path = opening.path.clone();
        if stuck.load(Ordering::SeqCst) >= STUCK_MAX {
            return Err(SqliteError::Stuck { path });
        }
        let (jobs, queue) = mpsc::channel::<Job>();
        let (answer, opened) = oneshot::channel();
        let wait = OpenWait { cut: Arc::default(), settled: Arc::default(), stuck };
        let (cut, settled, stuck) = (Arc::clone(&wait.cut), Arc::clone(&wait.settled), Arc::clone(&wait.stuck));
        let shared = Arc::new(Shared::default());
        let seen = Arc::clone(&shared);
        let begun = std::thread::Builder::new().name("sqlite".to_owned()).spawn(move || {
            let result = open(&opening, cut);
            if settled.swap(true, Ordering::SeqCst) {
                stuck.fetch_sub(1, Ordering::SeqCst);
            }
            match result {
                Ok(db) => {
                    // Nobody waits any more: the queue is closed as well, and so is the connection.
                    let _ = answer.send(Ok(()));
                    serve(db, &opening, &queue, &seen);
                }
                Err(fault) => drop(answer.send(Err(fault))),
            }
        });
        if let Err(source) = begun {
            wait.settled.store(true, Ordering::SeqCst);
            return Err(SqliteError::Thread { path, source });
        }
        let Ok(result) = opened.await else {
            // It panicked: there is nothing to come back.
            wait.settled.store(true, Ordering::SeqCst);
            return Err(SqliteError::Ended { path });
        };
        result?;
        Ok(Threaded { path, shared, jobs, is_cut: false, has_ended: false })
    }

    /// Runs `call` on the connection's thread. Dropped before it ends, it is interrupted, and what it began is rolled back.
    ///
    /// # Errors
    /// Those of `call`, and [`SqliteError::Moved`], also where `call` itself succeeded: what it wrote into a file that is at
    /// its path no more is not kept.
    pub async fn call<T: Send + 'static>(
        &mut self,
        call: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, SqliteError> {
        if self.is_cut {
            return Err(SqliteError::CutOff { path: self.path.clone() });
        }
        let (answer, answered) = oneshot::channel();
        let (path, shared) = (self.path.clone(), Arc::clone(&self.shared));
        let work = Box::new(move |db: &mut Connection| -> Answer {
            let result = looked_after(db, &path, call);
            if result.as_ref().is_err_and(SqliteError::is_of_the_file) {
                shared.failed.store(true, Ordering::SeqCst);
            }
            Box::new(move || drop(answer.send(result)))
        });
        let cut = CutOnDrop { cut: Arc::default(), shared: Arc::clone(&self.shared) };
        self.is_cut = true;
        // Where the thread is gone, so is the sender of the answer.
        let _ = self.jobs.send(Job { cut: Arc::clone(&cut.cut), work });
        let answer = answered.await;
        self.is_cut = false;
        answer.unwrap_or_else(|_| {
            self.has_ended = true;
            Err(SqliteError::Ended { path: self.path.clone() })
        })
    }

    /// Asks the file for a sign of life: it is the one at its path, and can be read.
    ///
    /// # Errors
    /// As for [`Threaded::call`].
    pub async fn is_alive(&mut self) -> Result<(), SqliteError> {
        self.call(|db| db.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))).await
    }

    /// Makes it ready for its next holder, without waiting: a transaction that was left open is rolled back before anything
    /// else is done.
    pub fn recycle(&mut self) -> Condition {
        if self.shared.failed.load(Ordering::SeqCst) {
            return Condition::Failed;
        }
        if self.has_ended {
            return Condition::Ended;
        }
        if self.is_cut || self.shared.in_transaction.load(Ordering::SeqCst) {
            let shared = Arc::clone(&self.shared);
            let work = Box::new(move |db: &mut Connection| -> Answer {
                roll_back(db, &shared);
                Box::new(|| {})
            });
            if self.jobs.send(Job { cut: Arc::default(), work }).is_err() {
                return Condition::Ended;
            }
            self.is_cut = false;
        }
        Condition::Good
    }
}

impl std::fmt::Debug for Threaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Threaded").field("path", &self.path).finish_non_exhaustive()
    }
}

impl SqliteError {
    /// SQLite's extended result code, where the error is SQLite's.
    pub fn code(&self) -> Option<i32> {
        match self {
            SqliteError::Open(fault) => Some(fault.code),
            SqliteError::Call { source, .. } => source.sqlite_error().map(|error| error.extended_code),
            _ => None,
        }
    }

    /// True for what speaks of the file and not of the caller's SQL. A lock is no failure of the file.
    fn is_of_the_file(&self) -> bool {
        match self {
            SqliteError::Moved { .. } => true,
            SqliteError::Call { .. } => self.code().is_some_and(|code| {
                code == ffi::SQLITE_READONLY_DBMOVED
                    || matches!(
                        FaultClass::of(code, None),
                        FaultClass::Corrupt | FaultClass::NotADatabase | FaultClass::Io | FaultClass::CannotOpen
                    )
            }),
            _ => false,
        }
    }
}

/// Who waits for a connection to be opened.
struct OpenWait {
    cut: Arc<AtomicBool>,
    /// The opening has ended, or nobody waits for it any more.
    settled: Arc<AtomicBool>,
    stuck: Arc<AtomicIsize>,
}

impl Drop for OpenWait {
    fn drop(&mut self) {
        self.cut.store(true, Ordering::SeqCst);
        if !self.settled.swap(true, Ordering::SeqCst) {
            self.stuck.fetch_add(1, Ordering::SeqCst);
        }
    }
}

struct CutOnDrop {
    cut: Arc<AtomicBool>,
    shared: Arc<Shared>,
}

impl Drop for CutOnDrop {
    fn drop(&mut self) {
        // Seen by the call when it begins, while it waits for a lock, and between two statements.
        self.cut.store(true, Ordering::SeqCst);
        let running = self.shared.running();
        if let Some((_, interrupt)) = running.as_ref().filter(|(cut, _)| Arc::ptr_eq(cut, &self.cut)) {
            interrupt.interrupt();
        }
    }
}

impl Shared {
    fn running(&self) -> std::sync::MutexGuard<'_, Option<(Arc<AtomicBool>, Arc<InterruptHandle>)>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a wait for a lock has to know: rusqlite's busy handler is a bare function, and a thread has one connection.
struct Waiting {
    cut: Arc<AtomicBool>,
    busy_timeout: Duration,
    since: Instant,
}

thread_local! {
    static WAITING: RefCell<Option<Waiting>> = const { RefCell::new(None) };
}

/// Waits a moment for a lock; false when it was long enough, or nobody waits for the call any more.
fn wait_for_lock(tries: i32) -> bool {
    // Short at first, as most locks are.
    let mut pause = Duration::from_millis(1 + u64::try_from(tries).unwrap_or(0).min(19));
    let goes_on = WAITING.with_borrow_mut(|waiting| {
        let Some(waiting) = waiting else { return false };
        if tries == 0 {
            waiting.since = Instant::now();
        }
        let left = waiting.busy_timeout.saturating_sub(waiting.since.elapsed());
        pause = pause.min(left);
        !left.is_zero() && !waiting.cut.load(Ordering::SeqCst)
    });
    if goes_on {
        std::thread::sleep(pause);
    }
    goes_on
}

fn is_cut() -> bool {
    WAITING.with_borrow(|waiting| waiting.as_ref().is_some_and(|waiting| waiting.cut.load(Ordering::SeqCst)))
}

fn set_cut(cut: Arc<AtomicBool>) {
    WAITING.with_borrow_mut(|waiting| {
        if let Some(waiting) = waiting {
            waiting.cut = cut;
        }
    });
}

fn set_patience(busy_timeout: Duration) {
    WAITING.with_borrow_mut(|waiting| {
        if let Some(waiting) = waiting {
            waiting.busy_timeout = busy_timeout;
        }
    });
}

fn open(opening: &Opening, cut: Arc<AtomicBool>) -> Result<Connection, SqliteFault> {
    let Opening { path, busy_timeout, .. } = opening;
    WAITING.set(Some(Waiting { cut, busy_timeout: *busy_timeout, since: Instant::now() }));
    let operation = format!("opening {}", path.display());
    let refused = |words: &str| SqliteFault::other(&operation, FaultClass::CannotOpen, words);
    refuse_orphaned_side_files(path, Access::Repair, &operation)?;
    let before = identity(path).ok_or_else(|| refused("there is no file; it is not created here"))?;
    if std::fs::metadata(path).is_ok_and(|meta| meta.len() == 0) {
        return Err(refused(
            "it is empty, as one that was cut off; create the database before connections to it are pooled",
        ));
    }
    let flags = OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_READ_WRITE;
    let mut db = Connection::open_with_flags(uri(path, Access::Repair), flags)
        .map_err(|error| SqliteFault::new(&operation, &error, None))?;
    // Where it was replaced in between, it need not be the new one that was opened.
    if identity(path) != Some(before) || has_moved(&db) {
        return Err(refused("it was replaced at this very moment"));
    }
    configure(&mut db, opening).map_err(|error| SqliteFault::new(&operation, &error, Some(&db)))?;
    Ok(db)
}

fn configure(db: &mut Connection, opening: &Opening) -> rusqlite::Result<()> {
    db.progress_handler(PROGRESS_STEPS, Some(is_cut))?;
    db.busy_handler(Some(wait_for_lock))?;
    if opening.only_reads {
        return db.execute_batch("PRAGMA query_only=ON");
    }
    if opening.wal && !db.is_readonly(MAIN_DB)? {
        set_patience(opening.busy_timeout.min(WAL_PATIENCE));
        let set = db.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(()));
        set_patience(opening.busy_timeout);
        // Others use it just now, in the mode that it is in: it serves in that mode too.
        if set.as_ref().is_err_and(|error| error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy)) {
            return Ok(());
        }
        set?;
    }
    Ok(())
}

/// Does what is asked, in turn, until nobody can ask any more; then closes.
fn serve(mut db: Connection, opening: &Opening, queue: &mpsc::Receiver<Job>, shared: &Shared) {
    let interrupt = Arc::new(db.get_interrupt_handle());
    for Job { cut, work } in queue {
        set_cut(Arc::clone(&cut));
        *shared.running() = Some((Arc::clone(&cut), Arc::clone(&interrupt)));
        let answer = (!cut.load(Ordering::SeqCst)).then(|| work(&mut db));
        // From here on nothing interrupts: not what follows, and not the next call.
        *shared.running() = None;
        let is_cut = cut.load(Ordering::SeqCst);
        set_cut(Arc::default());
        if is_cut {
            roll_back(&db, shared);
        }
        shared.in_transaction.store(!db.is_autocommit(), Ordering::SeqCst);
        if let Some(answer) = answer {
            answer();
        }
    }
    let wal = std::fs::symlink_metadata(side_file(&opening.path, "-wal")).map_or(0, |meta| meta.len());
    // Commits that others left in a WAL are theirs to write back, and a file that has moved has no WAL by its name.
    if (opening.only_reads && wal > 0) || has_moved(&db) {
        let _ = db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
    }
    drop(db);
}

/// Rolls back what is open. A connection that cannot even do that is not used again.
fn roll_back(db: &Connection, shared: &Shared) {
    if !db.is_autocommit() && db.execute_batch("ROLLBACK").is_err() && !db.is_autocommit() {
        shared.failed.store(true, Ordering::SeqCst);
    }
}

/// One call, between two looks at whether the file is still the one at its path: in WAL mode SQLite does not notice, and what
/// is committed is lost (SQLITE.md, section 3).
fn looked_after<T>(
    db: &mut Connection,
    path: &Path,
    call: impl FnOnce(&mut Connection) -> rusqlite::Result<T>,
) -> Result<T, SqliteError> {
    let moved = || SqliteError::Moved { path: path.to_owned() };
    if has_moved(db) {
        return Err(moved());
    }
    let result = call(db).map_err(|source| SqliteError::Call { path: path.to_owned(), source });
    if has_moved(db) { Err(moved()) } else { result }
}

/// Device and inode of what is at the path.
fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

/// True when the open file is not the one at its path any more.
fn has_moved(db: &Connection) -> bool {
    let mut moved: std::ffi::c_int = 0;
    // SAFETY: the handle is that of a live connection, borrowed for the call; the name ends with a zero; this file control
    // writes one int to where the last argument points (sqlite3.h, SQLITE_FCNTL_HAS_MOVED).
    let code = unsafe {
        ffi::sqlite3_file_control(db.handle(), c"main".as_ptr(), ffi::SQLITE_FCNTL_HAS_MOVED, (&raw mut moved).cast())
    };
    code == ffi::SQLITE_OK && moved != 0
}
