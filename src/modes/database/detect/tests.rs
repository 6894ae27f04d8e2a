use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;

use super::*;
use crate::job::{
    Access, CutOff, CutOffHolder, DatabaseFacts, FileFacts, FileState, Fingerprint, FormatVersion, HeaderFacts,
    HeldCopy, HeldLock, IntegrityFacts, IntegrityLevel, JournalFacts, JournalState, LayerTime, OpenFacts, Place,
    WalFacts, WalState,
};
use crate::model::Standstill;
use crate::modes::database::memory::PlaceMemory;

fn now() -> Moment {
    Moment { wall: Timestamp::from_second(1_700_000_000).unwrap(), boot_ms: 1_000_000 }
}

fn config() -> DatabaseConfig {
    DatabaseConfig::for_path(Path::new("/srv/app.db"), Path::new("/"))
}

fn file(size: u64) -> FileFacts {
    FileFacts { dev: 1, ino: 2, size, mtime_ns: 3, ctime_ns: 3, uid: 1000, gid: 1000, mode: 0o644, nlink: 1 }
}

fn header() -> HeaderFacts {
    HeaderFacts::Good {
        page_size: 4096,
        page_count: Some(10),
        change_counter: 7,
        schema_cookie: 1,
        wal_mode: true,
        encoding: "UTF-8".to_owned(),
        sqlite_version: 3_054_001,
        missing_bytes: 0,
        lost_page: None,
        schema_format: FormatVersion::Known,
        extra_bytes: 0,
        format: FormatVersion::Known,
    }
}

fn fingerprint() -> Fingerprint {
    Fingerprint {
        main: file(40_960),
        wal: None,
        journal: None,
        change_counter: 7,
        schema_cookie: 1,
        wal_mode: true,
        copied: None,
        locked: false,
    }
}

pub(in crate::modes::database) fn sound() -> DatabaseFacts {
    DatabaseFacts {
        unchanged: false,
        main: FileState::File(file(40_960)),
        wal_file: FileState::Missing,
        shm_file: FileState::Missing,
        journal_file: FileState::Missing,
        place: Place {
            fs_id: "ext4".to_owned(),
            boot_id: "boot".to_owned(),
            free_bytes: 1 << 30,
            free_inodes: u64::MAX,
            folder_exists: true,
            ..Place::default()
        },
        access: Some(Access {
            uid: 1000,
            read: true,
            write: true,
            folder_write: true,
            detail: String::new(),
            ours: true,
        }),
        access_unasked: None,
        header: Some(header()),
        wal: None,
        journal: None,
        locks: Vec::new(),
        dotfile_lock: None,
        users: None,
        behind_sqlite: None,
        suspicion: None,
        on_copy: None,
        not_opened: None,
        copy_waits: false,
        unread: None,
        cut_off: None,
        held: None,
        schema_version: None,
        open: Some(Ok(OpenFacts {
            schema_version: 1,
            journal_mode: "wal".to_owned(),
            objects: 2,
            schema: Some("CREATE TABLE t (a);".to_owned()),
        })),
        integrity: None,
        mapped: None,
        query: None,
        fingerprint: Some(fingerprint()),
        diagnosis: None,
        layers: vec![LayerTime { layer: "exists".to_owned(), seconds: 0.001 }],
        looked_at: now().wall,
    }
}

/// A memory of the sound database.
fn seen() -> Memory {
    let mut memory = Memory::default();
    memory.note_healthy(&sound(), now());
    assert!(memory.ever_healthy && memory.writable);
    memory
}

fn kinds_of(facts: &DatabaseFacts, memory: &Memory) -> String {
    match judge(facts, memory, &config(), now()) {
        Verdict::Healthy => "healthy".to_owned(),
        Verdict::Unknown(_) => "unknown".to_owned(),
        Verdict::Unhealthy(findings) => {
            findings.iter().map(|finding| finding.kind.as_str()).collect::<Vec<_>>().join(" ")
        }
    }
}

fn fault(class: FaultClass, code: i32, message: &str) -> SqliteFault {
    SqliteFault { code, message: message.to_owned(), errno: None, class }
}

fn with_open(class: FaultClass, code: i32, message: &str) -> DatabaseFacts {
    DatabaseFacts { open: Some(Err(fault(class, code, message))), ..sound() }
}

pub(in crate::modes::database) fn with_integrity(
    messages: &[&str],
    only_indexes: bool,
    fault: Option<SqliteFault>,
) -> DatabaseFacts {
    let integrity = IntegrityFacts {
        level: IntegrityLevel::Full,
        ok: false,
        messages: messages.iter().map(|message| (*message).to_owned()).collect(),
        damaged_indexes: if only_indexes { vec!["i".to_owned()] } else { Vec::new() },
        only_indexes,
        only_waste: false,
        constraint_messages: Vec::new(),
        fault,
        unfinished: None,
    };
    DatabaseFacts { integrity: Some(integrity), ..sound() }
}

fn bad_header(like: Option<(u32, u32)>) -> DatabaseFacts {
    let header =
        HeaderFacts::Bad { reason: "not the magic".to_owned(), pages_like_sqlite: like, format: FormatVersion::Known };
    DatabaseFacts { header: Some(header), open: None, fingerprint: None, ..sound() }
}

fn wal(state: WalState) -> WalFacts {
    WalFacts {
        state,
        detail: "frame 7".to_owned(),
        mark: None,
        whole: true,
        stranded_commits: 3,
        index_max_frame: None,
        index_backfill: None,
        held_back_by: Vec::new(),
        reset_bug: false,
    }
}

fn held(lock: &str, state: char) -> HeldLock {
    HeldLock {
        pid: 812,
        comm: "app".to_owned(),
        state,
        started_ms: 5,
        lock: lock.to_owned(),
        blocks_readers: false,
        blocks_writers: true,
        uid: 1000,
        standstill: (state == 'T').then_some(Standstill::Stopped),
        frame: None,
        without_pending: false,
    }
}

