//! The programs around the file: locks that are held, queries that never end, a file in use.

use std::time::{Duration, Instant};

use super::support::daemon::Daemon;
use super::support::damage::{self, Dice};
use super::support::scene::Scene;
use super::support::truth::{self, Content};

const BACKUP: &str = "backup = { every = \"24h\", to = \"backups\" }";

#[test]
fn a_lock_that_is_let_go_is_waited_out_and_nothing_is_touched() {
    let scene = Scene::of("");
    scene.commit("delete", 50, &[]);
    let mut daemon = scene.daemon();
    daemon.healthy("app");
    let before = scene.bytes();
    let holder = scene.writer("delete", "0", &["--hold-lock", "3600"]);
    let pid = holder.pid();

    // All by default: 5 s of patience, then looks after 1, 2 and 4 s.
    daemon.incident("app", 1, "being waited for", |incident| incident["state"] == "healing");
    assert!(holder.finish().success());
    let incident = daemon.closed("app", 1);
    assert_eq!(incident["kind"], "db_locked", "{incident:#}");
    assert_eq!(incident["outcome"], "healed", "{incident:#}");
    assert_eq!(incident["playbook"], "wait_and_retry", "{incident:#}");
    let detail = incident["findings"][0]["detail"].as_str().unwrap();
    assert!(detail.contains(&format!("pid {pid}")), "the holder is named: {detail}");
    assert!(incident["loss"].is_null() && incident["evidence"].is_null(), "{incident:#}");
    assert_eq!(scene.bytes(), before);
    scene.assert_whole("delete");
}

#[test]
fn a_lock_that_outlasts_every_look_calls_a_person_and_names_the_holder() {
    let scene = Scene::of("busy_timeout = \"300ms\"\nretry = { attempts = 2, initial = \"50ms\" }");
    scene.commit("delete", 50, &[]);
    let mut daemon = scene.daemon();
    daemon.healthy("app");
    let holder = scene.writer("delete", "0", &["--hold-lock", "3600"]);

    let incident = daemon.escalated("app", 1);
    assert_eq!(incident["kind"], "db_locked", "{incident:#}");
    assert!(incident["reason"].as_str().unwrap().contains(&format!("pid {}", holder.pid())), "{incident:#}");
    assert!(holder.finish().success(), "the holder was left alone");
    let incident = daemon.closed("app", 1);
    assert_ne!(incident["outcome"], "healed", "nothing of ours helped: {incident:#}");
    daemon.healthy("app");
    scene.assert_whole("delete");
}

/// Every look sees whether it is over; a heal is not under way.
#[test]
fn what_was_waited_for_in_vain_stays_escalated_and_is_not_waited_for_again() {
    let scene = Scene::of("busy_timeout = \"300ms\"\nretry = { attempts = 2, initial = \"50ms\" }");
    scene.commit("delete", 50, &[]);
    let mut daemon = scene.daemon();
    daemon.healthy("app");
    let holder = scene.writer("delete", "0", &["--hold-lock", "3600"]);
    let incident = daemon.escalated("app", 1);
    let unhealthy = "guardian_checks_total{mode=\"database\",target=\"app\",verdict=\"unhealthy\"}";
    let enough = daemon.metric(unhealthy) + 8.0;
    daemon.wait_for("more looks", |daemon| (daemon.metric(unhealthy) >= enough).then_some(()));
    let later = &daemon.incidents("app")[0];
    assert_eq!(later["state"], "escalated", "{later:#}");
    let log = scene.path(&format!("state/incidents/{}/log.jsonl", incident["id"].as_str().unwrap()));
    let log = std::fs::read_to_string(log).unwrap();
    assert_eq!(log.matches("\"playbook_began\"").count(), 1, "{log}");
    drop(holder);
    assert_eq!(daemon.closed("app", 1)["outcome"], "resolved_by_operator");
}

#[test]
fn a_query_that_never_ends_is_a_failed_connection_and_ends_by_itself() {
    // Endless as long as the table `switch` has a row.
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n, switch) SELECT count(*) FROM n";
    let mut scene = Scene::new();
    scene.database(
        "app",
        "data/app.db",
        &format!("canary = \"{endless}\"\nbusy_timeout = \"300ms\"\nretry = {{ attempts = 30, initial = \"200ms\", factor = 1.0 }}"),
    );
    scene.commit("delete", 20, &[]);
    let sql = |text: &str| {
        let program = rusqlite::Connection::open(scene.db()).unwrap();
        // The query reads all the while: whoever writes waits for its end.
        program.busy_timeout(Duration::from_secs(60)).unwrap();
        program.execute_batch(text).unwrap();
    };
    sql("CREATE TABLE switch(on_ INTEGER)");
    let mut daemon = scene.daemon();
    daemon.healthy("app");
    sql("INSERT INTO switch VALUES (1)");

    let incident = daemon.incident("app", 1, "seen", |_| true);
    assert_eq!(incident["kind"], "db_connection_failed", "{incident:#}");
    sql("DELETE FROM switch");
    let incident = daemon.closed("app", 1);
    assert!(incident["loss"].is_null() && incident["evidence"].is_null(), "{incident:#}");
    scene.assert_whole("delete");
}

