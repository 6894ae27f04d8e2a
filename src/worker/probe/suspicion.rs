//! Whether a database changed in a way that SQLite does not change it, judged from what `stat` and the header say.

use crate::job::{FileFacts, Fingerprint, IntegrityLevel};

/// Beyond this size a full check on mere suspicion is preceded by a quick one, in bytes.
pub(super) const FULL_AT_ONCE: u64 = 64 << 20;

/// A suspicion in words, and the check it calls for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Suspicion {
    pub(super) why: String,
    pub(super) level: IntegrityLevel,
}

/// What is known beside the two fingerprints.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Beside {
    /// The header's change counter and its witness (`version-valid-for`) are not the same, though a writer of today's kind wrote
    /// last.
    pub(super) counters_differ: bool,
    /// Nobody looked between the two.
    pub(super) unwatched: bool,
}

/// Compares the files now with those of the last healthy look.
pub(super) fn behind_sqlite(
    before: Option<&Fingerprint>,
    now: &Fingerprint,
    Beside { counters_differ, unwatched }: Beside,
) -> Option<Suspicion> {
    let full = |why: String| Some(Suspicion { why, level: IntegrityLevel::Full });
    let Some(before) = before else {
        return if counters_differ { full("the header's two counters of changes differ".to_owned()) } else { None };
    };
    let (old, new) = (&before.main, &now.main);
    // A device's number may change with the boot; an inode's does not.
    if old.ino != new.ino {
        return full(format!("the file was replaced: it is inode {} and was {}", new.ino, old.ino));
    }
    let touched = !new.is_unwritten_since(old);
    if touched && counters_differ {
        return full("the file changed, and the header's two counters of changes differ".to_owned());
    }
    if touched && now.change_counter != before.change_counter {
        // It wraps around; half of its range tells back from forth.
        let back = now.change_counter.wrapping_sub(before.change_counter) > u32::MAX / 2;
        if back {
            let (now, then) = (now.change_counter, before.change_counter);
            return full(format!("the change counter went back from {then} to {now}"));
        }
    } else if touched && !before.wal_mode && !now.wal_mode {
        return full("the file changed, and its change counter did not".to_owned());
    } else if touched && is_same_wal(before, now) {
        return full("the file changed, and neither its change counter nor its WAL did".to_owned());
    }
    // With a WAL beside it nothing but a checkpoint writes to it, its change counter included.
    if touched && before.copied.is_some() && before.copied == now.copied {
        return full("the file changed, and no checkpoint has copied anything into it".to_owned());
    }
    side_file_gone(before, now, touched).or_else(|| {
        // A writer may have died after its commits, and its hot journal may be gone: what it had written of its last transaction
        // stands in the file then, under a change counter that has moved on in order.
        let why = "the file was written while nobody watched, and a rollback journal may have come and gone";
        (unwatched && touched && !now.wal_mode).then(|| Suspicion { why: why.to_owned(), level: IntegrityLevel::Quick })
    })
}

/// SQLite treats a WAL of 0 bytes as none, and a reader that creates one has changed nothing.
fn wal(print: &Fingerprint) -> Option<FileFacts> {
    print.wal.filter(|wal| wal.size > 0)
}

fn is_same_wal(before: &Fingerprint, now: &Fingerprint) -> bool {
    // As root SQLite gives it its owner anew each time it opens it: the time of its last change of status says nothing.
    wal(before).zip(wal(now)).is_some_and(|(before, now)| now.is_unwritten_since(&before))
}

