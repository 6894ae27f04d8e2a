//! Seeds for a while: real writers, real faults, and nothing that was promised may be missing without a word.
//!
//! `GUARDIAN_CHAOS_SECONDS` says how long (20), `GUARDIAN_CHAOS_SEED` which seed comes first (1). One seed that
//! failed is run again with `cargo run --example chaos -- --seed N`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // clippy knows a test by its attribute, not by its folder

mod harness;
#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

#[test]
fn whatever_breaks_nothing_promised_is_lost_without_a_word() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let first = number("GUARDIAN_CHAOS_SEED").unwrap_or(1);
    let time = Duration::from_secs(number("GUARDIAN_CHAOS_SECONDS").unwrap_or(20));
    let total = harness::run(first, u64::MAX, time, 2);
    println!("{total}");
    assert!(total.runs > 0 && total.failed.is_empty(), "failed seeds: {:?}", total.failed);
}
