//! A scrub: one pass over all pages in the order of the file, and then the books: is every page somebody's, and just once?
//!
//! What SQLite's `quick_check` says of the structure of a database (`checkTreePage` and `sqlite3BtreeIntegrityCheck` in `btree.c`) is
//! said here too, at the speed of the disk: the check walks trees, which lie scattered, and visits a page when its turn in the tree
//! comes. Here each page is judged by itself first, by several threads at once, and leaves a note of 16 bytes; whose it is, and
//! whether its rowids and its depth fit there, follows from the notes.
//!
//! With what SQLite makes of the tables' definitions ([`TableContent`]) a second pass compares rows with the entries of their indexes, and
//! says of which tables only SQLite's own check can say more. CHECK and the rules of virtual tables are not seen here.

mod accounts;
mod compare;
mod content;
mod fault;
#[cfg(test)]
mod full_tests;
mod key;
mod lists;
mod note;
mod sql;
mod sweep;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use super::coverage::Coverage;
use super::geometry::Geometry;
use super::{Cell, Encoding, Header, SchemaFault, SchemaKind, SchemaRow, assemble, read_schema};
use accounts::{Accounts, NOBODY, OVERFLOW, Owner};
use compare::{Comparison, Shape, Task};
pub use content::{Absent, Allowed, Collation, IndexContent, KeyPart, StoredColumn, TableContent};
pub use fault::{PageUse, ScrubFault, ScrubFaultKind};
pub use key::key_order;
use walk::Walk;

/// Where the pages come from: one consistent state of a database, WAL and all.
pub trait PageSource: Sync {
    /// Why a page cannot be had.
    type Error: Send;

    /// Fills `into`, whole pages, from page `first` on; with zeros what the file does not have.
    ///
    /// # Errors
    /// Its own. One ends the scrub: a disk that fails says nothing of the bytes.
    fn read(&self, first: u32, into: &mut [u8]) -> Result<(), Self::Error>;
}

/// Is told of so many pages after each read, by any thread, and of none now and then afterwards; `false` ends the scrub.
pub type Watch<'a> = dyn Fn(u32) -> bool + Sync + 'a;

/// What to scrub, and how.
#[derive(Debug, Clone, Copy)]
pub struct ScrubPlan<'a> {
    /// Of page 1 as the source has it.
    pub header: Header,
    /// Pages that the database has: by its header or by the last commit of its WAL.
    pub counted: u32,
    /// Pages that there are at the most, in the file and the WAL together: memory is taken for these alone.
    pub there: u32,
    /// Threads that read and look.
    pub threads: usize,
    /// Faults that are told; all are counted.
    pub faults_max: usize,
    /// Tables whose rows are to be compared with their indexes, and whose pages' owners are to be told; `None` for neither.
    pub contents: Option<&'a [TableContent]>,
}

/// Why a scrub says nothing.
#[derive(Debug, Error)]
pub enum ScrubError<E> {
    /// A page could not be read.
    #[error("page {page} or one behind it could not be read: {source}")]
    Read {
        /// The first page of the read.
        page: u32,
        /// Why.
        source: E,
    },
    /// The watch ended it.
    #[error("it was ended")]
    Stopped,
    /// The header is none that [`Header::parse`] gives.
    #[error("the header's page size is none")]
    Header,
}

/// What a scrub found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scrub {
    /// Pages that were looked at.
    pub pages: u32,
    /// What is wrong, at most as many as asked for.
    pub faults: Vec<ScrubFault>,
    /// How much is wrong.
    pub faults_total: u64,
    /// Pages on the freelist.
    pub free_pages: u32,
    /// The trees, in the order of the schema; its own is the first.
    pub trees: Vec<ScrubbedTree>,
    /// Virtual tables, which have no tree.
    pub virtual_tables: Vec<String>,
    /// Tables of which only SQLite's own check can say more, and what of them. Their structure is judged.
    pub undecided: Vec<(String, &'static str)>,
    /// By page, from page 1; empty where it was not asked for.
    owners: Vec<u32>,
}

