//! Walks a WAL as SQLite's recovery does, and looks at what recovery hides: commits behind the first bad frame.
//!
//! SQLite takes the chain of sums up to the first frame that fails, and silently drops the rest. Most often that is
//! right: the rest is an older generation (other salts), or what a rolled-back transaction spilled (same salts, but
//! no commit frame). A same-salt *commit* frame behind a bad one is a commit that was made and is now hidden.
//!
//! Two things look alike and deserve a second look before anything is replaced: a writer that was resetting the WAL
//! while the bytes were read (scan again: it has gone on), and a process killed between writing a commit's frames and
//! re-summing them (`walRewriteChecksums`: one commit, never acknowledged).

use serde::{Deserialize, Serialize};

use super::WalIndex;
use super::wal::{FRAME_HEADER_LEN, FrameHeader, WAL_HEADER_LEN, WalHeader, WalHeaderError, checksum, frame_len};
use super::wal_blind::Blind;
use super::window::Window;

/// Where a later scan of the same generation goes on: its last commit, because what lies behind a commit may be
/// rolled back and written anew, and what lies before it never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalMark {
    /// The generation's first salt.
    pub salt1: u32,
    /// The generation's second salt.
    pub salt2: u32,
    /// Bytes per page.
    pub page_size: u32,
    /// Frames whose sums were right, `last_commit` or more. For people; a scan goes on from `last_commit`.
    pub frames_valid: u32,
    /// The last frame that committed; 0 for none.
    pub last_commit: u32,
    /// The running sum after frame `last_commit`.
    pub checksum: [u32; 2],
    /// Sums are over big-endian words.
    pub big_endian: bool,
    /// Pages in the database after frame `last_commit`; 0 before the first commit.
    pub database_pages: u32,
}

/// What a WAL's header is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WalHeaderState {
    /// No bytes at all: what a TRUNCATE checkpoint leaves.
    Empty,
    /// Valid.
    Ok(WalHeader),
    /// SQLite ignores the whole file.
    Bad(WalHeaderError),
}

/// Why a frame ends the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BadFrame {
    /// Another generation's: the usual end of a WAL that was reset.
    Salt,
    /// Page number 0.
    PageZero,
    /// The sum does not go on from the frame before it.
    Checksum,
}

/// What a scan found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalScan {
    /// The header.
    pub header: WalHeaderState,
    /// Frames from the beginning whose sums are right.
    pub frames_valid: u32,
    /// The last of them that committed: SQLite's `mxFrame` after recovery.
    pub last_commit: u32,
    /// Pages in the database after it.
    pub database_pages: u32,
    /// The first bad frame, counted from 1, and why it is bad.
    pub first_bad: Option<(u32, BadFrame)>,
    /// The first bad frame has this generation's salts and says that it commits: with nothing behind it, a torn last
    /// commit and a damaged one look the same.
    pub bad_frame_commits: bool,
    /// Frames of this generation behind the first bad one (behind a bad header: all that belong together).
    pub stranded_frames: u32,
    /// Those of them that are commits.
    pub stranded_commits: u32,
    /// Bytes of a last, incomplete frame: a write that was cut, never a commit.
    pub torn_tail: u32,
    /// Where to go on; `None` without a valid header.
    pub mark: Option<WalMark>,
    /// Frames that were not read, because the mark of an earlier scan stands for them.
    pub frames_trusted: u32,
}

impl WalScan {
    /// True when it is proven that commits are in the file which SQLite no longer sees.
    pub fn is_damaged(&self) -> bool {
        self.stranded_commits > 0
    }

    /// True for a file that a healthy program, or one that was killed, leaves. Neither damaged nor sound is a
    /// header that is broken with nothing provable behind it.
    pub fn is_sound(&self) -> bool {
        let header_sound = match self.header {
            WalHeaderState::Empty | WalHeaderState::Ok(_) => true,
            // A crash can cut the file short of its header, or leave a preallocated one zeroed.
            WalHeaderState::Bad(WalHeaderError::Short(_) | WalHeaderError::AllZero) => true,
            WalHeaderState::Bad(_) => false,
        };
        header_sound && !self.is_damaged()
    }

