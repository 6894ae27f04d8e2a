//! Taking a backup: a copy aside, checked in full, and only then a backup. And letting old ones go.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::manifest::{self, VERSION, file_name, list_in, remove_leftovers};
use super::raw::{Bounded, bring_up_to_date, copy_ahead, copy_bounded, shared_lock};
use super::source::{Look, apart_in, journal_is_hot, page_is_lost, wal_is_damaged, wal_position};
use super::{BackupError, Examined, examine, hash, to_delete};
use crate::host::{Bytes, Folder, FsId, HostError, OfdLock, Space, write_back};
use crate::job::{BackupEntry, BackupJob, BackupManifest, Fingerprint, Owner, PruneJob, WalPosition};
use crate::model::for_shell;
use crate::sqlite::{Access, Database, Deadline, sqlite_version};

/// Held while a folder's backups change: the daemon's turn and a person's command may fall together.
const LOCK: &str = ".guardiand-lock";

/// So many bytes are copied under the lock in one go: some hundredths of a second. What has more is copied ahead, and only compared
/// under the lock.
const AT_ONCE_BYTES: u64 = 32 << 20;

struct Source {
    folder: Folder,
    name: OsString,
    path: PathBuf,
}

struct Copy {
    taken_at: Timestamp,
    blocked: Duration,
    before: Look,
    unchanged: bool,
    schema_cookie: Option<u32>,
    wal: Option<WalPosition>,
}

/// Takes a verified backup.
///
/// # Errors
/// [`BackupError`]; nothing that was there before is displaced, and nothing half-made stays.
pub fn take(job: &BackupJob) -> Result<BackupEntry, BackupError> {
    let began = Instant::now();
    let deadline = Deadline::after(Duration::from_millis(job.deadline_ms));
    let folder = make_folder(&job.folder)?;
    let _alone = lock(&folder)?;
    remove_leftovers(&folder, LOCK)?;

    let (source_folder, name) =
        Folder::of_entry(&job.site.path).map_err(BackupError::host("opening the database's folder"))?;
    let source = Source { folder: source_folder, name, path: job.site.path.clone() };
    is_in_its_place(job, &source)?;
    let main = source.folder.open_own_in(&source.name).map_err(BackupError::host("opening the database"))?;
    let look = Look::at(&source.folder, &source.name, &main)?;
    let needed = look.main.size + look.wal.map_or(0, |wal| wal.size);
    enough_space(&folder, needed, job.free_floor)?;

    let temporary = format!(".guardiand-{}-{}.db", std::process::id(), began.elapsed().as_nanos());
    let path = folder.path().join(&temporary);
    let made = if look.header.is_wal() {
        // The raw descriptor must be gone before SQLite opens the file in this process.
        drop(main);
        online_copy(job, &source, look, &path, &deadline)
    } else {
        let target = folder.create_in(&temporary, 0o600).map_err(BackupError::host("creating the copy"))?;
        raw_copy(job, &source, &main, look, &target, &deadline)
    };
    let entry = made.and_then(|copy| finish(job, &folder, &temporary, copy, began, &deadline));
    if entry.is_err() {
        let _ = folder.unlink(&temporary);
    }
    entry
}

/// What is at the path of a database whose file system is not mounted is none of it: a program made it there in its absence. As a
/// backup it would be the newest one, and in the end the only one.
fn is_in_its_place(job: &BackupJob, source: &Source) -> Result<(), BackupError> {
    let Some(known) = &job.fs_id else { return Ok(()) };
    let now = FsId::of(source.folder.path()).map_err(BackupError::host("asking which file system it is on"))?;
    if now.name() == *known {
        return Ok(());
    }
    let reason = format!(
        "it was on another file system when it was last healthy: is that mounted? Mount it, and take the backup then. If the database \
         moved for good, `guardiand check {0}` says whether it is known again, and what to do if it is not; `guardiand pause {0}` leaves it \
         alone meanwhile",
        for_shell(&job.target)
    );
    Err(BackupError::Source { path: source.path.clone(), reason })
}

