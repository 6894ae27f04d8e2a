//! This room is being built.
mod store;
pub use store::{Store, StoreError, Value};
