//! Disks that do not answer: when a child on one could not even be killed, the other targets on it are left alone, and one of
//! them is tried now and then. Otherwise each would cost its own stuck child, again and again.

use std::collections::HashMap;
use std::time::Duration;

use crate::clock::Moment;

/// After the first stuck child, the next is risked after this, then after twice as long…
const FIRST_PAUSE: Duration = Duration::from_secs(30);
/// … up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// What is put aside, by the ground that targets stand on (their file system).
#[derive(Debug, Default)]
pub(super) struct Aside {
    grounds: HashMap<String, Pause>,
}

#[derive(Debug)]
struct Pause {
    until: Moment,
    next: Duration,
    /// One target is being tried.
    trying: bool,
}

impl Aside {
    /// `None`: look. Otherwise: not before then.
    pub(super) fn holds(&mut self, ground: Option<&str>, now: Moment) -> Option<Moment> {
        let pause = self.grounds.get_mut(ground?)?;
        if pause.trying || now.boot_ms < pause.until.boot_ms {
            return Some(pause.until.boot_ms.max(now.boot_ms + 1000)).map(|at| Moment { boot_ms: at, ..pause.until });
        }
        pause.trying = true;
        None
    }

    /// Whether `ground` is put aside.
    pub(super) fn has(&self, ground: &str) -> bool {
        self.grounds.contains_key(ground)
    }

    /// A child on `ground` could not be killed. False when that is known: what was not begun for its sake says so, too.
    pub(super) fn stuck(&mut self, ground: &str, now: Moment) -> bool {
        let pause =
            self.grounds.entry(ground.to_owned()).or_insert(Pause { until: now, next: FIRST_PAUSE, trying: false });
        if !pause.trying && now.boot_ms < pause.until.boot_ms {
            return false;
        }
        pause.until = now.after(pause.next);
        pause.next = (pause.next * 2).min(LONGEST_PAUSE);
        pause.trying = false;
        true
    }

    /// A look on `ground` came back. True when it had been put aside: what stands on it is due.
    pub(super) fn answered(&mut self, ground: &str) -> bool {
        self.grounds.remove(ground).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment { wall: jiff::Timestamp::UNIX_EPOCH, boot_ms: 0 }.after(Duration::from_secs(seconds))
    }

    #[test]
    fn one_stuck_disk_is_tried_by_one_target_ever_less_often() {
        let mut aside = Aside::default();
        assert_eq!(aside.holds(Some("nfs"), at(0)), None);
        assert!(aside.stuck("nfs", at(10)));
        assert!(!aside.stuck("nfs", at(10)), "another one's answer for its sake");
        assert_eq!(aside.holds(Some("nfs"), at(20)), Some(at(40)));
        assert_eq!(aside.holds(Some("ext4"), at(20)), None, "other disks are not held up");
        assert_eq!(aside.holds(Some("nfs"), at(40)), None, "one target is tried");
        assert!(aside.holds(Some("nfs"), at(40)).is_some(), "and only one");
        aside.stuck("nfs", at(60));
        assert_eq!(aside.holds(Some("nfs"), at(61)), Some(at(120)), "the pause has doubled");
        assert!(aside.answered("nfs") && !aside.answered("nfs"));
        assert_eq!(aside.holds(Some("nfs"), at(62)), None);
    }
}
