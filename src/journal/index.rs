//! `state.db`: an index over the incident folders, and what targets remember. It can be rebuilt, so it is never a reason
//! not to start: damaged, it is set aside; without a place on disk, it lives in memory.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::error::JournalError;
use super::replay::{PlaybookRun, Replayed};
use crate::model::{Incident, IncidentId, IncidentState};
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
        let (reason, legible) = match prepare(path) {
            Ok(store) => match illegible(&store) {
                None => return Ok(index(store)),
                // What is known of the targets is in no log: as much of it as can be read goes on.
                Some(reason) => (reason, index(store).load_memory().unwrap_or_default()),
            },
            Err(reason) => (reason, Vec::new()),
        };
        set_aside(path, &reason, now, troubles);
        match prepare(path) {
            Ok(store) => {
                let index = index(store);
                if let Err(error) = index.save_memory(&legible) {
                    troubles.push(error.to_string());
                }
                Ok(index)
            }
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
        let mut incident = replayed.incident.clone();
        // Between its proof and its last entry, which a kill may put off to the next start, nobody has said how it ended yet: who
        // reads `closed` shall also read the outcome.
        if incident.state == IncidentState::Closed && !replayed.closed {
            incident.state = IncidentState::Verifying;
        }
        let json = serde_json::to_string(&incident).map_err(JournalError::Encode)?;
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
                "SELECT CAST(json AS BLOB) FROM incidents WHERE (?1 IS NULL OR target = ?1) AND (?2 IS NULL OR state = ?2)
                 ORDER BY opened_ms DESC, id DESC LIMIT ?3",
                &parameters,
            )
            .map_err(failed(&self.path, "list incidents"))?;
        let incidents = rows.iter().map(|row| decoded(row.first())).collect::<Option<_>>();
        incidents.ok_or_else(|| self.unreadable("list incidents"))
    }

    /// One incident.
    ///
    /// # Errors
    /// [`JournalError::Index`].
    pub fn incident(&self, id: &IncidentId) -> Result<Option<Incident>, JournalError> {
        let rows = self
            .store
            .rows("SELECT CAST(json AS BLOB) FROM incidents WHERE id = ?1", &[Value::from(id.0.as_str())])
            .map_err(failed(&self.path, "read an incident"))?;
        let incident = rows.first().map(|row| decoded(row.first()).ok_or_else(|| self.unreadable("read an incident")));
        incident.transpose()
    }

    /// Every incident that something happened to since `since`, newest first, at most 10,000.
    ///
    /// # Errors
    /// [`JournalError::Index`].
    pub fn history(&self, since: Timestamp) -> Result<Vec<History>, JournalError> {
        let rows = self
            .store
            .rows(
                "SELECT CAST(json AS BLOB), CAST(runs AS BLOB) FROM incidents WHERE touched_ms >= ?1 ORDER BY opened_ms DESC LIMIT 10000",
                &[Value::from(since.as_millisecond())],
            )
            .map_err(failed(&self.path, "read the history"))?;
        let history = |row: &Vec<Value>| Some(History { incident: decoded(row.first())?, runs: decoded(row.get(1))? });
        rows.iter().map(history).collect::<Option<_>>().ok_or_else(|| self.unreadable("read the history"))
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
            .rows("SELECT target, mode, CAST(json AS BLOB) FROM memory", &[])
            .map_err(failed(&self.path, "load what targets remember"))?;
        Ok(rows.iter().filter_map(|row| remembered(row)).collect())
    }

    /// What targets remember, as the index in `path` has it now, whoever writes to it; nothing where there is none, or it cannot be read.
    pub fn glance(path: &Path) -> Vec<Remembered> {
        if !std::fs::symlink_metadata(path).is_ok_and(|facts| facts.is_file()) {
            return Vec::new();
        }
        let patience = std::time::Duration::from_secs(2);
        let read = || {
            let store = Database::open(path, Access::Probe, patience, Deadline::after(patience));
            let index = Index { store: store.map_err(failed(path, "open"))?, path: path.to_owned() };
            let memories = index.load_memory()?;
            index.store.close().map_err(failed(path, "close"))?;
            Ok::<_, JournalError>(memories)
        };
        read().unwrap_or_else(|error| {
            tracing::debug!(path = %path.display(), %error, "what targets remember cannot be read");
            Vec::new()
        })
    }

    /// A row that is no incident: what was left out of the list would be taken for never having been.
    fn unreadable(&self, what: &'static str) -> JournalError {
        JournalError::Index { what, path: self.path.clone(), reason: "a row of it is damaged".to_owned() }
    }
}

/// What a column holds as JSON. As bytes: SQLite's text may be no UTF-8, and what stands in for that reads well.
fn decoded<T: serde::de::DeserializeOwned>(column: Option<&Value>) -> Option<T> {
    let Value::Blob(json) = column? else { return None };
    serde_json::from_slice(json).ok()
}

fn remembered(row: &[Value]) -> Option<Remembered> {
    let [target, mode, json] = row else { return None };
    let memory = decoded(Some(json))?;
    Some(Remembered { target: target.as_str()?.to_owned(), mode: mode.as_str()?.to_owned(), memory })
}

