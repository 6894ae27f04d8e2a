mod locks;
mod plans;

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
        checkpointing: false,
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

fn journal_at_rest(outlived_one: bool) -> Option<JournalFacts> {
    Some(JournalFacts { state: JournalState::Absent, detail: "it is at rest".to_owned(), nonce: None, outlived_one })
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
fn a_database_that_was_made_where_the_real_one_would_be_mounted_is_not_taken_for_it() {
    let memory = Memory { schema: Some("CREATE TABLE t (a);".to_owned()), ..seen() };
    let elsewhere = Place { fs_id: "root".to_owned(), ..sound().place };
    let has = |place: Place, objects, schema: Option<&str>| {
        let mut facts = DatabaseFacts { place, ..sound() };
        let Some(Ok(open)) = &mut facts.open else { unreachable!() };
        (open.objects, open.schema, open.schema_version) = (objects, schema.map(str::to_owned), 2);
        kinds_of(&facts, &memory)
    };
    assert_eq!(has(elsewhere.clone(), 1, Some("CREATE TABLE x (y);")), "unknown");
    assert_eq!(has(elsewhere.clone(), 0, None), "unknown");
    assert_eq!(
        has(elsewhere.clone(), 2, Some("CREATE TABLE t (a);\nCREATE TABLE x (y);")),
        "healthy",
        "moved to another disk"
    );
    assert_eq!(has(elsewhere, 1, None), "healthy", "its schema is the known one");
    assert_eq!(has(sound().place, 1, Some("CREATE TABLE x (y);")), "healthy", "its own program did that");
}

#[test]
fn what_is_wrong_with_a_file_that_is_not_the_database_itself_is_not_the_databases() {
    let place = Place { fs_id: "root".to_owned(), ..sound().place };
    let of = |header: HeaderFacts, size: u64, ino: u64| DatabaseFacts {
        main: FileState::File(FileFacts { ino, ..file(size) }),
        header: Some(header),
        open: None,
        place: place.clone(),
        ..sound()
    };
    let bad = || bad_header(Some((9, 10))).header.unwrap();
    let (itself, other) = (file(0).ino, file(0).ino + 1);
    assert_eq!(kinds_of(&of(HeaderFacts::Empty, 0, other), &seen()), "unknown");
    assert_eq!(kinds_of(&of(HeaderFacts::Empty, 0, itself), &seen()), "unknown", "numbers are few on a small disk");
    assert_eq!(kinds_of(&of(bad(), 8192, other), &seen()), "unknown");
    assert_eq!(kinds_of(&of(bad(), 8192, itself), &seen()), "db_not_a_database", "its disk has another number now");
    let here = DatabaseFacts { place: sound().place, ..of(HeaderFacts::Empty, 0, other) };
    assert_eq!(kinds_of(&here, &seen()), "db_truncated");
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
    let no_file = [
        DatabaseFacts { wal: Some(wal(WalState::NotAFile)), ..sound() },
        DatabaseFacts { journal: journal(JournalState::NotAFile), ..sound() },
        DatabaseFacts { shm_file: FileState::Other { what: "a FIFO".to_owned() }, ..sound() },
    ];
    for facts in no_file {
        assert_eq!(kinds_of(&facts, &seen()), "db_connection_failed");
    }
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
