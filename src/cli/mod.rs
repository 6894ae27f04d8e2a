//! The command line: one file per command.
//!
//! Exit status: 0 healthy or done, 1 unhealthy or failed, 2 wrong usage, 3 could not tell, 78 bad configuration.
//! Facts go to stdout, as a table for eyes or as one JSON document with `--json`; logs and errors go to stderr.

mod approve;
mod arguments;
mod backup;
mod backups;
mod check;
mod config_check;
mod heal;
mod incident;
mod incidents;
mod output;
mod pause;
mod progress;
mod reload;
mod restore;
mod resume;
mod rollback;
mod run;
mod salvage;
mod scrub;
mod socket;
mod status;
mod subject;

use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, Command, ConfigCommand};
use output::{Failure, Output};

/// Parses the command line, does the work, and maps the exit status.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(usage) => {
            // `--help` and `--version` are such "errors" too, with status 0. A closed pipe has nobody to complain to.
            let _ = usage.print();
            return ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(2));
        }
    };
    let output = Output { json: arguments.json };
    let common = &arguments.common;
    let done = match arguments.command {
        None | Some(Command::Run) => run::run(common, output),
        Some(Command::Check(asked)) => check::run(common, &asked, output),
        Some(Command::Heal(asked)) => heal::run(common, &asked, output),
        Some(Command::Backup(asked)) => backup::run(common, &asked, output),
        Some(Command::Backups(asked)) => backups::run(common, &asked, output),
        Some(Command::Restore(asked)) => restore::run(common, &asked, output),
        Some(Command::Scrub(asked)) => scrub::run(common, &asked, output),
        Some(Command::Salvage(asked)) => salvage::run(&asked, output),
        Some(Command::Status(asked)) => status::run(common, &asked, output),
        Some(Command::Incidents(asked)) => incidents::run(common, &asked, output),
        Some(Command::Incident(asked)) => incident::run(common, &asked, output),
        Some(Command::Rollback(asked)) => rollback::run(common, &asked, output),
        Some(Command::Approve(asked)) => approve::run(common, &asked, output),
        Some(Command::Pause(asked)) => pause::run(common, &asked, output),
        Some(Command::Resume(asked)) => resume::run(common, &asked, output),
        Some(Command::Reload) => reload::run(common, output),
        Some(Command::Config { command: ConfigCommand::Check { file } }) => config_check::run(&file, output),
    };
    match done {
        Ok(exit) => output.ended(exit),
        Err(failure) => output.failure(&failure),
    }
}

/// What a command came to.
type Done = Result<ExitCode, Failure>;
