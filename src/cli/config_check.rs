//! `guardiand config check F`: every mistake with its line, column and a caret.

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use super::Done;
use super::output::Output;
use crate::config::Config;

pub(super) fn run(file: &Path, output: Output) -> Done {
    match Config::load(file) {
        Ok(config) => {
            let document = json!({ "valid": true, "errors": [], "warnings": config.warnings });
            output.facts(&document, || {
                let warnings =
                    config.warnings.iter().map(|warning| format!("warning: {warning}\n")).collect::<String>();
                let databases = match config.databases.len() {
                    1 => "1 database".to_owned(),
                    many => format!("{many} databases"),
                };
                format!("{warnings}{} is valid: {databases}", file.display())
            });
            Ok(ExitCode::SUCCESS)
        }
        Err(errors) if output.json => {
            let list = errors
                .errors()
                .iter()
                .map(|error| json!({ "line": error.line, "column": error.column, "message": error.message }));
            output.facts(&json!({ "valid": false, "errors": list.collect::<Vec<_>>(), "warnings": [] }), String::new);
            Ok(ExitCode::from(super::output::BAD_CONFIGURATION))
        }
        Err(errors) => Err(errors.into()),
    }
}
