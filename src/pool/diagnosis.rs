//! How a pool is, in words.

use std::time::Duration;

use serde::Serialize;

use super::breaker::BreakerState;
use super::event::{PoolStatus, State};

/// What [`Pool::health_check`](super::Pool::health_check) found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// True when the server answers, callers are let through, and nobody waits without need.
    pub healthy: bool,
    /// One sentence.
    pub summary: String,
    /// What may be done, the most urgent first; empty when nothing need be.
    pub recommendations: Vec<String>,
    /// What it was concluded from.
    pub status: PoolStatus,
}

impl Diagnosis {
    pub(super) fn of(status: PoolStatus) -> Diagnosis {
        let mut recommendations = Vec::new();
        let used_up = status.in_use >= status.max_size as usize;
        let mut summary = match status.state {
            State::Healthy => {
                format!("the server answers; {} of {} connections are in use", status.in_use, status.max_size)
            }
            State::Degraded => "something failed, and the server is being looked at".to_owned(),
            State::Recovering => format!("the server is down: {} attempts failed", status.recovery_attempts),
            State::Cooldown => "the server is down, and a round of attempts failed".to_owned(),
            State::Closed => "the pool was closed".to_owned(),
        };
        if let Some(error) = &status.last_error {
            summary.push_str(&format!("; the server last said: {error}"));
        }
        match status.state {
            State::Recovering | State::Cooldown => {
                let wait = status.current_retry_delay_ms.map_or(String::new(), |ms| {
                    format!(
                        "; the present wait is {:?}, shortened as soon as the server lets in",
                        Duration::from_millis(ms)
                    )
                });
                recommendations.push(format!(
                    "see whether the server runs and lets this host in: the pool comes back by itself{wait}; force_reopen \
                     looks at once"
                ));
            }
            State::Closed => recommendations.push("force_reopen opens it again".to_owned()),
            State::Healthy | State::Degraded => {}
        }
        match status.breaker {
            BreakerState::Isolated => {
                recommendations.push("callers are turned away by hand: reset_circuit_breaker lets them in again".to_owned());
            }
            BreakerState::Open | BreakerState::HalfOpen => recommendations.push(
                "callers are turned away because calls failed or were slow: see why they do; the breaker closes by itself when \
                 they work, and reset_circuit_breaker closes it at once"
                    .to_owned(),
            ),
            BreakerState::Closed => {}
        }
        if used_up && status.waiters > 0 {
            recommendations.push(format!(
                "{} callers wait while all {} connections are in use: hold them for less long, or raise max_size",
                status.waiters, status.max_size
            ));
        }
        if status.leaks_total > 0 {
            recommendations.push(format!(
                "{} connections were held for longer than leak_after: the log names the places that took them",
                status.leaks_total
            ));
        }
        let healthy = status.healthy && status.breaker == BreakerState::Closed && !(used_up && status.waiters > 0);
        Diagnosis { healthy, summary, recommendations, status }
    }
}

#[cfg(test)]
mod tests {
    use super::super::core::Core;
    use super::super::params::Params;
    use super::*;

    fn status() -> PoolStatus {
        Core::<(), ()>::new(Params::default(), 1, Duration::ZERO).status(Duration::ZERO)
    }

    #[test]
    fn a_pool_that_is_well_needs_nothing() {
        let diagnosis = Diagnosis::of(status());
        assert!(diagnosis.healthy && diagnosis.recommendations.is_empty(), "{diagnosis:?}");
    }

    #[test]
    fn each_trouble_is_told_with_what_may_be_done() {
        let down = PoolStatus {
            healthy: false,
            state: State::Recovering,
            recovery_attempts: 3,
            current_retry_delay_ms: Some(1500),
            last_error: Some("connection refused".to_owned()),
            ..status()
        };
        let used_up = PoolStatus { in_use: 10, waiters: 4, ..status() };
        for (status, said, advised) in [
            (down, "3 attempts failed; the server last said: connection refused", "present wait is 1.5s"),
            (PoolStatus { healthy: false, state: State::Closed, ..status() }, "closed", "force_reopen"),
            (PoolStatus { breaker: BreakerState::Isolated, ..status() }, "answers", "by hand: reset_circuit_breaker"),
            (PoolStatus { breaker: BreakerState::Open, ..status() }, "answers", "closes by itself"),
            (used_up, "10 of 10", "4 callers wait"),
        ] {
            let diagnosis = Diagnosis::of(status);
            assert!(!diagnosis.healthy, "{diagnosis:?}");
            assert!(diagnosis.summary.contains(said), "{diagnosis:?}");
            assert!(diagnosis.recommendations.iter().any(|words| words.contains(advised)), "{diagnosis:?}");
        }
        let leaky = Diagnosis::of(PoolStatus { leaks_total: 2, ..status() });
        assert!(leaky.healthy && leaky.recommendations[0].starts_with("2 connections"));
    }
}
