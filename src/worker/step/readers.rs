//! Whether a checkpoint can succeed, asked without a lock of ours: one that waits for a reader keeps writers out meanwhile, and
//! one that gives up leaves behind what the WAL-reset bug of SQLite before 3.51.3 needs (SQLITE.md, section 9, rule 15).

use std::time::{Duration, Instant};

use super::place::Place;
use super::{refused, while_};
use crate::host::{LockMode, SqliteLock, ask_lock};
use crate::job::{HeaderFacts, HeldLock, JobFailure};
use crate::worker::probe;

/// At most so long is waited for a moment in which nobody reads or writes; asking costs nobody anything.
const PATIENCE_MAX: Duration = Duration::from_secs(5);
/// Between two questions.
const BETWEEN_QUESTIONS: Duration = Duration::from_millis(2);

/// What a checkpoint that truncates needs for a moment: the writer's byte and each reader's.
const NEEDED: [SqliteLock; 6] = [
    SqliteLock::WalWrite,
    SqliteLock::WalRead(0),
    SqliteLock::WalRead(1),
    SqliteLock::WalRead(2),
    SqliteLock::WalRead(3),
    SqliteLock::WalRead(4),
];

/// Waits for a moment in which all is free. Refuses when somebody holds on: named; and where programs of an old SQLite might
/// be at work, also when readers come and go without a gap.
///
/// Opens and closes `-shm`: before SQLite, never beside it (rule 7).
pub(super) fn make_way(place: &Place<'_>) -> Result<(), JobFailure> {
    let who = probe::who_locks(place.path());
    if who.shows_reset_bug {
        return Err(refused("its WAL shows the WAL-reset bug (rule 16): a checkpoint would tear the database"));
    }
    if place.stat(&place.side("-shm"))?.is_none() {
        return Ok(()); // nobody is there, or somebody who shares with nobody: SQLite will say
    }
    let shm = place.folder.open_own_in(place.side("-shm")).map_err(while_("opening the WAL index"))?;
    let until = Instant::now() + Duration::from_millis(place.job.site.busy_ms).min(PATIENCE_MAX);
    let mut held_on: Option<Vec<(SqliteLock, Option<i32>)>> = None;
    loop {
        let mut held = Vec::new();
        for lock in NEEDED {
            let conflict = ask_lock(&shm, lock.bytes(), LockMode::Write).map_err(while_("asking who reads the WAL"))?;
            held.extend(conflict.map(|conflict| (lock, conflict.pid)));
        }
        if held.is_empty() {
            return Ok(());
        }
        held_on = Some(match held_on {
            None => held,
            Some(before) => before.into_iter().filter(|one| held.contains(one)).collect(),
        });
        if Instant::now() >= until {
            break;
        }
        std::thread::sleep(BETWEEN_QUESTIONS);
    }
    drop(shm);
    let held_on = held_on.unwrap_or_default();
    if held_on.is_empty() {
        return overlapping(&who.header);
    }
    let pids = held_on.iter().map(|(_, pid)| pid.unwrap_or(0)).collect::<Vec<_>>();
    Err(refused(format!("nothing was tried: {}", named(&probe::who_locks(place.path()).locks, &pids))))
}

/// Readers that come and go are waited for by SQLite; where its own patience may end too early, only if that harms nobody.
fn overlapping(header: &Option<HeaderFacts>) -> Result<(), JobFailure> {
    match header {
        Some(HeaderFacts::Good { sqlite_version, .. }) if is_free_of_the_reset_bug(*sqlite_version) => Ok(()),
        _ => Err(refused(
            "readers come and go without a gap, and the SQLite that wrote last is older than 3.51.3: a checkpoint that gives up \
             half way could cost commits there; give its programs a newer one",
        )),
    }
}

/// 3.51.3, and the backports to 3.44 and 3.50. That the header names the last writer's version alone, and that it may have been
/// ours, is why this only decides how patient we are.
fn is_free_of_the_reset_bug(version: u32) -> bool {
    version >= 3_051_003 || (3_050_007..3_051_000).contains(&version) || (3_044_006..3_045_000).contains(&version)
}

fn named(locks: &[HeldLock], pids: &[i32]) -> String {
    let those = locks.iter().filter(|held| pids.contains(&held.pid) && held.lock.starts_with("WAL"));
    let names = those.map(|held| {
        let state = held.standstill.map_or(String::new(), |still| format!(" ({})", still.words()));
        format!("pid {} `{}`, state {}{state}, {}", held.pid, held.comm, held.state, held.lock)
    });
    let names = names.collect::<Vec<_>>();
    match names.is_empty() {
        true => format!("the WAL is held on by {pids:?}"),
        false => format!("the WAL is held on by {}", names.join("; ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_versions_without_the_bug_are_known() {
        for (version, free) in [
            (3_007_000, false),
            (3_040_001, false),
            (3_044_005, false),
            (3_044_006, true),
            (3_045_000, false),
            (3_050_006, false),
            (3_050_007, true),
            (3_051_000, false),
            (3_051_002, false),
            (3_051_003, true),
            (3_054_001, true),
        ] {
            assert_eq!(is_free_of_the_reset_bug(version), free, "{version}");
        }
    }
}
