//! Planning: a diagnosis in, playbooks out, the least lossy first. Pure.

use crate::job::{BackupEntry, DatabaseFacts, DatabaseStep, Diagnosis, FileState, HeaderFacts, Owner, TableRows};
use crate::model::{Kind, Loss, Playbook, Risk, StepSpec, TableLoss};

use super::config::DatabaseConfig;
use super::kinds;
use super::memory::Memory;

/// The version of [`DatabaseStep`]'s shape in a [`StepSpec`].
pub const STEP_VERSION: u32 = 1;
/// The step that only waits; it has no job.
pub const WAIT: &str = "wait";
/// Older backups are tried when the newer one does not pass, but not without end.
const MAX_BACKUPS_TRIED: usize = 5;

/// Playbooks for a failure of `kind`.
///
/// # Errors
/// Why nothing may be tried, with the next command for a person.
pub fn plan(
    kind: &Kind,
    facts: &DatabaseFacts,
    memory: &Memory,
    config: &DatabaseConfig,
) -> Result<Vec<Playbook>, String> {
    let site = Site { facts, memory, config, diagnosis: facts.diagnosis.as_ref() };
    if let Some(reason) = &facts.place.observe_only {
        return Err(format!("nothing is healed here: {reason}"));
    }
    let kind_is = |kinds: &[Kind]| kinds.contains(kind);
    if kind_is(&[kinds::WAL_TOO_LARGE, kinds::WAL_STARVED]) {
        return Ok(vec![site.checkpoint()?]);
    }
    if kind_is(&[kinds::ACCESS_DENIED]) {
        return Ok(site.access());
    }
    if kind_is(&[kinds::INDEX_CORRUPTED]) {
        let mut ladder = vec![site.rebuild_indexes()?];
        ladder.extend(site.replace(false).unwrap_or_default());
        return Ok(ladder);
    }
    if kind_is(&[kinds::WAL_CORRUPTED, kinds::STALE_JOURNAL]) {
        return site.replace_or_settle();
    }
    if kind_is(&[kinds::FILE_MISSING, kinds::TRUNCATED, kinds::NOT_A_DATABASE]) {
        return site.replace(!site.has_readable_rows());
    }
    if kind_is(&[kinds::CORRUPTED, kinds::INTEGRITY_FAILED, kinds::SCHEMA_CORRUPTED]) {
        site.is_hurt()?;
        return site.replace(false);
    }
    if kind_is(&[kinds::NOT_FILE]) {
        return Err(format!(
            "what is in the place of {} is not ours to move; move it away, and guardiand restores the database",
            site.path()
        ));
    }
    if kind_is(&[kinds::FILE_UNLINKED, kinds::STALE_LOCK_FILE]) {
        return Err(site.in_use().unwrap_or_else(|| format!("a person must look at {}", site.path())));
    }
    Ok(vec![wait()])
}

/// What is lost when `tables` of `backup` take the place of the database, whose files are now as `facts` has them.
pub fn loss_of_backup(backup: &BackupEntry, tables: &[TableRows], memory: &Memory, facts: &DatabaseFacts) -> Loss {
    // That nothing was written since the backup is proven by the files alone: now as at the last healthy look, and then as
    // when the backup was taken. A file that is gone or was touched proves nothing: its program may have committed between
    // the last look and the fault, and what cannot be counted is never guessed.
    let now = facts.fingerprint.as_ref().map(content);
    let last = memory.last_healthy.as_ref().map(content);
    let same = |print: &crate::job::Fingerprint| last == Some(content(print));
    let taken_of_it = backup.manifest.source_fingerprint.as_ref().is_some_and(same);
    let restored_from_it =
        memory.restored.as_ref().is_some_and(|(blake3, print)| *blake3 == backup.manifest.blake3 && same(print));
    let unchanged = now == last && (taken_of_it || restored_from_it);
    loss(format!("backup of {:.3}", backup.manifest.taken_at), tables, unchanged.then_some(0))
}

/// What is lost when SQLite's own recovery of main, WAL and journal takes their place.
pub fn loss_of_copy(tables: &[TableRows]) -> Loss {
    loss("the database's own files, as far as their WAL or journal is sound".to_owned(), tables, None)
}

