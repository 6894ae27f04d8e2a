//! heal, backup, backups and restore through the real binary: statuses, documents, and what is on the disk afterwards.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::promised;
use crate::support::command::{Ran, guardiand};
use crate::support::scene::Scene;
use crate::support::truth::{self, Content, names};

/// A scene with a schema and backups, and ten commits that a program was promised.
fn scene() -> Scene {
    let mut scene = Scene::new();
    std::fs::write(scene.path("schema.sql"), "CREATE TABLE commits(id INTEGER PRIMARY KEY);").unwrap();
    scene.database("app", "data/app.db", "schema = \"schema.sql\"\nbackup = { every = \"1h\" }");
    scene.write_config();
    scene.commit("wal", 10, &[]);
    scene
}

/// In the scene's folder, with the scene's configuration, as one document.
fn asked(scene: &Scene, arguments: &[&str]) -> Ran {
    let mut all = vec!["--config", "guardian.toml", "--json"];
    all.extend(arguments);
    guardiand(&scene.path(""), &all)
}

#[test]
fn a_backup_is_taken_listed_and_restored_to_a_new_path_only() {
    let scene = scene();
    let taken = asked(&scene, &["backup", "app"]).json_of(0);
    promised::time(&taken["manifest"]["taken_at"]);
    let listed = asked(&scene, &["backups", "app"]).json_of(0);
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!(listed[0], taken, "what is listed is what was taken");

    let copy = scene.path("copy.db");
    let restored = asked(&scene, &["restore", "app", "--to", "copy.db"]).json_of(0);
    promised::time(&restored["taken_at"]);
    assert_eq!(Content::of(&copy).commits, Content::of(&scene.db()).commits);

    let before = std::fs::read(scene.db()).unwrap();
    let refused = asked(&scene, &["restore", "app", "--to", "data/app.db"]);
    assert_eq!(refused.json_of(1)["exit"], 1);
    assert!(refused.stderr.contains("is there already"), "{refused:#?}");
    assert_eq!(std::fs::read(scene.db()).unwrap(), before, "a restore replaced a file");

    let file = taken["file"].as_str().unwrap();
    asked(&scene, &["restore", "--from", file, "--to", "second.db"]).json_of(0);
    assert_eq!(Content::of(&scene.path("second.db")).commits.len(), 10);
}

/// Nobody is sent to a folder that is gone.
#[test]
fn an_incident_whose_evidence_has_expired_says_so() {
    let mut scene = scene();
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    std::fs::write(scene.db(), vec![7; 8192]).unwrap();
    let incident = daemon.closed("app", 1);
    let (id, folder) = (incident["id"].as_str().unwrap(), incident["evidence"].as_str().unwrap());
    assert!(Path::new(folder).exists() && incident["evidence_expired_at"].is_null(), "{incident:#}");
    assert!(daemon.stop().success());
    scene.guardian("evidence = { keep = \"1ms\", max = \"1GB\" }");
    let mut daemon = scene.daemon();
    let expired = daemon.incident("app", 1, "expired", |incident| incident["evidence_expired_at"].is_string());
    promised::time(&expired["evidence_expired_at"]);
    assert!(!Path::new(folder).exists());
    let steps = expired["steps"].as_array().unwrap();
    assert!(expired["evidence"].is_null() && steps.iter().all(|step| step["evidence"].is_null()), "{expired:#}");
    assert_eq!((&expired["outcome"], &expired["mttr_seconds"]), (&incident["outcome"], &incident["mttr_seconds"]));
    let told = asked(&scene, &["incident", id]).json_of(0);
    assert_eq!(told["evidence_expired_at"], expired["evidence_expired_at"], "{told:#}");
    let refused = asked(&scene, &["rollback", id]).json_of(1);
    assert!(refused["detail"].as_str().unwrap().contains("expired at 20"), "{refused:#}");
    daemon.kill();
    std::fs::remove_file(scene.path("state/state.db")).unwrap();
    let mut daemon = scene.daemon();
    let again = daemon.incident("app", 1, "told by its log alone", |_| true);
    assert_eq!(again["evidence_expired_at"], expired["evidence_expired_at"], "{again:#}");
}

/// From cron, say: the disk would fill up.
#[test]
fn what_is_not_to_be_kept_goes_without_a_daemon_too() {
    let mut scene = Scene::new();
    let keep = "keep = { last = 2, hourly = 0, daily = 0, weekly = 0 }";
    scene.database("app", "data/app.db", &format!("backup = {{ every = \"1h\", {keep} }}"));
    scene.write_config();
    scene.commit("wal", 10, &[]);
    let taken: Vec<_> = (0..4).map(|_| asked(&scene, &["backup", "app"]).json_of(0)).collect();
    let listed = asked(&scene, &["backups", "app"]).json_of(0);
    assert_eq!(listed.as_array().unwrap()[..], [taken[3].clone(), taken[2].clone()]);
}

