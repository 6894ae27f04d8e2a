//! All logs and their index, as the journal's thread holds them.

use std::collections::{BTreeMap, HashSet};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use tokio::sync::oneshot;

use super::entry::{Entry, Read};
use super::error::JournalError;
use super::ids::is_id;
use super::index::{Filter, Index};
use super::log::{self, Contents, Doubt, LOG_NAME, LogWriter};
use super::replay::{Replayed, replay};
use crate::clock::{Clock, Moment};
use crate::host::{OUR_PREFIX, sweep_out};
use crate::model::{Incident, IncidentId};

/// So deep are the folders with papers in an incident's evidence: that of another database of the group, and in it a later preservation.
const PAPER_FOLDERS: u32 = 3;

/// The folder of an incident's files as they were, inside its own.
const EVIDENCE: &str = "evidence";

/// An incident whose log has no end yet.
#[derive(Debug)]
struct Open {
    /// `None` when the log cannot be written any more; reading goes on.
    log: Option<LogWriter>,
    replayed: Replayed,
    doubt: Option<String>,
}

/// An incident that an earlier process left open.
#[derive(Debug, Clone, PartialEq)]
pub struct LeftOpen {
    /// What its log amounts to.
    pub replayed: Replayed,
    /// Why the log's end is not trusted: heal nothing of it without a person.
    pub doubt: Option<String>,
}

/// The logs and the index.
#[derive(Debug)]
pub(super) struct Ledger {
    root: PathBuf,
    pub(super) index: Index,
    open: BTreeMap<IncidentId, Open>,
    clock: Clock,
    began: Moment,
    /// Incidents that cannot be written now, as they shall be shown: not in the index, or not like this.
    pub(super) unwritten: BTreeMap<IncidentId, Incident>,
    /// What had to be set aside, cut off or left alone at the start, for the log.
    pub(super) troubles: Vec<String>,
    /// Set when the thread shall end; told once everything is closed.
    pub(super) stop: Option<oneshot::Sender<()>>,
}

impl Ledger {
    /// Reads all that is below `root`. Troubles are said, and are no reason not to start.
    pub(super) fn open(root: &Path, clock: Clock) -> Result<Ledger, JournalError> {
        let mut troubles = Vec::new();
        let path = root.join("state.db");
        let was_there = path.exists();
        for folder in [root.to_owned(), incidents(root)] {
            if let Err(error) = make_folder(&folder) {
                troubles.push(error.to_string());
            }
        }
        let index = Index::open(&path, clock.now().wall, &mut troubles)?;
        let began = clock.now();
        let mut ledger = Ledger {
            root: root.to_owned(),
            index,
            open: BTreeMap::new(),
            clock,
            began,
            unwritten: BTreeMap::new(),
            troubles,
            stop: None,
        };
        ledger.read_folders();
        let has_past = !ledger.open.is_empty() || !ledger.index.closed().unwrap_or_default().is_empty();
        if has_past && !was_there {
            ledger.troubles.push(format!(
                "the index {} was gone: incidents are read from their folders again; what was remembered of each target (its schema, its \
                 last healthy state) is lost, and learnt anew once it is healthy. Until then one without a backup is a person's to heal",
                path.display()
            ));
        }
        Ok(ledger)
    }

    fn read_folders(&mut self) {
        let closed: HashSet<IncidentId> = self.index.closed().unwrap_or_default().into_iter().collect();
        for id in ids(&self.root) {
            if closed.contains(&id) {
                continue;
            }
            if let Err(error) = self.read_folder(&id) {
                self.troubles.push(error.to_string());
            }
        }
    }

    fn read_folder(&mut self, id: &IncidentId) -> Result<(), JournalError> {
        let folder = incidents(&self.root).join(&id.0);
        let path = folder.join(LOG_NAME);
        // Died between the folder and its log, or had no room for the first entry: nothing was done yet.
        if !path.exists() {
            let _ = std::fs::remove_dir(&folder);
            return Ok(());
        }
        sweep_papers(&evidence(&self.root, id), PAPER_FOLDERS);
        let contents = log::read(&path)?;
        if contents.records.is_empty() && contents.doubt.is_none() && is_alone(&folder) {
            take_back(&folder);
            return Ok(());
        }
        let mut doubt = self.say_doubt(id, &contents);
        let replayed = match replay(&contents.records) {
            Ok(replayed) => replayed,
            Err(illegal) => {
                let said = format!("incident {id}: {illegal}");
                self.troubles.push(said.clone());
                doubt = Some(said);
                match illegal.before {
                    Some(before) => *before,
                    None => return Ok(()),
                }
            }
        };
        self.troubles.extend(replayed.skipped.iter().map(|skipped| format!("incident {id}: skipped {skipped}")));
        self.index.put(&replayed, contents.records.len() as u64)?;
        if replayed.closed {
            return Ok(());
        }
        let log = match LogWriter::carry_on(&folder, &contents) {
            Ok(log) => Some(log),
            Err(error) => {
                self.troubles.push(error.to_string());
                doubt.get_or_insert_with(|| error.to_string());
                None
            }
        };
        self.open.insert(id.clone(), Open { log, replayed, doubt });
        Ok(())
    }

