mod header;
mod pages;
mod rebuild;
mod roll_back;
mod salvage;

use std::cell::Cell;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::install::Gap;
use super::*;
use crate::job::{BackupJob, DatabaseSite, Owner, TableRows};
use crate::sqlite::{Access, Database, Deadline};

thread_local! {
    pub(super) static DIE_AT: Cell<Option<Gap>> = const { Cell::new(None) };
}

const GAPS: [Gap; 7] = [
    Gap::Recorded,
    Gap::OneSideAside,
    Gap::SidesAside,
    Gap::SidesDurable,
    Gap::Renamed,
    Gap::RenamedDurable,
    Gap::Cleaned,
];

/// A folder with a database, its backup and an evidence folder.
pub(super) struct Scene {
    dir: tempfile::TempDir,
    backup: PathBuf,
    blake3: String,
}

pub(super) fn open(path: &Path, access: Access) -> Database {
    Database::open(path, access, Duration::ZERO, Deadline::never()).unwrap()
}

pub(super) fn rows(path: &Path) -> u64 {
    open(path, Access::Copy).row_counts().unwrap().into_iter().find(|(table, _)| table == "t").unwrap().1
}

pub(super) fn insert(db: &Database, count: u32) {
    let sql = format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{count})
         INSERT INTO t(body) SELECT hex(randomblob(100)) FROM n"
    );
    db.batch(&sql).unwrap();
}

fn private(path: &Path) {
    // So that other users' processes, which an ordinary user cannot look into, cannot have it open.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

impl Scene {
    /// 100 rows in the backup; 150 in the database, in this journal mode, closed.
    pub(super) fn new(mode: &str) -> Scene {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("data")).unwrap();
        let scene = Scene { dir, backup: PathBuf::new(), blake3: String::new() };
        let db = open(&scene.path(), Access::Create);
        db.set_journal_mode(mode).unwrap();
        db.batch("CREATE TABLE t(id INTEGER PRIMARY KEY, body TEXT); CREATE INDEX t_body ON t(body)").unwrap();
        insert(&db, 100);
        db.close().unwrap();
        private(&scene.path());
        let job = BackupJob {
            site: scene.site(),
            target: "app".into(),
            folder: scene.dir.path().join("backups"),
            fs_id: None,
            free_floor: 0,
            deadline_ms: 60_000,
        };
        let entry = crate::worker::backup::take(&job).unwrap();
        assert_eq!(entry.manifest.tables, [TableRows { table: "t".into(), rows: 100 }]);
        let db = open(&scene.path(), Access::Repair);
        insert(&db, 50);
        db.close().unwrap();
        Scene { backup: entry.file, blake3: entry.manifest.blake3, ..scene }
    }

    /// As a program that was killed leaves it: 30 more rows, in the WAL alone.
    pub(super) fn with_wal() -> Scene {
        let scene = Scene::new("wal");
        let aside = scene.dir.path().join("aside.db");
        std::fs::copy(scene.path(), &aside).unwrap();
        let db = open(&aside, Access::Repair);
        insert(&db, 30);
        for suffix in ["-wal", "-shm"] {
            std::fs::copy(side(&aside, suffix), side(&scene.path(), suffix)).unwrap();
            private(&side(&scene.path(), suffix));
        }
        assert!(std::fs::metadata(side(&scene.path(), "-wal")).unwrap().len() > 0);
        drop(db);
        scene
    }

    pub(super) fn folder(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(super) fn path(&self) -> PathBuf {
        self.folder().join("app.db")
    }

    /// These bytes over what is there, past SQLite.
    fn overwrite(&self, at: usize, bytes: &[u8]) {
        let file = std::fs::File::options().write(true).open(self.path()).unwrap();
        file.write_all_at(bytes, at as u64).unwrap();
    }

    fn run_sql(&self, sql: &str) {
        rusqlite::Connection::open(self.path()).unwrap().execute_batch(sql).unwrap();
    }

    pub(super) fn evidence(&self) -> PathBuf {
        self.dir.path().join("evidence")
    }

    pub(super) fn site(&self) -> DatabaseSite {
        let scratch = self.dir.path().join("scratch");
        DatabaseSite { name: "app".into(), path: self.path(), user: None, scratch, busy_ms: 50, block_max_ms: 2000 }
    }

    pub(super) fn run(&self, step: DatabaseStep, phase: Phase) -> Result<StepReport, JobFailure> {
        run(&StepJob {
            site: self.site(),
            incident: "20261122T030405.123Z-0a1b2c".into(),
            evidence: self.evidence(),
            phase,
            step,
            last: None,
            basis: None,
            wal_verified: None,
        })
    }

    pub(super) fn restore_step(&self) -> DatabaseStep {
        let owner = std::fs::metadata(&self.backup).map(|facts| {
            use std::os::unix::fs::MetadataExt as _;
            Owner { uid: facts.uid(), gid: facts.gid(), mode: 0o600 }
        });
        DatabaseStep::BuildFromBackup { backup: self.backup.clone(), blake3: self.blake3.clone(), owner: owner.ok() }
    }

    pub(super) fn preserve_and_build(&self) {
        assert_eq!(self.run(DatabaseStep::Preserve, Phase::Apply).unwrap().progress, Progress::Done);
        let report = self.run(self.restore_step(), Phase::Apply).unwrap();
        assert_eq!(report.candidate.unwrap().tables, [TableRows { table: "t".into(), rows: 100 }]);
    }

    /// Applies the step and dies at the gap; true if it was reached.
    pub(super) fn die_at(&self, gap: Gap, step: DatabaseStep, phase: Phase) -> bool {
        DIE_AT.set(Some(gap));
        let died = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.run(step, phase)));
        DIE_AT.set(None);
        match died {
            Err(payload) => {
                assert_eq!(payload.downcast_ref::<&str>(), Some(&"killed"));
                true
            }
            Ok(result) => {
                result.unwrap();
                false
            }
        }
    }

    /// Every entry of the target's folder.
    pub(super) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn side(path: &Path, suffix: &str) -> PathBuf {
    path.with_file_name(format!("{}{suffix}", path.file_name().unwrap().to_str().unwrap()))
}

