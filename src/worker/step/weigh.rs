//! What rolling a heal back would cost, told before anything is touched; and what an evidence folder holds.

use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use super::evidence::{Kept, Preserved, all, one, originals, read_json, same_content, verify};
use super::in_use::nobody_has_any;
use super::install::{self, change_counter};
use super::member::Own;
use super::place::Place;
use super::roll_back::{self, DONE};
use super::{refused, while_};
use crate::backup::hash;
use crate::format::{WalHeaderState, scan_wal};
use crate::host::Folder;
use crate::job::{
    DatabaseStep, FailureKind, FileFacts, JobFailure, KeptFile, KeptFiles, Member, Phase, RowsSince, Since, StepJob,
    TableRows, WeighRollback, Weighed, WeighedMember,
};
use crate::sqlite::{Access, Database, Deadline};
use crate::worker::probe::private_copy;

/// Counting rows is worth this much time, and no more.
const COUNTING: Duration = Duration::from_secs(20);

/// Lists every complete preservation in an evidence folder; none when there is no such folder.
///
/// # Errors
/// [`FailureKind::Failed`] when it cannot be read.
pub fn list_evidence(folder: &Path) -> Result<Vec<KeptFiles>, JobFailure> {
    match Folder::open(folder) {
        Ok(folder) => Ok(all(&folder)?.iter().map(told).collect()),
        Err(error) if error.is_absent() => Ok(Vec::new()),
        Err(error) => Err(while_("opening the evidence folder")(error)),
    }
}

/// Says what a rollback would do. Changes nothing.
///
/// # Errors
/// [`FailureKind::Refused`] when there is nothing to put back; [`FailureKind::Failed`] when the evidence is not what its
/// manifest says.
pub fn weigh(ask: &WeighRollback) -> Result<Weighed, JobFailure> {
    // The tables of another database of the group were counted under its name.
    let of =
        |member: &Member, table: &TableRows| table.table.strip_prefix(&format!("{}.", member.name)).map(str::to_owned);
    let is_own = |table: &&TableRows| !ask.members.iter().any(|member| of(member, table).is_some());
    let healed = ask.healed.iter().filter(is_own).cloned().collect();
    let mut weighed = weigh_one(&WeighRollback { healed, ..ask.clone() })?;
    for member in &ask.members {
        let Own { site, incident, evidence } = Own::of(member, &ask.site, &ask.incident, &ask.evidence);
        let Some(generation) = of_restored(&evidence, ask.generation.map(|_| weighed.source.preserved_at))? else {
            continue;
        };
        let theirs = WeighRollback {
            site,
            incident,
            evidence: evidence.clone(),
            generation: Some(generation),
            healed: ask
                .healed
                .iter()
                .filter_map(|rows| Some(TableRows { table: of(member, rows)?, ..*rows }))
                .collect(),
            members: Vec::new(),
        };
        let named =
            |failure: JobFailure| JobFailure { message: format!("{}: {}", member.name, failure.message), ..failure };
        let theirs = weigh_one(&theirs).map_err(named)?;
        weighed.members.push(WeighedMember { member: member.clone(), evidence, weighed: theirs });
    }
    Ok(weighed)
}

/// Which preservation of a member goes with one of the incident's own that was made at `since`, the last when `None`; `None` where
/// the incident put nothing in that member's place. It is preserved before each heal of the group, and replaced by few.
fn of_restored(evidence: &Path, since: Option<jiff::Timestamp>) -> Result<Option<u32>, JobFailure> {
    let folder = match Folder::open(evidence) {
        Ok(folder) => folder,
        Err(error) if error.is_absent() => return Ok(None),
        Err(error) => return Err(while_("opening the evidence of a database of its group")(error)),
    };
    let is_there = |name: &str| folder.stat_in(name).is_ok();
    if !is_there(install::RECORD) && !is_there(DONE) {
        return Ok(None);
    }
    let kept = all(&folder)?;
    let of_then = kept.iter().find(|kept| since.is_some_and(|since| kept.evidence.preserved_at >= since));
    Ok(of_then.or(kept.last()).map(|kept| kept.generation))
}

