//! Gates: whether a heal may begin now. Cooldown counts from the attempt, not from its success; a budget bounds attempts.

use std::collections::HashMap;
use std::time::Duration;

use crate::clock::Moment;
use crate::telemetry::DeferReason;

/// The limits, per (target, mode).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GatesConfig {
    /// After an attempt, before the next.
    pub cooldown: Duration,
    /// At most so many attempts…
    pub heals_max: u32,
    /// … within this.
    pub heals_per: Duration,
}

/// What a gate says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Admission {
    /// Begin; the attempt is counted.
    Go,
    /// Not now.
    Hold {
        /// Which gate holds.
        reason: DeferReason,
        /// When it opens.
        left: Duration,
    },
}

/// The gates of all targets.
#[derive(Debug)]
pub struct Gates {
    config: GatesConfig,
    attempts: HashMap<(String, String), Vec<Moment>>,
}

impl Gates {
    /// Gates that have seen no attempt.
    pub fn new(config: GatesConfig) -> Gates {
        Gates { config, attempts: HashMap::new() }
    }

    /// Other limits from now on; attempts stay counted.
    pub fn reconfigure(&mut self, config: GatesConfig) {
        self.config = config;
    }

    /// An attempt of an earlier process, so that a restart does not refill the budget.
    pub fn recall(&mut self, target: &str, mode: &str, at: Moment) {
        let attempts = self.attempts.entry((target.to_owned(), mode.to_owned())).or_default();
        attempts.push(at);
        attempts.sort_by_key(|at| at.boot_ms);
    }

    /// Asks for one attempt.
    pub fn admit(&mut self, target: &str, mode: &str, now: Moment) -> Admission {
        let GatesConfig { cooldown, heals_max, heals_per } = self.config;
        let attempts = self.attempts.entry((target.to_owned(), mode.to_owned())).or_default();
        attempts.retain(|at| now.since(*at) < heals_per);
        if let Some(last) = attempts.last() {
            let passed = now.since(*last);
            if passed < cooldown {
                return Admission::Hold { reason: DeferReason::Cooldown, left: cooldown - passed };
            }
        }
        if attempts.len() >= heals_max as usize {
            let left = attempts.first().map_or(heals_per, |first| heals_per.saturating_sub(now.since(*first)));
            return Admission::Hold { reason: DeferReason::Budget, left };
        }
        attempts.push(now);
        Admission::Go
    }

    /// Counts an attempt that a person asked for: it passes every gate, and still starts the cooldown.
    pub fn note(&mut self, target: &str, mode: &str, now: Moment) {
        self.attempts.entry((target.to_owned(), mode.to_owned())).or_default().push(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gates() -> Gates {
        Gates::new(GatesConfig {
            cooldown: Duration::from_secs(30),
            heals_max: 3,
            heals_per: Duration::from_secs(3600),
        })
    }

    fn at(seconds: u64) -> Moment {
        Moment { wall: jiff::Timestamp::UNIX_EPOCH, boot_ms: 0 }.after(Duration::from_secs(seconds))
    }

    #[test]
    fn the_cooldown_counts_from_the_attempt() {
        let mut gates = gates();
        assert_eq!(gates.admit("app", "database", at(0)), Admission::Go);
        let held = gates.admit("app", "database", at(10));
        assert_eq!(held, Admission::Hold { reason: DeferReason::Cooldown, left: Duration::from_secs(20) });
        assert_eq!(gates.admit("app", "database", at(30)), Admission::Go);
    }

    #[test]
    fn the_budget_bounds_attempts_within_its_window() {
        let mut gates = gates();
        for start in [0, 100, 200] {
            assert_eq!(gates.admit("app", "database", at(start)), Admission::Go);
        }
        let held = gates.admit("app", "database", at(300));
        assert_eq!(held, Admission::Hold { reason: DeferReason::Budget, left: Duration::from_secs(3300) });
        assert_eq!(gates.admit("app", "database", at(3600)), Admission::Go);
    }

    #[test]
    fn targets_do_not_share_gates() {
        let mut gates = gates();
        assert_eq!(gates.admit("a", "database", at(0)), Admission::Go);
        assert_eq!(gates.admit("b", "database", at(0)), Admission::Go);
        assert_ne!(gates.admit("a", "database", at(1)), Admission::Go);
    }

    #[test]
    fn a_restart_does_not_refill_the_budget() {
        let mut gates = gates();
        for start in [0, 40, 80] {
            gates.recall("app", "database", at(start));
        }
        assert!(matches!(gates.admit("app", "database", at(200)), Admission::Hold { reason: DeferReason::Budget, .. }));
    }
}
