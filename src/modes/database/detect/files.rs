//! The layers `exists` and `readable`, and the side files: what `stat` and raw bytes tell.

use crate::job::{FileState, FormatVersion, HeaderFacts, JournalState, WalFacts, WalState};
use crate::model::{FaultClass, Finding, Severity};
use crate::modes::database::elsewhere::move_away;

use super::super::elsewhere;
use super::super::kinds::{self, EXISTS, READABLE, WAL};
use super::Judgement;

/// Below this many free bytes a commit of a page or two already fails.
const FULL_BELOW_BYTES: u64 = 64 * 1024;

impl Judgement<'_> {
    pub(super) fn exists(&mut self) -> bool {
        let path = self.config.path.display().to_string();
        match &self.facts.main {
            FileState::File(_) => return true,
            FileState::Missing => self.missing(),
            FileState::Symlink { target } => self.cannot_tell(format!(
                "{path} is a symbolic link to {}: guardiand follows no links; configure the path it points to",
                target.display()
            )),
            FileState::Other { what } => self.find(
                &kinds::NOT_FILE,
                Severity::Critical,
                &EXISTS,
                format!("{path} is {what}, not a database file"),
                "move it away; guardiand then restores the database",
            ),
            FileState::Unreadable { errno, message }
                if *errno == rustix_errno::ACCES || *errno == rustix_errno::PERM =>
            {
                self.find(
                    &kinds::ACCESS_DENIED,
                    Severity::High,
                    &EXISTS,
                    message.clone(),
                    "let guardiand enter the folder",
                )
            }
            FileState::Unreadable { errno, message } if rustix_errno::of_the_disk(*errno) => self.find(
                &kinds::IO_ERROR,
                Severity::Critical,
                &EXISTS,
                message.clone(),
                "look at the disk (`dmesg`, SMART) before anything else",
            ),
            FileState::Unreadable { message, .. } => self.cannot_tell(message.clone()),
        }
        false
    }

    pub(super) fn missing(&mut self) {
        let path = self.config.path.display().to_string();
        if let Some(known) = &self.memory.place {
            let place = &self.facts.place;
            if known.volatile && known.boot_id != place.boot_id {
                return self.cannot_tell(format!("{path} was on a file system in memory, of another boot"));
            }
            if place.folder_exists && known.fs_id != place.fs_id {
                let todo = elsewhere::what_to_do(&self.config.name, &self.config.path);
                return self.cannot_tell(format!("{path} was on another file system: {todo}"));
            }
            if !place.folder_exists {
                // The folder may be a mount point's inside: nothing to heal into before somebody says so.
                return self.cannot_tell(format!("the folder of {path} is gone: is its file system mounted?"));
            }
        }
        if let Some(holder) = self.facts.diagnosis.as_ref().and_then(|diagnosis| diagnosis.holders.first()) {
            return self.find(
                &kinds::FILE_UNLINKED,
                Severity::Critical,
                &EXISTS,
                format!("{path} is gone, and {} (pid {}) still has the old file open", holder.comm, holder.pid),
                format!("do not stop pid {}: the data is reachable through /proc/{}/fd", holder.pid, holder.pid),
            );
        }
        let beside = [(&self.facts.wal_file, "-wal"), (&self.facts.journal_file, "-journal")]
            .into_iter()
            .filter(|(state, _)| state.size() > 0)
            .map(|(state, suffix)| format!("; a {suffix} of {} bytes is still there", state.size()))
            .collect::<String>();
        self.find(
            &kinds::FILE_MISSING,
            Severity::Critical,
            &EXISTS,
            format!("{path} does not exist{beside}"),
            "restore the newest backup that passes, or recreate it from its schema",
        );
    }

    /// A program that starts while its disk is not mounted makes a file of its own where the disk would be: nothing that is wrong with
    /// that one is the database's, and to heal it would be to write where the database is not. What a program holds open under no name is
    /// found all the same, for it is to be kept.
    pub(super) fn not_in_its_place(&mut self) {
        if !self.memory.has_a_stand_in(self.facts) {
            return;
        }
        let is_of_the_file =
            |finding: &&Finding| kinds::is_destructive(&finding.kind) && finding.kind != kinds::FILE_UNLINKED;
        let found = match (self.findings.iter().find(is_of_the_file), &self.facts.header) {
            (Some(finding), _) => finding.detail.clone(),
            (None, Some(HeaderFacts::Bad { reason, .. })) if self.findings.is_empty() => reason.clone(),
            _ => return,
        };
        let (path, todo) = (self.config.path.display(), elsewhere::what_to_do(&self.config.name, &self.config.path));
        let reason = format!("{path} was on another file system, and of what is there now: {found}; {todo}");
        self.findings.clear();
        self.unknown = Some(reason);
    }

    pub(super) fn room_to_write(&mut self) {
        let place = &self.facts.place;
        if place.walled_off {
            // Nothing is known to be wrong for the program: it is our own hands that are tied.
            let path = self.config.path.display();
            let why = format!(
                "guardiand's own unit keeps it from writing to {path}, so it could not heal it: add ReadWritePaths= of \
                 its folder in a drop-in (`systemctl edit guardiand`)"
            );
            self.cannot_tell(why);
        } else if let Some(repair) = place.repair.as_ref().filter(|_| place.read_only) {
            self.find(
                &kinds::WRITE_FAILED,
                Severity::High,
                &READABLE,
                "its file system is read-only, and has errors",
                format!("stop what uses it, then {repair}: it may be damaged, and remounting it does not help; `dmesg` says what happened"),
            );
        } else if place.read_only {
            self.find(
                &kinds::WRITE_FAILED,
                Severity::High,
                &READABLE,
                "its file system is mounted read-only",
                "remount it read-write (`mount -o remount,rw`); look in `dmesg` for why it was remounted",
            );
        } else if place.free_bytes < FULL_BELOW_BYTES {
            self.find(
                &kinds::DISK_FULL,
                Severity::Critical,
                &READABLE,
                format!("its file system has {} bytes free", place.free_bytes),
                "free some space; guardiand looks again and writes nothing there meanwhile",
            );
        } else if place.free_inodes == 0 {
            self.find(
                &kinds::DISK_FULL,
                Severity::Critical,
                &READABLE,
                "its file system has no inode free",
                "delete some files; SQLite cannot create its journal",
            );
        }
    }

    pub(super) fn readable(&mut self) -> bool {
        let place = &self.facts.place;
        if let Some(why) = &self.facts.access_unasked {
            let path = self.config.path.display();
            self.cannot_tell(format!("whether its program can use {path} could not be asked: {why}"));
        }
        let Some(access) = &self.facts.access else { return true };
        let may_write = access.write && access.folder_write;
        if !access.read || (self.memory.writable && !may_write && !place.read_only) {
            self.find(
                &kinds::ACCESS_DENIED,
                Severity::Critical,
                &READABLE,
                access.detail.clone(),
                "put back what it names: the file's owner or mode, a folder's, or an attribute (`chattr -i`)",
            );
        }
        if !access.ours {
            let why = if access.detail.is_empty() {
                "its mode says so, or a lease that another program has on it"
            } else {
                &access.detail
            };
            self.cannot_tell(format!("guardiand may not read {}: {why}", self.config.path.display()));
        }
        access.ours
    }

    /// False when some of its raw bytes could not be read: then nothing that needs them can be judged.
    pub(super) fn read(&mut self) -> bool {
        let Some(unread) = &self.facts.unread else { return true };
        if unread.errno.is_some_and(rustix_errno::of_the_disk) {
            let todo = "look at the disk (`dmesg`, SMART) before anything else";
            self.find(&kinds::IO_ERROR, Severity::Critical, &READABLE, unread.message.clone(), todo);
        } else {
            self.cannot_tell(unread.message.clone());
        }
        false
    }

    /// False when nothing above the header can be judged.
    pub(super) fn header(&mut self) -> bool {
        let path = self.config.path.display();
        match &self.facts.header {
            Some(HeaderFacts::Good { format: FormatVersion::Damaged, .. }) if self.memory.ever_healthy => {
                self.find(
                    &kinds::CORRUPTED,
                    Severity::Critical,
                    &READABLE,
                    format!(
                        "the header of {path} is damaged: its write version is above 2, so that every write to it fails"
                    ),
                    "put the byte at offset 18 back: it is the same as the next, 1 or 2",
                );
                true
            }
            // SQLite finds a sound page 1 in the WAL, where it opened all the same.
            Some(HeaderFacts::Good { schema_format: FormatVersion::Newer, .. }) if self.is_refused() => {
                self.cannot_tell(format!("the schema of {path} is of a newer format than this guardiand knows"));
                true
            }
            Some(HeaderFacts::Good { schema_format: FormatVersion::Damaged, .. })
                if self.memory.ever_healthy && self.is_refused() =>
            {
                self.find(
                    &kinds::CORRUPTED,
                    Severity::Critical,
                    &READABLE,
                    format!(
                        "the header of {path} is damaged: its schema format is above 4, which no SQLite has written, and none reads"
                    ),
                    "put the four bytes at offset 44 back: 00 00 00 04 in all but very old databases",
                );
                true
            }
            None | Some(HeaderFacts::Good { .. }) => true,
            // SQLite finds a sound page 1 in the WAL or the journal: it opened a copy.
            Some(HeaderFacts::Bad { .. }) if matches!(self.facts.open, Some(Ok(_))) => true,
            Some(HeaderFacts::Empty) if self.memory.ever_healthy || self.facts.wal_file.size() > 0 => {
                let wal = match self.facts.wal_file.size() {
                    0 => String::new(),
                    bytes => format!(" beside a WAL of {bytes} bytes, which any reader would delete"),
                };
                self.find(
                    &kinds::TRUNCATED,
                    Severity::Critical,
                    &READABLE,
                    format!("{path} has 0 bytes{wal}"),
                    "restore the newest backup that passes, or recreate it from its schema",
                );
                false
            }
            Some(HeaderFacts::Empty) => {
                self.cannot_tell(format!("{path} has 0 bytes, and was never seen with content"));
                false
            }
            Some(HeaderFacts::Bad { reason, format, .. })
                if *format == FormatVersion::Newer
                    || *format == FormatVersion::Damaged && !self.memory.ever_healthy =>
            {
                self.cannot_tell(format!("{path} is of a newer format than this guardiand knows: {reason}"));
                false
            }
            Some(HeaderFacts::Bad { reason, .. }) if self.is_another_file() => {
                self.cannot_tell(format!(
                    "another file was put in the place of {path}, and it is not a SQLite database that can be read ({reason}): \
                     encrypted, or something else. Whoever put it there meant it; move it away, and guardiand restores what was"
                ));
                false
            }
            Some(HeaderFacts::Bad { reason, .. }) if self.known_as_sqlite() => {
                self.find(
                    &kinds::NOT_A_DATABASE,
                    Severity::Critical,
                    &READABLE,
                    format!("the header of {path} is damaged: {reason}"),
                    "restore the newest backup that passes",
                );
                false
            }
            Some(HeaderFacts::Bad { reason, .. }) => {
                self.cannot_tell(format!(
                    "{path} is not a SQLite database that can be read ({reason}), and was never seen to be one: \
                     encrypted, or something else"
                ));
                false
            }
        }
    }

    /// SQLite says that it cannot read the schema, and not that it is damaged.
    fn is_refused(&self) -> bool {
        matches!(&self.facts.open, Some(Err(fault)) if fault.class == FaultClass::Schema)
    }

    /// Seen healthy before, or its pages are SQLite's under a header that is not.
    pub(super) fn known_as_sqlite(&self) -> bool {
        self.memory.ever_healthy
            || matches!(&self.facts.header, Some(HeaderFacts::Bad { pages_like_sqlite: Some((like, of)), .. }) if *of > 0 && like * 3 >= of * 2)
    }

    /// Not the file that was seen healthy, and nothing in it is like SQLite's: a deploy of an encrypted one, say. That *the
    /// path* was healthy once says nothing of it, and what was never seen healthy is never overwritten.
    fn is_another_file(&self) -> bool {
        let same = |main: &crate::job::FileFacts| {
            self.memory.last_healthy.as_ref().is_none_or(|print| print.main.ino == main.ino)
        };
        let like = matches!(&self.facts.header, Some(HeaderFacts::Bad { pages_like_sqlite: Some((like, of)), .. }) if like * 3 >= *of);
        !like && !self.facts.main.file().is_none_or(same)
    }

    pub(super) fn side_files(&mut self) -> bool {
        if let Some(journal) = self.facts.journal.as_ref().filter(|journal| journal.state == JournalState::Damaged) {
            self.find(
                &kinds::STALE_JOURNAL,
                Severity::Critical,
                &WAL,
                format!("a damaged rollback journal was left behind: {}", journal.detail),
                "do not open the database: SQLite would roll the damage back into it",
            );
        }
        if let Some(wal) = self.facts.wal.as_ref().filter(|wal| wal.reset_bug) {
            let (copied, has) = (wal.index_backfill.unwrap_or(0), wal.index_max_frame.unwrap_or(0));
            self.find(
                &kinds::WAL_CORRUPTED,
                Severity::Critical,
                &WAL,
                format!(
                    "the WAL's index says that {copied} frames are copied into the database, and the WAL has {has}: the WAL-reset \
                     bug of SQLite before 3.51.3"
                ),
                "SIGKILL every process that has it open, none of them gracefully, and without a checkpoint; then SQLite recovers",
            );
        }
        match self.facts.wal.as_ref().map(|wal| (wal.state, wal)) {
            // What a power cut leaves of a WAL that was only begun looks the same, and then nothing is lost.
            Some((WalState::Damaged, wal)) if !self.memory.ever_healthy && promises_nothing(wal) => {
                self.cannot_tell(format!(
                    "{}, and no commit can be seen behind it: a WAL that was only begun, or a destroyed one",
                    wal.detail
                ));
            }
            Some((WalState::Damaged, wal)) => {
                self.find(
                    &kinds::WAL_CORRUPTED,
                    Severity::Critical,
                    &WAL,
                    format!("{}; {} commits lie beyond", wal.detail, wal.stranded_commits),
                    "do not open the database: SQLite would silently ignore what lies beyond the damage",
                );
                self.at_stake("what a program left of a damaged WAL when it opened the database or wrote the WAL back");
            }
            _ => {}
        }
        self.no_side_file();
        self.lost_wal();
        self.findings.iter().all(|finding| finding.layer != WAL || finding.severity != Severity::Critical)
    }
}

