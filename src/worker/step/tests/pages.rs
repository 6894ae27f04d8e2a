//! Pages put back that are not what they were, where nothing was committed since.

use super::*;
use crate::job::{BackupEntry, KnownPages, KnownState, PagesOf};

const PAGE: usize = 4096;

/// A database and a backup of all that is in it; a program wrote it ten seconds before, and stays as it is given to `with` while the
/// backup is taken.
fn saved(mode: &str, with: impl FnOnce(&Scene)) -> (Scene, BackupEntry) {
    let scene = Scene::new(mode);
    let before = std::time::SystemTime::now() - Duration::from_secs(10);
    std::fs::File::options().append(true).open(scene.path()).unwrap().set_modified(before).unwrap();
    with(&scene);
    let job = BackupJob {
        site: scene.site(),
        target: "app".into(),
        folder: scene.dir.path().join("backups"),
        fs_id: None,
        free_floor: 0,
        deadline_ms: 60_000,
    };
    let entry = crate::worker::backup::take(&job).unwrap();
    (scene, entry)
}

fn step(entries: &[&BackupEntry]) -> DatabaseStep {
    let known = entries.iter().map(|entry| KnownPages {
        pages: PagesOf::Backup {
            file: entry.file.clone(),
            blake3: entry.manifest.blake3.clone(),
            tables: entry.manifest.tables.clone(),
        },
        then: KnownState::of_backup(&entry.manifest).expect("its source stood still"),
    });
    let sources = entries.iter().map(|entry| entry.file.clone()).collect();
    DatabaseStep::BuildFromPages { known: known.collect(), sources, owner: None }
}

/// These bytes over a page, from 1.
fn overwrite_page(scene: &Scene, page: usize, byte: u8) {
    scene.overwrite((page - 1) * PAGE, &[byte; PAGE]);
}

/// The pages that hold rows of `t`.
fn leaves(scene: &Scene) -> Vec<usize> {
    let whole = std::fs::read(scene.path()).unwrap();
    let leaves: Vec<usize> = (2..=whole.len() / PAGE).filter(|page| whole[(page - 1) * PAGE] == 13).collect();
    assert!(leaves.len() > 2, "{leaves:?}");
    leaves
}

fn refused(scene: &Scene, step: DatabaseStep, why: &str) {
    let before = content(&scene.folder());
    let failure = scene.run(step, Phase::Apply).unwrap_err();
    assert!(failure.message.contains(why), "{}", failure.message);
    assert_eq!(failure.kind, FailureKind::Failed, "the next rung has its turn");
    assert_eq!(content(&scene.folder()), before);
}

#[test]
fn pages_that_were_overwritten_come_back_byte_for_byte() {
    let (scene, entry) = saved("delete", |_| {});
    let whole = std::fs::read(scene.path()).unwrap();
    let leaves = leaves(&scene);
    overwrite_page(&scene, leaves[0], 0);
    overwrite_page(&scene, leaves[2], 0xa5);
    scene.run(DatabaseStep::Preserve, Phase::Apply).unwrap();
    let before = content(&scene.folder());
    let report = scene.run(step(&[&entry]), Phase::Apply).unwrap();
    assert_eq!(content(&scene.folder()), before);
    assert!(report.detail.contains("2 of its"), "{}", report.detail);
    assert!(report.detail.contains("nobody has committed (change counter"), "{}", report.detail);
    assert!(report.candidate.unwrap().proven);
    scene.run(DatabaseStep::Install, Phase::Apply).unwrap();
    assert_eq!(scene.names(), ["app.db"]);
    assert!(std::fs::read(scene.path()).unwrap() == whole);
}

/// A bit that turned in a text is nobody's finding: beside a page that is, it goes back too.
#[test]
fn what_no_check_sees_goes_back_with_what_it_sees() {
    let (scene, entry) = saved("delete", |_| {});
    let whole = std::fs::read(scene.path()).unwrap();
    let leaves = leaves(&scene);
    let mut hurt = whole.clone();
    hurt[leaves[1] * PAGE - 1] ^= 1;
    hurt.truncate(whole.len() - 100);
    std::fs::write(scene.path(), &hurt).unwrap();
    overwrite_page(&scene, leaves[0], 0);
    scene.run(DatabaseStep::Preserve, Phase::Apply).unwrap();
    scene.run(step(&[&entry]), Phase::Apply).unwrap();
    scene.run(DatabaseStep::Install, Phase::Apply).unwrap();
    assert!(std::fs::read(scene.path()).unwrap() == whole);
}

