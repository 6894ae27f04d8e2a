//! What the pool says about itself.

use std::panic::Location;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::breaker::BreakerState;

/// How the pool sees its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The server answers.
    Healthy,
    /// Something failed, and a fresh look decides what it was. Connections that stand keep serving; none is opened for callers.
    Degraded,
    /// The server is down, and is tried again with growing waits. Connections that stand, if any, keep serving.
    Recovering,
    /// A round of attempts failed: a pause before the next. The server is still knocked at.
    Cooldown,
    /// Closed by hand.
    Closed,
}

impl State {
    /// As it is written everywhere.
    pub fn name(self) -> &'static str {
        match self {
            State::Healthy => "healthy",
            State::Degraded => "degraded",
            State::Recovering => "recovering",
            State::Cooldown => "cooldown",
            State::Closed => "closed",
        }
    }
}

/// Something changed: each is one line of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The pool's state.
    State {
        /// Before.
        from: State,
        /// After.
        to: State,
    },
    /// The breaker's state.
    Breaker {
        /// Before.
        from: BreakerState,
        /// After.
        to: BreakerState,
    },
    /// How many connections may be open at present.
    Budget {
        /// Before.
        from: u32,
        /// After.
        to: u32,
    },
    /// A connection has been held for longer than `leak_after`. Said once for each.
    Leak {
        /// Who took it.
        place: &'static Location<'static>,
        /// For how long.
        held: Duration,
    },
}

/// Why a caller gets no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The server is down; the next look at it is due in `retry_after`.
    #[error("the server is down: try again in {retry_after:?}")]
    Down {
        /// Before this nothing will have changed.
        retry_after: Duration,
    },
    /// The circuit breaker turned the caller away.
    #[error("too many calls failed, so none is let through: try again in {retry_after:?}")]
    BreakerOpen {
        /// When to ask again.
        retry_after: Duration,
    },
    /// As many callers wait as may wait.
    #[error("too many callers wait for a connection: raise max_size or max_waiters, or send fewer")]
    TooManyWaiters,
    /// The pool is closed.
    #[error("the pool is closed")]
    Closed,
}

/// The pool at one instant. Durations are milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PoolStatus {
    /// The pool's name.
    pub pool: String,
    /// True in the state `healthy`.
    pub healthy: bool,
    /// The state.
    pub state: State,
    /// True while the server is looked for.
    pub recovery_in_progress: bool,
    /// Failures seen since the last success of a look, callers' and the pool's own.
    pub consecutive_failures: u32,
    /// Failed attempts of the present round.
    pub recovery_attempts: u32,
    /// The wait that was drawn before the next attempt, while recovering or cooling down.
    pub current_retry_delay_ms: Option<u64>,
    /// Time since the last failure, if there was one.
    pub since_last_failure_ms: Option<u64>,
    /// When it was, by the wall clock.
    pub last_failure_time: Option<Timestamp>,
    /// What the server, or the way to it, last answered in place of a connection; forgotten when it is well again.
    pub last_error: Option<String>,
    /// The breaker's state.
    pub breaker: BreakerState,
    /// Connections that are ready.
    pub idle: usize,
    /// Connections that callers hold, or are about to collect.
    pub in_use: usize,
    /// Connections and probes that are being opened.
    pub opening: usize,
    /// How many connections may be open at present: `max_size`, or fewer after a failure.
    pub budget: u32,
    /// How many may be open at most.
    pub max_size: u32,
    /// Callers that wait.
    pub waiters: usize,
    /// Connections handed out since the start.
    pub acquired_total: u64,
    /// Callers refused since the start.
    pub refused_total: u64,
    /// Connections opened for callers and kept, since the start.
    pub opened_total: u64,
    /// Connections closed by the pool since the start.
    pub closed_total: u64,
    /// Recoveries since the start: ways back to `healthy`.
    pub recoveries_total: u64,
    /// Attempts at recovery since the start: looks at the server while it was not healthy, bare connects left out.
    pub recovery_attempts_total: u64,
    /// Looks at the server that failed, since the start, bare connects left out.
    pub health_check_failures_total: u64,
    /// Looks that failed since the last one that succeeded.
    pub health_check_consecutive_failures: u32,
    /// Connections that were held for longer than `leak_after`, since the start.
    pub leaks_total: u64,
    /// The 99th percentile of the times that the last connects took, once there are a few.
    pub connect_p99_ms: Option<u64>,
    /// How long a connect may take at present.
    pub connect_limit_ms: u64,
    /// The 99th percentile of the times that the last signs of life took that callers waited for, once there are a few.
    pub validation_p99_ms: Option<u64>,
}