/// It is copied while its program goes on, and is what the program had at one moment all the same.
#[test]
fn a_large_backup_under_a_program_that_commits_is_of_one_moment() {
    for mode in ["delete", "wal"] {
        let mut scene = Scene::new();
        scene.database(
            "app",
            "data/app.db",
            "busy_timeout = \"30s\"\nbackup = { every = \"1h\", to = \"backups\", block_max = \"30s\" }",
        );
        scene.write_config();
        let (first, large) = (40, ["--rows-per-commit", "50", "--row-bytes", "20000"]);
        scene.commit(mode, first, &large);
        assert!(std::fs::metadata(scene.db()).unwrap().len() > 33 << 20, "it is not large");
        let program =
            scene.writer(mode, "forever", &["--rows-per-commit", "3", "--pause", "2", "--busy-timeout", "60000"]);
        let promised = || truth::promised(&scene.log_of(&scene.db()));
        let until = Instant::now() + Duration::from_secs(60);
        while promised().len() <= first as usize + 3 {
            assert!(Instant::now() < until, "{mode}: it does not commit");
            std::thread::sleep(Duration::from_millis(5));
        }
        let before = promised();
        let taken = asked(&scene, &["backup", "app"]).json_of(0);
        program.kill();
        let kept = truth::rows_of_commits(Path::new(taken["file"].as_str().unwrap()));
        assert!(before.iter().all(|commit| kept.contains_key(commit)), "{mode}: it lacks what was committed before");
        let rows = |number: usize| if number < first as usize { 50 } else { 3 };
        for (number, (commit, found)) in kept.iter().enumerate() {
            assert_eq!(*found, rows(number), "{mode}: commit {commit} of {} is in it in part", kept.len());
        }
    }
}

#[test]
fn a_backup_whose_manifest_cannot_be_read_is_named_with_the_reason() {
    let scene = scene();
    let taken = asked(&scene, &["backup", "app"]).json_of(0);
    let second = asked(&scene, &["backup", "app"]).json_of(0);
    let manifest = |taken: &serde_json::Value| format!("{}.json", taken["file"].as_str().unwrap());
    std::fs::write(manifest(&taken), "{").unwrap();
    let listed = asked(&scene, &["backups", "app"]);
    assert_eq!(listed.json_of(0), serde_json::json!([second]));
    assert!(listed.stderr.contains(&manifest(&taken)), "{listed:#?}");

    let text = std::fs::read_to_string(manifest(&second)).unwrap();
    std::fs::write(manifest(&second), text.replace("\"version\": 1,", "\"version\": 99,")).unwrap();
    let listed = asked(&scene, &["backups", "app"]);
    assert_eq!(listed.json_of(1), serde_json::json!([]));
    assert!(listed.stderr.contains("version 99") && listed.stderr.contains(&manifest(&taken)), "{listed:#?}");
    let refused = asked(&scene, &["restore", "app", "--to", "copy.db"]);
    assert!(refused.json_of(1)["error"].as_str().unwrap().contains("version 99"), "{refused:#?}");
}

#[test]
fn a_damaged_backup_is_restored_by_nobody() {
    let scene = scene();
    let taken = asked(&scene, &["backup", "app"]).json_of(0);
    let file = taken["file"].as_str().unwrap();
    crate::support::damage::overwrite(Path::new(file), 5000, &[0xA5; 64]);
    let refused = asked(&scene, &["restore", "--from", file, "--to", "copy.db"]);
    assert_eq!(refused.json_of(1)["exit"], 1);
    assert!(!scene.path("copy.db").exists(), "half a restore was left: {refused:#?}");
}

#[test]
fn what_is_no_backup_is_called_so_and_not_restored() {
    let scene = scene();
    let refused = asked(&scene, &["restore", "--from", "data/app.db", "--to", "copy.db"]);
    assert_eq!(refused.json_of(1)["exit"], 1);
    assert!(refused.stderr.contains("is no backup that guardiand took"), "{refused:#?}");
    assert!(!scene.path("copy.db").exists());
    let nothing = asked(&scene, &["restore", "--from", "data/none.db", "--to", "copy.db"]);
    assert!(nothing.stderr.contains("data/none.db") && !nothing.stderr.contains(".json"), "{nothing:#?}");
}

#[test]
fn a_dry_run_of_a_path_makes_no_state_directory() {
    let scene = scene();
    crate::support::damage::overwrite(&scene.db(), 0, &[0; 100]);
    let before = names(&scene.path(""));
    let ran = guardiand(&scene.path(""), &["heal", "data/app.db", "--dry-run", "--state-dir", "made/by/it", "--json"]);
    assert_eq!(ran.json_of(1)["outcome"], "planned", "a file that was never seen healthy is a person's: {ran:#?}");
    assert_eq!(names(&scene.path("")), before);
}

