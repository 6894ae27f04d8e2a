//! One consistent state of a database, read raw: the main file, and over it the pages that the WAL has.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::super::copy::share;
use super::super::files::{Files, open_raw};
use super::super::raw;
use crate::format::header::HEADER_LEN;
use crate::format::wal::{FRAME_HEADER_LEN, WAL_HEADER_LEN};
use crate::format::{Header, PageSource};
use crate::host::{HostError, OfdLock, SqliteLock, fill, read_up_to};
use crate::job::{WalFacts, WalState, WalUnread};
use crate::sqlite::{Access, Database, Deadline};
use crate::worker::probe::booted_ns;

/// What keeps it as it is: no program writes to the main file while these are held, and none writes over the frames.
#[derive(Debug)]
pub(super) struct Held {
    _locks: Vec<OfdLock>,
}

/// So often it is closed once more while somebody else's empty WAL is there: a program that has it open keeps it.
const CLOSES: u32 = 4;
/// A look of ours that has it open ends in less.
const BETWEEN_CLOSES: Duration = Duration::from_millis(15);

impl Held {
    /// Gives the locks back, and takes away what they made others leave behind beside the main file of `files`.
    ///
    /// Who ends in WAL mode while they are held takes them for another user's, and leaves its `-wal` and `-shm` to that one. That is
    /// us, and no look after this one would take them away: a WAL that was there before it is not its own.
    pub(super) fn let_go(self, files: &Files) {
        drop(self);
        for _ in 0..CLOSES {
            let now = Files::pinned(&files.main.path);
            let main = |files: &Files| files.main.state.file().map(|main| (main.dev, main.ino));
            let is_empty = now.wal.state.file().is_some_and(|wal| wal.size == 0) && now.shm.state.file().is_some();
            // Frames that only the index knows of are damage, and it is their only witness.
            let has_none = || {
                let wal = raw::wal(&now, None, WalUnread::Nothing, booted_ns());
                wal.is_ok_and(|wal| wal.facts.index_max_frame.is_none_or(|last| last == 0))
            };
            if main(&now) != main(files) || !is_empty || !has_none() {
                return;
            }
            // SQLite itself knows whether somebody else has it open now. Of two that close it at one moment each leaves it to the other.
            let database = Database::open(&files.main.path, Access::Repair, Duration::ZERO, Deadline::never());
            let _ = database.and_then(|database| database.schema_version().and_then(|_| database.close()));
            std::thread::sleep(BETWEEN_CLOSES);
        }
    }
}

/// What says that a database was one and the same from a pass's beginning to its end.
pub(super) struct Stillness<'a> {
    files: &'a Files,
    /// `None`: writers go on, and the file's times and a moment under the locks behind the pass say whether there was one.
    held: Option<Held>,
    /// Writers are kept out so long at the most.
    until: Option<Instant>,
}

impl<'a> Stillness<'a> {
    /// Under `held`, and `files` as they are under that. Who writes to a WAL does not wait; others wait for `block_max` at the most. With
    /// `lets_write` they do not, where a write from now on shows in the file's time.
    pub(super) fn new(
        held: Held,
        files: &'a Files,
        is_wal: bool,
        lets_write: bool,
        block_max: Duration,
    ) -> Stillness<'a> {
        let is_settled = files.main.state.file().is_some_and(|main| main.is_settled_at(Timestamp::now()));
        let held = (is_wal || !lets_write || !is_settled).then_some(held);
        Stillness { files, held, until: (!is_wal).then(|| Instant::now() + block_max) }
    }

    /// Asked between two chunks: false once a pass has kept writers waiting for too long, or is void.
    pub(super) fn lasts(&self) -> bool {
        match &self.held {
            Some(_) => self.until.is_none_or(|until| Instant::now() < until),
            None => self.files.main.is_still_so(),
        }
    }

    /// The locks, behind the pass, and whether it was still. Of somebody in the middle of writing nothing can be told: an error.
    pub(super) fn end(self, patience: Duration) -> io::Result<(Held, bool)> {
        let held = self.held.map_or_else(|| hold(self.files, patience), Ok)?;
        // A commit adds to the WAL, behind what was read of it.
        let wal = self.files.wal.again().state.size() >= self.files.wal.state.size();
        Ok((held, wal && self.files.main.is_still_so()))
    }
}

/// The pages.
pub(super) struct View {
    main: File,
    wal: Option<File>,
    /// Where in the WAL a page's newest committed version begins, in bytes, by page.
    frames: BTreeMap<u32, u64>,
    /// Bytes per page.
    page_size: u32,
    /// Of page 1 as it is seen.
    pub head: [u8; HEADER_LEN],
    /// By the WAL's last commit.
    pub wal_pages: Option<u32>,
    /// Pages in the file and in the WAL.
    pub there: u32,
    /// What is known of the WAL.
    pub wal_facts: WalFacts,
}

