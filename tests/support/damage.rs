//! Ways in which files break. Each returns the bytes as they are afterwards, which is what evidence must hold.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::Connection;

use super::truth::Bytes;

/// Random numbers that can be had again: the seed is printed, and taken from GUARDIAN_TEST_SEED when that is set.
pub struct Dice(u64);

impl Dice {
    pub fn new() -> Dice {
        let given = std::env::var("GUARDIAN_TEST_SEED").ok().and_then(|text| text.parse().ok());
        let seed = given.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64);
        println!("seed: GUARDIAN_TEST_SEED={seed}");
        Dice::of(seed)
    }

    /// The same numbers for the same seed; neighbours are far apart.
    pub fn of(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// xorshift64.
    pub fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.roll() % limit as u64) as usize
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        std::iter::repeat_with(|| self.roll().to_le_bytes()).flatten().take(count).collect()
    }
}

/// Writes `bytes` at `at` in one go, as a fault would that nobody sees coming.
pub fn overwrite(path: &Path, at: usize, bytes: &[u8]) -> Bytes {
    let mut whole = std::fs::read(path).unwrap();
    whole[at..at + bytes.len()].copy_from_slice(bytes);
    File::options().write(true).open(path).unwrap().write_all_at(bytes, at as u64).unwrap();
    Bytes(whole)
}

/// Random bytes over the header.
pub fn header(path: &Path, dice: &mut Dice) -> Bytes {
    overwrite(path, 0, &dice.bytes(100))
}

/// Cuts the file to `share` of its pages.
pub fn truncate(path: &Path, share: f64) -> Bytes {
    let mut whole = std::fs::read(path).unwrap();
    let page = page_size(&whole);
    whole.truncate((whole.len() as f64 * share) as usize / page * page);
    File::options().write(true).open(path).unwrap().set_len(whole.len() as u64).unwrap();
    Bytes(whole)
}

/// Cuts a few bytes off the end of the file.
pub fn cut_end(path: &Path, bytes: usize) -> Bytes {
    let mut whole = std::fs::read(path).unwrap();
    whole.truncate(whole.len() - bytes);
    File::options().write(true).open(path).unwrap().set_len(whole.len() as u64).unwrap();
    Bytes(whole)
}

/// Random bytes over a leaf page of a table or an index.
pub fn leaf(path: &Path, of: &str, dice: &mut Dice) -> Bytes {
    let pages = leaves(path, of);
    let page = pages[dice.below(pages.len())];
    println!("page {page} of {of} is overwritten");
    let size = page_size(&std::fs::read(path).unwrap());
    overwrite(path, (page - 1) * size, &dice.bytes(size))
}

/// Random bytes over the first leaf page of a table: rows that a program which only adds some does not touch again.
pub fn first_leaf(path: &Path, of: &str, dice: &mut Dice) -> Bytes {
    let size = page_size(&std::fs::read(path).unwrap());
    overwrite(path, (leaves(path, of)[0] - 1) * size, &dice.bytes(size))
}

/// One letter of a CREATE statement in the schema.
pub fn schema(path: &Path) -> Bytes {
    let at = find(&std::fs::read(path).unwrap(), b"CREATE TABLE rows");
    overwrite(path, at, b"CREATE TABEL rows")
}

/// A letter of a column's type: every page stays sound, every statement parses, and the ids are no ids any more.
pub fn schema_silently(path: &Path) -> Bytes {
    let at = find(&std::fs::read(path).unwrap(), b"INTEGER PRIMARY KEY, commit_id");
    overwrite(path, at, b"INTEGES")
}

/// One byte of the page in the middle frame of a WAL: (bytes, frames before the damage).
pub fn wal_frame(wal: &Path) -> (Bytes, usize) {
    let whole = std::fs::read(wal).unwrap();
    let page = u32::from_be_bytes(whole[8..12].try_into().unwrap()) as usize;
    let frames = (whole.len() - 32) / (24 + page);
    assert!(frames > 4, "a WAL with {frames} frames has no middle");
    let at = 32 + frames / 2 * (24 + page) + 24 + 100;
    (overwrite(wal, at, &[whole[at] ^ 0x40]), frames / 2)
}

/// Cuts a WAL between two frames in its middle: only its index knows that there were more.
pub fn wal_cut(wal: &Path) -> Bytes {
    let mut whole = std::fs::read(wal).unwrap();
    let page = u32::from_be_bytes(whole[8..12].try_into().unwrap()) as usize;
    let frames = (whole.len() - 32) / (24 + page);
    whole.truncate(32 + frames / 2 * (24 + page));
    File::options().write(true).open(wal).unwrap().set_len(whole.len() as u64).unwrap();
    Bytes(whole)
}

/// One byte of the second page in a rollback journal's first segment, of whose records every one is synced.
pub fn journal_record(journal: &Path) -> Bytes {
    let whole = std::fs::read(journal).unwrap();
    let word = |at: usize| u32::from_be_bytes(whole[at..at + 4].try_into().unwrap()) as usize;
    let (records, sector, page) = (word(8), word(20), word(24));
    assert!(records >= 2, "a segment with {records} records has no second");
    // The checksum covers every 200th byte from the page's end, and no other.
    let at = sector + (page + 8) + 4 + (page - 200);
    overwrite(journal, at, &[whole[at] ^ 0xff])
}

/// Bytes a page, from the header.
pub fn page_size(main: &[u8]) -> usize {
    match u16::from_be_bytes([main[16], main[17]]) {
        1 => 65536,
        size => usize::from(size),
    }
}

/// The leaf pages of a table or an index; asked of a copy, so that the asking touches nothing.
fn leaves(path: &Path, of: &str) -> Vec<usize> {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.db");
    std::fs::copy(path, &copy).unwrap();
    let db = Connection::open(&copy).unwrap();
    let mut query = db.prepare("SELECT pageno FROM dbstat WHERE name = ?1 AND pagetype = 'leaf'").unwrap();
    let pages = query.query_map([of], |row| row.get::<_, i64>(0)).unwrap();
    let pages = pages.map(|page| page.unwrap() as usize).collect::<Vec<_>>();
    assert!(pages.len() > 1, "{of} is too small to lose a leaf");
    pages
}

fn find(bytes: &[u8], what: &[u8]) -> usize {
    bytes.windows(what.len()).position(|window| window == what).unwrap()
}
