//! A cell of a b-tree page.
//!
//! ```text
//! table leaf:     payload length (varint)  rowid (varint)           payload  first overflow page (4, if it spills)
//! table interior: left child (4)           rowid (varint)
//! index leaf:     payload length (varint)                           payload  first overflow page (4, if it spills)
//! index interior: left child (4)           payload length (varint)  payload  first overflow page (4, if it spills)
//! ```
//! <https://sqlite.org/fileformat2.html#b_tree_pages>; `btreeParseCellPtr` and its sisters in `btree.c`. A cell takes four bytes at
//! least, because what it leaves behind must hold a freeblock.

use thiserror::Error;

use super::bytes::be32;
use super::geometry::Geometry;
use super::page::PageKind;
use super::varint::read_varint;

/// The largest payload, in bytes: `SQLITE_MAX_LENGTH` can be no higher.
pub const PAYLOAD_MAX: u32 = i32::MAX as u32;

/// One cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell<'a> {
    /// Where it begins, in bytes from the page's beginning.
    pub at: u16,
    /// Bytes that it takes on its page.
    pub size: u32,
    /// On an interior page: the child for keys up to this cell's.
    pub left_child: Option<u32>,
    /// On a table's page.
    pub rowid: Option<i64>,
    /// Bytes of the whole payload; 0 for an interior table cell.
    pub payload_len: u32,
    /// What of the payload stands on this page.
    pub local: &'a [u8],
    /// The first overflow page, when the payload does not end here. Any number; 0 as well, in a damaged cell.
    pub first_overflow: Option<u32>,
}

/// Why a cell cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CellError {
    /// The pointer leads into the header, before the content, or less than four bytes before the end.
    #[error("a cell pointer leads to byte {0}, outside of the content")]
    OutOfRange(u16),
    /// It ends behind the page's end.
    #[error("the cell at byte {0} extends off the end of the page")]
    PastEnd(u16),
    /// Longer than any that SQLite writes.
    #[error("the cell at byte {0} claims a payload of {1} bytes")]
    PayloadTooLong(u16, u64),
}

impl<'a> Cell<'a> {
    /// The cell at byte `at` of a page of this kind; `bytes` are the page's usable ones.
    ///
    /// # Errors
    /// [`CellError`].
    // A scrub calls this for every cell with a kind that it knows: inlined, what the kind does not have is not compiled.
    #[inline(always)]
    pub fn parse(bytes: &'a [u8], at: u16, kind: PageKind, geometry: &Geometry) -> Result<Cell<'a>, CellError> {
        let start = usize::from(at);
        // Cutting here lets the compiler see that the child's number is there.
        let head = bytes.get(start..).and_then(<[u8]>::first_chunk::<4>).ok_or(CellError::OutOfRange(at))?;
        let past_end = CellError::PastEnd(at);
        let mut end = start;
        let mut left_child = None;
        if !kind.is_leaf() {
            left_child = Some(u32::from_be_bytes(*head));
            end += 4;
        }
        let mut payload_len = 0;
        if kind != PageKind::TableInterior {
            let (len, width) = read_varint(bytes, end).ok_or(past_end)?;
            if len > u64::from(PAYLOAD_MAX) {
                return Err(CellError::PayloadTooLong(at, len));
            }
            payload_len = len as u32;
            end += width;
        }
        let mut rowid = None;
        if kind.is_table() {
            let (key, width) = read_varint(bytes, end).ok_or(past_end)?;
            rowid = Some(key.cast_signed());
            end += width;
        }
        let local_len = geometry.local_len(kind, payload_len);
        let local = bytes.get(end..end + local_len as usize).ok_or(past_end)?;
        end += local.len();
        let mut first_overflow = None;
        if local_len < payload_len {
            first_overflow = Some(be32(bytes, end).ok_or(past_end)?);
            end += 4;
        }
        // Four bytes from `start` on are there, so that the least size needs no test of its own.
        let size = (end - start).max(4) as u32;
        Ok(Cell { at, size, left_child, rowid, payload_len, local, first_overflow })
    }

    /// Bytes of the payload that stand on overflow pages.
    #[inline]
    pub fn spilled(&self) -> u32 {
        self.payload_len.saturating_sub(self.local.len() as u32)
    }
}
