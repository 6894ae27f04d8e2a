//! What is really there, whatever anybody says: rows, promises, bytes, names.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

/// The ids that the program was promised.
pub fn promised(log: &Path) -> BTreeSet<i64> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    // A killed writer may have been in the middle of a line; a commit whose line is not whole was not told to anybody.
    text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')?.parse().ok()).collect()
}

/// The ids of the commits that can be read from an incident's evidence, all preservations together.
pub fn commits_in_evidence(incident: &Value) -> BTreeSet<i64> {
    let folder = PathBuf::from(incident["evidence"].as_str().unwrap_or_else(|| panic!("no evidence: {incident:#}")));
    let later = (2..100).map(|number| folder.join(number.to_string()));
    let folders = std::iter::once(folder.clone()).chain(later).take_while(|folder| folder.exists());
    folders.flat_map(|folder| commits_in(&folder)).collect()
}

/// The ids of the commits of a database that nobody writes to, whatever else of it is damaged.
pub fn commits_of(db: &Path) -> BTreeSet<i64> {
    commits_from(["", "-wal", "-journal"].map(|suffix| beside(db, suffix)))
}

fn commits_in(folder: &Path) -> BTreeSet<i64> {
    commits_from(["main", "wal", "journal"].map(|name| folder.join(name)))
}

fn commits_from(files: [PathBuf; 3]) -> BTreeSet<i64> {
    let folder = tempfile::tempdir().unwrap();
    let main = folder.path().join("copy.db");
    for (file, suffix) in files.iter().zip(["", "-wal", "-journal"]).filter(|(file, _)| file.exists()) {
        std::fs::copy(file, beside(&main, suffix)).unwrap();
    }
    let db = Connection::open(&main).unwrap();
    let mut query = db.prepare("SELECT id FROM commits").unwrap();
    query.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

/// A database as it is, looked at when nobody else has it open.
pub struct Content {
    /// The ids of the commits that are there.
    pub commits: BTreeSet<i64>,
    /// Rows per table.
    pub rows: BTreeMap<String, i64>,
    /// `PRAGMA integrity_check`.
    pub integrity: String,
    pub journal_mode: String,
    /// The schema's SQL.
    pub schema: BTreeSet<String>,
}

impl Content {
    /// Of a database as any program would see it.
    pub fn of(db: &Path) -> Content {
        on_copy(db, Content::read)
    }

    fn read(db: &Connection) -> Content {
        let texts = |sql: &str| -> Vec<String> {
            let mut query = db.prepare(sql).unwrap();
            query.query_map([], |row| row.get::<_, String>(0)).unwrap().map(Result::unwrap).collect()
        };
        let tables = texts("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'");
        let count = |table: &String| {
            db.query_row(&format!("SELECT count(*) FROM \"{table}\""), [], |row| row.get::<_, i64>(0)).unwrap()
        };
        let mut commits = db.prepare("SELECT id FROM commits").unwrap();
        Content {
            commits: commits.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect(),
            rows: tables.iter().map(|table| (table.clone(), count(table))).collect(),
            integrity: texts("PRAGMA integrity_check").join("\n"),
            journal_mode: texts("PRAGMA journal_mode").join(""),
            schema: texts("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL").into_iter().collect(),
        }
    }

    /// All rows of all tables.
    pub fn all_rows(&self) -> i64 {
        self.rows.values().sum()
    }
}

/// Looks at a copy, so that the look itself changes nothing: main, WAL and journal of one moment, as any program would see
/// them. guardiand looks meanwhile too, and whoever closes a database last moves its WAL into the main file.
fn on_copy<T>(db: &Path, look: impl FnOnce(&Connection) -> T) -> T {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.db");
    let sides = ["", "-wal", "-journal"];
    let state =
        || sides.map(|side| std::fs::metadata(beside(db, side)).ok().map(|it| (it.ino(), it.len(), it.mtime_nsec())));
    for _ in 0..100 {
        let before = state();
        for side in sides {
            let _ = std::fs::remove_file(beside(&copy, side));
            let _it_may_be_gone = std::fs::copy(beside(db, side), beside(&copy, side));
        }
        if state() == before {
            break;
        }
    }
    look(&Connection::open_with_flags(&copy, OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap())
}

/// How many rows each commit has that say what it wrote.
pub fn rows_of_commits(db: &Path) -> BTreeMap<i64, usize> {
    on_copy(db, |db| {
        let mut query = db
            // A bit that turns can make a text of a number.
            .prepare("SELECT commit_id, text FROM rows WHERE typeof(commit_id) = 'integer'")
            .unwrap();
        let mut rows = query.query([]).unwrap();
        let mut count = BTreeMap::new();
        while let Some(row) = rows.next().unwrap() {
            let (id, text) = (row.get::<_, i64>(0).unwrap(), row.get::<_, String>(1).unwrap_or_default());
            let unit = text.find(&format!(" of commit {id} ")).map(|at| at + format!(" of commit {id} ").len());
            let whole =
                unit.and_then(|unit| text.get(..unit)).is_some_and(|unit| text == unit.repeat(text.len() / unit.len()));
            *count.entry(id).or_default() += usize::from(whole);
        }
        count
    })
}

/// The bytes of a file, compared as such, and shown in short.
#[derive(Clone, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes, blake3 {:.8}", self.0.len(), digest_of(&self.0))
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// `path` with `suffix` appended to its name.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// BLAKE3 of a file; of what is not there, nothing.
pub fn digest(path: &Path) -> Option<String> {
    std::fs::read(path).ok().map(|bytes| digest_of(&bytes))
}

pub fn digest_of(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_string()
}

/// The names in a folder.
pub fn names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Owner, group and mode.
pub fn ownership(path: &Path) -> (u32, u32, u32) {
    let facts = std::fs::metadata(path).unwrap();
    (facts.uid(), facts.gid(), facts.mode() & 0o7777)
}

/// True when this test runs as root: then access is not denied to us, and files can be given away.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
