//! What programs have open under no name of the database's: found, copied, and held until they have ended.
//!
//! An unlinked file's bytes live as long as somebody has it open. A keeper ([`keep`]) has it open beside its programs, outlives
//! whoever started it, and makes the last copy when they have ended: their own last checkpoint is in that. Each copy is a folder
//! `held-N` in the incident's evidence, whole once it has its manifest, which comes last.

pub(super) mod keep;
mod sight;

pub(in crate::worker) use sight::Sight;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::evidence::{MANIFEST, read_json, same_content, write_json};
use super::while_;
use crate::backup::{BackupError, side_name, stat_of};
use crate::host::{Bytes, Folder, LockMode, OfdLock, Ownership, ask_lock};
use crate::job::{FileFacts, HeldCopy, JobFailure};

/// What the names of the copies begin with.
const PREFIX: &str = "held-";

/// Locked by the keeper as long as it lives.
const LOCK: &str = "held.lock";
const LOCKED: Bytes = Bytes::new(0, 1);

/// The candidate that was built from a copy: once it is at the path, nothing is pending.
const RECLAIMED: &str = "reclaimed.json";

/// The names that a copy's files have: SQLite finds one beside the other.
pub(super) const MAIN: &str = "main";

/// One copy of one side's files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Paper {
    /// The shape's version.
    pub version: u32,
    pub incident: String,
    /// The path that they had.
    pub path: PathBuf,
    pub taken_at: Timestamp,
    /// From 1; there is more than one when programs go on with different files.
    pub side: usize,
    /// Made when nobody had them open any more.
    pub complete: bool,
    /// Somebody used the file at the path meanwhile.
    pub contested: bool,
    /// Whose they are, in words.
    pub by: String,
    pub files: Vec<HeldFile>,
    /// The main file's owner, mode and attributes.
    pub ownership: Ownership,
    /// What was at the path when the keeper began.
    pub at_path: AtPath,
    pub remarks: Vec<String>,
    /// For people: how to use it by hand.
    pub put_back: String,
}

/// One file of a copy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct HeldFile {
    /// `main`, `main-wal`, `main-journal`.
    pub name: String,
    /// What `stat` said of the file that was held.
    pub facts: FileFacts,
    pub blake3: String,
}

impl Paper {
    pub(super) fn file(&self, suffix: &str) -> Option<&HeldFile> {
        self.files.iter().find(|file| file.name.strip_prefix(MAIN) == Some(suffix))
    }
}

/// The files at the path.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct AtPath {
    pub main: Option<FileFacts>,
    pub wal: Option<FileFacts>,
}

impl AtPath {
    /// What is no regular file has no commit: it keeps nobody from copying what is held, and only from putting it back.
    pub(super) fn of(folder: &Folder, name: &OsStr) -> Result<AtPath, JobFailure> {
        let look = |name: &OsStr| match stat_of(folder, name) {
            Err(BackupError::Source { .. }) => Ok(None),
            looked => looked.map_err(JobFailure::from),
        };
        Ok(AtPath { main: look(name)?, wal: look(&side_name(name, "-wal"))? })
    }

    /// Why what is there now is not what was there, if somebody has committed to it. A file without a byte has no commit.
    fn written_since(&self, now: &AtPath, paper: &Paper) -> Option<&'static str> {
        let differs = |was: &Option<FileFacts>, is: &Option<FileFacts>, suffix: &str| match (was, is) {
            (_, None) => false,
            (_, Some(is)) if is.size == 0 || paper.file(suffix).is_some_and(|held| held.facts.ino == is.ino) => false,
            (Some(was), Some(is)) => !same_content(was, is),
            (None, Some(_)) => true,
        };
        if differs(&self.main, &now.main, "") {
            return Some("the file at the path was written or replaced since");
        }
        differs(&self.wal, &now.wal, "-wal").then_some("the -wal at the path was written or replaced since")
    }
}

