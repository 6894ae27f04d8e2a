//! The steps that heal a database. Each answers one question before it acts: what if we die on the next line?
//!
//! | step | dying in the middle leaves | resumed by |
//! | --- | --- | --- |
//! | preserve | copies without a manifest, which count for nothing | doing it again |
//! | checkpoint, rebuild indexes | what SQLite's own recovery undoes or finishes | doing it again |
//! | build … | a part without its final name, which counts for nothing | doing it again |
//! | resume stopped | a program that goes on, or that stands still | doing it again: one that goes on is left alone |
//! | move lock aside | the lock under a name of ours, or in evidence | finishing |
//! | restore access | owner without mode, or neither | doing it again |
//! | install | one of the states in `install`'s table | finishing, or taking back |
//! | restore in place | the old content, or the new, by SQLite's own recovery | doing it again, unless it is sound |
//! | on a member | as the step itself, beside another database | as the step itself |
//! | keep held | a keeper, which goes on, or a copy without a manifest, which counts for nothing | doing it again |
//! | stop app | a program that runs, that does not, or is just ending | starting it again, at the end of its playbook |
//! | start app | a program that does not run yet, or runs | starting it, unless it runs |
//! | roll back | one of the states in `roll_back`'s table | finishing, or taking back |
//!
//! A build gives its candidate the final name `.guardiand-<incident>.new` only after the full check and fsync, so a
//! candidate that is there is complete.

mod access;
mod app;
mod basis;
mod build;
mod contest;
mod evidence;
mod header;
pub(super) mod held;
mod in_place;
mod in_use;
mod install;
mod kill;
mod lock_aside;
mod member;
mod mend;
mod onto_backup;
mod pages;
mod place;
mod preserve;
mod readers;
mod reclaim;
mod restore_in_place;
mod resume_stopped;
mod roll_back;
mod salvage;
mod salvage_in_place;
mod settle;
mod undo;
mod weigh;

#[cfg(test)]
mod in_use_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod unblock_tests;

use std::time::Duration;

use crate::job::{DatabaseStep, FailureKind, JobFailure, Phase, Progress, StepJob, StepReport};
use place::Place;
use restore_in_place::Wanted;
pub use weigh::{list_evidence, weigh};

/// Why what was done in place is not taken back.
const ITS_PROGRAMS_GO_ON: &str = "its programs may have written since: what was there is in evidence";

