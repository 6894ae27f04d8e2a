//! A program that is nobody's child, with a script that starts it and one that stops it: as services are without systemd.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::daemon::PATIENCE;
use super::program::executable;
use super::scene::Scene;

/// It ends with its scene's folder at the latest.
pub struct Service {
    folder: PathBuf,
    db: PathBuf,
}

impl Service {
    /// The writer on `data/app.db`, forever; not started yet.
    pub fn of(scene: &Scene, mode: &str, flags: &[&str]) -> Service {
        Service::committing(scene, mode, "forever", flags)
    }

    /// The same, with so many commits.
    pub fn committing(scene: &Scene, mode: &str, commits: &str, flags: &[&str]) -> Service {
        Service::committing_to(scene, scene.db(), mode, commits, flags)
    }

    /// The same on another database.
    pub fn committing_to(scene: &Scene, db: PathBuf, mode: &str, commits: &str, flags: &[&str]) -> Service {
        let folder = scene.path("service");
        std::fs::create_dir_all(&folder).unwrap();
        let shown = |path: &Path| format!("'{}'", path.display());
        let (run, pid) = (folder.join("run"), folder.join("pid"));
        let log = scene.log_of(&db);
        let start = format!(
            "touch {run}; echo $$ > {pid}.part; mv {pid}.part {pid}\nexec {} {} {mode} {commits} {} --while-there {run} {}\n",
            shown(&executable()),
            shown(&db),
            shown(&log),
            flags.join(" "),
            run = shown(&run),
            pid = shown(&pid),
        );
        // A program that has ended and was not waited for has no descriptors any more.
        let stop = format!(
            "p=$(cat {}); rm -f {}; while [ -e /proc/$p/fd/0 ]; do sleep 0.02; done\n",
            shown(&pid),
            shown(&run)
        );
        std::fs::write(folder.join("start"), start).unwrap();
        std::fs::write(folder.join("stop"), stop).unwrap();
        Service { folder, db }
    }

    /// The `app` of a configuration.
    pub fn app(&self) -> String {
        let (stop, start) = (self.folder.join("stop"), self.folder.join("start"));
        format!("app = {{ stop = [\"sh\", \"{}\"], start = [\"sh\", \"{}\"] }}", stop.display(), start.display())
    }

    /// Starts it as an operator would, and waits until it has the database open.
    pub fn start(&self) {
        let _there_may_be_none = std::fs::remove_file(self.folder.join("pid"));
        self.launch();
        let ended = || self.pid().is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists());
        self.wait_for("the service to have its database open", || self.has_it_open() || ended());
    }

    /// Whether it has its database open by now: until then nobody could know that it runs.
    pub fn has_it_open(&self) -> bool {
        let (Some(pid), Ok(db)) = (self.pid(), self.db.canonicalize()) else { return false };
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        open.filter_map(|entry| std::fs::read_link(entry.path()).ok()).any(|open| open == db)
    }

    /// Starts it, whatever comes of that.
    pub fn launch(&self) {
        let script = format!("sh '{}' </dev/null >/dev/null 2>&1 &", self.folder.join("start").display());
        assert!(Command::new("setsid").args(["sh", "-c", &script]).status().unwrap().success());
    }

    /// Whatever else its `start` (or its `stop`) shall do first, as lines of a shell.
    pub fn first(&self, script: &str, lines: &str) {
        let path = self.folder.join(script);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(path, format!("{lines}\n{text}")).unwrap();
    }

    /// Whatever else its `stop` shall do once the program has ended.
    pub fn after_its_end(&self, lines: &str) {
        let path = self.folder.join("stop");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(path, format!("{text}{lines}\n")).unwrap();
    }

    /// Its pid, as it says.
    pub fn pid(&self) -> Option<u32> {
        std::fs::read_to_string(self.folder.join("pid")).ok()?.trim().parse().ok()
    }

    /// Its arguments, while it runs.
    pub fn arguments(&self) -> Option<Vec<String>> {
        let line = std::fs::read(format!("/proc/{}/cmdline", self.pid()?)).ok()?;
        let words = line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
        Some(words.filter(|word| !word.is_empty()).collect::<Vec<_>>()).filter(|words| !words.is_empty())
    }

    /// Ends it in order.
    pub fn stop(&self) {
        assert!(Command::new("sh").arg(self.folder.join("stop")).status().unwrap().success());
    }

    pub fn wait_for(&self, what: &str, seen: impl Fn() -> bool) {
        let until = Instant::now() + PATIENCE;
        while !seen() {
            assert!(Instant::now() < until, "waited {PATIENCE:?} in vain for {what}");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It ends when this is gone.
        let _ = std::fs::remove_file(self.folder.join("run"));
    }
}
