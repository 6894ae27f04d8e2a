//! Rows against the entries of their indexes: a second pass over the pages, in the order of the file, by a few threads. Each row gives
//! each of its indexes a digest, and so does each entry; where the sums are the same, so are the entries, whatever their order in the
//! file. The order of the keys, which a search in the index goes by, is judged page by page: a page's keys lie between two keys of the
//! pages above it, which the walk has named.

use std::cmp::Ordering;
use std::sync::atomic::{AtomicBool, Ordering as Atomic};
use std::sync::{Mutex, PoisonError};

use super::super::geometry::Geometry;
use super::super::page::{BtreePage, PageKind};
use super::super::{Cell, Value};
use super::content::{Absent, Allowed, IndexContent, KeyPart, TableContent};
use super::fault::ScrubFaultKind;
use super::key::{Digest, Kind, Spot, compare, is_number, spots};
use super::sweep::{CHUNK_BYTES, lock, turn};
use super::walk::{Bounds, CellAt};
use super::{PageSource, ScrubError, Watch, gather, read_page};

/// What a tree's pages are looked at for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Task<'a> {
    /// Nothing.
    Nothing,
    /// Rows of the table at this place.
    Rows { table: usize, shape: &'a Shape<'a> },
    /// Entries of an index, whose sum this is.
    Entries { content: &'a IndexContent, sum: usize },
}

/// What of a table's rows is looked at.
#[derive(Debug)]
pub(super) struct Shape<'a> {
    pub content: &'a TableContent,
    /// The place of its first index's sums.
    pub first: usize,
    /// Columns of a record that anything is asked of.
    columns: usize,
    /// Columns of a record up to the last that an index has.
    indexed: usize,
    /// Places of columns that may not hold everything.
    ruled: Vec<usize>,
}

impl<'a> Shape<'a> {
    /// `sums` is the place of the next index's.
    pub(super) fn of(content: &'a TableContent, sums: &mut usize) -> Shape<'a> {
        let parts = content.indexes.iter().flat_map(|index| &index.columns).filter_map(|part| part.column);
        let indexed = parts.max().map_or(0, |last| usize::from(last) + 1).max(content.key.len());
        let columns = content.columns.iter().enumerate();
        let ruled: Vec<usize> =
            columns.filter(|(_, column)| column.allowed != Allowed::ANY).map(|(at, _)| at).collect();
        let first = *sums;
        *sums += content.indexes.len();
        let columns = indexed.max(ruled.last().map_or(0, |last| last + 1));
        Shape { content, first, columns, indexed, ruled }
    }

    /// Something is asked of the rows.
    pub(super) fn is_of_use(&self) -> bool {
        self.columns > 0 || !self.content.indexes.is_empty()
    }
}

/// Rows and entries of one index.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub rows: u128,
    pub entries: u128,
}

/// What the pass leaves.
#[derive(Debug, Default)]
pub(super) struct Compared {
    /// By the place of the index.
    pub sums: Vec<Sums>,
    /// Page, tree, and what is wrong with the order of its keys.
    pub faults: Vec<(u32, u32, ScrubFaultKind)>,
    pub faults_total: u64,
    /// By the place of the table: what only SQLite can tell of its rows.
    pub undecided: Vec<Option<&'static str>>,
}

/// The pass.
pub(super) struct Comparison<'a, S> {
    pub source: &'a S,
    pub geometry: &'a Geometry,
    pub pages: u32,
    /// By page: its tree.
    pub owners: &'a [u32],
    /// In the order of their pages.
    pub bounds: &'a [Bounds],
    /// By tree.
    pub tasks: &'a [Task<'a>],
    pub tables: usize,
    pub sums: usize,
    pub faults_max: usize,
    pub is_utf8: bool,
}

/// Pages in a row, with the tree of each.
struct Pages<'b> {
    first: u32,
    owners: &'b [u32],
    bytes: &'b [u8],
}

