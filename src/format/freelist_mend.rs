//! The list of free pages found again, or made anew, when what leads to it is damaged: which pages nothing uses is known from the trees.

use std::collections::{BTreeMap, BTreeSet};

use super::bytes::be32;
use super::geometry::Geometry;

/// Pages that can begin the list are tried, so many at the most.
const HEADS_MAX: usize = 64;

/// The list's first trunk page, where some list has exactly the pages that nothing uses: then it is the one that there was. `page` gives
/// the content of a page.
///
/// # Errors
/// Whatever `page` gives.
pub fn find_freelist<E>(
    unused: &BTreeSet<u32>,
    geometry: &Geometry,
    mut page: impl FnMut(u32) -> Result<Vec<u8>, E>,
) -> Result<Option<u32>, E> {
    // A free page's old content may look like a trunk too: only the whole list tells.
    let mut trunks = BTreeMap::new();
    for number in unused {
        if let Some(trunk) = Trunk::of(&page(*number)?, unused, geometry) {
            trunks.insert(*number, trunk);
        }
    }
    let led_to: BTreeSet<u32> =
        trunks.values().flat_map(|trunk| trunk.leaves.iter().chain([&trunk.next])).copied().collect();
    let (first, later): (Vec<u32>, Vec<u32>) = trunks.keys().partition(|trunk| !led_to.contains(trunk));
    let has_all = |head: &u32| {
        let (mut seen, mut at) = (BTreeSet::new(), *head);
        while let Some(trunk) = trunks.get(&at) {
            let is_new = seen.insert(at) && trunk.leaves.iter().all(|leaf| seen.insert(*leaf));
            if !is_new {
                return false;
            }
            at = trunk.next;
        }
        at == 0 && seen.len() == unused.len()
    };
    Ok(first.into_iter().chain(later).take(HEADS_MAX).find(has_all))
}

/// A page that can be a trunk of a list of unused pages.
struct Trunk {
    next: u32,
    leaves: Vec<u32>,
}

impl Trunk {
    fn of(bytes: &[u8], unused: &BTreeSet<u32>, geometry: &Geometry) -> Option<Trunk> {
        let (next, count) = (be32(bytes, 0)?, be32(bytes, 4)?);
        if count > geometry.max_trunk_leaves() || next != 0 && !unused.contains(&next) {
            return None;
        }
        let leaf = |at: usize| be32(bytes, 8 + 4 * at).filter(|leaf| unused.contains(leaf));
        let leaves = (0..count as usize).map(leaf).collect::<Option<Vec<u32>>>()?;
        Some(Trunk { next, leaves })
    }
}

/// The list anew: trunk pages, in order, with what stands at the beginning of each. The first is the list's head.
pub fn make_freelist(unused: &BTreeSet<u32>, geometry: &Geometry) -> Vec<(u32, Vec<u8>)> {
    // SQLite leaves six places of a trunk free, for the sake of versions before 3.6.0.
    let leaves_max = (geometry.max_trunk_leaves() as usize).saturating_sub(6);
    let pages: Vec<u32> = unused.iter().copied().collect();
    let chunks: Vec<&[u32]> = pages.chunks(leaves_max + 1).collect();
    let next_of = |at: usize| chunks.get(at + 1).and_then(|next| next.first()).copied().unwrap_or(0);
    let trunk = |(at, chunk): (usize, &&[u32])| {
        let (trunk, leaves) = chunk.split_first()?;
        let mut bytes = next_of(at).to_be_bytes().to_vec();
        bytes.extend_from_slice(&(leaves.len() as u32).to_be_bytes());
        leaves.iter().for_each(|leaf| bytes.extend_from_slice(&leaf.to_be_bytes()));
        Some((*trunk, bytes))
    };
    chunks.iter().enumerate().filter_map(trunk).collect()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::super::Header;
    use super::*;

    /// A database of which most pages are free.
    fn freed(page_size: u32) -> (Vec<u8>, BTreeSet<u32>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.db");
        let db = rusqlite::Connection::open(&path).unwrap();
        db.execute_batch(&format!(
            "PRAGMA page_size={page_size}; CREATE TABLE t(a); CREATE TABLE kept(a);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<400) INSERT INTO t SELECT zeroblob(300) FROM n;
             INSERT INTO kept SELECT * FROM t; DROP TABLE t"
        ))
        .unwrap();
        let used: BTreeSet<u32> = {
            let mut query = db.prepare("SELECT pageno FROM dbstat").unwrap();
            query.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
        };
        drop(db);
        let bytes = std::fs::read(&path).unwrap();
        let unused = (1..=bytes.len() as u32 / page_size).filter(|page| !used.contains(page)).collect();
        (bytes, unused)
    }

    #[test]
    fn the_list_that_there_was_is_found_by_the_pages_that_nothing_uses() {
        for size in [512_u32, 4096] {
            let (bytes, unused) = freed(size);
            let (header, geometry) = (Header::parse(&bytes).unwrap(), Geometry::new(size, 0).unwrap());
            assert_eq!(unused.len() as u32, header.freelist_count);
            let content =
                |number: u32| Ok::<_, Infallible>(bytes[((number - 1) * size) as usize..][..size as usize].to_vec());
            assert_eq!(find_freelist(&unused, &geometry, content), Ok(Some(header.freelist_head)));
            // With a page more, or less, no list is the one.
            let more = unused.iter().copied().chain([1]).collect();
            assert_eq!(find_freelist(&more, &geometry, content), Ok(None));
            let less = unused.iter().copied().skip(1).collect();
            assert_eq!(find_freelist(&less, &geometry, content), Ok(None));
        }
    }

    #[test]
    fn a_list_that_is_made_anew_is_found_again_with_every_page() {
        let geometry = Geometry::new(512, 0).unwrap();
        for count in [0, 1, 2, 121, 122, 500] {
            let unused: BTreeSet<u32> = (10..10 + count).collect();
            let made: BTreeMap<u32, Vec<u8>> = make_freelist(&unused, &geometry).into_iter().collect();
            assert!(made.values().all(|bytes| bytes.len() <= 512 - 24));
            let content = |number: u32| Ok::<_, Infallible>(made.get(&number).cloned().unwrap_or_default());
            let head = make_freelist(&unused, &geometry).first().map(|(head, _)| *head);
            assert_eq!(find_freelist(&unused, &geometry, content), Ok(head), "{count}");
        }
    }
}
