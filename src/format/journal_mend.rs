//! What can be rolled back of a rollback journal beyond SQLite's own reading: every record that verifies, also behind one that
//! does not, and records behind a header that is gone.
//!
//! A header is told by the records: each one's sum is the nonce and what of its page is sampled, so two that agree on the
//! nonce are records. How many pages there were before, page 1 says: as the journal has it, or where the transaction did not
//! touch it, as it stands in the main file.

use std::collections::BTreeSet;

use super::bytes::be32;
use super::header::{HEADER_LEN, Header};
use super::journal::{
    BY_SIZE, JOURNAL_HEADER_LEN, JournalHeader, JournalState, LOCK_BYTE, MAGIC, fields, first_header, sampled_sum,
};
use super::window::Window;

/// Where a header's sector may end; SQLite writes 512 on nearly every system.
const SECTORS: [u32; 2] = [512, 4096];

/// A page as it was before the transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreImage {
    /// Where in the journal it begins.
    pub at: u64,
    /// Which page.
    pub page: u32,
}

/// What can be rolled back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MendedJournal {
    /// Bytes per page.
    pub page_size: u32,
    /// Pages before the transaction, where the journal says it.
    pub initial_pages: Option<u32>,
    /// In order; of each page the first is the one that counts.
    pub pre_images: Vec<PreImage>,
    /// Records that were promised, and are hurt or missing.
    pub bad: u64,
    /// The first header was gone.
    pub header_hurt: bool,
}

/// Reads a journal of `file_len` bytes through `read`; `None` when there is nothing to roll back.
///
/// # Errors
/// Whatever `read` gives; damage is a result, not an error.
pub fn mend_journal<E>(
    file_len: u64,
    database_page_size: Option<u32>,
    read: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
) -> Result<Option<MendedJournal>, E> {
    let mut window = Window::new(file_len, read);
    let (header, header_hurt) = match first_header(&mut window, file_len, database_page_size)? {
        JournalState::Empty => return Ok(None),
        JournalState::Valid(header) => (header, false),
        JournalState::ZeroedHeader | JournalState::BadHeader(_) => {
            match told_by_records(&mut window, database_page_size)? {
                Some(header) => (header, true),
                None => return Ok(None),
            }
        }
    };
    let page_size = if header.page_size == 0 { database_page_size.unwrap_or(0) } else { header.page_size };
    let mut mended = MendedJournal { page_size, initial_pages: None, pre_images: Vec::new(), bad: 0, header_hurt };
    collect(&mut window, file_len, header, &mut mended)?;
    mended.initial_pages =
        if header_hurt { pages_of_page_one(&mut window, &mended)? } else { Some(header.initial_pages) };
    Ok((!mended.pre_images.is_empty()).then_some(mended))
}

/// A header for records whose own is gone: its count goes as far as they verify.
fn told_by_records<E, R: FnMut(u64, &mut [u8]) -> Result<(), E>>(
    window: &mut Window<R>,
    database_page_size: Option<u32>,
) -> Result<Option<JournalHeader>, E> {
    let Some(page_size) = database_page_size else { return Ok(None) };
    let record_len = u64::from(page_size) + 8;
    for sector_size in SECTORS {
        let mut nonce = None;
        let mut records = 0;
        while let Some(record) =
            window.get(u64::from(sector_size) + u64::from(records) * record_len, record_len as usize)?
        {
            let page = be32(record, 0).unwrap_or(0);
            let stored = be32(record, record.len() - 4).unwrap_or(0);
            let own = stored.wrapping_sub(sampled_sum(record));
            if page == 0 || *nonce.get_or_insert(own) != own {
                break;
            }
            records += 1;
        }
        // Two agree by chance once in 2^32; one agrees with itself.
        if let Some(nonce) = nonce.filter(|_| records >= 2) {
            return Ok(Some(JournalHeader { records, nonce, initial_pages: u32::MAX, sector_size, page_size }));
        }
    }
    Ok(None)
}

