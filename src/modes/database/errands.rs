//! What is due apart from looking: scheduled checks and backups.

use std::time::Duration;

use jiff::Timestamp;

use crate::clock::Moment;
use crate::job::{
    BackupJob, DatabaseStep, FailureKind, IntegrityLevel, Job, Outcome, Phase, PruneJob, StepJob, TableRows,
};
use crate::modes::{Answer, Errand, ErrandResult, Look};
use crate::telemetry::events;

use super::{Database, kinds};

/// A scheduled `quick_check`, or one on suspicion.
const QUICK: &str = "quick_check";
/// A scheduled `integrity_check`.
const FULL: &str = "integrity_check";
/// A backup.
pub(super) const BACKUP: &str = "backup";
/// The retention, after a backup.
const PRUNE: &str = "prune";
/// Who uses it, for a person who asks.
const WHO: &str = "who";
/// Keeping what programs hold under no name.
const HOLD: &str = "keep_held";
/// Its end is to be seen soon: what it held goes back then.
const UNLINKED_LOOK_AGAIN: Duration = Duration::from_secs(2);
/// A failed backup is tried again after this share of its period: the source may only have been busy.
const RETRY_SHARE: u32 = 4;
/// So often the content of what was found damaged is checked, until a check can tell.
pub(super) const DOUBT_RETRY: Duration = Duration::from_secs(5);
/// This much stays free on a backup's file system.
const FREE_FLOOR_BYTES: u64 = 64 * 1024 * 1024;

impl Database {
    pub(super) fn due_errand(&mut self, now: Moment) -> Option<Errand> {
        if let Some(hold) = self.hold(now) {
            return Some(hold);
        }
        if self.is_in_doubt() {
            return self.until_doubt_is_checked(now).is_zero().then(|| self.check(FULL, IntegrityLevel::Full));
        }
        if !self.may_run_errands() {
            return None;
        }
        if let Some((name, level)) = self.suspicious(now) {
            return Some(self.check(name, level));
        }
        let due = self.schedule(now);
        let (name, _) =
            due.into_iter().flatten().filter(|(_, left)| left.is_zero()).min_by_key(|(name, _)| *name != FULL)?;
        Some(match name {
            FULL => self.check(FULL, IntegrityLevel::Full),
            QUICK => self.check(QUICK, IntegrityLevel::Quick),
            _ => self.backup(now)?,
        })
    }

    pub(super) fn errand_on_demand(&mut self, name: &str, now: Moment) -> Option<Errand> {
        match name {
            BACKUP => self.backup(now),
            WHO => {
                let mut probe = self.probe(Look::Sweep, IntegrityLevel::Suspicion);
                (probe.known, probe.users) = (None, true);
                Some(Errand {
                    name: WHO,
                    job: Job::Probe(Box::new(probe)),
                    deadline: super::SWEEP_PATIENCE,
                    urgent: false,
                })
            }
            _ => None,
        }
    }

    pub(super) fn until_next_errand(&self, now: Moment) -> Option<Duration> {
        if self.is_in_doubt() {
            return Some(self.until_doubt_is_checked(now));
        }
        if !self.may_run_errands() {
            return None;
        }
        if self.suspicious(now).is_some() {
            return Some(Duration::ZERO);
        }
        self.schedule(now).into_iter().flatten().map(|(_, left)| left).min()
    }

    fn until_doubt_is_checked(&self, now: Moment) -> Duration {
        self.checked.map_or(Duration::ZERO, |last| DOUBT_RETRY.saturating_sub(now.since(last)))
    }

