//! `guardiand scrub`: every page of a database, once.

use std::process::ExitCode;

use super::Done;
use super::arguments::{Common, Scrub as Asked};
use super::output::{Failure, INCONCLUSIVE, Output, table};
use super::subject;
use crate::daemon::one_pass;
use crate::job::{ScrubVerdict, Scrubbed};
use crate::model::shown;

pub(super) fn run(common: &Common, asked: &Asked, output: Output) -> Done {
    let typed = std::slice::from_ref(&asked.subject);
    let (scope, subjects) = subject::resolve(common, typed, asked.state_dir.clone())?;
    let subject = subjects.first().ok_or_else(|| Failure::usage("name one target"))?;
    let found = one_pass::scrub(&scope, subject, asked.faults, asked.full)?;
    output.facts(&found, || text(&found, asked.full));
    Ok(match found.verdict {
        ScrubVerdict::Clean => ExitCode::SUCCESS,
        ScrubVerdict::Damaged => ExitCode::FAILURE,
        ScrubVerdict::Unknown => ExitCode::from(INCONCLUSIVE),
    })
}

fn text(found: &Scrubbed, full: bool) -> String {
    let verdict = match found.verdict {
        ScrubVerdict::Clean => "clean",
        ScrubVerdict::Damaged => "damaged",
        ScrubVerdict::Unknown => "could not be told",
    };
    let mut text = format!("{}: {verdict}", shown(&found.path.display().to_string()));
    if let Some(reason) = &found.reason {
        text += &format!("; {}", shown(reason));
    }
    if found.pages > 0 {
        let (pages, size) = (found.pages, found.page_size);
        let rate = found.bytes_per_second / 1e9;
        text += &format!("\n{pages} pages of {size} bytes in {:.3} s ({rate:.1} GB/s)", found.seconds);
    }
    if !found.faults.is_empty() {
        let rows = found.faults.iter().map(|fault| {
            let page = if fault.page == 0 { String::new() } else { fault.page.to_string() };
            vec![page, fault.owner.clone(), fault.what.clone()]
        });
        text += &format!("\n{}", table(&["PAGE", "OWNER", "WHAT"], rows));
        let told = found.faults.len() as u64;
        if found.faults_total > told {
            text += &format!("\nand {} more", found.faults_total - told);
        }
    }
    if !found.by_sqlite.is_empty() {
        let rows = found.by_sqlite.iter().map(|one| {
            let checked = if one.checked { "checked by SQLite" } else { "not checked" };
            vec![one.table.clone(), one.why.clone(), checked.to_owned()]
        });
        text += &format!("\n{}", table(&["TABLE", "HAS", "SO"], rows));
    }
    if !found.content.is_empty() {
        text += "\nRows that break a rule of their table, which is no damage:";
        found.content.iter().for_each(|row| text += &format!("\n  {}", shown(row)));
    }
    if found.verdict == ScrubVerdict::Clean && !full {
        text += "\nThe structure, that is: `--full` also looks at what indexes hold, and at rules such as NOT NULL and CHECK.";
    }
    text
}
