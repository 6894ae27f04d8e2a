//! `guardiand salvage`: the rows of a wreck into a new database.

use std::process::ExitCode;

use super::Done;
use super::arguments::Salvage as Asked;
use super::output::{Failure, Output, table};
use super::progress::ProgressLine;
use crate::daemon::one_pass;
use crate::job::SalvagedTable;
use crate::model::shown;

pub(super) fn run(asked: &Asked, output: Output) -> Done {
    let read = |file: &std::path::PathBuf| {
        std::fs::read_to_string(file).map_err(|error| Failure::usage(format!("reading {}: {error}", file.display())))
    };
    let schema = asked.schema.as_ref().map(read).transpose()?;
    let (line, heard) = ProgressLine::new();
    let salvaged = one_pass::salvage(&asked.source, &asked.to, schema, asked.backup.as_deref(), asked.deleted, heard);
    drop(line);
    let salvaged = salvaged?;
    output.facts(&salvaged, || {
        let header = ["TABLE", "KEPT", "LOST", "REBUILT", "BACKUP", "UNCERTAIN", "ADOPTED", "REFUSED"];
        let row = |table: &SalvagedTable| {
            let (rebuilt, uncertain) =
                ([table.rebuilt, table.from_backup], [table.uncertain, table.adopted, table.refused]);
            let figures = [table.kept, table.lost].into_iter().chain(rebuilt).chain(uncertain);
            std::iter::once(table.table.clone()).chain(figures.map(|figure| figure.to_string())).collect()
        };
        let mut text = table(&header, salvaged.tables.iter().map(row));
        for line in &salvaged.damage {
            text.push('\n');
            text.push_str(&shown(line));
        }
        format!("{}\n{text}", shown(&salvaged.path.display().to_string()))
    });
    Ok(if salvaged.clean { ExitCode::SUCCESS } else { ExitCode::from(1) })
}
