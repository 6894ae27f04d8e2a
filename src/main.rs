//! The binary: parse, start, map the exit status.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything else: a worker costs about a millisecond, and has no runtime, no logger and no parser of arguments.
    if std::env::args_os().nth(1).is_some_and(|first| first == "worker") {
        return guardian::worker::main();
    }
    ExitCode::SUCCESS
}
