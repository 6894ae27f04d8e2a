//! A scrub of a database: a consistent view held by locks alone, the pass over it, and SQLite's word on what is its to say.
//!
//! No SQLite connection is ever made to the database itself, so that its locks and ours cannot meet in this process. What has a hot
//! journal is rolled back by SQLite on a private copy, which is looked through then (rule 19).

mod schema;
mod view;

use std::io;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use super::copy::{PrivateCopy, of_all};
use super::files::{Files, Looked, open_raw, with_suffix};
use super::{dotfile, likeness, raw};
use crate::format::{self, Header, Scrub, ScrubError, ScrubPlan};
use crate::host::read_ahead;
use crate::job::{
    FileState, JobFailure, JournalState, ScrubJob, ScrubVerdict, Scrubbed, ScrubbedFault, ScrubbedTable, WalState,
};
use crate::sqlite::{Access, Database, Deadline};
use view::View;

/// More threads than this wait for memory.
const THREADS_MAX: usize = 4;
/// How long a lock is waited for at the least: a person waits for the answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// A file that changes all the same (it is not locked as SQLite locks) is looked at so often.
const TRIES: u32 = 3;

/// Scrubs it.
///
/// # Errors
/// None but a bug's: what keeps it from being told is a verdict.
pub(in crate::worker) fn run(job: &ScrubJob) -> Result<Scrubbed, JobFailure> {
    let unknown = |reason| Scrubbed { reason: Some(reason), ..unread(job, ScrubVerdict::Unknown) };
    Ok(attempt(job).unwrap_or_else(unknown))
}

/// What is said of a database none of whose pages was looked at.
fn unread(job: &ScrubJob, verdict: ScrubVerdict) -> Scrubbed {
    Scrubbed {
        path: job.site.path.clone(),
        verdict,
        reason: None,
        pages: 0,
        page_size: 0,
        seconds: 0.0,
        bytes_per_second: 0.0,
        faults: Vec::new(),
        faults_total: 0,
        free_pages: 0,
        tables: Vec::new(),
    }
}

/// Where it ends without a word on the database.
fn attempt(job: &ScrubJob) -> Result<Scrubbed, String> {
    let mut why = String::new();
    let mut warmed = false;
    for _ in 0..TRIES {
        let files = Files::pinned(&job.site.path);
        match &files.main.state {
            FileState::File(main) if main.size == 0 => return Err("the file has no bytes".to_owned()),
            FileState::File(_) => {}
            FileState::Missing => return Err("there is no such file".to_owned()),
            FileState::Symlink { target } => {
                return Err(format!("it is a symbolic link, which is never followed: name {}", target.display()));
            }
            FileState::Other { what } => return Err(format!("it is {what}")),
            FileState::Unreadable { message, .. } => return Err(message.clone()),
        }
        if dotfile::entry(&Looked::at(with_suffix(&job.site.path, ".lock"))).is_some() {
            return Err("a program of the dotfile VFS has it locked, which takes no other locks".to_owned());
        }
        let patience = PATIENCE.max(Duration::from_millis(job.site.busy_ms));
        let held = view::hold(&files, patience).map_err(|error| format!("it could not be locked: {error}"))?;
        let since = Instant::now();
        // As they are under the locks: until they were had, programs wrote.
        let locked = files.main.state.file().map(|main| (main.dev, main.ino));
        let files = Files::pinned(&job.site.path);
        if files.main.state.file().map(|main| (main.dev, main.ino)) != locked {
            "another file took its place while it was locked".clone_into(&mut why);
            continue;
        }
        let journal = raw::journal(&files, None, false).map_err(told("reading its journal"))?;
        match journal.state {
            JournalState::Hot => {
                drop(held);
                return on_copy(job, &format!("its journal was {}", journal.detail), None);
            }
            JournalState::Damaged => {
                drop(held);
                let fault = fault("rollback journal", &journal.detail);
                return on_copy(job, "its rollback journal is hot and damaged", Some(fault));
            }
            JournalState::NotAFile => return Err(format!("its journal is not to be read: {}", journal.detail)),
            JournalState::Absent | JournalState::InUse => {}
        }
        let view = View::open(&files).map_err(told("reading it"))?;
        // Writers wait for SHARED, unless they write to a WAL.
        let is_wal = view.wal_pages.is_some() || files.shm.state.size() > 0;
        let until = (!is_wal).then(|| since + Duration::from_millis(job.site.block_max_ms));
        // What SQLite reads is a private file's: its locks and ours never meet.
        let result = look_through(job, &view, until)
            .and_then(|scrubbed| schema::judge(job, &view, scrubbed).map_err(Stop::Words));
        let is_still_so = files.main.is_still_so() && files.wal.again().state.size() >= files.wal.state.size();
        drop(held);
        match result {
            Err(Stop::Time) if !warmed => {
                // From the cache it goes faster by far, and reading keeps nobody out.
                let main = open_raw(&files.main).map_err(told("reading it"))?;
                let long = Instant::now() + Duration::from_secs(3600);
                read_ahead(main, u64::MAX, long).map_err(told("reading it"))?;
                warmed = true;
            }
            Err(Stop::Time) => {
                let most = Duration::from_millis(job.site.block_max_ms);
                return Err(format!("it would keep its programs from writing for longer than {most:?}"));
            }
            Err(Stop::Words(words)) => return Err(words),
            Ok(scrubbed) if is_still_so => return Ok(scrubbed),
            Ok(_) => "it was written while it was read, past the locks that SQLite takes".clone_into(&mut why),
        }
    }
    Err(why)
}

