//! Whether the files are still those that a plan was made from. What came back by itself, or was put back, is not what was judged:
//! it may be whole, and newer than all that would take its place.

use super::outdated;
use super::place::Place;
use crate::job::{Basis, FileFacts, FileState, JobFailure};

/// Refuses what was planned for other files. The step that preserves them asks first: it is what every plan that replaces a file
/// begins with, and from there on what is installed is compared with what was preserved.
pub(super) fn holds(place: &Place<'_>) -> Result<(), JobFailure> {
    let Some(Basis { main, wal, journal, alone }) = &place.job.basis else { return Ok(()) };
    let is_new = |name: &std::ffi::OsStr, change: &str| {
        outdated(format!(
            "{} {change} since it was looked at, and what was planned is for what was there then: it is looked at anew",
            place.path_of(name).display()
        ))
    };
    if let Some(change) = change_of_main(main, place.stat(&place.name)?.as_ref(), *alone) {
        return Err(is_new(&place.name, change));
    }
    for (suffix, then) in [("-wal", wal), ("-journal", journal)].into_iter().filter(|_| *alone) {
        let name = place.side(suffix);
        if let Some(change) = change_of_side(then, place.stat(&name)?.as_ref()) {
            return Err(is_new(&name, change));
        }
    }
    Ok(())
}

/// What became of the main file; `alone`: nobody is expected to write it. What was no file then is judged elsewhere.
fn change_of_main(then: &FileState, now: Option<&FileFacts>, alone: bool) -> Option<&'static str> {
    match (then, now) {
        (FileState::Missing, Some(_)) => Some("is there again"),
        (FileState::File(_), None) => Some("is gone"),
        (FileState::File(then), Some(now)) if then.ino != now.ino => Some("is another file"),
        (FileState::File(then), Some(now)) if (then.size == 0) != (now.size == 0) => Some("was emptied or filled"),
        // Also a time that was set back shows in that of the last change of status.
        (FileState::File(then), Some(now))
            if alone && (!now.is_unwritten_since(then) || now.ctime_ns != then.ctime_ns) =>
        {
            Some("was changed")
        }
        _ => None,
    }
}

/// What became of a side file. One without a byte is none: a look of ours may make such a `-wal`, and take it away. Nor does the
/// last change of its status count: SQLite as root gives a side file its owner when it opens it.
fn change_of_side(then: &FileState, now: Option<&FileFacts>) -> Option<&'static str> {
    let then = match then {
        FileState::Missing => None,
        FileState::File(then) => Some(then),
        FileState::Symlink { .. } | FileState::Other { .. } | FileState::Unreadable { .. } => return None,
    };
    match (then.filter(|then| then.size > 0), now.filter(|now| now.size > 0)) {
        (None, Some(_)) => Some("is there"),
        (Some(_), None) => Some("is gone"),
        (Some(then), Some(now)) if !now.is_unwritten_since(then) => Some("was changed"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(ino: u64, size: u64, mtime_ns: i64, ctime_ns: i64) -> FileFacts {
        FileFacts { dev: 1, ino, size, mtime_ns, ctime_ns, uid: 0, gid: 0, mode: 0o600, nlink: 1 }
    }

    #[test]
    fn a_plan_is_for_the_file_that_was_judged_and_under_programs_for_the_same_file() {
        let was = file(7, 4096, 10, 10);
        for (then, now, alone, under_programs) in [
            (None, None, None, None),
            (None, Some(was), Some("is there again"), Some("is there again")),
            (None, Some(file(7, 0, 10, 10)), Some("is there again"), Some("is there again")),
            (Some(was), None, Some("is gone"), Some("is gone")),
            (Some(was), Some(was), None, None),
            (Some(was), Some(file(8, 4096, 10, 10)), Some("is another file"), Some("is another file")),
            (Some(was), Some(file(7, 0, 11, 11)), Some("was emptied or filled"), Some("was emptied or filled")),
            (Some(was), Some(file(7, 8192, 10, 10)), Some("was changed"), None),
            (Some(was), Some(file(7, 4096, 11, 11)), Some("was changed"), None),
            (Some(was), Some(file(7, 4096, 10, 11)), Some("was changed"), None),
        ] {
            let then = then.map_or(FileState::Missing, FileState::File);
            assert_eq!(change_of_main(&then, now.as_ref(), true), alone, "{then:?} {now:?}");
            assert_eq!(change_of_main(&then, now.as_ref(), false), under_programs, "{then:?} {now:?}");
        }
        let link = FileState::Symlink { target: "x".into() };
        assert_eq!(change_of_main(&link, Some(&was), true), None, "judged elsewhere");
    }

    #[test]
    fn a_side_file_without_a_byte_is_none() {
        let (was, empty) = (file(7, 32, 10, 10), file(7, 0, 10, 10));
        for (then, now, change) in [
            (None, Some(empty), None),
            (Some(empty), None, None),
            (None, Some(was), Some("is there")),
            (Some(was), None, Some("is gone")),
            (Some(was), Some(empty), Some("is gone")),
            (Some(was), Some(file(7, 32, 10, 99)), None),
            (Some(was), Some(file(7, 64, 11, 11)), Some("was changed")),
            (Some(was), Some(file(8, 32, 10, 10)), Some("was changed")),
        ] {
            let then = then.map_or(FileState::Missing, FileState::File);
            assert_eq!(change_of_side(&then, now.as_ref()), change, "{then:?} {now:?}");
        }
    }
}
