//! How the queue is joined, and what every operation ends with: looks are sent, connections handed out and ordered, until
//! nothing is left to do.

use super::*;

/// A bare connect has at least this long, however often one is tried.
const KNOCK_LIMIT: Duration = Duration::from_secs(1);

impl<C, W> Core<C, W> {
    /// A connection at once, or a place in the queue.
    pub(super) fn enter_queue(
        &mut self,
        now: Duration,
        place: &'static Location<'static>,
        wake: impl FnOnce() -> W,
        effects: &mut Effects<C, W>,
    ) -> Result<Acquire<C>, Refusal> {
        if self.recovery.state == State::Closed {
            return Err(Refusal::Closed);
        }
        let permit = self.breaker.admit(now).map_err(|retry_after| Refusal::BreakerOpen { retry_after })?;
        // Nobody passes the queue; whoever stands in it has left no connection idle.
        if self.waiters.is_empty()
            && let Some(idle) = self.take_idle(now, effects)
        {
            return Ok(Acquire::Ready(self.lease(idle, permit, place, now)));
        }
        if self.recovery.is_down() {
            let looked_for = self.is_looking() || self.recovery.asked(&self.params, now);
            if !looked_for && self.standing() == 0 {
                self.breaker.release(permit);
                return Err(Refusal::Down { retry_after: self.retry_after(now) });
            }
        }
        if self.waiters.len() >= self.params.max_waiters {
            self.breaker.release(permit);
            return Err(Refusal::TooManyWaiters);
        }
        let number = self.number();
        self.waiters.push_back(Waiter { number, place, permit, wake: wake() });
        Ok(Acquire::Wait(WaiterId(number)))
    }

    pub(super) fn before(&self) -> Before {
        Before { state: self.recovery.state, breaker: self.breaker.state(), budget: self.budget }
    }

    pub(super) fn finish(&mut self, before: Before, mut effects: Effects<C, W>, now: Duration) -> Effects<C, W> {
        if (before.state == State::Healthy) != (self.recovery.state == State::Healthy) {
            // What stands may stay. It grows again from there: a server that just came back is not stormed.
            self.budget = self.total().clamp(1, self.params.max_size);
        }
        self.look(now, &mut effects);
        self.hand_out(now, &mut effects);
        self.order(now, &mut effects);
        self.check_idle(now, &mut effects);
        self.turn_away(now, &mut effects);
        let after = self.before();
        if before.state != after.state {
            effects.events.push(Event::State { from: before.state, to: after.state });
        }
        if before.breaker != after.breaker {
            effects.events.push(Event::Breaker { from: before.breaker, to: after.breaker });
        }
        if before.budget != after.budget {
            effects.events.push(Event::Budget { from: before.budget, to: after.budget });
        }
        effects
    }

    /// Sends the look that is due, one at a time.
    fn look(&mut self, now: Duration, effects: &mut Effects<C, W>) {
        if self.is_looking() {
            return;
        }
        if self.breaker.state() == BreakerState::HalfOpen {
            self.recovery.wanted_by_breaker();
        }
        let Some(look) = self.recovery.due(now) else { return };
        if !self.can_look() {
            return;
        }
        while self.total() >= self.params.max_size
            && let Some(idle) = self.idle.pop_front()
        {
            self.close_one(idle.connection, effects);
        }
        let ticket = self.send_look(look, now);
        effects.orders.push(if look == Look::Knock { Order::Knock(ticket) } else { Order::Look(ticket, None) });
    }

    /// True when there is room for a look, or room can be made: a look counts as a connection. While callers wait for a
    /// server that seems well, their own calls are looks enough, and none of their connections is taken.
    pub(super) fn can_look(&self) -> bool {
        let spared = self.recovery.state == State::Healthy && !self.waiters.is_empty();
        let evictable = if spared { 0 } else { count(self.idle.len()) };
        self.total().saturating_sub(evictable) < self.params.max_size
    }

