//! The page map of an earlier, sound moment: what the salvage remembers.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use super::plan::Plan;
use super::view::{View, open};
use crate::format::salvage::{Recall, Survey};
use crate::format::{MapHead, MappedTree, PageHash, PageMap, RememberedPages, known_hash};
use crate::job::{PAGE_MAP, SalvageJob};

/// Bytes of the sum at a map's end.
const SUM_LEN: u64 = 32;
/// Bytes that are hashed at once.
const CHUNK_BYTES: usize = 256 << 10;

/// The map that is named, or the one beside the backup. It is only a hint: one that cannot be read is none.
pub(super) fn map_of(job: &SalvageJob) -> Option<Box<dyn RememberedPages>> {
    let beside = || Some(job.backup.as_deref()?.parent()?.join(PAGE_MAP));
    let file = open(&job.map.clone().or_else(beside)?).ok()??;
    let map = MapFile::of(file).ok()?;
    Some(Box::new(map))
}

/// A map that stays in its file: of a large database few pages are asked for.
#[derive(Debug)]
struct MapFile {
    file: File,
    head: MapHead,
}

impl MapFile {
    /// Nothing of it is believed before its checksum is.
    fn of(file: File) -> io::Result<MapFile> {
        let len = file.metadata()?.len();
        let content = len.checked_sub(SUM_LEN).filter(|_| len <= PageMap::len_max());
        let content = content.ok_or(io::ErrorKind::InvalidData)?;
        let (mut hasher, mut at) = (blake3::Hasher::new(), 0);
        let mut buffer = vec![0; CHUNK_BYTES];
        while at < content {
            let some = buffer.get_mut(..CHUNK_BYTES.min((content - at) as usize)).unwrap_or_default();
            file.read_exact_at(some, at)?;
            hasher.update(some);
            at += some.len() as u64;
        }
        let mut sum = [0; SUM_LEN as usize];
        file.read_exact_at(&mut sum, content)?;
        if hasher.finalize() != blake3::Hash::from(sum) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        // Most of it is names.
        let mut beginning = vec![0; MapHead::LEN_MAX.min(content) as usize];
        file.read_exact_at(&mut beginning, 0)?;
        let head = MapHead::decode(&beginning, len).map_err(io::Error::other)?;
        Ok(MapFile { file, head })
    }

    fn read<const N: usize>(&self, at: Option<u64>) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.file.read_exact_at(&mut bytes, at?).ok().map(|()| bytes)
    }
}

impl RememberedPages for MapFile {
    fn page_size(&self) -> u32 {
        self.head.page_size
    }

    fn pages(&self) -> u32 {
        self.head.pages
    }

    fn trees(&self) -> &[MappedTree] {
        &self.head.trees
    }

    fn place_of(&self, page: u32) -> Option<usize> {
        let owner = u32::from_le_bytes(self.read(self.head.owner_at(page))?) as usize;
        (owner < self.head.trees.len()).then_some(owner)
    }

    fn hash_of(&self, page: u32) -> Option<PageHash> {
        known_hash(self.read(self.head.hash_at(page))?)
    }
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
