//! Who keeps others waiting, and what may be done about it: never more than asking it to go on.

use super::in_use::{Around, stop_and_start};
use super::{Site, playbook, spec, wait, wait_step};
use crate::job::{DatabaseStep, Ending, HeldLock, HolderFacts, WalFacts};
use crate::model::{Playbook, Standstill, for_shell};
use crate::modes::database::blame::{culprits, holder_words, process, words};
use crate::modes::database::config::{OnLock, WhenInUse};

/// The playbook's name.
const UNBLOCK: &str = "unblock";

impl Site<'_> {
    /// Nothing of ours may touch such a WAL: not even a checkpoint, and least of all a graceful end of its programs. What the
    /// WAL-reset bug leaves is mended by SQLite's own recovery, once nobody has the index in memory any more (rule 16).
    pub(super) fn recovered_from_the_reset_bug(&self, wal: &WalFacts) -> Result<Vec<Playbook>, String> {
        if let (Some(WhenInUse::StopApp), Some(app)) = (self.config.when_in_use, &self.config.app) {
            let [stop, start] = stop_and_start(app, Ending::Killed, Around::default());
            let why = "its programs are killed, so that none of them copies more of the WAL, and started again: SQLite then \
                       recovers all that the WAL still has";
            return Ok(vec![playbook("kill_app", why.to_owned(), &[DatabaseStep::Preserve, stop, start])]);
        }
        let holders = self.diagnosis.map(|diagnosis| diagnosis.holders.as_slice()).unwrap_or_default();
        let pids = holders.iter().map(|holder| holder.pid.to_string()).collect::<Vec<_>>();
        let kill = match pids.is_empty() {
            true => "`kill -9` every process that has it open".to_owned(),
            false => format!("`kill -9 {}` (every process that has it open)", pids.join(" ")),
        };
        Err(format!(
            "the WAL of {} shows the WAL-reset bug of SQLite before 3.51.3: its index says that {} frames are copied into the \
             database, and it has {}. {kill}, at once and all of them, and soon: a graceful stop or a checkpoint would tear the database, \
             and after a SIGKILL SQLite recovers all that the WAL still has; {several}. Then give its programs a newer SQLite",
            self.path(),
            wal.index_backfill.unwrap_or(0),
            wal.index_max_frame.unwrap_or(0),
            several = match pids.len() {
                1 => "that is everything where nobody else wrote to it",
                _ => "of several writers one can have written over what another had committed, and that is gone",
            },
        ))
    }

    /// A lock keeps others out.
    pub(super) fn locked(&self) -> Result<Vec<Playbook>, String> {
        if let Some(holder) = self.dotfile_holder() {
            return self.locked_by_dotfile(holder);
        }
        let blamed = culprits(&self.facts.locks, true);
        let stopped = self.stopped(&blamed);
        if !stopped.is_empty() {
            return self.unblock(&stopped, wait_step());
        }
        self.by_the_living(&blamed, wait())
    }

    /// A reader keeps the WAL from being checkpointed.
    pub(super) fn starved(&self) -> Result<Vec<Playbook>, String> {
        let readers =
            self.facts.wal.as_ref().map(|wal| wal.held_back_by.iter().collect::<Vec<_>>()).unwrap_or_default();
        let stopped = self.stopped(&readers);
        if !stopped.is_empty() {
            return self.unblock(&stopped, spec(&self.checkpoint_step()));
        }
        self.by_the_living(&readers, self.checkpoint()?)
    }

    /// A lock of the dotfile VFS that nobody has.
    pub(super) fn left_behind(&self) -> Result<Vec<Playbook>, String> {
        let Some(lock) = &self.facts.dotfile_lock else { return Ok(vec![wait()]) };
        if let Some(reason) = self.in_use(false) {
            return Err(reason);
        }
        let mut steps = Vec::new();
        // Once the lock is gone, the first who opens the database rolls back what its writer left half done.
        if self.facts.journal_file.size() > 0 {
            steps.push(DatabaseStep::Preserve);
        }
        steps.push(DatabaseStep::MoveLockAside { ino: lock.ino, made_ns: lock.made_ns });
        let why = format!(
            "{} belongs to nobody that lives; it is moved into evidence, and nothing is lost",
            lock.path.display()
        );
        Ok(vec![playbook(UNBLOCK, why, &steps)])
    }

    /// Those that were stopped by a signal, as far as they can be named.
    fn stopped<'h>(&self, blamed: &[&'h HeldLock]) -> Vec<&'h HeldLock> {
        let is = |held: &&HeldLock| held.standstill == Some(Standstill::Stopped) && held.pid > 0 && held.started_ms > 0;
        blamed.iter().copied().filter(is).collect()
    }

    fn is_old(&self, held: &HeldLock) -> bool {
        self.memory.age_of(held).is_some_and(|age| age >= self.config.lock_max_age)
    }

    /// Held for as long as it takes to act on it, not for as long as it has been: a reason that differs at each look is told to a
    /// person at each look.
    fn named(&self, held: &HeldLock) -> String {
        words(held, self.is_old(held).then_some(self.config.lock_max_age))
    }

    /// Lets stopped holders go on, and then takes `then`.
    fn unblock(&self, stopped: &[&HeldLock], then: crate::model::StepSpec) -> Result<Vec<Playbook>, String> {
        let named = stopped.iter().map(|held| self.named(held)).collect::<Vec<_>>().join("; ");
        let mut pids = stopped.iter().map(|held| held.pid.to_string()).collect::<Vec<_>>();
        pids.dedup();
        if !self.config.resume_stopped {
            return Err(format!("{named}; `resume_stopped` is false: `kill -CONT {}` lets it go on", pids.join(" ")));
        }
        let old = stopped.iter().filter(|held| self.is_old(held));
        let mut steps: Vec<DatabaseStep> = Vec::new();
        for held in old {
            let step = DatabaseStep::ResumeStopped {
                pid: held.pid,
                started_ms: held.started_ms,
                uid: held.uid,
                comm: held.comm.clone(),
            };
            if !steps.contains(&step) {
                steps.push(step);
            }
        }
        if steps.is_empty() {
            // Somebody may have stopped it for a moment; nobody need be called for what is mended soon.
            return Ok(Vec::new());
        }
        let why = format!("{named}: SIGCONT lets it go on, and nothing is lost");
        let mut unblock = playbook(UNBLOCK, why, &steps);
        unblock.steps.push(then);
        Ok(vec![unblock])
    }

    /// A holder that lives is waited for, or what `on_lock` says when it has held on for too long.
    fn by_the_living(&self, blamed: &[&HeldLock], wait: Playbook) -> Result<Vec<Playbook>, String> {
        let old = blamed.iter().copied().filter(|held| self.is_old(held)).collect::<Vec<_>>();
        if old.is_empty() {
            return Ok(vec![wait]);
        }
        let named = old.iter().map(|held| self.named(held)).collect::<Vec<_>>().join("; ");
        self.past_the_age(&named, wait)
    }

    fn past_the_age(&self, named: &str, wait: Playbook) -> Result<Vec<Playbook>, String> {
        match self.config.on_lock {
            OnLock::Wait => Ok(vec![wait]),
            OnLock::Escalate => Err(format!(
                "{named}; `on_lock` is \"escalate\": have it finish, then `guardiand check {}`",
                for_shell(&self.config.name)
            )),
            OnLock::RestartApp => self.restart_app(named),
        }
    }

    /// Its program is stopped and started again: in order, so that SQLite rolls back what it had begun.
    fn restart_app(&self, named: &str) -> Result<Vec<Playbook>, String> {
        let Some(app) = &self.config.app else {
            return Err(format!("{named}; `on_lock` is \"restart-app\", and there is no `app`: restart it by hand"));
        };
        let why = format!("{named}; its program is restarted, and what it had not committed is rolled back");
        Ok(vec![playbook("restart_app", why, &stop_and_start(app, Ending::InOrder, Around::default()))])
    }

    /// The one that has the database open beside a lock of the dotfile VFS: whose lock it is, if there is no other.
    fn dotfile_holder(&self) -> Option<&HolderFacts> {
        self.facts.dotfile_lock.as_ref()?;
        match self.facts.users.as_ref()?.holders.as_slice() {
            [holder] => Some(holder),
            _ => None,
        }
    }

    fn locked_by_dotfile(&self, holder: &HolderFacts) -> Result<Vec<Playbook>, String> {
        let named = holder_words(holder);
        if holder.state != 'T' || holder.started_ms == 0 {
            return self.past_the_age(&named, wait());
        }
        let (pid, comm) = (holder.pid, &holder.comm);
        if !self.config.resume_stopped {
            return Err(format!("{named}; `resume_stopped` is false: `kill -CONT {pid}` lets it go on"));
        }
        let step =
            DatabaseStep::ResumeStopped { pid, started_ms: holder.started_ms, uid: holder.uid, comm: comm.clone() };
        let why =
            format!("{} has it locked and was stopped: SIGCONT lets it go on, and nothing is lost", process(pid, comm));
        let mut unblock = playbook(UNBLOCK, why, &[step]);
        unblock.steps.push(wait_step());
        Ok(vec![unblock])
    }
}
