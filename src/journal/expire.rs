//! Old evidence makes room. Only closed incidents lose theirs, and only what we made ourselves is removed.

use std::path::Path;
use std::time::Duration;

use super::error::JournalError;
use super::ledger::{Ledger, evidence, ids, incidents};
use crate::model::IncidentId;

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expired {
    /// Incidents whose folder is gone, log included: closed longer ago than evidence is kept.
    pub folders: Vec<IncidentId>,
    /// Incidents that lost the files as they were, and kept their log: together they took too much room.
    pub evidence: Vec<IncidentId>,
    /// Bytes that came free.
    pub bytes: u64,
}

/// Removes what is older than `keep`, then the oldest until all evidence together is below `max_bytes`.
pub(super) fn expire(ledger: &Ledger, keep: Duration, max_bytes: u64) -> Result<Expired, JournalError> {
    let mut expired = Expired::default();
    let mut total = 0_u64;
    let mut kept = Vec::new();
    let limit = ledger.now().checked_sub(keep).unwrap_or(jiff::Timestamp::MIN);
    for id in ids(ledger.root()) {
        let folder = incidents(ledger.root()).join(&id.0);
        let bytes = size_of(&folder);
        let closed_at = if ledger.is_open(&id) { None } else { closed_at(ledger, &id)? };
        match closed_at {
            Some(at) if at < limit => {
                remove(&folder)?;
                expired.bytes += bytes;
                expired.folders.push(id);
            }
            closed => {
                total += bytes;
                kept.push((id, closed.is_some()));
            }
        }
    }
    for (id, closed) in kept {
        if total <= max_bytes {
            break;
        }
        let folder = evidence(ledger.root(), &id);
        if closed && folder.exists() {
            let bytes = size_of(&folder);
            remove(&folder)?;
            total = total.saturating_sub(bytes);
            expired.bytes += bytes;
            expired.evidence.push(id);
        }
    }
    Ok(expired)
}

fn closed_at(ledger: &Ledger, id: &IncidentId) -> Result<Option<jiff::Timestamp>, JournalError> {
    Ok(ledger.index.incident(id)?.and_then(|incident| incident.closed_at))
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
