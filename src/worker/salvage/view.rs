//! The source as its newest committed state, page by page: the main file, under what its WAL has, or before what its hot journal
//! undoes. Nothing is written and nothing is opened by SQLite.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::OFlags;

use super::{failed, refused};
use crate::format::salvage::{Measures, Pages, encoding_of, has_pointer_maps, header_of, measure};
use crate::format::{Encoding, Geometry, Header, MendedJournal, Patch, WalHints, mend_journal, mend_wal, scan_journal};
use crate::host::{FileFacts, LockMode, OfdLock, SqliteLock, ask_lock, fill};
use crate::job::JobFailure;
use crate::worker::probe::with_suffix;
use crate::worker::step::list_evidence;

/// The source's files, open for reading.
pub(super) struct Files {
    main: Option<File>,
    wal: Option<File>,
    journal: Option<File>,
    /// What they looked like when they were opened.
    facts: Vec<(PathBuf, Option<FileFacts>)>,
    /// SQLite's SHARED: no program writes to the main file meanwhile.
    _shared: Option<OfdLock>,
}

impl Files {
    /// Opens a database file, or what an incident's evidence folder has, and keeps writers out.
    pub(super) fn open(source: &Path) -> Result<Files, JobFailure> {
        let paths = if source.is_dir() {
            let Some(newest) = list_evidence(source)?.pop() else {
                return Err(failed(format!("{} is a folder and no incident's evidence", source.display())));
            };
            ["main", "wal", "journal"].map(|name| newest.folder.join(name))
        } else {
            [source.to_owned(), with_suffix(source, "-wal"), with_suffix(source, "-journal")]
        };
        let facts = paths.iter().map(|path| (path.clone(), FileFacts::of_path(path, true).ok())).collect();
        let [main, wal, journal] = [open(&paths[0])?, open(&paths[1])?, open(&paths[2])?];
        if main.is_none() && wal.is_none() {
            return Err(failed(format!("{} is not there", paths[0].display())));
        }
        let shared = main.as_ref().map(|main| keep_writers_out(main, &paths[0])).transpose()?;
        Ok(Files { main, wal, journal, facts, _shared: shared })
    }

    /// An error when a program wrote meanwhile: then what was read is of no one moment.
    pub(super) fn are_still_so(&self) -> Result<(), JobFailure> {
        let changed = |(path, facts): &&(PathBuf, Option<FileFacts>)| {
            let now = FileFacts::of_path(path, true).ok();
            now.map(|now| (now.size, now.mtime_ns, now.id.ino))
                != facts.as_ref().map(|then| (then.size, then.mtime_ns, then.id.ino))
        };
        match self.facts.iter().find(changed) {
            Some((path, _)) => Err(refused(format!(
                "{} changed while it was read: a program uses it; stop it, or salvage a copy",
                path.display()
            ))),
            None => Ok(()),
        }
    }
}

/// Opens a file for reading; `None` where there is none. What is no regular file is refused, and a FIFO keeps nobody waiting for a
/// writer.
pub(super) fn open(path: &Path) -> Result<Option<File>, JobFailure> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    match File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path) {
        Ok(file) if file.metadata().is_ok_and(|meta| meta.is_file()) => Ok(Some(file)),
        Ok(_) => Err(failed(format!("{} is no regular file", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(format!("opening {}: {error}", path.display()))),
    }
}

/// A program that has it open in WAL mode, or writes, holds a lock. One that is idle in rollback mode holds none, and is kept from
/// writing by ours.
fn keep_writers_out(main: &File, path: &Path) -> Result<OfdLock, JobFailure> {
    let ask = |lock: SqliteLock| ask_lock(main, lock.bytes(), LockMode::Write);
    for lock in [SqliteLock::Shared, SqliteLock::Reserved, SqliteLock::Pending] {
        match ask(lock) {
            Ok(None) => {}
            Ok(Some(conflict)) => {
                let path = path.display();
                return Err(refused(format!("{path} is in use ({conflict}): stop the program, or salvage a copy")));
            }
            Err(error) => return Err(failed(error.to_string())),
        }
    }
    let again = main.try_clone().map_err(|error| failed(error.to_string()))?;
    OfdLock::shared(again.into(), SqliteLock::Shared.bytes()).map_err(|error| refused(error.to_string()))
}

/// Where a page's newest committed version is, when it is not in the main file.
#[derive(Debug, Clone, Copy)]
enum Origin {
    Wal(u64, Option<Patch>),
    Journal(u64),
}

/// Pages that were read at once.
#[derive(Default)]
struct Last {
    first: u32,
    bytes: Vec<u8>,
}

/// What is known of a page takes 32 bytes of memory: 4 GiB, of a database of 512 GiB with pages of 4 KiB.
const PAGES_MAX: u32 = 128 << 20;

/// Bytes that are read ahead.
const AHEAD: usize = 256 << 10;

/// The pages.
pub(super) struct View<'a> {
    files: &'a Files,
    pub geometry: Geometry,
    pub encoding: Encoding,
    pub header: Option<Header>,
    /// What was found, in words.
    pub damage: Vec<String>,
    count: u32,
    main_len: u64,
    overlay: BTreeMap<u32, Origin>,
    /// What was read last: chains and cells come back to it, and most passes go on where they are.
    last: Mutex<Last>,
}

