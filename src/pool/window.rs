//! Calls of the last while, counted in buckets: constant memory however many calls there are.

use std::time::Duration;

/// Buckets to a window: the oldest calls leave it a tenth of the window at a time.
const BUCKETS: usize = 10;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) calls: u64,
    pub(super) failed: u64,
    pub(super) slow: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Window {
    span: Duration,
    /// The number of the newest bucket since time zero.
    newest: u128,
    buckets: [Counts; BUCKETS],
}

impl Window {
    pub(super) fn new(span: Duration) -> Window {
        Window { span: span.max(Duration::from_millis(10)), newest: 0, buckets: [Counts::default(); BUCKETS] }
    }

    pub(super) fn record(&mut self, now: Duration, failed: bool, slow: bool) {
        self.advance(now);
        let bucket = &mut self.buckets[index(self.newest)];
        bucket.calls += 1;
        bucket.failed += u64::from(failed);
        bucket.slow += u64::from(slow);
    }

    /// What was recorded in the window that ends now.
    pub(super) fn counts(&mut self, now: Duration) -> Counts {
        self.advance(now);
        self.buckets.iter().fold(Counts::default(), |sum, bucket| Counts {
            calls: sum.calls + bucket.calls,
            failed: sum.failed + bucket.failed,
            slow: sum.slow + bucket.slow,
        })
    }

    pub(super) fn clear(&mut self) {
        self.buckets = [Counts::default(); BUCKETS];
    }

    /// Empties the buckets that time has passed over. Time that went backwards moves nothing.
    fn advance(&mut self, now: Duration) {
        let number = now.as_nanos() / (self.span.as_nanos() / BUCKETS as u128).max(1);
        let passed = number.saturating_sub(self.newest);
        if passed >= BUCKETS as u128 {
            self.clear();
        } else {
            for step in 1..=passed {
                self.buckets[index(self.newest + step)] = Counts::default();
            }
        }
        self.newest = self.newest.max(number);
    }
}

fn index(number: u128) -> usize {
    usize::try_from(number % BUCKETS as u128).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_counts_for_the_window_and_no_longer() {
        let at = Duration::from_millis;
        let mut window = Window::new(at(1000));
        window.record(at(50), true, false);
        window.record(at(950), false, true);
        assert_eq!(window.counts(at(999)), Counts { calls: 2, failed: 1, slow: 1 });
        assert_eq!(window.counts(at(1000)), Counts { calls: 1, failed: 0, slow: 1 });
        assert_eq!(window.counts(at(500)).calls, 1, "time that went backwards brings nothing back");
        assert_eq!(window.counts(at(1900)), Counts::default());
        window.record(at(1_000_000), true, true);
        assert_eq!(window.counts(at(1_000_000)).failed, 1);
    }
}
