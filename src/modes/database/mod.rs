//! SQLite databases.

pub mod config;
