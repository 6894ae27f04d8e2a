//! Taking a heal back: what it costs, in words, and the playbook that does it. Pure.

use std::path::Path;

use serde_json::json;

use super::config::{DatabaseConfig, WhenInUse};
use super::{Database, heal};
use crate::job::{DatabaseStep, Job, Outcome, Since, TableRows, WeighRollback, Weighed};
use crate::model::{Incident, Playbook};
use crate::modes::{Answer, Refusal, Rollback};

/// The playbook's name in incidents and metrics.
const ROLLBACK: &str = "rollback";

impl Database {
    pub(super) fn weigh(&self, incident: &Incident, evidence: &Path, generation: Option<u32>) -> Job {
        let counted = incident.loss.as_ref().map(|loss| loss.tables.as_slice()).unwrap_or_default();
        let healed = counted.iter().map(|table| TableRows { table: table.table.clone(), rows: table.rows_kept });
        Job::WeighRollback(Box::new(WeighRollback {
            site: self.site(),
            incident: incident.id.to_string(),
            evidence: evidence.to_path_buf(),
            generation,
            healed: healed.collect(),
        }))
    }
}

/// What to do, from what was weighed.
pub(super) fn plan(
    incident: &Incident,
    evidence: &Path,
    weighed: &Answer,
    accept_loss: bool,
    (config, reset_bug): (&DatabaseConfig, bool),
) -> Result<Rollback, Refusal> {
    let refuse = |message: String| Refusal { message, facts: serde_json::Value::Null };
    let weighed = match weighed {
        Ok(Outcome::Weighed(weighed)) => weighed.as_ref(),
        Ok(_) => return Err(refuse("the rollback's job answered something else".to_owned())),
        Err(failure) => return Err(refuse(failure.message.clone())),
    };
    let facts = json!(weighed);
    let words = words(weighed);
    if weighed.already {
        let words = format!("nothing to do: {words} are there as they were kept");
        return Ok(Rollback { playbook: None, words, facts });
    }
    // A rollback is of several files, which SQLite cannot put under a program in one transaction: it is stopped, or left alone.
    let stopped = match (&weighed.in_use, config.when_in_use, &config.app) {
        (None, ..) => None,
        (Some(in_use), Some(WhenInUse::Refuse), Some(_)) => {
            let message = format!("{in_use} (`when_in_use` is \"refuse\", so its `app` is not stopped for it)");
            return Err(Refusal { message, facts });
        }
        // Rule 16: it ends in order only once that is healed.
        (Some(in_use), _, Some(_)) if reset_bug => {
            let heal = format!("`guardiand heal {}`", config.name);
            let message =
                format!("{in_use}; the WAL shows the WAL-reset bug, so a stop in order would tear it: {heal} first");
            return Err(Refusal { message, facts });
        }
        (Some(_), _, Some(app)) => Some(app),
        (Some(in_use), _, None) => return Err(Refusal { message: in_use.clone(), facts }),
    };
    let since = &weighed.since;
    if !since.nothing() && !accept_loss {
        let message = format!(
            "{} since incident {} was healed ({}). A rollback takes that out of the database; it would be in the rollback's \
             own evidence alone: `guardiand rollback {} --accept-loss`",
            counted(since),
            incident.id,
            since.how,
            incident.id
        );
        return Err(Refusal { message, facts });
    }
    let step = DatabaseStep::RollBack {
        of: incident.id.to_string(),
        evidence: evidence.to_path_buf(),
        generation: weighed.source.generation,
        present: weighed.present.clone(),
        accept_loss,
    };
    let playbook = Playbook {
        name: ROLLBACK.to_owned(),
        why: format!("a person wants the files back as they were before incident {} was healed: {words}", incident.id),
        steps: [DatabaseStep::Preserve, step].iter().map(heal::spec).collect(),
    };
    let (playbook, meanwhile) = match stopped {
        Some(app) => (heal::with_app_stopped(&playbook, app, false), ", with its program stopped meanwhile"),
        None => (playbook, ""),
    };
    Ok(Rollback { playbook: Some(playbook), words: format!("{words} come back{meanwhile}"), facts })
}

/// What comes back.
fn words(weighed: &Weighed) -> String {
    let source = &weighed.source;
    let files = source.files.iter().filter(|file| file.name != "shm");
    let files = files.map(|file| format!("{} ({} bytes)", file.name, file.size)).collect::<Vec<_>>().join(", ");
    let files = if files.is_empty() { "no file, for there was none,".to_owned() } else { files };
    let mut words = format!("{files} of {:.3}", source.preserved_at);
    for remark in &source.remarks {
        words += &format!(" ({remark})");
    }
    words
}

/// What was committed since, as far as it is known.
fn counted(since: &Since) -> String {
    let commits = match (since.commits, since.exact) {
        (1, true) => "one commit was made".to_owned(),
        (commits, true) => format!("{commits} commits were made"),
        (0, false) => "it cannot be told how many commits were made".to_owned(),
        (1, false) => "at least one commit was made".to_owned(),
        (commits, false) => format!("at least {commits} commits were made"),
    };
    let rows = since.rows.iter().map(|rows| format!("{} {} → {}", rows.table, rows.then, rows.now));
    let rows = rows.collect::<Vec<_>>().join(", ");
    if rows.is_empty() { commits } else { format!("{commits} (rows then and now: {rows})") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::RowsSince;

    #[test]
    fn what_cannot_be_counted_is_never_a_number() {
        let since = |commits, exact| Since { commits, exact, rows: Vec::new(), how: String::new() };
        for (since, expected) in [
            (since(3, true), "3 commits were made"),
            (since(1, true), "one commit was made"),
            (since(4, false), "at least 4 commits were made"),
            (since(0, false), "it cannot be told how many commits were made"),
        ] {
            assert_eq!(counted(&since), expected);
        }
        let rows = vec![RowsSince { table: "t".into(), then: 5, now: 8 }];
        let said = counted(&Since { commits: 3, exact: true, rows, how: String::new() });
        assert_eq!(said, "3 commits were made (rows then and now: t 5 → 8)");
    }
}
