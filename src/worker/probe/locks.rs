//! Who locks the database now, in words.

use std::fs::File;

use super::files::{Files, Looked, open_raw};
use super::{booted_ns, raw};
use crate::format::WalIndex;
use crate::format::wal_index::READ_MARK_UNUSED;
use crate::host::{Bytes, LockKind, LockMode, Mounts, ProcessFacts, SqliteLock, ask_lock, standstill};
use crate::job::HeldLock;
use crate::worker::sweep::Sweep;

/// SQLite's bytes in the main file: PENDING, RESERVED and the shared range.
const MAIN: Bytes = Bytes::new(1_073_741_824, 512);
/// SQLite's bytes in the WAL index, but the one that says only that it is open.
const WAL_INDEX: Bytes = Bytes::new(120, 8);

/// As [`HeldLock::lock`] has it.
const EXCLUSIVE: &str = "EXCLUSIVE";

/// The name of the lock that a checkpoint has.
const WAL_CHECKPOINT: &str = "WAL checkpoint";

/// A lock, and the process that has it where the kernel names one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    lock: SqliteLock,
    pid: Option<i32>,
    /// An open file's lock: SQLite takes none, but a scrub or a backup of ours does, and ends by itself.
    is_ours: bool,
}

/// Every connection in WAL mode has these as long as it lives; they say nothing.
fn says_nothing(lock: SqliteLock, mode: LockMode, wal_mode: bool) -> bool {
    match lock {
        SqliteLock::Shared => wal_mode,
        SqliteLock::WalOpen => mode == LockMode::Read,
        _ => false,
    }
}

/// Whether any lock that says something is in the sweep's table: all that an unchanged file is asked.
pub(super) fn any_in_table(files: &Files, sweep: &Sweep, wal_mode: bool) -> bool {
    sweep.locks().is_none() || !in_table(files, sweep, wal_mode).is_empty()
}

fn in_table(files: &Files, sweep: &Sweep, wal_mode: bool) -> Vec<Seen> {
    let of = |looked: &Looked, names: fn(&crate::host::Lock) -> Vec<SqliteLock>| -> Vec<Seen> {
        let (Some(facts), Some(table)) = (&looked.host, sweep.locks()) else { return Vec::new() };
        let device = sweep.mounts().lock_device(facts, &looked.path);
        let held = table.of(device, facts.id.ino).iter().filter(|lock| !lock.blocked && lock.kind != LockKind::Ofd);
        let said = held.flat_map(|lock| names(lock).into_iter().map(move |name| (name, lock)));
        said.filter(|(name, lock)| !says_nothing(*name, lock.mode, wal_mode))
            .map(|(lock, held)| Seen { lock, pid: held.pid, is_ours: false })
            .collect()
    };
    let mut seen = of(&files.main, SqliteLock::on_main);
    seen.extend(of(&files.shm, SqliteLock::on_wal_index));
    seen
}

/// Every lock that says something. The kernel is asked first, which knows of holders in other PID namespaces too but names one
/// at a time; only where it names one the table tells the others (reading /proc/locks waits for all processors: some 10 ms).
/// Opens and closes descriptors: before SQLite, never beside it.
pub(super) fn held(files: &Files, sweep: &Sweep, wal_mode: bool, index: Option<&WalIndex>) -> Vec<HeldLock> {
    let mut asked = Vec::new();
    if let Ok(main) = open_raw(&files.main) {
        ask_main(&main, wal_mode, &mut asked);
    }
    if files.shm.state.file().is_some()
        && let Ok(shm) = open_raw(&files.shm)
    {
        ask_wal_index(&shm, &mut asked);
    }
    if asked.is_empty() {
        return Vec::new();
    }
    let mut seen = in_table(files, sweep, wal_mode);
    let whole_life = without_pending(&seen);
    asked.into_iter().filter(|one| !one.is_ours).for_each(|one| add(&mut seen, one));
    let mut locks = in_words(seen, index, sweep.mounts());
    for held in locks.iter_mut().filter(|held| held.lock == EXCLUSIVE) {
        held.without_pending = whole_life.contains(&held.pid);
    }
    locks
}

/// Whether a checkpoint may have copied more than `index` said before `locks` were asked for. It says beforehand how far it sets out to
/// copy, writes, waits until that is durable, and then says how far it came, all under its lock; one that was cut off lets go of that.
pub(super) fn may_be_checkpointing(files: &Files, locks: &[HeldLock], index: WalIndex) -> bool {
    let has_lock = || locks.iter().any(|held| held.lock == WAL_CHECKPOINT);
    let told = |index: WalIndex| (index.salt1, index.salt2, index.backfilled);
    let has_ended = || raw::wal_index(&files.shm, booted_ns()).map(told) != Some(told(index));
    index.attempted > index.backfilled && (has_lock() || has_ended())
}

/// Who has EXCLUSIVE and not PENDING at one instant. Of the table alone: asked one after the other, they are of two instants.
fn without_pending(table: &[Seen]) -> Vec<i32> {
    let has = |pid, lock| table.iter().any(|seen| seen.pid == pid && seen.lock == lock);
    let exclusive = table.iter().filter(|seen| seen.lock == SqliteLock::Exclusive);
    exclusive.filter(|seen| !has(seen.pid, SqliteLock::Pending)).filter_map(|seen| seen.pid).collect()
}