impl Scrub {
    /// The place in [`Scrub::trees`] of the tree that has a page, or the rest of a payload on it.
    pub fn owner_of(&self, page: u32) -> Option<usize> {
        let owner = self.owners.get((page as usize).checked_sub(1)?).copied()?;
        (owner != NOBODY).then_some((owner & !OVERFLOW) as usize)
    }
}

/// A tree, as far as it could be walked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScrubbedTree {
    /// Its name in the schema.
    pub name: String,
    /// The table that it belongs to.
    pub table: String,
    /// A table or an index.
    pub kind: SchemaKind,
    /// Its root page.
    pub root: u32,
    /// Pages, without overflow pages.
    pub pages: u32,
    /// Overflow pages.
    pub overflow_pages: u32,
    /// Rows of a table, entries of an index.
    pub entries: u64,
    /// Pages from its root to a leaf, both counted.
    pub depth: u32,
    /// Nothing is wrong with its pages.
    pub is_sound: bool,
}

/// Scrubs a database.
///
/// # Errors
/// [`ScrubError`]; what is wrong with the database is a result, not an error.
pub fn scrub<S: PageSource>(
    source: &S,
    plan: &ScrubPlan<'_>,
    watch: &Watch<'_>,
) -> Result<Scrub, ScrubError<S::Error>> {
    let header = &plan.header;
    let geometry = Geometry::of(header).ok_or(ScrubError::Header)?;
    let pages = plan.counted.min(plan.there);
    let notes = sweep::sweep(source, pages, &geometry, plan.threads, watch)?;
    let mut accounts = Accounts::new(pages, &geometry, plan.faults_max, plan.contents.is_some());
    if plan.counted > plan.there {
        let (found, written) = (plan.there, plan.counted);
        accounts.fault(1, Owner::Database, ScrubFaultKind::PageCount { found, written });
    }
    let schema = read_schema(pages, &geometry, header.encoding, |number| read_page(source, number, &geometry).ok());
    let rows: Vec<SchemaRow> = schema.rows.into_iter().map(|placed| placed.row).collect();
    let (mut trees, mut partial, mut virtual_tables) = (Vec::new(), BTreeSet::new(), Vec::new());
    let mut walk = Walk {
        source,
        geometry: &geometry,
        pages,
        notes: &notes,
        accounts: &mut accounts,
        coverage: Coverage::new(),
        watch,
        bounds: plan.contents.map(|_| Vec::new()),
    };
    let own = SchemaRow {
        kind: SchemaKind::Table,
        name: "sqlite_schema".to_owned(),
        table: "sqlite_schema".to_owned(),
        root: 1,
        sql: None,
    };
    for row in std::iter::once(&own).chain(&rows) {
        let sql = row.sql.as_deref().unwrap_or_default();
        let is_table = match row.kind {
            SchemaKind::Table if sql::is_virtual(sql) => {
                virtual_tables.push(row.name.clone());
                continue;
            }
            SchemaKind::Table => !sql::is_without_rowid(sql),
            SchemaKind::Index => false,
            SchemaKind::View | SchemaKind::Trigger => continue,
        };
        let owner = trees.len() as u32;
        if row.kind == SchemaKind::Index && sql::is_partial(sql) {
            partial.insert(owner);
        }
        let before = walk.accounts.faults_total;
        let mut totals = walk::Totals::default();
        if row.root == 0 {
            walk.accounts.fault(0, Owner::Tree(owner), ScrubFaultKind::NoRoot(0));
        } else {
            totals = walk.tree(owner, row.root, is_table)?;
        }
        trees.push(ScrubbedTree {
            name: row.name.clone(),
            table: row.table.clone(),
            kind: row.kind,
            root: row.root,
            pages: totals.pages,
            overflow_pages: totals.overflow_pages,
            entries: totals.entries,
            depth: totals.depth,
            is_sound: walk.accounts.faults_total == before,
        });
    }
    let bounds = walk.bounds.take().unwrap_or_default();
    // What is wrong with the schema's tree is told already; not so a row that is none.
    for fault in schema.faults {
        if let SchemaFault::NoRow { page, .. } | SchemaFault::Cut { page, .. } = fault {
            accounts.fault(page, Owner::Tree(0), fault.into());
        }
    }
    let free_pages = lists::freelist(source, header, pages, &geometry, &mut accounts)?;
    lists::pointer_maps(source, pages, &geometry, &mut accounts)?;
    vacuum(header, &trees, &mut accounts);
    counts(&trees, &partial, &mut accounts);
    lists::unused(&mut accounts);
    drop(notes);
    let owners = accounts.take_owners();
    let mut undecided = Vec::new();
    if let Some(contents) = plan.contents {
        let entered = Entered { geometry: &geometry, pages, trees: &trees, owners: &owners, bounds };
        undecided = contents_of(source, plan, contents, entered, &mut accounts, watch)?;
    }
    let faults_total = accounts.faults_total;
    let faults = accounts.told(|tree| trees.get(tree as usize).map(words).unwrap_or_default());
    Ok(Scrub { pages, faults, faults_total, free_pages, trees, virtual_tables, undecided, owners })
}