/// What was seen healthy before, and what was not, under the same facts.
#[test]
fn the_same_facts_mean_less_of_what_was_never_seen_healthy() {
    let malformed = "malformed database schema (t)";
    let missing = DatabaseFacts { main: FileState::Missing, fingerprint: None, ..sound() };
    let empty = DatabaseFacts { main: FileState::File(file(0)), header: Some(HeaderFacts::Empty), ..sound() };
    let cases = [
        ("sound", sound(), "healthy", "healthy"),
        ("missing", missing, "db_file_missing", "db_file_missing"),
        ("0 bytes", empty, "unknown", "db_truncated"),
        ("encrypted", bad_header(Some((1, 64))), "unknown", "db_not_a_database"),
        ("header overwritten", bad_header(Some((60, 64))), "db_not_a_database", "db_not_a_database"),
        ("NOTADB", with_open(FaultClass::NotADatabase, 26, "file is not a database"), "unknown", "db_not_a_database"),
        ("schema", with_open(FaultClass::Corrupt, 11, malformed), "unknown", "db_schema_corrupted"),
        ("collation", with_open(FaultClass::Schema, 1, "no such collation"), "unknown", "unknown"),
        ("CORRUPT", with_open(FaultClass::Corrupt, 11, "malformed"), "db_corrupted", "db_corrupted"),
        (
            "index",
            with_integrity(&["row 1 missing from index i"], true, None),
            "db_index_corrupted",
            "db_index_corrupted",
        ),
        (
            "rows",
            with_integrity(&["Tree 3 page 4: btreeInitPage"], false, None),
            "db_integrity_failed",
            "db_integrity_failed",
        ),
        (
            "pages",
            with_integrity(&["x"], false, Some(fault(FaultClass::Corrupt, 11, "m"))),
            "db_corrupted",
            "db_corrupted",
        ),
        ("disk", with_open(FaultClass::Io, 10, "disk I/O error"), "db_io_error", "db_io_error"),
        (
            "cannot open",
            with_open(FaultClass::CannotOpen, 14, "unable"),
            "db_connection_failed",
            "db_connection_failed",
        ),
    ];
    for (name, facts, never, before) in cases {
        assert_eq!(kinds_of(&facts, &Memory::default()), never, "{name}, never seen healthy");
        assert_eq!(kinds_of(&facts, &seen()), before, "{name}, seen healthy");
    }
}

#[test]
fn a_schema_format_beyond_sqlites_is_damage_unless_a_newer_sqlite_wrote_it() {
    let refused = |version| {
        let mut facts = with_open(FaultClass::Schema, 1, "unsupported file format");
        if let Some(HeaderFacts::Good { schema_format, .. }) = &mut facts.header {
            *schema_format = version;
        }
        facts
    };
    assert_eq!(kinds_of(&refused(FormatVersion::Damaged), &seen()), "db_corrupted");
    assert_eq!(kinds_of(&refused(FormatVersion::Damaged), &Memory::default()), "unknown", "never seen healthy");
    assert_eq!(kinds_of(&refused(FormatVersion::Newer), &seen()), "unknown");
    let in_wal = DatabaseFacts { open: sound().open, ..refused(FormatVersion::Damaged) };
    assert_eq!(kinds_of(&in_wal, &seen()), "healthy", "the WAL has a sound page 1");
}

#[test]
fn an_end_that_is_cut_off_is_a_finding_of_its_own_unless_sqlite_finds_what_it_cost() {
    let cut = |lost: Option<u32>, mut facts: DatabaseFacts| {
        if let Some(HeaderFacts::Good { missing_bytes, lost_page, .. }) = &mut facts.header {
            (*missing_bytes, *lost_page) = (50, lost);
        }
        facts
    };
    assert_eq!(kinds_of(&cut(Some(10), sound()), &seen()), "db_truncated");
    assert_eq!(kinds_of(&cut(Some(10), with_integrity(&[], false, None)), &seen()), "db_truncated");
    assert_eq!(kinds_of(&cut(None, sound()), &seen()), "healthy", "a WAL has it, or a writer is about to write it");
    let index = with_integrity(&["row 3 missing from index t_a"], true, None);
    assert_eq!(kinds_of(&cut(Some(10), index), &seen()), "db_index_corrupted");
}

/// The worst there could be: a backup over a sound database. None of these is reason enough.
#[test]
fn a_sound_database_that_only_looks_odd_from_here_is_not_called_damaged() {
    let newer = |cookie: i64| DatabaseFacts {
        schema_version: Some(cookie),
        ..with_open(FaultClass::Corrupt, 11, "malformed database schema (t) - near \"FUTURE\": syntax error")
    };
    assert_eq!(kinds_of(&newer(1), &seen()), "db_schema_corrupted", "nobody changed it through SQLite");
    assert_eq!(kinds_of(&newer(2), &seen()), "unknown", "somebody did, perhaps with a newer SQLite");

    let version = |format| {
        let header = HeaderFacts::Bad { reason: "read version 3".to_owned(), pages_like_sqlite: None, format };
        DatabaseFacts { header: Some(header), open: None, fingerprint: None, ..sound() }
    };
    assert_eq!(kinds_of(&version(FormatVersion::Newer), &seen()), "unknown");
    assert_eq!(kinds_of(&version(FormatVersion::Damaged), &seen()), "db_not_a_database", "nobody wrote that");

    let another = FileState::File(FileFacts { ino: 77, ..file(40_960) });
    let deployed = DatabaseFacts { main: another.clone(), ..bad_header(Some((1, 64))) };
    assert_eq!(kinds_of(&deployed, &seen()), "unknown", "an encrypted file was moved there");
    let torn = DatabaseFacts { main: another, ..bad_header(Some((60, 64))) };
    assert_eq!(kinds_of(&torn, &seen()), "db_not_a_database");
}

#[test]
fn what_costs_nobody_a_row_is_never_paid_for_with_a_backup() {
    let plan = |facts: &DatabaseFacts, kind| crate::modes::database::heal::plan(&kind, facts, &seen(), &config(), &[]);
    let mut leaked = with_integrity(&["Page 5: never used"], false, None);
    leaked.integrity.as_mut().unwrap().only_waste = true;
    assert_eq!(kinds_of(&leaked, &seen()), "db_integrity_failed");
    assert!(plan(&leaked, kinds::INTEGRITY_FAILED).unwrap_err().contains("VACUUM"));

    let emptied = OpenFacts { schema_version: 2, journal_mode: "wal".to_owned(), objects: 0, schema: None };
    let emptied = DatabaseFacts { open: Some(Ok(emptied)), ..sound() };
    assert!(plan(&emptied, kinds::SCHEMA_CORRUPTED).unwrap_err().contains("a later write is not reverted"));
}

