//! The full check of a finished database file that nobody writes: a copy, a candidate, a stored backup, what a salvage made.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use super::BackupError;
use crate::format::header::HEADER_LEN;
use crate::format::{Geometry, Header, PageSource, ScrubFault, ScrubPlan, TableContent, lost_page, scrub};
use crate::host::{fill, page_threads};
use crate::job::TableRows;
use crate::sqlite::{Access, Database, Deadline};

/// What a file that passed holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Examined {
    /// Its rows.
    pub tables: Vec<TableRows>,
    /// Its schema as SQL.
    pub schema: String,
    /// Nothing was ever created in it.
    pub empty: bool,
    /// Bytes a page.
    pub page_size: u32,
}

/// Lines of SQLite's that an error repeats.
const SAID: usize = 3;

/// Checks `path` in full. It must be a file that nobody writes: side files and locks are ignored (rule 8).
///
/// # Errors
/// [`BackupError::Unsound`] when the check finds anything, [`BackupError::Sqlite`] when it cannot run.
pub fn examine(path: &Path, deadline: &Deadline) -> Result<Examined, BackupError> {
    let doing = "checking a copy";
    let unsound = |reason: String| BackupError::Unsound { path: path.to_owned(), reason };
    let lost = lost_page_of(path).map_err(|error| unsound(format!("it cannot be read: {error}")))?;
    if let Some(page) = lost {
        return Err(unsound(format!("it ends within page {page}, and SQLite reads zeros in the place of the rest")));
    }
    let database = Database::open(path, Access::Immutable, Duration::ZERO, deadline.clone())
        .map_err(BackupError::sqlite("opening a copy to check it"))?;
    let report = database.integrity_check(20);
    if let Some(fault) = report.fault {
        return Err(unsound(fault.to_string()));
    }
    if !report.ok {
        return Err(unsound(report.messages.into_iter().take(SAID).collect::<Vec<_>>().join("; ")));
    }
    let objects = database.touch_schema().map_err(BackupError::sqlite(doing))?;
    let rows = database.row_counts().map_err(BackupError::sqlite(doing))?;
    let examined = Examined {
        tables: rows.into_iter().map(|(table, rows)| TableRows { table, rows }).collect(),
        schema: database.schema_sql().map_err(BackupError::sqlite(doing))?,
        empty: objects.is_empty(),
        page_size: database.page_size().map_err(BackupError::sqlite(doing))?,
    };
    database.close().map_err(BackupError::sqlite(doing))?;
    if !report.content.is_empty() {
        // A value that its column cannot have was always so, or the record's own bytes have changed: that shows in its length.
        let file = File::open(path).map_err(|error| unsound(error.to_string()))?;
        let wrong = structure(&file, SAID).map_err(unsound)?;
        if !wrong.is_empty() {
            return Err(unsound(wrong.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")));
        }
    }
    Ok(examined)
}

/// The pages of a file that nobody writes and that has no WAL. SQLite must have it closed (rule 7).
pub struct QuietFile<'a> {
    file: &'a File,
    geometry: Geometry,
    header: Header,
    there: u32,
}

impl QuietFile<'_> {
    /// Reads its header.
    ///
    /// # Errors
    /// Why its pages cannot be told apart.
    pub fn of(file: &File) -> Result<QuietFile<'_>, String> {
        let mut head = [0; HEADER_LEN];
        fill(file, 0, &mut head).map_err(|error| error.to_string())?;
        let header = Header::parse(&head).map_err(|error| error.to_string())?;
        let geometry = Geometry::of(&header).ok_or("its page size is none")?;
        let len = file.metadata().map_err(|error| error.to_string())?.len();
        let there = u32::try_from(len.div_ceil(u64::from(header.page_size))).unwrap_or(u32::MAX);
        Ok(QuietFile { file, geometry, header, there })
    }

    /// Pages that it has by its header.
    pub fn counted(&self) -> u32 {
        self.header.counted_pages().unwrap_or(self.there)
    }

    /// How to scrub it.
    pub fn plan<'a>(&self, contents: Option<&'a [TableContent]>, faults_max: usize) -> ScrubPlan<'a> {
        let (header, counted, there) = (self.header, self.counted(), self.there);
        ScrubPlan { header, counted, there, threads: page_threads(), faults_max, contents }
    }
}

impl PageSource for QuietFile<'_> {
    type Error = io::Error;

    fn read(&self, first: u32, into: &mut [u8]) -> io::Result<()> {
        fill(self.file, self.geometry.offset_of(first), into)
    }
}

/// What is wrong with its structure, at most so much of it.
fn structure(file: &File, faults_max: usize) -> Result<Vec<ScrubFault>, String> {
    let file = QuietFile::of(file)?;
    let found = scrub(&file, &file.plan(None, faults_max), &|_| true).map_err(|error| error.to_string())?;
    Ok(found.faults)
}

/// The first page that a file which nobody writes, and which has no WAL, does not have in full; see [`lost_page`]. Opens and
/// closes a descriptor: before SQLite, never beside it (rule 7).
///
/// # Errors
/// The system's.
fn lost_page_of(path: &Path) -> io::Result<Option<u32>> {
    let file = File::open(path)?;
    let mut head = [0; HEADER_LEN];
    fill(&file, 0, &mut head)?;
    // What is no header is SQLite's to refuse.
    let Ok(header) = Header::parse(&head) else { return Ok(None) };
    lost_page(&header, file.metadata()?.len(), None, |at, page| fill(&file, at, page), |_, _| Ok(()))
}

/// BLAKE3 of a file's content, hex.
///
/// # Errors
/// The system's.
pub fn hash(file: &File) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0_u8; 1 << 20];
    let mut at = 0;
    loop {
        match file.read_at(&mut buffer, at) {
            Ok(0) => return Ok(hasher.finalize().to_hex().to_string()),
            Ok(read) => {
                hasher.update(buffer.get(..read).unwrap_or_default());
                at += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
