//! `guardiand restore`: a backup to a path where nothing is.

use std::process::ExitCode;

use super::Done;
use super::arguments::{Common, Restore as Asked};
use super::output::{Failure, Output, table};
use super::subject;
use crate::daemon::one_pass::{self, RestoreFrom, Scope};
use crate::model::shown;

pub(super) fn run(common: &Common, asked: &Asked, output: Output) -> Done {
    let (scope, from) = match (&asked.from, &asked.subject) {
        (Some(backup), _) => {
            let scope = Scope { config: None, state_dir: asked.state_dir.clone() };
            (scope, RestoreFrom::Backup(backup.clone()))
        }
        (None, Some(typed)) => {
            let (scope, subjects) = subject::resolve(common, std::slice::from_ref(typed), asked.state_dir.clone())?;
            let subject = subjects.into_iter().next().ok_or_else(|| Failure::usage("name one target"))?;
            (scope, RestoreFrom::Newest(subject))
        }
        (None, None) => return Err(Failure::usage("name a target, or a backup with --from")),
    };
    let restored = one_pass::restore(&scope, &from, &asked.to)?;
    output.facts(&restored, || {
        let rows = restored.tables.iter().map(|table| vec![table.table.clone(), table.rows.to_string()]);
        let path = restored.path.display().to_string();
        format!("{} is as of {:.0}\n{}", shown(&path), restored.taken_at, table(&["TABLE", "ROWS"], rows))
    });
    Ok(ExitCode::SUCCESS)
}
