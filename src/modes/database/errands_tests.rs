use std::path::PathBuf;

use super::super::config::DatabaseConfig;
use super::super::detect::tests::{sound, with_integrity};
use super::super::{Database, Defaults};
use super::*;
use crate::job::{BackupEntry, BackupManifest, DatabaseFacts, IntegrityFacts, Owner};
use crate::model::{Policy, Verdict};

const HOUR: Duration = Duration::from_secs(3600);

fn at(seconds: i64, boot_ms: u64) -> Moment {
    Moment { wall: Timestamp::from_second(1_800_000_000 + seconds).unwrap(), boot_ms }
}

fn database(now: Moment) -> Database {
    let folder = PathBuf::from("/srv");
    let mut config = DatabaseConfig::for_path("app.db".as_ref(), &folder);
    config.backup =
        Some(super::super::config::BackupPlan { every: HOUR, ..super::super::config::BackupPlan::standard(&folder) });
    let defaults = Defaults { state_dir: folder, interval: HOUR, policy: Policy::Heal };
    let mut database = Database::new(config, &defaults);
    database.healthy = true;
    database.memory.quick_at = Some(now.wall);
    database.memory.full_at = Some(now.wall);
    database
}

fn backup_of(taken_at: Timestamp) -> BackupEntry {
    let manifest = BackupManifest {
        version: 1,
        target: "app".into(),
        source: "/srv/app.db".into(),
        number: 1,
        taken_at,
        duration_seconds: 0.1,
        blocked_seconds: 0.0,
        size: 1,
        blake3: String::new(),
        tables: Vec::new(),
        schema: String::new(),
        schema_cookie: Some(1),
        journal_mode: "wal".into(),
        page_size: 4096,
        source_fingerprint: None,
        wal: None,
        owner: Owner { uid: 0, gid: 0, mode: 0o600 },
        attributes: None,
        verified_at: taken_at,
        sqlite_version: "3".into(),
        damaged: None,
    };
    BackupEntry { file: "/b/1.db".into(), manifest }
}

fn due(database: &mut Database, now: Moment) -> Option<&'static str> {
    database.due_errand(now).map(|errand| errand.name)
}

#[test]
fn a_clock_that_is_set_back_costs_one_backup_and_not_one_at_every_look() {
    let (ahead, right) = (at(86_400, 0), at(0, 1000));
    let mut database = database(right);
    database.config.integrity.quick = 9 * HOUR;
    database.memory.note_backup(&backup_of(ahead.wall));
    assert_eq!(due(&mut database, right), Some(BACKUP), "when the last one was taken nobody knows");
    assert_eq!(due(&mut database, right), None, "it is under way, or failed");
    database.memory.note_backup(&backup_of(right.wall));
    assert_eq!(
        database.memory.backup.as_ref().map(|backup| backup.taken_at),
        Some(right.wall),
        "the newest is the one taken last"
    );
    assert_eq!(due(&mut database, at(1, 2000)), None);
    assert_eq!(due(&mut database, at(3600, 3_601_000)), Some(BACKUP));
}

#[test]
fn a_backup_that_fails_after_the_clock_was_set_back_is_not_tried_at_every_look() {
    let (ahead, right) = (at(86_400, 0), at(0, 1000));
    let mut database = database(right);
    database.memory.note_backup(&backup_of(ahead.wall));
    database.memory.backup_tried_at = Some(ahead.wall);
    assert_eq!(due(&mut database, right), Some(BACKUP));
    assert_eq!(due(&mut database, at(60, 61_000)), None);
    assert_eq!(due(&mut database, at(900, 901_000)), Some(BACKUP));
}

#[test]
fn what_sqlite_may_have_done_itself_is_checked_now_and_then_and_what_it_does_not_do_at_once() {
    let mut database = database(at(0, 0));
    database.config.backup = None;
    database.doubt = Some(IntegrityLevel::Quick);
    assert_eq!(due(&mut database, at(0, 0)), Some(QUICK));
    database.checked = Some(at(0, 0));
    assert_eq!(due(&mut database, at(60, 60_000)), None, "a program that opens, writes and closes it each minute");
    assert_eq!(database.suspicious(at(3600, 3_600_000)).map(|(name, _)| name), Some(QUICK), "it is not forgotten");
    database.doubt = Some(IntegrityLevel::Full);
    assert_eq!(due(&mut database, at(60, 60_000)), Some(FULL));
}

