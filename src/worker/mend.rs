//! A database from all that can be read of its WAL: the chain written anew on a private copy, recovered by SQLite itself, and
//! checked in full. The way to read the WAL that keeps the most transactions and passes is the one that is taken.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use crate::backup::{Examined, examine, side_name};
use crate::format::wal_index::WAL_INDEX_HEAD_LEN;
use crate::format::{
    FrameState, Header, KeptFrame, MendedWal, Resum, WalHints, WalIndex, WalVariant, free_leaves, mend_wal,
};
use crate::host::{Folder, copy_file};
use crate::job::TableRows;
use crate::sqlite::{Access, Database, Deadline, Which};

/// The private copies' names in their folder.
const NAME: &str = "mended";
/// Uncertain pages that are named.
const PAGES_NAMED: usize = 20;
/// Pages that a WAL without a main file may lack, because nothing uses them, in number: more are not looked through.
const ABSENT_MAX: usize = 1 << 20;

/// Where to read from.
pub(super) struct Sources<'a> {
    pub wal: &'a File,
    /// A WAL index that can be believed.
    pub index: Option<WalIndex>,
    /// What lies below the WAL, if anything does.
    pub below: Option<&'a File>,
    /// It is what the WAL belongs to: a sound WAL then has nothing to mend.
    pub is_its_own: bool,
    /// Frames that there must be at least, or what is below is of a later moment.
    pub frames_min: u32,
}

/// What came of it: the file `mended` in the private folder.
#[derive(Debug)]
pub(super) struct Mended {
    pub name: &'static str,
    /// Nothing that was committed is missing: proven.
    pub proven: bool,
    /// What was kept, put right and left out.
    pub detail: String,
    pub tables: Vec<TableRows>,
}

/// Builds it in `folder`, which is ours alone.
///
/// # Errors
/// Why nothing is to be had, in words.
pub(super) fn mend(folder: &Folder, sources: &Sources<'_>) -> Result<Mended, String> {
    let Some(wal) = read(sources)? else { return Err("nothing can be read of its WAL".to_owned()) };
    let mut variants = wal.variants();
    if variants.is_empty() && !sources.is_its_own {
        variants.extend(wal.whole());
    }
    variants.retain(|variant| variant.frames >= sources.frames_min as usize);
    let mut why = "SQLite reads all that can be read of its WAL".to_owned();
    for variant in variants {
        match attempt(folder, sources, &wal, &variant) {
            Ok(mended) => return Ok(mended),
            Err(error) => why = error,
        }
    }
    clear(folder)?;
    Err(why)
}

/// Whether SQLite alone reads all that can be read of the WAL.
///
/// # Errors
/// When it cannot be read, in words.
pub(super) fn is_whole(sources: &Sources<'_>) -> Result<bool, String> {
    let length = sources.wal.metadata().map_err(|error| doing("looking at the WAL")(&error))?.len();
    Ok(length == 0 || read(sources)?.is_some_and(|wal| wal.variants().is_empty()))
}

fn read(sources: &Sources<'_>) -> Result<Option<MendedWal>, String> {
    let read = |at: u64, buffer: &mut [u8]| sources.wal.read_exact_at(buffer, at);
    let length = sources.wal.metadata().map_err(|error| doing("looking at the WAL")(&error))?.len();
    let hints = hints(sources).map_err(|error| doing("looking at the main file")(&error))?;
    let found = mend_wal(length, &hints, read).map_err(|error| doing("reading the WAL")(&error))?;
    Ok(found.filter(|wal| hints.page_size.is_none_or(|size| size == wal.header.page_size)))
}

fn doing(what: &'static str) -> impl Fn(&dyn std::fmt::Display) -> String {
    move |error| format!("{what} failed: {error}")
}

fn hints(sources: &Sources<'_>) -> io::Result<WalHints> {
    let index = sources.index.map(|index| ((index.salt1, index.salt2), index.mx_frame));
    let mut hints = WalHints { index, page_size: sources.index.map(|index| index.page_size), database_pages: 0 };
    if let Some(below) = sources.below {
        let mut head = [0_u8; 100];
        let header = below.read_exact_at(&mut head, 0).ok().and_then(|()| Header::parse(&head).ok());
        if let Some(header) = header {
            hints.page_size = Some(header.page_size);
            hints.database_pages =
                u32::try_from(below.metadata()?.len() / u64::from(header.page_size)).unwrap_or(u32::MAX);
        }
    }
    Ok(hints)
}

