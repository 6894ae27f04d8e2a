//! The rungs that put another file in the place, while a program has the old one open: `stop-app` stops it for each of them, `refuse`
//! names it and what to do.

use std::fs;

use super::support::daemon::Daemon;
use super::support::damage::{self, Dice};
use super::support::scene::Scene;
use super::support::service::Service;
use super::support::truth::{self, Bytes};

const BACKUP: &str = "backup = { every = \"24h\", to = \"backups\" }";
/// Damage, and the rung that heals it.
const RUNGS: [(&str, Damage); 3] =
    [("mend_header", hurt_header), ("mend_freelist", hurt_freelist), ("salvage_rows", hurt_rows)];

type Damage = fn(&Scene) -> Bytes;

fn hurt_header(scene: &Scene) -> Bytes {
    damage::header(&scene.db(), &mut Dice::new())
}

fn hurt_freelist(scene: &Scene) -> Bytes {
    let main = fs::read(scene.db()).unwrap();
    let head = u32::from_be_bytes(main[32..36].try_into().unwrap()) as usize;
    assert!(head > 1, "no page is free");
    damage::overwrite(&scene.db(), (head - 1) * damage::page_size(&main), &Dice::new().bytes(4096))
}

fn hurt_rows(scene: &Scene) -> Bytes {
    damage::first_leaf(&scene.db(), "rows", &mut Dice::new())
}

/// 200 commits and free pages, of which there is a backup.
fn prepare(scene: &Scene, mode: &str) -> Daemon {
    scene.commit(mode, 200, &["--rows-per-commit", "5"]);
    let program = rusqlite::Connection::open(scene.db()).unwrap();
    program
        .execute_batch("CREATE TABLE dropped(a); INSERT INTO dropped SELECT text FROM rows; DROP TABLE dropped")
        .unwrap();
    drop(program);
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    daemon
}

/// All that was committed is in the main file, and nowhere else.
fn write_back(scene: &Scene) {
    let program = rusqlite::Connection::open(scene.db()).unwrap();
    let busy = || program.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, bool>(0)).unwrap();
    while busy() {}
}

#[test]
fn the_program_is_stopped_for_each_of_them_and_its_last_commit_is_there() {
    for mode in ["wal", "delete"] {
        for (rung, hurt) in RUNGS {
            println!("{rung}, {mode}");
            let mut scene = Scene::new();
            // One commit that no backup has, and then it sits there.
            let service = Service::of(&scene, mode, &["--busy-timeout", "10000", "--pause", "3600000"]);
            scene.database("app", "data/app.db", &format!("when_in_use = \"stop-app\"\n{BACKUP}\n{}", service.app()));
            let mut daemon = prepare(&scene, mode);
            service.start();
            let promised = || truth::promised(&scene.log_of(&scene.db())).len();
            service.wait_for("its one commit", || promised() == 201);
            write_back(&scene);
            daemon.caught_up("app");
            let (pid, arguments) = (service.pid(), service.arguments());
            let bytes = hurt(&scene);

            let incident = daemon.closed("app", 1);
            assert_eq!(
                (&incident["outcome"], &incident["playbook"]),
                (&"healed".into(), &rung.into()),
                "{mode}: {incident:#}"
            );
            let outcome = |name: &str| {
                let steps = incident["steps"].as_array().unwrap();
                steps.iter().rfind(|step| step["step"] == name).map(|step| step["outcome"].clone())
            };
            assert_eq!((outcome("stop_app"), outcome("start_app")), (Some("ok".into()), Some("ok".into())));
            service.wait_for("the program to run again", || service.arguments() == arguments);
            assert_ne!(service.pid(), pid, "it was never stopped");
            // It begins with a commit again.
            service.wait_for("the program to commit again", || promised() == 202);
            service.stop();
            assert_eq!(scene.lost(), 0, "{rung}, {mode}: {incident:#}");
            if rung != "salvage_rows" {
                assert_eq!(incident["loss"]["rows_lost"], 0, "{incident:#}");
                scene.assert_evidence(&incident, &[("main", Some(&bytes))]);
            }
            assert!(daemon.stop().success());
            scene.assert_whole(mode);
        }
    }
}

