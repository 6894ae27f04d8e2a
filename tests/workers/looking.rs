//! A look at a database tells what is wrong with it, and leaves every byte and every name as it was.

use std::os::unix::fs::{FileExt, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use guardian::job::{DatabaseFacts, FileState, HeaderFacts, IntegrityLevel, Job, JournalState, Outcome, WalState};
use guardian::model::FaultClass;

use super::support::{Host, look, run};

fn damage(path: &Path, at: u64, bytes: &[u8]) {
    std::fs::File::options().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

/// As long ago as makes a time stamp final.
fn age(path: &Path) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(3600)).unwrap();
}

/// Looks in full, and sees that nothing was touched and nothing left behind.
fn untouched(host: &Host, path: &Path) -> DatabaseFacts {
    let before = host.content();
    let mut probe = host.probe(path);
    (probe.integrity, probe.diagnose) = (IntegrityLevel::Full, true);
    let facts = look(probe);
    assert_eq!(host.content(), before, "the look changed something");
    assert_eq!(host.scratch(), 0, "a private copy was left behind");
    facts
}

/// Main and WAL as a killed writer leaves them: `rows` commits in the WAL alone.
fn crashed_wal(host: &Host, rows: u32) -> std::path::PathBuf {
    let live = host.database("live.db", "wal");
    let db = rusqlite::Connection::open(&live).unwrap();
    db.execute_batch("PRAGMA wal_autocheckpoint=0; PRAGMA synchronous=OFF").unwrap();
    for row in 0..rows {
        db.execute("INSERT INTO t(b) VALUES (?1)", [format!("late {row}")]).unwrap();
    }
    let path = host.path("t.db");
    for suffix in ["", "-wal"] {
        // By a process of its own, because closing a descriptor of the file would drop this connection's locks.
        let from = format!("{}{suffix}", live.display());
        let status = std::process::Command::new("cp").arg(from).arg(format!("{}{suffix}", path.display())).status();
        assert!(status.unwrap().success());
    }
    db.close().unwrap();
    for name in ["live.db", "live.db-wal", "live.db-shm"] {
        let _ = std::fs::remove_file(host.path(name));
    }
    path
}

/// Main and journal as a writer leaves them that died in the middle of a transaction which had spilled.
fn hot_journal(host: &Host) -> std::path::PathBuf {
    let live = host.database("live.db", "delete");
    let db = rusqlite::Connection::open(&live).unwrap();
    db.execute_batch("PRAGMA cache_size=2; BEGIN; UPDATE t SET b=b||' changed'").unwrap();
    let path = host.path("t.db");
    for suffix in ["", "-journal"] {
        let from = format!("{}{suffix}", live.display());
        let status = std::process::Command::new("cp").arg(from).arg(format!("{}{suffix}", path.display())).status();
        assert!(status.unwrap().success());
    }
    db.execute_batch("ROLLBACK").unwrap();
    db.close().unwrap();
    std::fs::remove_file(live).unwrap();
    path
}

