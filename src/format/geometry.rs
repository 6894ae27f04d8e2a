//! What follows from the page size and the reserved bytes alone: where payloads spill, which pages belong to no tree. Every formula of
//! the format stands here once.
//!
//! <https://sqlite.org/fileformat2.html#b_tree_pages>, `#pointer_map_or_ptrmap_pages`, `#the_lock_byte_page`; `ptrmapPageno` and
//! `btreeParseCellAdjustSizeForOverflow` in `btree.c`.

use super::Header;
use super::bytes::is_page_size;
use super::journal::LOCK_BYTE;
use super::page::PageKind;

/// Bytes of one entry of a pointer map.
pub const POINTER_MAP_ENTRY_LEN: usize = 5;

/// The measures of one database file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Geometry {
    page_size: u32,
    usable: u32,
    max_local_index: u32,
    min_local: u32,
    pointer_maps: bool,
}

impl Geometry {
    /// For pages of `page_size` bytes of which the last `reserved` are an extension's; without pointer maps. `None` for what no database
    /// has: a page size that is none, or fewer than 480 usable bytes.
    pub fn new(page_size: u32, reserved: u8) -> Option<Geometry> {
        let usable = page_size.checked_sub(u32::from(reserved))?;
        if !is_page_size(page_size) || usable < 480 {
            return None;
        }
        let max_local_index = (usable - 12) * 64 / 255 - 23;
        let min_local = (usable - 12) * 32 / 255 - 23;
        Some(Geometry { page_size, usable, max_local_index, min_local, pointer_maps: false })
    }

    /// Of a database with this header; `None` only for a header that did not come from [`Header::parse`].
    pub fn of(header: &Header) -> Option<Geometry> {
        Some(Geometry::new(header.page_size, header.reserved)?.with_pointer_maps(header.largest_root != 0))
    }

    /// The same with pointer maps (auto-vacuum and incremental vacuum) or without.
    pub fn with_pointer_maps(self, pointer_maps: bool) -> Geometry {
        Geometry { pointer_maps, ..self }
    }

    /// Bytes per page.
    #[inline]
    pub fn page_size(&self) -> u32 {
        self.page_size
    }

    /// Bytes per page that SQLite uses.
    #[inline]
    pub fn usable(&self) -> u32 {
        self.usable
    }

    /// Whether the database has pointer maps.
    #[inline]
    pub fn has_pointer_maps(&self) -> bool {
        self.pointer_maps
    }

    /// Where page `number` (from 1) begins in the file, in bytes.
    #[inline]
    pub fn offset_of(&self, number: u32) -> u64 {
        u64::from(number.saturating_sub(1)) * u64::from(self.page_size)
    }

    /// The largest payload, in bytes, that a page of this kind holds without overflow: X of the format's text.
    #[inline(always)]
    pub fn max_local(&self, kind: PageKind) -> u32 {
        match kind {
            PageKind::TableLeaf => self.usable - 35,
            PageKind::IndexLeaf | PageKind::IndexInterior => self.max_local_index,
            PageKind::TableInterior => 0,
        }
    }

    /// The bytes of a spilling payload that stay in the cell at the least: M of the format's text.
    #[inline]
    pub fn min_local(&self) -> u32 {
        self.min_local
    }

    /// The bytes of a payload of `payload` bytes that a cell of this kind holds itself. What spills fills whole overflow pages (K of the
    /// format's text) where that fits.
    #[inline(always)]
    pub fn local_len(&self, kind: PageKind, payload: u32) -> u32 {
        let max = self.max_local(kind);
        if payload <= max {
            return payload;
        }
        if kind == PageKind::TableInterior {
            return 0;
        }
        // `payload` > `max` > `min_local`: the subtraction is safe.
        let filling = self.min_local + (payload - self.min_local) % self.overflow_capacity();
        if filling <= max { filling } else { self.min_local }
    }

    /// Payload bytes per overflow page: all but the number of the next.
    #[inline]
    pub fn overflow_capacity(&self) -> u32 {
        self.usable - 4
    }

    /// Overflow pages that `spilled` bytes take.
    #[inline]
    pub fn overflow_pages(&self, spilled: u32) -> u32 {
        spilled.div_ceil(self.overflow_capacity())
    }

    /// More cells than this no page has, and SQLite says so (`MX_CELL` in `btreeInt.h`).
    #[inline]
    pub fn max_cells(&self) -> u32 {
        (self.page_size - 8) / 6
    }

    /// Leaf numbers that a freelist trunk page can hold; SQLite uses six fewer, for the sake of versions before 3.6.0.
    #[inline]
    pub fn max_trunk_leaves(&self) -> u32 {
        self.usable / 4 - 2
    }

