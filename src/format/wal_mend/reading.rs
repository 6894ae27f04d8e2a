//! The first pass: header, frame headers, and the sum over each page alone. With these, every question about the chain is
//! arithmetic.

use super::sums::{Summed, Sums, pair};
use super::{WalHints, page_at};
use crate::format::bytes::be32;
use crate::format::wal::{FRAME_HEADER_LEN, FrameHeader, MAGIC, VERSION, WAL_HEADER_LEN, WalHeader, WalHeaderError};
use crate::format::wal::{checksum, frame_len};
use crate::format::window::Window;

/// A frame as it stands there.
#[derive(Debug, Clone, Copy)]
pub(super) struct RawFrame {
    pub summed: Summed,
    pub salts: (u32, u32),
    pub stored: [u32; 2],
}

/// The file as it stands there.
#[derive(Debug)]
pub(super) struct Found {
    pub header: WalHeader,
    pub header_hurt: bool,
    /// The sum that frame 1 goes on from, where it is known.
    pub seed: Option<[u32; 2]>,
    pub frames: Vec<RawFrame>,
}

const PAGE_SIZES: [u32; 8] = [4096, 1024, 8192, 16_384, 2048, 32_768, 65_536, 512];

pub(super) fn read<E, R: FnMut(u64, &mut [u8]) -> Result<(), E>>(
    window: &mut Window<R>,
    hints: &WalHints,
) -> Result<Option<Found>, E> {
    let mut head = [0_u8; WAL_HEADER_LEN];
    match window.get(0, WAL_HEADER_LEN)? {
        Some(bytes) => head.copy_from_slice(bytes),
        None => return Ok(None),
    }
    match WalHeader::parse(&head) {
        Ok(header) => {
            let frames = frames(window, header.page_size, header.big_endian)?;
            let seed = Some(header.checksum);
            Ok(Some(Found { header, header_hurt: false, seed, frames }))
        }
        // Its sum is right: whoever wrote it meant something that we do not know.
        Err(WalHeaderError::NewerVersion(_)) => Ok(None),
        Err(_) => without_header(window, &head, hints),
    }
}

