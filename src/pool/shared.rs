//! What all handles of one pool share: the core under its lock, and the tasks that carry out what it asks for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};

use super::connect::Manager;
use super::core::{Core, Effects, Order, Ticket};
use super::event::{Event, PoolStatus, State};
use super::latencies::Latencies;
use super::params::Params;
use crate::telemetry::{PoolBreakerChanged, PoolBudgetChanged, PoolLeak, PoolStateChanged};

/// Wakes one waiter.
pub(super) type Wake = oneshot::Sender<()>;

type Connection<M> = <M as Manager>::Connection;

pub(super) struct Shared<M: Manager> {
    pub(super) name: Arc<str>,
    pub(super) manager: M,
    born: Instant,
    /// Guards are dropped anywhere, outside the runtime as well.
    runtime: Handle,
    locked: Mutex<Locked<M>>,
    /// Something is due sooner than the ticker thinks.
    sooner: Arc<Notify>,
    /// The last connection of a closed pool came back.
    pub(super) drained: Notify,
    /// How many looks at the server have ended.
    pub(super) looks: watch::Sender<u64>,
}

struct Locked<M: Manager> {
    core: Core<Connection<M>, Wake>,
    /// The tasks that carry out orders, by the number of the ticket.
    tasks: HashMap<u64, AbortHandle>,
    /// What the ticker sleeps until.
    ticks_at: Option<Duration>,
    last_error: Option<Arc<str>>,
    /// How long the last validations took.
    validations: Latencies,
}

impl<M: Manager> Shared<M> {
    pub(super) fn start(name: &str, manager: M, params: Params, seed: u64) -> Arc<Shared<M>> {
        let sooner = Arc::new(Notify::new());
        let runtime = Handle::current();
        let shared = Arc::new(Shared {
            name: name.into(),
            manager,
            born: Instant::now(),
            runtime: runtime.clone(),
            locked: Mutex::new(Locked {
                core: Core::new(params, seed, Duration::ZERO),
                tasks: HashMap::new(),
                ticks_at: None,
                last_error: None,
                validations: Latencies::default(),
            }),
            sooner: Arc::clone(&sooner),
            drained: Notify::new(),
            looks: watch::Sender::new(0),
        });
        drop(runtime.spawn(tick_on(Arc::downgrade(&shared), sooner)));
        shared
    }

