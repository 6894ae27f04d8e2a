//! Thousands of damaged files through all that hostile bytes reach, the same in every run: `GUARDIAN_TEST_SEED` gives others, and
//! `GUARDIAN_TEST_MUTATIONS` more of them. What panics is written to a file that its fuzz target takes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use rusqlite::Connection;

use crate::format::fuzz::{TARGETS, Target};
use crate::format::{MappedTree, PageMap, page_hash};

/// Mutants of each seed, per target.
const MUTANTS: u64 = 400;

struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.roll() % limit.max(1) as u64) as usize
    }
}

/// Small databases with every kind of page, a WAL and a journal.
fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let folder = tempfile::tempdir().unwrap();
    let made = |name: &str, pragmas: &str| {
        let path = folder.path().join(name);
        let db = Connection::open(&path).unwrap();
        let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<70) INSERT INTO";
        db.execute_batch(&format!(
            "{pragmas}; CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b); CREATE INDEX t_a ON t(a);
             CREATE TABLE w(k TEXT PRIMARY KEY, v) WITHOUT ROWID; CREATE TABLE gone(x);
             {fill} t SELECT i, 'text ' || i, i / 3.0 FROM n; {fill} w SELECT 'key ' || i, i FROM n;
             {fill} gone SELECT i FROM n; INSERT INTO t(a, b) VALUES ('long', zeroblob(2000)); DROP TABLE gone",
        ))
        .unwrap();
        (db, path)
    };
    let file = |name: &str, pragmas: &str| std::fs::read(made(name, pragmas).1).unwrap();
    let side = |name: &str, pragmas: &str, then: &str, suffix: &str| {
        let (db, path) = made(name, pragmas);
        db.execute_batch(then).unwrap();
        std::fs::read(Path::new(&format!("{}{suffix}", path.display()))).unwrap()
    };
    let plain = file("plain", "PRAGMA page_size=512");
    let update = "UPDATE t SET b = a; DELETE FROM w WHERE v > 20; INSERT INTO t(a) VALUES (zeroblob(900))";
    let mut leaf = vec![8, 0];
    leaf.extend_from_slice(&plain[512..1024]);
    vec![
        ("header", plain[..100].to_vec()),
        ("page", leaf),
        ("record", b"\x06\x17\x0f\x0f\x01\x25tablett\x02CREATE T(a)".to_vec()),
        ("wal", side("wal", "PRAGMA page_size=512; PRAGMA journal_mode=WAL", update, "-wal")),
        (
            "journal",
            side("journal", "PRAGMA page_size=512", &format!("PRAGMA cache_size=1; BEGIN; {update}"), "-journal"),
        ),
        ("page_map", page_map()),
        ("scrub", file("vacuum", "PRAGMA page_size=512; PRAGMA auto_vacuum=FULL")),
        ("salvage", file("utf16", "PRAGMA page_size=1024; PRAGMA encoding='UTF-16be'")),
        ("scrub", plain.clone()),
        ("salvage", plain),
    ]
}

/// Without its sum, as the target takes it.
fn page_map() -> Vec<u8> {
    let mut map = PageMap::of_hashes(4096, (0..9).map(|page| page_hash(&[page; 4096])).collect());
    map.about = b"{\"taken_at\":\"2026-11-22T00:00:00Z\"}".to_vec();
    for (root, is_index, name) in [(2, false, "t"), (5, true, "t_a")] {
        map.trees.push(MappedTree { root, is_index, name: name.to_owned(), table: "t".to_owned() });
    }
    let mut bytes = map.encode().unwrap();
    bytes.truncate(bytes.len() - 32);
    bytes
}

fn mutant(seed: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..1 + dice.below(10) {
        let len = bytes.len();
        if len == 0 {
            break;
        }
        let at = dice.below(len);
        let count = dice.below(600).min(len - at);
        match dice.below(8) {
            0 => bytes[at] ^= 1 << dice.below(8),
            1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][dice.below(5)],
            // What a page is, and where its cells are, stands at its beginning.
            2 | 3 => {
                let head = (at / 512 * 512 + dice.below(24)).min(len - 1);
                bytes[head] = dice.roll() as u8;
            }
            4 => bytes.copy_within(at..at + count, dice.below(len - count + 1)),
            5 => bytes[at..at + count].fill(0),
            6 => bytes.truncate(at),
            // A record grows, and all behind it moves.
            _ => bytes.insert(at, dice.roll() as u8),
        }
    }
    bytes
}

fn attempt((name, run): Target, bytes: &[u8], told: &str) {
    if catch_unwind(AssertUnwindSafe(|| run(bytes))).is_err() {
        let path = std::env::temp_dir().join(format!("guardian-{name}-panic"));
        std::fs::write(&path, bytes).unwrap();
        panic!("{name} panicked on {told}: the bytes are in {}", path.display());
    }
}

#[test]
fn no_mutant_of_a_file_makes_anything_panic() {
    let from =
        |name: &str, default: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (seed, mutants) = (from("GUARDIAN_TEST_SEED", 20_261_122), from("GUARDIAN_TEST_MUTATIONS", MUTANTS));
    println!("GUARDIAN_TEST_SEED={seed} GUARDIAN_TEST_MUTATIONS={mutants}");
    for (kind, bytes) in seeds() {
        let target = TARGETS.into_iter().find(|(name, _)| *name == kind).unwrap();
        attempt(target, &bytes, "a sound seed");
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        // Whole files cost a hundred times what their parts do.
        let count = if bytes.len() > 2000 { mutants } else { mutants * 10 };
        for nth in 0..count {
            let bytes = mutant(&bytes, &mut dice);
            attempt(target, &bytes, &format!("mutant {nth} of {seed}"));
        }
    }
}

/// Every target is asked with every seed: a database is no WAL, and must be told apart without harm.
#[test]
fn what_is_of_another_kind_harms_nobody() {
    for target in TARGETS {
        for (kind, bytes) in seeds() {
            attempt(target, &bytes, kind);
        }
        for length in 0..40 {
            attempt(target, &vec![0xff; length], "ones");
            attempt(target, &vec![0; length * 100], "zeros");
        }
    }
}
