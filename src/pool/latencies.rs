//! How long things took of late: the last few, in constant memory.

use std::time::Duration;

/// So many are remembered. With this many the 99th percentile is the second longest.
const KEPT: usize = 128;

/// Fewer than this say nothing: the first connects of a process are slower than the rest.
const LEAST: usize = 5;

#[derive(Debug, Default)]
pub(super) struct Latencies {
    /// In the order they came, the oldest overwritten first.
    kept: Vec<Duration>,
    next: usize,
    p99: Option<Duration>,
}

impl Latencies {
    pub(super) fn record(&mut self, took: Duration) {
        match self.kept.get_mut(self.next) {
            Some(oldest) => *oldest = took,
            None => self.kept.push(took),
        }
        self.next = (self.next + 1) % KEPT;
        // Counted here, where something was just waited for, and not where it is asked for.
        let mut sorted = self.kept.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * 99).div_ceil(100).saturating_sub(1);
        self.p99 = if sorted.len() < LEAST { None } else { sorted.get(rank).copied() };
    }

    /// The 99th percentile, once there are a few.
    pub(super) fn p99(&self) -> Option<Duration> {
        self.p99
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_say_nothing_and_one_outlier_in_many_does_not_count() {
        let ms = Duration::from_millis;
        let mut latencies = Latencies::default();
        for took in 1..=4 {
            latencies.record(ms(took));
            assert_eq!(latencies.p99(), None);
        }
        latencies.record(ms(5));
        assert_eq!(latencies.p99(), Some(ms(5)), "of a few, the longest");
        latencies.record(ms(9000));
        for _ in 0..120 {
            latencies.record(ms(10));
        }
        assert_eq!(latencies.p99(), Some(ms(10)));
    }

    #[test]
    fn what_is_long_ago_is_forgotten() {
        let mut latencies = Latencies::default();
        for took in [1000, 1].into_iter().flat_map(|ms| std::iter::repeat_n(Duration::from_millis(ms), KEPT)) {
            latencies.record(took);
        }
        assert_eq!(latencies.p99(), Some(Duration::from_millis(1)));
    }
}
