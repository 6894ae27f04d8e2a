use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;
use crate::host::{Bytes, OfdLock};
use crate::job::{BackupEntry, BackupJob, DatabaseSite, Keep, PruneJob, RestoreJob, TableRows};
use crate::sqlite::{Access, Database, Deadline};

struct Scene {
    dir: tempfile::TempDir,
}

fn open(path: &Path, access: Access) -> Database {
    Database::open(path, access, Duration::ZERO, Deadline::never()).unwrap()
}

impl Scene {
    /// A database of 200 rows in this journal mode.
    fn new(mode: &str) -> Scene {
        let scene = Scene { dir: tempfile::tempdir().unwrap() };
        let db = open(&scene.path(), Access::Create);
        db.set_journal_mode(mode).unwrap();
        db.batch(
            "CREATE TABLE t(id INTEGER PRIMARY KEY, body TEXT); CREATE INDEX t_body ON t(body);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<200)
             INSERT INTO t(body) SELECT hex(randomblob(100)) FROM n",
        )
        .unwrap();
        db.close().unwrap();
        scene
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("app.db")
    }

    fn folder(&self) -> PathBuf {
        self.dir.path().join("backups")
    }

    fn job(&self, block_max_ms: u64) -> BackupJob {
        let scratch = self.dir.path().join("scratch");
        let site =
            DatabaseSite { name: "app".into(), path: self.path(), user: None, scratch, busy_ms: 20, block_max_ms };
        BackupJob { site, target: "app".into(), folder: self.folder(), fs_id: None, free_floor: 0, deadline_ms: 60_000 }
    }

    fn take(&self) -> Result<BackupEntry, BackupError> {
        // Two backups of one millisecond would want one name.
        std::thread::sleep(Duration::from_millis(1));
        take(&self.job(2000))
    }

    /// Names in the backups' folder, ours aside.
    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name != ".guardiand-lock");
        names.sort();
        names
    }

    fn lock(&self, bytes: Bytes) -> OfdLock {
        let file = std::fs::File::options().read(true).write(true).open(self.path()).unwrap();
        OfdLock::exclusive(file.into(), bytes).unwrap()
    }
}

const EXCLUSIVE: Bytes = Bytes::new(1_073_741_824, 512);
const RESERVED: Bytes = Bytes::new(1_073_741_825, 1);

#[test]
fn a_backup_holds_every_row_and_says_so_in_either_journal_mode() {
    for mode in ["wal", "delete"] {
        let scene = Scene::new(mode);
        let before = std::fs::read(scene.path()).unwrap();
        let entry = scene.take().unwrap();
        assert_eq!(entry.manifest.tables, [TableRows { table: "t".into(), rows: 200 }]);
        assert_eq!(entry.manifest.journal_mode, mode);
        assert!(entry.manifest.schema.contains("CREATE INDEX t_body"));
        assert!(entry.manifest.source_fingerprint.is_some(), "nobody wrote");
        assert_eq!(std::fs::read(scene.path()).unwrap(), before, "the source is untouched");
        let name = entry.file.file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(scene.names(), [name.clone(), format!("{name}.json")]);
        assert!(!side(&scene.path(), "-wal").exists(), "no side file is left");
        verify(&entry.file, &Deadline::never()).unwrap();
    }
}

fn side(path: &Path, suffix: &str) -> PathBuf {
    path.with_file_name(format!("{}{suffix}", path.file_name().unwrap().to_str().unwrap()))
}

#[test]
fn rows_that_are_in_the_wal_alone_are_in_the_backup() {
    let scene = Scene::new("wal");
    let program = open(&scene.path(), Access::Repair);
    program.batch("INSERT INTO t(body) VALUES ('in the WAL')").unwrap();
    let wal = std::fs::read(side(&scene.path(), "-wal")).unwrap();
    assert_eq!(scene.take().unwrap().manifest.tables[0].rows, 201);
    assert_eq!(std::fs::read(side(&scene.path(), "-wal")).unwrap(), wal, "the program's WAL is untouched");
}