/// Damage that SQLite does not see: rows that are not what was written, or are filed under what they are not.
fn illegible(store: &Database) -> Option<String> {
    let incidents =
        "SELECT id, target, mode, state, opened_ms, closed_ms IS NOT NULL, CAST(json AS BLOB), CAST(runs AS BLOB)
                     FROM incidents";
    let incidents = store.rows(incidents, &[]).map_err(|error| error.to_string());
    let memories =
        store.rows("SELECT target, mode, CAST(json AS BLOB) FROM memory", &[]).map_err(|error| error.to_string());
    let (incidents, memories) = match (incidents, memories) {
        (Ok(incidents), Ok(memories)) => (incidents, memories),
        (Err(error), _) | (_, Err(error)) => return Some(error),
    };
    let bad = incidents.iter().filter(|row| !is_as_filed(row)).count();
    let forgotten = memories.iter().filter(|row| remembered(row).is_none()).count();
    let words = || {
        let (all, known) = (incidents.len(), memories.len());
        format!("{bad} of {all} incidents and what is remembered of {forgotten} of {known} targets cannot be read")
    };
    (bad + forgotten > 0).then(words)
}

fn is_as_filed(row: &[Value]) -> bool {
    let [id, target, mode, state, opened, closed, json, runs] = row else { return false };
    let (Some(incident), Some(_)) = (decoded::<Incident>(Some(json)), decoded::<Vec<PlaybookRun>>(Some(runs))) else {
        return false;
    };
    let is_closed = incident.state == IncidentState::Closed;
    id.as_str() == Some(incident.id.0.as_str())
        && target.as_str() == Some(incident.target.as_str())
        && mode.as_str() == Some(incident.mode.as_str())
        && state.as_str() == Some(incident.state.name())
        && opened.as_i64() == Some(incident.opened_at.as_millisecond())
        && closed.as_i64() == Some(i64::from(is_closed))
}

/// What SQLite keeps beside it.
const SIDE_FILES: [&str; 3] = ["-wal", "-shm", "-journal"];

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn prepare(path: &Path) -> Result<Database, String> {
    for suffix in SIDE_FILES.iter().chain(&[""]) {
        let path = with_suffix(path, suffix);
        // Opening a pipe waits for who writes to it, for ever.
        if std::fs::metadata(&path).is_ok_and(|facts| !facts.is_file()) {
            return Err(format!("{} is not a regular file", path.display()));
        }
    }
    // SQLite would create it as the umask says; its side files take the main file's mode.
    let mut ours_alone = std::fs::OpenOptions::new();
    ours_alone.create(true).append(true).mode(0o600).custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
    ours_alone.open(path).map_err(|error| error.to_string())?;
    let store = open(path).map_err(|error| error.to_string())?;
    // In full: `quick_check` does not see whether an index has what its table has.
    let report = store.integrity_check(1);
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
    for suffix in SIDE_FILES.iter().chain(&[""]) {
        let from = with_suffix(path, suffix);
        let to = with_suffix(path, &format!(".damaged-{stamp}{suffix}"));
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

    #[test]
    fn a_row_that_cannot_be_read_sets_the_index_aside_and_what_can_be_is_remembered_on() {
        let bad = [
            "UPDATE memory SET json = substr(json, 1, 1) WHERE target = 'bad'",
            // Text that is no UTF-8.
            "UPDATE memory SET json = CAST(x'22ff22' AS TEXT) WHERE target = 'bad'",
            "INSERT INTO incidents VALUES ('1','good','database','open',0,0,NULL,1,'{','[]')",
        ];
        for sql in bad {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("state.db");
            let open = |troubles: &mut Vec<String>| Index::open(&path, Timestamp::UNIX_EPOCH, troubles).unwrap();
            let of = |target: &str| Remembered {
                target: target.into(),
                mode: "database".into(),
                memory: serde_json::json!({ "known": target }),
            };
            let index = open(&mut Vec::new());
            index.save_memory(&[of("bad"), of("good")]).unwrap();
            drop(index);
            let mut troubles = Vec::new();
            let index = open(&mut troubles);
            assert!(troubles.is_empty(), "{troubles:?}");
            index.store.batch(sql).unwrap();
            let listed = index.incidents(&Filter { limit: 9, ..Filter::default() });
            assert!(listed.is_err() || !sql.contains("incidents"), "an incident was left out of the list");
            drop(index);

            let index = open(&mut troubles);
            assert!(troubles.iter().any(|trouble| trouble.contains("cannot be read")), "{sql}: {troubles:?}");
            let known = index.load_memory().unwrap();
            assert!(known.contains(&of("good")), "{sql}: {known:?}");
            assert_eq!(known.len(), if sql.contains("memory") { 1 } else { 2 }, "{sql}: {known:?}");
            drop(index);
            troubles.clear();
            open(&mut troubles);
            assert!(troubles.is_empty(), "{sql}: {troubles:?}");
        }
    }
}
