//! Verified copies: take, list, verify, keep, restore.
