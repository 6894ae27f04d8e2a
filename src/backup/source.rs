//! What a source looks like raw, before SQLite opens it: nothing that looking could destroy is looked at through SQLite
//! (rules 1 and 19).

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::fs::FileExt as _;

use super::BackupError;
use crate::format::{Header, WalScan, lost_page, scan_wal};
use crate::host::{self, Folder, LockMode, Ownership, SqliteLock, ask_lock, fill};
use crate::job::{Attributes, FileFacts, Fingerprint, Owner, WalPosition};

/// The name of a side file: `app.db` and `-wal` give `app.db-wal`.
pub fn side_name(name: &OsStr, suffix: &str) -> OsString {
    let mut side = name.to_owned();
    side.push(suffix);
    side
}

/// The facts of an entry if it is a regular file; `None` if nothing is there.
///
/// # Errors
/// [`BackupError::Host`] when it cannot be looked at; [`BackupError::Source`] when it is something else.
pub fn stat_of(folder: &Folder, name: &OsStr) -> Result<Option<FileFacts>, BackupError> {
    match folder.stat_in(name) {
        Ok(facts) if facts.kind == host::FileKind::Regular => Ok(Some(job_facts(&facts))),
        Ok(facts) => {
            let reason = format!("it is {}, not a regular file", facts.kind.words());
            Err(BackupError::Source { path: folder.path().join(name), reason })
        }
        Err(error) if error.is_absent() => Ok(None),
        Err(error) => Err(BackupError::host("looking at a database's files")(error)),
    }
}

/// The same facts as a job tells them.
pub fn job_facts(facts: &host::FileFacts) -> FileFacts {
    let nanos = |nanos: i128| i64::try_from(nanos).unwrap_or(i64::MAX);
    FileFacts {
        dev: rustix::fs::makedev(facts.id.dev.major, facts.id.dev.minor),
        ino: facts.id.ino,
        size: facts.size,
        mtime_ns: nanos(facts.mtime_ns),
        ctime_ns: nanos(facts.ctime_ns),
        uid: facts.uid,
        gid: facts.gid,
        mode: facts.mode,
        nlink: u64::from(facts.nlink),
    }
}

/// Whose a restored file shall be, as its backup remembers it.
pub fn ownership_of(owner: Owner, attributes: Option<&Attributes>) -> Ownership {
    let Attributes { xattrs, project, no_cow } = attributes.cloned().unwrap_or_default();
    Ownership { uid: owner.uid, gid: owner.gid, mode: owner.mode, xattrs, project, no_cow }
}

/// The source's files and header at one moment.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Look {
    pub main: FileFacts,
    pub wal: Option<FileFacts>,
    pub journal: Option<FileFacts>,
    pub header: Header,
    pub attributes: Attributes,
}

impl Look {
    /// Looks at a database by a descriptor of its main file.
    pub(super) fn at(folder: &Folder, name: &OsStr, main: &File) -> Result<Look, BackupError> {
        let path = folder.path().join(name);
        let refuse = |reason: String| BackupError::Source { path: path.clone(), reason };
        let facts = stat_of(folder, name)?.ok_or_else(|| refuse("it is not there".into()))?;
        let opened = host::FileFacts::of_fd(main).map_err(BackupError::host("looking at a database's files"))?;
        if opened.id.ino != facts.ino {
            return Err(refuse("it was replaced while it was being looked at".into()));
        }
        let around = host::FileFacts::of_fd(folder).map_err(BackupError::host("looking at a database's folder"))?;
        if let Some(why) = host::planted_name(&opened, &around) {
            return Err(refuse(why));
        }
        let mut head = [0_u8; 100];
        let read = main.read_at(&mut head, 0).map_err(|error| refuse(format!("its header cannot be read: {error}")))?;
        let header = Header::parse(head.get(..read).unwrap_or_default())
            .map_err(|error| refuse(format!("its header is no SQLite header: {error}")))?;
        let side = |suffix| {
            let side = side_name(name, suffix);
            let planted = |error: host::HostError| BackupError::Source {
                path: folder.path().join(name),
                reason: format!("a side file of it is not its own: {error}"),
            };
            if let Ok(facts) = folder.stat_in(&side) {
                folder.refuse_planted(&side, &facts).map_err(planted)?;
            }
            stat_of(folder, &side)
        };
        let Ownership { xattrs, project, no_cow, .. } =
            Ownership::of(main).map_err(BackupError::host("looking at a database's files"))?;
        let attributes = Attributes { xattrs, project, no_cow };
        // An index that is another's would be written by SQLite.
        side("-shm")?;
        Ok(Look { main: facts, wal: side("-wal")?, journal: side("-journal")?, header, attributes })
    }

    pub(super) fn fingerprint(&self) -> Fingerprint {
        Fingerprint {
            main: self.main,
            wal: self.wal,
            journal: self.journal,
            change_counter: self.header.change_counter,
            schema_cookie: self.header.schema_cookie,
            wal_mode: self.header.is_wal(),
            copied: None,
            locked: false,
        }
    }
}

/// True when a rollback journal beside `main` would be rolled back by whoever opens the database next: it has content, and
/// no live writer holds RESERVED.
///
/// # Errors
/// [`BackupError::Host`].
pub fn journal_is_hot(folder: &Folder, name: &OsStr, main: &File) -> Result<bool, BackupError> {
    let journal = side_name(name, "-journal");
    if stat_of(folder, &journal)?.is_none_or(|facts| facts.size == 0) {
        return Ok(false);
    }
    let file = match folder.open_own_in(&journal) {
        Ok(file) => file,
        Err(error) if error.is_absent() => return Ok(false),
        Err(error) => return Err(BackupError::host("opening a rollback journal")(error)),
    };
    let mut first = [0_u8];
    // SQLite too looks at the first byte alone: PERSIST zeroes the header of a journal at rest.
    if file.read_at(&mut first, 0).is_ok_and(|read| read == 0 || first == [0]) {
        return Ok(false);
    }
    let reserved = ask_lock(main, SqliteLock::Reserved.bytes(), LockMode::Write)
        .map_err(BackupError::host("asking who writes to a database"))?;
    Ok(reserved.is_none())
}

