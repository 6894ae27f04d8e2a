//! Mistakes in a configuration file, each with its line, column and a caret.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// One mistake, and where in the text it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) span: Range<usize>,
    pub(super) message: String,
}

/// Every mistake of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    path: PathBuf,
    errors: Vec<ConfigError>,
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// From 1; `None` when the file could not be read at all.
    pub line: Option<usize>,
    /// From 1, in characters.
    pub column: Option<usize>,
    /// What is wrong, and what to write instead.
    pub message: String,
    /// The line itself, and how many characters of it are wrong.
    excerpt: Option<(String, usize)>,
}

impl ConfigErrors {
    /// The file could not be read.
    pub(super) fn unreadable(path: &Path, message: String) -> ConfigErrors {
        let error = ConfigError { line: None, column: None, message, excerpt: None };
        ConfigErrors { path: path.to_path_buf(), errors: vec![error] }
    }

    /// Mistakes in `text`, in the order of the text.
    pub(super) fn new(path: &Path, text: &str, mut problems: Vec<Problem>) -> ConfigErrors {
        problems.sort_by_key(|problem| problem.span.start);
        problems.dedup();
        let errors = problems.into_iter().map(|problem| locate(text, problem)).collect();
        ConfigErrors { path: path.to_path_buf(), errors }
    }

    /// The mistakes.
    pub fn errors(&self) -> &[ConfigError] {
        &self.errors
    }
}

fn locate(text: &str, problem: Problem) -> ConfigError {
    let start = floor_char_boundary(text, problem.span.start);
    let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
    let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
    let end = floor_char_boundary(text, problem.span.end).clamp(start, line_end);
    // A tab or a control character must not move the caret, nor speak to the terminal.
    let shown = text[line_start..line_end].chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    ConfigError {
        line: Some(text[..line_start].matches('\n').count() + 1),
        column: Some(text[line_start..start].chars().count() + 1),
        message: problem.message,
        excerpt: Some((shown, text[start..end].chars().count().max(1))),
    }
}

fn floor_char_boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, error) in self.errors.iter().enumerate() {
            if n > 0 {
                writeln!(f)?;
            }
            write!(f, "{}", self.path.display())?;
            let (Some(line), Some(column)) = (error.line, error.column) else {
                write!(f, ": {}", error.message)?;
                continue;
            };
            write!(f, ":{line}:{column}: {}", error.message)?;
            if let Some((excerpt, width)) = &error.excerpt {
                let gutter = " ".repeat(line.to_string().len());
                let indent = " ".repeat(column - 1);
                let carets = "^".repeat(*width);
                write!(f, "\n{gutter} |\n{line} | {excerpt}\n{gutter} | {indent}{carets}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caret_stands_under_the_culprit_also_after_tabs_and_umlauts() {
        let text = "a = 1\n\tnäme = \"x\"\n";
        let start = text.find("\"x\"").unwrap();
        let problem = Problem { span: start..start + 3, message: "no".to_owned() };
        let errors = ConfigErrors::new(Path::new("g.toml"), text, vec![problem]);
        assert_eq!(errors.to_string(), "g.toml:2:9: no\n  |\n2 |  näme = \"x\"\n  |         ^^^");
    }

    #[test]
    fn a_span_outside_the_text_is_still_a_message() {
        for span in [0..0, 3..900, 900..901] {
            let errors = ConfigErrors::new(Path::new("g"), "ä=1", vec![Problem { span, message: "m".to_owned() }]);
            assert!(errors.to_string().starts_with("g:1:"), "{errors}");
        }
    }
}
