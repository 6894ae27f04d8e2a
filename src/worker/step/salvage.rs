//! A candidate from the rows that can be read of what was preserved: where nothing that is whole can take the database's place, or only
//! a backup that loses more.
//!
//! Which of the two loses more is `contest`'s to say; the rest is this: what the wreck lacks is filled in from the newest backup that
//! passes, by key, where an index names the row, or where the page that it would stand on is gone. Where the backup wins, what only the
//! wreck has is put into a copy of it (`onto_backup`). Before the rows are taken apart at all, pages are compared: a wreck of which every
//! page that can be read is the backup's has nothing to offer.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::build::{clean_up, finish_examined, fresh_part, ownership};
use super::contest::{self, Stake};
use super::evidence::latest;
use super::header::said;
use super::onto_backup::unite;
use super::place::{Place, need_space};
use super::settle::make_private;
use super::{failed, refused, while_};
use crate::backup::{Examined, examine, hash, of_file};
use crate::format::header::HEADER_LEN;
use crate::format::{SchemaKind, vouches_for_its_fields};
use crate::host::{Folder, Ownership};
use crate::job::{
    BackupManifest, Candidate, JobFailure, RowOrigins, RowsToSalvage, SalvageJob, Salvaged, SalvagedTable, StepReport,
    TableRows,
};
use crate::sqlite::salvage::Layouts;
use crate::sqlite::{Deadline, differences};
use crate::worker::salvage;

/// The new file's name in the private folder.
const NAME: &str = "salvaged";
/// The table that rows of no table go to.
pub(super) const LOST_AND_FOUND: &str = "lost_and_found";
/// A header's write and read version, by journal mode (fileformat2.html, section 1.3.3).
const ROLLBACK: [u8; 2] = [1, 1];
const WAL: [u8; 2] = [2, 2];
/// Lines about the damage that are told.
const TOLD: usize = 8;

/// A backup that is as it was taken.
#[derive(Debug)]
pub(super) struct Rival {
    pub file: PathBuf,
    pub manifest: BackupManifest,
    /// Rowids without a name are the same in the wreck.
    pub same_rowids: bool,
}

/// What rows are read from, and what the new file has of it beside them.
struct Wreck<'a> {
    /// A database, or an incident's evidence.
    path: PathBuf,
    /// Its database, for the header.
    main: Option<File>,
    /// The one that was remembered.
    schema: Option<&'a str>,
    /// As its header has the journal mode.
    mode: Option<[u8; 2]>,
}

/// A new database with a wreck's rows, in the private folder, which passed its check.
struct Rescued {
    folder: Folder,
    path: PathBuf,
    salvaged: Salvaged,
    examined: Examined,
}

/// From what was preserved.
pub(super) fn build(place: &Place<'_>, wanted: &RowsToSalvage) -> Result<StepReport, JobFailure> {
    let part = fresh_part(place)?;
    let kept = latest(place)?.ok_or_else(|| refused("nothing was preserved yet: rows are salvaged from evidence"))?;
    let rival = rival(wanted, kept.folder.path())?;
    // Evidence is what is there, or the swap refuses. What is written is as large at most, and its indexes are sorted beside it.
    let size: u64 = kept.evidence.files.iter().filter(|file| file.name != "shm").map(|file| file.size).sum();
    let united = rival.as_ref().map_or(0, |rival| rival.manifest.size);
    need_space(&place.folder, size.saturating_mul(2).saturating_add(united))?;
    let built = (|| {
        let ownership = ownership(place, wanted.owner.as_ref())?;
        let mode = mode_of(&kept.folder, wanted.journal_mode.as_deref());
        let main = kept.folder.open_in("main").ok();
        let wreck = Wreck { path: kept.folder.path().to_owned(), main, schema: wanted.schema.as_deref(), mode };
        let (rescued, usable) = rescue(place, &wreck, rival.as_ref(), wanted.schema_cookie)?;
        let won = match &rival {
            None => usable.map(|()| String::new())?,
            Some(rival) => match usable.map_err(|why| why.message).and_then(|()| contest(rival, &rescued)) {
                Ok(won) => format!("; {won}"),
                Err(why) => {
                    let wreck = (rescued.path.as_path(), &rescued.salvaged);
                    return unite(place, (&rescued.folder, &part), wreck, rival, (&ownership, mode), &why);
                }
            },
        };
        let words = told(&rescued.salvaged) + &won;
        let more_than = wanted.more_than.as_deref().filter(|_| rival.is_none());
        let (mut report, salvaged) = take(place, &part, &ownership, rescued, (words, more_than))?;
        if let Some(candidate) = &mut report.candidate {
            candidate.lost = counted(&salvaged, &candidate.tables);
        }
        Ok(report)
    })();
    clean_up(place, &part, built)
}