fn content(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let files = ["app.db", "app.db-wal", "app.db-journal"];
    files.iter().filter_map(|name| Some((name.to_string(), std::fs::read(folder.join(name)).ok()?))).collect()
}

#[test]
fn preserving_keeps_every_byte_and_doing_it_twice_is_doing_it_once() {
    let scene = Scene::with_wal();
    let before = content(&scene.folder());
    assert_eq!(scene.run(DatabaseStep::Preserve, Phase::Apply).unwrap().progress, Progress::Done);
    assert_eq!(scene.run(DatabaseStep::Preserve, Phase::Resume).unwrap().progress, Progress::Nothing);
    assert_eq!(content(&scene.folder()), before, "the originals are untouched");
    assert_eq!(std::fs::read(scene.evidence().join("main")).unwrap(), before[0].1);
    assert_eq!(std::fs::read(scene.evidence().join("wal")).unwrap(), before[1].1);
    assert!(scene.evidence().join("shm").exists());
    let paper = std::fs::read_to_string(scene.evidence().join("manifest.json")).unwrap();
    assert!(paper.contains("put_back") && paper.contains("Move"), "{paper}");
}

#[test]
fn a_copy_that_a_crash_left_unfinished_is_made_anew() {
    let scene = Scene::with_wal();
    scene.run(DatabaseStep::Preserve, Phase::Apply).unwrap();
    std::fs::remove_file(scene.evidence().join("manifest.json")).unwrap();
    std::fs::write(scene.evidence().join("main"), b"half").unwrap();
    assert_eq!(scene.run(DatabaseStep::Preserve, Phase::Resume).unwrap().progress, Progress::Done);
    assert_eq!(std::fs::read(scene.evidence().join("main")).unwrap(), std::fs::read(scene.path()).unwrap());
}

