//! What would be gone with its program is put into evidence before anybody is waited for: a person, or a gate.

use crate::job::Phase;
use crate::journal::{Entry, JournalError};
use crate::model::{Incident, Plan, StepOutcome};
use crate::modes::Supervised;

use super::execute::take_step;
use super::{Case, Context};

/// A copy that failed (no room, say) is tried again at so many visits in all.
const TRIES: usize = 3;

/// Keeps what `target` says must not wait, unless this incident's evidence has it. That it failed is in the incident's steps, and
/// nothing else is held up by it.
pub(super) async fn keep_first(cx: &Context, target: &mut dyn Supervised, case: &mut Case) -> Result<(), JournalError> {
    target.take_up(case.incident(), &cx.journal.evidence(case.id()));
    let Some(playbook) = target.keep_first(case.incident()) else { return Ok(()) };
    let named = |name: &str| playbook.steps.iter().any(|spec| spec.name == name);
    let steps = case.incident().steps.iter().filter(|record| named(&record.step));
    let tries = steps.map(|record| record.outcome == StepOutcome::Failed).collect::<Vec<_>>();
    if tries.contains(&false) || tries.len() >= TRIES || cx.is_stopping() {
        return Ok(());
    }
    case.tell(cx, Entry::Planned { playbooks: vec![playbook.clone()], approval: None }).await?;
    case.tell(cx, Entry::PlaybookBegan { index: 0, name: playbook.name.clone() }).await?;
    for (number, spec) in playbook.steps.iter().enumerate() {
        take_step(cx, target, case, (0, number), spec, Phase::Apply).await?;
    }
    // It is no heal, so there is nothing to prove.
    case.tell(cx, Entry::Interrupted).await?;
    case.planned(cx, &Plan::default()).await
}

/// What became of that, for the person who is waited for.
pub(super) fn what_is_kept(incident: &Incident) -> String {
    match (&incident.evidence, incident.steps.last()) {
        (Some(folder), _) => format!("; the files as they were are in {folder}"),
        (None, Some(last)) if last.outcome == StepOutcome::Failed => {
            format!("; the files as they are could not be kept: {}", last.detail)
        }
        (None, _) => String::new(),
    }
}
