//! Judging: facts, memory and configuration in, a verdict out. Pure.
//!
//! The layers are judged in order, and the first that fails hides those above it: what is missing cannot be
//! malformed. Whatever SQLite merely *cannot tell* (rules 10 and 20 of the measured facts) is `unknown`, and what was
//! never seen healthy is never called corrupt on SQLite's word alone.

use crate::clock::Moment;
use crate::job::{
    DatabaseFacts, FailureKind, FaultClass, FileState, HeaderFacts, IntegrityFacts, JobFailure, JournalState,
    SqliteFault, WalState,
};
use crate::model::{Finding, Kind, Layer, LayerResult, LayerVerdict, Severity, Verdict};

use super::config::DatabaseConfig;
use super::kinds::{self, EXISTS, INTEGRITY, LOCKS, OPEN, QUERY, READABLE, WAL};
use super::memory::Memory;

/// Below this many free bytes a commit of a page or two already fails.
const FULL_BELOW_BYTES: u64 = 64 * 1024;

/// Judges what a probe saw.
pub fn judge(facts: &DatabaseFacts, memory: &Memory, config: &DatabaseConfig, now: Moment) -> Verdict {
    let mut judgement = Judgement { facts, memory, config, now, findings: Vec::new(), unknown: None };
    judgement.run();
    judgement.verdict()
}

/// Judges a probe that brought nothing back.
pub fn judge_failure(failure: &JobFailure) -> Verdict {
    match failure.kind {
        FailureKind::Deadline => Verdict::Unhealthy(vec![finding(
            &kinds::CONNECTION_FAILED,
            Severity::High,
            &OPEN,
            format!("the probe timed out: {}", failure.message),
            "guardiand looks again; check the disk under it, the canary query, and what holds the file",
        )]),
        FailureKind::Abandoned => Verdict::Unknown(format!("the disk under it does not answer: {}", failure.message)),
        FailureKind::Crashed | FailureKind::Failed | FailureKind::Refused => {
            Verdict::Unknown(format!("the probe failed: {}", failure.message))
        }
    }
}

/// True when SQLite answered BUSY to the probe.
pub fn answered_busy(facts: &DatabaseFacts) -> bool {
    let busy = |fault: &SqliteFault| fault.class == FaultClass::Busy;
    matches!(&facts.open, Some(Err(fault)) if busy(fault)) || matches!(&facts.query, Some(Err(fault)) if busy(fault))
}

/// Each layer's verdict, from the findings and from what was looked at.
pub fn layers(facts: Option<&DatabaseFacts>, verdict: &Verdict) -> Vec<LayerResult> {
    let failed = |layer: &str| verdict.findings().iter().any(|finding| finding.layer.as_str() == layer);
    kinds::LAYERS
        .iter()
        .map(|name| {
            let looked = facts.and_then(|facts| facts.layers.iter().find(|time| time.layer == *name));
            let verdict = match (failed(name), looked, verdict) {
                (true, _, _) => LayerVerdict::Failed,
                (false, None, _) => LayerVerdict::Skipped,
                (false, Some(_), Verdict::Unknown(_)) => LayerVerdict::Unknown,
                (false, Some(_), _) => LayerVerdict::Ok,
            };
            LayerResult { layer: Layer::new(name), verdict, seconds: looked.map_or(0.0, |time| time.seconds) }
        })
        .collect()
}

fn finding(
    kind: &Kind,
    severity: Severity,
    layer: &Layer,
    detail: impl Into<String>,
    remediation: impl Into<String>,
) -> Finding {
    Finding {
        kind: kind.clone(),
        severity,
        layer: layer.clone(),
        detail: detail.into(),
        sqlite_code: None,
        remediation: remediation.into(),
    }
}

struct Judgement<'a> {
    facts: &'a DatabaseFacts,
    memory: &'a Memory,
    config: &'a DatabaseConfig,
    now: Moment,
    findings: Vec<Finding>,
    unknown: Option<String>,
}