fn collect<E, R: FnMut(u64, &mut [u8]) -> Result<(), E>>(
    window: &mut Window<R>,
    file_len: u64,
    first: JournalHeader,
    mended: &mut MendedJournal,
) -> Result<(), E> {
    let sector = u64::from(first.sector_size);
    let record_len = u64::from(mended.page_size) + 8;
    let lock_page = LOCK_BYTE / mended.page_size.max(1) + 1;
    let (mut segment, mut at) = (first, sector);
    let mut seen = BTreeSet::new();
    loop {
        let by_size = segment.records == BY_SIZE;
        let promised = if by_size { file_len.saturating_sub(at) / record_len } else { u64::from(segment.records) };
        let mut behind = 0;
        for number in 0..promised {
            let start = at + number * record_len;
            let Some(record) = window.get(start, record_len as usize)? else {
                mended.bad += promised - number;
                return Ok(());
            };
            let page = be32(record, 0).unwrap_or(0);
            let sum = be32(record, record.len() - 4).unwrap_or(0);
            let sound = page != 0 && page != lock_page && sum == segment.nonce.wrapping_add(sampled_sum(record));
            if sound {
                // By size, leftovers of an older transaction stand behind: only between sound records is one missing.
                mended.bad += std::mem::take(&mut behind);
            } else {
                behind += 1;
            }
            // What the transaction appended is cut off. A page is journaled once; a second record of it has a hurt number.
            if sound && page <= first.initial_pages && seen.insert(page) {
                mended.pre_images.push(PreImage { at: start + 4, page });
            }
        }
        mended.bad += if by_size { 0 } else { behind };
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

fn pages_of_page_one<E, R: FnMut(u64, &mut [u8]) -> Result<(), E>>(
    window: &mut Window<R>,
    mended: &MendedJournal,
) -> Result<Option<u32>, E> {
    let Some(first) = mended.pre_images.iter().find(|image| image.page == 1) else { return Ok(None) };
    let header = window.get(first.at, HEADER_LEN)?.and_then(|bytes| Header::parse(bytes).ok());
    Ok(header.and_then(|header| header.counted_pages()))
}

#[cfg(test)]
mod tests {
    use super::super::journal::tests::hot_pair;
    use super::*;

    fn mend(bytes: &[u8]) -> Option<MendedJournal> {
        let read = |at: u64, into: &mut [u8]| -> Result<(), ()> {
            let from = usize::try_from(at).unwrap();
            into.copy_from_slice(&bytes[from..from + into.len()]);
            Ok(())
        };
        mend_journal(bytes.len() as u64, Some(4096), read).unwrap()
    }

    /// The main file after a rollback by hand.
    fn rolled_back(main: &[u8], journal: &[u8], mended: &MendedJournal) -> Vec<u8> {
        let mut main = main.to_vec();
        for image in &mended.pre_images {
            let (from, to) = (image.at as usize, (image.page as usize - 1) * 4096);
            main.resize(main.len().max(to + 4096), 0);
            main[to..to + 4096].copy_from_slice(&journal[from..from + 4096]);
        }
        main.resize(mended.initial_pages.unwrap() as usize * 4096, 0);
        main
    }

    #[test]
    fn a_sound_journal_takes_the_database_back_to_the_byte() {
        let (before, main, journal) = hot_pair();
        assert!(before != main);
        let mended = mend(&journal).unwrap();
        assert_eq!((mended.bad, mended.header_hurt), (0, false));
        assert!(rolled_back(&main, &journal, &mended) == before);
    }

    #[test]
    fn records_behind_a_hurt_one_are_rolled_back_too() {
        let (before, main, mut journal) = hot_pair();
        let whole = mend(&journal).unwrap();
        // A byte that the sum covers, of the third record.
        journal[512 + 2 * 4104 + 4 + 4096 - 400] ^= 0x40;
        let mended = mend(&journal).unwrap();
        assert_eq!((mended.bad, mended.pre_images.len()), (1, whole.pre_images.len() - 1));
        let hurt = whole.pre_images[2].page as usize - 1;
        let (got, page) = (rolled_back(&main, &journal, &mended), hurt * 4096..(hurt + 1) * 4096);
        assert!(got[..page.start] == before[..page.start] && got[page.end..] == before[page.end..]);
    }

    #[test]
    fn a_header_that_is_gone_is_told_by_the_records() {
        let (before, main, mut journal) = hot_pair();
        for damage in [[0_u8; 28], [0xa5; 28]] {
            journal[..28].copy_from_slice(&damage);
            let mended = mend(&journal).unwrap();
            assert!(mended.header_hurt && mended.bad == 0, "{} bad", mended.bad);
            assert!(rolled_back(&main, &journal, &mended) == before);
        }
    }

    #[test]
    fn a_cut_journal_tells_how_much_is_missing() {
        let (_, _, journal) = hot_pair();
        let whole = mend(&journal).unwrap();
        let cut = mend(&journal[..512 + 4 * 4104 + 77]).unwrap();
        assert_eq!(cut.pre_images, whole.pre_images[..4]);
        assert!(cut.bad > 0);
        assert_eq!(mend(&[]), None);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(0u8.., 0..9000), valid: bool, records in 0u32..5, sector in 5u32..14) {
            let mut journal = bytes;
            if valid && journal.len() > 28 {
                journal[..8].copy_from_slice(&MAGIC);
                for (n, field) in [records.wrapping_sub(1), 7, 3, 1 << sector, 1024].into_iter().enumerate() {
                    journal[8 + 4 * n..12 + 4 * n].copy_from_slice(&field.to_be_bytes());
                }
            }
            mend(&journal);
        }
    }
}
