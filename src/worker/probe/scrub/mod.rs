//! A scrub of a database: a consistent view held by locks alone, the pass over it, and SQLite's word on what is its to say.
//!
//! No SQLite connection is ever made to the database itself, so that its locks and ours cannot meet in this process. What has a hot
//! journal is rolled back by SQLite on a private copy, which is looked through then (rule 19).

mod left;
mod map;
mod schema;
mod view;

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::copy::{PrivateCopy, of_all, under_shared_lock};
use super::files::{self, Files, Looked, open_raw, with_suffix};
use super::{dotfile, likeness, raw};
use crate::format::{self, Header, Scrub, ScrubError, ScrubPlan};
use crate::host::{page_threads, read_ahead};
use crate::job::{
    DatabaseSite, FileState, JobFailure, JournalState, ScrubJob, ScrubVerdict, Scrubbed, ScrubbedBySqlite,
    ScrubbedFault, ScrubbedTable, WalState,
};
use crate::sqlite::{Access, Database, Deadline};
use crate::worker::sweep::Sweep;
use left::Left;
pub(in crate::worker) use map::make as map_pages;
use view::{Stillness, View};

/// Pages of the largest database that is looked at: the books take 17 to 21 bytes a page, those of a full scrub up to 67, and a worker has a
/// gibibyte.
const PAGES_MAX: u32 = 20 << 20;
const FULL_PAGES_MAX: u32 = 8 << 20;
/// How long a lock is waited for at the least: a person waits for the answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// A file that changes is looked at so often: the first look is without locks, and who changes it under them does not lock as SQLite does.
const TRIES: u32 = 4;

/// Scrubs it.
///
/// # Errors
/// None but a bug's: what keeps it from being told is a verdict.
pub(in crate::worker) fn run(job: &ScrubJob) -> Result<Scrubbed, JobFailure> {
    let unknown = |reason| Scrubbed { reason: Some(reason), ..unread(job, ScrubVerdict::Unknown) };
    let tried = match attempt(job, Terms { patience: PATIENCE.max(busy(job)), looks_twice: true }) {
        Err(Stop::Time) => on_short_copy(job),
        Err(Stop::Changed(words) | Stop::Words(words)) => Err(words),
        Ok(scrubbed) => Ok(scrubbed),
    };
    Ok(tried.unwrap_or_else(unknown))
}

/// What a scrub can say for a content check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Soundness {
    /// All that SQLite's check would look at was looked at, and is sound.
    Sound,
    /// It would have kept writers out for too long, as SQLite's check would.
    TakesTooLong,
    /// Something is wrong, or cannot be told: SQLite's own check has the word, for what is healed is healed by that.
    NotTold,
}

/// Whether a database is sound, once SQLite has read its schema. Writers are kept out for `block_max` at the most, and once; not at all
/// where none comes.
pub(super) fn soundness(site: &DatabaseSite, full: bool) -> Soundness {
    let job = ScrubJob { site: site.clone(), faults_max: 1, full };
    match attempt(&job, Terms { patience: busy(&job), looks_twice: false }) {
        // What a virtual table says of itself is a part of the check.
        Ok(found) if found.verdict == ScrubVerdict::Clean && found.by_sqlite.iter().all(|one| one.checked) => {
            Soundness::Sound
        }
        Err(Stop::Time) => Soundness::TakesTooLong,
        _ => Soundness::NotTold,
    }
}

/// What is wrong with tables, at most so much of it; nothing where that cannot be told. For rows that SQLite reads without complaint, or
/// calls content: a record whose own lengths do not add up is none that SQLite has written.
pub(super) fn broken_tables(site: &DatabaseSite, path: &Path, faults_max: usize) -> Vec<String> {
    let job = ScrubJob { site: DatabaseSite { path: path.to_owned(), ..site.clone() }, faults_max, full: false };
    let Ok(found) = run(&job) else { return Vec::new() };
    let broken = found.tables.iter().filter(|tree| tree.index_of.is_none() && !tree.sound);
    let owners: Vec<String> = broken.map(|tree| format!("table {}", tree.name)).collect();
    let faults = found.faults.into_iter().filter(|fault| owners.contains(&fault.owner));
    faults.map(|fault| format!("page {} of {}: {}", fault.page, fault.owner, fault.what)).collect()
}

