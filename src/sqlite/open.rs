#![allow(unsafe_code)] // sqlite3_hard_heap_limit64 alone: rusqlite does not offer it.
//! Opening a database so that looking at it does not change it, and nobody can hang us or run code in us.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, OpenFlags, ffi};

use super::pinned::{self, Pinned};
use super::{FaultClass, SqliteFault};

/// What the connection is for, and so what it may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// A short look at a live database (rule 9): never creates it, never writes but in the write probe, and does
    /// not checkpoint when a WAL was there before us.
    Probe,
    /// As `Probe`, for a database in rollback mode: nothing at all is written. Its writer may die while we look, and the
    /// journal that it leaves is then not rolled back by us (SQLite answers READONLY_ROLLBACK, code 776).
    ReadOnly,
    /// A private copy that nobody else opens: SQLite may recover it.
    Copy,
    /// A file that nobody writes (a quarantined copy, a backup): side files and locks are ignored. Never for a live
    /// database: 601 of 683 checks of a healthy one failed that way (SQLITE.md, section 6).
    Immutable,
    /// In place, to repair: may write, and may edit the schema's rows.
    Repair,
    /// As `Repair`, and creates the file when it is missing.
    Create,
}

/// When to stop. Checked every few thousand steps of SQLite's machine, and in every wait of ours.
#[derive(Debug, Clone)]
pub struct Deadline {
    at: Option<Instant>,
    cancelled: Arc<AtomicBool>,
}

impl Deadline {
    /// Stops `span` from now.
    pub fn after(span: Duration) -> Deadline {
        Deadline { at: Instant::now().checked_add(span), cancelled: Arc::default() }
    }

    /// Never stops by itself.
    pub fn never() -> Deadline {
        Deadline { at: None, cancelled: Arc::default() }
    }

    /// Stops now, from any thread; clones stop too.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// True when it is time to stop.
    pub fn is_over(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed) || self.at.is_some_and(|at| Instant::now() >= at)
    }

    /// The shorter of `span` and what is left.
    pub fn bound(&self, span: Duration) -> Duration {
        if self.is_over() {
            return Duration::ZERO;
        }
        self.at.map_or(span, |at| span.min(at.saturating_duration_since(Instant::now())))
    }
}

/// An open database.
pub struct Database {
    pub(super) connection: Connection,
    pub(super) path: PathBuf,
    pub(super) access: Access,
    pub(super) deadline: Deadline,
    pub(super) busy_timeout: Duration,
    /// Outlives the connection, whose paths lead through it. `None` for one in memory.
    _pinned: Option<Pinned>,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").field("path", &self.path).field("access", &self.access).finish_non_exhaustive()
    }
}

/// How often the deadline is looked at, in steps of SQLite's virtual machine: about a millisecond apart.
const PROGRESS_STEPS: i32 = 4000;

impl Database {
    /// Opens `path`, waiting for locks up to `busy_timeout` per statement, everything together up to `deadline`.
    /// SQLite reads nothing of the file yet: a damaged one is noticed by the first probe.
    ///
    /// # Errors
    /// SQLite's, and a refusal of `Probe` where looking would destroy: an empty or missing main file beside a WAL or a
    /// journal (rule 1: the first SELECT of anybody unlinks that WAL).
    pub fn open(
        path: &Path,
        access: Access,
        busy_timeout: Duration,
        deadline: Deadline,
    ) -> Result<Database, SqliteFault> {
        let operation = format!("opening {}", path.display());
        let pinned = Pinned::of(path)
            .map_err(|error| SqliteFault::other(&operation, FaultClass::CannotOpen, error.to_string()))?;
        let real = &pinned.path;
        refuse_orphaned_side_files(real, access, &operation)?;
        let keep_wal = access == Access::Probe && std::fs::symlink_metadata(side_file(real, "-wal")).is_ok();
        let vfs = pinned::vfs().ok_or_else(|| {
            SqliteFault::other(&operation, FaultClass::CannotOpen, "SQLite's file access could not be wrapped")
        })?;
        let connection = Connection::open_with_flags_and_vfs(uri(real, access), flags(access), vfs)
            .map_err(|error| open_fault(&operation, &error, &pinned))?;
        let path = path.to_owned();
        let mut database = Database { connection, path, access, deadline, busy_timeout, _pinned: Some(pinned) };
        database
            .configure(keep_wal)
            .map_err(|error| SqliteFault::new(operation, &error, Some(&database.connection)))?;
        Ok(database)
    }

