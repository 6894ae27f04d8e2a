//! What the connection pools say.

use std::panic::Location;
use std::time::Duration;

/// A pool sees its server otherwise than before.
#[derive(Debug)]
pub struct PoolStateChanged<'a> {
    /// The pool's name.
    pub pool: &'a str,
    /// Before.
    pub from: &'a str,
    /// After.
    pub to: &'a str,
    /// What the server, or the way to it, last answered in place of a connection; without a secret.
    pub error: Option<&'a str>,
}

impl PoolStateChanged<'_> {
    /// Logs.
    pub fn emit(&self) {
        tracing::info!(pool = self.pool, from = self.from, to = self.to, error = self.error, "pool");
    }
}

/// A pool's circuit breaker changed its state.
#[derive(Debug)]
pub struct PoolBreakerChanged<'a> {
    /// The pool's name.
    pub pool: &'a str,
    /// Before.
    pub from: &'a str,
    /// After.
    pub to: &'a str,
}

impl PoolBreakerChanged<'_> {
    /// Logs.
    pub fn emit(&self) {
        tracing::info!(pool = self.pool, from = self.from, to = self.to, "circuit breaker");
    }
}

/// A pool may have more or fewer connections than before: fewer after a failure, and from there twice as many each time.
#[derive(Debug)]
pub struct PoolBudgetChanged<'a> {
    /// The pool's name.
    pub pool: &'a str,
    /// Before.
    pub from: u32,
    /// After.
    pub to: u32,
}

impl PoolBudgetChanged<'_> {
    /// Logs.
    pub fn emit(&self) {
        tracing::debug!(pool = self.pool, from = self.from, to = self.to, "most connections");
    }
}

/// A connection is held for suspiciously long.
#[derive(Debug)]
pub struct PoolLeak<'a> {
    /// The pool's name.
    pub pool: &'a str,
    /// Where it was taken.
    pub place: &'a Location<'a>,
    /// For how long it has been held.
    pub held: Duration,
}

impl PoolLeak<'_> {
    /// Logs.
    pub fn emit(&self) {
        tracing::warn!(
            pool = self.pool, place = %self.place, seconds = self.held.as_secs_f64(),
            "a connection has been held for long: look whether it is ever given back"
        );
    }
}