/// The head of a WAL index, when SQLite could believe it. One from before this boot is not believed: it is never made durable on
/// its own, so after a power cut it may promise frames that were never acknowledged.
pub(super) fn believed_index(shm: &File, mtime_ns: i64, booted_ns: i64) -> Option<WalIndex> {
    let mut head = [0; WAL_INDEX_HEAD_LEN];
    if mtime_ns < booted_ns || shm.read_exact_at(&mut head, 0).is_err() {
        return None;
    }
    WalIndex::parse(&head).ok().filter(WalIndex::is_settled)
}

fn attempt(folder: &Folder, sources: &Sources<'_>, wal: &MendedWal, variant: &WalVariant) -> Result<Mended, String> {
    clear(folder)?;
    let kept = wal.kept(variant);
    write_main(folder, sources, wal, &kept)
        .map_err(|error| doing("writing the main file of a private copy")(&error))?;
    write_wal(folder, sources.wal, wal, &kept).map_err(|error| doing("writing the WAL of a private copy")(&error))?;

    let path = folder.path().join(NAME);
    let recovering = doing("recovering a private copy");
    let database = Database::open(&path, Access::Copy, Duration::ZERO, Deadline::never())
        .map_err(|error| doing("opening a private copy")(&error))?;
    // The read is what makes SQLite recover the WAL.
    database.touch_schema().map_err(|error| recovering(&error))?;
    let report = database.checkpoint_truncate(Duration::ZERO).map_err(|error| recovering(&error))?;
    if report.busy {
        return Err("a private copy is busy: somebody else has it open".to_owned());
    }
    if sources.below.is_none() {
        database.close().map_err(|error| recovering(&error))?;
        only_free_pages_are_absent(folder, wal, variant)?;
        return conclude(folder, sources, wal, variant, String::new());
    }
    let mut rebuilt = String::new();
    if !variant.proven {
        // An older version of a table's page leaves the table's indexes behind: they can be had anew from the table.
        let report = database.integrity_check(1000);
        if report.only_indexes && report.fault.is_none() && !report.messages.is_empty() {
            database.rebuild_indexes(&Which::All).map_err(|error| doing("rebuilding the indexes")(&error))?;
            database.checkpoint_truncate(Duration::ZERO).map_err(|error| recovering(&error))?;
            rebuilt = "; indexes were rebuilt from their tables".to_owned();
        }
    }
    database.close().map_err(|error| recovering(&error))?;
    conclude(folder, sources, wal, variant, rebuilt)
}

/// The full check, and what is to be said.
fn conclude(
    folder: &Folder,
    sources: &Sources<'_>,
    wal: &MendedWal,
    variant: &WalVariant,
    rebuilt: String,
) -> Result<Mended, String> {
    let path = folder.path().join(NAME);
    let Examined { tables, empty, .. } = examine(&path, &Deadline::never()).map_err(|error| error.to_string())?;
    if empty {
        return Err("it has no table".to_owned());
    }
    let owners = owners(&path, &variant.uncertain);
    let detail = told(sources, wal, variant, &owners) + &rebuilt;
    Ok(Mended { name: NAME, proven: variant.proven, detail, tables })
}

/// What lies below the WAL; where nothing does, the first page alone: SQLite takes a file without a byte for a new one.
fn write_main(folder: &Folder, sources: &Sources<'_>, wal: &MendedWal, kept: &[KeptFrame]) -> io::Result<()> {
    let target = folder.create_in(NAME, 0o600).map_err(io::Error::other)?;
    if let Some(below) = sources.below {
        return copy_file(below, &target).map(|_| ()).map_err(io::Error::other);
    }
    let first = kept.iter().rfind(|frame| frame.page == 1);
    let first = first.ok_or_else(|| io::Error::other("the WAL has no version of page 1"))?;
    target.write_all_at(&page_of(sources.wal, wal, first)?, 0)
}

fn page_of(file: &File, wal: &MendedWal, frame: &KeptFrame) -> io::Result<Vec<u8>> {
    let mut page = vec![0; wal.header.page_size as usize];
    file.read_exact_at(&mut page, frame.page_at)?;
    if let Some(patch) = frame.patch
        && let Some(byte) = page.get_mut(patch.at as usize)
    {
        *byte = patch.value;
    }
    Ok(page)
}

fn write_wal(folder: &Folder, file: &File, wal: &MendedWal, kept: &[KeptFrame]) -> io::Result<()> {
    let target = folder.create_in(side_name(NAME.as_ref(), "-wal"), 0o600).map_err(io::Error::other)?;
    let mut target = BufWriter::with_capacity(1 << 20, target);
    let (mut resum, head) = Resum::new(&wal.header);
    target.write_all(&head)?;
    for frame in kept {
        let page = page_of(file, wal, frame)?;
        target.write_all(&resum.frame(frame.page, frame.commit_pages, &page))?;
        target.write_all(&page)?;
    }
    target.flush()
}

