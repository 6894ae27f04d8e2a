//! The pool, as its users hold it.

use std::future::Future;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::connect::Manager;
use super::core::{Acquire, WaiterId};
use super::diagnosis::Diagnosis;
use super::error::AcquireError;
use super::event::{PoolStatus, Refusal, State};
use super::guard::Guard;
use super::params::Params;
use super::shared::Shared;

/// A pool of connections to one server. Cheap to clone: all clones are the same pool, which ends with the last of them and of
/// its guards.
pub struct Pool<M: Manager>(Arc<Shared<M>>);

impl<M: Manager> Pool<M> {
    /// A pool that begins to open `min_idle` connections at once. `name` is how logs and errors call it.
    ///
    /// # Panics
    /// Outside a tokio runtime with time enabled, as everything does that waits there.
    pub fn new(name: &str, manager: M, params: Params) -> Pool<M> {
        Pool(Shared::start(name, manager, params, fastrand::u64(..)))
    }

    /// A connection, for as long as the guard lives. Waits for up to [`Params::acquire_timeout`], behind those who came before.
    ///
    /// # Errors
    /// See [`AcquireError`]; a server that is down is told at once.
    #[track_caller]
    pub fn acquire(&self) -> impl Future<Output = Result<Guard<M>, AcquireError>> + Send + '_ {
        self.acquire_at(None, Location::caller())
    }

    /// The same, with a limit of its own.
    ///
    /// # Errors
    /// See [`AcquireError`].
    #[track_caller]
    pub fn acquire_within(&self, limit: Duration) -> impl Future<Output = Result<Guard<M>, AcquireError>> + Send + '_ {
        self.acquire_at(Some(limit), Location::caller())
    }

    /// Starts anew, from any state, closed by hand too: the breaker closes, connections that are not in use are closed at
    /// once and the others when they come back, and the server is looked at right away.
    pub fn force_reopen(&self) {
        self.0.with(|core, now| ((), core.force_reopen(now)));
    }

    /// Closes the circuit breaker and forgets what it counted, isolated or not.
    pub fn reset_circuit_breaker(&self) {
        self.0.with(|core, now| ((), core.reset_circuit_breaker(now)));
    }

    /// Turns every caller away, for a time or until [`Pool::reset_circuit_breaker`] or [`Pool::force_reopen`]. Callers that
    /// wait already are served, and the server is still looked at.
    pub fn isolate(&self, time: Option<Duration>) {
        self.0.with(|core, now| ((), core.isolate(time, now)));
    }

    /// New parameters. No connection that is in use is dropped; a surplus is closed as it comes back.
    pub fn set_params(&self, params: Params) {
        self.0.with(|core, now| ((), core.set_params(params, now)));
    }

    /// The parameters in force.
    pub fn params(&self) -> Params {
        self.0.read(|core, _| core.params().clone())
    }

    /// The pool at this instant.
    pub fn status(&self) -> PoolStatus {
        self.0.status()
    }

    /// Looks at the server now, on a fresh connection where there is room for one, and says in words how the pool is and
    /// what may be done about it. Takes no longer than two connects may, and what failed is looked at twice.
    pub async fn health_check(&self) -> Diagnosis {
        let mut looks = self.0.looks.subscribe();
        let (seen, already, looking) = self.0.with(|core, now| {
            let (seen, already) = (core.looks_ended(), core.is_looking());
            let effects = core.look_now(now);
            ((seen, already, core.is_looking()), effects)
        });
        let limit = self.params().connect_timeout * 2;
        // With every connection in use there is no look, and none is waited for.
        if looking {
            let looked = async {
                let ended = *looks.wait_for(|ended| *ended > seen).await.ok()?;
                let state = self.0.status().state;
                // The failure of a look that was out already can be older than the question.
                if state == State::Degraded || already && state != State::Healthy {
                    let _ = looks.wait_for(|now| *now > ended).await;
                }
                Some(())
            };
            let _ = timeout(limit, looked).await;
        }
        Diagnosis::of(self.status())
    }

    /// Closes the pool: who waits is refused, what is idle is closed at once, what is in use when it comes back.
    pub fn close(&self) {
        self.0.with(|core, now| ((), core.close(now)));
    }

    /// Closes the pool, and waits for up to `limit` until every connection came back: true when all did.
    pub async fn drain(&self, limit: Duration) -> bool {
        // Asked for before it can happen, or it could be missed.
        let drained = self.0.drained.notified();
        tokio::pin!(drained);
        drained.as_mut().enable();
        self.close();
        self.0.read(|core, _| core.is_drained()) || timeout(limit, drained).await.is_ok()
    }

    async fn acquire_at(
        &self,
        limit: Option<Duration>,
        place: &'static Location<'static>,
    ) -> Result<Guard<M>, AcquireError> {
        let answer = match self.ask(place) {
            // No timer is set for what is there.
            Answer::Ready(guard) if !guard.is_doubtful() => return Ok(guard),
            Answer::Refused(refusal) => return Err(self.refused(refusal)),
            answer => answer,
        };
        let limit = limit.unwrap_or_else(|| self.0.read(|core, _| core.params().acquire_timeout));
        let began = Instant::now();
        match timeout(limit, self.settle(answer, place)).await {
            Ok(answer) => answer.map_err(|refusal| self.refused(refusal)),
            Err(_) => Err(self.timed_out(began.elapsed())),
        }
    }

    /// Waits, and tries what is doubtful, until there is a connection that works. Each turn uses a connection up, or waits.
    async fn settle(&self, mut answer: Answer<M>, place: &'static Location<'static>) -> Result<Guard<M>, Refusal> {
        loop {
            let mut guard = match answer {
                Answer::Ready(guard) => guard,
                Answer::Wait(waiting) => waiting.guard().await?,
                Answer::Refused(refusal) => return Err(refusal),
            };
            if !guard.is_doubtful() || guard.is_alive().await {
                return Ok(guard);
            }
            drop(guard);
            answer = self.ask(place);
        }
    }

    fn ask(&self, place: &'static Location<'static>) -> Answer<M> {
        let mut woken = None;
        let (answer, is_doubtful) = self.0.with(|core, now| {
            let (answer, effects) = core.acquire(now, place, || {
                let (wake, receiver) = oneshot::channel();
                woken = Some(receiver);
                wake
            });
            let is_doubtful = matches!(&answer, Acquire::Ready(lease) if core.is_doubtful(lease, now));
            ((answer, is_doubtful), effects)
        });
        let shared = Arc::clone(&self.0);
        match (answer, woken) {
            (Acquire::Ready(lease), _) => Answer::Ready(Guard::new(shared, lease, is_doubtful)),
            (Acquire::Wait(id), Some(woken)) => Answer::Wait(Waiting { shared, id, woken, collected: false }),
            (Acquire::Wait(_), None) => unreachable!("who waits has given something to be woken by"),
            (Acquire::Refused(refusal), _) => Answer::Refused(refusal),
        }
    }

    fn refused(&self, refusal: Refusal) -> AcquireError {
        let cause = match refusal {
            Refusal::Down { .. } | Refusal::BreakerOpen { .. } => self.0.last_error(),
            Refusal::TooManyWaiters | Refusal::Closed => None,
        };
        AcquireError::Refused { pool: Arc::clone(&self.0.name), refusal, cause }
    }

    fn timed_out(&self, waited: Duration) -> AcquireError {
        let PoolStatus { in_use, max_size, opening, waiters, .. } = self.0.status();
        let (pool, cause) = (Arc::clone(&self.0.name), self.0.last_error());
        AcquireError::TimedOut { pool, waited, in_use, max_size, opening, waiters, cause }
    }
}

