//! Pointer maps: for each page of a database with auto-vacuum, who points to it.
//!
//! A page of entries of five bytes: a kind (1), then the number of the page that points here (4), big-endian.
//! <https://sqlite.org/fileformat2.html#pointer_map_or_ptrmap_pages>; which page has whose entry says [`super::Geometry`].

use super::bytes::be32;
use super::geometry::{Geometry, POINTER_MAP_ENTRY_LEN};

/// What a page is, by its pointer map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PointerMapKind {
    /// 1: the root of a tree; its parent is 0.
    Root,
    /// 2: on the freelist; its parent is 0.
    Free,
    /// 3: the first page of an overflow chain; the parent has the cell.
    FirstOverflow,
    /// 4: a later page of a chain; the parent is the page before.
    LaterOverflow,
    /// 5: a tree's page that is no root; the parent is the page above.
    Tree,
}

/// One entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PointerMapEntry {
    /// What the page is.
    pub kind: PointerMapKind,
    /// Who points to it, or 0.
    pub parent: u32,
}

impl PointerMapEntry {
    /// The entry at `at` of a map's bytes; `None` where the bytes end or the kind is none of the five.
    pub fn parse(map: &[u8], at: usize) -> Option<PointerMapEntry> {
        let kind = match map.get(at)? {
            1 => PointerMapKind::Root,
            2 => PointerMapKind::Free,
            3 => PointerMapKind::FirstOverflow,
            4 => PointerMapKind::LaterOverflow,
            5 => PointerMapKind::Tree,
            _ => return None,
        };
        Some(PointerMapEntry { kind, parent: be32(map, at.checked_add(1)?)? })
    }
}

/// What the map on page `number` says of each page up to `last_page`; `None` for an entry that is none.
pub fn pointer_map_entries<'a>(
    map: &'a [u8],
    number: u32,
    last_page: u32,
    geometry: &Geometry,
) -> impl Iterator<Item = (u32, Option<PointerMapEntry>)> + use<'a> {
    let lock_page = geometry.lock_byte_page();
    let entries = geometry.usable() / POINTER_MAP_ENTRY_LEN as u32;
    let pages = (number..number.saturating_add(entries).min(last_page)).map(|before| before + 1);
    pages.filter(move |page| *page != lock_page).map(move |page| {
        let at = (page - number - 1) as usize * POINTER_MAP_ENTRY_LEN;
        (page, PointerMapEntry::parse(map, at))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_told_and_others_are_none() {
        for (byte, kind) in [
            (0, None),
            (1, Some(PointerMapKind::Root)),
            (2, Some(PointerMapKind::Free)),
            (3, Some(PointerMapKind::FirstOverflow)),
            (4, Some(PointerMapKind::LaterOverflow)),
            (5, Some(PointerMapKind::Tree)),
            (6, None),
        ] {
            let entry = PointerMapEntry::parse(&[9, byte, 0, 0, 1, 2], 1);
            assert_eq!(entry, kind.map(|kind| PointerMapEntry { kind, parent: 258 }));
        }
        assert_eq!(PointerMapEntry::parse(&[1, 0, 0, 0], 0), None);
        assert_eq!(PointerMapEntry::parse(&[1; 5], usize::MAX), None);
    }

    #[test]
    fn a_map_ends_with_the_database_and_with_the_page() {
        let geometry = Geometry::new(512, 0).unwrap().with_pointer_maps(true);
        let map = [5; 512];
        assert_eq!(
            pointer_map_entries(&map, 2, 7, &geometry).map(|(page, _)| page).collect::<Vec<_>>(),
            [3, 4, 5, 6, 7]
        );
        assert_eq!(pointer_map_entries(&map, 2, 9000, &geometry).last().map(|(page, _)| page), Some(104));
        assert_eq!(pointer_map_entries(&map, u32::MAX, u32::MAX, &geometry).count(), 0);
        let cut: Vec<_> = pointer_map_entries(&map[..7], 2, 4, &geometry).map(|(_, entry)| entry.is_some()).collect();
        assert_eq!(cut, [true, false]);
    }
}