/// What is lost when an empty database takes its place.
pub fn loss_of_recreation(memory: &Memory, facts: Option<&DatabaseFacts>) -> Loss {
    let known = memory.backup.as_ref().map(|backup| backup.tables.as_slice()).unwrap_or_default();
    let tables = known
        .iter()
        .map(|table| TableLoss { table: table.table.clone(), rows_kept: 0, rows_lost: None })
        .collect::<Vec<_>>();
    // A WAL or journal without its main file may hold commits of a time before anybody looked.
    let beside = facts.is_none_or(|facts| facts.wal_file.size() > 0 || facts.journal_file.size() > 0);
    let was_empty = !memory.ever_healthy && !beside;
    Loss {
        source: "recreated empty from its schema".to_owned(),
        rows_kept: Some(0),
        // A database that was never seen had no rows that anybody could have promised.
        rows_lost: was_empty.then_some(0),
        tables,
    }
}

fn loss(source: String, tables: &[TableRows], rows_lost: Option<u64>) -> Loss {
    Loss {
        source,
        rows_kept: Some(tables.iter().map(|table| table.rows).sum()),
        rows_lost,
        tables: tables
            .iter()
            .map(|table| TableLoss { table: table.table.clone(), rows_kept: table.rows, rows_lost })
            .collect(),
    }
}

/// The parts of a fingerprint that change whenever the content does; the rest (ctime, the lock flag) may differ.
fn content(print: &crate::job::Fingerprint) -> (u64, u64, u64, i64, u32, Option<(u64, i64)>) {
    let wal = print.wal.filter(|wal| wal.size > 0).map(|wal| (wal.size, wal.mtime_ns));
    (print.main.dev, print.main.ino, print.main.size, print.main.mtime_ns, print.change_counter, wal)
}

/// The step in the shape that the journal keeps.
pub fn spec(step: &DatabaseStep) -> StepSpec {
    let risk = match step {
        DatabaseStep::Preserve => Risk::Harmless,
        DatabaseStep::RestoreAccess { .. } | DatabaseStep::Checkpoint { .. } | DatabaseStep::RebuildIndexes { .. } => {
            Risk::Lossless
        }
        // A candidate beside the target harms nothing; it is the swap that may lose.
        DatabaseStep::BuildFromBackup { .. }
        | DatabaseStep::BuildFromCopy { .. }
        | DatabaseStep::BuildFromSchema { .. } => Risk::Harmless,
        DatabaseStep::Install => Risk::Lossy,
    };
    StepSpec {
        name: step.name().to_owned(),
        version: STEP_VERSION,
        risk,
        args: serde_json::to_value(step).unwrap_or_default(),
    }
}

fn wait() -> Playbook {
    Playbook {
        name: "wait_and_retry".to_owned(),
        why: "it may pass by itself; nothing is touched".to_owned(),
        steps: vec![StepSpec {
            name: WAIT.to_owned(),
            version: STEP_VERSION,
            risk: Risk::Harmless,
            args: serde_json::Value::Null,
        }],
    }
}

fn playbook(name: &str, why: String, steps: &[DatabaseStep]) -> Playbook {
    Playbook { name: name.to_owned(), why, steps: steps.iter().map(spec).collect() }
}

struct Site<'a> {
    facts: &'a DatabaseFacts,
    memory: &'a Memory,
    config: &'a DatabaseConfig,
    diagnosis: Option<&'a Diagnosis>,
}

