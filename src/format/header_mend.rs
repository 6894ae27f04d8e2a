//! A header put right: what is always the same, what follows from the file's length, and what is remembered of the rest.
//!
//! Nothing here proves that the result is the database's own: whoever writes it down has SQLite check the whole content.

use super::bytes::be32;
use super::geometry::Geometry;
use super::header::{HEADER_LEN, MAGIC, SCHEMA_FORMAT_MAX};

/// No SQLite wrote a header with a version outside of this (3.0.0 to 3.999.999).
const VERSIONS: std::ops::RangeInclusive<u32> = 3_000_000..=3_999_999;

/// What of a header no page arithmetic tells, as it is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownHeader {
    /// Bytes per page.
    pub page_size: u32,
    /// The field at offset 56: 1 UTF-8, 2 UTF-16le, 3 UTF-16be.
    pub encoding: u32,
    /// 0 none, 1 full, 2 incremental.
    pub auto_vacuum: u8,
    /// `PRAGMA user_version`.
    pub user_version: i32,
    /// `PRAGMA application_id`.
    pub application_id: i32,
    /// Incremented by each schema change.
    pub schema_cookie: u32,
    /// Incremented by each transaction in rollback mode.
    pub change_counter: u32,
    /// True for WAL mode.
    pub wal_mode: bool,
    /// `SQLITE_VERSION_NUMBER` of who writes it.
    pub sqlite_version: u32,
}

/// Whether the fields of a header behind the 24th byte are as a SQLite of today's kind left them, whatever stands before: its two
/// counters agree (offsets 24 and 92), the bytes that it keeps zero are so, and its version is one.
pub fn vouches_for_its_fields(head: &[u8; HEADER_LEN]) -> bool {
    let field = |at| be32(head, at).unwrap_or(0);
    let (counter, witness) = (field(24), field(92));
    counter != 0 && counter == witness && VERSIONS.contains(&field(96)) && head[72..92].iter().all(|byte| *byte == 0)
}

/// The same header with what is always the same put right, for a file of so many pages of `page_size` bytes. What is no field's value
/// is taken from `known`. The list of free pages stays as it is.
pub fn header_put_right(head: &[u8; HEADER_LEN], page_size: u32, pages: u32, known: &KnownHeader) -> [u8; HEADER_LEN] {
    let mut right = *head;
    let mode = match [head[18], head[19]] {
        [1, 1] => 1,
        [2, 2] => 2,
        // SQLite writes them alike: one that is known tells the other.
        [one @ (1 | 2), 0 | 3..=255] | [0 | 3..=255, one @ (1 | 2)] => one,
        _ => {
            if known.wal_mode {
                2
            } else {
                1
            }
        }
    };
    put_constants(&mut right, page_size, mode);
    if Geometry::new(page_size, right[20]).is_none() {
        right[20] = 0;
    }
    put(&mut right, 28, pages);
    let field = |at| be32(head, at).unwrap_or(0);
    if !(1..=SCHEMA_FORMAT_MAX).contains(&field(44)) {
        put(&mut right, 44, SCHEMA_FORMAT_MAX);
    }
    if !(1..=3).contains(&field(56)) {
        put(&mut right, 56, known.encoding);
    }
    right
}

/// A header from what is known alone, for a file of so many pages, without free pages. Where it has pointer maps the largest root is
/// yet to be told (offset 52).
pub fn header_of_known(pages: u32, known: &KnownHeader) -> [u8; HEADER_LEN] {
    let mut head = [0; HEADER_LEN];
    put_constants(&mut head, known.page_size, if known.wal_mode { 2 } else { 1 });
    put(&mut head, 24, known.change_counter);
    put(&mut head, 28, pages);
    put(&mut head, 40, known.schema_cookie);
    put(&mut head, 44, SCHEMA_FORMAT_MAX);
    put(&mut head, 52, u32::from(known.auto_vacuum != 0));
    put(&mut head, 56, known.encoding);
    put(&mut head, 60, known.user_version.cast_unsigned());
    put(&mut head, 64, u32::from(known.auto_vacuum == 2));
    put(&mut head, 68, known.application_id.cast_unsigned());
    put(&mut head, 92, known.change_counter);
    put(&mut head, 96, known.sqlite_version);
    head
}

