use std::path::Path;
use std::process::Command;

use super::*;

/// The bytes of a file beside an open database, read by a child: closing a descriptor of ours would drop
/// the connection's locks.
pub(in crate::format) fn copy_in_child(database: &Path, suffix: &str) -> Vec<u8> {
    let mut source = database.as_os_str().to_owned();
    source.push(suffix);
    let target = database.with_extension("copied");
    assert!(Command::new("cp").arg(source).arg(&target).status().unwrap().success());
    std::fs::read(target).unwrap()
}

pub(in crate::format) fn scan(bytes: &[u8], mark: Option<&WalMark>) -> WalScan {
    let read = |at: u64, into: &mut [u8]| -> Result<(), ()> {
        let from = usize::try_from(at).unwrap();
        into.copy_from_slice(&bytes[from..from + into.len()]);
        Ok(())
    };
    scan_wal(bytes.len() as u64, mark, read).unwrap()
}

pub(in crate::format) struct Live {
    dir: tempfile::TempDir,
    db: rusqlite::Connection,
}

impl Live {
    pub(in crate::format) fn new(page_size: u32) -> Live {
        let dir = tempfile::tempdir().unwrap();
        let db = rusqlite::Connection::open(dir.path().join("t.db")).unwrap();
        let setup = format!(
            "PRAGMA page_size={page_size}; PRAGMA journal_mode=wal; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(a, b)"
        );
        db.execute_batch(&setup).unwrap();
        Live { dir, db }
    }

    pub(in crate::format) fn commit(&self, rows: u32) {
        self.db.execute_batch("BEGIN").unwrap();
        for row in 0..rows {
            self.db.execute("INSERT INTO t VALUES (?1, hex(randomblob(600)))", [row]).unwrap();
        }
        self.db.execute_batch("COMMIT").unwrap();
    }

    pub(in crate::format) fn wal(&self) -> Vec<u8> {
        copy_in_child(&self.dir.path().join("t.db"), "-wal")
    }

    /// The next commit begins a new generation.
    pub(in crate::format) fn restart(&self) {
        self.db.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
    }

    /// A transaction too large for the cache, which is then taken back.
    pub(in crate::format) fn spill_and_roll_back(&self) {
        self.db.execute_batch("PRAGMA cache_size=5; BEGIN").unwrap();
        for _ in 0..200 {
            self.db.execute("INSERT INTO t VALUES (1, hex(randomblob(900)))", []).unwrap();
        }
        self.db.execute_batch("ROLLBACK; PRAGMA cache_size=2000").unwrap();
    }
}

#[test]
fn a_wal_by_sqlite_is_sound_at_every_page_size() {
    for page_size in [512, 4096, 65_536] {
        let live = Live::new(page_size);
        live.commit(20);
        let wal = live.wal();
        let found = scan(&wal, None);
        let frames = (wal.len() - WAL_HEADER_LEN) / frame_len(page_size);
        assert!(found.is_sound() && !found.is_damaged(), "{found:?}");
        assert_eq!((found.frames_valid as usize, found.last_commit as usize), (frames, frames));
        let pages: u32 = live.db.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
        assert_eq!(found.database_pages, pages);
    }
}

#[test]
fn a_flipped_bit_in_the_middle_is_proven_damage() {
    let live = Live::new(4096);
    for _ in 0..6 {
        live.commit(3);
    }
    let wal = live.wal();
    let whole = scan(&wal, None);
    let third = WAL_HEADER_LEN + 2 * frame_len(4096);
    // In the page, the salt, the sum and the page number of frame 3.
    for at in [third + 1000, third + 9, third + 17, third + 2] {
        let mut hurt = wal.clone();
        hurt[at] ^= 0x10;
        let found = scan(&hurt, None);
        assert!(found.is_damaged() && !found.is_sound(), "byte {at}: {found:?}");
        assert_eq!(found.first_bad.unwrap().0, 3);
        assert_eq!(found.stranded_frames, whole.frames_valid - 3);
        assert!(found.last_commit <= 2 && found.stranded_commits >= 4);
    }
}

#[test]
fn commits_behind_a_broken_header_are_found_without_its_page_size() {
    let live = Live::new(1024);
    live.commit(10);
    live.commit(10);
    let wal = live.wal();
    let whole = scan(&wal, None);
    for damage in [[0u8; 32], [0xa5; 32]] {
        let mut hurt = wal.clone();
        hurt[..32].copy_from_slice(&damage);
        let found = scan(&hurt, None);
        assert!(found.is_damaged(), "{found:?}");
        assert_eq!(found.stranded_frames, whole.frames_valid);
        assert!(found.mark.is_none());
    }
}