#[test]
fn bits_that_turned_come_back_in_either_mode_whatever_page_they_are_on() {
    use std::os::unix::fs::MetadataExt as _;
    for mode in ["delete", "wal"] {
        let (scene, entry) = saved(mode, |_| {});
        let whole = std::fs::read(scene.path()).unwrap();
        let facts = std::fs::metadata(scene.path()).unwrap();
        let mtime = facts.modified().unwrap();
        overwrite_page(&scene, leaves(&scene)[1], 0x77);
        if mode == "delete" {
            overwrite_page(&scene, 1, 0);
        }
        // As a disk does it: nobody wrote the file.
        std::fs::File::options().append(true).open(scene.path()).unwrap().set_modified(mtime).unwrap();
        assert_eq!(std::fs::metadata(scene.path()).unwrap().mtime_nsec(), facts.mtime_nsec());
        scene.run(DatabaseStep::Preserve, Phase::Apply).unwrap();
        let report = scene.run(step(&[&entry]), Phase::Apply).unwrap();
        assert!(report.detail.contains("nobody has written the file"), "{}", report.detail);
        scene.run(DatabaseStep::Install, Phase::Apply).unwrap();
        assert!(std::fs::read(scene.path()).unwrap() == whole, "{mode}");
    }
}

/// The commits in the WAL are there as well, and the page that was hurt below them.
#[test]
fn a_page_below_a_wal_that_ends_where_it_did_comes_back() {
    let aside = Scene::with_wal();
    let (scene, entry) = saved("wal", |scene| {
        for suffix in ["", "-wal"] {
            std::fs::copy(side(&aside.path(), suffix), side(&scene.path(), suffix)).unwrap();
            private(&side(&scene.path(), suffix));
        }
    });
    assert_eq!(entry.manifest.tables[0].rows, 180);
    assert!(entry.manifest.wal.is_some_and(|wal| wal.frame > 0), "{:?}", entry.manifest.wal);
    // What a look of ours made of the index is nobody's.
    let _ = std::fs::remove_file(side(&scene.path(), "-shm"));
    overwrite_page(&scene, leaves(&scene)[0], 0x11);
    scene.run(DatabaseStep::Preserve, Phase::Apply).unwrap();
    let report = scene.run(step(&[&entry]), Phase::Apply).unwrap();
    assert!(report.detail.contains("its WAL ends where it did"), "{}", report.detail);
    scene.run(DatabaseStep::Install, Phase::Apply).unwrap();
    assert_eq!(rows(&scene.path()), 180);
}

#[test]
fn nothing_is_put_back_over_a_commit() {
    for mode in ["delete", "wal"] {
        let (scene, entry) = saved(mode, |_| {});
        let db = open(&scene.path(), Access::Repair);
        db.batch("UPDATE t SET body = 'new' WHERE id = 3").unwrap();
        db.close().unwrap();
        overwrite_page(&scene, *leaves(&scene).last().unwrap(), 0);
        let why = if mode == "wal" { "nothing tells whether" } else { "a program has committed since" };
        refused(&scene, step(&[&entry]), why);
    }
}

#[test]
fn a_page_counts_only_as_it_was_and_a_file_only_as_it_is() {
    // The backup itself is hurt: of what its pages were nothing is known.
    let (scene, entry) = saved("delete", |_| {});
    let hurt = leaves(&scene)[0];
    overwrite_page(&scene, hurt, 0);
    let whole = std::fs::read(&entry.file).unwrap();
    let mut other = whole.clone();
    other[hurt * PAGE - 1] ^= 1;
    std::fs::write(&entry.file, &other).unwrap();
    refused(&scene, step(&[&entry]), "is damaged");
    std::fs::write(&entry.file, &whole).unwrap();

    // A journal that is to be rolled back has the word.
    let journal = side(&scene.path(), "-journal");
    std::fs::write(&journal, [0xd9_u8; 512]).unwrap();
    refused(&scene, step(&[&entry]), "it has a rollback journal");
    std::fs::remove_file(&journal).unwrap();

    // Another file under its name.
    let aside = scene.dir.path().join("aside");
    std::fs::copy(scene.path(), &aside).unwrap();
    std::fs::rename(&aside, scene.path()).unwrap();
    refused(&scene, step(&[&entry]), "another file has taken its place");
}