    /// While an incident waits for a person, for its next turn or for the end of what holds heals back, what a program holds under no
    /// name is kept: it is gone with the program, and copying it touches nothing of the user's. So it is under `observe` too.
    fn hold(&mut self, now: Moment) -> Option<Errand> {
        let facts = self.facts.as_ref()?;
        let unlinked = self.found.as_ref() == Some(&kinds::FILE_UNLINKED) && facts.cut_off.is_some();
        let kept = facts.held.as_ref().is_some_and(|held| held.kept);
        if !unlinked || kept {
            return None;
        }
        let (incident, evidence) = self.case.clone()?;
        if self.held_at.is_some_and(|at| now.since(at) < UNLINKED_LOOK_AGAIN) {
            return None;
        }
        self.held_at = Some(now);
        let job = StepJob {
            site: self.site(),
            incident,
            evidence,
            phase: Phase::Apply,
            step: DatabaseStep::KeepHeld,
            last: self.memory.last_healthy.clone(),
            basis: None,
            wal_verified: None,
        };
        Some(Errand { name: HOLD, job: Job::Step(Box::new(job)), deadline: self.whole_file_patience(), urgent: true })
    }

    /// When to look again while programs go on with files that are gone.
    pub(super) fn unlinked_look_again(&self) -> Option<Duration> {
        let facts = self.facts.as_ref().filter(|_| self.found.as_ref() == Some(&kinds::FILE_UNLINKED))?;
        facts.cut_off.is_some().then_some(UNLINKED_LOOK_AGAIN)
    }

    /// Neither a check nor a backup is taken of what is not healthy: an incident is open, or will be. But for a WAL that is
    /// too large: that may last, and must not hide damage, nor let the last backup grow old. Content that could not be checked may be
    /// checked again: its program may do without what is missing here, one day.
    fn may_run_errands(&self) -> bool {
        let unjudged = self.found.is_none() && self.memory.unjudged.is_some();
        self.healthy || unjudged || self.found.as_ref().is_some_and(kinds::is_mild)
    }

    /// The check that a look called for and did not make itself, for the file is too large for a sweep.
    ///
    /// What SQLite never does is checked at once and in full. What it may have done (a program that opened a WAL database, wrote
    /// and closed it: one a minute, with cron) is checked after a quiet time, and then not more often than a quick check is due.
    fn suspicious(&self, now: Moment) -> Option<(&'static str, IntegrityLevel)> {
        let every = self.config.integrity.quick;
        match self.doubt? {
            IntegrityLevel::Full => Some((FULL, IntegrityLevel::Full)),
            _ if self.checked.is_some_and(|last| now.since(last) < every) => None,
            _ => Some((QUICK, IntegrityLevel::Quick)),
        }
    }

