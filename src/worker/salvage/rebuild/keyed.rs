//! The same for tables without rowids: what tells a row from all others is its key, which every entry of every index of the table has.

use std::cmp::Ordering;

use super::known::{Missing, ROOM, ROW};
use super::{Index, Rebuild, tell_lost};
use crate::format::salvage::{CellPlace, Leaf, Pages as _, values_of};
use crate::format::{KeyPart, Owned, Value, key_order};
use crate::job::SalvagedTable;
use crate::sqlite::SqliteFault;
use crate::sqlite::salvage::{IndexColumn, IndexLayout, Inserted, Inserter, Layout};

/// A digest of a key. Two keys with one are not to be met with, and would have to agree in all that an index has of them.
type KeyDigest = u128;

/// Where keys may be missing.
struct KeyGaps {
    parts: Vec<KeyPart>,
    /// `None` for the beginning of the tree, or its end. In their order, and none meets another: each of millions of keys is asked for.
    between: Vec<(Option<Key>, Option<Key>)>,
    /// The first key and the last of each leaf near these of which every row was read: what is not there was deleted. In their order.
    covered: Vec<(Key, Key)>,
}

type Key = Vec<Owned>;

impl KeyGaps {
    /// Of gaps that may lie in each other.
    fn of(parts: Vec<KeyPart>, mut between: Vec<(Option<Key>, Option<Key>)>) -> KeyGaps {
        // None is before all of the first ends, and behind all of the second.
        between.sort_by(|(a, _), (b, _)| match (a, b) {
            (Some(a), Some(b)) => by(a, b, &parts),
            (a, b) => a.is_some().cmp(&b.is_some()),
        });
        between.dedup_by(|(after, before), (_, last)| {
            let is_apart =
                last.as_ref().zip(after.as_ref()).is_some_and(|(a, b)| by(a, b, &parts) != Ordering::Greater);
            if !is_apart {
                let ends = last.take().zip(before.take());
                *last = ends.map(|(a, b)| if by(&a, &b, &parts) == Ordering::Less { b } else { a });
            }
            !is_apart
        });
        KeyGaps { parts, between, covered: Vec::new() }
    }

    /// Whether a row with this key would stand there.
    fn has(&self, key: &[Value<'_>]) -> bool {
        let compared = |known: &Key| order(known, key, &self.parts);
        let before = self.covered.partition_point(|(first, _)| compared(first) != Ordering::Greater).checked_sub(1);
        let covers = before.and_then(|at| self.covered.get(at)).map(|(_, last)| compared(last));
        self.meets(key, key) && covers.is_none_or(|order| order == Ordering::Less)
    }

    /// Whether keys from the first to the last may stand there.
    fn meets(&self, first: &[Value<'_>], last: &[Value<'_>]) -> bool {
        let is_over = |before: &Key| order(before, first, &self.parts) != Ordering::Greater;
        let at = self.between.partition_point(|(_, before)| before.as_ref().is_some_and(is_over));
        let begins = |after: &Key| order(after, last, &self.parts) == Ordering::Less;
        self.between.get(at).is_some_and(|(after, _)| after.as_ref().is_none_or(begins))
    }
}

fn by(one: &Key, other: &Key, parts: &[KeyPart]) -> Ordering {
    order(one, &values(other), parts)
}

fn values(key: &Key) -> Vec<Value<'_>> {
    key.iter().map(Owned::value).collect()
}

