//! Who holds a lock: a program that may, one that stands still, or nobody any more.

use super::*;

#[test]
fn a_program_that_locks_for_its_life_is_told_from_a_transaction_by_what_only_it_can_have() {
    let later = now().after(Duration::from_secs(3600));
    let after_an_hour = |facts: &DatabaseFacts, mut memory: Memory| {
        memory.note(facts, now());
        match judge(facts, &memory, &config(), later) {
            Verdict::Healthy => "healthy",
            Verdict::Unknown(_) => "unknown",
            Verdict::Unhealthy(_) => "unhealthy",
        }
    };
    let lock = |facts: DatabaseFacts, change: fn(&mut HeldLock)| {
        let mut facts = facts;
        change(&mut facts.locks[0]);
        facts
    };
    let rollback = |journal| exclusively('S', journal);
    let wal = DatabaseFacts { header: Some(header()), ..rollback(None) };
    let in_use =
        JournalFacts { state: JournalState::InUse, detail: "x".to_owned(), nonce: Some(7), outlived_one: false };
    let kept = || {
        let mut memory = seen();
        memory.last_healthy.as_mut().unwrap().journal = Some(file(0));
        memory
    };
    for (name, facts, memory, verdict) in [
        ("a journal that outlived a transaction", rollback(journal_at_rest(true)), seen(), "healthy"),
        ("a journal of a transaction that has not ended", rollback(journal_at_rest(false)), seen(), "unhealthy"),
        ("no journal", rollback(None), seen(), "unhealthy"),
        ("a transaction in the journal", rollback(Some(in_use)), seen(), "unhealthy"),
        ("a journal that is kept anyway", rollback(journal_at_rest(true)), kept(), "unknown"),
        ("unix-excl", lock(rollback(None), |held| held.without_pending = true), seen(), "healthy"),
        ("WAL mode", wal.clone(), seen(), "healthy"),
        ("WAL mode, stopped", DatabaseFacts { header: Some(header()), ..exclusively('T', None) }, seen(), "unhealthy"),
        ("a zombie", DatabaseFacts { header: Some(header()), ..exclusively('Z', None) }, seen(), "unhealthy"),
        ("nobody can be named", lock(wal, |held| (held.pid, held.started_ms) = (0, 0)), seen(), "unhealthy"),
    ] {
        assert_eq!(after_an_hour(&facts, memory), verdict, "{name}");
    }
}

#[test]
fn a_program_that_locks_for_its_life_is_known_by_what_it_writes_and_stays_known() {
    let mut memory = seen();
    memory.last_healthy.as_mut().unwrap().journal = Some(file(0));
    let resting = exclusively('S', journal_at_rest(true));
    memory.note(&resting, now());
    assert_eq!(kinds_of(&resting, &memory), "unknown");
    // It wrote, and holds on.
    let mut written = resting;
    let at = now().after(Duration::from_secs(5)).wall.as_nanosecond();
    written.main = FileState::File(FileFacts { mtime_ns: i64::try_from(at).unwrap(), ..file(40_960) });
    assert_eq!(kinds_of(&written, &memory), "healthy");
    memory.note(&written, now().after(Duration::from_secs(6)));
    let writing =
        JournalFacts { state: JournalState::InUse, detail: "x".to_owned(), nonce: Some(7), outlived_one: false };
    let writing = DatabaseFacts { journal: Some(writing), ..written };
    assert_eq!(kinds_of(&writing, &memory), "healthy", "in the middle of its next transaction");
    // Another program in the same process is not it.
    let mut other = writing;
    other.locks[0].comm = "other".to_owned();
    assert_eq!(kinds_of(&other, &memory), "unknown");
}

#[test]
fn a_transaction_that_ended_between_two_looks_is_known_by_its_journal() {
    let with = |nonce| {
        let journal = JournalFacts { state: JournalState::InUse, detail: "x".to_owned(), nonce, outlived_one: false };
        DatabaseFacts { journal: Some(journal), ..sound() }
    };
    let mut memory = seen();
    assert!(!memory.moved(&with(None)));
    memory.note(&with(None), now());
    assert!(!memory.moved(&with(Some(1))), "the first one to be seen");
    memory.note(&with(Some(1)), now());
    assert!(!memory.moved(&with(Some(1))) && !memory.moved(&with(None)) && memory.moved(&with(Some(2))));
    memory.note(&with(None), now());
    assert!(memory.moved(&with(Some(2))));
}

#[test]
fn a_dotfile_lock_is_its_holders_as_long_as_one_lives_and_is_never_guessed_to_be_nobodys() {
    use crate::job::{DotfileLock, HolderFacts, Users};
    let lock = |seconds: i64| DotfileLock {
        path: "/srv/app.db.lock".into(),
        ino: 9,
        made_ns: i64::try_from(now().wall.as_nanosecond()).unwrap() - seconds * 1_000_000_000,
    };
    let holder = HolderFacts {
        pid: 812,
        comm: "app".to_owned(),
        uid: 1000,
        state: 'S',
        started_ms: 5,
        files: vec!["main".to_owned()],
        unlinked: Vec::new(),
    };
    let facts = |seconds, users| DatabaseFacts { dotfile_lock: Some(lock(seconds)), users, open: None, ..sound() };
    let nobody = || Some(Users::default());
    let somebody = || Some(Users { holders: vec![holder.clone()], ..Users::default() });
    let blind = || Some(Users { blind: vec!["hidepid".to_owned()], ..Users::default() });
    for (name, facts, found) in [
        ("nobody's, old", facts(61, nobody()), "stale_lock_file"),
        ("nobody's, new", facts(5, nobody()), "unknown"),
        ("made in the future", facts(-500, nobody()), "unknown"),
        ("not to be told", facts(3600, blind()), "unknown"),
        ("not looked for", facts(3600, None), "unknown"),
        ("somebody's, new", facts(5, somebody()), "unknown"),
        ("somebody's, old", facts(3600, somebody()), "db_locked"),
        (
            "somebody's who locks for life",
            DatabaseFacts { journal: journal_at_rest(true), ..facts(3600, somebody()) },
            "unknown",
        ),
    ] {
        assert_eq!(kinds_of(&facts, &seen()), found, "{name}");
    }
}

#[test]
fn busy_becomes_locked_when_the_busy_timeout_has_passed() {
    let busy = exclusively('S', None);
    let mut memory = seen();
    assert_eq!(kinds_of(&busy, &memory), "unknown");
    memory.note(&busy, now());
    let later = now().after(Duration::from_secs(6));
    let Verdict::Unhealthy(findings) = judge(&busy, &memory, &config(), later) else { panic!("healthy") };
    assert_eq!(findings[0].kind.as_str(), "db_locked");
    assert!(findings[0].detail.contains("pid 812 `app` holds EXCLUSIVE"), "{}", findings[0].detail);
    memory.note(&sound(), later);
    assert_eq!(memory.busy_since, None, "one answer ends the wait");
}

#[test]
fn a_lock_that_one_process_holds_on_becomes_too_old_and_one_that_changes_hands_does_not() {
    let locked = |pid: i32| {
        let lock = HeldLock { pid, ..held("RESERVED", 'T') };
        DatabaseFacts { locks: vec![lock], ..sound() }
    };
    let mut memory = seen();
    memory.note(&locked(812), now());
    let later = now().after(Duration::from_secs(61));
    let verdict = judge(&locked(812), &memory, &config(), later);
    assert!(verdict.findings()[0].detail.contains("stopped"), "{verdict:?}");
    assert_eq!(judge(&locked(900), &memory, &config(), later), Verdict::Healthy);
}