    pub(super) fn send_look(&mut self, look: Look, now: Duration) -> Ticket {
        if look != Look::Knock && self.recovery.state != State::Healthy {
            self.totals.recovery_attempts += 1;
        }
        self.recovery.began(look, now);
        self.pend(Purpose::Look(look), now)
    }

    fn hand_out(&mut self, now: Duration, effects: &mut Effects<C, W>) {
        while !self.waiters.is_empty()
            && let Some(idle) = self.take_idle(now, effects)
            && let Some(waiter) = self.waiters.pop_front()
        {
            let lease = self.lease(idle, waiter.permit, waiter.place, now);
            self.granted.insert(waiter.number, Ok(lease));
            effects.wake.push(waiter.wake);
        }
    }

    /// Orders connections for who waits, and for `min_idle`, as the budget allows. The budget doubles when all of it stands
    /// and more is wanted.
    fn order(&mut self, now: Duration, effects: &mut Effects<C, W>) {
        if self.recovery.state != State::Healthy {
            return;
        }
        let coming = self.pending.iter().filter(|pending| !matches!(pending.purpose, Purpose::Look(_))).count();
        let needed = self.waiters.len().saturating_add(self.params.min_idle as usize);
        let wanted = count(needed.saturating_sub(self.idle.len() + coming));
        let opening = self.pending.iter().any(|pending| !matches!(pending.purpose, Purpose::Check(..)));
        if wanted > 0 && !opening && self.total() >= self.budget {
            // Looks are not held to the budget, so more than it may stand.
            self.budget = self.total().saturating_mul(2).clamp(self.budget, self.params.max_size);
        }
        for _ in 0..wanted.min(self.budget.saturating_sub(self.total())) {
            let ticket = self.pend(Purpose::Fill, now);
            effects.orders.push(Order::Connect(ticket));
        }
    }

    /// The idle connection that is asked for a sign of life next, and when: one at a time, so that callers find the others.
    pub(super) fn next_check(&self) -> Option<(usize, Duration)> {
        if self.is_checking() || self.recovery.state != State::Healthy {
            return None;
        }
        let (at, idle) = self.idle.iter().enumerate().min_by_key(|(_, idle)| idle.facts.proven)?;
        Some((at, idle.facts.proven.saturating_add(self.params.health_interval)))
    }

    fn check_idle(&mut self, now: Duration, effects: &mut Effects<C, W>) {
        if let Some((at, due)) = self.next_check()
            && now >= due
            && let Some(idle) = self.idle.remove(at)
        {
            let ticket = self.pend(Purpose::Check(idle.facts, idle.until), now);
            effects.orders.push(Order::Check(ticket, idle.connection));
        }
    }

    /// A connection that showed its sign of life lies idle on, as long as it may: a check is no use of it.
    pub(super) fn put_checked(
        &mut self,
        connection: C,
        mut facts: Facts,
        until: Option<Duration>,
        now: Duration,
        effects: &mut Effects<C, W>,
    ) {
        facts.era = self.era;
        facts.proven = now;
        if self.may_keep(facts, now) {
            self.idle.push_front(Idle { connection, facts, until });
        } else {
            self.close_one(connection, effects);
        }
    }

    /// Callers fail fast when the server is down, nothing is left that could come back to them, and nobody is looking.
    fn turn_away(&mut self, now: Duration, effects: &mut Effects<C, W>) {
        let hopeless = self.recovery.is_down()
            && self.standing() == 0
            && self.pending.is_empty()
            && self.recovery.due(now).is_none();
        if hopeless {
            let retry_after = self.retry_after(now);
            self.refuse_waiters(Refusal::Down { retry_after }, now, effects);
        }
    }

    pub(super) fn refuse_waiters(&mut self, refusal: Refusal, now: Duration, effects: &mut Effects<C, W>) {
        while let Some(waiter) = self.waiters.pop_front() {
            match refusal {
                Refusal::Down { .. } => self.breaker.record(waiter.permit, Outcome::Failure, Duration::ZERO, now),
                _ => self.breaker.release(waiter.permit),
            }
            self.totals.refused += 1;
            self.granted.insert(waiter.number, Err(refusal));
            effects.wake.push(waiter.wake);
        }
    }

