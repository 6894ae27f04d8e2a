//! A map of a database that was sound: whose each page is, and a hash of what was on it.
//!
//! | bytes | what |
//! | --- | --- |
//! | 16 | [`MAGIC`] |
//! | 5 × 4 | version, bytes per page, pages, trees, bytes of the next field |
//! | … | what its maker says of the moment |
//! | … | per tree: root (4), an index or not (1), its name and its table's, each behind its length (2) |
//! | 4 per page | the place of its tree in that list; [`NOBODY`] for a page of none |
//! | 16 per page | the hash; zeros where it is not known |
//! | 32 | BLAKE3 of all that comes before |
//!
//! Numbers are little-endian. Twenty bytes a page: half a percent of a database with pages of 4096 bytes. The format is this project's own.

use std::sync::OnceLock;

use thiserror::Error;

use super::{PageSource, SchemaKind, Scrub};

/// What a map begins with.
const MAGIC: &[u8; 16] = b"guardiand pages\n";
/// Of this layout.
const VERSION: u32 = 1;
/// Bytes of the sum at the end.
const SUM_LEN: usize = 32;
/// Of a page that no tree has.
const NOBODY: u32 = u32::MAX;
/// Pages of the largest database that is mapped: the map of one takes 80 MiB.
pub const MAP_PAGES_MAX: u32 = 4 << 20;
/// Bytes that a map may have beside those of its pages: more are no map's.
const REST_MAX: usize = 16 << 20;

/// Sixteen bytes of BLAKE3: two pages that differ by accident never have the same, nor can any be found that do.
pub type PageHash = [u8; 16];

/// Of a page whose content is not known.
const UNKNOWN: PageHash = [0; 16];

/// The hash of a page's bytes.
pub fn page_hash(page: &[u8]) -> PageHash {
    let mut hash = UNKNOWN;
    hash.copy_from_slice(blake3::hash(page).as_bytes().first_chunk::<16>().unwrap_or(&UNKNOWN));
    hash
}

/// A tree of a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappedTree {
    /// Its root page.
    pub root: u32,
    /// It is an index.
    pub is_index: bool,
    /// Its name in the schema.
    pub name: String,
    /// The table that it belongs to.
    pub table: String,
}

/// The map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageMap {
    /// Bytes per page.
    pub page_size: u32,
    /// What its maker says of the moment.
    pub about: Vec<u8>,
    /// The trees, in the order of the schema; none where whose the pages are was not told.
    pub trees: Vec<MappedTree>,
    /// By page, from page 1: a place in `trees`, or [`NOBODY`].
    owners: Vec<u32>,
    /// By page, from page 1.
    hashes: Vec<PageHash>,
}

/// Why bytes are no map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PageMapError {
    /// Something else, or cut.
    #[error("it is no page map")]
    NoMap,
    /// Of a later layout.
    #[error("it is of version {0}, which is newer than this program's")]
    Newer(u32),
    /// Damaged.
    #[error("its checksum is wrong")]
    Sum,
    /// It has more than a map may.
    #[error("it is larger than a map may be")]
    TooLarge,
}

impl PageMap {
    /// The map of pages with these hashes, of which nobody knows whose they are.
    pub fn of_hashes(page_size: u32, hashes: Vec<PageHash>) -> PageMap {
        PageMap { page_size, about: Vec::new(), trees: Vec::new(), owners: vec![NOBODY; hashes.len()], hashes }
    }

    /// The map of what a scrub found sound, and of the pages as they were read for that. `None` unless it found everything sound,
    /// was asked for the pages' owners, and read every page.
    pub fn of_scrub(found: &Scrub, page_size: u32, hashes: Vec<PageHash>, about: Vec<u8>) -> Option<PageMap> {
        let is_whole = found.faults_total == 0 && hashes.len() == found.pages as usize;
        if !is_whole || found.pages > MAP_PAGES_MAX || hashes.contains(&UNKNOWN) {
            return None;
        }
        let owner = |page| found.owner_of(page).and_then(|tree| u32::try_from(tree).ok()).unwrap_or(NOBODY);
        let trees = found.trees.iter().map(|tree| MappedTree {
            root: tree.root,
            is_index: tree.kind == SchemaKind::Index,
            name: tree.name.clone(),
            table: tree.table.clone(),
        });
        Some(PageMap {
            page_size,
            about,
            trees: trees.collect(),
            owners: (1..=found.pages).map(owner).collect(),
            hashes,
        })
    }

