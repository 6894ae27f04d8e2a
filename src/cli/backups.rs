//! `guardiand backups`: list the backups of a target, newest first.

use std::process::ExitCode;

use bytesize::ByteSize;

use super::Done;
use super::arguments::{Backups as Asked, Common};
use super::output::{Failure, Output, remark, table};
use super::subject;
use crate::daemon::one_pass::{self, Backups};
use crate::job::BackupEntry;

pub(super) fn run(common: &Common, asked: &Asked, output: Output) -> Done {
    let typed = std::slice::from_ref(&asked.subject);
    let (scope, subjects) = subject::resolve(common, typed, asked.state_dir.clone())?;
    let [subject] = subjects.as_slice() else { return Err(Failure::usage("name one target or one database")) };
    let Backups { entries, unusable } = one_pass::backups(&scope, subject)?;
    output.facts(&entries, || match (entries.is_empty(), unusable.is_empty()) {
        (true, false) => "There is no backup that can be used.".to_owned(),
        _ => text(&entries),
    });
    unusable.iter().for_each(|why| remark(&format!("not used: {why}")));
    // Backups are there, and none that would be restored: no script shall take that for having none yet, or for all being well.
    Ok(if entries.is_empty() && !unusable.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

pub(super) fn text(entries: &[BackupEntry]) -> String {
    if entries.is_empty() {
        return "There are no backups.".to_owned();
    }
    let rows = entries.iter().map(|entry| {
        let manifest = &entry.manifest;
        vec![
            format!("{:.0}", manifest.taken_at),
            ByteSize(manifest.size).to_string(),
            format!("{:.0}", manifest.verified_at),
            entry.file.display().to_string(),
        ]
    });
    table(&["TAKEN", "SIZE", "VERIFIED", "FILE"], rows)
}
