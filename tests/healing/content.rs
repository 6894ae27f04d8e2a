//! What is in the files: pages, indexes, the schema, the WAL, the journal.

use std::fs;

use super::support::daemon::Daemon;
use super::support::damage::{self, Dice};
use super::support::scene::Scene;
use super::support::truth::{Bytes, beside};

const BACKUP: &str = "backup = { every = \"24h\", to = \"backups\" }";

fn saved(mode: &str) -> (Scene, Daemon) {
    let scene = Scene::of(BACKUP);
    scene.commit(mode, 200, &["--rows-per-commit", "5"]);
    let mut daemon = scene.daemon();
    daemon.backed_up("app");
    daemon.healthy("app");
    (scene, daemon)
}

#[test]
fn a_random_page_of_a_table_is_healed_from_the_backup() {
    for mode in ["wal", "delete"] {
        let (scene, mut daemon) = saved(mode);
        let bytes = damage::leaf(&scene.db(), "rows", &mut Dice::new());

        let incident = daemon.closed("app", 1);
        let kind = incident["kind"].as_str().unwrap();
        assert!(["db_corrupted", "db_integrity_failed"].contains(&kind), "{incident:#}");
        assert_eq!(incident["outcome"], "healed", "{incident:#}");
        assert_eq!(scene.lost(), 0);
        scene.assert_honest(&incident, &scene.db());
        scene.assert_evidence(&incident, &[("main", Some(&bytes))]);
        scene.assert_whole(mode);
    }
}

/// These bytes in the header, after commits that the backup does not have: it is mended on a copy, and every row is there.
fn costs_no_row(mode: &str, (at, bytes): (usize, &[u8]), kind: &str) {
    let (scene, mut daemon) = saved(mode);
    // Written since the backup: these would be lost if it were taken.
    scene.commit(mode, 30, &[]);
    daemon.caught_up("app");
    let bytes = damage::overwrite(&scene.db(), at, bytes);

    let incident = daemon.closed("app", 1);
    assert_eq!(incident["kind"], kind, "{incident:#}");
    assert_eq!(
        (&incident["outcome"], &incident["playbook"]),
        (&"healed".into(), &"mend_header".into()),
        "{incident:#}"
    );
    assert_eq!(incident["loss"]["rows_lost"], 0, "{incident:#}");
    assert_eq!(scene.lost(), 0);
    scene.assert_evidence(&incident, &[("main", Some(&bytes))]);
    scene.assert_honest(&incident, &scene.db());
    scene.assert_whole(mode);
}

/// SQLite only reads a database whose byte 18 is above 2, and answers "file is not a database" where byte 19 is.
#[test]
fn a_damaged_version_byte_in_the_header_costs_no_row() {
    for (mode, at, kind) in
        [("wal", 18, "db_corrupted"), ("delete", 18, "db_corrupted"), ("delete", 19, "db_not_a_database")]
    {
        costs_no_row(mode, (at, &[0x96]), kind);
    }
}

/// "unsupported file format" is all that a program is told.
#[test]
fn a_damaged_schema_format_in_the_header_costs_no_row() {
    for mode in ["wal", "delete"] {
        costs_no_row(mode, (44, &[0, 0, 0, 9]), "db_corrupted");
    }
}

/// SQLite reads zeros behind the end of a file, and every check of its own passes.
#[test]
fn a_file_cut_within_its_last_page_is_healed_and_no_backup_is_taken_of_it() {
    for (mode, bytes_cut) in [("delete", 50), ("delete", 1), ("wal", 30)] {
        let scene = Scene::of("backup = { every = \"24h\", to = \"backups\" }");
        // The last page must be one of the table, and not of its index.
        scene.commit(mode, 200, &["--row-bytes", "3000"]);
        let mut daemon = scene.daemon();
        daemon.backed_up("app");
        daemon.caught_up("app");
        let bytes = damage::cut_end(&scene.db(), bytes_cut);

        let incident = daemon.closed("app", 1);
        assert_eq!(
            (&incident["kind"], &incident["outcome"]),
            (&"db_truncated".into(), &"healed".into()),
            "{incident:#}"
        );
        assert_eq!(scene.lost(), 0);
        scene.assert_evidence(&incident, &[("main", Some(&bytes))]);
        scene.assert_honest(&incident, &scene.db());
        scene.assert_whole(mode);
    }
}

