//! What the tables of all modes share: where they stand, how a mistake is named, `retry` and `app`.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::Retry;
use crate::model::{App, Delay, Period, Program};

/// What a mode's table takes from the rest of the file.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// The folder of the configuration file: relative paths start here.
    pub folder: PathBuf,
    /// Where guardiand keeps its state.
    pub state_dir: PathBuf,
}

/// A value that reads well but cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyProblem {
    /// The keys that lead to it, from the table inward.
    pub keys: Vec<&'static str>,
    /// What is wrong, and what to write instead.
    pub message: String,
}

impl KeyProblem {
    /// A problem with the value at `keys`.
    pub fn new(keys: &[&'static str], message: impl Into<String>) -> KeyProblem {
        KeyProblem { keys: keys.to_vec(), message: message.into() }
    }
}

impl Surroundings {
    /// `path` as an absolute path.
    pub fn resolve(&self, path: &Path) -> PathBuf {
        resolve(&self.folder, path)
    }
}

/// `path` as seen from `folder`. Leading `..` are taken off the folder, which is free of links; later ones stay,
/// since what is before them may be a link.
pub fn resolve(folder: &Path, path: &Path) -> PathBuf {
    let mut base = folder.to_path_buf();
    let mut rest = path.components().peekable();
    while let Some(Component::CurDir | Component::ParentDir) = rest.peek() {
        if rest.next() == Some(Component::ParentDir) {
            base.pop();
        }
    }
    base.join(rest.collect::<PathBuf>())
}

/// `retry = { … }` as written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetryTable {
    attempts: Option<u32>,
    initial: Option<Delay>,
    factor: Option<f64>,
    max: Option<Delay>,
}

/// The most looks that a waiting playbook may take; beyond it, it is no longer waiting for something transient.
const ATTEMPTS_MAX: u32 = 100;

impl RetryTable {
    /// With defaults: 3 looks after 1 s, 2 s and 4 s, never more than 60 s apart.
    pub fn settle(table: Option<RetryTable>, problems: &mut Vec<KeyProblem>) -> Retry {
        let table = table.unwrap_or_default();
        let retry = Retry {
            attempts: table.attempts.unwrap_or(3),
            initial: table.initial.map_or(Duration::from_secs(1), |delay| delay.0),
            factor: table.factor.unwrap_or(2.0),
            max: table.max.map_or(Duration::from_secs(60), |delay| delay.0),
        };
        if !(1..=ATTEMPTS_MAX).contains(&retry.attempts) {
            problems.push(KeyProblem::new(&["retry", "attempts"], format!("must be from 1 to {ATTEMPTS_MAX}")));
        }
        if !(1.0..=100.0).contains(&retry.factor) {
            problems.push(KeyProblem::new(&["retry", "factor"], "must be from 1.0 to 100.0"));
        }
        if retry.max < retry.initial {
            problems.push(KeyProblem::new(&["retry", "max"], "must not be below `initial`"));
        }
        retry
    }
}

/// `app = { … }` as written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppTable {
    unit: Option<String>,
    stop: Option<Vec<String>>,
    start: Option<Vec<String>>,
    stop_timeout: Option<Period>,
    start_timeout: Option<Period>,
}

/// The longest that a program may take to stop or to start unless the configuration says otherwise: above systemd's own 90 s, so that
/// its verdict is heard.
const APP_TIMEOUT: Duration = Duration::from_secs(120);

/// Beyond it nobody waits for a heal any more.
const APP_TIMEOUT_MAX: Duration = Duration::from_secs(3600);

impl AppTable {
    /// Either a unit, or both commands.
    pub fn settle(self, problems: &mut Vec<KeyProblem>) -> Option<Program> {
        let mut timeout = |key, written: Option<Period>| {
            let timeout = period(written, APP_TIMEOUT);
            if timeout > APP_TIMEOUT_MAX {
                problems.push(KeyProblem::new(&["app", key], "must not be above an hour: the heal waits for it"));
            }
            timeout
        };
        let stop_timeout = timeout("stop_timeout", self.stop_timeout);
        let start_timeout = timeout("start_timeout", self.start_timeout);
        let app = match (self.unit, self.stop, self.start) {
            (Some(unit), None, None) if !unit.is_empty() => Some(App::Unit(unit)),
            (None, Some(stop), Some(start)) if !stop.is_empty() && !start.is_empty() => {
                Some(App::Commands { stop, start })
            }
            _ => None,
        };
        if app.is_none() {
            let message = "write { unit = \"app.service\" }, or both commands: { stop = [\"prog\", \"arg\"], start = [\"prog\"] }";
            problems.push(KeyProblem::new(&["app"], message));
        }
        app.map(|app| Program { app, stop_timeout, start_timeout })
    }
}

/// A period with a default.
pub fn period(written: Option<Period>, default: Duration) -> Duration {
    written.map_or(default, |period| period.0)
}

/// What concerns all targets together has an incident under this name.
const RESERVED_NAME: &str = "guardian";

/// Names become labels, folders and command-line arguments, and a glob's targets are `<name>/<match>`.
pub fn name_problem(name: &str) -> Option<KeyProblem> {
    let message = if name.is_empty() {
        "must not be empty"
    } else if name.chars().count() > 100 {
        "must not be longer than 100 characters"
    } else if name.contains('/') || name.chars().any(char::is_control) {
        "must not contain `/` or control characters"
    } else if name == RESERVED_NAME {
        "is guardiand's own name, for what concerns all targets: choose another"
    } else if name.starts_with(['-', '.']) || name.trim() != name {
        "must not begin with `-` or `.`, nor begin or end with a space"
    } else {
        return None;
    };
    Some(KeyProblem::new(&["name"], message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_paths_start_at_the_files_folder() {
        for (path, expected) in [
            ("/srv/app.db", "/srv/app.db"),
            ("app.db", "/etc/guardiand/app.db"),
            ("./app.db", "/etc/guardiand/app.db"),
            ("../app.db", "/etc/app.db"),
            ("../../../../x", "/x"),
            ("link/../app.db", "/etc/guardiand/link/../app.db"),
        ] {
            assert_eq!(resolve(Path::new("/etc/guardiand"), Path::new(path)), Path::new(expected), "{path}");
        }
    }

    #[test]
    fn names_that_break_labels_or_arguments_are_refused() {
        for name in ["", "a/b", "-x", ".hidden", " a", "a\nb", "guardian"] {
            assert!(name_problem(name).is_some(), "{name:?}");
        }
        for name in ["app", "Shop 2", "datenbank-ä", "a.b"] {
            assert!(name_problem(name).is_none(), "{name:?}");
        }
    }
}
