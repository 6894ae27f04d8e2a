//! The head of a `-shm` file: what the processes that use a WAL tell each other.
//!
//! ```text
//!  0 version  4 unused  8 change  12 is-init  13 big-endian sums  14 page size (2)  16 mxFrame  20 nPage
//! 24 frame sum (8)  32 salts (8)  40 own sum (8)     48 the same again
//! 96 nBackfill  100 aReadMark[5]  120 lock bytes (8)  128 nBackfillAttempted
//! ```
//! In the machine's byte order, but the salts, which are the WAL header's bytes as they are. `WalIndexHdr` and
//! `WalCkptInfo` in `wal.c`. Read from a file that others map and change: a moment's disagreement is normal.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::bytes::{be32, ne16, ne32};
use super::wal::checksum;

/// Bytes that [`WalIndex::parse`] needs.
pub const WAL_INDEX_HEAD_LEN: usize = 136;
const COPY_LEN: usize = 48;
/// A read mark that nobody uses.
pub const READ_MARK_UNUSED: u32 = 0xffff_ffff;

/// The head of a WAL index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalIndex {
    /// Both copies of the header are equal. When not: a writer is in the middle of it, died there, or it is damaged.
    pub copies_agree: bool,
    /// The first copy matches its own sum.
    pub checksum_ok: bool,
    /// SQLite has written it; readers recover it from the WAL when not.
    pub is_init: bool,
    /// 3007000.
    pub version: u32,
    /// Bytes per page.
    pub page_size: u32,
    /// The last frame that is committed.
    pub mx_frame: u32,
    /// Pages in the database.
    pub pages: u32,
    /// The first salt of the WAL header.
    pub salt1: u32,
    /// The second salt of the WAL header.
    pub salt2: u32,
    /// Frames that are copied into the database.
    pub backfilled: u32,
    /// Frames that the last checkpoint set out to copy; more than `backfilled` while it is under way, or when it was cut off.
    pub attempted: u32,
    /// Frame up to which the reader at lock byte 123 + n reads; [`READ_MARK_UNUSED`] for none.
    pub read_marks: [u32; 5],
}

/// Why a `-shm` file tells nothing. Harmless: SQLite rebuilds it from the WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum WalIndexError {
    /// Too few bytes.
    #[error("the WAL index has {0} bytes, and its head has {WAL_INDEX_HEAD_LEN}")]
    TooShort(usize),
}

impl WalIndex {
    /// Reads the first 136 bytes of a `-shm` file.
    ///
    /// # Errors
    /// [`WalIndexError`] when there are fewer.
    pub fn parse(bytes: &[u8]) -> Result<WalIndex, WalIndexError> {
        let Some(head) = bytes.first_chunk::<WAL_INDEX_HEAD_LEN>() else {
            return Err(WalIndexError::TooShort(bytes.len()));
        };
        let field = |at| ne32(head, at).unwrap_or(0);
        let size = u32::from(ne16(head, 14).unwrap_or(0));
        Ok(WalIndex {
            copies_agree: head[..COPY_LEN] == head[COPY_LEN..2 * COPY_LEN],
            checksum_ok: checksum(&head[..40], [0, 0], cfg!(target_endian = "big")) == [field(40), field(44)],
            is_init: head[12] != 0,
            version: field(0),
            // 65,536 does not fit and is written as 1.
            page_size: (size & 0xfe00) | ((size & 1) << 16),
            mx_frame: field(16),
            pages: field(20),
            salt1: be32(head, 32).unwrap_or(0),
            salt2: be32(head, 36).unwrap_or(0),
            backfilled: field(96),
            attempted: field(128),
            read_marks: std::array::from_fn(|n| field(100 + 4 * n)),
        })
    }

    /// True when the head can be believed: initialised, copies equal, sum right.
    pub fn is_settled(&self) -> bool {
        self.is_init && self.copies_agree && self.checksum_ok
    }

    /// True when more frames are copied than there are: the trace of the WAL-reset bug (SQLite before 3.51.3). Act on it
    /// only when two samples say so, because a reset writes the two fields one after the other.
    pub fn shows_reset_bug(&self) -> bool {
        self.is_settled() && self.backfilled > self.mx_frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_by_sqlite_parses_and_agrees_with_its_wal() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.db");
        let db = rusqlite::Connection::open(&path).unwrap();
        db.execute_batch(
            "PRAGMA page_size=65536; PRAGMA journal_mode=wal; CREATE TABLE t(a); INSERT INTO t VALUES (1)",
        )
        .unwrap();
        // A copy, because closing a descriptor of the original would drop the connection's locks.
        let copy = super::super::wal_scan::tests::copy_in_child(&path, "-shm");
        let wal = super::super::wal_scan::tests::copy_in_child(&path, "-wal");
        let index = WalIndex::parse(&copy).unwrap();
        let header = super::super::WalHeader::parse(&wal).unwrap();
        assert!(index.is_settled() && !index.shows_reset_bug());
        assert_eq!((index.salt1, index.salt2), (header.salt1, header.salt2));
        assert_eq!((index.page_size, index.version), (65_536, 3_007_000));
        let (head, frame) = (super::super::wal::WAL_HEADER_LEN, 65_536 + super::super::wal::FRAME_HEADER_LEN);
        assert_eq!(index.mx_frame as usize, (wal.len() - head) / frame);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(0u8.., 0..300)) {
            let _ = WalIndex::parse(&bytes);
        }
    }
}