    /// Committed frames that the WAL index knows and the file has no more: the one trace that a WAL leaves which was
    /// cut, because a cut between two frames looks like an end. Read the index *before* the WAL, which then is at least
    /// as new. 0 where the index is of another generation or unsettled.
    pub fn missing_frames(&self, index: &WalIndex) -> u32 {
        match self.header {
            WalHeaderState::Ok(header)
                if index.is_settled() && (header.salt1, header.salt2) == (index.salt1, index.salt2) =>
            {
                index.mx_frame.saturating_sub(self.last_commit)
            }
            _ => 0,
        }
    }
}

/// Scans a WAL of `file_len` bytes through `read`, which fills a buffer from an offset. With a mark of an earlier scan
/// it goes on from there when the header still has the mark's salts; frames before the mark are then not read again.
///
/// # Errors
/// Whatever `read` gives; damage is a result, not an error.
pub fn scan_wal<E>(
    file_len: u64,
    mark: Option<&WalMark>,
    read: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
) -> Result<WalScan, E> {
    let mut window = Window::new(file_len, read);
    let mut scanner = WalScanner::new();
    if let Some(mark) = mark
        && let Some(head) = window.get(0, WAL_HEADER_LEN)?
    {
        scanner = WalScanner::resume(mark, head, file_len);
    }
    while scanner.offset() < file_len {
        let run = window.run(scanner.offset())?;
        if run.is_empty() {
            break;
        }
        scanner.feed(run);
    }
    Ok(scanner.finish())
}

/// The scan as a machine that is fed: bytes in order from [`WalScanner::offset`], in chunks of any size.
#[derive(Debug)]
pub struct WalScanner {
    offset: u64,
    /// The beginning of a frame (or header) whose rest has not come yet: 65,560 bytes at most.
    pending: Vec<u8>,
    state: State,
    scan: WalScan,
}

#[derive(Debug)]
enum State {
    Header,
    Frames(Chain),
    Blind(Blind),
}

#[derive(Debug)]
struct Chain {
    header: WalHeader,
    frames_seen: u32,
    sum: [u32; 2],
    mark: WalMark,
}

impl Default for WalScanner {
    fn default() -> WalScanner {
        WalScanner::new()
    }
}

impl WalScanner {
    /// A scan from the first byte.
    pub fn new() -> WalScanner {
        let scan = WalScan {
            header: WalHeaderState::Empty,
            frames_valid: 0,
            last_commit: 0,
            database_pages: 0,
            first_bad: None,
            bad_frame_commits: false,
            stranded_frames: 0,
            stranded_commits: 0,
            torn_tail: 0,
            mark: None,
            frames_trusted: 0,
        };
        WalScanner { offset: 0, pending: Vec::new(), state: State::Header, scan }
    }

    /// A scan that goes on from `mark` when `head`, the file's first 32 bytes *as they are now*, is of the mark's
    /// generation and the file still reaches it; else one from the first byte.
    pub fn resume(mark: &WalMark, head: &[u8], file_len: u64) -> WalScanner {
        let mut scanner = WalScanner::new();
        let Ok(header) = WalHeader::parse(head) else {
            return scanner;
        };
        let same = (header.salt1, header.salt2, header.page_size, header.big_endian)
            == (mark.salt1, mark.salt2, mark.page_size, mark.big_endian);
        let offset = WAL_HEADER_LEN as u64 + u64::from(mark.last_commit) * frame_len(mark.page_size) as u64;
        if !same || offset > file_len {
            return scanner;
        }
        scanner.begin(header);
        if let State::Frames(chain) = &mut scanner.state {
            chain.frames_seen = mark.last_commit;
            chain.sum = mark.checksum;
            chain.mark = *mark;
        }
        scanner.offset = offset;
        scanner.scan.frames_valid = mark.last_commit;
        scanner.scan.frames_trusted = mark.last_commit;
        scanner.scan.last_commit = mark.last_commit;
        scanner.scan.database_pages = mark.database_pages;
        scanner
    }