fn order(known: &[Owned], key: &[Value<'_>], parts: &[KeyPart]) -> Ordering {
    let known: Vec<Value<'_>> = known.iter().map(Owned::value).collect();
    key_order(&known, key, parts)
}

impl Rebuild<'_> {
    /// Rows of table `at` that are not there.
    pub(super) fn by_keys(
        &self,
        at: usize,
        layout: &Layout,
        indexes: &[Index<'_>],
        inserter: &mut Inserter<'_>,
        told: &mut SalvagedTable,
    ) -> Result<(), SqliteFault> {
        // An index that has every row has told all that is lost; a key that it does not name was deleted.
        let is_whole = indexes.iter().any(|index| index.is_whole);
        let gaps = if is_whole { None } else { self.key_gaps(at, layout, inserter)? };
        let mut gone = 0;
        let mut missing = Missing::new(layout, |_| None);
        while missing.begin_round() {
            self.learn_keys(layout, indexes, &mut missing, inserter)?;
            missing.insert_complete(inserter, told)?;
            self.take_keys_from_backup(layout, (&mut missing, gaps.as_ref()), inserter, told)?;
            gone += missing.count();
        }
        tell_lost(told, gone, is_whole);
        Ok(())
    }

    /// What indexes have and the table has not.
    fn learn_keys(
        &self,
        layout: &Layout,
        indexes: &[Index<'_>],
        missing: &mut Missing<'_, KeyDigest>,
        inserter: &mut Inserter<'_>,
    ) -> Result<(), SqliteFault> {
        for index in indexes {
            let Some(places) = places_of_key(layout, &index.layout) else { continue };
            self.each_entry(index, &mut |values| {
                let key: Option<Vec<Value<'_>>> = places.iter().map(|at| values.get(*at).copied()).collect();
                let Some(key) = key else { return Ok(()) };
                let digest = digest(&key);
                if missing.has_its_turn(digest) && (missing.get(digest).is_some() || !inserter.has_key(&key)?) {
                    missing.learn(digest, &index.layout, values);
                }
                Ok::<_, SqliteFault>(())
            })?;
        }
        Ok(())
    }

    /// Rows that are gone and that the backup has: those of which an index says that they were there; and in gaps, which are only given
    /// where no index has every row. Those that are found leave `missing`.
    fn take_keys_from_backup(
        &self,
        layout: &Layout,
        (missing, gaps): (&mut Missing<'_, KeyDigest>, Option<&KeyGaps>),
        inserter: &mut Inserter<'_>,
        told: &mut SalvagedTable,
    ) -> Result<(), SqliteFault> {
        // Texts go over as bytes: those of another encoding would be others.
        let Some(backup) = self.backup.filter(|backup| backup.view.encoding == self.view.encoding) else {
            return Ok(());
        };
        if missing.count() == 0 && gaps.is_none_or(|gaps| gaps.between.is_empty()) {
            return Ok(());
        }
        let names = |layout: &Layout| layout.columns.iter().map(|column| column.name.clone()).collect::<Vec<_>>();
        let pages = backup.pages_of(&layout.name, |theirs| theirs.key == layout.key && names(theirs) == names(layout));
        for page in pages {
            backup.each_row(page.number, &mut |row| {
                let values = values_of(&row.payload);
                let Some(key) = values.get(..layout.key).filter(|_| row.is_complete() && !row.uncertain) else {
                    return Ok(());
                };
                let digest = digest(key);
                let is_it = match missing.get(digest) {
                    Some(known) => known.agrees(&values),
                    None => {
                        missing.has_its_turn(digest)
                            && gaps.is_some_and(|gaps| gaps.has(key))
                            && !inserter.has_key(key)?
                    }
                };
                if is_it && inserter.insert(None, &values)? == Inserted::Kept {
                    // In a gap no index names it.
                    told.unproven += u64::from(!missing.forget(digest));
                    (told.kept, told.from_backup) = (told.kept + 1, told.from_backup + 1);
                }
                Ok::<_, SqliteFault>(())
            })?;
        }
        Ok(())
    }

    /// Where keys may be missing; `None` where only SQLite knows their order, or where they are too many to be remembered.
    fn key_gaps(&self, at: usize, layout: &Layout, inserter: &Inserter<'_>) -> Result<Option<KeyGaps>, SqliteFault> {
        let parts = match self.backup {
            Some(_) => inserter.key_parts()?,
            None => None,
        };
        let Some(parts) = parts else { return Ok(None) };
        let mut between = Vec::new();
        for gap in self.assignment.key_gaps.get(at).into_iter().flatten() {
            let key = |place: Option<CellPlace>| match place {
                None => Some(None),
                Some(place) => self.key_at(place, layout).map(Some),
            };
            // With an end that cannot be read nobody knows what would stand there.
            between.extend(key(gap.after).zip(key(gap.before)));
        }
        if between.is_empty() {
            return Ok(None);
        }
        let mut gaps = KeyGaps::of(parts, between);
        let covered = self.covered_keys(at, layout, &gaps);
        Ok(covered.map(|covered| {
            gaps.covered = covered;
            gaps
        }))
    }

    fn covered_keys(&self, at: usize, layout: &Layout, gaps: &KeyGaps) -> Option<Vec<(Key, Key)>> {
        let (mut covered, mut size) = (Vec::new(), 0);
        for piece in self.assignment.pieces.get(at)? {
            let note = self.survey.note(piece.page);
            if !note.sound || note.kind.is_none_or(|kind| !kind.is_leaf()) {
                continue;
            }
            let Some(bytes) = self.view.page(piece.page) else { continue };
            let leaf = Leaf::read(&bytes, piece.page, &self.survey.geometry, None);
            let (Some(first), Some(last)) = (leaf.cells.first(), leaf.cells.last()) else { continue };
            let place = |at| CellPlace { page: piece.page, at };
            let (Some(first), Some(last)) = (self.key_at(place(first.at), layout), self.key_at(place(last.at), layout))
            else {
                continue;
            };
            if !gaps.meets(&values(&first), &values(&last)) {
                continue;
            }
            size += ROW + first.iter().chain(&last).map(Owned::len).sum::<usize>();
            if size > ROOM {
                return None;
            }
            covered.push((first, last));
        }
        covered.sort_by(|(a, _), (b, _)| by(a, b, &gaps.parts));
        Some(covered)
    }

    fn key_at(&self, place: CellPlace, layout: &Layout) -> Option<Key> {
        let bytes = self.view.page(place.page)?;
        let mut leaf = Leaf::read(&bytes, place.page, &self.survey.geometry, None);
        leaf.cells.retain(|cell| cell.at == place.at);
        let row = leaf.rows(self.view, &|page| self.survey.note(page).kind.is_none()).next()?;
        let key: Key = values_of(&row.payload).into_iter().take(layout.key).map(Owned::of).collect();
        (row.is_complete() && !row.uncertain && key.len() == layout.key).then_some(key)
    }
}

/// Where an entry of an index has the columns of its table's key.
fn places_of_key(layout: &Layout, index: &IndexLayout) -> Option<Vec<usize>> {
    let place = |column| index.columns.iter().position(|one| *one == IndexColumn::Column(column));
    (0..layout.key).map(place).collect()
}

/// The same for a float and an integer of the same value: a column of floats stores whole ones as integers.
fn digest(key: &[Value<'_>]) -> KeyDigest {
    let mut hasher = blake3::Hasher::new();
    for value in key {
        match value {
            Value::Null => hasher.update(&[0]),
            Value::Integer(number) => hasher.update(&[1]).update(&number.to_le_bytes()),
            Value::Real(number) if (*number as i64) as f64 == *number => {
                hasher.update(&[1]).update(&(*number as i64).to_le_bytes())
            }
            Value::Real(number) => hasher.update(&[2]).update(&number.to_le_bytes()),
            Value::Text(bytes) => hasher.update(&[3]).update(&(bytes.len() as u64).to_le_bytes()).update(bytes),
            Value::Blob(bytes) => hasher.update(&[4]).update(&(bytes.len() as u64).to_le_bytes()).update(bytes),
        };
    }
    let first = hasher.finalize().as_bytes().first_chunk::<16>().copied().unwrap_or_default();
    KeyDigest::from_le_bytes(first)
}
