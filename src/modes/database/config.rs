//! The `[[database]]` table.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::backup::folder_name;
use crate::host::is_our_state;
use crate::job::{Keep, Member};
use crate::model::{Bytes, Delay, Period, Policy, Program};
use crate::modes::Retry;
use crate::modes::config::{AppTable, KeyProblem, RetryTable, Surroundings, name_problem, period, resolve};
use crate::sqlite::{canary_problem, schema_problem};

/// One `[[database]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct DatabaseConfig {
    /// The label in metrics; unique across the file.
    pub name: String,
    /// The main file, absolute; or a glob, see [`DatabaseConfig::is_glob`].
    pub path: PathBuf,
    /// Of a glob, at most so many targets.
    pub max_targets: usize,
    /// Of a glob, the matches that are no targets (any more), by what its wildcards matched.
    pub exclude: Vec<String>,
    /// Look at least this often; `None`: as `[guardian]` says.
    pub interval: Option<Duration>,
    /// What may be done; `None`: as `[guardian]` says.
    pub policy: Option<Policy>,
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
    pub app: Option<Program>,
    /// Whose access is judged; the file's owner when `None`.
    pub user: Option<String>,
    /// Databases that belong together.
    pub group: Option<String>,
    /// The others of its group; known once the whole file is read.
    pub members: Vec<Member>,
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
    pub max: Option<u64>,
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
    #[serde(default)]
    exclude: Vec<String>,
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

/// A glob with more matches is more likely a mistake.
const MAX_TARGETS: usize = 10_000;

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
        check_path(&self.path, problems);
        check_glob(&self.path, self.max_targets, &self.exclude, problems);
        let path = without_linked_folder(around.resolve(Path::new(&self.path)));
        if is_our_state(&around.state_dir, &path) {
            problems.push(KeyProblem::new(
                &["path"],
                "this is in guardiand's own state directory, which nobody else shall touch",
            ));
        }
        match self.canary.as_deref() {
            Some(sql) if sql.trim().is_empty() => {
                problems.push(KeyProblem::new(&["canary"], "must not be empty: leave it out instead"));
            }
            canary => problems.extend(canary.and_then(canary_problem).map(|why| KeyProblem::new(&["canary"], why))),
        }
        if let Some(to) = self.backup.as_ref().and_then(|backup| backup.to.as_deref()) {
            let is_no_folder = std::fs::metadata(around.resolve(to)).is_ok_and(|there| !there.is_dir());
            if to.as_os_str().is_empty() {
                problems.push(KeyProblem::new(&["backup", "to"], "must not be empty: leave it out instead"));
            } else if is_no_folder {
                problems.push(KeyProblem::new(&["backup", "to"], "is there, and is no folder"));
            }
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
            path,
            max_targets: self.max_targets.unwrap_or(MAX_TARGETS),
            exclude: self.exclude,
            interval: self.interval.map(|period| period.0),
            policy: self.policy,
            wal_max: self.wal_max.map_or(100_000_000, |size| size.0),
            busy_timeout: self.busy_timeout.map_or(Duration::from_secs(5), |delay| delay.0),
            lock_max_age: period(self.lock_max_age, MINUTE),
            canary: self.canary,
            schema: self.schema.and_then(|path| read_schema(around.resolve(&path), problems)),
            when_in_use: self.when_in_use,
            app,
            user: self.user,
            group: self.group,
            members: Vec::new(),
            on_lock: self.on_lock,
            resume_stopped: self.resume_stopped.unwrap_or(true),
            exclusive: self.exclusive,
            integrity: IntegrityEvery { quick: period(integrity.quick, HOUR), full: period(integrity.full, DAY) },
            retry: RetryTable::settle(self.retry, problems),
            backup: self.backup.map(|backup| backup.settle(around)),
        }
    }
}

/// Steps work in the folder itself and follow no link: a folder that is one (`current`, as deployments have it) is resolved
/// here, once. What cannot be resolved yet stays as it is, and so does a glob.
fn without_linked_folder(path: PathBuf) -> PathBuf {
    let resolved = path.parent().and_then(|folder| std::fs::canonicalize(folder).ok());
    match (resolved, path.file_name()) {
        (Some(folder), Some(name)) if !has_wildcard(path.as_os_str().as_encoded_bytes()) => folder.join(name),
        _ => path,
    }
}

impl BackupTable {
    fn settle(self, around: &Surroundings) -> BackupPlan {
        let standard = BackupPlan::standard(&around.state_dir);
        BackupPlan {
            every: period(self.every, standard.every),
            to: self.to.map_or(standard.to, |to| around.resolve(&to)),
            keep: self.keep.unwrap_or(standard.keep),
            max: self.max.map_or(standard.max, |size| Some(size.0)),
            block_max: period(self.block_max, standard.block_max),
            drill: period(self.drill, standard.drill),
        }
    }
}

impl BackupPlan {
    /// What an empty `backup` table means.
    pub fn standard(state_dir: &Path) -> BackupPlan {
        BackupPlan {
            every: 15 * MINUTE,
            to: state_dir.join("backups"),
            keep: Keep { last: 8, hourly: 24, daily: 7, weekly: 4 },
            max: Some(20_000_000_000),
            block_max: Duration::from_secs(2),
            drill: DAY,
        }
    }

