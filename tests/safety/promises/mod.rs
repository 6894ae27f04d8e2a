//! The tables of SQLITE.md, sections 1 to 4, row by row: what guardiand promises in that situation, and the test that says so.
//! Tests without a path stand here, in the file named after the section's subject.
//!
//! | section 1: `-wal` and `-shm` deleted | promise |
//! | --- | --- |
//! | nobody open, killed writer, all kept | [`side_files::of_a_killed_writer_every_commit_is_there_and_no_byte_of_its_wal_goes`] |
//! | nobody open, `-shm` deleted | [`side_files::a_missing_wal_index_is_no_failure_and_costs_nothing`] |
//! | nobody open, `-wal` deleted | we never delete one: the two above, and every test that compares inodes; deleted by another hand its commits are missed: [`side_files::a_database_that_was_written_after_its_wal_was_lost_is_not_set_back`] and its neighbours |
//! | `-wal` deleted after a partial checkpoint | [`side_files::a_database_torn_by_the_loss_of_its_wal_is_healed_or_left_for_a_person`] |
//! | app live, both deleted, then it closes in order | [`side_files::a_program_whose_side_files_were_deleted_keeps_every_commit_under_our_eyes`] |
//! | app live, both deleted, a second process writes; `-shm` deleted, a second process writes | [`side_files::nothing_is_written_beside_a_program_whose_wal_index_was_deleted`] |
//! | app live, `-wal` deleted | [`side_files::a_program_whose_wal_was_deleted_keeps_every_commit_under_our_eyes`] |
//! | `-shm` truncated under a program | a `-shm` is written by SQLite alone: [`side_files::a_live_programs_side_files_stay_the_same_files`] |
//!
//! | section 2: main missing, stale side files | promise |
//! | --- | --- |
//! | main missing or empty beside a WAL | [`stale_files::no_look_costs_the_wal_of_a_main_file_that_is_missing_or_empty`], and `sqlite::open` refuses it |
//! | empty under a living program | [`stale_files::an_empty_main_file_under_a_program_costs_nobody_the_wal`] |
//! | restored beside a WAL of the same database | `healing::files::the_log_of_a_deleted_database_is_never_replayed_onto_its_backup`, and with kill -9 after each journal append `crash::appends::a_restored_backup_over_a_damaged_header_with_a_wal_beside_it` |
//! | … beside a WAL of another database | [`stale_files::the_wal_of_another_database_is_never_replayed_onto_a_restored_one`] |
//! | … beside a hot journal | [`stale_files::a_stale_journal_is_never_rolled_back_onto_a_restored_file`], and with kill -9 `crash::appends::a_restored_backup_with_a_stale_journal_beside_it` |
//! | restored by a person | [`stale_files::a_restore_by_hand_refuses_a_path_with_side_files_of_another_time`] |
//! | hot journal deleted | `healing::content::a_sound_hot_journal_is_left_to_sqlite` |
//! | the guarded swap | `worker::step::tests::a_death_in_any_gap_of_an_install_is_finished_by_the_next_start` and its neighbours |
//!
//! | section 3: renamed or unlinked under a program | promise |
//! | --- | --- |
//! | rollback mode: reads stale, writes fail | [`moved_files::a_file_unlinked_under_a_program_in_rollback_mode_is_noticed_and_nothing_is_put_there`] |
//! | WAL mode: nobody notices | `healing::reclaim::left_alone_it_is_kept_at_once_and_put_back_when_its_program_has_ended_whatever_way`, `safety::live::a_file_that_a_live_program_still_holds_is_not_replaced` |
//! | two inodes with one WAL | [`moved_files::nothing_is_written_into_a_file_that_was_put_under_a_programs_wal`] |
//! | idle connections in rollback mode hold no lock | `healing::programs::a_file_in_use_is_not_replaced_and_its_user_is_named` |
//!
//! | section 4: in place | promise |
//! | --- | --- |
//! | healthy, or bad pages; its program idle | [`in_place::indexes_are_rebuilt_under_a_program_that_goes_on`], `worker::step::in_use_tests::damaged_pages_are_restored_under_an_idle_program_that_sees_it_and_goes_on`; one that writes: `healing::in_use::in_place_a_writing_program_goes_on_with_the_backup_and_what_it_wrote_is_kept` |
//! | a program in a read or write transaction | [`in_place::a_repair_in_place_waits_for_a_transaction_and_takes_nothing_from_it`], `worker::step::in_use_tests::a_program_in_a_transaction_is_waited_for_and_then_left_alone` |
//! | header smashed, page 1 zeroed | `worker::step::in_use_tests::a_header_that_is_gone_is_restored_where_section_4_says_so_and_refused_elsewhere`; then its program is stopped, if that may be: `healing::in_use::where_in_place_is_impossible_the_program_is_stopped_if_that_may_be_and_else_left_alone` |
//! | truncated mid-file, or to 0 | `worker::step::in_use_tests::a_cut_file_is_restored_in_place_and_one_without_a_byte_is_never_opened` |
//! | another page size | `worker::step::in_use_tests::another_page_size_is_converted_first_and_the_database_keeps_its_own` |
//! | RESET_DATABASE empties it | under the program's own locks, with a verified backup at hand: `sqlite::restore::tests::a_file_whose_header_is_gone_is_emptied_and_filled_under_an_idle_program` |
//! | SIGKILL midway | `sqlite::restore::tests::killed_in_the_middle_the_program_finds_the_old_content_or_the_new`, `crash::appends::rebuilt_indexes` |
//! | a backup copies damaged pages happily | [`in_place::what_is_damaged_is_never_kept_as_a_backup`], `worker::step::in_use_tests::a_backup_that_is_damaged_is_restored_over_nothing` |
//! | a backup taken from a live database | writers are kept out for `block_max` at most: `backup::tests` |

