//! Steps as jobs, and what their answers mean.

use std::path::Path;
use std::time::Duration;

use super::{Database, heal, kinds};
use crate::job::{Basis, DatabaseStep, FailureKind, Job, Outcome, Phase, Progress, StepJob, WalBase};
use crate::model::{Incident, StepOutcome, StepSpec};
use crate::modes::{Action, Answer, StepResult};

impl Database {
    pub(super) fn step_action(
        &self,
        incident: &Incident,
        evidence: &Path,
        spec: &StepSpec,
        phase: Phase,
    ) -> Result<Action, String> {
        if spec.name == heal::WAIT {
            return Ok(Action::WaitUntilHealthy);
        }
        if spec.version > heal::STEP_VERSION {
            return Err(format!("step `{}` is of version {}, written by a newer guardiand", spec.name, spec.version));
        }
        let step = serde_json::from_value::<DatabaseStep>(spec.args.clone())
            .map_err(|error| format!("step `{}` cannot be read back: {error}", spec.name))?;
        Ok(Action::Run(Box::new(Job::Step(Box::new(StepJob {
            site: self.patient_site(),
            incident: incident.id.to_string(),
            evidence: evidence.to_path_buf(),
            phase,
            basis: self.basis(incident).filter(|_| phase == Phase::Apply && step == DatabaseStep::Preserve),
            step,
            last: self.memory.last_healthy.clone(),
            wal_verified: self.memory.wal_verified,
        })))))
    }

    /// What the plan that is being carried out was made from: nothing has been looked at since. Not what a person takes back: that
    /// was weighed against files of its own.
    fn basis(&self, incident: &Incident) -> Option<Basis> {
        let facts = self.facts.as_ref()?;
        let rung = incident.plan.iter().find(|rung| rung.playbook == incident.playbook)?;
        let has = |step: &str| rung.steps.iter().any(|name| name == step);
        let alone = has("install") && !has("stop_app") && !has("keep_held");
        let (main, wal, journal) = (facts.main.clone(), facts.wal_file.clone(), facts.journal_file.clone());
        (!has("roll_back")).then_some(Basis { main, wal, journal, alone })
    }

    pub(super) fn step_came_to(&mut self, spec: &StepSpec, answer: &Answer) -> StepResult {
        let report = match answer {
            Ok(Outcome::Stepped(report)) => report,
            Ok(_) => return failed("the step answered something else".to_owned()),
            Err(failure) => {
                let step = serde_json::from_value::<DatabaseStep>(spec.args.clone()).ok();
                // Nothing but keeping comes before it.
                let early = step == Some(DatabaseStep::BuildFromHeld) && failure.kind == FailureKind::Refused;
                let (held, outdated) = (is_held(step.as_ref(), failure.kind), failure.kind == FailureKind::Outdated);
                return StepResult { held, early, outdated, ..failed(failure.message.clone()) };
            }
        };
        let outcome = match report.progress {
            Progress::Done => StepOutcome::Ok,
            Progress::Nothing => StepOutcome::Skipped,
            Progress::Undone => StepOutcome::Undone,
        };
        let step = serde_json::from_value::<DatabaseStep>(spec.args.clone()).ok();
        match &step {
            Some(DatabaseStep::Install) => {
                self.replaced = outcome != StepOutcome::Undone;
                // What kept the old one's content from being judged says nothing of what has passed its check.
                self.memory.unjudged = self.memory.unjudged.take().filter(|_| !self.replaced);
            }
            // What came back was never checked: less than everything proves nothing of it.
            Some(DatabaseStep::RollBack { .. }) => (self.replaced, self.hurt) = (false, true),
            Some(DatabaseStep::BuildFromBackup { blake3, .. }) => self.built_from = Some(blake3.clone()),
            Some(DatabaseStep::OnMember { member, does }) => {
                self.note_member(&member.name, does, report.candidate.as_ref());
            }
            // Its program goes on writing: nothing is taken for the backup's content afterwards.
            Some(DatabaseStep::RestoreInPlace { .. } | DatabaseStep::SalvageInPlace(_)) => self.built_from = None,
            Some(
                DatabaseStep::BuildFromCopy { .. }
                | DatabaseStep::BuildFromWal { .. }
                | DatabaseStep::BuildMended { .. }
                | DatabaseStep::BuildFromPages { .. }
                | DatabaseStep::BuildFromSalvage(_)
                | DatabaseStep::BuildFromSchema { .. }
                | DatabaseStep::BuildFromHeld,
            ) => self.built_from = None,
            _ => {}
        }
        let own = step.as_ref().zip(report.candidate.as_ref()).and_then(|(step, candidate)| self.loss(step, candidate));
        let loss = own.map(|own| heal::loss_of_group(own, &self.members_lost));
        let preserved =
            matches!(step, Some(DatabaseStep::Preserve | DatabaseStep::KeepHeld)) && outcome != StepOutcome::Undone;
        let held = outcome == StepOutcome::Undone;
        StepResult { loss, preserved, held, ..StepResult::new(outcome, report.detail.clone()) }
    }

