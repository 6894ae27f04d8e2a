//! When to look next: spread over the interval, at once after a change, and less often at what changes all the time.

use std::time::Duration;

use crate::clock::Moment;

/// So many targets are looked at together; more are spread over the interval, so that a thousand do not start at once.
pub(super) const TOGETHER: usize = 64;
/// Events within this after a look were most likely caused by it: SQLite makes and removes side files (rule 25).
const OWN_EVENTS: Duration = Duration::from_millis(25);
/// A file that keeps changing is looked at no more often than this on account of it: a hundred busy databases must not cost
/// a hundred looks a second.
const BUSY_GAP_MAX: Duration = Duration::from_secs(5);
/// Pauses of busy files end on the same instants, so that their looks share a child.
const BUSY_GRID_MS: u64 = 250;
/// The first pause between two looks at a file that keeps changing.
const BUSY_GAP_MIN: Duration = Duration::from_millis(50);

/// The share of an interval within which looks that are due soon join one that is due now.
const SLACK_SHARE: u32 = 10;

/// How much a change can wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    /// Bytes were written to a side file: a database's everyday.
    Eventually,
    /// Bytes were written to the database itself: a checkpoint, a commit without a WAL, or damage.
    Soon,
    /// A database came, went or was replaced.
    AtOnce,
}

/// One target's next look.
#[derive(Debug, Clone)]
pub(super) struct Due {
    interval: Duration,
    at: Moment,
    looked: Option<Moment>,
    /// Pauses between looks on account of writes, to side files and to the database: the everyday of a WAL must not hold
    /// back what a header overwritten or a file cut short looks like.
    gaps: [Duration; 2],
    jitter: u64,
}

impl Due {
    /// Target number `index` of `of`, from `now` on. `seed` spreads the later looks.
    pub(super) fn first(index: usize, of: usize, interval: Duration, now: Moment, seed: u64) -> Due {
        let groups = of.div_ceil(TOGETHER).max(1);
        let group = index / TOGETHER;
        let wait = interval.mul_f64(group as f64 / groups as f64);
        Due { interval, at: now.after(wait), looked: None, gaps: [Duration::ZERO; 2], jitter: seed | 1 }
    }

    /// When.
    pub(super) fn at(&self) -> Moment {
        self.at
    }

    /// Due now, or so soon that it may join what is due now.
    pub(super) fn is_due(&self, now: Moment) -> bool {
        let early = self.interval / SLACK_SHARE;
        self.at.boot_ms <= now.after(if self.looked.is_some() { early } else { Duration::ZERO }).boot_ms
    }

    /// A look is under way, or was just made: the next is an interval away at most.
    pub(super) fn looked(&mut self, now: Moment, again: Option<Duration>) {
        // xorshift: the point is only that targets do not stay in step.
        self.jitter ^= self.jitter << 13;
        self.jitter ^= self.jitter >> 7;
        self.jitter ^= self.jitter << 17;
        let early = self.interval.mul_f64((self.jitter % 1000) as f64 / 1000.0 / f64::from(SLACK_SHARE));
        let regular = self.interval.saturating_sub(early);
        self.at = now.after(again.map_or(regular, |again| again.min(regular)));
        self.looked = Some(now);
    }

    /// The interval changed.
    pub(super) fn reinterval(&mut self, interval: Duration) {
        self.interval = interval;
    }

    /// A file of the target changed: look at once, or when the pause of a busy file is over.
    pub(super) fn wake(&mut self, now: Moment, urgency: Urgency) {
        let Some(looked) = self.looked else {
            self.at = now;
            return;
        };
        let quiet = now.since(looked);
        let gap = match urgency {
            Urgency::Eventually => Some(&mut self.gaps[0]),
            Urgency::Soon => Some(&mut self.gaps[1]),
            Urgency::AtOnce => None,
        };
        let pause = gap.as_ref().map_or(OWN_EVENTS, |gap| OWN_EVENTS.max(**gap));
        let at = match quiet > pause {
            true => now,
            false if pause < Duration::from_millis(BUSY_GRID_MS) => looked.after(pause),
            false => on_grid(looked.after(pause)),
        };
        if at.boot_ms < self.at.boot_ms {
            self.at = at;
            if let Some(gap) = gap {
                let calm = quiet > BUSY_GAP_MAX;
                *gap = if calm { Duration::ZERO } else { (*gap * 2).clamp(BUSY_GAP_MIN, BUSY_GAP_MAX) };
            }
        }
    }