impl Judgement<'_> {
    /// What is no file where SQLite has a side file: it fails there, or waits for ever (SQLITE.md, section 7). A rollback-mode database
    /// has no `-shm`, and nobody minds what has its name.
    fn no_side_file(&mut self) {
        let wal = self.facts.wal.as_ref().filter(|wal| wal.state == WalState::NotAFile).map(|wal| wal.detail.clone());
        let journal = self.facts.journal.as_ref().filter(|journal| journal.state == JournalState::NotAFile);
        let shm = match &self.facts.shm_file {
            FileState::Other { what } => Some(format!("it is {what}")),
            FileState::Symlink { .. } => Some("it is a symbolic link".to_owned()),
            FileState::Missing | FileState::File(_) | FileState::Unreadable { .. } => None,
        };
        let in_wal_mode = matches!(&self.facts.header, Some(HeaderFacts::Good { wal_mode: true, .. }));
        let sides = [
            ("-wal", wal),
            ("-journal", journal.map(|journal| journal.detail.clone())),
            ("-shm", shm.filter(|_| in_wal_mode)),
        ];
        for (side, what) in sides {
            let Some(what) = what else { continue };
            let at = format!("{}{side}", self.config.path.display());
            self.find(
                &kinds::CONNECTION_FAILED,
                Severity::Critical,
                &WAL,
                format!("what stands in the place of its {side} is no file: {what}"),
                format!("move it away ({}): SQLite fails on it or waits for ever", move_away(&at)),
            );
        }
    }

    /// What is left may be sound, and is less than was promised.
    fn lost_wal(&mut self) {
        let Some(lost) = self.memory.lost_with_wal(self.facts) else { return };
        let what = match self.facts.wal_file.size() {
            0 => "it was deleted or emptied",
            _ => "another one is in its place",
        };
        self.find(
            &kinds::WAL_CORRUPTED,
            Severity::High,
            &WAL,
            format!(
                "frames {} to {} of the -wal are gone with all commits in them: {what}, and not by SQLite, which would have written \
                 them back into the database first",
                lost.copied + 1,
                lost.last_commit
            ),
            "a -wal is never deleted by hand, nor to clear a lock: if it was moved, put it back before anything is written",
        );
        self.at_stake("what was left when a -wal was gone");
    }
}

/// Its header is bad, and neither what is behind it nor its index speaks of a commit.
fn promises_nothing(wal: &WalFacts) -> bool {
    wal.mark.is_none() && wal.stranded_commits == 0 && wal.index_max_frame.unwrap_or(0) == 0
}

/// errno values that matter here; the numbers are Linux's on every architecture that it shares them on.
mod rustix_errno {
    pub const PERM: i32 = 1;
    pub const IO: i32 = 5;
    pub const ACCES: i32 = 13;
    /// A checksum of the file system's own does not fit.
    const BADMSG: i32 = 74;
    /// The file system is damaged.
    const UCLEAN: i32 = 117;

    /// The disk, or the file system on it, could not give the bytes back.
    pub const fn of_the_disk(errno: i32) -> bool {
        matches!(errno, IO | BADMSG | UCLEAN)
    }
}
