//! Everything that may stand where a database should, each with what may be said of it.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rustix::fs::{CWD, FileType, Mode};

use crate::support::damage::Dice;
use crate::support::truth::is_root;

/// What may be said.
#[derive(Debug, Clone, Copy)]
pub enum Expected {
    Healthy,
    Unknown,
    /// Unhealthy, of this kind.
    Kind(&'static str),
    /// Anything but healthy.
    NotHealthy,
    /// Anything but unhealthy: it may be looked at, or not be ours to judge.
    NotUnhealthy,
    /// It only has to end.
    Anything,
}

pub struct Exhibit {
    pub path: PathBuf,
    pub expected: Expected,
}

/// The exhibits in `folder`, and what they point to in `elsewhere`.
pub fn build(folder: &Path, elsewhere: &Path) -> Vec<Exhibit> {
    let mut zoo = Zoo { folder: folder.to_owned(), exhibits: Vec::new() };
    zoo.special_files(elsewhere);
    zoo.foreign_files();
    zoo.sound_databases();
    zoo.odd_names();
    zoo.odd_side_files(elsewhere);
    zoo.hostile_databases();
    zoo.exhibits
}

/// A sound database of a few pages.
pub fn sound(path: &Path, pragmas: &str) {
    let db = Connection::open(path).unwrap();
    db.execute_batch(&format!(
        "{pragmas};
         CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT); CREATE INDEX t_b ON t(b);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
         INSERT INTO t SELECT i, 'text of row ' || i FROM n;"
    ))
    .unwrap();
    db.close().unwrap();
}

struct Zoo {
    folder: PathBuf,
    exhibits: Vec<Exhibit>,
}

impl Zoo {
    fn add(&mut self, name: &str, expected: Expected) -> PathBuf {
        let path = self.folder.join(name);
        self.exhibits.push(Exhibit { path: path.clone(), expected });
        path
    }

    fn special_files(&mut self, elsewhere: &Path) {
        fs::create_dir(self.add("directory.db", Expected::Kind("db_not_file"))).unwrap();
        let fifo = self.add("fifo.db", Expected::Kind("db_not_file"));
        rustix::fs::mknodat(CWD, fifo, FileType::Fifo, Mode::from(0o600), 0).unwrap();
        let socket = self.add("socket.db", Expected::Kind("db_not_file"));
        drop(UnixListener::bind(socket).unwrap());
        if is_root() {
            let device = self.add("device.db", Expected::Kind("db_not_file"));
            let zero = rustix::fs::makedev(1, 5);
            rustix::fs::mknodat(CWD, device, FileType::CharacterDevice, Mode::from(0o600), zero).unwrap();
        }
        sound(&elsewhere.join("target.db"), "");
        symlink(elsewhere.join("target.db"), self.add("link.db", Expected::NotUnhealthy)).unwrap();
        symlink("/dev/zero", self.add("link-to-device.db", Expected::NotHealthy)).unwrap();
        symlink("nowhere", self.add("dangling.db", Expected::NotHealthy)).unwrap();
        symlink("loop.db", self.add("loop.db", Expected::NotHealthy)).unwrap();
        let below_a_file = self.add("not-a-folder.db", Expected::Unknown);
        fs::write(&below_a_file, "plain").unwrap();
        self.add("not-a-folder.db/app.db", Expected::NotHealthy);
        let closed =
            self.add("closed.db", if is_root() { Expected::Anything } else { Expected::Kind("db_access_denied") });
        sound(&closed, "");
        fs::set_permissions(closed, fs::Permissions::from_mode(0o000)).unwrap();
    }

    fn foreign_files(&mut self) {
        let mut dice = Dice::new();
        fs::write(self.add("encrypted.db", Expected::Unknown), dice.bytes(16 * 4096)).unwrap();
        fs::write(self.add("text.db", Expected::Unknown), "name = \"not a database\"\n".repeat(400)).unwrap();
        fs::write(self.add("short.db", Expected::Unknown), "SQLite format 3\0").unwrap();
        fs::write(self.add("empty.db", Expected::NotUnhealthy), "").unwrap();
        fs::write(self.add("zeros.db", Expected::Unknown), vec![0; 8 * 4096]).unwrap();
        let sparse = self.add("sparse.db", Expected::Unknown);
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(sparse)
            .unwrap()
            .set_len(64 << 30)
            .unwrap();
        let header_alone = self.add("magic-then-noise.db", Expected::NotHealthy);
        fs::write(header_alone, [b"SQLite format 3\0".to_vec(), dice.bytes(8 * 4096)].concat()).unwrap();
    }

