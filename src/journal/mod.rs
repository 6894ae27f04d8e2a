//! The truth about incidents: one append-only, checksummed log each, inside the incident's own folder, and an index over
//! them that can be rebuilt.
//!
//! ```text
//! <state_dir>/lock                              one daemon per state directory
//! <state_dir>/state.db                          the index, and what targets remember
//! <state_dir>/pauses.json, told.json            what a person paused, what people were told
//! <state_dir>/incidents/<id>/log.jsonl          an entry is durable before anybody acts on it
//! <state_dir>/incidents/<id>/evidence/          the files as they were
//! ```
//!
//! Everything runs on one thread of its own: no path is touched on a runtime's thread, and appends have one order.

mod entry;
mod error;
mod expire;
mod ids;
mod index;
mod keep;
mod ledger;
mod log;
mod replay;
mod room;
mod state_lock;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

pub use entry::{Entry, Read, Record, decode, encode};
pub use error::JournalError;
pub use expire::{Expired, Limits};
pub use ids::new_id;
pub use index::{Filter, History, Remembered};
pub use ledger::LeftOpen;
pub use log::{Contents, Doubt, LOG_NAME, LogWriter, parse, read};
pub use replay::{Illegal, PlaybookRun, Replayed, Unfinished, replay};
pub use state_lock::{StateError, StateLock, announced};

use crate::clock::Clock;
use crate::model::{Incident, IncidentId};
use ledger::Ledger;

/// What the targets of a state directory remember, without a word to whoever holds it: for who only looks.
pub fn glance(root: &Path) -> Vec<Remembered> {
    index::Index::glance(&root.join("state.db"))
}

/// Requests that may wait for the thread before a caller has to.
const QUEUE: usize = 256;

type Task = Box<dyn FnOnce(&mut Ledger) + Send>;

/// The journal; clones share one thread, which ends with the last of them.
#[derive(Debug, Clone)]
pub struct Journal {
    tasks: mpsc::Sender<Task>,
    root: Arc<Path>,
    limits: Arc<Mutex<Limits>>,
}

