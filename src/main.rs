//! The binary: parse, start, map the exit status.

use std::process::ExitCode;

fn main() -> ExitCode {
    // A child is started for every sweep: it must not pay for the parsing of a command line that it does not have.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == "worker") {
        return guardian::worker::main();
    }
    guardian::cli::main()
}