/// Why a pass ended.
enum Stop {
    Time,
    Words(String),
}

fn told<E: std::fmt::Display>(doing: &'static str) -> impl Fn(E) -> String {
    move |error| format!("{doing} failed: {error}")
}

fn fault(owner: &str, what: &str) -> ScrubbedFault {
    ScrubbedFault { page: 0, owner: owner.to_owned(), what: what.to_owned() }
}

fn look_through(job: &ScrubJob, view: &View, until: Option<Instant>) -> Result<Scrubbed, Stop> {
    let words = |words: String| Stop::Words(words);
    let begun = Instant::now();
    let header = match Header::parse(&view.head) {
        Ok(header) => header,
        Err(error) => return headless(job, view, &error.to_string()).map_err(words),
    };
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let plan = ScrubPlan {
        header,
        counted: view.wal_pages.or(header.counted_pages()).unwrap_or(view.there),
        there: view.there,
        threads: cores.clamp(1, THREADS_MAX),
        faults_max: job.faults_max,
    };
    let is_time = |_| until.is_none_or(|until| Instant::now() < until);
    let found = match format::scrub(view, &plan, &is_time) {
        Ok(found) => found,
        Err(ScrubError::Stopped) => return Err(Stop::Time),
        Err(error) => return Err(Stop::Words(error.to_string())),
    };
    let mut scrubbed = in_job(job, &header, found, begun.elapsed());
    let wal = &view.wal_facts;
    if wal.state == WalState::Damaged {
        let promises =
            wal.mark.is_some() || wal.stranded_commits > 0 || wal.index_max_frame.is_some_and(|last| last > 0);
        if promises {
            // SQLite reads the frames before the damage and says nothing of the rest.
            scrubbed.add(fault("WAL", &wal.detail));
        } else if scrubbed.verdict == ScrubVerdict::Clean {
            scrubbed.verdict = ScrubVerdict::Unknown;
            scrubbed.reason = Some(format!("its pages are sound, but {}: only begun, or destroyed", wal.detail));
        }
    }
    Ok(scrubbed)
}

/// Of a file whose header is none: damaged where its pages are a database's; else it may be encrypted, or anything.
fn headless(job: &ScrubJob, view: &View, error: &str) -> Result<Scrubbed, String> {
    let size = view.len().map_err(told("reading it"))?;
    let like = likeness::of_pages(size, |at, buffer| view.raw(at, buffer)).map_err(told("reading it"))?;
    if like.is_none_or(|(like, of)| like * 3 < of * 2) {
        return Err(format!("{error}, and nothing in it looks like a database's pages: encrypted, or no database"));
    }
    let mut scrubbed = unread(job, ScrubVerdict::Damaged);
    scrubbed.add(ScrubbedFault { page: 1, ..fault("database header", error) });
    Ok(scrubbed)
}

fn in_job(job: &ScrubJob, header: &Header, found: Scrub, took: Duration) -> Scrubbed {
    let seconds = took.as_secs_f64();
    let faults = found.faults.into_iter();
    let trees = found.trees.into_iter();
    Scrubbed {
        path: job.site.path.clone(),
        verdict: if found.faults_total == 0 { ScrubVerdict::Clean } else { ScrubVerdict::Damaged },
        reason: None,
        pages: found.pages,
        page_size: header.page_size,
        seconds,
        bytes_per_second: f64::from(found.pages) * f64::from(header.page_size) / seconds.max(1e-9),
        faults: faults
            .map(|fault| ScrubbedFault { page: fault.page, owner: fault.owner, what: fault.what.to_string() })
            .collect(),
        faults_total: found.faults_total,
        free_pages: found.free_pages,
        tables: trees
            .map(|tree| ScrubbedTable {
                index_of: (tree.kind == format::SchemaKind::Index).then_some(tree.table),
                name: tree.name,
                pages: tree.pages,
                overflow_pages: tree.overflow_pages,
                rows: tree.entries,
                sound: tree.is_sound,
            })
            .collect(),
    }
}

/// Lets SQLite roll the journal back on a private copy, and looks through that.
fn on_copy(job: &ScrubJob, why: &str, known: Option<ScrubbedFault>) -> Result<Scrubbed, String> {
    let copy: PrivateCopy = of_all(&job.site).map_err(told("taking a private copy"))?;
    settle(&copy).map_err(told("rolling back a private copy"))?;
    let files = Files::look(&copy.main());
    let view = View::open(&files).map_err(told("reading a private copy"))?;
    let mut scrubbed = match look_through(job, &view, None) {
        Ok(scrubbed) => schema::judge(job, &view, scrubbed)?,
        Err(Stop::Words(words)) => return Err(words),
        Err(Stop::Time) => return Err("it took too long".to_owned()),
    };
    scrubbed.reason = Some(format!("looked at on a private copy, because {why}"));
    known.into_iter().for_each(|fault| scrubbed.add(fault));
    Ok(scrubbed)
}

/// The first read rolls back; a database that is damaged beyond that is left as it is then.
fn settle(copy: &PrivateCopy) -> io::Result<()> {
    let database = Database::open(&copy.main(), Access::Copy, Duration::ZERO, Deadline::never());
    let database = database.map_err(io::Error::other)?;
    let _ = database.touch_schema();
    let _ = database.close();
    Ok(())
}

impl Scrubbed {
    /// One more.
    fn add(&mut self, fault: ScrubbedFault) {
        self.verdict = ScrubVerdict::Damaged;
        self.faults_total += 1;
        self.faults.push(fault);
    }
}
