//! A heal is taken back by one command: the files as they were, to the byte, and hands off afterwards.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::support::command::{Ran, guardiand};
use super::support::daemon::Daemon;
use super::support::damage::{self, Dice};
use super::support::scene::Scene;
use super::support::truth::{Bytes, beside, digest, digest_of, ownership};

const BACKUP: &str = "backup = { every = \"24h\", to = \"backups\" }";

fn rollback(scene: &Scene, id: &str, flags: &[&str]) -> Ran {
    let mut words = vec!["rollback", id, "--config", "guardian.toml", "--json"];
    words.extend(flags);
    guardiand(&scene.path(""), &words)
}

/// What is there, but for a side file without a byte, which says nothing: a look that ended early may have left one.
fn content(scene: &Scene) -> [Option<Bytes>; 3] {
    let [main, wal, journal] = scene.bytes();
    [main, wal.filter(|bytes| !bytes.is_empty()), journal.filter(|bytes| !bytes.is_empty())]
}

fn id(incident: &Value) -> String {
    incident["id"].as_str().unwrap().to_owned()
}

/// A database that was healed from its backup; what was there before, and the incident.
fn healed(mode: &str, hurt: impl Fn(&Scene)) -> (Scene, Daemon, [Option<Bytes>; 3], Value) {
    let scene = Scene::of(BACKUP);
    scene.commit(mode, 60, &["--rows-per-commit", "5"]);
    fs::set_permissions(scene.db(), fs::Permissions::from_mode(0o640)).unwrap();
    scene.give_away_if_root();
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    assert!(daemon.stop().success());
    hurt(&scene);
    let before = content(&scene);
    let mut daemon = scene.daemon();
    let incident = daemon.closed("app", 1);
    assert_eq!(incident["outcome"], "healed", "{incident:#}");
    daemon.healthy("app");
    (scene, daemon, before, incident)
}

fn smash(scene: &Scene) {
    damage::header(&scene.db(), &mut Dice::new());
}

/// The program died with commits in its WAL, and the WAL is damaged.
fn smash_with_wal(scene: &Scene) {
    scene.writer("wal", "10", &["--no-checkpoint", "--die"]).ended();
    damage::header(&scene.db(), &mut Dice::new());
    let wal = beside(&scene.db(), "-wal");
    let half = fs::metadata(&wal).unwrap().len() / 2;
    damage::overwrite(&wal, half as usize, &[0xA5; 64]);
}

/// The evidence of an incident, by the name of the file.
fn kept(incident: &Value, name: &str) -> PathBuf {
    Path::new(incident["evidence"].as_str().unwrap()).join(name)
}

fn assert_left_alone(daemon: &mut Daemon, scene: &Scene, before: &[Option<Bytes>; 3], number: usize) -> Value {
    let incident = daemon.escalated("app", number);
    assert!(incident["reason"].as_str().unwrap().contains("rolled back by uid"), "{incident:#}");
    daemon.caught_up_with_looks("app");
    assert_eq!(&content(scene), before, "it was healed again, against a person's word");
    assert_eq!(daemon.incidents("app").len(), number);
    incident
}

#[test]
fn the_files_come_back_to_the_byte_and_nothing_is_done_until_a_person_says_so() {
    for mode in ["wal", "delete"] {
        let (scene, mut daemon, before, incident) = healed(mode, smash);
        let (owner, healed_bytes) = (ownership(&scene.db()), content(&scene));
        let report = rollback(&scene, &id(&incident), &[]).json_of(0);
        assert_eq!(report["outcome"], "rolled_back", "{report:#}");
        assert_eq!(content(&scene), before);
        assert_eq!(ownership(&scene.db()), owner);

        // The incident whose heal it was says so; the one that tells of it has what was there.
        let first = daemon.incident("app", 1, "rolled back", |incident| incident["outcome"] == "rolled_back");
        assert_eq!(first["state"], "closed", "{first:#}");
        let second = assert_left_alone(&mut daemon, &scene, &before, 2);
        assert_eq!(second["kind"], incident["kind"], "{second:#}");
        assert_eq!(second["playbook"], "rollback", "{second:#}");
        assert_eq!(digest(&kept(&second, "main")), healed_bytes[0].as_deref().map(digest_of));
        let runs = "guardian_playbook_runs_total{mode=\"database\",outcome=\"ok\",playbook=\"rollback\"}";
        assert_eq!(daemon.metric(runs), 1.0);
        // Twice is once.
        let again = rollback(&scene, &id(&incident), &[]).json_of(0);
        assert_eq!(again["outcome"], "nothing_to_do", "{again:#}");

        // A restart changes nothing about that.
        assert!(daemon.stop().success());
        let mut daemon = scene.daemon();
        assert_left_alone(&mut daemon, &scene, &before, 2);

        let report = guardiand(&scene.path(""), &["heal", "app", "--config", "guardian.toml", "--json"]).json_of(0);
        assert_eq!(report["outcome"], "healed", "{report:#}");
        let second = daemon.closed("app", 2);
        assert_eq!(second["outcome"], "healed", "{second:#}");
        assert_eq!(scene.lost(), 0);
        scene.assert_whole(mode);
    }
}

