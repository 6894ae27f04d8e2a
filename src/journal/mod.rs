//! Incident logs, the state.db index, resume after a crash.
