//! A connection pool that cannot stay broken.
//!
//! A pool that goes into a failed state and stays there turns a blip of two seconds into an outage that ends with a restart.
//! Here every state but one has a way back that needs nobody, and that one, [`State::Closed`], is entered by
//! [`Pool::close`] alone.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use guardian::pool::{Manager, Params, Pool};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//! use tokio::net::{TcpListener, TcpStream};
//!
//! /// Connections to a server that sends back what it is sent.
//! struct Echo(std::net::SocketAddr);
//!
//! impl Manager for Echo {
//!     type Connection = TcpStream;
//!     type Error = std::io::Error;
//!
//!     async fn connect(&self) -> std::io::Result<TcpStream> {
//!         TcpStream::connect(self.0).await
//!     }
//!
//!     async fn is_valid(&self, connection: &mut TcpStream) -> std::io::Result<()> {
//!         connection.write_all(b"?").await?;
//!         connection.read_u8().await.map(drop)
//!     }
//! }
//!
//! let server = TcpListener::bind("127.0.0.1:0").await?;
//! let pool = Pool::new("echo", Echo(server.local_addr()?), Params { max_size: 4, ..Params::default() });
//! tokio::spawn(async move {
//!     while let Ok((mut connection, _)) = server.accept().await {
//!         tokio::spawn(async move {
//!             let (mut from, mut to) = connection.split();
//!             tokio::io::copy(&mut from, &mut to).await
//!         });
//!     }
//! });
//!
//! let mut connection = pool.acquire().await?;
//! connection.write_all(b"!").await?;
//! assert_eq!(connection.read_u8().await?, b'!');
//! drop(connection); // goes back to the pool
//!
//! assert_eq!(pool.status().idle, 1);
//! assert!(pool.drain(std::time::Duration::from_secs(1)).await);
//! # Ok(())
//! # }
//! ```
//!
//! # What it does
//!
//! * A caller whose connection broke says so ([`Guard::mark_broken`], or [`Manager::recycle`] says it for it). The pool looks
//!   for the server at once, on a fresh connection: one broken connection costs one look, and is no outage.
//! * When that look fails the server is down. It is tried again with waits that grow, by chance, from a second to a minute
//!   ([`Retry`]), for ever; a bare connect each second cuts the wait short. A caller that comes meanwhile causes one look, which
//!   others join, and fails fast when that fails as well, with [`AcquireError::retry_after`].
//! * When the server is back, connections are opened again one, one, two, four at a time: it is not stormed.
//! * A connection that lay idle is asked for a sign of life before it is handed out, and each `health_interval`.
//! * Callers are served in the order they came. A future that is dropped at any await gives back what it had.
//! * The circuit [`Breaker`] turns callers away while calls fail, and is answered by the pool's own looks: it does not wait for
//!   traffic.
//!
//! # How it is made
//!
//! The rules are pure state machines, which wait for nothing, and to which time is an argument: the core, under a short lock,
//! says what is to be done, and tasks do it once the lock is released. No lock is held across a connect.

mod backoff;
mod breaker;
mod connect;
mod core;
mod diagnosis;
mod error;
mod event;
mod guard;
mod handle;
mod http;
mod latencies;
mod params;
mod postgres;
mod recovery;
mod shared;
mod sqlite;
mod tcp;
mod trust;
mod window;

pub use self::backoff::Backoff;
pub use self::breaker::{Breaker, BreakerState, Outcome, Permit};
pub use self::connect::Manager;
pub use self::core::Returned;
pub use self::diagnosis::Diagnosis;
pub use self::error::AcquireError;
pub use self::event::{PoolStatus, Refusal, State};
pub use self::guard::Guard;
pub use self::handle::Pool;
pub use self::http::{Http, HttpConnection, HttpError};
pub use self::params::{Adaptive, BreakerParams, Params, RateParams, Retry};
pub use self::postgres::{Postgres, PostgresConnection, PostgresError};
pub use self::sqlite::{Sqlite, SqliteConnection, SqliteError};
pub use self::tcp::{Ping, Tcp, TcpError};

#[cfg(test)]
mod model_tests;