impl<'a> View<'a> {
    /// `None` when nothing is a database's.
    pub(super) fn of(files: &'a Files) -> io::Result<Option<View<'a>>> {
        let main_len = length(files.main.as_ref())?;
        let read = |at: u64, into: &mut [u8]| {
            // What cannot be read is as good as zeros here: no page of zeros is a b-tree's.
            if files.main.as_ref().is_none_or(|main| fill(main, at, into).is_err()) {
                into.fill(0);
            }
        };
        let measured = measure(main_len, &read);
        let mut damage = Vec::new();
        let mut overlay = BTreeMap::new();
        let pages_of =
            |geometry: &Geometry| u32::try_from(main_len.div_ceil(u64::from(geometry.page_size()))).unwrap_or(u32::MAX);
        let mut count = measured.map_or(0, |measured| pages_of(&measured.geometry));
        let mut geometry = measured.map(|measured| measured.geometry);
        if let Some(wal) = read_wal(files, measured.as_ref(), count, &mut damage)? {
            let reserved = geometry.map_or(0, |geometry| (geometry.page_size() - geometry.usable()) as u8);
            geometry = Geometry::new(wal.page_size, reserved);
            if let Some(pages) = wal.count {
                count = pages;
            }
            overlay = wal.overlay;
        } else if let Some(journal) = read_journal(files, measured.as_ref(), &mut damage)? {
            if geometry.is_none() {
                geometry = Geometry::new(journal.page_size, 0);
                count = u32::try_from(main_len.div_ceil(u64::from(journal.page_size.max(1)))).unwrap_or(u32::MAX);
            }
            count = journal.initial_pages.unwrap_or(count);
            for image in &journal.pre_images {
                overlay.entry(image.page).or_insert(Origin::Journal(image.at));
            }
        }
        let Some(geometry) = geometry else { return Ok(None) };
        // A damaged count must not make us look at pages that are nowhere.
        let most = pages_of(&geometry).max(overlay.keys().next_back().copied().unwrap_or(0));
        if count.min(most) > PAGES_MAX {
            return Err(io::Error::other(format!(
                "it has {} pages, and what is to be known of more than {PAGES_MAX} takes too much memory: if its end is a hole, salvage a \
                 copy that is cut there",
                count.min(most)
            )));
        }
        let header = measured.and_then(|measured| measured.header);
        let mut view = View {
            files,
            geometry,
            encoding: Encoding::Utf8,
            header,
            damage,
            count: count.min(most),
            main_len,
            overlay,
            last: Mutex::new(Last::default()),
        };
        let Some(first) = view.page(1) else { return Ok(None) };
        view.settle(&first, measured.as_ref());
        Ok(Some(view))
    }

    /// What page 1 says, where it can be believed.
    fn settle(&mut self, first: &[u8], measured: Option<&Measures>) {
        let written = header_of(first);
        let strictly = Header::parse(first);
        match &strictly {
            Ok(header) if header.page_size != self.geometry.page_size() => {
                self.damage.push(format!(
                    "the header says pages of {} bytes, and they have {}",
                    header.page_size,
                    self.geometry.page_size()
                ));
            }
            Ok(_) => {}
            Err(error) => self.damage.push(format!("the header: {error}")),
        }
        let page_size = self.geometry.page_size();
        if let (None, Some(header)) = (measured, &written)
            && let Some(geometry) = Geometry::new(page_size, header.reserved)
        {
            self.geometry = geometry;
        }
        let reserved = (page_size - self.geometry.usable()) as u8;
        self.header = written.map(|header| Header { page_size, reserved, ..header });
        let maps = has_pointer_maps(self, &self.geometry, self.header.as_ref());
        self.geometry = self.geometry.with_pointer_maps(maps);
        self.encoding = encoding_of(self, &self.geometry, self.header.map(|header| header.encoding));
        if let Some(header) = self.header
            && header.encoding != self.encoding
            && !matches!(header.encoding, Encoding::Odd(_))
        {
            self.damage.push(format!("the header says {:?}, and the texts are {:?}", header.encoding, self.encoding));
        }
        let counted = self.header.and_then(|header| header.counted_pages());
        if let Some(counted) = counted.filter(|counted| *counted > self.count) {
            self.damage.push(format!("{} pages are missing at the end of the file", counted - self.count));
        }
    }

    fn read_page(&self, number: u32) -> Option<Vec<u8>> {
        if number == 0 || number > self.count {
            return None;
        }
        let mut bytes = vec![0; self.geometry.page_size() as usize];
        match self.overlay.get(&number) {
            Some(Origin::Wal(at, patch)) => {
                self.files.wal.as_ref()?.read_exact_at(&mut bytes, *at).ok()?;
                if let Some((patch, byte)) = patch.and_then(|patch| Some((patch, bytes.get_mut(patch.at as usize)?))) {
                    *byte = patch.value;
                }
            }
            Some(Origin::Journal(at)) => self.files.journal.as_ref()?.read_exact_at(&mut bytes, *at).ok()?,
            None => {
                let at = self.geometry.offset_of(number);
                if at >= self.main_len {
                    return None;
                }
                fill(self.files.main.as_ref()?, at, &mut bytes).ok()?;
            }
        }
        Some(bytes)
    }
}

impl Pages for View<'_> {
    fn count(&self) -> u32 {
        self.count
    }

