//! kill -9 after every append to the journal, of every playbook. A step that is added to a playbook adds appends, and is
//! covered by itself.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::support::command::guardiand;
use super::support::daemon::Daemon;
use super::support::damage::{self, Dice};
use super::support::program::Program;
use super::support::scene::Scene;
use super::support::service::Service;
use super::support::truth::{self, Bytes, beside, ownership, promised};

/// No playbook writes so many entries; more means that it turns in circles.
const APPENDS_MAX: u32 = 60;

const BACKUP: &str = "backup = { every = \"24h\", to = \"backups\" }";

/// A broken database, no daemon, and what must be true in the end.
struct Broken {
    scene: Scene,
    mode: &'static str,
    /// What evidence must hold: main, -wal, -journal; `None` where the playbook changes nothing that needs it.
    evidence: Option<[Option<Bytes>; 3]>,
    /// Commits that the playbook may lose.
    lost: std::ops::RangeInclusive<usize>,
    /// The playbook that must have healed it.
    playbook: &'static str,
    /// A program whose lock is all that is wrong.
    holder: Option<Program>,
    /// A program that nobody but the daemon may touch.
    left_alone: Option<Program>,
    /// A program that is stopped for the heal, and its arguments.
    service: Option<(Service, Option<Vec<String>>)>,
}

impl Broken {
    /// A scene where the daemon has seen 60 commits, and has a backup of them where `lines` say so.
    fn after_60_commits(mode: &'static str, lines: &str, playbook: &'static str) -> Broken {
        Broken::of(Scene::of(lines), mode, playbook)
    }

    /// The same, in this scene.
    fn of(scene: Scene, mode: &'static str, playbook: &'static str) -> Broken {
        scene.commit(mode, 60, &["--rows-per-commit", "5"]);
        scene.give_away_if_root();
        let mut daemon = scene.daemon();
        if std::fs::read_to_string(scene.path("guardian.toml")).unwrap().contains("backup") {
            daemon.backed_up("app");
        }
        daemon.healthy("app");
        assert!(daemon.stop().success());
        Broken::in_scene(scene, mode, playbook)
    }

    /// What is broken already, and was never seen by a daemon of this process.
    fn in_scene(scene: Scene, mode: &'static str, playbook: &'static str) -> Broken {
        Broken { scene, mode, evidence: None, lost: 0..=0, playbook, holder: None, left_alone: None, service: None }
    }

    /// What is there now is what evidence must hold.
    fn expect_evidence(mut self) -> Broken {
        self.evidence = Some(self.scene.bytes());
        self
    }

    fn check(&self, daemon: &mut Daemon, killed_after: u32) {
        daemon.healthy("app");
        if let Some((service, arguments)) = &self.service {
            service.wait_for("the program to run again", || service.arguments() == *arguments);
            let last = || daemon.incidents("app")[0]["state"].clone();
            assert_eq!(last(), "closed", "killed after {killed_after}");
            service.stop();
        }
        let incidents = daemon.incidents("app");
        assert_eq!(incidents.len(), 1, "killed after {killed_after}: {incidents:#?}");
        let incident = &incidents[0];
        assert_eq!(incident["state"], "closed", "killed after {killed_after}: {incident:#}");
        // What needed nothing but time may be over before the next daemon has begun to wait.
        let by_itself = self.playbook == "wait_and_retry" && incident["outcome"] == "self_resolved";
        assert!(by_itself || incident["outcome"] == "healed", "killed after {killed_after}: {incident:#}");
        // A holder that the killed daemon let go on lets its lock go while the next one waits for it.
        let waited_out = self.left_alone.is_some() && incident["playbook"] == "wait_and_retry";
        assert!(
            by_itself || waited_out || incident["playbook"] == self.playbook,
            "killed after {killed_after}: {incident:#}"
        );
        assert!(incident["mttr_seconds"].is_number() && incident["closed_at"].is_string(), "{incident:#}");
        let lost = self.scene.lost();
        assert!(self.lost.contains(&lost), "killed after {killed_after}: {lost} commits are lost: {incident:#}");
        let of_a_group = incident["loss"]["source"].as_str().is_some_and(|source| source.contains("stock"));
        match self.service {
            None if of_a_group => assert_eq!(incident["loss"]["rows_kept"], 60 + 60 * 5 + 50 + 50, "{incident:#}"),
            None => self.scene.assert_honest(incident, &self.scene.db()),
            // It has committed since: what is there now is more than what was kept.
            Some(_) => assert_ne!(incident["loss"]["rows_lost"].as_u64(), Some(0), "{incident:#}"),
        }
        if let Some([main, wal, journal]) = &self.evidence {
            let files = [("main", main.as_deref()), ("wal", wal.as_deref()), ("journal", journal.as_deref())];
            self.scene.assert_evidence(incident, &files);
        }
        if let Some(program) = &self.left_alone {
            assert!(!program.is_stopped(), "killed after {killed_after}: it was left to stand still");
        }
        self.scene.assert_whole(self.mode);
    }
}