impl Journal {
    /// Starts the journal's thread on `state_dir`. What is there is read on that thread: the first request waits for it.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(state_dir: &Path, clock: Clock) -> std::io::Result<Journal> {
        let (tasks, mut queue) = mpsc::channel::<Task>(QUEUE);
        let root: Arc<Path> = Arc::from(state_dir);
        let journal = Journal { tasks, root: Arc::clone(&root), limits: Arc::default() };
        std::thread::Builder::new().name("journal".into()).spawn(move || {
            let mut ledger = match Ledger::open(&root, clock) {
                Ok(ledger) => ledger,
                Err(error) => {
                    tracing::error!(%error, "the journal cannot run");
                    return;
                }
            };
            for trouble in &ledger.troubles {
                tracing::warn!(trouble, "the journal was not as it was left");
            }
            while let Some(task) = queue.blocking_recv() {
                task(&mut ledger);
                if let Some(done) = ledger.stop.take() {
                    drop(ledger);
                    let _ = done.send(());
                    return;
                }
            }
        })?;
        Ok(journal)
    }

    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Ledger, oneshot::Sender<T>) + Send + 'static,
    ) -> Result<T, JournalError> {
        let (reply, answer) = oneshot::channel();
        let task: Task = Box::new(move |ledger| work(ledger, reply));
        self.tasks.send(task).await.map_err(|_| JournalError::Gone)?;
        answer.await.map_err(|_| JournalError::Gone)
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Ledger) -> Result<T, JournalError> + Send + 'static,
    ) -> Result<T, JournalError> {
        self.call(move |ledger, reply| drop(reply.send(question(ledger)))).await?
    }

    /// Appends to an incident's log; durable when this returns. [`Entry::Opened`] creates the log, [`Entry::Closed`]
    /// ends it. The index follows right after.
    ///
    /// # Errors
    /// When the entry cannot follow, or cannot be made durable: then it must not be acted on.
    pub async fn append(&self, id: &IncidentId, entry: Entry) -> Result<(), JournalError> {
        let id = id.clone();
        self.call(move |ledger, reply| {
            let result = ledger.append(&id, &entry);
            let durable = result.is_ok();
            let _ = reply.send(result);
            if durable && let Err(error) = ledger.reindex(&id) {
                tracing::warn!(%error, incident = %id, "the index is behind its logs");
            }
        })
        .await?
    }

    /// Writes down in a closed incident's log that its heal was taken back; durable when this returns. Twice is once.
    ///
    /// # Errors
    /// When there is no such incident, it is not closed, or it cannot be made durable.
    pub async fn rolled_back(&self, id: &IncidentId, within: &IncidentId, by: &str) -> Result<(), JournalError> {
        let (id, within, by) = (id.clone(), within.clone(), by.to_owned());
        self.call(move |ledger, reply| drop(reply.send(ledger.rolled_back(&id, &within, &by)))).await?
    }

    /// Shows `incident` like this, to whoever asks for incidents, until its log takes an entry again: it cannot be written.
    pub async fn show(&self, incident: Incident) {
        let _ =
            self.call(|ledger, reply| drop(reply.send(ledger.unwritten.insert(incident.id.clone(), incident)))).await;
    }

    /// Shows an incident as its log says again.
    pub async fn hide(&self, id: &IncidentId) {
        let id = id.clone();
        let _ = self.call(move |ledger, reply| drop(reply.send(ledger.unwritten.remove(&id)))).await;
    }

    /// How much room there is for the journal, and what to do about it, in words.
    pub async fn room(&self) -> String {
        let root = Arc::clone(&self.root);
        self.call(move |_, reply| drop(reply.send(room::room(&root)))).await.unwrap_or_default()
    }

    /// Incidents, newest first.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub async fn incidents(&self, filter: Filter) -> Result<Vec<Incident>, JournalError> {
        self.ask(move |ledger| ledger.incidents(&filter)).await
    }

    /// One incident.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub async fn incident(&self, id: &IncidentId) -> Result<Option<Incident>, JournalError> {
        let id = id.clone();
        self.ask(move |ledger| ledger.incident(&id)).await
    }

    /// Incidents whose logs have no end: to be resumed before anything else is done to their targets.
    ///
    /// # Errors
    /// When the journal's thread has ended.
    pub async fn open_incidents(&self) -> Result<Vec<LeftOpen>, JournalError> {
        self.ask(|ledger| Ok(ledger.left_open())).await
    }

    /// Every incident that something happened to in the last `hours`, with its playbooks' runs.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub async fn stats(&self, hours: u32) -> Result<Vec<History>, JournalError> {
        let span = Duration::from_secs(u64::from(hours) * 3600);
        self.ask(move |ledger| ledger.index.history(ledger.now().checked_sub(span).unwrap_or(jiff::Timestamp::MIN)))
            .await
    }

    /// Saves what targets remember, all or nothing.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub async fn save_memory(&self, batch: Vec<Remembered>) -> Result<(), JournalError> {
        self.ask(move |ledger| ledger.index.save_memory(&batch)).await
    }

    /// What targets remembered.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub async fn load_memory(&self) -> Result<Vec<Remembered>, JournalError> {
        self.ask(|ledger| ledger.index.load_memory()).await
    }

    /// How much evidence is kept from now on.
    pub fn limit(&self, limits: Limits) {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner) = limits;
    }

    /// Replaces the small document `name` of the state directory; durable when this returns.
    ///
    /// # Errors
    /// When it cannot be made durable: then the one before it stands.
    pub async fn keep(&self, name: &'static str, document: serde_json::Value) -> Result<(), JournalError> {
        self.ask(move |ledger| keep::keep(ledger.root(), name, &document)).await
    }

    /// The small document `name`; `None` when there is none.
    ///
    /// # Errors
    /// When there is one that cannot be read.
    pub async fn kept(&self, name: &'static str) -> Result<Option<serde_json::Value>, JournalError> {
        self.ask(move |ledger| keep::kept(ledger.root(), name)).await
    }

    /// Removes evidence of closed incidents that is older than the limits say, then the oldest until all is below them.
    ///
    /// # Errors
    /// At the first folder that cannot be removed.
    pub async fn expire(&self) -> Result<Expired, JournalError> {
        let limits = *self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        self.ask(move |ledger| expire::expire(ledger, limits)).await
    }

    /// Sees to it that `bytes` more of evidence fit for an incident, by removing what may go before its time.
    ///
    /// # Errors
    /// [`JournalError::EvidenceFull`] when that does not suffice: then nothing may be healed that needs them.
    pub async fn make_room(&self, id: &IncidentId, bytes: u64) -> Result<Expired, JournalError> {
        let limits = *self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        let id = id.clone();
        self.ask(move |ledger| expire::make_room(ledger, &id, bytes, limits)).await
    }

    /// What was not as it was left when the journal was opened, in words.
    ///
    /// # Errors
    /// When the journal's thread has ended.
    pub async fn troubles(&self) -> Result<Vec<String>, JournalError> {
        self.ask(|ledger| Ok(ledger.troubles.clone())).await
    }

    /// Ends the journal's thread and closes its files; other clones get [`JournalError::Gone`] from here on.
    pub async fn stop(self) {
        let _ = self.call(|ledger, reply| ledger.stop = Some(reply)).await;
    }

    /// Where the files of an incident are kept as they were: the `evidence` of its steps.
    pub fn evidence(&self, id: &IncidentId) -> PathBuf {
        ledger::evidence(&self.root, id)
    }
}

#[cfg(test)]
mod tests;
