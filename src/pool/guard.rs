//! A connection in a caller's hands.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use tokio::time::{Instant, timeout};

use super::connect::Manager;
use super::core::{Lease, Returned};
use super::shared::Shared;

/// A connection, until it is dropped: then it goes back to the pool. Held for longer than `leak_after` it is reported.
///
/// When a panic drops it, and when it was marked, the connection is not used again.
#[must_use = "a connection that is dropped goes back at once"]
pub struct Guard<M: Manager> {
    shared: Arc<Shared<M>>,
    /// `None` only while it is being dropped.
    lease: Option<Lease<M::Connection>>,
    mark: Option<Returned>,
    is_doubtful: bool,
}

impl<M: Manager> Guard<M> {
    pub(super) fn new(shared: Arc<Shared<M>>, lease: Lease<M::Connection>, is_doubtful: bool) -> Guard<M> {
        Guard { shared, lease: Some(lease), mark: None, is_doubtful }
    }

    /// Says that the server, or the way to it, failed this caller: the connection is closed and the pool looks for the server.
    /// A caller that timed out says it, too.
    pub fn mark_broken(&mut self) {
        self.mark = Some(Returned::Broken);
    }

    /// Says that the connection is not to be used again, for a reason that says nothing about the server, such as a query
    /// that was cut off.
    pub fn mark_retired(&mut self) {
        self.mark = Some(Returned::Retired);
    }

    pub(super) fn is_doubtful(&self) -> bool {
        self.is_doubtful
    }

    /// Asks for a sign of life. What gave none is marked so that it goes back as stale.
    pub(super) async fn is_alive(&mut self) -> bool {
        // A caller that gives up in between leaves an answer on its way, which the next would take for its own.
        self.mark = Some(Returned::Retired);
        let limit = self.shared.validation_limit();
        let began = Instant::now();
        let shared = Arc::clone(&self.shared);
        let why = match timeout(limit, shared.manager.is_valid(self)).await {
            Ok(Ok(())) => {
                self.shared.validated(began.elapsed());
                self.mark = None;
                return true;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no sign of life in {limit:?}"),
        };
        self.shared.failed(&why);
        self.mark = Some(Returned::Stale);
        false
    }
}

impl<M: Manager> Deref for Guard<M> {
    type Target = M::Connection;

    fn deref(&self) -> &M::Connection {
        match &self.lease {
            Some(lease) => &lease.connection,
            None => unreachable!("a guard has its lease until it is dropped"),
        }
    }
}

impl<M: Manager> DerefMut for Guard<M> {
    fn deref_mut(&mut self) -> &mut M::Connection {
        match &mut self.lease {
            Some(lease) => &mut lease.connection,
            None => unreachable!("a guard has its lease until it is dropped"),
        }
    }
}

impl<M: Manager> Drop for Guard<M> {
    fn drop(&mut self) {
        let Some(mut lease) = self.lease.take() else { return };
        let returned = match self.mark {
            Some(mark) => mark,
            // Whatever it was in the middle of, nobody will finish it.
            None if std::thread::panicking() => Returned::Retired,
            None => self.shared.manager.recycle(&mut lease.connection),
        };
        self.shared.with(|core, now| ((), core.give_back(lease, returned, now)));
    }
}

impl<M: Manager> std::fmt::Debug for Guard<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard").field("pool", &self.shared.name).field("mark", &self.mark).finish_non_exhaustive()
    }
}
