//! What is known of rows that are gone, in bounded memory.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::format::{Owned, Value};
use crate::job::SalvagedTable;
use crate::sqlite::SqliteFault;
use crate::sqlite::salvage::{IndexColumn, IndexLayout, Inserted, Inserter, Layout, LayoutColumn};

/// Bytes of rows that are put together at once; what goes beyond waits for the next pass over the indexes. With what is
/// known of every page, and SQLite's cache, it is to stay below 256 MB for 10 GB.
pub(super) const ROOM: usize = 24 << 20;
/// What a row costs beside its values, in bytes.
pub(super) const ROW: usize = 96;
/// What a value costs beside its text or bytes, in bytes.
const VALUE: usize = 32;

impl Owned {
    /// Equal, also where one of them is a REAL that was stored as an integer.
    fn is_same(&self, other: &Owned) -> bool {
        match (self, other) {
            (Owned::Integer(integer), Owned::Real(real)) | (Owned::Real(real), Owned::Integer(integer)) => {
                *integer as f64 == *real
            }
            _ => self == other,
        }
    }

    /// Bytes of memory.
    pub(super) fn len(&self) -> usize {
        match self {
            Owned::Text(bytes) | Owned::Blob(bytes) => VALUE + bytes.len(),
            _ => VALUE,
        }
    }
}

/// What is known of a row that is gone.
#[derive(Debug, Default)]
pub(super) struct Known {
    columns: Vec<Option<Owned>>,
    /// Two indexes say different things: one of them is damaged.
    contradicts: bool,
}

impl Known {
    /// Takes what an entry of an index has of it; so many bytes of memory more.
    fn learn(&mut self, columns: usize, index: &IndexLayout, entry: &[Value<'_>]) -> usize {
        let mut more = 0;
        self.columns.resize(columns, None);
        for (value, column) in entry.iter().zip(&index.columns) {
            let IndexColumn::Column(column) = column else { continue };
            let Some(slot) = self.columns.get_mut(*column) else { continue };
            let value = Owned::of(*value);
            match slot {
                Some(there) => self.contradicts |= !there.is_same(&value),
                None => {
                    more += value.len();
                    *slot = Some(value);
                }
            }
        }
        more
    }

    /// Whether these can be the row's values.
    pub(super) fn agrees(&self, values: &[Value<'_>]) -> bool {
        let is_so = |(at, known): (usize, &Option<Owned>)| match known {
            Some(known) => values.get(at).is_some_and(|value| Owned::of(*value).is_same(known)),
            None => true,
        };
        !self.contradicts && self.columns.iter().enumerate().all(is_so)
    }

    /// The row's values, if all that are stored are known.
    fn complete(&self, layout: &Layout) -> Option<Vec<Value<'_>>> {
        if self.contradicts {
            return None;
        }
        let value = |(at, column): (usize, &LayoutColumn)| match self.columns.get(at) {
            Some(Some(known)) => Some(known.value()),
            _ => (column.is_rowid || column.generated).then_some(Value::Null),
        };
        layout.columns.iter().enumerate().map(value).collect()
    }

    fn size(&self) -> usize {
        self.columns.iter().flatten().map(Owned::len).sum()
    }
}

/// Rows that are gone, by what tells one from all others. As many at once as there is room for, the first of them first: a round has
/// a range of keys, and the next begins where it ended.
pub(super) struct Missing<'a, K> {
    layout: &'a Layout,
    /// What SQLite is to call the row.
    rowid: fn(K) -> Option<i64>,
    rows: BTreeMap<K, Known>,
    /// Bytes, of the rows and of what they may have.
    size: usize,
    room: usize,
    /// The round's first key; what is before it had its turn.
    from: Option<K>,
    /// The first key that it has no room for.
    until: Option<K>,
    has_begun: bool,
}

impl<'a, K: Ord + Copy> Missing<'a, K> {
    pub(super) fn new(layout: &'a Layout, rowid: fn(K) -> Option<i64>) -> Self {
        Missing { layout, rowid, rows: BTreeMap::new(), size: 0, room: ROOM, from: None, until: None, has_begun: false }
    }

