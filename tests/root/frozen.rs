//! A disk that does not answer: nothing can end what waits for it, and nothing else waits.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::support::daemon::Daemon;
use super::support::scene::Scene;
use super::support::truth::is_root;

/// A file system of its own that can be frozen: every write to it then sleeps, and no signal wakes it (fsfreeze(8)).
struct Frozen {
    point: PathBuf,
}

impl Frozen {
    fn mount(folder: &Path) -> Result<Frozen, String> {
        let (image, point) = (folder.join("image"), folder.join("disk"));
        std::fs::create_dir(&point).unwrap();
        std::fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
        run(Command::new("mkfs.ext4").arg("-q").arg(&image))?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&point))?;
        Ok(Frozen { point })
    }

    fn freeze(&self) {
        run(Command::new("fsfreeze").arg("-f").arg(&self.point)).unwrap();
    }

    fn thaw(&self) -> Result<(), String> {
        run(Command::new("fsfreeze").arg("-u").arg(&self.point))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = self.thaw();
        let _ = run(Command::new("umount").arg("-l").arg(&self.point));
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {said}")) }
}

fn looks(daemon: &Daemon, name: &str) -> u64 {
    daemon.target(name).map_or(0, |target| target["total_checks"].as_u64().unwrap())
}

#[test]
fn a_disk_that_hangs_hangs_only_its_own_database() {
    if !is_root() {
        return println!("skipped: needs root");
    }
    let mut scene = Scene::of("");
    let disk = match Frozen::mount(&scene.path("")) {
        Ok(disk) => disk,
        Err(why) => return println!("skipped: needs root that may mount: {why}"),
    };
    scene.database("stuck", "disk/stuck.db", "");
    scene.commit("wal", 5, &[]);
    scene.writer_of(&scene.path("disk/stuck.db"), "wal", "5", &[]).finish();
    disk.freeze();

    // A look at a database in WAL mode without its side files makes them, for as long as it looks: there it sleeps.
    let mut daemon = scene.launch(&[]);
    daemon.wait_for("HTTP to listen", |daemon| daemon.try_get("/api/v1/status"));
    let until = 3;
    daemon.wait_for("the other database to be looked at", |daemon| {
        (looks(daemon, "app") >= until && daemon.target("app")?["state"] == "healthy").then_some(())
    });
    let stuck = daemon.wait_for("a word about the stuck one", |daemon| {
        daemon.target("stuck").filter(|target| !target["last_check"].is_null())
    });
    assert_eq!(stuck["last_check"]["verdict"], "unknown", "nothing is known of what does not answer: {stuck:#}");
    assert!(daemon.incidents("app").is_empty());
    assert_eq!(daemon.get("/api/v1/status")["totals"]["targets"], 2);

    disk.thaw().unwrap();
    daemon.healthy("stuck");
    // Frozen again, it does not hold up the end either.
    disk.freeze();
    let since = looks(&daemon, "app");
    daemon.wait_for("another look", |daemon| (looks(daemon, "app") > since).then_some(()));
    assert!(daemon.stop().success());
}

#[test]
fn one_stuck_child_stands_for_all_databases_of_a_mount_that_never_answered() {
    if !is_root() {
        return println!("skipped: needs root");
    }
    let mut scene = Scene::new();
    let disk = match Frozen::mount(&scene.path("")) {
        Ok(disk) => disk,
        Err(why) => return println!("skipped: needs root that may mount: {why}"),
    };
    let stuck = ["a", "b", "c", "d", "e"];
    for name in stuck {
        scene.database(name, &format!("disk/{name}.db"), "");
        scene.writer_of(&scene.path(&format!("disk/{name}.db")), "wal", "5", &[]).finish();
    }
    scene.database("app", "data/app.db", "");
    scene.commit("wal", 5, &[]);
    disk.freeze();

    let mut daemon = scene.launch(&[]);
    daemon.wait_for("HTTP to listen", |daemon| daemon.try_get("/api/v1/status"));
    for name in stuck {
        daemon.wait_for(name, |daemon| (daemon.target(name)?["last_check"]["verdict"] == "unknown").then_some(()));
    }
    let since = looks(&daemon, "app");
    daemon.wait_for("the others' looks to go on", |daemon| (looks(daemon, "app") >= since + 5).then_some(()));
    let given_up = |daemon: &Daemon| daemon.log().matches("not even SIGKILL ended a worker").count();
    assert_eq!(given_up(&daemon), 1, "{}", daemon.log());

    disk.thaw().unwrap();
    for name in stuck {
        daemon.healthy(name);
    }
    assert_eq!(given_up(&daemon), 1, "{}", daemon.log());
    assert!(daemon.stop().success());
}
