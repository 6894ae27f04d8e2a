//! A table whose row in the schema is gone has a name all the same, where one of its indexes' rows is left; and the index's entries say
//! which rows are its own: they repeat values of theirs, and on a table of rowids the rowid too.

use std::collections::{BTreeMap, BTreeSet};

use super::super::record::Value;
use super::claim::{Claimed, Claims};

/// Index pages that are read for one table, rows of a component that are compared, and of each page so many.
const INDEX_PAGES: usize = 4000;
const ROWS: usize = 200;
const ROWS_OF_PAGE: usize = 8;

/// Rows of pages that nobody owns, to be found in an index.
pub(super) struct Sample {
    has_rowids: bool,
    rows: Vec<(Option<i64>, BTreeSet<u64>)>,
}

impl Sample {
    pub(super) fn of(claims: &Claims<'_>, pages: &[u32], has_rowids: bool) -> Sample {
        let mut rows = Vec::new();
        let step = (pages.len() * ROWS_OF_PAGE).div_ceil(ROWS).max(1);
        for page in pages.iter().step_by(step) {
            claims.each_keyed_row(*page, ROWS_OF_PAGE, |rowid, record| {
                rows.push((rowid, record.values().map_while(Result::ok).map(|value| mark(&value)).collect()));
            });
        }
        Sample { has_rowids, rows }
    }

    /// Whether the entries of an index are of these rows: most of them are found, with values that are theirs.
    pub(super) fn is_in(&self, claims: &Claims<'_>, index: &Claimed) -> bool {
        let mut by_rowid: BTreeMap<i64, Vec<&BTreeSet<u64>>> = BTreeMap::new();
        let mut by_value: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (at, (rowid, values)) in self.rows.iter().enumerate() {
            match rowid {
                Some(rowid) => by_rowid.entry(*rowid).or_default().push(values),
                None => values.iter().for_each(|value| by_value.entry(*value).or_default().push(at)),
            }
        }
        let (mut met, mut agreeing, mut told) = (0u32, 0u32, BTreeSet::new());
        for page in index.live.iter().take(INDEX_PAGES) {
            claims.each_keyed_row(*page, usize::MAX, |_, record| {
                let values: Vec<Value<'_>> = record.values().map_while(Result::ok).collect();
                if self.has_rowids {
                    let Some((Value::Integer(rowid), keys)) = values.split_last() else { return };
                    for row in by_rowid.get(rowid).into_iter().flatten() {
                        met += 1;
                        agreeing += u32::from(keys.iter().all(|key| row.contains(&mark(key))));
                        // An index of NULLs alone says nothing.
                        told.extend(keys.iter().filter(|key| **key != Value::Null).map(mark));
                    }
                } else if let Some(first) = values.first() {
                    for at in by_value.get(&mark(first)).into_iter().flatten().take(ROWS) {
                        let Some((_, row)) = self.rows.get(*at) else { continue };
                        if values.iter().all(|value| row.contains(&mark(value))) {
                            told.insert(*at as u64);
                        }
                    }
                }
            });
        }
        if self.has_rowids {
            met > 0 && !told.is_empty() && agreeing * 10 >= met * 9 && met as usize * 2 >= self.rows.len()
        } else {
            !self.rows.is_empty() && told.len() * 10 >= self.rows.len() * 9
        }
    }
}

/// Equal for equal values, and hardly ever else.
fn mark(value: &Value<'_>) -> u64 {
    let (class, number, bytes) = match value {
        Value::Null => (0, 0, &[][..]),
        Value::Integer(number) => (1, number.cast_unsigned(), &[][..]),
        Value::Real(number) => (2, number.to_bits(), &[][..]),
        Value::Text(bytes) => (3, 0, *bytes),
        Value::Blob(bytes) => (4, 0, *bytes),
    };
    let mix = |hash: u64, part: u64| (hash ^ part).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29);
    let whole = mix(mix(0xcbf2_9ce4_8422_2325, class), number);
    bytes.iter().fold(whole, |hash, byte| mix(hash, u64::from(*byte)))
}