/// What the walk came to.
struct Entered<'a> {
    geometry: &'a Geometry,
    pages: u32,
    trees: &'a [ScrubbedTree],
    owners: &'a [u32],
    bounds: Vec<walk::Bounds>,
}

/// Compares rows with the entries of their indexes, where nothing is wrong with the structure of either. Which tables only SQLite can
/// say more of, and why.
fn contents_of<S: PageSource>(
    source: &S,
    plan: &ScrubPlan<'_>,
    contents: &[TableContent],
    mut entered: Entered<'_>,
    accounts: &mut Accounts,
    watch: &Watch<'_>,
) -> Result<Vec<(String, &'static str)>, ScrubError<S::Error>> {
    let (mut undecided, mut first) = (Vec::new(), 0);
    let shapes: Vec<Shape<'_>> = contents.iter().map(|content| Shape::of(content, &mut first)).collect();
    let mut tasks = vec![Task::Nothing; entered.trees.len()];
    // By the place of its sums: the tree of an index.
    let mut indexes = vec![None; first];
    for (table, shape) in shapes.iter().enumerate() {
        let content = shape.content;
        let has = |tree: &ScrubbedTree| tree.table == content.name;
        let own: Vec<usize> = (0..).zip(entered.trees).filter(|(_, tree)| has(tree)).map(|(at, _)| at).collect();
        let of = |kind, name: &str| {
            own.iter()
                .copied()
                .find(|at| entered.trees.get(*at).is_some_and(|tree| tree.kind == kind && tree.name == name))
        };
        let places: Option<Vec<usize>> =
            content.indexes.iter().map(|index| of(SchemaKind::Index, &index.name)).collect();
        let (Some(rows), Some(places)) = (of(SchemaKind::Table, &content.name), places) else {
            undecided.push((content.name.clone(), "a schema that SQLite reads otherwise"));
            continue;
        };
        if own.len() != places.len() + 1 {
            undecided.push((content.name.clone(), "a schema that SQLite reads otherwise"));
            continue;
        }
        // What is wrong with their structure is told already.
        if !own.iter().all(|at| entered.trees.get(*at).is_some_and(|tree| tree.is_sound)) {
            continue;
        }
        if let Some(task) = tasks.get_mut(rows).filter(|_| shape.is_of_use()) {
            *task = Task::Rows { table, shape };
        }
        for ((index, place), sum) in content.indexes.iter().zip(places).zip(shape.first..) {
            if let (Some(task), Some(tree)) = (tasks.get_mut(place), indexes.get_mut(sum)) {
                (*task, *tree) = (Task::Entries { content: index, sum }, Some(place));
            }
        }
    }
    if tasks.iter().all(|task| matches!(task, Task::Nothing)) {
        return Ok(undecided);
    }
    entered.bounds.sort_unstable_by_key(|bounds| bounds.page);
    let comparison = Comparison {
        source,
        geometry: entered.geometry,
        pages: entered.pages,
        owners: entered.owners,
        bounds: &entered.bounds,
        tasks: &tasks,
        tables: contents.len(),
        sums: first,
        faults_max: plan.faults_max,
        is_utf8: plan.header.encoding == Encoding::Utf8,
    };
    let found = comparison.run(plan.threads, watch)?;
    let told = found.faults.len() as u64;
    let mut differing = BTreeSet::new();
    for (page, owner, what) in found.faults {
        accounts.fault(page, Owner::Tree(owner), what);
        differing.extend(entered.trees.get(owner as usize).map(|tree| tree.table.as_str()));
    }
    accounts.faults_total += found.faults_total.saturating_sub(told);
    for ((shape, why), table) in shapes.iter().zip(&found.undecided).zip(contents) {
        if let Some(why) = why {
            undecided.push((table.name.clone(), why));
            continue;
        }
        for (sum, tree) in (shape.first..).zip(indexes.iter().skip(shape.first).take(table.indexes.len())) {
            let (Some(tree), Some(sums)) = (*tree, found.sums.get(sum)) else { continue };
            let root = entered.trees.get(tree).map_or(0, |tree| tree.root);
            if sums.rows != sums.entries {
                accounts.fault(root, Owner::Tree(tree as u32), ScrubFaultKind::IndexContent);
                differing.insert(&table.name);
            }
        }
        if differing.contains(table.name.as_str()) {
            undecided.push((table.name.clone(), "rows that differ from its indexes"));
        }
    }
    Ok(undecided)
}

