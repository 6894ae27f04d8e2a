//! Other people's databases: what they own stays theirs, and what they may is judged for them and not for root.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use super::support::command;
use super::support::damage::{self, Dice};
use super::support::scene::Scene;
use super::support::truth::{beside, is_root, ownership};

/// A user and a group without a name or a right: nobody's, on every Linux.
const NOBODY: u32 = 65_534;

fn give(path: &Path, mode: u32) {
    chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A database of somebody else's, in a folder of theirs.
fn scene(lines: &str) -> Option<Scene> {
    if !is_root() {
        println!("skipped: needs root");
        return None;
    }
    let scene = Scene::of(&format!("{lines}\nbackup = {{ every = \"24h\", to = \"backups\" }}"));
    fs::set_permissions(scene.path(""), Permissions::from_mode(0o755)).unwrap();
    give(&scene.path("data"), 0o750);
    scene.commit("wal", 20, &[]);
    give(&scene.db(), 0o640);
    Some(scene)
}

#[test]
fn a_healed_database_belongs_to_whom_it_belonged() {
    for deleted in [true, false] {
        let Some(scene) = scene("") else { return };
        let before = ownership(&scene.db());
        let mut daemon = scene.daemon();
        daemon.backed_up("app");
        daemon.healthy("app");
        match deleted {
            true => fs::remove_file(scene.db()).unwrap(),
            false => drop(damage::header(&scene.db(), &mut Dice::new())),
        }
        let incident = daemon.closed("app", 1);
        assert_eq!(incident["outcome"], "healed", "{incident:#}");
        assert_eq!(ownership(&scene.db()), before, "{incident:#}");
        for suffix in ["-wal", "-shm", "-journal"] {
            let side = beside(&scene.db(), suffix);
            if side.exists() {
                assert_eq!(ownership(&side).0, NOBODY, "{} shuts the program out", side.display());
            }
        }
        daemon.healthy("app");
        assert_eq!(scene.lost(), 0);
    }
}

#[test]
fn what_root_may_and_the_owner_may_not_is_found_and_put_back() {
    for taken in ["mode", "owner"] {
        let Some(scene) = scene("user = \"nobody\"") else { return };
        let before = ownership(&scene.db());
        let mut daemon = scene.daemon();
        daemon.backed_up("app");
        daemon.healthy("app");
        match taken {
            "mode" => fs::set_permissions(scene.db(), Permissions::from_mode(0o000)).unwrap(),
            _ => chown(scene.db(), Some(0), Some(0)).unwrap(),
        }
        let incident = daemon.closed("app", 1);
        assert_eq!(incident["kind"], "db_access_denied", "{taken}: {incident:#}");
        assert_eq!(incident["outcome"], "healed", "{taken}: {incident:#}");
        assert_eq!(ownership(&scene.db()), before, "{taken}");
        assert_eq!(scene.lost(), 0);
    }
}

#[test]
fn an_ordinary_guardiand_leaves_what_it_may_not_read() {
    let Some(scene) = scene("") else { return };
    fs::set_permissions(scene.path("data"), Permissions::from_mode(0o755)).unwrap();
    for (owner, mode) in [(0, 0o600), (0, 0o000), (NOBODY, 0o000), (NOBODY, 0o200)] {
        chown(scene.db(), Some(owner), Some(owner)).unwrap();
        fs::set_permissions(scene.db(), Permissions::from_mode(mode)).unwrap();
        let before = (fs::read(scene.db()).unwrap(), ownership(&scene.db()), scene.names());
        let state = scene.path("nobodys");
        fs::create_dir_all(&state).unwrap();
        give(&state, 0o700);
        for words in [&["check"][..], &["heal", "--dry-run"], &["heal"]] {
            // A copy: the folder that the program was built in may be closed to nobody.
            let binary = fs::File::open(env!("CARGO_BIN_EXE_guardiand")).unwrap();
            let copy = state.join("guardiand");
            std::io::copy(&mut &binary, &mut fs::File::create(&copy).unwrap()).unwrap();
            give(&copy, 0o755);
            let mut asked = Command::new(&copy);
            asked.args(words).arg(scene.db()).args(["--json", "--state-dir"]).arg(&state).uid(NOBODY).gid(NOBODY);
            let ran = command::run(&state, asked);
            let told = if words.contains(&"--dry-run") { &[0, 1, 3][..] } else { &[1, 3] };
            assert!(told.contains(&ran.status), "{owner} {mode:o} {words:?}: {ran:#?}");
            ran.json();
        }
        // Its own file it may open for itself again: that is the heal of `db_access_denied`, once it was seen healthy.
        let after = (fs::read(scene.db()).unwrap(), ownership(&scene.db()), scene.names());
        assert_eq!(after, before, "{owner} {mode:o}");
    }
}
