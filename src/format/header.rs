//! The first 100 bytes of a database file.
//!
//! ```text
//!  0 magic (16)        16 page size (2)     18 write version   19 read version   20 reserved per page
//! 21 fractions (3)     24 change counter    28 page count      32 freelist head  36 freelist pages
//! 40 schema cookie     44 schema format     48 cache size      52 auto-vacuum    56 encoding
//! 60 user_version      64 incremental vac.  68 application_id  72 reserved (20)
//! 92 version-valid-for 96 SQLite version of the last writer of page 1
//! ```
//! Big-endian; <https://sqlite.org/fileformat2.html#the_database_header>. What makes SQLite answer NOTADB is an error
//! here (`lockBtree` in `btree.c`); what it reads past is a field, for the caller to judge.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::bytes::{be16, be32, is_page_size};

/// The header's length.
pub const HEADER_LEN: usize = 100;
pub(super) const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// A header that SQLite would accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Bytes per page, 512 to 65,536.
    pub page_size: u32,
    /// 1 rollback journal, 2 WAL; higher: SQLite opens it read-only.
    pub write_version: u8,
    /// 1 rollback journal, 2 WAL.
    pub read_version: u8,
    /// Bytes at the end of each page that belong to an extension (encryption, checksums).
    pub reserved: u8,
    /// Incremented by each transaction in rollback mode.
    pub change_counter: u32,
    /// Pages, as the last writer counted; see [`Header::counted_pages`].
    pub page_count: u32,
    /// First freelist trunk page; 0 for none.
    pub freelist_head: u32,
    /// Pages on the freelist.
    pub freelist_count: u32,
    /// Incremented by each schema change.
    pub schema_cookie: u32,
    /// 1 to 4; 0 in a database without a schema.
    pub schema_format: u32,
    /// Largest root page when auto-vacuum or incremental vacuum is on, else 0.
    pub largest_root: u32,
    /// Text encoding.
    pub encoding: Encoding,
    /// `PRAGMA user_version`.
    pub user_version: i32,
    /// Incremental vacuum rather than full auto-vacuum.
    pub incremental_vacuum: bool,
    /// `PRAGMA application_id`.
    pub application_id: i32,
    /// The change counter when `page_count` was written.
    pub version_valid_for: u32,
    /// `SQLITE_VERSION_NUMBER` of the last writer of page 1, such as 3040001.
    pub sqlite_version: u32,
}

/// Text encoding of the whole database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Encoding {
    /// 1; also 0, in a database without a schema.
    Utf8,
    /// 2.
    Utf16Le,
    /// 3.
    Utf16Be,
    /// Anything else. SQLite uses the lowest two bits of it, so this is an oddity rather than an error.
    Odd(u32),
}

/// Why SQLite would answer "file is not a database".
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum HeaderError {
    /// Shorter than a header.
    #[error("the file has {0} bytes, and a database header has {HEADER_LEN}")]
    TooShort(usize),
    /// Zeroed.
    #[error("the header is all zeros")]
    AllZero,
    /// Another file, an encrypted one, or an overwritten header.
    #[error("the file does not begin with \"SQLite format 3\"")]
    NotMagic,
    /// Not a power of two from 512 to 65,536.
    #[error("the page size field holds {0}, which is no page size")]
    BadPageSize(u16),
    /// SQLite requires 64, 32, 32.
    #[error("the payload fractions are {0:?} instead of [64, 32, 32]")]
    BadFractions([u8; 3]),
    /// A newer format, or an overwritten byte.
    #[error("its read version is {0}, and SQLite knows none above 2")]
    NewerFormat(u8),
    /// Fewer than 480 usable bytes per page.
    #[error("{reserved} reserved bytes leave too little of a page of {page_size}")]
    BadReserved {
        /// Bytes per page.
        page_size: u32,
        /// The reserved field.
        reserved: u8,
    },
}

/// The write and the read version (bytes 18 and 19) of the first bytes of a file as they were before one of them was damaged:
/// SQLite writes them alike. `None` where neither or both are beyond what SQLite knows.
pub fn versions_put_right(head: &[u8]) -> Option<[u8; 2]> {
    match head.get(18..20) {
        Some([known @ (1 | 2), 3..=255] | [3..=255, known @ (1 | 2)]) => Some([*known; 2]),
        _ => None,
    }
}

/// The newest schema format that SQLite knows (`SQLITE_MAX_FILE_FORMAT`), and the one that it has given new databases since 3.7.10;
/// with a higher one it reads nothing ("unsupported file format").
pub const SCHEMA_FORMAT_MAX: u32 = 4;

