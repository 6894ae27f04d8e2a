//! `cargo run --release --example chaos -- --seed N --runs N [--jobs N] [--seconds N]`: see `tests/chaos/README.md`.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr
)] // a test program

mod harness;
#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

fn main() {
    let (mut seed, mut runs, mut jobs, mut seconds) = (1, 1, 2, u64::MAX);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let place = match word.as_str() {
            "--seed" => &mut seed,
            "--runs" => &mut runs,
            "--jobs" => &mut jobs,
            "--seconds" => &mut seconds,
            _ => usage(),
        };
        *place = words.next().and_then(|text| text.parse().ok()).unwrap_or_else(|| usage());
    }
    let total = harness::run(seed, runs, Duration::from_secs(seconds), jobs as usize);
    println!("{total}");
    std::process::exit(i32::from(!total.failed.is_empty()));
}

fn usage() -> ! {
    eprintln!("usage: chaos --seed N --runs N [--jobs N] [--seconds N]");
    std::process::exit(2);
}
