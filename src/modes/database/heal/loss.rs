//! What a heal costs, counted where it can be and never guessed.

use crate::job::{BackupEntry, Candidate, DatabaseFacts, Fingerprint, TableRows};
use crate::model::{Loss, TableLoss};

use crate::modes::database::memory::Memory;

/// What is lost when `tables` of `backup` take the place of the database, whose files are now as `facts` has them.
pub fn loss_of_backup(backup: &BackupEntry, tables: &[TableRows], memory: &Memory, facts: &DatabaseFacts) -> Loss {
    let unchanged = is_content_of(backup, memory, facts);
    loss(format!("backup of {:.3}", backup.manifest.taken_at), tables, unchanged.then_some(0))
}

/// Nothing was written since `backup` was taken: proven by the files alone, now as at the last healthy look, and then as when the
/// backup was taken. A file that is gone or was touched proves nothing: its program may have committed between the last look and the
/// fault, and what cannot be counted is never guessed.
pub(super) fn is_content_of(backup: &BackupEntry, memory: &Memory, facts: &DatabaseFacts) -> bool {
    let now = facts.fingerprint.as_ref().map(content);
    let last = memory.last_healthy.as_ref().map(content);
    let same = |print: &Fingerprint| last == Some(content(print));
    let taken_of_it = backup.manifest.source_fingerprint.as_ref().is_some_and(same);
    let restored_from_it =
        memory.restored.as_ref().is_some_and(|(blake3, print)| *blake3 == backup.manifest.blake3 && same(print));
    now == last && (taken_of_it || restored_from_it)
}

/// What is lost when SQLite's own recovery of main, WAL and journal takes their place; `only_schema`: the text of the schema was all
/// that was wrong with them.
pub fn loss_of_copy(tables: &[TableRows], only_schema: bool) -> Loss {
    match only_schema {
        true => loss("the database's own files, with the text of its schema put back".to_owned(), tables, Some(0)),
        false => loss("the database's own files, as far as their WAL or journal is sound".to_owned(), tables, None),
    }
}

/// What is lost when all that can be read of the WAL takes their place, over a main file or backup that is `sound`.
pub fn loss_of_wal(candidate: &Candidate, sound: bool) -> Loss {
    loss(candidate.source.clone(), &candidate.tables, (sound && candidate.proven).then_some(0))
}

/// What is lost when the database's own pages take its place, with the way to them put right.
pub fn loss_of_mended(candidate: &Candidate) -> Loss {
    loss(candidate.source.clone(), &candidate.tables, candidate.proven.then_some(0))
}

/// What is lost when the rows that could be read take its place: counted, where all that is missing was.
pub fn loss_of_salvage(candidate: &Candidate) -> Loss {
    let counted = |table: &TableRows| candidate.lost.iter().find(|lost| lost.table == table.table);
    let origins = |table: &TableRows| candidate.origins.iter().find(|one| one.table == table.table);
    let table = |table: &TableRows| TableLoss {
        table: table.table.clone(),
        rows_kept: table.rows,
        rows_lost: counted(table).map(|lost| lost.rows),
        rows_rebuilt: origins(table).map_or(0, |origins| origins.rebuilt),
        rows_filled: origins(table).map_or(0, |origins| origins.filled),
        rows_uncertain: origins(table).map_or(0, |origins| origins.uncertain),
    };
    let tables = candidate.tables.iter().map(table).collect::<Vec<_>>();
    let rows_lost = tables.iter().map(|table| table.rows_lost).sum();
    Loss { tables, ..loss(candidate.source.clone(), &candidate.tables, rows_lost) }
}

/// What is lost when what programs had open under no name takes its place again.
pub fn loss_of_held(candidate: &Candidate) -> Loss {
    loss(candidate.source.clone(), &candidate.tables, candidate.proven.then_some(0))
}

/// What is lost when an empty database takes its place.
pub fn loss_of_recreation(memory: &Memory, facts: Option<&DatabaseFacts>) -> Loss {
    let known = memory.backup.as_ref().map(|backup| backup.tables.as_slice()).unwrap_or_default();
    let tables =
        known.iter().map(|table| TableLoss { table: table.table.clone(), ..TableLoss::default() }).collect::<Vec<_>>();
    // A WAL or journal without its main file may hold commits of a time before anybody looked.
    let beside = facts.is_none_or(|facts| facts.wal_file.size() > 0 || facts.journal_file.size() > 0);
    let was_empty = !memory.ever_healthy && !beside;
    Loss {
        source: "recreated empty from its schema".to_owned(),
        rows_kept: Some(0),
        // A database that was never seen had no rows that anybody could have promised.
        rows_lost: was_empty.then_some(0),
        tables,
    }
}

fn loss(source: String, tables: &[TableRows], rows_lost: Option<u64>) -> Loss {
    Loss {
        source,
        rows_kept: Some(TableRows::sum(tables)),
        rows_lost,
        tables: tables
            .iter()
            .map(|table| TableLoss {
                table: table.table.clone(),
                rows_kept: table.rows,
                rows_lost,
                ..TableLoss::default()
            })
            .collect(),
    }
}

/// The parts of a fingerprint that change whenever the content does; the rest (ctime, the lock flag) may differ.
fn content(print: &Fingerprint) -> (u64, u64, u64, i64, u32, Option<(u64, i64)>) {
    let wal = print.wal.filter(|wal| wal.size > 0).map(|wal| (wal.size, wal.mtime_ns));
    (print.main.dev, print.main.ino, print.main.size, print.main.mtime_ns, print.change_counter, wal)
}

/// What is lost when a candidate of which only its own content is known takes the place of the database.
pub fn loss_unknown(candidate: &Candidate) -> Loss {
    loss(candidate.source.clone(), &candidate.tables, None)
}

/// What is lost of a whole group: the incident's own database, and what was restored with it.
pub fn loss_of_group(own: Loss, members: &[(String, Loss)]) -> Loss {
    members.iter().fold(own, |mut all, (name, member)| {
        let sum = |a: Option<u64>, b: Option<u64>| Some(a? + b?);
        all.source = format!("{}; `{name}`: {}", all.source, member.source);
        all.rows_kept = sum(all.rows_kept, member.rows_kept);
        all.rows_lost = sum(all.rows_lost, member.rows_lost);
        let of_member = |table: &TableLoss| TableLoss { table: format!("{name}.{}", table.table), ..table.clone() };
        all.tables.extend(member.tables.iter().map(of_member));
        all
    })
}
