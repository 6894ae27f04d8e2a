//! The way to the rows, put right: whatever of the header, of page 1 or of the list of free pages is damaged, no row is lost.

use super::*;
use crate::job::KnownPageOne;

/// What the daemon remembers of the scene's database, and its backup.
fn known(scene: &Scene) -> KnownPageOne {
    let db = open(&scene.path(), Access::Copy);
    let (schema, cookie) = (db.schema_sql().unwrap(), db.schema_version().unwrap());
    KnownPageOne {
        schema: Some(schema),
        schema_cookie: Some(cookie as u32),
        change_counter: Some(5),
        wal_mode: db.journal_mode().unwrap() == "wal",
        page_ones: vec![scene.backup.clone()],
        owner: None,
    }
}

/// The scene mended: its rows, and how.
fn mended(scene: &Scene, known: KnownPageOne) -> (u64, String) {
    scene.run(DatabaseStep::Preserve, Phase::Apply).unwrap();
    let before = content(&scene.folder());
    let report = scene.run(DatabaseStep::BuildMended { known: Box::new(known) }, Phase::Apply).unwrap();
    assert_eq!(content(&scene.folder()), before);
    assert!(report.candidate.unwrap().proven, "{}", report.detail);
    scene.run(DatabaseStep::Install, Phase::Apply).unwrap();
    assert_eq!(scene.names(), ["app.db"]);
    assert!(open(&scene.path(), Access::Copy).integrity_check(9).ok);
    (rows(&scene.path()), report.detail)
}

#[test]
fn a_header_that_is_gone_is_written_anew() {
    for mode in ["delete", "wal"] {
        for hurt in [[0_u8; 100], [0xa5; 100]] {
            let scene = Scene::new(mode);
            scene.run_sql("PRAGMA user_version=12; PRAGMA application_id=-7");
            let known = known(&scene);
            scene.overwrite(0, &hurt);
            let (rows, how) = mended(&scene, known);
            assert!(rows == 150 && how.contains("written anew"), "{rows} {how}");
            let db = open(&scene.path(), Access::Copy);
            assert_eq!(db.journal_mode().unwrap(), mode);
            let pragma = |name: &str| db.rows(&format!("PRAGMA {name}"), &[]).unwrap()[0][0].as_i64().unwrap();
            assert_eq!((pragma("user_version"), pragma("application_id")), (12, -7));
        }
    }
}

#[test]
fn each_field_of_a_header_is_put_right_and_what_is_its_own_stays() {
    let fields: [(usize, &[u8]); 10] = [
        (0, b"SQLite format 4"),
        (16, &[0x08, 0x00]),
        (16, &[0x12, 0x34]),
        (18, &[9]),
        (19, &[77]),
        (20, &[200]),
        (28, &[0, 0, 9, 9]),
        (44, &[0, 0, 0, 99]),
        (56, &[0, 0, 0, 9]),
        (56, &[0, 0, 0, 3]),
    ];
    for (at, bytes) in fields {
        let scene = Scene::new("delete");
        let known = known(&scene);
        // As its program set it after the last look.
        scene.run_sql("PRAGMA user_version=77");
        scene.overwrite(at, bytes);
        assert_eq!(mended(&scene, known).0, 150, "{at}");
        let db = open(&scene.path(), Access::Copy);
        assert_eq!(db.rows("PRAGMA user_version", &[]).unwrap()[0][0].as_i64(), Some(77), "{at}");
    }
}

/// As when a checkpoint found the disk full behind page 1, and the WAL went after that.
#[test]
fn pages_that_its_own_header_had_and_that_are_gone_are_no_proof_of_no_loss() {
    let scene = Scene::new("wal");
    let known = known(&scene);
    let pages = std::fs::metadata(scene.path()).unwrap().len() as u32 / 4096;
    scene.overwrite(28, &(pages + 3).to_be_bytes());
    scene.run(DatabaseStep::Preserve, Phase::Apply).unwrap();
    let report = scene.run(DatabaseStep::BuildMended { known: Box::new(known) }, Phase::Apply).unwrap();
    let candidate = report.candidate.unwrap();
    assert!(!candidate.proven && candidate.source.contains("it had 3 more pages"), "{candidate:?}");
}

#[test]
fn the_wal_beside_a_header_that_is_gone_is_written_back() {
    let scene = Scene::with_wal();
    let aside = Scene::new("wal");
    let known = KnownPageOne { page_ones: Vec::new(), ..known(&aside) };
    scene.overwrite(0, &[0; 100]);
    assert_eq!(mended(&scene, known).0, 180);
}

