//! The core and the breaker under any sequence of what callers, servers, operators and time can do.
//!
//! The reference is what can be seen from outside: the connections that exist, the orders that are out, the queue as it was
//! joined. A sequence that breaks a promise is shrunk by proptest to the shortest that does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::Location;
use std::time::Duration;

use proptest::prelude::*;

use super::core::{Acquire, Core, Effects, Lease, Order, WaiterId};
use super::event::Event;
use super::*;

const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
enum Act {
    Acquire,
    GiveBack(usize, Returned),
    Cancel(usize),
    /// A connect ends, as the server is.
    Answer(usize),
    /// A connect never ends.
    Lose(usize),
    Pass(u64),
    Server(Server),
    Reopen,
    ResetBreaker,
    Isolate(Option<u64>),
    Close,
    Resize(u32),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Server {
    Up,
    /// It lets in, and does not work.
    Useless,
    Down,
}

fn act() -> impl Strategy<Value = Act> {
    let returned = prop_oneof![6 => Just(Returned::Good), 3 => Just(Returned::Broken), 1 => Just(Returned::Stale), 1 => Just(Returned::Retired)];
    let server = prop_oneof![Just(Server::Up), Just(Server::Useless), Just(Server::Down)];
    prop_oneof![
        12 => Just(Act::Acquire),
        8 => (any::<usize>(), returned).prop_map(|(which, how)| Act::GiveBack(which, how)),
        2 => any::<usize>().prop_map(Act::Cancel),
        12 => any::<usize>().prop_map(Act::Answer),
        1 => any::<usize>().prop_map(Act::Lose),
        6 => prop_oneof![0..50_u64, 500..2_000_u64, 5_000..400_000_u64].prop_map(Act::Pass),
        3 => server.prop_map(Act::Server),
        1 => Just(Act::Reopen),
        1 => Just(Act::ResetBreaker),
        1 => proptest::option::of(1_000..100_000_u64).prop_map(Act::Isolate),
        1 => Just(Act::Close),
        1 => (1..6_u32).prop_map(Act::Resize),
    ]
}

/// The world around a core.
struct World {
    core: Core<u64, u64>,
    now: Duration,
    server: Server,
    max_size: u32,
    /// Connections that exist: made and not yet closed.
    alive: BTreeSet<u64>,
    made: u64,
    orders: BTreeMap<u64, Order<u64>>,
    lost: BTreeSet<u64>,
    leases: Vec<Lease<u64>>,
    /// The queue as it was joined, by the number that wakes each.
    queue: VecDeque<(u64, WaiterId)>,
    joined: u64,
    last_state: State,
    last_breaker: BreakerState,
}

impl World {
    fn new(params: Params, seed: u64) -> World {
        World {
            max_size: params.max_size,
            core: Core::new(params, seed, Duration::ZERO),
            now: Duration::ZERO,
            server: Server::Up,
            alive: BTreeSet::new(),
            made: 0,
            orders: BTreeMap::new(),
            lost: BTreeSet::new(),
            leases: Vec::new(),
            queue: VecDeque::new(),
            joined: 0,
            last_state: State::Healthy,
            last_breaker: BreakerState::Closed,
        }
    }

    fn open(&self) -> usize {
        self.alive.len()
            + self.orders.values().filter(|order| !matches!(order, Order::Look(_, Some(_)) | Order::Check(..))).count()
            + self.lost.len()
    }

