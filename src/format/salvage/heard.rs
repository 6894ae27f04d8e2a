//! What SQLite's own tables say of a table whose row in the schema is gone: `sqlite_stat1` how many rows it had when ANALYZE ran, and
//! `sqlite_sequence` the greatest rowid that AUTOINCREMENT gave out. These two are known by what their rows look like, and what they say is
//! only believed where it can be said of no other table.

use std::collections::BTreeMap;

use super::super::page::PageKind;
use super::super::record::Value;
use super::{Leaf, Pages, Survey, values_of};

/// Rows of these tables; more are another's.
const ROWS_MAX: usize = 100_000;
/// So few rows are as many as many a table has.
const FEW_ROWS: u64 = 10;

/// What is said of one table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Heard {
    /// Rows that it had.
    pub rows: Option<u64>,
    /// The greatest rowid that it was given.
    pub greatest: Option<i64>,
    /// Where that stands.
    pub page: u32,
}

/// What a tree of rowids has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Has {
    pub rows: u64,
    pub greatest: i64,
}

impl Heard {
    /// Whether a tree with this is the table that was spoken of, as far as that can be told.
    fn is_of(&self, has: Has) -> bool {
        match (self.rows, self.greatest) {
            (Some(rows), Some(greatest)) => rows == has.rows && has.greatest <= greatest,
            (Some(rows), None) => rows == has.rows && rows >= FEW_ROWS,
            (None, Some(greatest)) => greatest == has.greatest && has.rows >= FEW_ROWS,
            (None, None) => false,
        }
    }
}

/// Names and rowids that fit, before their table is taken for `sqlite_sequence`: many a table has a text and a number.
const SEQUENCES: usize = 2;

/// Which of the trees each of the tables is: those of which one fits the other and no third.
pub(super) fn pairs(heard: &[(usize, Heard)], trees: &[(usize, Has)]) -> BTreeMap<usize, usize> {
    let fits = |heard: &Heard| trees.iter().any(|(_, has)| heard.greatest == Some(has.greatest));
    // By page: rows, and those that fit.
    let mut pages: BTreeMap<u32, (usize, usize)> = BTreeMap::new();
    for (_, heard) in heard.iter().filter(|(_, heard)| heard.greatest.is_some()) {
        let page = pages.entry(heard.page).or_default();
        *page = (page.0 + 1, page.1 + usize::from(fits(heard)));
    }
    // It has no more rows than there are tables, and fits some of them.
    let is_sequence =
        |page| pages.get(&page).is_some_and(|(rows, fitting)| *rows <= trees.len() && *fitting >= SEQUENCES);
    let known = |(table, heard): &(usize, Heard)| {
        (*table, Heard { greatest: heard.greatest.filter(|_| is_sequence(heard.page)), ..*heard })
    };
    let heard: Vec<(usize, Heard)> = heard.iter().map(known).collect();
    let mut pairs = BTreeMap::new();
    for (tree, has) in trees {
        let mut tables = heard.iter().filter(|(_, heard)| heard.is_of(*has));
        if let (Some((table, said)), None) = (tables.next(), tables.next())
            && trees.iter().filter(|(_, has)| said.is_of(*has)).count() == 1
        {
            pairs.insert(*tree, *table);
        }
    }
    pairs
}

impl Survey {
    /// What is said of tables, by their names.
    pub fn heard(&self, pages: &dyn Pages) -> BTreeMap<String, Heard> {
        let mut all: BTreeMap<String, Heard> = BTreeMap::new();
        for number in 2..=self.pages() {
            let note = self.note(number);
            if note.kind != Some(PageKind::TableLeaf) || note.free || !note.sound || !matches!(note.columns, 2 | 3) {
                continue;
            }
            let Some(bytes) = pages.page(number) else { continue };
            let leaf = Leaf::read(&bytes, number, &self.geometry, None);
            let is_overflow = |page: u32| self.note(page).kind.is_none();
            let rows = leaf.rows(pages, &is_overflow);
            let said: Option<Vec<(String, Heard)>> =
                rows.map(|row| self.said(&values_of(&row.payload)).filter(|_| row.is_complete())).collect();
            // One row of another kind, and it is another table's.
            for (name, said) in said.unwrap_or_default() {
                if all.len() >= ROWS_MAX {
                    break;
                }
                let known = all.entry(name).or_default();
                let page = if known.greatest.is_some() { known.page } else { number };
                *known = Heard { rows: known.rows.or(said.rows), greatest: known.greatest.or(said.greatest), page };
            }
        }
        all
    }