/// From a backup that is damaged itself: where nothing else is left, most of its rows are more than none. Whatever was committed since
/// it was taken is gone too, and nobody counted that.
pub(super) fn of_backup(place: &Place<'_>, wanted: &RowsToSalvage, backup: &Path) -> Result<StepReport, JobFailure> {
    let part = fresh_part(place)?;
    let (stored, name, manifest) = of_file(backup)?;
    need_space(&place.folder, manifest.size.saturating_mul(2))?;
    let built = (|| {
        let ownership = ownership(place, Some(wanted.owner.as_ref().unwrap_or(&manifest.owner)))?;
        let wreck = Wreck {
            path: backup.to_owned(),
            main: stored.open_in(&name).ok(),
            schema: Some(wanted.schema.as_deref().unwrap_or(&manifest.schema)),
            mode: Some(mode_by_name(wanted.journal_mode.as_deref().unwrap_or(&manifest.journal_mode))),
        };
        let (rescued, usable) = rescue(place, &wreck, None, None)?;
        usable?;
        let words = format!("the damaged backup {}: {}", backup.display(), told(&rescued.salvaged));
        take(place, &part, &ownership, rescued, (words, None)).map(|(report, _)| report)
    })();
    clean_up(place, &part, built)
}

/// Builds the new database in the private folder; what the wreck lacks is the rival's. And whether its program could use it.
fn rescue(
    place: &Place<'_>,
    wreck: &Wreck<'_>,
    rival: Option<&Rival>,
    schema_cookie: Option<u32>,
) -> Result<(Rescued, Result<(), JobFailure>), JobFailure> {
    let folder = make_private(place)?;
    let path = folder.path().join(NAME);
    let job = SalvageJob {
        source: wreck.path.clone(),
        to: path.clone(),
        schema: wreck.schema.map(str::to_owned),
        backup: rival.map(|rival| rival.file.clone()),
        // The one beside the backup.
        map: None,
        renumbered: rival.is_some_and(|rival| !rival.same_rowids),
        deleted: false,
    };
    // Nobody else writes to evidence, or to a backup: whatever it says, another rung may have more to offer.
    let salvaged = salvage::run(&job).map_err(|why| failed(why.message))?;
    let file = folder.open_for_writing_in(NAME).map_err(while_("opening the salvaged rows"))?;
    place.made(&file)?;
    if wreck.mode == Some(WAL) {
        file.write_all_at(&WAL, 18).map_err(while_("keeping the journal mode"))?;
    }
    if let Some(cookie) = schema_cookie {
        file.write_all_at(&cookie.to_be_bytes(), 40).map_err(while_("counting the schema on"))?;
    }
    put_versions_back(wreck.main.as_ref(), &file, wreck.schema)?;
    drop(file);
    let examined = examine(&path, &Deadline::never())?;
    let usable = is_its_own(&salvaged).and_then(|()| has_every_table(&examined.schema, wreck.schema));
    Ok((Rescued { folder, path, salvaged, examined }, usable))
}

/// Makes a candidate of it, which shall have more rows than these, or any at all.
fn take(
    place: &Place<'_>,
    part: &OsStr,
    ownership: &Ownership,
    Rescued { folder, salvaged, examined, .. }: Rescued,
    (words, more_than): (String, Option<&[TableRows]>),
) -> Result<(StepReport, Salvaged), JobFailure> {
    folder.rename_noreplace(NAME, &place.folder, part).map_err(while_("taking the salvaged rows"))?;
    let mut report = finish_examined(place, part, ownership, words, examined)?;
    if let Some(candidate) = &mut report.candidate {
        has_more(place, candidate, more_than, &salvaged)?;
        candidate.origins = origins(&salvaged, &candidate.tables);
    }
    Ok((report, salvaged))
}