/// WAL mode: SQLite's online backup in one step. Stepped ones never finish under a foreign writer (BASELINES, section 4).
fn online_copy(
    job: &BackupJob,
    source: &Source,
    before: Look,
    path: &Path,
    deadline: &Deadline,
) -> Result<Copy, BackupError> {
    if let Some(scan) = wal_is_damaged(&source.folder, &source.name)? {
        let reason = format!(
            "its WAL is damaged after frame {} and {} commits lie beyond: a copy would lack them. Heal it first",
            scan.frames_valid, scan.stranded_commits
        );
        return Err(BackupError::Damaged { path: source.path.clone(), reason });
    }
    // A copy by SQLite has whole pages, and zeros in them.
    if let Some(page) = page_is_lost(&source.folder, &source.name, &before)? {
        let reason = format!("it ends within page {page}, or before it: a copy would have zeros there. Heal it first");
        return Err(BackupError::Damaged { path: source.path.clone(), reason });
    }
    let begun = wal_position(&source.folder, &source.name)?;
    let apart =
        apart_in(&source.folder, &source.name).map_err(BackupError::host("asking who has the database open"))?;
    if let Some(why) = apart {
        return Err(BackupError::Source { path: source.path.clone(), reason: why.to_owned() });
    }
    let busy = Duration::from_millis(job.site.busy_ms);
    let database = Database::open(&source.path, Access::Probe, busy, deadline.clone())
        .map_err(BackupError::sqlite("opening the database"))?;
    database.touch_schema().map_err(BackupError::sqlite("reading the database's schema"))?;
    let taken_at = Timestamp::now();
    let cookie = || database.schema_version().map_err(BackupError::sqlite("reading the database's schema"));
    let schema_cookie = cookie()?;
    database.backup_to(path, deadline).map_err(BackupError::sqlite("copying the database"))?;
    let schema_cookie = Some(schema_cookie as u32).filter(|_| cookie().is_ok_and(|now| now == schema_cookie));
    database.close().map_err(BackupError::sqlite("closing the database"))?;

    let main = source.folder.open_own_in(&source.name).map_err(BackupError::host("opening the database"))?;
    let after = Look::at(&source.folder, &source.name, &main)?;
    // An empty WAL is none: any reader makes one and takes it away again, a look of ours too.
    let content = |look: &Look| {
        let print = look.fingerprint();
        Fingerprint { wal: print.wal.filter(|wal| wal.size > 0), ..print }
    };
    let unchanged = content(&after) == content(&before);
    let behind = wal_position(&source.folder, &source.name)?;
    let wal = behind.filter(|behind| begun.is_some_and(|begun| begun.salt == behind.salt));
    Ok(Copy { taken_at, blocked: Duration::ZERO, before, unchanged, wal, schema_cookie })
}

/// Rollback mode, rule 24: the bytes as they are under SHARED, for `block_max` at most. A large file is copied before, without any
/// lock and with what its program writes meanwhile, and under the lock only what differs. Where even that takes longer it is done
/// without a lock, and counts if nobody wrote meanwhile.
fn raw_copy(
    job: &BackupJob,
    source: &Source,
    main: &File,
    first: Look,
    target: &File,
    deadline: &Deadline,
) -> Result<Copy, BackupError> {
    let limit = Duration::from_millis(job.site.block_max_ms);
    let failed = |error: std::io::Error| copy_failed(source, &error);
    let locked = |work: &dyn Fn(Instant) -> std::io::Result<Bounded>| -> Result<Quiet, BackupError> {
        let held = Instant::now();
        let _lock = shared(job, source, main)?;
        let (taken_at, look) = (Timestamp::now(), quiet(source, main)?);
        let copied = work(held).map_err(failed)?;
        Ok(Quiet { taken_at, look, copied, took: held.elapsed() })
    };
    let complete = |quiet: Quiet, bytes: u64, blocked: Duration| {
        short_of(source, bytes, &quiet.look)?;
        let unchanged = quiet.look.fingerprint() == first.fingerprint();
        let schema_cookie = Some(quiet.look.header.schema_cookie);
        Ok(Copy { taken_at: quiet.taken_at, blocked, before: quiet.look, unchanged, wal: None, schema_cookie })
    };

    // A reflink takes no time, whatever the size.
    let at_once = if first.main.size > AT_ONCE_BYTES { Duration::ZERO } else { limit };
    let quick = locked(&|held| copy_bounded(main, target, Some(held + at_once)))?;
    let mut blocked = quick.took;
    if let Bounded::Complete(bytes) = quick.copied {
        return complete(quick, bytes, blocked);
    }
    copy_ahead(main, target, || deadline.is_over()).map_err(failed)?;
    let levelled = locked(&|held| bring_up_to_date(main, target, Some(held + limit)))?;
    blocked += levelled.took;
    if let Bounded::Complete(bytes) = levelled.copied {
        return complete(levelled, bytes, blocked);
    }

    let Quiet { taken_at, look: before, .. } = levelled;
    let copied = bring_up_to_date(main, target, None).map_err(failed)?;
    let after = locked(&|_| Ok(copied))?;
    blocked += after.took;
    // Each transaction in rollback mode counts the change counter up, so a clock too coarse to tell cannot hide one.
    if after.look.fingerprint() != before.fingerprint() {
        let reason = format!("its {} bytes take longer, and without a lock it was written meanwhile", before.main.size);
        return Err(BackupError::Blocked { path: source.path.clone(), limit_ms: job.site.block_max_ms, reason });
    }
    if let Bounded::Complete(bytes) = copied {
        short_of(source, bytes, &before)?;
    }
    let schema_cookie = Some(before.header.schema_cookie);
    Ok(Copy { taken_at, blocked, before, unchanged: true, wal: None, schema_cookie })
}

