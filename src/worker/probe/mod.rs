//! One look at one database, cheapest first: `stat`, then raw bytes, and SQLite only where looking cannot hurt.
//!
//! Everything is a fact, also what could not be looked at; what it means is the mode's to judge. In this process raw
//! descriptors and SQLite's connections to a database never overlap (rule 7): each stage closes what it opened.

mod asking;
mod content;
mod copy;
mod cut_off;
mod diagnose;
mod dotfile;
mod files;
mod likeness;
mod locks;
mod opening;
mod raw;
mod scrub;
mod suspicion;

use std::io;
use std::path::Path;
use std::time::Instant;

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};

pub(super) use self::copy::{of_all as private_copy, put_versions_right, sweep_out};
pub(super) use self::files::with_suffix;
use self::files::{Files, Looked};
use self::opening::{Before, Opening};
#[cfg(test)]
pub(super) use self::scrub::map_pages;
pub(super) use self::scrub::run as scrub;
use super::sweep::Sweep;
use crate::host;
use crate::job::{
    Access, Copied, DatabaseFacts, DatabaseProbe, FileFacts, Fingerprint, HeaderFacts, HeldLock, IntegrityLevel,
    JournalState, LayerTime, Unread, Users, WalMark, WalState, WalUnread,
};
use crate::model::FaultClass;

/// SQLITE_READONLY_ROLLBACK: a journal became hot after the raw look, because its writer died.
const HOT_JOURNAL: i32 = 776;
/// A file that is replaced or cut under our eyes is looked at anew, at most so often.
const LOOKS: u32 = 3;

/// Looks.
pub(super) fn run(probe: &DatabaseProbe, sweep: &Sweep) -> DatabaseFacts {
    let mut look = Look::run(probe, sweep);
    for _ in 1..LOOKS {
        if !look.is_of_two_moments() {
            break;
        }
        look = Look::run(probe, sweep);
    }
    look.facts
}

/// Who locks a database now, for a step that must know before it acts.
pub(super) struct WhoLocks {
    pub(super) locks: Vec<HeldLock>,
    pub(super) header: Option<HeaderFacts>,
    /// The index shows it at this instant; see [`crate::job::WalFacts::reset_bug`].
    pub(super) shows_reset_bug: bool,
}

/// Looks. Opens and closes descriptors: before SQLite, never beside it (rule 7).
pub(super) fn who_locks(path: &Path) -> WhoLocks {
    let (files, sweep) = (Files::pinned(path), Sweep::default());
    let header = raw::header(&files.main).and_then(Result::ok).map(|header| header.facts);
    let wal_mode = matches!(header, Some(HeaderFacts::Good { wal_mode: true, .. }));
    let index = raw::wal_index(&files.shm, booted_ns());
    let locks = locks::held(&files, &sweep, wal_mode, index.as_ref());
    WhoLocks { locks, header, shows_reset_bug: index.is_some_and(|index| index.shows_reset_bug()) }
}

/// What is wrong with the WAL now, whatever was seen of it before: SQLite drops what stands behind a bad frame, without a word.
/// Opens and closes descriptors: before SQLite, never beside it (rule 7).
///
/// # Errors
/// When it cannot be read.
pub(super) fn wal_damage(path: &Path) -> io::Result<Option<String>> {
    let wal = raw::wal(&Files::pinned(path), None, WalUnread::Nothing, booted_ns())?.facts;
    Ok((wal.state == WalState::Damaged).then_some(wal.detail))
}

struct Look<'a> {
    probe: &'a DatabaseProbe,
    sweep: &'a Sweep,
    files: Files,
    facts: DatabaseFacts,
    /// Set by the raw look.
    counters_differ: bool,
    index: Option<crate::format::WalIndex>,
    /// Kept for the diagnosis, when the content was judged on one.
    copy: Option<io::Result<copy::PrivateCopy>>,
}

