//! A step on another database of the same group: the same step, where that database is, with evidence of its own inside the
//! incident's.

use super::{failed, run};
use crate::job::{DatabaseSite, DatabaseStep, JobFailure, Member, StepJob, StepReport};

/// Works on `step` where `member` is.
pub(super) fn run_on(job: &StepJob, member: &Member, step: &DatabaseStep) -> Result<StepReport, JobFailure> {
    if matches!(step, DatabaseStep::OnMember { .. }) {
        return Err(failed("a member of a group has no members"));
    }
    // Two members may share a folder, and names of ours in it must not meet.
    let short: String = blake3::hash(member.path.as_os_str().as_encoded_bytes()).to_hex().chars().take(8).collect();
    let site = DatabaseSite { path: member.path.clone(), user: member.user.clone(), ..job.site.clone() };
    let job = StepJob {
        site,
        incident: format!("{}.{short}", job.incident),
        evidence: job.evidence.join(format!("member-{short}")),
        phase: job.phase,
        step: step.clone(),
        last: None,
        wal_verified: None,
    };
    let named = |said: String| format!("{}: {said}", member.name);
    match run(&job) {
        Ok(report) => Ok(StepReport { detail: named(report.detail.clone()), ..report }),
        Err(failure) => Err(JobFailure { message: named(failure.message), ..failure }),
    }
}