    fn loss(&self, step: &DatabaseStep, candidate: &crate::job::Candidate) -> Option<crate::model::Loss> {
        match step {
            DatabaseStep::BuildFromBackup { backup, .. } | DatabaseStep::RestoreInPlace { backup, .. } => {
                let entry = self.facts.as_ref().and_then(|facts| {
                    let listed = &facts.diagnosis.as_ref()?.backups;
                    listed.iter().find(|entry| entry.file == *backup).map(|entry| (entry, facts))
                });
                Some(match entry {
                    Some((entry, facts)) => heal::loss_of_backup(entry, &candidate.tables, &self.memory, facts),
                    None => heal::loss_unknown(candidate),
                })
            }
            DatabaseStep::BuildFromCopy { schema, .. } => {
                // What is proven is of files that have nothing else wrong with them.
                let only = schema.is_some() && self.kind.as_ref() == Some(&kinds::SCHEMA_CORRUPTED);
                Some(heal::loss_of_copy(&candidate.tables, only))
            }
            DatabaseStep::BuildFromWal { onto, .. } => {
                // A main file that is hurt itself proves nothing of what the WAL does not have.
                let below = match onto {
                    WalBase::Main => self.kind.as_ref() == Some(&kinds::WAL_CORRUPTED),
                    WalBase::Nothing => self.facts.as_ref().is_some_and(|facts| self.memory.knows_wal(facts)),
                    WalBase::Backup { .. } => true,
                };
                Some(heal::loss_of_wal(candidate, below))
            }
            DatabaseStep::BuildMended { .. } | DatabaseStep::BuildFromPages { .. } => {
                Some(heal::loss_of_mended(candidate))
            }
            DatabaseStep::BuildFromSalvage(_) | DatabaseStep::SalvageInPlace(_) => {
                Some(heal::loss_of_salvage(candidate))
            }
            DatabaseStep::BuildFromSchema { .. } => Some(heal::loss_of_recreation(&self.memory, self.facts.as_ref())),
            DatabaseStep::BuildFromHeld => Some(heal::loss_of_held(candidate)),
            DatabaseStep::Preserve
            | DatabaseStep::KeepHeld
            | DatabaseStep::RestoreAccess { .. }
            | DatabaseStep::Checkpoint { .. }
            | DatabaseStep::RebuildIndexes { .. }
            | DatabaseStep::ResumeStopped { .. }
            | DatabaseStep::MoveLockAside { .. }
            | DatabaseStep::Install
            | DatabaseStep::RollBack { .. }
            | DatabaseStep::OnMember { .. }
            | DatabaseStep::StopApp { .. }
            | DatabaseStep::StartApp { .. } => None,
        }
    }

    /// What another database of its group loses with it.
    fn note_member(&mut self, name: &str, step: &DatabaseStep, candidate: Option<&crate::job::Candidate>) {
        if let (DatabaseStep::BuildFromBackup { .. }, Some(candidate)) = (step, candidate) {
            self.members_lost.retain(|(known, _)| known != name);
            self.members_lost.push((name.to_owned(), heal::loss_unknown(candidate)));
        }
    }
}

/// True when an applied step of this kind must be taken back if its playbook does not heal.
pub(super) fn leaves_a_trace(spec: &StepSpec) -> bool {
    let step = match serde_json::from_value::<DatabaseStep>(spec.args.clone()) {
        Ok(DatabaseStep::OnMember { does, .. }) => Ok(*does),
        step => step,
    };
    matches!(
        step,
        Ok(DatabaseStep::Install
            | DatabaseStep::BuildFromBackup { .. }
            | DatabaseStep::BuildFromCopy { .. }
            | DatabaseStep::BuildFromWal { .. }
            | DatabaseStep::BuildFromHeld
            | DatabaseStep::BuildMended { .. }
            | DatabaseStep::BuildFromPages { .. }
            | DatabaseStep::BuildFromSalvage(_)
            | DatabaseStep::BuildFromSchema { .. })
    )
}