    /// A database without a file, for what may be lost with the process. `path` is the file that it stands for, for messages.
    ///
    /// # Errors
    /// SQLite's.
    pub fn in_memory(path: &Path) -> Result<Database, SqliteFault> {
        let connection = Connection::open_in_memory()
            .map_err(|error| SqliteFault::new(format!("opening {} in memory", path.display()), &error, None))?;
        Ok(Database {
            connection,
            path: path.to_owned(),
            access: Access::Create,
            deadline: Deadline::never(),
            busy_timeout: Duration::ZERO,
            _pinned: None,
        })
    }

    fn configure(&mut self, keep_wal: bool) -> rusqlite::Result<()> {
        let deadline = self.deadline.clone();
        let db = &mut self.connection;
        db.progress_handler(PROGRESS_STEPS, Some(move || deadline.is_over()))?;
        db.busy_timeout(self.deadline.bound(self.busy_timeout))?;
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, keep_wal)?;
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false)?;
        // Neither reads the file: a damaged one still opens, and the probe that follows says what is wrong.
        db.execute_batch("PRAGMA cell_size_check=ON")?;
        if matches!(self.access, Access::Probe | Access::ReadOnly | Access::Immutable) {
            db.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
            // A canary is the user's SQL: it may read this database, and no other.
            db.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
            db.execute_batch("PRAGMA query_only=ON")?;
        }
        Ok(())
    }

    /// Leaves the WAL to whoever comes next, also when this is the last connection: closing copies nothing and deletes nothing.
    ///
    /// # Errors
    /// SQLite's.
    pub fn leave_wal(&self) -> Result<(), SqliteFault> {
        let set = self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        set.map(drop).map_err(|error| self.fault("leaving the WAL", &error))
    }

    /// The path as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The deadline that it was opened with.
    pub fn deadline(&self) -> &Deadline {
        &self.deadline
    }

    /// Names a failed operation on this file.
    pub(super) fn fault(&self, doing: &str, error: &rusqlite::Error) -> SqliteFault {
        SqliteFault::new(format!("{doing} {}", self.path.display()), error, Some(&self.connection))
    }

    /// Closes it, and says when SQLite could not (a checkpoint at close that failed loses nothing).
    ///
    /// # Errors
    /// SQLite's.
    pub fn close(self) -> Result<(), SqliteFault> {
        let operation = format!("closing {}", self.path.display());
        self.connection.close().map_err(|(_, error)| SqliteFault::new(operation, &error, None))
    }
}

/// Bounds SQLite's memory in this process, in bytes; 0 lifts the bound. Beyond it SQLite answers NOMEM.
pub fn limit_memory(bytes: u64) {
    // SAFETY: sets a number inside SQLite, which is thread-safe (THREADSAFE=1); it takes no pointer.
    unsafe {
        ffi::sqlite3_hard_heap_limit64(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

/// The version of the SQLite that is compiled in, such as "3.54.1".
pub fn sqlite_version() -> &'static str {
    rusqlite::version()
}

/// The same as header fields give it, such as 3054001.
pub fn sqlite_version_number() -> u32 {
    rusqlite::version_number().unsigned_abs()
}

fn flags(access: Access) -> OpenFlags {
    let base = OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    match access {
        Access::Immutable | Access::ReadOnly => base | OpenFlags::SQLITE_OPEN_READ_ONLY,
        Access::Create => base | OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
        Access::Probe | Access::Copy | Access::Repair => base | OpenFlags::SQLITE_OPEN_READ_WRITE,
    }
}

/// The path as a URI: a name that holds `?`, `%` or `#`, or begins with `file:`, would mean something else to SQLite.
pub(super) fn uri(path: &Path, access: Access) -> OsString {
    let mut uri = String::from("file:");
    if path.as_os_str().as_bytes().starts_with(b"/") {
        // An empty authority, so that a path that begins with two slashes is no host name.
        uri.push_str("//");
    }
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => uri.push(char::from(*byte)),
            byte => {
                // Writing to a String cannot fail.
                let _ = write!(uri, "%{byte:02X}");
            }
        }
    }
    if access == Access::Immutable {
        uri.push_str("?immutable=1");
    }
    OsString::from_vec(uri.into_bytes())
}

