//! Rows and indexes that SQLite writes agree, and where `integrity_check` of the bundled SQLite says that they do not, a scrub does too.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;

use super::tests::{Bytes, KINDS, Random, folder, made, small};
use super::*;
use crate::sqlite::{Access, Contents, Database, Deadline};

/// What both say of a file.
struct Judged {
    found: Scrub,
    contents: Contents,
}

/// `None` for a file whose header or schema cannot be read.
fn judged(path: &Path, threads: usize) -> Option<Judged> {
    let file = std::fs::read(path).unwrap();
    let header = Header::parse(&file).ok()?;
    let database = Database::open(path, Access::Immutable, Duration::ZERO, Deadline::never()).unwrap();
    let contents = database.contents().ok()?;
    database.close().unwrap();
    let there = file.len().div_ceil(header.page_size as usize) as u32;
    let counted = header.counted_pages().unwrap_or(there);
    let plan =
        ScrubPlan { header, counted, there, threads, faults_max: 1000, contents: Some(contents.tables.as_slice()) };
    let found = scrub(&Bytes(file, header.page_size), &plan, &|_| true).unwrap();
    Some(Judged { found, contents })
}

impl Judged {
    /// Tables that SQLite is left with, by name.
    fn left(&self) -> BTreeSet<&str> {
        let undecided = self.found.undecided.iter().map(|(table, _)| table.as_str());
        undecided.chain(self.contents.left.iter().map(|left| left.name.as_str())).collect()
    }
}

/// The lines of `integrity_check`; the error is what ended it.
fn checked(path: &Path) -> Result<Vec<String>, rusqlite::Error> {
    let db = Connection::open_with_flags(
        format!("file:{}?immutable=1", path.display()),
        rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY | rusqlite::OpenFlags::SQLITE_OPEN_URI,
    )
    .unwrap();
    let mut statement = db.prepare("PRAGMA integrity_check(10000)")?;
    let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
    let lines: Vec<String> = rows.collect::<Result<_, _>>()?;
    let of_virtual = |line: &&String| !line.starts_with("In RTree") && !line.to_lowercase().contains("fts5");
    Ok(lines
        .iter()
        .filter(of_virtual)
        .flat_map(|line| line.lines())
        .filter(|line| *line != "ok")
        .map(str::to_owned)
        .collect())
}

/// The index or the table that a line about content speaks of.
fn spoken_of(line: &str) -> Option<String> {
    let behind = |words: &str| line.split_once(words).map(|(_, name)| name.to_owned());
    let index = ["missing from index ", "wrong # of entries in index ", "non-unique entry in index "]
        .into_iter()
        .chain(["values differ from index ", " of index ", "not in PRIMARY KEY order for "])
        .find_map(behind);
    let ruled = || {
        let named = [" value in ", "CHECK constraint failed in "].into_iter().find_map(behind)?;
        Some(named.rsplit_once('.').map_or(named.clone(), |(table, _)| table.to_owned()))
    };
    index.or_else(ruled)
}