/// The newest backup that is as it was taken, if the wreck can have anything that it has not.
fn rival(wanted: &RowsToSalvage, evidence: &Path) -> Result<Option<Rival>, JobFailure> {
    let Some((file, manifest)) = wanted.backups.iter().find_map(|file| Some((file, as_it_was_taken(file)?))) else {
        return match wanted.backups.as_slice() {
            [] => Ok(None),
            // Why, their own rungs say; this one has its turn after them again.
            _ => Err(failed(
                "no backup is as it was taken, so that there is nothing to compare with: they are tried first",
            )),
        };
    };
    let found = salvage::beyond(evidence, file).map_err(|why| failed(why.message))?;
    if found.nothing {
        return Err(failed(format!(
            "every page that can be read is the same in the backup ({} are noise or gone), so that no salvage can have a newer row: {}",
            found.unreadable,
            takes_the_place(&manifest)
        )));
    }
    // What is remembered of it counts on by one.
    let known = wanted.schema_cookie.map(|cookie| cookie.wrapping_sub(1));
    let cookie = found.schema_cookie.or(known);
    let same_rowids = cookie.is_some() && manifest.schema_cookie == cookie;
    Ok(Some(Rival { file: file.clone(), manifest, same_rowids }))
}

fn as_it_was_taken(file: &Path) -> Option<BackupManifest> {
    let (folder, name, manifest) = of_file(file).ok()?;
    let found = hash(&folder.open_in(&name).ok()?).ok()?;
    (found == manifest.blake3).then_some(manifest)
}

fn takes_the_place(manifest: &BackupManifest) -> String {
    let rows = rows_of_tables(&manifest.tables);
    format!("the backup has {rows} rows of {:.3} and takes the place", manifest.taken_at)
}

/// What either loses, in words; the error is why the backup wins.
fn contest(rival: &Rival, rescued: &Rescued) -> Result<String, String> {
    let (salvaged, tables) = (&rescued.salvaged, &rescued.examined.tables);
    let lost = |why: String| Err(format!("{why}: {}", takes_the_place(&rival.manifest)));
    if let Some(hurt) = uncounted(tables, salvaged) {
        return lost(format!("what is lost of {hurt} cannot be compared"));
    }
    let differences = match differences(&rescued.path, &rival.file, rival.same_rowids) {
        Ok(differences) => differences,
        // Numbers are all there is then.
        Err(fault) => {
            let (own, other) = (rows_of_tables(tables), rows_of_tables(&rival.manifest.tables));
            let words = format!("{own} rows can be salvaged, and the backup has {other} ({fault})");
            return if own > other { Ok(words) } else { lost(words) };
        }
    };
    let counted = differences.iter().filter(|one| one.table != LOST_AND_FOUND);
    let of = |name: &str| salvaged.tables.iter().find(|table| table.table == name);
    let stakes: Vec<Stake> = counted.map(|one| Stake::of(one, of(&one.table))).collect();
    let told = contest::told(&stakes);
    if contest::salvage_wins(&stakes) { Ok(told) } else { lost(told) }
}

/// Refuses what its program could not use: tables whose columns nobody knows any more.
fn is_its_own(salvaged: &Salvaged) -> Result<(), JobFailure> {
    match salvaged.tables.iter().find(|table| table.made_up) {
        Some(table) => Err(failed(format!(
            "the columns of table {} are not known any more, so that its program could not use it: `guardiand salvage` of this \
             incident's evidence gives its rows",
            table.table
        ))),
        None => Ok(()),
    }
}

/// Refuses to do without a table that there was, a virtual one, say, whose own tables are hurt.
fn has_every_table(schema: &str, known: Option<&str>) -> Result<(), JobFailure> {
    let tables = |script: &str| -> BTreeSet<String> {
        let objects = Layouts::objects_of(script).unwrap_or_default().into_iter();
        objects.filter(|object| object.kind == SchemaKind::Table).map(|object| object.name.to_lowercase()).collect()
    };
    let here = tables(schema);
    match known.map(tables).unwrap_or_default().into_iter().find(|table| !here.contains(table)) {
        Some(table) => Err(failed(format!(
            "table {table} could not be brought back, so that its program could not go on: `guardiand salvage` of this incident's \
             evidence gives what there is"
        ))),
        None => Ok(()),
    }
}

