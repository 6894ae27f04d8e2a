//! What is printed, and with which status a command ends.

use std::io::{ErrorKind, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use comfy_table::Table;
use serde::Serialize;
use serde_json::json;

use crate::api::control::AskError;
use crate::config::ConfigErrors;
use crate::daemon::one_pass::PassError;
use crate::model::{shown, shown_json, shown_lines};

/// EX_CONFIG of sysexits(3).
pub(super) const BAD_CONFIGURATION: u8 = 78;

/// Could not tell.
pub(super) const INCONCLUSIVE: u8 = 3;

/// Why a command did not do its work.
#[derive(Debug)]
pub(super) struct Failure {
    exit: u8,
    message: String,
    /// Lines of a configuration, each with a caret below it; all else is said on one line.
    has_lines: bool,
}

impl Failure {
    pub(super) fn usage(message: impl Into<String>) -> Failure {
        Failure { exit: 2, message: message.into(), has_lines: false }
    }

    pub(super) fn refused(exit: u8, message: impl Into<String>) -> Failure {
        Failure { exit, message: message.into(), has_lines: false }
    }

    pub(super) fn with_lines(self) -> Failure {
        Failure { has_lines: true, ..self }
    }
}

impl From<PassError> for Failure {
    fn from(error: PassError) -> Failure {
        Failure { exit: error.exit, message: error.message, has_lines: false }
    }
}

impl From<ConfigErrors> for Failure {
    fn from(errors: ConfigErrors) -> Failure {
        Failure { exit: BAD_CONFIGURATION, message: errors.to_string(), has_lines: true }
    }
}

impl From<AskError> for Failure {
    fn from(error: AskError) -> Failure {
        Failure { exit: 1, message: error.to_string(), has_lines: false }
    }
}

/// Set when facts could not be written.
static UNWRITTEN: AtomicBool = AtomicBool::new(false);

/// Where facts go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    pub(super) json: bool,
}

impl Output {
    /// One document: as JSON, or in the words that `text` makes of it, where [`table`] and [`shown`] keep each value on its line.
    pub(super) fn facts<T: Serialize>(self, document: &T, text: impl FnOnce() -> String) {
        let printed = match self.json {
            true => serde_json::to_string_pretty(document)
                .map(|document| shown_json(&document).into_owned())
                .unwrap_or_else(|error| json!({ "error": error.to_string() }).to_string()),
            false => shown_lines(&text()).into_owned(),
        };
        match writeln!(std::io::stdout().lock(), "{}", printed.trim_end()) {
            // Who closed the pipe has read enough.
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                remark(&format!("the answer could not be written: {error}"));
                UNWRITTEN.store(true, Ordering::Relaxed);
            }
            Ok(()) | Err(_) => {}
        }
    }

    /// The status that a command ends with: an answer that a full disk took is none, whatever it was.
    pub(super) fn ended(self, exit: ExitCode) -> ExitCode {
        if UNWRITTEN.load(Ordering::Relaxed) { ExitCode::from(1) } else { exit }
    }

    /// Says on stderr what went wrong, and in JSON on stdout where a script waits for a document.
    pub(super) fn failure(self, failure: &Failure) -> ExitCode {
        let message = if failure.has_lines { shown_lines(&failure.message) } else { shown(&failure.message) };
        let _ = writeln!(std::io::stderr().lock(), "guardiand: {message}");
        if self.json {
            let document = json!({ "error": failure.message, "exit": failure.exit });
            let _ = writeln!(std::io::stdout().lock(), "{}", shown_json(&document.to_string()));
        }
        ExitCode::from(failure.exit)
    }
}

/// A remark for people, on stderr.
pub(super) fn remark(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "guardiand: {}", shown(text));
}

/// A table without frames: for eyes, and for `awk` where `--json` is too much. A row is a line, whatever is in it.
pub(super) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(header.to_vec());
    for row in rows {
        table.add_row(row.iter().map(|cell| shown(cell)));
    }
    table.trim_fmt()
}
