//! A WAL's header, its frame headers and the sum that chains them.
//!
//! ```text
//! header (32): 0 magic   4 version 3007000   8 page size   12 checkpoint number   16 salt1 20 salt2   24 sum (8)
//! frame (24 + page): 0 page number   4 pages after commit, or 0   8 salt1 12 salt2   16 sum (8)   24 page
//! ```
//! Big-endian, but the words that are summed are in the order that the magic's lowest bit names.
//! <https://sqlite.org/walformat.html>, `walDecodeFrame` and `walIndexRecover` in `wal.c`.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::bytes::{be32, is_page_size};

/// Bytes of a WAL's header.
pub const WAL_HEADER_LEN: usize = 32;
/// Bytes of a frame's header.
pub const FRAME_HEADER_LEN: usize = 24;
pub(super) const MAGIC: u32 = 0x377f_0682;
pub(super) const VERSION: u32 = 3_007_000;

/// A WAL header that SQLite would accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalHeader {
    /// Sums are over big-endian words.
    pub big_endian: bool,
    /// Bytes per page.
    pub page_size: u32,
    /// Incremented with each reset of the WAL.
    pub checkpoint: u32,
    /// Incremented with each reset; every frame of this generation repeats it.
    pub salt1: u32,
    /// Random with each reset.
    pub salt2: u32,
    /// The sum over the header, from which frame 1 goes on.
    pub checksum: [u32; 2],
}

/// Why SQLite would take a WAL as empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum WalHeaderError {
    /// Shorter than a header.
    #[error("the WAL header is cut short at {0} bytes")]
    Short(usize),
    /// Zeroed.
    #[error("the WAL header is all zeros")]
    AllZero,
    /// Neither of the two magic numbers.
    #[error("the WAL begins with {0:#010x}, which is no WAL's magic number")]
    NotMagic(u32),
    /// Not a power of two from 512 to 65,536.
    #[error("the WAL's page size field holds {0}, which is no page size")]
    BadPageSize(u32),
    /// The sum does not match.
    #[error("the WAL header fails its checksum")]
    BadChecksum,
    /// The sum matches, and the version is not ours: SQLite answers CANTOPEN.
    #[error("the WAL has format version {0}, and SQLite knows {VERSION}")]
    NewerVersion(u32),
}

impl WalHeader {
    /// Parses the first bytes of a `-wal` file.
    ///
    /// # Errors
    /// [`WalHeaderError`], in SQLite's order.
    pub fn parse(bytes: &[u8]) -> Result<WalHeader, WalHeaderError> {
        let Some(head) = bytes.first_chunk::<WAL_HEADER_LEN>() else {
            return Err(WalHeaderError::Short(bytes.len()));
        };
        if head.iter().all(|byte| *byte == 0) {
            return Err(WalHeaderError::AllZero);
        }
        let field = |at| be32(head, at).unwrap_or(0);
        let (magic, page_size) = (field(0), field(8));
        if magic & !1 != MAGIC {
            return Err(WalHeaderError::NotMagic(magic));
        }
        if !is_page_size(page_size) {
            return Err(WalHeaderError::BadPageSize(page_size));
        }
        let big_endian = magic & 1 == 1;
        let checksum = checksum(&head[..24], [0, 0], big_endian);
        if checksum != [field(24), field(28)] {
            return Err(WalHeaderError::BadChecksum);
        }
        if field(4) != VERSION {
            return Err(WalHeaderError::NewerVersion(field(4)));
        }
        Ok(WalHeader { big_endian, page_size, checkpoint: field(12), salt1: field(16), salt2: field(20), checksum })
    }

    /// The header as it is written, with its sum as it must be.
    pub fn encode(&self) -> [u8; WAL_HEADER_LEN] {
        let mut bytes = [0; WAL_HEADER_LEN];
        let magic = MAGIC | u32::from(self.big_endian);
        let fields = [magic, VERSION, self.page_size, self.checkpoint, self.salt1, self.salt2];
        for (into, field) in bytes.chunks_exact_mut(4).zip(fields) {
            into.copy_from_slice(&field.to_be_bytes());
        }
        let [first, second] = checksum(&bytes[..24], [0, 0], self.big_endian);
        bytes[24..28].copy_from_slice(&first.to_be_bytes());
        bytes[28..].copy_from_slice(&second.to_be_bytes());
        bytes
    }

