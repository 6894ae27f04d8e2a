//! This room is being built.
pub mod backup;
pub mod step;