#[test]
fn a_canary_that_takes_its_time_is_no_failure() {
    // Some tenths of a second of counting: slow, and finite.
    let slow = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 400000) SELECT count(*) FROM n";
    // Almost as long for it as a look may take: on a slow machine it takes many tenths.
    let patient = "backup = { every = \"24h\", to = \"backups\", block_max = \"8s\" }";
    let mut scene = Scene::new();
    scene.database("app", "data/app.db", &format!("canary = \"{slow}\"\n{patient}"));
    scene.commit("wal", 20, &[]);
    let mut daemon = scene.daemon();
    daemon.healthy("app");
    assert_eq!(daemon.incidents("app"), Vec::<serde_json::Value>::new());
}

#[test]
fn a_file_in_use_is_not_replaced_and_its_user_is_named() {
    for mode in ["wal", "delete"] {
        let scene = Scene::of(&format!("when_in_use = \"refuse\"\n{BACKUP}"));
        scene.commit(mode, 100, &["--rows-per-commit", "5"]);
        let mut daemon = scene.daemon();
        daemon.backed_up("app");
        daemon.healthy("app");
        let program = scene.writer(mode, "0", &["--open-idle"]);
        let bytes = damage::header(&scene.db(), &mut Dice::new());

        let incident = daemon.escalated("app", 1);
        let reason = incident["reason"].as_str().unwrap();
        assert!(reason.contains(&format!("pid {}", program.pid())), "{incident:#}");
        assert_eq!(scene.bytes()[0].as_ref(), Some(&bytes), "a file in use was changed");

        // Killed, and not closed: a program that closes writes.
        program.kill();
        let incident = daemon.closed("app", 1);
        assert_eq!(incident["outcome"], "healed", "{incident:#}");
        assert_eq!(scene.lost(), 0);
        scene.assert_honest(&incident, &scene.db());
        scene.assert_evidence(&incident, &[("main", Some(&bytes))]);
        scene.assert_whole(mode);
    }
}

#[test]
fn a_busy_writer_is_watched_and_backed_up_and_never_disturbed() {
    for (mode, pause) in [("wal", "0"), ("delete", "3"), ("truncate", "3")] {
        let often = "integrity = { quick = \"500ms\", full = \"500ms\" }";
        let scene = Scene::of(&format!("backup = {{ every = \"300ms\", to = \"backups\" }}\n{often}"));
        scene.commit(mode, 20, &[]);
        let mut daemon = scene.daemon();
        daemon.backed_up("app");
        let program = scene.writer(mode, "forever", &["--busy-timeout", "5000", "--pause", pause]);
        let backups = || truth::names(&scene.path("backups/app")).len();
        let before = backups();
        daemon.wait_for("backups under load", |_| (backups() >= before + 4).then_some(()));
        assert!(program.finish().success());
        assert_eq!(daemon.incidents("app"), Vec::<serde_json::Value>::new());
        assert_eq!(scene.lost(), 0);
        assert_eq!(Content::of(&scene.db()).integrity, "ok");
    }
}

#[test]
fn many_short_locks_are_not_one_long_lock() {
    // No pause at all: hardly a look gets in between two commits.
    let scene = Scene::of("busy_timeout = \"5s\"\nlock_max_age = \"5s\"");
    scene.commit("delete", 20, &[]);
    let mut daemon = scene.daemon();
    daemon.healthy("app");
    // No commit waits for a disk: that would be one long lock.
    let program = scene.writer("delete", "forever", &["--busy-timeout", "60000", "--synchronous", "off"]);
    let looks = |daemon: &Daemon| daemon.target("app").unwrap()["total_checks"].as_u64().unwrap();
    let (enough, since) = (looks(&daemon) + 12, Instant::now());
    daemon.wait_for("a dozen looks, for longer than one lock may be held", |daemon| {
        (looks(daemon) >= enough && since.elapsed() > Duration::from_secs(8)).then_some(())
    });
    assert_eq!(daemon.incidents("app"), Vec::<serde_json::Value>::new());
    assert!(program.finish().success());
    daemon.healthy("app");
    scene.assert_whole("delete");
}