#[test]
fn a_cut_wal_is_betrayed_by_its_index() {
    let live = Live::new(4096);
    live.commit(5);
    live.commit(5);
    let index = WalIndex::parse(&copy_in_child(&live.dir.path().join("t.db"), "-shm")).unwrap();
    let wal = live.wal();
    assert_eq!(scan(&wal, None).missing_frames(&index), 0);
    let cut = scan(&wal[..wal.len() - frame_len(4096)], None);
    assert!(cut.is_sound() && cut.missing_frames(&index) > 0, "{cut:?}");
    live.restart();
    live.commit(1);
    assert_eq!(scan(&live.wal(), None).missing_frames(&index), 0, "another generation");
}

#[test]
fn a_cut_tail_is_not_damage() {
    let live = Live::new(4096);
    live.commit(5);
    live.commit(5);
    let wal = live.wal();
    let found = scan(&wal[..wal.len() - 100], None);
    assert!(found.is_sound(), "{found:?}");
    assert_eq!(found.torn_tail as usize, frame_len(4096) - 100);
    assert!(scan(&[], None).is_sound());
    assert!(scan(&wal[..20], None).is_sound());
}

#[test]
fn an_older_generation_behind_the_present_one_is_not_damage() {
    let live = Live::new(4096);
    live.commit(40);
    live.restart();
    live.commit(1);
    let found = scan(&live.wal(), None);
    assert_eq!(found.first_bad.unwrap().1, BadFrame::Salt);
    assert!(found.is_sound() && found.stranded_frames == 0, "{found:?}");
}

#[test]
fn what_a_rolled_back_transaction_spilled_is_not_damage() {
    let live = Live::new(4096);
    live.commit(2);
    live.db.execute_batch("PRAGMA cache_size=5; BEGIN").unwrap();
    for _ in 0..200 {
        live.db.execute("INSERT INTO t VALUES (1, hex(randomblob(900)))", []).unwrap();
    }
    let spilled = live.wal();
    live.db.execute_batch("ROLLBACK; PRAGMA cache_size=2000").unwrap();
    live.commit(2);
    let found = scan(&live.wal(), None);
    assert!(scan(&spilled, None).frames_valid > 20, "nothing was spilled");
    assert!(found.is_sound() && found.stranded_frames > 0, "{found:?}");
}

#[test]
fn resuming_says_what_scanning_at_once_says() {
    let live = Live::new(4096);
    live.commit(3);
    let early = scan(&live.wal(), None);
    let mark = early.mark.unwrap();
    live.commit(7);
    let wal = live.wal();
    let resumed = WalScan { frames_trusted: mark.last_commit, ..scan(&wal, None) };
    assert_eq!(scan(&wal, Some(&mark)), resumed);
    let mut hurt = wal.clone();
    hurt[WAL_HEADER_LEN + (mark.last_commit as usize) * frame_len(4096) + 2000] ^= 1;
    assert_eq!(scan(&hurt, Some(&mark)), WalScan { frames_trusted: mark.last_commit, ..scan(&hurt, None) });
}

#[test]
fn a_mark_of_another_generation_or_of_a_longer_file_is_not_used() {
    let live = Live::new(4096);
    live.commit(3);
    let wal = live.wal();
    let mark = scan(&wal, None).mark.unwrap();
    assert_eq!(scan(&wal[..5000], Some(&mark)), scan(&wal[..5000], None));
    live.restart();
    live.commit(1);
    let wal = live.wal();
    assert_eq!(scan(&wal, Some(&mark)), scan(&wal, None));
}

proptest::proptest! {
    #[test]
    fn chunks_of_any_size_say_the_same(cuts in proptest::collection::vec(1usize..9000, 1..40), flip in 0usize..60_000, bad_header: bool) {
        use std::sync::OnceLock;
        static WAL: OnceLock<Vec<u8>> = OnceLock::new();
        let mut wal = WAL.get_or_init(|| { let live = Live::new(1024); live.commit(9); live.commit(9); live.wal() }).clone();
        let at = flip % wal.len();
        wal[at] ^= 4;
        if bad_header { wal[3] ^= 0xff; }
        let mut scanner = WalScanner::new();
        let mut rest = &wal[..];
        for cut in cuts.iter().cycle() {
            if rest.is_empty() { break; }
            let (chunk, more) = rest.split_at((*cut).min(rest.len()));
            scanner.feed(chunk);
            rest = more;
        }
        proptest::prop_assert_eq!(scanner.offset(), wal.len() as u64);
        let found = scanner.finish();
        proptest::prop_assert_eq!(found, scan(&wal, None));
        // Bytes 12..16, the checkpoint number, are under the header's sum like all others: no flip goes unseen.
        proptest::prop_assert!(found.first_bad.is_some() || matches!(found.header, WalHeaderState::Bad(_)));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(0u8.., 0..6000)) {
        scan(&bytes, None);
    }
}
