//! The configuration file: read, validated as a whole, and every mistake shown at once with line, column and caret.

mod document;
mod guardian;
mod problem;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::DeValue;

pub use guardian::{Evidence, Gates, Guardian, HealBudget, Log, MassGuard, Notify, RepeatLimit};
pub use problem::{ConfigError, ConfigErrors};

use crate::modes::config::Surroundings;
use crate::modes::database::config::{DatabaseConfig, DatabaseTable};
use document::Table;
use guardian::{GatesTable, GuardianTable, NotifyTable};
use problem::Problem;

/// A whole configuration, with defaults filled in and paths made absolute.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The file that it was read from.
    pub source: PathBuf,
    /// `[guardian]`.
    pub guardian: Guardian,
    /// `[gates]`.
    pub gates: Gates,
    /// `[notify]`.
    pub notify: Notify,
    /// `[log]`.
    pub log: Log,
    /// Every `[[database]]`, in the order of the file.
    pub databases: Vec<DatabaseConfig>,
    /// What works, but probably not as meant.
    pub warnings: Vec<String>,
}

/// What the surroundings of the process say about where things go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Environment {
    /// `$STATE_DIRECTORY`, set by systemd.
    pub state_directory: Option<PathBuf>,
    /// `$RUNTIME_DIRECTORY`, set by systemd.
    pub runtime_directory: Option<PathBuf>,
    /// Where the process was started.
    pub working_directory: PathBuf,
}

impl Environment {
    /// Of this process.
    pub fn of_process() -> Environment {
        Environment {
            state_directory: first_path("STATE_DIRECTORY"),
            runtime_directory: first_path("RUNTIME_DIRECTORY"),
            working_directory: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
        }
    }

    /// Where state is kept when nothing says otherwise.
    pub fn state_dir(&self) -> PathBuf {
        self.state_directory.clone().unwrap_or_else(|| self.working_directory.join("guardian-state"))
    }
}

/// systemd separates several folders by colons; the first is ours.
fn first_path(variable: &str) -> Option<PathBuf> {
    let value = std::env::var(variable).ok()?;
    value.split(':').next().filter(|first| !first.is_empty()).map(PathBuf::from)
}

/// The tables of modes that INTERFACE promises and this version does not have.
const MODES_TO_COME: [&str; 9] =
    ["api", "process", "disk", "network_database", "config_file", "rate_limit", "service", "certificate", "zombies"];

/// No sane configuration is larger; a wrong path may be.
const CONFIG_BYTES_MAX: u64 = 16 << 20;

impl Config {
    /// Reads and validates a file.
    ///
    /// # Errors
    /// Every mistake that is in it.
    pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
        let unreadable = |what: String| ConfigErrors::unreadable(path, what);
        let facts =
            std::fs::metadata(path).map_err(|error| unreadable(format!("cannot read the configuration: {error}")))?;
        // Asked first: reading a FIFO would wait for ever.
        if !facts.is_file() || facts.len() > CONFIG_BYTES_MAX {
            return Err(unreadable("this is not a configuration file: a regular file of TOML is needed".to_owned()));
        }
        let bytes =
            std::fs::read(path).map_err(|error| unreadable(format!("cannot read the configuration: {error}")))?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            let message = format!("byte {at} is not UTF-8: save the file as UTF-8");
            // Up to there the readable form has the same bytes, and from there on a mark in the place of each that is none.
            let readable = String::from_utf8_lossy(error.as_bytes());
            ConfigErrors::new(path, &readable, vec![Problem { span: at..at + 3, message }])
        })?;
        Config::parse(&text, path, &Environment::of_process())
    }

    /// Validates the text of the file at `path`.
    ///
    /// # Errors
    /// Every mistake that is in it.
    pub fn parse(text: &str, path: &Path, environment: &Environment) -> Result<Config, ConfigErrors> {
        let mut reading = Reading::default();
        let config = match document::parse(text) {
            Ok(entries) => reading.config(entries, path, environment),
            Err(problem) => {
                reading.problems.push(problem);
                None
            }
        };
        match config {
            Some(config) if reading.problems.is_empty() => Ok(config),
            _ => Err(ConfigErrors::new(path, text, reading.problems)),
        }
    }

    /// What changed against `running` and takes a restart: the keys' names.
    pub fn needs_restart(&self, running: &Config) -> Vec<&'static str> {
        let (new, old) = (&self.guardian, &running.guardian);
        [
            (new.state_dir != old.state_dir, "state_dir"),
            (new.http != old.http, "http"),
            (new.control != old.control, "control"),
        ]
        .into_iter()
        .filter_map(|(changed, key)| changed.then_some(key))
        .collect()
    }
}

/// What is collected while a file is read.
#[derive(Default)]
struct Reading {
    problems: Vec<Problem>,
    warnings: Vec<String>,
}