    /// True when the connection of a look at a server that was well is not needed: kept, looks alone would fill the pool.
    pub(super) fn can_spare_a_look(&self) -> bool {
        // One that is being checked lies idle again in a moment.
        let unused = self.idle.len() + usize::from(self.is_checking());
        self.recovery.state == State::Healthy
            && self.waiters.is_empty()
            && unused >= self.params.min_idle.max(1) as usize
    }

    pub(super) fn look_succeeded(&mut self, now: Duration) {
        let was = self.recovery.state;
        self.recovery.attempt_succeeded(&self.params, &mut self.backoff, now);
        self.breaker.tick(now);
        if was != State::Healthy {
            self.era += 1;
            self.totals.recoveries += 1;
        }
        if was != State::Healthy || self.breaker.state() == BreakerState::HalfOpen {
            self.breaker.recovered(now);
        }
    }

    pub(super) fn pending_failed(&mut self, purpose: Purpose, now: Duration) {
        match purpose {
            Purpose::Fill => self.recovery.call_failed(now),
            Purpose::Check(facts, _) => {
                if facts.generation == self.generation && facts.era == self.era {
                    self.recovery.call_failed(now);
                }
            }
            Purpose::Look(Look::Knock) => self.recovery.knocked(false, &self.params, now),
            Purpose::Look(look) => {
                self.totals.looks += 1;
                self.totals.look_failures += 1;
                self.recovery.attempt_failed(look, &self.params, &mut self.backoff, now);
                self.breaker.look_failed(now);
            }
        }
    }

    pub(super) fn expire(&mut self, now: Duration, effects: &mut Effects<C, W>) {
        while let Some(at) = self.pending.iter().position(|pending| now >= pending.expires) {
            let pending = self.pending.swap_remove(at);
            effects.aborted.push(pending.number);
            effects.expired.get_or_insert(now.saturating_sub(pending.began));
            self.pending_failed(pending.purpose, now);
        }
    }

    /// Closes what is too old, idle for too long, or too much.
    pub(super) fn reap(&mut self, now: Duration, effects: &mut Effects<C, W>) {
        let mut kept = VecDeque::with_capacity(self.idle.len());
        let mut total = self.total();
        let mut left = count(self.idle.len());
        while let Some(idle) = self.idle.pop_front() {
            let old = idle.facts.retire_at.is_some_and(|at| now >= at);
            let unused = idle.until.is_some_and(|until| now >= until) && left > self.params.min_idle;
            if old || unused || total > self.params.max_size {
                total -= 1;
                left -= 1;
                self.close_one(idle.connection, effects);
            } else {
                kept.push_back(idle);
            }
        }
        self.idle = kept;
    }

    pub(super) fn tell_leaks(&mut self, now: Duration, effects: &mut Effects<C, W>) {
        let Some(after) = self.params.leak_after else { return };
        for out in self.out.iter_mut().flatten().filter(|out| !out.told) {
            let held = now.saturating_sub(out.since);
            if held >= after {
                out.told = true;
                self.totals.leaks += 1;
                effects.events.push(Event::Leak { place: out.place, held });
            }
        }
    }

    pub(super) fn put_new(&mut self, connection: C, now: Duration, effects: &mut Effects<C, W>) {
        let retire_at = self.params.max_lifetime.map(|limit| now.saturating_add(self.backoff.about(limit)));
        let facts = Facts { generation: self.generation, era: self.era, proven: now, retire_at };
        self.put(connection, facts, now, effects);
    }

    /// Keeps a connection that nobody holds, if it may be kept.
    pub(super) fn put(&mut self, connection: C, facts: Facts, now: Duration, effects: &mut Effects<C, W>) {
        if !self.may_keep(facts, now) {
            self.close_one(connection, effects);
            return;
        }
        let until = self.params.idle_timeout.map(|limit| now.saturating_add(self.backoff.about(limit)));
        self.idle.push_back(Idle { connection, facts, until });
    }