#[test]
fn a_person_may_leave_it_to_guardiand_again() {
    let resume = |scene: &Scene, what: &str| {
        guardiand(&scene.path(""), &["resume", what, "--config", "guardian.toml", "--json"]).json_of(0)
    };
    let (scene, mut daemon, before, incident) = healed("wal", smash);
    rollback(&scene, &id(&incident), &[]).json_of(0);
    let second = daemon.escalated("app", 2);
    assert!(second["reason"].as_str().unwrap().contains("guardiand resume app"), "{second:#}");
    // Who lets everything go on may not know of it.
    let all = resume(&scene, "--all");
    assert_eq!((&all["was_rolled_back"], &all["rolled_back"]), (&false.into(), &vec!["app"].into()), "{all:#}");
    assert_left_alone(&mut daemon, &scene, &before, 2);

    let one = resume(&scene, "app");
    let expected = (&true.into(), &Value::Array(Vec::new()));
    assert_eq!((&one["was_rolled_back"], &one["rolled_back"]), expected, "{one:#}");
    let second = daemon.closed("app", 2);
    assert_eq!((&second["outcome"], &second["playbook"]), (&"healed".into(), &"mend_header".into()), "{second:#}");
    daemon.healthy("app");
    assert_eq!(resume(&scene, "app")["was_rolled_back"], false);
    assert_eq!((scene.lost(), daemon.incidents("app").len()), (0, 2));
    scene.assert_whole("wal");
}

#[test]
fn a_word_that_lets_it_go_on_outlives_a_restart() {
    let (mut scene, mut daemon, before, incident) = healed("delete", smash);
    let reload = |scene: &Scene| {
        scene.write_config();
        guardiand(&scene.path(""), &["reload", "--config", "guardian.toml", "--json"]).json_of(0);
    };
    scene.guardian("policy = \"observe\"");
    reload(&scene);
    rollback(&scene, &id(&incident), &[]).json_of(0);
    daemon.escalated("app", 2);
    let resumed = guardiand(&scene.path(""), &["resume", "app", "--config", "guardian.toml", "--json"]).json_of(0);
    assert_eq!(resumed["was_rolled_back"], true, "{resumed:#}");
    let told = |incident: &Value| incident["reason"].as_str().is_some_and(|reason| reason.contains("observe"));
    daemon.incident("app", 2, "observed", told);
    assert_eq!(content(&scene), before);
    daemon.kill();
    scene.guardian("");
    let mut daemon = scene.daemon();
    assert_eq!(daemon.closed("app", 2)["outcome"], "healed");
    assert_eq!(scene.lost(), 0);
}

#[test]
fn main_and_wal_come_back_together() {
    let (scene, mut daemon, before, incident) = healed("wal", smash_with_wal);
    assert!(before[1].is_some() && content(&scene)[1].as_ref().is_none_or(|wal| wal.is_empty()));
    let report = rollback(&scene, &id(&incident), &[]).json_of(0);
    assert_eq!(report["outcome"], "rolled_back", "{report:#}");
    assert_eq!(content(&scene), before);
    assert_eq!(ownership(&scene.db()).2, 0o640, "its side files are there: it is open to its program again");
    assert_left_alone(&mut daemon, &scene, &before, 2);
}

#[test]
fn a_file_that_was_not_there_is_not_there_again() {
    let (scene, mut daemon, before, incident) = healed("delete", |scene| fs::remove_file(scene.db()).unwrap());
    assert_eq!(before[0], None);
    let report = rollback(&scene, &id(&incident), &[]).json_of(0);
    assert_eq!(report["outcome"], "rolled_back", "{report:#}");
    assert!(!scene.db().exists());
    assert_eq!(scene.names(), Vec::<String>::new());
    let second = assert_left_alone(&mut daemon, &scene, &before, 2);
    assert!(kept(&second, "main").exists(), "what was there is kept");
}

