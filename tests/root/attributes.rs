//! What a file has beside its bytes, its owner and its mode stays with it: on what replaces it, and on what comes back.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;

use rustix::fs::{XattrFlags, getxattr, setxattr};
use rustix::io::Errno;

use super::support::command::guardiand;
use super::support::damage::{self, Dice};
use super::support::mounts::Mount;
use super::support::scene::Scene;
use super::support::truth::{is_root, ownership};

/// A user and a group without a name or a right: nobody's, on every Linux.
const NOBODY: u32 = 65_534;

const ACL: &str = "system.posix_acl_access";

const BACKUP: &str = "backup = { every = \"24h\", to = \"backups\" }";

/// Version 2; owner rw-, user 4242 r--, group r--, mask r--, other ---.
fn acl() -> Vec<u8> {
    let mut acl = vec![2, 0, 0, 0];
    for (tag, bits, id) in [(1, 6, u32::MAX), (2, 4, 4242), (4, 4, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)] {
        acl.extend_from_slice(&[tag, 0, bits, 0]);
        acl.extend_from_slice(&u32::to_le_bytes(id));
    }
    acl
}

fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0_u8; 4096];
    let size = getxattr(path, name, value.as_mut_slice()).ok()?;
    value.truncate(size);
    Some(value)
}

/// What `lsattr -p` says before the name: project and flags. Nothing where the file system has neither.
fn project_and_flags(path: &Path) -> Option<String> {
    let said = Command::new("lsattr").arg("-p").arg(path).output().ok()?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    text.rsplit_once(' ').map(|(before, _)| before.trim().to_owned()).filter(|_| said.status.success())
}

type Seen = ((u32, u32, u32), Option<Vec<u8>>, Option<Vec<u8>>, Option<String>);

fn seen(path: &Path) -> Seen {
    (ownership(path), attribute(path, ACL), attribute(path, "user.guardian.test"), project_and_flags(path))
}

/// Gives the database everything that its file system knows; what it does not know is said.
fn adorn(path: &Path) {
    chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o640)).unwrap();
    for (name, value) in [("user.guardian.test", b"kept".to_vec()), (ACL, acl())] {
        match setxattr(path, name, &value, XattrFlags::empty()) {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP) => println!("skipped: {name}, which the file system does not have"),
            Err(errno) => panic!("{name}: {errno}"),
        }
    }
    let project = Command::new("chattr").args(["-p", "4242"]).arg(path).output();
    if !project.is_ok_and(|said| said.status.success()) {
        println!("skipped: the project id, which the file system does not have");
    }
}

/// Damaged or deleted, healed, and, where something was there, rolled back: its attributes are what they were.
fn keeps_its_attributes(scene: &Scene) {
    scene.commit("delete", 50, &["--rows-per-commit", "5"]);
    adorn(&scene.db());
    let before = seen(&scene.db());
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");

    damage::header(&scene.db(), &mut Dice::new());
    let incident = daemon.closed("app", 1);
    assert_eq!(incident["outcome"], "healed", "{incident:#}");
    assert_eq!(seen(&scene.db()), before, "healed: {incident:#}");
    let id = incident["id"].as_str().unwrap();
    guardiand(&scene.path(""), &["rollback", id, "--config", "guardian.toml", "--json"]).json_of(0);
    assert_eq!(seen(&scene.db()), before, "rolled back");
    guardiand(&scene.path(""), &["heal", "app", "--config", "guardian.toml", "--json"]).json_of(0);
    assert_eq!(seen(&scene.db()), before, "healed again");
    daemon.healthy("app");

    fs::remove_file(scene.db()).unwrap();
    let incident = daemon.closed("app", 3);
    assert_eq!(incident["kind"], "db_file_missing", "{incident:#}");
    assert_eq!(seen(&scene.db()), before, "restored: {incident:#}");
    assert_eq!(scene.lost(), 0);
}

#[test]
fn acl_attributes_and_project_stay_with_the_database() {
    if !is_root() {
        return println!("skipped: needs root");
    }
    keeps_its_attributes(&Scene::of(BACKUP));
}

#[test]
fn in_memory_they_stay_as_well() {
    let scene = Scene::of(BACKUP);
    let Some(_disk) = Mount::tmpfs(&scene.path("data"), "64m") else { return };
    keeps_its_attributes(&scene);
}

#[test]
fn what_btrfs_must_not_copy_on_write_stays_so() {
    let scene = Scene::of(BACKUP);
    let Some(_disk) = Mount::btrfs(&scene.path("disk.img"), &scene.path("data")) else { return };
    // A file gets the flag from its folder, and only while it is empty.
    let marked = Command::new("chattr").arg("+C").arg(scene.path("data")).output();
    if !marked.is_ok_and(|said| said.status.success()) {
        return println!("skipped: no chattr");
    }
    keeps_its_attributes(&scene);
    let flags = project_and_flags(&scene.db()).unwrap();
    assert!(flags.contains('C'), "{flags}");
}