    /// Goes on to the next range; whether there is one.
    pub(super) fn begin_round(&mut self) -> bool {
        let is_first = !std::mem::replace(&mut self.has_begun, true);
        self.rows.clear();
        self.size = 0;
        self.from = self.until.take();
        is_first || self.from.is_some()
    }

    /// Whether this round looks at the key.
    pub(super) fn has_its_turn(&self, key: K) -> bool {
        self.from.is_none_or(|from| from <= key) && self.until.is_none_or(|until| key < until)
    }

    pub(super) fn get(&self, key: K) -> Option<&Known> {
        self.rows.get(&key)
    }

    pub(super) fn has_any(&self, keys: RangeInclusive<K>) -> bool {
        self.rows.range(keys).next().is_some()
    }

    pub(super) fn count(&self) -> u64 {
        self.rows.len() as u64
    }

    /// The row was found; whether it was missing.
    pub(super) fn forget(&mut self, key: K) -> bool {
        self.rows.remove(&key).is_some()
    }

    /// Takes what an entry of an index has of the row. The last ones wait for another round when there is no more room.
    pub(super) fn learn(&mut self, key: K, index: &IndexLayout, entry: &[Value<'_>]) {
        let columns = self.layout.columns.len();
        let row = ROW + columns * VALUE;
        if !self.rows.contains_key(&key) {
            self.size += row;
        }
        self.size += self.rows.entry(key).or_default().learn(columns, index, entry);
        while self.size > self.room && self.rows.len() > 1 {
            let Some((key, known)) = self.rows.pop_last() else { break };
            self.size = self.size.saturating_sub(row + known.size());
            self.until = Some(key);
        }
    }

    /// Inserts the rows of which every stored column is known; they are missing no more.
    ///
    /// # Errors
    /// SQLite's at writing.
    pub(super) fn insert_complete(
        &mut self,
        inserter: &mut Inserter<'_>,
        told: &mut SalvagedTable,
    ) -> Result<(), SqliteFault> {
        let mut fault = None;
        let (layout, rowid) = (self.layout, self.rowid);
        self.rows.retain(|key, known| {
            let Some(values) = known.complete(layout).filter(|_| fault.is_none()) else { return true };
            match inserter.insert(rowid(*key), &values) {
                Ok(Inserted::Kept) => {
                    (told.kept, told.rebuilt) = (told.kept + 1, told.rebuilt + 1);
                    false
                }
                Ok(_) => true,
                Err(error) => {
                    fault = Some(error);
                    true
                }
            }
        });
        fault.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::salvage::Layouts;

    #[test]
    fn rounds_take_every_row_once_with_all_that_indexes_say_of_it() {
        let sql = "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b)";
        let mut layouts = Layouts::new().unwrap();
        let layout = layouts.table("t", sql).unwrap();
        let index = |layouts: &mut Layouts, name: &str, on: &str| {
            let made = layouts.index((&layout, sql), name, Some(&format!("CREATE INDEX {name} ON t({on})")));
            made.unwrap().unwrap()
        };
        let indexes = [index(&mut layouts, "by_a", "a"), index(&mut layouts, "by_b", "b")];
        let mut missing = Missing::new(&layout, Some);
        missing.room = 10 * (ROW + 5 * VALUE);
        let (mut seen, mut rounds) = (Vec::new(), 0);
        while missing.begin_round() {
            rounds += 1;
            assert!(rounds < 100, "it goes on");
            for index in &indexes {
                // In an order of the index's own, as a rule not the rows'.
                for rowid in (0..100).map(|at| at * 37 % 100) {
                    if missing.has_its_turn(rowid) {
                        missing.learn(rowid, index, &[Value::Integer(rowid * 2), Value::Integer(rowid)]);
                    }
                }
            }
            assert!(missing.size <= missing.room, "{} bytes", missing.size);
            for (rowid, known) in &missing.rows {
                assert!(known.complete(&layout).is_some(), "row {rowid}, of which both indexes say something");
                seen.push(*rowid);
            }
            if let Some(next) = missing.until {
                assert!(
                    !missing.has_its_turn(next) && missing.has_its_turn(next - 1),
                    "row {next} is the next round's"
                );
            }
        }
        assert_eq!(seen, (0..100).collect::<Vec<i64>>());
        assert!(rounds > 5, "{rounds} rounds");
    }
}