fn weigh_one(ask: &WeighRollback) -> Result<Weighed, JobFailure> {
    let evidence = match Folder::open(&ask.evidence) {
        Ok(evidence) => evidence,
        Err(error) if error.is_absent() => return Err(nothing_kept(ask)),
        Err(error) => return Err(while_("opening the evidence folder")(error)),
    };
    let kept = match ask.generation {
        Some(generation) => one(&evidence, generation)?,
        None => all(&evidence)?.pop().ok_or_else(|| nothing_kept(ask))?,
    };
    if kept.evidence.path != ask.site.path {
        return Err(refused(format!(
            "this evidence is of {}, and the target is {} now: put the files back by hand, as {} says",
            kept.evidence.path.display(),
            ask.site.path.display(),
            kept.folder.path().join(super::evidence::MANIFEST).display()
        )));
    }
    for file in &kept.evidence.files {
        let copy = kept.folder.open_in(&file.name).map_err(while_("opening a file in evidence"))?;
        verify(&copy, file, &kept.folder)?;
    }
    let source = told(&kept);
    let job = StepJob {
        site: ask.site.clone(),
        incident: ask.incident.clone(),
        evidence: ask.evidence.clone(),
        phase: Phase::Apply,
        step: DatabaseStep::RollBack {
            of: ask.incident.clone(),
            evidence: ask.evidence.clone(),
            generation: kept.generation,
            present: Vec::new(),
            accept_loss: false,
        },
        last: None,
        basis: None,
        wal_verified: None,
    };
    let place = Place::of(&job)?;
    let mut present = Vec::new();
    for (original, name) in originals(&place) {
        // An index over the WAL has no content of its own, and a side file without a byte says nothing.
        if let Some(facts) = place.stat(&original)?.filter(|facts| name == "main" || (name != "shm" && facts.size > 0))
        {
            present.push((name.to_owned(), facts));
        }
    }
    let names: Vec<_> = originals(&place).into_iter().map(|(original, _)| original).collect();
    let in_use = match nobody_has_any(&place, &names) {
        Ok(()) => None,
        Err(JobFailure { kind: FailureKind::Refused, message }) => Some(message),
        Err(error) => return Err(error),
    };
    let already = is_there_already(&place, &kept, &present)?;
    let since = if already {
        Since { commits: 0, exact: true, rows: Vec::new(), how: "the files are as they were kept".into() }
    } else {
        since(&place, &present, &ask.healed)?
    };
    Ok(Weighed { source, present, already, since, in_use, members: Vec::new() })
}

fn nothing_kept(ask: &WeighRollback) -> JobFailure {
    refused(format!(
        "incident {} has no evidence: its heal replaced nothing, or the copies have expired (`evidence` in the configuration \
         says when)",
        ask.incident
    ))
}

fn told(kept: &Kept) -> KeptFiles {
    let file = |file: &Preserved| KeptFile {
        name: file.name.clone(),
        original: file.original.clone(),
        size: file.size,
        blake3: file.blake3.clone(),
        uid: file.ownership.uid,
        gid: file.ownership.gid,
        mode: file.ownership.mode,
    };
    KeptFiles {
        generation: kept.generation,
        folder: kept.folder.path().to_owned(),
        database: kept.evidence.path.clone(),
        preserved_at: kept.evidence.preserved_at,
        files: kept.evidence.files.iter().map(file).collect(),
        remarks: kept.evidence.remarks.clone(),
    }
}

