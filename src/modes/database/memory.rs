//! What is remembered of a database between looks, and between processes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::clock::Moment;
use crate::job::{
    BackupEntry, DatabaseFacts, FileFacts, FileState, Fingerprint, HeaderFacts, HeldLock, KnownState, OpenFacts, Owner,
    TableRows, WalFacts, WalMark, WalState, WalUnread,
};
use crate::model::FaultClass;

/// A large WAL that is written to all the time is read from its beginning so often.
const WAL_READ_EVERY: Duration = Duration::from_secs(60);

/// The memory of one database. The default is the cautious one: never seen healthy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// The file that all this was learnt of. A name can be given to another file, which then was never seen healthy.
    #[serde(default)]
    pub path: Option<String>,
    /// It was seen healthy at least once, by this or an earlier process, or a verified backup of it proves so.
    pub ever_healthy: bool,
    /// Its files when they were last seen healthy.
    pub last_healthy: Option<Fingerprint>,
    /// When that was.
    pub healthy_at: Option<Timestamp>,
    /// Where it lived then.
    pub place: Option<PlaceMemory>,
    /// Its schema then, as SQL.
    pub schema: Option<String>,
    /// The `PRAGMA schema_version` that `schema` belongs to.
    #[serde(default)]
    pub schema_version: Option<i64>,
    /// Its journal mode then.
    pub journal_mode: Option<String>,
    /// Its owner and mode then.
    pub owner: Option<Owner>,
    /// The program's user could write it then.
    pub writable: bool,
    /// When `quick_check` last passed.
    pub quick_at: Option<Timestamp>,
    /// When `integrity_check` last passed.
    pub full_at: Option<Timestamp>,
    /// A content check, or that of a backup, has passed at least once.
    #[serde(default)]
    pub content_passed: bool,
    /// Why its content cannot be checked here, as of the last check: a collation, a function or a module of its program's is
    /// missing (SQLITE.md, rule 20).
    #[serde(default)]
    pub unjudged: Option<String>,
    /// When a backup was last tried.
    pub backup_tried_at: Option<Timestamp>,
    /// The newest backup's source files and rows.
    pub backup: Option<BackupMemory>,
    /// The backup that the database was restored from, and its files just after: while they stay so, its content is that
    /// backup's.
    pub restored: Option<(String, Fingerprint)>,
    /// The state that the page map beside its backups is of.
    #[serde(default)]
    pub mapped: Option<KnownState>,
    /// What was in its WAL alone when it was last seen healthy.
    #[serde(default)]
    pub pending: Option<Pending>,
    /// How far the WAL has been verified.
    #[serde(skip)]
    pub wal_mark: Option<WalMark>,
    /// The WAL as it was when every frame of it had been read and was sound.
    #[serde(skip)]
    pub wal_verified: Option<FileFacts>,
    /// When it was last read from its beginning.
    #[serde(skip)]
    pub wal_read_at: Option<Moment>,
    /// Since when SQLite has answered BUSY without a break.
    #[serde(skip)]
    pub busy_since: Option<Moment>,
    /// Locks that say something.
    #[serde(skip)]
    pub locks: Vec<LockSeen>,
    /// One of them keeps others from writing, and is not a program's that locks for its life.
    #[serde(skip)]
    pub blocked: bool,
    /// A writer was seen waiting for readers, and nobody has committed since.
    #[serde(skip)]
    pub wanted: bool,
    /// The lock of a program that locks for its life, as long as it is held on.
    #[serde(skip)]
    pub exclusive: Option<LockKey>,
    /// Who could get to it when it was last healthy: [`crate::job::Place::way`].
    #[serde(skip)]
    pub way: u64,
    /// When all this was last brought up to date.
    #[serde(skip)]
    pub noted_at: Option<Moment>,
    /// How far its programs had committed at the last look.
    #[serde(skip)]
    pub committed: Option<Committed>,
}

/// Commits that are in a WAL and not yet in the main file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Salts of the WAL's generation.
    pub salt: [u32; 2],
    /// Its first so many frames are in the main file too.
    pub copied: u32,
    /// The last frame that commits: more than `copied`.
    pub last_commit: u32,
}