    fn may_keep(&self, facts: Facts, now: Duration) -> bool {
        let old = facts.retire_at.is_some_and(|at| now >= at);
        !old && facts.generation == self.generation && self.total() < self.params.max_size
    }

    pub(super) fn take_idle(&mut self, now: Duration, effects: &mut Effects<C, W>) -> Option<Idle<C>> {
        while let Some(idle) = self.idle.pop_back() {
            if idle.facts.retire_at.is_none_or(|at| now < at) {
                return Some(idle);
            }
            self.close_one(idle.connection, effects);
        }
        None
    }

    pub(super) fn lease(
        &mut self,
        idle: Idle<C>,
        permit: Permit,
        place: &'static Location<'static>,
        now: Duration,
    ) -> Lease<C> {
        self.totals.acquired += 1;
        let out = Some(Out { since: now, place, told: false });
        let slot = match self.out_free.pop() {
            Some(slot) => {
                self.out[slot as usize] = out;
                slot
            }
            None => {
                self.out.push(out);
                count(self.out.len() - 1)
            }
        };
        Lease { connection: idle.connection, facts: idle.facts, slot, permit, taken: now }
    }

    pub(super) fn free(&mut self, slot: u32) {
        // A lease of another core could name a slot that is not in use here.
        if let Some(out) = self.out.get_mut(slot as usize)
            && out.take().is_some()
        {
            self.out_free.push(slot);
        }
    }

    pub(super) fn close_one(&mut self, connection: C, effects: &mut Effects<C, W>) {
        self.totals.closed += 1;
        effects.close.push(connection);
    }

    pub(super) fn take_pending(&mut self, number: u64) -> Option<Pending> {
        let at = self.pending.iter().position(|pending| pending.number == number)?;
        Some(self.pending.swap_remove(at))
    }

    fn pend(&mut self, purpose: Purpose, now: Duration) -> Ticket {
        let number = self.number();
        let limit = match purpose {
            // A bare connect that hangs must not keep the next one from being tried: a packet lost on a way that was cut is
            // sent again seconds later, and a new connect gets through at once.
            Purpose::Look(Look::Knock) => self.connect_limit().min(self.params.knock_interval.max(KNOCK_LIMIT)),
            _ => self.connect_limit(),
        };
        self.pending.push(Pending { number, purpose, began: now, expires: now.saturating_add(limit) });
        Ticket(number)
    }

    /// How long a connect may take at present.
    pub(super) fn connect_limit(&self) -> Duration {
        let doubled = 1_u32.checked_shl(self.recovery.attempts).unwrap_or(u32::MAX);
        self.params.limit(self.connects.p99()).saturating_mul(doubled).min(self.params.connect_timeout)
    }

    pub(super) fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn is_checking(&self) -> bool {
        self.pending.iter().any(|pending| matches!(pending.purpose, Purpose::Check(..)))
    }

    /// True while a look at the server is out.
    pub fn is_looking(&self) -> bool {
        self.pending.iter().any(|pending| matches!(pending.purpose, Purpose::Look(_)))
    }

    pub(super) fn in_use(&self) -> usize {
        self.out.len() - self.out_free.len()
    }

    /// Connections that a caller has or can get without the server's help.
    pub(super) fn standing(&self) -> usize {
        self.idle.len() + self.in_use()
    }

    pub(super) fn total(&self) -> u32 {
        count(self.standing() + self.pending.len())
    }

    pub(super) fn retry_after(&self, now: Duration) -> Duration {
        let looks = self.pending.iter().filter(|pending| matches!(pending.purpose, Purpose::Look(_)));
        let look = looks.map(|pending| pending.expires).min();
        look.or(self.recovery.next_due()).unwrap_or(now).saturating_sub(now)
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
