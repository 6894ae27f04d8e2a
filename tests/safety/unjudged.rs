//! What only its program can read is not ours to judge (SQLITE.md, rule 20): a collation of its own, say.

use std::fs;

use rusqlite::Connection;

use super::support::damage;
use super::support::scene::Scene;

/// A database whose tables are sound, and one of whose columns has a collation that nobody else knows.
fn with_own_collation(scene: &Scene, mode: &str) -> Connection {
    let db = Connection::open(scene.db()).unwrap();
    db.execute_batch(&format!(
        "PRAGMA journal_mode={mode}; PRAGMA wal_autocheckpoint=0;
         CREATE TABLE plain(a); CREATE TABLE own(a TEXT COLLATE NOCASE); CREATE INDEX own_a ON own(a);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) INSERT INTO plain SELECT hex(randomblob(100)) FROM n;
         INSERT INTO own VALUES ('x'), ('y');
         PRAGMA writable_schema=1; UPDATE sqlite_schema SET sql = replace(sql, 'COLLATE NOCASE', 'COLLATE house')"
    ))
    .unwrap();
    db.close().unwrap();
    Connection::open(scene.db()).unwrap()
}

#[test]
fn content_that_cannot_be_checked_here_is_unknown_and_left_alone_whatever_becomes_of_it() {
    let scene = Scene::of(
        "integrity = { quick = \"200ms\", full = \"200ms\" }\nbackup = { every = \"24h\", to = \"backups\" }",
    );
    drop(with_own_collation(&scene, "delete"));
    let mut daemon = scene.daemon();
    let unknown = |daemon: &mut super::support::daemon::Daemon| {
        daemon.wait_for("it to be unknown", |daemon| daemon.target("app").filter(|target| target["state"] == "unknown"))
    };
    let target = unknown(&mut daemon);
    assert!(target.to_string().contains("house"), "{target:#}");
    let mut bytes = fs::read(scene.db()).unwrap();
    let page = damage::page_size(&bytes);
    bytes[5 * page..6 * page].fill(0xA5);
    fs::write(scene.db(), &bytes).unwrap();
    daemon.caught_up_with_looks("app");
    daemon.caught_up_with_looks("app");
    unknown(&mut daemon);
    assert_eq!((fs::read(scene.db()).unwrap(), daemon.incidents("app").len()), (bytes, 0));
}

#[test]
fn what_has_nothing_to_do_with_its_content_is_healed_and_closed_all_the_same() {
    let scene = Scene::of("wal_max = \"1MB\"\nintegrity = { quick = \"200ms\", full = \"200ms\" }");
    let program = with_own_collation(&scene, "wal");
    let mut daemon = scene.daemon();
    daemon.wait_for("it to be unknown", |daemon| daemon.target("app").filter(|target| target["state"] == "unknown"));
    let more = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) INSERT INTO plain SELECT randomblob(1000) FROM n";
    program.execute_batch(more).unwrap();
    let incident = daemon.closed("app", 1);
    assert_eq!(
        (&incident["kind"], &incident["outcome"]),
        (&"wal_file_too_large".into(), &"healed".into()),
        "{incident:#}"
    );
    let rows: i64 = program.query_row("SELECT count(*) FROM plain", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 3500);
}