    fn say_doubt(&mut self, id: &IncidentId, contents: &Contents) -> Option<String> {
        match &contents.doubt {
            None => None,
            Some(Doubt::Torn) => {
                // Nobody acted on a line that was never durable: cut off, and no reason for doubt.
                self.troubles
                    .push(format!("incident {id}: the last line of its log was torn by a crash and is cut off"));
                None
            }
            Some(Doubt::Bad { line, reason }) => {
                let said = format!("incident {id}: line {line} of its log cannot be trusted: {reason}");
                self.troubles.push(said.clone());
                Some(said)
            }
        }
    }

    /// Appends to a log; durable when this returns. [`Entry::Opened`] creates it.
    pub(super) fn append(&mut self, id: &IncidentId, entry: &Entry) -> Result<(), JournalError> {
        let at = self.clock.now();
        if let Entry::Opened { incident } = entry
            && !self.open.contains_key(id)
        {
            let folder = incidents(&self.root).join(&id.0);
            make_folder(&incidents(&self.root))?;
            make_folder(&folder)?;
            // What an earlier attempt could not take back, on a disk that had become read-only, say.
            if is_alone(&folder) {
                let _ = std::fs::remove_file(folder.join(LOG_NAME));
            }
            let begun = self.begin(&folder, at, entry);
            if begun.is_err() && is_alone(&folder) {
                take_back(&folder);
            }
            let replayed = Replayed::begin((**incident).clone(), at);
            self.open.insert(id.clone(), Open { log: Some(begun?), replayed, doubt: None });
            self.unwritten.remove(id);
            return Ok(());
        }
        let open = self.open.get_mut(id).ok_or_else(|| JournalError::Unknown(id.clone()))?;
        let log = open.log.as_mut().ok_or_else(|| JournalError::Unknown(id.clone()))?;
        let mut next = open.replayed.clone();
        next.apply(log.next_seq(), at, entry)?;
        log.append(at, entry)?;
        open.replayed = next;
        self.unwritten.remove(id);
        Ok(())
    }

    fn begin(&self, folder: &Path, at: Moment, entry: &Entry) -> Result<LogWriter, JournalError> {
        log::sync_folder(&incidents(&self.root))?;
        let mut log = LogWriter::create(folder)?;
        log.append(at, entry)?;
        Ok(log)
    }

    /// Incidents, newest first, those that cannot be written among them.
    pub(super) fn incidents(&self, filter: &Filter) -> Result<Vec<Incident>, JournalError> {
        let mut found = self.index.incidents(filter)?;
        if !self.unwritten.is_empty() {
            found.retain(|incident| !self.unwritten.contains_key(&incident.id));
            let is_wanted = |incident: &&Incident| {
                filter.target.as_ref().is_none_or(|target| *target == incident.target)
                    && filter.state.as_ref().is_none_or(|state| state == incident.state.name())
            };
            found.extend(self.unwritten.values().filter(is_wanted).cloned());
            found.sort_by(|a, b| (b.opened_at, &b.id).cmp(&(a.opened_at, &a.id)));
            found.truncate(filter.limit);
        }
        Ok(found)
    }

    /// One incident, also one that cannot be written.
    pub(super) fn incident(&self, id: &IncidentId) -> Result<Option<Incident>, JournalError> {
        match self.unwritten.get(id) {
            Some(incident) => Ok(Some(incident.clone())),
            None => self.index.incident(id),
        }
    }

    /// Writes down in a closed incident's log that its heal was taken back. Twice is once.
    pub(super) fn rolled_back(&mut self, id: &IncidentId, within: &IncidentId, by: &str) -> Result<(), JournalError> {
        self.add_to_closed(id, &Entry::RolledBack { within: within.clone(), by: by.to_owned() })
    }

