//! The circuit breaker: turns callers away while calls fail, and lets a few through to see whether they do again.
//!
//! ```text
//!            failures in a row, or a bad rate
//!   Closed ───────────────────────────────────► Open ◄─┐
//!     ▲ ▲                                         │    │ a probe failed, or never came back
//!     │ └── recovered() ──────────────────────────┤    │
//!     │                                  its time │    │
//!     │       every probe succeeded               ▼    │
//!     └────────────────────────────────────── HalfOpen ┘
//! ```
//!
//! Breakers elsewhere get stuck half-open: a call that never returns keeps its permit (resilience4j #935), a call whose error
//! is to be ignored gives none back (#544), and without traffic nobody asks (#2028). Here a probe expires and counts as
//! failed, [`Breaker::release`] gives a permit back without a judgement, and [`Breaker::tick`] needs no traffic.

use std::time::Duration;

use serde::Serialize;

use super::params::BreakerParams;
use super::window::Window;

/// Where the breaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// Everybody is let through.
    Closed,
    /// Nobody is let through.
    Open,
    /// A few are let through as probes.
    HalfOpen,
    /// Nobody is let through because somebody asked for it; time alone does not end it unless a time was given.
    Isolated,
}

impl BreakerState {
    /// As it is written everywhere.
    pub fn name(self) -> &'static str {
        match self {
            BreakerState::Closed => "closed",
            BreakerState::Open => "open",
            BreakerState::HalfOpen => "half_open",
            BreakerState::Isolated => "isolated",
        }
    }
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The server did what it was asked.
    Success,
    /// The server failed: not a caller's own mistake.
    Failure,
}

/// Leave to make one call. To be given back by [`Breaker::record`] or [`Breaker::release`]; one that is lost counts as failed
/// when it was a probe, and as nothing otherwise.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Permit {
    /// The state it was given in: what comes back after the state changed says nothing about the present one.
    generation: u64,
    /// Which probe, in the half-open state.
    probe: Option<u64>,
}

#[derive(Debug, Clone)]
enum Phase {
    Closed { in_a_row: u32 },
    Open { until: Duration },
    HalfOpen { probes: Vec<Probe>, succeeded: u32 },
    Isolated { until: Option<Duration> },
}

#[derive(Debug, Clone)]
struct Probe {
    number: u64,
    expires: Duration,
}

/// The breaker as a pure state machine; see the [module](super) for what time is.
#[derive(Debug)]
pub struct Breaker {
    params: BreakerParams,
    phase: Phase,
    generation: u64,
    next_probe: u64,
    window: Option<Window>,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(params: BreakerParams) -> Breaker {
        let params = params.sane();
        let window = params.rate.as_ref().map(|rate| Window::new(rate.window));
        Breaker { params, phase: Phase::Closed { in_a_row: 0 }, generation: 0, next_probe: 0, window }
    }

    /// Where it stands, as of the last call.
    pub fn state(&self) -> BreakerState {
        match self.phase {
            Phase::Closed { .. } => BreakerState::Closed,
            Phase::Open { .. } => BreakerState::Open,
            Phase::HalfOpen { .. } => BreakerState::HalfOpen,
            Phase::Isolated { .. } => BreakerState::Isolated,
        }
    }

    /// Leave to call.
    ///
    /// # Errors
    /// How long to wait before asking again: until it half-opens, or until a probe that is out must have ended. An isolation
    /// without an end answers with the open time.
    pub fn admit(&mut self, now: Duration) -> Result<Permit, Duration> {
        self.tick(now);
        let generation = self.generation;
        match &mut self.phase {
            Phase::Closed { .. } => Ok(Permit { generation, probe: None }),
            Phase::Open { until } => Err(until.saturating_sub(now)),
            Phase::Isolated { until } => Err(until.map_or(self.params.open_for, |until| until.saturating_sub(now))),
            Phase::HalfOpen { probes, succeeded } => {
                let taken = u32::try_from(probes.len()).unwrap_or(u32::MAX).saturating_add(*succeeded);
                if taken >= self.params.probes {
                    let first = probes.iter().map(|probe| probe.expires).min().unwrap_or(now);
                    return Err(first.saturating_sub(now));
                }
                let number = self.next_probe;
                self.next_probe += 1;
                probes.push(Probe { number, expires: now.saturating_add(self.params.probe_timeout) });
                Ok(Permit { generation, probe: Some(number) })
            }
        }
    }