#[test]
fn a_later_preservation_never_touches_an_earlier_one() {
    let scene = Scene::new("delete");
    scene.run(DatabaseStep::Preserve, Phase::Apply).unwrap();
    let first = std::fs::read(scene.evidence().join("main")).unwrap();
    insert(&open(&scene.path(), Access::Repair), 10);
    assert_eq!(scene.run(DatabaseStep::Preserve, Phase::Apply).unwrap().progress, Progress::Done);
    assert_eq!(std::fs::read(scene.evidence().join("main")).unwrap(), first);
    assert_eq!(std::fs::read(scene.evidence().join("2/main")).unwrap(), std::fs::read(scene.path()).unwrap());
}

#[test]
fn side_files_of_a_missing_main_are_preserved() {
    let scene = Scene::with_wal();
    std::fs::remove_file(scene.path()).unwrap();
    scene.run(DatabaseStep::Preserve, Phase::Apply).unwrap();
    assert!(scene.evidence().join("wal").exists());
    assert!(!scene.evidence().join("main").exists());
}

#[test]
fn an_install_puts_the_candidate_in_place_without_the_old_side_files() {
    let scene = Scene::with_wal();
    scene.preserve_and_build();
    assert_eq!(scene.run(DatabaseStep::Install, Phase::Apply).unwrap().progress, Progress::Done);
    assert_eq!(scene.names(), ["app.db"]);
    assert_eq!(rows(&scene.path()), 100);
    assert_eq!(open(&scene.path(), Access::Copy).journal_mode().unwrap(), "wal", "the journal mode is kept");
    assert_eq!(std::fs::metadata(scene.path()).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(scene.run(DatabaseStep::Install, Phase::Apply).unwrap().progress, Progress::Done, "twice is once");
}

#[test]
fn a_death_in_any_gap_of_an_install_is_finished_by_the_next_start() {
    for gap in GAPS {
        let scene = Scene::with_wal();
        let before = content(&scene.folder());
        scene.preserve_and_build();
        assert!(scene.die_at(gap, DatabaseStep::Install, Phase::Apply), "{gap:?} is reached");
        let report = scene.run(DatabaseStep::Install, Phase::Resume).unwrap();
        assert_eq!(report.progress, Progress::Done, "{gap:?}: {}", report.detail);
        assert_eq!(scene.names(), ["app.db"], "{gap:?}");
        assert_eq!(rows(&scene.path()), 100, "{gap:?}");
        assert_eq!(std::fs::read(scene.evidence().join("main")).unwrap(), before[0].1, "{gap:?}: nothing is lost");
        assert_eq!(std::fs::read(scene.evidence().join("wal")).unwrap(), before[1].1, "{gap:?}: nothing is lost");
        // And the whole can still be taken back.
        let report = scene.run(DatabaseStep::Install, Phase::Undo).unwrap();
        assert_eq!(report.progress, Progress::Undone, "{gap:?}: {}", report.detail);
        assert_eq!(content(&scene.folder()), before, "{gap:?}");
        assert_eq!(rows(&scene.path()), 180, "{gap:?}: commits in the WAL are there");
    }
}

#[test]
fn a_death_in_any_gap_before_the_rename_is_taken_back_when_the_candidate_is_gone() {
    for gap in &GAPS[..4] {
        let scene = Scene::with_wal();
        let before = content(&scene.folder());
        scene.preserve_and_build();
        assert!(scene.die_at(*gap, DatabaseStep::Install, Phase::Apply));
        std::fs::remove_file(scene.folder().join(".guardiand-20261122T030405.123Z-0a1b2c.new")).unwrap();
        let report = scene.run(DatabaseStep::Install, Phase::Resume).unwrap();
        assert_eq!(report.progress, Progress::Undone, "{gap:?}: {}", report.detail);
        assert_eq!(content(&scene.folder()), before, "{gap:?}");
        assert_eq!(rows(&scene.path()), 180, "{gap:?}: commits in the WAL are there");
    }
}

#[test]
fn what_was_committed_after_the_crash_is_never_swapped_away() {
    for gap in &GAPS[..4] {
        let scene = Scene::new("delete");
        scene.preserve_and_build();
        if !scene.die_at(*gap, DatabaseStep::Install, Phase::Apply) {
            assert_eq!(*gap, Gap::OneSideAside, "there is no side file to set aside");
            continue;
        }
        insert(&open(&scene.path(), Access::Repair), 7);
        let report = scene.run(DatabaseStep::Install, Phase::Resume).unwrap();
        assert_eq!(report.progress, Progress::Undone, "{gap:?}: {}", report.detail);
        assert_eq!(rows(&scene.path()), 157, "{gap:?}");
    }
}

#[test]
fn a_file_that_somebody_put_there_meanwhile_is_never_replaced() {
    for gap in &GAPS[..4] {
        let scene = Scene::with_wal();
        std::fs::remove_file(scene.path()).unwrap();
        scene.preserve_and_build();
        assert!(scene.die_at(*gap, DatabaseStep::Install, Phase::Apply));
        std::fs::write(scene.path(), b"somebody's").unwrap();
        assert_eq!(scene.run(DatabaseStep::Install, Phase::Resume).unwrap_err().kind, FailureKind::Failed);
        assert_eq!(std::fs::read(scene.path()).unwrap(), b"somebody's", "{gap:?}");
    }
}

/// The user's `mv` and `cp` between our last look and the swap: no look can be late enough for these, so the swap itself
/// must not destroy what it finds.
#[test]
fn what_came_at_the_last_moment_is_put_back_when_the_swap_has_met_it() {
    for copied_over in [false, true] {
        let scene = Scene::new("delete");
        scene.preserve_and_build();
        assert!(scene.die_at(Gap::Renamed, DatabaseStep::Install, Phase::Apply));
        // As if it had come just before the exchange: it is what the exchange took out.
        let out = scene.folder().join(".guardiand-20261122T030405.123Z-0a1b2c.new");
        if copied_over {
            std::fs::write(&out, b"the user's new file").unwrap();
        } else {
            std::fs::write(scene.folder().join("deploy"), b"the user's new file").unwrap();
            std::fs::rename(scene.folder().join("deploy"), &out).unwrap();
        }
        let answer = scene.run(DatabaseStep::Install, Phase::Resume);
        assert_eq!(std::fs::read(scene.path()).unwrap(), b"the user's new file", "{answer:?}");
    }
}

#[test]
fn a_missing_main_is_installed_and_its_stale_wal_is_never_replayed() {
    for gap in GAPS {
        let scene = Scene::with_wal();
        std::fs::remove_file(scene.path()).unwrap();
        let before = content(&scene.folder());
        scene.preserve_and_build();
        assert!(scene.die_at(gap, DatabaseStep::Install, Phase::Apply));
        assert_eq!(scene.run(DatabaseStep::Install, Phase::Resume).unwrap().progress, Progress::Done);
        assert_eq!(rows(&scene.path()), 100, "{gap:?}");
        let _ = scene.names();
        scene.run(DatabaseStep::Install, Phase::Undo).unwrap();
        assert_eq!(content(&scene.folder()), before, "{gap:?}: back to no main, and its WAL");
    }
}

#[test]
fn an_install_is_not_taken_back_over_commits() {
    let scene = Scene::new("delete");
    scene.preserve_and_build();
    scene.run(DatabaseStep::Install, Phase::Apply).unwrap();
    insert(&open(&scene.path(), Access::Repair), 3);
    assert_eq!(scene.run(DatabaseStep::Install, Phase::Undo).unwrap_err().kind, FailureKind::Refused);
    assert_eq!(rows(&scene.path()), 103);
}

#[test]
fn an_undo_that_died_before_the_side_files_were_back_is_finished() {
    let scene = Scene::with_wal();
    let before = content(&scene.folder());
    scene.preserve_and_build();
    scene.run(DatabaseStep::Install, Phase::Apply).unwrap();
    assert!(scene.die_at(Gap::UndoMainBack, DatabaseStep::Install, Phase::Undo));
    assert_eq!(scene.run(DatabaseStep::Install, Phase::Undo).unwrap().progress, Progress::Undone);
    assert_eq!(content(&scene.folder()), before);
    assert_eq!(rows(&scene.path()), 180);
}

#[test]
fn nothing_is_installed_over_what_was_not_preserved_or_changed_since() {
    let scene = Scene::new("delete");
    scene.run(scene.restore_step(), Phase::Apply).unwrap();
    assert_eq!(scene.run(DatabaseStep::Install, Phase::Apply).unwrap_err().kind, FailureKind::Outdated);
    scene.run(DatabaseStep::Preserve, Phase::Apply).unwrap();
    insert(&open(&scene.path(), Access::Repair), 5);
    assert_eq!(scene.run(DatabaseStep::Install, Phase::Apply).unwrap_err().kind, FailureKind::Outdated);
    assert_eq!(rows(&scene.path()), 155);
}

#[test]
fn nothing_is_installed_over_a_file_that_a_process_has_open() {
    for what in ["app.db", "app.db-wal"] {
        let scene = Scene::with_wal();
        scene.preserve_and_build();
        let held = std::fs::File::open(scene.folder().join(what)).unwrap();
        let mut holder = std::process::Command::new("sleep").arg("600").stdin(held).spawn().unwrap();
        let failure = scene.run(DatabaseStep::Install, Phase::Apply).unwrap_err();
        holder.kill().unwrap();
        holder.wait().unwrap();
        assert_eq!(failure.kind, FailureKind::Refused);
        assert!(failure.message.contains("sleep") && failure.message.contains(what), "{}", failure.message);
        assert_eq!(rows(&scene.path()), 180);
    }
}

#[test]
fn a_deleted_file_that_a_process_still_has_open_is_not_replaced() {
    let scene = Scene::new("delete");
    scene.preserve_and_build();
    let held = std::fs::File::open(scene.path()).unwrap();
    let mut holder = std::process::Command::new("sleep").arg("600").stdin(held).spawn().unwrap();
    std::fs::remove_file(scene.path()).unwrap();
    let failure = scene.run(DatabaseStep::Install, Phase::Apply).unwrap_err();
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(failure.kind, FailureKind::Refused, "{}", failure.message);
    assert!(!scene.path().exists());
}

#[test]
fn a_damaged_backup_builds_nothing() {
    let scene = Scene::new("delete");
    let mut bytes = std::fs::read(&scene.backup).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&scene.backup, bytes).unwrap();
    let failure = scene.run(scene.restore_step(), Phase::Apply).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Failed);
    assert!(failure.message.contains("damaged"), "{}", failure.message);
    assert_eq!(scene.names(), ["app.db"]);
}