/// The WAL's generation and its last commit; `None` without one. The generation alone is read before a copy, the last commit
/// counts only after it.
///
/// # Errors
/// [`BackupError::Host`] when it cannot be opened.
pub(super) fn wal_position(folder: &Folder, name: &OsStr) -> Result<Option<WalPosition>, BackupError> {
    let wal = side_name(name, "-wal");
    let Some(facts) = stat_of(folder, &wal)?.filter(|facts| facts.size > 0) else { return Ok(None) };
    let file = match folder.open_own_in(&wal) {
        Ok(file) => file,
        Err(error) if error.is_absent() => return Ok(None),
        Err(error) => return Err(BackupError::host("opening a WAL")(error)),
    };
    // What cannot be read now is not said to go with the copy, and no more than that.
    let scan = scan_wal(facts.size, None, |at, buffer| file.read_exact_at(buffer, at)).ok();
    let mark = scan.filter(WalScan::is_sound).and_then(|scan| scan.mark);
    Ok(mark.map(|mark| WalPosition { salt: [mark.salt1, mark.salt2], frame: mark.last_commit }))
}

/// How often a WAL is scanned until two scans agree.
const SCANS: u32 = 5;

/// The scan, when the WAL is proven damaged: SQLite would silently show less than was committed. A writer that fills the WAL anew
/// while it is scanned leaves frames of before between its own, and at the next scan they are others; damage stays where it is: so
/// two scans in a row must see it at the same place.
pub(super) fn wal_is_damaged(folder: &Folder, name: &OsStr) -> Result<Option<WalScan>, BackupError> {
    let wal = side_name(name, "-wal");
    let mut seen = None;
    for _ in 0..SCANS {
        let Some(facts) = stat_of(folder, &wal)?.filter(|facts| facts.size > 0) else { return Ok(None) };
        let file = match folder.open_own_in(&wal) {
            Ok(file) => file,
            Err(error) if error.is_absent() => return Ok(None),
            Err(error) => return Err(BackupError::host("opening a WAL")(error)),
        };
        match scan_wal(facts.size, None, |at, buffer| file.read_exact_at(buffer, at)) {
            Ok(scan) if scan.is_sound() => return Ok(None),
            Ok(scan) => {
                let place = Some((scan.header, scan.first_bad, scan.last_commit));
                if seen == place {
                    return Ok(Some(scan));
                }
                seen = place;
            }
            // It shrank meanwhile: a checkpoint truncated it.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {}
            Err(error) => {
                let reason = format!("its WAL cannot be read: {error}");
                return Err(BackupError::Source { path: folder.path().join(&wal), reason });
            }
        }
    }
    Ok(None)
}

/// The first page in use that neither the main file nor the WAL has in full; see [`lost_page`]. While a checkpoint lengthens the
/// file it looks the same for a moment: so two looks in a row must see it, and nothing else that changed.
pub(super) fn page_is_lost(folder: &Folder, name: &OsStr, look: &Look) -> Result<Option<u32>, BackupError> {
    let path = folder.path().join(name);
    let unreadable = |error: std::io::Error| BackupError::Source {
        path: path.clone(),
        reason: format!("its end cannot be read: {error}"),
    };
    let main = folder.open_own_in(name).map_err(BackupError::host("opening the database"))?;
    let wal = match look.wal.filter(|wal| wal.size > 0).map(|_| folder.open_own_in(side_name(name, "-wal"))) {
        None => None,
        Some(Ok(wal)) => Some(wal),
        Some(Err(error)) if error.is_absent() => return Ok(None),
        Some(Err(error)) => return Err(BackupError::host("opening a WAL")(error)),
    };
    let mark = match &wal {
        Some(wal) => {
            let len = wal.metadata().map_err(unreadable)?.len();
            scan_wal(len, None, |at, bytes| fill(wal, at, bytes)).map_err(unreadable)?.mark
        }
        None => None,
    };
    let lost = lost_page(
        &look.header,
        look.main.size,
        mark.as_ref(),
        |at, page| fill(&main, at, page),
        |at, frame| wal.as_ref().map_or(Ok(()), |wal| fill(wal, at, frame)),
    )
    .map_err(unreadable)?;
    let Some(page) = lost else { return Ok(None) };
    let after = Look::at(folder, name, &main)?;
    Ok((after.fingerprint() == look.fingerprint()).then_some(page))
}

/// Why the database must not be opened through SQLite, if its programs go on with other files than these; see [`host::apart`].
///
/// # Errors
/// [`host::HostError`].
pub fn apart_in(folder: &Folder, name: &OsStr) -> Result<Option<&'static str>, host::HostError> {
    let mut head = [0_u8; 100];
    let read = folder.open_own_in(name)?.read_at(&mut head, 0).unwrap_or(0);
    // In rollback mode there is no -shm, and an idle program holds no lock at all.
    if !Header::parse(head.get(..read).unwrap_or_default()).is_ok_and(|header| header.is_wal()) {
        return Ok(None);
    }
    host::apart(|| {
        let shm = match folder.open_own_in(side_name(name, "-shm")) {
            Ok(shm) => Some(shm),
            Err(error) if error.is_absent() => None,
            Err(error) => return Err(error),
        };
        Ok((folder.open_own_in(name)?, shm))
    })
}
