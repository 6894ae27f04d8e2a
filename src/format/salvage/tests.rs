//! The engine on sound files; damaged ones are in `format/tests/mutations.rs`.

use super::*;
use crate::format::Encoding;

struct Bytes {
    bytes: Vec<u8>,
    page_size: usize,
}

impl Pages for Bytes {
    fn count(&self) -> u32 {
        self.bytes.len().div_ceil(self.page_size) as u32
    }

    fn page(&self, number: u32) -> Option<Vec<u8>> {
        let at = (number as usize).checked_sub(1)? * self.page_size;
        let mut page = self.bytes.get(at..)?.iter().take(self.page_size).copied().collect::<Vec<u8>>();
        page.resize(self.page_size, 0);
        Some(page)
    }
}

fn measured(bytes: &[u8]) -> Option<Measures> {
    let read = |at: u64, into: &mut [u8]| {
        into.fill(0);
        let from = bytes.get(at as usize..).unwrap_or_default();
        let length = from.len().min(into.len());
        into[..length].copy_from_slice(&from[..length]);
    };
    measure(bytes.len() as u64, &read)
}

/// A small database of every kind of page.
fn sample(pragmas: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.db");
    let db = rusqlite::Connection::open(&path).unwrap();
    let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<300) INSERT INTO";
    db.execute_batch(&format!(
        "{pragmas}; CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b); CREATE INDEX t_a ON t(a);
         CREATE TABLE w(k TEXT PRIMARY KEY, v) WITHOUT ROWID;
         {fill} t SELECT i, 'text ' || i, i / 3.0 FROM n; {fill} w SELECT 'key ' || i, i FROM n;
         INSERT INTO t(a, b) VALUES ('long', randomblob(5000)); CREATE TABLE gone(x); {fill} gone SELECT i FROM n; DROP TABLE gone",
    ))
    .unwrap();
    drop(db);
    std::fs::read(path).unwrap()
}

#[test]
fn measures_are_told_by_the_pages_alone() {
    for (size, encoding, pragma) in
        [(512, Encoding::Utf8, "UTF-8"), (4096, Encoding::Utf16Le, "UTF-16le"), (65_536, Encoding::Utf16Be, "UTF-16be")]
    {
        for vacuum in ["NONE", "FULL"] {
            let mut bytes =
                sample(&format!("PRAGMA page_size={size}; PRAGMA encoding='{pragma}'; PRAGMA auto_vacuum={vacuum}"));
            bytes[..100].fill(0x5a);
            let measures = measured(&bytes).unwrap();
            assert_eq!((measures.geometry.page_size(), measures.geometry.usable()), (size, size));
            assert_eq!(measures.header, None);
            let pages = Bytes { bytes, page_size: size as usize };
            assert_eq!(encoding_of(&pages, &measures.geometry, None), encoding);
            // With pages as large as the database there is no telling.
            let maps = has_pointer_maps(&pages, &measures.geometry, None);
            assert!(maps == (vacuum == "FULL") || size == 65_536, "{size} {vacuum}");
        }
    }
    assert_eq!(measured(b""), None);
    assert_eq!(measured(&[0; 10_000]), None);
}

#[test]
fn every_row_is_found_by_the_way_of_a_salvage() {
    for pragmas in ["PRAGMA page_size=512", "PRAGMA page_size=1024; PRAGMA auto_vacuum=FULL"] {
        // Tables, the index, and what was long.
        assert_eq!(crate::format::fuzz::salvage_file(&sample(pragmas)), 902, "{pragmas}");
    }
}
