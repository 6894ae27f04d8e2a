//! Workers: a hang, a crash and a hostile file are answers like any other, and a look leaves every byte as it was.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)] // clippy knows a test by its attribute, not by its folder

mod abandoned;
mod children;
mod kept;
mod looking;
mod support;