fn is_there_already(place: &Place<'_>, kept: &Kept, present: &[(String, FileFacts)]) -> Result<bool, JobFailure> {
    let counts = |file: &&Preserved| file.name == "main" || (file.name != "shm" && file.size > 0);
    if kept.evidence.files.iter().filter(counts).count() != present.len() {
        return Ok(false);
    }
    for (original, name) in originals(place) {
        let Some((_, facts)) = present.iter().find(|(known, _)| known == name) else { continue };
        let Some(file) = kept.evidence.file(name).filter(|file| file.size == facts.size) else { return Ok(false) };
        let now = place.folder.open_own_in(&original).map_err(while_("opening the database's files"))?;
        if hash(&now).map_err(while_("reading the database's files"))? != file.blake3 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The files as a heal left them.
struct Healed {
    main: Option<FileFacts>,
    sides: Vec<(&'static str, FileFacts)>,
    change_counter: Option<u32>,
}

/// What the last swap that this evidence folder tells of put in place; `None` when the heal was made in place.
fn healed(place: &Place<'_>) -> Result<Option<Healed>, JobFailure> {
    if let Some(record) = read_json::<roll_back::Record>(&place.evidence, DONE)? {
        let sides = record.sides.into_iter().filter_map(|(suffix, facts)| {
            let (_, name) = super::place::SIDES.into_iter().find(|(known, _)| *known == suffix)?;
            Some((name, facts))
        });
        let sides = sides.collect();
        return Ok(Some(Healed { main: record.main, sides, change_counter: record.change_counter }));
    }
    let record = read_json::<install::Record>(&place.evidence, install::RECORD)?;
    Ok(record.map(|record| Healed {
        main: Some(record.candidate),
        sides: Vec::new(),
        change_counter: record.change_counter,
    }))
}

fn since(place: &Place<'_>, present: &[(String, FileFacts)], counted: &[TableRows]) -> Result<Since, JobFailure> {
    let present = |name: &str| present.iter().find(|(known, _)| known == name).map(|(_, facts)| *facts);
    let Some(main) = present("main") else {
        let commits = commits_in_wal(place)?;
        let how = "the database is not there: only its WAL could hold commits".to_owned();
        return Ok(Since { commits: commits.unwrap_or(0), exact: commits.is_some(), rows: Vec::new(), how });
    };
    let healed = healed(place)?;
    let same_main = healed.as_ref().and_then(|healed| healed.main).is_some_and(|healed| same_content(&healed, &main));
    let sides = healed.as_ref().map(|healed| healed.sides.as_slice()).unwrap_or_default();
    let same_side = |name: &str| match (present(name), sides.iter().find(|(known, _)| *known == name)) {
        (Some(now), Some((_, then))) => same_content(&now, then),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    };
    if same_main && same_side("wal") && same_side("journal") {
        let how = "the files are as the heal left them".to_owned();
        return Ok(Since { commits: 0, exact: true, rows: Vec::new(), how });
    }
    let rows = rows_since(place, counted);
    // Of a WAL that came back with a rollback, some commits are older.
    let in_wal = if sides.is_empty() { commits_in_wal(place)? } else { None };
    if same_main
        && same_side("journal")
        && let Some(commits) = in_wal
    {
        let how = "the main file is as the heal left it; the rest was counted in the WAL".to_owned();
        return Ok(Since { commits, exact: true, rows, how });
    }
    let counter = change_counter(place, &place.name);
    let then = healed.as_ref().and_then(|healed| healed.change_counter);
    let Some((then, now)) = then.zip(counter).filter(|(then, now)| now >= then) else {
        let how = "it was healed in place, or its header cannot be read: what was committed since cannot be told apart";
        return Ok(Since { commits: in_wal.unwrap_or(0), exact: false, rows, how: how.to_owned() });
    };
    let counted = u64::from(now - then);
    // Each commit in rollback mode counts it up. In WAL mode it stands still for as long as page 1 does.
    if is_in_rollback_mode(place) && present("wal").is_none() {
        let how = format!("the header's change counter went from {then} to {now}");
        return Ok(Since { commits: counted, exact: true, rows, how });
    }
    let how = "in WAL mode the commits that were checkpointed since leave no count".to_owned();
    Ok(Since { commits: (counted + in_wal.unwrap_or(0)).max(1), exact: false, rows, how })
}

fn is_in_rollback_mode(place: &Place<'_>) -> bool {
    let mut mode = [0_u8; 2];
    let read = place.folder.open_own_in(&place.name).is_ok_and(|main| main.read_exact_at(&mut mode, 18).is_ok());
    read && mode == [1, 1]
}

/// Commits in the WAL that SQLite would show; `None` when it has none that can be read.
fn commits_in_wal(place: &Place<'_>) -> Result<Option<u64>, JobFailure> {
    let name = place.side("-wal");
    let Some(facts) = place.stat(&name)?.filter(|facts| facts.size > 0) else { return Ok(Some(0)) };
    let wal = place.folder.open_own_in(&name).map_err(while_("opening the WAL"))?;
    let scan =
        scan_wal(facts.size, None, |at, buffer| wal.read_exact_at(buffer, at)).map_err(while_("reading the WAL"))?;
    let WalHeaderState::Ok(header) = scan.header else { return Ok(None) };
    let frame = u64::from(header.page_size) + 24;
    let mut commits = 0;
    for index in 0..u64::from(scan.last_commit) {
        let mut pages = [0_u8; 4];
        wal.read_exact_at(&mut pages, 32 + index * frame + 4).map_err(while_("reading the WAL"))?;
        commits += u64::from(pages != [0; 4]);
    }
    Ok(Some(commits))
}

/// Tables with another number of rows than just after the heal. Counted on a private copy; what cannot be counted is left out.
fn rows_since(place: &Place<'_>, then: &[TableRows]) -> Vec<RowsSince> {
    if then.is_empty() {
        return Vec::new();
    }
    let now = (|| -> Option<Vec<(String, u64)>> {
        let copy = private_copy(&place.job.site).ok()?;
        let deadline = Deadline::after(COUNTING);
        let database = Database::open(&copy.main(), Access::Copy, Duration::ZERO, deadline).ok()?;
        database.touch_schema().ok()?;
        let rows = database.row_counts().ok()?;
        database.close().ok()?;
        Some(rows)
    })();
    let Some(now) = now else { return Vec::new() };
    let of = |rows: &[(String, u64)], table: &str| {
        rows.iter().find(|(known, _)| known == table).map_or(0, |(_, rows)| *rows)
    };
    let known = then.iter().map(|table| RowsSince {
        table: table.table.clone(),
        then: table.rows,
        now: of(&now, &table.table),
    });
    let new = now.iter().filter(|(table, _)| then.iter().all(|known| known.table != *table));
    let new = new.map(|(table, rows)| RowsSince { table: table.clone(), then: 0, now: *rows });
    known.chain(new).filter(|rows| rows.then != rows.now).collect()
}
