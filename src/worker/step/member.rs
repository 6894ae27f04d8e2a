//! A step on another database of the same group: the same step, where that database is, with evidence of its own inside the
//! incident's.

use std::path::{Path, PathBuf};

use super::{failed, run};
use crate::job::{DatabaseSite, DatabaseStep, JobFailure, Member, StepJob, StepReport};

/// How the name of a member's evidence begins, in the incident's.
pub(super) const MEMBER: &str = "member-";

/// Where a member's steps work, when the incident's own work on `site`.
pub(super) struct Own {
    pub site: DatabaseSite,
    /// Two members may share a folder, and names of ours in it must not meet.
    pub incident: String,
    pub evidence: PathBuf,
}

impl Own {
    pub(super) fn of(member: &Member, site: &DatabaseSite, incident: &str, evidence: &Path) -> Own {
        let hash = blake3::hash(member.path.as_os_str().as_encoded_bytes()).to_hex();
        let short = &hash.as_str()[..8];
        Own {
            site: DatabaseSite { path: member.path.clone(), user: member.user.clone(), ..site.clone() },
            incident: format!("{incident}.{short}"),
            evidence: evidence.join(format!("{MEMBER}{short}")),
        }
    }
}

/// Works on `step` where `member` is.
pub(super) fn run_on(job: &StepJob, member: &Member, step: &DatabaseStep) -> Result<StepReport, JobFailure> {
    if matches!(step, DatabaseStep::OnMember { .. }) {
        return Err(failed("a member of a group has no members"));
    }
    let job = job_on(job, member, step);
    let named = |said: String| format!("{}: {said}", member.name);
    match run(&job) {
        Ok(report) => Ok(StepReport { detail: named(report.detail.clone()), ..report }),
        Err(failure) => Err(JobFailure { message: named(failure.message), ..failure }),
    }
}

/// The same step of the same incident, where `member` is.
pub(super) fn job_on(job: &StepJob, member: &Member, step: &DatabaseStep) -> StepJob {
    let Own { site, incident, evidence } = Own::of(member, &job.site, &job.incident, &job.evidence);
    StepJob {
        site,
        incident,
        evidence,
        phase: job.phase,
        step: step.clone(),
        last: None,
        basis: None,
        wal_verified: None,
    }
}
