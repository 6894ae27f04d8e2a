//! Connections to an SQLite database.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicIsize;
use std::time::Duration;

pub use crate::sqlite::SqliteError;
use crate::sqlite::{Condition, Opening, Threaded};

use super::connect::Manager;
use super::core::Returned;

/// An open SQLite database, on a thread of its own: see [`Threaded::call`].
pub type SqliteConnection = Threaded;

/// Connections to an SQLite database, each on a thread of its own, so that no task waits for a disk.
///
/// A future of [`Threaded::call`] that is dropped interrupts its query, so that it holds no lock for nobody. A guard that is
/// dropped in the middle of a transaction rolls it back. A file that is moved, replaced or deleted is noticed before and after
/// each call, and new connections are opened to what is at its path then. No database is ever created.
///
/// While a pool has connections, no other part of the program may open and close the file, its `-wal` or its `-shm` but by
/// SQLite: closing any descriptor of a file drops all the process's locks on it
/// (<https://www.sqlite.org/howtocorrupt.html>, section 2.2).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use guardian::pool::{Params, Pool, Sqlite};
/// use guardian::sqlite::rusqlite::Connection;
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("app.db");
/// Connection::open(&path)?.execute_batch("CREATE TABLE notes(id INTEGER PRIMARY KEY, text TEXT)")?;
///
/// let pool = Pool::new("notes", Sqlite::new(&path), Params { max_size: 4, ..Params::default() });
/// let mut connection = pool.acquire().await?;
/// let count: i64 = connection
///     .call(|db| {
///         let transaction = db.transaction()?;
///         transaction.execute("INSERT INTO notes(text) VALUES (?1)", ["first"])?;
///         transaction.commit()?;
///         db.query_row("SELECT count(*) FROM notes", [], |row| row.get(0))
///     })
///     .await?;
/// assert_eq!(count, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Sqlite {
    opening: Opening,
    /// Threads that have not come back from opening it.
    stuck: Arc<AtomicIsize>,
}

impl Sqlite {
    /// Connections to the database at `path`, which read and write it, put it into WAL mode where they can, and wait for up to
    /// 5 s for others' locks.
    pub fn new(path: &Path) -> Sqlite {
        let busy_timeout = Duration::from_secs(5);
        Sqlite {
            opening: Opening { path: path.to_owned(), busy_timeout, wal: true, only_reads: false },
            stuck: Arc::default(),
        }
    }

    /// The same, waiting for others' locks for this long, by statement.
    #[must_use]
    pub fn busy_timeout(mut self, span: Duration) -> Sqlite {
        self.opening.busy_timeout = span;
        self
    }

    /// The same, leaving the file in the journal mode that it is in.
    #[must_use]
    pub fn keep_journal_mode(mut self) -> Sqlite {
        self.opening.wal = false;
        self
    }

    /// The same, for reading alone: SQL that writes is refused, the journal mode stays, and a `-wal` and a `-shm` that were
    /// needed for reading go with the last connection. Commits that others left in a WAL are left there.
    #[must_use]
    pub fn read_only(mut self) -> Sqlite {
        self.opening.only_reads = true;
        self
    }
}

impl Manager for Sqlite {
    type Connection = SqliteConnection;
    type Error = SqliteError;

    async fn connect(&self) -> Result<SqliteConnection, SqliteError> {
        Threaded::open(self.opening.clone(), Arc::clone(&self.stuck)).await
    }

    async fn is_valid(&self, connection: &mut SqliteConnection) -> Result<(), SqliteError> {
        connection.is_alive().await
    }

    fn recycle(&self, connection: &mut SqliteConnection) -> Returned {
        match connection.recycle() {
            Condition::Good => Returned::Good,
            Condition::Failed => Returned::Broken,
            // A caller's panic says nothing about the file.
            Condition::Ended => Returned::Retired,
        }
    }
}