#[test]
fn an_empty_database_never_takes_the_place_of_rows_that_can_still_be_read() {
    let plan = |facts: &DatabaseFacts| {
        crate::modes::database::heal::plan(&kinds::NOT_A_DATABASE, facts, &seen(), &config(), &[])
    };
    let names = |facts: &DatabaseFacts| {
        let plan = plan(facts).unwrap();
        plan.playbooks.iter().map(|playbook| playbook.name.clone()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names(&bad_header(Some((60, 64)))), "mend_header salvage_rows");
    assert_eq!(names(&bad_header(Some((0, 64)))), "recreate", "nothing is left");
    // A person can mount the backups' folder: until then only what loses nothing is done.
    let mut memory = seen();
    memory.note_backup(&backup(7));
    let facts = diagnosed(bad_header(Some((60, 64))), Vec::new());
    assert_eq!(rungs_of(&kinds::NOT_A_DATABASE, &facts, &memory).as_deref(), Ok("mend_header"));
}

#[test]
fn what_is_missing_because_its_file_system_is_elsewhere_is_unknown() {
    let memory = seen();
    let missing = |place: Place| DatabaseFacts { main: FileState::Missing, place, fingerprint: None, ..sound() };
    let place = sound().place;
    let unmounted = Place { fs_id: "root".to_owned(), ..place.clone() };
    assert_eq!(kinds_of(&missing(unmounted), &memory), "unknown");
    let no_folder = Place { folder_exists: false, ..place.clone() };
    assert_eq!(kinds_of(&missing(no_folder.clone()), &memory), "unknown");
    assert_eq!(kinds_of(&missing(no_folder), &Memory::default()), "db_file_missing", "a first start makes the folder");
    let volatile = PlaceMemory { fs_id: "ext4".to_owned(), boot_id: "an earlier one".to_owned(), volatile: true };
    let of_another_boot = Memory { place: Some(volatile), ..memory };
    assert_eq!(kinds_of(&missing(place), &of_another_boot), "unknown");
}

#[test]
fn links_and_folders_are_not_followed() {
    let of = |main| DatabaseFacts { main, ..sound() };
    let link = of(FileState::Symlink { target: "/etc/passwd".into() });
    assert_eq!(kinds_of(&link, &seen()), "unknown");
    assert_eq!(kinds_of(&of(FileState::Other { what: "a directory".to_owned() }), &seen()), "db_not_file");
    let denied = of(FileState::Unreadable { errno: 13, message: "permission denied".to_owned() });
    assert_eq!(kinds_of(&denied, &seen()), "db_access_denied");
}

#[test]
fn access_is_the_programs_and_not_ours() {
    let access = |read, write| {
        let access = Access { uid: 1000, read, write, folder_write: write, detail: "mode 0400".to_owned(), ours: true };
        DatabaseFacts { access: Some(access), ..sound() }
    };
    assert_eq!(kinds_of(&access(false, false), &seen()), "db_access_denied");
    assert_eq!(kinds_of(&access(true, false), &seen()), "db_access_denied", "it could be written before");
    assert_eq!(kinds_of(&access(true, false), &Memory::default()), "healthy", "it may be meant to be read only");
}

#[test]
fn no_room_to_write_is_found_on_an_unchanged_file_too() {
    let unchanged = DatabaseFacts { unchanged: true, open: None, ..sound() };
    assert_eq!(kinds_of(&unchanged, &seen()), "healthy");
    let place = |place: Place| DatabaseFacts { place, ..unchanged.clone() };
    assert_eq!(kinds_of(&place(Place { free_bytes: 4096, ..sound().place }), &seen()), "db_disk_full");
    assert_eq!(kinds_of(&place(Place { free_inodes: 0, ..sound().place }), &seen()), "db_disk_full");
    assert_eq!(kinds_of(&place(Place { read_only: true, ..sound().place }), &seen()), "db_write_failed");
}

#[test]
fn side_files_that_are_damaged_hide_what_sqlite_would_say() {
    let damaged = DatabaseFacts {
        wal: Some(wal(WalState::Damaged)),
        open: Some(Err(fault(FaultClass::NotADatabase, 26, "x"))),
        ..sound()
    };
    assert_eq!(kinds_of(&damaged, &seen()), "wal_corrupted");
    let journal = |state| Some(JournalFacts { state, detail: "record 3".to_owned(), nonce: None, outlived_one: false });
    let torn = DatabaseFacts { journal: journal(JournalState::Damaged), ..sound() };
    assert_eq!(kinds_of(&torn, &seen()), "stale_journal");
    let hot = DatabaseFacts { journal: journal(JournalState::Hot), ..sound() };
    assert_eq!(kinds_of(&hot, &seen()), "healthy", "SQLite rolls a sound one back without loss");
}

#[test]
fn a_large_wal_names_who_keeps_it_large() {
    let large = DatabaseFacts { wal_file: FileState::File(file(150_000_000)), ..sound() };
    assert_eq!(kinds_of(&large, &seen()), "wal_file_too_large");
    let reader = WalFacts {
        held_back_by: vec![HeldLock { frame: Some(213), ..held("WAL reader at frame 213", 'S') }],
        ..wal(WalState::Sound)
    };
    let starved = DatabaseFacts { wal: Some(reader), ..large };
    let Verdict::Unhealthy(findings) = judge(&starved, &seen(), &config(), now()) else { panic!("healthy") };
    assert_eq!(findings[0].kind.as_str(), "wal_checkpoint_starved");
    assert!(
        findings[0].detail.contains("pid 812") && findings[0].detail.contains("frame 213"),
        "{}",
        findings[0].detail
    );
}

/// In rollback mode, with this journal beside it.
fn exclusively(state: char, journal: Option<JournalFacts>) -> DatabaseFacts {
    let Some(HeaderFacts::Good { .. }) = sound().header else { unreachable!() };
    let mut facts = DatabaseFacts {
        locks: vec![held("EXCLUSIVE", state)],
        journal,
        ..with_open(FaultClass::Busy, 5, "database is locked")
    };
    if let Some(HeaderFacts::Good { wal_mode, .. }) = &mut facts.header {
        *wal_mode = false;
    }
    facts
}

fn journal_at_rest(outlived_one: bool) -> Option<JournalFacts> {
    Some(JournalFacts { state: JournalState::Absent, detail: "it is at rest".to_owned(), nonce: None, outlived_one })
}

#[test]
fn a_program_that_locks_for_its_life_is_told_from_a_transaction_by_what_only_it_can_have() {
    let later = now().after(Duration::from_secs(3600));
    let after_an_hour = |facts: &DatabaseFacts, mut memory: Memory| {
        memory.note(facts, now());
        match judge(facts, &memory, &config(), later) {
            Verdict::Healthy => "healthy",
            Verdict::Unknown(_) => "unknown",
            Verdict::Unhealthy(_) => "unhealthy",
        }
    };
    let lock = |facts: DatabaseFacts, change: fn(&mut HeldLock)| {
        let mut facts = facts;
        change(&mut facts.locks[0]);
        facts
    };
    let rollback = |journal| exclusively('S', journal);
    let wal = DatabaseFacts { header: Some(header()), ..rollback(None) };
    let in_use =
        JournalFacts { state: JournalState::InUse, detail: "x".to_owned(), nonce: Some(7), outlived_one: false };
    let kept = || {
        let mut memory = seen();
        memory.last_healthy.as_mut().unwrap().journal = Some(file(0));
        memory
    };
    for (name, facts, memory, verdict) in [
        ("a journal that outlived a transaction", rollback(journal_at_rest(true)), seen(), "healthy"),
        ("a journal of a transaction that has not ended", rollback(journal_at_rest(false)), seen(), "unhealthy"),
        ("no journal", rollback(None), seen(), "unhealthy"),
        ("a transaction in the journal", rollback(Some(in_use)), seen(), "unhealthy"),
        ("a journal that is kept anyway", rollback(journal_at_rest(true)), kept(), "unknown"),
        ("unix-excl", lock(rollback(None), |held| held.without_pending = true), seen(), "healthy"),
        ("WAL mode", wal.clone(), seen(), "healthy"),
        ("WAL mode, stopped", DatabaseFacts { header: Some(header()), ..exclusively('T', None) }, seen(), "unhealthy"),
        ("a zombie", DatabaseFacts { header: Some(header()), ..exclusively('Z', None) }, seen(), "unhealthy"),
        ("nobody can be named", lock(wal, |held| (held.pid, held.started_ms) = (0, 0)), seen(), "unhealthy"),
    ] {
        assert_eq!(after_an_hour(&facts, memory), verdict, "{name}");
    }
}

#[test]
fn a_program_that_locks_for_its_life_is_known_by_what_it_writes_and_stays_known() {
    let mut memory = seen();
    memory.last_healthy.as_mut().unwrap().journal = Some(file(0));
    let resting = exclusively('S', journal_at_rest(true));
    memory.note(&resting, now());
    assert_eq!(kinds_of(&resting, &memory), "unknown");
    // It wrote, and holds on.
    let mut written = resting;
    let at = now().after(Duration::from_secs(5)).wall.as_nanosecond();
    written.main = FileState::File(FileFacts { mtime_ns: i64::try_from(at).unwrap(), ..file(40_960) });
    assert_eq!(kinds_of(&written, &memory), "healthy");
    memory.note(&written, now().after(Duration::from_secs(6)));
    let writing =
        JournalFacts { state: JournalState::InUse, detail: "x".to_owned(), nonce: Some(7), outlived_one: false };
    let writing = DatabaseFacts { journal: Some(writing), ..written };
    assert_eq!(kinds_of(&writing, &memory), "healthy", "in the middle of its next transaction");
    // Another program in the same process is not it.
    let mut other = writing;
    other.locks[0].comm = "other".to_owned();
    assert_eq!(kinds_of(&other, &memory), "unknown");
}

#[test]
fn the_layers_that_nobody_gets_to_are_skipped_and_none_is_called_sound() {
    let mut facts = exclusively('S', journal_at_rest(true));
    let time = |layer: &&str| LayerTime { layer: (*layer).to_owned(), seconds: 0.001 };
    facts.layers = kinds::LAYERS.iter().map(time).collect();
    let verdict = judge(&facts, &seen(), &config(), now());
    assert_eq!(verdict, Verdict::Healthy);
    let of = |name: &str| {
        let layers = layers(Some(&facts), &seen(), &verdict);
        layers.into_iter().find(|layer| layer.layer.as_str() == name).unwrap().verdict
    };
    for name in ["open", "integrity", "query"] {
        assert_eq!(of(name), LayerVerdict::Skipped, "{name}");
    }
    assert_eq!((of("exists"), of("locks")), (LayerVerdict::Ok, LayerVerdict::Ok));
}

#[test]
fn a_layer_that_was_asked_in_vain_is_not_called_sound() {
    let layer = |facts: &DatabaseFacts, name: &str| {
        let verdict = judge(facts, &seen(), &config(), now());
        let layers = layers(Some(facts), &seen(), &verdict);
        layers.into_iter().find(|layer| layer.layer.as_str() == name).unwrap().verdict
    };
    let time = |layer: &&str| LayerTime { layer: (*layer).to_owned(), seconds: 0.001 };
    let all = kinds::LAYERS.iter().map(time).collect::<Vec<_>>();
    let shut = DatabaseFacts { layers: all.clone(), ..with_open(FaultClass::Corrupt, 11, "malformed") };
    assert_eq!((layer(&shut, "open"), layer(&shut, "integrity")), (LayerVerdict::Failed, LayerVerdict::Unknown));
    let short = with_integrity(&[], false, Some(fault(FaultClass::Interrupted, 9, "interrupted")));
    let short = DatabaseFacts { layers: all, ..short };
    assert_eq!((layer(&short, "open"), layer(&short, "integrity")), (LayerVerdict::Ok, LayerVerdict::Unknown));
}

#[test]
fn a_transaction_that_ended_between_two_looks_is_known_by_its_journal() {
    let with = |nonce| {
        let journal = JournalFacts { state: JournalState::InUse, detail: "x".to_owned(), nonce, outlived_one: false };
        DatabaseFacts { journal: Some(journal), ..sound() }
    };
    let mut memory = seen();
    assert!(!memory.moved(&with(None)));
    memory.note(&with(None), now());
    assert!(!memory.moved(&with(Some(1))), "the first one to be seen");
    memory.note(&with(Some(1)), now());
    assert!(!memory.moved(&with(Some(1))) && !memory.moved(&with(None)) && memory.moved(&with(Some(2))));
    memory.note(&with(None), now());
    assert!(memory.moved(&with(Some(2))));
}

#[test]
fn a_dotfile_lock_is_its_holders_as_long_as_one_lives_and_is_never_guessed_to_be_nobodys() {
    use crate::job::{DotfileLock, HolderFacts, Users};
    let lock = |seconds: i64| DotfileLock {
        path: "/srv/app.db.lock".into(),
        ino: 9,
        made_ns: i64::try_from(now().wall.as_nanosecond()).unwrap() - seconds * 1_000_000_000,
    };
    let holder = HolderFacts {
        pid: 812,
        comm: "app".to_owned(),
        uid: 1000,
        state: 'S',
        started_ms: 5,
        files: vec!["main".to_owned()],
        unlinked: Vec::new(),
    };
    let facts = |seconds, users| DatabaseFacts { dotfile_lock: Some(lock(seconds)), users, open: None, ..sound() };
    let nobody = || Some(Users::default());
    let somebody = || Some(Users { holders: vec![holder.clone()], ..Users::default() });
    let blind = || Some(Users { blind: vec!["hidepid".to_owned()], ..Users::default() });
    for (name, facts, found) in [
        ("nobody's, old", facts(61, nobody()), "stale_lock_file"),
        ("nobody's, new", facts(5, nobody()), "unknown"),
        ("made in the future", facts(-500, nobody()), "unknown"),
        ("not to be told", facts(3600, blind()), "unknown"),
        ("not looked for", facts(3600, None), "unknown"),
        ("somebody's, new", facts(5, somebody()), "unknown"),
        ("somebody's, old", facts(3600, somebody()), "db_locked"),
        (
            "somebody's who locks for life",
            DatabaseFacts { journal: journal_at_rest(true), ..facts(3600, somebody()) },
            "unknown",
        ),
    ] {
        assert_eq!(kinds_of(&facts, &seen()), found, "{name}");
    }
}

#[test]
fn busy_becomes_locked_when_the_busy_timeout_has_passed() {
    let busy = exclusively('S', None);
    let mut memory = seen();
    assert_eq!(kinds_of(&busy, &memory), "unknown");
    memory.note(&busy, now());
    let later = now().after(Duration::from_secs(6));
    let Verdict::Unhealthy(findings) = judge(&busy, &memory, &config(), later) else { panic!("healthy") };
    assert_eq!(findings[0].kind.as_str(), "db_locked");
    assert!(findings[0].detail.contains("pid 812 `app` holds EXCLUSIVE"), "{}", findings[0].detail);
    memory.note(&sound(), later);
    assert_eq!(memory.busy_since, None, "one answer ends the wait");
}

#[test]
fn a_lock_that_one_process_holds_on_becomes_too_old_and_one_that_changes_hands_does_not() {
    let locked = |pid: i32| {
        let lock = HeldLock { pid, ..held("RESERVED", 'T') };
        DatabaseFacts { locks: vec![lock], ..sound() }
    };
    let mut memory = seen();
    memory.note(&locked(812), now());
    let later = now().after(Duration::from_secs(61));
    let verdict = judge(&locked(812), &memory, &config(), later);
    assert!(verdict.findings()[0].detail.contains("stopped"), "{verdict:?}");
    assert_eq!(judge(&locked(900), &memory, &config(), later), Verdict::Healthy);
}

#[test]
fn a_probe_that_timed_out_is_a_failure_and_one_that_crashed_proves_nothing() {
    let failed = |kind| judge_failure(&JobFailure { kind, message: "x".to_owned() });
    assert_eq!(failed(FailureKind::Deadline).findings()[0].kind.as_str(), "db_connection_failed");
    for kind in [FailureKind::Crashed, FailureKind::Abandoned, FailureKind::Failed, FailureKind::Refused] {
        assert!(matches!(failed(kind), Verdict::Unknown(_)), "{kind:?}");
    }
}

#[test]
fn an_empty_schema_is_never_remembered_over_one_with_content() {
    let mut memory = seen();
    let emptied =
        OpenFacts { schema_version: 2, journal_mode: "wal".to_owned(), objects: 0, schema: Some(String::new()) };
    memory.note_healthy(&DatabaseFacts { open: Some(Ok(emptied)), ..sound() }, now());
    assert_eq!(memory.schema.as_deref(), Some("CREATE TABLE t (a);"));
}

#[test]
fn what_could_not_be_read_is_never_healthy_and_never_damage() {
    let unread = |errno: Option<i32>| {
        let unread = Some(crate::job::Unread { errno, message: "its header could not be read".to_owned() });
        DatabaseFacts { unread, header: None, open: None, not_opened: Some("unread".to_owned()), ..sound() }
    };
    for memory in [Memory::default(), seen()] {
        assert_eq!(kinds_of(&unread(Some(5)), &memory), "db_io_error");
        assert_eq!(kinds_of(&unread(Some(117)), &memory), "db_io_error");
        assert_eq!(kinds_of(&unread(Some(2)), &memory), "unknown");
        assert_eq!(kinds_of(&unread(None), &memory), "unknown");
        let closed = DatabaseFacts { open: None, not_opened: Some("its -shm is a link".to_owned()), ..sound() };
        assert_eq!(kinds_of(&closed, &memory), "unknown");
        assert_eq!(kinds_of(&DatabaseFacts { copy_waits: true, ..closed }, &memory), "healthy");
    }
    let query = Some(Err(fault(FaultClass::Io, 266, "disk I/O error")));
    assert_eq!(kinds_of(&DatabaseFacts { query, ..sound() }, &seen()), "db_io_error");
}

fn cut_off(gone: &str, others: &[(i32, String)]) -> CutOff {
    let holder = CutOffHolder {
        pid: 812,
        comm: "app".to_owned(),
        state: 'S',
        started_ms: 5,
        gone: vec![gone.to_owned()],
        mains: vec![2],
        wals: vec![3],
    };
    CutOff { holders: vec![holder], others: others.to_vec() }
}

fn copy(complete: bool, contested: Option<&str>) -> HeldCopy {
    HeldCopy {
        folder: "/var/lib/guardiand/incidents/x/evidence/held-1".into(),
        by: "app (pid 812)".to_owned(),
        taken_at: now().wall,
        complete,
        kept: !complete,
        contested: contested.map(str::to_owned),
    }
}

#[test]
fn what_a_program_holds_under_no_name_comes_before_whatever_is_at_the_path() {
    let cut = |main: FileState, gone| DatabaseFacts { main, cut_off: Some(cut_off(gone, &[])), ..sound() };
    let table = [
        ("deleted", cut(FileState::Missing, "main")),
        ("replaced by a sound one", cut(FileState::File(file(40_960)), "main")),
        ("without its WAL", cut(FileState::File(file(40_960)), "wal")),
        ("its program has ended", DatabaseFacts { held: Some(copy(true, None)), ..sound() }),
    ];
    for (name, facts) in table {
        assert_eq!(kinds_of(&facts, &seen()), "db_file_unlinked", "{name}");
    }
}

#[test]
fn what_was_held_goes_back_by_itself_only_where_nothing_else_is_lost_by_it() {
    let mut may_stop = config();
    may_stop.app = Some(crate::model::Program {
        app: crate::model::App::Unit("app.service".to_owned()),
        stop_timeout: Duration::from_secs(60),
        start_timeout: Duration::from_secs(60),
    });
    let mut refuses = may_stop.clone();
    refuses.when_in_use = Some(crate::modes::database::config::WhenInUse::Refuse);
    let plan = |facts: &DatabaseFacts, config: &DatabaseConfig| {
        let plan = crate::modes::database::heal::plan(&kinds::FILE_UNLINKED, facts, &seen(), config, &[])?;
        let steps = plan.playbooks[0].steps.iter().map(|step| step.name.clone()).collect::<Vec<_>>().join(" ");
        Ok::<_, String>((steps, plan.approval.is_some(), plan.playbooks[0].risk()))
    };
    let missing = DatabaseFacts { main: FileState::Missing, cut_off: Some(cut_off("main", &[])), ..sound() };
    let all = "preserve keep_held stop_app preserve build_from_held install start_app";
    let alone = "preserve keep_held build_from_held install";
    use crate::model::Risk::{Harmless, Lossless, Lossy};
    assert_eq!(plan(&missing, &may_stop), Ok((all.to_owned(), false, Lossless)));
    assert_eq!(plan(&missing, &refuses), Ok((alone.to_owned(), false, Lossless)));
    assert_eq!(plan(&missing, &config()), Ok((alone.to_owned(), false, Lossless)));

    // Once it is kept, there is nothing to do but wait for its end: what it goes on writing is not preserved over and over.
    let kept = DatabaseFacts { held: Some(copy(false, None)), ..missing.clone() };
    for config in [&config(), &refuses] {
        let reason = plan(&kept, config).unwrap_err();
        assert!(reason.contains("kill 812") && reason.contains("incidents/x/evidence."), "{reason}");
    }
    assert_eq!(plan(&kept, &may_stop), Ok((all.to_owned(), false, Lossless)));
    let failed = |step: &str| crate::model::StepRecord {
        step: step.to_owned(),
        outcome: crate::model::StepOutcome::Failed,
        seconds: 0.0,
        detail: format!("what {step} said"),
        evidence: None,
    };
    let again = |facts: &DatabaseFacts, step: &str| {
        crate::modes::database::heal::plan(&kinds::FILE_UNLINKED, facts, &seen(), &may_stop, &[failed(step)])
    };
    assert!(again(&kept, "build_from_held").unwrap_err().contains("kill 812"), "another program has it open");
    assert!(again(&kept, "stop_app").is_ok());
    let both = CutOff { others: vec![(900, "other".to_owned())], ..kept.cut_off.clone().unwrap() };
    let both = DatabaseFacts { cut_off: Some(both), ..kept.clone() };
    assert_eq!(again(&both, "keep_held").unwrap_err(), "what keep_held said");
    assert!(again(&both, "build_from_held").is_ok(), "both sides' rows were not told yet");

    let replaced = |counter: u32| {
        let mut header = header();
        if let HeaderFacts::Good { change_counter, .. } = &mut header {
            *change_counter = counter;
        }
        let main = FileState::File(FileFacts { ino: 9, ..file(40_960) });
        DatabaseFacts { main, header: Some(header), ..missing.clone() }
    };
    assert_eq!(plan(&replaced(6), &may_stop), Ok((all.to_owned(), false, Lossless)), "an older copy");
    assert_eq!(plan(&replaced(8), &may_stop), Ok((all.to_owned(), true, Lossless)), "something else");

    let two = DatabaseFacts { cut_off: Some(cut_off("main", &[(900, "other".to_owned())])), ..replaced(6) };
    assert_eq!(plan(&two, &may_stop), Ok(("preserve keep_held".to_owned(), false, Harmless)));

    let ended = |held| DatabaseFacts { cut_off: None, held: Some(held), ..replaced(6) };
    assert_eq!(plan(&ended(copy(true, None)), &config()), Ok((alone.to_owned(), false, Lossless)));
    assert_eq!(plan(&ended(copy(false, None)), &config()), Ok((alone.to_owned(), false, Lossy)), "nobody saw its end");
    let reason = plan(&ended(copy(true, Some("the file at the path was written since"))), &config()).unwrap_err();
    assert!(reason.contains("mv /var/lib/guardiand") && reason.contains("guardiand heal"), "{reason}");
}

fn backup(rows: u64) -> crate::job::BackupEntry {
    let manifest = crate::job::BackupManifest {
        version: 1,
        target: "app".to_owned(),
        source: "/srv/app.db".into(),
        number: 1,
        taken_at: now().wall,
        duration_seconds: 0.1,
        blocked_seconds: 0.0,
        size: 40_960,
        blake3: "00".to_owned(),
        tables: vec![crate::job::TableRows { table: "t".to_owned(), rows }],
        schema: "CREATE TABLE t (a);".to_owned(),
        schema_cookie: Some(1),
        journal_mode: "wal".to_owned(),
        page_size: 4096,
        source_fingerprint: Some(fingerprint()),
        wal: None,
        owner: crate::job::Owner { uid: 1000, gid: 1000, mode: 0o644 },
        attributes: None,
        verified_at: now().wall,
        sqlite_version: "3.54.1".to_owned(),
        damaged: None,
    };
    crate::job::BackupEntry { file: "/var/backups/app/1.db".into(), manifest }
}

fn diagnosed(facts: DatabaseFacts, backups: Vec<crate::job::BackupEntry>) -> DatabaseFacts {
    let diagnosis = crate::job::Diagnosis {
        holders: Vec::new(),
        blind: Vec::new(),
        settled: None,
        mended: None,
        backups,
        damaged: Vec::new(),
        unusable: Vec::new(),
        members: Vec::new(),
    };
    DatabaseFacts { diagnosis: Some(diagnosis), ..facts }
}

fn rungs_of(kind: &crate::model::Kind, facts: &DatabaseFacts, memory: &Memory) -> Result<String, String> {
    let plan = crate::modes::database::heal::plan(kind, facts, memory, &config(), &[])?;
    Ok(plan.playbooks.iter().map(|playbook| playbook.name.clone()).collect::<Vec<_>>().join(" "))
}

#[test]
fn rows_are_salvaged_before_the_backups_where_there_may_be_more_and_after_them_in_any_case() {
    let torn = || with_integrity(&["Tree 2 page 3: btreeInitPage() returns error code 11"], false, None);
    let written = || {
        let main = FileState::File(FileFacts { mtime_ns: 9, ..file(40_960) });
        let mut print = fingerprint();
        print.main.mtime_ns = 9;
        DatabaseFacts { main, fingerprint: Some(print), ..torn() }
    };
    let rungs = |facts: DatabaseFacts| rungs_of(&kinds::INTEGRITY_FAILED, &facts, &seen());
    let of_two = "salvage_rows restore_backup restore_backup salvage_rows";
    assert_eq!(rungs(diagnosed(written(), vec![backup(7), backup(5)])).as_deref(), Ok(of_two));
    assert_eq!(rungs(diagnosed(written(), Vec::new())).as_deref(), Ok("salvage_rows"));
    // Bits that turned in a file that nobody has written since: the backup has all of it.
    assert_eq!(rungs(diagnosed(torn(), vec![backup(7)])).as_deref(), Ok("restore_backup salvage_rows"));
    let plan = |facts: DatabaseFacts| {
        let facts = diagnosed(facts, vec![backup(7)]);
        crate::modes::database::heal::plan(&kinds::INTEGRITY_FAILED, &facts, &seen(), &config(), &[]).unwrap().playbooks
    };
    assert!(plan(torn())[0].why.contains("nothing was committed since, so that nothing is salvaged"));
    assert!(plan(written())[1].why.contains("what was written since is lost"));
    // Who waits for ten gigabytes is told how long.
    assert!(!plan(written())[0].why.contains("it takes about"));
    let large = DatabaseFacts { main: FileState::File(FileFacts { mtime_ns: 9, ..file(10_000_000_000) }), ..written() };
    assert!(plan(large)[0].why.contains("(it takes about 5 minutes)"));

    // The first is compared with the newest that passes, the last with nothing.
    let plan = diagnosed(written(), vec![backup(7), backup(5)]);
    let plan = crate::modes::database::heal::plan(&kinds::INTEGRITY_FAILED, &plan, &seen(), &config(), &[]).unwrap();
    let than = |at: usize| {
        let step = serde_json::from_value(plan.playbooks[at].steps[1].args.clone()).unwrap();
        let crate::job::DatabaseStep::BuildFromSalvage { more_than, backups, schema_cookie, schema, .. } = step else {
            panic!("{step:?}")
        };
        assert_eq!((schema_cookie, schema.as_deref()), (Some(2), Some("CREATE TABLE t (a);")));
        assert_eq!(more_than, None);
        backups
    };
    assert_eq!((than(0), than(3)), (vec![backup(7).file, backup(5).file], Vec::new()));

    // What is whole as it is has nothing to be salvaged; nor has noise, nor a file that is gone.
    let mut whole = diagnosed(written(), vec![backup(7)]);
    whole.diagnosis.as_mut().unwrap().settled = Some(crate::job::SettledCopy {
        sound: true,
        detail: String::new(),
        tables: Vec::new(),
        schema_put_back: false,
    });
    assert_eq!(rungs(whole).as_deref(), Ok("restore_backup settle_copy"));
    let missing = DatabaseFacts { main: FileState::Missing, fingerprint: None, open: None, ..sound() };
    let of_missing = rungs_of(&kinds::FILE_MISSING, &diagnosed(missing, vec![backup(7)]), &seen());
    assert_eq!(of_missing.as_deref(), Ok("restore_backup salvage_rows recreate"), "of a damaged backup");

    // Of an index alone no row is lost: without a backup nobody decides which of two rows has to go.
    let index = |backups| {
        let facts = diagnosed(with_integrity(&["row 3 missing from index i"], true, None), backups);
        rungs_of(&kinds::INDEX_CORRUPTED, &facts, &seen())
    };
    assert_eq!(index(Vec::new()).as_deref(), Ok("rebuild_indexes"));
    assert_eq!(index(vec![backup(7)]).as_deref(), Ok("rebuild_indexes restore_backup salvage_rows"));

    // A backup is known of, and its folder is not mounted, perhaps.
    let mut memory = seen();
    memory.note_backup(&backup(7));
    let hidden = rungs_of(&kinds::INTEGRITY_FAILED, &diagnosed(written(), Vec::new()), &memory);
    assert!(hidden.unwrap_err().contains("is the backups' folder there"));
}

#[test]
fn in_place_says_what_is_left_out_and_who_is_in_the_way() {
    let holder = crate::job::HolderFacts {
        pid: 812,
        comm: "shop".to_owned(),
        uid: 1000,
        state: 'S',
        started_ms: 5,
        files: vec!["main".to_owned()],
        unlinked: Vec::new(),
    };
    let plan = |backups| {
        let mut config = config();
        config.when_in_use = Some(crate::modes::database::config::WhenInUse::InPlace);
        let mut facts = with_integrity(&["Freelist: size is 3 but should be 5"], false, None);
        facts.fingerprint = None;
        let mut facts = diagnosed(facts, backups);
        facts.diagnosis.as_mut().unwrap().holders = vec![holder.clone()];
        crate::modes::database::heal::plan(&kinds::INTEGRITY_FAILED, &facts, &seen(), &config, &[])
    };
    let restored = plan(vec![backup(7)]).unwrap().playbooks;
    let told =
        "not tried before (only for a file that nobody has open: `mend_freelist`, `salvage_rows`): shop (pid 812) has";
    assert_eq!(restored.len(), 1);
    assert!(restored[0].name == "restore_in_place" && restored[0].why.contains(told), "{}", restored[0].why);
    let refused = plan(Vec::new()).unwrap_err();
    for words in ["shop (pid 812) has", "`mend_freelist`, `salvage_rows`", "run `guardiand heal "] {
        assert!(refused.contains(words), "{refused}");
    }
}

#[test]
fn the_way_to_the_rows_is_mended_first_where_it_may_be_all_that_is_hurt() {
    let first = |kind: &crate::model::Kind, facts: DatabaseFacts| {
        let plan = crate::modes::database::heal::plan(kind, &facts, &seen(), &config(), &[]).unwrap();
        plan.playbooks[0].clone()
    };
    let mut older = backup(3);
    older.manifest.schema_cookie = Some(7);
    let with = |facts| diagnosed(facts, vec![backup(5), older.clone()]);
    let malformed = || with_open(FaultClass::Corrupt, 11, "database disk image is malformed");
    let free = || with_integrity(&["Freelist: size is 3 but should be 5"], false, None);
    for (kind, facts, name) in [
        (kinds::NOT_A_DATABASE, bad_header(Some((60, 64))), "mend_header"),
        (kinds::CORRUPTED, malformed(), "mend_header"),
        (kinds::INTEGRITY_FAILED, free(), "mend_freelist"),
    ] {
        let rung = first(&kind, with(facts));
        assert_eq!(rung.name, name);
        let step = serde_json::from_value(rung.steps[1].args.clone()).unwrap();
        let crate::job::DatabaseStep::BuildMended { known } = step else { panic!("{step:?}") };
        assert_eq!(known.page_ones, [backup(5).file], "of the schema as it is, and of no other");
        assert_eq!((known.schema_cookie, known.change_counter, known.wal_mode), (Some(1), Some(7), true));
        assert_eq!(known.schema.as_deref(), Some("CREATE TABLE t (a);"));
    }
    // What a WAL or a journal has comes before what can be made up; and rows that are hurt are another rung's.
    let hot = JournalFacts { state: JournalState::Hot, ..journal_at_rest(true).unwrap() };
    for facts in [
        DatabaseFacts { wal: Some(wal(WalState::Damaged)), ..malformed() },
        DatabaseFacts { journal: Some(hot), ..malformed() },
        with_integrity(&["Tree 2 page 3: btreeInitPage() returns error code 11"], false, None),
    ] {
        assert_eq!(first(&kinds::CORRUPTED, with(facts)).name, "restore_backup");
    }
}

/// A database in rollback mode whose file was written after its backup without a commit, and what the plan for it begins with.
#[test]
fn pages_are_put_back_first_where_nothing_was_committed_since() {
    let then = Fingerprint { wal_mode: false, ..fingerprint() };
    let taken_at = now().wall;
    let of_then = |then: &Fingerprint| {
        let mut entry = backup(7);
        entry.manifest.source_fingerprint = Some(then.clone());
        entry
    };
    let counted = |change_counter| {
        let mut header = header();
        if let HeaderFacts::Good { change_counter: counter, wal_mode, .. } = &mut header {
            (*counter, *wal_mode) = (change_counter, false);
        }
        header
    };
    let torn = |change_counter| DatabaseFacts {
        main: FileState::File(FileFacts { mtime_ns: 9, ..file(40_960) }),
        header: Some(counted(change_counter)),
        wal: Some(WalFacts { mark: None, ..wal(WalState::Absent) }),
        ..with_integrity(&["Tree 2 page 3: btreeInitPage() returns error code 11"], false, None)
    };
    let memory = |last: &Fingerprint, after| Memory {
        last_healthy: Some(last.clone()),
        healthy_at: Some(taken_at + Duration::from_secs(after)),
        ..seen()
    };
    let first = |facts: DatabaseFacts, memory: &Memory| {
        let plan =
            crate::modes::database::heal::plan(&kinds::INTEGRITY_FAILED, &facts, memory, &config(), &[]).unwrap();
        plan.playbooks[0].clone()
    };
    let rung = first(diagnosed(torn(7), vec![of_then(&then)]), &memory(&then, 60));
    assert_eq!(rung.name, "mend_pages");
    let step = serde_json::from_value(rung.steps[1].args.clone()).unwrap();
    let crate::job::DatabaseStep::BuildFromPages { known, sources, .. } = step else { panic!("{step:?}") };
    assert_eq!((known.len(), known[0].then.at, sources.len()), (1, taken_at, 1));

    let written = Fingerprint { main: FileFacts { mtime_ns: 8, ..file(40_960) }, ..then.clone() };
    let hot = JournalFacts { state: JournalState::Hot, ..journal_at_rest(true).unwrap() };
    let unwritten = memory(&then, 60);
    let rebooted = DatabaseFacts { place: Place { boot_id: "another".to_owned(), ..torn(7).place }, ..torn(7) };
    for (facts, memory, why) in [
        (torn(8), &unwritten, "a commit since"),
        (DatabaseFacts { header: Some(header()), ..torn(7) }, &unwritten, "it is in WAL mode"),
        (DatabaseFacts { journal: Some(hot), ..torn(7) }, &unwritten, "a journal is to be rolled back"),
        (rebooted, &unwritten, "what was written before the machine went down may be there in part"),
        (torn(7), &memory(&written, 60), "a healthy look since has seen it written"),
    ] {
        assert_ne!(first(diagnosed(facts, vec![of_then(&then)]), memory).name, "mend_pages", "{why}");
    }
    // A look before the backup says nothing of what came after it.
    let before = Memory { healthy_at: Some(taken_at - Duration::from_secs(60)), ..memory(&written, 0) };
    assert_eq!(first(diagnosed(torn(7), vec![of_then(&then)]), &before).name, "mend_pages");
    // A source that was written while it was copied, and another database's backup.
    let mut moving = of_then(&then);
    moving.manifest.source_fingerprint = None;
    let of_another = Memory { path: Some("/srv/other.db".to_owned()), ..memory(&then, 60) };
    assert_ne!(first(diagnosed(torn(7), vec![moving]), &memory(&then, 60)).name, "mend_pages");
    assert_ne!(first(diagnosed(torn(7), vec![of_then(&then)]), &of_another).name, "mend_pages");
}
