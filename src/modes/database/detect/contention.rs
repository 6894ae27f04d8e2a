//! The layers `wal` and `locks`: who keeps whom waiting.

use crate::model::{LOCKED_FOR_NOW, Severity};

use super::super::kinds::{self, LOCKS, WAL};
use super::{Judgement, finding};

impl Judgement<'_> {
    pub(super) fn busy(&mut self) {
        let since = self.memory.busy_since.unwrap_or(self.now);
        let waited = self.now.since(since);
        if waited < self.config.busy_timeout {
            return self.cannot_tell(LOCKED_FOR_NOW);
        }
        let holder = self.facts.locks.first().map_or_else(
            || "a process that cannot be seen from here".to_owned(),
            |held| format!("{} (pid {}, state {}) with {}", held.comm, held.pid, held.state, held.lock),
        );
        self.find(
            &kinds::LOCKED,
            Severity::High,
            &LOCKS,
            format!("no reader got in for {:.1} s: it is locked by {holder}", waited.as_secs_f64()),
            "wait, or ask the holder to finish; never delete a -wal or -journal to clear a lock",
        );
    }

    pub(super) fn wal_file(&mut self) {
        let size = self.facts.wal_file.size();
        if size <= self.config.wal_max {
            return;
        }
        let wal = self.facts.wal.as_ref();
        let held_back = wal.map_or(&[][..], |wal| wal.held_back_by.as_slice());
        if let Some(reader) = held_back.first() {
            return self.find(
                &kinds::WAL_STARVED,
                Severity::High,
                &WAL,
                format!(
                    "the WAL has {size} bytes (limit {}), and {} (pid {}) keeps it from being checkpointed: {}",
                    self.config.wal_max, reader.comm, reader.pid, reader.lock
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

    pub(super) fn held_locks(&mut self) {
        if let Some(lock) = &self.facts.dotfile_lock {
            self.find(
                &kinds::STALE_LOCK_FILE,
                Severity::Medium,
                &LOCKS,
                format!("{} is there: a lock of the unix-dotfile VFS, or what is left of one", lock.display()),
                "remove it once no process has the database open",
            );
        }
        for held in self.facts.locks.iter().filter(|held| held.blocks_writers) {
            let Some(since) = self.memory.held_since(held) else { continue };
            let age = self.now.since(since);
            if age >= self.config.lock_max_age {
                let stopped = if held.state == 'T' { " (stopped)" } else { "" };
                self.findings.push(finding(
                    &kinds::LOCKED,
                    Severity::High,
                    &LOCKS,
                    format!(
                        "{} (pid {}, state {}{stopped}) has held {} for {:.0} s",
                        held.comm,
                        held.pid,
                        held.state,
                        held.lock,
                        age.as_secs_f64()
                    ),
                    format!("see what pid {} is doing; never delete a -wal or -journal to clear a lock", held.pid),
                ));
            }
        }
    }
}
