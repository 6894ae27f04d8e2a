//! A mount that goes takes its databases with it: one incident for the cause, nothing healed, and all is well when it is back.

use std::path::Path;

use super::support::mounts::Mount;
use super::support::scene::Scene;

#[test]
fn a_mount_that_is_gone_is_one_incident_and_no_heal() {
    let mut scene = Scene::new();
    std::fs::create_dir(scene.path("disk")).unwrap();
    std::fs::create_dir(scene.path("disk/store")).unwrap();
    let Some(store) = Mount::tmpfs(&scene.path("disk/store"), "64m") else { return };
    let point = scene.path("disk/mount");
    std::fs::create_dir(&point).unwrap();
    let mount = Mount::bind(&scene.path("disk/store"), &point);
    let backup = "backup = { every = \"24h\", to = \"backups\" }";
    for number in 0..12 {
        let path = if number < 5 { format!("disk/mount/{number}.db") } else { format!("data/{number}.db") };
        scene.database(&format!("t{number}"), &path, backup);
        scene.writer_of(&scene.path(&path), "wal", "10", &[]).finish();
    }
    let mut daemon = scene.daemon();
    for number in 0..12 {
        daemon.backed_up(&format!("t{number}"));
        daemon.healthy(&format!("t{number}"));
    }
    drop(mount);
    let cause = daemon.escalated("guardian", 1);
    assert_eq!(cause["kind"], "mass_failure", "{cause:#}");
    let reason = cause["reason"].as_str().unwrap();
    assert!(reason.contains("5 of the 5 targets on file system"), "{cause:#}");
    for number in 0..5 {
        daemon.caught_up_with_looks(&format!("t{number}"));
    }
    let left = |folder: &Path| std::fs::read_dir(folder).unwrap().count();
    assert_eq!(left(&point), 0, "something was restored into the empty mount point");
    // The neighbours on the other disk are healed as ever.
    std::fs::remove_file(scene.path("data/9.db")).unwrap();
    assert_eq!(daemon.closed("t9", 1)["outcome"], "healed");

    let _mount = Mount::bind(&scene.path("disk/store"), &point);
    daemon.closed("guardian", 1);
    for number in 0..12 {
        daemon.healthy(&format!("t{number}"));
    }
    assert_eq!(daemon.incidents("t0").iter().filter(|incident| incident["state"] != "closed").count(), 0);
    drop(store);
}