/// SQLite reads zeros behind the end of a file, and its full check passes.
#[test]
fn of_a_file_that_ends_within_a_page_no_backup_is_taken_and_none_is_one() {
    for (mode, idle) in [("delete", false), ("wal", false), ("wal", true)] {
        let scene = Scene::new(mode);
        let entry = scene.take().unwrap();
        let program = idle.then(|| {
            let program = open(&scene.path(), Access::Repair);
            program.batch("INSERT INTO t(body) VALUES ('checkpointed'); PRAGMA wal_checkpoint(PASSIVE)").unwrap();
            program
        });
        let cut = |path: &Path, bytes: u64| {
            let file = std::fs::File::options().write(true).open(path).unwrap();
            file.set_len(file.metadata().unwrap().len() - bytes).unwrap();
        };
        // The last page may be one that the WAL has.
        cut(&scene.path(), if idle { 4096 * 5 + 50 } else { 50 });
        let error = scene.take().unwrap_err();
        assert!(error.to_string().contains("within page"), "{error}");
        assert_eq!(scene.names().len(), 2, "the good one is still the only one");
        drop(program);

        cut(&entry.file, 50);
        assert!(matches!(examine(&entry.file, &Deadline::never()), Err(BackupError::Unsound { .. })));
    }
}

#[test]
fn a_writer_that_does_not_let_go_blocks_the_backup_and_is_not_waited_for_for_ever() {
    let scene = Scene::new("delete");
    let _writer = scene.lock(EXCLUSIVE);
    let error = scene.take().unwrap_err();
    assert!(matches!(error, BackupError::Blocked { .. }) && error.to_string().contains("backup_blocked"), "{error}");
    assert!(scene.names().is_empty());
}

#[test]
fn a_copy_that_takes_longer_than_it_may_block_counts_when_nobody_wrote() {
    let scene = Scene::new("delete");
    // No time at all under the lock: either a reflink needs none, or the copy is made without it.
    let entry = take(&scene.job(0)).unwrap();
    assert_eq!(entry.manifest.tables[0].rows, 200);
    verify(&entry.file, &Deadline::never()).unwrap();
}

#[test]
fn a_hot_journal_is_not_backed_up_and_a_living_writers_is_no_obstacle() {
    let scene = Scene::new("delete");
    let journal = side(&scene.path(), "-journal");
    std::fs::write(&journal, [0xd9; 512]).unwrap();
    assert!(matches!(scene.take(), Err(BackupError::Source { .. })));
    let writer = scene.lock(RESERVED);
    assert_eq!(scene.take().unwrap().manifest.tables[0].rows, 200);
    drop(writer);
    std::fs::write(&journal, [0; 512]).unwrap();
    scene.take().unwrap();
}

#[test]
fn a_damaged_source_never_displaces_a_good_backup() {
    for mode in ["wal", "delete"] {
        let scene = Scene::new(mode);
        scene.take().unwrap();
        let good = scene.names();
        let mut bytes = std::fs::read(scene.path()).unwrap();
        let page = bytes.len() - 4096 * 2;
        bytes[page..page + 4096].fill(0xa5);
        std::fs::write(scene.path(), bytes).unwrap();
        let error = scene.take().unwrap_err();
        assert!(matches!(error, BackupError::Unsound { .. }), "{mode}: {error}");
        assert_eq!(scene.names(), good, "{mode}: no half-made copy stays");
    }
}

#[test]
fn a_source_that_lost_all_its_tables_is_not_backed_up_over_good_ones() {
    let scene = Scene::new("delete");
    scene.take().unwrap();
    open(&scene.path(), Access::Repair).batch("DROP TABLE t").unwrap();
    assert!(matches!(scene.take(), Err(BackupError::Source { .. })));
}

#[test]
fn what_is_not_a_database_is_not_backed_up() {
    let scene = Scene::new("delete");
    for content in [&b""[..], b"not a database", &[0; 8192]] {
        std::fs::write(scene.path(), content).unwrap();
        assert!(matches!(scene.take(), Err(BackupError::Source { .. })), "{content:?}");
    }
    std::fs::remove_file(scene.path()).unwrap();
    scene.take().unwrap_err();
    assert!(scene.names().is_empty());
}

#[test]
fn no_backup_is_taken_onto_a_disk_that_would_be_too_full() {
    let scene = Scene::new("wal");
    let free = crate::host::Space::at(scene.dir.path()).unwrap().free_bytes;
    // A hole takes no room itself.
    std::fs::OpenOptions::new().write(true).open(scene.path()).unwrap().set_len(free - 1).unwrap();
    let job = BackupJob { free_floor: u64::MAX, ..scene.job(2000) };
    assert!(matches!(take(&job), Err(BackupError::Space { floor, .. }) if floor > 1));
}

#[test]
fn a_restore_is_byte_for_byte_the_backup_and_replaces_nothing() {
    let scene = Scene::new("wal");
    let entry = scene.take().unwrap();
    let to = scene.dir.path().join("restored.db");
    let job = RestoreJob { backup: entry.file.clone(), to: to.clone() };
    assert_eq!(restore(&job).unwrap().tables, entry.manifest.tables);
    assert_eq!(std::fs::read(&to).unwrap(), std::fs::read(&entry.file).unwrap());
    assert!(matches!(restore(&job), Err(BackupError::Taken { .. })));
    std::fs::remove_file(&to).unwrap();
    std::fs::write(side(&to, "-wal"), b"stale").unwrap();
    assert!(matches!(restore(&job), Err(BackupError::Taken { .. })), "a stale WAL would be replayed onto it");
}

