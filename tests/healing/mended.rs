//! The way to the rows, put right: a header, page 1, a list of free pages. Nothing is lost by it, whatever the backup has.

use std::fs;

use serde_json::Value;

use super::support::daemon::Daemon;
use super::support::damage::{self, Dice};
use super::support::scene::Scene;
use super::support::truth::{Bytes, ownership};

const BACKUP: &str = "backup = { every = \"24h\", to = \"backups\" }";

/// 200 commits that the backup has, and 30 that it has not.
fn ahead_of_its_backup(mode: &str, lines: &str, flags: &[&str]) -> (Scene, Daemon) {
    let scene = Scene::of(lines);
    scene.commit(mode, 200, &[flags, &["--rows-per-commit", "5"]].concat());
    scene.give_away_if_root();
    let mut daemon = scene.daemon();
    if lines.contains("backup") {
        daemon.backed_up("app");
    }
    scene.commit(mode, 30, &[]);
    daemon.caught_up("app");
    (scene, daemon)
}

fn is_mended(scene: &Scene, incident: &Value, (mode, playbook): (&str, &str), bytes: &Bytes) {
    assert_eq!((&incident["outcome"], &incident["playbook"]), (&"healed".into(), &playbook.into()), "{incident:#}");
    assert_eq!(incident["loss"]["rows_lost"], 0, "{incident:#}");
    assert_eq!(scene.lost(), 0);
    scene.assert_honest(incident, &scene.db());
    scene.assert_evidence(incident, &[("main", Some(bytes)), ("wal", None), ("journal", None)]);
    scene.assert_whole(mode);
}

#[test]
fn an_overwritten_header_costs_no_commit_that_the_backup_lacks() {
    for (mode, flags, lines) in
        [("wal", &[][..], BACKUP), ("delete", &["--page-size", "1024"], BACKUP), ("delete", &[], ""), ("wal", &[], "")]
    {
        let (scene, mut daemon) = ahead_of_its_backup(mode, lines, flags);
        let before = ownership(&scene.db());
        let bytes = damage::header(&scene.db(), &mut Dice::new());

        let incident = daemon.closed("app", 1);
        assert_eq!(incident["kind"], "db_not_a_database", "{incident:#}");
        assert_eq!(ownership(&scene.db()), before);
        is_mended(&scene, &incident, (mode, "mend_header"), &bytes);
    }
}

#[test]
fn a_first_page_that_is_gone_comes_from_the_backup_and_no_row_does() {
    for mode in ["wal", "delete"] {
        let (scene, mut daemon) = ahead_of_its_backup(mode, BACKUP, &[]);
        let bytes = damage::overwrite(&scene.db(), 0, &[0; 4096]);
        is_mended(&scene, &daemon.closed("app", 1), (mode, "mend_header"), &bytes);
    }
    // Behind a header that is sound, as well.
    let (scene, mut daemon) = ahead_of_its_backup("delete", BACKUP, &[]);
    let bytes = damage::overwrite(&scene.db(), 100, &Dice::new().bytes(3996));
    is_mended(&scene, &daemon.closed("app", 1), ("delete", "mend_header"), &bytes);
}

/// Each alone keeps every program out.
#[test]
fn a_damaged_field_of_the_header_costs_nothing() {
    let fields: [(usize, &[u8]); 4] =
        [(0, b"SQLite format 4"), (16, &[0x08, 0x00]), (28, &[0, 0, 0x12, 0x34]), (56, &[0, 0, 0, 2])];
    for (at, bytes) in fields {
        for mode in ["wal", "delete"] {
            let (scene, mut daemon) = ahead_of_its_backup(mode, BACKUP, &[]);
            let bytes = damage::overwrite(&scene.db(), at, bytes);
            println!("offset {at}");
            is_mended(&scene, &daemon.closed("app", 1), (mode, "mend_header"), &bytes);
        }
    }
}

/// Pages of a table that was dropped, as a program does; and what leads to them is damaged.
#[test]
fn a_damaged_list_of_free_pages_costs_nothing() {
    for (mode, at) in [("delete", None), ("wal", None), ("delete", Some(32)), ("wal", Some(36))] {
        let (scene, mut daemon) = ahead_of_its_backup(mode, BACKUP, &[]);
        let program = rusqlite::Connection::open(scene.db()).unwrap();
        program
            .execute_batch(
                "CREATE TABLE dropped(a); INSERT INTO dropped SELECT text FROM rows; DROP TABLE dropped;
                 PRAGMA wal_checkpoint(TRUNCATE)",
            )
            .unwrap();
        drop(program);
        scene.give_away_if_root();
        daemon.caught_up("app");
        let main = fs::read(scene.db()).unwrap();
        let head = u32::from_be_bytes(main[32..36].try_into().unwrap()) as usize;
        assert!(head > 1, "no page is free");
        let (at, bytes) = match at {
            Some(at) => (at, vec![0, 0, 0x12, 0x34]),
            None => ((head - 1) * damage::page_size(&main), Dice::new().bytes(4096)),
        };
        let bytes = damage::overwrite(&scene.db(), at, &bytes);
        is_mended(&scene, &daemon.closed("app", 1), (mode, "mend_freelist"), &bytes);
    }
}

/// A page of rows is gone as well: what mends the header alone would hide that, and is not taken.
#[test]
fn a_header_is_not_put_right_over_rows_that_are_hurt() {
    let (scene, mut daemon) = ahead_of_its_backup("wal", "", &[]);
    damage::leaf(&scene.db(), "rows", &mut Dice::new());
    let bytes = damage::header(&scene.db(), &mut Dice::new());

    let incident = daemon.closed("app", 1);
    assert_eq!(
        (&incident["outcome"], &incident["playbook"]),
        (&"healed".into(), &"salvage_rows".into()),
        "{incident:#}"
    );
    assert!(incident["loss"]["rows_lost"].is_null(), "{incident:#}");
    assert_eq!(scene.lost(), 0, "its commits are in the other table");
    scene.assert_evidence(&incident, &[("main", Some(&bytes))]);
    scene.assert_honest(&incident, &scene.db());
    scene.assert_whole("wal");
}
