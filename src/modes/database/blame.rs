//! Who keeps whom waiting, and for how long: named in words, the same everywhere.

use std::time::Duration;

use crate::job::{HeldLock, HolderFacts};

pub(super) const SHARED: &str = "SHARED";
const RESERVED: &str = "RESERVED";
const PENDING: &str = "PENDING";
pub(super) const EXCLUSIVE: &str = "EXCLUSIVE";

/// The locks that others wait for. `wanted`: a writer was seen waiting for readers at this look or before, and nobody has
/// committed since.
///
/// A writer that waits (PENDING) keeps everybody out, and is itself kept waiting by readers: those are to blame. A reader
/// that keeps nobody waiting is not, however long it reads, unless it stands still: then it will, and never end.
pub fn culprits(locks: &[HeldLock], wanted: bool) -> Vec<&HeldLock> {
    let has = |held: &HeldLock, lock: &str| locks.iter().any(|one| one.pid == held.pid && one.lock == lock);
    // A writer reads, too.
    let is_writer = |held: &HeldLock| [RESERVED, PENDING].iter().any(|lock| has(held, lock));
    let readers = locks.iter().filter(|held| held.lock == SHARED && !is_writer(held));
    let pending = locks.iter().any(|held| held.lock == PENDING);
    let readers = readers.filter(|held| pending || wanted || held.standstill.is_some()).collect::<Vec<_>>();
    if pending && !readers.is_empty() {
        return readers;
    }
    let mut culprits = readers;
    let has_more_to_say = |held: &HeldLock| held.lock == RESERVED && has(held, PENDING);
    let others = locks.iter().filter(|held| held.blocks_writers && held.lock != SHARED && !has_more_to_say(held));
    culprits.extend(others);
    culprits
}

/// A writer that waits for readers to end, if there are such readers.
pub fn waiting(locks: &[HeldLock]) -> Option<&HeldLock> {
    let writer = locks.iter().find(|held| held.lock == PENDING)?;
    locks.iter().any(|held| held.lock == SHARED && held.pid != writer.pid).then_some(writer)
}

/// `pid 812 `app` is a WAL reader at frame 213 since at least 14 min, state T (stopped)`.
pub fn words(held: &HeldLock, age: Option<Duration>) -> String {
    let since =
        age.filter(|age| age.as_secs() > 0).map(|age| format!(" since at least {}", span(age))).unwrap_or_default();
    if held.pid == 0 {
        return format!("a process that cannot be named from here {}{since}", doing(&held.lock));
    }
    format!("{} {}{since}, {}", process(held.pid, &held.comm), doing(&held.lock), state(held))
}

/// `pid 812 `app` (uid 1000, state S) has main, wal open`.
pub fn holder_words(holder: &HolderFacts) -> String {
    let unlinked = match holder.unlinked.as_slice() {
        [] => String::new(),
        names => format!(", of which {} has no name any more", names.join(", ")),
    };
    format!(
        "{} (uid {}, state {}) has {} open{unlinked}",
        process(holder.pid, &holder.comm),
        holder.uid,
        holder.state,
        holder.files.join(", ")
    )
}

/// A process by its number and name. A program names itself: what could end the name, or a line, is left out.
pub fn process(pid: i32, comm: &str) -> String {
    let name = comm.chars().map(|c| if c.is_control() || c == '`' { '?' } else { c }).collect::<String>();
    format!("pid {pid} `{name}`")
}

/// As long as people say it: `42 s`, `14 min`, `2 h 5 min`, `3 d 4 h`.
pub fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match () {
        () if seconds < 60 => format!("{seconds} s"),
        () if minutes < 60 => format!("{minutes} min"),
        () if days == 0 => format!("{hours} h {} min", minutes % 60),
        () => format!("{days} d {} h", hours % 24),
    }
}

fn doing(lock: &str) -> String {
    match lock {
        SHARED => "holds SHARED (reads)".to_owned(),
        RESERVED => "holds RESERVED (is about to write)".to_owned(),
        PENDING => "holds PENDING (waits for readers to end, and turns new ones away)".to_owned(),
        EXCLUSIVE => "holds EXCLUSIVE (nobody else may read or write)".to_owned(),
        "WAL write" => "is the WAL writer".to_owned(),
        "WAL checkpoint" => "is checkpointing the WAL".to_owned(),
        "WAL recovery" => "is recovering the WAL index".to_owned(),
        lock if lock.starts_with("WAL reader") => format!("is a {lock}"),
        lock => format!("holds the lock {lock}"),
    }
}

