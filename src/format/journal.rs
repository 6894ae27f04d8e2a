//! A rollback journal, read as SQLite would play it back, without playing it back.
//!
//! ```text
//! header: 0 magic (8)  8 records  12 nonce  16 pages before  20 sector size  24 page size   (padded to a sector)
//! record: 0 page number (4)   4 the page as it was   then nonce + every 200th byte of it (4)
//! end:    page number of the lock page (4), super-journal name, its length (4), its sum (4), magic (8)
//! ```
//! Big-endian. A transaction that spills more than once has several segments, each beginning at a sector boundary
//! with a header and a nonce of its own. `readJournalHdr`, `pager_playback`, `readSuperJournal` in `pager.c`.
//!
//! SQLite stops at the first record that fails and then *deletes the journal*, leaving the database half rolled
//! back. What the header promises is therefore checked before anybody opens the database.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::bytes::{be32, is_page_size};
use super::window::Window;

/// Bytes of a segment header that mean something.
pub const JOURNAL_HEADER_LEN: usize = 28;
pub(super) const MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
/// The record count of a writer that does not sync: the file's size is the count.
pub(super) const BY_SIZE: u32 = 0xffff_ffff;
/// Larger than any path, so that a crafted length reads no more.
const SUPER_NAME_MAX: u64 = 4096;
/// Where SQLite's lock bytes lie; the page there holds no content, and stands before a super-journal name.
pub(super) const LOCK_BYTE: u32 = 0x4000_0000;

/// The first segment's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalHeader {
    /// Records promised: 0 not synced yet (nothing is rolled back), `u32::MAX` by the file's size.
    pub records: u32,
    /// Seeds each record's sum.
    pub nonce: u32,
    /// Pages before the transaction; the rollback truncates the database to it.
    pub initial_pages: u32,
    /// What headers are padded to.
    pub sector_size: u32,
    /// Bytes per page; 0 from writers older than 3.5.8.
    pub page_size: u32,
}

/// Why SQLite would roll nothing back, and delete the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum JournalError {
    /// Shorter than its header's sector.
    #[error("the journal is cut short at {0} bytes, within its header")]
    Short(u64),
    /// Not a journal's magic number.
    #[error("the journal does not begin with a journal's magic number")]
    NotMagic,
    /// Not a power of two from 32 to 65,536.
    #[error("the journal's sector size field holds {0}")]
    BadSectorSize(u32),
    /// Not a power of two from 512 to 65,536.
    #[error("the journal's page size field holds {0}")]
    BadPageSize(u32),
}

/// What a journal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JournalState {
    /// No bytes: what journal_mode=TRUNCATE leaves.
    Empty,
    /// A zeroed header: what journal_mode=PERSIST leaves. SQLite looks at the first byte alone.
    ZeroedHeader,
    /// Nonzero, and no header: SQLite would delete it and roll nothing back.
    BadHeader(JournalError),
    /// Hot, unless its writer is alive (it holds RESERVED) or its super-journal is gone.
    Valid(JournalHeader),
}

/// What a scan found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalScan {
    /// The header.
    pub state: JournalState,
    /// Segments with a header.
    pub segments: u32,
    /// Records that SQLite would play back.
    pub records_valid: u64,
    /// Records that the headers promise.
    pub records_promised: u64,
    /// The first promised record that is bad or missing, counted from 1 over all segments.
    pub first_bad: Option<u64>,
    /// The super-journal of a transaction over several files. When that file is gone, the journal is not hot.
    pub super_journal: Option<String>,
}

impl JournalScan {
    /// True when every promised record is there and right, or there is nothing to roll back. False for damage, and
    /// for a torn header that a power cut may have left: then nobody may open the database before there is a copy.
    pub fn is_sound(&self) -> bool {
        self.first_bad.is_none() && !matches!(self.state, JournalState::BadHeader(_))
    }

    /// True when SQLite would try to roll it back (unless its writer lives).
    pub fn may_be_hot(&self) -> bool {
        matches!(self.state, JournalState::Valid(_) | JournalState::BadHeader(_))
    }
}

