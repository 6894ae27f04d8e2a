//! Real databases, the real binary, and the whole content of a folder as one value.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use guardian::job::{Client, ClientOptions, DatabaseFacts, DatabaseProbe, DatabaseSite, IntegrityLevel, Job, Outcome};

/// A folder with a database to be watched and a scratch folder beside it.
pub struct Host {
    pub folder: tempfile::TempDir,
    scratch: tempfile::TempDir,
}

impl Host {
    pub fn new() -> Host {
        Host { folder: tempfile::tempdir().unwrap(), scratch: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A sound database of some pages, with an index.
    pub fn database(&self, name: &str, journal_mode: &str) -> PathBuf {
        let path = self.path(name);
        let db = rusqlite::Connection::open(&path).unwrap();
        db.execute_batch(&format!(
            "PRAGMA journal_mode={journal_mode};
             CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT); CREATE INDEX t_b ON t(b);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<2000)
             INSERT INTO t SELECT i, 'text of row '||i FROM n;"
        ))
        .unwrap();
        db.close().unwrap();
        path
    }

    pub fn probe(&self, path: &Path) -> DatabaseProbe {
        DatabaseProbe {
            site: DatabaseSite {
                name: "app".into(),
                path: path.to_owned(),
                user: None,
                scratch: self.scratch.path().join("scratch"),
                busy_ms: 200,
                block_max_ms: 10_000,
            },
            integrity: IntegrityLevel::Suspicion,
            inline_max_bytes: 64 << 20,
            known: None,
            known_way: 0,
            wal_unread: guardian::job::WalUnread::Nothing,
            unwatched: false,
            last_healthy: None,
            wal_mark: None,
            wal_marked: None,
            canary: None,
            diagnose: false,
            schema: None,
            users: false,
            backups: None,
            members: Vec::new(),
            map_pages: false,
            doubted: guardian::job::Doubted::default(),
            evidence: None,
            last_files: None,
        }
    }

    /// Every entry of the watched folder: what it is, and the hash of its bytes.
    pub fn content(&self) -> BTreeMap<PathBuf, String> {
        let mut content = BTreeMap::new();
        for entry in std::fs::read_dir(self.folder.path()).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            let what = if kind.is_file() && entry.metadata().unwrap().len() < 1 << 30 {
                blake3::hash(&std::fs::read(entry.path()).unwrap()).to_string()
            } else {
                format!("{kind:?} {}", entry.metadata().unwrap().len())
            };
            content.insert(entry.path(), what);
        }
        content
    }

    /// What is left in the scratch folder.
    pub fn scratch(&self) -> usize {
        std::fs::read_dir(self.scratch.path().join("scratch")).map_or(0, Iterator::count)
    }
}

pub fn options() -> ClientOptions {
    ClientOptions::new(env!("CARGO_BIN_EXE_guardiand"))
}

pub const PATIENCE: Duration = Duration::from_secs(60);

/// Runs one job to its end in a child of its own.
pub fn run(job: Job) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(Client::new(options()).run(job, PATIENCE)).unwrap()
}

pub fn look(probe: DatabaseProbe) -> DatabaseFacts {
    match run(Job::Probe(Box::new(probe))) {
        Outcome::Probed(facts) => *facts,
        other => panic!("{other:?}"),
    }
}