impl<'a, S: PageSource> Comparison<'a, S> {
    pub(super) fn run(&self, threads: usize, watch: &Watch<'_>) -> Result<Compared, ScrubError<S::Error>> {
        let size = self.geometry.page_size() as usize;
        let per_chunk = (CHUNK_BYTES / size).max(1);
        let (failed, stop) = (Mutex::new(None), AtomicBool::new(false));
        let chunks = Mutex::new(self.owners.chunks(per_chunk).enumerate());
        let found = Mutex::new(self.nothing());
        let work = || {
            let mut buffer = vec![0; per_chunk * size];
            let mut reader = Reader { of: self, found: self.nothing(), above: Vec::new() };
            while !stop.load(Atomic::Relaxed) {
                let mut turn = turn(&chunks);
                let Some((chunk, owners)) = turn.next() else { break };
                // One at a time, in the order of the file, as in the sweep.
                let read = self.read((chunk * per_chunk) as u32 + 1, owners, &mut buffer);
                drop(turn);
                let looked = read.and_then(|pages| reader.look(&pages));
                let looked = looked.and_then(|()| watch(owners.len() as u32).then_some(()).ok_or(ScrubError::Stopped));
                if let Err(error) = looked {
                    lock(&failed).get_or_insert(error);
                    stop.store(true, Atomic::Relaxed);
                }
            }
            lock(&found).add(reader.found);
        };
        std::thread::scope(|scope| {
            for _ in 1..threads {
                let _ = std::thread::Builder::new().spawn_scoped(scope, work);
            }
            work();
        });
        if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        found.faults.sort_by_key(|(page, ..)| *page);
        Ok(found)
    }

    /// Those of these pages that are to be looked at, and what lies between them.
    fn read<'b>(&self, first: u32, owners: &'b [u32], buffer: &'b mut [u8]) -> Result<Pages<'b>, ScrubError<S::Error>> {
        let has_task = |owner: &u32| !matches!(self.task(*owner), Task::Nothing);
        let (Some(from), Some(to)) = (owners.iter().position(has_task), owners.iter().rposition(has_task)) else {
            return Ok(Pages { first, owners: &[], bytes: &[] });
        };
        let owners = owners.get(from..=to).unwrap_or_default();
        let first = first + from as u32;
        let bytes = buffer.get_mut(..owners.len() * self.geometry.page_size() as usize).unwrap_or_default();
        self.source.read(first, bytes).map_err(|source| ScrubError::Read { page: first, source })?;
        Ok(Pages { first, owners, bytes })
    }

    fn nothing(&self) -> Compared {
        Compared { sums: vec![Sums::default(); self.sums], undecided: vec![None; self.tables], ..Compared::default() }
    }

    fn task(&self, owner: u32) -> Task<'a> {
        self.tasks.get(owner as usize).copied().unwrap_or(Task::Nothing)
    }

    /// Finds the first `columns` columns of a cell's record, and reads as much of the payload as the first `wanted` take.
    #[inline]
    fn load<'p>(
        &self,
        cell: &Cell<'p>,
        columns: usize,
        wanted: usize,
        into: &mut Key<'p>,
    ) -> Result<(), ScrubError<S::Error>> {
        (into.local, into.whole) = (cell.local, None);
        let mut needed = match spots(cell.local, columns, &mut into.spots) {
            Ok(()) => end_of(&into.spots, wanted),
            Err(header) => header,
        };
        while needed > into.payload().len() {
            let mut whole = into.whole.take().unwrap_or_default();
            gather(self.source, cell, self.pages, self.geometry, needed, &mut whole)?;
            // Chains were followed: that one is cut can only be because the database is written past all locks.
            let is_cut = whole.len() < needed;
            into.whole = Some(whole);
            let whole = into.whole.as_deref().unwrap_or_default();
            needed = match spots(whole, columns, &mut into.spots) {
                _ if is_cut => 0,
                Ok(()) => end_of(&into.spots, wanted),
                Err(header) => header,
            };
        }
        Ok(())
    }
}

impl Compared {
    fn add(&mut self, other: Compared) {
        for (sums, more) in self.sums.iter_mut().zip(other.sums) {
            sums.rows = sums.rows.wrapping_add(more.rows);
            sums.entries = sums.entries.wrapping_add(more.entries);
        }
        for (why, more) in self.undecided.iter_mut().zip(other.undecided) {
            *why = why.or(more);
        }
        self.faults.extend(other.faults);
        self.faults_total += other.faults_total;
    }
}

/// A row or an entry.
#[derive(Debug, Default)]
struct Key<'p> {
    spots: Vec<Spot>,
    local: &'p [u8],
    /// With what stands on overflow pages, where it is needed.
    whole: Option<Vec<u8>>,
}

impl Key<'_> {
    fn payload(&self) -> &[u8] {
        self.whole.as_deref().unwrap_or(self.local)
    }
}

/// What is asked of the keys of a tree.
#[derive(Clone, Copy)]
struct Asked<'a> {
    parts: &'a [KeyPart],
    /// See [`IndexContent::unique`].
    unique: usize,
    /// Columns that are found, and how many of them are read.
    columns: usize,
    wanted: usize,
}

/// One thread of the pass.
struct Reader<'a, 'c, S> {
    of: &'c Comparison<'a, S>,
    found: Compared,
    /// Pages with the keys that bound others; the last few.
    above: Vec<(u32, Vec<u8>)>,
}

/// Pages on the way from a leaf to the root that are kept; a leaf's two bounds are on one page, nearly always.
const ABOVE_MAX: usize = 4;

