//! A child in uninterruptible sleep is given up, and nobody else waits for it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use guardian::job::{Client, FailureKind, Job, WorkerEvents};
use guardian::model::RestartReason;
use tokio::sync::mpsc;

use super::support::{Host, PATIENCE, options};

/// A file system of its own that can be frozen: every write to it then sleeps, and no signal wakes it.
struct Frozen {
    folder: tempfile::TempDir,
}

impl Frozen {
    fn mount() -> Result<Frozen, String> {
        let folder = tempfile::tempdir().unwrap();
        let (image, point) = (folder.path().join("image"), folder.path().join("mnt"));
        std::fs::create_dir(&point).unwrap();
        std::fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
        run(Command::new("mkfs.ext4").arg("-q").arg(&image))?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&point))?;
        Ok(Frozen { folder })
    }

    fn point(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    fn freeze(&self) {
        run(Command::new("fsfreeze").arg("-f").arg(self.point())).unwrap();
    }

    fn thaw(&self) -> Result<(), String> {
        run(Command::new("fsfreeze").arg("-u").arg(self.point()))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = self.thaw();
        let _ = run(Command::new("umount").arg("-l").arg(self.point()));
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {said}")) }
}

struct Told(mpsc::UnboundedSender<(&'static str, usize)>);

impl WorkerEvents for Told {
    fn restarted(&self, _reason: RestartReason, _detail: &str) {}
    fn said(&self, _pid: u32, _line: &str) {}
    fn abandoned(&self, _pid: u32, now: usize) {
        let _ = self.0.send(("abandoned", now));
    }
    fn returned(&self, _pid: u32, now: usize) {
        let _ = self.0.send(("returned", now));
    }
}

fn look_at(host: &Host, path: &Path) -> Job {
    Job::Probe(Box::new(host.probe(path)))
}

#[tokio::test(flavor = "current_thread")]
async fn root_a_child_that_not_even_sigkill_ends_is_given_up_and_the_others_go_on() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let frozen = match Frozen::mount() {
        Ok(frozen) => frozen,
        Err(why) => return println!("skipped: needs root that may mount: {why}"),
    };
    let host = Host::new();
    let stuck = frozen.point().join("stuck.db");
    // A look at a database in WAL mode without its side files makes them, for as long as it looks.
    std::fs::copy(host.database("sound.db", "wal"), &stuck).unwrap();
    frozen.freeze();

    let (sender, mut told) = mpsc::unbounded_channel();
    let mut options = options();
    (options.events, options.kill_grace) = (Arc::new(Told(sender)), Duration::from_secs(2));
    let client = Client::new(options);
    let sound = host.path("sound.db");
    let jobs = vec![
        (0, look_at(&host, &sound), PATIENCE),
        (1, look_at(&host, &stuck), Duration::from_millis(300)),
        (2, look_at(&host, &sound), PATIENCE),
    ];
    let mut answers = client.probe_batch(jobs);
    let mut kinds = Vec::new();
    while let Some((id, answer)) = answers.recv().await {
        kinds.push((id, answer.map(drop).map_err(|failure| failure.kind)));
    }
    assert_eq!(kinds, [(0, Ok(())), (1, Err(FailureKind::Abandoned)), (2, Ok(()))]);
    assert_eq!(client.abandoned(), 1);
    assert_eq!(told.recv().await, Some(("abandoned", 1)));

    frozen.thaw().unwrap();
    assert_eq!(told.recv().await, Some(("returned", 0)), "it was reaped when it ended at last");
    assert_eq!(client.abandoned(), 0);
}
