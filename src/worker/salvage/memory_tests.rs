//! What a page map does for a salvage, and that one of another time does no harm.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::run;
use crate::job::{DatabaseSite, PAGE_MAP, SalvageJob, Salvaged};
use crate::worker::probe::map_pages;

const PAGE: usize = 512;
const SHOP: [&str; 2] = ["inbox", "outbox"];

struct Case {
    folder: tempfile::TempDir,
}

impl Case {
    /// Two tables of one shape, with rowids of the same range, whose leaves lie in turns.
    fn new() -> Case {
        let case = Case { folder: tempfile::tempdir().unwrap() };
        case.sql(&format!("PRAGMA page_size={PAGE}; {}", schema()));
        case.add(1, 300);
        case
    }

    fn add(&self, from: u32, to: u32) {
        let db = Connection::open(self.at("app.db")).unwrap();
        db.execute_batch("BEGIN").unwrap();
        for id in from..=to {
            for table in SHOP {
                db.execute(&format!("INSERT INTO {table} VALUES (?1, ?2, ?1 * 7)"), (id, format!("{table:7} {id:5}")))
                    .unwrap();
            }
        }
        db.execute_batch("COMMIT").unwrap();
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn sql(&self, sql: &str) {
        Connection::open(self.at("app.db")).unwrap().execute_batch(sql).unwrap();
    }

    fn map(&self) {
        let (name, path, scratch) = ("app".to_owned(), self.at("app.db"), self.at("scratch"));
        let site = DatabaseSite { name, path, user: None, scratch, busy_ms: 1000, block_max_ms: 600_000 };
        map_pages(&site, self.folder.path()).unwrap();
    }

    /// Zeros for the first page and for every interior page: the schema and the ways to all leaves.
    fn lose_schema_and_parents(&self) {
        let mut bytes = fs::read(self.at("app.db")).unwrap();
        bytes[..PAGE].fill(0);
        bytes.chunks_exact_mut(PAGE).filter(|page| matches!(page[0], 2 | 5)).for_each(|page| page.fill(0));
        fs::write(self.at("app.db"), bytes).unwrap();
    }

    fn salvage(&self, to: &str, has_map: bool, schema: Option<&str>) -> (Salvaged, Connection) {
        let job = SalvageJob {
            source: self.at("app.db"),
            to: self.at(to),
            schema: schema.map(str::to_owned),
            backup: None,
            map: has_map.then(|| self.at(PAGE_MAP)),
            renumbered: false,
            deleted: false,
        };
        let salvaged = run(&job).unwrap();
        (salvaged, Connection::open(self.at(to)).unwrap())
    }
}

/// Rows of `table` that are `of` this one.
fn rows(db: &Connection, table: &str, column: &str, of: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM {table} WHERE {column} LIKE '{of} %'");
    db.query_row(&sql, [], |row| row.get(0)).unwrap_or(0)
}

/// Rows that stand in the table that they are of, and in the other.
fn placed(db: &Connection, column: &str) -> (i64, i64) {
    let right = SHOP.iter().map(|table| rows(db, table, column, table)).sum();
    (right, rows(db, SHOP[0], column, SHOP[1]) + rows(db, SHOP[1], column, SHOP[0]))
}

fn schema() -> String {
    SHOP.map(|table| format!("CREATE TABLE {table}(id INTEGER PRIMARY KEY, body TEXT, n INT);")).concat()
}

#[test]
fn leaves_that_nothing_leads_to_come_back_into_the_table_that_the_map_says() {
    let case = Case::new();
    case.map();
    case.lose_schema_and_parents();
    let before = fs::read(case.at("app.db")).unwrap();
    let (_, without) = case.salvage("without.db", false, None);
    assert_eq!(placed(&without, "c1"), (0, 0), "nothing but the map has a name for them");
    let (salvaged, with) = case.salvage("with.db", true, None);
    assert_eq!((placed(&with, "c1"), salvaged.lost_and_found), ((600, 0), 0), "{salvaged:#?}");
    assert!(salvaged.tables.iter().all(|table| table.made_up), "{salvaged:#?}");
    let (salvaged, with) = case.salvage("script.db", true, Some(&schema()));
    assert_eq!((placed(&with, "body"), salvaged.lost_and_found), ((600, 0), 0), "{salvaged:#?}");
    assert!(fs::read(case.at("app.db")).unwrap() == before, "the source was written");
}

/// The pages that were written since are told by whose they were, as far as their rows are like its others.
#[test]
fn leaves_that_were_written_since_are_still_their_tables() {
    let case = Case::new();
    case.map();
    case.sql("UPDATE inbox SET n = n + 1 WHERE id BETWEEN 100 AND 140; UPDATE outbox SET n = n + 1 WHERE id > 260");
    case.lose_schema_and_parents();
    for (to, column, schema) in [("names.db", "c1", None), ("script.db", "body", Some(schema()))] {
        let (salvaged, with) = case.salvage(to, true, schema.as_deref());
        assert_eq!((placed(&with, column), salvaged.lost_and_found), ((600, 0), 0), "{salvaged:#?}");
    }
}

/// Its pages have gone to a table of another shape since.
#[test]
fn a_table_that_was_dropped_does_not_come_back_nor_take_the_rows_of_another() {
    let case = Case::new();
    case.map();
    case.sql(
        "DROP TABLE inbox; CREATE TABLE later(at REAL, what BLOB, who TEXT, note TEXT);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<600)
         INSERT INTO later SELECT i + 0.5, zeroblob(9), 'later ' || i, 'note' FROM n",
    );
    case.lose_schema_and_parents();
    let (salvaged, with) = case.salvage("names.db", true, None);
    assert_eq!(rows(&with, "outbox", "c1", "outbox"), 300, "{salvaged:#?}");
    assert_eq!(rows(&with, "outbox", "c2", "later") + rows(&with, "inbox", "c2", "later"), 0, "{salvaged:#?}");
    let later: i64 =
        with.query_row("SELECT count(*) FROM lost_and_found WHERE c2 LIKE 'later %'", [], |row| row.get(0)).unwrap();
    assert_eq!(later, 600);
    let script = schema() + "CREATE TABLE later(at REAL, what BLOB, who TEXT, note TEXT);";
    let (salvaged, with) = case.salvage("script.db", true, Some(&script));
    assert_eq!(
        (rows(&with, "outbox", "body", "outbox"), rows(&with, "later", "who", "later")),
        (300, 600),
        "{salvaged:#?}"
    );
    assert_eq!(placed(&with, "body").1, 0);
}

/// VACUUM has moved the pages: what the map says of their places is of others.
#[test]
fn a_map_of_before_a_vacuum_is_no_worse_than_none() {
    let case = Case::new();
    case.map();
    case.sql("DELETE FROM inbox WHERE id % 3 = 0; VACUUM");
    case.lose_schema_and_parents();
    for (name, schema) in [("names", None), ("script", Some(schema()))] {
        let (_, without) = case.salvage(&format!("{name}-without.db"), false, schema.as_deref());
        let (salvaged, with) = case.salvage(&format!("{name}-with.db"), true, schema.as_deref());
        let column = if schema.is_some() { "body" } else { "c1" };
        let (without, with) = (placed(&without, column), placed(&with, column));
        assert!(with.0 >= without.0 && with.1 <= without.1, "{without:?}, with the map {with:?}: {salvaged:#?}");
    }
}

#[test]
fn what_is_no_map_or_another_files_is_as_good_as_none() {
    let case = Case::new();
    case.lose_schema_and_parents();
    let other = Case::new();
    other.sql("UPDATE inbox SET n = n + 1; UPDATE outbox SET n = n + 1");
    other.map();
    let salvaged = |to: &str, map: &Path| {
        let there = case.at(PAGE_MAP);
        fs::copy(map, there).unwrap();
        let (salvaged, _) = case.salvage(to, true, None);
        salvaged
    };
    let (without, _) = case.salvage("without.db", false, None);
    fs::write(case.at("none"), b"no map").unwrap();
    for (to, map) in [("none.db", case.at("none")), ("other.db", other.at(PAGE_MAP))] {
        let with = salvaged(to, &map);
        assert_eq!((with.tables, with.lost_and_found), (without.tables.clone(), without.lost_and_found));
    }
}