/// Without a main file the WAL must have every page, but for those that nothing uses.
fn only_free_pages_are_absent(folder: &Folder, wal: &MendedWal, variant: &WalVariant) -> Result<(), String> {
    let absent = wal.absent_pages(variant, ABSENT_MAX);
    if absent.is_empty() {
        return Ok(());
    }
    let reading = doing("reading a private copy");
    let file = folder.open_in(NAME).map_err(|error| reading(&error))?;
    let page_size = u64::from(wal.header.page_size);
    let page = |number: u32| -> io::Result<Vec<u8>> {
        let mut page = vec![0; wal.header.page_size as usize];
        file.read_exact_at(&mut page, u64::from(number.saturating_sub(1)) * page_size)?;
        Ok(page)
    };
    let header = Header::parse(&page(1).map_err(|error| reading(&error))?).map_err(|error| reading(&error))?;
    let pages = u32::try_from(file.metadata().map_err(|error| reading(&error))?.len() / page_size).unwrap_or(u32::MAX);
    let free: BTreeSet<u32> = free_leaves(header.freelist_head, pages, page).map_err(|error| reading(&error))?;
    // SQLite's lock bytes lie in a page that holds nothing.
    let lock_page = u32::try_from(0x4000_0000 / page_size + 1).unwrap_or(0);
    match absent.iter().find(|page| **page != lock_page && !free.contains(page)) {
        Some(page) => Err(format!("the WAL does not have every page: {page} was in the main file alone")),
        None => Ok(()),
    }
}

/// Whose the uncertain pages are, as far as it can be told.
fn owners(path: &std::path::Path, pages: &[u32]) -> Vec<String> {
    let named = pages.get(..pages.len().min(PAGES_NAMED)).unwrap_or_default();
    if named.is_empty() {
        return Vec::new();
    }
    let database = Database::open(path, Access::Immutable, Duration::ZERO, Deadline::never());
    database.and_then(|database| database.owners_of(named)).unwrap_or_default()
}

fn told(sources: &Sources<'_>, wal: &MendedWal, variant: &WalVariant, owners: &[String]) -> String {
    let taken = wal.frames.iter().take(variant.frames);
    let count = |state: FrameState| taken.clone().filter(|frame| frame.state == state).count();
    let mut text = format!("{} transactions in {} frames of its WAL", variant.transactions, variant.frames);
    if sources.is_its_own {
        // Writing to a String cannot fail.
        let _ = write!(text, " (SQLite alone reads {})", wal.transactions(wal.readable));
    }
    if wal.header_hurt {
        text += "; the WAL's header was rebuilt";
    }
    for (state, what) in [
        (FrameState::FieldHurt, "with hurt header fields put right"),
        (FrameState::ByteHurt, "with one hurt byte put right"),
        (FrameState::PageHurt, "with a hurt page left out"),
        (FrameState::Unproven, "that cannot be proven kept"),
        (FrameState::Lost, "lost, of pages unknown"),
    ] {
        match count(state) {
            0 => {}
            1 => text += &format!("; 1 frame {what}"),
            frames => text += &format!("; {frames} frames {what}"),
        }
    }
    if !variant.uncertain.is_empty() {
        let pages: Vec<String> = variant.uncertain.iter().take(PAGES_NAMED).map(u32::to_string).collect();
        let more = if variant.uncertain.len() > PAGES_NAMED { ", …" } else { "" };
        let _ = write!(text, "; uncertain: page {}{more}", pages.join(", "));
        if !owners.is_empty() {
            let _ = write!(text, " (of {})", owners.join(", "));
        }
    }
    let dropped = wal.transactions(wal.frames.len()) - variant.transactions;
    if dropped > 0 {
        let _ = write!(text, "; {dropped} transactions behind the damage were dropped: with them it does not pass");
    }
    if wal.commits_left_alone > 0 {
        let _ = write!(text, "; {} commits behind them cannot be told from abandoned ones", wal.commits_left_alone);
    }
    text + if variant.proven { "; nothing is lost" } else { "" }
}

/// Removes what an earlier attempt left.
fn clear(folder: &Folder) -> Result<(), String> {
    for suffix in ["", "-wal", "-shm", "-journal"] {
        match folder.unlink(side_name(NAME.as_ref(), suffix)) {
            Err(error) if !error.is_absent() => return Err(doing("removing a private copy")(&error)),
            _ => {}
        }
    }
    Ok(())
}
