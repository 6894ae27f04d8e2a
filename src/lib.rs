//! guardiand watches SQLite databases, heals them with the least loss possible, and proves it.
//!
//! The rooms follow the way of an incident: [`supervisor`] wakes and schedules, [`modes`] say what to collect,
//! judge it and plan, [`job`] carries the work to a [`worker`] child, [`journal`] makes every intent durable
//! before it is acted on. The supervisor's process opens no supervised file, ever: POSIX locks belong to the
//! process, and closing *any* descriptor of a file drops all of them, so all that touches a database's bytes
//! runs in a child.
//!
//! What other programs may use is [`pool`], a connection pool that cannot stay broken; the rest serves the binary.
//!
//! `tests/tidy.rs` holds the table of who may use whom.

pub mod api;
pub mod backup;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod format;
pub mod host;
pub mod job;
pub mod journal;
pub mod model;
pub mod modes;
pub mod notify;
pub mod pool;
pub mod sqlite;
pub mod supervisor;
pub mod telemetry;
pub mod worker;
