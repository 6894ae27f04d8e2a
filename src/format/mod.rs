//! The SQLite file format: bytes in, a struct or an error out. No IO, no unsafe, no panic, whatever the bytes.
//!
//! Facts come from sqlite.org's "Database File Format" and "WAL-mode File Format", and from `pager.c` and `wal.c`
//! where those pages are silent; each file names its own. Raw scans run *before* SQLite opens anything, because
//! looking is not harmless: SQLite rolls a damaged hot journal back, and hides a damaged WAL.
//!
//! Whoever has a file gives a scan its length and a closure that fills a buffer from an offset, so that this room
//! stays free of IO and a scan of a gigabyte holds one window in memory.

mod bytes;
mod freelist;
pub mod header;
pub mod journal;
mod journal_mend;
mod lost_page;
pub mod wal;
mod wal_blind;
pub mod wal_index;
mod wal_mend;
mod wal_scan;
mod window;

pub use freelist::free_leaves;
pub use header::{Encoding, Header, HeaderError, SCHEMA_FORMAT_MAX, SizeVerdict, versions_put_right};
pub use journal::{JournalError, JournalHeader, JournalScan, JournalState, scan_journal};
pub use journal_mend::{MendedJournal, PreImage, mend_journal};
pub use lost_page::lost_page;
pub use wal::{WalHeader, WalHeaderError};
pub use wal_index::{WalIndex, WalIndexError};
pub use wal_mend::{FrameState, KeptFrame, MendedWal, Patch, Resum, WalHints, WalVariant, mend_wal};
pub use wal_scan::{BadFrame, WalHeaderState, WalMark, WalScan, WalScanner, scan_wal};
