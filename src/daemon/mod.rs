//! Wiring: the long run, one pass, signals, shutdown.