/// What the header says for a vacuum.
fn vacuum(header: &Header, trees: &[ScrubbedTree], accounts: &mut Accounts) {
    let (found, written) = (trees.iter().map(|tree| tree.root).max().unwrap_or(1), header.largest_root);
    if written != 0 && found != written {
        accounts.fault(1, Owner::Database, ScrubFaultKind::LargestRoot { found, written });
    }
    if written == 0 && header.incremental_vacuum {
        accounts.fault(1, Owner::Database, ScrubFaultKind::IncrementalVacuum);
    }
}

/// An index over all rows has as many entries as its table has rows; `partial` are those over some.
fn counts(trees: &[ScrubbedTree], partial: &BTreeSet<u32>, accounts: &mut Accounts) {
    let tables = trees.iter().filter(|tree| tree.kind == SchemaKind::Table && tree.is_sound);
    let tables: BTreeMap<_, _> = tables.map(|tree| (tree.name.to_ascii_lowercase(), tree.entries)).collect();
    for (owner, tree) in (0..).zip(trees) {
        if tree.kind != SchemaKind::Index || !tree.is_sound || partial.contains(&owner) {
            continue;
        }
        if let Some(rows) = tables.get(&tree.table.to_ascii_lowercase()).copied().filter(|rows| *rows != tree.entries) {
            let entries = tree.entries;
            accounts.fault(tree.root, Owner::Tree(owner), ScrubFaultKind::IndexCount { entries, rows });
        }
    }
}

fn words(tree: &ScrubbedTree) -> String {
    match tree.kind {
        SchemaKind::Index => format!("index {} of {}", tree.name, tree.table),
        _ => format!("table {}", tree.name),
    }
}

/// The first `limit` bytes of a cell's payload, into `into`, as far as its chain goes.
///
/// # Errors
/// That of the overflow page which could not be read.
fn gather<S: PageSource>(
    source: &S,
    cell: &Cell<'_>,
    pages: u32,
    geometry: &Geometry,
    limit: usize,
    into: &mut Vec<u8>,
) -> Result<(), ScrubError<S::Error>> {
    let mut failed = None;
    let read = |number| read_page(source, number, geometry).map_err(|error| failed = Some(error)).ok();
    assemble(cell, pages, geometry, limit, read, into);
    failed.map_or(Ok(()), Err)
}

fn read_page<S: PageSource>(source: &S, number: u32, geometry: &Geometry) -> Result<Vec<u8>, ScrubError<S::Error>> {
    let mut bytes = vec![0; geometry.page_size() as usize];
    source.read(number, &mut bytes).map_err(|source| ScrubError::Read { page: number, source })?;
    Ok(bytes)
}