    /// The file offset of the next byte to feed.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Takes the next bytes.
    pub fn feed(&mut self, mut chunk: &[u8]) {
        while !chunk.is_empty() {
            let need = match &mut self.state {
                State::Header => WAL_HEADER_LEN,
                State::Frames(chain) => frame_len(chain.header.page_size),
                State::Blind(blind) => {
                    blind.feed(self.offset, chunk);
                    self.offset += chunk.len() as u64;
                    return;
                }
            };
            if self.pending.is_empty() && chunk.len() >= need {
                let (unit, rest) = chunk.split_at(need);
                self.take(unit);
                self.offset += need as u64;
                chunk = rest;
                continue;
            }
            let (part, rest) = chunk.split_at(chunk.len().min(need - self.pending.len()));
            self.pending.extend_from_slice(part);
            self.offset += part.len() as u64;
            chunk = rest;
            if self.pending.len() == need {
                let unit = std::mem::take(&mut self.pending);
                self.take(&unit);
            }
        }
    }

    /// The end of the file was reached.
    pub fn finish(mut self) -> WalScan {
        match self.state {
            State::Header if self.pending.is_empty() => {}
            State::Header => self.scan.header = WalHeaderState::Bad(WalHeaderError::Short(self.pending.len())),
            State::Frames(mut chain) => {
                self.scan.torn_tail = u32::try_from(self.pending.len()).unwrap_or(u32::MAX);
                chain.mark.frames_valid = self.scan.frames_valid;
                self.scan.mark = Some(chain.mark);
            }
            State::Blind(blind) => (self.scan.stranded_frames, self.scan.stranded_commits) = blind.best(self.offset),
        }
        self.scan
    }

    fn take(&mut self, unit: &[u8]) {
        match &mut self.state {
            State::Header => match WalHeader::parse(unit) {
                Ok(header) => self.begin(header),
                Err(error) => {
                    self.scan.header = WalHeaderState::Bad(error);
                    self.state = State::Blind(Blind::new());
                }
            },
            State::Frames(chain) => chain.take(unit, &mut self.scan),
            State::Blind(_) => {}
        }
    }

    fn begin(&mut self, header: WalHeader) {
        self.scan.header = WalHeaderState::Ok(header);
        let mark = WalMark {
            salt1: header.salt1,
            salt2: header.salt2,
            page_size: header.page_size,
            frames_valid: 0,
            last_commit: 0,
            checksum: header.checksum,
            big_endian: header.big_endian,
            database_pages: 0,
        };
        self.state = State::Frames(Chain { header, frames_seen: 0, sum: header.checksum, mark });
    }
}

impl Chain {
    fn take(&mut self, unit: &[u8], scan: &mut WalScan) {
        self.frames_seen = self.frames_seen.saturating_add(1);
        let Some(frame) = FrameHeader::parse(unit) else {
            return;
        };
        let same_salts = (frame.salt1, frame.salt2) == (self.header.salt1, self.header.salt2);
        if scan.first_bad.is_some() {
            if same_salts && frame.page != 0 {
                scan.stranded_frames += 1;
                scan.stranded_commits += u32::from(frame.is_commit());
            }
            return;
        }
        match self.judge(unit, &frame, same_salts) {
            Ok(sum) => {
                self.sum = sum;
                scan.frames_valid = self.frames_seen;
                if frame.is_commit() {
                    scan.last_commit = self.frames_seen;
                    scan.database_pages = frame.commit_pages;
                    self.mark.last_commit = self.frames_seen;
                    self.mark.checksum = sum;
                    self.mark.database_pages = frame.commit_pages;
                }
            }
            Err(why) => {
                scan.first_bad = Some((self.frames_seen, why));
                scan.bad_frame_commits = same_salts && frame.is_commit();
            }
        }
    }

    /// SQLite's `walDecodeFrame`: the sum after a valid frame.
    fn judge(&self, unit: &[u8], frame: &FrameHeader, same_salts: bool) -> Result<[u32; 2], BadFrame> {
        if !same_salts {
            return Err(BadFrame::Salt);
        }
        if frame.page == 0 {
            return Err(BadFrame::PageZero);
        }
        let (head, page) = unit.split_at(FRAME_HEADER_LEN.min(unit.len()));
        let sum = checksum(&head[..8.min(head.len())], self.sum, self.header.big_endian);
        let sum = checksum(page, sum, self.header.big_endian);
        if sum == frame.checksum { Ok(sum) } else { Err(BadFrame::Checksum) }
    }
}

#[cfg(test)]
pub(super) mod tests;
