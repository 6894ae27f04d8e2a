//! Who uses the database, for people and scripts.

use crate::job::DatabaseFacts;
use crate::model::{Holder, InUse, LockHeld};

use super::blame;
use super::memory::Memory;

const ROOT_UNSEEN: &str = "programs of root: guardiand is an ordinary user here, and takes them to use no database of other users; \
                           run it as root, or with CAP_SYS_PTRACE, where they do";

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
    let mut unseen = users.blind.clone();
    // It counts as nothing: otherwise no ordinary user could ever heal, for there are processes of root on every host.
    unseen.extend(users.root_unseen.then(|| ROOT_UNSEEN.to_owned()));
    Some(InUse { holders, holders_seen_at: Some(facts.looked_at), locks, unseen })
}
