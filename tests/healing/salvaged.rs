//! The rung between what is whole and the backups: the rows that can be read, where no backup has as many.

use std::fs;

use super::support::daemon::Daemon;
use super::support::damage::{self, Dice};
use super::support::scene::Scene;
use super::support::service::Service;
use super::support::truth::{self, Content};

const BACKUP: &str = "backup = { every = \"24h\", to = \"backups\" }";

/// 200 commits of 5 rows, and a daemon that knows them.
fn known(mode: &str, lines: &str) -> (Scene, Daemon) {
    let scene = Scene::of(lines);
    scene.commit(mode, 200, &["--rows-per-commit", "5"]);
    scene.give_away_if_root();
    let mut daemon = scene.daemon();
    if lines == BACKUP {
        daemon.backed_up("app");
    }
    daemon.healthy("app");
    (scene, daemon)
}

#[test]
fn without_a_backup_the_rows_that_can_be_read_are_kept() {
    for mode in ["wal", "delete"] {
        let (scene, mut daemon) = known(mode, "");
        let (before, schema) = (truth::ownership(&scene.db()), Content::of(&scene.db()).schema);
        let bytes = damage::leaf(&scene.db(), "rows", &mut Dice::new());

        let incident = daemon.closed("app", 1);
        assert_eq!(incident["outcome"], "healed", "{incident:#}");
        assert_eq!(incident["playbook"], "salvage_rows", "{incident:#}");
        let content = Content::of(&scene.db());
        assert!(content.rows["rows"] < 1000 && content.rows["rows"] > 900, "{:?}", content.rows);
        assert_eq!(content.schema, schema);
        assert_eq!(scene.lost(), 0, "what was told the program is in the other table");
        // The page is gone with all that was on it, and the table's index has an entry for each of its rows.
        assert_eq!(incident["loss"]["rows_lost"], 1000 - content.rows["rows"], "{incident:#}");
        assert_eq!(truth::ownership(&scene.db()), before);
        let salvaged = daemon.metric("guardian_rows_salvaged_total{target=\"app\"}");
        assert_eq!(salvaged, content.all_rows() as f64);
        scene.assert_honest(&incident, &scene.db());
        scene.assert_evidence(&incident, &[("main", Some(&bytes))]);
        scene.assert_whole(mode);
        // What the program wrote since is no reason to doubt it.
        daemon.caught_up("app");
        assert_eq!(daemon.incidents("app").len(), 1);
    }
}

/// Half of a page is gone, and what is left of it says how many rows it had.
#[test]
fn rows_that_are_known_to_be_gone_are_counted() {
    let (scene, mut daemon) = known("delete", "");
    let main = fs::read(scene.db()).unwrap();
    let program = rusqlite::Connection::open(scene.db()).unwrap();
    let leaf = "SELECT pageno FROM dbstat WHERE name='rows' AND pagetype='leaf' LIMIT 1";
    let page = program.query_row(leaf, [], |row| row.get::<_, u32>(0)).unwrap() as usize;
    drop(program);
    daemon.caught_up("app");
    damage::overwrite(&scene.db(), page * damage::page_size(&main) - 2000, &[0; 2000]);

    let incident = daemon.closed("app", 1);
    assert_eq!(incident["playbook"], "salvage_rows", "{incident:#}");
    let kept = Content::of(&scene.db()).rows["rows"];
    let lost = 1000 - kept;
    assert!(lost > 5, "{incident:#}");
    let table = |name: &str| {
        let tables = incident["loss"]["tables"].as_array().unwrap();
        tables.iter().find(|table| table["table"] == name).unwrap().clone()
    };
    assert_eq!(
        (&table("rows")["rows_lost"], &table("rows")["rows_kept"]),
        (&lost.into(), &kept.into()),
        "{incident:#}"
    );
    assert_eq!(
        (&table("commits")["rows_lost"], &incident["loss"]["rows_lost"]),
        (&0.into(), &lost.into()),
        "{incident:#}"
    );
    assert_eq!(daemon.metric("guardian_rows_lost_total{target=\"app\"}"), lost as f64);
    assert_eq!(scene.lost(), 0);
    scene.assert_whole("delete");
}

#[test]
fn more_rows_than_the_backup_has_are_salvaged_and_not_thrown_away_for_it() {
    for mode in ["wal", "delete"] {
        let (scene, mut daemon) = known(mode, BACKUP);
        scene.commit(mode, 100, &["--rows-per-commit", "5"]);
        daemon.caught_up("app");
        damage::leaf(&scene.db(), "rows", &mut Dice::new());

        let incident = daemon.closed("app", 1);
        assert_eq!(incident["playbook"], "salvage_rows", "{incident:#}");
        assert_eq!(scene.lost(), 0);
        scene.assert_honest(&incident, &scene.db());
        scene.assert_whole(mode);
    }
}

#[test]
fn a_backup_with_as_many_rows_is_restored_and_the_attempt_leaves_nothing_behind() {
    let (scene, mut daemon) = known("wal", BACKUP);
    damage::leaf(&scene.db(), "rows", &mut Dice::new());

    let incident = daemon.closed("app", 1);
    assert_eq!(incident["playbook"], "restore_backup", "{incident:#}");
    let steps = incident["steps"].as_array().unwrap();
    let tried = steps.iter().find(|step| step["step"] == "build_from_salvage").unwrap();
    assert_eq!(tried["outcome"], "failed", "{incident:#}");
    assert!(tried["detail"].as_str().unwrap().contains("the backup has 1200"), "{incident:#}");
    assert_eq!(scene.lost(), 0);
    scene.assert_whole("wal");
}

#[test]
fn where_no_backup_passes_the_rows_that_can_be_read_are_kept() {
    let (scene, mut daemon) = known("wal", BACKUP);
    let backups = scene.path("backups/app");
    for name in truth::names(&backups).iter().filter(|name| name.ends_with(".db")) {
        damage::overwrite(&backups.join(name), 8192, &Dice::new().bytes(4096));
    }
    damage::leaf(&scene.db(), "rows", &mut Dice::new());

    let incident = daemon.closed("app", 1);
    assert_eq!(incident["playbook"], "salvage_rows", "{incident:#}");
    assert_eq!(incident["outcome"], "healed", "{incident:#}");
    assert_eq!(scene.lost(), 0);
    scene.assert_honest(&incident, &scene.db());
    scene.assert_whole("wal");
}

#[test]
fn the_program_is_stopped_for_it_and_goes_on_with_what_was_salvaged() {
    let mut scene = Scene::new();
    let service = Service::of(&scene, "wal", &["--busy-timeout", "10000", "--pause", "20"]);
    let often = "integrity = { quick = \"300ms\", full = \"300ms\" }";
    scene.database("app", "data/app.db", &format!("when_in_use = \"stop-app\"\n{}\n{often}", service.app()));
    scene.commit("wal", 200, &["--rows-per-commit", "5"]);
    let mut daemon = scene.daemon();
    service.start();
    let promised = || truth::promised(&scene.log_of(&scene.db())).len();
    service.wait_for("its commits", || promised() > 210);
    damage::first_leaf(&scene.db(), "rows", &mut Dice::new());

    let incident = daemon.closed("app", 1);
    assert_eq!(incident["playbook"], "salvage_rows", "{incident:#}");
    let enough = promised() + 10;
    service.wait_for("the program to commit again", || promised() >= enough);
    service.stop();
    assert_eq!(scene.lost(), 0, "{incident:#}");
    assert!(daemon.stop().success());
    scene.assert_whole("wal");
}
