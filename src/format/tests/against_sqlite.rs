//! What this room reads is what SQLite selects, and what it checks is what SQLite finds sound.

use std::collections::BTreeSet;

use rusqlite::types::ValueRef;

use super::*;

/// Each row of a tree, a rowid first where it has one, as SQLite's `quote` would tell them apart.
fn rows_of(file: &File, root: u32) -> Vec<String> {
    let mut rows = Vec::new();
    let mut payload = Vec::new();
    let visit = |_: u32, page: &BtreePage<'_>| {
        for cell in page.cells().filter(|_| page.kind() != PageKind::TableInterior) {
            let cell = cell.unwrap();
            let short =
                assemble(&cell, file.pages(), &file.geometry, usize::MAX, |number| file.page(number), &mut payload);
            assert_eq!((short, payload.len()), (None, cell.payload_len as usize));
            let record = Record::parse(&payload).unwrap();
            record.check(cell.payload_len).unwrap();
            let mut row = cell.rowid.map_or(String::new(), |rowid| format!("#{rowid}"));
            for value in record.values() {
                row += "|";
                row += &match value.unwrap() {
                    Value::Null => "null".to_owned(),
                    Value::Integer(integer) => format!("{integer}"),
                    Value::Real(real) => number(real),
                    Value::Text(text) => format!("'{}", file.header.encoding.decode(text)),
                    Value::Blob(blob) => format!("{blob:x?}"),
                };
            }
            rows.push(row);
        }
    };
    walk_tree(root, file.pages(), &file.geometry, |number| file.page(number), visit, |fault| panic!("{fault}"));
    rows.sort();
    rows
}

/// A float that is whole may be stored as an integer or not, as it came; SQLite shows it alike.
fn number(real: f64) -> String {
    if real.fract() == 0.0 && real.abs() < 1e15 { format!("{real:.0}") } else { format!("{real:?}") }
}

fn selected(db: &Connection, sql: &str, has_rowid: bool) -> Vec<String> {
    let mut statement = db.prepare(sql).unwrap();
    let columns = statement.column_count();
    let mut rows = statement.query([]).unwrap();
    let mut all = Vec::new();
    while let Some(row) = rows.next().unwrap() {
        let mut text = String::new();
        for column in 0..columns {
            let value = match row.get_ref(column).unwrap() {
                ValueRef::Null => "null".to_owned(),
                ValueRef::Integer(integer) => format!("{integer}"),
                ValueRef::Real(real) => number(real),
                ValueRef::Text(text) => format!("'{}", std::str::from_utf8(text).unwrap()),
                ValueRef::Blob(blob) => format!("{blob:x?}"),
            };
            text += &if column == 0 && has_rowid { format!("#{value}") } else { format!("|{value}") };
        }
        all.push(text);
    }
    all.sort();
    all
}

/// Every page of the file has one owner, every cell and every byte is accounted for, and the pointer maps say the same.
fn accounts(file: &File) {
    let (pages, geometry) = (file.pages(), &file.geometry);
    let mut owned = BTreeSet::new();
    let mut claimed = Vec::new();
    if geometry.has_pointer_maps() {
        owned.extend((2..=pages).filter(|number| geometry.is_pointer_map(*number)));
    }
    let page = |number| Ok::<_, ()>(file.page(number).unwrap());
    let mut free = 0;
    walk_freelist(file.header.freelist_head, pages, geometry, page, |item| match item {
        FreelistItem::Trunk(page) | FreelistItem::Leaf { page, .. } => {
            free += 1;
            assert!(owned.insert(page));
            claimed.push((page, PointerMapKind::Free, 0));
        }
        FreelistItem::Fault(fault) => panic!("{fault}"),
    })
    .unwrap();
    assert_eq!(free, file.header.freelist_count);
    let mut coverage = Coverage::new();
    let roots = file.schema().rows.into_iter().map(|placed| placed.row.root).filter(|root| *root != 0);
    for root in roots.chain([1]) {
        claimed.push((root, PointerMapKind::Root, 0));
        let visit = |number: u32, page: &BtreePage<'_>| {
            assert!(owned.insert(number), "page {number} has two owners");
            let strict = BtreePage::parse(file.page(number).unwrap(), number, geometry).unwrap();
            assert_eq!(strict.cell_count(), page.cell_count());
            coverage.check(&strict).unwrap();
            claimed.extend(strict.right_child().map(|child| (child, PointerMapKind::Tree, number)));
            for cell in strict.cells().map(Result::unwrap) {
                claimed.extend(cell.left_child.map(|child| (child, PointerMapKind::Tree, number)));
                if page.kind() == PageKind::TableInterior {
                    continue;
                }
                record_is_sound(cell.local, cell.payload_len).unwrap();
                let mut before = (number, PointerMapKind::FirstOverflow);
                let mut links = 0;
                for link in OverflowChain::of(&cell, pages, geometry, |number| file.page(number)) {
                    let link = link.unwrap();
                    assert!(owned.insert(link.page));
                    claimed.push((link.page, before.1, before.0));
                    before = (link.page, PointerMapKind::LaterOverflow);
                    links += 1;
                }
                assert_eq!(links, geometry.overflow_pages(cell.spilled()));
            }
        };
        walk_tree(root, pages, geometry, |number| file.page(number), visit, |fault| panic!("{fault}"));
    }
    assert!(owned.into_iter().eq(1..=pages), "each page once");
    if geometry.has_pointer_maps() {
        let mut written = Vec::new();
        for map in (2..=pages).filter(|number| geometry.is_pointer_map(*number)) {
            let entries = pointer_map_entries(file.page(map).unwrap(), map, pages, geometry);
            written.extend(entries.map(|(page, entry)| (page, entry.unwrap().kind, entry.unwrap().parent)));
        }
        claimed.retain(|(page, _, _)| *page != 1);
        claimed.sort_by_key(|(page, _, _)| *page);
        assert_eq!(claimed, written);
        let (page, kind, parent) = written[written.len() / 2];
        let (map, at) = geometry.pointer_map_entry(page).unwrap();
        assert_eq!(PointerMapEntry::parse(file.page(map).unwrap(), at), Some(PointerMapEntry { kind, parent }));
    }
}