    /// The same, with its sum as it must be.
    pub(super) fn summed(self) -> WalHeader {
        let checksum = checksum(&self.encode()[..24], [0, 0], self.big_endian);
        WalHeader { checksum, ..self }
    }
}

/// A frame's header, as it stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// The page that the frame holds; 0 in no valid frame.
    pub page: u32,
    /// Database pages after this commit; 0 in a frame that commits nothing.
    pub commit_pages: u32,
    /// The generation's first salt.
    pub salt1: u32,
    /// The generation's second salt.
    pub salt2: u32,
    /// The sum over all before it, its own first eight bytes and its page.
    pub checksum: [u32; 2],
}

impl FrameHeader {
    /// Reads the first 24 bytes; `None` when there are fewer.
    pub fn parse(bytes: &[u8]) -> Option<FrameHeader> {
        let head = bytes.first_chunk::<FRAME_HEADER_LEN>()?;
        let field = |at| be32(head, at);
        Some(FrameHeader {
            page: field(0)?,
            commit_pages: field(4)?,
            salt1: field(8)?,
            salt2: field(12)?,
            checksum: [field(16)?, field(20)?],
        })
    }

    /// True for a frame that ends a transaction.
    pub fn is_commit(&self) -> bool {
        self.commit_pages != 0
    }
}

/// A frame's header without its sum.
pub(super) fn encode_frame(page: u32, commit_pages: u32, (salt1, salt2): (u32, u32)) -> [u8; FRAME_HEADER_LEN] {
    let mut bytes = [0; FRAME_HEADER_LEN];
    for (into, field) in bytes.chunks_exact_mut(4).zip([page, commit_pages, salt1, salt2]) {
        into.copy_from_slice(&field.to_be_bytes());
    }
    bytes
}

/// Bytes of a frame: its header and a page.
pub(super) fn frame_len(page_size: u32) -> usize {
    FRAME_HEADER_LEN + page_size as usize
}

/// The WAL's running sum over `bytes`, going on from `seed`. A last part of fewer than eight bytes is not summed:
/// headers and pages have none.
pub fn checksum(bytes: &[u8], seed: [u32; 2], big_endian: bool) -> [u32; 2] {
    if big_endian { sum(bytes, seed, u32::from_be_bytes) } else { sum(bytes, seed, u32::from_le_bytes) }
}

/// Lanes of a long sum: the sum is one chain of additions, each waiting for the one before it, and several chains at once
/// keep the processor busy. A WAL of hundreds of megabytes is summed before it is checkpointed.
const LANES: usize = 4;

#[inline]
fn sum(bytes: &[u8], seed: [u32; 2], word: impl Fn([u8; 4]) -> u32 + Copy) -> [u32; 2] {
    if bytes.len() < 64 * LANES || !bytes.len().is_multiple_of(8 * LANES) {
        return sum_in_order(bytes, seed, word);
    }
    let lane = bytes.len() / LANES;
    let mut sums = [[0_u32; 2]; LANES];
    let [first, second, third, fourth] = [0, 1, 2, 3].map(|at| bytes[at * lane..(at + 1) * lane].chunks_exact(8));
    for (((a, b), c), d) in first.zip(second).zip(third).zip(fourth) {
        for (sum, pair) in sums.iter_mut().zip([a, b, c, d]) {
            *sum = step(*sum, pair, word);
        }
    }
    // A step is linear: what a lane starts from is only multiplied by the step's matrix, once for each pair of words.
    let over = steps(lane / 8);
    sums.into_iter().fold(seed, |[s1, s2], [own1, own2]| {
        let row = |[a, b]: [u32; 2]| a.wrapping_mul(s1).wrapping_add(b.wrapping_mul(s2));
        [row(over[0]).wrapping_add(own1), row(over[1]).wrapping_add(own2)]
    })
}