#[test]
fn a_copy_is_recovered_with_its_wal_and_the_originals_stay_as_they_are() {
    let scene = Scene::with_wal();
    let before = content(&scene.folder());
    scene.run(DatabaseStep::Preserve, Phase::Apply).unwrap();
    let report = scene.run(DatabaseStep::BuildFromCopy { owner: None, schema: None }, Phase::Apply).unwrap();
    assert_eq!(report.candidate.unwrap().tables, [TableRows { table: "t".into(), rows: 180 }]);
    assert_eq!(content(&scene.folder()), before);
    scene.run(DatabaseStep::Install, Phase::Apply).unwrap();
    assert_eq!(scene.names(), ["app.db"]);
    assert_eq!(rows(&scene.path()), 180);
    assert_eq!(open(&scene.path(), Access::Copy).journal_mode().unwrap(), "wal");
}

/// A rollback-mode database that a writer left in the middle of a large transaction, with its journal.
fn with_hot_journal() -> Scene {
    let scene = Scene::new("delete");
    let aside = scene.dir.path().join("aside.db");
    std::fs::copy(scene.path(), &aside).unwrap();
    let db = open(&aside, Access::Repair);
    // So little cache that the transaction spills into the main file before it commits.
    db.batch("PRAGMA cache_size=2; BEGIN; UPDATE t SET body = body || 'changed'").unwrap();
    std::fs::copy(&aside, scene.path()).unwrap();
    std::fs::copy(side(&aside, "-journal"), side(&scene.path(), "-journal")).unwrap();
    private(&scene.path());
    private(&side(&scene.path(), "-journal"));
    db.batch("ROLLBACK").unwrap();
    scene
}