impl<S: PageSource> Reader<'_, '_, S> {
    fn look(&mut self, Pages { first, owners, bytes }: &Pages<'_>) -> Result<(), ScrubError<S::Error>> {
        let size = self.of.geometry.page_size() as usize;
        for ((bytes, owner), number) in bytes.chunks_exact(size).zip(*owners).zip(*first..) {
            let task = self.of.task(*owner);
            if matches!(task, Task::Nothing) {
                continue;
            }
            if let Ok(page) = BtreePage::parse(bytes, number, self.of.geometry) {
                self.page(&page, number, *owner, task)?;
            }
        }
        Ok(())
    }

    fn page(
        &mut self,
        page: &BtreePage<'_>,
        number: u32,
        owner: u32,
        task: Task<'_>,
    ) -> Result<(), ScrubError<S::Error>> {
        match task {
            Task::Nothing => Ok(()),
            Task::Rows { table, shape } if shape.content.key.is_empty() => {
                if page.kind() == PageKind::TableLeaf {
                    self.rows(page, table, shape)
                } else {
                    Ok(())
                }
            }
            Task::Rows { table, shape } => {
                let asked =
                    Asked { parts: &shape.content.key, unique: 0, columns: shape.columns, wanted: shape.indexed };
                self.keys(page, number, owner, asked, |reader, key| reader.row(key, None, table, shape))
            }
            Task::Entries { content, sum } => {
                let (expected, mut odd) = (content.columns.len(), false);
                let (parts, unique) = (content.columns.as_slice(), content.unique);
                let asked = Asked { parts, unique, columns: expected + 1, wanted: expected };
                self.keys(page, number, owner, asked, |reader, key| {
                    odd |= key.spots.len() != expected;
                    let mut digest = Digest::new();
                    key.spots.iter().for_each(|spot| digest.value(spot.value(key.payload())));
                    if let Some(sums) = reader.found.sums.get_mut(sum) {
                        sums.entries = sums.entries.wrapping_add(digest.finish());
                    }
                })?;
                if odd {
                    self.fault(number, owner, ScrubFaultKind::EntryColumns { expected });
                }
                Ok(())
            }
        }
    }

    fn rows(&mut self, page: &BtreePage<'_>, table: usize, shape: &Shape<'_>) -> Result<(), ScrubError<S::Error>> {
        let mut key = Key::default();
        for at in page.pointers() {
            let Ok(cell) = Cell::parse(page.bytes(), at, PageKind::TableLeaf, self.of.geometry) else { continue };
            self.of.load(&cell, shape.columns, shape.indexed, &mut key)?;
            self.row(&key, cell.rowid, table, shape);
        }
        Ok(())
    }

    /// Adds a row to its indexes' sums, and looks whether its values are such as SQLite's checks want.
    #[inline]
    fn row(&mut self, key: &Key<'_>, rowid: Option<i64>, table: usize, shape: &Shape<'_>) {
        let content = shape.content;
        let Some(undecided) = self.found.undecided.get_mut(table) else { return };
        for (index, sum) in content.indexes.iter().zip(shape.first..) {
            let mut digest = Digest::new();
            for part in &index.columns {
                let value = match part.column.map(usize::from) {
                    None => Value::Integer(rowid.unwrap_or(0)),
                    Some(column) => match key.spots.get(column) {
                        Some(spot) => spot.value(key.payload()),
                        None => match content.columns.get(column).and_then(|column| column.absent.value()) {
                            Some(value) => value,
                            None => {
                                undecided.get_or_insert("the default of a column that old rows do not have");
                                Value::Null
                            }
                        },
                    },
                };
                digest.value(value);
            }
            if let Some(sums) = self.found.sums.get_mut(sum) {
                sums.rows = sums.rows.wrapping_add(digest.finish());
            }
        }
        if undecided.is_none() && !self.of.is_within_rules(key, shape) {
            *undecided = Some("rows that may break its rules");
        }
    }

    /// The keys of a page in their order, each shown to `each`.
    fn keys<'p>(
        &mut self,
        page: &BtreePage<'p>,
        number: u32,
        owner: u32,
        asked: Asked<'_>,
        mut each: impl FnMut(&mut Self, &Key<'p>),
    ) -> Result<(), ScrubError<S::Error>> {
        let at = self.of.bounds.binary_search_by_key(&number, |bounds| bounds.page);
        let Some(bounds) = at.ok().and_then(|at| self.of.bounds.get(at)).copied() else { return Ok(()) };
        let (mut before, mut key) = (Key::default(), Key::default());
        let mut is_first = !self.bound(bounds.after, asked, &mut before)?;
        let mut last = 0;
        for (cell, at) in (0..).zip(page.pointers()) {
            let Ok(parsed) = Cell::parse(page.bytes(), at, page.kind(), self.of.geometry) else { continue };
            self.of.load(&parsed, asked.columns, asked.wanted, &mut key)?;
            if !is_first {
                self.judge(number, owner, cell, (&before, &key), asked);
            }
            each(self, &key);
            is_first = false;
            std::mem::swap(&mut before, &mut key);
            last = cell;
        }
        if page.cell_count() > 0 && self.bound(bounds.before, asked, &mut key)? {
            self.judge(number, owner, last, (&before, &key), asked);
        }
        Ok(())
    }

