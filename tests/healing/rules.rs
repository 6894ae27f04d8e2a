//! What holds for every heal: many targets at once, policies, brakes, globs.

use std::fs;

use super::support::command::guardiand;
use super::support::daemon::Daemon;
use super::support::damage::{self, Dice};
use super::support::scene::Scene;
use super::support::truth::{Bytes, names};

const BACKUP: &str = "backup = { every = \"24h\", to = \"backups\" }";

#[test]
fn a_glob_takes_in_a_database_that_appears_later_and_heals_it() {
    let mut scene = Scene::new();
    scene.database("tenants", "data/*.db", BACKUP);
    let mut daemon = scene.daemon();
    let db = scene.path("data/late.db");
    let flags = ["--rows-per-commit", "3"];
    assert!(scene.writer_of(&db, "wal", "60", &flags).finish().success());

    daemon.wait_for("the new target", |daemon| daemon.target("tenants/late").map(|_| ()));
    daemon.backed_up("tenants/late");
    daemon.healthy("tenants/late");
    // Somebody's files beside it are none of its targets.
    fs::write(scene.path("data/notes.txt"), "no database").unwrap();
    fs::remove_file(&db).unwrap();
    let incident = daemon.closed("tenants/late", 1);
    assert_eq!(incident["outcome"], "healed", "{incident:#}");
    assert_eq!(scene.lost_of(&db), 0);
    scene.assert_honest(&incident, &db);
    let status = daemon.get("/api/v1/status");
    assert_eq!(status["totals"]["targets"], 1, "{status:#}");
}

#[test]
fn two_databases_are_healed_side_by_side() {
    let mut scene = Scene::new();
    scene.database("a", "data/a.db", BACKUP);
    scene.database("b", "data/b.db", BACKUP);
    let (a, b) = (scene.path("data/a.db"), scene.path("data/b.db"));
    assert!(scene.writer_of(&a, "wal", "80", &[]).finish().success());
    assert!(scene.writer_of(&b, "delete", "80", &[]).finish().success());
    let mut daemon = scene.daemon();
    for name in ["a", "b"] {
        daemon.backed_up(name);
        daemon.healthy(name);
    }
    fs::remove_file(&a).unwrap();
    damage::header(&b, &mut Dice::new());

    for (name, db) in [("a", &a), ("b", &b)] {
        let incident = daemon.closed(name, 1);
        assert_eq!(incident["outcome"], "healed", "{incident:#}");
        assert_eq!(scene.lost_of(db), 0);
        scene.assert_honest(&incident, db);
    }
    let stats = daemon.get("/api/v1/stats");
    assert_eq!(stats["successful_runs"], 2, "{stats:#}");
    for playbook in ["restore_backup", "mend_header"] {
        assert_eq!(stats["playbooks"][playbook]["successes"], 1, "{stats:#}");
    }
}

#[test]
fn a_target_that_is_only_observed_is_never_touched() {
    let scene = Scene::of(&format!("policy = \"observe\"\n{BACKUP}"));
    scene.commit("wal", 50, &[]);
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    let bytes = damage::header(&scene.db(), &mut Dice::new());

    let incident = daemon.incident("app", 1, "seen", |_| true);
    assert_eq!(incident["kind"], "db_not_a_database", "{incident:#}");
    let deferred = "guardian_heals_deferred_total{mode=\"database\",reason=\"policy\",target=\"app\"}";
    daemon.wait_for("the heal to be held back", |daemon| (daemon.metric(deferred) > 0.0).then_some(()));
    let looks = daemon.target("app").unwrap()["total_checks"].as_u64().unwrap();
    daemon.wait_for("two more looks", |daemon| {
        (daemon.target("app").unwrap()["total_checks"].as_u64().unwrap() > looks + 1).then_some(())
    });
    // A look that had it open when it was damaged leaves an empty WAL and its index, as any program does.
    let [main, wal, journal] = scene.bytes();
    assert_eq!((main, wal.filter(|wal| !wal.is_empty()), journal), (Some(bytes), None, None));
    let ours = |name: &String| !["app.db", "app.db-wal", "app.db-shm"].contains(&name.as_str());
    assert_eq!(scene.names().into_iter().find(ours), None);
    let incident = &daemon.incidents("app")[0];
    assert_ne!(incident["state"], "closed", "{incident:#}");
    assert_eq!(incident["steps"].as_array().unwrap().len(), 0, "{incident:#}");
}