/// The page size that a header names, if it is one.
pub fn named_page_size(head: &[u8; HEADER_LEN]) -> Option<u32> {
    let size = match u32::from(u16::from_be_bytes([head[16], head[17]])) {
        1 => 65_536,
        size => size,
    };
    super::bytes::is_page_size(size).then_some(size)
}

fn put_constants(head: &mut [u8; HEADER_LEN], page_size: u32, mode: u8) {
    head[..16].copy_from_slice(MAGIC);
    // 65,536 does not fit in two bytes and is written as 1.
    let size = u16::try_from(page_size).unwrap_or(1);
    head[16..18].copy_from_slice(&size.to_be_bytes());
    head[18..20].copy_from_slice(&[mode; 2]);
    head[21..24].copy_from_slice(&[64, 32, 32]);
}

fn put(head: &mut [u8; HEADER_LEN], at: usize, value: u32) {
    if let Some(field) = head.get_mut(at..at + 4) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::super::Header;
    use super::*;

    fn by_sqlite(pragmas: &str) -> (Vec<u8>, [u8; HEADER_LEN]) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.db");
        let db = rusqlite::Connection::open(&path).unwrap();
        db.execute_batch(&format!("{pragmas}; CREATE TABLE t(a); INSERT INTO t VALUES (zeroblob(9000))")).unwrap();
        drop(db);
        let bytes = std::fs::read(&path).unwrap();
        let head = *bytes.first_chunk().unwrap();
        (bytes, head)
    }

    fn known(head: &[u8; HEADER_LEN]) -> KnownHeader {
        let header = Header::parse(head).unwrap();
        KnownHeader {
            page_size: header.page_size,
            encoding: be32(head, 56).unwrap(),
            auto_vacuum: u8::from(header.largest_root != 0) + u8::from(header.incremental_vacuum),
            user_version: header.user_version,
            application_id: header.application_id,
            schema_cookie: header.schema_cookie,
            change_counter: header.change_counter,
            wal_mode: header.is_wal(),
            sqlite_version: header.sqlite_version,
        }
    }

    #[test]
    fn what_is_remembered_makes_the_header_that_sqlite_wrote() {
        for pragmas in [
            "PRAGMA user_version=-3; PRAGMA application_id=77",
            "PRAGMA encoding='UTF-16be'; PRAGMA page_size=65536",
            "PRAGMA page_size=512; PRAGMA journal_mode=wal",
            "PRAGMA auto_vacuum=incremental",
        ] {
            let (bytes, head) = by_sqlite(pragmas);
            let known = known(&head);
            let pages = (bytes.len() / known.page_size as usize) as u32;
            let mut made = header_of_known(pages, &known);
            if known.auto_vacuum != 0 {
                assert_eq!(made[52..56], [0, 0, 0, 1]);
                made[52..56].copy_from_slice(&head[52..56]);
            }
            assert_eq!(made, head, "{pragmas}");
        }
    }

    #[test]
    fn a_header_that_vouches_for_its_fields_is_put_right_without_them() {
        let (bytes, head) = by_sqlite("PRAGMA user_version=12; PRAGMA encoding='UTF-16le'");
        let pages = (bytes.len() / 4096) as u32;
        let known = KnownHeader { user_version: 1, application_id: 9, change_counter: 1, ..known(&head) };
        for (at, hurt) in [
            (0, &[0; 16][..]),
            (0, &[7; 24]),
            (18, &[9]),
            (19, &[9]),
            (20, &[255]),
            (28, &[9; 4]),
            (44, &[9]),
            (56, &[9]),
        ] {
            let mut damaged = head;
            damaged[at..at + hurt.len()].copy_from_slice(hurt);
            assert!(vouches_for_its_fields(&damaged), "{at}");
            let right = header_put_right(&damaged, 4096, pages, &known);
            // A reserve that can be one is left: the content check tells.
            if damaged[20] == 7 {
                assert_eq!((right[20], &right[..20], &right[21..]), (7, &head[..20], &head[21..]));
            } else if damaged[20] == 255 {
                assert_eq!(right[20], 255);
            } else {
                assert_eq!(right, head, "{at}");
            }
        }
        for hurt in [[0_u8; HEADER_LEN], [0xa5; HEADER_LEN]] {
            assert!(!vouches_for_its_fields(&hurt));
        }
        let mut counted_on = head;
        counted_on[27] ^= 1;
        assert!(!vouches_for_its_fields(&counted_on));
        assert_eq!((named_page_size(&head), named_page_size(&[0xa5; HEADER_LEN])), (Some(4096), None));
    }
}
