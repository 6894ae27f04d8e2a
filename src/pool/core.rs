//! Connections, waiters and looks at the server, counted under one roof.

mod operate;
mod settle;

use std::collections::{BTreeMap, VecDeque};
use std::panic::Location;
use std::time::Duration;

use super::backoff::Backoff;
use super::breaker::{Breaker, BreakerState, Outcome, Permit};
use super::event::{Event, Refusal, State};
use super::latencies::Latencies;
use super::params::Params;
use super::recovery::{Look, Recovery};

/// The pool's rules. `C` is a connection, `W` what wakes a waiter; neither is looked into.
///
/// Every method that gives back [`Effects`] must have them carried out, after the lock is released.
#[derive(Debug)]
pub struct Core<C, W> {
    params: Params,
    backoff: Backoff,
    breaker: Breaker,
    recovery: Recovery,
    /// The last used is at the back and is used first, so that a surplus grows old.
    idle: VecDeque<Idle<C>>,
    out: Vec<Option<Out>>,
    out_free: Vec<u32>,
    pending: Vec<Pending>,
    /// How long the last connects took.
    connects: Latencies,
    waiters: VecDeque<Waiter<W>>,
    /// What woken waiters have not collected yet.
    granted: BTreeMap<u64, Result<Lease<C>, Refusal>>,
    next_number: u64,
    budget: u32,
    /// Counts reopenings and closings: a connection of an earlier one is not kept.
    generation: u64,
    /// Counts recoveries: a connection last proven before one that breaks after it says nothing new.
    era: u64,
    totals: Totals,
}

#[derive(Debug, Default)]
struct Totals {
    acquired: u64,
    refused: u64,
    opened: u64,
    closed: u64,
    recoveries: u64,
    recovery_attempts: u64,
    looks: u64,
    look_failures: u64,
    leaks: u64,
}

/// What is known of a connection, in use or not.
#[derive(Debug, Clone, Copy)]
struct Facts {
    generation: u64,
    /// The era that it was last proven to work in.
    era: u64,
    /// When it was last proven to work: opened, given back in order, or checked.
    proven: Duration,
    retire_at: Option<Duration>,
}

#[derive(Debug)]
struct Idle<C> {
    connection: C,
    facts: Facts,
    until: Option<Duration>,
}

/// Who holds a connection.
#[derive(Debug)]
struct Out {
    since: Duration,
    place: &'static Location<'static>,
    told: bool,
}

#[derive(Debug)]
struct Pending {
    number: u64,
    purpose: Purpose,
    began: Duration,
    expires: Duration,
}

/// What an order is for.
#[derive(Debug, Clone, Copy)]
enum Purpose {
    /// A connection for callers.
    Fill,
    Look(Look),
    /// A sign of life of a connection that lay idle, and what was known of it.
    Check(Facts, Option<Duration>),
}

#[derive(Debug)]
struct Waiter<W> {
    number: u64,
    place: &'static Location<'static>,
    permit: Permit,
    wake: W,
}

/// A connection in a caller's hands, to be given back by [`Core::give_back`]. One that is lost takes its place in the pool
/// with it; the leak event names who took it.
#[derive(Debug)]
#[must_use]
pub struct Lease<C> {
    /// The connection.
    pub connection: C,
    facts: Facts,
    slot: u32,
    permit: Permit,
    taken: Duration,
}

/// How a connection comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Returned {
    /// In order.
    Good,
    /// The server or the way to it failed: the pool looks for the server.
    Broken,
    /// Found broken before it was used: the pool looks for the server, and no call is counted as failed.
    Stale,
    /// Not to be used again for a reason that says nothing about the server, such as a query that was cut off by its caller.
    Retired,
}

/// An acquire's first answer.
#[derive(Debug)]
#[must_use]
pub enum Acquire<C> {
    /// A connection at once.
    Ready(Lease<C>),
    /// In the queue: once woken, [`Core::collect`]; when it is given up, [`Core::cancel`].
    Wait(WaiterId),
    /// None, and no place in the queue.
    Refused(Refusal),
}

/// A place in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WaiterId(u64);

/// A connect that was ordered: to be answered by [`Core::connected`] or [`Core::connect_failed`]. One that is not answered in
/// `connect_timeout` counts as failed.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Ticket(u64);

