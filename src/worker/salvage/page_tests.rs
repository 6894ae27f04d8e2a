//! Pages that a write to a wrong place went over, in whole or with their first bytes.

use std::collections::BTreeSet;

use rusqlite::Connection;

use super::run;
use crate::job::{SalvageJob, Salvaged};

const PAGE: usize = 1024;

struct Case {
    folder: tempfile::TempDir,
    bytes: Vec<u8>,
}

impl Case {
    /// Two tables of rows of the same columns, one of keys in descending order, and an index whose entries have its columns too.
    fn new() -> Case {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("was.db");
        let db = Connection::open(&path).unwrap();
        let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<200)";
        db.execute_batch(&format!(
            "PRAGMA page_size={PAGE}; CREATE TABLE one(id INTEGER PRIMARY KEY, word TEXT, n INT);
             CREATE TABLE two(id INTEGER PRIMARY KEY, word TEXT, n INT); CREATE INDEX of_one ON one(word, n);
             CREATE TABLE keyed(k INT, s TEXT, v INT, PRIMARY KEY(k DESC, s)) WITHOUT ROWID;
             {fill} INSERT INTO one SELECT i, 'one ' || i, i FROM n; {fill} INSERT INTO two SELECT i + 5000, 'two ' || i, i FROM n;
             {fill} INSERT INTO keyed SELECT i, 'keyed ' || i, i FROM n;",
        ))
        .unwrap();
        drop(db);
        let bytes = std::fs::read(path).unwrap();
        Case { folder, bytes }
    }

    /// The leaves of a table or an index, in their order.
    fn leaves(&self, of: &str) -> Vec<usize> {
        let db = Connection::open(self.folder.path().join("was.db")).unwrap();
        let sql = "SELECT pageno FROM dbstat WHERE name=?1 AND pagetype='leaf' ORDER BY path";
        let mut query = db.prepare(sql).unwrap();
        query.query_map([of], |row| row.get::<_, i64>(0)).unwrap().map(|page| page.unwrap() as usize).collect()
    }

    fn page(&mut self, number: usize) -> &mut [u8] {
        &mut self.bytes[(number - 1) * PAGE..number * PAGE]
    }

    fn copy(&mut self, from: usize, onto: usize) {
        let bytes = self.page(from).to_vec();
        self.page(onto).copy_from_slice(&bytes);
    }

    /// What comes out: the report, rows that each table has lost, and rows that it never had.
    fn salvaged(&self) -> (Salvaged, [(usize, usize); 3]) {
        let (source, to) = (self.folder.path().join("is.db"), self.folder.path().join("new.db"));
        std::fs::write(&source, &self.bytes).unwrap();
        let (schema, backup, map) = (None, None, None);
        let job = SalvageJob { source, to: to.clone(), schema, backup, map, renumbered: false, deleted: false };
        let report = run(&job).unwrap();
        let rows = |path, table| {
            let db = Connection::open(path).unwrap();
            let mut query = db.prepare(&format!("SELECT * FROM {table}")).unwrap();
            let row =
                |row: &rusqlite::Row<'_>| Ok(format!("{:?}", (0..3).map(|at| row.get_ref(at)).collect::<Vec<_>>()));
            query.query_map([], row).unwrap().collect::<Result<BTreeSet<String>, _>>().unwrap()
        };
        let tables = ["one", "two", "keyed"].map(|table| {
            let (was, is) = (rows(self.folder.path().join("was.db"), table), rows(to.clone(), table));
            (was.difference(&is).count(), is.difference(&was).count())
        });
        (report, tables)
    }
}

#[test]
fn a_leaf_that_was_copied_over_another_tables_is_no_part_of_that_one() {
    for (from, onto, table) in [("of_one", "keyed", 2), ("one", "two", 1), ("two", "one", 0), ("keyed", "keyed", 2)] {
        let mut case = Case::new();
        let (source, target) = (case.leaves(from)[0], case.leaves(onto)[2]);
        case.copy(source, target);
        let (report, tables) = case.salvaged();
        assert!(tables.iter().all(|(_, never)| *never == 0), "{from} onto {onto}: {tables:?} {report:?}");
        // An index that has all of its columns tells of every row of the one.
        let incomplete = onto != "one";
        assert!(!report.clean && report.tables[table].incomplete == incomplete, "{from} onto {onto}: {report:?}");
        // What an index repeats comes back; of the others a page is gone.
        let gone = tables.map(|(lost, _)| lost > 0);
        let expected = [false, table == 1, table == 2];
        assert_eq!(gone, expected, "{from} onto {onto}: {tables:?} {report:?}");
    }
}

#[test]
fn leaves_of_equal_content_where_they_belong_are_left_alone() {
    let mut case = Case::new();
    let path = case.folder.path().join("was.db");
    let db = Connection::open(&path).unwrap();
    db.execute_batch("DELETE FROM two; INSERT INTO two SELECT * FROM one; CREATE INDEX of_two ON two(word, n)")
        .unwrap();
    drop(db);
    case.bytes = std::fs::read(path).unwrap();
    let (report, tables) = case.salvaged();
    assert!(report.clean && tables == [(0, 0); 3], "{tables:?} {report:?}");
}

#[test]
fn a_leaf_whose_first_bytes_are_gone_is_read_by_its_cells() {
    for table in ["one", "two", "keyed"] {
        for first in [[0x77, 0x13, 0x5a, 0x21], [0xff; 4], [1, 0, 0, 0]] {
            let mut case = Case::new();
            let page = case.leaves(table)[1];
            case.page(page)[..4].copy_from_slice(&first);
            let (report, tables) = case.salvaged();
            assert_eq!(tables, [(0, 0); 3], "{table} {first:?}: {report:?}");
            assert!(
                !report.clean && report.damage.iter().any(|said| said.contains("read by their cells")),
                "{report:?}"
            );
        }
    }
}

#[test]
fn a_value_that_its_column_would_have_converted_is_converted() {
    // The header of a record, its first value, and what bits turned them into: a number that reads as text, a text as a number.
    let turned: [(&[u8], &[u8]); 2] = [
        (b"\x04\x00\x17\x01one 7\x07", b"\x04\x00\x17\x0fone 7\x37"),
        (b"\x04\x00\x19\x01one 70", b"\x04\x00\x05\x01one 70"),
    ];
    for (was, is) in turned {
        let mut case = Case::new();
        let at = case.bytes.windows(was.len()).position(|bytes| bytes == was).unwrap();
        case.bytes[at..at + is.len()].copy_from_slice(is);
        let (report, _) = case.salvaged();
        assert_eq!(report.tables[0].kept, 200, "{report:?}");
        let new = Connection::open(case.folder.path().join("new.db")).unwrap();
        let checked: String = new.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(checked, "ok");
    }
}
