//! What a scrub can find wrong, in words.

use thiserror::Error;

use super::super::{
    CellError, ChainError, CoverageError, FreelistFault, PageError, PointerMapKind, RecordError, SchemaFault, TreeFault,
};

/// Something that is wrong, where, and with whose page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScrubFault {
    /// The page; 0 for what is no page's: a count.
    pub page: u32,
    /// Whose it is, in words: `table t`, `index i of t`, `freelist`.
    pub owner: String,
    /// What is wrong.
    pub what: ScrubFaultKind,
}

impl std::fmt::Display for ScrubFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "page {} ({}): {}", self.page, self.owner, self.what)
    }
}

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ScrubFaultKind {
    /// Its header is none.
    #[error(transparent)]
    Page(#[from] PageError),
    /// A cell cannot be read.
    #[error("cell {cell}: {error}")]
    Cell {
        /// Which, from 0.
        cell: u16,
        /// Why.
        error: CellError,
    },
    /// A cell's payload is no record.
    #[error("cell {cell}: {error}")]
    Record {
        /// Which, from 0.
        cell: u16,
        /// Why.
        error: RecordError,
    },
    /// Cells, freeblocks and fragments do not add up.
    #[error(transparent)]
    Coverage(#[from] CoverageError),
    /// A rowid is not above the one before it.
    #[error("cell {cell}: rowid {rowid} is out of order")]
    RowidOrder {
        /// Which, from 0.
        cell: u16,
        /// The rowid.
        rowid: i64,
    },
    /// The rowids of a page are not those that the page above leads to.
    #[error("rowids {least} to {most} stand where only those above {above} and up to {up_to} can be")]
    RowidRange {
        /// The page's least.
        least: i64,
        /// The page's greatest.
        most: i64,
        /// What they must be above; on the left edge of a tree the least rowid of all, which may be there too.
        above: i64,
        /// The greatest that may be there.
        up_to: i64,
    },
    /// A page of an index in a table's tree, or the other way round.
    #[error("it is a page of another kind of tree")]
    OtherTree,
    /// Leaves of one tree lie at different depths.
    #[error("it lies {found} pages deep, and other leaves of its tree {expected}")]
    Depth {
        /// Of this one.
        found: u32,
        /// Of the first leaf.
        expected: u32,
    },
    /// Deeper than any tree is.
    #[error("it lies deeper than any page")]
    TooDeep,
    /// A page that somebody has already.
    #[error("it refers to page {page}, which is {has}")]
    Twice {
        /// The page.
        page: u32,
        /// What it is already.
        has: PageUse,
    },
    /// A child that the database does not have.
    #[error("it refers to page {0}, which the database does not have")]
    OutOfRange(u32),
    /// An overflow chain.
    #[error("from page {first} on: {error}")]
    Chain {
        /// Its first page.
        first: u32,
        /// Why.
        error: ChainError,
    },
    /// The freelist.
    #[error(transparent)]
    Freelist(#[from] FreelistFault),
    /// The header counts otherwise.
    #[error("the freelist has {found} pages, and the header counts {written}")]
    FreelistCount {
        /// On the list.
        found: u32,
        /// By the header.
        written: u32,
    },
    /// Nothing refers to it.
    #[error("it is never used")]
    NeverUsed,
    /// What the pointer map says is not so.
    #[error("the pointer map has {written:?}, and it is {kind:?} of page {parent}")]
    PointerMap {
        /// What it is.
        kind: PointerMapKind,
        /// Who refers to it.
        parent: u32,
        /// The entry: its kind and parent; `None` for one that is none.
        written: Option<(PointerMapKind, u32)>,
    },
    /// The largest root page, which a vacuum goes by.
    #[error("the header has {written} as the largest root page, and it is {found}")]
    LargestRoot {
        /// By the schema.
        found: u32,
        /// By the header.
        written: u32,
    },
    /// Incremental vacuum without pointer maps.
    #[error("the header asks for incremental vacuum in a database without pointer maps")]
    IncrementalVacuum,
    /// More pages by the header than there are.
    #[error("the database counts {written} pages, and {found} are there")]
    PageCount {
        /// There.
        found: u32,
        /// By the header, or by the last commit of the WAL.
        written: u32,
    },
    /// An index and its table.
    #[error("the index has {entries} entries, and its table {rows} rows")]
    IndexCount {
        /// Of the index.
        entries: u64,
        /// Of the table.
        rows: u64,
    },
    /// A key is not behind the one before it.
    #[error("the key of cell {cell} is out of order")]
    KeyOrder {
        /// Which, from 0.
        cell: u16,
    },
    /// Of a unique index.
    #[error("the key of cell {cell} is there twice, and the index is unique")]
    NotUnique {
        /// Which, from 0.
        cell: u16,
    },
    /// An entry of an index is no entry of that index.
    #[error("an entry has other columns than the {expected} of the index")]
    EntryColumns {
        /// By the definition.
        expected: usize,
    },
    /// As many as they should be, and not the same.
    #[error("its entries are not those of its table's rows")]
    IndexContent,
    /// The schema.
    #[error(transparent)]
    Schema(#[from] SchemaFault),
    /// A table or an index of the schema that has no root page.
    #[error("{0} is no root page")]
    NoRoot(u32),
}

impl From<TreeFault> for ScrubFaultKind {
    fn from(fault: TreeFault) -> ScrubFaultKind {
        ScrubFaultKind::Schema(SchemaFault::Tree(fault))
    }
}

/// What a page is used for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PageUse {
    /// Nothing refers to it.
    #[default]
    Nothing,
    /// The root of a tree.
    Root,
    /// Below a root.
    Tree,
    /// Begins an overflow chain.
    FirstOverflow,
    /// Goes on with one.
    LaterOverflow,
    /// On the freelist.
    Free,
    /// A pointer map.
    PointerMap,
    /// The page of SQLite's lock bytes.
    LockBytes,
}

impl std::fmt::Display for PageUse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            PageUse::Nothing => "unused",
            PageUse::Root => "the root of a tree already",
            PageUse::Tree => "in a tree already",
            PageUse::FirstOverflow | PageUse::LaterOverflow => "in an overflow chain already",
            PageUse::Free => "on the freelist already",
            PageUse::PointerMap => "a pointer map",
            PageUse::LockBytes => "the page of the lock bytes",
        })
    }
}
