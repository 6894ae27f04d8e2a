//! `rollback` where no daemon runs: from the evidence folder and its log alone.

use super::{PassError, Scope, Site, Subject, failed, remind, saved};
use crate::daemon::block_on;
use crate::daemon::foundation::Foundation;
use crate::model::{Incident, IncidentId};
use crate::supervisor::{Notices, RollbackAnswer, RollbackAsk, resume, rollback_on_demand};

/// Puts the files back as they were before incident `id` was healed; `accept_loss` and `dry_run` as the command has them.
///
/// # Errors
/// When the state directory is held by another guardiand, there is no such incident, or its target cannot be told.
pub fn rollback(
    scope: &Scope,
    id: &str,
    generation: Option<u32>,
    (accept_loss, dry_run): (bool, bool),
) -> Result<RollbackAnswer, PassError> {
    block_on(async {
        let mut site = Site::with_incidents(scope, id)?;
        let foundation = Foundation::lay(&site.state_dir, site.workers, site.gates, Notices::none())?;
        let cx = &foundation.cx;
        cx.journal.limit(site.limits);
        let incident = IncidentId(id.to_owned());
        let of = cx.journal.incident(&incident).await.map_err(|error| failed(error.to_string()))?;
        let of = of.ok_or_else(|| {
            failed(format!(
                "there is no incident {id} in {}: `guardiand incidents` lists them",
                site.state_dir.display()
            ))
        })?;
        let subject = subject(&of, scope)?;
        let (remembered, left_open) = foundation.recall(site.gates).await;
        site.recall(&remembered, &left_open);
        let mut targets = site.targets(&cx.jobs, std::slice::from_ref(&subject)).await?;
        let Some(mut target) = targets.pop() else { return Err(failed("nothing matches".to_owned())) };
        remind(target.as_mut(), &remembered, &cx.clock);
        let mut case = None;
        let of_target = |incident: &Incident| incident.target == of.target && incident.mode == of.mode;
        if let Some(left) = left_open.into_iter().find(|left| of_target(&left.replayed.incident)) {
            let attended = resume(cx, target, left).await;
            (target, case) = (attended.target, attended.case);
        }
        let by = format!("uid {}", rustix::process::geteuid().as_raw());
        let ask = RollbackAsk { incident, generation, accept_loss, dry_run, by };
        let (answer, attended) = rollback_on_demand(cx, target, case, &of, &ask).await;
        saved(cx, attended.target, &of.target, &of.mode).await?;
        Ok(answer)
    })?
}

/// The target that an incident was of.
fn subject(of: &Incident, scope: &Scope) -> Result<Subject, PassError> {
    let config = scope.config.iter().flat_map(|config| &config.databases);
    let mut names = config.map(|database| (database.name.as_str(), database.is_glob()));
    let named = names.any(|(name, is_glob)| {
        of.target == name || (is_glob && of.target.strip_prefix(name).is_some_and(|rest| rest.starts_with('/')))
    });
    if named {
        return Ok(Subject::Named(of.target.clone()));
    }
    // What was healed by its path is called by it.
    if of.target.starts_with('/') {
        return Ok(Subject::Path(of.target.clone().into()));
    }
    Err(failed(format!(
        "incident {} was of `{}`, which is not configured here: give --config FILE with it, or put the files back by hand as \
         the manifest.json in {} says",
        of.id,
        of.target,
        of.evidence.as_deref().unwrap_or("its evidence")
    )))
}
