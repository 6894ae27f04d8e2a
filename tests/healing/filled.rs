//! Between what can be salvaged and the backup: the one that loses fewer rows takes the place, and what it lacks comes from the other.

use serde_json::Value;

use super::support::daemon::Daemon;
use super::support::damage::{self, Dice};
use super::support::scene::Scene;
use super::support::truth::{self, Content};

const BACKUP: &str = "backup = { every = \"24h\", to = \"backups\" }";

/// 200 commits of 5 rows and these tables, of which there is a backup, and a daemon that knows them.
fn backed_up(mode: &str, sql: &str) -> (Scene, Daemon) {
    let scene = Scene::of(BACKUP);
    scene.commit(mode, 200, &["--rows-per-commit", "5"]);
    run(&scene, sql);
    scene.give_away_if_root();
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    (scene, daemon)
}

/// As a program would; all of it is in the main file then.
fn run(scene: &Scene, sql: &str) {
    let program = rusqlite::Connection::open(scene.db()).unwrap();
    program.execute_batch(sql).unwrap();
    program.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
}

fn numbers(scene: &Scene, sql: &str) -> Vec<i64> {
    let program = rusqlite::Connection::open(scene.db()).unwrap();
    let mut query = program.prepare(sql).unwrap();
    query.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

/// Like no page of a tree, whatever dice would say.
fn overwrite(scene: &Scene, page: i64) {
    let size = damage::page_size(&std::fs::read(scene.db()).unwrap());
    damage::overwrite(&scene.db(), (page as usize - 1) * size, &vec![0xa5; size]);
}

fn figure(incident: &Value, table: &str, name: &str) -> u64 {
    let tables = incident["loss"]["tables"].as_array().unwrap();
    let table = tables.iter().find(|one| one["table"] == table).unwrap_or_else(|| panic!("{table}: {incident:#}"));
    table.get(name).map_or(0, |number| number.as_u64().unwrap())
}

fn is_salvaged(incident: &Value) {
    assert_eq!(
        (&incident["outcome"], &incident["playbook"]),
        (&"healed".into(), &"salvage_rows".into()),
        "{incident:#}"
    );
}

#[test]
fn what_either_lacks_comes_from_the_other_and_no_row_is_missing() {
    for mode in ["wal", "delete"] {
        let (scene, mut daemon) = backed_up(mode, "");
        scene.commit(mode, 100, &["--rows-per-commit", "5"]);
        daemon.caught_up("app");
        // Rows of the first commits: the backup has them.
        damage::first_leaf(&scene.db(), "rows", &mut Dice::new());

        let incident = daemon.closed("app", 1);
        is_salvaged(&incident);
        assert_eq!(Content::of(&scene.db()).rows["rows"], 1500, "{incident:#}");
        assert!(truth::rows_of_commits(&scene.db()).values().all(|rows| *rows == 5));
        assert!(figure(&incident, "rows", "rows_filled") > 5, "{incident:#}");
        assert_eq!(figure(&incident, "rows", "rows_uncertain"), 0, "an index names each of them: {incident:#}");
        assert!(
            incident["loss"]["rows_lost"].is_null(),
            "what no index has may be newer than the backup: {incident:#}"
        );
        assert!(incident["loss"]["source"].as_str().unwrap().contains("taken from the backup"), "{incident:#}");
        assert_eq!(scene.lost(), 0);
        scene.assert_honest(&incident, &scene.db());
        scene.assert_whole(mode);
    }
}

#[test]
fn what_was_deleted_since_the_backup_does_not_come_back() {
    let (scene, mut daemon) = backed_up("wal", "");
    // On the page that is lost, and on one that is not.
    run(
        &scene,
        "DELETE FROM rows WHERE id IN (2, 3, 700); UPDATE rows SET word = 'newer', text = 'newer' WHERE id = 5",
    );
    scene.commit("wal", 20, &[]);
    daemon.caught_up("app");
    damage::first_leaf(&scene.db(), "rows", &mut Dice::new());

    let incident = daemon.closed("app", 1);
    is_salvaged(&incident);
    assert_eq!(
        numbers(&scene, "SELECT id FROM rows WHERE id IN (1, 2, 3, 4, 5, 700) ORDER BY id"),
        [1, 4],
        "{incident:#}"
    );
    assert_eq!(Content::of(&scene.db()).rows["rows"], 1000 + 20 - 4);
    assert_eq!(scene.lost(), 0);
    scene.assert_whole("wal");
}

/// No index tells what was deleted: rows that would stand on the page that is gone come back, told apart; and no others.
#[test]
fn where_no_index_tells_what_the_backup_gives_is_called_uncertain() {
    let notes = "CREATE TABLE notes(id INTEGER PRIMARY KEY, body TEXT);
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<500)
        INSERT INTO notes SELECT i, hex(randomblob(60)) FROM n";
    let (scene, mut daemon) = backed_up("delete", notes);
    run(&scene, "DELETE FROM notes WHERE id > 300 AND id <= 320; INSERT INTO notes VALUES (1000, 'new')");
    daemon.caught_up("app");
    damage::first_leaf(&scene.db(), "notes", &mut Dice::new());

    let incident = daemon.closed("app", 1);
    is_salvaged(&incident);
    assert_eq!(Content::of(&scene.db()).rows["notes"], 481, "{incident:#}");
    assert_eq!(numbers(&scene, "SELECT count(*) FROM notes WHERE id > 300 AND id <= 320"), [0]);
    let filled = figure(&incident, "notes", "rows_filled");
    assert!(filled > 5, "{incident:#}");
    assert_eq!(figure(&incident, "notes", "rows_uncertain"), filled, "{incident:#}");
    assert!(incident["loss"]["rows_lost"].is_null(), "{incident:#}");
    scene.assert_honest(&incident, &scene.db());
    scene.assert_whole("delete");
}

/// Whole accounts are worth more than any number of new lines in a log; and the lines are kept all the same.
#[test]
fn a_log_that_grew_does_not_outvote_a_table_that_is_gone_and_that_the_backup_has() {
    for mode in ["wal", "delete"] {
        let accounts = "CREATE TABLE accounts(name TEXT PRIMARY KEY, balance INT) WITHOUT ROWID;
            INSERT INTO accounts VALUES ('ada', 1), ('bob', 2), ('eve', 3)";
        let (scene, mut daemon) = backed_up(mode, accounts);
        scene.commit(mode, 100, &["--rows-per-commit", "5"]);
        daemon.caught_up("app");
        let root = numbers(&scene, "SELECT rootpage FROM sqlite_schema WHERE name='accounts'")[0];
        daemon.caught_up("app");
        overwrite(&scene, root);

        let incident = daemon.closed("app", 1);
        is_salvaged(&incident);
        let content = Content::of(&scene.db());
        assert_eq!(
            (content.rows["accounts"], content.rows["rows"], content.rows["commits"]),
            (3, 1500, 300),
            "{incident:#}"
        );
        assert_eq!(numbers(&scene, "SELECT balance FROM accounts ORDER BY name"), [1, 2, 3]);
        let filled = ["accounts", "rows", "commits"].map(|table| figure(&incident, table, "rows_filled"));
        assert_eq!(filled, [3, 0, 0], "{incident:#}");
        assert!(incident["loss"]["rows_lost"].is_null(), "{incident:#}");
        let source = incident["loss"]["source"].as_str().unwrap();
        assert!(source.contains("3 rows taken from the backup") && source.contains("the backup 600 rows"), "{source}");
        assert_eq!(scene.lost(), 0);
        scene.assert_honest(&incident, &scene.db());
        scene.assert_whole(mode);
    }
}