/// Under a program that commits without a pause most looks do not get in, and the others only see that it can be opened.
#[test]
fn damage_that_was_seen_once_is_not_forgotten_before_a_check_of_everything_has_passed() {
    let start = at(0, 0);
    let mut database = database(start);
    database.memory.ever_healthy = true;
    let seen = |facts: DatabaseFacts| -> Answer { Ok(Outcome::Probed(Box::new(facts))) };
    let torn = || with_integrity(&["Tree 3 page 41: btreeInitPage() returns error code 11"], false, None);
    let found = database.conclude(Look::Sweep, &seen(torn()), start);
    assert!(matches!(found.verdict, Verdict::Unhealthy(_)), "{:?}", found.verdict);
    let unfinished = Some("database is locked".to_owned());
    let shut_out = IntegrityFacts { unfinished, messages: Vec::new(), ..torn().integrity.unwrap() };
    let confirmed =
        database.conclude(Look::Confirm, &seen(DatabaseFacts { integrity: Some(shut_out), ..sound() }), start);
    assert!(matches!(confirmed.verdict, Verdict::Unknown(_)), "{:?}", confirmed.verdict);

    for second in [1, 2] {
        let light = database.conclude(Look::Sweep, &seen(sound()), at(second, 1000));
        let Verdict::Unknown(why) = &light.verdict else { panic!("{:?}", light.verdict) };
        assert!(why.contains("found damaged"), "{why}");
    }
    assert_eq!(due(&mut database, at(2, 2000)), Some(FULL), "no backup, and no quick check");
    let ok = |level| IntegrityFacts { level, ok: true, messages: Vec::new(), ..torn().integrity.unwrap() };
    let checked = |level| seen(DatabaseFacts { integrity: Some(ok(level)), ..sound() });
    let quick = database.conclude(Look::Sweep, &checked(IntegrityLevel::Quick), at(3, 3000));
    assert!(matches!(quick.verdict, Verdict::Unknown(_)), "a quick check sees less: {:?}", quick.verdict);
    let unfinished = database.finish_errand(FULL, &seen(sound()), at(4, 4000)).check.unwrap();
    assert!(matches!(unfinished.verdict, Verdict::Unknown(_)), "{:?}", unfinished.verdict);
    assert_eq!(due(&mut database, at(5, 5000)), None);
    assert_eq!(due(&mut database, at(9, 9000)), Some(FULL), "and again");
    let whole = database.finish_errand(FULL, &checked(IntegrityLevel::Full), at(10, 10_000)).check.unwrap();
    assert_eq!(whole.verdict, Verdict::Healthy);
    assert_eq!(database.conclude(Look::Sweep, &seen(sound()), at(11, 11_000)).verdict, Verdict::Healthy);
}

#[test]
fn what_is_written_is_checked_once_a_minute_and_once_more_at_rest() {
    use crate::modes::Supervised as _;
    let now = at(100, 100_000);
    let mut database = database(at(0, 0));
    let mut facts = sound();
    let depth = |database: &Database, now| match database.ask(Look::Sweep, now) {
        Job::Probe(probe) => probe.integrity,
        other => panic!("{other:?}"),
    };
    let mut look = |database: &mut Database, written: Timestamp, checked: bool, now: Moment| {
        if let Some(print) = &mut facts.fingerprint {
            print.main.mtime_ns = i64::try_from(written.as_nanosecond()).unwrap();
        }
        let sound = |found| IntegrityFacts { ok: true, level: IntegrityLevel::Quick, ..found };
        facts.integrity = with_integrity(&[], false, None).integrity.filter(|_| checked).map(sound);
        database.judge(Look::Sweep, &Ok(Outcome::Probed(Box::new(facts.clone()))), now);
    };
    look(&mut database, at(-5, 0).wall, false, now);
    assert_eq!(depth(&database, now), IntegrityLevel::Suspicion, "nothing was written since the last check");
    look(&mut database, at(99, 0).wall, false, now);
    assert_eq!(depth(&database, now), IntegrityLevel::Quick, "nothing was checked since it was written");
    look(&mut database, at(99, 0).wall, true, now);
    assert_eq!(depth(&database, at(130, 130_000)), IntegrityLevel::Suspicion);
    look(&mut database, at(130, 0).wall, false, at(130, 130_000));
    assert_eq!(depth(&database, at(131, 131_000)), IntegrityLevel::Suspicion, "it was checked within the minute");
    assert_eq!(depth(&database, at(160, 160_000)), IntegrityLevel::Quick);
    look(&mut database, at(130, 0).wall, true, at(160, 160_000));
    assert_eq!(depth(&database, at(300, 300_000)), IntegrityLevel::Suspicion, "at rest");
}
