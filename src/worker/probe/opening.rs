//! Whether SQLite may open a database where it is, decided from raw facts alone. Looking is not harmless (rules 1, 8, 19).

use crate::job::{FileState, HeaderFacts, JournalFacts, JournalState, Place, WalFacts, WalState};

/// SQLite makes a new `-shm` this large, and a page or two go into folders.
const INDEX_BYTES: u64 = 64 * 1024;

/// What is known before SQLite opens anything.
pub(super) struct Before<'a> {
    pub(super) main: &'a FileState,
    pub(super) header: Option<&'a HeaderFacts>,
    pub(super) wal: Option<&'a WalFacts>,
    pub(super) journal: Option<&'a JournalFacts>,
    pub(super) place: &'a Place,
    /// A lock entry of the dotfile VFS is there.
    pub(super) dotfile: bool,
    /// We ourselves may write the file, and make files beside it.
    pub(super) writable: bool,
    /// `-shm`.
    pub(super) shm: &'a FileState,
    /// Why the raw look failed.
    pub(super) unread: Option<&'a str>,
    /// A program goes on with files that are not at the path any more, or did, and what it had is not back.
    pub(super) cut_off: bool,
}

/// What may be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Opening {
    /// The database itself, through SQLite's own locking.
    InPlace,
    /// The database itself, without locks: nobody can write it, and SQLite could make no side files.
    Immutable,
    /// A private copy, for this reason.
    OnCopy(String),
    /// Nothing, for this reason.
    Not(String),
}

/// Decides.
pub(super) fn decide(before: &Before<'_>) -> Opening {
    let not = |reason: &str| Opening::Not(reason.to_owned());
    match before.main {
        FileState::File(_) => {}
        FileState::Missing => return not("the file is missing"),
        FileState::Symlink { .. } => return not("a symbolic link is never followed: give the path it leads to"),
        FileState::Other { what } => return Opening::Not(format!("it is {what}")),
        FileState::Unreadable { message, .. } => return Opening::Not(message.clone()),
    }
    if let Some(reason) = before.unread {
        return not(reason);
    }
    // Its WAL may be another main file's, and its WAL index another WAL's (section 3): SQLite would believe both.
    if before.cut_off {
        return not("a program has, or had, files open that are gone from here, and those that are here may be theirs");
    }
    let wal_mode = match before.header {
        Some(HeaderFacts::Good { wal_mode, .. }) => *wal_mode,
        Some(HeaderFacts::Empty) => {
            return not("it has no byte, and opening it would destroy a WAL or journal beside it");
        }
        // The newest page 1 may be in the WAL, and the oldest in a hot journal: SQLite would find it there.
        Some(HeaderFacts::Bad { reason, .. }) if page_one_may_be_beside(before) => {
            return Opening::OnCopy(format!(
                "its header is damaged ({reason}), and its WAL or journal may have a sound one"
            ));
        }
        Some(HeaderFacts::Bad { reason, .. }) => return not(reason),
        None => return not("its header was not read"),
    };
    if before.dotfile {
        return not("a program of the dotfile VFS has it locked, and no other kind of lock would show what it does");
    }
    if let Some(reason) = in_the_way(before) {
        return Opening::Not(reason);
    }
    if let Some(journal) = before.journal {
        match journal.state {
            JournalState::Hot | JournalState::Damaged => {
                return Opening::OnCopy(format!("the first look would roll back its journal: {}", journal.detail));
            }
            JournalState::Absent | JournalState::InUse | JournalState::NotAFile => {}
        }
    }
    let wal_state = before.wal.map_or(WalState::Absent, |wal| wal.state);
    match (wal_state, before.wal) {
        (WalState::Damaged, Some(wal)) => {
            return Opening::OnCopy(format!("its WAL is damaged, and opening it would hide that: {}", wal.detail));
        }
        _ if !wal_mode => return Opening::InPlace,
        _ => {}
    }
    let wal_is_empty = matches!(wal_state, WalState::Absent | WalState::Unused);
    match () {
        () if before.place.observe_only.is_some() && !before.place.read_only => {
            not("its WAL index cannot be shared safely on this file system")
        }
        // Its programs write it all the while: to take it for immutable would be to see damage where there is none (rule 8).
        () if before.place.walled_off => not("its WAL index cannot be shared from behind guardiand's own unit"),
        () if before.place.read_only && wal_is_empty => Opening::Immutable,
        () if before.place.read_only => {
            Opening::OnCopy("its WAL cannot be read in place on a read-only file system".to_owned())
        }
        // The WAL index could not be made, and what SQLite began to make would be left behind.
        () if before.place.free_bytes < INDEX_BYTES && before.shm.file().is_none() => {
            not("its file system is full, and reading it would take a new WAL index")
        }
        // SQLite would make -wal and -shm, and could not take them away again.
        () if !before.writable && before.shm.file().is_none() => {
            Opening::OnCopy("guardiand may not write it, and would leave side files behind".to_owned())
        }
        () => Opening::InPlace,
    }
}

