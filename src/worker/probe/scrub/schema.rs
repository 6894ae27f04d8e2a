//! SQLite's word on the schema's statements: whether they can be parsed. It reads them in a private file that has the schema's pages
//! and holes for all others, so that no lock is taken on the database and the answer is of the same state.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _};
use std::time::Duration;

use tempfile::TempDir;

use super::view::View;
use super::{fault, told};
use crate::format::{Geometry, Header, PageSource as _, read_schema};
use crate::job::{ScrubJob, Scrubbed};
use crate::model::FaultClass;
use crate::sqlite::{Access, Contents, Database, Deadline, SqliteFault};

/// Bytes of the schema's pages that are kept; no real schema comes near to it.
const LIMIT: usize = 64 << 20;

/// Adds what SQLite says to what was found.
pub(super) fn judge(job: &ScrubJob, view: &View, mut scrubbed: Scrubbed) -> Result<Scrubbed, String> {
    let Ok(header) = Header::parse(&view.head) else { return Ok(scrubbed) };
    if scrubbed.tables.first().is_none_or(|schema| !schema.sound) {
        // Told already, and better than by the first error that SQLite meets.
        return Ok(scrubbed);
    }
    if let Some(words) = parsed(job, view, &header).map_err(told("having SQLite read the schema"))? {
        scrubbed.add(fault("sqlite_schema", &words));
    }
    Ok(scrubbed)
}

/// What SQLite makes of the tables' definitions; `None` where it cannot read them.
pub(super) fn contents(job: &ScrubJob, view: &View, header: &Header) -> Result<Option<Contents>, String> {
    let file = file(job, view, header).map_err(told("having SQLite read the schema"))?;
    let read = file.and_then(|file| open(&file).and_then(|database| database.contents()).ok());
    Ok(read)
}

fn parsed(job: &ScrubJob, view: &View, header: &Header) -> io::Result<Option<String>> {
    let Some(file) = file(job, view, header)? else { return Ok(None) };
    let read = open(&file).and_then(|database| database.touch_schema());
    Ok(match read {
        Ok(_) => None,
        // A word of a newer SQLite, or of another build of it, is no damage.
        Err(fault) if fault.class == FaultClass::Corrupt || fault.class == FaultClass::NotADatabase => {
            Some(fault.message)
        }
        Err(fault) => return Err(io::Error::other(fault.message)),
    })
}

/// A private file in a folder of its own, deleted when dropped.
struct SchemaFile(TempDir);

fn open(file: &SchemaFile) -> Result<Database, SqliteFault> {
    Database::open(&file.0.path().join(NAME), Access::Immutable, Duration::ZERO, Deadline::never())
}

const NAME: &str = "schema.db";

fn file(job: &ScrubJob, view: &View, header: &Header) -> io::Result<Option<SchemaFile>> {
    let Some(geometry) = Geometry::of(header) else { return Ok(None) };
    let pages = RefCell::new(BTreeMap::new());
    let most = LIMIT / geometry.page_size() as usize;
    read_schema(view.there, &geometry, header.encoding, |number| {
        if pages.borrow().len() >= most {
            return None;
        }
        let mut bytes = vec![0; geometry.page_size() as usize];
        view.read(number, &mut bytes).ok()?;
        pages.borrow_mut().insert(number, bytes.clone());
        Some(bytes)
    });
    if pages.borrow().len() >= most {
        return Err(io::Error::other(format!("it has more than {} MiB", LIMIT >> 20)));
    }
    DirBuilder::new().recursive(true).mode(0o700).create(&job.site.scratch)?;
    // Called as private copies are: what a killed worker leaves is swept out with theirs.
    let prefix = format!("probe-{}-", std::process::id());
    let folder = tempfile::Builder::new().prefix(&prefix).tempdir_in(&job.site.scratch)?;
    let file = File::create_new(folder.path().join(NAME))?;
    for (number, bytes) in pages.into_inner() {
        file.write_all_at(&bytes, geometry.offset_of(number))?;
    }
    file.set_len(geometry.offset_of(view.wal_pages.unwrap_or(view.there).min(view.there).saturating_add(1)))?;
    Ok(Some(SchemaFile(folder)))
}
