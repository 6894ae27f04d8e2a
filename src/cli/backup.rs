//! `guardiand backup`: take a verified backup now.

use std::process::ExitCode;

use serde_json::json;

use super::arguments::{Backup as Asked, Common};
use super::output::{Failure, Output};
use super::{Done, backups, heal, socket, subject};
use crate::api::control::ControlRequest;
use crate::daemon::one_pass;
use crate::job::BackupEntry;

pub(super) fn run(common: &Common, asked: &Asked, output: Output) -> Done {
    let typed = std::slice::from_ref(&asked.subject);
    let (scope, subjects) = subject::resolve(common, typed, asked.state_dir.clone())?;
    let [subject] = subjects.as_slice() else { return Err(Failure::usage("name one target or one database")) };
    let request = ControlRequest::Backup { target: heal::name(subject) };
    if let Some((exit, entry)) = socket::delegate(common, &scope, &request)? {
        let entries: Vec<BackupEntry> = socket::part(&json!([entry]), "");
        output.facts(&entry, || backups::text(&entries));
        return Ok(exit);
    }
    let entry = one_pass::backup(&scope, subject)?;
    output.facts(&entry, || backups::text(std::slice::from_ref(&entry)));
    Ok(ExitCode::SUCCESS)
}
