//! Time as a value, so that tests drive it by hand.
//!
//! Two clocks matter: the wall clock, for people and file names, and the boot-time clock
//! (`CLOCK_BOOTTIME`, which counts suspend and never steps), for every duration: MTTR, cooldowns, budgets.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

/// One instant on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Wall clock, UTC.
    pub wall: Timestamp,
    /// Milliseconds since boot, suspend included.
    pub boot_ms: u64,
}

impl Moment {
    /// Time from `earlier` to here on the boot-time clock; zero when `earlier` is later, or of another boot.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_millis(self.boot_ms.saturating_sub(earlier.boot_ms))
    }

    /// This instant moved forward by `span` on both clocks.
    #[must_use]
    pub fn after(self, span: Duration) -> Moment {
        let ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Moment { wall: self.wall.checked_add(span).unwrap_or(Timestamp::MAX), boot_ms: self.boot_ms.saturating_add(ms) }
    }
}

/// Where the time comes from.
#[derive(Debug, Clone)]
pub struct Clock(Source);

#[derive(Debug, Clone)]
enum Source {
    System,
    Manual(Arc<Manual>),
}

#[derive(Debug)]
struct Manual {
    now: Mutex<Moment>,
    moved: Notify,
}

impl Clock {
    /// The clocks of this machine.
    pub fn system() -> Clock {
        Clock(Source::System)
    }

    /// A clock that stands still until [`Clock::advance`].
    pub fn manual(start: Moment) -> Clock {
        Clock(Source::Manual(Arc::new(Manual { now: Mutex::new(start), moved: Notify::new() })))
    }

    /// The present instant.
    pub fn now(&self) -> Moment {
        match &self.0 {
            Source::System => {
                let boot = clock_gettime(ClockId::Boottime);
                let seconds = u64::try_from(boot.tv_sec).unwrap_or(0);
                let millis = u64::try_from(boot.tv_nsec).unwrap_or(0) / 1_000_000;
                Moment { wall: Timestamp::now(), boot_ms: seconds * 1000 + millis }
            }
            Source::Manual(manual) => *manual.now.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Moves a manual clock forward and wakes its sleepers; does nothing to the system's clock.
    pub fn advance(&self, span: Duration) {
        if let Source::Manual(manual) = &self.0 {
            let mut now = manual.now.lock().unwrap_or_else(PoisonError::into_inner);
            *now = now.after(span);
            manual.moved.notify_waiters();
        }
    }

    /// Sets a manual clock's wall time, as a person or a time service does, while no time passes.
    #[cfg(test)]
    pub fn step_wall(&self, to: Timestamp) {
        if let Source::Manual(manual) = &self.0 {
            manual.now.lock().unwrap_or_else(PoisonError::into_inner).wall = to;
        }
    }

    /// Sleeps until `span` has passed on this clock.
    pub async fn sleep(&self, span: Duration) {
        match &self.0 {
            Source::System => tokio::time::sleep(span).await,
            Source::Manual(manual) => {
                let until = self.now().after(span);
                loop {
                    let moved = manual.moved.notified();
                    if self.now().boot_ms >= until.boot_ms {
                        return;
                    }
                    moved.await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Moment {
        Moment { wall: Timestamp::from_second(1_700_000_000).unwrap(), boot_ms: 5_000 }
    }

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = Clock::manual(start());
        assert_eq!(clock.now(), start());
        clock.advance(Duration::from_millis(1500));
        assert_eq!(clock.now().since(start()), Duration::from_millis(1500));
        assert_eq!(clock.now().wall.as_millisecond() - start().wall.as_millisecond(), 1500);
    }

    #[test]
    fn time_that_went_backwards_counts_as_none() {
        let later = start().after(Duration::from_secs(1));
        assert_eq!(start().since(later), Duration::ZERO);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_sleeper_wakes_when_the_clock_passes_its_time() {
        let clock = Clock::manual(start());
        let sleeper = tokio::spawn({
            let clock = clock.clone();
            async move { clock.sleep(Duration::from_secs(10)).await }
        });
        tokio::task::yield_now().await;
        clock.advance(Duration::from_secs(9));
        tokio::task::yield_now().await;
        assert!(!sleeper.is_finished());
        clock.advance(Duration::from_secs(1));
        sleeper.await.unwrap();
    }
}
