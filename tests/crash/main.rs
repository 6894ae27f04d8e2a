//! The daemon dies, at any instant, and the next one carries on: healed, evidence intact, nothing lost that the playbook
//! itself would not lose.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)] // clippy knows a test by its attribute, not by its folder

mod appends;
mod globs;
mod rollback;
mod starts;
#[path = "../support/mod.rs"]
mod support;
