//! What a heal cost, counted. A number that cannot be known is `None`, never a guess.

use serde::{Deserialize, Serialize};

/// Rows of one table, before and after.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableLoss {
    /// The table.
    pub table: String,
    /// Rows that are there now.
    pub rows_kept: u64,
    /// Rows that were there and are not; `None` where it cannot be known.
    pub rows_lost: Option<u64>,
    /// Of those kept: put together from what indexes had of them.
    #[serde(default, skip_serializing_if = "is_none")]
    pub rows_rebuilt: u64,
    /// Of those kept: taken from the other source, the backup or what could be salvaged.
    #[serde(default, skip_serializing_if = "is_none")]
    pub rows_filled: u64,
    /// Rows of which nothing proves that they are as they were.
    #[serde(default, skip_serializing_if = "is_none")]
    pub rows_uncertain: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde gives references
fn is_none(rows: &u64) -> bool {
    *rows == 0
}

/// What a lossy heal kept and lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// Where the present content came from, in words ("backup of 2026-11-22T03:00:00Z").
    pub source: String,
    /// All rows kept.
    pub rows_kept: Option<u64>,
    /// All rows lost; `None` where it cannot be known.
    pub rows_lost: Option<u64>,
    /// Per table, by name.
    pub tables: Vec<TableLoss>,
}

impl Loss {
    /// True when it is *proven* that nothing was lost.
    pub fn is_none_proven(&self) -> bool {
        self.rows_lost == Some(0)
    }
}
