//! Backups as values: what to take, what was taken, what to keep.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Attributes, DatabaseSite, Fingerprint, Owner, TableRows};

/// A request to take a verified backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackupJob {
    /// The source.
    pub site: DatabaseSite,
    /// The configured name of the target.
    pub target: String,
    /// The folder of this target's backups; created 0700 when missing.
    pub folder: PathBuf,
    /// The file system that its folder was on when it was last healthy, as [`super::Place::fs_id`]: refused on any other. `None`: nobody
    /// knows.
    pub fs_id: Option<String>,
    /// Refuse when less than this would stay free on the backup's file system, in bytes; of a small one, less than a sixteenth.
    pub free_floor: u64,
    /// Give up after this many milliseconds.
    pub deadline_ms: u64,
}

/// A place in a WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalPosition {
    /// Salts of the generation.
    pub salt: [u32; 2],
    /// The last commit's frame, counted from 1.
    pub frame: u32,
}

/// What stands beside each backup as `<name>.json`: enough to verify and restore it without guardiand's index.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackupManifest {
    /// The shape's version.
    pub version: u32,
    /// The configured name of the target.
    pub target: String,
    /// The source's path.
    pub source: PathBuf,
    /// It is the so-manieth of its folder: what tells the newest one, whatever the wall clock did meanwhile. 0: taken before
    /// they were numbered.
    #[serde(default)]
    pub number: u64,
    /// When the copy's content was current.
    #[serde(with = "crate::model::millis")]
    pub taken_at: Timestamp,
    /// How long it took.
    pub duration_seconds: f64,
    /// How long writers were kept out (rollback mode).
    pub blocked_seconds: f64,
    /// Bytes.
    pub size: u64,
    /// BLAKE3 of the file, hex.
    pub blake3: String,
    /// Rows per table.
    pub tables: Vec<TableRows>,
    /// The schema as SQL.
    pub schema: String,
    /// The source's schema cookie, where it was the same before the copy and after it. An online backup has another.
    #[serde(default)]
    pub schema_cookie: Option<u32>,
    /// `wal` or the rollback mode of the source.
    pub journal_mode: String,
    /// Bytes a page.
    pub page_size: u32,
    /// The source's files before the copy, when they were the same after it.
    pub source_fingerprint: Option<Fingerprint>,
    /// The source's WAL, when it was of one generation before the copy and after it: how far it had got after it.
    #[serde(default)]
    pub wal: Option<WalPosition>,
    /// The source's owner and mode.
    pub owner: Owner,
    /// What else its source's file had.
    #[serde(default)]
    pub attributes: Option<Attributes>,
    /// When the copy last passed `integrity_check`.
    #[serde(with = "crate::model::millis")]
    pub verified_at: Timestamp,
    /// Bundled SQLite that took it.
    pub sqlite_version: String,
    /// Why it is none any more: its file was found changed. It is kept, for rows may be salvaged from it, and never restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damaged: Option<String>,
}

/// A backup on disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackupEntry {
    /// The database file.
    pub file: PathBuf,
    /// What is known of it.
    pub manifest: BackupManifest,
}

impl BackupEntry {
    /// Orders backups by when they were taken: by their numbers, for a wall clock can be set back.
    pub fn age_order(&self) -> (u64, Timestamp, &std::path::Path) {
        (self.manifest.number, self.manifest.taken_at, &self.file)
    }
}

/// Which backups to keep: the union of the rules; `last` always stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keep {
    /// The newest so many.
    #[serde(default)]
    pub last: u32,
    /// One an hour for so many hours.
    #[serde(default)]
    pub hourly: u32,
    /// One a day for so many days.
    #[serde(default)]
    pub daily: u32,
    /// One a week for so many weeks.
    #[serde(default)]
    pub weekly: u32,
}

/// A request to apply the retention.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PruneJob {
    /// The folder of one target's backups.
    pub folder: PathBuf,
    /// What to keep.
    pub keep: Keep,
    /// Then the oldest go until all together are below this many bytes; `keep.last` (at least one) always stays.
    pub max_bytes: Option<u64>,
    /// The wall clock now; age rules do nothing while any backup is from the future (a clock step).
    pub now: Timestamp,
}

/// A request to restore a backup to a path where nothing is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RestoreJob {
    /// The backup's database file.
    pub backup: PathBuf,
    /// Where to put it; refused when anything is there, or a side file of it is.
    pub to: PathBuf,
}

/// What a restore put where.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Restored {
    /// The new database.
    pub path: PathBuf,
    /// Its rows.
    pub tables: Vec<TableRows>,
    /// Which moment its content is of.
    #[serde(with = "crate::model::millis")]
    pub taken_at: Timestamp,
    /// Bytes.
    pub size: u64,
}
