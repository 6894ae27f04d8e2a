//! SQLITE.md, section 4: what is done under a living program, through SQLite's own locks.

use std::time::Duration;

use super::sweep;
use crate::support::command::guardiand;
use crate::support::damage::{self, Dice};
use crate::support::scene::Scene;
use crate::support::truth::{Content, names};

const BACKUP: &str = "backup = { every = \"24h\", to = \"backups\" }";

#[test]
fn indexes_are_rebuilt_under_a_program_that_goes_on() {
    for mode in ["wal", "delete"] {
        let scene = Scene::of(BACKUP);
        scene.commit(mode, 200, &["--rows-per-commit", "5"]);
        let mut daemon = scene.daemon();
        daemon.backed_up("app");
        daemon.healthy("app");
        let program = scene.writer(mode, "0", &["--open-idle"]);
        let inode = super::files(&scene)[""].0;
        let bytes = damage::leaf(&scene.db(), "rows_word", &mut Dice::new());

        let incident = daemon.closed("app", 1);
        assert_eq!(incident["playbook"], "rebuild_indexes", "{incident:#}");
        assert_eq!(incident["outcome"], "healed", "{incident:#}");
        scene.assert_evidence(&incident, &[("main", Some(&bytes))]);
        assert_eq!(super::files(&scene)[""].0, inode, "the file was replaced under its program");
        assert!(program.finish().success(), "the program was disturbed");
        assert_eq!(scene.lost(), 0);
        scene.assert_whole(mode);
    }
}

#[test]
fn a_repair_in_place_waits_for_a_transaction_and_takes_nothing_from_it() {
    let scene = Scene::of(&format!("busy_timeout = \"500ms\"\n{BACKUP}"));
    scene.commit("delete", 200, &["--rows-per-commit", "5"]);
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    assert!(daemon.stop().success());
    damage::leaf(&scene.db(), "rows_word", &mut Dice::new());
    // A person's word, while a program reads: nobody writes then, and it says so.
    let reader = rusqlite::Connection::open(scene.db()).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM commits").unwrap();
    reader.query_row("SELECT count(*) FROM commits", [], |_| Ok(())).unwrap();
    let locked = super::stats(&scene);
    let ran = guardiand(&scene.path(""), &["heal", "app", "--config", "guardian.toml", "--json"]);
    assert_eq!(ran.status, 1, "{ran:#?}");
    assert_eq!(super::stats(&scene), locked, "written under a reader");
    reader.execute_batch("COMMIT").unwrap();
    reader.close().unwrap();
    guardiand(&scene.path(""), &["heal", "app", "--config", "guardian.toml", "--json"]).json_of(0);
    assert_eq!(scene.lost(), 0);
    scene.assert_whole("delete");
}

#[test]
fn what_is_damaged_is_never_kept_as_a_backup() {
    for mode in ["wal", "delete"] {
        let scene = Scene::of(&format!("policy = \"observe\"\n{BACKUP}"));
        scene.commit(mode, 200, &["--rows-per-commit", "5"]);
        let mut daemon = scene.daemon();
        daemon.backed_up("app");
        daemon.healthy("app");
        // A copy that was given up when the damage was seen is none, and goes with the next backup.
        let is_backup = |name: &String| name.ends_with(".db") && !name.starts_with('.');
        let kept = || names(&scene.path("backups/app")).into_iter().filter(is_backup).collect::<Vec<_>>();
        let before = kept();
        damage::leaf(&scene.db(), "rows", &mut Dice::new());
        let ran = guardiand(&scene.path(""), &["backup", "app", "--config", "guardian.toml", "--json"]);
        assert_ne!(ran.status, 0, "{mode}: {ran:#?}");
        sweep(&mut daemon);
        assert_eq!(kept(), before, "{mode}");
        assert_eq!(Content::of(&scene.path("backups/app").join(&before[0])).integrity, "ok");
    }
}

#[test]
fn a_database_that_is_rewritten_without_a_pause_is_not_called_damaged_for_what_was_read_half() {
    // In rollback mode pages are written in place: a raw look beside it sees half a transaction at every other moment.
    let scene = Scene::of("busy_timeout = \"1s\"\nlock_max_age = \"60s\"");
    scene.commit("delete", 200, &["--rows-per-commit", "5"]);
    let mut daemon = scene.daemon();
    daemon.healthy("app");
    let db = rusqlite::Connection::open(scene.db()).unwrap();
    db.busy_timeout(Duration::from_secs(10)).unwrap();
    db.execute_batch("PRAGMA synchronous=off; PRAGMA cache_size=5").unwrap();
    let looks =
        |daemon: &crate::support::daemon::Daemon| daemon.target("app").unwrap()["total_checks"].as_u64().unwrap();
    let (enough, mut rewrites) = (looks(&daemon) + 10, 0_u32);
    let until = std::time::Instant::now() + crate::support::daemon::PATIENCE;
    while looks(&daemon) < enough && std::time::Instant::now() < until {
        for _ in 0..5 {
            // Every page of every row and of its index, spilled into the file before it commits; and the schema's cookie.
            db.execute_batch("BEGIN; UPDATE rows SET word = substr(text || word, -8), text = text || '.'; VACUUM")
                .unwrap_err();
            db.execute_batch("COMMIT; CREATE TABLE IF NOT EXISTS more(a); DROP TABLE more").unwrap();
            rewrites += 1;
        }
    }
    println!("{rewrites} rewrites");
    assert!(rewrites > 20 && looks(&daemon) >= enough, "{rewrites} rewrites, {} looks", looks(&daemon));
    drop(db);
    sweep(&mut daemon);
    // That it was locked for a second may well be, on a machine that stands still for so long; nothing about it was damaged.
    let damaged = daemon.incidents("app").into_iter().filter(|incident| incident["kind"] != "db_locked");
    assert_eq!(damaged.collect::<Vec<_>>(), Vec::<serde_json::Value>::new());
    assert_eq!(scene.lost(), 0);
    scene.assert_whole("delete");
}
