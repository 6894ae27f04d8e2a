//! A page of a b-tree: its header, its cell pointers, its freeblocks. Cells are in `cell.rs`, the bytes' accounts in `coverage.rs`.
//!
//! ```text
//! 0 kind (1)  1 first freeblock (2)  3 cells (2)  5 content start (2; 0 = 65,536)  7 fragmented bytes (1)
//! 8 right child (4, interior pages alone)         then a pointer (2) per cell
//! freeblock: 0 next (2)  2 length, these four bytes included (2)
//! ```
//! Big-endian, from byte 100 on page 1; <https://sqlite.org/fileformat2.html#b_tree_pages>, `btreeInitPage` and
//! `btreeComputeFreeSpace` in `btree.c`.

use thiserror::Error;

use super::bytes::{be16, be32};
use super::cell::{Cell, CellError};
use super::geometry::Geometry;
use super::header::HEADER_LEN;

/// The four kinds of b-tree page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PageKind {
    /// 2: keys of an index, or rows of a WITHOUT ROWID table, with children.
    IndexInterior,
    /// 5: rowids with children.
    TableInterior,
    /// 10: keys of an index, or rows of a WITHOUT ROWID table.
    IndexLeaf,
    /// 13: rows.
    TableLeaf,
}

impl PageKind {
    /// Of the flag byte at the beginning of a page.
    #[inline]
    pub fn from_flag(flag: u8) -> Option<PageKind> {
        match flag {
            2 => Some(PageKind::IndexInterior),
            5 => Some(PageKind::TableInterior),
            10 => Some(PageKind::IndexLeaf),
            13 => Some(PageKind::TableLeaf),
            _ => None,
        }
    }

    /// Without children.
    #[inline]
    pub fn is_leaf(self) -> bool {
        matches!(self, PageKind::IndexLeaf | PageKind::TableLeaf)
    }

    /// Of a tree whose keys are rowids.
    #[inline]
    pub fn is_table(self) -> bool {
        matches!(self, PageKind::TableInterior | PageKind::TableLeaf)
    }

    /// Bytes of the page's header: 8, and 12 with a right child.
    #[inline]
    pub fn header_len(self) -> usize {
        if self.is_leaf() { 8 } else { 12 }
    }
}

/// Why bytes are not a page that SQLite would take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PageError {
    /// Cut.
    #[error("the page has {0} bytes and should have more")]
    Short(usize),
    /// Not the flag of a b-tree page.
    #[error("the page's kind is {0}, which is no kind")]
    UnknownKind(u8),
    /// More than fit.
    #[error("the page claims {0} cells, which do not fit")]
    TooManyCells(u16),
    /// Within the header or the cell pointers, or behind the end.
    #[error("the page's content starts at byte {start}, outside of {lowest} to {highest}")]
    ContentStart {
        /// What the header says, in bytes.
        start: u32,
        /// The end of the cell pointers, in bytes.
        lowest: u32,
        /// The usable bytes.
        highest: u32,
    },
}

/// Why the chain of freeblocks is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FreeblockError {
    /// Begins before the content does, or too near to the end for its own four bytes.
    #[error("a freeblock at byte {0} lies outside of the content")]
    OutOfRange(u16),
    /// Below 4 bytes, or past the end.
    #[error("the freeblock at byte {at} has an impossible length of {len}")]
    Length {
        /// Where, in bytes from the page's beginning.
        at: u16,
        /// Its length field, in bytes.
        len: u16,
    },
    /// The next one begins before, within or right behind this one (less than four bytes apart: SQLite would have merged them).
    #[error("the freeblock at byte {at} is followed by one at byte {next}")]
    Order {
        /// Where, in bytes from the page's beginning.
        at: u16,
        /// Its field for the next one.
        next: u16,
    },
}

/// A b-tree page whose header was read. Copying it copies no content.
#[derive(Debug, Clone, Copy)]
pub struct BtreePage<'a> {
    /// The usable bytes, or fewer of a page that was cut.
    bytes: &'a [u8],
    /// Two bytes per cell.
    pointers: &'a [u8],
    kind: PageKind,
    header_at: usize,
    content_start: u32,
    /// No cell begins below.
    lowest_cell: u32,
    geometry: Geometry,
}

