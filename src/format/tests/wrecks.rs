//! Damaged files: nothing panics, nothing goes on for ever, and what SQLite calls damaged is not called sound.

use proptest::prelude::*;

use super::*;

/// All that can be asked of a page, strictly and leniently; the cells that could be read.
fn ask(bytes: &[u8], number: u32, geometry: &Geometry, coverage: &mut Coverage) -> usize {
    if let Ok(page) = BtreePage::parse(bytes, number, geometry) {
        let _ = coverage.check(&page);
        assert!(page.freeblocks().count() <= bytes.len() / 8 + 1);
    }
    let mut read = 0;
    let kinds = [PageKind::IndexInterior, PageKind::TableInterior, PageKind::IndexLeaf, PageKind::TableLeaf];
    let lenient = BtreePage::lenient(bytes, number, geometry);
    for page in lenient.into_iter().chain(kinds.map(|kind| BtreePage::assume(kind, bytes, number, geometry))) {
        coverage.begin(&page);
        assert!(page.cells().len() <= bytes.len() / 2);
        for cell in page.cells().flatten() {
            let _ = coverage.take(&cell);
            let _ = record_is_sound(cell.local, cell.payload_len);
            if let Ok(record) = Record::parse(cell.local) {
                assert!(record.values().count() <= cell.local.len() + 1);
            }
            read += 1;
        }
        let _ = coverage.finish(&page);
        assert!(page.freeblocks().count() <= bytes.len() / 8 + 1);
        let _ = (page.right_child(), page.fragmented(), page.cell(u16::MAX));
    }
    read
}

/// All that can be asked of a file.
fn ask_file(file: &File, coverage: &mut Coverage) {
    let (pages, geometry) = (file.pages(), &file.geometry);
    let mut payload = Vec::new();
    for number in 1..=pages {
        let bytes = file.page(number).unwrap();
        ask(bytes, number, geometry, coverage);
        let page = BtreePage::lenient(bytes, number, geometry);
        for cell in page.iter().flat_map(|page| page.cells()).flatten() {
            let _ = assemble(&cell, pages, geometry, 1 << 20, |number| file.page(number), &mut payload);
            assert!(payload.len() <= 1 << 20);
        }
        let mut visited = 0;
        walk_tree(number, pages, geometry, |number| file.page(number), |_, _| visited += 1, |_| {});
        assert!(visited <= pages);
        pointer_map_entries(bytes, number, pages, geometry).for_each(drop);
    }
    let page = |number| Ok::<_, ()>(file.page(number).unwrap());
    walk_freelist(file.header.freelist_head, pages, geometry, page, |_| {}).unwrap();
    let _ = file.schema();
}

fn geometries() -> impl Strategy<Value = Geometry> {
    (9u32..13, 0u8..33).prop_map(|(bits, reserved)| Geometry::new(1 << bits, reserved).unwrap())
}

proptest! {
    #[test]
    fn random_bytes_are_read_without_a_panic(
        geometry in geometries(),
        number in 1u32..3,
        kind in prop_oneof![Just(2u8), Just(5), Just(10), Just(13), any::<u8>()],
        cells in 0u8..60,
        bytes in proptest::collection::vec(any::<u8>(), 0..4200),
    ) {
        let mut bytes = bytes;
        let at = if number == 1 { 100 } else { 0 };
        if let Some(head) = bytes.get_mut(at..at + 5) {
            // Else few would come as far as their cells.
            (head[0], head[3], head[4]) = (kind, 0, cells);
        }
        ask(&bytes, number, &geometry, &mut Coverage::new());
    }
}

/// A xorshift: the same mutations in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

#[test]
fn mutated_files_are_read_without_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let mut coverage = Coverage::new();
    let mut dice = Dice(4);
    for (page_size, reserved, auto_vacuum) in [(512, 0, 1), (1024, 8, 0)] {
        let path = dir.path().join(format!("{page_size}.db"));
        make(&path, page_size, reserved, "UTF-8", auto_vacuum);
        let sound = File::open(&path);
        for _ in 0..12 {
            let mut bytes = sound.bytes.clone();
            for _ in 0..1 + dice.below(400) {
                // Headers and pointers more often than contents.
                let page = dice.below(sound.pages() as usize) * page_size as usize;
                let within = if dice.below(2) == 0 { dice.below(40) } else { dice.below(page_size as usize) };
                if let Some(byte) = bytes.get_mut(100.max(page + within)) {
                    *byte = [0, 1, 0x7f, 0x80, 0xff, dice.below(256) as u8][dice.below(6)];
                }
            }
            ask_file(&File { bytes, ..sound }, &mut coverage);
        }
    }
}

/// Whether this room finds anything wrong with the pages of `t`, as a scrub would look at one page.
fn is_sound(file: &File, page: u32, coverage: &mut Coverage) -> bool {
    let Ok(page) = BtreePage::parse(file.page(page).unwrap(), page, &file.geometry) else { return false };
    coverage.begin(&page);
    let cells_are = page.cells().all(|cell| {
        cell.is_ok_and(|cell| coverage.take(&cell).is_ok() && record_is_sound(cell.local, cell.payload_len).is_ok())
    });
    cells_are && coverage.finish(&page).is_ok()
}

#[test]
fn a_leaf_that_sqlite_finds_damaged_is_not_called_sound() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.db");
    let db = Connection::open(&path).unwrap();
    db.execute_batch(
        "PRAGMA page_size=512; CREATE TABLE t(a, b);
         INSERT INTO t SELECT value, hex(zeroblob(value)) FROM json_each('[1,2,3,4,5,6,7,8,9,10,11,12,13]');
         DELETE FROM t WHERE a IN (3, 7, 8, 12)",
    )
    .unwrap();
    drop(db);
    let mut file = File::open(&path);
    assert_eq!(file.pages(), 2);
    let mut coverage = Coverage::new();
    assert!(is_sound(&file, 2, &mut coverage));
    let hurt = dir.path().join("hurt.db");
    let (mut damaged, mut dice) = (0, Dice(7));
    // All of the header and the pointers, and the cells' own bytes by chance.
    for at in (0..32).chain((0..150).map(|_| 32 + dice.below(480))).map(|at| 512 + at) {
        for byte in [0, 1, 2, 0x0d, 0x7f, 0x81, 0xff] {
            let before = std::mem::replace(&mut file.bytes[at], byte);
            std::fs::write(&hurt, &file.bytes).unwrap();
            let db = Connection::open(&hurt).unwrap();
            let verdict = db.query_row("PRAGMA quick_check", [], |row| row.get::<_, String>(0));
            // What a scrub looks at beside the page itself: the order of keys, and where the chain of a payload leads.
            let beside = |text: &String| text.contains("out of order") || text.contains("overflow");
            if !matches!(&verdict, Ok(text) if text == "ok" || beside(text)) {
                damaged += 1;
                assert!(!is_sound(&file, 2, &mut coverage), "byte {at} = {byte}: {verdict:?}");
            }
            file.bytes[at] = before;
        }
    }
    assert!(damaged > 100, "{damaged}");
}