#[test]
fn refused_each_of_them_names_the_program_and_what_to_do_and_is_done_once_it_has_ended() {
    for (rung, hurt) in RUNGS {
        println!("{rung}");
        let mut scene = Scene::new();
        scene.database("app", "data/app.db", &format!("when_in_use = \"refuse\"\n{BACKUP}"));
        let mut daemon = prepare(&scene, "delete");
        // The backup lacks one commit, so that it is not as good.
        scene.commit("delete", 1, &[]);
        daemon.caught_up("app");
        let program = scene.writer("delete", "0", &["--open-idle"]);
        let bytes = hurt(&scene);
        let incident = daemon.escalated("app", 1);
        let reason = incident["reason"].as_str().unwrap();
        let who = format!("(pid {})", program.pid());
        assert!(reason.contains(&who) && reason.contains("guardiand heal app"), "{rung}: {reason}");
        assert_eq!(scene.bytes()[0].as_ref(), Some(&bytes), "a file in use was changed");

        program.kill();
        let incident = daemon.closed("app", 1);
        assert_eq!((&incident["outcome"], &incident["playbook"]), (&"healed".into(), &rung.into()), "{incident:#}");
        assert_eq!(scene.lost(), 0);
        scene.assert_whole("delete");
    }
}

/// There is no backup that could be put under the program, and what is mended is another file: the rows that can be read are put there.
#[test]
fn in_place_the_rows_that_can_be_read_are_put_under_the_program() {
    for mode in ["delete", "wal"] {
        for (rung, hurt) in RUNGS {
            // In WAL mode a first page that is damaged is never free of the program's locks.
            if (mode, rung) == ("wal", "mend_header") {
                continue;
            }
            println!("{rung}, {mode}");
            let mut scene = Scene::new();
            scene.database("app", "data/app.db", "when_in_use = \"in-place\"");
            scene.commit(mode, 200, &["--rows-per-commit", "5"]);
            let program = rusqlite::Connection::open(scene.db()).unwrap();
            program
                .execute_batch("CREATE TABLE dropped(a); INSERT INTO dropped SELECT text FROM rows; DROP TABLE dropped")
                .unwrap();
            drop(program);
            let mut daemon = scene.daemon();
            daemon.healthy("app");
            let program = scene.writer(mode, "0", &["--open-idle"]);
            let bytes = hurt(&scene);

            let incident = daemon.closed("app", 1);
            let healed = (&"healed".into(), &"salvage_in_place".into());
            assert_eq!((&incident["outcome"], &incident["playbook"]), healed, "{incident:#}");
            if rung != "salvage_rows" {
                assert_eq!(scene.lost(), 0, "{incident:#}");
            }
            scene.assert_evidence(&incident, &[("main", Some(&bytes))]);
            assert!(program.finish().success(), "its program was disturbed");
            scene.assert_honest(&incident, &scene.db());
            daemon.stop();
            scene.assert_whole(mode);
        }
    }
}

/// What nobody can put under it names the program and what to do.
#[test]
fn in_place_a_first_page_in_wal_mode_waits_for_the_program_to_end() {
    let mut scene = Scene::new();
    scene.database("app", "data/app.db", "when_in_use = \"in-place\"");
    scene.commit("wal", 200, &["--rows-per-commit", "5"]);
    let mut daemon = scene.daemon();
    daemon.healthy("app");
    let program = scene.writer("wal", "0", &["--open-idle"]);
    let bytes = hurt_header(&scene);
    let incident = daemon.escalated("app", 1);
    let reason = incident["reason"].as_str().unwrap();
    for words in [format!("(pid {})", program.pid()), "in WAL mode".to_owned(), "guardiand heal app".to_owned()] {
        assert!(reason.contains(&words), "no {words} in {reason}");
    }
    assert_eq!(scene.bytes()[0].as_ref(), Some(&bytes), "a file in use was changed");
    program.kill();
    let incident = daemon.closed("app", 1);
    assert_eq!(
        (&incident["outcome"], &incident["playbook"]),
        (&"healed".into(), &"mend_header".into()),
        "{incident:#}"
    );
    assert_eq!(scene.lost(), 0);
    daemon.stop();
    scene.assert_whole("wal");
}
