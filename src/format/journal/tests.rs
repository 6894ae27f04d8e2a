use super::super::wal_scan::tests::copy_in_child;
use super::*;

fn scan(bytes: &[u8]) -> JournalScan {
    let read = |at: u64, into: &mut [u8]| -> Result<(), ()> {
        let from = usize::try_from(at).unwrap();
        into.copy_from_slice(&bytes[from..from + into.len()]);
        Ok(())
    };
    scan_journal(bytes.len() as u64, Some(4096), read).unwrap()
}

/// The journal of a transaction in its middle, spilled so that records are promised.
fn hot(setup: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.db");
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute_batch(setup).unwrap();
    db.execute_batch(
        "CREATE TABLE t(a INTEGER PRIMARY KEY, b);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<2000)
             INSERT INTO t SELECT i, hex(randomblob(100)) FROM n;
             PRAGMA cache_size=10; BEGIN; UPDATE t SET b='x'||b;",
    )
    .unwrap();
    copy_in_child(&path, "-journal")
}

/// The database before a transaction, and in its middle with its journal, each as one moment's bytes.
pub(in crate::format) fn hot_pair() -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.db");
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute_batch(
        "CREATE TABLE t(a INTEGER PRIMARY KEY, b);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<2000)
             INSERT INTO t SELECT i, hex(randomblob(100)) FROM n;",
    )
    .unwrap();
    let before = copy_in_child(&path, "");
    db.execute_batch("PRAGMA cache_size=10; BEGIN; UPDATE t SET b='x'||b||b; UPDATE t SET b=b||'y'").unwrap();
    (before, copy_in_child(&path, ""), copy_in_child(&path, "-journal"))
}

#[test]
fn a_hot_journal_by_sqlite_is_sound() {
    let found = scan(&hot(""));
    assert!(found.is_sound() && found.may_be_hot(), "{found:?}");
    assert!(found.records_valid > 20 && found.segments > 1, "{found:?}");
    assert_eq!(found.records_valid, found.records_promised);
}

#[test]
fn a_journal_of_an_unsynced_writer_is_counted_by_size() {
    let bytes = hot("PRAGMA synchronous=OFF; PRAGMA page_size=1024; VACUUM");
    let found = scan(&bytes);
    assert!(matches!(found.state, JournalState::Valid(header) if header.records == BY_SIZE), "{found:?}");
    assert!(found.is_sound() && found.records_valid > 20, "{found:?}");
    assert!(scan(&bytes[..bytes.len() - 500]).is_sound(), "a partial last record is not damage");
    let mut hurt = bytes.clone();
    hurt[512 + 1032 + 4 + 1024 - 200] ^= 1;
    assert_eq!(scan(&hurt).first_bad, Some(2));
}

#[test]
fn a_promised_record_that_is_bad_or_missing_is_damage() {
    let bytes = hot("");
    let mut hurt = bytes.clone();
    hurt[512 + 2 * 4104 + 4 + 4096 - 400] ^= 0x40;
    let found = scan(&hurt);
    assert_eq!((found.first_bad, found.records_valid), (Some(3), 2));
    assert!(!found.is_sound());
    let cut = scan(&bytes[..512 + 4104 * 4 + 77]);
    assert_eq!((cut.first_bad, cut.is_sound()), (Some(5), false));
}

#[test]
fn a_broken_header_is_not_sound_and_a_finished_one_is() {
    let mut bytes = hot("");
    bytes[5] ^= 1;
    assert_eq!(scan(&bytes).state, JournalState::BadHeader(JournalError::NotMagic));
    assert!(!scan(&bytes).is_sound());
    bytes[..28].fill(0);
    assert_eq!(scan(&bytes).state, JournalState::ZeroedHeader);
    assert!(scan(&bytes).is_sound() && scan(&[]).is_sound());
    assert!(!scan(&hot("")[..100]).is_sound());
}

#[test]
fn leftovers_of_a_longer_transaction_are_not_damage() {
    for sync in ["FULL", "OFF"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.db");
        let db = rusqlite::Connection::open(&path).unwrap();
        db.execute_batch(&format!(
            "PRAGMA synchronous={sync}; CREATE TABLE t(a INTEGER PRIMARY KEY, b);
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<2000)
                 INSERT INTO t SELECT i, hex(randomblob(100)) FROM n;
                 PRAGMA journal_mode=persist; UPDATE t SET b='y'||b; PRAGMA cache_size=5;
                 BEGIN; UPDATE t SET b='z'||b WHERE a<400;"
        ))
        .unwrap();
        let found = scan(&copy_in_child(&path, "-journal"));
        assert!(found.is_sound() && found.may_be_hot(), "{sync}: {found:?}");
    }
}

#[test]
fn the_name_of_a_super_journal_is_read() {
    let mut bytes = hot("");
    let name = b"/srv/app/a.db-mj0123ABCDE";
    bytes.extend((LOCK_BYTE / 4096 + 1).to_be_bytes());
    bytes.extend(name);
    bytes.extend((name.len() as u32).to_be_bytes());
    bytes.extend(name.iter().map(|byte| u32::from(*byte)).sum::<u32>().to_be_bytes());
    bytes.extend(MAGIC);
    assert_eq!(scan(&bytes).super_journal.as_deref(), Some("/srv/app/a.db-mj0123ABCDE"));
    assert!(scan(&bytes).is_sound());
    let at = bytes.len() - 20;
    bytes[at] ^= 1;
    assert_eq!(scan(&bytes).super_journal, None);
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(0u8.., 0..3000)) {
        scan(&bytes);
    }

    #[test]
    fn no_header_fields_make_it_panic(
        fields in proptest::array::uniform5(0u32..), bits in (5u32..18, 9u32..18), records in 0u32..9,
        tail in proptest::collection::vec(0u8.., 0..4000),
    ) {
        let mut bytes = MAGIC.to_vec();
        for field in [records * (fields[0] % 3), fields[1], fields[2], 1 << bits.0, 1 << bits.1] {
            bytes.extend(field.to_be_bytes());
        }
        bytes.extend(tail);
        scan(&bytes);
    }
}