/// `path` with `suffix` behind its name, as SQLite names its side files.
pub(super) fn side_file(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

pub(super) fn refuse_orphaned_side_files(path: &Path, access: Access, operation: &str) -> Result<(), SqliteFault> {
    if access == Access::Immutable {
        return Ok(());
    }
    let length = |path: &Path| std::fs::symlink_metadata(path).map(|meta| meta.len()).unwrap_or(0);
    let orphan = ["-wal", "-journal"].into_iter().find(|suffix| length(&side_file(path, suffix)) > 0);
    match orphan {
        Some(suffix) if length(path) == 0 => Err(SqliteFault::other(
            operation,
            FaultClass::CannotOpen,
            format!(
                "refused: the database is empty or missing, and opening it would destroy its {suffix} file; move that aside first"
            ),
        )),
        _ => Ok(()),
    }
}

fn open_fault(operation: &str, error: &rusqlite::Error, pinned: &Pinned) -> SqliteFault {
    let mut fault = SqliteFault::new(operation, error, None);
    fault.message = pinned.in_words(&fault.message);
    if fault.class == FaultClass::CannotOpen && std::fs::symlink_metadata(&pinned.path).is_ok_and(|meta| meta.is_file())
    {
        // The failed connection, which kept the system's error, is gone; ask the system again.
        let readable = rustix::fs::access(&pinned.path, rustix::fs::Access::READ_OK);
        fault.errno = readable.err().map(rustix::io::Errno::raw_os_error);
        fault.class = FaultClass::of(fault.code, fault.errno);
    }
    fault
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn any_name_opens_that_file_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let names: [&[u8]; 6] =
            [b"a b?mode=ro.db", b"100%41.db", b"#x&immutable=1.db", b"\xff\xfe.db", b"file:x.db", b"\xc3\xa4.db"];
        for name in names {
            let path = dir.path().join(std::ffi::OsStr::from_bytes(name));
            let db = open(&path, Access::Create);
            db.batch("CREATE TABLE t(a)").unwrap();
            db.close().unwrap();
            assert!(path.metadata().unwrap().len() > 0, "{path:?}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), names.len());
    }

    #[test]
    fn a_probe_never_creates() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("none.db");
        let fault = Database::open(&path, Access::Probe, Duration::ZERO, Deadline::never()).unwrap_err();
        assert_eq!(fault.class, FaultClass::CannotOpen);
        assert!(!path.exists());
    }

    #[test]
    fn a_probe_leaves_a_wal_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = crashed_wal(dir.path());
        let wal = side_file(&path, "-wal");
        let (main_before, wal_before) = (std::fs::read(&path).unwrap(), std::fs::read(&wal).unwrap());
        assert!(!wal_before.is_empty());
        let db = open(&path, Access::Probe);
        assert_eq!(db.row_counts().unwrap(), [("t".to_owned(), 10)]);
        db.close().unwrap();
        assert_eq!((std::fs::read(&path).unwrap(), std::fs::read(&wal).unwrap()), (main_before, wal_before));
    }

    #[test]
    fn an_empty_file_beside_a_wal_is_never_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = crashed_wal(dir.path());
        std::fs::write(&path, b"").unwrap();
        let wal = std::fs::read(side_file(&path, "-wal")).unwrap();
        for access in [Access::Probe, Access::Repair, Access::Create, Access::Copy] {
            let fault = Database::open(&path, access, Duration::ZERO, Deadline::never()).unwrap_err();
            assert!(fault.message.contains("refused"), "{fault}");
        }
        assert_eq!(std::fs::read(side_file(&path, "-wal")).unwrap(), wal);
    }

    #[test]
    fn a_deadline_ends_a_query_that_would_not_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = sample(dir.path());
        let deadline = Deadline::never();
        let db = Database::open(&path, Access::Probe, Duration::ZERO, deadline.clone()).unwrap();
        deadline.cancel();
        let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) SELECT max(i) FROM n";
        assert_eq!(db.canary(endless, 1).unwrap_err().class, FaultClass::Interrupted);
    }
}
