//! The engine on thousands of damaged files: no panic, no work without end, and no page given away twice.

use std::collections::BTreeSet;

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

/// The way of a salvage; how many rows it finds.
fn rows_of(bytes: Vec<u8>) -> usize {
    let Some(measures) = measured(&bytes) else { return 0 };
    let pages = Bytes { bytes, page_size: measures.geometry.page_size() as usize };
    let maps = has_pointer_maps(&pages, &measures.geometry, measures.header.as_ref());
    let geometry = measures.geometry.with_pointer_maps(maps);
    let encoding = encoding_of(&pages, &geometry, measures.header.map(|header| header.encoding));
    let survey = Survey::of(&pages, geometry, encoding, measures.header);
    let schema = survey.schema(&pages);
    let tree = |root: u32| {
        let has_rowids = survey.note(root).kind.is_none_or(|kind| kind.is_table());
        let shape = TableShape { has_rowids, columns: Vec::new(), known: false };
        Tree { root, use_: TreeUse::Table, shape, told_by: Vec::new() }
    };
    let trees: Vec<Tree> = schema.rows.iter().filter(|row| row.root != 0).map(|row| tree(row.root)).collect();
    let assignment = assign(&pages, &survey, &trees, &schema.pages);
    let mut seen = BTreeSet::new();
    let mut rows = 0;
    let all = assignment.pieces.iter().flatten().map(|piece| piece.page);
    for page in all.chain(assignment.lost.iter().map(|(_, page)| *page)) {
        assert!(seen.insert(page), "page {page} was given away twice");
        let bytes = pages.page(page).unwrap();
        let leaf = Leaf::read(&bytes, page, &geometry, Some(3));
        for row in leaf.rows(&pages, &|page| survey.note(page).kind.is_none()) {
            rows += usize::from(!values_of(&row.payload).is_empty());
        }
    }
    rows
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
fn no_bytes_make_it_panic_or_go_on_for_ever() {
    let sound = [sample("PRAGMA page_size=512"), sample("PRAGMA page_size=1024; PRAGMA auto_vacuum=FULL")];
    let whole = sound.each_ref().map(|bytes| rows_of(bytes.clone()));
    // Tables, the index, and what was long.
    assert_eq!(whole, [902, 902]);
    let mut state = 1_u64;
    let mut dice = |limit: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % limit
    };
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let mut tried = 0;
    for round in 0..1500 {
        let mut bytes = sound[round % 2].clone();
        for _ in 0..1 + dice(12) {
            let at = dice(bytes.len());
            match dice(5) {
                0 => bytes[at] ^= 1 << dice(8),
                1 => bytes[at] = dice(256) as u8,
                // Numbers of pages and cells stand at the beginning of a page.
                2 => bytes[at / 512 * 512 + dice(20)] = dice(256) as u8,
                3 => {
                    let (from, length) = (dice(bytes.len()), dice(700).min(bytes.len() - at));
                    for offset in 0..length.min(bytes.len() - from) {
                        bytes[at + offset] = bytes[from + offset];
                    }
                }
                _ => bytes.truncate(at.max(100)),
            }
        }
        rows_of(bytes);
        tried += 1;
        if std::time::Instant::now() > until {
            break;
        }
    }
    assert!(tried > 100, "{tried} files in 20 s");
}
