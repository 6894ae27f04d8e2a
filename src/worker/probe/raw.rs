//! The raw bytes, read before SQLite opens anything: header, WAL, WAL index, rollback journal (rule 19).
//!
//! Every descriptor opened here is closed on return: SQLite takes its locks in this process only afterwards (rule 7).

use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use super::files::{Files, Looked, open_raw};
use super::likeness;
use crate::format::{
    self, Encoding, Header, HeaderError, JournalScan, SCHEMA_FORMAT_MAX, SizeVerdict, WalHeaderError, WalHeaderState,
    WalIndex, WalScan,
};
use crate::host::{self, LockMode, SqliteLock, ask_lock, fill, read_up_to};
use crate::job::{
    FileFacts, FileState, FormatVersion, HeaderFacts, JournalFacts, JournalState, WalFacts, WalMark, WalState,
    WalUnread,
};
use crate::sqlite::sqlite_version_number;
use crate::worker::mend::believed_index;

/// A live writer can rewrite what is being read: damage counts when two scans in a row, of at most so many, see it at the same
/// place.
const LOOKS: u32 = 5;

/// A reset of the WAL is over long before this.
const BETWEEN_SAMPLES: Duration = Duration::from_millis(20);

/// The header and what the facts do not carry of it.
pub(super) struct RawHeader {
    pub(super) facts: HeaderFacts,
    /// The change counter and its witness differ, though a writer of today's kind wrote last.
    pub(super) counters_differ: bool,
    /// The same, where the file is shorter than it says.
    pub(super) short: Option<Short>,
}

/// A header that counts more pages than its file has bytes for.
pub(super) struct Short {
    header: Header,
    len: u64,
}

/// Reads the header; `None` when the main file is not a regular file that we may read.
pub(super) fn header(main: &Looked) -> Option<io::Result<RawHeader>> {
    let size = main.state.file()?.size;
    Some(read_header(main, size))
}

/// Of a header with a version above what is known, whose file a SQLite of the version `writer` wrote last: none writes what it does
/// not know.
fn format_version(writer: u32) -> FormatVersion {
    if writer > sqlite_version_number() { FormatVersion::Newer } else { FormatVersion::Damaged }
}

fn read_header(main: &Looked, size: u64) -> io::Result<RawHeader> {
    if size == 0 {
        return Ok(RawHeader { facts: HeaderFacts::Empty, counters_differ: false, short: None });
    }
    let file = open_raw(main)?;
    let mut bytes = [0; format::header::HEADER_LEN];
    let length = read_up_to(&file, 0, &mut bytes)?;
    let header = match Header::parse(&bytes[..length]) {
        Ok(header) => header,
        Err(error) => {
            let pages_like_sqlite = likeness::of_pages(size, |at, buffer| read_up_to(&file, at, buffer))?;
            let format = match error {
                // SQLite writes both alike, and one damaged byte does not.
                HeaderError::NewerFormat(read) if bytes[18] == read => FormatVersion::Newer,
                HeaderError::NewerFormat(_) => {
                    format_version(bytes.last_chunk().map_or(0, |writer| u32::from_be_bytes(*writer)))
                }
                _ => FormatVersion::Known,
            };
            let facts = HeaderFacts::Bad { reason: error.to_string(), pages_like_sqlite, format };
            return Ok(RawHeader { facts, counters_differ: false, short: None });
        }
    };
    let page = u64::from(header.page_size);
    let counted = header.counted_pages();
    let promised = counted.map_or(0, |pages| u64::from(pages) * page);
    let (missing_bytes, extra_bytes) = match header.page_count_in(size) {
        SizeVerdict::Truncated { .. } => (promised.saturating_sub(size), 0),
        SizeVerdict::Longer { .. } | SizeVerdict::PartialPage { .. } => (0, size.saturating_sub(promised)),
        SizeVerdict::Agrees | SizeVerdict::Uncounted => (0, 0),
    };
    let facts = HeaderFacts::Good {
        page_size: header.page_size,
        page_count: counted,
        change_counter: header.change_counter,
        schema_cookie: header.schema_cookie,
        wal_mode: header.is_wal(),
        encoding: match header.encoding {
            Encoding::Utf8 => "UTF-8".to_owned(),
            Encoding::Utf16Le => "UTF-16le".to_owned(),
            Encoding::Utf16Be => "UTF-16be".to_owned(),
            Encoding::Odd(number) => format!("odd ({number})"),
        },
        sqlite_version: header.sqlite_version,
        missing_bytes,
        lost_page: None,
        extra_bytes,
        format: if header.write_version > 2 { format_version(header.sqlite_version) } else { FormatVersion::Known },
        schema_format: if header.schema_format > SCHEMA_FORMAT_MAX {
            format_version(header.sqlite_version)
        } else {
            FormatVersion::Known
        },
    };
    let counters_differ = header.sqlite_version >= 3_007_000 && header.change_counter != header.version_valid_for;
    let short = (missing_bytes > 0).then_some(Short { header, len: size });
    Ok(RawHeader { facts, counters_differ, short })
}

