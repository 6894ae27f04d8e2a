//! Reclaiming the unlinked file: what programs have open under no name is kept, and put back once they have ended.

use std::time::{Duration, Instant};

use super::build::{clean_up, finish, fresh_part};
use super::held::keep::Keep;
use super::held::{AtPath, MAIN, Paper, Sight, copies, is_kept, note_reclaimed, pending_in};
use super::mend::{self, Kept};
use super::place::{Place, need_space};
use super::settle::{Settled, rows_of, settle_from};
use super::{done, failed, nothing, refused, while_};
use crate::host::fork_keeper;
use crate::job::{Candidate, CutOff, JobFailure, StepReport, TableRows};

/// The keeper copies what the programs left when they ended: as long as that may take.
const LAST_COPY: Duration = Duration::from_secs(600);
/// A keeper that another process of ours started makes its first copy.
const FIRST_COPY: Duration = Duration::from_secs(60);
/// Between two looks at what a keeper has done.
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// Sees to it that a keeper has the files open and that a copy is durable.
pub(super) fn keep_held(place: &Place<'_>) -> Result<StepReport, JobFailure> {
    let sight = Sight::of(place.path(), place.job.last.as_ref()).map_err(while_("looking for what programs hold"))?;
    let Some(cut_off) = sight.cut_off.clone() else { return what_is_there(place) };
    let report = match is_kept(&place.evidence) {
        true => {
            wait_until(FIRST_COPY, || Ok(!copies(&place.evidence)?.is_empty() || !is_kept(&place.evidence)))?;
            what_is_there(place)?
        }
        false => {
            let keep = Keep::begin(place, &sight)?;
            let word = fork_keeper(|tell| keep.live(tell)).map_err(while_("keeping what programs hold"))?;
            if let Some(why) = word.strip_prefix('-') {
                return Err(refused(format!("what {cut_off} holds is not in evidence: {why}")));
            }
            done(what_is_there(place)?.detail)
        }
    };
    if cut_off.is_contested() {
        return Err(refused(two_sides(place, &cut_off)?));
    }
    Ok(report)
}

/// Nobody holds them any more, or they are kept already: what there is.
fn what_is_there(place: &Place<'_>) -> Result<StepReport, JobFailure> {
    let held = pending_in(&place.evidence, &place.folder, &place.name)?;
    let held = held.ok_or_else(|| failed("nobody has the files open any more, and nothing was kept of them"))?;
    let how = if held.complete { "all of it" } else { "as of then, and its descriptors are kept" };
    Ok(nothing(&format!("what {} had at {:.3} is in {} ({how})", held.by, held.taken_at, held.folder.display())))
}

/// Candidates come from the last copy, and only from one that nobody adds to.
pub(super) fn build(place: &Place<'_>) -> Result<StepReport, JobFailure> {
    let path = place.path().display();
    let sight = Sight::of(place.path(), place.job.last.as_ref()).map_err(while_("looking for what programs hold"))?;
    if let Some(cut_off) = &sight.cut_off {
        return Err(refused(cut_off.waits_for_its_end(place.path(), place.evidence.path())));
    }
    wait_until(LAST_COPY, || Ok(!is_kept(&place.evidence)))?;
    if let Some(contested) = pending_in(&place.evidence, &place.folder, &place.name)?
        .and_then(|held| held.contested.map(|why| (why, held.folder)))
    {
        let (why, folder) = contested;
        return Err(refused(format!(
            "{why}, so what was held is not put in its place: it is in {folder}, and its manifest says how to use it by hand. To keep \
             what is at {path}, move that folder away",
            folder = folder.display()
        )));
    }
    let copies = copies(&place.evidence)?;
    let Some((folder, paper)) = copies.first() else { return Err(failed("nothing was kept of what programs held")) };
    let part = fresh_part(place)?;
    let size = paper.files.iter().map(|file| file.facts.size).sum::<u64>();
    need_space(&place.folder, size.saturating_mul(3))?;
    let mut proven = paper.complete;
    let built = (|| {
        let files = (folder, MAIN.as_ref());
        let how = match mend::of_kept(place, files, &part)? {
            Kept::Whole => settle_from(place, files, &part, &paper.ownership)?.how,
            // Its program went by its index in memory, and noticed nothing.
            Kept::Mended(mended) => {
                proven &= mended.proven;
                mended.detail
            }
            Kept::Damaged(why) => {
                proven = false;
                let Settled { how } = settle_from(place, files, &part, &paper.ownership)?;
                format!("{how}, which is damaged ({why})")
            }
        };
        finish(place, &part, &paper.ownership, format!("the files that {} had open, {how}", paper.by))
    })();
    let report = clean_up(place, &part, built)?;
    let candidate = place.stat(&place.candidate())?.ok_or_else(|| failed("the candidate vanished"))?;
    note_reclaimed(&place.evidence, &candidate)?;
    let detail = match paper.complete {
        true => report.detail,
        false => format!("{}; as of {:.3}: what was committed later is not known", report.detail, paper.taken_at),
    };
    let candidate = report.candidate.map(|candidate| Candidate { proven, ..candidate });
    Ok(StepReport { detail, candidate, ..report })
}

/// Two sides commit: what each has, for a person to decide.
fn two_sides(place: &Place<'_>, cut_off: &CutOff) -> Result<String, JobFailure> {
    let mut sides = Vec::new();
    for (folder, Paper { by, .. }) in copies(&place.evidence)? {
        let rows = in_rows(rows_of(place, (&folder, MAIN.as_ref())));
        sides.push(format!("{by} goes on with files that are gone: {rows}, kept in {}", folder.path().display()));
    }
    let at_path = AtPath::of(&place.folder, &place.name)?;
    if at_path.main.is_some_and(|main| main.size > 0) {
        let rows = place.refuse_planted().and_then(|()| rows_of(place, (&place.folder, &place.name)));
        let rows = in_rows(rows);
        let by = match cut_off.others.as_slice() {
            [] => "nobody has".to_owned(),
            [(pid, comm), others @ ..] => match others.len() {
                0 => format!("{comm} (pid {pid}) has"),
                more => format!("{comm} (pid {pid}) and {more} more have"),
            },
        };
        sides.push(format!("{by} the file at {} open: {rows}, kept too", place.path().display()));
    }
    Ok(format!(
        "programs work on different files of one name, and nothing is replaced: {}. Stop them all, choose one side, and put it in place \
         as `put_back` in its manifest says",
        sides.join("; ")
    ))
}

fn in_rows(rows: Result<Vec<TableRows>, JobFailure>) -> String {
    match rows {
        Ok(tables) => {
            let all = TableRows::sum(&tables);
            let each = tables.iter().map(|table| format!("{} {}", table.table, table.rows)).collect::<Vec<_>>();
            format!("{all} rows ({})", each.join(", "))
        }
        Err(error) => format!("rows that cannot be counted ({})", error.message),
    }
}

fn wait_until(limit: Duration, mut seen: impl FnMut() -> Result<bool, JobFailure>) -> Result<(), JobFailure> {
    let until = Instant::now() + limit;
    while !seen()? {
        if Instant::now() >= until {
            return Err(refused(format!(
                "what programs held is not copied after {limit:?}: is there room in the state directory?"
            )));
        }
        std::thread::sleep(BETWEEN_LOOKS);
    }
    Ok(())
}