/// The longest that a step on its program may take, beyond which its child is killed; `None` for a step on files.
pub(super) fn app_patience(spec: &StepSpec) -> Option<Duration> {
    match serde_json::from_value::<DatabaseStep>(spec.args.clone()) {
        // Once for another heal's command, once for its own, and time to see who has the files.
        Ok(DatabaseStep::StopApp { limit_ms, .. } | DatabaseStep::StartApp { limit_ms, .. }) => {
            Some(Duration::from_millis(limit_ms.saturating_mul(2)) + Duration::from_secs(60))
        }
        _ => None,
    }
}

/// True for the step that puts evidence back.
pub(super) fn brings_back(spec: &StepSpec) -> bool {
    let step = match serde_json::from_value::<DatabaseStep>(spec.args.clone()) {
        Ok(DatabaseStep::OnMember { does, .. }) => Ok(*does),
        step => step,
    };
    matches!(step, Ok(DatabaseStep::RollBack { .. }))
}

/// True for the step that adds to an incident's evidence.
pub(super) fn keeps(spec: &StepSpec) -> bool {
    let step = serde_json::from_value::<DatabaseStep>(spec.args.clone());
    matches!(step, Ok(DatabaseStep::Preserve | DatabaseStep::RestoreInPlace { .. } | DatabaseStep::SalvageInPlace(_)))
}

/// Whether a failure says nothing against the rung that it happened on. A backup that fails its check is its own fault, and
/// the next one is tried; that the file is in use, the disk is full or time ran out would only hit a worse candidate less.
fn is_held(step: Option<&DatabaseStep>, kind: FailureKind) -> bool {
    use DatabaseStep as Step;
    match step {
        Some(Step::OnMember { does, .. }) => is_held(Some(does), kind),
        Some(
            Step::BuildFromBackup { .. }
            | Step::BuildFromCopy { .. }
            | Step::BuildFromWal { .. }
            | Step::BuildMended { .. }
            | Step::BuildFromPages { .. }
            | Step::BuildFromSalvage(_)
            | Step::BuildFromSchema { .. }
            | Step::RestoreInPlace { .. }
            | Step::SalvageInPlace(_),
        ) => kind != FailureKind::Failed,
        // Nothing that loses more stands in for what programs had open.
        Some(Step::KeepHeld | Step::BuildFromHeld) => true,
        Some(Step::Preserve | Step::Install | Step::RollBack { .. } | Step::StopApp { .. } | Step::StartApp { .. }) => {
            true
        }
        Some(
            Step::RestoreAccess { .. }
            | Step::Checkpoint { .. }
            | Step::RebuildIndexes { .. }
            | Step::ResumeStopped { .. }
            | Step::MoveLockAside { .. },
        )
        | None => {
            matches!(kind, FailureKind::Refused | FailureKind::Blocked | FailureKind::Deadline | FailureKind::Abandoned)
        }
    }
}

fn failed(detail: String) -> StepResult {
    StepResult::new(StepOutcome::Failed, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_candidate_that_was_tried_in_vain_lets_a_lossier_one_have_its_turn() {
        let backup = DatabaseStep::BuildFromBackup { backup: "b.db".into(), blake3: String::new(), owner: None };
        let table = [
            (&backup, FailureKind::Failed, false),
            (&backup, FailureKind::Refused, true),
            (&backup, FailureKind::Deadline, true),
            (&backup, FailureKind::Crashed, true),
            (&DatabaseStep::Install, FailureKind::Refused, true),
            (&DatabaseStep::Install, FailureKind::Failed, true),
            (&DatabaseStep::Preserve, FailureKind::Failed, true),
            (&DatabaseStep::Checkpoint { timeout_ms: 1 }, FailureKind::Failed, false),
            (&DatabaseStep::Checkpoint { timeout_ms: 1 }, FailureKind::Refused, true),
        ];
        for (step, kind, held) in table {
            assert_eq!(is_held(Some(step), kind), held, "{step:?} {kind:?}");
        }
    }
}
