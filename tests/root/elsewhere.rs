//! A program that has the database under another path: through a bind mount, or in a mount namespace of its own as in a container.

use std::fs;
use std::path::{Path, PathBuf};

use super::support::daemon::Daemon;
use super::support::mounts::Mount;
use super::support::program::{Program, executable};
use super::support::scene::Scene;
use super::support::truth::{self, beside};

const BACKUP: &str = "backup = { every = \"24h\", to = \"backups\" }";
const PATIENT: [&str; 5] = ["--busy-timeout", "10000", "--pause", "5", "--no-checkpoint"];

/// How the program comes to its other path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Bind,
    Namespace,
}

fn promised(scene: &Scene) -> usize {
    truth::promised(&scene.log_of(&scene.db())).len()
}

fn goes_on(scene: &Scene, daemon: &mut Daemon) {
    let enough = promised(scene) + 20;
    daemon.wait_for("the program to go on", |_| (promised(scene) >= enough).then_some(()));
}

/// Its folder at `folder` too, in a namespace of its own.
fn in_a_namespace(scene: &Scene, folder: &Path) -> Option<Program> {
    let words = ["-m", "sh", "-c", "mount --bind \"$0\" \"$1\" && shift && exec \"$@\""];
    let mut command = std::process::Command::new("unshare");
    command.args(words).arg(scene.path("data")).arg(folder).arg(executable());
    let log = scene.log_of(&scene.db());
    Program::try_start(command, &folder.join("app.db"), "wal", "forever", &log, &PATIENT)
}

fn remove(scene: &Scene, sides: &[&str]) {
    for side in sides {
        let _ = fs::remove_file(beside(&scene.db(), side));
    }
}

/// What a person sees of the copy: the newest, whole once it has its manifest.
fn is_kept(scene: &Scene, file: &str) -> bool {
    let folders = |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let held = folders(scene.path("state/incidents")).flat_map(|incident| folders(incident.join("evidence")));
    held.filter(|folder| folder.join("manifest.json").exists()).any(|folder| {
        folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with("held-")) && folder.join(file).exists()
    })
}

#[test]
fn the_wal_of_a_program_that_knows_the_database_by_another_path_is_kept_and_put_back() {
    for (way, sides) in [
        (Way::Bind, &["", "-wal", "-shm"][..]),
        (Way::Namespace, &["", "-wal", "-shm"]),
        (Way::Namespace, &["-wal", "-shm"]),
    ] {
        let scene = Scene::of(BACKUP);
        let point = scene.path("mnt");
        fs::create_dir(&point).unwrap();
        let Some(_disk) = Mount::tmpfs(&scene.path("data"), "64m") else { return };
        scene.commit("wal", 100, &[]);
        let mut daemon = scene.daemon();
        daemon.backed_up("app");
        daemon.healthy("app");
        let (_mount, program) = match way {
            Way::Bind => {
                let mount = Mount::bind(&scene.path("data"), &point);
                let log = scene.log_of(&scene.db());
                (Some(mount), Program::start(&point.join("app.db"), "wal", "forever", &log, &PATIENT))
            }
            Way::Namespace => match in_a_namespace(&scene, &point) {
                Some(program) => (None, program),
                None => return println!("skipped: needs root that may make a mount namespace"),
            },
        };
        goes_on(&scene, &mut daemon);
        daemon.caught_up("app");
        goes_on(&scene, &mut daemon);
        remove(&scene, sides);

        let incident = daemon.escalated("app", 1);
        assert_eq!(incident["kind"], "db_file_unlinked", "{way:?} {sides:?}: {incident:#}");
        assert!(is_kept(&scene, "main-wal"), "{way:?} {sides:?}: {incident:#}");
        goes_on(&scene, &mut daemon);
        program.kill();
        let incident = daemon.closed("app", 1);
        assert_eq!(incident["playbook"], "reclaim", "{way:?} {sides:?}: {incident:#}");
        assert_eq!(incident["loss"]["rows_lost"], 0, "{way:?} {sides:?}: {incident:#}");
        assert_eq!(scene.lost(), 0, "{way:?} {sides:?}: {incident:#}");
        assert!(daemon.stop().success());
        scene.assert_whole("wal");
    }
}

/// The main file alone is what the container has from the host: the WAL is in a folder that the host does not know.
#[test]
fn a_wal_that_cannot_be_found_is_never_taken_for_none() {
    let scene = Scene::of(BACKUP);
    let Some(_disk) = Mount::tmpfs(&scene.path("data"), "64m") else { return };
    scene.commit("wal", 100, &[]);
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    let other = scene.path("mnt");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("app.db"), "").unwrap();
    let _mount = Mount::bind(&scene.db(), &other.join("app.db"));
    let program = Program::start(&other.join("app.db"), "wal", "forever", &scene.log_of(&scene.db()), &PATIENT);
    goes_on(&scene, &mut daemon);
    remove(&scene, &["", "-wal", "-shm"]);
    let incident = daemon.escalated("app", 1);
    assert_eq!(incident["kind"], "db_file_unlinked", "{incident:#}");
    assert!(is_kept(&scene, "main"), "{incident:#}");
    program.kill();
    let incident = daemon.closed("app", 1);
    assert!(scene.lost() > 0, "its WAL was found: {incident:#}");
    assert!(incident["loss"]["rows_lost"].is_null(), "{incident:#}");
    scene.assert_honest(&incident, &scene.db());
}
