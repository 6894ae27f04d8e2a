//! The binary: parse, start, map the exit status.

fn main() {}
