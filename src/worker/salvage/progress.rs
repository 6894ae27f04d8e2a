//! How far a salvage is, told on the standard error of a child that a person waits for.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::job::PartDone;

/// Between two lines, in milliseconds.
const PAUSE_MS: u64 = 100;

/// All pages are looked at.
pub(super) const READING: &str = "reading pages";
/// Pages go over as they are.
pub(super) const MOVING: &str = "moving sound pages";
/// Rows of pages that are not sound.
pub(super) const ROWS: &str = "taking rows one by one";
/// What had not gone over.
pub(super) const INDEXES: &str = "making indexes";
/// The last part, but for what only SQLite can check.
pub(super) const CHECKING: &str = "checking the new database";

/// A child does one job at a time; several of its threads count.
static PROGRESS: Progress = Progress {
    is_told: AtomicBool::new(false),
    part: Mutex::new(None),
    done: AtomicU64::new(0),
    of: AtomicU64::new(0),
    told_ms: AtomicU64::new(0),
};

struct Progress {
    is_told: AtomicBool,
    /// What is done, and since when the job is.
    part: Mutex<Option<(&'static str, Instant)>>,
    done: AtomicU64,
    of: AtomicU64,
    /// When a line was written last, in milliseconds from the job's beginning.
    told_ms: AtomicU64,
}

/// From now on it is told.
pub(super) fn tell() {
    PROGRESS.is_told.store(true, Ordering::Relaxed);
}

/// A part begins; it is done when there were so `many` steps.
pub(super) fn part(name: &'static str, many: u64) {
    if !PROGRESS.is_told.load(Ordering::Relaxed) {
        return;
    }
    let mut part = PROGRESS.part.lock().unwrap_or_else(PoisonError::into_inner);
    *part = Some((name, part.map_or_else(Instant::now, |(_, begun)| begun)));
    PROGRESS.done.store(0, Ordering::Relaxed);
    PROGRESS.of.store(many, Ordering::Relaxed);
}

/// So many steps more of this part; of another one, none.
pub(super) fn step(of: &str, count: u64) {
    if !PROGRESS.is_told.load(Ordering::Relaxed) {
        return;
    }
    let part = *PROGRESS.part.lock().unwrap_or_else(PoisonError::into_inner);
    let Some((name, begun)) = part.filter(|(name, _)| *name == of) else { return };
    let done = PROGRESS.done.fetch_add(count, Ordering::Relaxed) + count;
    let now = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let told = PROGRESS.told_ms.load(Ordering::Relaxed);
    let is_due = now >= told + PAUSE_MS;
    if is_due && PROGRESS.told_ms.compare_exchange(told, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
        let of = PROGRESS.of.load(Ordering::Relaxed);
        let line = PartDone { part: name.to_owned(), done: done.min(of), of }.line();
        // Nobody has to listen.
        let _ = writeln!(std::io::stderr().lock(), "{line}");
    }
}