/// Longer than any machine takes from one failure to the next.
const LONG: &str = "cooldown = \"1h\"";

fn time(incident: &serde_json::Value, key: &str) -> jiff::Timestamp {
    incident[key].as_str().unwrap().parse().unwrap()
}

/// Now that it holds: has the cooldown end in three seconds or a little more. How long it is then, counted from the first attempt.
fn cooldown_ends_soon(scene: &mut Scene, first: &serde_json::Value) -> jiff::SignedDuration {
    let cooldown = jiff::Timestamp::now().duration_since(time(first, "opened_at")).as_secs() + 4;
    scene.gates(&format!("cooldown = \"{cooldown}s\""));
    scene.write_config();
    guardiand(&scene.path(""), &["reload", "--config", "guardian.toml", "--json"]).json_of(0);
    jiff::SignedDuration::from_secs(cooldown)
}

#[test]
fn a_second_failure_waits_for_the_cooldown() {
    let mut scene = Scene::of(BACKUP);
    scene.gates(LONG);
    scene.commit("wal", 50, &[]);
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    fs::remove_file(scene.db()).unwrap();
    let first = daemon.closed("app", 1);
    fs::remove_file(scene.db()).unwrap();

    let deferred = "guardian_heals_deferred_total{mode=\"database\",reason=\"cooldown\",target=\"app\"}";
    daemon.wait_for("the cooldown to hold", |daemon| (daemon.metric(deferred) > 0.0).then_some(()));
    let second = daemon.incident("app", 2, "held", |_| true);
    assert_eq!(second["steps"].as_array().unwrap().len(), 0, "{second:#}");
    assert!(!scene.db().exists());
    let cooldown = cooldown_ends_soon(&mut scene, &first);
    let second = daemon.closed("app", 2);
    assert_eq!(second["outcome"], "healed", "{second:#}");
    let apart = time(&second, "closed_at").duration_since(time(&first, "opened_at"));
    assert!(apart >= cooldown, "the second heal came {apart:?} after the first attempt, and not {cooldown:?}");
    assert_eq!(scene.lost(), 0);
    scene.assert_whole("wal");
}

#[test]
fn a_file_that_was_never_seen_healthy_is_never_overwritten() {
    let scene = Scene::of(BACKUP);
    let noise = Dice::new().bytes(40_960);
    fs::write(scene.db(), &noise).unwrap();
    let daemon = scene.daemon();
    let target = daemon.target("app").unwrap();
    assert_eq!(target["state"], "unknown", "{target:#}");
    assert_eq!(daemon.incidents("app"), Vec::<serde_json::Value>::new());
    assert_eq!(scene.bytes(), [Some(Bytes(noise)), None, None]);
}

#[test]
fn a_new_file_in_the_place_of_the_old_one_is_never_overwritten() {
    // Somebody restores by hand while guardiand is down: what is there is theirs, and healthy.
    let scene = Scene::of(BACKUP);
    scene.commit("wal", 50, &[]);
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    daemon.stop();
    fs::remove_file(scene.db()).unwrap();
    fs::remove_file(scene.log_of(&scene.db())).unwrap();
    scene.commit("wal", 7, &[]);
    let theirs = scene.bytes();
    let mut daemon = scene.daemon();
    daemon.healthy("app");
    assert_eq!(daemon.incidents("app"), Vec::<serde_json::Value>::new());
    // A look or a backup under way has an empty side file open for a moment, and takes it away.
    daemon.wait_for("the files as they were", |_| (scene.bytes() == theirs).then_some(()));
    scene.assert_whole("wal");
}

