//! The `[[database]]` table.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::job::Keep;
use crate::model::{Bytes, Delay, Period, Policy};
use crate::modes::Retry;
use crate::modes::config::{App, AppTable, KeyProblem, RetryTable, Surroundings, name_problem, period, resolve};

/// One `[[database]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct DatabaseConfig {
    /// The label in metrics; unique across the file.
    pub name: String,
    /// Which file, or files.
    pub location: Location,
    /// Look at least this often.
    pub interval: Duration,
    /// What may be done.
    pub policy: Policy,
    /// A larger WAL is a finding, in bytes.
    pub wal_max: u64,
    /// How long a probe waits for a lock.
    pub busy_timeout: Duration,
    /// A lock held longer is a finding.
    pub lock_max_age: Duration,
    /// A read-only query that must succeed.
    pub canary: Option<String>,
    /// What the database is recreated from when nothing else is left.
    pub schema: Option<Schema>,
    /// What lossy repairs may do while programs have the file open; `None`: wait for approval.
    pub when_in_use: Option<WhenInUse>,
    /// The program that uses it.
    pub app: Option<App>,
    /// Whose access is judged; the file's owner when `None`.
    pub user: Option<String>,
    /// Databases that belong together.
    pub group: Option<String>,
    /// Past `lock_max_age`.
    pub on_lock: OnLock,
    /// Send SIGCONT to a stopped lock holder.
    pub resume_stopped: bool,
    /// How a program in `locking_mode=EXCLUSIVE` is judged.
    pub exclusive: Exclusive,
    /// How often the content is checked.
    pub integrity: IntegrityEvery,
    /// How the playbook that waits spaces its looks.
    pub retry: Retry,
    /// Which backups are taken; none without it.
    pub backup: Option<BackupPlan>,
}

/// Which file, or files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// One database, absolute.
    File(PathBuf),
    /// One target per match, followed live.
    Glob {
        /// The pattern, absolute.
        pattern: String,
        /// At most so many targets.
        max_targets: usize,
    },
}

/// A schema as SQL, read when the configuration was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    /// Where it was read from.
    pub path: PathBuf,
    /// The SQL.
    pub sql: String,
}

/// What lossy repairs may do while programs have the file open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenInUse {
    /// Through SQLite's own locking, under the program.
    InPlace,
    /// Stop `app` first, start it afterwards.
    StopApp,
    /// Never.
    Refuse,
}

/// What to do about a live lock holder past `lock_max_age`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnLock {
    /// Go on waiting.
    #[default]
    Wait,
    /// Restart `app`.
    RestartApp,
    /// Call a person.
    Escalate,
}

/// How a program in `locking_mode=EXCLUSIVE` is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exclusive {
    /// A live one is healthy, its layers `skipped`.
    #[default]
    Auto,
}

/// How often the content is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IntegrityEvery {
    /// `quick_check`.
    pub quick: Duration,
    /// `integrity_check`.
    pub full: Duration,
}

/// Which backups are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupPlan {
    /// How often; the first at once.
    pub every: Duration,
    /// The folder of all targets' backups, absolute; each target has a folder in it.
    pub to: PathBuf,
    /// Which to keep.
    pub keep: Keep,
    /// The most that one target's backups may take, in bytes.
    pub max: u64,
    /// The longest that writers of a rollback-mode database may be kept out.
    pub block_max: Duration,
    /// How often to prove that the newest restores.
    pub drill: Duration,
}