/// Scans a journal of `file_len` bytes through `read`, which fills a buffer from an offset. `database_page_size` is
/// needed only for journals of writers older than 3.5.8, which do not say it.
///
/// # Errors
/// Whatever `read` gives; damage is a result, not an error.
pub fn scan_journal<E>(
    file_len: u64,
    database_page_size: Option<u32>,
    read: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
) -> Result<JournalScan, E> {
    let mut window = Window::new(file_len, read);
    let state = first_header(&mut window, file_len, database_page_size)?;
    let mut scan = JournalScan {
        state,
        segments: 0,
        records_valid: 0,
        records_promised: 0,
        first_bad: None,
        super_journal: super_journal(&mut window, file_len)?,
    };
    if let JournalState::Valid(header) = state {
        let page_size = if header.page_size == 0 { database_page_size.unwrap_or(0) } else { header.page_size };
        play(&mut window, file_len, header, page_size, &mut scan)?;
    }
    Ok(scan)
}

pub(super) fn first_header<E, R: FnMut(u64, &mut [u8]) -> Result<(), E>>(
    window: &mut Window<R>,
    file_len: u64,
    database_page_size: Option<u32>,
) -> Result<JournalState, E> {
    let Some(first) = window.get(0, 1)? else {
        return Ok(JournalState::Empty);
    };
    if first == [0] {
        return Ok(JournalState::ZeroedHeader);
    }
    let Some(bytes) = window.get(0, JOURNAL_HEADER_LEN)? else {
        return Ok(JournalState::BadHeader(JournalError::Short(file_len)));
    };
    if !bytes.starts_with(&MAGIC) {
        return Ok(JournalState::BadHeader(JournalError::NotMagic));
    }
    let header = fields(bytes);
    let page_size = if header.page_size == 0 { database_page_size.unwrap_or(0) } else { header.page_size };
    Ok(if !(32..=65_536).contains(&header.sector_size) || !header.sector_size.is_power_of_two() {
        JournalState::BadHeader(JournalError::BadSectorSize(header.sector_size))
    } else if !is_page_size(page_size) {
        JournalState::BadHeader(JournalError::BadPageSize(page_size))
    } else if file_len < u64::from(header.sector_size) {
        JournalState::BadHeader(JournalError::Short(file_len))
    } else {
        JournalState::Valid(header)
    })
}

pub(super) fn fields(bytes: &[u8]) -> JournalHeader {
    let field = |at| be32(bytes, at).unwrap_or(0);
    JournalHeader {
        records: field(8),
        nonce: field(12),
        initial_pages: field(16),
        sector_size: field(20),
        page_size: field(24),
    }
}

/// Walks all segments. Each turn moves on by a sector at least, so the walk is bounded by the file.
fn play<E, R: FnMut(u64, &mut [u8]) -> Result<(), E>>(
    window: &mut Window<R>,
    file_len: u64,
    first: JournalHeader,
    page_size: u32,
    scan: &mut JournalScan,
) -> Result<(), E> {
    let sector = u64::from(first.sector_size);
    let record_len = u64::from(page_size) + 8;
    let lock_page = LOCK_BYTE / page_size.max(1) + 1;
    let mut segment = first;
    let mut at = sector;
    loop {
        scan.segments = scan.segments.saturating_add(1);
        let by_size = segment.records == BY_SIZE;
        let promised = if by_size { file_len.saturating_sub(at) / record_len } else { u64::from(segment.records) };
        let mut walk = Walk { at, left: promised, record_len, lock_page, nonce: segment.nonce };
        let valid = walk.valid(window, first.initial_pages)?;
        scan.records_valid += valid;
        if valid < promised {
            // By size, leftovers of an older and longer transaction count too (PERSIST): they prove nothing. A record
            // of *this* transaction behind the bad one does, because its sum is seeded with this nonce.
            let damaged = !by_size || walk.valid_behind(window)?;
            scan.records_promised += if by_size && !damaged { valid } else { promised };
            if damaged {
                scan.first_bad = Some(scan.records_valid + 1);
            }
            return Ok(());
        }
        scan.records_promised += promised;
        at = (at + promised * record_len).div_ceil(sector) * sector;
        let Some(bytes) = window.get(at, first.sector_size.max(JOURNAL_HEADER_LEN as u32) as usize)? else {
            return Ok(());
        };
        if !bytes.starts_with(&MAGIC) {
            return Ok(());
        }
        segment = fields(bytes);
        at += sector;
    }
}

