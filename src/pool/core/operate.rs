//! What an operator does with a pool, and what it tells about itself.

use super::super::event::PoolStatus;
use super::*;

impl<C, W> Core<C, W> {
    /// Starts anew, from any state, `Closed` too: the breaker closes, connections that are not in use are closed at once and
    /// the others when they come back, and the server is looked at right away.
    pub fn force_reopen(&mut self, now: Duration) -> Effects<C, W> {
        let before = self.before();
        let mut effects = Effects::none();
        self.discard(&mut effects);
        self.breaker.reset();
        self.recovery.reopen(now);
        self.budget = self.total().clamp(1, self.params.max_size);
        self.finish(before, effects, now)
    }

    /// Closes the circuit breaker and forgets what it counted, isolated or not.
    pub fn reset_circuit_breaker(&mut self, now: Duration) -> Effects<C, W> {
        let before = self.before();
        self.breaker.reset();
        self.finish(before, Effects::none(), now)
    }

    /// Turns every caller away, for a time or until [`Core::reset_circuit_breaker`] or [`Core::force_reopen`]. Callers that
    /// wait already are served, and the server is still looked at.
    pub fn isolate(&mut self, time: Option<Duration>, now: Duration) -> Effects<C, W> {
        let before = self.before();
        self.breaker.isolate(time, now);
        self.finish(before, Effects::none(), now)
    }

    /// Closes the pool: who waits is refused, what is idle is closed at once, what is in use when it comes back.
    pub fn close(&mut self, now: Duration) -> Effects<C, W> {
        let before = self.before();
        let mut effects = Effects::none();
        self.discard(&mut effects);
        self.recovery.close();
        self.refuse_waiters(Refusal::Closed, now, &mut effects);
        self.finish(before, effects, now)
    }

    /// Looks at the server as soon as there is room for a look; nothing while closed.
    pub fn look_now(&mut self, now: Duration) -> Effects<C, W> {
        let before = self.before();
        self.recovery.wanted();
        self.finish(before, Effects::none(), now)
    }

    /// How many looks at the server have ended, bare connects left out.
    pub fn looks_ended(&self) -> u64 {
        self.totals.looks
    }

    /// True when the pool is closed and every connection came back.
    pub fn is_drained(&self) -> bool {
        self.recovery.state == State::Closed && self.total() == 0
    }

    /// New parameters. No connection that is in use is dropped; a surplus is closed as it comes back. Limits of age that were
    /// drawn already stay for the connections they were drawn for.
    pub fn set_params(&mut self, params: Params, now: Duration) -> Effects<C, W> {
        let before = self.before();
        let mut effects = Effects::none();
        let params = params.sane();
        self.budget = match self.budget == self.params.max_size {
            true => params.max_size,
            false => self.budget.min(params.max_size),
        };
        self.breaker.set_params(params.breaker.clone());
        self.recovery.params_changed(&self.params, &params, now);
        self.params = params;
        self.reap(now, &mut effects);
        self.finish(before, effects, now)
    }

    /// The parameters in force.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// When [`Core::tick`] has something to do, unless another operation comes before; never later than that.
    pub fn next_due(&self) -> Option<Duration> {
        let look = self.recovery.next_due().filter(|_| !self.is_looking() && self.can_look());
        let pending = self.pending.iter().map(|pending| pending.expires);
        let idle = self.idle.iter().enumerate().flat_map(|(at, idle)| {
            // The oldest are at the front, and `min_idle` of them stay however long they are unused.
            let surplus = self.idle.len() - at > self.params.min_idle as usize;
            idle.facts.retire_at.into_iter().chain(idle.until.filter(|_| surplus))
        });
        let leaks = self.params.leak_after.into_iter().flat_map(|after| {
            let held = self.out.iter().flatten().filter(|out| !out.told);
            held.map(move |out| out.since.saturating_add(after))
        });
        let check = self.next_check().map(|(_, due)| due);
        pending.chain(idle).chain(leaks).chain(check).chain(look).chain(self.breaker.next_due()).min()
    }

    /// The pool at this instant.
    pub fn status(&self, now: Duration) -> PoolStatus {
        let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        PoolStatus {
            pool: String::new(),
            healthy: self.recovery.state == State::Healthy,
            state: self.recovery.state,
            recovery_in_progress: matches!(self.recovery.state, State::Degraded | State::Recovering | State::Cooldown),
            consecutive_failures: self.recovery.failures,
            recovery_attempts: self.recovery.attempts,
            current_retry_delay_ms: self.recovery.delay.map(ms),
            since_last_failure_ms: self.recovery.last_failure.map(|at| ms(now.saturating_sub(at))),
            last_failure_time: None,
            last_error: None,
            breaker: self.breaker.state(),
            idle: self.idle.len(),
            in_use: self.in_use(),
            opening: self.pending.len(),
            budget: self.budget,
            max_size: self.params.max_size,
            waiters: self.waiters.len(),
            acquired_total: self.totals.acquired,
            refused_total: self.totals.refused,
            opened_total: self.totals.opened,
            closed_total: self.totals.closed,
            recoveries_total: self.totals.recoveries,
            recovery_attempts_total: self.totals.recovery_attempts,
            health_check_failures_total: self.totals.look_failures,
            health_check_consecutive_failures: self.recovery.looks_failed,
            leaks_total: self.totals.leaks,
            connect_p99_ms: self.connects.p99().map(ms),
            connect_limit_ms: ms(self.connect_limit()),
            validation_p99_ms: None,
        }
    }

    fn discard(&mut self, effects: &mut Effects<C, W>) {
        self.generation += 1;
        effects.aborted.extend(self.pending.drain(..).map(|pending| pending.number));
        // What is being checked is dropped with its check.
        while let Some(idle) = self.idle.pop_front() {
            self.close_one(idle.connection, effects);
        }
    }
}
