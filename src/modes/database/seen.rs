//! Who uses the database, for people and scripts.

use crate::job::DatabaseFacts;
use crate::model::{Holder, InUse, LockHeld};

use super::blame;
use super::memory::Memory;

/// What this look saw; holders are those of an earlier one where this one did not ask.
pub(super) fn in_use(facts: &DatabaseFacts, memory: &Memory, before: Option<InUse>) -> Option<InUse> {
    let lock = |held: &crate::job::HeldLock| {
        let age = memory.age_of(held);
        LockHeld {
            pid: held.pid,
            comm: held.comm.clone(),
            state: held.state,
            lock: held.lock.clone(),
            held_seconds: age.map(|age| age.as_secs_f64()),
            words: blame::words(held, age),
        }
    };
    let locks = facts.locks.iter().map(lock).collect();
    let Some(users) = &facts.users else {
        return Some(InUse { locks, ..before.unwrap_or_default() });
    };
    let holder = |holder: &crate::job::HolderFacts| Holder {
        pid: holder.pid,
        comm: holder.comm.clone(),
        uid: holder.uid,
        state: holder.state,
        files: holder.files.clone(),
        unlinked: holder.unlinked.clone(),
        words: blame::holder_words(holder),
    };
    let holders = Some(users.holders.iter().map(holder).collect());
    Some(InUse { holders, holders_seen_at: Some(facts.looked_at), locks, unseen: users.blind.clone() })
}