#[test]
fn a_database_that_is_damaged_again_and_again_uses_up_its_budget_and_calls_a_person_once() {
    let mut scene = Scene::of(BACKUP);
    // The budget, and not that the heals did not last.
    scene.gates("cooldown = \"0s\"\nheals = { max = 2, per = \"1h\" }\nrepeat = { max = 9, within = \"10m\" }");
    scene.commit("delete", 40, &[]);
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    let mut dice = Dice::new();
    for number in 1..=2 {
        damage::header(&scene.db(), &mut dice);
        daemon.closed("app", number);
        daemon.healthy("app");
    }
    damage::header(&scene.db(), &mut dice);
    let incident = daemon.escalated("app", 3);
    let reason = incident["reason"].as_str().unwrap();
    assert!(reason.contains("budget") && reason.contains("guardiand heal app"), "{reason}");
    assert!(incident["steps"].as_array().unwrap().is_empty(), "{incident:#}");
    daemon.caught_up_with_looks("app");
    assert_eq!(daemon.metric("guardian_incidents_escalated_total{mode=\"database\",target=\"app\"}"), 1.0);
    assert_eq!(daemon.incidents("app").len(), 3);
}

#[test]
fn a_heal_that_the_cooldown_held_back_begins_when_it_is_over() {
    let mut scene = Scene::of(BACKUP);
    scene.gates(LONG);
    scene.commit("delete", 40, &[]);
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    let mut dice = Dice::new();
    damage::header(&scene.db(), &mut dice);
    let first = daemon.closed("app", 1);
    daemon.healthy("app");
    damage::header(&scene.db(), &mut dice);
    let held = daemon.incident("app", 2, "held back", |incident| incident["reason"].is_string());
    assert!(held["reason"].as_str().unwrap().starts_with("cooldown holds the next attempt back until 20"), "{held:#}");
    cooldown_ends_soon(&mut scene, &first);
    assert_eq!(daemon.closed("app", 2)["outcome"], "healed");
}

#[test]
fn a_person_who_looked_after_it_refills_its_budget_too() {
    let mut scene = Scene::of(BACKUP);
    scene.gates("cooldown = \"1h\"\nheals = { max = 2, per = \"1h\" }\nrepeat = { max = 2, within = \"10m\" }");
    scene.commit("delete", 40, &[]);
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    let mut dice = Dice::new();
    let ask = |command: &str| guardiand(&scene.path(""), &[command, "app", "--config", "guardian.toml"]);
    for number in 1..=2 {
        damage::header(&scene.db(), &mut dice);
        daemon.incident("app", number, "found", |_| true);
        // The cooldown is not what this is about.
        let healed = ask("heal");
        assert_eq!(healed.status, 0, "{healed:#?}");
        daemon.closed("app", number);
        daemon.healthy("app");
    }
    damage::header(&scene.db(), &mut dice);
    let incident = daemon.escalated("app", 3);
    assert!(incident["reason"].as_str().unwrap().starts_with("repeat"), "{incident:#}");
    let resumed = ask("resume");
    assert_eq!(resumed.status, 0, "{resumed:#?}");
    assert_eq!(daemon.closed("app", 3)["outcome"], "healed");
    scene.assert_whole("delete");
}

/// To keep it was no heal: it goes back as soon as its program has ended.
#[test]
fn what_a_program_held_waits_for_its_end_and_for_no_cooldown() {
    let mut scene = Scene::of(BACKUP);
    scene.gates(LONG);
    scene.commit("wal", 50, &[]);
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    let program = scene.writer("wal", "20", &["--no-checkpoint", "--hold-reader", "3600"]);
    daemon.caught_up("app");
    fs::remove_file(scene.db()).unwrap();
    let incident = daemon.escalated("app", 1);
    assert_eq!(incident["kind"], "db_file_unlinked", "{incident:#}");
    program.kill();
    let incident = daemon.closed("app", 1);
    assert_eq!((&incident["outcome"], &incident["playbook"]), (&"healed".into(), &"reclaim".into()), "{incident:#}");
    assert_eq!(scene.lost(), 0);
    scene.assert_whole("wal");
}

