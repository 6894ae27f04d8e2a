//! The four promises: never make it worse, never lose a commit, never guess, never hang and never die.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)] // clippy knows a test by its attribute, not by its folder

mod bad_input;
mod comes_back;
mod corpus;
mod false_alarms;
mod live;
mod opens;
mod picture;
mod promises;
#[path = "../support/mod.rs"]
mod support;
mod unjudged;
mod workers;
mod zoo;