/// Everything that can be compared by bytes alone.
fn add_provable(path: &Path) {
    let db = Connection::open(path).unwrap();
    let is_utf8 = db.query_row("PRAGMA encoding", [], |row| row.get::<_, String>(0)).unwrap() == "UTF-8";
    // These have a collation that is for UTF-8 alone.
    let collated = "CREATE TABLE nc(a TEXT COLLATE NOCASE UNIQUE, b TEXT COLLATE RTRIM); CREATE INDEX nc_b ON nc(b, a DESC);
         CREATE INDEX nc_m ON nc(a COLLATE BINARY, b COLLATE NOCASE);
         CREATE TABLE nw(a TEXT COLLATE NOCASE, b TEXT COLLATE RTRIM, c, PRIMARY KEY(b, a DESC)) WITHOUT ROWID;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)
           INSERT INTO nc SELECT CASE i % 3 WHEN 0 THEN 'Ab' WHEN 1 THEN 'aB' ELSE 'ab_' END || i || char(0) || i, substr('x   ', 1, i % 5) FROM n;
         INSERT INTO nw SELECT a, b || rowid || substr('   ', 1, rowid % 3), rowid FROM nc;
         CREATE INDEX nw_c ON nw(c DESC, b);";
    db.execute_batch(&format!(
        "PRAGMA journal_mode=memory; PRAGMA synchronous=off; BEGIN;
         CREATE TABLE p(id INTEGER PRIMARY KEY, i INT, r REAL, n NUMERIC, t TEXT NOT NULL, b BLOB, x);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
           INSERT INTO p SELECT i * 77 % 1009 - 500,
             CASE i % 7 WHEN 0 THEN NULL WHEN 1 THEN i * 1000000007 WHEN 2 THEN 'no number' WHEN 3 THEN 9007199254740993 + i
               WHEN 4 THEN i + 0.5 WHEN 5 THEN x'00' ELSE -i END,
             CASE i % 5 WHEN 0 THEN i WHEN 1 THEN -0.0 WHEN 2 THEN i / 3.0 WHEN 3 THEN 9.3e18 * i ELSE 9007199254740993 END,
             CASE i % 4 WHEN 0 THEN '12' WHEN 1 THEN 1e100 WHEN 2 THEN '2026-01-' || i ELSE '1e5' END,
             hex(zeroblob(i % 40)) || i || char(0, 233, 8364), zeroblob(i * 5 % 1500),
             CASE i % 6 WHEN 0 THEN NULL WHEN 1 THEN i WHEN 2 THEN i * 1.0 WHEN 3 THEN '' WHEN 4 THEN x'' ELSE i * 0.1 END FROM n;
         CREATE INDEX p_i ON p(i); CREATE INDEX p_r ON p(r DESC, i); CREATE INDEX p_n ON p(n, id); CREATE UNIQUE INDEX p_u ON p(t, x);
         CREATE INDEX p_b ON p(b, x DESC); CREATE INDEX p_x ON p(x, r, n, i);
         ALTER TABLE p ADD COLUMN d INT DEFAULT 7; ALTER TABLE p ADD COLUMN e TEXT DEFAULT 'e''e'; ALTER TABLE p ADD COLUMN f REAL;
         ALTER TABLE p ADD COLUMN g REAL NOT NULL DEFAULT -3; CREATE INDEX p_d ON p(d, e, f, g);
         INSERT INTO p(t, d, g) SELECT 'later' || id, id, id / 2.0 FROM p LIMIT 50;
         CREATE TABLE st(a INTEGER, b REAL, c TEXT, d BLOB, e ANY, UNIQUE(a, b)) STRICT;
         INSERT INTO st SELECT id, r, t, b, x FROM p; CREATE INDEX st_e ON st(e, c);
         CREATE TABLE sw(a INT, b TEXT, c REAL, d, PRIMARY KEY(b, a DESC, c)) WITHOUT ROWID;
         INSERT INTO sw SELECT id, t, coalesce(r, 0), b FROM p; CREATE INDEX sw_d ON sw(d); CREATE UNIQUE INDEX sw_a ON sw(a, c);
         CREATE TABLE gs(a, b AS (a || 'x') STORED, c); INSERT INTO gs(a, c) SELECT t, i FROM p; CREATE INDEX gs_b ON gs(b, c);
         CREATE TABLE un(a UNIQUE, b, UNIQUE(a, b)); INSERT INTO un SELECT NULL, id % 3 FROM p; INSERT INTO un SELECT id, NULL FROM p;
         CREATE TABLE rd(k INTEGER PRIMARY KEY DESC, v); INSERT INTO rd SELECT id, i FROM p;
         {} DELETE FROM p WHERE id % 7 = 0; UPDATE p SET x = 'u' || id WHERE id % 11 = 0; COMMIT;",
        if is_utf8 { collated } else { "" }
    ))
    .unwrap();
}

fn provable(folder: &Path, kind: usize) -> PathBuf {
    let path = made(folder, kind);
    add_provable(&path);
    path
}

