//! The room as a whole, on files that SQLite writes.

mod against_sqlite;
mod mutations;
mod wrecks;

use std::path::Path;

use rusqlite::Connection;

use super::*;

/// A database in memory, read by this room alone.
struct File {
    bytes: Vec<u8>,
    header: Header,
    geometry: Geometry,
}

impl File {
    fn open(path: &Path) -> File {
        let bytes = std::fs::read(path).unwrap();
        let header = Header::parse(&bytes).unwrap();
        File { geometry: Geometry::of(&header).unwrap(), header, bytes }
    }

    fn pages(&self) -> u32 {
        (self.bytes.len() as u64 / u64::from(self.geometry.page_size())) as u32
    }

    fn page(&self, number: u32) -> Option<&[u8]> {
        let start = self.geometry.offset_of(number) as usize;
        self.bytes.get(start..start + self.geometry.page_size() as usize)
    }

    fn schema(&self) -> Schema {
        read_schema(self.pages(), &self.geometry, self.header.encoding, |number| self.page(number))
    }
}

/// A database with something of all: what the arguments do not choose is always there.
pub(super) fn make(path: &Path, page_size: u32, reserved: u8, encoding: &str, auto_vacuum: u8) {
    let db = Connection::open(path).unwrap();
    db.execute_batch(&format!(
        "PRAGMA page_size={page_size}; PRAGMA encoding='{encoding}'; PRAGMA auto_vacuum={auto_vacuum};
         PRAGMA user_version=1"
    ))
    .unwrap();
    drop(db);
    reserve(path, reserved);
    let db = Connection::open(path).unwrap();
    // Written with the first table, and not before.
    db.execute_batch(&format!("PRAGMA encoding='{encoding}'")).unwrap();
    db.execute_batch(
        "PRAGMA journal_mode=memory; PRAGMA synchronous=off; BEGIN;
         CREATE TABLE t(id INTEGER PRIMARY KEY, a, b TEXT, c REAL);
         CREATE INDEX ta ON t(a, b);
         CREATE TABLE w(k TEXT, n INT, v, PRIMARY KEY(k, n)) WITHOUT ROWID;
         CREATE TABLE empty(x);
         CREATE TABLE gone(x);
         CREATE VIEW v AS SELECT a FROM t;
         CREATE TRIGGER tr AFTER INSERT ON empty BEGIN SELECT 1; END;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 700)
           INSERT INTO t SELECT (i * 7919) % 100003 * (CASE i % 5 WHEN 0 THEN -40000000000 ELSE 1 END),
             CASE i % 9 WHEN 0 THEN NULL WHEN 1 THEN i WHEN 2 THEN -i * 1000 WHEN 3 THEN i * 5000000 WHEN 4 THEN i * 123456789012
               WHEN 5 THEN zeroblob(i) WHEN 6 THEN i / 7.0 WHEN 7 THEN char(233, 8364, 128512, 0) || i ELSE 9223372036854775807 - i END,
             hex(zeroblob(i % 97 * (i % 11 = 3) * 40)) || 'x' || i, i FROM n;
         INSERT INTO w SELECT b, rowid, a FROM t;
         INSERT INTO gone SELECT b FROM t;
         INSERT INTO t(b) VALUES(hex(randomblob(60000)));
         CREATE TABLE wide(a, b, c, d, e, f, g, h);
         INSERT INTO wide VALUES(0, 1, -1, 1.0, '', x'', NULL, 1e300);
         INSERT INTO wide(a) SELECT i FROM (SELECT value AS i FROM json_each('[-129,-128,127,128,32768,8388608,2147483648,140737488355328]'));
         COMMIT;
         ALTER TABLE wide ADD COLUMN later DEFAULT 5;
         INSERT INTO wide(a, later) VALUES(7, 8);
         DELETE FROM t WHERE id % 3 = 0; UPDATE t SET b = b || 'y' WHERE id % 4 = 0; DROP TABLE gone;",
    )
    .unwrap();
}

/// Reserves bytes on each page of a new database, which is its first page alone and holds nothing yet.
fn reserve(path: &Path, bytes: u8) {
    let mut file = std::fs::read(path).unwrap();
    let usable = file.len() - usize::from(bytes);
    file[20] = bytes;
    file[105..107].copy_from_slice(&(usable as u16).to_be_bytes());
    std::fs::write(path, file).unwrap();
}