/// The first page that a file at rest lacks; see [`format::lost_page`]. A writer puts page 1 down first and lengthens the file
/// afterwards, so one that is found as short after a moment without a writer as it was `before` is short by nobody's writing.
pub(super) fn lost_page(files: &Files, before: &Short, wal: Option<&WalMark>) -> io::Result<Option<u32>> {
    let main = open_raw(&files.main)?;
    if is_reserved(&files.main)? {
        return Ok(None);
    }
    let side = wal.map(|_| open_raw(&files.wal)).transpose()?;
    let lost = format::lost_page(
        &before.header,
        before.len,
        wal.map(to_format).as_ref(),
        |at, page| fill(&main, at, page),
        |at, frame| side.as_ref().map_or(Ok(()), |wal| fill(wal, at, frame)),
    )?;
    let mut head = [0; format::header::HEADER_LEN];
    fill(&main, 0, &mut head)?;
    let same = Header::parse(&head).is_ok_and(|now| now == before.header) && main.metadata()?.len() == before.len;
    Ok(lost.filter(|_| same))
}

/// The WAL and what its index says.
pub(super) struct RawWal {
    pub(super) facts: WalFacts,
    /// The index, when it can be believed and is of this WAL's generation.
    pub(super) index: Option<WalIndex>,
}

/// A WAL of at most so many bytes is read from its beginning each time that it has changed: SQLite lets it grow to half of that by
/// default, and it takes a few milliseconds.
const WAL_READ_WHOLE: u64 = 8 << 20;

/// Scans the WAL, on from where it was `verified` to if that still fits and what comes before is not due again; with the mark comes the
/// file as it was then. `booted_ns`: when this boot began, on the wall clock.
pub(super) fn wal(
    files: &Files,
    verified: Option<(&WalMark, Option<&FileFacts>)>,
    unread: WalUnread,
    booted_ns: i64,
) -> io::Result<RawWal> {
    let without = |state, detail: String| RawWal {
        facts: WalFacts {
            state,
            detail,
            mark: None,
            whole: true,
            stranded_commits: 0,
            index_max_frame: None,
            index_backfill: None,
            checkpointing: false,
            held_back_by: Vec::new(),
            reset_bug: false,
        },
        index: None,
    };
    match &files.wal.state {
        FileState::Missing => return Ok(without(WalState::Absent, "there is none".to_owned())),
        FileState::File(file) if file.size == 0 => return Ok(without(WalState::Absent, "it is empty".to_owned())),
        FileState::File(_) => {}
        FileState::Symlink { .. } => return Ok(without(WalState::NotAFile, "it is a symbolic link".to_owned())),
        FileState::Other { what } => return Ok(without(WalState::NotAFile, format!("it is {what}"))),
        FileState::Unreadable { errno, message } => return Err(unreadable(*errno, message)),
    }
    let was = verified.and_then(|(_, was)| was).map(|was| (was.size, was.mtime_ns));
    let touched = was != files.wal.state.file().map(|now| (now.size, now.mtime_ns));
    let due = match unread {
        WalUnread::Nothing => false,
        WalUnread::AtRest => !touched,
        WalUnread::Now => true,
    };
    let small = files.wal.state.size() <= WAL_READ_WHOLE;
    let mark = verified.filter(|_| !(due || small && touched)).map(|(mark, _)| to_format(mark));
    let mut seen = None;
    for look in 0..LOOKS {
        // The index first: what it promises must then be in the WAL, which only grows.
        let index = wal_index(&files.shm, booted_ns);
        let scan = match scan_wal(&files.wal, if look == 0 { mark.as_ref() } else { None }) {
            Ok(scan) => scan,
            // Cut while we read, by a checkpoint.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => continue,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(without(WalState::Absent, "it went away while it was read".to_owned()));
            }
            Err(error) => return Err(error),
        };
        // It was written, and no frame was added: then something that was verified has changed, perhaps not by SQLite.
        if look == 0 && touched && mark.is_some_and(|mark| mark.last_commit == scan.last_commit) {
            continue;
        }
        let mut result = judge(&scan, index);
        result.facts.reset_bug =
            result.index.as_ref().is_some_and(|index| shows_reset_bug_still(files, index, booted_ns));
        // A writer that fills the file anew overtakes the scan: then a frame of before stands between its own, and at the next
        // scan it is another. Damage stays where it is, also while frames are added behind it.
        let place = (scan.header, scan.first_bad, scan.last_commit);
        if result.facts.state != WalState::Damaged || seen == Some(place) {
            return Ok(result);
        }
        // A writer that begins the WAL anew while we read leaves us frames of two generations, and no damage.
        seen = is_still(&files.wal, &scan).then_some(place);
    }
    // No two scans agree: it is being written faster than it can be read, and nothing is proven.
    Ok(without(WalState::Sound, "it was written over while it was read".to_owned()))
}