#[test]
fn a_hot_journal_is_rolled_back_on_the_copy_alone() {
    let scene = with_hot_journal();
    let before = content(&scene.folder());
    assert_eq!(before.len(), 2);
    let report = scene.run(DatabaseStep::BuildFromCopy { owner: None, schema: None }, Phase::Apply).unwrap();
    assert!(report.detail.contains("rolled back"), "{}", report.detail);
    assert_eq!(content(&scene.folder()), before);
    scene.run(DatabaseStep::Preserve, Phase::Apply).unwrap();
    scene.run(DatabaseStep::Install, Phase::Apply).unwrap();
    assert_eq!(scene.names(), ["app.db"]);
    let changed = open(&scene.path(), Access::Copy).rows("SELECT count(*) FROM t WHERE body LIKE '%changed'", &[]);
    assert_eq!(changed.unwrap()[0][0].as_i64(), Some(0), "what was never committed is not there");
}

#[test]
fn a_damaged_journal_is_left_out_where_rolling_it_back_would_tear_the_database() {
    let scene = with_hot_journal();
    // The main file of before the transaction, and a journal whose records name pages that they do not hold.
    let before_transaction = std::fs::read(scene.dir.path().join("aside.db")).unwrap();
    std::fs::write(scene.path(), &before_transaction).unwrap();
    let journal = side(&scene.path(), "-journal");
    let mut bytes = std::fs::read(&journal).unwrap();
    shuffle_pages(&mut bytes);
    std::fs::write(&journal, &bytes).unwrap();
    let report = scene.run(DatabaseStep::BuildFromCopy { owner: None, schema: None }, Phase::Apply).unwrap();
    assert!(report.detail.contains("without its journal"), "{}", report.detail);
    assert_eq!(report.candidate.unwrap().tables, [TableRows { table: "t".into(), rows: 150 }]);
    assert_eq!(std::fs::read(&journal).unwrap(), bytes, "the original is untouched");
}