fn busy(job: &ScrubJob) -> Duration {
    Duration::from_millis(job.site.busy_ms)
}

/// How much may be done for an answer.
#[derive(Clone, Copy)]
struct Terms {
    /// How long a lock is waited for.
    patience: Duration,
    /// Where the time is too short for a file that is not in the cache, it is read into that, without locks, and looked at again.
    looks_twice: bool,
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
        by_sqlite: Vec::new(),
        content: Vec::new(),
    }
}

/// Why there is no word on the database.
enum Stop {
    /// Keeping writers out for longer would be too long.
    Time,
    /// It changed while it was read.
    Changed(String),
    /// In any case.
    Words(String),
}

/// Asked between two chunks: false once it is of no use to go on.
type GoOn<'a> = dyn Fn() -> bool + Sync + 'a;

fn attempt(job: &ScrubJob, terms: Terms) -> Result<Scrubbed, Stop> {
    let (mut why, mut lets_write, mut warmed) = (String::new(), true, false);
    for _ in 0..TRIES {
        match look(job, terms.patience, lets_write) {
            Err(Stop::Time) if terms.looks_twice && !warmed => {
                warm(job)?;
                warmed = true;
            }
            Err(Stop::Changed(words)) => (why, lets_write) = (words, false),
            told => return told,
        }
    }
    Err(Stop::Words(why))
}

/// From the cache a pass goes faster by far, and reading keeps nobody out.
fn warm(job: &ScrubJob) -> Result<(), String> {
    let main = open_raw(&Files::pinned(&job.site.path).main).map_err(told("reading it"))?;
    let long = Instant::now() + Duration::from_secs(3600);
    read_ahead(main, u64::MAX, long).map_err(told("reading it"))?;
    Ok(())
}

/// Refuses what is no file, and one whose locks would tell nothing.
fn can_be_locked(site: &DatabaseSite, files: &Files) -> Result<(), String> {
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
    let place = files::place(&files.main, &Sweep::default());
    // Through an overlay everything of this container's shows, and a change behind it shows on the file.
    if let Some(why) = place.observe_only.filter(|_| !place.read_only && place.fs_type != "overlay") {
        return Err(format!("whether anybody writes to it cannot be told: {why}"));
    }
    match dotfile::entry(&Looked::at(with_suffix(&site.path, ".lock"))) {
        Some(_) => Err("a program of the dotfile VFS has it locked, which takes no other locks".to_owned()),
        None => Ok(()),
    }
}

