//! Rows salvaged into a candidate: what it is compared with, and what it has of the file that it takes the place of.

use super::*;

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
    let mut bytes = std::fs::read(scene.path()).unwrap();
    bytes[((page - 1) * size) as usize..(page * size) as usize].fill(0xa5);
    std::fs::write(scene.path(), bytes).unwrap();
    cells as u64
}

fn salvage(more_than: Option<u64>) -> DatabaseStep {
    DatabaseStep::BuildFromSalvage {
        schema: None,
        journal_mode: None,
        schema_cookie: Some(4711),
        more_than: more_than.map(|rows| vec![TableRows { table: "t".into(), rows }]),
        owner: None,
    }
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
    let mut bytes = std::fs::read(scene.path()).unwrap();
    bytes[((page - 1) * 4096) as usize..(page * 4096) as usize].fill(0xa5);
    std::fs::write(scene.path(), bytes).unwrap();
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

    let DatabaseStep::BuildFromSalvage { more_than, journal_mode, schema_cookie, owner, .. } = salvage(None) else {
        unreachable!()
    };
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, body TEXT); CREATE INDEX t_body ON t(body);
                  PRAGMA user_version=12; PRAGMA application_id=-3;"
        .to_owned();
    let known = DatabaseStep::BuildFromSalvage { schema: Some(schema), more_than, journal_mode, schema_cookie, owner };
    let candidate = scene.run(known, Phase::Apply).unwrap().candidate.unwrap();
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
    let mut bytes = std::fs::read(scene.path()).unwrap();
    bytes[((page - 1) * size) as usize..(page * size) as usize].fill(0xa5);
    std::fs::write(scene.path(), bytes).unwrap();
    scene.run(DatabaseStep::Preserve, Phase::Apply).unwrap();
    let with = |more_than: Option<u64>| {
        let DatabaseStep::BuildFromSalvage { more_than, journal_mode, schema_cookie, owner, .. } = salvage(more_than)
        else {
            unreachable!()
        };
        let schema = Some(schema.clone());
        scene
            .run(DatabaseStep::BuildFromSalvage { schema, journal_mode, schema_cookie, more_than, owner }, Phase::Apply)
    };
    let failure = with(Some(100)).unwrap_err();
    assert!(failure.message.contains("cannot be compared"), "{failure:?}");
    assert_eq!(scene.names(), ["app.db"]);
    let candidate = with(None).unwrap().candidate.unwrap();
    assert_eq!(candidate.tables[0].rows, 150);
    assert!(candidate.lost.is_empty(), "{candidate:?}");
}