    /// Writes down in a closed incident's log that the files as they were are gone. Twice is once.
    pub(super) fn evidence_expired(&self, id: &IncidentId) -> Result<(), JournalError> {
        self.add_to_closed(id, &Entry::EvidenceExpired)
    }

    fn add_to_closed(&self, id: &IncidentId, entry: &Entry) -> Result<(), JournalError> {
        let folder = incidents(&self.root).join(&id.0);
        if self.open.contains_key(id) || !is_id(&id.0) {
            return Err(JournalError::Unknown(id.clone()));
        }
        let contents = log::read(&folder.join(LOG_NAME))?;
        let mut replayed = replay(&contents.records)?;
        let known = contents.records.last().is_some_and(|last| last.entry == Read::Known(entry.clone()));
        if !known {
            let at = self.clock.now();
            let mut log = LogWriter::carry_on(&folder, &contents)?;
            replayed.apply(log.next_seq(), at, entry)?;
            log.append(at, entry)?;
        }
        self.index.put(&replayed, contents.records.len() as u64 + u64::from(!known))
    }

    /// Brings the index up to date with a log; an incident that is over is let go of.
    pub(super) fn reindex(&mut self, id: &IncidentId) -> Result<(), JournalError> {
        let Some(open) = self.open.get(id) else { return Ok(()) };
        let result = self.index.put(&open.replayed, open.log.as_ref().map_or(0, LogWriter::next_seq));
        if open.replayed.closed {
            self.open.remove(id);
        }
        result
    }

    /// Incidents whose logs have no end.
    pub(super) fn left_open(&self) -> Vec<LeftOpen> {
        self.open.values().map(|open| LeftOpen { replayed: open.replayed.clone(), doubt: open.doubt.clone() }).collect()
    }

    /// True while a log has no end: its folder must stay.
    pub(super) fn is_open(&self, id: &IncidentId) -> bool {
        self.open.contains_key(id)
    }

    /// Closed incidents whose evidence a rollback that is under way puts back.
    pub(super) fn sources_of_rollbacks(&self) -> impl Iterator<Item = &IncidentId> {
        self.open.values().filter_map(|open| open.replayed.rolling_back.as_ref()).map(|(of, _)| of)
    }

    /// The state directory.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// When this ledger was opened.
    pub(super) fn began(&self) -> Moment {
        self.began
    }

    /// Now, on both clocks.
    pub(super) fn moment(&self) -> Moment {
        self.clock.now()
    }

    /// Now.
    pub(super) fn now(&self) -> jiff::Timestamp {
        self.clock.now().wall
    }
}

/// The folder of all incidents.
pub(super) fn incidents(root: &Path) -> PathBuf {
    root.join("incidents")
}

/// Where the files of an incident are kept as they were.
/// What was to become a paper of the evidence, and whose writer was killed before it had its name.
fn sweep_papers(folder: &Path, deeper: u32) {
    sweep_out(folder, OUR_PREFIX);
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| deeper > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.for_each(|entry| sweep_papers(&entry.path(), deeper - 1));
}

pub(super) fn evidence(root: &Path, id: &IncidentId) -> PathBuf {
    incidents(root).join(&id.0).join(EVIDENCE)
}

/// The incidents that have a folder, oldest first.
pub(super) fn ids(root: &Path) -> Vec<IncidentId> {
    let entries = std::fs::read_dir(incidents(root)).into_iter().flatten().filter_map(Result::ok);
    let mut ids: Vec<IncidentId> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|n| is_id(n)).map(IncidentId).collect();
    ids.sort();
    ids
}

/// Nothing is in an incident's folder but a log in which no entry was ever durable.
fn is_alone(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).map(|entries| entries.filter_map(Result::ok).collect::<Vec<_>>());
    let is_empty_log = |entry: &std::fs::DirEntry| {
        entry.file_name() == LOG_NAME && entry.metadata().is_ok_and(|facts| facts.is_file() && facts.len() == 0)
    };
    entries.is_ok_and(|entries| entries.iter().all(is_empty_log))
}

/// Removes such a folder. One that cannot be removed says nothing, and is passed over at the next start.
fn take_back(folder: &Path) {
    let _ = std::fs::remove_file(folder.join(LOG_NAME));
    let _ = std::fs::remove_dir(folder);
}

/// A folder that only we may enter; it may be there.
pub(super) fn make_folder(folder: &Path) -> Result<(), JournalError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|source| JournalError::Folder { path: folder.to_owned(), source })
}