fn ask_main(main: &File, wal_mode: bool, seen: &mut Vec<Seen>) {
    if !matches!(ask_lock(main, MAIN, LockMode::Write), Ok(Some(_))) {
        return;
    }
    let mut ask = |lock: SqliteLock, mode| {
        let conflict = ask_lock(main, lock.bytes(), mode).ok().flatten();
        if let Some(conflict) = conflict {
            add(seen, Seen { lock, pid: conflict.pid, is_ours: conflict.is_ofd });
        }
        conflict.is_some()
    };
    // Only a writer's lock stands in a reader's way.
    if !ask(SqliteLock::Exclusive, LockMode::Read) && !wal_mode {
        ask(SqliteLock::Shared, LockMode::Write);
    }
    ask(SqliteLock::Reserved, LockMode::Write);
    ask(SqliteLock::Pending, LockMode::Read);
}

fn ask_wal_index(shm: &File, seen: &mut Vec<Seen>) {
    if !matches!(ask_lock(shm, WAL_INDEX, LockMode::Write), Ok(Some(_))) {
        return;
    }
    let readers = (0..5).map(SqliteLock::WalRead);
    let others = [SqliteLock::WalWrite, SqliteLock::WalCheckpoint, SqliteLock::WalRecover];
    for lock in others.into_iter().chain(readers) {
        if let Ok(Some(conflict)) = ask_lock(shm, lock.bytes(), LockMode::Write) {
            add(seen, Seen { lock, pid: conflict.pid, is_ours: conflict.is_ofd });
        }
    }
}

/// The table names every holder, the kernel one: what the table has is not added again without a name.
fn add(seen: &mut Vec<Seen>, new: Seen) {
    let known = |old: &Seen| old.lock == new.lock && (old.pid == new.pid || new.pid.is_none());
    if !seen.iter().any(known) {
        seen.push(new);
    }
}

fn in_words(mut seen: Vec<Seen>, index: Option<&WalIndex>, mounts: &Mounts) -> Vec<HeldLock> {
    // EXCLUSIVE stands on the bytes of RESERVED and PENDING too, and says all that they say.
    let exclusive: Vec<Option<i32>> =
        seen.iter().filter(|one| one.lock == SqliteLock::Exclusive).map(|one| one.pid).collect();
    seen.retain(|one| {
        !matches!(one.lock, SqliteLock::Reserved | SqliteLock::Pending | SqliteLock::Shared)
            || !exclusive.contains(&one.pid)
    });
    seen.sort_by_key(|one| (one.lock, one.pid));
    seen.dedup();
    seen.into_iter().map(|one| describe(one, index, mounts)).collect()
}

fn describe(seen: Seen, index: Option<&WalIndex>, mounts: &Mounts) -> HeldLock {
    let process = seen.pid.and_then(|pid| ProcessFacts::of(pid).ok());
    let mark = |slot: u8| index.and_then(|index| index.read_marks.get(usize::from(slot)).copied());
    let frame = seen.lock.read_mark().and_then(mark).filter(|frame| *frame != READ_MARK_UNUSED);
    let (lock, blocks_readers, blocks_writers) = match seen.lock {
        SqliteLock::Shared => ("SHARED".to_owned(), false, true),
        SqliteLock::Reserved => ("RESERVED".to_owned(), false, true),
        SqliteLock::Pending => ("PENDING".to_owned(), true, true),
        SqliteLock::Exclusive => (EXCLUSIVE.to_owned(), true, true),
        SqliteLock::WalWrite => ("WAL write".to_owned(), false, true),
        SqliteLock::WalCheckpoint => (WAL_CHECKPOINT.to_owned(), false, false),
        SqliteLock::WalRecover => ("WAL recovery".to_owned(), true, true),
        SqliteLock::WalOpen => ("WAL open, exclusively".to_owned(), true, true),
        SqliteLock::WalRead(_) => {
            let words = frame.map_or_else(|| "WAL reader".to_owned(), |frame| format!("WAL reader at frame {frame}"));
            (words, false, false)
        }
    };
    HeldLock {
        pid: seen.pid.unwrap_or(0),
        comm: process.as_ref().map(|process| process.comm.clone()).unwrap_or_default(),
        state: process.as_ref().map_or('?', |process| process.state),
        started_ms: process.as_ref().map_or(0, |process| process.started_boot_ms),
        lock,
        blocks_readers,
        blocks_writers,
        uid: process.as_ref().map_or(0, |process| process.uid),
        standstill: process.and_then(|process| standstill(process.pid, mounts).ok().flatten()),
        frame,
        without_pending: false,
    }
}