/// A program that closed its WAL, or rolled back what another had left, leaves the same picture as somebody who deleted that
/// file, and with it a part of what the main file is made of: a cheaper look will do.
fn side_file_gone(before: &Fingerprint, now: &Fingerprint, touched: bool) -> Option<Suspicion> {
    let quick = |why: &str| Some(Suspicion { why: why.to_owned(), level: IntegrityLevel::Quick });
    let journal = |print: &Fingerprint| print.journal.filter(|journal| journal.size > 0);
    match (wal(before), wal(now)) {
        (Some(then), now) if now.is_none_or(|now| now.ino != then.ino) => quick("its WAL is gone"),
        (None, None) if touched && now.wal_mode => quick("the file changed, and there is no WAL"),
        // Under a lock it is a transaction's, which ends in its own way.
        _ if !before.locked && journal(before).is_some() && journal(now).is_none() => {
            quick("its rollback journal is gone")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(ino: u64, mtime_ns: i64, change_counter: u32, wal: Option<(bool, i64)>) -> Fingerprint {
        let file =
            |mtime_ns| FileFacts { dev: 1, ino, size: 4096, mtime_ns, ctime_ns: 0, uid: 0, gid: 0, mode: 0, nlink: 1 };
        Fingerprint {
            main: file(mtime_ns),
            wal: wal.filter(|(there, _)| *there).map(|(_, mtime)| file(mtime)),
            journal: None,
            change_counter,
            schema_cookie: 1,
            wal_mode: wal.is_some(),
            copied: None,
            locked: false,
        }
    }

    #[test]
    fn what_sqlite_itself_does_is_never_suspected_in_full_and_what_it_does_not_do_is() {
        use IntegrityLevel::{Full, Quick};
        let rollback = |mtime, counter| print(1, mtime, counter, None);
        let wal = |mtime, counter, wal_mtime| print(1, mtime, counter, Some((true, wal_mtime)));
        let closed = |mtime, counter| print(1, mtime, counter, Some((false, 0)));
        let looked_into = |mtime, counter| {
            let mut print = wal(mtime, counter, 9);
            print.wal.as_mut().unwrap().size = 0;
            print
        };
        let owned = |mtime| {
            let mut print = wal(mtime, 1, 1);
            print.wal.as_mut().unwrap().ctime_ns = 7;
            print
        };
        let copied = |mtime, wal_mtime, frames| {
            let mut print = wal(mtime, 1, wal_mtime);
            print.copied = Some(crate::job::Copied { salt: [1, 2], frames });
            print
        };
        let another = |mtime| {
            let mut print = wal(mtime, 1, 1);
            print.wal.as_mut().unwrap().ino = 2;
            print
        };
        let journalled = |locked| {
            let mut print = rollback(1, 1);
            print.journal = Some(print.main);
            print.locked = locked;
            print
        };
        let table = [
            ("nothing changed", rollback(1, 1), rollback(1, 1), None),
            ("a commit", rollback(1, 1), rollback(2, 2), None),
            ("a commit when the counter wraps", rollback(1, u32::MAX), rollback(2, 0), None),
            ("a flipped byte", rollback(1, 1), rollback(2, 1), Some(Full)),
            ("an older copy was put there", rollback(1, 9), rollback(2, 5), Some(Full)),
            ("another file", rollback(1, 1), print(2, 1, 1, None), Some(Full)),
            ("a checkpoint", wal(1, 1, 1), wal(2, 1, 2), None),
            ("a flipped byte beside a WAL", wal(1, 1, 1), wal(2, 1, 1), Some(Full)),
            ("a flipped byte beside a WAL that root's SQLite gave its owner again", wal(1, 1, 1), owned(2), Some(Full)),
            ("a flipped byte under a writer", copied(1, 1, 7), copied(2, 2, 7), Some(Full)),
            ("a checkpoint under a writer", copied(1, 1, 7), copied(2, 2, 9), None),
            ("a checkpoint under way", copied(1, 1, 7), wal(2, 1, 2), None),
            ("written and closed", closed(1, 1), closed(2, 1), Some(Quick)),
            ("written and closed by two programs", closed(1, 1), closed(2, 2), Some(Quick)),
            ("a flipped byte, and an empty WAL of a reader's", closed(1, 1), looked_into(2, 1), Some(Quick)),
            ("the WAL was closed", wal(1, 1, 1), closed(2, 1), Some(Quick)),
            ("the WAL was closed, and another begun", wal(1, 1, 1), another(2), Some(Quick)),
            ("the WAL was deleted", wal(1, 1, 1), closed(1, 1), Some(Quick)),
            ("a journal that nobody wrote was deleted", journalled(false), rollback(1, 1), Some(Quick)),
            ("a transaction ended", journalled(true), rollback(1, 1), None),
        ];
        for (name, before, now, expected) in table {
            assert_eq!(
                behind_sqlite(Some(&before), &now, Beside::default()).map(|found| found.level),
                expected,
                "{name}"
            );
        }
    }

    #[test]
    fn differing_counters_are_suspected_once_and_not_for_ever() {
        let print = print(1, 1, 1, None);
        let differ = Beside { counters_differ: true, unwatched: false };
        assert!(behind_sqlite(None, &print, differ).is_some());
        assert!(behind_sqlite(Some(&print), &print, differ).is_none());
        assert!(behind_sqlite(None, &print, Beside::default()).is_none());
    }

    #[test]
    fn what_was_written_while_nobody_watched_is_looked_into_once() {
        let unwatched = Beside { counters_differ: false, unwatched: true };
        let level = |before, now, beside| behind_sqlite(Some(before), now, beside).map(|found: Suspicion| found.level);
        let (before, committed) = (print(1, 1, 1, None), print(1, 2, 5, None));
        assert_eq!(level(&before, &committed, unwatched), Some(IntegrityLevel::Quick));
        assert_eq!(level(&before, &committed, Beside::default()), None, "a busy writer");
        assert_eq!(level(&before, &before, unwatched), None, "nobody wrote");
        let wal = |mtime| print(1, mtime, 1, Some((true, mtime)));
        assert_eq!(level(&wal(1), &wal(2), unwatched), None, "a WAL that is there has no journal beside it");
    }
}
