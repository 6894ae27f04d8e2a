//! `state.db`: an index over the incident folders, and what targets remember. It can be rebuilt, so it is never a reason
//! not to start: damaged, it is set aside; without a place on disk, it lives in memory.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::error::JournalError;
use super::replay::{PlaybookRun, Replayed};
use crate::model::{Incident, IncidentId};
use crate::sqlite::{Access, Database, Deadline, SqliteFault, Value};

/// The shape of the tables. Another number is set aside like a damaged one.
const VERSION: i64 = 1;

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS meta (version INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS incidents (
        id TEXT PRIMARY KEY, target TEXT NOT NULL, mode TEXT NOT NULL, state TEXT NOT NULL,
        opened_ms INTEGER NOT NULL, touched_ms INTEGER NOT NULL, closed_ms INTEGER, entries INTEGER NOT NULL,
        json TEXT NOT NULL, runs TEXT NOT NULL) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS incidents_by_time ON incidents (opened_ms);
    CREATE INDEX IF NOT EXISTS incidents_by_touch ON incidents (touched_ms);
    CREATE TABLE IF NOT EXISTS memory (
        target TEXT NOT NULL, mode TEXT NOT NULL, json TEXT NOT NULL, PRIMARY KEY (target, mode)) WITHOUT ROWID;
";

/// Which incidents to list. Empty fields match all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this target.
    pub target: Option<String>,
    /// In this state, by its name in JSON.
    pub state: Option<String>,
    /// At most so many, newest first.
    pub limit: usize,
}

/// What one target of one mode remembers.
#[derive(Debug, Clone, PartialEq)]
pub struct Remembered {
    /// The configured name.
    pub target: String,
    /// The failure mode.
    pub mode: String,
    /// The mode's own shape.
    pub memory: serde_json::Value,
}

/// An incident with the playbooks that ran for it, for statistics.
#[derive(Debug, Clone, PartialEq)]
pub struct History {
    /// The incident.
    pub incident: Incident,
    /// Every run of a playbook, in order.
    pub runs: Vec<PlaybookRun>,
}

/// The open index.
#[derive(Debug)]
pub struct Index {
    store: Database,
    path: PathBuf,
}

impl Index {
    /// Opens the index. Says in `troubles` what had to be set aside, or that it lives in memory only.
    ///
    /// # Errors
    /// When not even a database in memory can be had.
    pub fn open(path: &Path, now: Timestamp, troubles: &mut Vec<String>) -> Result<Index, JournalError> {
        let index = |store| Index { store, path: path.to_owned() };
        match prepare(path) {
            Ok(store) => return Ok(index(store)),
            Err(reason) => set_aside(path, &reason, now, troubles),
        }
        match prepare(path) {
            Ok(store) => Ok(index(store)),
            Err(reason) => {
                troubles.push(format!(
                    "the index {} cannot be kept on disk ({reason}): it lives in memory until the next start, \
                     and what targets remember is lost then",
                    path.display()
                ));
                let store = Database::in_memory(path).and_then(|store| {
                    store.batch(TABLES)?;
                    Ok(store)
                });
                store.map(index).map_err(|error| failed(path, "open")(error))
            }
        }
    }

    /// Writes what an incident amounts to.
    ///
    /// # Errors
    /// [`JournalError::Index`].
    pub fn put(&self, replayed: &Replayed, entries: u64) -> Result<(), JournalError> {
        let incident = &replayed.incident;
        let json = serde_json::to_string(incident).map_err(JournalError::Encode)?;
        let runs = serde_json::to_string(&replayed.runs).map_err(JournalError::Encode)?;
        let parameters = [
            Value::from(incident.id.0.as_str()),
            Value::from(incident.target.as_str()),
            Value::from(incident.mode.as_str()),
            Value::from(incident.state.name()),
            Value::from(incident.opened_at.as_millisecond()),
            Value::from(replayed.last.wall.as_millisecond()),
            Value::from(replayed.closed.then(|| replayed.last.wall.as_millisecond())),
            Value::from(i64::try_from(entries).unwrap_or(i64::MAX)),
            Value::from(json.as_str()),
            Value::from(runs.as_str()),
        ];
        self.store
            .execute("INSERT OR REPLACE INTO incidents VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10)", &parameters)
            .map(|_| ())
            .map_err(failed(&self.path, "write an incident"))
    }

