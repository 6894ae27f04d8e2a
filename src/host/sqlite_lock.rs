//! SQLite's lock bytes in words (SQLITE.md, section 5).
//!
//! The bytes are SQLite's own, from `os_unix.c` (`PENDING_BYTE`) and `wal.c` (`WALINDEX_LOCK_OFFSET`), and part of
//! its file format: they cannot change.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::lock_table::{Lock, LockMode};
use super::ofd::Bytes;

/// One of SQLite's locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SqliteLock {
    /// Main file, bytes 1073741826..+510, shared: a reader, or any open connection in WAL mode.
    Shared,
    /// Main file, byte 1073741825: a writer that has not written yet.
    Reserved,
    /// Main file, byte 1073741824: a writer that waits for the readers; new ones are turned away.
    Pending,
    /// Main file, the shared bytes, exclusively: nobody else may read or write.
    Exclusive,
    /// `-shm`, byte 120: a writer in WAL mode.
    WalWrite,
    /// `-shm`, byte 121: a checkpoint.
    WalCheckpoint,
    /// `-shm`, byte 122: a recovery of the WAL index.
    WalRecover,
    /// `-shm`, byte 123 + n, with n from 0 to 4: a reader whose snapshot is read mark n.
    WalRead(u8),
    /// `-shm`, byte 128: held shared by each open connection, so that the last one knows that it is the last.
    WalOpen,
}

const PENDING: u64 = 1_073_741_824;
const RESERVED: u64 = PENDING + 1;
const SHARED_FIRST: u64 = PENDING + 2;
const SHARED_LAST: u64 = SHARED_FIRST + 509;
const WAL_WRITE: u64 = 120;
const WAL_READ_FIRST: u64 = 123;
const WAL_OPEN: u64 = 128;

impl SqliteLock {
    /// The locks of SQLite's that a lock on the *main file* stands for; the kernel joins neighbouring bytes into one.
    pub fn on_main(lock: &Lock) -> Vec<SqliteLock> {
        let mut held = Vec::new();
        if lock.touches(SHARED_FIRST, SHARED_LAST) {
            held.push(if lock.mode == LockMode::Write { SqliteLock::Exclusive } else { SqliteLock::Shared });
        }
        if lock.touches(RESERVED, RESERVED) && lock.mode == LockMode::Write {
            held.push(SqliteLock::Reserved);
        }
        if lock.touches(PENDING, PENDING) {
            held.push(SqliteLock::Pending);
        }
        held
    }

    /// The locks of SQLite's that a lock on the *`-shm` file* stands for.
    pub fn on_wal_index(lock: &Lock) -> Vec<SqliteLock> {
        (WAL_WRITE..=WAL_OPEN).filter(|byte| lock.touches(*byte, *byte)).filter_map(SqliteLock::of_wal_byte).collect()
    }

    /// The bytes to ask [`super::ask_lock`] about.
    pub fn bytes(self) -> Bytes {
        match self {
            SqliteLock::Shared | SqliteLock::Exclusive => Bytes::new(SHARED_FIRST, 510),
            SqliteLock::Reserved => Bytes::new(RESERVED, 1),
            SqliteLock::Pending => Bytes::new(PENDING, 1),
            SqliteLock::WalWrite => Bytes::new(WAL_WRITE, 1),
            SqliteLock::WalCheckpoint => Bytes::new(WAL_WRITE + 1, 1),
            SqliteLock::WalRecover => Bytes::new(WAL_WRITE + 2, 1),
            SqliteLock::WalRead(slot) => Bytes::new(WAL_READ_FIRST + u64::from(slot), 1),
            SqliteLock::WalOpen => Bytes::new(WAL_OPEN, 1),
        }
    }

    /// The slot in `aReadMark`, for a WAL reader.
    pub fn read_mark(self) -> Option<u8> {
        match self {
            SqliteLock::WalRead(slot) => Some(slot),
            _ => None,
        }
    }