/// Breaks it anew for each append, kills the daemon after it, and lets the next one finish.
fn survives_every_kill(broken: impl Fn() -> Broken) {
    for append in 1..=APPENDS_MAX {
        let mut case = broken();
        let mut daemon = case.scene.launch(&[("GUARDIAND_KILL_AFTER_APPEND", &append.to_string())]);
        let killed = runs_until_killed_or_closed(&mut daemon, &mut case);
        if !killed {
            case.check(&mut daemon, 0);
            println!("{}: {} appends", case.playbook, append - 1);
            assert!(append > 6, "the failpoint has no effect: is this a release build?");
            return;
        }
        let mut next = case.scene.daemon();
        case.check(&mut next, append);
    }
    panic!("more than {APPENDS_MAX} appends: the heal turns in circles");
}

/// True when it was killed; false when the incident was closed first.
fn runs_until_killed_or_closed(daemon: &mut Daemon, case: &mut Broken) -> bool {
    let mut until = |daemon: &mut Daemon| -> Option<bool> {
        if daemon.ended().is_some() {
            // Whoever held the lock lets it go while no daemon is there.
            case.holder.take().map(Program::finish);
            return Some(true);
        }
        let incidents = daemon.try_get("/api/v1/incidents")?["incidents"].as_array()?.clone();
        let state = incidents.first()?["state"].as_str()?.to_owned();
        if state == "healing" {
            case.holder.take().map(Program::finish);
        }
        (state == "closed").then_some(false)
    };
    daemon.wait_for_end_or("a kill or a closed incident", &mut until)
}

#[test]
fn a_restored_backup_of_a_deleted_file() {
    survives_every_kill(|| {
        let broken = Broken::after_60_commits("wal", BACKUP, "restore_backup");
        fs::remove_file(broken.scene.db()).unwrap();
        broken.expect_evidence()
    });
}

#[test]
fn a_restored_backup_over_a_damaged_header_with_a_wal_beside_it() {
    survives_every_kill(|| {
        let mut broken = Broken::after_60_commits("wal", BACKUP, "restore_backup");
        // The program died with commits in the WAL that the backup does not have.
        broken.scene.writer("wal", "10", &["--no-checkpoint", "--die"]).ended();
        damage::header(&broken.scene.db(), &mut Dice::new());
        let wal = beside(&broken.scene.db(), "-wal");
        // All of it: of a WAL that is hurt in one place more is left than the backup has.
        let length = fs::metadata(&wal).unwrap().len();
        damage::overwrite(&wal, 0, &vec![0xA5; length as usize]);
        broken.lost = 0..=10;
        broken.expect_evidence()
    });
}

#[test]
fn rows_salvaged_of_a_damaged_backup() {
    survives_every_kill(|| {
        let mut broken = Broken::after_60_commits("wal", BACKUP, "salvage_rows");
        let backups = broken.scene.path("backups/app");
        let names = truth::names(&backups);
        let backup = backups.join(names.iter().find(|name| name.ends_with(".db")).unwrap());
        // The root of a table, like no page of a tree.
        damage::overwrite(&backup, 8192, &[0xa5; 4096]);
        fs::remove_file(broken.scene.db()).unwrap();
        broken.lost = 0..=59;
        broken.expect_evidence()
    });
}

#[test]
fn pages_put_back_out_of_a_backup() {
    survives_every_kill(|| {
        let broken = Broken::after_60_commits("delete", BACKUP, "mend_pages");
        damage::leaf(&broken.scene.db(), "rows", &mut Dice::new());
        broken.expect_evidence()
    });
}

