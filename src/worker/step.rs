//! Steps of a playbook.

use crate::job::{FailureKind, JobFailure, StepJob, StepReport};

pub(super) fn run(job: &StepJob) -> Result<StepReport, JobFailure> {
    let message = format!("the step {} is not built yet", job.step.name());
    Err(JobFailure { kind: FailureKind::Refused, message })
}
