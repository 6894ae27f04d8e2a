//! Planning: a diagnosis in, playbooks out, the least lossy first. Pure.

mod group;
mod header;
mod in_use;
mod loss;
mod pages;
mod reclaim;
mod replace;
mod salvage;
mod unblock;
mod wal;

pub(super) use in_use::with_app_stopped;
pub use loss::{
    loss_of_backup, loss_of_copy, loss_of_group, loss_of_held, loss_of_mended, loss_of_recreation, loss_of_salvage,
    loss_of_wal, loss_unknown,
};

use crate::job::{DatabaseFacts, DatabaseStep, Diagnosis, FileState, HolderFacts, Owner, WalState};
use crate::model::{Kind, Plan, Playbook, Risk, StepRecord, StepSpec, for_shell};

use crate::modes::database::config::DatabaseConfig;
use crate::modes::database::kinds;
use crate::modes::database::memory::Memory;

/// The version of [`DatabaseStep`]'s shape in a [`StepSpec`].
pub const STEP_VERSION: u32 = 1;
/// The step that only waits; it has no job.
pub const WAIT: &str = "wait";
/// Older backups are tried when the newer one does not pass, but not without end.
const MAX_BACKUPS_TRIED: usize = 5;

/// Playbooks for a failure of `kind`; `taken` are the steps of its incident so far.
///
/// # Errors
/// Why nothing may be tried, with the next command for a person.
pub fn plan(
    kind: &Kind,
    facts: &DatabaseFacts,
    memory: &Memory,
    config: &DatabaseConfig,
    taken: &[StepRecord],
) -> Result<Plan, String> {
    let site = Site { facts, memory, config, diagnosis: facts.diagnosis.as_ref() };
    if *kind == kinds::FILE_UNLINKED
        && let Some(plan) = site.reclaim(taken)?
    {
        return Ok(plan);
    }
    let ladder = site.with_group(ladder(kind, &site)?)?;
    site.fit(ladder, taken)
}