    /// Ids that are indexed as closed: their logs need no reading at a start.
    ///
    /// # Errors
    /// [`JournalError::Index`].
    pub fn closed(&self) -> Result<Vec<IncidentId>, JournalError> {
        let rows = self
            .store
            .rows("SELECT id FROM incidents WHERE closed_ms IS NOT NULL ORDER BY closed_ms", &[])
            .map_err(failed(&self.path, "list closed incidents"))?;
        Ok(rows.iter().filter_map(|row| row.first()?.as_str()).map(|id| IncidentId(id.to_owned())).collect())
    }

    /// Incidents, newest first.
    ///
    /// # Errors
    /// [`JournalError::Index`].
    pub fn incidents(&self, filter: &Filter) -> Result<Vec<Incident>, JournalError> {
        let limit = i64::try_from(filter.limit).unwrap_or(i64::MAX);
        let parameters =
            [Value::from(filter.target.as_deref()), Value::from(filter.state.as_deref()), Value::from(limit)];
        let rows = self
            .store
            .rows(
                "SELECT json FROM incidents WHERE (?1 IS NULL OR target = ?1) AND (?2 IS NULL OR state = ?2)
                 ORDER BY opened_ms DESC, id DESC LIMIT ?3",
                &parameters,
            )
            .map_err(failed(&self.path, "list incidents"))?;
        Ok(rows.iter().filter_map(|row| serde_json::from_str(row.first()?.as_str()?).ok()).collect())
    }

    /// One incident.
    ///
    /// # Errors
    /// [`JournalError::Index`].
    pub fn incident(&self, id: &IncidentId) -> Result<Option<Incident>, JournalError> {
        let rows = self
            .store
            .rows("SELECT json FROM incidents WHERE id = ?1", &[Value::from(id.0.as_str())])
            .map_err(failed(&self.path, "read an incident"))?;
        Ok(rows.first().and_then(|row| serde_json::from_str(row.first()?.as_str()?).ok()))
    }

    /// Every incident that something happened to since `since`, newest first, at most 10,000.
    ///
    /// # Errors
    /// [`JournalError::Index`].
    pub fn history(&self, since: Timestamp) -> Result<Vec<History>, JournalError> {
        let rows = self
            .store
            .rows(
                "SELECT json, runs FROM incidents WHERE touched_ms >= ?1 ORDER BY opened_ms DESC LIMIT 10000",
                &[Value::from(since.as_millisecond())],
            )
            .map_err(failed(&self.path, "read the history"))?;
        let history = |row: &Vec<Value>| {
            let incident = serde_json::from_str(row.first()?.as_str()?).ok()?;
            Some(History { incident, runs: serde_json::from_str(row.get(1)?.as_str()?).ok()? })
        };
        Ok(rows.iter().filter_map(history).collect())
    }

    /// Writes what targets remember, all or nothing.
    ///
    /// # Errors
    /// [`JournalError::Index`].
    pub fn save_memory(&self, batch: &[Remembered]) -> Result<(), JournalError> {
        self.store
            .transaction(|store| {
                for one in batch {
                    let row =
                        [one.target.as_str().into(), one.mode.as_str().into(), Value::Text(one.memory.to_string())];
                    store.execute("INSERT OR REPLACE INTO memory VALUES (?1,?2,?3)", &row)?;
                }
                Ok(())
            })
            .map_err(failed(&self.path, "save what targets remember"))
    }