/// Takes SQLite's shared lock on the main file. In WAL mode, a shared lock on the byte of checkpoints keeps checkpoints from writing to the
/// main file, and one on a reader's byte keeps writers from beginning the WAL anew; both conflict with the exclusive locks that these
/// need (`sqlite3WalCheckpoint` and `walRestartLog` in `wal.c`), and with nothing that a reader or a writer needs.
pub(super) fn hold(files: &Files, patience: Duration) -> io::Result<Held> {
    let mut locks = vec![share(&open_raw(&files.main)?, patience)?];
    if files.shm.state.size() > 0 {
        let until = Instant::now() + patience;
        for lock in [SqliteLock::WalCheckpoint, SqliteLock::WalRead(1)] {
            locks.push(shared(files, lock, until)?);
        }
    }
    Ok(Held { _locks: locks })
}

fn shared(files: &Files, lock: SqliteLock, until: Instant) -> io::Result<OfdLock> {
    loop {
        match OfdLock::shared(open_raw(&files.shm)?.into(), lock.bytes()) {
            Ok(lock) => return Ok(lock),
            Err(HostError::LockHeld(_)) if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
            Err(error) => return Err(io::Error::other(error)),
        }
    }
}

impl View {
    /// Opens the files as they are now. A WAL whose end is damaged is taken as SQLite takes it: up to its last sound commit.
    pub(super) fn open(files: &Files) -> io::Result<View> {
        let main = open_raw(&files.main)?;
        let wal_facts = raw::wal(files, None, WalUnread::Nothing, booted_ns())?.facts;
        let mut head = [0; HEADER_LEN];
        fill(&main, 0, &mut head)?;
        let length = main.metadata()?.len();
        let mut view =
            View { main, wal: None, frames: BTreeMap::new(), page_size: 0, head, wal_pages: None, there: 0, wal_facts };
        if view.wal_facts.state == WalState::Sound && view.wal_facts.mark.is_none() {
            // Without its pages the main file alone would look damaged.
            return Err(io::Error::other(format!("the WAL could not be read: {}", view.wal_facts.detail)));
        }
        let mark = match view.wal_facts.state {
            WalState::Sound | WalState::Damaged => view.wal_facts.mark.filter(|mark| mark.last_commit > 0),
            _ => None,
        };
        let mut appended = 0;
        if let Some(mark) = mark {
            let wal = open_raw(&files.wal)?;
            let frame_len = FRAME_HEADER_LEN as u64 + u64::from(mark.page_size);
            for number in 0..u64::from(mark.last_commit) {
                let at = WAL_HEADER_LEN as u64 + number * frame_len;
                let mut page = [0; 4];
                if read_up_to(&wal, at, &mut page)? < page.len() {
                    return Err(io::Error::other("the WAL was cut while it was read"));
                }
                view.frames.insert(u32::from_be_bytes(page), at + FRAME_HEADER_LEN as u64);
            }
            if let Some(at) = view.frames.get(&1) {
                fill(&wal, *at, &mut view.head)?;
            }
            appended = u32::try_from(view.frames.len()).unwrap_or(u32::MAX);
            view.wal_pages = Some(mark.database_pages);
            view.wal = Some(wal);
            view.page_size = mark.page_size;
        }
        if let Ok(header) = Header::parse(&view.head) {
            if view.wal.is_some() && view.page_size != header.page_size {
                let (wal, main) = (view.page_size, header.page_size);
                return Err(io::Error::other(format!("its WAL has pages of {wal} bytes, and the database of {main}")));
            }
            view.page_size = header.page_size;
            let whole = u32::try_from(length.div_ceil(u64::from(header.page_size))).unwrap_or(u32::MAX);
            view.there = whole.saturating_add(appended);
        }
        Ok(view)
    }

    /// Bytes of the main file.
    pub(super) fn len(&self) -> io::Result<u64> {
        Ok(self.main.metadata()?.len())
    }

    /// The main file's bytes, as many as there are.
    pub(super) fn raw(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        read_up_to(&self.main, at, buffer)
    }
}

impl PageSource for View {
    type Error = io::Error;

    fn read(&self, first: u32, into: &mut [u8]) -> io::Result<()> {
        let size = u64::from(self.page_size);
        let at = u64::from(first.saturating_sub(1)) * size;
        fill(&self.main, at, into)?;
        let pages = (into.len() as u64 / size.max(1)) as u32;
        if let Some(wal) = &self.wal {
            for (number, at) in self.frames.range(first..first.saturating_add(pages)) {
                let page = into.chunks_exact_mut(size as usize).nth((number - first) as usize);
                fill(wal, *at, page.unwrap_or_default())?;
            }
        }
        Ok(())
    }
}