#[test]
fn a_restore_in_place_under_a_program() {
    for mode in ["wal", "delete"] {
        survives_every_kill(|| {
            let mut broken =
                Broken::after_60_commits(mode, &format!("when_in_use = \"in-place\"\n{BACKUP}"), "restore_in_place");
            broken.left_alone = Some(broken.scene.writer(mode, "0", &["--open-idle"]));
            let main = damage::first_leaf(&broken.scene.db(), "rows", &mut Dice::new());
            broken.evidence = Some([Some(main), None, None]);
            broken
        });
    }
}

#[test]
fn a_salvage_in_place_under_a_program() {
    for mode in ["wal", "delete"] {
        survives_every_kill(|| {
            let mut broken =
                Broken::after_60_commits(mode, &format!("when_in_use = \"in-place\"\n{BACKUP}"), "salvage_in_place");
            // One commit that no backup has.
            broken.scene.commit(mode, 1, &[]);
            broken.left_alone = Some(broken.scene.writer(mode, "0", &["--open-idle"]));
            damage::first_leaf(&broken.scene.db(), "rows", &mut Dice::new());
            broken.expect_evidence()
        });
    }
}

#[test]
fn a_program_that_is_stopped_for_the_swap_and_started_again() {
    survives_every_kill(|| {
        let mut scene = Scene::new();
        let service = Service::of(&scene, "wal", &["--pause", "3600000"]);
        // It committed since the last look: a change of its pages alone would be no reason to look closer.
        let often = "integrity = { quick = \"300ms\", full = \"300ms\" }";
        let lines = format!("when_in_use = \"stop-app\"\n{}\n{BACKUP}\n{often}", service.app());
        scene.database("app", "data/app.db", &lines);
        let mut broken = Broken::of(scene, "wal", "salvage_rows");
        service.start();
        let log = broken.scene.log_of(&broken.scene.db());
        service.wait_for("its one commit", || promised(&log).len() == 61);
        damage::first_leaf(&broken.scene.db(), "rows", &mut Dice::new());
        // Each start of it is one commit, and those before the swap are among what can be read.
        let arguments = service.arguments();
        broken.service = Some((service, arguments));
        broken
    });
}

#[test]
fn programs_that_are_killed_after_the_wal_reset_bug() {
    survives_every_kill(|| {
        let mut scene = Scene::new();
        let service = Service::of(&scene, "wal", &["--no-checkpoint", "--busy-timeout", "10000", "--pause", "3600000"]);
        scene.database("app", "data/app.db", &format!("when_in_use = \"stop-app\"\n{}", service.app()));
        let mut broken = Broken::of(scene, "wal", "kill_app");
        service.start();
        let log = broken.scene.log_of(&broken.scene.db());
        service.wait_for("its one commit", || promised(&log).len() == 61);
        // nBackfill, as that bug leaves it: more frames copied than there are.
        damage::overwrite(&beside(&broken.scene.db(), "-shm"), 96, &1_000_000_u32.to_ne_bytes());
        let arguments = service.arguments();
        broken.service = Some((service, arguments));
        broken
    });
}

#[test]
fn a_group_that_is_restored_together() {
    survives_every_kill(|| {
        let mut scene = Scene::new();
        let lines = format!("group = \"shop\"\n{BACKUP}");
        scene.database("app", "data/app.db", &lines);
        scene.database("stock", "stock.db", &lines);
        let stock = scene.path("stock.db");
        assert!(scene.writer_of(&stock, "wal", "50", &[]).finish().success());
        let broken = Broken::of(scene, "wal", "restore_backup");
        let mut daemon = broken.scene.daemon();
        daemon.backed_up("stock");
        assert!(daemon.stop().success());
        // A header alone is mended, and concerns nobody else.
        damage::leaf(&broken.scene.db(), "rows", &mut Dice::new());
        broken.expect_evidence()
    });
}

#[test]
fn a_restored_backup_with_a_stale_journal_beside_it() {
    survives_every_kill(|| {
        let broken = Broken::after_60_commits("delete", BACKUP, "restore_backup");
        // The program died in the middle of a transaction: rolled back onto the restored file, the journal would tear it.
        broken.scene.writer("delete", "0", &["--leave-hot-journal"]).ended();
        fs::remove_file(broken.scene.db()).unwrap();
        broken.expect_evidence()
    });
}