    /// The page with SQLite's lock bytes, at 1 GiB. It holds nothing and belongs to nothing.
    #[inline]
    pub fn lock_byte_page(&self) -> u32 {
        LOCK_BYTE / self.page_size + 1
    }

    /// The pointer-map page that has the entry of page `number`; a pointer map's page is its own. `None` for page 1, or without pointer
    /// maps.
    pub fn pointer_map_of(&self, number: u32) -> Option<u32> {
        if number < 2 || !self.pointer_maps {
            return None;
        }
        let span = self.usable / POINTER_MAP_ENTRY_LEN as u32 + 1;
        let map = (number - 2) / span * span + 2;
        // The lock page is no map; the map that would stand there comes one later.
        Some(if map == self.lock_byte_page() { map + 1 } else { map })
    }

    /// Whether page `number` is a pointer map.
    pub fn is_pointer_map(&self, number: u32) -> bool {
        self.pointer_map_of(number) == Some(number)
    }

    /// The map and the offset in it, in bytes, of the entry of page `number`. `None` for pages without one: page 1, maps, the lock page.
    pub fn pointer_map_entry(&self, number: u32) -> Option<(u32, usize)> {
        let map = self.pointer_map_of(number)?;
        let index = number.checked_sub(map)?.checked_sub(1)?;
        (number != self.lock_byte_page()).then_some((map, index as usize * POINTER_MAP_ENTRY_LEN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_database_can_have_is_a_geometry() {
        for (size, reserved, usable) in [
            (512, 0, Some(512)),
            (512, 32, Some(480)),
            (512, 33, None),
            (65_536, 255, Some(65_281)),
            (1000, 0, None),
            (0, 0, None),
            (131_072, 0, None),
        ] {
            assert_eq!(Geometry::new(size, reserved).map(|geometry| geometry.usable()), usable, "{size} {reserved}");
        }
    }

    #[test]
    fn the_limits_are_those_of_the_formats_text() {
        let geometry = Geometry::new(4096, 0).unwrap();
        assert_eq!(geometry.max_local(PageKind::TableLeaf), 4061);
        assert_eq!(geometry.max_local(PageKind::IndexLeaf), 1002);
        assert_eq!(geometry.min_local(), 489);
        assert_eq!(geometry.local_len(PageKind::TableLeaf, 4061), 4061);
        assert_eq!(geometry.local_len(PageKind::TableLeaf, 4062), 489);
        assert_eq!(geometry.local_len(PageKind::TableLeaf, 489 + 4092 + 7), 496);
        assert_eq!(geometry.overflow_pages(4092), 1);
        assert_eq!(geometry.overflow_pages(4093), 2);
        for size in (9..=16).map(|bits| 1 << bits) {
            for reserved in [0, 7, 32] {
                let geometry = Geometry::new(size, reserved).unwrap();
                for kind in [PageKind::TableLeaf, PageKind::IndexLeaf] {
                    for payload in (0..70_000).chain([i32::MAX as u32, u32::MAX]) {
                        let local = geometry.local_len(kind, payload);
                        assert!(local <= payload && local <= geometry.max_local(kind));
                    }
                }
            }
        }
    }

    #[test]
    fn pointer_maps_stand_where_sqlite_puts_them() {
        let geometry = Geometry::new(512, 0).unwrap().with_pointer_maps(true);
        // 512 / 5 = 102 entries, then the next map.
        assert!(geometry.is_pointer_map(2) && geometry.is_pointer_map(105) && !geometry.is_pointer_map(3));
        assert_eq!(geometry.pointer_map_entry(3), Some((2, 0)));
        assert_eq!(geometry.pointer_map_entry(104), Some((2, 505)));
        assert_eq!(geometry.pointer_map_entry(106), Some((105, 0)));
        assert_eq!((geometry.pointer_map_entry(1), geometry.pointer_map_entry(2)), (None, None));
        assert!(!geometry.with_pointer_maps(false).is_pointer_map(2));
        for size in (9..=16).map(|bits| 1 << bits) {
            for reserved in 0..=32 {
                let geometry = Geometry::new(size, reserved).unwrap().with_pointer_maps(true);
                let lock = geometry.lock_byte_page();
                assert!(!geometry.is_pointer_map(lock));
                assert_eq!(geometry.pointer_map_entry(lock), None);
                for number in (lock - 200..lock + 200).filter(|number| *number != lock) {
                    let entry = geometry.pointer_map_entry(number);
                    assert_eq!(entry.is_none(), geometry.is_pointer_map(number), "{size} {reserved} {number}");
                    assert!(entry.is_none_or(|(_, at)| at + 5 <= geometry.usable() as usize));
                }
            }
        }
    }
}
