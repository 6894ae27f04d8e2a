//! What comes back by itself, or is put back by somebody, is closed and never replaced, at whatever moment of a heal it does.

use std::fs;

use rustix::process::Signal;

use crate::support::daemon::Daemon;
use crate::support::damage;
use crate::support::scene::Scene;

const BACKUP: &str = "backup = { every = \"24h\", to = \"backups\" }";

/// No heal writes so many entries; more means that it turns in circles.
const APPENDS_MAX: u32 = 60;

/// What is wrong until it comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Gone,
    Damaged,
}

/// True when it stands still; false when an incident was closed first. Its HTTP is not asked: who stands still does not answer.
fn stands_still(daemon: &mut Daemon) -> bool {
    daemon.wait_for_end_or("a stop or a closed incident", &mut |daemon| {
        assert!(daemon.ended().is_none(), "the daemon ended");
        let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).unwrap();
        let stopped = stat.rsplit_once(')').unwrap().1.trim_start().starts_with('T');
        (stopped || daemon.log().contains("incident closed")).then_some(stopped)
    })
}

/// Lets the daemon stand still after each entry of its journal, and has the whole database come back then.
fn comes_back_at_every_moment(mode: &str, fault: Fault) {
    for append in 1..=APPENDS_MAX {
        let scene = Scene::of(BACKUP);
        scene.commit(mode, 60, &[]);
        let mut daemon = scene.daemon();
        daemon.backed_up("app");
        daemon.healthy("app");
        assert!(daemon.stop().success());
        fs::remove_file(scene.path("daemon.log")).unwrap();
        // Newer than the backup.
        scene.commit(mode, 40, &[]);
        let whole = scene.path("data/whole");
        fs::copy(scene.db(), &whole).unwrap();
        match fault {
            Fault::Gone => fs::remove_file(scene.db()).unwrap(),
            Fault::Damaged => drop(damage::overwrite(&scene.db(), 0, &[0xA5; 8192])),
        }
        let mut daemon = scene.launch(&[("GUARDIAND_STOP_AFTER_APPEND", &append.to_string())]);
        if !stands_still(&mut daemon) {
            println!("{mode}, {fault:?}: {} appends", append - 1);
            assert!(append > 6, "the failpoint has no effect: is this a release build?");
            return;
        }
        fs::rename(&whole, scene.db()).unwrap();
        daemon.signal(Signal::CONT);
        let mut daemon = daemon.ready();
        daemon.healthy("app");
        let incident = daemon.closed("app", 1);
        assert_eq!(scene.lost(), 0, "{fault:?}, back after append {append}: it was replaced: {incident:#}");
        let steps = incident["steps"].as_array().unwrap();
        let installed = steps.iter().any(|step| step["step"] == "install" && step["outcome"] == "ok");
        if !installed {
            assert_eq!(incident["outcome"], "self_resolved", "back after append {append}: {incident:#}");
            assert!(incident["loss"].is_null(), "back after append {append}: {incident:#}");
        }
        scene.assert_whole(mode);
    }
    panic!("more than {APPENDS_MAX} appends: the heal turns in circles");
}

#[test]
fn a_file_that_was_gone_and_comes_back_is_closed_and_never_replaced() {
    for mode in ["wal", "delete"] {
        comes_back_at_every_moment(mode, Fault::Gone);
    }
}

#[test]
fn a_whole_file_in_the_place_of_a_damaged_one_is_closed_and_never_replaced() {
    for mode in ["wal", "delete"] {
        comes_back_at_every_moment(mode, Fault::Damaged);
    }
}
