//! Whether the pages behind a bad header are SQLite's: what tells an overwritten database from an encrypted one.

use std::fs::File;
use std::io;

/// So many pages are sampled, spread over the file.
const SAMPLES: u64 = 64;
/// Every size a page can have.
const PAGE_SIZES: [u64; 8] = [512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536];
/// The bytes of a b-tree page's header and its first cell pointers.
const HEAD: usize = 16;

/// Of the pages sampled, so many look like b-tree pages, at the page size where most do: (like, sampled). Random bytes
/// look like one about once in 2,000 times.
pub(super) fn of_pages(file: &File, size: u64) -> io::Result<Option<(u32, u32)>> {
    let mut best = None;
    for page_size in PAGE_SIZES {
        let pages = size / page_size;
        if pages < 2 {
            continue;
        }
        let step = ((pages - 1) / SAMPLES).max(1);
        let (mut like, mut seen) = (0, 0);
        // Page 1 is the one that is damaged.
        for page in (1..pages).step_by(usize::try_from(step).unwrap_or(1)).take(SAMPLES as usize) {
            let mut head = [0; HEAD];
            if super::raw::read_up_to_at(file, &mut head, page * page_size)? < HEAD {
                continue;
            }
            // An overflow page or a free one proves nothing either way.
            if is_btree(&head, page_size) {
                like += 1;
                seen += 1;
            } else if !(head.starts_with(&[0, 0, 0]) || head.starts_with(&[0, 0])) {
                seen += 1;
            }
        }
        if best.is_none_or(|(most, _)| like > most) {
            best = Some((like, seen));
        }
    }
    Ok(best)
}

/// A page header that SQLite could have written (file format, section 1.6).
fn is_btree(head: &[u8; HEAD], page_size: u64) -> bool {
    let number = |at: usize| u64::from(u16::from_be_bytes([head[at], head[at + 1]]));
    let (interior, header) = match head[0] {
        2 | 5 => (true, 12),
        10 | 13 => (false, 8),
        _ => return false,
    };
    let (free, cells, content, fragmented) = (number(1), number(3), number(5), head[7]);
    let content = if content == 0 { 65_536 } else { content };
    let first = number(header);
    cells > 0
        && cells <= page_size / 4
        && fragmented <= 60
        && content <= page_size
        && content >= header as u64 + 2 * cells
        && (free == 0 || (free >= content.min(page_size) / 2 && free < page_size))
        && first >= content
        && first < page_size
        && (!interior || head[8..12] != [0; 4])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_database_with_its_header_overwritten_still_looks_like_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let access = crate::sqlite::Access::Create;
        let deadline = crate::sqlite::Deadline::never();
        let database = crate::sqlite::Database::open(&path, access, std::time::Duration::ZERO, deadline).unwrap();
        database
            .batch(
                "CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, price REAL); CREATE INDEX i ON t (name);
                 WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n LIMIT 5000)
                 INSERT INTO t SELECT n, 'row ' || n, n * 1.5 FROM n;",
            )
            .unwrap();
        database.close().unwrap();
        let size = std::fs::metadata(&path).unwrap().len();
        let (like, seen) = of_pages(&File::open(&path).unwrap(), size).unwrap().unwrap();
        assert!(like * 3 >= seen * 2 && like > 5, "{like} of {seen}");
    }

    #[test]
    fn random_bytes_do_not() {
        let mut file = tempfile::tempfile().unwrap();
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let bytes = (0..1_000_000).map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        });
        file.write_all(&bytes.collect::<Vec<_>>()).unwrap();
        let (like, seen) = of_pages(&file, 1_000_000).unwrap().unwrap();
        assert!(like * 10 < seen, "{like} of {seen}");
    }
}
