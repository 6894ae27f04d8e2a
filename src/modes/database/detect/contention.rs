//! The layers `wal` and `locks`: who keeps whom waiting.

use std::time::Duration;

use crate::job::{DotfileLock, HeldLock, JournalState, Users};
use crate::model::{LOCKED_BY_A_PROGRAM, LOCKED_FOR_NOW, Severity};

use super::super::blame::{self, culprits, holder_words, span, words};
use super::super::kinds::{self, LOCKS, WAL};
use super::{Exclusive, Judgement, exclusive};

/// What people do about a lock who do not know better.
const NEVER: &str = "never delete a -wal or -journal to clear a lock: that loses commits, and the lock stays";

impl Judgement<'_> {
    /// A reader did not get in.
    pub(super) fn busy(&mut self) {
        match exclusive(self.facts, self.memory) {
            Exclusive::Program(_) => return,
            Exclusive::Unclear(held) => {
                let holder = words(held, self.age_of(held));
                return self.cannot_tell(format!("{holder}: {LOCKED_BY_A_PROGRAM}"));
            }
            Exclusive::No => {}
        }
        if self.findings.iter().any(|finding| finding.kind == kinds::LOCKED) {
            return; // and it is said by whom
        }
        let since = self.memory.busy_since.unwrap_or(self.now);
        let waited = self.now.since(since);
        if waited < self.config.busy_timeout {
            return self.cannot_tell(LOCKED_FOR_NOW);
        }
        let blamed = culprits(&self.facts.locks, true);
        let readers_wait_for = blamed.iter().copied().filter(|held| held.blocks_readers).collect::<Vec<_>>();
        let waiting = blame::waiting(&self.facts.locks).is_some();
        let blamed = if readers_wait_for.is_empty() || waiting { blamed } else { readers_wait_for };
        let holders = match self.named(&blamed) {
            named if named.is_empty() => "a process that cannot be seen from here locks it".to_owned(),
            named => named,
        };
        self.find(
            &kinds::LOCKED,
            Severity::High,
            &LOCKS,
            format!("no reader got in for {:.1} s: {holders}", waited.as_secs_f64()),
            format!("wait, or have the holder finish; {NEVER}"),
        );
    }

    /// Who holds what, and whom that keeps waiting.
    fn named(&self, blamed: &[&HeldLock]) -> String {
        let named = blamed.iter().map(|held| words(held, self.age_of(held))).collect::<Vec<_>>().join("; ");
        match blame::waiting(&self.facts.locks) {
            Some(writer) if !blamed.iter().any(|held| held.pid == writer.pid) => {
                format!(
                    "{named}; that keeps {} from writing, which holds PENDING",
                    blame::process(writer.pid, &writer.comm)
                )
            }
            _ => named,
        }
    }

    fn age_of(&self, held: &HeldLock) -> Option<Duration> {
        self.memory.held_since(held).map(|since| self.now.since(since))
    }

    pub(super) fn wal_file(&mut self) {
        let size = self.facts.wal_file.size();
        if size <= self.config.wal_max {
            return;
        }
        let wal = self.facts.wal.as_ref();
        let held_back = wal.map_or(&[][..], |wal| wal.held_back_by.as_slice());
        if !held_back.is_empty() {
            let readers = held_back.iter().map(|held| words(held, self.age_of(held))).collect::<Vec<_>>().join("; ");
            return self.find(
                &kinds::WAL_STARVED,
                Severity::High,
                &WAL,
                format!(
                    "the WAL has {size} bytes (limit {}), and {readers}: that keeps it from being checkpointed",
                    self.config.wal_max
                ),
                "end that read transaction; guardiand checkpoints as soon as it can",
            );
        }
        self.find(
            &kinds::WAL_TOO_LARGE,
            Severity::Medium,
            &WAL,
            format!("the WAL has {size} bytes (limit {})", self.config.wal_max),
            "checkpoint and truncate it",
        );
    }

    /// Locks that are held for longer than `lock_max_age`.
    pub(super) fn held_locks(&mut self) {
        let lasting = match exclusive(self.facts, self.memory) {
            Exclusive::Program(held) | Exclusive::Unclear(held) => Some(held),
            Exclusive::No => None,
        };
        let too_old = |held: &&HeldLock| {
            Some(*held) != lasting && self.age_of(held).is_some_and(|age| age >= self.config.lock_max_age)
        };
        let blamed = culprits(&self.facts.locks, self.memory.wanted).into_iter().filter(too_old).collect::<Vec<_>>();
        let Some(first) = blamed.first() else { return };
        let todo = match first.pid {
            0 => format!("find who holds it where it runs (another PID namespace?); {NEVER}"),
            pid => format!("see what pid {pid} is doing; {NEVER}"),
        };
        self.find(&kinds::LOCKED, Severity::High, &LOCKS, self.named(&blamed), todo);
    }

    /// A lock of the dotfile VFS: its holder's, or left behind by one that died (rule 14).
    pub(super) fn dotfile_lock(&mut self) {
        let Some(lock) = &self.facts.dotfile_lock else { return };
        let path = lock.path.display();
        let age = age_of_dotfile(lock, self.facts.looked_at);
        let old = age >= self.config.lock_max_age;
        let users = self
            .facts
            .users
            .clone()
            .unwrap_or_else(|| Users { blind: vec!["nobody looked who has it open".to_owned()], ..Users::default() });
        if !users.holders.is_empty() {
            let holders = users.holders.iter().map(holder_words).collect::<Vec<_>>().join("; ");
            // Its way of `locking_mode=EXCLUSIVE`: a journal that outlives its transactions.
            let lasting = self
                .facts
                .journal
                .as_ref()
                .is_some_and(|journal| journal.state == JournalState::Absent && journal.outlived_one);
            let stopped = users.holders.iter().any(|holder| matches!(holder.state, 'T' | 't'));
            if age < self.config.busy_timeout {
                return self.cannot_tell(LOCKED_FOR_NOW);
            }
            if !old || lasting && !stopped {
                return self.cannot_tell(format!("it is locked with the dotfile VFS ({path}): {holders}"));
            }
            return self.find(
                &kinds::LOCKED,
                Severity::High,
                &LOCKS,
                format!("it has been locked with the dotfile VFS for {} ({path}): {holders}", span(age)),
                format!("see what that program is doing, and leave {path} to it; {NEVER}"),
            );
        }
        if let Some(blind) = users.blind.first() {
            return self
                .cannot_tell(format!("it cannot be told whether {path} is a lock that was left behind: {blind}"));
        }
        if !old {
            return self.cannot_tell(format!("nobody has it open, and {path} is {} old: looking again", span(age)));
        }
        self.find(
            &kinds::STALE_LOCK_FILE,
            Severity::Medium,
            &LOCKS,
            format!(
                "{path} was left behind {} ago by a program of the dotfile VFS, and nobody has the database open",
                span(age)
            ),
            "move it away: until then everybody who uses that VFS is kept out",
        );
    }
}

/// By the wall clock, which made the time stamp.
fn age_of_dotfile(lock: &DotfileLock, now: jiff::Timestamp) -> Duration {
    let age = now.as_nanosecond() - i128::from(lock.made_ns);
    Duration::from_nanos(u64::try_from(age).unwrap_or(0))
}
