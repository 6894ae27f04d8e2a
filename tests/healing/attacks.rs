//! What a hostile day brings: each of these once cost rows that nobody had to lose.

use std::fs;

use super::support::damage::{self, Dice};
use super::support::scene::Scene;

const BACKUP: &str = "backup = { every = \"24h\", to = \"backups\" }";

#[test]
fn an_empty_database_is_never_put_in_place_while_the_backups_are_only_out_of_sight() {
    let scene = Scene::of(BACKUP);
    scene.commit("wal", 50, &[]);
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    fs::rename(scene.path("backups"), scene.path("unmounted")).unwrap();
    fs::remove_file(scene.db()).unwrap();

    let incident = daemon.incident("app", 1, "escalated", |incident| incident["state"] == "escalated");
    assert!(incident["reason"].as_str().unwrap().contains("none is to be found"), "{incident:#}");
    assert!(!scene.db().exists());

    fs::rename(scene.path("unmounted"), scene.path("backups")).unwrap();
    daemon.closed("app", 1);
    assert_eq!(scene.lost(), 0);
}

#[test]
fn a_file_that_is_named_and_matched_by_a_glob_has_one_healer() {
    let mut scene = Scene::of(BACKUP);
    scene.database("all", "data/*.db", BACKUP);
    scene.commit("delete", 200, &["--rows-per-commit", "5"]);
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    damage::header(&scene.db(), &mut Dice::new());

    daemon.closed("app", 1);
    assert_eq!(daemon.incidents("all/app"), Vec::<serde_json::Value>::new());
    assert_eq!(scene.lost(), 0);
    scene.assert_whole("delete");
}

#[test]
fn a_table_dropped_by_its_program_is_no_reason_to_bring_yesterday_back() {
    let scene = Scene::of(&format!("{BACKUP}\nschema = \"schema.sql\""));
    fs::write(scene.path("schema.sql"), "CREATE TABLE rows(id INTEGER PRIMARY KEY)").unwrap();
    scene.commit("delete", 20, &[]);
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    let program = rusqlite::Connection::open(scene.db()).unwrap();
    let tables = "SELECT group_concat('DROP TABLE \"' || name || '\"', ';') FROM sqlite_schema WHERE type='table' AND name NOT LIKE 'sqlite_%'";
    let drop: String = program.query_row(tables, [], |row| row.get(0)).unwrap();
    program.execute_batch(&drop).unwrap();
    program.close().unwrap();

    let incident = daemon.incident("app", 1, "escalated", |incident| incident["state"] == "escalated");
    assert_eq!(incident["kind"], "db_schema_corrupted", "{incident:#}");
    let now = rusqlite::Connection::open(scene.db()).unwrap();
    let count = |sql: &str| now.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(
        count("SELECT count(*) FROM sqlite_schema WHERE type='table' AND name NOT LIKE 'sqlite_%'"),
        0,
        "{incident:#}"
    );
}