/// A program goes by its `user_version`: where the header that had it is gone, it has the one that is remembered.
fn put_versions_back(source: Option<&File>, file: &File, schema: Option<&str>) -> Result<(), JobFailure> {
    let mut head = [0_u8; HEADER_LEN];
    let read = source.is_some_and(|main| main.read_exact_at(&mut head, 0).is_ok());
    if read && vouches_for_its_fields(&head) {
        return Ok(());
    }
    let doing = "keeping the versions of its program";
    for (pragma, at) in [("user_version", 60), ("application_id", 68)] {
        let known = schema.and_then(|script| said(script, pragma)).and_then(|value| value.parse::<i32>().ok());
        let mut now = [0_u8; 4];
        file.read_exact_at(&mut now, at).map_err(while_(doing))?;
        // The WAL may have had a newer one.
        if let Some(known) = known.filter(|_| now == [0; 4]) {
            file.write_all_at(&known.to_be_bytes(), at).map_err(while_(doing))?;
        }
    }
    Ok(())
}

/// Takes the candidate away again unless it has more rows than the backup, or any at all where none is compared with.
fn has_more(
    place: &Place<'_>,
    candidate: &Candidate,
    than: Option<&[TableRows]>,
    salvaged: &Salvaged,
) -> Result<(), JobFailure> {
    let (own, other) = (rows_of_tables(&candidate.tables), than.map_or(0, rows_of_tables));
    let uncounted = uncounted(&candidate.tables, salvaged);
    if own > other && (than.is_none() || uncounted.is_none()) {
        return Ok(());
    }
    place.remove(&place.candidate())?;
    place.sync()?;
    Err(failed(match than {
        Some(_) if own > other => format!(
            "{own} rows can be salvaged, and the backup has {other}; but what is lost of {} cannot be compared: it takes the place",
            uncounted.unwrap_or("a virtual table")
        ),
        Some(_) => format!("{own} rows can be salvaged, and the backup has {other}: it takes the place"),
        None => "not a row can be salvaged".to_owned(),
    }))
}

/// A table that is hurt and whose rows are counted neither here nor there: a virtual table's own.
fn uncounted<'a>(tables: &[TableRows], salvaged: &'a Salvaged) -> Option<&'a str> {
    let is_counted = |name: &str| tables.iter().any(|table| table.table == name);
    let hurt = salvaged.tables.iter().find(|table| !is_counted(&table.table) && is_hurt(table));
    hurt.map(|table| table.table.as_str())
}

/// What fits into no table is no table's; a backup may have such rows of an earlier salvage.
fn rows_of_tables(tables: &[TableRows]) -> u64 {
    tables.iter().filter(|table| table.table != LOST_AND_FOUND).map(|table| table.rows).sum()
}

fn is_hurt(table: &SalvagedTable) -> bool {
    table.incomplete || table.lost + table.uncertain + table.refused > 0
}

/// The journal mode of the file in evidence, by its header, else as it is remembered.
fn mode_of(evidence: &Folder, remembered: Option<&str>) -> Option<[u8; 2]> {
    let mut head = [0_u8; 20];
    let read = evidence.open_in("main").is_ok_and(|main| main.read_exact_at(&mut head, 0).is_ok());
    let known = [head[18], head[19]];
    if read && head.starts_with(b"SQLite format 3\0") && matches!(known, ROLLBACK | WAL) {
        return Some(known);
    }
    remembered.map(mode_by_name)
}

fn mode_by_name(mode: &str) -> [u8; 2] {
    if mode == "wal" { WAL } else { ROLLBACK }
}