impl Ticket {
    /// Its number, as in [`Effects::aborted`].
    pub fn number(&self) -> u64 {
        self.0
    }
}

/// A connection to be opened or tried.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Order<C> {
    /// For callers.
    Connect(Ticket),
    /// To see whether the server lets anybody in: connect, and no more.
    Knock(Ticket),
    /// A look at the server: connect, or take the knock's connection, *and* see that it works.
    Look(Ticket, Option<C>),
    /// See that a connection that lay idle still works.
    Check(Ticket, C),
}

impl<C> Order<C> {
    /// Its ticket's number.
    pub fn number(&self) -> u64 {
        match self {
            Order::Connect(ticket) | Order::Knock(ticket) | Order::Look(ticket, _) | Order::Check(ticket, _) => {
                ticket.0
            }
        }
    }
}

/// What is to be done once the lock is released.
#[derive(Debug)]
#[must_use]
pub struct Effects<C, W> {
    /// Waiters whose answer can be collected.
    pub wake: Vec<W>,
    /// Connections to open.
    pub orders: Vec<Order<C>>,
    /// Tickets nobody waits for any more: stop their connects, or more connections than `max_size` are open for a while.
    pub aborted: Vec<u64>,
    /// How long the first of them was waited for, where it was time that ended it.
    pub expired: Option<Duration>,
    /// Connections to close.
    pub close: Vec<C>,
    /// What changed, in order.
    pub events: Vec<Event>,
}

impl<C, W> Effects<C, W> {
    fn none() -> Effects<C, W> {
        Effects {
            wake: Vec::new(),
            orders: Vec::new(),
            aborted: Vec::new(),
            expired: None,
            close: Vec::new(),
            events: Vec::new(),
        }
    }
}

/// What events are told of.
#[derive(Clone, Copy)]
struct Before {
    state: State,
    breaker: BreakerState,
    budget: u32,
}

impl<C, W> Core<C, W> {
    /// An open pool without connections. `seed` decides every wait and limit that is left to chance.
    pub fn new(params: Params, seed: u64, now: Duration) -> Core<C, W> {
        let params = params.sane();
        Core {
            backoff: Backoff::new(seed),
            breaker: Breaker::new(params.breaker.clone()),
            recovery: Recovery::new(&params, now),
            idle: VecDeque::new(),
            out: Vec::new(),
            out_free: Vec::new(),
            pending: Vec::new(),
            connects: Latencies::default(),
            waiters: VecDeque::new(),
            granted: BTreeMap::new(),
            next_number: 0,
            budget: params.max_size,
            generation: 0,
            era: 0,
            totals: Totals::default(),
            params,
        }
    }

    /// A caller at `place` wants a connection. `wake` is asked for only when it has to wait.
    pub fn acquire(
        &mut self,
        now: Duration,
        place: &'static Location<'static>,
        wake: impl FnOnce() -> W,
    ) -> (Acquire<C>, Effects<C, W>) {
        let before = self.before();
        let mut effects = Effects::none();
        let answer = match self.enter_queue(now, place, wake, &mut effects) {
            Ok(answer) => answer,
            Err(refusal) => {
                self.totals.refused += 1;
                Acquire::Refused(refusal)
            }
        };
        (answer, self.finish(before, effects, now))
    }

    /// Takes what a woken waiter was given; `None` while it has to wait, and after it collected or cancelled.
    ///
    /// # Errors
    /// Inside: why it gets none.
    pub fn collect(&mut self, waiter: WaiterId) -> Option<Result<Lease<C>, Refusal>> {
        self.granted.remove(&waiter.0)
    }

    /// A waiter gives up, at any time: what it was given goes to the next.
    pub fn cancel(&mut self, waiter: WaiterId, now: Duration) -> Effects<C, W> {
        let before = self.before();
        let mut effects = Effects::none();
        match self.granted.remove(&waiter.0) {
            Some(Ok(lease)) => {
                self.breaker.release(lease.permit);
                self.free(lease.slot);
                self.put(lease.connection, lease.facts, now, &mut effects);
            }
            Some(Err(_)) => {}
            None => {
                // Numbers only grow, so the queue is sorted.
                if let Ok(at) = self.waiters.binary_search_by_key(&waiter.0, |waiter| waiter.number)
                    && let Some(waiter) = self.waiters.remove(at)
                {
                    self.breaker.release(waiter.permit);
                }
            }
        }
        self.finish(before, effects, now)
    }

