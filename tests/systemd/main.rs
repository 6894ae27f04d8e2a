//! The unit under a real systemd, with a real journald, on a machine of its own.
//!
//! A machine is booted as an ordinary program (`linux.uml`, Debian's `user-mode-linux`): its own kernel, its own initial
//! PID namespace, its own disk, and the host's `/usr` to read. Nothing is mounted on the host and no right is needed there,
//! so nothing can be left behind. A container would not do: a guardiand that does not run in the initial PID namespace
//! cannot see who has a file open, and rightly refuses to replace it.
//!
//! All tests run on one machine, one after the other: see [`machine`]. Where there is none to boot, each test says
//! `skipped: needs systemd and user-mode-linux`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)] // clippy knows a test by its attribute, not by its folder

mod endings;
mod guest;
mod hardening;
mod heals;
mod machine;
mod programs;
mod starts;
#[path = "../support/mod.rs"]
mod support;
