//! The pool against real sockets: whatever the server does, it serves again once the server is back, and needs nobody.
//!
//! How soon is held on a clock without chance, beside the code; here a machine that is busy may take its time, and what must
//! not be is that anything lasts.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // clippy knows a test by its attribute, not by its folder

mod callers;
mod http;
mod outages;
mod postgres;
mod postgres_proxied;
mod postgres_server;
mod proxy;
mod server;
mod sqlite;
#[path = "../support/mod.rs"]
mod support;