#[test]
fn a_rollback_can_be_rolled_back() {
    let (scene, mut daemon, before, incident) = healed("wal", smash_with_wal);
    let healed = content(&scene);
    rollback(&scene, &id(&incident), &[]).json_of(0);
    let second = daemon.escalated("app", 2);
    assert_eq!(content(&scene), before);
    let report = rollback(&scene, &id(&second), &[]).json_of(0);
    assert_eq!(report["outcome"], "rolled_back", "{report:#}");
    assert_eq!(content(&scene)[0], healed[0]);
    let second = daemon.closed("app", 2);
    assert_eq!(second["outcome"], "rolled_back", "{second:#}");
    daemon.healthy("app");
    assert_eq!(daemon.incidents("app").len(), 2);
    assert!(scene.lost() <= 10);
}

#[test]
fn commits_made_since_are_counted_and_never_taken_without_a_word() {
    for mode in ["wal", "delete"] {
        let (scene, mut daemon, before, incident) = healed(mode, smash);
        scene.commit(mode, 7, &["--rows-per-commit", "5"]);
        daemon.caught_up("app");
        let now = content(&scene);
        let refused = rollback(&scene, &id(&incident), &[]).json_of(1);
        assert_eq!(refused["outcome"], "refused", "{refused:#}");
        let detail = refused["detail"].as_str().unwrap();
        assert!(detail.contains("--accept-loss") && detail.contains(" bytes) of 20"), "{detail}");
        let since = &refused["weighed"]["since"];
        match mode {
            // The writer commits once more when it opens the database.
            "delete" => {
                assert!((7..=9).contains(&since["commits"].as_u64().unwrap()) && since["exact"] == true, "{since:#}")
            }
            _ => assert_eq!(since["exact"], false, "{since:#}"),
        }
        let rows = since["rows"].as_array().unwrap().iter().find(|rows| rows["table"] == "commits").unwrap();
        assert_eq!((rows["then"].as_u64(), rows["now"].as_u64()), (Some(60), Some(67)), "{since:#}");
        assert_eq!(content(&scene), now, "a refused rollback changed something");
        assert_eq!(daemon.incidents("app").len(), 1);

        let report = rollback(&scene, &id(&incident), &["--accept-loss"]).json_of(0);
        assert_eq!(report["outcome"], "rolled_back", "{report:#}");
        assert_eq!(content(&scene), before);
        let second = daemon.escalated("app", 2);
        assert_eq!(digest(&kept(&second, "main")), now[0].as_deref().map(digest_of), "the commits are not kept");
        let source = second["loss"]["source"].as_str().unwrap();
        assert!(source.contains("commits 60 → 67") && source.contains("evidence alone"), "{second:#}");
        assert!(second["loss"]["rows_lost"].is_null(), "what came and went is in no count: {second:#}");

        daemon.kill();
        let mut daemon = scene.daemon();
        assert_eq!(daemon.escalated("app", 2)["loss"], second["loss"], "a restart has forgotten what was lost");
        let report = rollback(&scene, &id(&second), &[]).json_of(0);
        assert_eq!(report["outcome"], "rolled_back", "{report:#}");
        let second = daemon.closed("app", 2);
        assert!(second["loss"].is_null(), "what is back is not lost: {second:#}");
        assert_eq!(content(&scene)[0], now[0]);
    }
}

/// A heal after it has a loss of its own, which is not all.
#[test]
fn what_a_rollback_dropped_is_still_said_when_it_is_healed_again() {
    let (scene, mut daemon, _, incident) = healed("wal", smash);
    scene.commit("wal", 7, &["--rows-per-commit", "5"]);
    daemon.caught_up("app");
    rollback(&scene, &id(&incident), &["--accept-loss"]).json_of(0);
    daemon.escalated("app", 2);
    let all = ["--config", "guardian.toml", "--json", "heal", "app"];
    guardiand(&scene.path(""), &all).json_of(0);
    let second = daemon.closed("app", 2);
    assert_eq!(second["outcome"], "healed", "{second:#}");
    let loss = &second["loss"];
    assert!(loss["source"].as_str().unwrap().contains("commits 60 → 67"), "{second:#}");
    assert!(loss["rows_lost"].is_null(), "{second:#}");
}

#[test]
fn what_was_healed_in_place_comes_back_too_and_nobody_pretends_to_know_the_commits() {
    for mode in ["wal", "delete"] {
        let (scene, mut daemon, before, incident) =
            healed(mode, |scene| drop(damage::leaf(&scene.db(), "rows_word", &mut Dice::new())));
        assert_eq!(incident["playbook"], "rebuild_indexes", "{incident:#}");
        let refused = rollback(&scene, &id(&incident), &[]).json_of(1);
        assert!(refused["detail"].as_str().unwrap().contains("cannot be told"), "{refused:#}");
        let report = rollback(&scene, &id(&incident), &["--accept-loss"]).json_of(0);
        assert_eq!(report["outcome"], "rolled_back", "{report:#}");
        assert_eq!(content(&scene), before);
        assert_left_alone(&mut daemon, &scene, &before, 2);
    }
}