    fn sound_databases(&mut self) {
        for (name, pragmas) in [
            ("page-512.db", "PRAGMA page_size=512"),
            ("page-64k.db", "PRAGMA page_size=65536"),
            ("utf16le.db", "PRAGMA encoding='UTF-16le'"),
            ("utf16be.db", "PRAGMA encoding='UTF-16be'"),
            ("vacuum.db", "PRAGMA auto_vacuum=incremental"),
            ("wal.db", "PRAGMA journal_mode=wal"),
            ("persist.db", "PRAGMA journal_mode=persist"),
            ("stamped.db", "PRAGMA application_id=42; PRAGMA user_version=-7"),
        ] {
            sound(&self.add(name, Expected::Healthy), pragmas);
        }
        // What it is made of is not to be had here: neither a reason to worry nor one to be sure.
        let collation = self.add("collation.db", Expected::Unknown);
        let db = Connection::open(collation).unwrap();
        rewrite_schema(
            &db,
            "CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT COLLATE house); CREATE INDEX t_b ON t(b); INSERT INTO t VALUES (1, 'x')",
            |db, sql| {
                db.execute_batch(&sql.replace("COLLATE house", "COLLATE NOCASE")).unwrap();
                "UPDATE sqlite_schema SET sql = replace(sql, 'COLLATE NOCASE', 'COLLATE house')".to_owned()
            },
        );
        let module = self.add("module.db", Expected::NotUnhealthy);
        let db = Connection::open(module).unwrap();
        rewrite_schema(&db, "CREATE TABLE t(a); INSERT INTO t VALUES (1)", |db, sql| {
            db.execute_batch(sql).unwrap();
            "INSERT INTO sqlite_schema VALUES ('table', 'v', 'v', 0, 'CREATE VIRTUAL TABLE v USING of_the_house(x)')"
                .to_owned()
        });
        let newer = self.add("newer-syntax.db", Expected::NotUnhealthy);
        let db = Connection::open(newer).unwrap();
        rewrite_schema(&db, "CREATE TABLE t(a)", |db, sql| {
            db.execute_batch(sql).unwrap();
            "UPDATE sqlite_schema SET sql = 'CREATE TABLE t(a) OF THE FUTURE'".to_owned()
        });
        let future = self.add("newer-format.db", Expected::Unknown);
        sound(&future, "");
        // Read version 9, write version 9: "must not be read" by a SQLite that does not know it.
        crate::support::damage::overwrite(&future, 18, &[9, 9]);
    }

    fn odd_names(&mut self) {
        for name in [
            "with space.db",
            "quote's.db",
            "per%20cent.db",
            "question?mode=memory.db",
            "hash#mark.db",
            "file:memory.db",
            ":memory:",
            "line\nbreak.db",
            "umläut-日本.db",
            "-dash.db",
            "semi;colon$(x).db",
        ] {
            sound_at(&self.add(name, Expected::Healthy));
        }
        let raw = self.folder.join(std::ffi::OsStr::from_bytes(b"latin-\xe4.db"));
        sound_at(&raw);
        // It cannot be said to a worker: it is not looked at, and that is said.
        self.exhibits.push(Exhibit { path: raw, expected: Expected::Unknown });
    }

