//! The list of pages that a database does not use: a chain of trunk pages, each with the numbers of its leaves. What a leaf holds
//! means nothing, and SQLite often does not write it at all (<https://sqlite.org/fileformat2.html#the_freelist>).

use std::collections::BTreeSet;

use thiserror::Error;

use super::bytes::be32;
use super::geometry::Geometry;

/// What stands on the list, or what is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FreelistItem {
    /// A trunk page; its leaves follow.
    Trunk(u32),
    /// A leaf page within the database. One that is named twice comes twice: who counts references sees it.
    Leaf {
        /// The page that names it.
        trunk: u32,
        /// Its number.
        page: u32,
    },
    /// What is wrong; the walk goes on where it can.
    Fault(FreelistFault),
}

/// What is wrong with a freelist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FreelistFault {
    /// Page 1, or one that the database does not have. It ends the list.
    #[error("the freelist leads to page {0}, which can be none of it")]
    TrunkOutOfRange(u32),
    /// The list comes to a page again. It ends the list.
    #[error("the freelist comes to page {0} again")]
    Loops(u32),
    /// More leaves than a page can name; those that fit follow.
    #[error("page {trunk} of the freelist claims {leaves} leaves")]
    TooManyLeaves {
        /// The trunk page.
        trunk: u32,
        /// Its count.
        leaves: u32,
    },
    /// A leaf that the database does not have, or page 1.
    #[error("page {trunk} of the freelist names page {page}, which can be none of it")]
    LeafOutOfRange {
        /// The trunk page.
        trunk: u32,
        /// What it names.
        page: u32,
    },
    /// The page was cut before its numbers end.
    #[error("page {0} of the freelist is cut")]
    Cut(u32),
}

/// Walks the list that begins at page `first_trunk`, 0 for none, in a database of so many `pages`. `page` gives the content of a page;
/// each trunk is read once, so that no list goes on for ever.
///
/// # Errors
/// Whatever `page` gives.
pub fn walk_freelist<E, P: AsRef<[u8]>>(
    first_trunk: u32,
    pages: u32,
    geometry: &Geometry,
    page: impl FnMut(u32) -> Result<P, E>,
    visit: impl FnMut(FreelistItem),
) -> Result<(), E> {
    walk(first_trunk, pages, |_| geometry.max_trunk_leaves(), page, visit)
}

/// The leaves of the list that begins at page `first_trunk`, in a database of so many `pages`; what is out of bounds ends it.
/// `page` gives the content of a page.
///
/// # Errors
/// Whatever `page` gives.
pub fn free_leaves<E>(
    first_trunk: u32,
    pages: u32,
    page: impl FnMut(u32) -> Result<Vec<u8>, E>,
) -> Result<BTreeSet<u32>, E> {
    let mut leaves = BTreeSet::new();
    let most = |len: usize| (len / 4) as u32;
    walk(first_trunk, pages, most, page, |item| {
        if let FreelistItem::Leaf { page, .. } = item {
            leaves.insert(page);
        }
    })?;
    Ok(leaves)
}