/// A side file that could not even be asked about. Where its name is too long for the file system there is none: SQLite can
/// make no such file, and says so when it is opened.
fn unreadable(errno: i32, message: &str) -> io::Error {
    match errno {
        0 => io::Error::other(message.to_owned()),
        errno => io::Error::from_raw_os_error(errno),
    }
}

/// The header is of the generation that was scanned.
fn is_still(wal: &Looked, scan: &WalScan) -> bool {
    let WalHeaderState::Ok(header) = scan.header else { return true };
    let mut bytes = [0; format::wal::WAL_HEADER_LEN];
    let length = open_raw(wal).and_then(|file| read_up_to(&file, 0, &mut bytes)).unwrap_or(0);
    format::WalHeader::parse(&bytes[..length]).is_ok_and(|now| (now.salt1, now.salt2) == (header.salt1, header.salt2))
}

fn scan_wal(wal: &Looked, mark: Option<&format::WalMark>) -> io::Result<WalScan> {
    let file = open_raw(wal)?;
    let length = file.metadata()?.len();
    format::scan_wal(length, mark, |at, buffer| file.read_exact_at(buffer, at))
}

/// The head of the index, when SQLite could believe it.
pub(super) fn wal_index(shm: &Looked, booted_ns: i64) -> Option<WalIndex> {
    let facts = shm.state.file()?;
    believed_index(&open_raw(shm).ok()?, facts.mtime_ns, booted_ns)
}

/// A reset of the WAL writes the two fields one after the other: only what stays so is the trace of the bug.
fn shows_reset_bug_still(files: &Files, first: &WalIndex, booted_ns: i64) -> bool {
    if !first.shows_reset_bug() {
        return false;
    }
    std::thread::sleep(BETWEEN_SAMPLES);
    let same = |index: &WalIndex| (index.salt1, index.salt2) == (first.salt1, first.salt2) && index.shows_reset_bug();
    wal_index(&files.shm, booted_ns).as_ref().is_some_and(same)
}

fn judge(scan: &WalScan, index: Option<WalIndex>) -> RawWal {
    let index = index.filter(|index| match scan.header {
        WalHeaderState::Ok(header) => (header.salt1, header.salt2) == (index.salt1, index.salt2),
        WalHeaderState::Empty | WalHeaderState::Bad(_) => false,
    });
    let promised = index.map_or(0, |index| index.mx_frame);
    let (state, detail) = match &scan.header {
        WalHeaderState::Empty => (WalState::Absent, "it is empty".to_owned()),
        WalHeaderState::Bad(error) if scan.stranded_commits > 0 => {
            (WalState::Damaged, format!("{error}, and {} commits stand behind it", scan.stranded_commits))
        }
        WalHeaderState::Bad(
            error @ (WalHeaderError::Short(_) | WalHeaderError::AllZero | WalHeaderError::NewerVersion(_)),
        ) => (WalState::Unused, error.to_string()),
        // No healthy program leaves such a header, and SQLite would write over whatever is behind it.
        WalHeaderState::Bad(error) => (WalState::Damaged, error.to_string()),
        WalHeaderState::Ok(_) if scan.is_damaged() => {
            let frame = scan.first_bad.map_or(0, |(frame, _)| frame);
            let (frames, commits) = (scan.stranded_frames, scan.stranded_commits);
            (
                WalState::Damaged,
                format!("frame {frame} is damaged; {frames} frames with {commits} commits stand behind it"),
            )
        }
        WalHeaderState::Ok(_) if promised > scan.last_commit => {
            let last = scan.last_commit;
            (WalState::Damaged, format!("its index promises {promised} frames, and only {last} verify"))
        }
        WalHeaderState::Ok(_) if scan.frames_valid == 0 => (WalState::Unused, "no frame is valid".to_owned()),
        WalHeaderState::Ok(_) => {
            let (frames, commit) = (scan.frames_valid, scan.last_commit);
            (WalState::Sound, format!("{frames} frames, the last commit at frame {commit}"))
        }
    };
    let facts = WalFacts {
        state,
        detail,
        mark: scan.mark.as_ref().map(from_format),
        whole: scan.frames_trusted == 0,
        stranded_commits: scan.stranded_commits,
        index_max_frame: index.map(|index| index.mx_frame),
        index_backfill: index.map(|index| index.backfilled),
        checkpointing: false,
        held_back_by: Vec::new(),
        reset_bug: false,
    };
    RawWal { facts, index }
}

