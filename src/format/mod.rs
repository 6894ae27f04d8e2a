//! The SQLite file format: bytes in, a struct or an error out. No IO, no unsafe, no panic, whatever the bytes.
//!
//! Facts come from sqlite.org's "Database File Format" and "WAL-mode File Format", and from `pager.c` and `wal.c`
//! where those pages are silent; each file names its own. Raw scans run *before* SQLite opens anything, because
//! looking is not harmless: SQLite rolls a damaged hot journal back, and hides a damaged WAL.
//!
//! Whoever has a file gives a scan its length and a closure that fills a buffer from an offset, so that this room
//! stays free of IO and a scan of a gigabyte holds one window in memory.

mod bytes;
mod cell;
mod coverage;
mod freelist;
mod freelist_mend;
pub mod fuzz;
mod geometry;
pub mod header;
mod header_mend;
pub mod journal;
mod journal_mend;
mod lost_page;
mod overflow;
mod page;
mod page_map;
mod pointer_map;
mod record;
pub mod salvage;
mod schema;
mod scrub;
mod text;
mod tree;
mod varint;
pub mod wal;
mod wal_blind;
pub mod wal_index;
mod wal_mend;
mod wal_scan;
mod window;

pub use cell::{Cell, CellError, PAYLOAD_MAX};
pub use coverage::{Coverage, CoverageError};
pub use freelist::{FreelistFault, FreelistItem, free_leaves, walk_freelist};
pub use freelist_mend::{find_freelist, make_freelist};
pub use geometry::{Geometry, POINTER_MAP_ENTRY_LEN};
pub use header::{Encoding, Header, HeaderError, SCHEMA_FORMAT_MAX, SizeVerdict, versions_put_right};
pub use header_mend::{KnownHeader, header_of_known, header_put_right, named_page_size, vouches_for_its_fields};
pub use journal::{JournalError, JournalHeader, JournalScan, JournalState, scan_journal};
pub use journal_mend::{MendedJournal, PreImage, mend_journal};
pub use lost_page::lost_page;
pub use overflow::{ChainError, Link, OverflowChain, Shortfall, assemble};
pub use page::{BtreePage, FreeblockError, Freeblocks, PageError, PageKind};
pub use page_map::{
    Hashing, MAP_PAGES_MAX, MapHead, MappedTree, PageHash, PageMap, PageMapError, RememberedPages, known_hash,
    page_hash,
};
pub use pointer_map::{PointerMapEntry, PointerMapKind, pointer_map_entries};
pub use record::{
    Column, Columns, Owned, RECORD_HEADER_MAX, Record, RecordError, Soundness, Value, content_len, record_is_sound,
};
pub use schema::{PlacedSchemaRow, Schema, SchemaFault, SchemaKind, SchemaRow, read_schema};
pub use scrub::{
    Absent, Allowed, Collation, IndexContent, KeyPart, PageSource, PageUse, Scrub, ScrubError, ScrubFault,
    ScrubFaultKind, ScrubPlan, ScrubbedTree, StoredColumn, TableContent, Watch, key_order, scrub,
};
pub use tree::{DEPTH_MAX, TreeFault, walk_tree};
pub use varint::{VARINT_MAX, read_varint, varint_len};
pub use wal::{WalHeader, WalHeaderError};
pub use wal_index::{WalIndex, WalIndexError};
pub use wal_mend::{FrameState, KeptFrame, MendedWal, Patch, Resum, WalHints, WalVariant, mend_wal};
pub use wal_scan::{BadFrame, WalHeaderState, WalMark, WalScan, WalScanner, scan_wal};

#[cfg(test)]
mod tests;