#[test]
fn a_damaged_index_is_rebuilt_and_nothing_is_lost() {
    for mode in ["wal", "delete"] {
        let (scene, mut daemon) = saved(mode);
        // Written since the backup: these would be lost if it were taken.
        scene.commit(mode, 30, &[]);
        daemon.caught_up("app");
        let bytes = damage::leaf(&scene.db(), "rows_word", &mut Dice::new());

        let incident = daemon.closed("app", 1);
        assert_eq!(incident["kind"], "db_index_corrupted", "{incident:#}");
        assert_eq!(incident["playbook"], "rebuild_indexes", "{incident:#}");
        assert_eq!(incident["outcome"], "healed", "{incident:#}");
        assert!(incident["loss"].is_null(), "{incident:#}");
        assert_eq!(scene.lost(), 0);
        scene.assert_evidence(&incident, &[("main", Some(&bytes))]);
        scene.assert_whole(mode);
    }
}

/// One that no program can parse, and one whose damage still parses: ids are no ids any more. No page is unsound in either.
#[test]
fn the_text_of_a_damaged_schema_is_put_back_and_costs_no_row() {
    for mode in ["wal", "delete"] {
        for damage in [damage::schema, damage::schema_silently] {
            let (scene, mut daemon) = saved(mode);
            // Written since the backup: these would be lost if it were taken.
            scene.commit(mode, 30, &[]);
            daemon.caught_up("app");
            let bytes = damage(&scene.db());

            let incident = daemon.closed("app", 1);
            assert_eq!(incident["kind"], "db_schema_corrupted", "{incident:#}");
            assert_eq!(incident["outcome"], "healed", "{incident:#}");
            assert_eq!(incident["playbook"], "mend_schema", "{incident:#}");
            assert_eq!(incident["loss"]["rows_lost"], 0, "{incident:#}");
            assert_eq!(scene.lost(), 0);
            scene.assert_honest(&incident, &scene.db());
            scene.assert_evidence(&incident, &[("main", Some(&bytes))]);
            scene.assert_whole(mode);
        }
    }
}

/// Nothing is put under a program without its leave, and nothing cheaper says that it is well meanwhile.
#[test]
fn a_schema_whose_damage_still_parses_is_left_alone_under_a_program() {
    let (scene, mut daemon) = saved("wal");
    let program = scene.writer("wal", "0", &["--open-idle"]);
    daemon.caught_up("app");
    let bytes = damage::schema_silently(&scene.db());

    let asked = |incident: &serde_json::Value| {
        ["escalated", "awaiting_approval"].contains(&incident["state"].as_str().unwrap())
    };
    let incident = daemon.incident("app", 1, "handed over", asked);
    assert_eq!(incident["kind"], "db_schema_corrupted", "{incident:#}");
    daemon.caught_up_with_looks("app");
    assert_ne!(daemon.incidents("app")[0]["state"], "closed", "a cheaper look does not see it, and closes nothing");
    assert_eq!(fs::read(scene.db()).unwrap(), bytes.0);
    assert!(program.finish().success());
    assert_eq!(daemon.closed("app", 1)["playbook"], "mend_schema");
}

