//! Real files for this room's tests: sound ones, and damage by offset.

use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Access, Database, Deadline};

pub(super) const SAMPLE_ROWS: u64 = 2000;

pub(super) fn open(path: &Path, access: Access) -> Database {
    Database::open(path, access, Duration::ZERO, Deadline::never()).unwrap()
}

/// A table with a UNIQUE constraint and an index, one without rowid, rollback mode, 4 KiB pages.
pub(super) fn sample(dir: &Path) -> PathBuf {
    let path = dir.join("t.db");
    let db = open(&path, Access::Create);
    db.batch(
        "PRAGMA page_size=4096; CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT, u TEXT UNIQUE); CREATE INDEX t_b ON t(b);
         CREATE TABLE w(k TEXT PRIMARY KEY, v) WITHOUT ROWID;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<2000)
         INSERT INTO t SELECT i, 'text of row '||i, 'u'||i FROM n;
         INSERT INTO w SELECT u, a FROM t WHERE a<=300;",
    )
    .unwrap();
    db.close().unwrap();
    path
}

/// A WAL database with ten rows in its WAL, left as a killed writer leaves it: main and WAL, nobody open.
pub(super) fn crashed_wal(dir: &Path) -> PathBuf {
    let (live, path) = (dir.join("live"), dir.join("t.db"));
    std::fs::create_dir(&live).unwrap();
    let db = open(&live.join("t.db"), Access::Create);
    db.batch(
        "PRAGMA journal_mode=wal; CREATE TABLE t(a); PRAGMA wal_checkpoint(TRUNCATE);
         INSERT INTO t VALUES (1),(2),(3),(4),(5),(6),(7),(8),(9),(10)",
    )
    .unwrap();
    for suffix in ["", "-wal"] {
        let from = super::open::side_file(&live.join("t.db"), suffix);
        std::fs::copy(from, super::open::side_file(&path, suffix)).unwrap();
    }
    drop(db);
    std::fs::remove_dir_all(live).unwrap();
    path
}

/// Overwrites bytes of a file that nobody has open.
pub(super) fn damage(path: &Path, at: u64, bytes: &[u8]) {
    let mut file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(bytes).unwrap();
}

/// Overwrites the first occurrence of `old`.
pub(super) fn replace(path: &Path, old: &[u8], new: &[u8]) {
    let mut bytes = Vec::new();
    std::fs::File::open(path).unwrap().read_to_end(&mut bytes).unwrap();
    let at = bytes.windows(old.len()).position(|window| window == old).unwrap();
    damage(path, at as u64, new);
}

/// The root page of a table or index.
pub(super) fn root_of(path: &Path, name: &str) -> u64 {
    let db = open(path, Access::Probe);
    let sql = "SELECT rootpage FROM sqlite_schema WHERE name=?1";
    db.connection.query_row(sql, [name], |row| row.get::<_, i64>(0)).unwrap() as u64
}

/// A page of a b-tree of more than one level: the leftmost child of its root.
pub(super) fn leaf_of(path: &Path, name: &str) -> u64 {
    let root = root_of(path, name);
    let bytes = std::fs::read(path).unwrap();
    let page = &bytes[((root - 1) * 4096) as usize..(root * 4096) as usize];
    assert!(page[0] == 2 || page[0] == 5, "{name} has one page");
    let cell = usize::from(u16::from_be_bytes([page[12], page[13]]));
    u64::from(u32::from_be_bytes(page[cell..cell + 4].try_into().unwrap()))
}

/// Changes one entry of the index `t_b`, and not its row: SQLite's own structure checks see nothing.
pub(super) fn mismatch(path: &Path) {
    let index_leaf = leaf_of(path, "t_b");
    let bytes = std::fs::read(path).unwrap();
    let page = &bytes[((index_leaf - 1) * 4096) as usize..(index_leaf * 4096) as usize];
    let at = page.windows(7).position(|window| window == b"text of").unwrap();
    // "text of" → "text Of": one letter earlier in the order, still below its neighbours' common prefix.
    let last = page.windows(7).enumerate().filter(|(_, window)| *window == b"text of").map(|(at, _)| at).max();
    damage(path, (index_leaf - 1) * 4096 + last.unwrap_or(at) as u64 + 5, b"O");
}
