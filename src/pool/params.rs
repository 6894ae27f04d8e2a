//! What can be set, and what is set when nothing is said.

use std::time::Duration;

/// The pool's parameters. Durations and counts of zero that would stop the pool count as the smallest that does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Params {
    /// Most connections at any time, those being opened and the pool's own probes included.
    pub max_size: u32,
    /// Connections kept open for the next caller while the server is up.
    pub min_idle: u32,
    /// Most callers that may wait; one more is refused at once.
    pub max_waiters: usize,
    /// A connection unused for this long is closed, unless `min_idle` needs it; up to a tenth earlier, by chance.
    pub idle_timeout: Option<Duration>,
    /// A connection of this age is closed when it is not in use; up to a tenth earlier, by chance, so that connections that
    /// were opened together do not end together.
    pub max_lifetime: Option<Duration>,
    /// A caller that waits for longer is refused.
    pub acquire_timeout: Duration,
    /// A connect, probe or validation that has not ended by now counts as failed.
    pub connect_timeout: Duration,
    /// Gives up sooner than `connect_timeout` on a server that is known to answer fast; `None` for `connect_timeout` alone.
    pub adaptive: Option<Adaptive>,
    /// A connection that has worked within this span is handed out unseen; an older one is asked for a sign of life first, as
    /// is every one that has not worked since the last failure.
    pub validate_after: Duration,
    /// Time between looks at a server that seems well, each on a fresh connection; and how long a connection may lie idle
    /// before it is asked for a sign of life.
    pub health_interval: Duration,
    /// While the server is down: time between bare connects, which cut the wait short when they succeed.
    pub knock_interval: Duration,
    /// A connection held for longer is reported, once, with the place that took it.
    pub leak_after: Option<Duration>,
    /// When recovery is tried.
    pub retry: Retry,
    /// When callers are turned away.
    pub breaker: BreakerParams,
}

impl Default for Params {
    fn default() -> Params {
        Params {
            max_size: 10,
            min_idle: 0,
            max_waiters: 10_000,
            idle_timeout: Some(Duration::from_secs(600)),
            max_lifetime: Some(Duration::from_secs(1800)),
            acquire_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            adaptive: Some(Adaptive::default()),
            validate_after: Duration::from_millis(500),
            health_interval: Duration::from_secs(30),
            knock_interval: Duration::from_secs(1),
            leak_after: Some(Duration::from_secs(60)),
            retry: Retry::default(),
            breaker: BreakerParams::default(),
        }
    }
}

impl Params {
    /// How long the server may take for what took it `p99` of late.
    pub(super) fn limit(&self, p99: Option<Duration>) -> Duration {
        let (Some(adaptive), Some(p99)) = (&self.adaptive, p99) else { return self.connect_timeout };
        p99.saturating_mul(adaptive.factor).max(adaptive.least).min(self.connect_timeout)
    }

    /// The same with every zero that would stop or spin the pool raised.
    pub(super) fn sane(mut self) -> Params {
        let least = Duration::from_millis(1);
        self.max_size = self.max_size.max(1);
        self.min_idle = self.min_idle.min(self.max_size);
        self.max_waiters = self.max_waiters.max(1);
        for span in
            [&mut self.acquire_timeout, &mut self.connect_timeout, &mut self.health_interval, &mut self.knock_interval]
        {
            *span = (*span).max(least);
        }
        for span in [&mut self.idle_timeout, &mut self.max_lifetime] {
            *span = span.map(|span| span.max(least));
        }
        if let Some(adaptive) = &mut self.adaptive {
            adaptive.least = adaptive.least.max(least);
        }
        self.retry = self.retry.sane();
        self.breaker = self.breaker.sane();
        self
    }
}

/// How the time that a connect may take follows from the times that connects took: a multiple of the 99th percentile, never
/// less than `least`, never more than `connect_timeout`. Each failed attempt at recovery doubles it, so that a server that
/// has become slow is reached all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adaptive {
    /// The shortest time.
    pub least: Duration,
    /// The multiple.
    pub factor: u32,
}

impl Default for Adaptive {
    fn default() -> Adaptive {
        Adaptive { least: Duration::from_secs(1), factor: 4 }
    }
}

/// The schedule of recovery: rounds of attempts, each later than the last, with a pause between rounds, for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// The longest wait before the second attempt; each further one doubles it.
    pub initial_delay: Duration,
    /// The longest wait of all.
    pub max_delay: Duration,
    /// Failed attempts that end a round.
    pub attempts: u32,
    /// The pause after a round.
    pub cooldown: Duration,
}

impl Default for Retry {
    fn default() -> Retry {
        Retry {
            initial_delay: Duration::from_secs(1),
            max_delay: Duration::from_secs(60),
            attempts: 10,
            cooldown: Duration::from_secs(300),
        }
    }
}

impl Retry {
    fn sane(mut self) -> Retry {
        self.initial_delay = self.initial_delay.max(Duration::from_millis(1));
        self.max_delay = self.max_delay.max(self.initial_delay);
        self.attempts = self.attempts.max(1);
        self
    }
}

/// When the circuit breaker opens, and how it closes again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakerParams {
    /// Failures in a row that open it.
    pub failures: u32,
    /// Share of failed or slow calls that opens it as well; `None` for failures in a row alone.
    pub rate: Option<RateParams>,
    /// How long it turns callers away before it lets probes through.
    pub open_for: Duration,
    /// Calls let through while half-open; when all of them succeed it closes, when one fails it opens again.
    pub probes: u32,
    /// A half-open probe that has not ended by now counts as failed.
    pub probe_timeout: Duration,
}

impl Default for BreakerParams {
    fn default() -> BreakerParams {
        BreakerParams {
            failures: 5,
            rate: None,
            open_for: Duration::from_secs(60),
            probes: 3,
            probe_timeout: Duration::from_secs(30),
        }
    }
}

impl BreakerParams {
    pub(super) fn sane(mut self) -> BreakerParams {
        self.failures = self.failures.max(1);
        self.probes = self.probes.max(1);
        self.open_for = self.open_for.max(Duration::from_millis(1));
        self.probe_timeout = self.probe_timeout.max(Duration::from_millis(1));
        self
    }
}

/// The share of bad calls, over a window of time, that opens the breaker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateParams {
    /// How far back calls count.
    pub window: Duration,
    /// Fewer calls than this in the window say nothing.
    pub min_calls: u32,
    /// Opens at this many failures in a hundred calls.
    pub failure_percent: u32,
    /// Opens at this many slow calls in a hundred.
    pub slow_percent: u32,
    /// A call that took this long is slow.
    pub slow_after: Duration,
}

impl Default for RateParams {
    fn default() -> RateParams {
        RateParams {
            window: Duration::from_secs(60),
            min_calls: 20,
            failure_percent: 50,
            slow_percent: 100,
            slow_after: Duration::from_secs(60),
        }
    }
}