#[test]
fn sound_databases_of_every_make_are_sound_and_stay_as_they_are() {
    for (page_size, encoding, mode) in [
        (4096, "UTF-8", "delete"),
        (4096, "UTF-8", "wal"),
        (65536, "UTF-16le", "wal"),
        (512, "UTF-16be", "persist"),
        (65536, "UTF-8", "truncate"),
    ] {
        let host = Host::new();
        let path = host.path("t.db");
        let db = rusqlite::Connection::open(&path).unwrap();
        db.execute_batch(&format!(
            "PRAGMA page_size={page_size}; PRAGMA encoding='{encoding}'; PRAGMA journal_mode={mode};
             CREATE TABLE t(a); INSERT INTO t VALUES ('x')"
        ))
        .unwrap();
        db.close().unwrap();
        let facts = untouched(&host, &path);
        let open = facts.open.unwrap().unwrap();
        assert_eq!(open.objects, 1);
        assert!(open.schema.unwrap().contains("CREATE TABLE t(a)"));
        assert!(facts.integrity.unwrap().ok && facts.behind_sqlite.is_none() && facts.on_copy.is_none());
        match facts.header.unwrap() {
            HeaderFacts::Good { page_size: size, encoding: words, wal_mode, missing_bytes, extra_bytes, .. } => {
                assert_eq!((size, words.as_str(), wal_mode), (page_size, encoding, mode == "wal"));
                assert_eq!((missing_bytes, extra_bytes), (0, 0));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_unchanged_file_costs_a_stat_and_a_changed_one_is_looked_at() {
    let host = Host::new();
    let path = host.database("t.db", "delete");
    age(&path);
    // The change of the time stamp is itself a change; it is old enough after one tick.
    std::thread::sleep(Duration::from_millis(30));
    let first = look(host.probe(&path));
    let mut again = host.probe(&path);
    (again.known, again.known_way) = (first.fingerprint.clone(), first.place.way);
    again.last_healthy = first.fingerprint.clone();
    let second = look(again.clone());
    assert!(second.unchanged && second.open.is_none() && second.header.is_none());
    assert_eq!(second.fingerprint, None, "it is the known one");

    // A flipped byte, as no program of SQLite's would write it: the counter stays.
    let size = std::fs::metadata(&path).unwrap().len();
    damage(&path, size - 2000, b"flipped by the disk");
    let third = look(again);
    assert!(!third.unchanged && third.behind_sqlite.is_some() && third.integrity.is_some(), "{third:?}");
}

#[test]
fn a_look_at_a_wal_database_that_a_program_has_open_leaves_nothing_for_the_next_to_find() {
    let host = Host::new();
    let path = host.database("t.db", "wal");
    let program = rusqlite::Connection::open(&path).unwrap();
    program.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)).unwrap();
    // What changed within the last tick may change again within it.
    std::thread::sleep(Duration::from_millis(30));
    let first = look(host.probe(&path));
    assert!(first.open.is_some() && first.wal_file.file().is_some());
    let mut again = host.probe(&path);
    (again.known, again.known_way) = (first.fingerprint, first.place.way);
    assert!(look(again).unchanged);
    drop(program);
}

#[test]
fn a_file_that_has_just_changed_is_looked_at_again() {
    let host = Host::new();
    let path = host.database("t.db", "delete");
    age(&path);
    let facts = look(host.probe(&path));
    if facts.fingerprint.as_ref().unwrap().locked {
        let mut again = host.probe(&path);
        (again.known, again.known_way) = (facts.fingerprint, facts.place.way);
        assert!(!look(again).unchanged);
    }
}

#[test]
fn what_is_no_regular_file_is_named_and_not_opened() {
    let host = Host::new();
    let path = host.path("t.db");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert!(matches!(untouched(&host, &path).main, FileState::Other { .. }));

    let host = Host::new();
    let real = host.database("real.db", "delete");
    let path = host.path("t.db");
    std::os::unix::fs::symlink(&real, &path).unwrap();
    let facts = untouched(&host, &path);
    assert!(facts.not_opened.is_some() && facts.open.is_none());
    assert_eq!(facts.main, FileState::Symlink { target: real });

    let host = Host::new();
    let path = host.path("t.db");
    std::fs::create_dir(&path).unwrap();
    assert!(matches!(untouched(&host, &path).main, FileState::Other { .. }));
    let facts = untouched(&host, &host.path("none.db"));
    assert!(facts.main == FileState::Missing && facts.place.folder_exists && facts.not_opened.is_some());

    let host = Host::new();
    let path = host.path("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    assert!(untouched(&host, &path).not_opened.is_some());
    assert!(untouched(&host, Path::new("/dev/zero")).not_opened.is_some());
}

#[test]
fn an_empty_file_beside_a_wal_is_never_opened() {
    for size in [0, 50] {
        let host = Host::new();
        let path = crashed_wal(&host, 5);
        std::fs::File::options().write(true).open(&path).unwrap().set_len(size).unwrap();
        let facts = untouched(&host, &path);
        // With no byte nothing may be opened; a stump may have its page 1 in the WAL, and is judged on a private copy.
        assert_eq!((facts.not_opened.is_some(), facts.on_copy.is_some()), (size == 0, size == 50));
        assert_eq!(facts.open.is_none(), size == 0);
        assert_eq!(facts.wal.unwrap().state, WalState::Sound);
        assert_eq!(matches!(facts.header.unwrap(), HeaderFacts::Empty), size == 0);
        std::fs::remove_file(&path).unwrap();
        let facts = untouched(&host, &path);
        assert_eq!((facts.main, facts.wal.unwrap().state), (FileState::Missing, WalState::Sound));
    }
}

#[test]
fn what_is_not_sqlite_is_not_opened() {
    for bytes in
        [&b"some text, longer than a header of a database would be".repeat(9)[..], &[0; 4096], &[0x5a; 8192], b"x"]
    {
        let host = Host::new();
        let path = host.path("t.db");
        std::fs::write(&path, bytes).unwrap();
        let facts = untouched(&host, &path);
        assert!(matches!(facts.header, Some(HeaderFacts::Bad { .. })) && facts.open.is_none(), "{facts:?}");
    }
}

#[test]
fn a_huge_sparse_file_is_not_read_and_not_copied() {
    let host = Host::new();
    let path = host.database("t.db", "delete");
    std::fs::File::options().write(true).open(&path).unwrap().set_len(1 << 42).unwrap();
    let before = host.content();
    let facts = look(host.probe(&path));
    assert_eq!(host.content(), before);
    match facts.header.unwrap() {
        HeaderFacts::Good { extra_bytes, .. } => assert!(extra_bytes > 1 << 41),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_wal_that_a_killed_writer_left_is_read_where_it_is_and_kept() {
    let host = Host::new();
    let path = crashed_wal(&host, 50);
    let before = host.content();
    let mut probe = host.probe(&path);
    probe.canary = Some("SELECT * FROM t WHERE b LIKE 'late%'".into());
    let facts = look(probe.clone());
    let wal = facts.wal.unwrap();
    assert_eq!((wal.state, facts.query.unwrap().unwrap().rows), (WalState::Sound, 50));
    assert!(facts.on_copy.is_none() && facts.fingerprint.unwrap().wal.is_some());
    let mut after = host.content();
    after.remove(&host.path("t.db-shm"));
    assert_eq!(after, before, "main and WAL are as they were");

    // A scan goes on from its mark, and comes to the same.
    assert!(wal.whole);
    probe.wal_mark = wal.mark;
    probe.wal_marked = facts.wal_file.file().copied();
    let resumed = look(probe.clone()).wal.unwrap();
    assert_eq!((resumed.mark, resumed.whole), (wal.mark, false));

    // Written since, and no frame came: then what was verified is not what is there, and all of it is read.
    probe.wal_marked = None;
    assert!(look(probe).wal.unwrap().whole);
}

#[test]
fn a_damaged_wal_is_judged_on_a_private_copy() {
    let host = Host::new();
    let path = crashed_wal(&host, 50);
    damage(&host.path("t.db-wal"), 32 + 24 + 4096 + 24 + 100, b"rot");
    let facts = untouched(&host, &path);
    let wal = facts.wal.unwrap();
    assert_eq!(wal.state, WalState::Damaged);
    assert!(wal.stranded_commits > 0 && facts.on_copy.is_some());
    let settled = facts.diagnosis.unwrap().settled.unwrap();
    assert!(settled.sound, "{}", settled.detail);
    assert!(settled.tables[0].rows >= 2000 && settled.tables[0].rows < 2050);
}

#[test]
fn the_private_copy_of_a_killed_worker_is_swept_out_by_the_next() {
    let host = Host::new();
    let path = hot_journal(&host);
    let probe = host.probe(&path);
    // No process has the highest number that the kernel could ever give.
    let left = probe.site.scratch.join("probe-4194304-left");
    std::fs::create_dir_all(&left).unwrap();
    std::fs::write(left.join("copy.db"), "x").unwrap();
    assert!(look(probe).on_copy.is_some());
    assert_eq!(host.scratch(), 0);
}

#[test]
fn a_large_file_is_neither_checked_nor_copied_in_passing() {
    let host = Host::new();
    let path = hot_journal(&host);
    let mut probe = host.probe(&path);
    probe.inline_max_bytes = 4096;
    let facts = look(probe.clone());
    assert!(facts.not_opened.is_some() && facts.on_copy.is_none());
    assert_eq!(facts.journal.unwrap().state, JournalState::Hot);
    probe.diagnose = true;
    assert!(look(probe).on_copy.is_some());
}

#[test]
fn a_wal_whose_header_is_garbage_is_damaged() {
    let host = Host::new();
    let path = crashed_wal(&host, 50);
    damage(&host.path("t.db-wal"), 8, b"garbage!");
    let facts = untouched(&host, &path);
    assert_eq!(facts.wal.unwrap().state, WalState::Damaged);
    assert!(facts.on_copy.is_some());
}

#[test]
fn a_hot_journal_is_judged_on_a_private_copy_and_is_not_rolled_back() {
    let host = Host::new();
    let path = hot_journal(&host);
    let facts = untouched(&host, &path);
    assert_eq!(facts.journal.unwrap().state, JournalState::Hot);
    assert!(facts.on_copy.is_some() && facts.integrity.unwrap().ok);
    let settled = facts.diagnosis.unwrap().settled.unwrap();
    assert!(settled.sound && settled.tables[0].rows == 2000);
}

#[test]
fn a_damaged_hot_journal_is_told_apart() {
    let host = Host::new();
    let path = hot_journal(&host);
    let journal = host.path("t.db-journal");
    // A byte of the first record's sum.
    damage(&journal, 512 + 4 + 4096 + 1, &[0xa5]);
    let facts = untouched(&host, &path);
    assert_eq!(facts.journal.unwrap().state, JournalState::Damaged);
    assert!(facts.on_copy.is_some());
}

#[test]
fn a_transaction_under_way_is_no_hot_journal() {
    let host = Host::new();
    let path = host.database("t.db", "delete");
    let db = rusqlite::Connection::open(&path).unwrap();
    // Spilled: the journal is on disk in full, and only its writer's locks tell that it is no dead one's.
    db.execute_batch("PRAGMA cache_size=2; BEGIN; UPDATE t SET b=b||' changed'").unwrap();
    let facts = look(host.probe(&path));
    assert_eq!(facts.journal.unwrap().state, JournalState::InUse);
    assert!(facts.on_copy.is_none());
    assert_eq!(facts.open.unwrap().unwrap_err().class, FaultClass::Busy);
    db.execute_batch("ROLLBACK; BEGIN IMMEDIATE").unwrap();
    let facts = look(host.probe(&path));
    let own = i32::try_from(std::process::id()).unwrap();
    let held: Vec<_> = facts.locks.iter().filter(|lock| lock.pid == own).map(|lock| lock.lock.as_str()).collect();
    assert!(held.contains(&"RESERVED"), "{:?}", facts.locks);
    assert!(facts.fingerprint.unwrap().locked);
    assert!(facts.open.unwrap().is_ok(), "a reader is not blocked by RESERVED");
    db.execute_batch("ROLLBACK").unwrap();
}

#[test]
fn an_exclusive_lock_is_busy_and_names_its_holder() {
    let host = Host::new();
    let path = host.database("t.db", "delete");
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let facts = look(host.probe(&path));
    assert_eq!(facts.open.unwrap().unwrap_err().class, FaultClass::Busy);
    let lock = &facts.locks[0];
    assert_eq!((lock.lock.as_str(), lock.pid), ("EXCLUSIVE", i32::try_from(std::process::id()).unwrap()));
    assert!(lock.blocks_readers && lock.blocks_writers && !lock.comm.is_empty() && lock.started_ms > 0);
    db.execute_batch("ROLLBACK").unwrap();
}

#[test]
fn a_reader_that_holds_a_checkpoint_back_is_named() {
    let host = Host::new();
    let path = host.database("t.db", "wal");
    let reader = rusqlite::Connection::open(&path).unwrap();
    let writer = rusqlite::Connection::open(&path).unwrap();
    writer.execute_batch("INSERT INTO t(b) VALUES ('one')").unwrap();
    reader.execute_batch("BEGIN").unwrap();
    let _: i64 = reader.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
    writer.execute_batch("INSERT INTO t(b) VALUES ('two'); PRAGMA wal_checkpoint(PASSIVE)").unwrap();
    let facts = look(host.probe(&path));
    let wal = facts.wal.unwrap();
    assert!(
        wal.held_back_by.iter().any(|lock| lock.lock.starts_with("WAL reader at frame ")),
        "{wal:?} {:?}",
        facts.locks
    );
    assert!(facts.open.unwrap().is_ok());
    assert!(host.path("t.db-wal").exists(), "the programs' WAL stays");
}

#[test]
fn corruption_and_damaged_indexes_are_found_and_left_as_they_are() {
    let host = Host::new();
    let path = host.database("t.db", "delete");
    let size = std::fs::metadata(&path).unwrap().len();
    damage(&path, size / 4096 / 2 * 4096, &[0xa5; 4096]);
    let facts = untouched(&host, &path);
    let integrity = facts.integrity.unwrap();
    assert!(!integrity.ok && (!integrity.messages.is_empty() || integrity.fault.is_some()));
    assert!(facts.diagnosis.unwrap().settled.is_some());

    let host = Host::new();
    let path = host.database("t.db", "delete");
    let bytes = std::fs::read(&path).unwrap();
    // The last copy of a text is the index's or the table's; one of them no longer has the other's.
    let at = bytes.windows(15).rposition(|window| window == b"text of row 777").unwrap();
    damage(&path, at as u64, b"TEXT");
    let facts = untouched(&host, &path);
    let integrity = facts.integrity.unwrap();
    assert!(!integrity.ok && integrity.only_indexes, "{integrity:?}");
    assert_eq!(integrity.damaged_indexes, ["t_b"]);
}

#[test]
fn a_check_that_would_block_writers_too_long_goes_on_on_a_copy() {
    let host = Host::new();
    let path = host.database("t.db", "delete");
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute_batch(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<300000)
         INSERT INTO t(b) SELECT 'more '||(i*7919 % 300007) FROM n;",
    )
    .unwrap();
    db.close().unwrap();
    let main = std::fs::File::options().append(true).open(&path).unwrap();
    let minute = Duration::from_secs(60);
    let before = host.content();
    let checked = |block_max_ms| {
        let mut probe = host.probe(&path);
        (probe.integrity, probe.site.block_max_ms) = (IntegrityLevel::Full, block_max_ms);
        look(probe).integrity.unwrap()
    };
    // Nobody has written it for a while: there is nobody to be blocked.
    main.set_modified(SystemTime::now() - minute).unwrap();
    let integrity = checked(0);
    assert!(integrity.ok && integrity.unfinished.is_none(), "{integrity:?}");
    // It has just been written.
    main.set_modified(SystemTime::now() + minute).unwrap();
    let integrity = checked(20);
    // Where the copy itself takes longer than writers may be blocked, that is said instead.
    assert!(integrity.ok != integrity.unfinished.is_some(), "{integrity:?}");
    assert_eq!((host.content(), host.scratch()), (before, 0));
}

#[test]
fn holders_are_named_and_so_is_a_file_that_lives_on_unlinked() {
    let host = Host::new();
    let path = host.database("t.db", "delete");
    let mut holder =
        std::process::Command::new("sleep").arg("1000").stdin(std::fs::File::open(&path).unwrap()).spawn().unwrap();
    let pid = i32::try_from(holder.id()).unwrap();
    let named = |facts: DatabaseFacts| {
        let holders = facts.diagnosis.unwrap().holders;
        holders.into_iter().find(|holder| holder.pid == pid).map(|holder| (holder.comm, holder.files, holder.unlinked))
    };
    let main = || vec!["main".to_owned()];
    assert_eq!(named(untouched(&host, &path)), Some(("sleep".into(), main(), vec![])));
    std::fs::remove_file(&path).unwrap();
    assert_eq!(named(untouched(&host, &path)), Some(("sleep".into(), main(), main())));
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(named(untouched(&host, &path)), None);
}

#[test]
fn a_leftover_lock_of_the_dotfile_vfs_is_seen_and_respected() {
    let host = Host::new();
    let path = host.database("t.db", "delete");
    std::fs::create_dir(host.path("t.db.lock")).unwrap();
    let facts = untouched(&host, &path);
    assert_eq!(facts.dotfile_lock.unwrap().path, host.path("t.db.lock"));
    assert!(facts.not_opened.is_some());
}

#[test]
fn a_file_that_we_may_not_write_is_looked_at_without_leaving_side_files() {
    let host = Host::new();
    let path = host.database("t.db", "wal");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o444)).unwrap();
    let facts = untouched(&host, &path);
    assert!(facts.open.unwrap().is_ok() && facts.integrity.unwrap().ok);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
    let before = std::fs::read_dir(host.folder.path()).unwrap().count();
    let facts = look(host.probe(&path));
    assert_eq!(std::fs::read_dir(host.folder.path()).unwrap().count(), before);
    let readable = std::fs::File::options().read(true).custom_flags(0).open(&path).is_ok();
    assert_eq!(facts.open.is_some(), readable, "root reads everything, and nobody else this");
}

#[test]
fn root_the_programs_user_is_judged_and_not_root() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let host = Host::new();
    let path = host.database("t.db", "delete");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut probe = host.probe(&path);
    probe.site.user = Some("65533".into());
    let access = look(probe).access.unwrap();
    assert!(access.ours && !access.read && !access.write && !access.detail.is_empty(), "{access:?}");
    assert!(look(host.probe(&path)).access.unwrap().read);
}

#[test]
fn a_glob_is_expanded_in_a_child() {
    let host = Host::new();
    host.database("one.db", "delete");
    host.database("two.db", "delete");
    let pattern = format!("{}/*.db", host.folder.path().display());
    match run(Job::Expand { pattern, exclude: Vec::new(), max: 10, state_dir: "/s".into(), kept: None }) {
        Outcome::Expanded { matches, truncated, .. } => {
            assert!(!truncated);
            assert_eq!(matches.into_iter().map(|(_, name)| name).collect::<Vec<_>>(), ["one", "two"]);
        }
        other => panic!("{other:?}"),
    }
}
