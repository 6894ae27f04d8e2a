//! When the server is looked for, and what is believed about it.
//!
//! ```text
//!             a failure            the look failed              a round failed
//!  Healthy ───────────► Degraded ─────────────────► Recovering ◄──────────────► Cooldown
//!     ▲                    │                            │        its time          │
//!     └────────────────────┴──────── a look succeeded ──┴──────────────────────────┘
//! ```
//!
//! Three kinds of looks: a scheduled *attempt*; a *knock*, the bare connect of each second while the server is down, whose
//! success brings an attempt forward; and an *extra* attempt, brought forward by a knock or a caller. The failure of what came
//! out of turn does not move the schedule, or traffic would use up a round in seconds.

use std::time::Duration;

use super::backoff::Backoff;
use super::event::State;
use super::params::Params;

/// A second look comes no sooner than this after the last one began: connections that break as fast as they are handed out
/// must not make the pool spin.
const LOOKS_APART: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    Attempt,
    Extra,
    Knock,
}

#[derive(Debug)]
pub(super) struct Recovery {
    pub(super) state: State,
    /// Failed attempts of this round.
    pub(super) attempts: u32,
    pub(super) failures: u32,
    /// Looks that failed since the last one that succeeded.
    pub(super) looks_failed: u32,
    pub(super) last_failure: Option<Duration>,
    /// The wait that led to `next`.
    pub(super) delay: Option<Duration>,
    /// When the next attempt is due; in `Cooldown`, the next round.
    next: Duration,
    next_knock: Duration,
    knock_answered: bool,
    extra: bool,
    /// When the last attempt, scheduled or not, began.
    looked: Option<Duration>,
}

impl Recovery {
    pub(super) fn new(params: &Params, now: Duration) -> Recovery {
        Recovery {
            state: State::Healthy,
            attempts: 0,
            failures: 0,
            looks_failed: 0,
            last_failure: None,
            delay: None,
            next: now.saturating_add(params.health_interval),
            next_knock: now,
            knock_answered: false,
            extra: false,
            looked: None,
        }
    }

    pub(super) fn is_down(&self) -> bool {
        matches!(self.state, State::Recovering | State::Cooldown)
    }

    /// The look that is due.
    pub(super) fn due(&self, now: Duration) -> Option<Look> {
        match self.state {
            State::Closed => None,
            _ if now >= self.next => Some(Look::Attempt),
            _ if self.extra => Some(Look::Extra),
            State::Recovering | State::Cooldown if now >= self.next_knock => Some(Look::Knock),
            _ => None,
        }
    }

    pub(super) fn next_due(&self) -> Option<Duration> {
        match self.state {
            State::Closed => None,
            _ if self.extra => Some(Duration::ZERO),
            State::Recovering | State::Cooldown => Some(self.next.min(self.next_knock)),
            State::Healthy | State::Degraded => Some(self.next),
        }
    }

    /// A look was sent out.
    pub(super) fn began(&mut self, look: Look, now: Duration) {
        if look != Look::Knock {
            self.looked = Some(now);
            self.extra = false;
        }
        if look == Look::Attempt && self.state == State::Cooldown {
            self.state = State::Recovering;
            self.attempts = 0;
            self.delay = None;
        }
    }

    /// A caller finds the server down: true when a look is sent out for it.
    pub(super) fn asked(&mut self, params: &Params, now: Duration) -> bool {
        let since = self.looked.map_or(Duration::MAX, |looked| now.saturating_sub(looked));
        if self.is_down() && since >= params.knock_interval {
            self.extra = true;
        }
        self.extra
    }

    /// The breaker half-opened and waits for an answer, which need not come from a caller.
    pub(super) fn wanted_by_breaker(&mut self) {
        self.extra |= self.state == State::Healthy;
    }

    /// Somebody asks how the server is.
    pub(super) fn wanted(&mut self) {
        self.extra |= self.state != State::Closed;
    }

    /// A caller's connection broke.
    pub(super) fn call_failed(&mut self, now: Duration) {
        self.count_failure(now);
        if self.state == State::Healthy {
            self.suspect(now);
        }
    }

    pub(super) fn attempt_failed(&mut self, look: Look, params: &Params, backoff: &mut Backoff, now: Duration) {
        self.count_failure(now);
        self.looks_failed = self.looks_failed.saturating_add(1);
        self.next_knock = now.saturating_add(params.knock_interval);
        match self.state {
            State::Healthy => self.suspect(now),
            State::Degraded => {
                self.state = State::Recovering;
                self.knock_answered = false;
                self.attempts = 0;
                self.schedule(params, backoff, now);
            }
            State::Recovering if look == Look::Attempt => self.schedule(params, backoff, now),
            State::Recovering | State::Cooldown | State::Closed => {}
        }
    }

    pub(super) fn attempt_succeeded(&mut self, params: &Params, backoff: &mut Backoff, now: Duration) {
        if self.state == State::Closed {
            return;
        }
        self.state = State::Healthy;
        self.attempts = 0;
        self.failures = 0;
        self.looks_failed = 0;
        self.delay = None;
        self.extra = false;
        self.next = now.saturating_add(backoff.about(params.health_interval));
    }

    /// A knock ended. The server that just came back is tried at once; one that lets in and fails later, such as a replica that
    /// refuses writes, once in the longest delay, or each knock would undo the backoff.
    pub(super) fn knocked(&mut self, answered: bool, params: &Params, now: Duration) {
        self.next_knock = now.saturating_add(params.knock_interval);
        if !self.is_down() {
            return;
        }
        let since = self.looked.map_or(Duration::MAX, |looked| now.saturating_sub(looked));
        self.extra |= answered && (!self.knock_answered || since >= params.retry.max_delay);
        self.knock_answered = answered;
        if !answered {
            self.count_failure(now);
        }
    }

    /// Starts anew by hand, with a look at once.
    pub(super) fn reopen(&mut self, now: Duration) {
        self.state = State::Degraded;
        self.attempts = 0;
        self.failures = 0;
        self.delay = None;
        self.extra = true;
        self.next = now;
    }

    /// What is due by the old parameters comes no later than the new ones say. A changed health interval starts now.
    pub(super) fn params_changed(&mut self, old: &Params, new: &Params, now: Duration) {
        self.next_knock = self.next_knock.min(now.saturating_add(new.knock_interval));
        match self.state {
            State::Healthy if old.health_interval != new.health_interval => {
                self.next = now.saturating_add(new.health_interval);
            }
            State::Recovering => self.next = self.next.min(now.saturating_add(new.retry.max_delay)),
            State::Cooldown => self.next = self.next.min(now.saturating_add(new.retry.cooldown)),
            State::Healthy | State::Degraded | State::Closed => {}
        }
    }

    pub(super) fn close(&mut self) {
        self.state = State::Closed;
        self.extra = false;
        self.delay = None;
    }

    fn count_failure(&mut self, now: Duration) {
        self.failures = self.failures.saturating_add(1);
        self.last_failure = Some(now);
    }

    fn suspect(&mut self, now: Duration) {
        self.state = State::Degraded;
        self.next = self.looked.map_or(now, |looked| now.max(looked.saturating_add(LOOKS_APART)));
    }

    fn schedule(&mut self, params: &Params, backoff: &mut Backoff, now: Duration) {
        self.attempts = self.attempts.saturating_add(1);
        let delay = if self.attempts >= params.retry.attempts {
            self.state = State::Cooldown;
            params.retry.cooldown
        } else {
            backoff.delay(&params.retry, self.attempts)
        };
        self.delay = Some(delay);
        self.next = now.saturating_add(delay);
    }
}