#[test]
fn what_was_wrong_then_already_is_not_mended() {
    let (scene, entry) = saved("delete", |_| {});
    let now = std::time::SystemTime::now();
    std::fs::File::options().append(true).open(scene.path()).unwrap().set_modified(now).unwrap();
    refused(&scene, step(&[&entry]), "every page is what it was");
}

/// A database that was written since its backup, and mapped after that: the step that knows of the map alone.
fn mapped(mode: &str, with: impl FnOnce(&Scene)) -> (Scene, DatabaseStep) {
    let (scene, entry) = saved(mode, |_| {});
    scene.run_sql("INSERT INTO t(id, body) VALUES(9000, 'after the backup')");
    with(&scene);
    let folder = entry.file.parent().unwrap();
    let then = crate::worker::probe::map_pages(&scene.site(), folder).unwrap();
    let known = vec![KnownPages { pages: PagesOf::Map { file: folder.join(crate::job::PAGE_MAP) }, then }];
    (scene, DatabaseStep::BuildFromPages { known, sources: vec![entry.file], owner: None })
}

fn map_of(step: &DatabaseStep) -> PathBuf {
    match step {
        DatabaseStep::BuildFromPages { known, .. } => match &known[0].pages {
            PagesOf::Map { file } => file.clone(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_page_that_was_not_written_since_an_older_backup_comes_back_and_later_commits_stay() {
    let (scene, step) = mapped("delete", |_| {});
    let whole = std::fs::read(scene.path()).unwrap();
    overwrite_page(&scene, leaves(&scene)[0], 0x5a);
    scene.run(DatabaseStep::Preserve, Phase::Apply).unwrap();
    let report = scene.run(step, Phase::Apply).unwrap();
    assert!(report.detail.contains("1 of its") && report.candidate.unwrap().proven, "{}", report.detail);
    assert!(report.detail.contains(" of table t) put back"), "{}", report.detail);
    scene.run(DatabaseStep::Install, Phase::Apply).unwrap();
    assert!(std::fs::read(scene.path()).unwrap() == whole);
    assert_eq!(rows(&scene.path()), 151, "with what was committed after the backup");
}

#[test]
fn a_mapped_page_below_a_wal_comes_back() {
    let live = std::cell::RefCell::new(None);
    let (scene, step) = mapped("wal", |scene| {
        // It stays open, so that the WAL stays.
        let db = rusqlite::Connection::open(scene.path()).unwrap();
        db.execute_batch("PRAGMA wal_autocheckpoint=0; INSERT INTO t(id, body) VALUES(9001, 'in the WAL')").unwrap();
        live.replace(Some(db));
    });
    // As a program leaves it that is killed: closing it in order writes the WAL back, and takes its name away.
    let (main, wal, link) =
        (std::fs::read(scene.path()).unwrap(), side(&scene.path(), "-wal"), scene.dir.path().join("wal"));
    std::fs::hard_link(&wal, &link).unwrap();
    drop(live.take());
    assert!(!wal.exists());
    std::fs::rename(&link, &wal).unwrap();
    private(&wal);
    std::fs::write(scene.path(), main).unwrap();
    overwrite_page(&scene, leaves(&scene)[0], 0x5a);
    scene.run(DatabaseStep::Preserve, Phase::Apply).unwrap();
    let report = scene.run(step, Phase::Apply).unwrap();
    assert!(report.detail.contains("its WAL ends where it did"), "{}", report.detail);
    scene.run(DatabaseStep::Install, Phase::Apply).unwrap();
    assert_eq!(rows(&scene.path()), 152);
}

#[test]
fn a_page_that_was_written_since_every_backup_is_not_to_be_had() {
    let (scene, step) = mapped("delete", |_| {});
    // The last leaf of the table has the row that no backup has.
    overwrite_page(&scene, *leaves(&scene).last().unwrap(), 0x5a);
    refused(&scene, step, "is in no backup as it was");
}

#[test]
fn no_map_is_believed_that_is_hurt_or_of_another_moment() {
    let (scene, step) = mapped("delete", |_| {});
    overwrite_page(&scene, leaves(&scene)[0], 0x5a);
    let map = map_of(&step);
    let bytes = std::fs::read(&map).unwrap();
    for (at, why) in [(3, "no page map"), (40, "checksum"), (bytes.len() - 40, "checksum")] {
        let mut hurt = bytes.clone();
        hurt[at] ^= 1;
        std::fs::write(&map, &hurt).unwrap();
        refused(&scene, step.clone(), why);
    }
    std::fs::write(&map, &bytes[..bytes.len() / 2]).unwrap();
    refused(&scene, step.clone(), "checksum");
    std::fs::remove_file(&map).unwrap();
    refused(&scene, step.clone(), "page map");

    std::fs::write(&map, &bytes).unwrap();
    let DatabaseStep::BuildFromPages { mut known, sources, owner } = step.clone() else { panic!("{step:?}") };
    known[0].then.at += Duration::from_secs(1);
    refused(&scene, DatabaseStep::BuildFromPages { known, sources, owner }, "of another moment");
    // And a commit since leaves nothing of it.
    scene.run_sql("DELETE FROM t WHERE id = 9000");
    refused(&scene, step, "a program has committed since");
}

#[test]
fn what_is_not_sound_is_not_mapped_and_an_earlier_map_stays() {
    let (scene, step) = mapped("delete", |_| {});
    let map = map_of(&step);
    let bytes = std::fs::read(&map).unwrap();
    let read = crate::format::PageMap::decode(&bytes).unwrap();
    assert_eq!(read.owner_of(leaves(&scene)[0] as u32).map(|tree| tree.name.as_str()), Some("t"));
    overwrite_page(&scene, leaves(&scene)[0], 0x5a);
    let why = crate::worker::probe::map_pages(&scene.site(), map.parent().unwrap()).unwrap_err();
    assert!(why.contains("faults were found"), "{why}");
    assert!(std::fs::read(&map).unwrap() == bytes);
}

/// A backup that is hurt itself cannot be restored any more; each of its pages still is what its hash says.
#[test]
fn a_page_of_a_backup_that_is_hurt_elsewhere_counts_by_its_hash() {
    let (scene, step) = mapped("delete", |_| {});
    let whole = std::fs::read(scene.path()).unwrap();
    let DatabaseStep::BuildFromPages { sources, .. } = &step else { panic!("{step:?}") };
    let leaves = leaves(&scene);
    let mut backup = std::fs::read(&sources[0]).unwrap();
    backup[(leaves[1] - 1) * PAGE..leaves[1] * PAGE].fill(0);
    std::fs::write(&sources[0], &backup).unwrap();
    overwrite_page(&scene, leaves[1], 0x5a);
    refused(&scene, step.clone(), "is in no backup as it was");

    std::fs::write(scene.path(), &whole).unwrap();
    overwrite_page(&scene, leaves[0], 0x5a);
    scene.run(DatabaseStep::Preserve, Phase::Apply).unwrap();
    scene.run(step, Phase::Apply).unwrap();
    scene.run(DatabaseStep::Install, Phase::Apply).unwrap();
    assert!(std::fs::read(scene.path()).unwrap() == whole);
}

#[test]
fn where_the_map_is_hurt_a_backup_that_nothing_was_committed_since_does_as_well() {
    let (scene, entry) = saved("delete", |_| {});
    let whole = std::fs::read(scene.path()).unwrap();
    let folder = entry.file.parent().unwrap();
    let then = crate::worker::probe::map_pages(&scene.site(), folder).unwrap();
    let file = folder.join(crate::job::PAGE_MAP);
    std::fs::write(&file, b"no map").unwrap();
    let DatabaseStep::BuildFromPages { mut known, sources, owner } = step(&[&entry]) else { panic!("a build") };
    known.insert(0, KnownPages { pages: PagesOf::Map { file }, then });
    overwrite_page(&scene, leaves(&scene)[0], 0x5a);
    scene.run(DatabaseStep::Preserve, Phase::Apply).unwrap();
    scene.run(DatabaseStep::BuildFromPages { known, sources, owner }, Phase::Apply).unwrap();
    scene.run(DatabaseStep::Install, Phase::Apply).unwrap();
    assert!(std::fs::read(scene.path()).unwrap() == whole);
}
