//! Which page a file lacks. SQLite rounds a part of a page up to a whole one (`pagerPagecount` in `pager.c`) and reads zeros where
//! the file ends: a database that was cut within its last page opens, passes every check, and has lost what stood there. SQLite
//! itself always leaves whole pages.

use std::collections::BTreeMap;

use super::journal::LOCK_BYTE;
use super::wal::{FRAME_HEADER_LEN, WAL_HEADER_LEN, frame_len};
use super::{Header, WalMark, free_leaves};

/// The first page that `header` (or the last commit of the WAL) counts, that is in use, and that neither the main file of `len`
/// bytes nor the WAL has in full. `None` also for a header whose count SQLite does not go by. Both closures fill the whole buffer
/// from an offset of their file, with zeros behind its end.
///
/// # Errors
/// Whatever they give.
pub fn lost_page<E>(
    header: &Header,
    len: u64,
    wal: Option<&WalMark>,
    mut main: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
    mut frame: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
) -> Result<Option<u32>, E> {
    let size = u64::from(header.page_size);
    let wal = wal.filter(|wal| wal.last_commit > 0 && wal.page_size == header.page_size);
    let Some(pages) = wal.map(|wal| wal.database_pages).or(header.counted_pages()) else { return Ok(None) };
    let whole = u32::try_from(len / size).unwrap_or(u32::MAX);
    if whole >= pages {
        return Ok(None);
    }
    let mut newest = BTreeMap::new();
    for number in 0..wal.map_or(0, |wal| wal.last_commit) {
        let at = WAL_HEADER_LEN as u64 + u64::from(number) * frame_len(header.page_size) as u64;
        let mut page = [0; 4];
        frame(at, &mut page)?;
        newest.insert(u32::from_be_bytes(page), at + FRAME_HEADER_LEN as u64);
    }
    let free_head = match newest.get(&1) {
        Some(at) => {
            let mut head = [0; 4];
            frame(at + 32, &mut head)?;
            u32::from_be_bytes(head)
        }
        None => header.freelist_head,
    };
    let free = free_leaves(free_head, pages, |number| {
        let mut page = vec![0; header.page_size as usize];
        match newest.get(&number) {
            Some(at) => frame(*at, &mut page)?,
            None => main(u64::from(number - 1) * size, &mut page)?,
        }
        Ok(page)
    })?;
    // SQLite's lock bytes lie in a page that holds nothing and need not be written.
    let is_lock_page = |number: u32| number == LOCK_BYTE / header.page_size + 1;
    let is_there = |number: &u32| newest.contains_key(number) || free.contains(number) || is_lock_page(*number);
    Ok((whole + 1..=pages).find(|number| !is_there(number)))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::fs;

    use super::*;
    use crate::format::scan_wal;

    fn lost(main: &[u8], wal: &[u8]) -> Option<u32> {
        let fill = |from: &[u8], at: u64, to: &mut [u8]| {
            to.fill(0);
            let from = from.get(at as usize..).unwrap_or_default();
            let length = from.len().min(to.len());
            to[..length].copy_from_slice(&from[..length]);
            Ok::<_, Infallible>(())
        };
        let mark = scan_wal(wal.len() as u64, None, |at, to| fill(wal, at, to)).unwrap().mark;
        let header = Header::parse(main).unwrap();
        let Ok(found) = lost_page(
            &header,
            main.len() as u64,
            mark.as_ref(),
            |at, to| fill(main, at, to),
            |at, to| fill(wal, at, to),
        );
        found
    }

    #[test]
    fn a_part_of_a_page_is_missed_unless_nothing_uses_it_or_the_wal_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.db");
        let db = rusqlite::Connection::open(&path).unwrap();
        let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<99) INSERT INTO";
        db.execute_batch(&format!(
            "PRAGMA page_size=512; CREATE TABLE kept(a); {fill} kept SELECT randomblob(90) FROM n;
             CREATE TABLE t(a); {fill} t SELECT randomblob(90) FROM n;"
        ))
        .unwrap();
        let main = fs::read(&path).unwrap();
        let pages = main.len() as u32 / 512;
        assert_eq!(lost(&main, b""), None);
        assert_eq!(lost(&main[..main.len() - 1], b""), Some(pages));
        assert_eq!(lost(&main[..main.len() - 1500], b""), Some(pages - 2));

        db.execute_batch("DROP TABLE t").unwrap();
        let main = fs::read(&path).unwrap();
        assert_eq!(lost(&main[..main.len() - 1], b""), None, "nothing uses it");

        let at = fs::metadata(&path).unwrap().len() as usize;
        db.execute_batch(&format!(
            "VACUUM; PRAGMA journal_mode=wal; PRAGMA wal_checkpoint(TRUNCATE); {fill} kept SELECT randomblob(90) FROM n;"
        ))
        .unwrap();
        let wal = fs::read(dir.path().join("t.db-wal")).unwrap();
        let main = fs::read(&path).unwrap();
        assert!(main.len() < at && !wal.is_empty());
        assert_eq!(lost(&main, &wal), None, "the WAL has every page that the main file has not yet");
        assert_eq!(lost(&main[..main.len() - 512 * 3], &wal), Some(main.len() as u32 / 512 - 2));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_go_on_for_ever(bytes in proptest::collection::vec(0u8.., 100..3000)) {
            let mut bytes = bytes;
            bytes[..24].copy_from_slice(b"SQLite format 3\0\x02\0\x01\x01\0\x40\x20\x20");
            if Header::parse(&bytes).is_ok() {
                let _ = lost(&bytes, &bytes[100..]);
            }
        }
    }
}