#[test]
fn a_backup_that_rotted_is_noticed_and_not_restored() {
    let scene = Scene::new("delete");
    let entry = scene.take().unwrap();
    let mut bytes = std::fs::read(&entry.file).unwrap();
    bytes[5000] ^= 1;
    std::fs::write(&entry.file, bytes).unwrap();
    let before = scene.take().unwrap();
    assert!(matches!(verify(&entry.file, &Deadline::never()), Err(BackupError::Unsound { .. })));
    // From now on it is none, whoever asks, and stays for a salvage.
    let listing = list(&scene.folder()).unwrap();
    assert_eq!(listing.entries.iter().map(|entry| &entry.file).collect::<Vec<_>>(), [&before.file]);
    assert_eq!((listing.damaged.len(), &listing.damaged[0].file), (1, &entry.file));
    let reason = listing.damaged[0].manifest.damaged.as_deref().unwrap();
    assert!(reason.contains("its content changed since it was taken"), "{reason}");
    let none = Keep { last: 1, hourly: 0, daily: 0, weekly: 0 };
    let job = PruneJob { folder: scene.folder(), keep: none, max_bytes: None, now: before.manifest.taken_at };
    assert_eq!(prune(&job).unwrap(), Vec::<PathBuf>::new());
    let to = scene.dir.path().join("restored.db");
    assert!(matches!(restore(&RestoreJob { backup: entry.file, to: to.clone() }), Err(BackupError::Unsound { .. })));
    assert!(!to.exists());
    let left = std::fs::read_dir(scene.dir.path()).unwrap().filter_map(Result::ok);
    assert!(left.into_iter().all(|entry| !entry.file_name().to_string_lossy().starts_with(".guardiand-")));
}

#[test]
fn the_retention_deletes_file_and_manifest_and_leaves_the_rest() {
    let scene = Scene::new("delete");
    let entries: Vec<_> = (0..3).map(|_| scene.take().unwrap()).collect();
    std::fs::write(scene.folder().join("notes.txt"), b"a person's").unwrap();
    std::fs::write(scene.folder().join(".guardiand-half.db"), b"a crash's").unwrap();
    let keep = Keep { last: 1, hourly: 0, daily: 0, weekly: 0 };
    let job = PruneJob { folder: scene.folder(), keep, max_bytes: None, now: jiff::Timestamp::now() };
    assert_eq!(prune(&job).unwrap(), [entries[0].file.clone(), entries[1].file.clone()]);
    let newest = entries[2].file.file_name().unwrap().to_str().unwrap().to_owned();
    assert_eq!(scene.names(), [newest.clone(), format!("{newest}.json"), "notes.txt".into()]);
}

#[test]
fn one_backup_at_a_time() {
    let scene = Scene::new("delete");
    scene.take().unwrap();
    let lock = std::fs::File::options().read(true).write(true).open(scene.folder().join(".guardiand-lock")).unwrap();
    let _held = OfdLock::exclusive(lock.into(), Bytes::ALL).unwrap();
    assert!(matches!(scene.take(), Err(BackupError::Busy { .. })));
}

#[test]
fn a_copy_with_a_record_that_does_not_add_up_is_no_backup_and_content_against_a_rule_is_no_reason() {
    use std::os::unix::fs::FileExt as _;
    let scene = Scene::new("delete");
    let db = open(&scene.path(), Access::Repair);
    db.batch(
        "CREATE TABLE ruled(n CHECK(n > 0)); CREATE TABLE texts(b TEXT); PRAGMA ignore_check_constraints=ON;
         INSERT INTO ruled VALUES(-7); INSERT INTO texts VALUES(printf('%-64s', 'sixty-four'))",
    )
    .unwrap();
    db.close().unwrap();
    scene.take().unwrap();
    // A text of 64 bytes has the type 141, in two bytes; less the first bit these are a number's and an empty text's.
    let bytes = std::fs::read(scene.path()).unwrap();
    let at = bytes.windows(13).position(|window| window == b"\x03\x81\x0dsixty-four").unwrap();
    std::fs::File::options().write(true).open(scene.path()).unwrap().write_all_at(&[1], at as u64 + 1).unwrap();
    let refused = scene.take().unwrap_err().to_string();
    assert!(refused.contains("table texts"), "{refused}");
}
