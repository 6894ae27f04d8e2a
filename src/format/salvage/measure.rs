//! Page size, reserved bytes and encoding, by what comes out whole under them: a header can lie, or be gone.
//!
//! A page read with another size or other usable bytes than it was written with does not add up ([`Coverage`]): its cells and
//! freeblocks do not fill what its header counts. So the size under which most bytes stand on sound pages is the size.

use super::super::cell::Cell;
use super::super::coverage::Coverage;
use super::super::header::HEADER_LEN;
use super::super::page::{BtreePage, PageKind};
use super::super::pointer_map::{PointerMapKind, pointer_map_entries};
use super::super::record::{Record, Value};
use super::super::{Encoding, Geometry, Header};
use super::Pages;

/// What of a file tells its page size, in bytes; of a larger one so much is looked at, spread over it in pieces of the largest page.
const SAMPLE: u64 = 8 << 20;
const PIECE: u64 = 64 << 10;
/// Pages whose texts tell the encoding, and texts of each.
const ENCODING_PAGES: u32 = 2000;

/// A file's measures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measures {
    /// Page size and usable bytes.
    pub geometry: Geometry,
    /// Sound pages among those that were looked at; with none the geometry is the header's word alone.
    pub sound: u64,
    /// The header, where it can be read and agrees.
    pub header: Option<Header>,
}

/// Measures a file of `len` bytes. `read` fills a buffer from an offset, with zeros behind the end. `None` when neither pages nor a
/// header tell anything.
pub fn measure(len: u64, read: &dyn Fn(u64, &mut [u8])) -> Option<Measures> {
    let mut head = [0; HEADER_LEN];
    read(0, &mut head);
    let header = header_of(&head);
    let written = header.and_then(|header| Geometry::new(header.page_size, header.reserved));
    let sample = Sample::of(len, read);
    let mut best: Option<(u64, u64, Geometry)> = None;
    for size in (9..=16).map(|bits| 1u32 << bits) {
        let mut reserves = vec![0, head[20]];
        if let Some(reserved) = usual_reserve(&sample, size) {
            reserves.push(reserved);
        }
        reserves.sort_unstable();
        reserves.dedup();
        for geometry in reserves.into_iter().filter_map(|reserved| Geometry::new(size, reserved)) {
            let sound = sound_pages(&sample, &geometry);
            // What the header says wins where as much comes out whole.
            let weight = 2 * sound * u64::from(size) + u64::from(Some(geometry) == written);
            if sound > 0 && best.is_none_or(|(most, ..)| weight > most) {
                best = Some((weight, sound, geometry));
            }
        }
    }
    let (sound, geometry) = match (best, written) {
        (Some((_, sound, geometry)), _) => (sound, geometry),
        (None, Some(geometry)) => (0, geometry),
        (None, None) => return None,
    };
    // The pages know better than the header; the rest of it is as it is.
    let reserved = (geometry.page_size() - geometry.usable()) as u8;
    let header = header.map(|header| Header { page_size: geometry.page_size(), reserved, ..header });
    Some(Measures { geometry, sound, header })
}

/// The header at the beginning of page 1, also one of which what is always the same is hurt.
pub fn header_of(page: &[u8]) -> Option<Header> {
    let head = page.first_chunk::<HEADER_LEN>()?;
    Header::parse(head).ok().or_else(|| Header::parse(&put_right(head)).ok())
}

/// Whether a database has pointer maps: by its header, or where there is none, by what stands on page 2.
pub fn has_pointer_maps(pages: &dyn Pages, geometry: &Geometry, header: Option<&Header>) -> bool {
    if let Some(header) = header {
        return header.largest_root != 0;
    }
    let Some(bytes) = pages.page(2).filter(|_| pages.count() > 3) else { return false };
    let maps = geometry.with_pointer_maps(true);
    pointer_map_entries(&bytes, 2, pages.count(), &maps).all(|(_, entry)| {
        entry.is_some_and(|entry| {
            let is_owned = !matches!(entry.kind, PointerMapKind::Root | PointerMapKind::Free);
            is_owned == (1..=pages.count()).contains(&entry.parent) && (is_owned || entry.parent == 0)
        })
    })
}

/// A header of which the magic, the versions or the fractions are hurt and the rest is not: what SQLite writes there is always the same.
fn put_right(head: &[u8; HEADER_LEN]) -> [u8; HEADER_LEN] {
    let mut right = *head;
    let magic = b"SQLite format 3\0";
    let fractions = [64, 32, 32];
    let has_magic = head.starts_with(magic);
    let has_fractions = head[21..24] == fractions;
    // One of the two must vouch for the rest, or noise would be read as a header.
    if has_magic || has_fractions {
        right[..16].copy_from_slice(magic);
        right[21..24].copy_from_slice(&fractions);
        if right[19] > 2 || right[18] > 2 {
            let version = if right[18] <= 2 { right[18] } else { 1 };
            right[18..20].copy_from_slice(&[version; 2]);
        }
    }
    right
}

/// Pieces of a file, read once for all page sizes: all of a small one.
struct Sample(Vec<(u64, Vec<u8>)>);

