//! What SQLite writes is clean, and what SQLite finds damaged is found.

use std::convert::Infallible;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::super::tests::make;
use super::*;

/// A file in memory.
pub(super) struct Bytes(pub Vec<u8>, pub u32);

impl PageSource for Bytes {
    type Error = Infallible;

    fn read(&self, first: u32, into: &mut [u8]) -> Result<(), Infallible> {
        into.fill(0);
        let from = self.0.get((first as usize - 1) * self.1 as usize..).unwrap_or_default();
        let len = from.len().min(into.len());
        into[..len].copy_from_slice(&from[..len]);
        Ok(())
    }
}

/// `None` for a file whose header is none.
fn scrubbed(file: &[u8], threads: usize) -> Option<Scrub> {
    let header = Header::parse(file).ok()?;
    let there = file.len().div_ceil(header.page_size as usize) as u32;
    let counted = header.counted_pages().unwrap_or(there);
    let plan = ScrubPlan { header, counted, there, threads, faults_max: 1000, contents: None };
    Some(scrub(&Bytes(file.to_vec(), header.page_size), &plan, &|_| true).unwrap())
}

/// What the bundled SQLite says of the structure: its rules for content and virtual tables left out.
fn checked(path: &Path) -> Vec<String> {
    let db = Connection::open(path).unwrap();
    let mut lines = Vec::new();
    let run = |lines: &mut Vec<String>| {
        let mut statement = db.prepare("PRAGMA quick_check(1000)")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            // An R-tree's lines about itself come as one row.
            let told = row.get::<_, String>(0)?;
            lines.extend(told.lines().take_while(|line| !line.starts_with("In RTree")).map(str::to_owned));
        }
        Ok::<_, rusqlite::Error>(())
    };
    if let Err(error) = run(&mut lines) {
        lines.push(format!("error: {error}"));
    }
    let rules = ["NULL value in", "CHECK constraint", "non-", "NUMERIC value", "TEXT value", "*** in database"];
    let virtual_table = |line: &str| {
        line.to_ascii_lowercase().contains("fts5") || line.contains("inverted index") || line.contains("vtable")
    };
    lines.retain(|line| line != "ok" && !rules.iter().any(|rule| line.starts_with(rule)) && !virtual_table(line));
    lines
}

/// The statements of the schema cannot be parsed, or a function is missing: SQLite's to say.
fn is_schemas_text(lines: &[String]) -> bool {
    let is = |line: &String| line.starts_with("error: malformed database schema") || line.contains("no such");
    lines.iter().any(is) || lines.iter().any(|line| line.contains("unsupported file format"))
}

/// Beside what `make` writes: indexes of all kinds, virtual tables, a freelist, wide records.
fn add(path: &Path) {
    let db = Connection::open(path).unwrap();
    let list = |item: &dyn Fn(u32) -> String| (0..1500).map(item).collect::<Vec<_>>().join(",");
    let columns = list(&|n| format!("c{n}"));
    let texts = list(&|n| if n % 3 == 0 { "t".to_owned() } else { "1234567".to_owned() });
    db.execute_batch(&format!(
        "PRAGMA journal_mode=memory; PRAGMA synchronous=off; BEGIN;
         CREATE UNIQUE INDEX tu ON t(id, c); CREATE INDEX tp ON t(b) WHERE a IS NOT NULL;
         CREATE INDEX te ON t(length(b), upper(b) COLLATE NOCASE DESC);
         CREATE INDEX wn ON w(n); CREATE TABLE \"or where\"(a UNIQUE, g AS (a||'x') STORED, v AS (a||'y'));
         CREATE INDEX \"i where\" ON \"or where\"(g, v);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)
           INSERT INTO \"or where\"(a) SELECT i FROM n;
         CREATE TABLE au(i INTEGER PRIMARY KEY AUTOINCREMENT, x);
         CREATE TABLE broad({columns}); INSERT INTO broad(c0, c1499) VALUES('a', zeroblob(9000)), (1, 2);
         INSERT INTO broad SELECT {texts} FROM (SELECT hex(zeroblob(150)) AS t);
         CREATE VIRTUAL TABLE f USING fts5(a, b); CREATE VIRTUAL TABLE r USING rtree(id, x0, x1, y0, y1);
         INSERT INTO f SELECT b, a FROM t LIMIT 200;
         INSERT INTO r SELECT rowid, rowid, rowid + 1, 0, 1 FROM \"or where\";
         CREATE TABLE gone(x); INSERT INTO gone SELECT zeroblob(20000) FROM \"or where\" LIMIT 20; DROP TABLE gone;
         INSERT INTO au(x) SELECT b FROM t LIMIT 50; DELETE FROM w WHERE n % 2; COMMIT; ANALYZE;"
    ))
    .unwrap();
}

pub(super) fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

pub(super) const KINDS: [(u32, u8, &str, u8); 9] = [
    (512, 0, "UTF-8", 0),
    (512, 32, "UTF-16le", 1),
    (1024, 9, "UTF-16be", 2),
    (2048, 0, "UTF-8", 1),
    (4096, 0, "UTF-8", 0),
    (4096, 16, "UTF-16le", 2),
    (8192, 255, "UTF-8", 0),
    (32_768, 0, "UTF-16be", 1),
    (65_536, 8, "UTF-8", 2),
];