    fn of_wal_byte(byte: u64) -> Option<SqliteLock> {
        match byte {
            120 => Some(SqliteLock::WalWrite),
            121 => Some(SqliteLock::WalCheckpoint),
            122 => Some(SqliteLock::WalRecover),
            123..=127 => u8::try_from(byte - WAL_READ_FIRST).ok().map(SqliteLock::WalRead),
            128 => Some(SqliteLock::WalOpen),
            _ => None,
        }
    }
}

impl fmt::Display for SqliteLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SqliteLock::Shared => f.write_str("SHARED (reads, or is open in WAL mode)"),
            SqliteLock::Reserved => f.write_str("RESERVED (is about to write)"),
            SqliteLock::Pending => f.write_str("PENDING (waits for readers to end, turns new ones away)"),
            SqliteLock::Exclusive => f.write_str("EXCLUSIVE (nobody else may read or write)"),
            SqliteLock::WalWrite => f.write_str("WAL write lock"),
            SqliteLock::WalCheckpoint => f.write_str("WAL checkpoint lock"),
            SqliteLock::WalRecover => f.write_str("WAL recovery lock"),
            SqliteLock::WalRead(slot) => write!(f, "WAL read lock {slot} (pins a snapshot)"),
            SqliteLock::WalOpen => f.write_str("WAL open mark"),
        }
    }
}

/// A lock with its owner in words, for a message: `EXCLUSIVE (nobody else may read or write), process 4242`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldBy {
    /// Which lock.
    pub lock: SqliteLock,
    /// Its process, where the kernel names one.
    pub pid: Option<i32>,
}

impl fmt::Display for HeldBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "{}, process {pid}", self.lock),
            None => write!(f, "{}, by a process that cannot be named from here", self.lock),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::lock_table::LockKind;
    use super::*;

    fn lock(mode: LockMode, start: u64, end: u64) -> Lock {
        Lock { kind: LockKind::Posix, mode, pid: Some(1), start, end, blocked: false }
    }

    #[test]
    fn the_measured_states_of_the_main_file_have_their_names() {
        use LockMode::{Read, Write};
        use SqliteLock::{Exclusive, Pending, Reserved, Shared};
        for (mode, start, end, names) in [
            (Read, SHARED_FIRST, SHARED_LAST, vec![Shared]),
            (Write, RESERVED, RESERVED, vec![Reserved]),
            (Write, PENDING, RESERVED, vec![Reserved, Pending]),
            (Write, PENDING, SHARED_LAST, vec![Exclusive, Reserved, Pending]),
            (Write, SHARED_FIRST, SHARED_LAST, vec![Exclusive]),
            (Write, 0, u64::MAX, vec![Exclusive, Reserved, Pending]),
            (Write, 0, 100, vec![]),
        ] {
            assert_eq!(SqliteLock::on_main(&lock(mode, start, end)), names, "{mode:?} {start}..{end}");
        }
        assert_eq!(SHARED_LAST, 1_073_742_335);
    }

    #[test]
    fn the_measured_states_of_the_wal_index_have_their_names() {
        use SqliteLock::{WalCheckpoint, WalOpen, WalRead, WalWrite};
        for (start, end, names) in [
            (128, 128, vec![WalOpen]),
            (123, 123, vec![WalRead(0)]),
            (127, 127, vec![WalRead(4)]),
            (120, 121, vec![WalWrite, WalCheckpoint]),
            (0, 119, vec![]),
            (129, 200, vec![]),
        ] {
            assert_eq!(SqliteLock::on_wal_index(&lock(LockMode::Write, start, end)), names, "{start}..{end}");
        }
    }

    #[test]
    fn the_bytes_of_a_lock_are_the_bytes_it_is_known_by() {
        for slot in 0..5 {
            let bytes = SqliteLock::WalRead(slot).bytes();
            let back = SqliteLock::on_wal_index(&lock(LockMode::Read, bytes.start, bytes.start));
            assert_eq!(back, [SqliteLock::WalRead(slot)]);
        }
        assert_eq!(SqliteLock::WalRead(3).read_mark(), Some(3));
    }
}