/// Lets each record name the page of the next one: its sum does not cover the number, so it is believed.
fn shuffle_pages(journal: &mut [u8]) {
    let sector = u32::from_be_bytes(journal[20..24].try_into().unwrap()) as usize;
    let page = u32::from_be_bytes(journal[24..28].try_into().unwrap()) as usize;
    let starts: Vec<usize> =
        (0..).map(|n| sector + n * (page + 8)).take_while(|at| at + page + 8 <= journal.len()).collect();
    let numbers: Vec<[u8; 4]> = starts.iter().map(|at| journal[*at..at + 4].try_into().unwrap()).collect();
    assert!(numbers.len() > 2, "the transaction spilled");
    for (at, number) in starts.iter().zip(numbers.iter().cycle().skip(1)) {
        journal[*at..at + 4].copy_from_slice(number);
    }
}

#[test]
fn a_schema_becomes_an_empty_database_in_its_journal_mode() {
    let scene = Scene::new("delete");
    std::fs::remove_file(scene.path()).unwrap();
    let schema = "PRAGMA page_size=8192; CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT);".to_owned();
    let step = DatabaseStep::BuildFromSchema { schema, journal_mode: "wal".into(), owner: None, unless: Vec::new() };
    scene.run(DatabaseStep::Preserve, Phase::Apply).unwrap();
    scene.run(step, Phase::Apply).unwrap();
    private(&scene.folder().join(".guardiand-20261122T030405.123Z-0a1b2c.new"));
    scene.run(DatabaseStep::Install, Phase::Apply).unwrap();
    assert_eq!(scene.names(), ["app.db"]);
    let db = open(&scene.path(), Access::Copy);
    assert_eq!((db.page_size().unwrap(), db.journal_mode().unwrap()), (8192, "wal".into()));
    assert_eq!(db.touch_schema().unwrap().tables, ["users"]);
}

