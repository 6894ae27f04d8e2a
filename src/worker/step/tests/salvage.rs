//! Rows salvaged into a candidate: what it is compared with, and what it has of the file that it takes the place of.

use super::*;
use crate::job::RowsToSalvage;

/// The table without its index, which has all that its rows have.
fn drop_index(scene: &Scene) {
    let db = open(&scene.path(), Access::Repair);
    db.batch("DROP INDEX t_body").unwrap();
    db.close().unwrap();
}

/// A leaf of the table with nothing but noise; so many rows of the 150 were on it.
fn hurt(scene: &Scene) -> u64 {
    let leaf =
        "SELECT pageno, ncell, pgsize FROM dbstat WHERE name='t' AND pagetype='leaf' ORDER BY pageno DESC LIMIT 1";
    let found = rusqlite::Connection::open(scene.path()).unwrap();
    let found =
        found.query_row(leaf, [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?)));
    let (page, cells, size) = found.unwrap();
    scene.overwrite(((page - 1) * size) as usize, &vec![0xa5; size as usize]);
    cells as u64
}

fn salvage(more_than: Option<u64>) -> DatabaseStep {
    DatabaseStep::BuildFromSalvage(RowsToSalvage {
        schema_cookie: Some(4711),
        more_than: more_than.map(|rows| vec![TableRows { table: "t".into(), rows }]),
        ..RowsToSalvage::default()
    })
}

fn with_schema(mut step: DatabaseStep, known: &str) -> DatabaseStep {
    let DatabaseStep::BuildFromSalvage(wanted) = &mut step else { unreachable!() };
    wanted.schema = Some(known.to_owned());
    step
}

#[test]
fn what_can_be_read_takes_the_place_of_a_wreck_with_its_mode_and_what_cannot_is_not_called_none() {
    for mode in ["delete", "wal"] {
        let scene = Scene::new(mode);
        drop_index(&scene);
        let gone = hurt(&scene);
        let refused = scene.run(salvage(None), Phase::Apply).unwrap_err();
        assert_eq!(refused.kind, FailureKind::Refused, "nothing is in evidence yet: {refused:?}");
        scene.run(DatabaseStep::Preserve, Phase::Apply).unwrap();
        let before = content(&scene.folder());
        let candidate = scene.run(salvage(None), Phase::Apply).unwrap().candidate.unwrap();
        assert_eq!(candidate.tables, [TableRows { table: "t".into(), rows: 150 - gone }]);
        assert!(candidate.lost.is_empty() && !candidate.proven, "{candidate:?}");
        assert_eq!(content(&scene.folder()), before);
        scene.run(DatabaseStep::Install, Phase::Apply).unwrap();
        assert_eq!(scene.names(), ["app.db"]);
        assert_eq!(rows(&scene.path()), 150 - gone);
        let db = open(&scene.path(), Access::Probe);
        assert_eq!((db.journal_mode().unwrap().as_str(), db.schema_version().unwrap()), (mode, 4711));
    }
}

#[test]
fn a_backup_with_as_many_rows_comes_first_and_nothing_is_left_behind() {
    let scene = Scene::new("wal");
    drop_index(&scene);
    let kept = 150 - hurt(&scene);
    scene.run(DatabaseStep::Preserve, Phase::Apply).unwrap();
    for more_than in [kept, kept + 1] {
        let failure = scene.run(salvage(Some(more_than)), Phase::Apply).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Failed, "{failure:?}");
        assert!(failure.message.contains(&format!("the backup has {more_than}")), "{failure:?}");
        assert_eq!(scene.names(), ["app.db"]);
    }
    let report = scene.run(salvage(Some(kept - 1)), Phase::Resume).unwrap();
    assert_eq!(report.candidate.unwrap().tables[0].rows, kept);
    assert_eq!(scene.run(salvage(Some(kept - 1)), Phase::Undo).unwrap().progress, Progress::Undone);
    assert_eq!(scene.names(), ["app.db"]);
}

#[test]
fn what_is_in_the_wal_alone_is_salvaged_too_and_what_an_index_alone_has() {
    let scene = Scene::with_wal();
    assert!(hurt_main(&scene) > 0);
    scene.run(DatabaseStep::Preserve, Phase::Apply).unwrap();
    let candidate = scene.run(salvage(None), Phase::Apply).unwrap().candidate.unwrap();
    assert_eq!(candidate.tables[0].rows, 180);
    assert!(candidate.source.contains("put together from indexes"), "{}", candidate.source);
}

/// Noise over the first leaf of the main file, which the WAL has no newer version of.
fn hurt_main(scene: &Scene) -> u64 {
    let aside = scene.dir.path().join("main-alone.db");
    std::fs::copy(scene.path(), &aside).unwrap();
    let first = "SELECT pageno, ncell FROM dbstat WHERE name='t' AND pagetype='leaf' ORDER BY path LIMIT 1";
    let found = rusqlite::Connection::open(&aside).unwrap();
    let found = found.query_row(first, [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)));
    let (page, cells) = found.unwrap();
    scene.overwrite(((page - 1) * 4096) as usize, &[0xa5; 4096]);
    cells as u64
}