    fn odd_side_files(&mut self, elsewhere: &Path) {
        for (name, suffix) in
            [("wal-directory.db", "-wal"), ("shm-directory.db", "-shm"), ("journal-directory.db", "-journal")]
        {
            let path = self.add(name, Expected::Anything);
            sound(&path, if suffix == "-journal" { "" } else { "PRAGMA journal_mode=wal" });
            fs::create_dir(self.folder.join(format!("{name}{suffix}"))).unwrap();
        }
        for (name, suffix) in [("wal-fifo.db", "-wal"), ("shm-fifo.db", "-shm"), ("journal-fifo.db", "-journal")] {
            let path = self.add(name, Expected::Anything);
            sound(&path, if suffix == "-journal" { "" } else { "PRAGMA journal_mode=wal" });
            let fifo = self.folder.join(format!("{name}{suffix}"));
            rustix::fs::mknodat(CWD, fifo, FileType::Fifo, Mode::from(0o600), 0).unwrap();
        }
        fs::write(elsewhere.join("precious"), "what a link must not lead us to").unwrap();
        for (name, suffix) in [("wal-link.db", "-wal"), ("shm-link.db", "-shm"), ("journal-link.db", "-journal")] {
            let path = self.add(name, Expected::Anything);
            sound(&path, if suffix == "-journal" { "" } else { "PRAGMA journal_mode=wal" });
            symlink(elsewhere.join("precious"), self.folder.join(format!("{name}{suffix}"))).unwrap();
        }
        // Neither is a WAL nor a journal that anybody could have meant.
        let noise = Dice::new().bytes(3000);
        for (name, suffix) in [("wal-noise.db", "-wal"), ("journal-noise.db", "-journal")] {
            let path = self.add(name, Expected::Anything);
            sound(&path, if suffix == "-journal" { "" } else { "PRAGMA journal_mode=wal" });
            fs::write(self.folder.join(format!("{name}{suffix}")), &noise).unwrap();
        }
        // SQLITE.md, section 2: one SELECT on this by anybody deletes the WAL.
        let beside = self.add("empty-beside-wal.db", Expected::NotHealthy);
        fs::write(&beside, "").unwrap();
        fs::write(self.folder.join("empty-beside-wal.db-wal"), &noise).unwrap();
        self.add("missing-beside-wal.db", Expected::NotHealthy);
        fs::write(self.folder.join("missing-beside-wal.db-wal"), &noise).unwrap();
    }

    fn hostile_databases(&mut self) {
        // Page 3 of these is the index's root; its first cell's child is itself, or a page far outside.
        for (name, at, bytes) in [
            ("page-count.db", 28, &[0x7f, 0xff, 0xff, 0xff][..]),
            ("freelist-loop.db", 32, &[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]),
            ("reserved.db", 20, &[0xff]),
            ("encoding.db", 56, &[0, 0, 0, 9]),
            ("schema-format.db", 44, &[0, 0, 0, 99]),
            ("page-size.db", 16, &[0x0f, 0xff]),
            ("fractions.db", 21, &[1, 1, 1]),
            ("page-type.db", 4096, &[0xee]),
            ("cell-count.db", 4096 + 3, &[0xff, 0xff]),
            ("child-loop.db", 4096 + 8, &[0, 0, 0, 2]),
        ] {
            let path = self.add(name, Expected::Anything);
            sound(&path, "PRAGMA page_size=4096");
            crate::support::damage::overwrite(&path, at, bytes);
        }
        // A view that never ends is only read by who asks for it.
        let endless = self.add("endless-view.db", Expected::Healthy);
        sound(&endless, "");
        let db = Connection::open(&endless).unwrap();
        db.execute_batch(
            "CREATE VIEW v AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n;
             CREATE TRIGGER g BEFORE INSERT ON t BEGIN SELECT * FROM v; END",
        )
        .unwrap();
        let wide = self.add("wide.db", Expected::Healthy);
        let columns = (0..2000).map(|n| format!("c{n}")).collect::<Vec<_>>().join(",");
        Connection::open(&wide).unwrap().execute_batch(&format!("CREATE TABLE wide({columns})")).unwrap();
        let many = self.add("many-tables.db", Expected::Healthy);
        let tables = (0..1000).map(|n| format!("CREATE TABLE t{n}(a);")).collect::<String>();
        Connection::open(&many).unwrap().execute_batch(&format!("BEGIN; {tables} COMMIT")).unwrap();
    }
}

/// By a plain name first: SQLite would read more into some of these.
fn sound_at(path: &Path) {
    let plain = path.with_file_name("plain.tmp");
    sound(&plain, "");
    fs::rename(plain, path).unwrap();
}

/// Makes a schema that this SQLite would refuse to make.
fn rewrite_schema(db: &Connection, sql: &str, make: impl FnOnce(&Connection, &str) -> String) {
    let change = make(db, sql);
    db.execute_batch(&format!("PRAGMA writable_schema=1; {change}")).unwrap();
}