impl Sample {
    fn of(len: u64, read: &dyn Fn(u64, &mut [u8])) -> Sample {
        let step = (len / SAMPLE).max(1) as usize;
        let piece = |at: u64| {
            // A last page may be cut, and is as long as the others all the same.
            let left = len - at;
            let mut bytes = vec![0; if left < PIECE { left.next_multiple_of(512) } else { PIECE } as usize];
            read(at, &mut bytes);
            (at, bytes)
        };
        Sample((0..len).step_by(PIECE as usize).step_by(step).map(piece).collect())
    }

    /// Each page, zeros behind the end.
    fn pages(&self, size: u32, mut visit: impl FnMut(u32, &[u8])) {
        let mut padded = Vec::new();
        for (at, piece) in &self.0 {
            let first = (*at / u64::from(size)) as u32 + 1;
            for (number, page) in (first..).zip(piece.chunks(size as usize)) {
                if page.len() == size as usize {
                    visit(number, page);
                } else {
                    padded.clear();
                    padded.extend_from_slice(page);
                    padded.resize(size as usize, 0);
                    visit(number, &padded);
                }
            }
        }
    }
}

fn sound_pages(sample: &Sample, geometry: &Geometry) -> u64 {
    let mut coverage = Coverage::new();
    let mut sound = 0;
    sample.pages(geometry.page_size(), |number, bytes| {
        sound += u64::from(is_sound(bytes, number, geometry, &mut coverage));
    });
    sound
}

/// Whether a page adds up to the byte, and has anything to add up.
pub(super) fn is_sound(bytes: &[u8], number: u32, geometry: &Geometry, coverage: &mut Coverage) -> bool {
    let Ok(page) = BtreePage::parse(bytes, number, geometry) else { return false };
    page.cell_count() > 0 && page.cells().all(|cell| cell.is_ok()) && coverage.check(&page).is_ok()
}

/// How far before the page's end the last cell ends, on most pages that have cells.
fn usual_reserve(sample: &Sample, size: u32) -> Option<u8> {
    let geometry = Geometry::new(size, 0)?;
    let mut seen = vec![0u32; 256];
    sample.pages(size, |number, bytes| {
        let Ok(page) = BtreePage::parse(bytes, number, &geometry) else { return };
        let end = page.cells().flatten().map(|cell| u32::from(cell.at) + cell.size).max();
        if let Some(count) = end.and_then(|end| seen.get_mut(size.saturating_sub(end) as usize)) {
            *count += 1;
        }
    });
    let most = seen.iter().enumerate().max_by_key(|(at, count)| (**count, std::cmp::Reverse(*at)))?;
    (*most.1 > 1).then(|| u8::try_from(most.0).ok()).flatten()
}

/// The encoding that most texts are in; `written` is the header's, which wins where nothing speaks against it.
pub fn encoding_of(pages: &dyn Pages, geometry: &Geometry, written: Option<Encoding>) -> Encoding {
    let mut votes = [0u64; 3];
    let step = (pages.count() / ENCODING_PAGES).max(1);
    for number in (1..=pages.count()).filter(|number| number % step == 1 % step) {
        let Some(bytes) = pages.page(number) else { continue };
        let Some(page) = BtreePage::lenient(&bytes, number, geometry) else { continue };
        if page.kind() == PageKind::TableInterior {
            continue;
        }
        page.cells().flatten().take(64).for_each(|cell| vote(&cell, &mut votes));
    }
    let encodings = [Encoding::Utf8, Encoding::Utf16Le, Encoding::Utf16Be];
    let most = votes.iter().max().copied().unwrap_or(0);
    if let Some(known) = written.and_then(|written| encodings.iter().position(|one| *one == written))
        && votes.get(known).is_some_and(|count| *count == most)
    {
        return encodings[known];
    }
    let at = votes.iter().position(|count| *count == most).unwrap_or(0);
    encodings.get(at).copied().unwrap_or(Encoding::Utf8)
}

fn vote(cell: &Cell<'_>, votes: &mut [u64; 3]) {
    let Ok(record) = Record::parse(cell.local) else { return };
    for (at, value) in record.values().enumerate() {
        let Ok(Value::Text(text)) = value else { continue };
        let is_schema_word = |word: &[u8]| at == 0 && [&b"table"[..], b"index", b"view", b"trigger"].contains(&word);
        let half = |offset: usize| text.iter().skip(offset).step_by(2).copied().collect::<Vec<u8>>();
        // A row of the schema says it for certain; a text that could be its beginning, a little.
        let (even, odd) = (half(0), half(1));
        let zero = |bytes: &[u8]| !bytes.is_empty() && bytes.iter().all(|byte| *byte == 0);
        let full = |bytes: &[u8]| bytes.iter().all(|byte| *byte != 0);
        let weight = |word: &[u8]| if is_schema_word(word) { 1000 } else { 1 };
        if text.len().is_multiple_of(2) && zero(&odd) && full(&even) {
            votes[1] += weight(&even);
        } else if text.len().is_multiple_of(2) && zero(&even) && full(&odd) {
            votes[2] += weight(&odd);
        } else if text.len() > 1 && full(text) && std::str::from_utf8(text).is_ok() {
            votes[0] += weight(text);
        }
    }
}
