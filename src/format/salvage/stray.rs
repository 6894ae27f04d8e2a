//! The schema as far as there is one: the tree at page 1, and leaves of it that nothing leads to.

use std::collections::BTreeSet;

use super::super::page::PageKind;
use super::super::schema::{SchemaKind, SchemaRow, read_schema};
use super::{Leaf, Pages, Survey};

/// Rows of a schema.
#[derive(Debug, Clone, Default)]
pub struct FoundSchema {
    /// In the order in which they were found: the tree's own first.
    pub rows: Vec<SchemaRow>,
    /// Something of the schema's tree could not be read.
    pub hurt: bool,
    /// Pages that it stands on.
    pub pages: BTreeSet<u32>,
}

/// Of a schema; more is no schema but a table that looks like one.
const ROWS_MAX: usize = 100_000;

impl Survey {
    /// Reads the schema. Of two rows for one object the first counts: the tree's own, then the one on the later page.
    pub fn schema(&self, pages: &dyn Pages) -> FoundSchema {
        let (count, source) = (self.pages(), |number| pages.page(number));
        let mut found = FoundSchema::default();
        let mut seen = BTreeSet::new();
        let mut take = |found: &mut FoundSchema, row: SchemaRow| {
            if found.rows.len() < ROWS_MAX && seen.insert((row.kind, row.name.to_lowercase())) {
                found.rows.push(row);
            }
        };
        let schema = read_schema(count, &self.geometry, self.encoding, source);
        found.hurt = !schema.faults.is_empty();
        found.pages.insert(1);
        for placed in schema.rows {
            found.pages.insert(placed.page);
            take(&mut found, placed.row);
        }
        // Page 1 carved, where its cell pointers are hurt; then leaves anywhere else, as a whole tree needs none of.
        let strays: Vec<u32> = (1..=count)
            .filter(|number| {
                let note = self.note(*number);
                let leaf = note.kind == Some(PageKind::TableLeaf) && note.columns == 5 && !note.free;
                *number == 1 || leaf && !found.pages.contains(number)
            })
            .collect();
        let wanted = found.hurt || found.rows.is_empty();
        for number in strays.into_iter().filter(|_| wanted) {
            let Some(bytes) = pages.page(number) else { continue };
            let leaf = Leaf::read(&bytes, number, &self.geometry, Some(5));
            let is_overflow = |page: u32| self.note(page).kind.is_none();
            let rows: Vec<_> =
                leaf.rows(pages, &is_overflow).map(|row| SchemaRow::parse(&row.payload, self.encoding)).collect();
            // A table of five columns whose first is called a kind by chance is no schema: all rows must be.
            if number != 1 && (rows.is_empty() || rows.iter().any(Option::is_none)) {
                continue;
            }
            found.pages.insert(number);
            rows.into_iter().flatten().for_each(|row| take(&mut found, row));
        }
        // An index's row names its table, also where that one's own row is gone.
        found.rows.retain(|row| !row.name.is_empty() || row.kind == SchemaKind::Table);
        found
    }
}