    fn now(&self) -> Duration {
        self.born.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, Locked<M>> {
        // The core calls nobody's code, and whatever panicked elsewhere, it has to go on.
        self.locked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One operation on the core, and what follows from it. Orders are begun and stopped under the lock, so that none is
    /// stopped before it is known; everything that runs others' code waits until the lock is released.
    pub(super) fn with<T>(
        self: &Arc<Self>,
        operation: impl FnOnce(&mut Core<Connection<M>, Wake>, Duration) -> (T, Effects<Connection<M>, Wake>),
    ) -> T {
        let now = self.now();
        let mut locked = self.lock();
        let (value, effects) = operation(&mut locked.core, now);
        let Effects { wake, orders, aborted, expired, close, events } = effects;
        if let Some(waited) = expired {
            locked.last_error = Some(format!("no answer in {waited:?}").into());
        }
        for number in aborted {
            if let Some(task) = locked.tasks.remove(&number) {
                task.abort();
            }
        }
        for order in orders {
            let number = order.number();
            let task = self.runtime.spawn(Arc::clone(self).carry_out(order));
            locked.tasks.insert(number, task.abort_handle());
        }
        let due = locked.core.next_due();
        let sooner = due.is_some_and(|due| locked.ticks_at.is_none_or(|at| due < at));
        if sooner {
            locked.ticks_at = due;
        }
        let looks = locked.core.looks_ended();
        let drained = locked.core.is_drained();
        let error = if events.is_empty() { None } else { locked.last_error.clone() };
        if events.iter().any(|event| matches!(event, Event::State { to: State::Healthy, .. })) {
            locked.last_error = None;
        }
        drop(locked);

        if sooner {
            self.sooner.notify_one();
        }
        if drained {
            self.drained.notify_waiters();
        }
        self.looks.send_if_modified(|seen| {
            let more = looks > *seen;
            *seen = looks.max(*seen);
            more
        });
        for waiter in wake {
            // One that has given up cancels by itself.
            let _ = waiter.send(());
        }
        drop(close);
        for event in events {
            self.tell(&event, error.as_deref());
        }
        value
    }

    /// What has no effects.
    pub(super) fn read<T>(&self, look: impl FnOnce(&mut Core<Connection<M>, Wake>, Duration) -> T) -> T {
        let now = self.now();
        look(&mut self.lock().core, now)
    }

    pub(super) fn status(&self) -> PoolStatus {
        let locked = self.lock();
        let mut status = locked.core.status(self.now());
        status.last_error = locked.last_error.as_deref().map(str::to_owned);
        status.validation_p99_ms =
            locked.validations.p99().map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
        drop(locked);
        status.pool = self.name.to_string();
        status.last_failure_time =
            status.since_last_failure_ms.and_then(|ms| Timestamp::now().checked_sub(Duration::from_millis(ms)).ok());
        status
    }

    pub(super) fn last_error(&self) -> Option<Arc<str>> {
        self.lock().last_error.clone()
    }

    pub(super) fn failed(&self, why: &str) {
        self.lock().last_error = Some(why.into());
    }

    pub(super) fn validated(&self, took: Duration) {
        self.lock().validations.record(took);
    }

    pub(super) fn validation_limit(&self) -> Duration {
        let locked = self.lock();
        locked.core.params().limit(locked.validations.p99())
    }

    async fn carry_out(self: Arc<Self>, order: Order<Connection<M>>) {
        let (ticket, result) = match order {
            Order::Connect(ticket) | Order::Knock(ticket) => (ticket, self.manager.connect().await),
            Order::Look(ticket, made) => (ticket, self.look(made).await),
            Order::Check(ticket, mut idle) => (ticket, self.manager.is_valid(&mut idle).await.map(|()| idle)),
        };
        self.answer(ticket, result);
    }

    async fn look(&self, made: Option<Connection<M>>) -> Result<Connection<M>, M::Error> {
        let mut connection = match made {
            Some(connection) => connection,
            None => self.manager.connect().await?,
        };
        self.manager.is_valid(&mut connection).await?;
        Ok(connection)
    }

    fn answer(self: &Arc<Self>, ticket: Ticket, result: Result<Connection<M>, M::Error>) {
        if let Err(error) = &result {
            self.failed(&error.to_string());
        }
        self.lock().tasks.remove(&ticket.number());
        self.with(|core, now| {
            let effects = match result {
                Ok(connection) => core.connected(ticket, connection, now),
                Err(_) => core.connect_failed(ticket, now),
            };
            ((), effects)
        });
    }

    /// Does what is due, and says when the next is.
    fn tick(self: &Arc<Self>) -> Option<Instant> {
        self.with(|core, now| ((), core.tick(now)));
        let mut locked = self.lock();
        locked.ticks_at = locked.core.next_due();
        locked.ticks_at.map(|due| self.born + due)
    }

    fn tell(&self, event: &Event, error: Option<&str>) {
        let pool = &*self.name;
        match event {
            Event::State { from, to } => PoolStateChanged { pool, from: from.name(), to: to.name(), error }.emit(),
            Event::Breaker { from, to } => PoolBreakerChanged { pool, from: from.name(), to: to.name() }.emit(),
            Event::Budget { from, to } => PoolBudgetChanged { pool, from: *from, to: *to }.emit(),
            Event::Leak { place, held } => PoolLeak { pool, place, held: *held }.emit(),
        }
    }
}

impl<M: Manager> Drop for Shared<M> {
    fn drop(&mut self) {
        // The ticker finds nothing left to tick, and ends.
        self.sooner.notify_one();
    }
}

/// Lets time do what is due, for as long as there is a pool.
async fn tick_on<M: Manager>(shared: Weak<Shared<M>>, sooner: Arc<Notify>) {
    loop {
        let Some(strong) = shared.upgrade() else { return };
        let due = strong.tick();
        drop(strong);
        match due {
            Some(due) => drop(timeout_at(due, sooner.notified()).await),
            None => sooner.notified().await,
        }
    }
}
