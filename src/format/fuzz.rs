//! What hostile bytes reach, each by one function. The targets in `fuzz/` call these and so does the mutation test, so that what one of
//! them finds the other can be given. Each comes back, whatever the bytes are; a panic is a bug.

use std::collections::BTreeSet;
use std::convert::Infallible;

use super::salvage::{
    Affinity, ColumnShape, Heard, Leaf, Pages, Piece, Survey, TableShape, Transplant, Tree, TreeUse, assign,
    encoding_of, has_pointer_maps, header_of, measure, values_of,
};
use super::*;

/// A target's name and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 8] = [
    ("header", header),
    ("page", page),
    ("record", record),
    ("wal", wal),
    ("journal", journal),
    ("page_map", page_map),
    ("scrub", scrub_file),
    ("salvage", |bytes| {
        salvage_file(bytes);
    }),
];

/// A file in memory.
#[derive(Debug)]
struct Bytes<'a> {
    bytes: &'a [u8],
    page_size: u32,
}

impl Bytes<'_> {
    /// Fills from an offset on, with zeros behind the end.
    fn fill(&self, at: u64, into: &mut [u8]) {
        into.fill(0);
        let from = usize::try_from(at).ok().and_then(|at| self.bytes.get(at..)).unwrap_or_default();
        into.iter_mut().zip(from).for_each(|(into, from)| *into = *from);
    }

    /// The same, and an error where the file ends too early.
    fn fill_exactly(&self, at: u64, into: &mut [u8]) -> Result<(), ()> {
        let end = at.saturating_add(into.len() as u64);
        self.fill(at, into);
        if end <= self.bytes.len() as u64 { Ok(()) } else { Err(()) }
    }
}

impl Pages for Bytes<'_> {
    fn count(&self) -> u32 {
        u32::try_from(self.bytes.len().div_ceil(self.page_size as usize)).unwrap_or(u32::MAX)
    }

    fn page(&self, number: u32) -> Option<Vec<u8>> {
        let at = u64::from(number.checked_sub(1)?) * u64::from(self.page_size);
        let mut page = vec![0; self.page_size as usize];
        self.fill(at, &mut page);
        (at < self.bytes.len() as u64).then_some(page)
    }
}

impl PageSource for Bytes<'_> {
    type Error = Infallible;

    fn read(&self, first: u32, into: &mut [u8]) -> Result<(), Infallible> {
        self.fill(u64::from(first.saturating_sub(1)) * u64::from(self.page_size), into);
        Ok(())
    }
}

/// A database's header, as it is and put right.
pub fn header(bytes: &[u8]) {
    let _ = header_of(bytes);
    if let Ok(header) = Header::parse(bytes) {
        assert!(Geometry::of(&header).is_some(), "a header that parses has a geometry");
        let _ = header.counted_pages();
    }
}

/// A page of any size: the first two bytes choose how it is read.
pub fn page(bytes: &[u8]) {
    let Some(([how, reserved], bytes)) = bytes.split_first_chunk::<2>() else { return };
    let Some(geometry) = Geometry::new(512 << (how & 7), reserved & 31) else { return };
    let number = 1 + u32::from(how >> 3 & 1);
    let mut page = bytes.to_vec();
    page.resize(geometry.page_size() as usize, 0);
    if let Ok(read) = BtreePage::parse(&page, number, &geometry) {
        let _ = Coverage::new().check(&read);
        assert!(read.freeblocks().count() <= page.len() / 4, "freeblocks rise");
    }
    let pages = Bytes { bytes: &page, page_size: geometry.page_size() };
    for columns in [None, Some(0), Some(u16::from(*how))] {
        let leaf = Leaf::read(&page, number, &geometry, columns);
        for row in leaf.rows(&pages, &|_| true) {
            assert!(row.payload.len() <= page.len() * (page.len() + 1), "a row is no longer than its chain");
            let _ = values_of(&row.payload);
        }
    }
    pointer_map_entries(&page, number, u32::MAX, &geometry).for_each(drop);
}

/// A record.
pub fn record(bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let sound = record_is_sound(bytes, len) == Ok(Soundness::Sound);
    let Ok(record) = Record::parse(bytes) else {
        assert!(!sound, "a sound record parses");
        return;
    };
    let (columns, values) = (record.columns().count(), record.values().map_while(Result::ok).count());
    assert!(columns <= bytes.len() + 1, "a column has a type");
    assert!(!sound || columns == values, "a sound record has all of its values");
    assert!(values_of(bytes).len() <= columns);
    for kind in [Encoding::Utf8, Encoding::Utf16Le, Encoding::Utf16Be] {
        let _ = SchemaRow::parse(bytes, kind);
    }
}

/// A write-ahead log, as SQLite reads it and as a mender does.
pub fn wal(bytes: &[u8]) {
    let file = Bytes { bytes, page_size: 512 };
    let len = bytes.len() as u64;
    let _ = scan_wal(len, None, |at, into: &mut [u8]| file.fill_exactly(at, into));
    for page_size in [None, Some(512), Some(4096)] {
        let hints = WalHints { index: None, page_size, database_pages: 4 };
        let mended = mend_wal(len, &hints, |at, into: &mut [u8]| file.fill_exactly(at, into));
        let Ok(Some(mended)) = mended else { continue };
        for variant in mended.variants().into_iter().take(8).chain(mended.whole()) {
            for frame in mended.kept(&variant) {
                assert!(frame.page_at < len, "a frame stands within the file");
            }
        }
    }
}

