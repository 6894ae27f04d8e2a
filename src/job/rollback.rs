//! What rolling a heal back needs to know before anything is touched, as values.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{DatabaseSite, FileFacts, Member, TableRows};

/// A request to say what putting an incident's evidence back would cost. Touches nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WeighRollback {
    /// Where the database is.
    pub site: DatabaseSite,
    /// The incident whose heal is to be taken back.
    pub incident: String,
    /// Its evidence folder.
    pub evidence: PathBuf,
    /// Which of its preservations, from 1; the last when `None`.
    pub generation: Option<u32>,
    /// Rows per table just after the heal, where it counted them.
    pub healed: Vec<TableRows>,
    /// The other databases of its group: those that the heal restored with it come back with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<Member>,
}

/// What putting evidence back would do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Weighed {
    /// The files that would come back. Their hashes have been verified.
    pub source: KeptFiles,
    /// The files that are there now: `main`, `wal`, `journal`.
    pub present: Vec<(String, FileFacts)>,
    /// They are what evidence holds already.
    pub already: bool,
    /// What was committed since the heal, and would be in evidence alone.
    pub since: Since,
    /// Who has the files open, or why that cannot be told.
    pub in_use: Option<String>,
    /// The same of each database of its group that the heal restored with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<WeighedMember>,
}

/// What putting evidence back would do to another database of the group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WeighedMember {
    /// Which.
    pub member: Member,
    /// Its own evidence, within the incident's.
    pub evidence: PathBuf,
    /// What it would cost.
    pub weighed: Weighed,
}

impl Weighed {
    /// The database itself and those that come back with it, each with its name in the group; its own is `None`.
    pub fn all(&self) -> impl Iterator<Item = (Option<&Member>, &Weighed)> {
        let members = self.members.iter().map(|one| (Some(&one.member), &one.weighed));
        std::iter::once((None, self)).chain(members)
    }
}

/// One preservation in an incident's evidence folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeptFiles {
    /// Which one, from 1.
    pub generation: u32,
    /// The folder that the copies are in.
    pub folder: PathBuf,
    /// The database's path.
    pub database: PathBuf,
    /// When they were kept.
    #[serde(with = "crate::model::millis")]
    pub preserved_at: Timestamp,
    /// The files; one that was not there is not listed.
    pub files: Vec<KeptFile>,
    /// What could not be done as it should when they were kept.
    pub remarks: Vec<String>,
}

/// One file in evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptFile {
    /// Its name in evidence: `main`, `wal`, `shm`, `journal`.
    pub name: String,
    /// Where it came from.
    pub original: PathBuf,
    /// Bytes.
    pub size: u64,
    /// BLAKE3, hex.
    pub blake3: String,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its permission bits.
    pub mode: u32,
}

/// What was committed since a heal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Since {
    /// Commits; at least so many when not `exact`.
    pub commits: u64,
    /// The number is proven.
    pub exact: bool,
    /// Tables whose rows are not as many as after the heal, where both could be counted.
    pub rows: Vec<RowsSince>,
    /// How it was counted, or why it could not be.
    pub how: String,
}

/// Rows of one table, then and now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowsSince {
    /// The table.
    pub table: String,
    /// Just after the heal.
    pub then: u64,
    /// Now.
    pub now: u64,
}

impl Since {
    /// Nothing is known to be lost, and nothing can be.
    pub fn nothing(&self) -> bool {
        self.exact && self.commits == 0
    }
}