/// SQLite would follow a link into somebody else's file, wait for ever at a FIFO, and fail half-way at a directory, with the
/// other side files made and left behind.
fn in_the_way(before: &Before<'_>) -> Option<String> {
    let side = |suffix: &str, what: &str| Some(format!("what stands in the place of its {suffix} is no file: {what}"));
    match (before.wal, before.journal, before.shm) {
        (Some(wal), _, _) if wal.state == WalState::NotAFile => side("-wal", &wal.detail),
        (_, Some(journal), _) if journal.state == JournalState::NotAFile => side("-journal", &journal.detail),
        (_, _, FileState::Other { what }) => side("-shm", &format!("it is {what}")),
        (_, _, FileState::Symlink { .. }) => side("-shm", "it is a symbolic link"),
        (_, _, FileState::Missing | FileState::File(_) | FileState::Unreadable { .. }) => None,
    }
}

fn page_one_may_be_beside(before: &Before<'_>) -> bool {
    before.wal.is_some_and(|wal| wal.state == WalState::Sound && wal.mark.is_some_and(|mark| mark.last_commit > 0))
        || before.journal.is_some_and(|journal| journal.state == JournalState::Hot)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{FileFacts, FormatVersion};

    fn file() -> FileState {
        let facts =
            FileFacts { dev: 1, ino: 2, size: 4096, mtime_ns: 0, ctime_ns: 0, uid: 0, gid: 0, mode: 0o600, nlink: 1 };
        FileState::File(facts)
    }

    fn header(wal_mode: bool) -> HeaderFacts {
        HeaderFacts::Good {
            page_size: 4096,
            page_count: Some(1),
            change_counter: 1,
            schema_cookie: 1,
            wal_mode,
            encoding: "UTF-8".into(),
            sqlite_version: 3_054_001,
            missing_bytes: 0,
            lost_page: None,
            schema_format: FormatVersion::Known,
            extra_bytes: 0,
            format: FormatVersion::Known,
        }
    }

    fn wal(state: WalState) -> WalFacts {
        WalFacts {
            state,
            detail: "x".into(),
            mark: None,
            whole: true,
            stranded_commits: 0,
            index_max_frame: None,
            index_backfill: None,
            checkpointing: false,
            held_back_by: Vec::new(),
            reset_bug: false,
        }
    }

    struct Case {
        main: FileState,
        header: HeaderFacts,
        wal: WalState,
        journal: JournalState,
        place: Place,
        dotfile: bool,
        writable: bool,
        shm: FileState,
        cut_off: bool,
    }

    fn roomy() -> Place {
        Place { free_bytes: 1 << 30, ..Place::default() }
    }

    fn sound(wal_mode: bool) -> Case {
        Case {
            main: file(),
            header: header(wal_mode),
            wal: WalState::Absent,
            journal: JournalState::Absent,
            place: roomy(),
            dotfile: false,
            writable: true,
            shm: FileState::Missing,
            cut_off: false,
        }
    }

    fn opened(case: &Case) -> &'static str {
        let decision = decide(&Before {
            main: &case.main,
            header: Some(&case.header),
            wal: Some(&wal(case.wal)),
            journal: Some(&JournalFacts { state: case.journal, detail: "x".into(), nonce: None, outlived_one: false }),
            place: &case.place,
            dotfile: case.dotfile,
            writable: case.writable,
            shm: &case.shm,
            unread: None,
            cut_off: case.cut_off,
        });
        match decision {
            Opening::InPlace => "in place",
            Opening::Immutable => "immutable",
            Opening::OnCopy(_) => "copy",
            Opening::Not(_) => "not",
        }
    }

    #[test]
    fn only_what_looking_cannot_hurt_is_opened_in_place() {
        let read_only = Place { read_only: true, ..roomy() };
        let walled_off = Place { walled_off: true, ..read_only.clone() };
        let remote = Place { observe_only: Some("nfs".into()), ..roomy() };
        let full = Place { free_bytes: 0, ..roomy() };
        let table: [(&str, Case, &str); 25] = [
            ("a program goes on with another file", Case { cut_off: true, ..sound(true) }, "not"),
            ("sound, rollback", sound(false), "in place"),
            ("sound, WAL", sound(true), "in place"),
            ("a WAL with frames", Case { wal: WalState::Sound, ..sound(true) }, "in place"),
            ("a damaged WAL", Case { wal: WalState::Damaged, ..sound(true) }, "copy"),
            ("a damaged WAL beside rollback mode", Case { wal: WalState::Damaged, ..sound(false) }, "copy"),
            ("a hot journal", Case { journal: JournalState::Hot, ..sound(false) }, "copy"),
            ("a damaged journal", Case { journal: JournalState::Damaged, ..sound(false) }, "copy"),
            ("a transaction under way", Case { journal: JournalState::InUse, ..sound(false) }, "in place"),
            ("no byte", Case { header: HeaderFacts::Empty, ..sound(false) }, "not"),
            (
                "no header",
                Case {
                    header: HeaderFacts::Bad {
                        reason: "x".into(),
                        pages_like_sqlite: None,
                        format: FormatVersion::Known,
                    },
                    ..sound(false)
                },
                "not",
            ),
            ("missing", Case { main: FileState::Missing, ..sound(false) }, "not"),
            ("dotfile", Case { dotfile: true, ..sound(false) }, "not"),
            ("read-only mount", Case { place: read_only.clone(), ..sound(false) }, "in place"),
            ("read-only mount, WAL mode", Case { place: read_only.clone(), ..sound(true) }, "immutable"),
            ("read-only mount, WAL", Case { place: read_only, wal: WalState::Sound, ..sound(true) }, "copy"),
            ("read-only for us alone, WAL mode", Case { place: walled_off, ..sound(true) }, "not"),
            ("NFS, WAL mode", Case { place: remote, ..sound(true) }, "not"),
            ("no room, rollback", Case { place: full.clone(), ..sound(false) }, "in place"),
            ("no room for a WAL index", Case { place: full, ..sound(true) }, "not"),
            ("a WAL that is no file", Case { wal: WalState::NotAFile, ..sound(false) }, "not"),
            ("a journal that is no file", Case { journal: JournalState::NotAFile, ..sound(true) }, "not"),
            (
                "a WAL index that is no file",
                Case { shm: FileState::Other { what: "a FIFO".into() }, ..sound(true) },
                "not",
            ),
            ("a linked WAL index", Case { shm: FileState::Symlink { target: "x".into() }, ..sound(true) }, "not"),
            ("not ours to write, WAL mode", Case { writable: false, ..sound(true) }, "copy"),
        ];
        for (name, case, expected) in table {
            assert_eq!(opened(&case), expected, "{name}");
        }
    }
}