/// What was done under SHARED, and what the source was then.
struct Quiet {
    taken_at: Timestamp,
    look: Look,
    copied: Bounded,
    took: Duration,
}

fn shared(job: &BackupJob, source: &Source, main: &File) -> Result<OfdLock, BackupError> {
    match shared_lock(main, Duration::from_millis(job.site.busy_ms)) {
        Err(HostError::LockHeld(holder)) => {
            let reason = format!("SHARED is not to be had: locked {holder}");
            Err(BackupError::Blocked { path: source.path.clone(), limit_ms: job.site.block_max_ms, reason })
        }
        answer => answer.map_err(BackupError::host("locking the database for reading")),
    }
}

/// The source as it stands under SHARED: nobody can change the main file now.
fn quiet(source: &Source, main: &File) -> Result<Look, BackupError> {
    let look = Look::at(&source.folder, &source.name, main)?;
    let refuse = |reason: &str| Err(BackupError::Source { path: source.path.clone(), reason: reason.into() });
    if look.header.is_wal() {
        return refuse("it changed to WAL mode meanwhile; it is tried again at the next turn");
    }
    if journal_is_hot(&source.folder, &source.name, main)? {
        return refuse("a writer died and left a hot journal: it is backed up once the database has been opened again");
    }
    Ok(look)
}

fn short_of(source: &Source, bytes: u64, look: &Look) -> Result<(), BackupError> {
    if bytes == look.main.size {
        return Ok(());
    }
    let reason = format!("{bytes} of {} bytes could be copied: it shrank meanwhile", look.main.size);
    Err(BackupError::Source { path: source.path.clone(), reason })
}

fn copy_failed(source: &Source, error: &std::io::Error) -> BackupError {
    BackupError::Source { path: source.path.clone(), reason: format!("copying it failed: {error}") }
}

/// Checks the copy and makes it a backup.
fn finish(
    job: &BackupJob,
    folder: &Folder,
    temporary: &str,
    copy: Copy,
    began: Instant,
    deadline: &Deadline,
) -> Result<BackupEntry, BackupError> {
    let path = folder.path().join(temporary);
    let unsound = |reason: String| BackupError::Unsound { path: path.clone(), reason };
    let file = folder.open_for_writing_in(temporary).map_err(BackupError::host("opening the copy"))?;
    // The online backup may write its own journal mode: a restored file shall come back in the source's.
    let mode = [copy.before.header.write_version, copy.before.header.read_version];
    file.write_all_at(&mode, 18).map_err(|error| unsound(error.to_string()))?;
    // The program's own commits are not to wait for all of this.
    write_back(&file).and_then(|()| file.sync_all()).map_err(|error| unsound(format!("fsync: {error}")))?;
    let size = file.metadata().map_err(|error| unsound(error.to_string()))?.len();
    let blake3 = hash(&file).map_err(|error| unsound(error.to_string()))?;
    drop(file);
    // The copy goes, and is as good as its source.
    let examined = examine(&path, deadline).map_err(|error| match error {
        BackupError::Unsound { reason, .. } => BackupError::Unsound { path: job.site.path.clone(), reason },
        other => other,
    })?;
    let others = list_in(folder)?.entries;
    not_emptied(job, &others, &examined)?;

    let name = file_name(copy.taken_at);
    let manifest = BackupManifest {
        version: VERSION,
        target: job.target.clone(),
        source: job.site.path.clone(),
        number: others.first().map_or(1, |newest| newest.manifest.number + 1),
        taken_at: copy.taken_at,
        duration_seconds: began.elapsed().as_secs_f64(),
        blocked_seconds: copy.blocked.as_secs_f64(),
        size,
        blake3,
        tables: examined.tables,
        schema: examined.schema,
        schema_cookie: copy.schema_cookie,
        journal_mode: if copy.before.header.is_wal() { "wal" } else { "delete" }.into(),
        page_size: examined.page_size,
        source_fingerprint: copy.unchanged.then(|| copy.before.fingerprint()),
        wal: copy.wal,
        owner: Owner::from(&copy.before.main),
        attributes: Some(copy.before.attributes),
        verified_at: Timestamp::now(),
        sqlite_version: sqlite_version().into(),
        damaged: None,
    };
    manifest::write(folder, &name, &manifest)?;
    folder.rename_noreplace(temporary, folder, &name).map_err(BackupError::host("putting the backup in place"))?;
    folder.sync().map_err(BackupError::host("making the backup durable"))?;
    Ok(BackupEntry { file: folder.path().join(name), manifest })
}