/// One look under SQLite's locks, with writers kept out for `block_max` at the most, unless they write to a WAL; with `lets_write` they
/// are let in, and make the look void.
fn look(job: &ScrubJob, patience: Duration, lets_write: bool) -> Result<Scrubbed, Stop> {
    let mut files = Files::pinned(&job.site.path);
    can_be_locked(&job.site, &files)?;
    let held = view::hold(&files, patience).map_err(|error| format!("it could not be locked: {error}"))?;
    // As they are under the locks: until they were had, programs wrote.
    let locked = files.main.state.file().map(|main| (main.dev, main.ino));
    let before = std::mem::replace(&mut files, Files::pinned(&job.site.path));
    if files.main.state.file().map(|main| (main.dev, main.ino)) != locked {
        return Err(Stop::Changed("another file took its place while it was locked".to_owned()));
    }
    let journal = raw::journal(&files, None, false).map_err(told("reading its journal"))?;
    match journal.state {
        JournalState::Hot => {
            drop(held);
            return Ok(on_copy(job, &format!("its journal was {}", journal.detail), None)?);
        }
        JournalState::Damaged => {
            drop(held);
            let fault = fault("rollback journal", &journal.detail);
            return Ok(on_copy(job, "its rollback journal is hot and damaged", Some(fault))?);
        }
        JournalState::NotAFile => {
            return Err(Stop::Words(format!("its journal is not to be read: {}", journal.detail)));
        }
        JournalState::Absent | JournalState::InUse => {}
    }
    let view = View::open(&files).map_err(told("reading it"))?;
    // Writers wait for SHARED, unless they write to a WAL. One that begins it now, and a checkpoint after it, show behind the pass.
    let is_wal = view.wal_pages.is_some()
        || files.shm.state.size() > 0
        || Header::parse(&view.head).is_ok_and(|header| header.is_wal());
    let stillness = Stillness::new(held, &files, is_wal, lets_write, Duration::from_millis(job.site.block_max_ms));
    // What SQLite reads is a private file's: its locks and ours never meet.
    let result = look_through(job, &view, &|| stillness.lasts()).and_then(|(scrubbed, left)| {
        let scrubbed = schema::judge(job, &view, scrubbed).map_err(Stop::Words)?;
        Ok((scrubbed, left))
    });
    let ended = stillness.end(patience);
    let (held, was_still) = ended.map_err(|error| Stop::Changed(format!("it is being written: {error}")))?;
    held.let_go(&before);
    if !was_still {
        return Err(Stop::Changed("it was written while it was read, past the locks that SQLite takes".to_owned()));
    }
    let (scrubbed, left) = result?;
    Ok(left::check(left, scrubbed))
}

impl From<String> for Stop {
    fn from(words: String) -> Stop {
        Stop::Words(words)
    }
}

fn told<E: std::fmt::Display>(doing: &'static str) -> impl Fn(E) -> String {
    move |error| format!("{doing} failed: {error}")
}

fn fault(owner: &str, what: &str) -> ScrubbedFault {
    ScrubbedFault { page: 0, owner: owner.to_owned(), what: what.to_owned() }
}

/// What was found, and what SQLite is to look at on a copy of it, once the locks are gone.
fn look_through(job: &ScrubJob, view: &View, go_on: &GoOn<'_>) -> Result<(Scrubbed, Option<Left>), Stop> {
    let words = |words: String| Stop::Words(words);
    let begun = Instant::now();
    let header = match Header::parse(&view.head) {
        Ok(header) => header,
        Err(error) => return headless(job, view, &error.to_string()).map(|found| (found, None)).map_err(words),
    };
    let (pages, most) = (view.there, if job.full { FULL_PAGES_MAX } else { PAGES_MAX });
    if pages > most {
        return Err(Stop::Words(format!(
            "it has {pages} pages, and the books on more than {most} take too much memory"
        )));
    }
    // A schema that SQLite cannot read is told by `schema::judge`.
    let contents = if job.full { schema::contents(job, view, &header).map_err(words)? } else { None };
    let plan = ScrubPlan {
        header,
        counted: view.wal_pages.or(header.counted_pages()).unwrap_or(view.there),
        there: view.there,
        threads: page_threads(),
        faults_max: job.faults_max,
        contents: contents.as_ref().map(|contents| contents.tables.as_slice()),
    };
    let found = match format::scrub(view, &plan, &|_| go_on()) {
        Ok(found) => found,
        Err(ScrubError::Stopped) => return Err(Stop::Time),
        Err(error) => return Err(Stop::Words(error.to_string())),
    };
    let virtual_tables = found.virtual_tables.clone();
    let left = match &contents {
        Some(contents) => left::take(job, view, &header, &found, contents, go_on)?,
        None => None,
    };
    let mut scrubbed = in_job(job, &header, found, begun.elapsed());
    if !job.full {
        scrubbed.by_sqlite = virtual_tables.into_iter().map(unchecked).collect();
    }
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
    Ok((scrubbed, left))
}

/// Its rows are other tables', and those were looked at.
fn unchecked(table: String) -> ScrubbedBySqlite {
    ScrubbedBySqlite { table, why: "the rules of a virtual table".to_owned(), checked: false }
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
        by_sqlite: Vec::new(),
        content: Vec::new(),
    }
}