/// A rollback journal.
pub fn journal(bytes: &[u8]) {
    let file = Bytes { bytes, page_size: 512 };
    let len = bytes.len() as u64;
    for page_size in [None, Some(512), Some(4096)] {
        let _ = scan_journal(len, page_size, |at, into: &mut [u8]| file.fill_exactly(at, into));
        let mended = mend_journal(len, page_size, |at, into: &mut [u8]| file.fill_exactly(at, into));
        if let Ok(Some(mended)) = mended {
            assert!(mended.pre_images.iter().all(|image| image.at < len), "a record stands within the file");
        }
    }
}

/// A whole file, scrubbed.
pub fn scrub_file(bytes: &[u8]) {
    let Ok(header) = Header::parse(bytes) else { return };
    let file = Bytes { bytes, page_size: header.page_size };
    let there = file.count();
    let counted = header.counted_pages().unwrap_or(there);
    let plan = ScrubPlan { header, counted, there, threads: 1, faults_max: 100, contents: None };
    if let Ok(scrubbed) = scrub(&file, &plan, &|_| true) {
        assert!(scrubbed.faults.len() as u64 <= scrubbed.faults_total && scrubbed.pages <= there);
    }
}

/// A page map without its sum, which is put behind it: a wrong one ends everything at once.
pub fn page_map(bytes: &[u8]) {
    let mut whole = bytes.to_vec();
    whole.extend(blake3::hash(bytes).as_bytes());
    let Ok(mut map) = PageMap::decode(&whole) else { return };
    assert_eq!(map.encode().as_deref(), Ok(&whole[..]), "what was read is what is written");
    for page in [0, 1, map.pages(), map.pages().saturating_add(1), u32::MAX] {
        assert!(map.owner_of(page).is_none_or(|tree| map.trees.contains(tree)));
        map.forget(page);
        assert_eq!(map.hash_of(page), None);
    }
}

/// A whole file, salvaged; the rows that were found.
pub fn salvage_file(bytes: &[u8]) -> usize {
    let read = Bytes { bytes, page_size: 512 };
    let Some(measures) = measure(bytes.len() as u64, &|at, into: &mut [u8]| read.fill(at, into)) else { return 0 };
    let pages = Bytes { bytes, page_size: measures.geometry.page_size() };
    let maps = has_pointer_maps(&pages, &measures.geometry, measures.header.as_ref());
    let geometry = measures.geometry.with_pointer_maps(maps);
    let encoding = encoding_of(&pages, &geometry, measures.header.map(|header| header.encoding));
    let survey = Survey::of(&pages, geometry, encoding, measures.header, 1);
    let schema = survey.schema(&pages);
    let tree = |root: u32, heard: Option<Heard>| {
        let has_rowids = survey.note(root).kind.is_none_or(PageKind::is_table);
        let shape = TableShape { has_rowids, columns: Vec::new(), known: false };
        Tree { root, use_: TreeUse::Table, shape, told_by: Vec::new(), heard }
    };
    let known = schema.rows.iter().filter(|row| row.root != 0).map(|row| tree(row.root, None));
    let told = survey.heard(&pages).into_values().map(|heard| tree(0, Some(heard)));
    let trees: Vec<Tree> = known.chain(told).collect();
    let assignment = assign(&pages, &survey, &trees, &schema.pages, None);
    let places = assignment.key_gaps.iter().flatten().flat_map(|gap| [gap.after, gap.before]).flatten();
    assert!(places.clone().all(|place| (1..=pages.count()).contains(&place.page)), "a key stands on a page");
    let mut seen = BTreeSet::new();
    let mut rows = 0;
    let lost = assignment.lost.iter().map(|(_, page)| *page);
    for number in assignment.pieces.iter().flatten().map(|piece| piece.page).chain(lost) {
        assert!(seen.insert(number), "page {number} was given away twice");
        let Some(page) = pages.page(number) else { continue };
        let leaf = Leaf::read(&page, number, &geometry, Some(3));
        for row in leaf.rows(&pages, &|page| survey.note(page).kind.is_none()) {
            rows += usize::from(!values_of(&row.payload).is_empty());
        }
    }
    moved(&pages, &survey, &trees, &assignment.pieces);
    rows
}

/// What would go over as it is: no page of the new database may be written twice, and none left out.
fn moved(pages: &dyn Pages, survey: &Survey, trees: &[Tree], pieces: &[Vec<Piece>]) {
    let first = u32::try_from(trees.len()).unwrap_or(0) + 1;
    let Some(mut transplant) = Transplant::into_database(pages, survey, first) else { return };
    let columns = [ColumnShape { affinity: Affinity::Blob, not_null: false, is_rowid: false }; 5];
    let mut written = BTreeSet::new();
    for (root, (tree, pieces)) in (2..).zip(trees.iter().zip(pieces)) {
        let mut put = |number: u32, page: &[u8]| {
            assert!(written.insert(number), "page {number} was written twice");
            assert_eq!(page.len(), survey.geometry.page_size() as usize);
            Ok::<(), Infallible>(())
        };
        let _ = match tree.shape.has_rowids {
            true => transplant.table(pieces, &columns, root, &mut put).map(drop),
            false => transplant.tree(tree.root, &columns, root, &mut put).map(drop),
        };
    }
    let last = transplant.count();
    let is_there = |page: &u32| *page == survey.geometry.lock_byte_page() || written.contains(page);
    assert!((first + 1..=last).all(|page| is_there(&page)), "a page that was counted was not written");
}
