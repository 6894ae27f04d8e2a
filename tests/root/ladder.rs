//! The ladder goes on to a rung that loses more only when a candidate was tried in vain.

use std::fs;

use super::support::damage::{self, Dice};
use super::support::mounts::Mount;
use super::support::scene::Scene;

#[test]
fn too_little_room_for_the_backup_is_no_reason_to_start_empty() {
    let scene = Scene::of("schema = \"schema.sql\"\nbackup = { every = \"24h\", to = \"backups\" }");
    let schema = "CREATE TABLE commits(id INTEGER PRIMARY KEY); CREATE TABLE rows(id INTEGER PRIMARY KEY);";
    fs::write(scene.path("schema.sql"), schema).unwrap();
    let Some(disk) = Mount::tmpfs(&scene.path("data"), "48m") else { return };
    scene.commit("wal", 100, &["--row-bytes", "80000"]);
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    // Above the floor, a sixteenth of it, there is room for an empty database, and not for this one of 8 MB.
    let filler = disk.fill();
    let file = fs::File::options().write(true).open(&filler).unwrap();
    file.set_len(file.metadata().unwrap().len() - (6 << 20)).unwrap();
    drop(file);
    damage::header(&scene.db(), &mut Dice::new());
    let damaged = scene.bytes();

    let incident = daemon.escalated("app", 1);
    assert_eq!(scene.bytes(), damaged, "something was put in its place: {incident:#}");
    assert_ne!(incident["playbook"], "recreate", "{incident:#}");
    fs::remove_file(filler).unwrap();
    let incident = daemon.closed("app", 1);
    assert_eq!(incident["outcome"], "healed", "{incident:#}");
    assert_eq!(incident["playbook"], "mend_header", "{incident:#}");
    assert_eq!(scene.lost(), 0);
}