impl Site<'_> {
    fn path(&self) -> String {
        self.config.path.display().to_string()
    }

    fn owner(&self) -> Option<Owner> {
        self.memory.owner
    }

    fn checkpoint(&self) -> Result<Playbook, String> {
        // Waiting for a reader holds the write lock (section 9): stay below the program's own patience.
        let half = u64::try_from(self.config.busy_timeout.as_millis() / 2).unwrap_or(u64::MAX);
        let step = DatabaseStep::Checkpoint { timeout_ms: half.clamp(50, 2000) };
        Ok(playbook(
            "checkpoint",
            "write the WAL back into the database and truncate it; nothing is lost".to_owned(),
            &[step],
        ))
    }

    fn access(&self) -> Vec<Playbook> {
        let now = self.facts.main.file().map(Owner::from);
        match (self.memory.owner, now) {
            (Some(was), Some(now)) if was != now => vec![playbook(
                "restore_access",
                format!("put owner {}:{} and mode {:04o} back", was.uid, was.gid, was.mode),
                &[DatabaseStep::RestoreAccess { owner: was }],
            )],
            _ => vec![wait()],
        }
    }

    fn rebuild_indexes(&self) -> Result<Playbook, String> {
        let indexes =
            self.facts.integrity.as_ref().map(|integrity| integrity.damaged_indexes.clone()).unwrap_or_default();
        Ok(playbook(
            "rebuild_indexes",
            "rebuild the damaged indexes from their tables; nothing is lost".to_owned(),
            &[DatabaseStep::Preserve, DatabaseStep::RebuildIndexes { indexes }],
        ))
    }

    /// Why the file may not be replaced, if so.
    fn in_use(&self) -> Option<String> {
        let diagnosis = self.diagnosis?;
        let path = self.path();
        if let Some(holder) = diagnosis.holders.first() {
            let others = match diagnosis.holders.len() - 1 {
                0 => String::new(),
                others => format!(" and {others} more"),
            };
            return Some(format!(
                "{} (pid {}){others} has {path} open, and a file in use is not replaced; stop it, then run `guardiand heal {}`",
                holder.comm, holder.pid, self.config.name
            ));
        }
        if let Some(blind) = diagnosis.blind.first().filter(|_| !matches!(self.facts.main, FileState::Missing)) {
            return Some(format!(
                "it cannot be told whether {path} is in use ({blind}); run guardiand as root, or stop its program and run `guardiand heal {}` as root",
                self.config.name
            ));
        }
        None
    }

    fn may_replace(&self) -> Result<(), String> {
        if let Some(reason) = self.in_use() {
            return Err(reason);
        }
        // A backup of the file that had this name before says nothing of the one that is there now.
        let of_this = |backup: &crate::job::BackupEntry| self.memory.is_of(&backup.manifest.source);
        let has_backup = self.diagnosis.is_some_and(|diagnosis| diagnosis.backups.iter().any(of_this));
        let is_there = !matches!(self.facts.main, FileState::Missing) && self.facts.main.size() > 0;
        if is_there && !self.memory.ever_healthy && !has_backup {
            return Err(format!(
                "{} was never seen healthy by guardiand, so it is not overwritten; restore it by hand: `guardiand restore --from BACKUP --to PATH`",
                self.path()
            ));
        }
        Ok(())
    }

    /// Not what SQLite itself can have written, and not what costs nobody a row: a backup in its place would lose more.
    fn is_hurt(&self) -> Result<(), String> {
        let path = self.path();
        if self.facts.integrity.as_ref().is_some_and(|integrity| integrity.only_waste) {
            return Err(format!(
                "every row of {path} that can be reached is sound, and only some pages belong to nothing: no backup takes its place; \
                 compare it with one, then `VACUUM` it"
            ));
        }
        let empty = matches!(&self.facts.open, Some(Ok(open)) if open.objects == 0);
        if empty && self.facts.integrity.as_ref().is_none_or(|integrity| integrity.ok) {
            return Err(format!(
                "{path} is a sound database without a table: somebody may have meant that, and a later write is not reverted; if it \
                 was a mistake, stop its program, move it away, and guardiand restores it"
            ));
        }
        Ok(())
    }

    /// Something rows can still be read from, by SQLite or by hand: a program that goes on with an empty database would be
    /// worse than that. Pages under a header that is hurt; commits in a WAL whose main file is gone.
    fn has_readable_rows(&self) -> bool {
        let pages = match &self.facts.header {
            Some(HeaderFacts::Bad { pages_like_sqlite: Some((like, of)), .. }) => like * 3 >= *of,
            _ => false,
        };
        let wal = self.facts.wal.as_ref().and_then(|wal| wal.mark).is_some_and(|mark| mark.last_commit > 0);
        if pages || wal {
            return true;
        }
        matches!(&self.facts.open, Some(Ok(open)) if open.objects > 0)
            || self
                .diagnosis
                .and_then(|diagnosis| diagnosis.settled.as_ref())
                .is_some_and(|settled| settled.tables.iter().any(|table| table.rows > 0))
            || matches!(&self.facts.header, Some(HeaderFacts::Good { missing_bytes, .. }) if *missing_bytes > 0)
    }

    /// Backups, the newest first; then, where nothing readable is left, the schema.
    fn replace(&self, may_recreate: bool) -> Result<Vec<Playbook>, String> {
        self.may_replace()?;
        let mut ladder = self.backups();
        if let Some(known) = self.memory.backup.as_ref().filter(|_| ladder.is_empty()) {
            // A folder that is not mounted is no reason to begin anew without a row.
            return Err(format!(
                "a backup of {:.3} was taken of {}, and none is to be found now: is the backups' folder there, and mounted? Its \
                 files are left as they are",
                known.taken_at,
                self.path()
            ));
        }
        // An empty one comes after every backup there is, and only where each of them proved damaged: what is merely held up
        // ends the ladder before it.
        let listed = self.diagnosis.map_or(0, |diagnosis| diagnosis.backups.len());
        if ladder.len() == listed
            && may_recreate
            && let Some(recreate) = self.recreate()
        {
            ladder.push(recreate);
        }
        if ladder.is_empty() {
            return Err(format!(
                "there is no backup of {} and {}; its files are left as they are",
                self.path(),
                if may_recreate {
                    "no schema to recreate it from"
                } else {
                    "it still has content that an empty database would hide"
                }
            ));
        }
        Ok(ladder)
    }

    /// The database's own files, settled on a copy, against the newest backup: the one with more rows goes first.
    fn replace_or_settle(&self) -> Result<Vec<Playbook>, String> {
        self.may_replace()?;
        let mut ladder = self.backups();
        let settled = self.diagnosis.and_then(|diagnosis| diagnosis.settled.as_ref()).filter(|settled| settled.sound);
        if let Some(settled) = settled {
            let rows = |tables: &[TableRows]| tables.iter().map(|table| table.rows).sum::<u64>();
            let newest = self.diagnosis.and_then(|diagnosis| diagnosis.backups.first());
            let better = newest.is_none_or(|backup| rows(&settled.tables) >= rows(&backup.manifest.tables));
            let own = playbook(
                "settle_copy",
                format!(
                    "keep what the database's own files hold ({}); what lies beyond the damage stays in evidence",
                    settled.detail
                ),
                &[DatabaseStep::Preserve, DatabaseStep::BuildFromCopy { owner: self.owner() }, DatabaseStep::Install],
            );
            ladder.insert(if better { 0 } else { ladder.len() }, own);
        }
        if ladder.is_empty() {
            return Err(format!(
                "neither the files of {} nor any backup pass; its files are left as they are",
                self.path()
            ));
        }
        Ok(ladder)
    }

    /// The backups that are there, the newest first.
    fn listed(&self) -> &[BackupEntry] {
        self.diagnosis.map(|diagnosis| diagnosis.backups.as_slice()).unwrap_or_default()
    }

    fn backups(&self) -> Vec<Playbook> {
        self.listed()
            .iter()
            .take(MAX_BACKUPS_TRIED)
            .map(|backup| {
                let build = DatabaseStep::BuildFromBackup {
                    backup: backup.file.clone(),
                    blake3: backup.manifest.blake3.clone(),
                    owner: self.owner().or(Some(backup.manifest.owner)),
                };
                playbook(
                    "restore_backup",
                    format!(
                        "the backup of {:.3} takes its place; what was written since is lost",
                        backup.manifest.taken_at
                    ),
                    &[DatabaseStep::Preserve, build, DatabaseStep::Install],
                )
            })
            .collect()
    }

    fn recreate(&self) -> Option<Playbook> {
        let remembered = self.memory.schema.clone().filter(|schema| !schema.trim().is_empty());
        let (schema, origin) = match (remembered, &self.config.schema) {
            (Some(schema), _) => (schema, "remembered"),
            (None, Some(configured)) => (configured.sql.clone(), "configured"),
            (None, None) => return None,
        };
        let build = DatabaseStep::BuildFromSchema {
            schema,
            journal_mode: self.memory.journal_mode.clone().unwrap_or_else(|| "wal".to_owned()),
            owner: self.owner(),
            unless: self.listed().iter().map(|backup| backup.file.clone()).collect(),
        };
        Some(playbook(
            "recreate",
            format!("an empty database from the {origin} schema; every row is lost, the old files stay in evidence"),
            &[DatabaseStep::Preserve, build, DatabaseStep::Install],
        ))
    }
}

/// What is lost when a candidate of which only its own content is known takes the place of the database.
pub fn loss_unknown(candidate: &crate::job::Candidate) -> Loss {
    loss(candidate.source.clone(), &candidate.tables, None)
}