/// Works on one step.
///
/// # Errors
/// [`FailureKind::Refused`] when something must be true first that is not; [`FailureKind::Failed`] when it was tried in vain.
/// Both leave the user's files as they were, or say what is different.
pub fn run(job: &StepJob) -> Result<StepReport, JobFailure> {
    if let DatabaseStep::OnMember { member, does } = &job.step {
        return member::run_on(job, member, does);
    }
    let place = Place::of(job)?;
    // What programs hold is read through their own descriptors, whatever stands at the path; and a program that was stopped is started
    // again whatever stands there. What was interrupted is finished first, but for copying it.
    let whatever_is_there = matches!(job.step, DatabaseStep::KeepHeld | DatabaseStep::StartApp { .. });
    if (job.phase == Phase::Apply || job.step == DatabaseStep::Preserve) && !whatever_is_there {
        place.refuse_planted()?;
    }
    match (&job.step, job.phase) {
        (DatabaseStep::Preserve, Phase::Apply | Phase::Resume) => {
            basis::holds(&place)?;
            preserve::apply(&place)
        }
        (DatabaseStep::Preserve, Phase::Undo) => Ok(nothing("evidence is kept")),
        (DatabaseStep::RestoreAccess { owner, inode }, Phase::Apply | Phase::Resume) => {
            access::restore(&place, owner, *inode)
        }
        (DatabaseStep::RestoreAccess { .. }, Phase::Undo) => {
            Ok(nothing("owner and mode stay as they were when healthy"))
        }
        (DatabaseStep::Checkpoint { timeout_ms }, Phase::Apply | Phase::Resume) => {
            in_place::checkpoint(&place, *timeout_ms)
        }
        (DatabaseStep::RebuildIndexes { indexes }, Phase::Apply | Phase::Resume) => {
            in_place::rebuild_indexes(&place, indexes)
        }
        (DatabaseStep::Checkpoint { .. } | DatabaseStep::RebuildIndexes { .. }, Phase::Undo) => {
            Ok(nothing("it loses nothing, and the program may have written since: left as it is"))
        }
        (DatabaseStep::BuildFromBackup { backup, blake3, owner }, Phase::Apply | Phase::Resume) => {
            build::from_backup(&place, backup, blake3, owner.as_ref())
        }
        (DatabaseStep::BuildFromCopy { owner, schema }, Phase::Apply | Phase::Resume) => {
            build::from_copy(&place, schema.as_deref(), owner.as_ref())
        }
        (DatabaseStep::BuildFromWal { onto, owner }, Phase::Apply | Phase::Resume) => {
            build::from_wal(&place, onto, owner.as_ref())
        }
        (DatabaseStep::BuildMended { known }, Phase::Apply | Phase::Resume) => header::build(&place, known),
        (DatabaseStep::BuildFromPages { known, sources, owner }, Phase::Apply | Phase::Resume) => {
            pages::build(&place, known, sources, owner.as_ref())
        }
        (DatabaseStep::BuildFromSalvage(wanted), Phase::Apply | Phase::Resume) => match &wanted.of_backup {
            Some(backup) => salvage::of_backup(&place, wanted, backup),
            None => salvage::build(&place, wanted),
        },
        (DatabaseStep::BuildFromSchema { schema, journal_mode, owner, unless }, Phase::Apply | Phase::Resume) => {
            build::no_backup_passes(unless)?;
            build::from_schema(&place, schema, journal_mode, owner.as_ref())
        }
        (
            DatabaseStep::BuildFromBackup { .. }
            | DatabaseStep::BuildFromCopy { .. }
            | DatabaseStep::BuildFromWal { .. }
            | DatabaseStep::BuildMended { .. }
            | DatabaseStep::BuildFromPages { .. }
            | DatabaseStep::BuildFromSalvage(_)
            | DatabaseStep::BuildFromSchema { .. },
            Phase::Undo,
        ) => build::undo(&place),
        (DatabaseStep::ResumeStopped { pid, started_ms, uid, comm }, Phase::Apply | Phase::Resume) => {
            resume_stopped::apply(
                &place,
                &resume_stopped::Stopped { pid: *pid, started_ms: *started_ms, uid: *uid, comm },
            )
        }
        (DatabaseStep::ResumeStopped { .. }, Phase::Undo) => Ok(nothing("a program that goes on is not stopped again")),
        (DatabaseStep::MoveLockAside { ino, made_ns }, Phase::Apply | Phase::Resume) => {
            lock_aside::apply(&place, &lock_aside::Seen { ino: *ino, made_ns: *made_ns })
        }
        (DatabaseStep::MoveLockAside { .. }, Phase::Undo) => Ok(nothing("the lock was nobody's: it stays in evidence")),
        (DatabaseStep::Install, Phase::Apply) => install::apply(&place),
        (DatabaseStep::Install, Phase::Resume) => install::resume(&place),
        (DatabaseStep::Install, Phase::Undo) => undo::undo(&place),
        (DatabaseStep::RestoreInPlace { backup, blake3, journal_mode }, phase) => {
            let wanted = Wanted { backup, blake3, journal_mode: journal_mode.as_deref() };
            match phase {
                Phase::Apply => restore_in_place::apply(&place, &wanted),
                Phase::Resume => restore_in_place::resume(&place, &wanted),
                Phase::Undo => Ok(nothing(ITS_PROGRAMS_GO_ON)),
            }
        }
        (DatabaseStep::SalvageInPlace(wanted), Phase::Apply) => salvage_in_place::apply(&place, wanted),
        (DatabaseStep::SalvageInPlace(wanted), Phase::Resume) => salvage_in_place::resume(&place, wanted),
        (DatabaseStep::SalvageInPlace(_), Phase::Undo) => Ok(nothing(ITS_PROGRAMS_GO_ON)),
        (DatabaseStep::OnMember { .. }, _) => Err(failed("a step on a member has its own place")),
        (DatabaseStep::KeepHeld, Phase::Apply | Phase::Resume) => reclaim::keep_held(&place),
        (DatabaseStep::KeepHeld, Phase::Undo) => Ok(nothing("evidence is kept")),
        (DatabaseStep::BuildFromHeld, Phase::Apply | Phase::Resume) => reclaim::build(&place),
        (DatabaseStep::BuildFromHeld, Phase::Undo) => build::undo(&place),
        (DatabaseStep::StopApp { app, limit_ms, ending, members, .. }, Phase::Apply) => {
            app::stop(&place, &app::GroupProgram { app, members }, Duration::from_millis(*limit_ms), *ending)
        }
        (DatabaseStep::StopApp { .. }, Phase::Resume) => app::resume_stop(&place),
        (DatabaseStep::StartApp { app, limit_ms, members }, Phase::Apply | Phase::Resume) => {
            app::start(&place, &app::GroupProgram { app, members }, Duration::from_millis(*limit_ms), job.phase)
        }
        (DatabaseStep::StopApp { .. } | DatabaseStep::StartApp { .. }, Phase::Undo) => {
            Ok(nothing("the playbook's last step puts the program back into the state that it had"))
        }
        (DatabaseStep::RollBack { .. }, Phase::Apply) => roll_back::apply(&place),
        (DatabaseStep::RollBack { .. }, Phase::Resume) => roll_back::resume(&place),
        (DatabaseStep::RollBack { .. }, Phase::Undo) => {
            Ok(nothing("a rollback is taken back by rolling this incident back"))
        }
    }
}

fn nothing(detail: &str) -> StepReport {
    StepReport { progress: Progress::Nothing, detail: detail.into(), candidate: None }
}

fn done(detail: impl Into<String>) -> StepReport {
    StepReport { progress: Progress::Done, detail: detail.into(), candidate: None }
}

fn undone(detail: impl Into<String>) -> StepReport {
    StepReport { progress: Progress::Undone, detail: detail.into(), candidate: None }
}

fn failed(message: impl Into<String>) -> JobFailure {
    JobFailure { kind: FailureKind::Failed, message: message.into() }
}

fn refused(message: impl Into<String>) -> JobFailure {
    JobFailure { kind: FailureKind::Refused, message: message.into() }
}

fn outdated(message: impl Into<String>) -> JobFailure {
    JobFailure { kind: FailureKind::Outdated, message: message.into() }
}

/// Names what was being done when something failed.
fn while_<E: std::fmt::Display>(doing: impl std::fmt::Display) -> impl FnOnce(E) -> JobFailure {
    move |error| failed(format!("while {doing}: {error}"))
}
