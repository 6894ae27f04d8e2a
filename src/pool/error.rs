//! Why a caller has no connection, in words.

use std::sync::Arc;
use std::time::Duration;

use super::event::Refusal;

/// Why [`Pool::acquire`](super::Pool::acquire) gave no connection.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AcquireError {
    /// The pool knows that there is none to be had.
    #[error("no connection from the pool `{pool}`: {refusal}{}", because(cause.as_deref()))]
    Refused {
        /// The pool's name.
        pool: Arc<str>,
        /// Why.
        refusal: Refusal,
        /// What the server last answered in place of a connection.
        cause: Option<Arc<str>>,
    },
    /// None came free in time.
    #[error(
        "no connection from the pool `{pool}` in {waited:?}: {in_use} of {max_size} are in use, {opening} are being \
         opened, and {waiters} callers wait; hold them for less long, or raise max_size{}",
        because(cause.as_deref())
    )]
    TimedOut {
        /// The pool's name.
        pool: Arc<str>,
        /// How long this caller waited.
        waited: Duration,
        /// Connections that callers hold.
        in_use: usize,
        /// Most connections at any time.
        max_size: u32,
        /// Connections and probes that are being opened.
        opening: usize,
        /// Other callers that wait.
        waiters: usize,
        /// What the server last answered in place of a connection.
        cause: Option<Arc<str>>,
    },
}

impl AcquireError {
    /// When asking again may bring something else, where that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            AcquireError::Refused {
                refusal: Refusal::Down { retry_after } | Refusal::BreakerOpen { retry_after },
                ..
            } => Some(*retry_after),
            AcquireError::Refused { .. } | AcquireError::TimedOut { .. } => None,
        }
    }
}

fn because(cause: Option<&str>) -> String {
    cause.map_or(String::new(), |cause| format!(" (the server last said: {cause})"))
}
