//! One pass without the long run: check, heal, backup.