#[test]
fn no_empty_database_takes_the_place_of_one_that_a_backup_can_restore() {
    let scene = Scene::new("delete");
    let DatabaseStep::BuildFromBackup { backup, .. } = scene.restore_step() else { panic!("not a restore") };
    let step = DatabaseStep::BuildFromSchema {
        schema: "CREATE TABLE users(id)".into(),
        journal_mode: "delete".into(),
        owner: None,
        unless: vec![backup.clone()],
    };
    let refused = scene.run(step.clone(), Phase::Apply).unwrap_err();
    assert_eq!(refused.kind, crate::job::FailureKind::Refused, "{}", refused.message);
    assert_eq!(scene.names(), ["app.db"]);
    // Damaged, it can restore nothing.
    let mut bytes = std::fs::read(&backup).unwrap();
    bytes[5000] ^= 1;
    std::fs::write(&backup, bytes).unwrap();
    scene.run(step.clone(), Phase::Apply).unwrap();
    // Out of sight, it may still be there.
    std::fs::remove_file(&backup).unwrap();
    scene.run(step, Phase::Apply).unwrap_err();
}

#[test]
fn a_bad_schema_leaves_nothing_behind() {
    let scene = Scene::new("delete");
    for schema in ["CREATE TABLE", "", "SELECT 1;"] {
        let step = DatabaseStep::BuildFromSchema {
            schema: schema.into(),
            journal_mode: "delete".into(),
            owner: None,
            unless: Vec::new(),
        };
        scene.run(step, Phase::Apply).unwrap_err();
        assert_eq!(scene.names(), ["app.db"], "{schema:?}");
    }
}

#[test]
fn a_build_that_is_taken_back_leaves_nothing() {
    let scene = Scene::new("wal");
    scene.run(scene.restore_step(), Phase::Apply).unwrap();
    assert_eq!(scene.names().len(), 2);
    assert_eq!(scene.run(scene.restore_step(), Phase::Undo).unwrap().progress, Progress::Undone);
    assert_eq!(scene.names(), ["app.db"]);
}

#[test]
fn a_checkpoint_empties_the_wal_and_says_what_holds_it_back() {
    let scene = Scene::with_wal();
    let step = || DatabaseStep::Checkpoint { timeout_ms: 50 };
    let reader = open(&scene.path(), Access::Probe);
    reader.batch("BEGIN; SELECT count(*) FROM t").unwrap();
    let writer = open(&scene.path(), Access::Repair);
    insert(&writer, 5);
    assert_eq!(scene.run(step(), Phase::Apply).unwrap_err().kind, FailureKind::Failed);
    reader.batch("COMMIT").unwrap();
    assert_eq!(scene.run(step(), Phase::Apply).unwrap().progress, Progress::Done);
    assert_eq!(std::fs::metadata(side(&scene.path(), "-wal")).unwrap().len(), 0);
    assert_eq!(scene.run(step(), Phase::Apply).unwrap().progress, Progress::Nothing);
    drop((reader, writer));
    assert_eq!(rows(&scene.path()), 185);
}

#[test]
fn a_wal_that_was_damaged_since_the_look_is_not_checkpointed_away() {
    let scene = Scene::with_wal();
    let wal = side(&scene.path(), "-wal");
    let mut bytes = std::fs::read(&wal).unwrap();
    bytes[32 + 24 + 100] ^= 1;
    std::fs::write(&wal, &bytes).unwrap();
    let refused = scene.run(DatabaseStep::Checkpoint { timeout_ms: 50 }, Phase::Apply).unwrap_err();
    assert_eq!(refused.kind, FailureKind::Refused, "{}", refused.message);
    assert!(refused.message.contains("damaged"), "{}", refused.message);
    assert_eq!(std::fs::read(&wal).unwrap(), bytes);
}

#[test]
fn a_directory_or_a_link_in_the_path_is_refused_and_untouched() {
    let scene = Scene::new("delete");
    scene.run(scene.restore_step(), Phase::Apply).unwrap();
    std::fs::remove_file(scene.path()).unwrap();
    std::fs::create_dir(scene.path()).unwrap();
    for step in [DatabaseStep::Preserve, DatabaseStep::Install] {
        assert_eq!(scene.run(step, Phase::Apply).unwrap_err().kind, FailureKind::Refused);
    }
    assert!(scene.path().is_dir());
}