#[test]
fn rebuilt_indexes() {
    for mode in ["wal", "delete"] {
        survives_every_kill(|| {
            let broken = Broken::after_60_commits(mode, "", "rebuild_indexes");
            damage::leaf(&broken.scene.db(), "rows_word", &mut Dice::new());
            broken.expect_evidence()
        });
    }
}

#[test]
fn a_settled_copy_of_a_cut_wal() {
    survives_every_kill(|| {
        let mut broken = Broken::after_60_commits("wal", "", "settle_copy");
        broken.scene.writer("wal", "40", &["--no-checkpoint", "--die"]).ended();
        damage::wal_cut(&beside(&broken.scene.db(), "-wal"));
        broken.lost = 1..=39;
        broken.expect_evidence()
    });
}

#[test]
fn a_settled_copy_of_a_damaged_journal() {
    survives_every_kill(|| {
        let broken = Broken::after_60_commits("delete", "", "settle_copy");
        broken.scene.writer("delete", "0", &["--leave-hot-journal"]).ended();
        damage::overwrite(&beside(&broken.scene.db(), "-journal"), 0, &[0xA5; 28]);
        broken.expect_evidence()
    });
}

#[test]
fn a_schema_that_is_put_back() {
    survives_every_kill(|| {
        let broken = Broken::after_60_commits("delete", "", "mend_schema");
        damage::schema_silently(&broken.scene.db());
        broken.expect_evidence()
    });
}

#[test]
fn a_mended_header() {
    survives_every_kill(|| {
        let broken = Broken::after_60_commits("wal", BACKUP, "mend_header");
        broken.scene.commit("wal", 10, &[]);
        damage::header(&broken.scene.db(), &mut Dice::new());
        broken.expect_evidence()
    });
}

#[test]
fn a_first_page_from_a_backup() {
    survives_every_kill(|| {
        let broken = Broken::after_60_commits("delete", BACKUP, "mend_header");
        damage::overwrite(&broken.scene.db(), 0, &[0; 4096]);
        broken.expect_evidence()
    });
}

#[test]
fn salvaged_rows() {
    survives_every_kill(|| {
        let broken = Broken::after_60_commits("wal", "", "salvage_rows");
        damage::leaf(&broken.scene.db(), "rows", &mut Dice::new());
        broken.expect_evidence()
    });
}

#[test]
fn salvaged_rows_with_what_the_backup_has() {
    survives_every_kill(|| {
        let broken = Broken::after_60_commits("wal", BACKUP, "salvage_rows");
        broken.scene.commit("wal", 10, &[]);
        damage::first_leaf(&broken.scene.db(), "rows", &mut Dice::new());
        broken.expect_evidence()
    });
}

#[test]
fn a_backup_with_the_rows_that_only_the_wreck_has() {
    survives_every_kill(|| {
        let scene = Scene::of(BACKUP);
        let program = rusqlite::Connection::open(scene.db()).unwrap();
        let sql = "CREATE TABLE accounts(name TEXT PRIMARY KEY) WITHOUT ROWID; INSERT INTO accounts VALUES ('ada')";
        program.execute_batch(sql).unwrap();
        drop(program);
        let broken = Broken::of(scene, "delete", "salvage_rows");
        broken.scene.commit("delete", 10, &[]);
        // Its root is its only page.
        damage::overwrite(&broken.scene.db(), 4096, &[0xa5; 4096]);
        broken.expect_evidence()
    });
}

/// The backup has as many, so that what was salvaged goes again.
#[test]
fn rows_that_were_salvaged_in_vain() {
    survives_every_kill(|| {
        let broken = Broken::after_60_commits("wal", BACKUP, "restore_backup");
        damage::leaf(&broken.scene.db(), "rows", &mut Dice::new());
        broken.expect_evidence()
    });
}

#[test]
fn a_mended_wal() {
    survives_every_kill(|| {
        let broken = Broken::after_60_commits("wal", "", "mend_wal");
        broken.scene.writer("wal", "40", &["--no-checkpoint", "--die"]).ended();
        damage::wal_frame(&beside(&broken.scene.db(), "-wal"));
        broken.expect_evidence()
    });
}

