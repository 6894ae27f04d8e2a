//! The list of pages that a database does not use: a chain of trunk pages, each with the numbers of its leaves. What a leaf holds
//! means nothing, and SQLite often does not write it at all (<https://sqlite.org/fileformat2.html#the_freelist>).

use std::collections::BTreeSet;

use super::bytes::be32;

/// The leaves of the list that begins at page `first_trunk`, in a database of so many `pages`; what is out of bounds ends it.
/// `page` gives the content of a page.
///
/// # Errors
/// Whatever `page` gives.
pub fn free_leaves<E>(
    first_trunk: u32,
    pages: u32,
    mut page: impl FnMut(u32) -> Result<Vec<u8>, E>,
) -> Result<BTreeSet<u32>, E> {
    let (mut leaves, mut seen, mut trunk) = (BTreeSet::new(), BTreeSet::new(), first_trunk);
    while (2..=pages).contains(&trunk) && seen.insert(trunk) {
        let bytes = page(trunk)?;
        let count = be32(&bytes, 4).unwrap_or(0) as usize;
        let numbers = (0..count.min(bytes.len() / 4)).map_while(|n| be32(&bytes, 8 + 4 * n));
        leaves.extend(numbers.filter(|number| (2..=pages).contains(number)));
        trunk = be32(&bytes, 0).unwrap_or(0);
    }
    Ok(leaves)
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

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_go_on_for_ever(bytes in proptest::collection::vec(0u8..6, 0..600), pages in 0u32..40) {
            free_leaves(1 + pages / 2, pages, |page| Ok::<_, ()>(bytes.iter().skip(page as usize).copied().collect())).unwrap();
        }
    }
}