#[test]
fn every_row_of_every_kind_of_file_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let kinds = [
        (512, 0, "UTF-8", 0),
        (512, 32, "UTF-16le", 1),
        (1024, 9, "UTF-16be", 2),
        (2048, 0, "UTF-8", 1),
        (4096, 0, "UTF-8", 0),
        (4096, 16, "UTF-16le", 2),
        (8192, 255, "UTF-8", 0),
        (16_384, 0, "UTF-16be", 0),
        (32_768, 0, "UTF-8", 1),
        (65_536, 0, "UTF-8", 0),
        (65_536, 8, "UTF-8", 2),
    ];
    for (page_size, reserved, encoding, auto_vacuum) in kinds {
        let path = dir.path().join(format!("{page_size}-{reserved}.db"));
        make(&path, page_size, reserved, encoding, auto_vacuum);
        let file = File::open(&path);
        assert_eq!((file.header.page_size, file.header.reserved), (page_size, reserved));
        assert_eq!(file.geometry.has_pointer_maps(), auto_vacuum != 0);
        accounts(&file);

        let db = Connection::open(&path).unwrap();
        let schema = file.schema();
        assert_eq!(schema.faults, []);
        let shown: Vec<String> = schema
            .rows
            .iter()
            .map(|PlacedSchemaRow { rowid, row, .. }| {
                let sql = row.sql.as_ref().map_or("null".to_owned(), |sql| format!("'{sql}"));
                let kind = format!("{:?}", row.kind).to_lowercase();
                format!("#{rowid}|'{kind}|'{}|'{}|{}|{sql}", row.name, row.table, row.root)
            })
            .collect();
        let mut sorted = shown.clone();
        sorted.sort();
        let columns = "rowid, type, name, tbl_name, rootpage, sql";
        assert_eq!(sorted, selected(&db, &format!("SELECT {columns} FROM sqlite_schema"), true));
        let root = |name: &str| schema.rows.iter().find(|placed| placed.row.name == name).unwrap().row.root;
        assert_eq!(rows_of(&file, root("empty")), Vec::<String>::new());
        for (name, sql, has_rowid) in [
            // The rowid's own column holds NULL.
            ("t", "SELECT id, NULL, a, b, c FROM t", true),
            ("ta", "SELECT a, b, id FROM t", false),
            ("w", "SELECT k, n, v FROM w", false),
        ] {
            let (read, selected) = (rows_of(&file, root(name)), selected(&db, sql, has_rowid));
            // Rows are long: the first that differs says enough.
            let differs = read.iter().zip(&selected).find(|(read, selected)| read != selected);
            assert_eq!((differs, read.len()), (None, selected.len()), "{name} of {page_size}");
        }
        // The default of a column that came later stands in the schema alone.
        let wide = rows_of(&file, root("wide"));
        assert!(wide.contains(&"#1|0|1|-1|1|'|[]|null|1e300".to_owned()), "{wide:?}");
        assert_eq!(wide.len(), 10);
        assert!(wide.contains(&"#10|7|null|null|null|null|null|null|null|8".to_owned()));
    }
}