#[test]
fn a_main_file_rebuilt_from_its_wal() {
    survives_every_kill(|| {
        let scene = Scene::of("");
        scene.writer("wal", "60", &["--no-checkpoint", "--die"]).ended();
        scene.give_away_if_root();
        let mut daemon = scene.daemon();
        daemon.healthy("app");
        assert!(daemon.stop().success());
        fs::remove_file(scene.db()).unwrap();
        let playbook = "rebuild_from_wal";
        Broken::in_scene(scene, "wal", playbook).expect_evidence()
    });
}

#[test]
fn a_restored_backup_with_the_wal_of_its_time() {
    survives_every_kill(|| {
        let scene = Scene::of(BACKUP);
        scene.commit("wal", 60, &["--rows-per-commit", "5"]);
        scene.writer("wal", "20", &["--no-checkpoint", "--die"]).ended();
        scene.give_away_if_root();
        let mut daemon = scene.daemon();
        daemon.backed_up("app");
        daemon.healthy("app");
        assert!(daemon.stop().success());
        scene.writer("wal", "20", &["--no-checkpoint", "--die"]).ended();
        fs::remove_file(scene.db()).unwrap();
        let playbook = "restore_backup_and_wal";
        Broken::in_scene(scene, "wal", playbook).expect_evidence()
    });
}

#[test]
fn a_recreated_database() {
    survives_every_kill(|| {
        let mut broken = Broken::after_60_commits("delete", "", "recreate");
        fs::remove_file(broken.scene.db()).unwrap();
        broken.lost = 60..=60;
        broken.expect_evidence()
    });
}

#[test]
fn what_a_program_held_open_under_no_name() {
    for replaced in [false, true] {
        for append in 1..=APPENDS_MAX {
            let mut scene = Scene::new();
            let service = Service::of(&scene, "wal", &["--busy-timeout", "10000", "--pause", "5"]);
            scene.database("app", "data/app.db", &format!("when_in_use = \"stop-app\"\n{}\n{BACKUP}", service.app()));
            scene.commit("wal", 20, &[]);
            let older = scene.path("older.db");
            fs::copy(scene.db(), &older).unwrap();
            let mut daemon = scene.daemon();
            daemon.backed_up("app");
            service.start();
            let promised = || truth::promised(&scene.log_of(&scene.db())).len();
            service.wait_for("its commits", || promised() > 30);
            daemon.caught_up("app");
            assert!(daemon.stop().success());
            match replaced {
                true => fs::rename(&older, scene.db()).unwrap(),
                false => fs::remove_file(scene.db()).unwrap(),
            }

            let mut daemon = scene.launch(&[("GUARDIAND_KILL_AFTER_APPEND", &append.to_string())]);
            let killed = daemon.wait_for_end_or("a kill or a closed incident", &mut |daemon| {
                if daemon.ended().is_some() {
                    return Some(true);
                }
                let incidents = daemon.try_get("/api/v1/incidents")?["incidents"].as_array()?.clone();
                (incidents.first()?["state"] == "closed").then_some(false)
            });
            if killed {
                daemon = scene.daemon();
            }
            daemon.healthy("app");
            let incident = daemon.closed("app", 1);
            assert_eq!(incident["outcome"], "healed", "killed after {append}: {incident:#}");
            assert_eq!(incident["playbook"], "reclaim", "killed after {append}: {incident:#}");
            // Who may not see every process cannot know that nobody wrote later.
            let unknown = incident["loss"]["rows_lost"].is_null() && !truth::is_root();
            assert!(unknown || incident["loss"]["rows_lost"] == 0, "killed after {append}: {incident:#}");
            let enough = promised() + 5;
            service.wait_for("the program to commit again", || promised() >= enough);
            service.stop();
            assert_eq!(scene.lost(), 0, "killed after {append}: {incident:#}");
            assert!(daemon.stop().success());
            scene.assert_whole("wal");
            if !killed {
                println!("reclaim: {} appends", append - 1);
                assert!(append > 6, "the failpoint has no effect: is this a release build?");
                break;
            }
        }
    }
}