impl Reading {
    fn config(&mut self, entries: Vec<document::Entry<'_>>, path: &Path, environment: &Environment) -> Option<Config> {
        let mut tables: HashMap<&'static str, Table<'_>> = HashMap::new();
        let mut databases = Vec::new();
        for (key, value) in entries {
            match key.get_ref().as_str() {
                name @ ("guardian" | "gates" | "notify" | "log") => {
                    let name = match name {
                        "guardian" => "guardian",
                        "gates" => "gates",
                        "notify" => "notify",
                        _ => "log",
                    };
                    match Table::new(key.span(), value) {
                        Ok(table) => drop(tables.insert(name, table)),
                        Err(problem) => self.problems.push(problem),
                    }
                }
                "database" => databases = self.array_of_tables(&key, value),
                other => self.problems.push(Problem { span: key.span(), message: unknown_table(other) }),
            }
        }

        let folder = folder_of(path, environment);
        let guardian = self.settled(tables.get("guardian"), |table: GuardianTable, problems, warnings| {
            table.settle(&folder, environment, problems, warnings)
        });
        let gates = self.settled(tables.get("gates"), |table: GatesTable, problems, _| table.settle(problems));
        let notify =
            self.settled(tables.get("notify"), |table: NotifyTable, problems, _| table.settle(&folder, problems));
        let log = self.settled(tables.get("log"), |log: Log, _, _| log);
        let guardian = guardian?;
        let around = Surroundings { folder, state_dir: guardian.state_dir.clone() };
        let databases = self.databases(&databases, &around);
        Some(Config {
            source: path.to_path_buf(),
            guardian,
            gates: gates?,
            notify: notify?,
            log: log?,
            databases,
            warnings: std::mem::take(&mut self.warnings),
        })
    }

    /// Reads a table that may be absent, then gives it its defaults and its meaning.
    fn settled<T, S>(
        &mut self,
        table: Option<&Table<'_>>,
        settle: impl FnOnce(T, &mut Vec<crate::modes::config::KeyProblem>, &mut Vec<String>) -> S,
    ) -> Option<S>
    where
        T: serde::de::DeserializeOwned + Default,
    {
        let read = match table {
            Some(table) => table.read::<T>(&mut self.problems)?,
            None => T::default(),
        };
        let mut problems = Vec::new();
        let settled = settle(read, &mut problems, &mut self.warnings);
        if let Some(table) = table {
            self.problems.extend(problems.iter().map(|problem| table.problem(problem)));
        } else {
            let message = |problem: &crate::modes::config::KeyProblem| problem.message.clone();
            self.problems.extend(problems.iter().map(|problem| Problem { span: 0..0, message: message(problem) }));
        }
        Some(settled)
    }

    fn array_of_tables<'i>(&mut self, key: &Spanned<String>, value: Spanned<DeValue<'i>>) -> Vec<Table<'i>> {
        let name = key.get_ref();
        let DeValue::Array(items) = value.into_inner() else {
            self.problems.push(Problem {
                span: key.span(),
                message: format!("write [[{name}]], with two brackets, for each {name}"),
            });
            return Vec::new();
        };
        let mut tables = Vec::new();
        for item in items {
            match Table::new(item.span(), item) {
                Ok(table) => tables.push(table),
                Err(problem) => self.problems.push(problem),
            }
        }
        tables
    }

    fn databases(&mut self, tables: &[Table<'_>], around: &Surroundings) -> Vec<DatabaseConfig> {
        let mut names: HashMap<String, usize> = HashMap::new();
        let mut paths: HashMap<PathBuf, String> = HashMap::new();
        let mut databases = Vec::new();
        for (n, table) in tables.iter().enumerate() {
            let Some(read) = table.read::<DatabaseTable>(&mut self.problems) else { continue };
            let place = |key| table.place(&[key]);
            let name = read.name().to_owned();
            if let Some(first) = names.insert(name.clone(), n) {
                let message = format!("the name `{name}` is taken already, by database {} of this file", first + 1);
                self.problems.push(Problem { span: place("name"), message });
            }
            let mut problems = Vec::new();
            let database = read.settle(around, &mut problems);
            self.problems.extend(problems.iter().map(|problem| table.problem(problem)));
            if !database.is_glob()
                && let Some(other) = paths.insert(database.path.clone(), name.clone())
            {
                let message = format!("database `{other}` has this path already: two healers of one file would fight");
                self.problems.push(Problem { span: place("path"), message });
            }
            databases.push(database);
        }
        DatabaseConfig::join_groups(&mut databases);
        self.warnings.extend(databases.iter().flat_map(DatabaseConfig::warnings));
        if tables.is_empty() {
            self.warnings.push("there is no [[database]]: nothing is watched".to_owned());
        }
        databases
    }
}

fn unknown_table(name: &str) -> String {
    if MODES_TO_COME.contains(&name) {
        format!("mode `{name}` is not built yet: this version knows [[database]]")
    } else {
        format!("unknown key `{name}`: the tables are [guardian], [gates], [notify], [log] and [[database]]")
    }
}

/// The folder that relative paths start at, free of links where it can be.
fn folder_of(path: &Path, environment: &Environment) -> PathBuf {
    let path = environment.working_directory.join(path);
    let folder = path.parent().unwrap_or(Path::new("/"));
    std::fs::canonicalize(folder).unwrap_or_else(|_| folder.to_path_buf())
}
