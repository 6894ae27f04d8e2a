//! What needs root: file systems that are full, read-only, or not there. Elsewhere each test says `skipped: needs root`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)] // clippy knows a test by its attribute, not by its folder

mod attributes;
mod elsewhere;
mod fooled;
mod frozen;
mod ladder;
mod masses;
mod room;
mod standing;
#[path = "../support/mod.rs"]
mod support;
mod unmounted;
mod users;