#[test]
fn a_wal_that_is_too_large_is_checkpointed_under_its_living_program() {
    // A look reads all of it, and is given up after ten seconds: what is too large here is read in one on any machine.
    let scene = Scene::of("wal_max = \"10MB\"");
    let big = ["--no-checkpoint", "--synchronous", "off", "--row-bytes", "1000000", "--open-idle"];
    let program = scene.writer("wal", "15", &big);
    assert!(fs::metadata(beside(&scene.db(), "-wal")).unwrap().len() > 15_000_000);
    let mut daemon = scene.daemon();

    let incident = daemon.closed("app", 1);
    assert_eq!(incident["kind"], "wal_file_too_large", "{incident:#}");
    assert_eq!(incident["playbook"], "checkpoint", "{incident:#}");
    assert_eq!(incident["outcome"], "healed", "{incident:#}");
    assert!(incident["loss"].is_null(), "{incident:#}");
    assert_eq!(fs::metadata(beside(&scene.db(), "-wal")).unwrap().len(), 0);
    assert!(program.finish().success(), "the program went on undisturbed");
    assert_eq!(scene.lost(), 0);
    scene.assert_whole("wal");
}

#[test]
fn a_wal_that_a_reader_holds_back_is_checkpointed_when_the_reader_has_gone() {
    let scene = Scene::of("wal_max = \"200KB\"\nretry = { attempts = 2, initial = \"50ms\" }");
    scene.commit("wal", 10, &[]);
    let reader = scene.writer("wal", "1", &["--hold-reader", "3600"]);
    scene.commit("wal", 300, &["--no-checkpoint", "--rows-per-commit", "5", "--row-bytes", "500"]);
    let mut daemon = scene.daemon();

    let incident = daemon.incident("app", 1, "named its reader", |incident| {
        incident["findings"][0]["detail"].as_str().is_some_and(|detail| detail.contains("keeps it from being"))
    });
    assert_eq!(incident["kind"], "wal_checkpoint_starved", "{incident:#}");
    assert!(incident["findings"][0]["detail"].as_str().unwrap().contains(&reader.pid().to_string()), "{incident:#}");
    assert!(reader.finish().success());
    daemon.closed("app", 1);
    daemon.healthy("app");
    assert_eq!(scene.lost(), 0);
    scene.assert_whole("wal");
}

/// A scene whose program was killed with 80 commits in the WAL alone, after 100 that were checkpointed; and then the WAL was cut.
fn killed_with_a_wal_and_cut(lines: &str) -> (Scene, Daemon, Bytes) {
    let scene = Scene::of(lines);
    scene.commit("wal", 100, &[]);
    scene.writer("wal", "80", &["--no-checkpoint", "--die"]).ended();
    let mut daemon = scene.daemon();
    daemon.healthy("app");
    if lines == BACKUP {
        daemon.backed_up("app");
    }
    // While nobody looks: a look that is under way then has SQLite forget what the index had promised. And whatever a look that
    // was ended made of the index, a program has read all of the WAL since.
    assert!(daemon.stop().success());
    scene.writer("wal", "0", &["--no-checkpoint", "--die"]).ended();
    let bytes = damage::wal_cut(&beside(&scene.db(), "-wal"));
    let daemon = scene.daemon();
    (scene, daemon, bytes)
}

#[test]
fn a_cut_wal_is_healed_from_the_backup_when_that_holds_more() {
    let (scene, mut daemon, bytes) = killed_with_a_wal_and_cut(BACKUP);

    let incident = daemon.closed("app", 1);
    assert_eq!(incident["kind"], "wal_corrupted", "{incident:#}");
    assert_eq!(incident["outcome"], "healed", "{incident:#}");
    assert_eq!(incident["playbook"], "restore_backup", "{incident:#}");
    scene.assert_evidence(&incident, &[("wal", Some(&bytes))]);
    assert_eq!(scene.lost(), 0);
    scene.assert_honest(&incident, &scene.db());
    scene.assert_whole("wal");
}

#[test]
fn a_cut_wal_without_a_backup_keeps_all_commits_before_the_cut() {
    let (scene, mut daemon, bytes) = killed_with_a_wal_and_cut("");

    let incident = daemon.closed("app", 1);
    assert_eq!(incident["kind"], "wal_corrupted", "{incident:#}");
    assert_eq!(incident["outcome"], "healed", "{incident:#}");
    assert_eq!(incident["playbook"], "settle_copy", "{incident:#}");
    scene.assert_evidence(&incident, &[("wal", Some(&bytes))]);
    let lost = scene.lost();
    assert!(lost > 20 && lost < 60, "about half of the WAL's 80 commits lie before the damage; {lost} are lost");
    scene.assert_honest(&incident, &scene.db());
    scene.assert_whole("wal");
}