/// Whether a file is as long as its header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SizeVerdict {
    /// Whole pages, as many as the header counts.
    Agrees,
    /// The header's count is not to be trusted (a writer older than 3.7.0, or none); the file's size is the count.
    Uncounted,
    /// Pages are missing: SQLite answers CORRUPT. In WAL mode the missing ones may be in the WAL.
    Truncated {
        /// Pages by the header.
        expected: u32,
        /// Whole pages in the file.
        actual: u64,
    },
    /// More than the header counts: SQLite reads past it (a rolled-back grower, or garbage appended).
    Longer {
        /// Pages by the header.
        expected: u32,
        /// Whole pages in the file.
        actual: u64,
    },
    /// The header's pages are all there, and then a part of one.
    PartialPage {
        /// Bytes after the last whole page.
        tail: u32,
    },
}

impl Header {
    /// Parses the beginning of a database file; bytes after the 100th are ignored.
    ///
    /// # Errors
    /// [`HeaderError`], in the order in which SQLite would notice.
    pub fn parse(bytes: &[u8]) -> Result<Header, HeaderError> {
        let Some(head) = bytes.first_chunk::<HEADER_LEN>() else {
            return Err(HeaderError::TooShort(bytes.len()));
        };
        if head.iter().all(|byte| *byte == 0) {
            return Err(HeaderError::AllZero);
        }
        if !head.starts_with(MAGIC) {
            return Err(HeaderError::NotMagic);
        }
        let (page_size, reserved) = (page_size(head)?, head[20]);
        if head[19] > 2 {
            return Err(HeaderError::NewerFormat(head[19]));
        }
        let fractions = [head[21], head[22], head[23]];
        if fractions != [64, 32, 32] {
            return Err(HeaderError::BadFractions(fractions));
        }
        if page_size - u32::from(reserved) < 480 {
            return Err(HeaderError::BadReserved { page_size, reserved });
        }
        let field = |at| be32(head, at).unwrap_or(0);
        Ok(Header {
            page_size,
            write_version: head[18],
            read_version: head[19],
            reserved,
            change_counter: field(24),
            page_count: field(28),
            freelist_head: field(32),
            freelist_count: field(36),
            schema_cookie: field(40),
            schema_format: field(44),
            largest_root: field(52),
            encoding: Encoding::from_field(field(56)),
            user_version: field(60).cast_signed(),
            incremental_vacuum: field(64) != 0,
            application_id: field(68).cast_signed(),
            version_valid_for: field(92),
            sqlite_version: field(96),
        })
    }

    /// True when SQLite opens the file in WAL mode.
    pub fn is_wal(&self) -> bool {
        self.read_version == 2
    }

    /// The header's page count where it is valid: nonzero, and written together with the change counter. A writer
    /// older than 3.7.0 leaves the two apart, and SQLite then goes by the file's size, as does this.
    pub fn counted_pages(&self) -> Option<u32> {
        (self.page_count != 0 && self.change_counter == self.version_valid_for).then_some(self.page_count)
    }

    /// Judges a file of `file_len` bytes. Not proof on a live file (the WAL, a running writer): confirm through SQLite.
    pub fn page_count_in(&self, file_len: u64) -> SizeVerdict {
        let (actual, tail) = (file_len / u64::from(self.page_size), file_len % u64::from(self.page_size));
        let Some(expected) = self.counted_pages() else {
            return SizeVerdict::Uncounted;
        };
        match actual.cmp(&u64::from(expected)) {
            std::cmp::Ordering::Less => SizeVerdict::Truncated { expected, actual },
            std::cmp::Ordering::Greater => SizeVerdict::Longer { expected, actual },
            // The remainder is below the page size, 65,536 at most.
            std::cmp::Ordering::Equal if tail != 0 => SizeVerdict::PartialPage { tail: tail as u32 },
            std::cmp::Ordering::Equal => SizeVerdict::Agrees,
        }
    }
}

impl Encoding {
    fn from_field(field: u32) -> Encoding {
        match field {
            0 | 1 => Encoding::Utf8,
            2 => Encoding::Utf16Le,
            3 => Encoding::Utf16Be,
            odd => Encoding::Odd(odd),
        }
    }
}

