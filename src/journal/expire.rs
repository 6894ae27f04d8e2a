//! Old evidence makes room. Only closed incidents lose theirs, oldest first, and only what we made ourselves is removed. The
//! log, a few kilobytes, outlives the copies: what was done and what it cost stays known.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::Duration;

use super::error::JournalError;
use super::ledger::{Ledger, evidence, ids, incidents};
use crate::model::{Incident, IncidentId};

/// How much evidence is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// That of closed incidents, so long.
    pub keep: Duration,
    /// All together, in bytes.
    pub max_bytes: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { keep: Duration::from_secs(30 * 86_400), max_bytes: 10_000_000_000 }
    }
}

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expired {
    /// Incidents whose folder is gone, log included.
    pub folders: Vec<IncidentId>,
    /// Incidents that lost the files as they were, and kept their log.
    pub evidence: Vec<IncidentId>,
    /// Bytes that came free.
    pub bytes: u64,
}

/// Logs stay at least so long: a year of statistics.
const LOG_KEEP: Duration = Duration::from_secs(365 * 86_400);

/// A wall clock that ran ahead or behind the boot-time clock by more than this was set: then nobody knows how old anything is.
/// Less is what a time service corrects.
const STEP: Duration = Duration::from_secs(3600);

/// Where evidence waits to be removed: half of it must never look like all of it.
const GOING: &str = "evidence.expired";

/// One incident's folder.
struct Held {
    id: IncidentId,
    /// Of its evidence.
    bytes: u64,
    /// `None` while it is open, or when nothing is known of it.
    closed: Option<Incident>,
    /// Not even the size rule takes it.
    protected: bool,
}

/// Removes what is older than `keep`, then the oldest until all evidence together is below `max_bytes`.
pub(super) fn expire(ledger: &Ledger, limits: Limits) -> Result<Expired, JournalError> {
    let mut expired = Expired::default();
    let mut held = held(ledger)?;
    if !clock_was_set(ledger, &held) {
        by_age(ledger, limits.keep, &mut held, &mut expired)?;
    }
    by_size(ledger, limits.max_bytes, &mut held, &mut expired)?;
    Ok(expired)
}

/// Sees to it that `bytes` more fit for this incident, by removing what may go.
///
/// # Errors
/// [`JournalError::EvidenceFull`] when that does not suffice.
pub(super) fn make_room(ledger: &Ledger, id: &IncidentId, bytes: u64, limits: Limits) -> Result<Expired, JournalError> {
    let mut expired = Expired::default();
    let mut held = held(ledger)?;
    // What it holds already is most likely what it would keep again: then nothing is added.
    let own = held.iter().find(|held| held.id == *id).map_or(0, |held| held.bytes);
    let needed = bytes.saturating_sub(own);
    by_size(ledger, limits.max_bytes.saturating_sub(needed), &mut held, &mut expired)?;
    let total: u64 = held.iter().map(|held| held.bytes).sum();
    if total.saturating_add(needed) <= limits.max_bytes {
        return Ok(expired);
    }
    Err(JournalError::EvidenceFull { needed, total, max: limits.max_bytes, path: incidents(ledger.root()) })
}

fn held(ledger: &Ledger) -> Result<Vec<Held>, JournalError> {
    let sources: HashSet<&IncidentId> = ledger.sources_of_rollbacks().collect();
    let mut all = Vec::new();
    for id in ids(ledger.root()) {
        let going = incidents(ledger.root()).join(&id.0).join(GOING);
        if going.exists() {
            finish(ledger, &id, &going)?;
        }
        let closed = if ledger.is_open(&id) { None } else { ledger.index.incident(&id)? };
        let closed = closed.filter(|incident| incident.closed_at.is_some());
        let bytes = size_of(&evidence(ledger.root(), &id));
        all.push(Held { protected: sources.contains(&id), id, bytes, closed });
    }
    // Of the last heal of a target that cost rows, the files as they were are all that is left of these.
    let lossy = |incident: &Incident| incident.loss.as_ref().is_some_and(|loss| !loss.is_none_proven());
    let mut newest: HashMap<(String, String), usize> = HashMap::new();
    for (at, held) in all.iter().enumerate().filter(|(_, held)| held.bytes > 0) {
        if let Some(incident) = held.closed.as_ref().filter(|incident| lossy(incident)) {
            newest.insert((incident.target.clone(), incident.mode.clone()), at);
        }
    }
    for at in newest.into_values() {
        if let Some(held) = all.get_mut(at) {
            held.protected = true;
        }
    }
    Ok(all)
}