/// Those of `locks` that keep a checkpoint from finishing: readers whose snapshot ends before the last frame.
pub(super) fn holding_back(locks: &[HeldLock], index: Option<&WalIndex>) -> Vec<HeldLock> {
    let Some(index) = index.filter(|index| index.backfilled < index.mx_frame) else { return Vec::new() };
    let behind = |lock: &&HeldLock| lock.frame.is_some_and(|frame| frame < index.mx_frame);
    locks.iter().filter(behind).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(seen: &[(SqliteLock, Option<i32>)]) -> Vec<String> {
        let seen = seen.iter().map(|&(lock, pid)| Seen { lock, pid, is_ours: false }).collect();
        in_words(seen, None, &Mounts::default()).into_iter().map(|held| held.lock).collect()
    }

    #[test]
    fn exclusive_says_it_all_for_its_own_holder_and_for_no_other() {
        use SqliteLock::{Exclusive, Pending, Reserved, Shared};
        let (one, two) = (Some(i32::MAX - 1), Some(i32::MAX));
        assert_eq!(names(&[(Reserved, one), (Pending, one), (Exclusive, one), (Exclusive, one)]), ["EXCLUSIVE"]);
        assert_eq!(names(&[(Reserved, one), (Shared, two), (Shared, one)]), ["SHARED", "SHARED", "RESERVED"]);
        assert_eq!(names(&[(Pending, two), (Exclusive, one)]), ["PENDING", "EXCLUSIVE"]);
    }

    #[test]
    fn only_the_unix_excl_vfs_has_exclusive_without_pending() {
        use SqliteLock::{Exclusive, Pending, Reserved};
        let table = |locks: &[(SqliteLock, i32)]| {
            let seen =
                locks.iter().map(|&(lock, pid)| Seen { lock, pid: Some(pid), is_ours: false }).collect::<Vec<_>>();
            without_pending(&seen)
        };
        assert_eq!(table(&[(Exclusive, 7)]), [7]);
        assert_eq!(
            table(&[(Exclusive, 7), (Pending, 7)]),
            [0; 0],
            "locking_mode=EXCLUSIVE in WAL mode takes no RESERVED"
        );
        assert_eq!(table(&[(Exclusive, 7), (Reserved, 7), (Pending, 7)]), [0; 0]);
        assert_eq!(table(&[(Exclusive, 7), (Pending, 8)]), [7]);
    }

    #[test]
    fn an_idle_program_in_wal_mode_holds_nothing_that_counts() {
        assert!(says_nothing(SqliteLock::Shared, LockMode::Read, true));
        assert!(says_nothing(SqliteLock::WalOpen, LockMode::Read, true));
        assert!(!says_nothing(SqliteLock::Shared, LockMode::Read, false));
        assert!(!says_nothing(SqliteLock::WalRead(1), LockMode::Read, true));
        assert!(!says_nothing(SqliteLock::Exclusive, LockMode::Write, true));
    }

    /// On a disk that takes seconds to sync, all pages are in the main file before the index says so.
    #[test]
    fn what_a_checkpoint_set_out_to_copy_may_be_copied_until_it_has_ended() {
        const ATTEMPTED: u64 = 128;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.db");
        let program = rusqlite::Connection::open(&path).unwrap();
        program.pragma_update(None, "journal_mode", "wal").unwrap();
        program.execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES(1)").unwrap();
        let files = Files::pinned(&path);
        let index = || raw::wal_index(&files.shm, booted_ns()).unwrap();
        let lock = |lock| vec![describe(Seen { lock, pid: None, is_ours: false }, None, &Mounts::default())];
        let begun = lock(SqliteLock::WalCheckpoint);
        assert_eq!((index().attempted, index().backfilled), (0, 0));
        assert!(
            !may_be_checkpointing(&files, &begun, index()),
            "it has copied nothing yet, and what it will shows later"
        );

        let shm = File::options().write(true).open(&files.shm.path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&shm, &index().mx_frame.to_ne_bytes(), ATTEMPTED).unwrap();
        let seen = index();
        assert!(seen.attempted > seen.backfilled, "{seen:?}");
        assert!(may_be_checkpointing(&files, &begun, seen));
        assert!(!may_be_checkpointing(&files, &lock(SqliteLock::WalWrite), seen), "it was cut off");
        program.execute_batch("PRAGMA wal_checkpoint").unwrap();
        assert!(may_be_checkpointing(&files, &[], seen), "it has ended since");
        assert!(!may_be_checkpointing(&files, &[], index()));
    }

    #[test]
    fn a_reader_holds_a_checkpoint_back_when_its_snapshot_ends_early() {
        let mut index = WalIndex::parse(&[0; crate::format::wal_index::WAL_INDEX_HEAD_LEN]).unwrap();
        (index.mx_frame, index.backfilled, index.read_marks) = (319, 213, [0, 213, 319, READ_MARK_UNUSED, 0]);
        let seen = (1..3).map(|slot| Seen { lock: SqliteLock::WalRead(slot), pid: None, is_ours: false }).collect();
        let locks = in_words(seen, Some(&index), &Mounts::default());
        let back = holding_back(&locks, Some(&index));
        assert_eq!(back.iter().map(|held| held.lock.as_str()).collect::<Vec<_>>(), ["WAL reader at frame 213"]);
        assert_eq!(back[0].pid, 0, "a holder without a name is said, not guessed");
        index.backfilled = 319;
        assert!(holding_back(&locks, Some(&index)).is_empty());
    }
}