/// `most` says how many leaves a page of so many bytes can name.
fn walk<E, P: AsRef<[u8]>>(
    first_trunk: u32,
    pages: u32,
    most: impl Fn(usize) -> u32,
    mut page: impl FnMut(u32) -> Result<P, E>,
    mut visit: impl FnMut(FreelistItem),
) -> Result<(), E> {
    let (mut seen, mut trunk) = (BTreeSet::new(), first_trunk);
    while trunk != 0 {
        if !(2..=pages).contains(&trunk) {
            visit(FreelistItem::Fault(FreelistFault::TrunkOutOfRange(trunk)));
            break;
        }
        if !seen.insert(trunk) {
            visit(FreelistItem::Fault(FreelistFault::Loops(trunk)));
            break;
        }
        visit(FreelistItem::Trunk(trunk));
        let bytes = page(trunk)?;
        let bytes = bytes.as_ref();
        let (leaves, most) = (be32(bytes, 4).unwrap_or(0), most(bytes.len()));
        if leaves > most {
            visit(FreelistItem::Fault(FreelistFault::TooManyLeaves { trunk, leaves }));
        }
        for n in 0..leaves.min(most) as usize {
            visit(match be32(bytes, 8 + 4 * n) {
                Some(page) if (2..=pages).contains(&page) => FreelistItem::Leaf { trunk, page },
                Some(page) => FreelistItem::Fault(FreelistFault::LeafOutOfRange { trunk, page }),
                None => FreelistItem::Fault(FreelistFault::Cut(trunk)),
            });
            if 8 + 4 * n >= bytes.len() {
                break;
            }
        }
        let Some(next) = be32(bytes, 0) else {
            visit(FreelistItem::Fault(FreelistFault::Cut(trunk)));
            break;
        };
        trunk = next;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leaves_of_a_list_by_sqlite_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.db");
        let db = rusqlite::Connection::open(&path).unwrap();
        db.execute_batch(
            "PRAGMA page_size=512; CREATE TABLE kept(a); CREATE TABLE t(a);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<5000) INSERT INTO t SELECT randomblob(90) FROM n;
             DROP TABLE t",
        )
        .unwrap();
        let free: u32 = db.query_row("PRAGMA freelist_count", [], |row| row.get(0)).unwrap();
        drop(db);
        let bytes = std::fs::read(path).unwrap();
        let header = crate::format::Header::parse(&bytes).unwrap();
        let mut trunks = 0;
        let page = |number: u32| {
            trunks += 1;
            Ok::<_, ()>(bytes[(number as usize - 1) * 512..number as usize * 512].to_vec())
        };
        let leaves = free_leaves(header.freelist_head, bytes.len() as u32 / 512, page).unwrap();
        assert_eq!(leaves.len() as u32 + trunks, free);
        assert!(trunks > 1);
    }

    #[test]
    fn what_is_wrong_with_a_list_is_told() {
        let geometry = Geometry::new(512, 0).unwrap();
        let page = |words: &[u32]| {
            let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
            bytes.resize(512, 0);
            bytes
        };
        use FreelistFault::*;
        use FreelistItem::{Fault, Leaf, Trunk};
        let walked = |first: u32, trunks: &[(u32, Vec<u8>)]| {
            let mut items = Vec::new();
            let find = |number: u32| Ok::<_, ()>(trunks.iter().find(|(at, _)| *at == number).unwrap().1.clone());
            walk_freelist(first, 9, &geometry, find, |item| items.push(item)).unwrap();
            items
        };
        assert_eq!(walked(0, &[]), []);
        assert_eq!(walked(1, &[]), [Fault(TrunkOutOfRange(1))]);
        assert_eq!(walked(10, &[]), [Fault(TrunkOutOfRange(10))]);
        let (leaf, bad) = (Leaf { trunk: 3, page: 9 }, Fault(LeafOutOfRange { trunk: 3, page: 10 }));
        let pages = [(3, page(&[4, 2, 9, 10])), (4, page(&[3]))];
        assert_eq!(walked(3, &pages), [Trunk(3), leaf, bad, Trunk(4), Fault(Loops(3))]);
        let most = walked(3, &[(3, page(&[0, 127]))]);
        assert_eq!(most[..2], [Trunk(3), Fault(TooManyLeaves { trunk: 3, leaves: 127 })]);
        assert_eq!(most.len(), 2 + 126);
        assert_eq!(walked(3, &[(3, page(&[0, 126])[..12].to_vec())]).last(), Some(&Fault(Cut(3))));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_go_on_for_ever(bytes in proptest::collection::vec(0u8..6, 0..600), pages in 0u32..40) {
            free_leaves(1 + pages / 2, pages, |page| Ok::<_, ()>(bytes.iter().skip(page as usize).copied().collect())).unwrap();
        }
    }
}