/// It is legal, and so no incident.
#[test]
fn a_program_that_deleted_most_of_its_rows_is_told_of_once_with_the_way_back() {
    let scene = Scene::of(BACKUP);
    scene.commit("delete", 40, &["--rows-per-commit", "5"]);
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    let program = rusqlite::Connection::open(scene.db()).unwrap();
    program.execute("DELETE FROM rows", []).unwrap();
    drop(program);
    for _ in 1..=2 {
        let taken = guardiand(&scene.path(""), &["backup", "app", "--config", "guardian.toml"]);
        assert_eq!(taken.status, 0, "{taken:#?}");
    }
    let log = daemon.log();
    let told = log.lines().filter(|line| line.contains("most rows are gone")).collect::<Vec<_>>();
    assert!(told.len() == 1 && told[0].contains("WARN") && told[0].contains("guardiand restore"), "{log}");
    assert_eq!(daemon.incidents("app"), Vec::<serde_json::Value>::new());
}

#[test]
fn guardiand_does_not_supervise_its_own_state_among_the_databases() {
    let mut scene = Scene::new();
    // Its state directory and a folder of backups are where the glob looks.
    scene.database("tenants", "**/*.db", "backup = { every = \"1s\", to = \"data/copies\", keep = { last = 1 } }");
    assert!(scene.writer_of(&scene.path("data/a.db"), "wal", "20", &[]).finish().success());
    let mut daemon = scene.daemon();
    daemon.healthy("tenants/data/a");
    let copies = || names(&scene.path("data/copies/tenants%2Fdata%2Fa")).len();
    daemon.wait_for("backups that are listed, and deleted by the retention", |daemon| {
        (daemon.log().matches("backup taken").count() >= 3 && copies() >= 2).then_some(())
    });
    daemon.caught_up("tenants/data/a");
    let status = daemon.get("/api/v1/status");
    assert_eq!(status["totals"]["targets"], 1, "{status:#}");
    assert_eq!(daemon.get("/api/v1/incidents")["incidents"].as_array().unwrap().len(), 0);
}

/// Nobody knows what such a user may do: not even root's own access to the file says it.
#[test]
fn a_user_that_the_system_does_not_know_is_no_health() {
    let scene = Scene::of("user = \"nobody-by-that-name\"");
    scene.commit("delete", 20, &[]);
    let mut daemon = scene.daemon();
    let reason = daemon.wait_for("the reason", |daemon| {
        let check = &daemon.target("app")?["last_check"];
        (check["verdict"] == "unknown").then(|| check["reason"].as_str().map(str::to_owned))?
    });
    assert!(reason.contains("nobody-by-that-name"), "{reason}");
    // What is in the file is judged all the same.
    fs::remove_file(scene.db()).unwrap();
    daemon.incident("app", 1, "found", |incident| incident["kind"] == "db_file_missing");
}

/// What is blocked says "raise `block_max`", and what has failed says "look at the database".
#[test]
fn a_backup_that_a_busy_writer_leaves_no_time_for_is_blocked_and_has_not_failed() {
    let scene = Scene::of("backup = { every = \"1s\", to = \"backups\", block_max = \"1ms\" }");
    scene.commit("delete", 30, &["--row-bytes", "1000000", "--synchronous", "off"]);
    let _program = scene.writer("delete", "forever", &["--synchronous", "off", "--pause", "1"]);
    let mut daemon = scene.daemon();
    let count = |daemon: &Daemon, outcome: &str| {
        let series = format!("guardian_backups_total{{outcome=\"{outcome}\",target=\"app\"}} ");
        let page = daemon.metrics();
        page.lines().find_map(|line| line.strip_prefix(&series)).map_or(0.0, |value| value.parse().unwrap())
    };
    daemon.wait_for("a blocked backup", |daemon| (count(daemon, "blocked") > 0.0).then_some(()));
    assert_eq!(count(&daemon, "failed"), 0.0);
    assert!(daemon.log().contains("backup_blocked"));
}
