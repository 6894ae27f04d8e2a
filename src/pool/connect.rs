//! What a pool has to know of the server it pools connections to.

use std::future::Future;

use super::core::Returned;

/// How connections to one server are opened and judged.
///
/// The pool calls it from tasks of its own, never under a lock, and stops a future that takes longer than it may by dropping
/// it: each must be safe to drop at any await. Errors are told in logs, in [`AcquireError`](super::AcquireError) and in
/// [`PoolStatus`](super::PoolStatus), so they must hold no secret.
pub trait Manager: Send + Sync + 'static {
    /// An open connection. Dropping it closes it, and must not block.
    type Connection: Send + 'static;
    /// Why a connection could not be opened, or does not work.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Opens a connection, up to where the first call can be made.
    ///
    /// # Errors
    /// The server cannot be reached, or lets nobody in.
    fn connect(&self) -> impl Future<Output = Result<Self::Connection, Self::Error>> + Send;

    /// Asks the server over this connection for a sign of life, by a round trip: what is only looked at here may be dead.
    ///
    /// # Errors
    /// There was none, or not the one of a server that works.
    fn is_valid(&self, connection: &mut Self::Connection) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// How a connection comes back from a caller, without asking the server: [`Returned::Broken`] when it is known to have
    /// failed, [`Returned::Retired`] when it was left in the middle of something. Called when a guard is dropped.
    fn recycle(&self, connection: &mut Self::Connection) -> Returned {
        let _ = connection;
        Returned::Good
    }
}