struct Walk {
    at: u64,
    left: u64,
    record_len: u64,
    lock_page: u32,
    nonce: u32,
}

impl Walk {
    /// How many records from here SQLite would play back.
    fn valid<E, R: FnMut(u64, &mut [u8]) -> Result<(), E>>(
        &mut self,
        window: &mut Window<R>,
        initial_pages: u32,
    ) -> Result<u64, E> {
        let mut valid = 0;
        while self.left > 0 {
            let Some(record) = window.get(self.at, self.record_len as usize)? else {
                return Ok(valid);
            };
            let page = be32(record, 0).unwrap_or(0);
            // A page that the transaction appended is skipped before its sum is looked at.
            let good =
                page != 0 && page != self.lock_page && (page > initial_pages || sum_is_right(record, self.nonce));
            if !good {
                return Ok(valid);
            }
            valid += 1;
            self.left -= 1;
            self.at += self.record_len;
        }
        Ok(valid)
    }

    /// True when behind the bad record there is one with this segment's nonce.
    fn valid_behind<E, R: FnMut(u64, &mut [u8]) -> Result<(), E>>(
        &mut self,
        window: &mut Window<R>,
    ) -> Result<bool, E> {
        while self.left > 1 {
            self.left -= 1;
            self.at += self.record_len;
            match window.get(self.at, self.record_len as usize)? {
                Some(record) if be32(record, 0) != Some(0) && sum_is_right(record, self.nonce) => return Ok(true),
                Some(_) => {}
                None => return Ok(false),
            }
        }
        Ok(false)
    }
}

/// `pager_cksum`: the nonce and every 200th byte, counted from the page's end.
fn sum_is_right(record: &[u8], nonce: u32) -> bool {
    let Some(end) = record.len().checked_sub(4) else {
        return false;
    };
    be32(record, end) == Some(nonce.wrapping_add(sampled_sum(record)))
}

/// What of a record's page goes into its sum.
pub(super) fn sampled_sum(record: &[u8]) -> u32 {
    let page = record.get(4..record.len().saturating_sub(4)).unwrap_or_default();
    let sampled = (1..).map_while(|n: usize| page.len().checked_sub(200 * n)).take_while(|at| *at > 0);
    sampled.filter_map(|at| page.get(at)).fold(0, |sum, byte| sum.wrapping_add(u32::from(*byte)))
}

fn super_journal<E, R: FnMut(u64, &mut [u8]) -> Result<(), E>>(
    window: &mut Window<R>,
    file_len: u64,
) -> Result<Option<String>, E> {
    let Some(at) = file_len.checked_sub(16) else {
        return Ok(None);
    };
    let Some(trailer) = window.get(at, 16)? else {
        return Ok(None);
    };
    let (len, sum) = (u64::from(be32(trailer, 0).unwrap_or(0)), be32(trailer, 4).unwrap_or(0));
    if !trailer.ends_with(&MAGIC) || len == 0 || len > SUPER_NAME_MAX || len > at {
        return Ok(None);
    }
    let Some(name) = window.get(at - len, len as usize)? else {
        return Ok(None);
    };
    // C's plain `char` is signed on some processors and not on others: either sum is taken.
    let signed = name.iter().fold(0u32, |sum, byte| sum.wrapping_add(i32::from(byte.cast_signed()).cast_unsigned()));
    let unsigned = name.iter().fold(0u32, |sum, byte| sum.wrapping_add(u32::from(*byte)));
    Ok((sum == signed || sum == unsigned).then(|| String::from_utf8_lossy(name).into_owned()))
}

#[cfg(test)]
pub(super) mod tests;