impl Pending {
    /// `known`: what was known of the same main file before.
    fn of(facts: &DatabaseFacts, known: Option<Pending>) -> Option<Pending> {
        let wal = facts.wal.as_ref().filter(|wal| wal.state == WalState::Sound)?;
        let mark = wal.mark.filter(|_| !wal.checkpointing)?;
        // Without an index nobody knows what of it is copied: all of it may be. While somebody builds it anew, it is as it was.
        let copied = wal.index_backfill.or(known.filter(|known| known.salt == mark.salt).map(|known| known.copied))?;
        let pending = Pending { salt: mark.salt, copied, last_commit: mark.last_commit };
        (pending.last_commit > copied).then_some(pending)
    }
}

/// What every commit moves on: the header's change counter, the WAL's generation and its last commit, the journal's nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    change_counter: u32,
    wal: Option<([u32; 2], u32)>,
    /// Of the last transaction that was seen in a journal; `locking_mode=EXCLUSIVE` moves nothing else.
    nonce: Option<u32>,
}

impl Committed {
    fn of(facts: &DatabaseFacts) -> Option<Committed> {
        let Some(HeaderFacts::Good { change_counter, .. }) = &facts.header else { return None };
        let mark = facts.wal.as_ref().and_then(|wal| wal.mark);
        let nonce = facts.journal.as_ref().and_then(|journal| journal.nonce);
        Some(Committed { change_counter: *change_counter, wal: mark.map(|mark| (mark.salt, mark.last_commit)), nonce })
    }

    /// The same, where this look saw no journal to tell the nonce of.
    fn after(self, before: Option<Committed>) -> Committed {
        Committed { nonce: self.nonce.or(before.and_then(|before| before.nonce)), ..self }
    }
}

/// The file system and boot a database was seen on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceMemory {
    /// See [`crate::job::Place::fs_id`].
    pub fs_id: String,
    /// The boot.
    pub boot_id: String,
    /// In memory only.
    pub volatile: bool,
}

/// What loss accounting needs of the newest backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackupMemory {
    /// When its content was current.
    pub taken_at: Timestamp,
    /// When it last passed its full check.
    #[serde(default)]
    pub verified_at: Option<Timestamp>,
    /// Bytes.
    pub size: u64,
    /// Rows per table.
    pub tables: Vec<TableRows>,
}

/// One lock of one process: the same key at the next sweep is the same lock, held on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockKey {
    pid: i32,
    started_ms: u64,
    /// A program that became another one (execve(2)) has the locks still, and not the mind that took them.
    comm: String,
    lock: String,
}

/// A lock, and since when it has been seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockSeen {
    key: LockKey,
    /// Its holder stood still: that is counted anew, for what a program holds all its life is no fault before it is stopped,
    /// and what a stopped one holds may be let go as soon as it goes on.
    still: bool,
    since: Moment,
}

impl LockKey {
    /// The key of a lock that was seen.
    pub fn of(held: &HeldLock) -> LockKey {
        LockKey { pid: held.pid, started_ms: held.started_ms, comm: held.comm.clone(), lock: held.lock.clone() }
    }
}