    fn judge(&mut self, page: u32, owner: u32, cell: u16, (before, key): (&Key<'_>, &Key<'_>), asked: Asked<'_>) {
        let compared = compare((&before.spots, before.payload()), (&key.spots, key.payload()), asked.parts);
        if compared.ordering != Ordering::Less {
            self.fault(page, owner, ScrubFaultKind::KeyOrder { cell });
        } else if asked.unique > 0 && compared.same_and_some >= asked.unique {
            self.fault(page, owner, ScrubFaultKind::NotUnique { cell });
        }
    }

    fn fault(&mut self, page: u32, owner: u32, what: ScrubFaultKind) {
        self.found.faults_total += 1;
        if self.found.faults.len() < self.of.faults_max {
            self.found.faults.push((page, owner, what));
        }
    }

    /// Reads the key of a cell above; false where there is none.
    fn bound(&mut self, at: CellAt, asked: Asked<'_>, into: &mut Key<'_>) -> Result<bool, ScrubError<S::Error>> {
        if at.page == 0 {
            return Ok(false);
        }
        if !self.above.iter().any(|(page, _)| *page == at.page) {
            if self.above.len() >= ABOVE_MAX {
                self.above.remove(0);
            }
            self.above.push((at.page, read_page(self.of.source, at.page, self.of.geometry)?));
        }
        let bytes = self.above.iter().find(|(page, _)| *page == at.page).map(|(_, bytes)| bytes.as_slice());
        let page = bytes.and_then(|bytes| BtreePage::parse(bytes, at.page, self.of.geometry).ok());
        let Some(cell) = page.and_then(|page| page.cell(at.cell).ok()) else { return Ok(false) };
        let mut key = Key { spots: std::mem::take(&mut into.spots), ..Key::default() };
        self.of.load(&cell, asked.columns, asked.wanted, &mut key)?;
        let whole = key.payload().to_vec();
        (into.spots, into.whole) = (key.spots, Some(whole));
        Ok(true)
    }
}

/// Where the content of the first columns ends.
#[inline]
fn end_of(spots: &[Spot], columns: usize) -> usize {
    spots.get(columns.min(spots.len()).wrapping_sub(1)).map_or(0, Spot::end)
}

impl<S> Comparison<'_, S> {
    /// Whether SQLite's checks would be content with a row, as far as that can be told.
    #[inline]
    fn is_within_rules(&self, key: &Key<'_>, shape: &Shape<'_>) -> bool {
        shape.ruled.iter().all(|&at| {
            let Some(column) = shape.content.columns.get(at) else { return true };
            let value = match key.spots.get(at) {
                // The content is asked for where only that can tell.
                Some(spot) => match spot.kind {
                    Kind::Null => return column.allowed & Allowed::NULL != 0,
                    Kind::Integer | Kind::Zero | Kind::One => return column.allowed & Allowed::INTEGER != 0,
                    Kind::Real if column.allowed & Allowed::NULL != 0 => return column.allowed & Allowed::REAL != 0,
                    Kind::Blob => return column.allowed & Allowed::BLOB != 0,
                    Kind::Text if column.allowed & Allowed::NO_NUMBER == 0 => {
                        return column.allowed & Allowed::TEXT != 0;
                    }
                    _ if spot.end() > key.payload().len() => return false,
                    _ => spot.value(key.payload()),
                },
                None => match column.absent {
                    // SQLite sees nothing wrong in a default.
                    Absent::Unknown => return true,
                    _ => column.absent.value().unwrap_or(Value::Null),
                },
            };
            let kind = match value {
                Value::Null => Allowed::NULL,
                Value::Integer(_) => Allowed::INTEGER,
                Value::Real(_) => Allowed::REAL,
                Value::Text(text) if column.allowed & Allowed::NO_NUMBER != 0 => {
                    return column.allowed & Allowed::TEXT != 0 && self.is_utf8 && !is_number(text);
                }
                Value::Text(_) => Allowed::TEXT,
                Value::Blob(_) => Allowed::BLOB,
            };
            column.allowed & kind != 0
        })
    }
}