#[test]
fn a_checkpoint() {
    survives_every_kill(|| {
        let broken = Broken::after_60_commits("wal", "wal_max = \"100KB\"", "checkpoint");
        let flags = ["--no-checkpoint", "--rows-per-commit", "5", "--row-bytes", "2000", "--die"];
        broken.scene.writer("wal", "40", &flags).ended();
        assert!(fs::metadata(beside(&broken.scene.db(), "-wal")).unwrap().len() > 100_000);
        broken
    });
}

#[test]
fn a_mode_that_is_put_back() {
    survives_every_kill(|| {
        let broken = Broken::after_60_commits("delete", "", "restore_access");
        assert_ne!(ownership(&broken.scene.db()).2, 0);
        fs::set_permissions(broken.scene.db(), fs::Permissions::from_mode(0o000)).unwrap();
        broken.scene.give_away_if_root();
        broken
    });
}

#[test]
fn an_interrupted_heal_is_finished_by_a_command_alone() {
    let broken = Broken::after_60_commits("wal", BACKUP, "mend_header");
    damage::header(&broken.scene.db(), &mut Dice::new());
    let config = broken.scene.write_config().display().to_string();
    let finish = || {
        guardiand(&broken.scene.path(""), &["heal", "--interrupted", "--config", &config, "--json"]).json_of(0)["incidents"]
            .as_array()
            .unwrap()
            .clone()
    };
    assert_eq!(finish().len(), 0, "what was not begun is not healed by it");
    let mut daemon = broken.scene.launch(&[("GUARDIAND_KILL_AFTER_APPEND", "7")]);
    daemon.wait_for_end_or("the kill", &mut |daemon| daemon.ended().map(drop));
    let incidents = finish();
    assert_eq!(incidents.len(), 1, "{incidents:#?}");
    assert_eq!(
        (&incidents[0]["state"], &incidents[0]["outcome"]),
        (&"closed".into(), &"healed".into()),
        "{incidents:#?}"
    );
    assert_eq!(finish().len(), 0);
    let mut daemon = broken.scene.daemon();
    broken.check(&mut daemon, 7);
}

#[test]
fn a_lock_that_is_waited_out() {
    survives_every_kill(|| {
        let retry = "busy_timeout = \"100ms\"\nretry = { attempts = 100, initial = \"50ms\", factor = 1.0 }";
        let mut broken = Broken::after_60_commits("delete", retry, "wait_and_retry");
        broken.holder = Some(broken.scene.writer("delete", "0", &["--hold-lock", "3600"]));
        broken
    });
}

#[test]
fn a_stopped_holder_that_is_let_go_on() {
    survives_every_kill(|| {
        let quick = "busy_timeout = \"100ms\"\nlock_max_age = \"200ms\"\nretry = { attempts = 100, initial = \"50ms\", factor = 1.0 }";
        let mut broken = Broken::after_60_commits("delete", quick, "unblock");
        let mut holder = broken.scene.writer("delete", "0", &["--hold-lock", "3600"]);
        // Once it goes on it lets go, and not before.
        holder.stop();
        holder.ask_to_finish();
        broken.left_alone = Some(holder);
        broken
    });
}

#[test]
fn a_lock_that_nobody_has() {
    survives_every_kill(|| {
        let broken = Broken::after_60_commits("delete", "lock_max_age = \"100ms\"", "unblock");
        fs::create_dir(beside(&broken.scene.db(), ".lock")).unwrap();
        broken
    });
}

#[test]
fn deaths_at_random_until_it_is_done() {
    let mut dice = Dice::new();
    let mut broken = Broken::after_60_commits("wal", BACKUP, "mend_header");
    damage::header(&broken.scene.db(), &mut dice);
    broken = broken.expect_evidence();
    for start in 0..APPENDS_MAX {
        // Each start gets a little further, is thrown back, or dies while it takes back what the last one did.
        let append = 1 + dice.below(14);
        println!("start {start}: killed after append {append}");
        let mut daemon = broken.scene.launch(&[("GUARDIAND_KILL_AFTER_APPEND", &append.to_string())]);
        if !runs_until_killed_or_closed(&mut daemon, &mut broken) {
            break;
        }
    }
    let mut daemon = broken.scene.daemon();
    broken.check(&mut daemon, 0);
}
