//! Databases that belong together: what replaces one replaces all, from backups of the same moment, and all are kept first.

use jiff::Timestamp;

use super::in_use::step_of;
use super::{Site, spec};
use crate::job::{BackupEntry, DatabaseStep, MemberFacts};
use crate::model::{Playbook, StepSpec};

impl Site<'_> {
    /// The other databases of its group, as they were just seen.
    pub(super) fn members(&self) -> &[MemberFacts] {
        self.diagnosis.map(|diagnosis| diagnosis.members.as_slice()).unwrap_or_default()
    }

    /// The ladder for the whole group; a rung that cannot be had for all of it is left out, and why is said when none is left.
    pub(super) fn with_group(&self, ladder: Vec<Playbook>) -> Result<Vec<Playbook>, String> {
        if self.members().is_empty() || !ladder.iter().any(super::in_use::swaps) {
            return Ok(ladder);
        }
        let mut why_not = None;
        let mut rungs = Vec::new();
        for rung in ladder {
            match self.for_all(&rung) {
                Ok(rung) => rungs.push(rung),
                Err(why) => why_not = why_not.or(Some(why)),
            }
        }
        match why_not {
            Some(why) if rungs.is_empty() => Err(why),
            _ => Ok(rungs),
        }
    }

    fn for_all(&self, rung: &Playbook) -> Result<Playbook, String> {
        if !super::in_use::swaps(rung) {
            return Ok(rung.clone());
        }
        let moment = rung.steps.iter().find_map(|step| match step_of(step)? {
            DatabaseStep::BuildFromBackup { backup, .. } => {
                let entry = self.listed().iter().find(|entry| entry.file == backup)?;
                Some(entry.manifest.taken_at)
            }
            _ => None,
        });
        let mut restored = Vec::new();
        // Its own content, or none at all, is of no moment that the others could be taken back to.
        for (member, moment) in self.members().iter().filter_map(|member| Some((member, moment?))) {
            let backup = of_moment(member, moment).ok_or_else(|| {
                format!(
                    "{} belongs together with `{}` (group `{}`), of which there is no backup: restore both by hand",
                    self.path(),
                    member.member.name,
                    self.config.group.as_deref().unwrap_or_default()
                )
            })?;
            restored.push((member, backup));
        }
        let on = |member: &MemberFacts, step: DatabaseStep| {
            spec(&DatabaseStep::OnMember { member: member.member.clone(), does: Box::new(step) })
        };
        let mut steps: Vec<StepSpec> = Vec::new();
        for step in &rung.steps {
            let done = step_of(step);
            // Before its own: what becomes of the incident is told by the step on its own file.
            match &done {
                Some(DatabaseStep::BuildFromBackup { .. }) => {
                    steps.extend(restored.iter().map(|(member, backup)| on(member, build_from(backup))));
                }
                Some(DatabaseStep::Install) => {
                    steps.extend(restored.iter().map(|(member, _)| on(member, DatabaseStep::Install)));
                }
                _ => {}
            }
            steps.push(step.clone());
            if done == Some(DatabaseStep::Preserve) {
                steps.extend(self.members().iter().map(|member| on(member, DatabaseStep::Preserve)));
            }
        }
        let with = restored.iter().map(|(member, backup)| {
            format!("`{}` is restored with it, from its backup of {:.3}", member.member.name, backup.manifest.taken_at)
        });
        let why = std::iter::once(rung.why.clone()).chain(with).collect::<Vec<_>>().join("; ");
        Ok(Playbook { name: rung.name.clone(), why, steps })
    }
}

/// The member's backup of that moment: the nearest to it. Those of a group are taken one after the other, and the one that was taken a
/// moment later is of the same round; the one before that is a whole period older.
fn of_moment(member: &MemberFacts, moment: Timestamp) -> Option<&BackupEntry> {
    let distance = |entry: &&BackupEntry| (entry.manifest.taken_at.as_nanosecond() - moment.as_nanosecond()).abs();
    member.backups.iter().min_by_key(distance)
}

fn build_from(backup: &BackupEntry) -> DatabaseStep {
    DatabaseStep::BuildFromBackup {
        backup: backup.file.clone(),
        blake3: backup.manifest.blake3.clone(),
        owner: Some(backup.manifest.owner),
    }
}