/// `[[database]]` as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseTable {
    name: String,
    path: String,
    max_targets: Option<usize>,
    interval: Option<Period>,
    policy: Option<Policy>,
    wal_max: Option<Bytes>,
    busy_timeout: Option<Delay>,
    lock_max_age: Option<Period>,
    canary: Option<String>,
    schema: Option<PathBuf>,
    when_in_use: Option<WhenInUse>,
    app: Option<AppTable>,
    user: Option<String>,
    group: Option<String>,
    #[serde(default)]
    on_lock: OnLock,
    resume_stopped: Option<bool>,
    #[serde(default)]
    exclusive: Exclusive,
    integrity: Option<IntegrityTable>,
    retry: Option<RetryTable>,
    backup: Option<BackupTable>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct IntegrityTable {
    quick: Option<Period>,
    full: Option<Period>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BackupTable {
    every: Option<Period>,
    to: Option<PathBuf>,
    keep: Option<Keep>,
    max: Option<Bytes>,
    block_max: Option<Period>,
    drill: Option<Period>,
}

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A schema is text that a person wrote; more than this is another file by mistake.
const SCHEMA_BYTES_MAX: u64 = 16 << 20;

impl DatabaseTable {
    /// The name as written, for the check against the rest of the file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// With defaults, absolute paths and the schema's text.
    pub fn settle(self, around: &Surroundings, problems: &mut Vec<KeyProblem>) -> DatabaseConfig {
        problems.extend(name_problem(&self.name));
        let location = location(&self.path, self.max_targets, around, problems);
        if self.canary.as_deref().is_some_and(|sql| sql.trim().is_empty()) {
            problems.push(KeyProblem::new(&["canary"], "must not be empty: leave it out instead"));
        }
        let app = self.app.and_then(|app| app.settle(problems));
        if app.is_none() && self.when_in_use == Some(WhenInUse::StopApp) {
            problems.push(KeyProblem::new(&["when_in_use"], "\"stop-app\" needs `app`"));
        }
        if app.is_none() && self.on_lock == OnLock::RestartApp {
            problems.push(KeyProblem::new(&["on_lock"], "\"restart-app\" needs `app`"));
        }
        let integrity = self.integrity.unwrap_or_default();
        DatabaseConfig {
            name: self.name,
            location,
            interval: period(self.interval, around.interval),
            policy: self.policy.unwrap_or(around.policy),
            wal_max: self.wal_max.map_or(100_000_000, |size| size.0),
            busy_timeout: self.busy_timeout.map_or(Duration::from_secs(5), |delay| delay.0),
            lock_max_age: period(self.lock_max_age, MINUTE),
            canary: self.canary,
            schema: self.schema.and_then(|path| read_schema(around.resolve(&path), problems)),
            when_in_use: self.when_in_use,
            app,
            user: self.user,
            group: self.group,
            on_lock: self.on_lock,
            resume_stopped: self.resume_stopped.unwrap_or(true),
            exclusive: self.exclusive,
            integrity: IntegrityEvery { quick: period(integrity.quick, HOUR), full: period(integrity.full, DAY) },
            retry: RetryTable::settle(self.retry, problems),
            backup: self.backup.map(|backup| backup.settle(around)),
        }
    }
}

impl BackupTable {
    fn settle(self, around: &Surroundings) -> BackupPlan {
        BackupPlan {
            every: period(self.every, 15 * MINUTE),
            to: self.to.map_or_else(|| around.state_dir.join("backups"), |to| around.resolve(&to)),
            keep: self.keep.unwrap_or(Keep { last: 8, hourly: 24, daily: 7, weekly: 4 }),
            max: self.max.map_or(20_000_000_000, |size| size.0),
            block_max: period(self.block_max, Duration::from_secs(2)),
            drill: period(self.drill, DAY),
        }
    }
}

impl DatabaseConfig {
    /// All defaults, for a path on the command line; named by the path as it was typed.
    pub fn for_path(path: &Path, folder: &Path) -> DatabaseConfig {
        DatabaseConfig {
            name: path.display().to_string(),
            location: Location::File(resolve(folder, path)),
            interval: Duration::from_secs(30),
            policy: Policy::Heal,
            wal_max: 100_000_000,
            busy_timeout: Duration::from_secs(5),
            lock_max_age: MINUTE,
            canary: None,
            schema: None,
            when_in_use: None,
            app: None,
            user: None,
            group: None,
            on_lock: OnLock::Wait,
            resume_stopped: true,
            exclusive: Exclusive::Auto,
            integrity: IntegrityEvery { quick: HOUR, full: DAY },
            retry: RetryTable::settle(None, &mut Vec::new()),
            backup: None,
        }
    }

    /// What works, but probably not as meant; and what this version reads but does not act on yet.
    pub fn warnings(&self) -> Vec<String> {
        let name = &self.name;
        let mut warnings = Vec::new();
        if self.backup.is_none() {
            warnings.push(format!(
                "database `{name}` has no `backup` table: no backups are taken, and what cannot be repaired can only be recreated empty"
            ));
        }
        if self.integrity.full < self.integrity.quick {
            warnings.push(format!("database `{name}`: `integrity.full` is more frequent than `integrity.quick`"));
        }
        let waiting = [
            (self.policy == Policy::Approve, "policy = \"approve\" (it only observes)"),
            (self.app.is_some(), "app"),
            (self.group.is_some(), "group"),
            (matches!(self.when_in_use, Some(WhenInUse::InPlace | WhenInUse::StopApp)), "when_in_use (it refuses)"),
            (self.on_lock == OnLock::RestartApp, "on_lock = \"restart-app\" (it escalates)"),
        ];
        for (_, key) in waiting.iter().filter(|(set, _)| *set) {
            warnings.push(format!("database `{name}`: this version does not act on `{key}` yet"));
        }
        warnings
    }
}

fn location(path: &str, max_targets: Option<usize>, around: &Surroundings, problems: &mut Vec<KeyProblem>) -> Location {
    if path.is_empty() || path.contains('\0') || path.ends_with('/') {
        problems.push(KeyProblem::new(&["path"], "must name a database file"));
    }
    let absolute = around.resolve(Path::new(path));
    if !path.contains(['*', '?', '[']) {
        if max_targets.is_some() {
            problems.push(KeyProblem::new(
                &["max_targets"],
                "only a `path` with wildcards (* ? [a-z]) has several targets",
            ));
        }
        return Location::File(absolute);
    }
    if max_targets == Some(0) {
        problems.push(KeyProblem::new(&["max_targets"], "must be at least 1"));
    }
    let pattern = absolute.to_string_lossy().into_owned();
    Location::Glob { pattern, max_targets: max_targets.unwrap_or(10_000) }
}

fn read_schema(path: PathBuf, problems: &mut Vec<KeyProblem>) -> Option<Schema> {
    let mut problem = |message: String| {
        problems.push(KeyProblem::new(&["schema"], message));
        None
    };
    let shown = path.display();
    // Asked first: reading a FIFO would wait for ever.
    match std::fs::metadata(&path) {
        Err(error) => return problem(format!("cannot read the schema file {shown}: {error}")),
        Ok(facts) if !facts.is_file() => return problem(format!("the schema {shown} is not a regular file")),
        Ok(facts) if facts.len() > SCHEMA_BYTES_MAX => {
            return problem(format!("the schema file {shown} has {} bytes: that is no schema", facts.len()));
        }
        Ok(_) => {}
    }
    match std::fs::read_to_string(&path) {
        Err(error) => problem(format!("cannot read the schema file {shown}: {error}")),
        Ok(sql) if sql.trim().is_empty() => problem(format!("the schema file {shown} is empty")),
        Ok(sql) => Some(Schema { path, sql }),
    }
}
