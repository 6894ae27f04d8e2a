//! Rescuing rows out of a wreck into a new database.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A request to salvage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SalvageJob {
    /// The database file, or an incident's evidence folder. Only read.
    pub source: PathBuf,
    /// Where the new database goes; refused when anything is there, or a side file of it is.
    pub to: PathBuf,
    /// A schema as SQL, for what of the source's own cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// A backup of the same database, for what is gone: definitions, and rows by their rowids or keys. Only read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<PathBuf>,
    /// A page map of an earlier, sound moment of the same database: whose pages were that nothing leads to now. Where it is not given,
    /// one that stands beside the backup is taken. One that is of another file does no harm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub map: Option<PathBuf>,
    /// Rowids that no column names may have been given out anew since the backup (VACUUM does): its rows are not known by them.
    #[serde(default)]
    pub renumbered: bool,
    /// Also what was deleted and is still there, into `lost_and_found`.
    #[serde(default)]
    pub deleted: bool,
}

/// What a salvage brought back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Salvaged {
    /// The new database.
    pub path: PathBuf,
    /// Nothing was found to be damaged: it has all that the source had.
    pub clean: bool,
    /// What was found to be damaged, and what was done about it, in words.
    pub damage: Vec<String>,
    /// Every table.
    pub tables: Vec<SalvagedTable>,
    /// Rows of which nobody can tell the table, in `lost_and_found`.
    pub lost_and_found: u64,
    /// Rows of pages that were freed, in `lost_and_found` with the root page 0; only where they were asked for.
    #[serde(default)]
    pub deleted: u64,
    /// Bytes per page.
    pub page_size: u32,
    /// Pages of the source.
    pub pages: u32,
    /// Bytes of the new database.
    pub size: u64,
}

/// A table's rows, by what became of them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SalvagedTable {
    /// Its name.
    pub table: String,
    /// Rows in the new database.
    pub kept: u64,
    /// Rows that are known to be lost: cells that cannot be read, and rows that only an index still has. Where no index has every row,
    /// pages that are gone altogether are not counted in rows.
    pub lost: u64,
    /// Of the rows kept: put together from indexes, which have all of their columns.
    pub rebuilt: u64,
    /// Of the rows kept: as the backup has them. Where an index has the row too, it agrees; else the row was there when the backup was
    /// made, and stands where a part of the table is missing.
    #[serde(default)]
    pub from_backup: u64,
    /// Of those: no index names them. They may have been changed or deleted since.
    #[serde(default)]
    pub unproven: u64,
    /// Rows whose overflow pages are damaged: kept where all bytes seem to be there, else with what there is in `lost_and_found`.
    pub uncertain: u64,
    /// Rows that a surer one with the same key stands in for.
    pub repeated: u64,
    /// Rows that a constraint refuses; they are in `lost_and_found`.
    pub refused: u64,
    /// Of the rows kept: from pages that nothing led to, given to the table by what they look like.
    pub adopted: u64,
    /// Of the rows kept: found by their own bytes on pages whose pointers to them are gone.
    #[serde(default)]
    pub carved: u64,
    /// A part of its tree is missing and was not found: more rows may be lost than are counted.
    pub incomplete: bool,
    /// Its definition could not be read: names and types of its columns were made up.
    pub made_up: bool,
}