#[test]
fn a_database_in_use_is_left_alone_and_its_user_is_named() {
    for mode in ["wal", "delete"] {
        let (scene, daemon, _, incident) = healed(mode, smash);
        let program = scene.writer(mode, "0", &["--open-idle"]);
        let now = content(&scene);
        for flags in [&[][..], &["--accept-loss"]] {
            let refused = rollback(&scene, &id(&incident), flags).json_of(1);
            assert_eq!(refused["outcome"], "refused", "{refused:#}");
            let detail = refused["detail"].as_str().unwrap();
            assert!(detail.contains(&program.pid().to_string()) && detail.contains("guardiand rollback"), "{detail}");
            assert_eq!(content(&scene)[0], now[0]);
        }
        assert_eq!(daemon.incidents("app").len(), 1);
        assert!(program.finish().success());
    }
}

#[test]
fn evidence_that_is_not_what_it_was_is_not_put_back() {
    let (scene, daemon, _, incident) = healed("delete", smash);
    let now = content(&scene);
    let main = kept(&incident, "main");
    let mut bytes = fs::read(&main).unwrap();
    bytes[5000] ^= 1;
    fs::write(&main, bytes).unwrap();
    let refused = rollback(&scene, &id(&incident), &[]).json_of(1);
    assert!(refused["detail"].as_str().unwrap().contains("BLAKE3"), "{refused:#}");
    assert_eq!(content(&scene), now);
    assert_eq!(daemon.incidents("app").len(), 1);

    fs::remove_dir_all(incident["evidence"].as_str().unwrap()).unwrap();
    let refused = rollback(&scene, &id(&incident), &[]).json_of(1);
    assert!(refused["detail"].as_str().unwrap().contains("no evidence"), "{refused:#}");
    let unknown = rollback(&scene, "20251122T030406.000Z-ffffff", &[]);
    assert_eq!(unknown.status, 1, "{unknown:#?}");
    assert!(unknown.stderr.contains("there is no incident"), "{unknown:#?}");
}

#[test]
fn a_group_that_was_restored_together_comes_back_together() {
    let mut scene = Scene::new();
    let lines = format!("group = \"shop\"\n{BACKUP}");
    scene.database("app", "data/app.db", &lines);
    scene.database("stock", "data/stock.db", &lines);
    let stock = scene.path("data/stock.db");
    let commit = |db: &Path, commits: &str| {
        // In WAL mode nothing proves that nobody has committed since the backup, and no page of it is put back by itself.
        let mode = if *db == scene.db() { "wal" } else { "delete" };
        assert!(scene.writer_of(db, mode, commits, &["--rows-per-commit", "5"]).finish().success());
    };
    commit(&scene.db(), "60");
    commit(&stock, "70");
    let mut daemon = scene.daemon();
    for name in ["app", "stock"] {
        daemon.backed_up(name);
        daemon.healthy(name);
    }
    commit(&stock, "10");
    daemon.caught_up("stock");
    let both = || [scene.db(), stock.clone()].map(|db| Bytes(fs::read(db).unwrap()));
    // A header alone is mended, and concerns nobody else.
    damage::leaf(&scene.db(), "rows", &mut Dice::new());
    let before = both();
    let incident = daemon.closed("app", 1);
    assert_eq!((&incident["outcome"], scene.lost_of(&stock)), (&"healed".into(), 10), "{incident:#}");
    daemon.healthy("app");
    let healed = both();
    assert_ne!(healed[1], before[1]);

    let planned = rollback(&scene, &id(&incident), &["--dry-run"]).json_of(0);
    assert_eq!(planned["weighed"]["members"][0]["member"]["name"], "stock", "{planned:#}");
    assert!(planned["detail"].as_str().unwrap().contains("`stock`"), "{planned:#}");
    // What was committed in the other one since is as dear as in the one that failed.
    commit(&stock, "5");
    daemon.caught_up("stock");
    let refused = rollback(&scene, &id(&incident), &[]).json_of(1);
    let detail = refused["detail"].as_str().unwrap();
    assert!(detail.contains("`stock`: ") && detail.contains("--accept-loss"), "{refused:#}");
    assert!(detail.contains("commits 70 → 75") && !detail.contains("stock.commits"), "{refused:#}");
    let later = both();
    let report = rollback(&scene, &id(&incident), &["--accept-loss"]).json_of(0);
    assert_eq!(report["outcome"], "rolled_back", "{report:#}");
    assert_eq!(both(), before);

    let second = daemon.escalated("app", 2);
    let report = rollback(&scene, &id(&second), &["--accept-loss"]).json_of(0);
    assert_eq!(report["outcome"], "rolled_back", "{report:#}");
    assert_eq!(both(), later, "a rollback of both is taken back for both");
    daemon.healthy("app");
    daemon.healthy("stock");
}