pub(super) fn made(folder: &Path, kind: usize) -> PathBuf {
    let (page_size, reserved, encoding, auto_vacuum) = KINDS[kind];
    let path = folder.join(format!("{page_size}-{reserved}.db"));
    make(&path, page_size, reserved, encoding, auto_vacuum);
    add(&path);
    path
}

#[test]
fn what_sqlite_writes_is_clean_and_counted() {
    let folder = folder();
    for (kind, measures) in KINDS.iter().enumerate() {
        let path = made(folder.path(), kind);
        assert_eq!(checked(&path), Vec::<String>::new());
        let file = std::fs::read(&path).unwrap();
        let found = scrubbed(&file, 2).unwrap();
        assert_eq!((found.faults, found.faults_total), (vec![], 0), "{measures:?}");
        let db = Connection::open(&path).unwrap();
        let free: u32 = db.query_row("PRAGMA freelist_count", [], |row| row.get(0)).unwrap();
        assert_eq!(found.free_pages, free);
        for tree in found.trees.iter().filter(|tree| tree.kind == SchemaKind::Table) {
            let sql = format!("SELECT count(*) FROM \"{}\"", tree.name);
            assert_eq!(
                db.query_row(&sql, [], |row| row.get::<_, i64>(0)).unwrap(),
                tree.entries as i64,
                "{}",
                tree.name
            );
        }
        let held: u32 = found.trees.iter().map(|tree| tree.pages + tree.overflow_pages).sum();
        assert!(held + free <= found.pages && held > found.pages / 2);
    }
}

#[test]
fn any_number_of_threads_finds_the_same() {
    let folder = folder();
    let mut file = std::fs::read(made(folder.path(), 1)).unwrap();
    let mut random = Random(7);
    for _ in 0..50 {
        mutate(&mut file, 512, &mut random);
    }
    file[..100].copy_from_slice(&std::fs::read(made(folder.path(), 0)).unwrap()[..100]);
    file[20] = 32;
    let one = scrubbed(&file, 1).unwrap();
    assert!(one.faults_total > 10);
    assert_eq!(scrubbed(&file, 4).unwrap(), one);
}

/// xorshift64*: the same everywhere.
pub(super) struct Random(pub u64);

impl Random {
    pub(super) fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n
    }
}

/// One hurt of a kind that real files suffer, or that hits what matters.
fn mutate(file: &mut [u8], page_size: usize, random: &mut Random) {
    let pages = file.len() / page_size;
    let start = random.below(pages) * page_size;
    let other = random.below(pages) * page_size;
    let header = if start == 0 { 100 } else { 0 };
    let small = [0, 1, 2, 4, 5, 10, 13, 127, 128, 255][random.below(10)];
    match random.below(12) {
        // A bit anywhere.
        0 | 1 => file[start + random.below(page_size)] ^= 1 << random.below(8),
        2 => file[start + random.below(page_size)] = small,
        // The page's header and its cell pointers.
        3 | 4 => file[start + header + random.below(24)] = small,
        5 => file[start + header + random.below(24)] ^= 1 << random.below(8),
        6 => file[start..start + page_size].fill(0),
        7 => file.copy_within(other..other + page_size, start),
        8 => {
            let at = start + random.below(page_size - 16);
            (0..16).for_each(|n| file[at + n] = random.below(256) as u8);
        }
        // Swapped pages.
        9 => (0..page_size).for_each(|n| file.swap(start + n, other + n)),
        // The rest of a sector is lost.
        10 => {
            let at = start + random.below(page_size / 512) * 512;
            file[at..at + 512].fill(0);
        }
        // The header's counts.
        _ => file[[28, 31, 32, 35, 36, 39, 52, 55, 64, 67][random.below(10)]] ^= 1 << random.below(8),
    }
}

#[test]
fn whatever_sqlite_finds_in_hurt_files_is_found() {
    let folder = folder();
    let number = |name, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (seed, rounds) = (number("GUARDIAN_SEED", 20_261_122), number("GUARDIAN_ROUNDS", 200));
    println!("GUARDIAN_SEED={seed} GUARDIAN_ROUNDS={rounds}");
    let mut random = Random(seed);
    // Large pages only make it slower.
    let pristine: Vec<(u32, Vec<u8>)> =
        (0..6).map(|kind| (KINDS[kind].0, std::fs::read(made(folder.path(), kind)).unwrap())).collect();
    let (mut damaged, mut more) = (0, 0);
    let path = folder.path().join("hurt.db");
    for round in 0..rounds {
        let (page_size, pristine) = &pristine[random.below(pristine.len())];
        let mut file = pristine.clone();
        for _ in 0..=random.below(3) {
            mutate(&mut file, *page_size as usize, &mut random);
        }
        std::fs::write(&path, &file).unwrap();
        let lines = checked(&path);
        let Some(found) = scrubbed(&file, 1) else { continue };
        if lines.is_empty() {
            more += usize::from(found.faults_total > 0);
            found.faults.first().iter().for_each(|fault| println!("SQLite is content with round {round}: {fault:?}"));
        } else if !is_schemas_text(&lines) {
            damaged += 1;
            assert!(found.faults_total > 0, "round {round} of seed {seed}: {lines:#?}");
        }
    }
    println!("{rounds} files, {damaged} of them damaged to SQLite; in {more} others a scrub finds something");
    assert!(damaged > rounds as usize / 4, "{damaged} of {rounds}");
}