/// A path as it is remembered and compared.
fn spelled(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

impl Memory {
    /// Nothing is known yet of the file at `path`.
    pub fn of(path: &Path) -> Memory {
        Memory { path: Some(spelled(path)), ..Memory::default() }
    }

    /// What was learnt of the file at `path`, and not of one that had the same name in the configuration.
    pub fn is_of(&self, path: &Path) -> bool {
        self.path.as_ref().is_none_or(|known| *known == spelled(path))
    }

    /// The WAL that `facts` saw is the one that was there when the database was last healthy. A WAL names no database (SQLITE.md,
    /// section 2): one that came since may be any other's, and its being whole proves nothing of this one.
    pub fn knows_wal(&self, facts: &DatabaseFacts) -> bool {
        let known = self.last_healthy.as_ref().and_then(|print| print.wal).filter(|wal| wal.size > 0);
        facts.wal_file.file().zip(known).is_some_and(|(now, known)| now.ino == known.ino)
    }

    /// Whose path a saved memory is of, where that file is missed when it is gone: it was healthy once, or `has_incident`. A file
    /// that never was may have been no database at all.
    pub fn path_of_known(saved: &serde_json::Value, has_incident: bool) -> Option<PathBuf> {
        let memory = Memory::deserialize(saved).ok()?;
        memory.path.filter(|_| memory.ever_healthy || has_incident).map(PathBuf::from)
    }

    /// What was in the WAL alone and is gone with it. SQLite writes a WAL back before it deletes it or begins it anew, and that
    /// shows in the main file: where this is as it was, somebody else took the WAL away.
    pub fn lost_with_wal(&self, facts: &DatabaseFacts) -> Option<Pending> {
        let pending = self.pending?;
        let (known, now) = (self.last_healthy.as_ref()?.main, facts.main.file()?);
        // A write within one tick of the clock after the look would not show.
        let settled = self.healthy_at.is_some_and(|at| known.is_settled_at(at));
        // Looked at one after the other: a checkpoint in between is to be seen in the main file only at the next look.
        let wal = facts.wal.as_ref().filter(|wal| !wal.checkpointing)?;
        let gone = match (wal.state, wal.mark) {
            (WalState::Absent | WalState::Unused, _) => true,
            (WalState::Sound, Some(mark)) => mark.salt != pending.salt,
            _ => false,
        };
        (now.is_unwritten_since(&known) && settled && gone).then_some(pending)
    }

    /// Whether there is nothing to save beyond what `saved` has. When it was last healthy changes with each look, and alone is
    /// not worth a write.
    pub fn is_saved_as(&self, saved: &Memory) -> bool {
        let Memory {
            path,
            ever_healthy,
            last_healthy,
            healthy_at: _,
            place,
            schema,
            schema_version,
            journal_mode,
            owner,
            writable,
            quick_at,
            full_at,
            content_passed,
            unjudged,
            backup_tried_at,
            backup,
            restored,
            mapped,
            pending,
            wal_mark: _,
            wal_verified: _,
            wal_read_at: _,
            busy_since: _,
            locks: _,
            blocked: _,
            wanted: _,
            exclusive: _,
            way: _,
            noted_at: _,
            committed: _,
        } = self;
        *path == saved.path
            && *ever_healthy == saved.ever_healthy
            && *last_healthy == saved.last_healthy
            && *place == saved.place
            && *schema == saved.schema
            && *schema_version == saved.schema_version
            && *journal_mode == saved.journal_mode
            && *owner == saved.owner
            && *writable == saved.writable
            && *quick_at == saved.quick_at
            && *full_at == saved.full_at
            && *content_passed == saved.content_passed
            && *unjudged == saved.unjudged
            && *backup_tried_at == saved.backup_tried_at
            && *backup == saved.backup
            && *restored == saved.restored
            && *mapped == saved.mapped
            && *pending == saved.pending
    }

    /// Whether frames that earlier looks verified are to be read again: what is hurt in the middle of a WAL is lost to everybody with all
    /// that was committed behind it, once its program ends in no order.
    pub fn wal_unread(&self) -> WalUnread {
        let has_wal = self.last_healthy.as_ref().is_some_and(|print| print.wal.is_some_and(|wal| wal.size > 0));
        if !has_wal || self.wal_mark.is_none() || self.wal_verified.is_some() {
            return WalUnread::Nothing;
        }
        let read = self.noted_at.zip(self.wal_read_at).map(|(now, read)| now.since(read));
        if read.is_some_and(|ago| ago < WAL_READ_EVERY) { WalUnread::AtRest } else { WalUnread::Now }
    }

    /// When this lock was first seen, if it was there at the last look.
    pub fn held_since(&self, held: &HeldLock) -> Option<Moment> {
        let (key, still) = (LockKey::of(held), held.standstill.is_some());
        self.locks.iter().find(|known| known.key == key && known.still == still).map(|known| known.since)
    }

    /// For how long this lock has been seen, as of the last look: it is at least so old.
    pub fn age_of(&self, held: &HeldLock) -> Option<Duration> {
        self.held_since(held).zip(self.noted_at).map(|(since, now)| now.since(since))
    }

    /// Somebody committed since the last look.
    pub fn moved(&self, facts: &DatabaseFacts) -> bool {
        let now = Committed::of(facts).map(|now| now.after(self.committed));
        // The first nonce to be seen says nothing of a transaction before.
        let first = self.committed.is_some_and(|before| before.nonce.is_none());
        let before = self.committed.map(|before| match (first, now) {
            (true, Some(now)) => Committed { nonce: now.nonce, ..before },
            _ => before,
        });
        now.is_some() && before.is_some() && now != before
    }

    /// Why its content cannot be checked here, as of this look or the last that checked it.
    pub fn unjudged_by<'a>(&'a self, facts: &'a DatabaseFacts) -> Option<&'a str> {
        let Some(check) = &facts.integrity else { return self.unjudged.as_deref() };
        match &check.fault {
            _ if check.ok => None,
            Some(fault) if fault.class == FaultClass::Schema => Some(&fault.message),
            _ => self.unjudged.as_deref(),
        }
    }

    /// Takes note of what every look tells, healthy or not: locks, busyness, the WAL scan.
    pub fn note(&mut self, facts: &DatabaseFacts, now: Moment) {
        use super::detect::{Exclusive, answered_busy, exclusive};
        self.unjudged = self.unjudged_by(facts).map(str::to_owned);
        self.content_passed |= facts.integrity.as_ref().is_some_and(|check| check.ok);
        // That SQLite opens it proves nothing of what is in it, and now it is known that nothing else was proven either.
        self.ever_healthy &= self.unjudged.is_none() || self.content_passed;
        // Between two looks somebody committed: these are many short locks, and none that is held on.
        let moves = self.moved(facts);
        let exclusive = exclusive(facts, self);
        self.committed = Committed::of(facts).map(|committed| committed.after(self.committed)).or(self.committed);
        // A reader whose snapshot lies behind what was committed is the same one still: a new one reads what is newest.
        let last = facts.wal.as_ref().and_then(|wal| wal.mark).map_or(0, |mark| mark.last_commit);
        let stays = |held: &HeldLock| !moves || held.frame.is_some_and(|frame| frame < last);
        let since = |held: &HeldLock| self.held_since(held).filter(|_| stays(held)).unwrap_or(now);
        let seen = |held| LockSeen { key: LockKey::of(held), still: held.standstill.is_some(), since: since(held) };
        self.locks = facts.locks.iter().map(seen).collect();
        let lasting = matches!(exclusive, Exclusive::Program(_) | Exclusive::Unclear(_));
        self.blocked = !lasting && facts.locks.iter().any(|held| held.blocks_writers);
        let shared = facts.locks.iter().any(|held| held.lock == "SHARED");
        self.wanted = shared && (self.wanted && !moves || super::blame::waiting(&facts.locks).is_some());
        self.exclusive = match exclusive {
            Exclusive::Program(held) => Some(LockKey::of(held)),
            Exclusive::Unclear(_) | Exclusive::No => {
                self.exclusive.take().filter(|known| self.locks.iter().any(|seen| seen.key == *known))
            }
        };
        self.noted_at = Some(now);
        if lasting {
            self.busy_since = None;
        } else if answered_busy(facts) {
            self.busy_since = self.busy_since.filter(|_| !moves).or(Some(now));
        } else {
            self.busy_since = None;
        }
        if let Some(wal) = &facts.wal {
            self.wal_mark = wal.mark;
            self.wal_read_at = if wal.whole { Some(now) } else { self.wal_read_at };
            self.wal_verified = self.verified_wal(facts, wal);
        }
    }

    /// The WAL, if with this look all of it has been read as it is. What changes within a tick of the clock after a write does not
    /// show in its time.
    fn verified_wal(&self, facts: &DatabaseFacts, wal: &WalFacts) -> Option<FileFacts> {
        let file = facts.wal_file.file().filter(|_| wal.state == WalState::Sound)?;
        let settled = file.is_settled_at(facts.looked_at);
        let read = wal.whole || self.wal_verified.is_some_and(|known| file.is_unwritten_since(&known));
        (settled && read).then_some(*file)
    }

    /// Takes note of a healthy look.
    pub fn note_healthy(&mut self, facts: &DatabaseFacts, now: Moment) {
        self.healthy_at = Some(facts.looked_at);
        if facts.unchanged {
            return;
        }
        let Some(fingerprint) = &facts.fingerprint else { return };
        // Health that SQLite itself has not confirmed (busy, judged from outside) proves nothing about the content.
        let Some(Ok(open)) = &facts.open else { return };
        self.ever_healthy |= self.unjudged.is_none();
        self.way = facts.place.way;
        if let FileState::File(main) = &facts.main {
            self.owner = Some(Owner::from(main));
        }
        self.writable = facts.access.as_ref().is_some_and(|access| access.write && access.folder_write);
        self.note_schema(open);
        self.journal_mode = Some(open.journal_mode.clone());
        self.place = Some(PlaceMemory {
            fs_id: facts.place.fs_id.clone(),
            boot_id: facts.place.boot_id.clone(),
            volatile: facts.place.volatile,
        });
        if let Some(integrity) = facts.integrity.as_ref().filter(|integrity| integrity.ok) {
            self.quick_at = Some(now.wall);
            if integrity.level == crate::job::IntegrityLevel::Full {
                self.full_at = Some(now.wall);
            }
        }
        let is_as_before = |before: &Fingerprint| fingerprint.main.is_unwritten_since(&before.main);
        let known = self.pending.filter(|_| self.last_healthy.as_ref().is_some_and(is_as_before));
        self.pending = Pending::of(facts, known);
        if facts.mapped.is_some() {
            self.mapped.clone_from(&facts.mapped);
        }
        self.last_healthy = Some(fingerprint.clone());
    }

    /// A check that passes is to be followed by a map of the pages: it was written since the last, and a backup may have pages of it.
    pub fn calls_for_a_map(&self) -> bool {
        let now = self.last_healthy.as_ref();
        let is_as_mapped = self.mapped.as_ref().zip(now).is_some_and(|(map, now)| {
            let wal = |print: &Fingerprint| print.wal.filter(|wal| wal.size > 0).map(|wal| (wal.size, wal.mtime_ns));
            now.main.is_unwritten_since(&map.print.main) && wal(now) == wal(&map.print)
        });
        self.backup.is_some() && !is_as_mapped
    }

    fn note_schema(&mut self, open: &OpenFacts) {
        if let Some(schema) = &open.schema {
            // An empty schema is never remembered over one with content: it would be all that is left to recreate from.
            if open.objects > 0 || self.schema.is_none() {
                self.schema = Some(schema.clone());
                self.schema_version = Some(open.schema_version);
            }
        }
    }

    /// Takes note of the newest verified backup, whatever time of day it bears: it proves that its source was healthy when it was taken.
    pub fn note_backup(&mut self, entry: &BackupEntry) {
        let manifest = &entry.manifest;
        self.backup = Some(BackupMemory {
            taken_at: manifest.taken_at,
            verified_at: Some(manifest.verified_at),
            size: manifest.size,
            tables: manifest.tables.clone(),
        });
        self.note_source(entry);
    }

    /// Takes note of what a verified backup, also an older one, proves of its source.
    pub fn note_source(&mut self, entry: &BackupEntry) {
        let manifest = &entry.manifest;
        if !self.is_of(&manifest.source) {
            return;
        }
        self.ever_healthy = true;
        self.content_passed = true;
        if self.schema.is_none() {
            self.schema = Some(manifest.schema.clone());
        }
        if self.journal_mode.is_none() {
            self.journal_mode = Some(manifest.journal_mode.clone());
        }
        if self.owner.is_none() {
            self.owner = Some(manifest.owner);
        }
    }
}
