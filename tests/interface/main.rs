//! What a user, a script or systemd relies on: commands, exit statuses, documents.

#![allow(clippy::unwrap_used)] // what cannot be set up has failed

mod bad_configuration;
mod command_line;

use std::process::{Command, Output};

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