#[test]
fn without_a_daemon_the_evidence_folder_and_its_log_are_enough() {
    let (scene, daemon, before, incident) = healed("wal", smash_with_wal);
    assert!(daemon.stop().success());
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(beside(&scene.path("state/state.db"), suffix));
    }
    let planned = rollback(&scene, &id(&incident), &["--dry-run"]).json_of(0);
    assert_eq!(planned["outcome"], "planned", "{planned:#}");
    assert!(planned["incident"].is_null(), "{planned:#}");
    assert_ne!(content(&scene), before);
    let report = rollback(&scene, &id(&incident), &[]).json_of(0);
    assert_eq!(report["outcome"], "rolled_back", "{report:#}");
    assert_eq!(content(&scene), before);
    let mut daemon = scene.daemon();
    assert_left_alone(&mut daemon, &scene, &before, 2);
    let first = daemon.incident("app", 1, "rolled back", |incident| incident["outcome"] == "rolled_back");
    assert_eq!(first["id"], incident["id"]);
}

#[test]
fn what_was_healed_by_its_path_is_rolled_back_by_its_incident() {
    let scene = Scene::of("");
    scene.commit("delete", 30, &[]);
    let run = |words: &[&str]| {
        let mut all = words.to_vec();
        all.extend(["--state-dir", "state", "--json"]);
        guardiand(&scene.path(""), &all)
    };
    run(&["backup", "data/app.db"]).json_of(0);
    run(&["heal", "data/app.db"]).json_of(0);
    damage::header(&scene.db(), &mut Dice::new());
    let before = content(&scene);
    let healed = run(&["heal", "data/app.db"]).json_of(0);
    assert_eq!(healed["outcome"], "healed", "{healed:#}");
    let report = run(&["rollback", healed["incident"]["id"].as_str().unwrap()]).json_of(0);
    assert_eq!(report["outcome"], "rolled_back", "{report:#}");
    assert_eq!(content(&scene), before);
}

#[test]
fn an_incident_shows_its_evidence_and_the_command_that_takes_it_back() {
    let (scene, _daemon, before, incident) = healed("wal", smash_with_wal);
    let told =
        guardiand(&scene.path(""), &["incident", &id(&incident), "--config", "guardian.toml", "--json"]).json_of(0);
    assert_eq!(told["rollback"], format!("guardiand rollback {}", id(&incident)), "{told:#}");
    let files = told["evidence_files"][0]["files"].as_array().unwrap();
    for (name, bytes) in [("main", &before[0]), ("wal", &before[1])] {
        let file = files.iter().find(|file| file["name"] == name).unwrap();
        let bytes = bytes.as_ref().unwrap();
        assert_eq!(file["size"], bytes.len(), "{told:#}");
        assert_eq!(file["blake3"], digest_of(bytes), "{told:#}");
    }
}

#[test]
fn what_does_not_fit_into_the_evidence_budget_is_not_healed_until_it_does() {
    let mut scene = Scene::of(BACKUP);
    scene.guardian("evidence = { keep = \"30d\", max = \"100KB\" }");
    scene.commit("delete", 60, &["--row-bytes", "4000"]);
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    let bytes = damage::header(&scene.db(), &mut Dice::new());
    let incident = daemon.escalated("app", 1);
    assert!(incident["reason"].as_str().unwrap().contains("evidence.max"), "{incident:#}");
    assert_eq!(scene.bytes()[0].as_ref(), Some(&bytes), "replaced without evidence");
    // More room is in force with a reload.
    scene.guardian("evidence = { keep = \"30d\", max = \"100MB\" }");
    scene.write_config();
    guardiand(&scene.path(""), &["reload", "--config", "guardian.toml", "--json"]).json_of(0);
    guardiand(&scene.path(""), &["heal", "app", "--config", "guardian.toml", "--json"]).json_of(0);
    let incident = daemon.closed("app", 1);
    assert_eq!(incident["outcome"], "healed", "{incident:#}");
    scene.assert_evidence(&incident, &[("main", Some(&bytes))]);
    assert_eq!(scene.lost(), 0);
}