fn state(held: &HeldLock) -> String {
    match held.standstill {
        Some(still) => format!("state {} ({})", held.state, still.words()),
        None => format!("state {}", held.state),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Standstill;

    fn held(pid: i32, lock: &str) -> HeldLock {
        HeldLock {
            pid,
            comm: "app".to_owned(),
            state: 'S',
            started_ms: 5,
            lock: lock.to_owned(),
            blocks_readers: false,
            blocks_writers: !lock.starts_with("WAL reader"),
            uid: 1000,
            standstill: None,
            frame: None,
            without_pending: false,
        }
    }

    fn stopped(pid: i32, lock: &str) -> HeldLock {
        HeldLock { state: 'T', standstill: Some(Standstill::Stopped), ..held(pid, lock) }
    }

    #[test]
    fn who_waits_is_not_to_blame_and_who_is_waited_for_is() {
        type Case = (&'static str, Vec<HeldLock>, bool, &'static [(i32, &'static str)]);
        let cases: [Case; 9] = [
            ("a reader that nobody waits for", vec![held(1, "SHARED")], false, &[]),
            ("a reader that somebody waited for", vec![held(1, "SHARED")], true, &[(1, "SHARED")]),
            ("a stopped reader", vec![stopped(1, "SHARED"), held(2, "SHARED")], false, &[(1, "SHARED")]),
            (
                "a writer that waits for a reader",
                vec![held(1, "SHARED"), held(2, "SHARED"), held(2, "RESERVED"), held(2, "PENDING")],
                false,
                &[(1, "SHARED")],
            ),
            ("a writer that waits for nobody", vec![held(2, "RESERVED"), held(2, "PENDING")], false, &[(2, "PENDING")]),
            ("a writer that has not written", vec![held(2, "SHARED"), held(2, "RESERVED")], false, &[(2, "RESERVED")]),
            (
                "a writer beside a reader that it need not wait for yet",
                vec![held(1, "SHARED"), held(2, "SHARED"), held(2, "RESERVED")],
                false,
                &[(2, "RESERVED")],
            ),
            ("exclusive", vec![held(3, "EXCLUSIVE")], false, &[(3, "EXCLUSIVE")]),
            ("WAL", vec![held(4, "WAL write"), held(5, "WAL reader at frame 2")], false, &[(4, "WAL write")]),
        ];
        for (name, locks, wanted, blamed) in cases {
            let found = culprits(&locks, wanted).iter().map(|held| (held.pid, held.lock.clone())).collect::<Vec<_>>();
            let blamed = blamed.iter().map(|(pid, lock)| (*pid, (*lock).to_owned())).collect::<Vec<_>>();
            assert_eq!(found, blamed, "{name}");
        }
        assert_eq!(waiting(&[held(1, "SHARED"), held(2, "PENDING")]).map(|held| held.pid), Some(2));
        assert_eq!(waiting(&[held(2, "SHARED"), held(2, "PENDING")]), None);
    }

    #[test]
    fn a_lock_is_told_in_a_sentence() {
        let reader = HeldLock { frame: Some(213), ..stopped(812, "WAL reader at frame 213") };
        assert_eq!(
            words(&reader, Some(Duration::from_secs(14 * 60 + 20))),
            "pid 812 `app` is a WAL reader at frame 213 since at least 14 min, state T (stopped)"
        );
        assert_eq!(
            words(&held(7, "EXCLUSIVE"), None),
            "pid 7 `app` holds EXCLUSIVE (nobody else may read or write), state S"
        );
        assert!(
            words(&held(0, "RESERVED"), None).starts_with("a process that cannot be named from here holds RESERVED")
        );
        let nasty = HeldLock { comm: "a`\n\u{1b}[2Jb".to_owned(), ..held(7, "SHARED") };
        assert!(words(&nasty, None).starts_with("pid 7 `a???[2Jb` holds SHARED"), "{}", words(&nasty, None));
    }

    #[test]
    fn a_span_is_as_long_as_people_say_it() {
        for (seconds, said) in
            [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3599, "59 min"), (7500, "2 h 5 min"), (273_600, "3 d 4 h")]
        {
            assert_eq!(span(Duration::from_secs(seconds)), said);
        }
    }
}
