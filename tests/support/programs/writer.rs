//! A real program that keeps its data in SQLite.
fn main() {}
