//! How far a long job is, for whoever waits for it: a line on the child's standard error, which is nothing's answer.

use serde::{Deserialize, Serialize};

/// What such a line begins with.
const MARK: &str = "progress ";

/// How far a job is with one of its parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartDone {
    /// The part, in words.
    pub part: String,
    /// So much of it is done.
    pub done: u64,
    /// Of so much.
    pub of: u64,
}

impl PartDone {
    /// As a line, without its end.
    pub fn line(&self) -> String {
        format!("{MARK}{}", serde_json::to_string(self).unwrap_or_default())
    }

    /// What a line says; `None` for one that says something else.
    pub fn of_line(line: &str) -> Option<PartDone> {
        serde_json::from_str(line.strip_prefix(MARK)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_it_is_and_any_other_line_does_not() {
        let part = PartDone { part: "reading \"pages\"".to_owned(), done: 3, of: 7 };
        assert_eq!(PartDone::of_line(&part.line()), Some(part.clone()));
        assert!(!part.line().contains('\n'));
        for other in ["", "progress", "progress x", "thread 'main' panicked", "{\"part\":\"a\",\"done\":1,\"of\":2}"] {
            assert_eq!(PartDone::of_line(other), None, "{other}");
        }
    }
}
