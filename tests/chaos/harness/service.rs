//! The program under a service manager: when it ends, it is started again a little later; like most programs it makes no
//! database where there was one.

use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::program;

const RESTART_AFTER: Duration = Duration::from_millis(100);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A program that is kept running until it is told otherwise.
pub struct Service {
    child: Arc<Mutex<Option<(Child, ChildStdin)>>>,
    wanted: Arc<AtomicBool>,
    keeper: Option<JoinHandle<()>>,
}

impl Service {
    /// Starts it, and keeps it.
    pub fn start(db: &Path, mode: &str, log: &Path, flags: &[String]) -> Service {
        let (child, wanted) = (Arc::new(Mutex::new(None)), Arc::new(AtomicBool::new(true)));
        let keeper = {
            let (child, wanted) = (Arc::clone(&child), Arc::clone(&wanted));
            let (db, mode, log, flags) = (db.to_owned(), mode.to_owned(), log.to_owned(), flags.to_vec());
            std::thread::spawn(move || keep(&child, &wanted, || spawn(&db, &mode, &log, &flags)))
        };
        Service { child, wanted, keeper: Some(keeper) }
    }

    /// Any signal, if it runs.
    pub fn signal(&self, signal: Signal) {
        if let Some((child, _)) = self.child.lock().unwrap().as_ref() {
            let _ = kill_process(Pid::from_child(child), signal);
        }
    }

    /// No more starts; closed in order, or by SIGKILL.
    pub fn end(mut self, in_order: bool) {
        self.stop(in_order);
    }

    fn stop(&mut self, in_order: bool) {
        self.wanted.store(false, Ordering::Relaxed);
        if let Some(keeper) = self.keeper.take() {
            keeper.join().unwrap();
        }
        if let Some((mut child, stdin)) = self.child.lock().unwrap().take() {
            let _ = kill_process(Pid::from_child(&child), Signal::CONT);
            if !in_order {
                let _ = child.kill();
            }
            drop(stdin);
            child.wait().unwrap();
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop(false);
    }
}

fn keep(child: &Mutex<Option<(Child, ChildStdin)>>, wanted: &AtomicBool, spawn: impl Fn() -> (Child, ChildStdin)) {
    while wanted.load(Ordering::Relaxed) {
        let mut slot = child.lock().unwrap();
        match slot.as_mut().map(|(child, _)| child.try_wait().unwrap()) {
            None => *slot = Some(spawn()),
            Some(Some(_ended)) => {
                *slot = None;
                drop(slot);
                std::thread::sleep(RESTART_AFTER);
                continue;
            }
            Some(None) => {}
        }
        drop(slot);
        std::thread::sleep(LOOK_EVERY);
    }
}

fn spawn(db: &Path, mode: &str, log: &Path, flags: &[String]) -> (Child, ChildStdin) {
    let executable: PathBuf = program::executable();
    let mut child = Command::new(executable)
        .arg(db)
        .args([mode, "forever"])
        .arg(log)
        .args(flags)
        .args(["--existing", "--busy-timeout", "500"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let stdin = child.stdin.take().unwrap();
    (child, stdin)
}