    /// The folder of one target's backups.
    pub fn folder(&self, target: &str) -> PathBuf {
        self.to.join(folder_name(target))
    }
}

impl DatabaseConfig {
    /// True when `path` has wildcards: one target per match.
    pub fn is_glob(&self) -> bool {
        has_wildcard(self.path.as_os_str().as_encoded_bytes())
    }

    /// The target that a match of this glob is: `matched` is what the wildcards matched.
    pub fn for_match(&self, path: PathBuf, matched: &str) -> DatabaseConfig {
        DatabaseConfig { name: format!("{}/{matched}", self.name), path, ..self.clone() }
    }

    /// All defaults, for a path on the command line; named by the path as it was typed.
    pub fn for_path(path: &Path, folder: &Path) -> DatabaseConfig {
        DatabaseConfig {
            name: path.display().to_string(),
            path: resolve(folder, path),
            max_targets: MAX_TARGETS,
            exclude: Vec::new(),
            interval: None,
            policy: None,
            wal_max: 100_000_000,
            busy_timeout: Duration::from_secs(5),
            lock_max_age: MINUTE,
            canary: None,
            schema: None,
            when_in_use: None,
            app: None,
            user: None,
            group: None,
            members: Vec::new(),
            on_lock: OnLock::Wait,
            resume_stopped: true,
            exclusive: Exclusive::Auto,
            integrity: IntegrityEvery { quick: HOUR, full: DAY },
            retry: RetryTable::settle(None, &mut Vec::new()),
            backup: None,
        }
    }

    /// Tells each database of a group who the others are. A glob has no fixed number of targets, and so no group.
    pub fn join_groups(databases: &mut [DatabaseConfig]) {
        let belongs = |database: &DatabaseConfig| database.group.clone().filter(|_| !database.is_glob());
        let all = databases.iter().map(|database| (belongs(database), database.member())).collect::<Vec<_>>();
        for database in databases {
            let Some(group) = belongs(database) else { continue };
            let others = all.iter().filter(|(of, other)| of.as_ref() == Some(&group) && other.name != database.name);
            database.members = others.map(|(_, other)| other.clone()).collect();
        }
    }

    fn member(&self) -> Member {
        Member {
            name: self.name.clone(),
            path: self.path.clone(),
            user: self.user.clone(),
            backups: self.backup.as_ref().map(|backup| backup.folder(&self.name)),
        }
    }

    /// What works, but probably not as meant.
    pub fn warnings(&self) -> Vec<String> {
        let name = &self.name;
        let mut warnings = Vec::new();
        if self.backup.is_none() {
            warnings.push(format!(
                "database `{name}` has no `backup` table: no backups are taken, and what cannot be repaired can only be recreated empty"
            ));
        }
        if let Some(group) = self.group.as_ref().filter(|_| self.members.is_empty()) {
            let why = if self.is_glob() { "a glob belongs to no group" } else { "no other database is of it" };
            warnings.push(format!("database `{name}`: nothing is done about its group `{group}`: {why}"));
        }
        if self.integrity.full < self.integrity.quick {
            warnings.push(format!("database `{name}`: `integrity.full` is more frequent than `integrity.quick`"));
        }
        warnings
    }
}

fn check_path(path: &str, problems: &mut Vec<KeyProblem>) {
    if path.is_empty() || path.contains('\0') || path.ends_with('/') {
        problems.push(KeyProblem::new(&["path"], "must name a database file"));
    }
    if let Some(side) = ["-wal", "-shm", "-journal"].iter().find(|side| path.ends_with(**side)) {
        let message = format!("this is a side file of SQLite's: name the database, without `{side}`");
        problems.push(KeyProblem::new(&["path"], message));
    }
}

fn check_glob(path: &str, max_targets: Option<usize>, exclude: &[String], problems: &mut Vec<KeyProblem>) {
    for (key, given) in [("max_targets", max_targets.is_some()), ("exclude", !exclude.is_empty())] {
        if given && !has_wildcard(path.as_bytes()) {
            let message = "only a `path` with wildcards (* ? [a-z]) has several targets";
            problems.push(KeyProblem::new(&[key], message));
        }
    }
    if max_targets == Some(0) {
        problems.push(KeyProblem::new(&["max_targets"], "must be at least 1"));
    }
    // Taken as it is written it would exclude nothing, and what was retired that way would be restored.
    if let Some(wild) = exclude.iter().find(|one| one.contains(['*', '?'])) {
        let message = format!("`{wild}`: name each match as it is; wildcards are only for `path`");
        problems.push(KeyProblem::new(&["exclude"], message));
    }
}

pub(super) fn has_wildcard(path: &[u8]) -> bool {
    path.iter().any(|byte| matches!(byte, b'*' | b'?' | b'['))
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
        Ok(sql) => match schema_problem(&sql) {
            Some(why) => problem(format!("no database can be made from the schema file {shown}: {why}")),
            None => Some(Schema { path, sql }),
        },
    }
}
