//! Which rungs a finding leads to, in which order, and at what cost.

use super::*;

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

#[test]
fn what_was_held_waits_for_a_person_while_something_else_stands_at_the_path_and_is_told_once() {
    let mut may_stop = config();
    may_stop.app = Some(crate::model::Program {
        app: crate::model::App::Unit("app.service".to_owned()),
        stop_timeout: Duration::from_secs(60),
        start_timeout: Duration::from_secs(60),
    });
    let plan = |facts: &DatabaseFacts| {
        crate::modes::database::heal::plan(&kinds::FILE_UNLINKED, facts, &seen(), &may_stop, &[])
    };
    let said = |facts: &DatabaseFacts| match judge(facts, &seen(), &may_stop, now()) {
        Verdict::Unhealthy(found) => found.into_iter().map(|finding| finding.remediation).collect::<String>(),
        other => format!("{other:?}"),
    };
    let cut = DatabaseFacts { cut_off: Some(cut_off("main", &[])), ..sound() };
    let folder = || FileState::Other { what: "a directory".to_owned() };
    let link = || FileState::Symlink { target: "/other".into() };
    for (facts, words) in [
        (DatabaseFacts { main: folder(), ..cut.clone() }, "app.db is a directory"),
        (DatabaseFacts { main: link(), ..cut.clone() }, "app.db is a symbolic link to /other"),
        (DatabaseFacts { wal_file: folder(), ..cut.clone() }, "app.db-wal is a directory"),
        (DatabaseFacts { shm_file: folder(), ..cut.clone() }, "app.db-shm is a directory"),
        (DatabaseFacts { journal_file: link(), ..cut.clone() }, "app.db-journal is a symbolic link to /other"),
    ] {
        let reason = plan(&facts).unwrap_err();
        assert!(reason.contains(words) && reason.contains("mv "), "{reason}");
        assert!(!said(&facts).contains("guardiand keeps it"), "{}", said(&facts));
        let kept = DatabaseFacts { held: Some(copy(false, None)), ..facts.clone() };
        assert!(said(&kept).contains("guardiand keeps it"), "{}", said(&kept));
        // Nobody is called again because there is a copy by now.
        assert_eq!(plan(&kept), Err(reason));
        let ended = DatabaseFacts { cut_off: None, held: Some(copy(true, None)), ..facts };
        let reason = plan(&ended).unwrap_err();
        assert!(reason.contains(words) && reason.contains("had is in /var/lib/guardiand"), "{reason}");
    }
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
        let crate::job::DatabaseStep::BuildFromSalvage(rows) = step else { panic!("{step:?}") };
        assert_eq!((rows.schema_cookie, rows.schema.as_deref()), (Some(2), Some("CREATE TABLE t (a);")));
        assert_eq!(rows.more_than, None);
        rows.backups
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
fn in_place_come_the_rows_and_the_backups_and_it_is_said_what_is_left_out() {
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
    let told = "not tried before (only for a file that nobody has open: `mend_freelist`): shop (pid 812) has";
    // The rows that can be read, and what they lack of the backup, before the backup alone.
    for (backups, names) in [
        (vec![backup(7)], vec!["salvage_in_place", "restore_in_place", "salvage_in_place"]),
        (Vec::new(), vec!["salvage_in_place"]),
    ] {
        let rungs = plan(backups).unwrap().playbooks;
        assert_eq!(rungs.iter().map(|rung| rung.name.as_str()).collect::<Vec<_>>(), names);
        for rung in rungs {
            assert!(rung.why.contains(told), "{}", rung.why);
            assert_eq!(rung.steps.iter().map(|step| step.name.as_str()).collect::<Vec<_>>(), ["preserve", &rung.name]);
        }
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
