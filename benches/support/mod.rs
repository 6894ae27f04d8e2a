//! What the benchmarks stand on: the real daemon of this build, real files on a real disk, medians.
//!
//! `GUARDIAN_BENCH_DIR` says where the files go (default: the build's folder; not a tmpfs, where fsync costs nothing), other
//! variables how many times something is measured; each benchmark prints those that it heeds.

#![allow(dead_code)] // each benchmark uses its own part

pub mod daemon;
pub mod databases;
pub mod figures;
pub mod usage;

use std::path::PathBuf;

/// A number from the environment.
pub fn number(name: &str, default: usize) -> usize {
    let set =
        std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")));
    let number = set.unwrap_or(default);
    println!("  {name}={number}");
    number
}

/// A folder that goes when the benchmark ends.
pub fn folder() -> tempfile::TempDir {
    let root = std::env::var_os("GUARDIAN_BENCH_DIR").map_or_else(|| env!("CARGO_TARGET_TMPDIR").into(), PathBuf::from);
    std::fs::create_dir_all(&root).unwrap();
    tempfile::Builder::new().prefix("guardian-bench-").tempdir_in(root).unwrap()
}

/// Whether this part was asked for: without arguments all are. `cargo bench` adds `--bench`.
pub fn wanted(part: &str) -> bool {
    let mut asked = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).peekable();
    asked.peek().is_none() || asked.any(|argument| argument == part)
}