impl<'a> BtreePage<'a> {
    /// Reads page `number` (from 1) as strictly as SQLite does, and a little more: content that starts within the cell pointers is an
    /// error at once. Bytes behind the usable ones are ignored.
    ///
    /// # Errors
    /// [`PageError`]; [`BtreePage::lenient`] reads on.
    #[inline]
    pub fn parse(bytes: &'a [u8], number: u32, geometry: &Geometry) -> Result<BtreePage<'a>, PageError> {
        let usable = geometry.usable() as usize;
        let bytes = bytes.get(..usable).ok_or(PageError::Short(bytes.len()))?;
        let header_at = header_at(number);
        let head = bytes.get(header_at..).and_then(<[u8]>::first_chunk::<12>).ok_or(PageError::Short(bytes.len()))?;
        let kind = PageKind::from_flag(head[0]).ok_or(PageError::UnknownKind(head[0]))?;
        let cells = u16::from_be_bytes([head[3], head[4]]);
        let pointers_at = header_at + kind.header_len();
        let pointers_end = pointers_at + 2 * usize::from(cells);
        let pointers = bytes.get(pointers_at..pointers_end).filter(|_| u32::from(cells) <= geometry.max_cells());
        let pointers = pointers.ok_or(PageError::TooManyCells(cells))?;
        let content_start = content_start(u16::from_be_bytes([head[5], head[6]]));
        if (content_start as usize) < pointers_end || content_start as usize > usable {
            let (lowest, highest) = (pointers_end as u32, geometry.usable());
            return Err(PageError::ContentStart { start: content_start, lowest, highest });
        }
        Ok(BtreePage {
            bytes,
            pointers,
            kind,
            header_at,
            content_start,
            lowest_cell: content_start,
            geometry: *geometry,
        })
    }

    /// Reads a page whose header is hurt, or which was cut, as far as it goes: as many cell pointers as fit, and cells wherever they
    /// point behind the header. `None` when even the kind is none; then [`BtreePage::assume`] reads it as one.
    pub fn lenient(bytes: &'a [u8], number: u32, geometry: &Geometry) -> Option<BtreePage<'a>> {
        let kind = PageKind::from_flag(*bytes.get(header_at(number))?)?;
        Some(BtreePage::assume(kind, bytes, number, geometry))
    }

    /// Reads bytes as a page of this kind, whatever their own kind says; else as [`BtreePage::lenient`].
    pub fn assume(kind: PageKind, bytes: &'a [u8], number: u32, geometry: &Geometry) -> BtreePage<'a> {
        let bytes = bytes.get(..geometry.usable() as usize).unwrap_or(bytes);
        let header_at = header_at(number);
        let pointers_at = header_at + kind.header_len();
        let page = BtreePage {
            bytes,
            pointers: &[],
            kind,
            header_at,
            content_start: content_start(be16(bytes, header_at + 5).unwrap_or(0)),
            lowest_cell: pointers_at as u32,
            geometry: *geometry,
        };
        page.with_cells(be16(bytes, header_at + 3).unwrap_or(0))
    }

    /// The same page with so many cell pointers, as far as they fit, whatever its header says.
    #[must_use]
    pub fn with_cells(self, count: u16) -> BtreePage<'a> {
        let behind = self.bytes.get(self.lowest_cell as usize..).unwrap_or_default();
        let wanted = 2 * u32::from(count).min(self.geometry.max_cells()) as usize;
        BtreePage { pointers: behind.get(..wanted.min(behind.len() & !1)).unwrap_or_default(), ..self }
    }

    /// The page's kind.
    #[inline]
    pub fn kind(&self) -> PageKind {
        self.kind
    }

    /// What it was read with.
    #[inline]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The usable bytes of the page; fewer of one that was cut.
    #[inline]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Cells, as many as have a pointer.
    #[inline]
    pub fn cell_count(&self) -> u16 {
        // At most 65,536 / 6 of them fit.
        (self.pointers.len() / 2) as u16
    }

    /// Where the header says that the cells' area begins, in bytes from the page's beginning.
    #[inline]
    pub fn content_start(&self) -> u32 {
        self.content_start
    }

    /// Bytes that the header counts as too small for a freeblock.
    #[inline]
    pub fn fragmented(&self) -> u8 {
        self.bytes.get(self.header_at + 7).copied().unwrap_or(0)
    }

    /// The child for keys above all cells; `None` for a leaf, and for a page that was cut before it.
    #[inline]
    pub fn right_child(&self) -> Option<u32> {
        if self.kind.is_leaf() { None } else { be32(self.bytes, self.header_at + 8) }
    }

    /// Where cell `index` begins, as its pointer says, in bytes from the page's beginning; not checked.
    #[inline]
    pub fn pointer(&self, index: u16) -> Option<u16> {
        be16(self.pointers, 2 * usize::from(index))
    }

    /// All cell pointers, in the order of their keys; not checked.
    #[inline]
    pub fn pointers(&self) -> impl ExactSizeIterator<Item = u16> + DoubleEndedIterator + use<'a> {
        self.pointers.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
    }

    /// Cell `index`.
    ///
    /// # Errors
    /// [`CellError`]; of an index that has no pointer, [`CellError::OutOfRange`].
    #[inline]
    pub fn cell(&self, index: u16) -> Result<Cell<'a>, CellError> {
        self.cell_at(self.pointer(index).ok_or(CellError::OutOfRange(u16::MAX))?)
    }