#[inline]
fn sum_in_order(bytes: &[u8], seed: [u32; 2], word: impl Fn([u8; 4]) -> u32 + Copy) -> [u32; 2] {
    bytes.chunks_exact(8).fold(seed, |sum, pair| step(sum, pair, word))
}

#[inline]
fn step([s1, s2]: [u32; 2], pair: &[u8], word: impl Fn([u8; 4]) -> u32) -> [u32; 2] {
    let s1 = s1.wrapping_add(s2).wrapping_add(word([pair[0], pair[1], pair[2], pair[3]]));
    [s1, s2.wrapping_add(s1).wrapping_add(word([pair[4], pair[5], pair[6], pair[7]]))]
}

/// What `count` steps over zeros do to a sum: the matrix ((1, 1), (1, 2)) to that power.
pub(super) fn steps(mut count: usize) -> [[u32; 2]; 2] {
    let times = |a: [[u32; 2]; 2], b: [[u32; 2]; 2]| {
        a.map(|[x, y]| [0, 1].map(|at| x.wrapping_mul(b[0][at]).wrapping_add(y.wrapping_mul(b[1][at]))))
    };
    let (mut power, mut square) = ([[1, 0], [0, 1]], [[1, 1], [1, 2]]);
    while count > 0 {
        if count & 1 == 1 {
            power = times(power, square);
        }
        square = times(square, square);
        count >>= 1;
    }
    power
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header of either byte order, valid.
    fn header(big_endian: bool) -> Vec<u8> {
        let mut head = Vec::new();
        for field in [MAGIC | u32::from(big_endian), VERSION, 4096, 0, 11, 22] {
            head.extend(field.to_be_bytes());
        }
        let [s1, s2] = checksum(&head, [0, 0], big_endian);
        head.extend(s1.to_be_bytes());
        head.extend(s2.to_be_bytes());
        head
    }

    #[test]
    fn a_sum_in_lanes_is_the_sum_in_order() {
        let bytes: Vec<u8> = (0..65_536_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for len in [0, 8, 24, 248, 256, 264, 288, 512, 4096, 65_536] {
            for seed in [[0, 0], [1, 0], [0xdead_beef, 0x8000_0001]] {
                let (little, big) = (u32::from_le_bytes, u32::from_be_bytes);
                let in_order = [sum_in_order(&bytes[..len], seed, little), sum_in_order(&bytes[..len], seed, big)];
                let in_lanes = [checksum(&bytes[..len], seed, false), checksum(&bytes[..len], seed, true)];
                assert_eq!(in_lanes, in_order, "{len} bytes from {seed:?}");
            }
        }
    }

    #[test]
    fn both_byte_orders_are_read() {
        for big_endian in [false, true] {
            let parsed = WalHeader::parse(&header(big_endian)).unwrap();
            assert_eq!((parsed.big_endian, parsed.salt1, parsed.salt2), (big_endian, 11, 22));
        }
    }

    #[test]
    fn every_reason_to_ignore_a_wal_is_named() {
        let broken = |at: usize, value: u8| {
            let mut head = header(false);
            head[at] = value;
            WalHeader::parse(&head).unwrap_err()
        };
        assert_eq!(WalHeader::parse(&[1; 31]), Err(WalHeaderError::Short(31)));
        assert_eq!(WalHeader::parse(&[0; 32]), Err(WalHeaderError::AllZero));
        assert_eq!(broken(0, 0), WalHeaderError::NotMagic(0x007f_0682));
        assert_eq!(broken(11, 1), WalHeaderError::BadPageSize(4097));
        assert_eq!(broken(17, 9), WalHeaderError::BadChecksum);
        assert_eq!(broken(7, 9), WalHeaderError::BadChecksum);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(0u8.., 0..100)) {
            let _ = WalHeader::parse(&bytes);
            let _ = FrameHeader::parse(&bytes);
            checksum(&bytes, [1, 2], true);
        }
    }
}