    fn counted(&self) -> u32 {
        self.header.and_then(|header| header.counted_pages()).unwrap_or(0).max(self.count)
    }

    fn page(&self, number: u32) -> Option<Vec<u8>> {
        let size = self.geometry.page_size() as usize;
        // Nothing is half done where this can panic.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let at = |last: &Last| (number.checked_sub(last.first)? as usize).checked_mul(size);
        if let Some(page) = at(&last).and_then(|at| last.bytes.get(at..at + size)) {
            return Some(page.to_vec());
        }
        // The page behind those that were read last: a pass in the order of the file.
        let goes_on = at(&last) == Some(last.bytes.len()) && !last.bytes.is_empty();
        if goes_on {
            let pages = (AHEAD / size).clamp(1, (self.count.saturating_sub(number) as usize).saturating_add(1));
            let mut bytes = std::mem::take(&mut last.bytes);
            bytes.resize(pages * size, 0);
            if self.run(number, size as u32, &mut bytes) {
                *last = Last { first: number, bytes };
                return last.bytes.get(..size).map(<[u8]>::to_vec);
            }
        }
        let bytes = self.read_page(number)?;
        *last = Last { first: number, bytes: bytes.clone() };
        Some(bytes)
    }

    fn run(&self, first: u32, page_size: u32, into: &mut [u8]) -> bool {
        let size = page_size as usize;
        super::progress::step(super::progress::READING, (into.len() / size.max(1)) as u64);
        let last = first.saturating_add((into.len() / size.max(1)) as u32).saturating_sub(1);
        let Some(main) = &self.files.main else { return false };
        let from = self.geometry.offset_of(first);
        let is_there = first > 0 && last <= self.count && self.geometry.offset_of(last) < self.main_len;
        if !is_there || fill(main, from, into).is_err() {
            return false;
        }
        self.overlay.range(first..=last).all(|(number, _)| {
            let at = (*number - first) as usize * size;
            match (self.read_page(*number), into.get_mut(at..at + size)) {
                (Some(page), Some(into)) => {
                    into.copy_from_slice(&page);
                    true
                }
                _ => false,
            }
        })
    }
}

