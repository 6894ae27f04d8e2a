//! Healing, end to end: a real program writes, its files break, the daemon heals them and proves it, the program goes on.
//! What was promised to the program is counted afterwards, whatever the incident says.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)] // clippy knows a test by its attribute, not by its folder

mod attacks;
mod content;
mod corpus;
mod files;
mod filled;
mod gates;
mod globs;
mod in_use;
mod locks;
mod mended;
mod notices;
mod pages;
mod programs;
mod reclaim;
mod rollback;
mod rollback_in_use;
mod rules;
mod rungs_in_use;
mod salvage;
mod salvage_gaps;
mod salvage_indexes;
mod salvage_names;
mod salvage_sources;
mod salvage_virtual;
mod salvaged;
mod side_files;
#[path = "../support/mod.rs"]
mod support;
mod wal;