#[test]
fn a_dry_run_prints_the_plan_and_touches_nothing() {
    let scene = scene();
    asked(&scene, &["backup", "app"]).json_of(0);
    std::fs::remove_file(scene.db()).unwrap();
    let report = asked(&scene, &["heal", "app", "--dry-run"]).json_of(0);
    promised::check(&report["check"]);
    assert_eq!(report["check"]["findings"][0]["kind"], "db_file_missing");
    let plan = report["playbooks"].as_array().unwrap();
    let rungs: Vec<_> = plan.iter().map(|playbook| playbook["name"].as_str().unwrap()).collect();
    assert_eq!(rungs[0], "restore_backup", "the least lossy rung comes first");
    assert!(report["incident"].is_null(), "a dry run opened an incident: {report:#}");
    assert_eq!(scene.names(), Vec::<String>::new(), "a dry run touched the folder");
    assert_eq!(names(&scene.path("state/incidents")).len(), 0, "a dry run left an incident");
}

#[test]
fn a_heal_prints_the_incident_and_is_0_once_proven() {
    let scene = scene();
    asked(&scene, &["backup", "app"]).json_of(0);
    std::fs::remove_file(scene.db()).unwrap();
    let report = asked(&scene, &["heal", "app"]).json_of(0);
    assert_eq!(report["outcome"], "healed");
    promised::check(&report["check"]);
    assert_eq!(report["check"]["verdict"], "healthy");
    promised::healed_incident(&report["incident"]);
    promised::loss(&report["incident"]["loss"]);
    assert_eq!(report["incident"]["playbook"], "restore_backup");
    scene.assert_whole("wal");

    let again = asked(&scene, &["heal", "app"]).json_of(0);
    assert_eq!(again["outcome"], "healthy");
    assert!(again["incident"].is_null(), "{again:#}");
}

#[test]
fn a_path_alone_is_backed_up_and_healed_with_a_state_directory() {
    let scene = Scene::new();
    scene.commit("delete", 10, &[]);
    let db = scene.db().display().to_string();
    let asked = |arguments: &[&str]| {
        let mut all = arguments.to_vec();
        all.extend(["--state-dir", "state", "--json"]);
        guardiand(&scene.path(""), &all)
    };
    assert_eq!(asked(&["heal", &db]).json_of(0)["outcome"], "healthy");
    let taken = asked(&["backup", &db]).json_of(0);
    // However the path is written, it is the same database.
    let listed = asked(&["backups", "data/../data/app.db"]).json_of(0);
    assert_eq!(listed[0]["file"], taken["file"]);
    std::fs::remove_file(&db).unwrap();
    let report = asked(&["heal", "data/app.db"]).json_of(0);
    assert_eq!(report["outcome"], "healed", "{report:#}");
    assert_eq!(report["incident"]["playbook"], "restore_backup");
    assert_eq!(scene.lost(), 0);
}

#[test]
fn what_one_folders_database_taught_is_not_believed_of_another_folders() {
    let scene = Scene::new();
    scene.commit("delete", 10, &[]);
    let state = scene.path("state").display().to_string();
    let healed = |folder: &Path| guardiand(folder, &["heal", "app.db", "--state-dir", &state, "--json"]);
    assert_eq!(healed(&scene.path("data")).json_of(0)["outcome"], "healthy");
    // A file of the same name that nobody ever saw healthy: not ours to judge, and not ours to replace.
    let other = scene.path("other");
    std::fs::create_dir(&other).unwrap();
    let foreign = crate::support::damage::Dice::new().bytes(8192);
    std::fs::write(other.join("app.db"), &foreign).unwrap();
    let report = healed(&other).json_of(3);
    assert_eq!(report["outcome"], "unknown", "{report:#}");
    assert_eq!(std::fs::read(other.join("app.db")).unwrap(), foreign);
}

#[test]
fn of_several_targets_the_worst_is_the_status() {
    let mut scene = Scene::of("");
    scene.database("odd", "data/odd.db", "");
    scene.commit("wal", 3, &[]);
    std::fs::write(scene.path("data/odd.db"), "not a database at all").unwrap();
    scene.write_config();
    let checks = asked(&scene, &["check"]).json_of(3);
    checks.as_array().unwrap().iter().for_each(promised::check);
    let reason = checks[1]["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("not a SQLite database"), "{checks:#}");
    scene.database("gone", "data/gone.db", "");
    scene.write_config();
    assert_eq!(asked(&scene, &["check"]).json_of(1).as_array().unwrap().len(), 3);
    promised::check(&asked(&scene, &["check", "app"]).json_of(0));
}

#[test]
fn a_glob_is_one_target_per_match() {
    let mut scene = Scene::new();
    scene.database("shop", "data/*.db", "");
    scene.commit("wal", 3, &[]);
    scene.writer_of(&scene.path("data/b.db"), "delete", "3", &[]).finish();
    scene.write_config();
    let checks = asked(&scene, &["check"]).json_of(0);
    let targets: Vec<_> =
        checks.as_array().unwrap().iter().map(|check| check["target"].as_str().unwrap().to_owned()).collect();
    assert_eq!(targets, ["shop/app", "shop/b"]);
    promised::check(&asked(&scene, &["check", "shop/b"]).json_of(0));
}