#[test]
fn tables_that_nobody_knows_any_more_are_no_database_of_its_programs() {
    let scene = Scene::new("delete");
    let mut bytes = std::fs::read(scene.path()).unwrap();
    bytes[..4096].fill(0);
    std::fs::write(scene.path(), bytes).unwrap();
    scene.run(DatabaseStep::Preserve, Phase::Apply).unwrap();
    let failure = scene.run(salvage(None), Phase::Apply).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Failed, "{failure:?}");
    assert_eq!(scene.names(), ["app.db"]);

    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, body TEXT); CREATE INDEX t_body ON t(body);
                  PRAGMA user_version=12; PRAGMA application_id=-3;"
        .to_owned();
    let candidate = scene.run(with_schema(salvage(None), &schema), Phase::Apply).unwrap().candidate.unwrap();
    assert_eq!(candidate.tables.iter().find(|table| table.table == "t").map(|table| table.rows), Some(150));
    scene.run(DatabaseStep::Install, Phase::Apply).unwrap();
    let pragma = |name: &str| {
        let db = open(&scene.path(), Access::Probe);
        db.rows(&format!("PRAGMA {name}"), &[]).unwrap()[0][0].as_i64().unwrap()
    };
    assert_eq!((pragma("user_version"), pragma("application_id")), (12, -3), "its program would begin anew");
}

/// 150 rows of a table, and words in a virtual one, whose own tables no count has.
#[test]
fn a_virtual_table_that_is_hurt_is_not_outvoted_by_rows_that_are_counted() {
    let scene = Scene::new("delete");
    let db = rusqlite::Connection::open(scene.path()).unwrap();
    db.execute_batch("CREATE VIRTUAL TABLE f USING fts5(body); INSERT INTO f SELECT body FROM t").unwrap();
    let (page, size): (i64, i64) = db
        .query_row("SELECT pageno, pgsize FROM dbstat WHERE name='f_content' AND pagetype='leaf' LIMIT 1", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    let schema = open(&scene.path(), Access::Copy).schema_sql().unwrap();
    drop(db);
    scene.overwrite(((page - 1) * size) as usize, &vec![0xa5; size as usize]);
    scene.run(DatabaseStep::Preserve, Phase::Apply).unwrap();
    let with = |more_than: Option<u64>| scene.run(with_schema(salvage(more_than), &schema), Phase::Apply);
    let failure = with(Some(100)).unwrap_err();
    assert!(failure.message.contains("cannot be compared"), "{failure:?}");
    assert_eq!(scene.names(), ["app.db"]);
    let candidate = with(None).unwrap().candidate.unwrap();
    assert_eq!(candidate.tables[0].rows, 150);
    assert!(candidate.lost.is_empty(), "{candidate:?}");
}

/// One more backup, of the database as it is.
fn back_up(scene: &Scene) -> PathBuf {
    let job = BackupJob {
        site: scene.site(),
        target: "app".into(),
        folder: scene.dir.path().join("backups"),
        fs_id: None,
        free_floor: 0,
        deadline_ms: 60_000,
    };
    crate::worker::backup::take(&job).unwrap().file
}

fn against(backups: &[&Path]) -> DatabaseStep {
    let mut step = salvage(None);
    let DatabaseStep::BuildFromSalvage(wanted) = &mut step else { unreachable!() };
    wanted.backups = backups.iter().map(|file| (*file).to_owned()).collect();
    step
}

/// Noise over the first leaf of a table.
fn hurt_first(scene: &Scene, table: &str) {
    let sql = format!("SELECT pageno FROM dbstat WHERE name='{table}' AND pagetype='leaf' ORDER BY path LIMIT 1");
    let page =
        rusqlite::Connection::open(scene.path()).unwrap().query_row(&sql, [], |row| row.get::<_, i64>(0)).unwrap();
    let mut bytes = std::fs::read(scene.path()).unwrap();
    bytes[(page - 1) as usize * 4096..page as usize * 4096].fill(0xa5);
    std::fs::write(scene.path(), bytes).unwrap();
}

#[test]
fn a_backup_that_is_not_as_it_was_taken_gives_nothing_and_the_one_before_it_does() {
    let scene = Scene::new("delete");
    let newest = back_up(&scene);
    scene.run_sql("INSERT INTO t(body) VALUES ('newer')");
    hurt_first(&scene, "t");
    scene.run(DatabaseStep::Preserve, Phase::Apply).unwrap();
    let mut bytes = std::fs::read(&newest).unwrap();
    bytes[5000] ^= 1;
    std::fs::write(&newest, bytes).unwrap();
    let failure = scene.run(against(&[&newest]), Phase::Apply).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Failed);
    assert!(failure.message.contains("no backup is as it was taken"), "{failure:?}");
    assert_eq!(scene.names(), ["app.db"]);

    let report = scene.run(against(&[&newest, &scene.backup]), Phase::Apply).unwrap();
    assert_eq!(report.candidate.unwrap().tables[0].rows, 151, "{}", report.detail);
}

