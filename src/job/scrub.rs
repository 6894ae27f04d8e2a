//! A scrub as values: what to look through, what was found.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::DatabaseSite;

/// A request to scrub a database.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScrubJob {
    /// The database.
    pub site: DatabaseSite,
    /// Faults that are told; all are counted.
    pub faults_max: usize,
    /// Also what indexes hold against what their tables hold, and the tables' rules.
    #[serde(default)]
    pub full: bool,
}

/// What a scrub came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScrubVerdict {
    /// Nothing is wrong with the structure.
    Clean,
    /// Something is.
    Damaged,
    /// It could not be told.
    Unknown,
}

/// What a scrub found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scrubbed {
    /// The database.
    pub path: PathBuf,
    /// What it came to.
    pub verdict: ScrubVerdict,
    /// Why it could not be told, or why a private copy was looked through and what that says of the files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Pages that were looked at.
    pub pages: u32,
    /// Bytes per page; 0 where the header does not tell.
    pub page_size: u32,
    /// How long the pass took, in seconds: reading, judging and the books.
    pub seconds: f64,
    /// Bytes of pages by these seconds.
    pub bytes_per_second: f64,
    /// What is wrong, at most as many as asked for.
    pub faults: Vec<ScrubbedFault>,
    /// How much is wrong.
    pub faults_total: u64,
    /// Pages on the freelist.
    pub free_pages: u32,
    /// The trees, in the order of the schema.
    pub tables: Vec<ScrubbedTable>,
    /// Tables that SQLite's own check was left with, or would have been; of virtual tables' rules a full scrub alone has it look at any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by_sqlite: Vec<ScrubbedBySqlite>,
    /// Of a full scrub: rows that break a rule of their table, in SQLite's words. That is the program's content, and no damage.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub content: Vec<String>,
}

/// A table that is not for a scrub alone to judge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubbedBySqlite {
    /// The table.
    pub table: String,
    /// What it has.
    pub why: String,
    /// SQLite's own check of it ran to its end.
    pub checked: bool,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubbedFault {
    /// The page; 0 for what is no page's.
    pub page: u32,
    /// Whose it is: `table t`, `index i of t`, `freelist`.
    pub owner: String,
    /// In words.
    pub what: String,
}

/// A table, or an index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubbedTable {
    /// Its name.
    pub name: String,
    /// Of an index, the table that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index_of: Option<String>,
    /// Pages of its tree.
    pub pages: u32,
    /// Pages of payloads that do not fit there.
    pub overflow_pages: u32,
    /// Rows, or entries.
    pub rows: u64,
    /// Nothing is wrong with its pages.
    pub sound: bool,
}
