//! A glob takes up what programs create, under any name: a name forges no line and no field of the log, no row of a table, and moves no
//! cursor; what is JSON says it as it is.

use crate::support::command::{Ran, guardiand};
use crate::support::daemon::Daemon;
use crate::support::scene::Scene;

/// A line break, a forged field, a terminal's erasing, C1's CSI, a turn of the direction, quotes.
const NAME: &str = "a\nFORGED\x1b[2J\u{9b}2J\u{202e}\"' x=\"1\\";
/// The same, as people are shown it.
const SHOWN: &str = "a\\nFORGED\\x1b[2J\\u{9b}2J\\u{202e}\"' x=\"1\\";

fn target() -> String {
    format!("shop/{NAME}")
}

fn scene() -> Scene {
    let mut scene = Scene::new();
    std::fs::write(scene.path("notify.sh"), "#!/bin/sh\ncat >> \"$0.told\"; echo >> \"$0.told\"\n").unwrap();
    scene.raw(&format!("[notify]\ncommand = [\"/bin/sh\", \"{}\"]\n", scene.path("notify.sh").display()));
    scene.database("shop", "data/*.db", "backup = { every = \"24h\", to = \"backups\" }");
    scene.write_config();
    let db = scene.path(&format!("data/{NAME}.db"));
    assert!(scene.writer_of(&db, "wal", "20", &[]).finish().success());
    scene
}

fn asked(scene: &Scene, arguments: &[&str]) -> Ran {
    let mut all = vec!["--config", "guardian.toml"];
    all.extend(arguments);
    guardiand(&scene.path(""), &all)
}

/// Nothing that a terminal obeys but the ends of lines, and the name on the line where it belongs.
fn assert_harmless(what: &str, text: &str) {
    let obeyed = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
    assert!(!text.contains(obeyed), "{what}: {text:?}");
    assert!(!text.lines().any(|line| line.trim_start().starts_with("FORGED")), "{what}: {text}");
}

fn found(daemon: &mut Daemon) -> serde_json::Value {
    daemon.wait_for("the target with the name", |daemon| {
        let all = daemon.get("/api/v1/status")["targets"].as_array().unwrap().clone();
        all.into_iter().find(|one| one["name"] == target() && one["last_backup_at"].is_string())
    })
}

#[test]
fn a_hostile_name_forges_nothing_for_people_and_is_itself_for_machines() {
    let scene = scene();
    let mut daemon = scene.daemon();
    found(&mut daemon);
    let db = scene.path(&format!("data/{NAME}.db"));
    std::fs::write(&db, vec![7_u8; 4096]).unwrap();
    let wanted = |one: &serde_json::Value| one["target"] == target() && one["state"] == "closed";
    let incident = daemon.wait_for("its heal", |daemon| {
        let all = daemon.get("/api/v1/incidents")["incidents"].as_array().unwrap().clone();
        all.into_iter().find(|one| wanted(one))
    });
    let id = incident["id"].as_str().unwrap();

    for arguments in [
        vec!["status"],
        vec!["status", &target()],
        vec!["incidents"],
        vec!["incident", id],
        vec!["backups", &target()],
        vec!["check", &target()],
        vec!["backup", &target()],
        vec!["heal", "--dry-run", &target()],
        vec!["pause", &target()],
        vec!["resume", &target()],
        vec!["scrub", db.to_str().unwrap()],
        vec!["check", db.to_str().unwrap()],
        vec!["rollback", "--dry-run", id],
    ] {
        let ran = asked(&scene, &arguments);
        let what = format!("{arguments:?}");
        assert_harmless(&what, &ran.stdout);
        assert_harmless(&what, &ran.stderr);
        assert!(!ran.stdout.is_empty() || ran.status != 0, "{ran:#?}");
        let mut as_json = vec!["--json"];
        as_json.extend(arguments);
        let ran = asked(&scene, &as_json);
        ran.json();
        assert_harmless(&what, &ran.stdout);
    }
    assert!(asked(&scene, &["status"]).stdout.contains(&format!("shop/{SHOWN}")));
    let status = asked(&scene, &["--json", "status"]).json_of(0);
    assert_eq!(status["targets"][0]["name"], target());

    let log = daemon.log();
    assert_harmless("the log", &log);
    let field = format!("target=\"shop/{}\"", SHOWN.replace("1\\", "1\\\\").replace('"', "\\\""));
    assert!(log.contains(&field), "{field} is not in\n{log}");
    assert!(log.lines().all(|line| line.starts_with("20")), "a line that is none:\n{log}");

    let label = target().replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"");
    assert!(daemon.metric(&format!("guardian_target_up{{mode=\"database\",target=\"{label}\"}}")) >= 0.0);
    let (_, page) = crate::support::http::get(daemon.address(), "/").unwrap();
    assert_harmless("the page", &page);

    let told = daemon.wait_for("people being told", |_| {
        std::fs::read_to_string(scene.path("notify.sh.told")).ok().filter(|text| text.ends_with('\n'))
    });
    assert_harmless("what people are told", &told.replace(['\u{9b}', '\u{202e}'], ""));
    let notice: serde_json::Value = serde_json::from_str(told.lines().next().unwrap()).unwrap();
    assert!(notice.to_string().contains("FORGED"), "{notice:#}");
}
