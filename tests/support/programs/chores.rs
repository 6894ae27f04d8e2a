//! What programs do to their databases between two commits, all of it in order: none of it is a failure.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, params};

/// Rows that are kept: so that VACUUM and the checks stay quick however long the program runs.
const ROWS_KEPT: i64 = 3000;

/// Does the chore whose turn it is after commit `id`, if it is any's. BUSY is nobody's fault, and the chore's turn comes again.
pub fn after(db: &Connection, path: &str, id: i64, changes_mode: bool) {
    if id % 5 != 0 {
        return;
    }
    let turn = id / 5;
    let done = match turn % 12 {
        0 => prune(db, id),
        1 => schema(db, turn),
        2 => attach(db, path, id),
        3 => give_up(db),
        4 => checkpoint(db, ["PASSIVE", "FULL", "RESTART", "TRUNCATE"][(turn / 12) as usize % 4]),
        5 => db.execute_batch("ANALYZE"),
        6 => db.execute_batch("REINDEX rows"),
        7 => db.execute_batch(&format!("PRAGMA user_version={turn}")),
        8 => wide(db),
        9 if changes_mode => {
            mode(db, ["wal", "delete", "wal", "truncate", "persist"][(turn / 12) as usize % 5]);
            Ok(())
        }
        10 if turn % 3 == 0 => db.execute_batch("VACUUM"),
        11 => db.execute_batch("PRAGMA secure_delete=ON; DELETE FROM rows WHERE id % 97 = 3; PRAGMA secure_delete=OFF"),
        _ => Ok(()),
    };
    match done {
        Err(error) if patience_is_due(&error) => {
            // A transaction that was cut short is still open.
            let _ = db.execute_batch("ROLLBACK");
        }
        done => done.unwrap(),
    }
}

/// Sets the journal mode, which takes the database for oneself: as long as others have it, the mode stays.
pub fn mode(db: &Connection, mode: &str) {
    let until = Instant::now() + Duration::from_secs(5);
    while let Err(error) = db.execute_batch(&format!("PRAGMA journal_mode={mode}")) {
        assert!(patience_is_due(&error), "{error}");
        if Instant::now() > until {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn patience_is_due(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

fn prune(db: &Connection, id: i64) -> rusqlite::Result<()> {
    db.execute("DELETE FROM rows WHERE commit_id < ?1", [id - ROWS_KEPT]).map(drop)
}

/// Tables and indexes that come, change and go, each statement a transaction of its own.
fn schema(db: &Connection, turn: i64) -> rusqlite::Result<()> {
    db.execute_batch(&format!(
        "CREATE TABLE IF NOT EXISTS scratch(a INTEGER PRIMARY KEY, b TEXT);
         INSERT INTO scratch(b) SELECT hex(randomblob(40)) FROM rows LIMIT 200;
         CREATE INDEX IF NOT EXISTS scratch_b ON scratch(b);
         ALTER TABLE scratch ADD COLUMN c{turn} TEXT DEFAULT 'none';
         CREATE VIEW IF NOT EXISTS seen AS SELECT b FROM scratch;
         DROP VIEW seen; DROP INDEX scratch_b; DROP TABLE scratch"
    ))
}

/// One transaction over two databases: each has a journal that names the super-journal.
fn attach(db: &Connection, path: &str, id: i64) -> rusqlite::Result<()> {
    let beside = Path::new(path).with_extension("attached");
    db.execute("ATTACH ?1 AS other", [beside.to_str().unwrap()])?;
    let both = (|| {
        db.execute_batch("CREATE TABLE IF NOT EXISTS other.log(id INTEGER PRIMARY KEY)")?;
        let all = db.unchecked_transaction()?;
        all.execute("INSERT OR REPLACE INTO other.log VALUES (?1)", [id])?;
        all.execute("UPDATE rows SET text = text || '.' WHERE commit_id = ?1", [id])?;
        all.commit()
    })();
    if both.is_err() {
        let _ = db.execute_batch("ROLLBACK");
    }
    db.execute_batch("DETACH other")?;
    both
}

/// A transaction larger than the cache, so that it spills into the files, and that is then taken back.
fn give_up(db: &Connection) -> rusqlite::Result<()> {
    db.execute_batch("PRAGMA cache_size=10; BEGIN IMMEDIATE; UPDATE rows SET text = 'never said ' || text; ROLLBACK; PRAGMA cache_size=-2000")
}

fn checkpoint(db: &Connection, how: &str) -> rusqlite::Result<()> {
    db.query_row(&format!("PRAGMA wal_checkpoint({how})"), [], |_| Ok(()))
}

/// A row that needs overflow pages, and is gone again.
fn wide(db: &Connection) -> rusqlite::Result<()> {
    db.execute("INSERT INTO rows(commit_id, word, text) VALUES (-1, 'wide', ?1)", params!["w".repeat(100_000)])?;
    db.execute("DELETE FROM rows WHERE commit_id = -1", []).map(drop)
}
