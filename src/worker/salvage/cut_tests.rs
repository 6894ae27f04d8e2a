//! Files that end before their last pages.

use std::fs;

use rusqlite::Connection;

use super::run;
use crate::job::SalvageJob;

const PAGE: usize = 512;

/// What stands behind the last page of a chain that is there is no guess for one that was cut off.
#[test]
fn a_row_whose_last_page_was_cut_off_does_not_end_with_what_is_of_another() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("app.db");
    let db = Connection::open(&source).unwrap();
    db.execute_batch(&format!("PRAGMA page_size={PAGE}; CREATE TABLE t(id INTEGER PRIMARY KEY, body TEXT)")).unwrap();
    db.execute("INSERT INTO t VALUES (1, ?1)", ["a".repeat(1400)]).unwrap();
    drop(db);
    let mut bytes = fs::read(&source).unwrap();
    let count = bytes.len() / PAGE;
    let gone = u32::try_from(count + 1).unwrap().to_be_bytes();
    let next = (count - 2) * PAGE;
    assert_eq!(bytes[next..next + 4], u32::try_from(count).unwrap().to_be_bytes(), "the chain ends with the file");
    // As if another row's page stood there, and its own behind the end.
    bytes[next..next + 4].copy_from_slice(&gone);
    bytes[(count - 1) * PAGE + 4..].fill(b'z');
    bytes[28..32].copy_from_slice(&gone);
    fs::write(&source, bytes).unwrap();

    let to = folder.path().join("new.db");
    let (schema, backup, map) = (None, None, None);
    let job = SalvageJob { source, to: to.clone(), schema, backup, map, renumbered: false, deleted: false };
    let salvaged = run(&job).unwrap();
    let new = Connection::open(to).unwrap();
    let rows: i64 = new.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!((rows, salvaged.lost_and_found), (0, 1), "{salvaged:#?}");
    let there: String = new.query_row("SELECT c1 FROM lost_and_found", [], |row| row.get(0)).unwrap();
    assert!(there.len() > PAGE && there.bytes().all(|byte| byte == b'a'), "{there}");
}