    fn said(&self, row: &[Value<'_>]) -> Option<(String, Heard)> {
        let (Some(Value::Text(name)), Some(last)) = (row.first(), row.last()) else { return None };
        let name = self.encoding.decode(name);
        let said = match (row.get(1)?, last, row.len()) {
            (Value::Integer(greatest @ 1..), _, 2) => Heard { greatest: Some(*greatest), ..Heard::default() },
            (Value::Text(_) | Value::Null, Value::Text(stat), 3) => {
                Heard { rows: Some(count_of(&self.encoding.decode(stat))?), ..Heard::default() }
            }
            _ => return None,
        };
        (!name.is_empty()).then_some((name, said))
    }
}

/// How many rows the text of a row of `sqlite_stat1` tells of: integers, each no greater than the one before it, and perhaps words.
fn count_of(stat: &str) -> Option<u64> {
    let mut words = stat.split(' ');
    let count: u64 = words.next()?.parse().ok()?;
    let mut before = count;
    for word in words {
        match word.parse::<u64>() {
            Ok(number) if number <= before && number > 0 => before = number,
            Err(_) if word == "unordered" || word == "noskipscan" || word.starts_with("sz=") => {}
            _ => return None,
        }
    }
    Some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_read_of_what_analyze_writes_and_of_nothing_else() {
        for (stat, count) in [("25", 25), ("3503 11 1", 3503), ("9 9 1 unordered sz=40", 9)] {
            assert_eq!(count_of(stat), Some(count), "{stat}");
        }
        for other in ["", "25 ", "abc", "1 2", "5 0", "5 x", "-3", "2026-01-02", "1.5"] {
            assert_eq!(count_of(other), None, "{other}");
        }
    }

    #[test]
    fn a_name_is_given_where_no_other_could_be_meant() {
        let of = |rows, greatest| Heard { rows, greatest, page: 9 };
        let has = |rows, greatest| Has { rows, greatest };
        let heard = [(7, of(Some(100), None)), (8, of(None, Some(40))), (9, of(Some(50), Some(55)))];
        let trees = [(0, has(100, 100)), (1, has(30, 40)), (2, has(50, 55))];
        assert_eq!(pairs(&heard, &trees), BTreeMap::from([(0, 7), (1, 8), (2, 9)]));
        // One rowid alone that fits is an accident; and so is one of a table with more rows than there are tables.
        assert_eq!(pairs(&heard[..2], &trees), BTreeMap::from([(0, 7)]));
        let many: Vec<(usize, Heard)> = (0..60).map(|at| (at as usize, of(None, Some(at)))).collect();
        assert_eq!(pairs(&many, &trees), BTreeMap::new());
        let beside: Vec<(usize, Heard)> =
            many.iter().map(|(at, said)| (at + 100, Heard { page: 3, ..*said })).chain(heard).collect();
        assert_eq!(pairs(&beside, &trees), BTreeMap::from([(0, 7), (1, 8), (2, 9)]));
        // Two trees that one name fits; two names that fit one tree; rows beyond what was given out; and next to nothing.
        assert_eq!(pairs(&[(7, of(Some(100), None))], &[(0, has(100, 1000)), (1, has(100, 2000))]), BTreeMap::new());
        assert_eq!(pairs(&[(7, of(Some(100), None)), (8, of(Some(100), None))], &[(0, has(100, 9))]), BTreeMap::new());
        let heard = [(7, of(Some(50), Some(60))), (8, of(None, Some(40))), (9, of(None, Some(30)))];
        let trees = [(0, has(50, 61)), (1, has(20, 40)), (2, has(20, 30))];
        assert_eq!(pairs(&heard, &trees), BTreeMap::from([(1, 8), (2, 9)]));
        assert_eq!(
            pairs(&[(7, of(Some(3), None)), (8, of(None, Some(4)))], &[(0, has(3, 9)), (1, has(4, 4))]),
            BTreeMap::new()
        );
    }
}
