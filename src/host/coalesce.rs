//! Turns a stream of file events into few wakes, and the first of each into one at once. Pure: time is handed in.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

/// What an event says about a file, for one kind must not hold back the other: a file that is written all day must
/// still be reported at once when it is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Touch {
    /// Bytes were written: the kernel says so for each `write`.
    Written,
    /// A descriptor that could write was closed.
    Closed,
    /// Created, removed, moved, or its attributes changed.
    Changed,
}

/// Most paths that are remembered: beyond, one look at everything is cheaper.
const MOST_PATHS: usize = 16_384;

/// Per path and kind: the first event passes, later ones are held back for a time that doubles while they go on.
#[derive(Debug)]
pub(super) struct Coalescer {
    first_hold: Duration,
    longest_hold: Duration,
    hot: HashMap<(PathBuf, Touch), Hot>,
    /// The earliest `until` of `hot`, kept so that a storm over many paths does not search for it each time.
    next_due: Option<Instant>,
}

#[derive(Debug)]
struct Hot {
    hold: Duration,
    until: Instant,
    /// Something came while it was held back.
    again: bool,
}

/// What to do about one event.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Report it now.
    Now,
    /// Held back; [`Coalescer::due`] gives it later.
    Later,
    /// Too many paths: report everything.
    TooMany,
}

impl Coalescer {
    pub(super) fn new(first_hold: Duration, longest_hold: Duration) -> Coalescer {
        Coalescer { first_hold, longest_hold: longest_hold.max(first_hold), hot: HashMap::new(), next_due: None }
    }

    pub(super) fn event(&mut self, path: &Path, touch: Touch, now: Instant) -> Answer {
        let key = (path.to_path_buf(), touch);
        if let Some(hot) = self.hot.get_mut(&key) {
            hot.again = true;
            return Answer::Later;
        }
        if self.hot.len() >= MOST_PATHS {
            self.forget_all();
            return Answer::TooMany;
        }
        let until = now + self.first_hold;
        self.hot.insert(key, Hot { hold: self.first_hold, until, again: false });
        self.next_due = Some(self.next_due.map_or(until, |due| due.min(until)));
        Answer::Now
    }

    /// When [`Coalescer::due`] has something to do next.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.next_due
    }

    /// The paths whose time is over and that were touched meanwhile; the others are forgotten.
    pub(super) fn due(&mut self, now: Instant) -> Vec<(PathBuf, Touch)> {
        if self.next_due.is_none_or(|next| next > now) {
            return Vec::new();
        }
        let longest = self.longest_hold;
        let mut due = Vec::new();
        self.hot.retain(|(path, touch), hot| {
            if hot.until > now {
                return true;
            }
            if !hot.again {
                return false;
            }
            due.push((path.clone(), *touch));
            hot.hold = (hot.hold * 2).min(longest);
            hot.until = now + hot.hold;
            hot.again = false;
            true
        });
        self.next_due = self.hot.values().map(|hot| hot.until).min();
        due
    }

    pub(super) fn forget_all(&mut self) {
        self.hot.clear();
        self.next_due = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn coalescer() -> (Coalescer, Instant) {
        (Coalescer::new(5 * MS, 80 * MS), Instant::now())
    }

    #[test]
    fn the_first_passes_the_next_is_held_back_and_then_passes_once() {
        let (mut coalescer, start) = coalescer();
        let path = Path::new("/a");
        assert_eq!(coalescer.event(path, Touch::Written, start), Answer::Now);
        for at in 1..5 {
            assert_eq!(coalescer.event(path, Touch::Written, start + at * MS), Answer::Later);
        }
        assert_eq!(coalescer.next_due(), Some(start + 5 * MS));
        assert!(coalescer.due(start + 4 * MS).is_empty());
        let due = coalescer.due(start + 5 * MS).into_iter().map(|(path, _)| path).collect::<Vec<_>>();
        assert_eq!(due, [path]);
        assert!(coalescer.due(start + 15 * MS).is_empty());
        assert_eq!(coalescer.next_due(), None);
        assert_eq!(coalescer.event(path, Touch::Written, start + 16 * MS), Answer::Now);
    }

    #[test]
    fn a_deletion_passes_at_once_though_the_file_is_written_all_the_time() {
        let (mut coalescer, start) = coalescer();
        let path = Path::new("/a");
        coalescer.event(path, Touch::Written, start);
        assert_eq!(coalescer.event(path, Touch::Written, start + MS), Answer::Later);
        assert_eq!(coalescer.event(path, Touch::Changed, start + MS), Answer::Now);
        assert_eq!(coalescer.event(Path::new("/b"), Touch::Changed, start + MS), Answer::Now);
    }

    #[test]
    fn a_storm_of_ten_seconds_wakes_few_times() {
        let (mut coalescer, start) = coalescer();
        let path = Path::new("/a");
        let mut wakes = 0;
        for ms in 0..10_000 {
            let now = start + ms * MS;
            wakes += coalescer.due(now).len();
            wakes += usize::from(coalescer.event(path, Touch::Written, now) == Answer::Now);
        }
        // 5 + 10 + 20 + 40, then every 80 ms.
        assert!((120..=130).contains(&wakes), "{wakes}");
    }

    #[test]
    fn more_paths_than_can_be_remembered_mean_everything() {
        let (mut coalescer, start) = coalescer();
        for number in 0..MOST_PATHS {
            let path = PathBuf::from(format!("/{number}"));
            assert_eq!(coalescer.event(&path, Touch::Changed, start), Answer::Now);
        }
        assert_eq!(coalescer.event(Path::new("/one-more"), Touch::Changed, start), Answer::TooMany);
        assert_eq!(coalescer.next_due(), None);
    }
}