impl Judgement<'_> {
    fn verdict(mut self) -> Verdict {
        if !self.findings.is_empty() {
            self.findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
            return Verdict::Unhealthy(self.findings);
        }
        match self.unknown {
            Some(reason) => Verdict::Unknown(reason),
            None => Verdict::Healthy,
        }
    }

    fn find(
        &mut self,
        kind: &Kind,
        severity: Severity,
        layer: &Layer,
        detail: impl Into<String>,
        todo: impl Into<String>,
    ) {
        self.findings.push(finding(kind, severity, layer, detail, todo));
    }

    fn find_fault(&mut self, kind: &Kind, severity: Severity, layer: &Layer, fault: &SqliteFault, todo: &str) {
        let detail = match fault.errno {
            Some(errno) => format!("{} (SQLite code {}, errno {errno})", fault.message, fault.code),
            None => format!("{} (SQLite code {})", fault.message, fault.code),
        };
        let mut finding = finding(kind, severity, layer, detail, todo);
        finding.sqlite_code = Some(fault.code);
        self.findings.push(finding);
    }

    fn cannot_tell(&mut self, reason: impl Into<String>) {
        self.unknown.get_or_insert_with(|| reason.into());
    }

    fn run(&mut self) {
        if !self.exists() {
            return;
        }
        self.room_to_write();
        if self.facts.unchanged {
            return;
        }
        let readable = self.readable();
        self.wal_file();
        self.held_locks();
        if !readable || !self.header() || !self.side_files() {
            return;
        }
        if self.open() {
            self.integrity();
            self.query();
        }
    }

    fn exists(&mut self) -> bool {
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
            FileState::Unreadable { errno, message } if *errno == rustix_errno::IO => self.find(
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

    fn missing(&mut self) {
        let path = self.config.path.display().to_string();
        if let Some(known) = &self.memory.place {
            let place = &self.facts.place;
            if known.volatile && known.boot_id != place.boot_id {
                return self.cannot_tell(format!("{path} was on a file system in memory, of another boot"));
            }
            if place.folder_exists && known.fs_id != place.fs_id {
                return self.cannot_tell(format!("{path} was on another file system: is it mounted?"));
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

    fn room_to_write(&mut self) {
        let place = &self.facts.place;
        if place.read_only {
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

    fn readable(&mut self) -> bool {
        let place = &self.facts.place;
        let Some(access) = &self.facts.access else { return true };
        let was_writable =
            self.memory.owner.is_some_and(|owner| Some(owner) != self.facts.main.file().map(|file| file.into()));
        if !access.read || (was_writable && !place.read_only && !(access.write && access.folder_write)) {
            self.find(
                &kinds::ACCESS_DENIED,
                Severity::Critical,
                &READABLE,
                access.detail.clone(),
                "put its owner and mode back",
            );
        }
        if !access.ours {
            self.cannot_tell(format!("guardiand may not read {}: {}", self.config.path.display(), access.detail));
        }
        access.ours
    }

    /// False when nothing above the header can be judged.
    fn header(&mut self) -> bool {
        let path = self.config.path.display();
        match &self.facts.header {
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

    /// Seen healthy before, or its pages are SQLite's under a header that is not.
    fn known_as_sqlite(&self) -> bool {
        self.memory.ever_healthy
            || matches!(&self.facts.header, Some(HeaderFacts::Bad { pages_like_sqlite: Some((like, of)), .. }) if *of > 0 && like * 3 >= of * 2)
    }

    fn side_files(&mut self) -> bool {
        if let Some(journal) = self.facts.journal.as_ref().filter(|journal| journal.state == JournalState::Damaged) {
            self.find(
                &kinds::STALE_JOURNAL,
                Severity::Critical,
                &WAL,
                format!("a damaged rollback journal was left behind: {}", journal.detail),
                "do not open the database: SQLite would roll the damage back into it",
            );
        }
        match self.facts.wal.as_ref().map(|wal| (wal.state, wal)) {
            Some((WalState::Damaged, wal)) => self.find(
                &kinds::WAL_CORRUPTED,
                Severity::Critical,
                &WAL,
                format!("{}; {} commits lie beyond", wal.detail, wal.stranded_commits),
                "do not open the database: SQLite would silently ignore what lies beyond the damage",
            ),
            Some((WalState::NotAFile, wal)) => self.find(
                &kinds::CONNECTION_FAILED,
                Severity::Critical,
                &WAL,
                wal.detail.clone(),
                "move what is in the place of the -wal away",
            ),
            _ => {}
        }
        self.findings.iter().all(|finding| finding.layer != WAL || finding.severity != Severity::Critical)
    }

    fn open(&mut self) -> bool {
        match &self.facts.open {
            None => true,
            Some(Ok(open)) => {
                let had_schema = self.memory.schema.as_ref().is_some_and(|schema| !schema.trim().is_empty());
                if open.objects == 0 && had_schema && self.config.schema.is_some() {
                    self.find(
                        &kinds::SCHEMA_CORRUPTED,
                        Severity::High,
                        &OPEN,
                        "it is a sound but empty database: every table that it had is gone",
                        "SQLite itself wrote it empty; restore a backup by hand if that was a mistake",
                    );
                }
                true
            }
            Some(Err(fault)) => {
                let fault = fault.clone();
                self.open_fault(&fault);
                false
            }
        }
    }

    fn open_fault(&mut self, fault: &SqliteFault) {
        let healthy_before = self.memory.ever_healthy;
        match fault.class {
            FaultClass::Busy => self.busy(),
            FaultClass::NotADatabase | FaultClass::Schema if !healthy_before => self.cannot_tell(format!(
                "SQLite cannot read it ({}), and it was never seen healthy: encrypted, of a newer version, or in need of an extension",
                fault.message
            )),
            FaultClass::NotADatabase => {
                self.find_fault(&kinds::NOT_A_DATABASE, Severity::Critical, &OPEN, fault, "restore the newest backup that passes")
            }
            FaultClass::Corrupt if fault.message.contains("malformed database schema") => {
                if healthy_before {
                    self.find_fault(&kinds::SCHEMA_CORRUPTED, Severity::Critical, &OPEN, fault, "restore the newest backup that passes");
                } else {
                    self.cannot_tell(format!("SQLite cannot parse its schema ({}), and it was never seen healthy", fault.message));
                }
            }
            FaultClass::Corrupt => {
                self.find_fault(&kinds::CORRUPTED, Severity::Critical, &OPEN, fault, "restore the newest backup that passes")
            }
            FaultClass::CannotOpen | FaultClass::Interrupted => {
                self.find_fault(&kinds::CONNECTION_FAILED, Severity::High, &OPEN, fault, "guardiand looks again")
            }
            FaultClass::ReadOnly | FaultClass::Permission => {
                self.find_fault(&kinds::WRITE_FAILED, Severity::High, &OPEN, fault, "see what keeps it from being written")
            }
            FaultClass::Full => self.find_fault(&kinds::DISK_FULL, Severity::Critical, &OPEN, fault, "free some space"),
            FaultClass::Io => self.find_fault(&kinds::IO_ERROR, Severity::Critical, &OPEN, fault, "look at the disk (`dmesg`, SMART)"),
            FaultClass::Schema => self.cannot_tell(format!("SQLite cannot tell: {}", fault.message)),
            FaultClass::NoMemory | FaultClass::Other => {
                self.cannot_tell(format!("SQLite answered {}: {}", fault.code, fault.message))
            }
        }
    }

    fn busy(&mut self) {
        let since = self.memory.busy_since.unwrap_or(self.now);
        let waited = self.now.since(since);
        if waited < self.config.busy_timeout {
            return self.cannot_tell("it is locked; looking again until its busy timeout has passed");
        }
        let holder = self.facts.locks.first().map_or_else(
            || "a process that cannot be seen from here".to_owned(),
            |held| format!("{} (pid {}, state {}) with {}", held.comm, held.pid, held.state, held.lock),
        );
        self.find(
            &kinds::LOCKED,
            Severity::High,
            &LOCKS,
            format!("no reader got in for {:.1} s: it is locked by {holder}", waited.as_secs_f64()),
            "wait, or ask the holder to finish; never delete a -wal or -journal to clear a lock",
        );
    }

    fn integrity(&mut self) {
        let Some(integrity) = &self.facts.integrity else { return };
        if integrity.ok {
            return;
        }
        if let Some(fault) = &integrity.fault {
            match fault.class {
                FaultClass::Corrupt
                    if fault.message.contains("malformed database schema") && !self.memory.ever_healthy =>
                {
                    self.cannot_tell(format!(
                        "SQLite cannot parse its schema ({}), and it was never seen healthy",
                        fault.message
                    ))
                }
                FaultClass::Corrupt if integrity.messages.is_empty() => {
                    let fault = fault.clone();
                    self.find_fault(
                        &kinds::CORRUPTED,
                        Severity::Critical,
                        &INTEGRITY,
                        &fault,
                        "restore the newest backup that passes",
                    );
                }
                FaultClass::NotADatabase if self.memory.ever_healthy => {
                    let fault = fault.clone();
                    self.find_fault(
                        &kinds::NOT_A_DATABASE,
                        Severity::Critical,
                        &INTEGRITY,
                        &fault,
                        "restore the newest backup that passes",
                    );
                }
                FaultClass::Io => {
                    let fault = fault.clone();
                    self.find_fault(
                        &kinds::IO_ERROR,
                        Severity::Critical,
                        &INTEGRITY,
                        &fault,
                        "look at the disk (`dmesg`, SMART)",
                    );
                }
                FaultClass::Corrupt => self.damaged(integrity),
                _ => {}
            }
        } else if !integrity.messages.is_empty() {
            self.damaged(integrity);
        }
    }

    fn damaged(&mut self, integrity: &IntegrityFacts) {
        let shown = integrity.messages.iter().take(3).cloned().collect::<Vec<_>>().join("; ");
        if integrity.only_indexes {
            return self.find(
                &kinds::INDEX_CORRUPTED,
                Severity::High,
                &INTEGRITY,
                format!("only indexes are damaged ({}): {shown}", integrity.damaged_indexes.join(", ")),
                "rebuild them from their tables: no row is lost",
            );
        }
        let (kind, severity) = match self.facts.header {
            Some(HeaderFacts::Good { missing_bytes, .. }) if missing_bytes > 0 => {
                (&kinds::TRUNCATED, Severity::Critical)
            }
            _ if integrity.fault.is_some() => (&kinds::CORRUPTED, Severity::Critical),
            _ => (&kinds::INTEGRITY_FAILED, Severity::Critical),
        };
        self.find(kind, severity, &INTEGRITY, shown, "restore the newest backup that passes");
    }

    fn query(&mut self) {
        let Some(Err(fault)) = &self.facts.query else { return };
        let fault = fault.clone();
        match fault.class {
            FaultClass::Busy => self.busy(),
            FaultClass::Corrupt => self.find_fault(
                &kinds::CORRUPTED,
                Severity::Critical,
                &QUERY,
                &fault,
                "restore the newest backup that passes",
            ),
            FaultClass::Interrupted => self.find_fault(
                &kinds::CONNECTION_FAILED,
                Severity::High,
                &QUERY,
                &fault,
                "the canary ran out of time: make it cheaper",
            ),
            _ => self.find_fault(
                &kinds::QUERY_FAILED,
                Severity::High,
                &QUERY,
                &fault,
                "see that the canary fits the schema",
            ),
        }
    }

    fn wal_file(&mut self) {
        let size = self.facts.wal_file.size();
        if size <= self.config.wal_max {
            return;
        }
        let wal = self.facts.wal.as_ref();
        let held_back = wal.map_or(&[][..], |wal| wal.held_back_by.as_slice());
        if let Some(reader) = held_back.first() {
            return self.find(
                &kinds::WAL_STARVED,
                Severity::High,
                &WAL,
                format!(
                    "the WAL has {size} bytes (limit {}), and {} (pid {}) keeps it from being checkpointed: {}",
                    self.config.wal_max, reader.comm, reader.pid, reader.lock
                ),
                "end that read transaction; guardiand checkpoints as soon as it can",
            );
        }
        self.find(
            &kinds::WAL_TOO_LARGE,
            Severity::Medium,
            &WAL,
            format!("the WAL has {size} bytes (limit {})", self.config.wal_max),
            "checkpoint and truncate it",
        );
    }

    fn held_locks(&mut self) {
        if let Some(lock) = &self.facts.dotfile_lock {
            self.find(
                &kinds::STALE_LOCK_FILE,
                Severity::Medium,
                &LOCKS,
                format!("{} is there: a lock of the unix-dotfile VFS, or what is left of one", lock.display()),
                "remove it once no process has the database open",
            );
        }
        for held in self.facts.locks.iter().filter(|held| held.blocks_writers) {
            let Some(since) = self.memory.held_since(held) else { continue };
            let age = self.now.since(since);
            if age >= self.config.lock_max_age {
                let stopped = if held.state == 'T' { " (stopped)" } else { "" };
                self.findings.push(finding(
                    &kinds::LOCKED,
                    Severity::High,
                    &LOCKS,
                    format!(
                        "{} (pid {}, state {}{stopped}) has held {} for {:.0} s",
                        held.comm,
                        held.pid,
                        held.state,
                        held.lock,
                        age.as_secs_f64()
                    ),
                    format!("see what pid {} is doing; never delete a -wal or -journal to clear a lock", held.pid),
                ));
            }
        }
    }
}

/// errno values that matter here; the numbers are Linux's on every architecture that it shares them on.
mod rustix_errno {
    pub const PERM: i32 = 1;
    pub const IO: i32 = 5;
    pub const ACCES: i32 = 13;
}