    /// A caller is done with its connection.
    pub fn give_back(&mut self, lease: Lease<C>, returned: Returned, now: Duration) -> Effects<C, W> {
        let before = self.before();
        let mut effects = Effects::none();
        let Lease { connection, mut facts, slot, permit, taken } = lease;
        self.free(slot);
        let took = now.saturating_sub(taken);
        // A connection that was last proven before the server came back says by breaking what is known already.
        let is_news = facts.generation == self.generation && facts.era == self.era;
        match returned {
            Returned::Good => {
                self.breaker.record(permit, Outcome::Success, took, now);
                facts.era = self.era;
                facts.proven = now;
                self.put(connection, facts, now, &mut effects);
            }
            Returned::Broken | Returned::Stale => {
                match returned {
                    Returned::Broken if is_news => self.breaker.record(permit, Outcome::Failure, took, now),
                    _ => self.breaker.release(permit),
                }
                if is_news {
                    self.recovery.call_failed(now);
                }
                self.close_one(connection, &mut effects);
            }
            Returned::Retired => {
                self.breaker.release(permit);
                self.close_one(connection, &mut effects);
            }
        }
        self.finish(before, effects, now)
    }

    /// An ordered connection is open, and for [`Order::Look`] also works.
    pub fn connected(&mut self, ticket: Ticket, connection: C, now: Duration) -> Effects<C, W> {
        let before = self.before();
        let mut effects = Effects::none();
        let Some(pending) = self.take_pending(ticket.0) else {
            self.close_one(connection, &mut effects);
            return self.finish(before, effects, now);
        };
        if !matches!(pending.purpose, Purpose::Check(..)) {
            self.connects.record(now.saturating_sub(pending.began));
        }
        match pending.purpose {
            Purpose::Fill => {
                self.totals.opened += 1;
                self.put_new(connection, now, &mut effects);
            }
            Purpose::Check(facts, until) => self.put_checked(connection, facts, until, now, &mut effects),
            Purpose::Look(Look::Knock) => {
                self.recovery.knocked(true, &self.params, now);
                if let Some(look @ (Look::Attempt | Look::Extra)) = self.recovery.due(now) {
                    let ticket = self.send_look(look, now);
                    effects.orders.push(Order::Look(ticket, Some(connection)));
                } else {
                    self.close_one(connection, &mut effects);
                }
            }
            Purpose::Look(Look::Attempt | Look::Extra) => {
                self.totals.looks += 1;
                let is_spare = self.can_spare_a_look();
                self.look_succeeded(now);
                if is_spare {
                    self.close_one(connection, &mut effects);
                } else {
                    self.put_new(connection, now, &mut effects);
                }
            }
        }
        self.finish(before, effects, now)
    }

    /// An ordered connection could not be opened, or did not work.
    pub fn connect_failed(&mut self, ticket: Ticket, now: Duration) -> Effects<C, W> {
        let before = self.before();
        if let Some(pending) = self.take_pending(ticket.0) {
            self.pending_failed(pending.purpose, now);
        }
        self.finish(before, Effects::none(), now)
    }

    /// True when a connection has not worked since the last failure, or not within `validate_after`: it is to be asked for a
    /// sign of life before it is used.
    pub fn is_doubtful(&self, lease: &Lease<C>, now: Duration) -> bool {
        let proven = lease.facts.proven;
        let failed_since = self.recovery.last_failure.is_some_and(|failure| failure > proven);
        failed_since || now.saturating_sub(proven) >= self.params.validate_after
    }

    /// Lets time do what is due.
    pub fn tick(&mut self, now: Duration) -> Effects<C, W> {
        let before = self.before();
        let mut effects = Effects::none();
        self.breaker.tick(now);
        self.expire(now, &mut effects);
        self.reap(now, &mut effects);
        self.tell_leaks(now, &mut effects);
        self.finish(before, effects, now)
    }
}

#[cfg(test)]
mod tests;