/// Lets SQLite roll the journal back on a private copy, and looks through that.
fn on_copy(job: &ScrubJob, why: &str, known: Option<ScrubbedFault>) -> Result<Scrubbed, String> {
    let copy: PrivateCopy = of_all(&job.site).map_err(told("taking a private copy"))?;
    settle(&copy).map_err(told("rolling back a private copy"))?;
    let mut scrubbed = through_copy(job, &copy, why)?;
    known.into_iter().for_each(|fault| scrubbed.add(fault));
    Ok(scrubbed)
}

fn through_copy(job: &ScrubJob, copy: &PrivateCopy, why: &str) -> Result<Scrubbed, String> {
    let files = Files::look(&copy.main());
    let view = View::open(&files).map_err(told("reading a private copy"))?;
    let mut scrubbed = match look_through(job, &view, &|| true) {
        Ok((scrubbed, left)) => left::check(left, schema::judge(job, &view, scrubbed)?),
        Err(Stop::Changed(words) | Stop::Words(words)) => return Err(words),
        Err(Stop::Time) => return Err("it took too long".to_owned()),
    };
    let unchecked = scrubbed.reason.map(|reason| format!("; {reason}")).unwrap_or_default();
    scrubbed.reason = Some(format!("looked at on a private copy, because {why}{unchecked}"));
    Ok(scrubbed)
}