    /// Carries out what the core asked for, and holds it to its promises.
    fn carry_out(&mut self, effects: Effects<u64, u64>, open_before: usize) {
        for number in &effects.aborted {
            let order = self.orders.remove(number);
            if let Some(Order::Look(_, Some(connection)) | Order::Check(_, connection)) = &order {
                self.alive.remove(connection);
            }
            assert!(self.lost.remove(number) || order.is_some(), "aborted what was not ordered");
        }
        for connection in effects.close {
            assert!(self.alive.remove(&connection), "closed a connection that is not open");
        }
        for order in effects.orders {
            let number = match &order {
                Order::Connect(ticket) | Order::Knock(ticket) => ticket.number(),
                Order::Look(ticket, _) | Order::Check(ticket, _) => ticket.number(),
            };
            assert!(self.orders.insert(number, order).is_none());
        }
        for woken in effects.wake {
            let (name, waiter) = self.queue.pop_front().expect("woke nobody who waits");
            assert_eq!(name, woken, "somebody passed the queue");
            match self.core.collect(waiter).expect("woken for nothing") {
                Ok(lease) => {
                    assert!(self.alive.contains(&lease.connection), "handed out a closed connection");
                    assert!(self.leases.iter().all(|other| other.connection != lease.connection), "handed out twice");
                    self.leases.push(lease);
                }
                Err(refusal) => assert!(!matches!(refusal, Refusal::TooManyWaiters)),
            }
        }
        for event in &effects.events {
            match event {
                Event::State { from, to } => {
                    assert_eq!(*from, self.last_state);
                    self.last_state = *to;
                }
                Event::Breaker { from, to } => {
                    assert_eq!(*from, self.last_breaker);
                    self.last_breaker = *to;
                }
                Event::Budget { .. } | Event::Leak { .. } => {}
            }
        }
        let status = self.core.status(self.now);
        assert_eq!(status.state, self.last_state, "a transition without its event");
        assert_eq!(status.breaker, self.last_breaker, "a transition without its event");
        assert!(self.open() <= open_before.max(self.max_size as usize), "more than max_size connections");
        assert!(status.budget >= 1 && status.budget <= self.max_size);
        assert_eq!(status.in_use, self.leases.len());
        assert_eq!(status.opening, self.orders.len() + self.lost.len());
        assert_eq!(status.waiters, self.queue.len(), "a waiter was lost");
        if !self.queue.is_empty() {
            assert_eq!(status.idle, 0, "somebody waits while a connection is idle");
            let hope = status.in_use + status.opening > 0 || self.core.next_due().is_some();
            assert!(hope && status.state != State::Closed, "somebody waits for nothing");
        }
    }

    fn step(&mut self, operation: impl FnOnce(&mut Core<u64, u64>, Duration) -> Effects<u64, u64>) {
        let open = self.open();
        let effects = operation(&mut self.core, self.now);
        self.carry_out(effects, open);
    }

    fn acquire(&mut self) -> Result<(), Refusal> {
        let open = self.open();
        self.joined += 1;
        let name = self.joined;
        let (answer, effects) = self.core.acquire(self.now, Location::caller(), || name);
        let answer = match answer {
            Acquire::Ready(lease) => {
                assert!(self.queue.is_empty(), "somebody passed the queue");
                self.leases.push(lease);
                Ok(())
            }
            Acquire::Wait(waiter) => {
                self.queue.push_back((name, waiter));
                Ok(())
            }
            Acquire::Refused(refusal) => {
                if let Refusal::Down { retry_after } = refusal {
                    assert!(retry_after <= Params::default().connect_timeout + self.core.params().knock_interval);
                }
                Err(refusal)
            }
        };
        self.carry_out(effects, open);
        answer
    }

