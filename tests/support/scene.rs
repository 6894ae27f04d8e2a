//! A folder with databases, a configuration, and what happens there.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use tempfile::TempDir;

use super::daemon::Daemon;
use super::program::Program;
use super::truth::{self, Bytes, Content, beside, names};

/// Every scene of every process has an address of its own: no port is taken twice, however many tests run at once.
static SCENES: AtomicU32 = AtomicU32::new(0);

/// The databases are in `data`, all else beside it: what appears in `data` is seen.
pub struct Scene {
    folder: TempDir,
    address: SocketAddr,
    guardian: String,
    gates: String,
    tables: String,
}

impl Scene {
    pub fn new() -> Scene {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("data")).unwrap();
        Scene {
            folder,
            address: address(),
            guardian: String::new(),
            // A test is patient with the machine, not with a cooldown that it is not about.
            gates: "cooldown = \"0s\"\nheals = { max = 1000, per = \"1h\" }\nrepeat = { max = 1000, within = \"10m\" }"
                .to_owned(),
            tables: String::new(),
        }
    }

    /// A scene with one database `app` at `data/app.db`, with these further lines in its table.
    pub fn of(lines: &str) -> Scene {
        let mut scene = Scene::new();
        scene.database("app", "data/app.db", lines);
        scene
    }

    /// Further lines for `[guardian]`.
    pub fn guardian(&mut self, lines: &str) {
        self.guardian = lines.to_owned();
    }

    /// Other lines for `[gates]`.
    pub fn gates(&mut self, lines: &str) {
        self.gates = lines.to_owned();
    }

    /// One more `[[database]]`.
    pub fn database(&mut self, name: &str, path: &str, lines: &str) {
        self.tables += &format!("[[database]]\nname = \"{name}\"\npath = \"{path}\"\n{lines}\n");
    }

    /// Further tables, as they are.
    pub fn raw(&mut self, tables: &str) {
        self.tables += tables;
    }

    /// Forgets every `[[database]]`, to write them anew.
    pub fn forget_databases(&mut self) {
        self.tables.clear();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `data/app.db`.
    pub fn db(&self) -> PathBuf {
        self.path("data/app.db")
    }

    /// The log of the program that writes `db`.
    pub fn log_of(&self, db: &Path) -> PathBuf {
        self.path(&format!("{}.log", db.file_name().unwrap().to_str().unwrap()))
    }

    /// The names in `data`.
    pub fn names(&self) -> Vec<String> {
        names(&self.path("data")).into_iter().collect()
    }

    /// Writes the configuration as it stands.
    pub fn write_config(&self) -> PathBuf {
        let text = format!(
            "[guardian]\nstate_dir = \"state\"\ninterval = \"500ms\"\nhttp = \"{}\"\n{}\n\n[gates]\n{}\n\n[log]\nlevel = \"info\"\n\n{}",
            self.address, self.guardian, self.gates, self.tables
        );
        let path = self.path("guardian.toml");
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Starts the daemon, and waits for its first sweep.
    pub fn daemon(&self) -> Daemon {
        self.launch(&[]).ready()
    }

    /// Starts the daemon with variables in its environment, and does not wait.
    pub fn launch(&self, environment: &[(&str, &str)]) -> Daemon {
        Daemon::launch(&self.write_config(), self.address, &self.path("daemon.log"), environment)
    }

    /// Runs the writer on `data/app.db` until it is ready.
    pub fn writer(&self, mode: &str, commits: &str, flags: &[&str]) -> Program {
        self.writer_of(&self.db(), mode, commits, flags)
    }

    /// Runs the writer on `db` until it is ready.
    pub fn writer_of(&self, db: &Path, mode: &str, commits: &str, flags: &[&str]) -> Program {
        Program::start(db, mode, commits, &self.log_of(db), flags)
    }

    /// Commits so often to `data/app.db`, and closes it in order.
    pub fn commit(&self, mode: &str, commits: u32, flags: &[&str]) {
        self.commit_to(&self.db(), mode, commits, flags);
    }

    /// Commits so often to `db`, and closes it in order. Unless it is asked for no checkpoint, all is in the main file then: a
    /// look of a daemon's that has it open meanwhile would keep the program from being the last to close, who sees to that.
    pub fn commit_to(&self, db: &Path, mode: &str, commits: u32, flags: &[&str]) {
        let written_back = mode == "wal" && !flags.contains(&"--no-checkpoint");
        let last = if written_back { &["--checkpoint"][..] } else { &[] };
        let status = self.writer_of(db, mode, &commits.to_string(), &[flags, last].concat()).finish();
        assert!(status.success(), "the writer ended with {status}");
    }

    /// Root may read everything: to deny access to the database's user, that user must be another.
    pub fn give_away_if_root(&self) {
        if truth::is_root() {
            std::os::unix::fs::chown(self.db(), Some(4321), Some(4322)).unwrap();
        }
    }

    /// The promises that were made for `db` and are not kept.
    pub fn lost_of(&self, db: &Path) -> usize {
        truth::promised(&self.log_of(db)).difference(&Content::of(db).commits).count()
    }

    /// The promises that were made for `data/app.db` and are not kept.
    pub fn lost(&self) -> usize {
        self.lost_of(&self.db())
    }

    /// A closed incident's loss, against what is really there: what it counts is right, what it cannot know is null.
    pub fn assert_honest(&self, incident: &Value, db: &Path) {
        let (content, lost) = (Content::of(db), self.lost_of(db));
        let loss = &incident["loss"];
        if loss.is_null() {
            assert_eq!(lost, 0, "nothing is said of {lost} lost commits: {incident:#}");
            return;
        }
        assert_eq!(loss["rows_kept"], content.all_rows(), "{incident:#}");
        match loss["rows_lost"].as_u64() {
            Some(0) => assert_eq!(lost, 0, "{lost} commits are lost, and none is said to be: {incident:#}"),
            Some(said) if lost > 0 => {
                assert!(said >= lost as u64, "{lost} commits are lost, {said} rows said: {incident:#}");
            }
            // Rows of commits that are there, each of which had as many.
            Some(said) => assert_eq!(said, self.rows_missing(db), "{incident:#}"),
            None => {}
        }
    }

    /// Rows that commits lack which were told the program, when all of these had as many.
    fn rows_missing(&self, db: &Path) -> u64 {
        let there = truth::rows_of_commits(db);
        let each = there.values().max().copied().unwrap_or(0);
        let of = |commit: &i64| each - there.get(commit).copied().unwrap_or(0);
        truth::promised(&self.log_of(db)).iter().map(of).sum::<usize>() as u64
    }

    /// The database is whole, alone in its folder, and its program can go on.
    pub fn assert_whole(&self, mode: &str) {
        let content = Content::of(&self.db());
        assert_eq!(content.integrity, "ok");
        // Of the modes, WAL alone is kept in the file; the others are each connection's own.
        assert_eq!(content.journal_mode == "wal", mode == "wal", "{}", content.journal_mode);
        let ours = self.names().into_iter().filter(|name| name.contains("guardian")).collect::<Vec<_>>();
        assert_eq!(ours, Vec::<String>::new(), "we left files behind");
        let lost = self.lost();
        self.commit(mode, 5, &[]);
        assert_eq!(self.lost(), lost, "the program cannot go on");
    }

    /// The evidence holds these bytes, under these names; `None` says that there was no such file.
    pub fn assert_evidence(&self, incident: &Value, files: &[(&str, Option<&[u8]>)]) {
        let folder =
            PathBuf::from(incident["evidence"].as_str().unwrap_or_else(|| panic!("no evidence: {incident:#}")));
        for (name, bytes) in files {
            let expected = bytes.map(truth::digest_of);
            let mut kept = truth::digest(&folder.join(name));
            // A side file without a byte says nothing; a look that the fault interrupted may have left one.
            if expected.is_none() && kept == Some(truth::digest_of(b"")) {
                kept = None;
            }
            assert_eq!(kept, expected, "{name} in {}", folder.display());
        }
    }

    /// What is beside `data/app.db`, byte for byte: main, -wal, -journal.
    pub fn bytes(&self) -> [Option<Bytes>; 3] {
        ["", "-wal", "-journal"].map(|suffix| std::fs::read(beside(&self.db(), suffix)).ok().map(Bytes))
    }
}

fn address() -> SocketAddr {
    let scene = SCENES.fetch_add(1, Ordering::Relaxed);
    let (round, scene) = (scene / 254, (scene % 254) as u8 + 1);
    let pid = std::process::id();
    let [_, high, middle, low] = pid.to_be_bytes();
    SocketAddr::from((Ipv4Addr::new(127, middle, low, scene), 10_000 + u16::from(high) + 256 * (round % 80) as u16))
}