#[test]
fn rows_and_indexes_that_sqlite_writes_agree() {
    let folder = folder();
    for (kind, measures) in KINDS.iter().enumerate() {
        let path = provable(folder.path(), kind);
        assert_eq!(checked(&path), Ok(vec![]), "{measures:?}");
        let judged = judged(&path, 2).unwrap();
        assert_eq!((&judged.found.faults, judged.found.faults_total), (&vec![], 0), "{measures:?}");
        let left = judged.left();
        // Of UTF-16 a text in a column of numbers is not read.
        let is_utf8 = measures.2 == "UTF-8";
        for table in ["w", "gs", "un", "rd", "st", "sw"] {
            assert!(!left.contains(table), "{measures:?}: {:?}", judged.found.undecided);
        }
        assert_eq!(left.contains("p"), !is_utf8, "{measures:?}: {:?}", judged.found.undecided);
        for table in ["t", "or where", "f", "r"] {
            assert!(left.contains(table), "{measures:?}: {left:?}");
        }
        if is_utf8 {
            assert!(!left.contains("nc") && !left.contains("nw"), "{:?}", judged.found.undecided);
        }
        let pages = 1..=judged.found.pages;
        let owned = pages.filter(|page| judged.found.owner_of(*page).is_some()).count() as u32;
        let held: u32 = judged.found.trees.iter().map(|tree| tree.pages + tree.overflow_pages).sum();
        assert_eq!(owned, held);
    }
}

/// Does to a table what its index `index` does not see.
fn unseen(path: &Path, index: &str, change: &str) {
    let db = Connection::open(path).unwrap();
    db.execute_batch(&format!(
        "PRAGMA writable_schema=ON; CREATE TEMP TABLE kept AS SELECT * FROM sqlite_schema WHERE name='{index}';
         DELETE FROM sqlite_schema WHERE name='{index}'; PRAGMA writable_schema=RESET; {change};
         PRAGMA writable_schema=ON; INSERT INTO main.sqlite_schema SELECT * FROM temp.kept; PRAGMA writable_schema=RESET"
    ))
    .unwrap();
}

#[test]
fn each_way_to_disagree_is_found_as_sqlite_finds_it() {
    let folder = folder();
    let unique =
        "PRAGMA writable_schema=ON; UPDATE sqlite_schema SET sql='CREATE UNIQUE INDEX uq ON un(b)' WHERE name='uq'";
    let table: [(&str, &str, &str); 15] = [
        ("p_i", "DELETE FROM p WHERE id={one}", "wrong # of entries"),
        ("p_i", "INSERT INTO p(id, t) VALUES(7777, 'new')", "missing from index"),
        ("p_i", "UPDATE p SET i=i+1 WHERE id={one}", "missing from index"),
        ("p_r", "UPDATE p SET r=r+1e-9 WHERE id={one}", "missing from index"),
        ("p_u", "UPDATE p SET t=t||'x' WHERE id={one}", "missing from index"),
        ("p_d", "UPDATE p SET d=8 WHERE id={one}", "missing from index"),
        ("p_x", "UPDATE p SET x=x'' WHERE x=''", "missing from index"),
        ("sw_d", "UPDATE sw SET d='other' WHERE a={one}", "missing from index"),
        ("sw_d", "UPDATE sw SET a=70000 WHERE a={one}", "missing from index"),
        ("nc_b", "UPDATE nc SET b=b||' ' WHERE rowid=7", "values differ"),
        ("nc_m", "UPDATE nc SET a=lower(a) WHERE rowid=6", "missing from index"),
        ("nc_m", "DELETE FROM nc WHERE rowid=6; INSERT INTO nc(rowid, a) VALUES(6, 'zz')", "missing from index"),
        ("st_e", "UPDATE st SET e=c, c=b", "missing from index"),
        ("uq", unique, "non-unique entry"),
        ("gs_b", "UPDATE gs SET a='z' WHERE rowid=9", "missing from index"),
    ];
    for (index, change, words) in table {
        let change = &change.replace("{one}", "(SELECT id FROM p WHERE i IS NOT NULL ORDER BY id LIMIT 1 OFFSET 100)");
        let path = folder.path().join("changed.db");
        std::fs::copy(provable(folder.path(), 0), &path).unwrap();
        std::fs::remove_file(folder.path().join("512-0.db")).unwrap();
        if index == "uq" {
            let db = Connection::open(&path).unwrap();
            db.execute_batch(&format!("CREATE INDEX uq ON un(b); {change}")).unwrap();
        } else {
            unseen(&path, index, change);
        }
        let lines = checked(&path).unwrap();
        assert!(lines.iter().any(|line| line.contains(words)), "{change}: {lines:?}");
        for threads in [1, 3] {
            let judged = judged(&path, threads).unwrap();
            let owner = format!(
                "index {index} of {}",
                index.split('_').next().map_or("", |table| if table == "uq" { "un" } else { table })
            );
            assert!(
                judged.found.faults.iter().all(|fault| fault.owner == owner),
                "{change}: {:?}",
                judged.found.faults
            );
            assert!(judged.found.faults_total > 0, "{change}: {lines:?}");
        }
        std::fs::remove_file(&path).unwrap();
    }
}

