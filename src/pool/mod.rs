//! The foundation of a connection pool that cannot stay broken: its rules as pure state machines.
//!
//! A pool that goes into a failed state and stays there turns a blip of two seconds into an outage that ends with a restart.
//! Here every state but one has a way back that needs nobody, and that one, [`State::Closed`], is entered by
//! [`Core::close`] alone.
//!
//! Nothing in this module waits, connects, logs or reads a clock. Time is an argument: the span since any fixed instant, such
//! as the pool's birth. Chance comes from a seed. A caller holds a [`Core`] under a short lock, calls it, and carries out the
//! [`Effects`] that it gives back once the lock is released: wake waiters, open connections, close connections, log events. So
//! no lock is ever held across a connect, and each rule is tested without a server.
//!
//! * [`Breaker`] turns callers away while calls fail.
//! * [`Backoff`] says how long to wait before the next attempt.
//! * [`Core`] counts connections, queues callers first come first served, and decides when to look for the server.
//!
//! ```
//! use guardian::pool::{Acquire, Core, Order, Params, Returned};
//! use std::panic::Location;
//! use std::time::Duration;
//!
//! let at = Duration::from_millis;
//! // Connections are strings here, and waiters are woken by a number.
//! let mut core: Core<&str, u32> = Core::new(Params::default(), 1, at(0));
//!
//! // Nothing is open yet: the caller waits, and a connection is ordered.
//! let (acquired, mut effects) = core.acquire(at(0), Location::caller(), || 7);
//! let Acquire::Wait(waiter) = acquired else { panic!("nothing is open yet") };
//! let Some(Order::Connect(ticket)) = effects.orders.pop() else { panic!("none was ordered") };
//!
//! // The server answered: the waiter is to be woken, and collects its connection.
//! let effects = core.connected(ticket, "connection 1", at(5));
//! assert_eq!(effects.wake, [7]);
//! let lease = core.collect(waiter).expect("granted").expect("not refused");
//! assert_eq!(lease.connection, "connection 1");
//!
//! // Given back in order, it serves the next caller at once.
//! let _ = core.give_back(lease, Returned::Good, at(9));
//! assert!(matches!(core.acquire(at(10), Location::caller(), || 8), (Acquire::Ready(_), _)));
//! ```

mod backoff;
mod breaker;
mod core;
mod event;
mod params;
mod recovery;
mod window;

pub use self::backoff::Backoff;
pub use self::breaker::{Breaker, BreakerState, Outcome, Permit};
pub use self::core::{Acquire, Core, Effects, Lease, Order, Returned, Ticket, WaiterId};
pub use self::event::{Event, Refusal, State, Status};
pub use self::params::{BreakerParams, Params, RateParams, Retry};

#[cfg(test)]
mod model_tests;