    /// Pages.
    pub fn pages(&self) -> u32 {
        u32::try_from(self.hashes.len()).unwrap_or(u32::MAX)
    }

    /// What was on a page (from 1); `None` where that is not known.
    pub fn hash_of(&self, page: u32) -> Option<PageHash> {
        let hash = *self.hashes.get((page as usize).checked_sub(1)?)?;
        (hash != UNKNOWN).then_some(hash)
    }

    /// Whose a page (from 1) was, or the rest of a payload on it.
    pub fn owner_of(&self, page: u32) -> Option<&MappedTree> {
        self.place_of(page).map(|(_, tree)| tree)
    }

    /// The same, with its place among the trees.
    pub fn place_of(&self, page: u32) -> Option<(usize, &MappedTree)> {
        let owner = *self.owners.get((page as usize).checked_sub(1)?)? as usize;
        self.trees.get(owner).map(|tree| (owner, tree))
    }

    /// Forgets what was on a page.
    pub fn forget(&mut self, page: u32) {
        if let Some(hash) = (page as usize).checked_sub(1).and_then(|at| self.hashes.get_mut(at)) {
            *hash = UNKNOWN;
        }
    }

    /// The bytes of a map.
    ///
    /// # Errors
    /// [`PageMapError::TooLarge`].
    pub fn encode(&self) -> Result<Vec<u8>, PageMapError> {
        let mut bytes = Vec::with_capacity(self.hashes.len() * 20 + 4096);
        let count = |count: usize| u32::try_from(count).map_err(|_| PageMapError::TooLarge);
        bytes.extend(MAGIC);
        for field in
            [VERSION, self.page_size, count(self.hashes.len())?, count(self.trees.len())?, count(self.about.len())?]
        {
            bytes.extend(field.to_le_bytes());
        }
        bytes.extend(&self.about);
        for tree in &self.trees {
            bytes.extend(tree.root.to_le_bytes());
            bytes.push(u8::from(tree.is_index));
            for name in [&tree.name, &tree.table] {
                bytes.extend(u16::try_from(name.len()).map_err(|_| PageMapError::TooLarge)?.to_le_bytes());
                bytes.extend(name.as_bytes());
            }
        }
        if self.pages() > MAP_PAGES_MAX || bytes.len() > REST_MAX {
            return Err(PageMapError::TooLarge);
        }
        self.owners.iter().for_each(|owner| bytes.extend(owner.to_le_bytes()));
        self.hashes.iter().for_each(|hash| bytes.extend(hash));
        let sum = blake3::hash(&bytes);
        bytes.extend(sum.as_bytes());
        Ok(bytes)
    }

    /// How long a map can be, in bytes: whoever reads one takes no more.
    pub fn len_max() -> u64 {
        u64::from(MAP_PAGES_MAX) * 20 + (REST_MAX + SUM_LEN) as u64
    }

    /// Reads a map. Nothing of it is believed before its checksum is.
    ///
    /// # Errors
    /// [`PageMapError`].
    pub fn decode(bytes: &[u8]) -> Result<PageMap, PageMapError> {
        let (content, sum) = bytes.split_last_chunk::<SUM_LEN>().ok_or(PageMapError::NoMap)?;
        if !content.starts_with(MAGIC) {
            return Err(PageMapError::NoMap);
        }
        if blake3::hash(content) != blake3::Hash::from(*sum) {
            return Err(PageMapError::Sum);
        }
        let head = MapHead::decode(content, bytes.len() as u64)?;
        let mut rest = Rest(content.get(head.owners_at as usize..).unwrap_or_default());
        let (owners, hashes) = (rest.take(head.pages as usize * 4)?, rest.take(head.pages as usize * 16)?);
        Ok(PageMap {
            page_size: head.page_size,
            about: head.about,
            trees: head.trees,
            owners: owners.as_chunks().0.iter().map(|owner| u32::from_le_bytes(*owner)).collect(),
            hashes: hashes.as_chunks().0.to_vec(),
        })
    }
}