    /// It was attended: what its files went through meanwhile was our doing, and says nothing of how busy it is.
    pub(super) fn attended(&mut self, now: Moment, again: Option<Duration>) {
        self.looked(now, again);
        self.gaps = [Duration::ZERO; 2];
    }

    /// Not before `at`: what it stands on does not answer.
    pub(super) fn not_before(&mut self, at: Moment) {
        self.at = at;
    }

    /// Look at once, whatever else.
    pub(super) fn now(&mut self, now: Moment) {
        self.at = now;
    }
}

fn on_grid(at: Moment) -> Moment {
    let over = at.boot_ms % BUSY_GRID_MS;
    at.after(Duration::from_millis((BUSY_GRID_MS - over) % BUSY_GRID_MS))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment { wall: jiff::Timestamp::UNIX_EPOCH, boot_ms: 0 }.after(Duration::from_millis(ms))
    }

    const INTERVAL: Duration = Duration::from_secs(30);

    #[test]
    fn a_few_targets_start_at_once_and_a_thousand_do_not() {
        assert!((0..TOGETHER).all(|index| Due::first(index, TOGETHER, INTERVAL, at(0), 7).at() == at(0)));
        let starts =
            (0..1000).map(|index| Due::first(index, 1000, INTERVAL, at(0), 7).at().boot_ms).collect::<Vec<_>>();
        let most = starts.iter().map(|start| starts.iter().filter(|other| *other == start).count()).max();
        assert_eq!(most, Some(TOGETHER));
        assert!(starts.iter().all(|start| *start < 30_000));
    }

    #[test]
    fn every_target_is_looked_at_at_least_each_interval() {
        let mut due = Due::first(0, 1, INTERVAL, at(0), 99);
        let mut now = at(0);
        for _ in 0..100 {
            due.looked(now, None);
            let next = due.at();
            assert!(next.since(now) <= INTERVAL && next.since(now) >= INTERVAL * 8 / 10);
            now = next;
        }
    }

    #[test]
    fn the_first_change_after_a_quiet_time_is_looked_at_at_once() {
        let mut due = Due::first(0, 1, INTERVAL, at(0), 3);
        due.looked(at(0), None);
        due.wake(at(5_000), Urgency::Soon);
        assert_eq!(due.at(), at(5_000));
    }

    #[test]
    fn what_our_own_look_stirred_up_is_looked_at_once_more_and_not_for_ever() {
        let mut due = Due::first(0, 1, INTERVAL, at(0), 3);
        due.looked(at(0), None);
        due.wake(at(1), Urgency::AtOnce);
        assert_eq!(due.at(), at(25));
    }

    /// Looks in 60 s at a file that changes every millisecond.
    fn looks(urgency: impl Fn(u64) -> Urgency) -> Vec<u64> {
        let mut due = Due::first(0, 1, INTERVAL, at(0), 3);
        let mut looks = Vec::new();
        due.looked(at(0), None);
        for ms in 0..60_000 {
            due.wake(at(ms), urgency(ms));
            if due.at().boot_ms <= ms {
                due.looked(at(ms), None);
                looks.push(ms);
            }
        }
        looks
    }

    #[test]
    fn a_file_that_keeps_changing_is_looked_at_ever_less_often_and_together_with_others() {
        let looks = looks(|_| Urgency::Soon);
        assert!((12..30).contains(&looks.len()), "{looks:?}");
        assert!(looks.iter().rev().take(10).all(|at| at % BUSY_GRID_MS == 0), "{looks:?}");
    }

    #[test]
    fn a_wal_that_is_written_all_day_does_not_hold_back_a_look_at_the_database_itself() {
        let looks = looks(|ms| if ms == 40_123 { Urgency::Soon } else { Urgency::Eventually });
        assert!(looks.contains(&40_123) && looks.len() < 30, "{looks:?}");
    }

    #[test]
    fn what_a_heal_stirs_up_leaves_no_pause_behind() {
        let mut due = Due::first(0, 1, INTERVAL, at(0), 3);
        for ms in 0..1_000 {
            due.wake(at(ms), Urgency::Soon);
            due.looked(at(ms), None);
        }
        due.attended(at(1_000), None);
        due.wake(at(1_100), Urgency::Soon);
        assert_eq!(due.at(), at(1_100));
    }

    #[test]
    fn a_database_that_goes_is_looked_at_at_once_however_busy_it_was() {
        let looks = looks(|ms| if ms == 40_123 { Urgency::AtOnce } else { Urgency::Soon });
        assert!(looks.contains(&40_123), "{looks:?}");
    }
}