    /// What is scheduled, and in how long.
    fn schedule(&self, now: Moment) -> [Option<(&'static str, Duration)>; 3] {
        let quick = self.config.integrity.quick;
        let full = self.config.integrity.full;
        let backup = self.config.backup.as_ref().map(|backup| {
            // One from the future was taken before the clock was set back: when, nobody knows.
            let taken = self.memory.backup.as_ref().map(|backup| backup.taken_at).filter(|taken| *taken <= now.wall);
            let failed_since = self.memory.backup_tried_at.filter(|tried| taken.is_none_or(|taken| taken < *tried));
            let left = match failed_since {
                Some(tried) => left(Some(tried), backup.every / RETRY_SHARE, now),
                None => left(taken, backup.every, now),
            };
            (BACKUP, left)
        });
        [
            Some((FULL, left(self.memory.full_at, full, now))),
            Some((QUICK, left(self.memory.quick_at, quick, now))),
            backup,
        ]
    }

    fn check(&self, name: &'static str, level: IntegrityLevel) -> Errand {
        let mut probe = self.probe(Look::Sweep, level);
        // It is no look among thousands: it waits for a lock like a program of the database's own.
        (probe.site, probe.known) = (self.patient_site(), None);
        // The whole WAL too: a sweep only reads on from where it was.
        (probe.wal_mark, probe.wal_marked) = (None, None);
        probe.inline_max_bytes = u64::MAX;
        Errand { name, job: Job::Probe(Box::new(probe)), deadline: self.whole_file_patience(), urgent: false }
    }

    fn backup(&mut self, now: Moment) -> Option<Errand> {
        let folder = self.backup_folder()?;
        self.memory.backup_tried_at = Some(now.wall);
        let deadline = self.whole_file_patience();
        let job = BackupJob {
            site: self.patient_site(),
            target: self.config.name.clone(),
            folder,
            fs_id: self.memory.place.as_ref().map(|place| place.fs_id.clone()).filter(|id| !id.is_empty()),
            free_floor: FREE_FLOOR_BYTES,
            deadline_ms: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
        };
        Some(Errand { name: BACKUP, job: Job::Backup(Box::new(job)), deadline, urgent: false })
    }

    pub(super) fn finish_errand(&mut self, name: &'static str, answer: &Answer, now: Moment) -> ErrandResult {
        match name {
            BACKUP => self.backup_done(answer, now),
            WHO => ErrandResult { check: Some(self.conclude(Look::Sweep, answer, now)), then: None },
            HOLD => {
                if let Err(failure) = answer {
                    tracing::warn!(
                        target = self.settings.target,
                        error = failure.message,
                        "what a program holds is not kept"
                    );
                }
                ErrandResult::default()
            }
            PRUNE => {
                if let Err(failure) = answer {
                    tracing::warn!(
                        target = self.settings.target,
                        error = failure.message,
                        "old backups could not be deleted"
                    );
                }
                ErrandResult::default()
            }
            _ => {
                let check = self.conclude(Look::Sweep, answer, now);
                // A check that could not be finished is due again at its next time, not at once for ever.
                let tried = Some(now.wall);
                self.memory.quick_at = tried;
                self.checked = Some(now);
                self.doubt = self.doubt.filter(|doubt| name == QUICK && *doubt == IntegrityLevel::Full);
                if name == FULL {
                    self.memory.full_at = tried;
                }
                ErrandResult { check: Some(check), then: None }
            }
        }
    }

    fn backup_done(&mut self, answer: &Answer, now: Moment) -> ErrandResult {
        let target = self.settings.target.clone();
        match answer {
            Ok(Outcome::BackedUp(entry)) => {
                self.tell_rows_gone(&entry.manifest.tables);
                self.memory.note_backup(entry);
                events::BackupTaken {
                    target: &target,
                    file: &entry.file,
                    size_bytes: entry.manifest.size,
                    taken_at: entry.manifest.taken_at,
                    verified_at: entry.manifest.verified_at,
                    seconds: entry.manifest.duration_seconds,
                }
                .emit();
                ErrandResult { check: None, then: self.prune(now) }
            }
            Ok(_) => ErrandResult::default(),
            Err(failure) => {
                match failure.kind {
                    FailureKind::Blocked => {
                        events::BackupBlocked { target: &target, detail: &failure.message }.emit();
                    }
                    _ => events::BackupFailed { target: &target, error: &failure.message }.emit(),
                }
                // What makes a copy fail its check, or be refused for damage, is looked at now and not at the next turn.
                let then = (failure.kind == FailureKind::Failed).then(|| self.check(FULL, IntegrityLevel::Full));
                ErrandResult { check: None, then }
            }
        }
    }

    /// Says it once: the next backup is compared with this one.
    fn tell_rows_gone(&self, tables: &[TableRows]) {
        let Some(before) = &self.memory.backup else { return };
        let (rows_before, rows) = (TableRows::sum(&before.tables), TableRows::sum(tables));
        // What the retention goes by, too.
        if rows_before > rows.saturating_mul(2) {
            let (target, taken_before) = (self.settings.target.as_str(), before.taken_at);
            events::RowsGone { target, rows_before, taken_before, rows }.emit();
        }
    }

    fn prune(&self, now: Moment) -> Option<Errand> {
        let backup = self.config.backup.as_ref()?;
        let job = PruneJob { folder: self.backup_folder()?, keep: backup.keep, max_bytes: backup.max, now: now.wall };
        Some(Errand { name: PRUNE, job: Job::Prune(job), deadline: Duration::from_secs(60), urgent: false })
    }
}

/// What is left of `every` since `last`; nothing when it never happened. A wall clock that was set back counts as never
/// having moved, so that nothing waits for the time to come round again.
fn left(last: Option<Timestamp>, every: Duration, now: Moment) -> Duration {
    let Some(last) = last else { return Duration::ZERO };
    let passed = Duration::try_from(now.wall.duration_since(last)).unwrap_or(every);
    every.saturating_sub(passed)
}

#[cfg(test)]
#[path = "errands_tests.rs"]
mod tests;
