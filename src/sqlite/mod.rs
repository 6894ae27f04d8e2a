//! The only user of rusqlite: open, check, backup, repair primitives, error classes.