fn length(file: Option<&File>) -> io::Result<u64> {
    file.map_or(Ok(0), |file| Ok(file.metadata()?.len()))
}

struct ReadWal {
    page_size: u32,
    count: Option<u32>,
    overlay: BTreeMap<u32, Origin>,
}

/// All that can be read of the WAL, also behind what hides it from SQLite.
fn read_wal(
    files: &Files,
    measured: Option<&Measures>,
    database_pages: u32,
    damage: &mut Vec<String>,
) -> io::Result<Option<ReadWal>> {
    let Some(file) = &files.wal else { return Ok(None) };
    let length = file.metadata()?.len();
    if length == 0 {
        return Ok(None);
    }
    let page_size = measured.filter(|measured| measured.sound > 0).map(|measured| measured.geometry.page_size());
    let hints = WalHints { index: None, page_size, database_pages };
    let wal = mend_wal(length, &hints, |at, into: &mut [u8]| file.read_exact_at(into, at))?;
    let Some(wal) = wal.filter(|wal| page_size.is_none_or(|size| size == wal.header.page_size)) else {
        damage.push("nothing can be read of its WAL".to_owned());
        return Ok(None);
    };
    let more = wal.variants().into_iter().next();
    if more.is_some() || wal.header_hurt {
        damage.push("its WAL is damaged; what SQLite does not read of it was read all the same".to_owned());
    }
    let Some(variant) = more.or_else(|| wal.whole()) else { return Ok(None) };
    if !variant.uncertain.is_empty() {
        damage
            .push(format!("the WAL's version of {} pages is damaged: older ones were taken", variant.uncertain.len()));
    }
    let mut overlay = BTreeMap::new();
    let mut count = None;
    for frame in wal.kept(&variant) {
        overlay.insert(frame.page, Origin::Wal(frame.page_at, frame.patch));
        if frame.commit_pages != 0 {
            count = Some(frame.commit_pages);
        }
    }
    if overlay.is_empty() {
        return Ok(None);
    }
    Ok(Some(ReadWal { page_size: wal.header.page_size, count, overlay }))
}

/// A hot journal, as far as its records verify.
fn read_journal(
    files: &Files,
    measured: Option<&Measures>,
    damage: &mut Vec<String>,
) -> io::Result<Option<MendedJournal>> {
    let (Some(file), Some(main)) = (&files.journal, &files.main) else { return Ok(None) };
    let length = file.metadata()?.len();
    let page_size = measured.map(|measured| measured.geometry.page_size());
    let read = |at: u64, into: &mut [u8]| file.read_exact_at(into, at);
    let scan = scan_journal(length, page_size, read)?;
    // A transaction over several files that ended: its super-journal is gone.
    if scan.super_journal.as_ref().is_some_and(|name| !Path::new(name).exists()) {
        return Ok(None);
    }
    let fits = |journal: &MendedJournal| page_size.is_none_or(|size| journal.page_size == size);
    let Some(journal) = mend_journal(length, page_size, read)?.filter(fits) else { return Ok(None) };
    if journal.header_hurt {
        // SQLite itself zeroes the header of a transaction that is over (journal_mode=PERSIST); but such a transaction has written a
        // page 1 with the next change counter, and one that was cut off has not.
        let counter = |from: &File, at: u64| -> io::Result<[u8; 4]> {
            let mut counter = [0; 4];
            from.read_exact_at(&mut counter, at + 24)?;
            Ok(counter)
        };
        let first = journal.pre_images.iter().find(|image| image.page == 1);
        if let Some(first) = first
            && counter(file, first.at)? != counter(main, 0)?
        {
            return Ok(None);
        }
        damage.push("the header of its rollback journal is gone; it was rolled back by its records".to_owned());
    }
    if journal.bad > 0 {
        damage.push(format!("{} records of its rollback journal are damaged or missing", journal.bad));
    }
    Ok(Some(journal))
}