/// What a map says before it says anything of single pages, and where it says that: for whoever asks a few pages of a large one, and leaves
/// the rest where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapHead {
    /// Bytes per page.
    pub page_size: u32,
    /// Pages.
    pub pages: u32,
    /// What its maker says of the moment.
    pub about: Vec<u8>,
    /// The trees.
    pub trees: Vec<MappedTree>,
    owners_at: u64,
}

impl MapHead {
    /// The most bytes that it takes.
    pub const LEN_MAX: u64 = REST_MAX as u64;

    /// Reads it from the beginning of a map of so many bytes, whose checksum is the caller's to look at.
    ///
    /// # Errors
    /// [`PageMapError`].
    pub fn decode(beginning: &[u8], len: u64) -> Result<MapHead, PageMapError> {
        let mut rest = Rest(beginning);
        if rest.take(MAGIC.len())? != MAGIC {
            return Err(PageMapError::NoMap);
        }
        let version = rest.number()?;
        if version != VERSION {
            return Err(PageMapError::Newer(version));
        }
        let (page_size, pages, trees, about) = (rest.number()?, rest.number()?, rest.number()?, rest.number()?);
        if pages > MAP_PAGES_MAX {
            return Err(PageMapError::TooLarge);
        }
        let about = rest.take(about as usize)?.to_vec();
        let trees = (0..trees)
            .map(|_| {
                let (root, is_index) = (rest.number()?, rest.flag()?);
                Ok(MappedTree { root, is_index, name: rest.name()?, table: rest.name()? })
            })
            .collect::<Result<_, _>>()?;
        let owners_at = (beginning.len() - rest.0.len()) as u64;
        if owners_at + u64::from(pages) * 20 + SUM_LEN as u64 != len {
            return Err(PageMapError::NoMap);
        }
        Ok(MapHead { page_size, pages, about, trees, owners_at })
    }

    /// Where a page's (from 1) four bytes are that say whose it is.
    pub fn owner_at(&self, page: u32) -> Option<u64> {
        let before = page.checked_sub(1).filter(|before| *before < self.pages)?;
        Some(self.owners_at + u64::from(before) * 4)
    }

    /// Where a page's (from 1) hash is.
    pub fn hash_at(&self, page: u32) -> Option<u64> {
        let before = page.checked_sub(1).filter(|before| *before < self.pages)?;
        Some(self.owners_at + u64::from(self.pages) * 4 + u64::from(before) * 16)
    }
}

/// What is remembered of pages, wherever that is.
pub trait RememberedPages: std::fmt::Debug {
    /// Bytes per page.
    fn page_size(&self) -> u32;

    /// Pages.
    fn pages(&self) -> u32;

    /// The trees.
    fn trees(&self) -> &[MappedTree];

    /// Whose a page (from 1) was: its place among the trees.
    fn place_of(&self, page: u32) -> Option<usize>;

    /// What was on a page (from 1); `None` where that is not known.
    fn hash_of(&self, page: u32) -> Option<PageHash>;
}

impl RememberedPages for PageMap {
    fn page_size(&self) -> u32 {
        self.page_size
    }

    fn pages(&self) -> u32 {
        self.pages()
    }

    fn trees(&self) -> &[MappedTree] {
        &self.trees
    }

    fn place_of(&self, page: u32) -> Option<usize> {
        self.place_of(page).map(|(at, _)| at)
    }

    fn hash_of(&self, page: u32) -> Option<PageHash> {
        self.hash_of(page)
    }
}

/// The hash, unless it is that of a page of which nothing is known.
pub fn known_hash(hash: PageHash) -> Option<PageHash> {
    (hash != UNKNOWN).then_some(hash)
}

/// What is still to be read.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], PageMapError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(PageMapError::NoMap)?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u32, PageMapError> {
        Ok(u32::from_le_bytes(self.take(4)?.try_into().map_err(|_| PageMapError::NoMap)?))
    }

    fn flag(&mut self) -> Result<bool, PageMapError> {
        match self.take(1)? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(PageMapError::NoMap),
        }
    }

    fn name(&mut self) -> Result<String, PageMapError> {
        let len = u16::from_le_bytes(self.take(2)?.try_into().map_err(|_| PageMapError::NoMap)?);
        String::from_utf8(self.take(usize::from(len))?.to_vec()).map_err(|_| PageMapError::NoMap)
    }
}