/// A scene whose program died in the middle of a transaction that had spilled to the disk.
fn killed_with_a_hot_journal(mode: &str, lines: &str) -> (Scene, Daemon) {
    let scene = Scene::of(lines);
    scene.commit(mode, 200, &["--rows-per-commit", "5"]);
    let mut daemon = scene.daemon();
    if lines == BACKUP {
        daemon.backed_up("app");
    }
    daemon.healthy("app");
    let killed = scene.writer(mode, "0", &["--leave-hot-journal"]).ended();
    assert!(!killed.success());
    (scene, daemon)
}

#[test]
fn a_sound_hot_journal_is_left_to_sqlite() {
    let (scene, mut daemon) = killed_with_a_hot_journal("delete", BACKUP);
    let left = scene.bytes();
    assert!(left[2].is_some());
    // Looked at again, now that the journal is there.
    daemon.caught_up("app");
    assert_eq!(daemon.incidents("app"), Vec::<serde_json::Value>::new());
    assert_eq!(scene.bytes(), left, "a look rolled the journal back");
    assert_eq!(scene.lost(), 0);
    scene.assert_whole("delete");
}

#[test]
fn a_damaged_hot_journal_is_never_rolled_back_into_the_database() {
    for mode in ["delete", "persist"] {
        let (scene, mut daemon) = killed_with_a_hot_journal(mode, BACKUP);
        let main = scene.bytes()[0].clone();
        let bytes = damage::journal_record(&beside(&scene.db(), "-journal"));

        let incident = daemon.closed("app", 1);
        assert_eq!(incident["kind"], "stale_journal", "{incident:#}");
        assert_eq!(incident["outcome"], "healed", "{incident:#}");
        scene.assert_evidence(&incident, &[("main", main.as_deref()), ("journal", Some(&bytes))]);
        assert_eq!(scene.lost(), 0);
        scene.assert_honest(&incident, &scene.db());
        scene.assert_whole(mode);
    }
}

/// The program's commits have moved the change counter on, so that nothing but the content tells of the rest.
#[test]
fn a_hot_journal_that_went_while_nobody_watched_is_missed() {
    for mode in ["delete", "persist"] {
        let (scene, daemon) = saved(mode);
        assert!(daemon.stop().success());
        assert!(!scene.writer(mode, "5", &["--existing", "--leave-hot-journal"]).ended().success());
        let journal = beside(&scene.db(), "-journal");
        match mode {
            "delete" => fs::remove_file(journal).unwrap(),
            // As that mode leaves it at rest.
            _ => drop(damage::overwrite(&journal, 0, &[0; 28])),
        }
        let mut daemon = scene.daemon();

        let incident = daemon.closed("app", 1);
        assert_eq!(incident["outcome"], "healed", "{incident:#}");
        scene.assert_honest(&incident, &scene.db());
        scene.assert_whole(mode);
    }
}

/// SQLite would delete such a journal, and leave what the transaction had written.
#[test]
fn a_hot_journal_whose_header_is_gone_is_rolled_back_all_the_same() {
    for mode in ["delete", "persist"] {
        let (scene, mut daemon) = killed_with_a_hot_journal(mode, "");
        let main = scene.bytes()[0].clone();
        let bytes = damage::overwrite(&beside(&scene.db(), "-journal"), 0, &[0xa5; 28]);

        let incident = daemon.closed("app", 1);
        assert_eq!(incident["kind"], "stale_journal", "{incident:#}");
        assert_eq!(incident["playbook"], "settle_copy", "{incident:#}");
        assert!(incident.to_string().contains("its header rebuilt"), "{incident:#}");
        scene.assert_evidence(&incident, &[("main", main.as_deref()), ("journal", Some(&bytes))]);
        assert_eq!(scene.lost(), 0);
        scene.assert_honest(&incident, &scene.db());
        scene.assert_whole(mode);
    }
}