/// The header is bad: the frames tell the page size by their distance and the byte order by their sums.
fn without_header<E, R: FnMut(u64, &mut [u8]) -> Result<(), E>>(
    window: &mut Window<R>,
    head: &[u8; WAL_HEADER_LEN],
    hints: &WalHints,
) -> Result<Option<Found>, E> {
    let Some(page_size) = page_size(window, hints)? else { return Ok(None) };
    let magic = be32(head, 0).unwrap_or(0);
    let likely = magic & !1 == MAGIC && magic & 1 == 1;
    for big_endian in [likely, !likely] {
        let frames = frames(window, page_size, big_endian)?;
        if let Some(found) = generation(head, page_size, big_endian, frames, hints) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The page size at whose distance most frames follow one of their own generation.
fn page_size<E, R: FnMut(u64, &mut [u8]) -> Result<(), E>>(
    window: &mut Window<R>,
    hints: &WalHints,
) -> Result<Option<u32>, E> {
    let mut best = hints.page_size.map(|size| (0, size));
    for size in hints.page_size.into_iter().chain(PAGE_SIZES) {
        let (mut pairs, mut before) = (0_u64, None);
        let mut index = 0;
        while let Some(bytes) = window.get(page_at(size, index) - FRAME_HEADER_LEN as u64, frame_len(size))? {
            let frame = FrameHeader::parse(bytes).filter(|frame| frame.page != 0);
            let salts = frame.map(|frame| (frame.salt1, frame.salt2)).filter(|salts| *salts != (0, 0));
            pairs += u64::from(salts.is_some() && salts == before);
            before = salts;
            index += 1;
        }
        if best.is_none_or(|(most, _)| pairs > most) {
            best = Some((pairs, size));
        }
    }
    Ok(best.filter(|(pairs, size)| *pairs > 0 || hints.page_size == Some(*size)).map(|(_, size)| size))
}

/// Every whole frame.
fn frames<E, R: FnMut(u64, &mut [u8]) -> Result<(), E>>(
    window: &mut Window<R>,
    page_size: u32,
    big_endian: bool,
) -> Result<Vec<RawFrame>, E> {
    let mut frames = Vec::new();
    while let Some(bytes) =
        window.get(page_at(page_size, frames.len()) - FRAME_HEADER_LEN as u64, frame_len(page_size))?
    {
        let (Some(head), Some(page)) = (FrameHeader::parse(bytes), bytes.get(FRAME_HEADER_LEN..)) else { break };
        frames.push(RawFrame {
            summed: Summed {
                page: head.page,
                commit_pages: head.commit_pages,
                own: checksum(page, [0, 0], big_endian),
            },
            salts: (head.salt1, head.salt2),
            stored: head.checksum,
        });
    }
    Ok(frames)
}

/// The generation, from the sum that frame 1 went on from; else from two frames that go together and are vouched for: frames that
/// were checkpointed long ago go together as well.
fn generation(
    head: &[u8; WAL_HEADER_LEN],
    page_size: u32,
    big_endian: bool,
    frames: Vec<RawFrame>,
    hints: &WalHints,
) -> Option<Found> {
    let sums = Sums::new(page_size, big_endian);
    let field = |at| be32(head, at).unwrap_or(0);
    let (in_header, stored) = ((field(16), field(20)), [field(24), field(28)]);
    let rebuilt = |checkpoint, salts: (u32, u32)| {
        WalHeader { big_endian, page_size, checkpoint, salt1: salts.0, salt2: salts.1, checksum: [0, 0] }.summed()
    };
    let first = frames.first()?;
    // The sum behind frame 1, as it says itself and as frame 2 has it.
    let behind_first = [Some(first.stored), frames.get(1).map(|next| sums.before(next.stored, &next.summed))];
    let indexed = hints.index.map(|(salts, _)| salts);
    for salts in [Some(first.salts), Some(in_header), indexed].into_iter().flatten() {
        for behind in behind_first.into_iter().flatten() {
            let before = sums.before(behind, &first.summed);
            if let Some(checkpoint) = checkpoint_number(&sums, page_size, salts, before) {
                let header = rebuilt(checkpoint, salts);
                return Some(Found { header, header_hurt: true, seed: Some(before), frames });
            }
        }
    }
    // Frame 1 is hurt as well.
    let goes_on = |two: &&[RawFrame]| {
        let [one, next] = two else { return false };
        one.salts == next.salts && sums.after(one.stored, &next.summed) == next.stored
    };
    let salts = frames.windows(2).find(goes_on)?.first()?.salts;
    if indexed != Some(salts) && in_header != salts {
        return None;
    }
    // The header's own sum may be all that is left of it; only a frame that goes on from it can tell.
    let seed = (stored != [0, 0]).then_some(stored);
    Some(Found { header: rebuilt(field(12), salts), header_hurt: true, seed, frames })
}

/// The checkpoint number with which a header of this generation sums up to `wanted`: 64 bits for 32, so that half of them prove
/// it.
fn checkpoint_number(sums: &Sums, page_size: u32, salts: (u32, u32), wanted: [u32; 2]) -> Option<u32> {
    let magic = MAGIC | u32::from(sums.word(1) == 1);
    let begun = pair([0, 0], sums.word(magic), sums.word(VERSION));
    // After the second pair the first half is known; the second half is what the third pair must have begun with.
    let first = begun[0].wrapping_add(begun[1]).wrapping_add(sums.word(page_size));
    let second = wanted[0].wrapping_sub(first).wrapping_sub(sums.word(salts.0));
    let number = second.wrapping_sub(begun[1]).wrapping_sub(first);
    let reached = pair([first, second], sums.word(salts.0), sums.word(salts.1));
    (reached == wanted).then(|| sums.word(number))
}