#[test]
fn nothing_is_taken_apart_where_every_page_that_can_be_read_is_the_backups() {
    for mode in ["delete", "wal"] {
        let scene = Scene::new(mode);
        let newest = back_up(&scene);
        hurt_first(&scene, "t");
        scene.run(DatabaseStep::Preserve, Phase::Apply).unwrap();
        let failure = scene.run(against(&[&newest]), Phase::Apply).unwrap_err();
        assert!(failure.message.contains("every page that can be read is the same in the backup (1 "), "{failure:?}");
    }
}

#[test]
fn what_can_be_read_of_a_damaged_backup_is_more_than_nothing() {
    for mode in ["delete", "wal"] {
        let scene = Scene::new(mode);
        drop_index(&scene);
        scene.run_sql("PRAGMA user_version=7");
        let newest = back_up(&scene);
        let gone = hurt(&scene);
        std::fs::copy(scene.path(), &newest).unwrap();
        std::fs::remove_file(scene.path()).unwrap();
        let mut step = salvage(None);
        let DatabaseStep::BuildFromSalvage(wanted) = &mut step else { unreachable!() };
        wanted.of_backup = Some(newest.clone());
        scene.run(DatabaseStep::Preserve, Phase::Apply).unwrap();
        let report = scene.run(step.clone(), Phase::Apply).unwrap();
        let candidate = report.candidate.unwrap();
        assert_eq!(candidate.tables, [TableRows { table: "t".into(), rows: 150 - gone }]);
        assert!(candidate.lost.is_empty() && !candidate.proven, "{candidate:?}");
        assert!(report.detail.contains("damaged backup"), "{}", report.detail);
        scene.run(DatabaseStep::Install, Phase::Apply).unwrap();
        assert_eq!((rows(&scene.path()), scene.names()), (150 - gone, vec!["app.db".to_owned()]));
        let db = open(&scene.path(), Access::Copy);
        assert_eq!(db.journal_mode().unwrap(), mode);
        drop(db);
        let version = "PRAGMA user_version";
        let found = rusqlite::Connection::open(scene.path()).unwrap();
        assert_eq!(found.query_row(version, [], |row| row.get::<_, i64>(0)).unwrap(), 7);

        // Of noise nothing can be had.
        scene.names().iter().for_each(|name| std::fs::remove_file(scene.folder().join(name)).unwrap());
        let size = std::fs::metadata(&newest).unwrap().len() as usize;
        std::fs::write(&newest, vec![0xa5; size]).unwrap();
        scene.run(DatabaseStep::Preserve, Phase::Apply).unwrap();
        assert_eq!(scene.run(step, Phase::Apply).unwrap_err().kind, FailureKind::Failed);
        assert_eq!(scene.names(), Vec::<String>::new());
    }
}

/// Rowids that no column names: after a VACUUM the backup's are other rows'.
#[test]
fn a_backup_from_before_a_vacuum_fills_no_table_whose_rowids_are_others_by_now() {
    let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<900)
        INSERT INTO v SELECT 'row ' || i || hex(randomblob(20)) FROM n";
    for vacuum in ["VACUUM", "SELECT 1"] {
        let scene = Scene::new("delete");
        scene.run_sql(&format!("CREATE TABLE v(a); {fill}"));
        let backup = back_up(&scene);
        scene.run_sql(&format!("DELETE FROM v WHERE rowid <= 200; {vacuum}; {}", fill.replace("'row '", "'newer '")));
        hurt_first(&scene, "v");
        scene.run(DatabaseStep::Preserve, Phase::Apply).unwrap();
        let candidate = scene.run(against(&[&backup]), Phase::Apply).unwrap().candidate.unwrap();
        scene.run(DatabaseStep::Install, Phase::Apply).unwrap();
        let db = open(&scene.path(), Access::Probe);
        let twice = db.rows("SELECT count(*) - count(DISTINCT a) FROM v", &[]).unwrap();
        assert_eq!(twice[0][0].as_i64(), Some(0), "{vacuum}");
        // Of 200 that were deleted no more come back than the page that is gone had room for.
        let oldest = db.rows("SELECT count(*) FROM v WHERE rowid <= 200", &[]).unwrap()[0][0].as_i64().unwrap();
        assert!(vacuum == "VACUUM" || oldest < 80, "{oldest} rows were deleted and are there again");
        let filled = candidate.origins.iter().find(|one| one.table == "v").map_or(0, |one| one.filled);
        assert_eq!(filled > 0, vacuum != "VACUUM", "{vacuum}: {candidate:?}");
    }
}
