//! The page map of an earlier, sound moment: what the salvage remembers.

use std::collections::BTreeSet;
use std::io::Read as _;

use super::plan::Plan;
use super::view::{View, open};
use crate::format::PageMap;
use crate::format::salvage::{Recall, Survey};
use crate::job::{PAGE_MAP, SalvageJob};

/// The map that is named, or the one beside the backup. It is only a hint: one that cannot be read is none.
pub(super) fn map_of(job: &SalvageJob) -> Option<PageMap> {
    let beside = || Some(job.backup.as_deref()?.parent()?.join(PAGE_MAP));
    let file = open(&job.map.clone().or_else(beside)?).ok()??;
    let mut bytes = Vec::new();
    file.take(PageMap::len_max()).read_to_end(&mut bytes).ok()?;
    PageMap::decode(&bytes).ok()
}

impl Plan {
    /// Tables of which a page is what it was, where the schema does not tell of all: their roots, and the names of those that nothing
    /// else names.
    pub(super) fn name_by_memory(&mut self, recall: &Recall, view: &View<'_>, survey: &Survey) {
        let all = self.tables.iter().map(|table| &table.row).chain(&self.virtuals).chain(&self.internal);
        let mut taken: BTreeSet<u32> = all.chain(&self.indexes).map(|row| row.root).collect();
        for table in recall.tables(view, survey) {
            let root = if taken.contains(&table.root) { 0 } else { table.root };
            let known = self.tables.iter_mut().find(|known| known.row.name.eq_ignore_ascii_case(&table.name));
            match known {
                Some(known) if known.row.root == 0 => known.row.root = root,
                Some(_) => {}
                // SQLite's own, and a tree of keys of which nothing tells where it begins.
                None if table.name.to_ascii_lowercase().starts_with("sqlite_") => {}
                None if root == 0 && !table.has_rowids => {}
                None if taken.contains(&table.root) && table.root != 0 => {}
                None => self.add_named(table.name, root),
            }
            taken.insert(root);
        }
    }

    /// Which of the trees each of a map's is: by its name, or, where it has been given another, by its root.
    pub(super) fn places(&self, recall: &Recall) -> Vec<Option<usize>> {
        let tables = self.tables.iter().map(|table| &table.row).chain(&self.internal).enumerate();
        let tables: Vec<_> = tables.collect();
        let indexes: Vec<_> = self.index_trees().collect();
        let is_known = |name: &str| recall.trees().iter().any(|tree| tree.name.eq_ignore_ascii_case(name));
        let place = |(root, is_index, name): (u32, bool, &str)| {
            let among = if is_index { &indexes } else { &tables };
            let named = among.iter().find(|(_, row)| row.name.eq_ignore_ascii_case(name));
            let renamed = || among.iter().find(|(_, row)| row.root != 0 && row.root == root && !is_known(&row.name));
            named.or_else(renamed).map(|(at, _)| *at)
        };
        recall.trees().iter().map(|tree| place((tree.root, tree.is_index, &tree.name))).collect()
    }
}