    fn answer(&mut self, which: usize) {
        let Some(number) = nth(self.orders.keys(), which) else { return };
        let Some(order) = self.orders.remove(&number) else { return };
        let open = self.open() + 1;
        let (ticket, made, works) = match order {
            Order::Connect(ticket) | Order::Knock(ticket) => (ticket, None, self.server != Server::Down),
            Order::Look(ticket, made) => (ticket, made, self.server == Server::Up),
            Order::Check(ticket, idle) => (ticket, Some(idle), self.server == Server::Up),
        };
        let effects = if works {
            let connection = made.unwrap_or_else(|| {
                self.made += 1;
                self.alive.insert(self.made);
                self.made
            });
            self.core.connected(ticket, connection, self.now)
        } else {
            // What a failed look was made on is closed by who made the look.
            made.map(|connection| self.alive.remove(&connection));
            self.core.connect_failed(ticket, self.now)
        };
        self.carry_out(effects, open);
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Acquire => drop(self.acquire()),
            Act::GiveBack(which, how) => {
                if !self.leases.is_empty() {
                    let lease = self.leases.swap_remove(which % self.leases.len());
                    self.step(|core, now| core.give_back(lease, how, now));
                }
            }
            Act::Cancel(which) => {
                if !self.queue.is_empty() {
                    let (_, waiter) = self.queue.remove(which % self.queue.len()).expect("in range");
                    self.step(|core, now| core.cancel(waiter, now));
                    assert!(self.core.collect(waiter).is_none());
                }
            }
            Act::Answer(which) => self.answer(which),
            Act::Lose(which) => {
                if let Some(number) = nth(self.orders.keys(), which) {
                    if let Some(Order::Look(_, Some(connection)) | Order::Check(_, connection)) =
                        self.orders.remove(&number)
                    {
                        self.alive.remove(&connection);
                    }
                    self.lost.insert(number);
                }
            }
            Act::Pass(ms) => {
                let until = self.now + Duration::from_millis(ms);
                self.pass(until);
            }
            Act::Server(server) => self.server = server,
            Act::Reopen => self.step(Core::force_reopen),
            Act::ResetBreaker => self.step(Core::reset_circuit_breaker),
            Act::Isolate(ms) => self.step(|core, now| core.isolate(ms.map(Duration::from_millis), now)),
            Act::Close => self.step(Core::close),
            Act::Resize(max_size) => {
                self.max_size = max_size;
                let params = Params { max_size, ..self.core.params().clone() };
                self.step(|core, now| core.set_params(params, now));
            }
        }
    }

    /// Time passes as a pool lets it pass: a tick whenever one is due.
    fn pass(&mut self, until: Duration) {
        while let Some(due) = self.core.next_due().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            self.step(Core::tick);
            assert!(self.core.next_due().is_none_or(|due| due > self.now), "a tick left something due: it would spin");
        }
        self.now = until;
    }

    /// The server is well, every connect ends at once, and callers give back what they hold, for `span`.
    fn fair_weather(&mut self, span: Duration) {
        self.server = Server::Up;
        let end = self.now + span;
        loop {
            while !self.orders.is_empty() {
                self.answer(0);
            }
            if let Some(lease) = self.leases.pop() {
                self.step(|core, now| core.give_back(lease, Returned::Good, now));
                continue;
            }
            match self.core.next_due().filter(|due| *due <= end) {
                Some(due) => self.pass(due.max(self.now)),
                None => break,
            }
        }
        self.now = end;
    }
}