mod in_place;
mod moved_files;
mod side_files;
mod stale_files;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;

use crate::support::command::guardiand;
use crate::support::daemon::Daemon;
use crate::support::scene::Scene;
use crate::support::truth::{beside, digest};

/// Of main, `-wal`, `-shm` and `-journal`: which inode it is, and what is in it. What is not there is not in the map.
type Files = BTreeMap<&'static str, (u64, String)>;

fn files(scene: &Scene) -> Files {
    let mut files = Files::new();
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let path = beside(&scene.db(), suffix);
        if let Ok(facts) = path.symlink_metadata() {
            files.insert(suffix, (facts.ino(), digest(&path).unwrap_or_default()));
        }
    }
    files
}

/// The commits' own files: SQLite rebuilds a `-shm` as it likes, and an empty WAL is none.
fn commits(scene: &Scene) -> Files {
    let mut files = files(scene);
    files.remove("-shm");
    files.retain(|suffix, _| beside(&scene.db(), suffix).metadata().is_ok_and(|facts| facts.len() > 0));
    files
}

/// Inode, size and time of the last write: asked of a file that this process has open through SQLite, whose locks reading it would
/// drop.
fn stats(scene: &Scene) -> (u64, u64, i64, i64) {
    let facts = scene.db().metadata().unwrap();
    (facts.ino(), facts.size(), facts.mtime(), facts.mtime_nsec())
}

/// Every way to look, once: by path, by name, as a plan, as a backup. None of them heals.
fn look_in_every_way(scene: &Scene) {
    scene.write_config();
    let db = scene.db();
    let db = db.to_str().unwrap();
    for words in [
        &["check", db][..],
        &["check", "app", "--config", "guardian.toml"],
        &["heal", "app", "--dry-run", "--config", "guardian.toml"],
        &["backup", "app", "--config", "guardian.toml"],
    ] {
        let ran = guardiand(&scene.path(""), &[words, &["--json"]].concat());
        assert!([0, 1, 3].contains(&ran.status), "{words:?}: {ran:#?}");
    }
}

/// The daemon's sweeps, a few of them.
fn sweep(daemon: &mut Daemon) {
    for _ in 0..2 {
        daemon.caught_up_with_looks("app");
    }
}

/// Waits until an incident is over in one way or the other.
fn settled(daemon: &mut Daemon) -> serde_json::Value {
    daemon.incident("app", 1, "closed or escalated", |incident| {
        incident["state"] == "closed" || incident["state"] == "escalated"
    })
}