/// A byte of a cell's payload is another: the structure is as it was.
fn change_payload(file: &mut [u8], page_size: usize, random: &mut Random) {
    let page = random.below(file.len() / page_size) * page_size;
    let bytes = &file[page..page + page_size];
    let header = if page == 0 { 100 } else { 0 };
    let (cells, start) = match bytes[header] {
        10 | 13 => (usize::from(bytes[header + 3]) << 8 | usize::from(bytes[header + 4]), header + 8),
        2 => (usize::from(bytes[header + 3]) << 8 | usize::from(bytes[header + 4]), header + 12),
        _ => return,
    };
    if cells == 0 || page == 0 {
        return;
    }
    let at = start + 2 * random.below(cells);
    let cell = usize::from(bytes[at]) << 8 | usize::from(bytes[at + 1]);
    let at = page + cell + random.below(60);
    if at < page + page_size {
        file[at] = match random.below(4) {
            0 => file[at] ^ 1 << random.below(8),
            1 => file[at].wrapping_add(1),
            2 => [0, 1, 2, 7, 8, 9, 13, 32, 65, 97, 255][random.below(11)],
            _ => file[at] ^ 0x20,
        };
    }
}

#[test]
fn whatever_sqlite_finds_of_hurt_content_is_found_and_nothing_else() {
    let folder = folder();
    let number = |name, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (seed, rounds) = (number("GUARDIAN_SEED", 20_261_122), number("GUARDIAN_ROUNDS", 60));
    println!("GUARDIAN_SEED={seed} GUARDIAN_ROUNDS={rounds}");
    let mut random = Random(seed);
    let pristine: Vec<(u32, Vec<u8>)> =
        [0, 1, 3, 4].map(|kind| (KINDS[kind].0, std::fs::read(provable(folder.path(), kind)).unwrap())).to_vec();
    let (mut structure, mut content, mut rules, mut more) = (0, 0, 0, 0);
    let path = folder.path().join("hurt.db");
    for round in 0..rounds {
        let (page_size, pristine) = &pristine[random.below(pristine.len())];
        let mut file = pristine.clone();
        for _ in 0..=random.below(4) {
            change_payload(&mut file, *page_size as usize, &mut random);
        }
        std::fs::write(&path, &file).unwrap();
        let Some(judged) = judged(&path, 1) else { continue };
        let kinds = [ScrubFaultKind::IndexContent, ScrubFaultKind::EntryColumns { expected: 0 }];
        let is_content = |fault: &ScrubFault| {
            matches!(fault.what, ScrubFaultKind::KeyOrder { .. } | ScrubFaultKind::NotUnique { .. })
                || kinds.iter().any(|kind| std::mem::discriminant(kind) == std::mem::discriminant(&fault.what))
        };
        if judged.found.faults.iter().any(|fault| !is_content(fault)) {
            structure += 1;
            continue;
        }
        let lines = match checked(&path) {
            Ok(lines) => lines,
            // A virtual table's own words about its rows.
            Err(error) if error.to_string().contains("fts5") => continue,
            Err(error) => panic!("round {round} of seed {seed}: only SQLite fails: {error}"),
        };
        let left = judged.left();
        let owners: BTreeSet<&str> = judged.found.faults.iter().map(|fault| fault.owner.as_str()).collect();
        let index_of = |name: &str| {
            judged.found.trees.iter().find(|tree| tree.name == name).map(|tree| (tree.kind, tree.table.clone()))
        };
        for line in &lines {
            let name = spoken_of(line).unwrap_or_else(|| panic!("round {round} of seed {seed}: {line}"));
            let Some((kind, table)) = index_of(&name) else { continue };
            let is_rule = line.contains(" value in ") || line.starts_with("CHECK");
            let owner =
                if kind == SchemaKind::Index { format!("index {name} of {table}") } else { format!("table {name}") };
            let is_found = left.contains(table.as_str()) || !is_rule && owners.contains(owner.as_str());
            (rules, content) = (rules + usize::from(is_rule), content + usize::from(!is_rule));
            assert!(is_found, "round {round} of seed {seed}: {line}; {owners:?}, left {left:?}");
        }
        let has_lines = |owner: &&str| {
            lines.iter().filter_map(|line| spoken_of(line)).any(|name| owner.split(' ').any(|word| word == name))
        };
        if let Some(owner) = owners.iter().find(|owner| !has_lines(owner)) {
            more += 1;
            println!("SQLite is content with {owner} of round {round}: {:?}, and says {lines:?}", judged.found.faults);
        }
    }
    println!(
        "{rounds} files: structure hurt in {structure}, {content} lines of indexes, {rules} of rules; {more} more"
    );
    assert!(content > rounds as usize / 4, "{content} of {rounds}");
    assert!(more <= rounds as usize / 50, "{more} of {rounds}");
}

