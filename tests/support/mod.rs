//! What the end-to-end suites stand on: real files, real programs that write them, the real daemon.
//!
//! A [`Scene`](scene::Scene) is a folder with databases and a daemon that watches them; a [`Program`](program::Program) writes
//! and remembers what it was promised; [`damage`] breaks files; [`truth`] counts what is really there.

#![allow(dead_code)] // each suite uses its own part

pub mod command;
pub mod daemon;
pub mod damage;
pub mod http;
pub mod mounts;
pub mod program;
pub mod scene;
pub mod service;
pub mod truth;

/// The program under test. An example is not told where it is, but stands in the folder below.
pub fn guardiand() -> std::path::PathBuf {
    match option_env!("CARGO_BIN_EXE_guardiand") {
        Some(path) => path.into(),
        None => std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("guardiand"),
    }
}