    /// A call ended after `took`. What was admitted in an earlier state changes nothing.
    pub fn record(&mut self, permit: Permit, outcome: Outcome, took: Duration, now: Duration) {
        self.tick(now);
        if permit.generation != self.generation {
            return;
        }
        let failed = outcome == Outcome::Failure;
        match &mut self.phase {
            Phase::Closed { in_a_row } => {
                *in_a_row = if failed { in_a_row.saturating_add(1) } else { 0 };
                let in_a_row = *in_a_row;
                if in_a_row >= self.params.failures || self.rate_is_bad(failed, took, now) {
                    self.open(now);
                }
            }
            Phase::HalfOpen { .. } if failed => self.open(now),
            Phase::HalfOpen { probes, succeeded } => {
                probes.retain(|probe| Some(probe.number) != permit.probe);
                *succeeded += 1;
                if *succeeded >= self.params.probes {
                    self.close();
                }
            }
            Phase::Open { .. } | Phase::Isolated { .. } => {}
        }
    }

    /// A call was not made, or its end says nothing about the server: its place is free again, and nothing is counted.
    pub fn release(&mut self, permit: Permit) {
        if let Phase::HalfOpen { probes, .. } = &mut self.phase
            && permit.generation == self.generation
        {
            probes.retain(|probe| Some(probe.number) != permit.probe);
        }
    }

    /// A look at the server itself failed. Half-open, that is an answer; otherwise callers' own calls decide.
    pub fn look_failed(&mut self, now: Duration) {
        self.tick(now);
        if matches!(self.phase, Phase::HalfOpen { .. }) {
            self.open(now);
        }
    }

    /// A look at the server itself succeeded: closes at once, whatever callers saw, unless it is isolated.
    pub fn recovered(&mut self, now: Duration) {
        self.tick(now);
        if !matches!(self.phase, Phase::Isolated { .. } | Phase::Closed { in_a_row: 0 }) {
            self.close();
        }
    }

    /// Closes it, isolated or not, and forgets what was counted.
    pub fn reset(&mut self) {
        self.close();
    }

    /// Turns everybody away until [`Breaker::reset`], or for a time.
    pub fn isolate(&mut self, time: Option<Duration>, now: Duration) {
        self.enter(Phase::Isolated { until: time.map(|time| now.saturating_add(time)) });
    }

    /// Lets time do what is due: half-opens, expires probes, ends an isolation.
    pub fn tick(&mut self, now: Duration) {
        match &self.phase {
            Phase::Open { until } if now >= *until => {
                self.enter(Phase::HalfOpen { probes: Vec::new(), succeeded: 0 });
            }
            Phase::Isolated { until: Some(until) } if now >= *until => self.close(),
            Phase::HalfOpen { probes, .. } if probes.iter().any(|probe| now >= probe.expires) => self.open(now),
            _ => {}
        }
    }

    /// When [`Breaker::tick`] has something to do; `None` when only a call can change anything.
    pub fn next_due(&self) -> Option<Duration> {
        match &self.phase {
            Phase::Closed { .. } => None,
            Phase::Open { until } => Some(*until),
            Phase::HalfOpen { probes, .. } => probes.iter().map(|probe| probe.expires).min(),
            Phase::Isolated { until } => *until,
        }
    }

    /// New parameters, from the next call on; what is open stays open until the time that was set. A new window starts empty.
    pub fn set_params(&mut self, params: BreakerParams) {
        let params = params.sane();
        if params.rate != self.params.rate {
            self.window = params.rate.as_ref().map(|rate| Window::new(rate.window));
        }
        self.params = params;
        // Fewer probes may be asked for than have succeeded by now.
        if matches!(self.phase, Phase::HalfOpen { succeeded, .. } if succeeded >= self.params.probes) {
            self.close();
        }
    }

    fn rate_is_bad(&mut self, failed: bool, took: Duration, now: Duration) -> bool {
        let (Some(window), Some(rate)) = (&mut self.window, &self.params.rate) else { return false };
        window.record(now, failed, took >= rate.slow_after);
        let counts = window.counts(now);
        let reaches = |bad: u64, percent: u32| bad > 0 && bad * 100 >= counts.calls * u64::from(percent);
        counts.calls >= u64::from(rate.min_calls)
            && (reaches(counts.failed, rate.failure_percent) || reaches(counts.slow, rate.slow_percent))
    }

    fn open(&mut self, now: Duration) {
        self.enter(Phase::Open { until: now.saturating_add(self.params.open_for) });
    }