/// A program that lost its database often makes an empty one: sound by every check, and with each turn the retention would let
/// go of one good backup for it.
fn not_emptied(job: &BackupJob, others: &[BackupEntry], examined: &Examined) -> Result<(), BackupError> {
    if !examined.empty {
        return Ok(());
    }
    match others.first() {
        Some(newest) if !newest.manifest.tables.is_empty() => Err(BackupError::Source {
            path: job.site.path.clone(),
            reason: format!(
                "it has no table, and {} has {}: it would displace good backups. If it shall be empty, move the \
                 backups away",
                newest.file.display(),
                newest.manifest.tables.len()
            ),
        }),
        _ => Ok(()),
    }
}

fn enough_space(folder: &Folder, needed: u64, floor: u64) -> Result<(), BackupError> {
    let space = Space::at(folder.path()).map_err(BackupError::host("asking for free space"))?;
    let floor = space.floor(floor);
    if space.free_bytes >= needed.saturating_add(floor) {
        return Ok(());
    }
    Err(BackupError::Space { folder: folder.path().to_owned(), free: space.free_bytes, needed, floor })
}

fn make_folder(path: &Path) -> Result<Folder, BackupError> {
    Folder::make_all(path, 0o700).map_err(BackupError::host("making the backups' folder"))
}

pub(super) fn lock(folder: &Folder) -> Result<OfdLock, BackupError> {
    let file = match folder.create_in(LOCK, 0o600) {
        Err(HostError::Open { .. }) => folder.open_for_writing_in(LOCK),
        answer => answer,
    };
    match file.and_then(|file| OfdLock::exclusive(file.into(), Bytes::ALL)) {
        Err(HostError::LockHeld(_)) => Err(BackupError::Busy { folder: folder.path().to_owned() }),
        answer => answer.map_err(BackupError::host("locking the backups' folder")),
    }
}

/// Deletes what the retention no longer keeps; the deleted database files.
///
/// # Errors
/// [`BackupError::Busy`] or [`BackupError::Host`] at the first that cannot be deleted.
pub fn prune(job: &PruneJob) -> Result<Vec<PathBuf>, BackupError> {
    let folder = match Folder::open(&job.folder) {
        Ok(folder) => folder,
        Err(error) if error.is_absent() => return Ok(Vec::new()),
        Err(error) => return Err(BackupError::host("opening the backups' folder")(error)),
    };
    let _alone = lock(&folder)?;
    remove_leftovers(&folder, LOCK)?;
    let entries = list_in(&folder)?.entries;
    let gone = to_delete(&entries, &job.keep, job.max_bytes, job.now);
    for file in &gone {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // The file first: without it the manifest counts for nothing.
        folder.unlink(&name).map_err(BackupError::host("deleting a backup"))?;
        folder.unlink(manifest::manifest_name(&name)).map_err(BackupError::host("deleting a manifest"))?;
    }
    folder.sync().map_err(BackupError::host("making deletions durable"))?;
    Ok(gone)
}