impl<M: Manager> Clone for Pool<M> {
    fn clone(&self) -> Pool<M> {
        Pool(Arc::clone(&self.0))
    }
}

impl<M: Manager> std::fmt::Debug for Pool<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Pool").field(&self.status()).finish()
    }
}

enum Answer<M: Manager> {
    Ready(Guard<M>),
    Wait(Waiting<M>),
    Refused(Refusal),
}

/// A place in the queue; dropped, it is given up, and what it was given goes to the next.
struct Waiting<M: Manager> {
    shared: Arc<Shared<M>>,
    id: WaiterId,
    woken: oneshot::Receiver<()>,
    collected: bool,
}

impl<M: Manager> Waiting<M> {
    async fn guard(mut self) -> Result<Guard<M>, Refusal> {
        // The core drops no waiter without waking it; were it to, there is nothing to collect.
        let _ = (&mut self.woken).await;
        self.collected = true;
        let answer = self.shared.read(|core, now| {
            let answer = core.collect(self.id)?;
            Some(answer.map(|lease| (core.is_doubtful(&lease, now), lease)))
        });
        match answer {
            Some(Ok((is_doubtful, lease))) => Ok(Guard::new(Arc::clone(&self.shared), lease, is_doubtful)),
            Some(Err(refusal)) => Err(refusal),
            None => Err(Refusal::Closed),
        }
    }
}

impl<M: Manager> Drop for Waiting<M> {
    fn drop(&mut self) {
        if !self.collected {
            self.shared.with(|core, now| ((), core.cancel(self.id, now)));
        }
    }
}

#[cfg(test)]
mod tests;
