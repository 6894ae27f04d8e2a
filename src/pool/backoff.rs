//! How long to wait before the next attempt: exponential, with full jitter.
//!
//! Full jitter draws the wait evenly from zero to the ceiling, and only the ceiling doubles. It spreads a fleet that lost the
//! same server at the same instant over the whole span; `backon`'s jitter draws from one to two times the delay, so that
//! nobody tries early and the maximum is passed, and its iterator cannot take new parameters on the way. So this is counted
//! here, as a function of the attempts alone.

use std::time::Duration;

use super::params::Retry;

/// Draws waits from a seed: the same seed gives the same waits.
#[derive(Debug, Clone)]
pub struct Backoff(fastrand::Rng);

impl Backoff {
    /// A source of waits.
    pub fn new(seed: u64) -> Backoff {
        Backoff(fastrand::Rng::with_seed(seed))
    }

    /// The longest wait after `failed` attempts: the initial delay, doubled for each failure after the first, at most the
    /// maximum.
    pub fn ceiling(retry: &Retry, failed: u32) -> Duration {
        let doublings = failed.saturating_sub(1);
        let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
        retry.initial_delay.saturating_mul(factor).min(retry.max_delay)
    }

    /// A wait after `failed` attempts, from zero to the ceiling.
    pub fn delay(&mut self, retry: &Retry, failed: u32) -> Duration {
        self.up_to(Backoff::ceiling(retry, failed))
    }

    /// `span`, shortened by up to a tenth.
    pub(super) fn about(&mut self, span: Duration) -> Duration {
        span.saturating_sub(self.up_to(span / 10))
    }

    fn up_to(&mut self, span: Duration) -> Duration {
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.0.u64(0..=nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_doubles_up_to_a_minute() {
        let retry = Retry::default();
        let seconds: Vec<u64> = (0..10).map(|failed| Backoff::ceiling(&retry, failed).as_secs()).collect();
        assert_eq!(seconds, [1, 1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(Backoff::ceiling(&retry, u32::MAX), Duration::from_secs(60));
    }

    #[test]
    fn waits_fill_the_whole_span_and_never_pass_the_ceiling() {
        let retry = Retry::default();
        let mut backoff = Backoff::new(7);
        for failed in [1, 4, 30] {
            let ceiling = Backoff::ceiling(&retry, failed);
            let waits: Vec<Duration> = (0..1000).map(|_| backoff.delay(&retry, failed)).collect();
            assert!(waits.iter().all(|wait| *wait <= ceiling));
            for tenth in 0..10 {
                let drawn =
                    waits.iter().filter(|wait| **wait >= ceiling / 10 * tenth && **wait < ceiling / 10 * (tenth + 1));
                assert!(drawn.count() > 50, "after {failed}: tenth {tenth}");
            }
        }
    }

    #[test]
    fn a_seed_gives_the_same_waits_again_and_another_gives_others() {
        let waits = |seed| {
            let mut backoff = Backoff::new(seed);
            (1..20).map(|failed| backoff.delay(&Retry::default(), failed)).collect::<Vec<_>>()
        };
        assert_eq!(waits(1), waits(1));
        assert_ne!(waits(1), waits(2));
    }

    #[test]
    fn a_limit_is_shortened_by_a_tenth_at_most() {
        let mut backoff = Backoff::new(1);
        let hour = Duration::from_secs(3600);
        assert!((0..1000).map(|_| backoff.about(hour)).all(|span| span <= hour && span >= hour / 10 * 9));
    }
}
