//! A person's word and the brakes: nothing is healed before its yes, against its no, for ever, or in masses.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::Value;

use super::support::command::{Ran, guardiand};
use super::support::daemon::Daemon;
use super::support::scene::Scene;
use super::support::truth::names;

const BACKUP: &str = "backup = { every = \"24h\", to = \"backups\" }";

fn asked(scene: &Scene, arguments: &[&str]) -> Ran {
    let mut all = vec!["--config", "guardian.toml", "--json"];
    all.extend(arguments);
    guardiand(&scene.path(""), &all)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no `{key}`: {value:#}"))
}

fn deferred(daemon: &Daemon, target: &str, reason: &str) -> f64 {
    daemon
        .metric(&format!("guardian_heals_deferred_total{{mode=\"database\",reason=\"{reason}\",target=\"{target}\"}}"))
}

/// Two more looks: what would have been done has been.
fn two_more_looks(daemon: &mut Daemon, target: &str) {
    daemon.caught_up_with_looks(target);
}

/// A scene with `app` in it, healthy and backed up.
fn backed_up(lines: &str) -> (Scene, Daemon) {
    let scene = Scene::of(&format!("{lines}\n{BACKUP}"));
    scene.commit("wal", 50, &[]);
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    (scene, daemon)
}

fn waiting(daemon: &mut Daemon, number: usize) -> Value {
    daemon.incident("app", number, "waiting for approval", |incident| incident["state"] == "awaiting_approval")
}

#[test]
fn nothing_happens_before_a_persons_yes_and_everything_after_it() {
    let (scene, mut daemon) = backed_up("policy = \"approve\"");
    fs::remove_file(scene.db()).unwrap();
    let incident = waiting(&mut daemon, 1);
    let id = text(&incident, "id").to_owned();
    assert!(text(&incident, "reason").contains(&format!("run `guardiand approve {id}`")), "{incident:#}");
    assert_eq!(incident["plan"][0]["playbook"], "restore_backup", "{incident:#}");
    assert_eq!(incident["plan"][0]["risk"], "lossy", "{incident:#}");
    two_more_looks(&mut daemon, "app");
    assert!(!scene.db().exists());
    // Counted once it is asked: the question itself is there a moment sooner.
    assert_eq!(deferred(&daemon, "app", "policy"), 1.0);

    // It waits over a death, too, and is the same question.
    daemon.kill();
    let mut daemon = scene.daemon();
    let after = waiting(&mut daemon, 1);
    assert_eq!(
        (&after["id"], &after["reason"], &after["plan"]),
        (&incident["id"], &incident["reason"], &incident["plan"])
    );
    two_more_looks(&mut daemon, "app");
    assert!(!scene.db().exists());

    let report = asked(&scene, &["approve", &id]).json_of(0);
    assert_eq!(report["outcome"], "healed", "{report:#}");
    let incident = daemon.closed("app", 1);
    assert_eq!(incident["outcome"], "healed", "{incident:#}");
    let uid = rustix::process::getuid().as_raw();
    assert_eq!(incident["approved_by"], uid, "{incident:#}");
    let log = fs::read_to_string(scene.path(&format!("state/incidents/{id}/log.jsonl"))).unwrap();
    assert_eq!(log.matches(&format!("{{\"event\":\"approved\",\"by\":{uid}}}")).count(), 1, "{log}");
    // The time that it waited counts.
    assert!(incident["mttr_seconds"].as_f64() > incident["heal_seconds"].as_f64(), "{incident:#}");
    assert_eq!(scene.lost(), 0);
    scene.assert_whole("wal");
    // And there is nothing left to say yes to.
    for (id, words) in [(id.as_str(), "no open incident"), ("none", "no open incident")] {
        let refused = asked(&scene, &["approve", id]);
        assert_eq!(refused.status, 1, "{refused:#?}");
        assert!(refused.stderr.contains(words), "{refused:#?}");
    }
}

#[test]
fn a_yes_is_no_yes_to_a_plan_that_costs_more() {
    let (scene, mut daemon) = backed_up("policy = \"approve\"");
    let newest = asked(&scene, &["backup", "app"]).json_of(0);
    fs::remove_file(scene.db()).unwrap();
    let before = waiting(&mut daemon, 1);
    let id = text(&before, "id").to_owned();
    // The backup that it would have been restored from is gone: what is left loses more.
    let file = PathBuf::from(newest["file"].as_str().unwrap());
    remove_with_its_companions(&file);
    let refused = asked(&scene, &["approve", &id]);
    assert_eq!(refused.status, 1, "{refused:#?}");
    assert!(refused.stderr.contains("no longer the one that was approved"), "{refused:#?}");
    assert!(!scene.db().exists());
    let again = waiting(&mut daemon, 1);
    assert_ne!(again["plan"], before["plan"], "{again:#}");
    assert_eq!(again["approved_by"], Value::Null, "{again:#}");
    let report = asked(&scene, &["approve", &id]).json_of(0);
    assert_eq!(report["outcome"], "healed", "{report:#}");
    scene.assert_whole("wal");
}

/// A backup and its manifest: all that shares its stem.
fn remove_with_its_companions(backup: &Path) {
    let stem = backup.file_stem().unwrap().to_str().unwrap().to_owned();
    for name in names(backup.parent().unwrap()).into_iter().filter(|name| name.starts_with(&stem)) {
        fs::remove_file(backup.with_file_name(name)).unwrap();
    }
}

#[test]
fn what_comes_back_by_itself_needs_no_yes() {
    let (scene, mut daemon) = backed_up("policy = \"approve\"");
    let aside = scene.path("aside.db");
    fs::rename(scene.db(), &aside).unwrap();
    waiting(&mut daemon, 1);
    fs::rename(&aside, scene.db()).unwrap();
    let incident = daemon.closed("app", 1);
    assert_eq!(incident["outcome"], "self_resolved", "{incident:#}");
    scene.assert_whole("wal");
}

#[test]
fn a_plan_that_needs_no_yes_any_more_begins_by_itself() {
    let (mut scene, mut daemon) = backed_up("policy = \"approve\"");
    fs::remove_file(scene.db()).unwrap();
    waiting(&mut daemon, 1);
    scene.forget_databases();
    scene.database("app", "data/app.db", BACKUP);
    scene.write_config();
    asked(&scene, &["reload"]).json_of(0);
    assert_eq!(daemon.closed("app", 1)["outcome"], "healed");
    scene.assert_whole("wal");
}

#[test]
fn a_yes_outlives_the_daemon_whenever_it_dies() {
    // Opened, planned, asked, approved, planned, began, intended, …
    for append in 1..=9 {
        let (scene, daemon) = backed_up("policy = \"approve\"");
        assert!(daemon.stop().success());
        let mut daemon = scene.launch(&[("GUARDIAND_KILL_AFTER_APPEND", &append.to_string())]).ready();
        daemon.healthy("app");
        fs::remove_file(scene.db()).unwrap();
        let state = |daemon: &Daemon| {
            let incidents = daemon.try_get("/api/v1/incidents?target=app")?;
            let state = incidents["incidents"][0]["state"].as_str()?.to_owned();
            (state == "awaiting_approval").then(|| incidents["incidents"][0]["id"].as_str().unwrap().to_owned())
        };
        let mut approved = false;
        let id = daemon.wait_for_end_or("its question or its death", &mut |daemon| match daemon.ended() {
            Some(_) => Some(None),
            None => state(daemon).map(Some),
        });
        if let Some(id) = id {
            asked(&scene, &["approve", &id]);
            approved = append >= 4;
        }
        daemon.wait_for_end_or("its death", &mut |daemon| daemon.ended());

        let mut daemon = scene.daemon();
        let incident = match approved {
            true => daemon.closed("app", 1),
            false => {
                let id = text(&waiting(&mut daemon, 1), "id").to_owned();
                asked(&scene, &["approve", &id]).json_of(0);
                daemon.closed("app", 1)
            }
        };
        assert_eq!(incident["outcome"], "healed", "after append {append}: {incident:#}");
        assert_eq!(scene.lost(), 0);
        scene.assert_whole("wal");
    }
}

#[test]
fn a_yes_needs_no_daemon() {
    let (scene, mut daemon) = backed_up("policy = \"approve\"");
    fs::remove_file(scene.db()).unwrap();
    let id = text(&waiting(&mut daemon, 1), "id").to_owned();
    assert!(daemon.stop().success());
    let report = asked(&scene, &["approve", &id]).json_of(0);
    assert_eq!(report["outcome"], "healed", "{report:#}");
    scene.assert_whole("wal");
}

#[test]
fn what_is_paused_is_looked_at_and_not_healed() {
    let (scene, mut daemon) = backed_up("");
    let pause = asked(&scene, &["pause", "app"]).json_of(0);
    assert!(pause["paused"]["since"].is_string() && pause["paused"]["until"].is_null(), "{pause:#}");
    fs::remove_file(scene.db()).unwrap();
    let incident = daemon.incident("app", 1, "held", |incident| incident["reason"].is_string());
    assert!(text(&incident, "reason").starts_with("paused"), "{incident:#}");
    assert!(text(&incident, "reason").contains("guardiand resume app"), "{incident:#}");
    assert_eq!(deferred(&daemon, "app", "paused"), 1.0);
    let status = asked(&scene, &["status"]).json_of(0);
    assert!(status["targets"][0]["paused"]["since"].is_string(), "{status:#}");
    let shown = guardiand(&scene.path(""), &["status", "--config", "guardian.toml"]);
    assert!(shown.stdout.contains("(paused)"), "{shown:#?}");
    two_more_looks(&mut daemon, "app");
    assert!(!scene.db().exists());

    // Also not over a death, and not because the index is gone.
    daemon.kill();
    for name in names(&scene.path("state")).iter().filter(|name| name.starts_with("state.db")) {
        fs::remove_file(scene.path("state").join(name)).unwrap();
    }
    let mut daemon = scene.daemon();
    two_more_looks(&mut daemon, "app");
    two_more_looks(&mut daemon, "app");
    assert!(!scene.db().exists());
    let resumed = asked(&scene, &["resume", "app"]).json_of(0);
    assert_eq!((&resumed["was_paused"], &resumed["targets"][0]), (&true.into(), &"app".into()), "{resumed:#}");
    assert_eq!(daemon.closed("app", 1)["outcome"], "healed");
    assert!(daemon.healthy("app")["paused"].is_null());
    scene.assert_whole("wal");
    assert_eq!(asked(&scene, &["pause", "nobody"]).status, 1);
}

#[test]
fn backups_go_on_while_healing_is_paused() {
    let scene = Scene::of("backup = { every = \"500ms\", to = \"backups\", keep = { last = 100 } }");
    scene.commit("wal", 20, &[]);
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    asked(&scene, &["pause", "--all"]).json_of(0);
    let last = daemon.target("app").unwrap()["last_backup_at"].clone();
    daemon.wait_for("another backup", |daemon| (daemon.target("app")?["last_backup_at"] != last).then_some(()));
    assert!(daemon.target("app").unwrap()["paused"].is_object());
}

#[test]
fn a_pause_with_an_end_ends_by_itself_also_over_a_restart() {
    let (scene, mut daemon) = backed_up("");
    asked(&scene, &["pause", "app"]).json_of(0);
    fs::remove_file(scene.db()).unwrap();
    daemon.incident("app", 1, "held", |incident| incident["reason"].is_string());
    // Its end is set only now: held is held, however long it took to be seen.
    let pause = asked(&scene, &["pause", "app", "--for", "3s"]).json_of(0);
    assert!(pause["paused"]["until"].is_string(), "{pause:#}");
    assert!(daemon.stop().success());
    let mut daemon = scene.daemon();
    assert_eq!(daemon.closed("app", 1)["outcome"], "healed");
    scene.assert_whole("wal");
}

#[test]
fn a_heal_that_does_not_last_is_given_up_until_a_person_looked() {
    let mut scene = Scene::of(BACKUP);
    scene.gates("cooldown = \"0s\"\nrepeat = { max = 2, within = \"10m\" }");
    scene.commit("wal", 50, &[]);
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    for number in 1..=2 {
        daemon.healthy("app");
        fs::remove_file(scene.db()).unwrap();
        assert_eq!(daemon.closed("app", number)["outcome"], "healed");
    }
    daemon.healthy("app");
    fs::remove_file(scene.db()).unwrap();
    let incident = daemon.escalated("app", 3);
    assert!(text(&incident, "reason").starts_with("repeat"), "{incident:#}");
    assert!(text(&incident, "reason").contains("guardiand resume app"), "{incident:#}");
    assert_eq!(incident["steps"].as_array().unwrap().len(), 0, "{incident:#}");
    assert_eq!(incident["plan"][0]["playbook"], "restore_backup", "{incident:#}");
    assert_eq!(deferred(&daemon, "app", "repeat"), 1.0);
    // A restart has not forgotten.
    daemon.kill();
    let mut daemon = scene.daemon();
    two_more_looks(&mut daemon, "app");
    two_more_looks(&mut daemon, "app");
    assert_eq!(daemon.escalated("app", 3)["id"], incident["id"]);
    assert!(!scene.db().exists());
    let words = guardiand(&scene.path(""), &["--config", "guardian.toml", "resume", "app"]).stdout;
    assert!(words.contains("budget of heals is full again") && !words.contains("not paused"), "{words}");
    assert_eq!(daemon.closed("app", 3)["outcome"], "healed");
    scene.assert_whole("wal");
    let words = guardiand(&scene.path(""), &["--config", "guardian.toml", "resume", "app"]).stdout;
    assert!(words.contains("budget of heals is full again"), "the heal since then: {words}");
    let words = guardiand(&scene.path(""), &["--config", "guardian.toml", "resume", "app"]).stdout;
    assert!(words.contains("it was not paused"), "{words}");
}

/// What a person forgave stays forgiven: the attempts are read back from the incidents' logs, which know nothing of it.
#[test]
fn a_budget_that_a_person_refilled_is_full_after_a_restart_too() {
    let mut scene = Scene::of(BACKUP);
    scene.gates("cooldown = \"0s\"\nheals = { max = 2, per = \"24h\" }\nrepeat = { max = 1, within = \"10m\" }");
    scene.commit("wal", 50, &[]);
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    fs::remove_file(scene.db()).unwrap();
    assert_eq!(daemon.closed("app", 1)["outcome"], "healed");
    daemon.healthy("app");
    let resumed = asked(&scene, &["resume", "app"]).json_of(0);
    assert_eq!((&resumed["was_refilled"], &resumed["was_paused"]), (&true.into(), &false.into()), "{resumed:#}");
    daemon.kill();
    let mut daemon = scene.daemon();
    daemon.healthy("app");
    fs::remove_file(scene.db()).unwrap();
    assert_eq!(daemon.closed("app", 2)["outcome"], "healed");
    // What came after the word counts, and does so after a restart.
    daemon.healthy("app");
    daemon.kill();
    let mut daemon = scene.daemon();
    daemon.healthy("app");
    fs::remove_file(scene.db()).unwrap();
    assert!(text(&daemon.escalated("app", 3), "reason").starts_with("repeat"));
}

/// Eight databases with a backup each.
fn eight() -> (Scene, Daemon, Vec<PathBuf>) {
    let mut scene = Scene::new();
    let mut files = Vec::new();
    for number in 0..8 {
        let path = format!("data/{number}.db");
        scene.database(&format!("t{number}"), &path, BACKUP);
        scene.writer_of(&scene.path(&path), "wal", "20", &[]).finish();
        files.push(scene.path(&path));
    }
    let mut daemon = scene.daemon();
    for number in 0..8 {
        daemon.backed_up(&format!("t{number}"));
        daemon.healthy(&format!("t{number}"));
    }
    (scene, daemon, files)
}

#[test]
fn three_of_eight_are_healed() {
    let (_scene, mut daemon, files) = eight();
    daemon.signal(Signal::STOP);
    files[..3].iter().for_each(|file| fs::remove_file(file).unwrap());
    daemon.signal(Signal::CONT);
    for number in 0..3 {
        assert_eq!(daemon.closed(&format!("t{number}"), 1)["outcome"], "healed");
    }
    assert_eq!(daemon.incidents("guardian"), Vec::<Value>::new());
}

/// Moves five of eight away at once, and waits until all of them are held.
fn five_held(daemon: &mut Daemon, files: &[PathBuf]) -> Value {
    // At once as the daemon sees it, however slow the machine is.
    daemon.signal(Signal::STOP);
    files[..5].iter().for_each(|file| fs::rename(file, file.with_extension("away")).unwrap());
    daemon.signal(Signal::CONT);
    let cause = daemon.escalated("guardian", 1);
    assert_eq!(cause["kind"], "mass_failure", "{cause:#}");
    assert!(text(&cause, "reason").contains("5 of 8"), "{cause:#}");
    for number in 0..5 {
        let held = |incident: &Value| incident["reason"].as_str().is_some_and(|reason| reason.starts_with("mass"));
        let incident = daemon.incident(&format!("t{number}"), 1, "held", held);
        assert_eq!(incident["steps"].as_array().unwrap().len(), 0, "{incident:#}");
    }
    assert!(files[..5].iter().all(|file| !file.exists()), "one was healed");
    cause
}

#[test]
fn five_of_eight_at_once_are_one_incident_and_no_heal_until_the_share_falls() {
    let (scene, mut daemon, files) = eight();
    let cause = five_held(&mut daemon, &files);
    let open = "guardian_incidents_open{mode=\"database\",target=\"guardian\"}";
    assert_eq!((daemon.metric(open), deferred(&daemon, "t0", "mass")), (1.0, 1.0));
    // Not over a death either.
    daemon.kill();
    let mut daemon = scene.daemon();
    for number in 0..5 {
        two_more_looks(&mut daemon, &format!("t{number}"));
    }
    assert!(files[..5].iter().all(|file| !file.exists()), "one was healed");
    assert_eq!(daemon.escalated("guardian", 1)["id"], cause["id"]);
    // Two are put back by hand: three are no mass.
    for file in &files[..2] {
        fs::rename(file.with_extension("away"), file).unwrap();
    }
    for number in 2..5 {
        assert_eq!(daemon.closed(&format!("t{number}"), 1)["outcome"], "healed");
    }
    let cause = daemon.closed("guardian", 1);
    assert_eq!(cause["outcome"], "resolved_by_operator", "{cause:#}");
    assert_eq!(daemon.incidents("guardian").len(), 1);
    for number in 0..8 {
        daemon.healthy(&format!("t{number}"));
    }
}

#[test]
fn a_person_who_knows_why_lets_each_be_healed() {
    let (scene, mut daemon, files) = eight();
    let cause = five_held(&mut daemon, &files);
    let one = daemon.incident("t0", 1, "held", |incident| incident["reason"].is_string());
    for (command, exit) in [
        (["approve", text(&cause, "id")], 1),
        (["approve", text(&one, "id")], 1),
        (["heal", "guardian"], 2),
        (["resume", "guardian"], 1),
        (["pause", "guardian"], 1),
        (["resume", "t0"], 0),
    ] {
        let all = ["--config", "guardian.toml", command[0], command[1]];
        let said = guardiand(&scene.path(""), &all);
        assert_eq!(said.status, exit, "{said:#?}");
        if exit != 2 {
            assert!(
                format!("{}{}", said.stdout, said.stderr).contains("guardiand resume --all"),
                "{command:?}: {said:#?}"
            );
        }
    }
    assert!(!files[0].exists(), "a word about one let it go");
    let resumed = asked(&scene, &["resume", "--all"]).json_of(0);
    assert_eq!(resumed["still_held"], false, "{resumed:#}");
    assert_eq!(resumed["was_held"], true, "{resumed:#}");
    for number in 0..5 {
        assert_eq!(daemon.closed(&format!("t{number}"), 1)["outcome"], "healed");
    }
    daemon.closed("guardian", 1);
    assert_eq!(daemon.incidents("guardian").len(), 1, "raised again at once");
}

#[test]
fn what_is_only_observed_has_its_plan_told() {
    let (scene, mut daemon) = backed_up("policy = \"observe\"");
    fs::remove_file(scene.db()).unwrap();
    let incident = daemon.incident("app", 1, "planned", |incident| incident["plan"].is_array());
    assert_eq!(incident["plan"][0]["playbook"], "restore_backup", "{incident:#}");
    let told = asked(&scene, &["incident", text(&incident, "id")]).json_of(0);
    assert_eq!(told["plan"][0]["steps"][0], "preserve", "{told:#}");
    let planned = asked(&scene, &["heal", "app", "--dry-run"]).json_of(0);
    assert_eq!(planned["outcome"], "planned", "{planned:#}");
    assert_eq!(planned["playbooks"][0]["name"], "restore_backup", "{planned:#}");
    two_more_looks(&mut daemon, "app");
    assert!(!scene.db().exists());
}
