//! What can be read of a damaged WAL beyond SQLite's own reading, and how surely.
//!
//! SQLite's sum is no secret and no hash: each step is linear and can be taken back. So of a frame `k` that fails, three
//! witnesses say what the sum behind it was: what its own bytes come to, what its header says, and what frame `k+1` must
//! have gone on from. Where two of them agree on 64 bits, the third is what was hurt:
//!
//! | what agrees | what was hurt | what is lost |
//! | --- | --- | --- |
//! | all, but for the salts | the salts field | nothing |
//! | the bytes and frame `k+1` | the sum's field, or all behind the page number | nothing |
//! | a page number and size in bounds that lead from the sum before to the one behind | those two fields | nothing |
//! | one byte of the page that, changed, leads there | that byte | nothing, unless more than one explains it |
//! | the header and frame `k+1` | the page: garbage, and never put back | that version of that page |
//!
//! Two or more frames in a row that fail are a gap, and the chain goes on behind it at the first frame whose sum the next one
//! confirms. A bad header is no loss either: the sum that frame 1 went on from is known from frame 1 itself, and of the
//! header's fields only the checkpoint number is unknown, which that sum tells.
//!
//! Frames of another generation (other salts) are never taken: they were checkpointed, and are older than the main file. Nor
//! is what may be an abandoned end of this one: after a power cut SQLite goes on behind the last commit that verifies, over
//! what was there, and what it has not yet written over looks like commits behind a hurt page. So a page that is hurt right
//! behind a commit ends the reading, unless a WAL index vouches for the frames behind.

mod reading;
mod sums;
#[cfg(test)]
mod tests;
mod variants;
mod walk;

pub use variants::{KeptFrame, WalVariant};

use super::wal::{FRAME_HEADER_LEN, WAL_HEADER_LEN, WalHeader, checksum, encode_frame, frame_len};
use super::window::Window;

/// What is known from elsewhere, to read a WAL whose header tells nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WalHints {
    /// The main file's page size.
    pub page_size: Option<u32>,
    /// What a believable WAL index says: the generation, and how many of its frames are committed.
    pub index: Option<((u32, u32), u32)>,
    /// Pages in the main file.
    pub database_pages: u32,
}

/// How a frame is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameState {
    /// As SQLite wrote it.
    Sound,
    /// A field of its header was hurt; its page was not.
    FieldHurt,
    /// One byte of its page was hurt, and is known.
    ByteHurt,
    /// Its page is hurt.
    PageHurt,
    /// As it should be, as far as it can be told: behind a gap, or with one bit wrong that cannot be told for certain.
    Unproven,
    /// Not even its page number is known.
    Lost,
}

impl FrameState {
    /// True where the page is proven to be what SQLite wrote.
    pub fn is_proven(self) -> bool {
        matches!(self, FrameState::Sound | FrameState::FieldHurt | FrameState::ByteHurt)
    }
}

/// A byte to put right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patch {
    /// From the page's beginning.
    pub at: u32,
    /// What stood there.
    pub value: u8,
}

/// A frame of the present generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MendedFrame {
    /// Where its page begins in the file.
    pub page_at: u64,
    /// The page number, put right where it was hurt.
    pub page: u32,
    /// Database pages after this commit, or 0; put right where it was hurt.
    pub commit_pages: u32,
    /// How it is known.
    pub state: FrameState,
    /// What to put right in its page.
    pub patch: Option<Patch>,
}

/// A WAL with all that can be told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MendedWal {
    /// As it is, or as it must have been.
    pub header: WalHeader,
    /// The header in the file is not it.
    pub header_hurt: bool,
    /// Up to the last commit that can be read.
    pub frames: Vec<MendedFrame>,
    /// Commits of this generation that seem to stand behind them, and are left alone.
    pub commits_left_alone: usize,
    /// Frames that a believable WAL index says are committed.
    pub promised: usize,
    /// How many of them SQLite reads.
    pub readable: usize,
}

impl MendedWal {
    /// True when there is more in it than SQLite reads.
    pub fn is_worth_mending(&self) -> bool {
        self.frames.len() > self.readable
    }
}

/// Reads a WAL of `file_len` bytes through `read`, which fills a buffer from an offset. `None` when nothing can be made of it.
///
/// # Errors
/// Whatever `read` gives; damage is a result, not an error.
pub fn mend_wal<E>(
    file_len: u64,
    hints: &WalHints,
    read: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
) -> Result<Option<MendedWal>, E> {
    let mut window = Window::new(file_len, read);
    let Some(found) = reading::read(&mut window, hints)? else { return Ok(None) };
    walk::walk(&mut window, &found, hints).map(Some)
}

/// Writes a WAL anew: one header, then frames, each with the sum that goes on from the one before it.
#[derive(Debug)]
pub struct Resum {
    header: WalHeader,
    sum: [u32; 2],
}

impl Resum {
    /// A WAL of this page size, byte order and generation, and its first bytes.
    pub fn new(header: &WalHeader) -> (Resum, [u8; WAL_HEADER_LEN]) {
        let bytes = header.encode();
        let sum = checksum(&bytes[..24], [0, 0], header.big_endian);
        (Resum { header: *header, sum }, bytes)
    }

    /// The header of the next frame, which holds `page`.
    pub fn frame(&mut self, number: u32, commit_pages: u32, page: &[u8]) -> [u8; FRAME_HEADER_LEN] {
        let mut bytes = encode_frame(number, commit_pages, (self.header.salt1, self.header.salt2));
        self.sum = checksum(&bytes[..8], self.sum, self.header.big_endian);
        self.sum = checksum(page, self.sum, self.header.big_endian);
        bytes[16..20].copy_from_slice(&self.sum[0].to_be_bytes());
        bytes[20..24].copy_from_slice(&self.sum[1].to_be_bytes());
        bytes
    }
}

/// Where the page of the frame at `index`, counted from 0, begins.
fn page_at(page_size: u32, index: usize) -> u64 {
    WAL_HEADER_LEN as u64 + index as u64 * frame_len(page_size) as u64 + FRAME_HEADER_LEN as u64
}
