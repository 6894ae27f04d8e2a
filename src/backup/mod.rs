//! This room is being built.
mod retention;
#[cfg(test)]
mod testing;
pub use retention::to_delete;