/// A file and its side files, as SQLite leaves them once it has recovered what there is.
pub(super) fn recovered(entry: &Path, copy: &Path) -> (Vec<String>, Vec<u8>) {
    for suffix in ["", "-wal", "-journal"] {
        let side = |path: &Path| PathBuf::from(format!("{}{suffix}", path.display()));
        let _ = std::fs::remove_file(side(copy));
        if side(entry).exists() {
            std::fs::copy(side(entry), side(copy)).unwrap();
        }
    }
    (checked(copy), std::fs::read(copy).unwrap())
}

#[test]
fn whatever_sqlite_finds_in_the_corpus_is_found() {
    let Some(corpus) = std::env::var_os("GUARDIAN_CORPUS").map(PathBuf::from) else {
        return println!("skipped: needs GUARDIAN_CORPUS, the folder with `files`");
    };
    let (folder, mut counts, mut missed) = (folder(), [0; 4], Vec::new());
    for part in ["pristine", "tests", "hexdb", "mutated"] {
        let entries = std::fs::read_dir(corpus.join("files").join(part)).unwrap().map(|entry| entry.unwrap().path());
        for entry in entries.filter(|path| path.extension().is_some_and(|extension| extension == "db")) {
            let (lines, file) = recovered(&entry, &folder.path().join("copy.db"));
            let Some(found) = scrubbed(&file, 2) else { continue };
            counts[usize::from(!lines.is_empty()) * 2 + usize::from(found.faults_total > 0)] += 1;
            let no_structure = is_schemas_text(&lines) || lines.iter().any(|line| line.contains("out of memory"));
            match (lines.is_empty(), found.faults_total) {
                (true, 1..) => println!("SQLite is content with {}: {:?}", entry.display(), found.faults.first()),
                (false, 0) if !no_structure => missed.push(format!("{}: {lines:?}", entry.display())),
                _ => {}
            }
        }
    }
    let [clean, more, text, damaged] = counts;
    println!(
        "clean: {clean}, damaged to both: {damaged}, to a scrub alone: {more}, by the schema's text alone: {text}"
    );
    assert!(damaged > 50 && clean > 50);
    assert!(missed.is_empty(), "{missed:#?}");
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic_or_go_on_for_ever(bytes in proptest::collection::vec(0u8.., 512..6000), kinds in proptest::collection::vec(0usize..5, 12)) {
        let mut bytes = bytes;
        bytes[..24].copy_from_slice(b"SQLite format 3\0\x02\0\x01\x01\0\x40\x20\x20");
        // Random pages are no pages of a tree: let some begin like one, with few cells and small numbers in what leads on.
        for (page, kind) in bytes.chunks_exact_mut(512).zip(&kinds).skip(1) {
            page[0] = [2, 5, 10, 13, 0][*kind];
            page[1..8].fill(0);
            page[4] = kind.wrapping_mul(3) as u8;
            (page[8], page[9], page[10], page[11]) = (0, 0, 0, page[11] % 13);
        }
        bytes[100] = 5;
        bytes[101..108].fill(0);
        bytes[108..112].copy_from_slice(&[0, 0, 0, 2]);
        if let Some(found) = scrubbed(&bytes, 1) {
            proptest::prop_assert!(found.faults_total > 0 && found.faults.len() as u64 <= found.faults_total);
        }
    }

    #[test]
    fn no_byte_of_a_sound_file_makes_it_panic(hurt in proptest::collection::vec((0usize..1 << 20, 0u8..), 1..60)) {
        let mut file = small();
        let len = file.len();
        hurt.iter().for_each(|(at, byte)| file[at % len] = *byte);
        let _ = scrubbed(&file, 1);
    }
}

/// A small file with a bit of all.
pub(super) fn small() -> Vec<u8> {
    static FILE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    FILE.get_or_init(|| {
        let folder = folder();
        let path = folder.path().join("small.db");
        let db = Connection::open(&path).unwrap();
        db.execute_batch(
            "PRAGMA page_size=512; PRAGMA auto_vacuum=1; CREATE TABLE t(a INTEGER PRIMARY KEY, b); CREATE INDEX i ON t(b);
             CREATE TABLE w(a PRIMARY KEY, b) WITHOUT ROWID; CREATE TABLE gone(a);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 99)
               INSERT INTO t SELECT i, zeroblob(i * 13) FROM n;
             INSERT INTO w SELECT a, b FROM t; INSERT INTO gone SELECT b FROM t; PRAGMA incremental_vacuum=0; DELETE FROM w WHERE a % 3 = 0;",
        )
        .unwrap();
        std::fs::read(&path).unwrap()
    })
    .clone()
}