/// A copy is made faster than the pass, by far where the file system shares its blocks.
fn on_short_copy(job: &ScrubJob) -> Result<Scrubbed, String> {
    let why = format!("it would keep its programs from writing for longer than {} ms", job.site.block_max_ms);
    let copy = under_shared_lock(&job.site).map_err(|error| {
        format!(
            "{why}, and so would a copy: {error}. Scrub it while its programs are stopped, or let them wait longer (`block_max` in its \
             `backup` table), or scrub its newest backup, whose file `guardiand backups` names"
        )
    })?;
    through_copy(job, &copy, &why)
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

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use rusqlite::Connection;

    use super::*;
    use crate::host::SqliteLock;

    const MINUTE: Duration = Duration::from_secs(60);

    fn database(folder: &Path, mode: &str) -> DatabaseSite {
        let path = folder.join("app.db");
        let db = Connection::open(&path).unwrap();
        db.execute_batch(&format!(
            "PRAGMA journal_mode={mode}; CREATE TABLE t(a INTEGER PRIMARY KEY, b); CREATE INDEX i ON t(b);
             CREATE TABLE c(a CHECK(a > 0)); INSERT INTO c VALUES(1);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) INSERT INTO t SELECT i, 'row ' || i FROM n;"
        ))
        .unwrap();
        DatabaseSite {
            name: "app".to_owned(),
            path,
            user: None,
            scratch: folder.join("scratch"),
            busy_ms: 20,
            block_max_ms: 60_000,
        }
    }

    #[test]
    fn what_is_sound_is_sound_to_a_content_check_and_all_else_is_sqlites_to_say() {
        for mode in ["wal", "delete"] {
            let folder = tempfile::tempdir().unwrap();
            let site = database(folder.path(), mode);
            let says = |full| soundness(&site, full);
            assert_eq!([says(false), says(true)], [Soundness::Sound; 2], "{mode}");
            // Of this process, so that it loses its locks whenever a raw descriptor is closed: nobody else is there.
            let live = Connection::open(&site.path).unwrap();
            live.execute_batch("INSERT INTO t(b) VALUES('live'); BEGIN IMMEDIATE; INSERT INTO t(b) VALUES('open')")
                .unwrap();
            assert_eq!([says(false), says(true)], [Soundness::Sound; 2], "{mode}");
            live.execute_batch("COMMIT").unwrap();
            // No time at all is too short for whoever keeps writers out; a WAL keeps none out, and neither does a look at what is at rest.
            let hurried = DatabaseSite { block_max_ms: 0, ..site.clone() };
            let in_time = if mode == "wal" { Soundness::Sound } else { Soundness::TakesTooLong };
            let main = std::fs::File::options().append(true).open(&site.path).unwrap();
            let written = |at: SystemTime| main.set_modified(at).unwrap();
            // A write of this moment does not show in the file's time.
            written(SystemTime::now() + MINUTE);
            assert_eq!(soundness(&hurried, false), in_time, "{mode}");
            written(SystemTime::now() - MINUTE);
            assert_eq!([false, true].map(|full| soundness(&hurried, full)), [Soundness::Sound; 2], "{mode}");
            drop((live, main));
            // Nothing is held any more, and nothing is left.
            let main = std::fs::File::options().read(true).write(true).open(&site.path).unwrap();
            assert!(crate::host::OfdLock::exclusive(main.into(), SqliteLock::Shared.bytes()).is_ok());
            assert_eq!(std::fs::read_dir(&site.scratch).unwrap().count(), 0);

            let db = Connection::open(&site.path).unwrap();
            db.execute_batch(
                "PRAGMA writable_schema=ON; CREATE TEMP TABLE kept AS SELECT * FROM sqlite_schema WHERE name='i';
                 DELETE FROM sqlite_schema WHERE name='i'; PRAGMA writable_schema=RESET; UPDATE t SET b='other' WHERE a=17;
                 PRAGMA writable_schema=ON; INSERT INTO main.sqlite_schema SELECT * FROM temp.kept; PRAGMA writable_schema=RESET",
            )
            .unwrap();
            drop(db);
            assert_eq!([says(false), says(true)], [Soundness::Sound, Soundness::NotTold], "{mode}");
            let mut bytes = std::fs::read(&site.path).unwrap();
            let leaf = (1..bytes.len() / 4096).find(|page| bytes[page * 4096] == 13).unwrap();
            bytes[leaf * 4096 + 3] ^= 0xff;
            std::fs::write(&site.path, &bytes).unwrap();
            assert_eq!([says(false), says(true)], [Soundness::NotTold; 2], "{mode}");
        }
    }

    #[test]
    fn who_writes_meanwhile_makes_a_pass_void_or_waits() {
        let folder = tempfile::tempdir().unwrap();
        let site = database(folder.path(), "delete");
        let main = std::fs::File::options().read(true).write(true).open(&site.path).unwrap();
        let taken = |main: &std::fs::File| {
            crate::host::OfdLock::exclusive(main.try_clone().unwrap().into(), SqliteLock::Shared.bytes()).is_ok()
        };
        for (lets_write, written, waits) in [
            (true, SystemTime::now() - MINUTE, false),
            // A write of this moment would not show.
            (true, SystemTime::now() + MINUTE, true),
            (false, SystemTime::now() - MINUTE, true),
        ] {
            main.set_modified(written).unwrap();
            let files = Files::pinned(&site.path);
            let begin = |block_max| {
                let held = view::hold(&files, Duration::ZERO).unwrap();
                Stillness::new(held, &files, false, lets_write, block_max)
            };
            assert_eq!(begin(Duration::ZERO).lasts(), !waits, "{lets_write} {written:?}");
            let stillness = begin(MINUTE);
            assert!(stillness.lasts());
            assert_eq!(taken(&main), !waits, "{lets_write} {written:?}");
            main.set_modified(written - MINUTE).unwrap();
            assert_eq!(stillness.lasts(), waits);
            let (held, was_still) = stillness.end(Duration::ZERO).unwrap();
            assert!(!was_still && !taken(&main));
            drop(held);
            assert!(taken(&main));
        }
    }

    #[test]
    fn rules_of_virtual_tables_are_a_part_of_a_content_check() {
        let folder = tempfile::tempdir().unwrap();
        let site = database(folder.path(), "delete");
        let db = Connection::open(&site.path).unwrap();
        db.execute_batch("CREATE VIRTUAL TABLE f USING fts5(w); INSERT INTO f VALUES('a word')").unwrap();
        assert_eq!(soundness(&site, false), Soundness::NotTold);
        assert_eq!(soundness(&site, true), Soundness::Sound);
        db.execute_batch("DELETE FROM f_data WHERE id > 10").unwrap();
        assert_eq!(soundness(&site, true), Soundness::NotTold);
    }
}