#[test]
fn whatever_sqlite_finds_in_the_corpus_of_content_is_found() {
    let Some(corpus) = std::env::var_os("GUARDIAN_CORPUS").map(PathBuf::from) else {
        return println!("skipped: needs GUARDIAN_CORPUS, the folder with `files`");
    };
    let (folder, mut missed, mut more, mut compared) = (folder(), Vec::new(), 0, 0);
    for part in ["pristine", "tests", "hexdb", "mutated"] {
        let entries = std::fs::read_dir(corpus.join("files").join(part)).unwrap().map(|entry| entry.unwrap().path());
        for entry in entries.filter(|path| path.extension().is_some_and(|extension| extension == "db")) {
            let copy = folder.path().join("copy.db");
            super::tests::recovered(&entry, &copy);
            let (Some(judged), Ok(lines)) = (judged(&copy, 2), checked(&copy)) else { continue };
            compared += 1;
            let left = judged.left();
            let of_left = |line: &String| {
                let name = spoken_of(line).unwrap_or_default();
                let tree = judged.found.trees.iter().find(|tree| tree.name == name);
                tree.is_none_or(|tree| left.contains(tree.table.as_str()))
            };
            match (lines.iter().find(|line| !of_left(line)), judged.found.faults.first()) {
                (Some(line), None) => missed.push(format!("{}: {line}", entry.display())),
                (None, Some(fault)) if lines.is_empty() => {
                    more += 1;
                    println!("SQLite is content with {}: {fault:?}", entry.display());
                }
                _ => {}
            }
        }
    }
    println!("{compared} compared, {more} more");
    assert!(compared > 100);
    assert!(missed.is_empty(), "{missed:#?}");
}

/// The tables of `small`, as SQLite reads them.
fn contents_of_small() -> &'static Contents {
    static CONTENTS: std::sync::OnceLock<Contents> = std::sync::OnceLock::new();
    CONTENTS.get_or_init(|| {
        let folder = folder();
        let path = folder.path().join("small.db");
        std::fs::write(&path, small()).unwrap();
        Database::open(&path, Access::Immutable, Duration::ZERO, Deadline::never()).unwrap().contents().unwrap()
    })
}

proptest::proptest! {
    /// Also where the schema is not that of the file.
    #[test]
    fn no_byte_of_a_sound_file_makes_a_full_scrub_panic(hurt in proptest::collection::vec((0usize..1 << 20, 0u8..), 0..40)) {
        let mut file = small();
        let len = file.len();
        hurt.iter().for_each(|(at, byte)| file[at % len] = *byte);
        if let Ok(header) = Header::parse(&file) {
            let there = (len / header.page_size as usize) as u32;
            let contents = Some(contents_of_small().tables.as_slice());
            let plan = ScrubPlan { header, counted: there, there, threads: 1, faults_max: 9, contents };
            let found = scrub(&Bytes(file, header.page_size), &plan, &|_| true).unwrap();
            proptest::prop_assert!(!hurt.is_empty() || found.faults_total == 0 && found.undecided.is_empty());
        }
    }
}