fn page_size(head: &[u8; HEADER_LEN]) -> Result<u32, HeaderError> {
    let field = be16(head, 16).unwrap_or(0);
    // 65,536 does not fit in two bytes and is written as 1.
    let size = if field == 1 { 65_536 } else { u32::from(field) };
    if is_page_size(size) { Ok(size) } else { Err(HeaderError::BadPageSize(field)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> [u8; HEADER_LEN] {
        let mut head = [0; HEADER_LEN];
        head[..16].copy_from_slice(MAGIC);
        head[16..24].copy_from_slice(&[0x10, 0, 1, 1, 0, 64, 32, 32]);
        head[24..28].copy_from_slice(&7u32.to_be_bytes());
        head[28..32].copy_from_slice(&10u32.to_be_bytes());
        head[92..96].copy_from_slice(&7u32.to_be_bytes());
        head
    }

    fn with(at: usize, bytes: &[u8]) -> Result<Header, HeaderError> {
        let mut head = sound();
        head[at..at + bytes.len()].copy_from_slice(bytes);
        Header::parse(&head)
    }

    #[test]
    fn every_reason_of_notadb_is_named() {
        assert_eq!(Header::parse(b"SQLite"), Err(HeaderError::TooShort(6)));
        assert_eq!(Header::parse(&[0; 100]), Err(HeaderError::AllZero));
        assert_eq!(Header::parse(&[b'x'; 100]), Err(HeaderError::NotMagic));
        assert_eq!(with(16, &[0, 0]), Err(HeaderError::BadPageSize(0)));
        assert_eq!(with(16, &[1, 0]), Err(HeaderError::BadPageSize(256)));
        assert_eq!(with(16, &[0x10, 1]), Err(HeaderError::BadPageSize(4097)));
        assert_eq!(with(19, &[3]), Err(HeaderError::NewerFormat(3)));
        assert_eq!(with(21, &[64, 32, 33]), Err(HeaderError::BadFractions([64, 32, 33])));
        assert_eq!(with(16, &[2, 0, 1, 1, 33]).unwrap_err(), HeaderError::BadReserved { page_size: 512, reserved: 33 });
    }

    #[test]
    fn a_page_size_of_one_means_64_kib() {
        assert_eq!(with(16, &[0, 1]).unwrap().page_size, 65_536);
    }

    #[test]
    fn a_size_is_judged_only_where_the_count_is_valid() {
        let header = Header::parse(&sound()).unwrap();
        assert_eq!(header.page_count_in(40_960), SizeVerdict::Agrees);
        assert_eq!(header.page_count_in(40_959), SizeVerdict::Truncated { expected: 10, actual: 9 });
        assert_eq!(header.page_count_in(100), SizeVerdict::Truncated { expected: 10, actual: 0 });
        assert_eq!(header.page_count_in(49_152), SizeVerdict::Longer { expected: 10, actual: 12 });
        assert_eq!(header.page_count_in(40_961), SizeVerdict::PartialPage { tail: 1 });
        assert_eq!(with(28, &[0; 4]).unwrap().page_count_in(100), SizeVerdict::Uncounted);
        assert_eq!(with(92, &[0, 0, 0, 6]).unwrap().page_count_in(100), SizeVerdict::Uncounted);
    }

    #[test]
    fn a_file_by_sqlite_parses() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.db");
        let db = rusqlite::Connection::open(&path).unwrap();
        db.execute_batch(
            "PRAGMA encoding='UTF-16le'; PRAGMA user_version=-3; PRAGMA application_id=77; CREATE TABLE t(a)",
        )
        .unwrap();
        drop(db);
        let bytes = std::fs::read(&path).unwrap();
        let header = Header::parse(&bytes).unwrap();
        assert_eq!((header.user_version, header.application_id), (-3, 77));
        assert_eq!(header.encoding, Encoding::Utf16Le);
        assert!(!header.is_wal());
        assert_eq!(header.page_count_in(bytes.len() as u64), SizeVerdict::Agrees);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(0u8.., 0..200), len in 0u64..) {
            if let Ok(header) = Header::parse(&bytes) {
                header.page_count_in(len);
            }
        }

        #[test]
        fn no_field_makes_it_panic(tail in proptest::array::uniform32(0u8..), at in 16usize..68, len in 0u64..) {
            if let Ok(header) = with(at, &tail) {
                header.page_count_in(len);
            }
        }
    }

    #[test]
    fn one_damaged_version_is_told_by_the_other() {
        let with = |write: u8, read: u8| {
            let mut head = [0; HEADER_LEN];
            (head[18], head[19]) = (write, read);
            versions_put_right(&head)
        };
        assert_eq!((with(2, 150), with(3, 1)), (Some([2, 2]), Some([1, 1])));
        assert_eq!((with(1, 1), with(2, 1), with(9, 9), with(0, 3)), (None, None, None, None));
        assert_eq!(versions_put_right(&[0; 18]), None);
    }
}
