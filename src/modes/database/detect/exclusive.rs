//! A program in `locking_mode=EXCLUSIVE`, told from a transaction that holds EXCLUSIVE for long.
//!
//! Both have the same bytes locked (SQLITE.md, section 5), and nobody else gets in. The program is healthy as long as it lives
//! and is not stopped; the transaction is a lock like any other. Told apart by what only the program can have:
//!
//! | seen beside EXCLUSIVE | it is |
//! | --- | --- |
//! | not the byte of PENDING | the `unix-excl` VFS, which locks for its life |
//! | WAL mode | the program: a WAL transaction never takes EXCLUSIVE, but for the moment of a last close |
//! | a journal at rest that has outlived a transaction, where none is kept otherwise | the program: in the mode DELETE every other writer's journal is gone when its transaction has ended |
//! | the same, where one is kept otherwise (TRUNCATE, PERSIST) | the program, if the database was written while EXCLUSIVE was held on; else it cannot be told, and that is what is said: no alarm, no heal |
//! | no journal, or one with a transaction in it | a transaction, unless it was known as the program before |
//!
//! So a transaction is never taken for the program but in TRUNCATE and PERSIST, where guardiand never saw it unlocked; and the
//! program for a transaction only before its first commit, and where it keeps no journal at all (MEMORY, OFF) and is idle.

use jiff::Timestamp;

use crate::job::{DatabaseFacts, HeaderFacts, HeldLock, JournalState};

use super::super::blame;
use super::super::memory::{LockKey, Memory};

/// Whose EXCLUSIVE it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exclusive<'a> {
    /// There is none, or a transaction's.
    No,
    /// A program's that locks for its life.
    Program(&'a HeldLock),
    /// It could be either's.
    Unclear(&'a HeldLock),
}

/// Tells.
pub fn exclusive<'a>(facts: &'a DatabaseFacts, memory: &Memory) -> Exclusive<'a> {
    let mut held = facts.locks.iter().filter(|held| held.lock == blame::EXCLUSIVE);
    let (Some(held), None) = (held.next(), held.next()) else { return Exclusive::No };
    if held.pid == 0 || held.started_ms == 0 || held.standstill.is_some() || !is_alive(held.state) {
        return Exclusive::No;
    }
    let known = memory.exclusive.as_ref() == Some(&LockKey::of(held));
    let wal_mode = matches!(facts.header, Some(HeaderFacts::Good { wal_mode: true, .. }));
    if known || held.without_pending || wal_mode {
        return Exclusive::Program(held);
    }
    let outlived = |journal: &crate::job::JournalFacts| journal.state == JournalState::Absent && journal.outlived_one;
    if !facts.journal.as_ref().is_some_and(outlived) {
        return Exclusive::No;
    }
    let kept_otherwise = memory.last_healthy.as_ref().is_some_and(|print| print.journal.is_some());
    let written_meanwhile = !memory.moved(facts)
        && memory.held_since(held).is_some_and(|since| written_at(facts).is_some_and(|written| written > since.wall));
    match kept_otherwise && !written_meanwhile {
        true => Exclusive::Unclear(held),
        false => Exclusive::Program(held),
    }
}

/// Neither stopped, nor dead, nor unseen.
fn is_alive(state: char) -> bool {
    matches!(state, 'R' | 'S' | 'D' | 'I')
}

fn written_at(facts: &DatabaseFacts) -> Option<Timestamp> {
    Timestamp::from_nanosecond(i128::from(facts.main.file()?.mtime_ns)).ok()
}