/// The newest copy of each side, in the order of the sides.
pub(super) fn copies(evidence: &Folder) -> Result<Vec<(Folder, Paper)>, JobFailure> {
    let mut newest: Vec<(Folder, Paper)> = Vec::new();
    for (_, name) in numbered(evidence)? {
        let folder = match evidence.open_folder_in(&name) {
            Ok(folder) => folder,
            Err(error) if error.is_absent() => continue,
            Err(error) => return Err(while_("opening a copy of what is held")(error)),
        };
        let Some(paper) = read_json::<Paper>(&folder, MANIFEST)? else { continue };
        newest.retain(|(_, known)| known.side != paper.side);
        newest.push((folder, paper));
    }
    newest.sort_by_key(|(_, paper)| paper.side);
    Ok(newest)
}

/// The copies' names, the oldest first.
fn numbered(evidence: &Folder) -> Result<Vec<(u32, OsString)>, JobFailure> {
    let names = evidence.names().map_err(while_("listing the evidence folder"))?;
    let mut numbered: Vec<(u32, OsString)> =
        names.into_iter().filter_map(|name| Some((name.to_str()?.strip_prefix(PREFIX)?.parse().ok()?, name))).collect();
    numbered.sort();
    Ok(numbered)
}

/// What is kept in `evidence` and is not back at `path`; nothing where there is no such folder.
pub(in crate::worker) fn pending(evidence: &Path, path: &Path) -> Option<HeldCopy> {
    let evidence = Folder::open(evidence).ok()?;
    let now = match Folder::of_entry(path) {
        Ok((folder, name)) => AtPath::of(&folder, &name).ok()?,
        // A folder that is gone, or something else in its place.
        Err(error) if error.is_absent() || error.errno() == Some(Errno::NOTDIR) => AtPath::default(),
        Err(_) => return None,
    };
    pending_beside(&evidence, &now).ok().flatten()
}

pub(super) fn pending_in(evidence: &Folder, target: &Folder, name: &OsStr) -> Result<Option<HeldCopy>, JobFailure> {
    pending_beside(evidence, &AtPath::of(target, name)?)
}

fn pending_beside(evidence: &Folder, now: &AtPath) -> Result<Option<HeldCopy>, JobFailure> {
    let copies = copies(evidence)?;
    let Some((folder, paper)) = copies.first() else { return Ok(None) };
    let reclaimed: Option<FileFacts> = read_json(evidence, RECLAIMED)?;
    if reclaimed.zip(now.main).is_some_and(|(candidate, main)| candidate.ino == main.ino) {
        return Ok(None);
    }
    let contested = match copies.len() {
        1 if paper.contested => Some("another program used the file at the path meanwhile".to_owned()),
        1 => paper.at_path.written_since(now, paper).map(str::to_owned),
        sides => Some(format!("programs went on with {sides} different sets of files")),
    };
    Ok(Some(HeldCopy {
        folder: folder.path().to_owned(),
        by: paper.by.clone(),
        taken_at: paper.taken_at,
        complete: copies.iter().all(|(_, paper)| paper.complete),
        kept: is_kept(evidence),
        contested,
    }))
}

/// Notes the candidate that was built from a copy.
pub(super) fn note_reclaimed(evidence: &Folder, candidate: &FileFacts) -> Result<(), JobFailure> {
    write_json(evidence, RECLAIMED, candidate)
}

/// A keeper lives.
pub(super) fn is_kept(evidence: &Folder) -> bool {
    let Ok(file) = evidence.open_in(LOCK) else { return false };
    // Asked, and not taken: a keeper that begins just now must not find it taken.
    !matches!(ask_lock(&file, LOCKED, LockMode::Write), Ok(None))
}

/// The keeper's lock.
pub(super) fn lock(evidence: &Folder) -> Result<OfdLock, JobFailure> {
    let file = match evidence.open_for_writing_in(LOCK) {
        Err(error) if error.is_absent() => evidence.create_in(LOCK, 0o600),
        found => found,
    };
    let file = file.map_err(while_("opening the keeper's lock"))?;
    OfdLock::exclusive(file.into(), LOCKED).map_err(while_("locking out a second keeper"))
}
