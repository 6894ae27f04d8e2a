//! What a user, a script or systemd relies on: commands, exit statuses, documents.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)] // what cannot be set up has failed

mod bad_configuration;
mod command_line;
mod delegation;
mod documents;
mod endpoints;
mod hostile_names;
mod promised;
mod reload;
mod scrape;
mod scrubs;
#[path = "../support/mod.rs"]
mod support;
mod systemd;

use std::process::{Command, Output};

/// For the table of a database: a canary that never ends, and almost as long for it as a look may take. What a test does
/// meanwhile takes far less.
const ENDLESS_CANARY: &str = "canary = \"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n\"\n\
     backup = { every = \"24h\", to = \"backups\", block_max = \"8s\" }";

/// Runs the real binary, away from any configuration of this machine.
fn guardiand(arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    Command::new(env!("CARGO_BIN_EXE_guardiand"))
        .args(arguments)
        .current_dir(folder.path())
        .env_remove("STATE_DIRECTORY")
        .env_remove("RUNTIME_DIRECTORY")
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
