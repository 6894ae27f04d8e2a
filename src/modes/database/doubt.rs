//! What of an unhealthy look may not be so: bytes that only the page cache has, or that were read while they were written.

use crate::job::{DatabaseFacts, Doubted, FileState, FormatVersion, HeaderFacts, JournalState, SqliteFault, WalState};
use crate::model::FaultClass;

use super::blame::SHARED;

/// Where a header cannot be read, nor a page be named: the first page, whatever its size.
const FIRST_PAGE: u64 = 65_536;
/// Where SQLite names no page, all pages of a database up to this size are doubted.
const WHOLE_MAX: u64 = 16 << 20;

/// The bytes that this look found damaged.
pub(super) fn of(facts: &DatabaseFacts) -> Doubted {
    let wal = facts.wal.as_ref().is_some_and(|wal| wal.state == WalState::Damaged);
    let journal = facts.journal.as_ref().is_some_and(|journal| journal.state == JournalState::Damaged);
    let main = match &facts.header {
        Some(HeaderFacts::Good { page_size, .. }) => pages(facts, u64::from(*page_size)),
        Some(HeaderFacts::Bad { .. }) => vec![(0, FIRST_PAGE)],
        Some(HeaderFacts::Empty) | None => Vec::new(),
    };
    Doubted { main, sides: wal || journal }
}

fn pages(facts: &DatabaseFacts, size: u64) -> Vec<(u64, u64)> {
    let corrupt = |fault: Option<&SqliteFault>| fault.filter(|fault| fault.class == FaultClass::Corrupt).is_some();
    let found = facts.integrity.as_ref().filter(|found| !found.ok);
    let open = facts.open.as_ref().and_then(|open| open.as_ref().err());
    let query = facts.query.as_ref().and_then(|query| query.as_ref().err());
    let named: Vec<u64> = found.map(|found| named_in(&found.messages)).unwrap_or_default();
    let damaged = found.is_some() || corrupt(open) || corrupt(query);
    match (damaged, named.is_empty()) {
        (false, _) if header_is_doubtful(facts) => vec![(0, size)],
        (false, _) => Vec::new(),
        (true, true) => vec![(0, facts.main.size().min(WHOLE_MAX))],
        (true, false) => named.into_iter().map(|page| ((page - 1) * size, size)).collect(),
    }
}

/// One of its fields holds what no SQLite has written.
fn header_is_doubtful(facts: &DatabaseFacts) -> bool {
    let Some(HeaderFacts::Good { format, schema_format, .. }) = &facts.header else { return false };
    [format, schema_format].contains(&&FormatVersion::Damaged)
}

/// The numbers after the word "page", as in "Tree 5 page 12 cell 3: …".
fn named_in(messages: &[String]) -> Vec<u64> {
    let mut pages = Vec::new();
    for message in messages {
        let words: Vec<&str> = message.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).collect();
        let numbers = words.windows(2).filter(|pair| pair[0].eq_ignore_ascii_case("page"));
        pages.extend(numbers.filter_map(|pair| pair[1].parse::<u64>().ok()).filter(|page| *page > 0));
    }
    pages.sort_unstable();
    pages.dedup();
    pages
}

/// Somebody held a lock to write when this look was taken.
pub(super) fn is_being_written(facts: &DatabaseFacts) -> bool {
    let in_use = facts.journal.as_ref().is_some_and(|journal| journal.state == JournalState::InUse);
    matches!(facts.main, FileState::File(_)) && (in_use || facts.locks.iter().any(|lock| lock.blocks_writers))
}

/// In WAL mode the main file is written by a checkpoint alone (SQLITE.md, section 5): commits, which go into the WAL, tear nothing there.
pub(super) fn may_be_checkpointed(facts: &DatabaseFacts) -> bool {
    let commits = |lock: &str| lock == SHARED || lock == "WAL write" || lock.starts_with("WAL reader");
    facts.locks.iter().any(|held| !commits(&held.lock))
}

/// What was found lies in the main file of a database in WAL mode, and not in what its program writes with each commit.
pub(super) fn lies_below_the_wal(facts: &DatabaseFacts, journal_mode: Option<&str>) -> bool {
    let sound = facts.wal.as_ref().is_none_or(|wal| wal.state != WalState::Damaged && !wal.reset_bug);
    let no_journal = facts.journal.as_ref().is_none_or(|journal| journal.state == JournalState::Absent);
    journal_mode == Some("wal") && facts.shm_file.size() > 0 && no_journal && sound
}

/// The main file was written between two looks.
pub(super) fn has_main_moved(before: &DatabaseFacts, after: &DatabaseFacts) -> bool {
    let content = |state: &FileState| state.file().map(|file| (file.dev, file.ino, file.size, file.mtime_ns));
    content(&after.main).is_some() && content(&before.main) != content(&after.main)
}

/// The files were written between two looks. One that is gone is torn by nobody.
pub(super) fn have_moved(before: &DatabaseFacts, after: &DatabaseFacts) -> bool {
    let content = |state: &FileState| state.file().map(|file| (file.dev, file.ino, file.size, file.mtime_ns));
    let side = |state: &FileState| content(state).filter(|(_, _, size, _)| *size > 0);
    content(&after.main).is_some()
        && (content(&before.main) != content(&after.main)
            || side(&before.wal_file) != side(&after.wal_file)
            || side(&before.journal_file) != side(&after.journal_file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pages_that_sqlite_names_are_doubted_and_no_others() {
        let messages = [
            "Tree 5 page 12 cell 3: 2nd reference to page 7",
            "Page 4: never used",
            "row 3 missing from index page_2",
            "Tree 5 page 12: btreeInitPage() returns error code 11",
        ];
        assert_eq!(named_in(&messages.map(str::to_owned)), [4, 7, 12]);
    }
}