    /// All cells in the order of their keys. One that cannot be read does not end it.
    #[inline]
    pub fn cells(&self) -> impl ExactSizeIterator<Item = Result<Cell<'a>, CellError>> + DoubleEndedIterator + use<'a> {
        let page = *self;
        self.pointers().map(move |at| page.cell_at(at))
    }

    /// The cell that begins at this byte of the page.
    ///
    /// # Errors
    /// [`CellError`].
    #[inline]
    pub fn cell_at(&self, at: u16) -> Result<Cell<'a>, CellError> {
        if u32::from(at) < self.lowest_cell {
            return Err(CellError::OutOfRange(at));
        }
        Cell::parse(self.bytes, at, self.kind, &self.geometry)
    }

    /// The freeblocks from the first on, each with its offset and its length in bytes. An error ends it; so does the chain, whose offsets
    /// must rise.
    #[inline]
    pub fn freeblocks(&self) -> Freeblocks<'a> {
        let next = be16(self.bytes, self.header_at + 1).unwrap_or(0);
        Freeblocks { bytes: self.bytes, next, lowest: self.content_start }
    }
}

/// The chain of freeblocks; see [`BtreePage::freeblocks`].
#[derive(Debug, Clone)]
pub struct Freeblocks<'a> {
    bytes: &'a [u8],
    next: u16,
    lowest: u32,
}

impl Freeblocks<'_> {
    fn read(&self, at: u16) -> Result<(u16, u16), FreeblockError> {
        let block = self.bytes.get(usize::from(at)..).and_then(<[u8]>::first_chunk::<4>);
        let block = block.filter(|_| u32::from(at) >= self.lowest).ok_or(FreeblockError::OutOfRange(at))?;
        let (next, len) = (u16::from_be_bytes([block[0], block[1]]), u16::from_be_bytes([block[2], block[3]]));
        let end = usize::from(at) + usize::from(len);
        if len < 4 || end > self.bytes.len() {
            return Err(FreeblockError::Length { at, len });
        }
        if next != 0 && usize::from(next) < end + 4 {
            return Err(FreeblockError::Order { at, next });
        }
        Ok((next, len))
    }
}

impl Iterator for Freeblocks<'_> {
    type Item = Result<(u16, u16), FreeblockError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let at = self.next;
        if at == 0 {
            return None;
        }
        let read = self.read(at);
        self.next = read.map_or(0, |(next, _)| next);
        Some(read.map(|(_, len)| (at, len)))
    }
}

/// The database header stands before the first page's own.
fn header_at(number: u32) -> usize {
    if number == 1 { HEADER_LEN } else { 0 }
}

/// 65,536 does not fit in two bytes and is written as 0.
fn content_start(field: u16) -> u32 {
    if field == 0 { 65_536 } else { u32::from(field) }
}