fn ladder(kind: &Kind, site: &Site<'_>) -> Result<Vec<Playbook>, String> {
    let facts = site.facts;
    if let Some(reason) = &facts.place.observe_only {
        return Err(format!("nothing is healed here: {reason}"));
    }
    if let Some(wal) = facts.wal.as_ref().filter(|wal| wal.reset_bug) {
        return site.recovered_from_the_reset_bug(wal);
    }
    let kind_is = |kinds: &[Kind]| kinds.contains(kind);
    if kind_is(&[kinds::WAL_TOO_LARGE]) {
        return Ok(vec![site.checkpoint()?]);
    }
    if kind_is(&[kinds::WAL_STARVED]) {
        return site.starved();
    }
    if kind_is(&[kinds::LOCKED]) {
        return site.locked();
    }
    if kind_is(&[kinds::STALE_LOCK_FILE]) {
        return site.left_behind();
    }
    if kind_is(&[kinds::ACCESS_DENIED]) {
        return site.access();
    }
    if kind_is(&[kinds::INDEX_CORRUPTED]) {
        let mut ladder = vec![site.rebuild_indexes()?];
        // Its rows are all there. Where they disagree with what is unique, one of them would have to go: without a backup to compare
        // with, that is a person's to decide.
        let may_salvage = !site.listed().is_empty();
        let rungs = site.replace(false).unwrap_or_default().into_iter();
        ladder.extend(rungs.filter(|rung| may_salvage || rung.name != salvage::SALVAGE));
        return Ok(ladder);
    }
    if let Some(lost) = site.memory.lost_with_wal(facts).filter(|_| kind_is(&[kinds::WAL_CORRUPTED])) {
        return site.what_has(lost);
    }
    if kind_is(&[kinds::WAL_CORRUPTED, kinds::STALE_JOURNAL]) {
        return site.replace_or_settle();
    }
    if kind_is(&[kinds::FILE_MISSING, kinds::TRUNCATED, kinds::NOT_A_DATABASE]) {
        return site.replace(!site.has_readable_rows());
    }
    if let Some(mended) = site.mended_schema().filter(|_| kind_is(&[kinds::SCHEMA_CORRUPTED])) {
        site.may_replace()?;
        let backups = site.is_hurt().map(|()| site.backups()).unwrap_or_default();
        return Ok(std::iter::once(mended).chain(backups).collect());
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
    if kind_is(&[kinds::FILE_UNLINKED]) {
        return Err(site.in_use(false).unwrap_or_else(|| format!("a person must look at {}", site.path())));
    }
    Ok(vec![wait()])
}

/// What its programs can destroy at any time: a checkpoint of theirs copies the damage in a WAL into the database and begins the WAL
/// anew, and who opens it after their death throws away all that is behind the damage (SQLITE.md, section 7). After the WAL-reset bug their
/// next checkpoint tears the database, and several writers write over what others had committed.
pub fn keep_first(facts: &DatabaseFacts) -> Option<Playbook> {
    let damaged = facts.wal.as_ref().is_some_and(|wal| wal.state == WalState::Damaged || wal.reset_bug);
    let in_use = facts.diagnosis.as_ref().is_some_and(|diagnosis| !diagnosis.holders.is_empty());
    let healable = facts.place.observe_only.is_none();
    (damaged && in_use && healable).then(|| {
        let why = "its programs can destroy what is in its damaged WAL at any time, so the files are kept as they are";
        playbook(Playbook::KEEP_FILES, why.to_owned(), &[DatabaseStep::Preserve])
    })
}

/// The step in the shape that the journal keeps.
pub fn spec(step: &DatabaseStep) -> StepSpec {
    StepSpec {
        name: step.name().to_owned(),
        version: STEP_VERSION,
        risk: risk(step),
        args: serde_json::to_value(step).unwrap_or_default(),
        finally: matches!(step, DatabaseStep::StartApp { .. }),
    }
}

/// What a step can cost.
fn risk(step: &DatabaseStep) -> Risk {
    match step {
        DatabaseStep::Preserve | DatabaseStep::KeepHeld => Risk::Harmless,
        DatabaseStep::RestoreAccess { .. }
        | DatabaseStep::Checkpoint { .. }
        | DatabaseStep::RebuildIndexes { .. }
        | DatabaseStep::ResumeStopped { .. }
        | DatabaseStep::MoveLockAside { .. } => Risk::Lossless,
        // A candidate beside the target harms nothing; it is the swap that may lose.
        DatabaseStep::BuildFromBackup { .. }
        | DatabaseStep::BuildFromCopy { .. }
        | DatabaseStep::BuildFromWal { .. }
        | DatabaseStep::BuildFromHeld
        | DatabaseStep::BuildMended { .. }
        | DatabaseStep::BuildFromPages { .. }
        | DatabaseStep::BuildFromSalvage(_)
        | DatabaseStep::BuildFromSchema { .. } => Risk::Harmless,
        DatabaseStep::Install
        | DatabaseStep::RestoreInPlace { .. }
        | DatabaseStep::SalvageInPlace(_)
        | DatabaseStep::RollBack { .. } => Risk::Lossy,
        DatabaseStep::StopApp { .. } | DatabaseStep::StartApp { .. } => Risk::Lossless,
        DatabaseStep::OnMember { does, .. } => risk(does),
    }
}

fn wait() -> Playbook {
    Playbook {
        name: "wait_and_retry".to_owned(),
        why: "it may pass by itself; nothing is touched".to_owned(),
        steps: vec![wait_step()],
    }
}

fn wait_step() -> StepSpec {
    StepSpec {
        name: WAIT.to_owned(),
        version: STEP_VERSION,
        risk: Risk::Harmless,
        args: serde_json::Value::Null,
        finally: false,
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
        Ok(playbook(
            "checkpoint",
            "write the WAL back into the database and truncate it; nothing is lost".to_owned(),
            &[self.checkpoint_step()],
        ))
    }

    fn checkpoint_step(&self) -> DatabaseStep {
        // Waiting for a reader holds the write lock (section 9): stay below the program's own patience.
        let half = u64::try_from(self.config.busy_timeout.as_millis() / 2).unwrap_or(u64::MAX);
        DatabaseStep::Checkpoint { timeout_ms: half.clamp(50, 2000) }
    }

    fn access(&self) -> Result<Vec<Playbook>, String> {
        let main = self.facts.main.file();
        let (Some(was), Some(now)) = (self.memory.owner, main.map(Owner::from)) else { return Ok(vec![wait()]) };
        if was == now {
            return Ok(vec![wait()]);
        }
        // Whoever may rename in its folder may have put a file of root's in its place, to be given it.
        let inode = main.map(|main| main.ino);
        let known = self.memory.last_healthy.as_ref().map(|print| print.main.ino);
        if known.is_some() && known != inode {
            return Err(format!(
                "{} is another file than the one that was seen healthy, so nobody is given it: if it is the right one, `chown {}:{}` \
                 and `chmod {:04o}` it",
                self.path(),
                was.uid,
                was.gid,
                was.mode
            ));
        }
        Ok(vec![playbook(
            "restore_access",
            format!("put owner {}:{} and mode {:04o} back", was.uid, was.gid, was.mode),
            &[DatabaseStep::RestoreAccess { owner: was, inode }],
        )])
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

    /// Why the file, or another of its group, may not be replaced, if so. `needs_wal`: what would replace it is built from its WAL.
    fn in_use(&self, needs_wal: bool) -> Option<String> {
        let diagnosis = self.diagnosis?;
        let path = self.path();
        let there = !matches!(self.facts.main, FileState::Missing);
        let own = self.used(&path, &diagnosis.holders, &diagnosis.blind, (there, needs_wal));
        own.or_else(|| {
            self.members().iter().find_map(|one| {
                let path = one.member.path.display().to_string();
                self.used(&path, &one.users.holders, &one.users.blind, (true, false))
            })
        })
    }

    fn used(
        &self,
        path: &str,
        holders: &[HolderFacts],
        blind: &[String],
        (there, needs_wal): (bool, bool),
    ) -> Option<String> {
        if let Some(holder) = holders.first() {
            let others = match holders.len() - 1 {
                0 => String::new(),
                others => format!(" and {others} more"),
            };
            // As it ends in order, SQLite copies what it takes for the WAL into the database, and deletes the rest.
            let damaged = self.facts.wal.as_ref().is_some_and(|wal| wal.state == WalState::Damaged);
            let not_in_order = match (damaged, needs_wal) {
                (true, _) => Some("copy the damage"),
                (false, true) => Some("delete the WAL that has what was committed since the last backup"),
                (false, false) => None,
            };
            let end = match not_in_order {
                Some(would) => {
                    format!("end it with `kill -9 {}` and not in order, for that would {would}", holder.pid)
                }
                None => "stop it".to_owned(),
            };
            return Some(format!(
                "{} (pid {}){others} has {path} open, and a file in use is not replaced; {end}, then run `guardiand heal {}`",
                holder.comm,
                holder.pid,
                for_shell(&self.config.name)
            ));
        }
        if let Some(blind) = blind.first().filter(|_| there) {
            return Some(format!(
                "it cannot be told whether {path} is in use ({blind}); run guardiand as root, or stop its program and run `guardiand heal {}` as root",
                for_shell(&self.config.name)
            ));
        }
        None
    }
}