impl<'a> Look<'a> {
    fn run(probe: &'a DatabaseProbe, sweep: &'a Sweep) -> Look<'a> {
        let mut look = Look::begin(probe, sweep);
        if look.is_unchanged() {
            return look;
        }
        look.pin();
        look.forget_what_is_doubted();
        look.access();
        look.raw();
        look.cut_off();
        look.locks();
        look.fingerprint();
        match look.decide() {
            Opening::InPlace if look.wal_mode() => look.in_place(crate::sqlite::Access::Probe),
            Opening::InPlace => look.in_place(crate::sqlite::Access::ReadOnly),
            Opening::Immutable => look.in_place(crate::sqlite::Access::Immutable),
            Opening::OnCopy(why) => look.on_copy(why),
            Opening::Not(why) => look.facts.not_opened = Some(why),
        }
        look.map_pages();
        look.diagnose();
        look
    }

    /// SQLite failed on a file that is no longer the one whose raw bytes were judged. What a writer does all the time (BUSY)
    /// does not count.
    fn is_of_two_moments(&self) -> bool {
        let fault = match (&self.facts.open, &self.facts.query) {
            (Some(Err(fault)), _) | (_, Some(Err(fault))) => Some(fault),
            _ => self.facts.integrity.as_ref().and_then(|found| found.fault.as_ref()),
        };
        let Some(fault) = fault.filter(|fault| fault.class != FaultClass::Busy) else { return false };
        let shape = |files: &Files| files.main.state.file().map(|main| (main.dev, main.ino, main.size));
        fault.code == HOT_JOURNAL || shape(&self.files) != shape(&Files::look(&self.probe.site.path))
    }

    fn begin(probe: &'a DatabaseProbe, sweep: &'a Sweep) -> Look<'a> {
        let (started, looked_at) = (Instant::now(), Timestamp::now());
        let files = Files::look(&probe.site.path);
        let facts = DatabaseFacts {
            unchanged: false,
            main: files.main.state.clone(),
            wal_file: files.wal.state.clone(),
            shm_file: files.shm.state.clone(),
            journal_file: files.journal.state.clone(),
            place: files::place(&files.main, sweep),
            access: None,
            access_unasked: None,
            header: None,
            wal: None,
            journal: None,
            locks: Vec::new(),
            dotfile_lock: None,
            users: None,
            behind_sqlite: None,
            suspicion: None,
            on_copy: None,
            not_opened: None,
            copy_waits: false,
            unread: None,
            cut_off: None,
            held: None,
            schema_version: None,
            open: None,
            integrity: None,
            mapped: None,
            query: None,
            fingerprint: None,
            diagnosis: None,
            layers: Vec::new(),
            looked_at,
        };
        let mut look = Look { probe, sweep, files, facts, counters_differ: false, index: None, copy: None };
        look.time("exists", started);
        look
    }

    fn time(&mut self, layer: &str, since: Instant) {
        let seconds = since.elapsed().as_secs_f64();
        match self.facts.layers.iter_mut().find(|time| time.layer == layer) {
            Some(time) => time.seconds += seconds,
            None => self.facts.layers.push(LayerTime { layer: layer.to_owned(), seconds }),
        }
    }

    /// Nothing that `stat` and the table of locks can tell differs from `known`: no file was opened to say so.
    fn is_unchanged(&mut self) -> bool {
        let Some(known) = &self.probe.known else { return false };
        // Who may get to the file, or write beside it, does not show on the file.
        if self.facts.place.way != self.probe.known_way {
            return false;
        }
        if !self.files.same_as(known) || locks::any_in_table(&self.files, self.sweep, known.wal_mode) {
            return false;
        }
        // A lock of the dotfile VFS leaves no trace in any of the files.
        if dotfile::entry(&self.dotfile_path()).is_some() {
            return false;
        }
        self.facts.unchanged = true;
        if self.probe.users {
            self.facts.users = Some(self.users(None));
        }
        true
    }

    /// From here on files are opened.
    fn pin(&mut self) {
        self.files = Files::pinned(&self.probe.site.path);
        self.facts.main = self.files.main.state.clone();
        self.facts.wal_file = self.files.wal.state.clone();
        self.facts.shm_file = self.files.shm.state.clone();
        self.facts.journal_file = self.files.journal.state.clone();
    }

    /// The second look shall not find again what is only in the kernel's memory.
    fn forget_what_is_doubted(&self) {
        let doubted = &self.probe.doubted;
        if let (false, Ok(main)) = (doubted.main.is_empty(), files::open_raw(&self.files.main)) {
            doubted.main.iter().for_each(|(at, length)| host::forget_cached_range(&main, *at, *length));
        }
        for side in [&self.files.wal, &self.files.journal].into_iter().filter(|_| doubted.sides) {
            if let Ok(side) = files::open_raw(side) {
                host::forget_cached(side);
            }
        }
    }

    fn access(&mut self) {
        let started = Instant::now();
        if let Some(file) = self.files.main.state.file() {
            let user = match &self.probe.site.user {
                Some(name) => host::User::named(name),
                None => host::User::numbered(file.uid),
            };
            let uid = user.as_ref().map_or(file.uid, |user| user.uid);
            let access = user.and_then(|user| host::Access::of(&user, &self.files.main.path));
            let ours = files::open_raw(&self.files.main).is_ok();
            // It may have been remounted since the table of mounts was read.
            self.facts.place.read_only |= access.as_ref().is_ok_and(|access| access.read_only);
            self.facts.access = match access {
                Ok(access) => Some(Access {
                    uid,
                    read: access.readable,
                    write: access.writable,
                    folder_write: access.folder_writable,
                    detail: access.denied.unwrap_or_default(),
                    ours,
                }),
                Err(error) => {
                    // An unknown user, or a folder that we may not look into: nothing was granted, and why is said.
                    let why = error.to_string();
                    if !ours {
                        self.facts.unread = Some(Unread { errno: None, message: why });
                    } else if !error.is_absent() {
                        self.facts.access_unasked = Some(why);
                    }
                    None
                }
            };
        }
        self.time("readable", started);
    }

    fn raw(&mut self) {
        let started = Instant::now();
        let mut short = None;
        match raw::header(&self.files.main) {
            Some(Ok(header)) => {
                self.counters_differ = header.counters_differ;
                short = header.short;
                self.facts.header = Some(header.facts);
            }
            Some(Err(error)) => self.facts.unread = Some(Unread::of("header", &error)),
            None => {}
        }
        self.time("readable", started);

        let started = Instant::now();
        match raw::wal(&self.files, self.verified_wal(), self.probe.wal_unread, booted_ns()) {
            Ok(wal) => {
                self.index = wal.index;
                self.facts.wal = Some(wal.facts);
            }
            Err(error) => self.leave_unread("WAL", &error),
        }
        self.dotfile();
        let page_size = match self.facts.header {
            Some(HeaderFacts::Good { page_size, .. }) => Some(page_size),
            _ => None,
        };
        match raw::journal(&self.files, page_size, self.facts.dotfile_lock.is_some()) {
            Ok(journal) => self.facts.journal = Some(journal),
            // Without a main file nobody can be asked who writes; there is nothing to open either.
            Err(_) if self.files.main.state.file().is_none() => {}
            Err(error) => self.leave_unread("rollback journal", &error),
        }
        if let Some(short) = short {
            self.lost_page(&short);
        }
        self.time("wal", started);
    }

    fn page_lost(&self) -> Option<u32> {
        match self.facts.header {
            Some(HeaderFacts::Good { lost_page, .. }) => lost_page,
            _ => None,
        }
    }

    /// What a journal, a WAL or a living writer may yet supply is not lost.
    fn lost_page(&mut self, short: &raw::Short) {
        let journal = self.facts.journal.as_ref().is_some_and(|journal| journal.state == JournalState::Absent);
        let wal =
            self.facts.wal.as_ref().filter(|wal| wal.state != WalState::Damaged && wal.state != WalState::NotAFile);
        let (true, Some(wal), None) = (journal, wal, &self.facts.dotfile_lock) else { return };
        match raw::lost_page(&self.files, short, wal.mark.as_ref()) {
            Ok(found) => {
                if let Some(HeaderFacts::Good { lost_page, .. }) = &mut self.facts.header {
                    *lost_page = found;
                }
            }
            Err(error) => self.leave_unread("end", &error),
        }
    }

    /// How far the WAL was verified, and the file as it was then.
    fn verified_wal(&self) -> Option<(&WalMark, Option<&FileFacts>)> {
        self.probe.wal_mark.as_ref().map(|mark| (mark, self.probe.wal_marked.as_ref()))
    }

    fn leave_unread(&mut self, what: &str, error: &io::Error) {
        self.facts.unread.get_or_insert_with(|| Unread::of(what, error));
    }

    fn dotfile(&mut self) {
        let lock = self.dotfile_path();
        let Some(entry) = dotfile::entry(&lock) else { return };
        // Who took it is told by no lock: by who has the database open.
        let users = self.users(Some(("lock", &lock)));
        if dotfile::may_be_sqlites(&lock, &users) {
            self.facts.dotfile_lock = Some(entry);
        }
        self.facts.users = Some(users);
    }

    fn dotfile_path(&self) -> Looked {
        Looked::at(files::with_suffix(&self.files.main.path, ".lock"))
    }

    fn users(&self, more: Option<(&'static str, &Looked)>) -> Users {
        diagnose::users(&self.files, more, self.facts.place.observe_only.as_deref(), self.sweep)
    }

    /// Who goes on with files that are not at the path any more, and what is kept of such files.
    fn cut_off(&mut self) {
        let started = Instant::now();
        let path = &self.probe.site.path;
        if let Some(evidence) = &self.probe.evidence {
            self.facts.held = crate::worker::step::held::pending(evidence, path);
        }
        let known = self.probe.healthy_before().or(self.probe.last_files.as_ref());
        let asked = self.facts.held.is_some() || self.probe.diagnose;
        if asked || cut_off::is_possible(&self.files, known, self.wal_mode(), self.sweep) {
            let patient = self.probe.diagnose && self.files.main.state.file().is_some();
            self.facts.cut_off = cut_off::look(path, known, patient);
        }
        self.time("exists", started);
    }

    fn wal_mode(&self) -> bool {
        matches!(self.facts.header, Some(HeaderFacts::Good { wal_mode: true, .. }))
    }

    fn locks(&mut self) {
        let started = Instant::now();
        if self.files.main.state.file().is_some() {
            self.facts.locks = locks::held(&self.files, self.sweep, self.wal_mode(), self.index.as_ref());
            if let Some(wal) = &mut self.facts.wal {
                let stands = Files::look(&self.probe.site.path).main.state == self.files.main.state;
                let index = self.index;
                let may_be = |index| locks::may_be_checkpointing(&self.files, &self.facts.locks, index);
                wal.checkpointing = !stands || index.is_some_and(may_be);
            }
            // A check or a backup of ours beside this look ends by itself: nobody needs to be told of it, or can do anything.
            self.facts.locks.retain(|lock| Ok(lock.comm.as_str()) != crate::worker::NAME.to_str());
            if let Some(wal) = &mut self.facts.wal {
                wal.held_back_by = locks::holding_back(&self.facts.locks, self.index.as_ref());
            }
        }
        self.time("locks", started);
    }

    /// The fingerprint is of the files as they were when this look began: a change since then shows at the next.
    fn fingerprint(&mut self) {
        if let (Some(HeaderFacts::Bad { reason, .. }), Some(WalState::Sound)) =
            (&self.facts.header, self.facts.wal.as_ref().map(|wal| wal.state))
        {
            // A sound page 1 in the WAL hides it, and whatever was overwritten behind it.
            self.facts.behind_sqlite = Some(format!("the header of the main file is damaged ({reason})"));
            self.facts.suspicion = Some(IntegrityLevel::Full);
        }
        let (Some(main), Some(HeaderFacts::Good { change_counter, schema_cookie, wal_mode, .. })) =
            (self.files.main.state.file(), &self.facts.header)
        else {
            return;
        };
        let sides = [self.files.wal.state.file(), self.files.journal.state.file()];
        let now_ns = i64::try_from(self.facts.looked_at.as_nanosecond()).unwrap_or(i64::MAX);
        let fresh = |changed_ns: i64| now_ns.saturating_sub(changed_ns) < FileFacts::WRITE_TICK_NS;
        let fingerprint = Fingerprint {
            main: *main,
            wal: sides[0].copied(),
            journal: sides[1].copied(),
            change_counter: *change_counter,
            schema_cookie: *schema_cookie,
            wal_mode: *wal_mode,
            copied: self.copied(),
            locked: !self.facts.locks.is_empty()
                || fresh(main.mtime_ns.max(main.ctime_ns))
                || sides.into_iter().flatten().any(|side| fresh(side.mtime_ns)),
        };
        let before = self.probe.healthy_before();
        let beside = suspicion::Beside { counters_differ: self.counters_differ, unwatched: self.probe.unwatched };
        if let Some(found) = suspicion::behind_sqlite(before, &fingerprint, beside) {
            self.facts.behind_sqlite = Some(found.why);
            self.facts.suspicion = Some(found.level);
        }
        // What stood there may be an index's alone, and then it costs no row.
        if self.page_lost().is_some() {
            self.facts.suspicion = Some(IntegrityLevel::Full);
        }
        self.facts.fingerprint = Some(fingerprint);
    }

    /// How much of the WAL is in the main file, when that is as it was before the index was read.
    fn copied(&self) -> Option<Copied> {
        let index = self.index.filter(|index| index.is_settled() && index.attempted == index.backfilled)?;
        let stands = Files::look(&self.probe.site.path).main.state == self.files.main.state;
        stands.then_some(Copied { salt: [index.salt1, index.salt2], frames: index.backfilled })
    }

    fn decide(&self) -> Opening {
        opening::decide(&Before {
            main: &self.facts.main,
            header: self.facts.header.as_ref(),
            wal: self.facts.wal.as_ref(),
            journal: self.facts.journal.as_ref(),
            place: &self.facts.place,
            dotfile: self.facts.dotfile_lock.is_some(),
            writable: self.is_writable_for_us(),
            shm: &self.files.shm.state,
            unread: self.facts.unread.as_ref().map(|unread| unread.message.as_str()),
            cut_off: self.facts.cut_off.is_some() || self.facts.held.is_some(),
        })
    }

    fn is_writable_for_us(&self) -> bool {
        use rustix::fs::{Access as Ask, AtFlags, CWD, accessat};
        let main = &self.files.main.path;
        let folder = main.parent().unwrap_or(main);
        accessat(CWD, main, Ask::WRITE_OK, AtFlags::EACCESS).is_ok()
            && accessat(CWD, folder, Ask::WRITE_OK | Ask::EXEC_OK, AtFlags::EACCESS).is_ok()
    }
}

/// When this boot began, on the wall clock, in nanoseconds since the epoch.
pub(in crate::worker) fn booted_ns() -> i64 {
    let boot = clock_gettime(ClockId::Boottime);
    let now = Timestamp::now().as_nanosecond();
    let since = i128::from(boot.tv_sec) * 1_000_000_000 + i128::from(boot.tv_nsec);
    i64::try_from(now - since).unwrap_or(i64::MAX)
}