    /// What targets remembered. A memory that cannot be read is left out: never seen healthy is the safe thing to believe.
    ///
    /// # Errors
    /// [`JournalError::Index`].
    pub fn load_memory(&self) -> Result<Vec<Remembered>, JournalError> {
        let rows = self
            .store
            .rows("SELECT target, mode, json FROM memory", &[])
            .map_err(failed(&self.path, "load what targets remember"))?;
        let remembered = |row: &Vec<Value>| {
            let [target, mode, json] = row.as_slice() else { return None };
            let memory = serde_json::from_str(json.as_str()?).ok()?;
            Some(Remembered { target: target.as_str()?.to_owned(), mode: mode.as_str()?.to_owned(), memory })
        };
        Ok(rows.iter().filter_map(remembered).collect())
    }
}

fn prepare(path: &Path) -> Result<Database, String> {
    // SQLite would create it as the umask says; its side files take the main file's mode.
    let ours_alone = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    ours_alone.map_err(|error| error.to_string())?;
    let store = open(path).map_err(|error| error.to_string())?;
    let report = store.quick_check(1);
    if let Some(fault) = report.fault {
        return Err(fault.to_string());
    }
    if !report.ok {
        return Err(report.messages.join("; "));
    }
    store.set_journal_mode("wal").map_err(|error| error.to_string())?;
    // What is in it can be built anew, so a commit need not wait for the disk.
    store.batch("PRAGMA synchronous=NORMAL").map_err(|error| error.to_string())?;
    store.batch(TABLES).map_err(|error| error.to_string())?;
    let rows = store.rows("SELECT version FROM meta", &[]).map_err(|error| error.to_string())?;
    match rows.first().and_then(|row| row.first()) {
        Some(Value::Integer(VERSION)) => {}
        Some(other) => return Err(format!("its version is {other:?}, this program's is {VERSION}")),
        None => {
            store.execute("INSERT INTO meta VALUES (?1)", &[VERSION.into()]).map_err(|error| error.to_string())?;
        }
    }
    Ok(store)
}

fn open(path: &Path) -> Result<Database, SqliteFault> {
    Database::open(path, Access::Create, std::time::Duration::from_secs(2), Deadline::never())
}

/// Moves the index and its side files away together: a WAL must never meet another main file.
fn set_aside(path: &Path, reason: &str, now: Timestamp, troubles: &mut Vec<String>) {
    let stamp = now.strftime("%Y%m%dT%H%M%SZ");
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    for suffix in ["-wal", "-shm", "-journal", ""] {
        let from = path.with_file_name(format!("{name}{suffix}"));
        let to = path.with_file_name(format!("{name}.damaged-{stamp}{suffix}"));
        match std::fs::rename(&from, &to) {
            Ok(()) if suffix.is_empty() => troubles.push(format!(
                "the index {} could not be used ({reason}): set aside as {}, and rebuilt from the incident folders",
                from.display(),
                to.display()
            )),
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => troubles.push(format!("cannot set {} aside: {error}", from.display())),
        }
    }
}

fn failed(path: &Path, what: &'static str) -> impl Fn(SqliteFault) -> JournalError {
    let path = path.to_owned();
    move |error| JournalError::Index { what, path: path.clone(), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_without_a_place_on_disk_lives_in_memory_and_makes_no_file_anywhere() {
        let folder = tempfile::tempdir().unwrap();
        let mut troubles = Vec::new();
        let index = Index::open(&folder.path().join("gone/state.db"), Timestamp::UNIX_EPOCH, &mut troubles).unwrap();
        assert!(troubles.iter().any(|trouble| trouble.contains("lives in memory")), "{troubles:?}");
        let remembered = Remembered { target: "app".into(), mode: "database".into(), memory: serde_json::json!(1) };
        index.save_memory(std::slice::from_ref(&remembered)).unwrap();
        assert_eq!(index.load_memory().unwrap(), [remembered]);
        assert!(!Path::new(":memory:").exists(), "it is a file in the current folder");
    }
}