    fn close(&mut self) {
        if let Some(window) = &mut self.window {
            window.clear();
        }
        self.enter(Phase::Closed { in_a_row: 0 });
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.generation += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::super::params::RateParams;
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn call(breaker: &mut Breaker, outcome: Outcome, now: u64) {
        let permit = breaker.admit(at(now)).unwrap();
        breaker.record(permit, outcome, Duration::ZERO, at(now));
    }

    /// Opened at second 0 by five failures.
    fn open() -> Breaker {
        let mut breaker = Breaker::new(BreakerParams::default());
        for _ in 0..5 {
            call(&mut breaker, Outcome::Failure, 0);
        }
        assert_eq!(breaker.state(), BreakerState::Open);
        breaker
    }

    #[test]
    fn opens_at_the_fifth_failure_in_a_row_and_at_no_fourth() {
        let mut breaker = Breaker::new(BreakerParams::default());
        for _ in 0..4 {
            call(&mut breaker, Outcome::Failure, 0);
        }
        call(&mut breaker, Outcome::Success, 0);
        for _ in 0..4 {
            call(&mut breaker, Outcome::Failure, 0);
        }
        assert_eq!(breaker.state(), BreakerState::Closed);
        call(&mut breaker, Outcome::Failure, 0);
        assert_eq!(breaker.admit(at(20)), Err(at(40)));
    }

    #[test]
    fn half_opens_by_time_alone_and_closes_when_every_probe_succeeded() {
        let mut breaker = open();
        assert_eq!(breaker.next_due(), Some(at(60)));
        breaker.tick(at(60));
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        let probes: Vec<Permit> = (0..3).map(|_| breaker.admit(at(60)).unwrap()).collect();
        assert_eq!(breaker.admit(at(61)), Err(at(29)), "as long as a probe may last");
        for (probe, state) in
            probes.into_iter().zip([BreakerState::HalfOpen, BreakerState::HalfOpen, BreakerState::Closed])
        {
            breaker.record(probe, Outcome::Success, Duration::ZERO, at(62));
            assert_eq!(breaker.state(), state);
        }
    }

    #[test]
    fn one_failed_probe_opens_it_again_and_the_others_change_nothing() {
        let mut breaker = open();
        let first = breaker.admit(at(60)).unwrap();
        let second = breaker.admit(at(60)).unwrap();
        breaker.record(first, Outcome::Failure, Duration::ZERO, at(61));
        breaker.record(second, Outcome::Success, Duration::ZERO, at(62));
        assert_eq!(breaker.admit(at(62)), Err(at(59)));
    }

    #[test]
    fn a_probe_that_never_returns_counts_as_failed() {
        let mut breaker = open();
        let lost = breaker.admit(at(60)).unwrap();
        assert_eq!(breaker.next_due(), Some(at(90)));
        breaker.tick(at(90));
        assert_eq!(breaker.state(), BreakerState::Open);
        breaker.tick(at(150));
        breaker.record(lost, Outcome::Success, Duration::ZERO, at(150));
        assert_eq!(breaker.state(), BreakerState::HalfOpen, "its late success belongs to an earlier state");
    }

    #[test]
    fn a_probe_that_is_given_back_leaves_its_place_to_another() {
        let mut breaker = open();
        for _ in 0..10 {
            let permit = breaker.admit(at(60)).unwrap();
            breaker.release(permit);
        }
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
    }

    #[test]
    fn what_was_admitted_before_it_opened_does_not_open_it_again() {
        let mut breaker = Breaker::new(BreakerParams::default());
        let late: Vec<Permit> = (0..5).map(|_| breaker.admit(at(0)).unwrap()).collect();
        for _ in 0..5 {
            call(&mut breaker, Outcome::Failure, 0);
        }
        breaker.recovered(at(1));
        for permit in late {
            breaker.record(permit, Outcome::Failure, Duration::ZERO, at(2));
        }
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[test]
    fn a_bad_rate_opens_it_where_no_row_of_failures_does() {
        for (slow, percent) in [(false, 50), (true, 100)] {
            let rate = RateParams { min_calls: 10, ..RateParams::default() };
            let mut breaker = Breaker::new(BreakerParams { rate: Some(rate), ..BreakerParams::default() });
            for call in 0..10_u64 {
                assert_eq!(breaker.state(), BreakerState::Closed, "{percent} % at call {call}");
                let permit = breaker.admit(at(call)).unwrap();
                let outcome = if !slow && call % 2 == 1 { Outcome::Failure } else { Outcome::Success };
                breaker.record(permit, outcome, if slow { at(60) } else { at(0) }, at(call));
            }
            assert_eq!(breaker.state(), BreakerState::Open, "{percent} %");
        }
    }

    #[test]
    fn isolation_ends_by_hand_or_by_its_time_and_not_because_the_server_is_well() {
        let mut breaker = Breaker::new(BreakerParams::default());
        breaker.isolate(None, at(0));
        breaker.recovered(at(1));
        breaker.tick(at(1_000_000));
        assert_eq!(breaker.state(), BreakerState::Isolated);
        breaker.reset();
        assert_eq!(breaker.state(), BreakerState::Closed);
        breaker.isolate(Some(at(5)), at(10));
        assert_eq!(breaker.admit(at(11)), Err(at(4)));
        assert!(breaker.admit(at(15)).is_ok());
    }
}