fn nth<'a>(mut keys: impl ExactSizeIterator<Item = &'a u64>, which: usize) -> Option<u64> {
    let count = keys.len();
    if count == 0 { None } else { keys.nth(which % count).copied() }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Never more connections than allowed, no waiter lost or passed, a log event for every transition; and whatever happened,
    /// once the server is well again the pool is, within one longest delay, and everybody who waits is answered.
    #[test]
    fn whatever_happens_the_pool_comes_back(
        acts in proptest::collection::vec(act(), 1..120),
        max_size in 1..5_u32,
        min_idle in 0..3_u32,
        seed in any::<u64>(),
    ) {
        let params = Params { max_size, min_idle, ..Params::default() };
        let mut world = World::new(params.clone(), seed);
        for act in acts {
            world.act(act);
        }
        if world.last_state == State::Closed {
            world.step(Core::force_reopen);
        }
        if world.last_breaker == BreakerState::Isolated {
            world.step(Core::reset_circuit_breaker);
        }
        // A connect that hangs from the bad time on may take its timeout first.
        world.fair_weather(params.retry.max_delay + params.knock_interval * 2 + params.connect_timeout);
        prop_assert_eq!(world.last_state, State::Healthy);
        prop_assert!(world.queue.is_empty(), "{} wait still", world.queue.len());
        world.fair_weather(params.breaker.open_for + SECOND);
        prop_assert_eq!(world.last_breaker, BreakerState::Closed, "without a single caller");
        // All of its size is to be had again.
        for _ in 0..world.max_size {
            world.acquire().unwrap();
        }
        while !world.orders.is_empty() {
            world.answer(0);
        }
        prop_assert_eq!(world.leases.len(), world.max_size as usize, "{:?}", world.core.status(world.now));
        world.step(Core::close);
        while let Some(lease) = world.leases.pop() {
            world.step(|core, now| core.give_back(lease, Returned::Good, now));
        }
        prop_assert!(world.core.is_drained() && world.alive.is_empty(), "a connection was leaked");
    }

    /// The breaker opens at the n-th failure in a row and no sooner, never admits more probes than it may, and from every
    /// state closes by time and good calls alone.
    #[test]
    fn the_breaker_is_never_stuck(
        acts in proptest::collection::vec((0..8_u8, 0..40_u64, any::<usize>()), 1..200),
        failures in 1..5_u32,
        probes in 1..4_u32,
    ) {
        let params = BreakerParams { failures, probes, ..BreakerParams::default() };
        let mut breaker = Breaker::new(params.clone());
        let mut now = Duration::ZERO;
        let mut permits: Vec<(Permit, usize)> = Vec::new();
        // The reference: failures in a row in this spell of being closed; spells are told apart by a count.
        let (mut row, mut spell, mut state) = (0, 0, BreakerState::Closed);
        for (act, seconds, which) in acts {
            let permit = |permits: &mut Vec<(Permit, usize)>| {
                (!permits.is_empty()).then(|| permits.swap_remove(which % permits.len()))
            };
            let mut expected = None;
            match act {
                0..=2 => {
                    if let Ok(permit) = breaker.admit(now) {
                        prop_assert!(!matches!(breaker.state(), BreakerState::Open | BreakerState::Isolated));
                        let spell = spell + usize::from(breaker.state() != state);
                        permits.push((permit, spell));
                    }
                }
                3 | 4 => {
                    if let Some((permit, of)) = permit(&mut permits) {
                        let failed = act == 4;
                        if state == BreakerState::Closed && of == spell {
                            row = if failed { row + 1 } else { 0 };
                            expected = Some(if row >= failures { BreakerState::Open } else { BreakerState::Closed });
                        }
                        let outcome = if failed { Outcome::Failure } else { Outcome::Success };
                        breaker.record(permit, outcome, Duration::ZERO, now);
                    }
                }
                5 => {
                    if let Some((permit, _)) = permit(&mut permits) {
                        breaker.release(permit);
                    }
                }
                6 => {
                    now += Duration::from_secs(seconds);
                    breaker.tick(now);
                }
                _ => drop(permit(&mut permits)),
            }
            if let Some(expected) = expected {
                prop_assert_eq!(breaker.state(), expected);
            }
            if breaker.state() != state {
                (row, spell, state) = (0, spell + 1, breaker.state());
            }
            if state == BreakerState::HalfOpen {
                let out = permits.iter().filter(|(_, of)| *of == spell).count();
                prop_assert!(out <= probes as usize, "{out} probes are out");
            }
        }
        drop(permits);
        let end = now + params.open_for * 2 + params.probe_timeout;
        while now < end {
            now += SECOND;
            breaker.tick(now);
            if let Ok(permit) = breaker.admit(now) {
                breaker.record(permit, Outcome::Success, Duration::ZERO, now);
            }
        }
        prop_assert_eq!(breaker.state(), BreakerState::Closed);
    }
}
