//! A disk that is not mounted while programs go on: what they make at its mount point is not the database.

use std::fs;
use std::path::Path;

use super::support::command::{Ran, guardiand};
use super::support::daemon::Daemon;
use super::support::mounts::Mount;
use super::support::program::Program;
use super::support::scene::Scene;
use super::support::truth::{beside, digest};

const BACKUP: &str = "backup = { every = \"24h\", to = \"backups\" }";

/// What is at the mount point in the disk's absence.
const STAND_INS: [&str; 6] =
    ["nothing", "no byte", "no byte and a WAL", "text", "half a database", "an empty database"];

/// A database on a disk of its own that is mounted at `data`.
struct Disk {
    scene: Scene,
    mount: Option<Mount>,
    _store: Mount,
}

impl Disk {
    fn new() -> Option<Disk> {
        let scene = Scene::of(BACKUP);
        fs::create_dir(scene.path("store")).unwrap();
        let store = Mount::tmpfs(&scene.path("store"), "64m")?;
        let mount = Some(Mount::bind(&scene.path("store"), &scene.path("data")));
        scene.commit("wal", 20, &[]);
        Some(Disk { scene, mount, _store: store })
    }

    fn unmount(&mut self) {
        drop(self.mount.take());
        assert!(self.scene.names().is_empty());
    }

    fn mount(&mut self) {
        self.mount = Some(Mount::bind(&self.scene.path("store"), &self.scene.path("data")));
    }

    fn run(&self, words: &[&str]) -> Ran {
        guardiand(&self.scene.path(""), &[words, &["--config", "guardian.toml"]].concat())
    }

    fn backups(&self) -> usize {
        let folder = |path: &Path| fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
        let all = folder(&self.scene.path("backups")).into_iter().flat_map(|of_target| folder(&of_target));
        all.filter(|file| file.extension().is_some_and(|extension| extension == "db")).count()
    }

    /// Puts it there and gives back the path's bytes.
    fn stand_in(&self, what: &str) -> [Option<String>; 3] {
        let db = self.scene.db();
        match what {
            "nothing" => {}
            "text" => fs::write(&db, "made in its absence\n").unwrap(),
            "an empty database" => {
                let made = rusqlite::Connection::open(&db).unwrap();
                made.execute_batch("PRAGMA user_version = 1").unwrap();
            }
            "half a database" => {
                let whole = fs::read(self.scene.path("store/app.db")).unwrap();
                fs::write(&db, &whole[..whole.len() / 2]).unwrap();
            }
            _ => fs::write(&db, "").unwrap(),
        }
        if what.ends_with("a WAL") {
            fs::write(beside(&db, "-wal"), [7; 5000]).unwrap();
        }
        self.bytes()
    }

    fn bytes(&self) -> [Option<String>; 3] {
        ["", "-wal", "-journal"].map(|side| digest(&beside(&self.scene.db(), side)).map(|sum| format!("{sum:?}")))
    }

    /// Neither command takes it for the database.
    fn is_refused_by_hand(&self, what: &str) {
        let backup = self.run(&["backup", "app"]);
        assert_eq!(backup.status, 1, "{what}: {backup:#?}");
        assert!(backup.stderr.contains("on another file system"), "{what}: {backup:#?}");
        let heal = self.run(&["heal", "app", "--json"]);
        assert_eq!(heal.json_of(3)["outcome"], "unknown", "{what}: {heal:#?}");
        assert!(heal.stdout.contains("was on another file system"), "{what}: {heal:#?}");
    }
}

fn is_unknown(daemon: &mut Daemon, what: &str) {
    daemon.wait_for(&format!("the verdict on {what}"), |daemon| {
        let target = daemon.target("app")?;
        let check = &target["last_check"];
        let says = check["reason"].as_str().is_some_and(|reason| reason.contains("was on another file system"));
        (check["verdict"] == "unknown" && says).then_some(())
    });
}

#[test]
fn what_is_made_where_the_disk_is_not_mounted_is_neither_healed_nor_backed_up() {
    for what in STAND_INS {
        let Some(mut disk) = Disk::new() else { return };
        let mut daemon = disk.scene.daemon();
        daemon.backed_up("app");
        daemon.healthy("app");
        let backups = disk.backups();
        disk.unmount();
        let before = disk.stand_in(what);
        is_unknown(&mut daemon, what);
        disk.is_refused_by_hand(what);
        daemon.caught_up_with_looks("app");
        assert_eq!(daemon.incidents("app"), Vec::<serde_json::Value>::new(), "{what}");
        assert!(daemon.stop().success());
        disk.is_refused_by_hand(what);
        // A look of before the start tells the next process as well.
        let mut daemon = disk.scene.daemon();
        is_unknown(&mut daemon, what);
        assert_eq!(disk.bytes(), before, "{what}: something was written where the disk is not mounted");
        assert_eq!(disk.backups(), backups, "{what}");

        disk.mount();
        daemon.healthy("app");
        assert_eq!(disk.run(&["backup", "app"]).status, 0, "{what}");
        assert!(daemon.stop().success());
        assert_eq!(disk.scene.lost(), 0, "{what}");
    }
}

#[test]
fn a_database_that_moved_to_another_disk_for_good_is_known_by_its_tables() {
    let Some(mut disk) = Disk::new() else { return };
    let mut daemon = disk.scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    assert!(daemon.stop().success());
    disk.unmount();
    fs::write(disk.scene.db(), "").unwrap();
    disk.is_refused_by_hand("no byte");
    // As it says.
    fs::rename(disk.scene.db(), disk.scene.path("not-wanted")).unwrap();
    let db = disk.scene.db();
    let restored = disk.run(&["restore", "app", "--to", db.to_str().unwrap()]);
    assert_eq!(restored.status, 0, "{restored:#?}");
    assert_eq!(disk.run(&["backup", "app"]).status, 0);
    let mut daemon = disk.scene.daemon();
    daemon.healthy("app");
    // From now on this is where it is.
    fs::write(&db, "").unwrap();
    assert_eq!(daemon.closed("app", 1)["outcome"], "healed");
    assert!(daemon.stop().success());
    assert_eq!(disk.scene.lost(), 0);
}

/// `umount -l` under a program that lives: it goes on with the files on the disk, and nothing is put back where the disk was.
#[test]
fn what_a_program_goes_on_with_on_a_disk_that_was_taken_from_its_path_is_not_put_back_there() {
    let Some(mut disk) = Disk::new() else { return };
    let mut daemon = disk.scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    let log = disk.scene.log_of(&disk.scene.db());
    let program =
        Program::start(&disk.scene.db(), "wal", "forever", &log, &["--busy-timeout", "10000", "--pause", "5"]);
    daemon.caught_up_with_looks("app");
    disk.unmount();
    let looks = daemon.target("app").unwrap()["total_checks"].as_u64().unwrap() + 3;
    daemon.wait_for("looks without the disk", |daemon| {
        (daemon.target("app")?["total_checks"].as_u64()? >= looks).then_some(())
    });
    program.kill();
    let looks = daemon.target("app").unwrap()["total_checks"].as_u64().unwrap() + 5;
    daemon.wait_for("looks without the program", |daemon| {
        (daemon.target("app")?["total_checks"].as_u64()? >= looks).then_some(())
    });
    assert_eq!(disk.scene.names(), Vec::<String>::new(), "{:#?}", daemon.incidents("app"));
    disk.mount();
    daemon.healthy("app");
    assert!(daemon.stop().success());
    assert_eq!(disk.scene.lost(), 0);
}