/// A source that notes the hash of each page as it is first read.
pub struct Hashing<'a, S> {
    source: &'a S,
    page_size: usize,
    hashes: Vec<OnceLock<PageHash>>,
}

impl<'a, S: PageSource> Hashing<'a, S> {
    /// Of so many pages of so many bytes.
    pub fn new(source: &'a S, page_size: u32, pages: u32) -> Hashing<'a, S> {
        Hashing { source, page_size: page_size as usize, hashes: vec![OnceLock::new(); pages as usize] }
    }

    /// The hashes, from page 1; zeros for what was never read.
    pub fn into_hashes(self) -> Vec<PageHash> {
        self.hashes.into_iter().map(|hash| hash.into_inner().unwrap_or(UNKNOWN)).collect()
    }
}

impl<S: PageSource> PageSource for Hashing<'_, S> {
    type Error = S::Error;

    fn read(&self, first: u32, into: &mut [u8]) -> Result<(), S::Error> {
        self.source.read(first, into)?;
        let slots = self.hashes.get((first as usize).saturating_sub(1)..).unwrap_or_default();
        for (slot, page) in slots.iter().zip(into.chunks_exact(self.page_size.max(1))) {
            slot.get_or_init(|| page_hash(page));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> PageMap {
        let tree =
            |name: &str, root| MappedTree { root, is_index: root == 3, name: name.to_owned(), table: "t".to_owned() };
        PageMap {
            page_size: 512,
            about: b"{}".to_vec(),
            trees: vec![tree("t", 2), tree("an index: Zürich", 3)],
            owners: vec![NOBODY, 0, 1, 0],
            hashes: (1..=4_u8).map(|page| page_hash(&[page; 512])).collect(),
        }
    }

    #[test]
    fn a_map_is_read_as_it_was_written() {
        let map = map();
        let bytes = map.encode().unwrap();
        assert_eq!(PageMap::decode(&bytes).unwrap(), map);
        assert_eq!(map.owner_of(3).unwrap().name, "an index: Zürich");
        assert_eq!([map.owner_of(1), map.owner_of(0), map.owner_of(5)], [None; 3]);
        assert_eq!(map.hash_of(4), Some(page_hash(&[4; 512])));
        let mut map = map;
        map.forget(4);
        assert_eq!([map.hash_of(4), map.hash_of(0), map.hash_of(5)], [None; 3]);
    }

    #[test]
    fn no_other_bytes_are_taken_for_a_map() {
        let bytes = map().encode().unwrap();
        for at in 0..bytes.len() {
            let mut hurt = bytes.clone();
            hurt[at] ^= 0x10;
            let expected = if at < MAGIC.len() { PageMapError::NoMap } else { PageMapError::Sum };
            assert_eq!(PageMap::decode(&hurt), Err(expected), "byte {at}");
            assert!(PageMap::decode(&bytes[..at]).is_err(), "cut to {at} bytes");
        }
    }

    /// Whoever writes a map can write its checksum, too: no number in it is believed for that.
    #[test]
    fn numbers_that_are_too_large_are_refused_whatever_the_checksum_says() {
        let bytes = map().encode().unwrap();
        let content = &bytes[..bytes.len() - SUM_LEN];
        for at in 16..content.len().min(80) {
            for value in [u32::MAX, 1 << 31, 1 << 22, 5] {
                let mut hurt = content.to_vec();
                hurt[at..at + 4].copy_from_slice(&value.to_le_bytes());
                let sum = blake3::hash(&hurt);
                hurt.extend(sum.as_bytes());
                if let Ok(read) = PageMap::decode(&hurt) {
                    assert_eq!(read.encode().unwrap(), hurt, "{at}");
                }
            }
        }
        let mut newer = content.to_vec();
        newer[16] = 2;
        let sum = blake3::hash(&newer);
        newer.extend(sum.as_bytes());
        assert_eq!(PageMap::decode(&newer), Err(PageMapError::Newer(2)));
    }
}
