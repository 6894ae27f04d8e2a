//! Taking a heal back: what it costs, in words, and the playbook that does it. Pure.

use std::path::Path;

use serde_json::json;

use super::config::{DatabaseConfig, WhenInUse};
use super::{Database, heal};
use crate::job::{DatabaseStep, Job, Member, Outcome, Since, TableRows, WeighRollback, Weighed};
use crate::model::{Incident, Loss, Playbook, for_shell};
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
            members: self.config.members.clone(),
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
    let to_come = || weighed.all().filter(|(_, one)| !one.already);
    if to_come().next().is_none() {
        let words = format!("nothing to do: {words} are there as they were kept");
        return Ok(Rollback { playbook: None, words, loss: None, facts });
    }
    // A rollback is of several files, which SQLite cannot put under a program in one transaction: it is stopped, or left alone.
    let in_use = to_come().find_map(|(_, one)| one.in_use.clone());
    let stopped = match (in_use, config.when_in_use, &config.app) {
        (None, ..) => None,
        (Some(in_use), Some(WhenInUse::Refuse), Some(_)) => {
            let message = format!("{in_use} (`when_in_use` is \"refuse\", so its `app` is not stopped for it)");
            return Err(Refusal { message, facts });
        }
        // Rule 16: it ends in order only once that is healed.
        (Some(in_use), _, Some(_)) if reset_bug => {
            let heal = format!("`guardiand heal {}`", for_shell(&config.name));
            let message =
                format!("{in_use}; the WAL shows the WAL-reset bug, so a stop in order would tear it: {heal} first");
            return Err(Refusal { message, facts });
        }
        (Some(_), _, Some(app)) => Some(app),
        (Some(message), _, None) => return Err(Refusal { message, facts }),
    };
    let costs = to_come().filter(|(_, one)| !one.since.nothing()).map(|(member, one)| {
        named(member, format!("{} since incident {} was healed ({})", counted(&one.since), incident.id, one.since.how))
    });
    let costs = costs.collect::<Vec<_>>().join("; ");
    if !costs.is_empty() && !accept_loss {
        let message = format!(
            "{costs}. A rollback takes that out of the database, and it would be in the rollback's own evidence alone; in return {words} \
             come back: `guardiand rollback {} --accept-loss`",
            incident.id
        );
        return Err(Refusal { message, facts });
    }
    let back = |evidence: &Path, weighed: &Weighed| DatabaseStep::RollBack {
        of: incident.id.to_string(),
        evidence: evidence.to_path_buf(),
        generation: weighed.source.generation,
        present: weighed.present.clone(),
        accept_loss,
    };
    let mut steps = vec![DatabaseStep::Preserve];
    let members = || weighed.members.iter().filter(|one| !one.weighed.already);
    let on = |member: &Member, step| DatabaseStep::OnMember { member: member.clone(), does: Box::new(step) };
    steps.extend(members().map(|one| on(&one.member, DatabaseStep::Preserve)));
    // Its own comes last: with it the rollback is done.
    steps.extend(members().map(|one| on(&one.member, back(&one.evidence, &one.weighed))));
    steps.push(back(evidence, weighed));
    let playbook = Playbook {
        name: ROLLBACK.to_owned(),
        why: format!("a person wants the files back as they were before incident {} was healed: {words}", incident.id),
        steps: steps.iter().map(heal::spec).collect(),
    };
    let (playbook, meanwhile) = match stopped {
        Some(app) => (heal::with_app_stopped(&playbook, app, None), ", with its program stopped meanwhile"),
        None => (playbook, ""),
    };
    let loss = (!costs.is_empty()).then(|| dropped(&costs));
    Ok(Rollback { playbook: Some(playbook), words: format!("{words} come back{meanwhile}"), loss, facts })
}

/// What goes with the heal. Rows that were changed, or came and went, are in no count: how many are lost cannot be known.
fn dropped(costs: &str) -> Loss {
    let source = format!("the files as they were before a heal; {costs}: that is in this incident's evidence alone");
    Loss { source, rows_kept: None, rows_lost: None, tables: Vec::new() }
}

/// What comes back.
fn words(weighed: &Weighed) -> String {
    weighed.all().map(|(member, one)| named(member, words_of(one))).collect::<Vec<_>>().join("; ")
}

/// What is said of another database of the group begins with its name.
fn named(member: Option<&Member>, words: String) -> String {
    match member {
        Some(member) => format!("`{}`: {words}", member.name),
        None => words,
    }
}

fn words_of(weighed: &Weighed) -> String {
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
