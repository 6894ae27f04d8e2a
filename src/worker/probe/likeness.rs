//! Whether what stands behind a bad header is a database: an encrypted file is not ours to judge, one whose first bytes were
//! overwritten is (rule 20).

use std::io;

/// The page sizes to try, the usual ones first.
const PAGE_SIZES: [u64; 8] = [4096, 1024, 8192, 16_384, 2048, 32_768, 65_536, 512];
/// Pages that are sampled for each size, spread over the file.
const SAMPLES: u64 = 64;
/// Bytes of a page that are looked at.
const HEAD: usize = 64;

/// Of the pages that were sampled, how many are like SQLite's: (like, sampled), for the page size that fits best. `None` when
/// there is nothing to sample: no page but empty ones. `read` fills as much of a buffer as there is from an offset.
pub(super) fn of_pages(
    file_len: u64,
    mut read: impl FnMut(u64, &mut [u8]) -> io::Result<usize>,
) -> io::Result<Option<(u32, u32)>> {
    let mut best: Option<(u32, u32)> = None;
    for page_size in PAGE_SIZES {
        let pages = file_len / page_size;
        let (mut like, mut sampled) = (0, 0);
        let step = pages.div_ceil(SAMPLES).max(1);
        let mut page = 0;
        while page < pages {
            // Page 1 has its tree behind the header that is bad.
            let within = if page == 0 { 100 } else { 0 };
            let mut head = [0; HEAD];
            let length = read(page * page_size + within, &mut head)?;
            if length == HEAD && head.iter().any(|byte| *byte != 0) {
                sampled += 1;
                like += u32::from(is_like(&head, page_size, pages, page == 0));
            }
            page += step;
        }
        // Compared as fractions; the first of equals stays, which is the more usual size.
        let better =
            best.is_none_or(|(best, of)| u64::from(like) * u64::from(of) > u64::from(best) * u64::from(sampled));
        if sampled > 0 && better {
            best = Some((like, sampled));
        }
    }
    Ok(best)
}

/// A b-tree page's header in bounds, or an overflow page's link to a page that exists
/// (<https://sqlite.org/fileformat2.html#b_tree_pages>).
fn is_like(head: &[u8; HEAD], page_size: u64, pages: u64, first: bool) -> bool {
    let be16 = |at: usize| u64::from(u16::from_be_bytes([head[at], head[at + 1]]));
    let be32 = |at: usize| u64::from(u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]));
    let offset = if first { 100 } else { 0 };
    let header_len = match head[0] {
        2 | 5 => 12,
        10 | 13 => 8,
        _ => return !first && be32(0) <= pages,
    };
    let (free_block, cells, fragments) = (be16(1), be16(3), head[7]);
    let content = if be16(5) == 0 { 65_536 } else { be16(5) };
    let array_end = offset + header_len + 2 * cells;
    (free_block == 0 || (array_end..page_size).contains(&free_block))
        && array_end <= content
        && content <= page_size
        && fragments <= 60
        && (header_len == 8 || (1..=pages).contains(&be32(8)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> Option<(u32, u32)> {
        of_pages(bytes.len() as u64, |at, buffer| {
            let rest = &bytes[(at as usize).min(bytes.len())..];
            let length = rest.len().min(buffer.len());
            buffer[..length].copy_from_slice(&rest[..length]);
            Ok(length)
        })
        .unwrap()
    }

    fn is_database(bytes: &[u8]) -> bool {
        of(bytes).is_some_and(|(like, sampled)| like * 3 >= sampled * 2)
    }

    /// The bytes of a database of this page size, with an index and blobs that overflow.
    fn database(page_size: u32) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.db");
        let (access, deadline) = (crate::sqlite::Access::Create, crate::sqlite::Deadline::never());
        let db = crate::sqlite::Database::open(&path, access, std::time::Duration::ZERO, deadline).unwrap();
        db.batch(&format!(
            "PRAGMA page_size={page_size}; CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT); CREATE INDEX t_b ON t(b);
             CREATE TABLE blobs(x); INSERT INTO blobs VALUES (randomblob(300000));
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<20000)
             INSERT INTO t SELECT i, 'text of row '||i FROM n;"
        ))
        .unwrap();
        db.close().unwrap();
        std::fs::read(path).unwrap()
    }

    /// Bytes as an encrypted file has them, from a fixed seed.
    fn noise(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(b"seed 1").finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn a_database_is_known_by_its_pages_whatever_became_of_its_header() {
        for page_size in [512, 1024, 4096, 65_536] {
            let mut bytes = database(page_size);
            bytes[..100].copy_from_slice(&noise(100));
            assert!(is_database(&bytes), "{page_size}: {:?}", of(&bytes));
            bytes[..512].fill(0);
            assert!(is_database(&bytes), "{page_size}, page 1 gone: {:?}", of(&bytes));
        }
    }

    #[test]
    fn other_files_are_not_taken_for_one() {
        for length in [512, 4096, 8192, 100_000, 3_000_000] {
            assert!(!is_database(&noise(length)), "noise of {length}: {:?}", of(&noise(length)));
            assert!(!is_database(&b"a line of text\n".repeat(length / 15 + 1)), "text of {length}");
            assert_eq!(of(&vec![0; length]), None, "zeros of {length}");
        }
        assert_eq!(of(b"short"), None);
    }
}