/// The rows that each table is known to have lost; none where that is not all that is known to be lost.
///
/// Cells that cannot be read are counted. A page that is gone, or was found without a way to it, says that more may be.
fn counted(salvaged: &Salvaged, tables: &[TableRows]) -> Vec<TableRows> {
    // Whatever else was damaged (the schema, the WAL, the end of the file) may have had rows of any table.
    let only_tables = salvaged.damage.iter().all(|line| line.starts_with("table "));
    let is_exact = |table: &SalvagedTable| {
        // What the backup gave may be older than what was lost, where no index has it.
        let unsure = table.uncertain + table.adopted + table.carved + table.repeated + table.from_backup;
        !table.incomplete && unsure == 0
    };
    if !only_tables || salvaged.lost_and_found > 0 {
        return Vec::new();
    }
    // Those of a virtual table's own tables are in no count.
    let is_told = |table: &&SalvagedTable| tables.iter().any(|told| told.table == table.table);
    if salvaged.tables.iter().any(|table| !is_told(&table) && (!is_exact(table) || table.lost + table.refused > 0)) {
        return Vec::new();
    }
    let of = |name: &str| salvaged.tables.iter().find(|table| table.table == name).filter(|table| is_exact(table));
    let lost = tables.iter().filter_map(|table| {
        let found = of(&table.table)?;
        Some(TableRows { table: table.table.clone(), rows: found.lost + found.refused })
    });
    let lost: Vec<TableRows> = lost.collect();
    // Something was damaged, or this would not be asked for: where nothing is missing, and nothing had to be put together, it was not found.
    let rebuilt: u64 = salvaged.tables.iter().map(|table| table.rebuilt).sum();
    if TableRows::sum(&lost) + rebuilt == 0 { Vec::new() } else { lost }
}

/// Of each table that has such: rows from elsewhere, and rows that are not sure.
fn origins(salvaged: &Salvaged, tables: &[TableRows]) -> Vec<RowOrigins> {
    let all = salvaged.tables.iter().filter(|table| tables.iter().any(|counted| counted.table == table.table));
    let origins = all.map(|table| RowOrigins {
        table: table.table.clone(),
        rebuilt: table.rebuilt,
        filled: table.from_backup,
        uncertain: table.uncertain + table.unproven,
    });
    origins.filter(|one| one.rebuilt + one.filled + one.uncertain > 0).collect()
}

fn told(salvaged: &Salvaged) -> String {
    let mut text = format!("rows salvaged from {} pages", salvaged.pages);
    for line in salvaged.damage.iter().take(TOLD) {
        text += "; ";
        text += line;
    }
    match salvaged.damage.len().saturating_sub(TOLD) {
        0 => text,
        more => format!("{text}; and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn salvaged(tables: &[SalvagedTable], damage: &[&str]) -> Salvaged {
        Salvaged {
            path: "new.db".into(),
            clean: damage.is_empty(),
            damage: damage.iter().map(|line| (*line).to_owned()).collect(),
            tables: tables.to_vec(),
            lost_and_found: 0,
            deleted: 0,
            page_size: 4096,
            pages: 9,
            size: 9 * 4096,
        }
    }

    #[test]
    fn rows_are_counted_as_lost_only_where_nothing_else_can_be() {
        let table = |name: &str, lost| SalvagedTable { table: name.to_owned(), kept: 9, lost, ..Default::default() };
        let there = ["a", "b"].map(|table| TableRows { table: table.to_owned(), rows: 9 });
        let lost = |salvaged: &Salvaged| counted(salvaged, &there).iter().map(|one| one.rows).collect::<Vec<_>>();
        let (whole, hurt) = (table("a", 0), table("b", 3));
        let line = "table b: 3 rows lost";
        assert_eq!(lost(&salvaged(&[whole.clone(), hurt.clone()], &[line])), [0, 3]);
        assert_eq!(lost(&salvaged(&[whole.clone(), hurt.clone()], &[line, "its WAL is damaged"])), [0; 0]);
        assert_eq!(lost(&salvaged(&[whole.clone(), table("b", 0)], &[])), [0; 0], "the damage was not found");
        let gone = SalvagedTable { incomplete: true, ..hurt.clone() };
        assert_eq!(lost(&salvaged(&[whole.clone(), gone], &[line])), [0; 0], "the rows of b, of a page that is gone");
        let put_together = SalvagedTable { rebuilt: 3, ..table("b", 0) };
        assert_eq!(lost(&salvaged(&[whole.clone(), put_together], &["table b: 3 rows put together"])), [0, 0]);
        let older = SalvagedTable { from_backup: 3, ..hurt.clone() };
        assert_eq!(lost(&salvaged(&[whole.clone(), older], &[line])), [0; 0], "b may have had newer ones");
        let adopted = SalvagedTable { adopted: 1, ..whole };
        let one = counted(&salvaged(&[adopted, hurt], &[line]), &there);
        assert_eq!(one, [TableRows { table: "b".to_owned(), rows: 3 }], "of a more may be gone");
    }
}