#[test]
fn page_1_comes_from_a_backup_of_the_same_schema_and_of_no_other() {
    for mode in ["delete", "wal"] {
        let scene = Scene::new(mode);
        let own = known(&scene);
        scene.overwrite(0, &[0; 4096]);
        let (rows, how) = mended(&scene, own);
        assert!(rows == 150 && how.contains("page 1 of the backup"), "{rows} {how}");
    }

    // Of another schema: a later table would be gone.
    let scene = Scene::new("delete");
    scene.run_sql("CREATE TABLE later(a); INSERT INTO later VALUES (1)");
    let own = known(&scene);
    scene.overwrite(0, &[0; 4096]);
    scene.run(DatabaseStep::Preserve, Phase::Apply).unwrap();
    let failure = scene.run(DatabaseStep::BuildMended { known: Box::new(own) }, Phase::Apply).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Failed, "{failure:?}");
    assert_eq!(scene.names(), ["app.db"]);
}

/// Pages are free, and the tables are as they were.
fn with_free_pages(auto_vacuum: bool) -> Scene {
    let scene = Scene::new("delete");
    if auto_vacuum {
        scene.run_sql("PRAGMA auto_vacuum=INCREMENTAL; VACUUM");
    }
    scene.run_sql(
        "CREATE TABLE big(a); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<3000)
         INSERT INTO big SELECT zeroblob(1500) FROM n; DELETE FROM big WHERE rowid % 7 < 6; DROP TABLE big",
    );
    scene
}

type Damage<'a> = &'a dyn Fn(&Scene);

#[test]
fn a_list_of_free_pages_is_found_again_or_made_anew() {
    for auto_vacuum in [false, true] {
        let first = |scene: &Scene| {
            let bytes = std::fs::read(scene.path()).unwrap();
            u32::from_be_bytes(bytes[32..36].try_into().unwrap()) as usize
        };
        let damage: [(&str, Damage<'_>); 6] = [
            ("found again", &|scene| scene.overwrite(32, &[0, 0, 0, 0])),
            ("found again", &|scene| scene.overwrite(32, &[0, 0, 0, 2])),
            ("", &|scene| scene.overwrite(36, &[0, 0, 9, 9])),
            ("found again", &|scene| scene.overwrite(0, &[0; 100])),
            ("made anew", &|scene| scene.overwrite((first(scene) - 1) * 4096, &[0xa5; 4096])),
            ("made anew", &|scene| scene.overwrite((first(scene) - 1) * 4096 + 4, &[0, 0, 0, 1])),
        ];
        for (at, (how, damage)) in damage.iter().enumerate() {
            let scene = with_free_pages(auto_vacuum);
            let known = known(&scene);
            damage(&scene);
            let free = |scene: &Scene| {
                let db = open(&scene.path(), Access::Copy);
                db.rows("PRAGMA freelist_count", &[]).unwrap()[0][0].as_i64().unwrap()
            };
            let (rows, told) = mended(&scene, known);
            assert!(rows == 150 && told.contains(how), "{at} {auto_vacuum}: {rows} {told}");
            assert!(free(&scene) > 1000, "{at}");
            scene
                .run_sql("PRAGMA incremental_vacuum; CREATE TABLE again(a); INSERT INTO again SELECT zeroblob(100000)");
            assert!(open(&scene.path(), Access::Copy).integrity_check(9).ok);
        }
    }
}

#[test]
fn pages_of_no_tree_are_not_called_free_where_nothing_says_so() {
    let scene = with_free_pages(false);
    let known = known(&scene);
    let bytes = std::fs::read(scene.path()).unwrap();
    let first = u32::from_be_bytes(bytes[32..36].try_into().unwrap()) as usize;
    scene.overwrite((first - 1) * 4096, &[0xa5; 4096]);
    scene.overwrite(0, &[0xa5; 100]);
    scene.run(DatabaseStep::Preserve, Phase::Apply).unwrap();
    let failure = scene.run(DatabaseStep::BuildMended { known: Box::new(known) }, Phase::Apply).unwrap_err();
    assert!(failure.message.contains("rows may have been on them"), "{failure:?}");
    assert_eq!((failure.kind, scene.names()), (FailureKind::Failed, vec!["app.db".to_owned()]));
}

#[test]
fn a_row_that_is_hurt_too_is_not_hidden_by_a_header_that_is_put_right() {
    let scene = Scene::new("wal");
    let known = known(&scene);
    let whole = std::fs::read(scene.path()).unwrap().len();
    scene.overwrite(whole - 4096, &[0xa5; 4096]);
    scene.overwrite(0, &[0; 100]);
    scene.run(DatabaseStep::Preserve, Phase::Apply).unwrap();
    let failure = scene.run(DatabaseStep::BuildMended { known: Box::new(known) }, Phase::Apply).unwrap_err();
    assert_eq!((failure.kind, scene.names()), (FailureKind::Failed, vec!["app.db".to_owned()]), "{failure:?}");
}