/// True when the wall clock was set since this process began, or runs behind what is known to have happened.
fn clock_was_set(ledger: &Ledger, held: &[Held]) -> bool {
    let (began, now) = (ledger.began(), ledger.moment());
    let wall = now.wall.duration_since(began.wall).as_secs_f64();
    let apart = (wall - now.since(began).as_secs_f64()).abs();
    let newest = held.iter().filter_map(|held| held.closed.as_ref()?.closed_at).max();
    let behind = newest.is_some_and(|newest| newest.duration_since(now.wall).as_secs_f64() > STEP.as_secs_f64());
    behind || apart > STEP.as_secs_f64()
}

/// The one rule that also takes the last lossy heal's: how long is the user's to say.
fn by_age(ledger: &Ledger, keep: Duration, held: &mut Vec<Held>, expired: &mut Expired) -> Result<(), JournalError> {
    let before = |span: Duration| ledger.now().checked_sub(span).unwrap_or(jiff::Timestamp::MIN);
    let (copies, logs) = (before(keep), before(keep.max(LOG_KEEP)));
    let sources: HashSet<IncidentId> = ledger.sources_of_rollbacks().cloned().collect();
    let mut left = Vec::new();
    for mut held in held.drain(..) {
        let closed_at = held.closed.as_ref().and_then(|incident| incident.closed_at);
        match closed_at.filter(|_| !sources.contains(&held.id)) {
            Some(at) if at < logs => {
                let folder = incidents(ledger.root()).join(&held.id.0);
                expired.bytes += size_of(&folder);
                remove(&folder)?;
                expired.folders.push(held.id);
                continue;
            }
            Some(at) if at < copies && held.bytes > 0 => let_go(ledger, &mut held, expired)?,
            _ => {}
        }
        left.push(held);
    }
    *held = left;
    Ok(())
}

fn by_size(ledger: &Ledger, max_bytes: u64, held: &mut [Held], expired: &mut Expired) -> Result<(), JournalError> {
    let mut total: u64 = held.iter().map(|held| held.bytes).sum();
    for held in held.iter_mut() {
        if total <= max_bytes {
            break;
        }
        if held.closed.is_some() && !held.protected && held.bytes > 0 {
            total = total.saturating_sub(held.bytes);
            let_go(ledger, held, expired)?;
        }
    }
    Ok(())
}

/// Removes the files as they were, and keeps the log. Renamed first: a crash in the middle leaves nothing that looks whole.
fn let_go(ledger: &Ledger, held: &mut Held, expired: &mut Expired) -> Result<(), JournalError> {
    let folder = evidence(ledger.root(), &held.id);
    let going = incidents(ledger.root()).join(&held.id.0).join(GOING);
    std::fs::rename(&folder, &going).map_err(|source| JournalError::Expire { path: folder, source })?;
    finish(ledger, &held.id, &going)?;
    expired.bytes += std::mem::take(&mut held.bytes);
    expired.evidence.push(held.id.clone());
    Ok(())
}

/// What is in the folder goes first: on a full disk the log has no room for a word before that. The folder goes last: while it is there, a
/// start after a crash knows that the word may be missing.
fn finish(ledger: &Ledger, id: &IncidentId, going: &Path) -> Result<(), JournalError> {
    let failed = |source| JournalError::Expire { path: going.to_owned(), source };
    for entry in std::fs::read_dir(going).map_err(failed)?.filter_map(Result::ok) {
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_folder { remove(&entry.path())? } else { std::fs::remove_file(entry.path()).map_err(failed)? }
    }
    if let Err(error) = ledger.evidence_expired(id) {
        tracing::warn!(incident = %id, %error, "its log does not say that its evidence has expired");
    }
    remove(going)
}

/// Bytes below a folder, links not followed.
fn size_of(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    entries
        .filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)))
        .map(|(path, facts)| if facts.is_dir() { size_of(&path) } else { facts.len() })
        .sum()
}

fn remove(folder: &Path) -> Result<(), JournalError> {
    std::fs::remove_dir_all(folder).map_err(|source| JournalError::Expire { path: folder.to_owned(), source })
}
