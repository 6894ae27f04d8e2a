//! Databases to measure on.

use std::path::Path;

use rusqlite::Connection;

/// A WAL database with so many rows of so many bytes, closed in order.
pub fn create(path: &Path, rows: usize, row_bytes: usize) {
    let mut db = open(path);
    db.execute_batch(
        "CREATE TABLE rows (id INTEGER PRIMARY KEY, name TEXT NOT NULL, payload BLOB NOT NULL);
         CREATE INDEX rows_by_name ON rows (name);",
    )
    .unwrap();
    // The index is built in key order: a gigabyte shall not take minutes to make.
    for start in (0..rows).step_by(50_000) {
        let all = db.transaction().unwrap();
        let mut insert = all.prepare("INSERT INTO rows VALUES (?1, ?2, randomblob(?3))").unwrap();
        for id in start..rows.min(start + 50_000) {
            insert.execute((id as i64, format!("name {id:012}"), row_bytes as i64)).unwrap();
        }
        drop(insert);
        all.commit().unwrap();
    }
    let checkpointed: i64 = db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).unwrap();
    assert_eq!(checkpointed, 0);
}

/// About so many MiB of rows of 400 bytes.
pub fn create_big(path: &Path, mib: usize) {
    create(path, mib * 2400, 400);
}

/// As a program has it open: WAL mode, and read once.
pub fn open(path: &Path) -> Connection {
    let db = Connection::open(path).unwrap();
    let mode: String = db.query_row("PRAGMA journal_mode=wal", [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal");
    db.execute_batch("PRAGMA synchronous=NORMAL; PRAGMA wal_autocheckpoint=0").unwrap();
    let _: i64 = db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap();
    db
}

/// Rewrites all rows until the WAL has this many bytes, and has the kernel write it: what is measured afterwards shall not be
/// how busy the disk was before.
pub fn grow_wal(db: &Connection, path: &Path, bytes: u64) {
    let wal = path.with_extension("db-wal");
    while std::fs::metadata(&wal).map_or(0, |wal| wal.len()) < bytes {
        db.execute("UPDATE rows SET payload = randomblob(length(payload))", []).unwrap();
    }
    // SQLite has no locks on a WAL file: to open and close it here is harmless.
    std::fs::File::open(&wal).unwrap().sync_all().unwrap();
}