fn to_format(mark: &WalMark) -> format::WalMark {
    format::WalMark {
        salt1: mark.salt[0],
        salt2: mark.salt[1],
        page_size: mark.page_size,
        frames_valid: mark.frames,
        last_commit: mark.last_commit,
        checksum: mark.checksum,
        big_endian: mark.big_endian,
        database_pages: mark.database_pages,
    }
}

fn from_format(mark: &format::WalMark) -> WalMark {
    WalMark {
        salt: [mark.salt1, mark.salt2],
        page_size: mark.page_size,
        big_endian: mark.big_endian,
        frames: mark.frames_valid,
        last_commit: mark.last_commit,
        checksum: mark.checksum,
        database_pages: mark.database_pages,
    }
}

/// Scans the rollback journal and tells a living writer's from one that was left behind. `dotfile`: a lock entry of the
/// dotfile VFS is there, whose programs take no other locks.
pub(super) fn journal(files: &Files, page_size: Option<u32>, dotfile: bool) -> io::Result<JournalFacts> {
    let facts =
        |state, detail: &str| Ok(JournalFacts { state, detail: detail.to_owned(), nonce: None, outlived_one: false });
    for _ in 0..LOOKS {
        let journal = files.journal.again();
        let at_rest = |detail: &str| {
            let outlived_one = has_outlived_one(&files.main, &journal);
            Ok(JournalFacts { state: JournalState::Absent, detail: detail.to_owned(), nonce: None, outlived_one })
        };
        let scan = match &journal.state {
            FileState::Missing => return facts(JournalState::Absent, "there is none"),
            FileState::File(file) if file.size == 0 => return at_rest("it is empty"),
            FileState::File(_) => match scan_journal(&journal, page_size) {
                Ok(scan) => scan,
                // Deleted or cut by its writer's commit while we read.
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) => {
                    continue;
                }
                Err(error) => return Err(error),
            },
            FileState::Symlink { .. } => return facts(JournalState::NotAFile, "it is a symbolic link"),
            FileState::Other { what } => return facts(JournalState::NotAFile, &format!("it is {what}")),
            FileState::Unreadable { errno, message } => return Err(unreadable(*errno, message)),
        };
        if !scan.may_be_hot() {
            return at_rest("it is at rest");
        }
        let in_use = |detail: &str| {
            let nonce = match scan.state {
                format::JournalState::Valid(header) => Some(header.nonce),
                _ => None,
            };
            Ok(JournalFacts { state: JournalState::InUse, detail: detail.to_owned(), nonce, outlived_one: false })
        };
        if dotfile {
            return in_use("a program of the dotfile VFS has the database locked");
        }
        if is_reserved(&files.main)? {
            return in_use("a transaction is under way");
        }
        // The same before and after, and in between nobody held RESERVED: nobody's but a dead writer's.
        if journal.is_still_so() {
            let (have, promised) = (scan.records_valid, scan.records_promised);
            return match (scan.is_sound(), scan.first_bad) {
                (true, _) => {
                    facts(JournalState::Hot, &format!("left by a writer that died; all {promised} records verify"))
                }
                (false, Some(bad)) => {
                    let detail = format!(
                        "left by a writer that died; record {bad} of {promised} is damaged or missing ({have} verify)"
                    );
                    facts(JournalState::Damaged, &detail)
                }
                (false, None) => facts(JournalState::Damaged, "left by a writer that died; its header is damaged"),
            };
        }
    }
    facts(JournalState::InUse, "it changed whenever it was looked at")
}

/// The main file was written after the journal was made. Within one tick of the clock it cannot be told: then not.
fn has_outlived_one(main: &Looked, journal: &Looked) -> bool {
    let written = host::FileFacts::of_path(&main.path, false).ok().map(|facts| facts.mtime_ns);
    written.zip(host::FileFacts::born_ns(&journal.path)).is_some_and(|(written, born)| written > born)
}

fn scan_journal(journal: &Looked, page_size: Option<u32>) -> io::Result<JournalScan> {
    let file = open_raw(journal)?;
    let length = file.metadata()?.len();
    format::scan_journal(length, page_size, |at, buffer| file.read_exact_at(buffer, at))
}

/// Whether a writer lives: it holds RESERVED as long as its journal is its own. Asked of the kernel, not of /proc/locks, which
/// does not show a writer in another PID namespace.
fn is_reserved(main: &Looked) -> io::Result<bool> {
    let file = open_raw(main)?;
    let held = ask_lock(&file, SqliteLock::Reserved.bytes(), LockMode::Write).map_err(io::Error::other)?;
    Ok(held.is_some())
}
