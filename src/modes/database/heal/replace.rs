//! The rungs that put another file in the place of the database: its own content settled, a backup, an empty one.

use super::{MAX_BACKUPS_TRIED, Site, playbook};
use crate::job::{BackupEntry, DatabaseStep, FileState, HeaderFacts, TableRows, WalFacts};
use crate::model::Playbook;
use crate::sqlite::creations_in;

/// So many backups that cannot be used are named; the rest is counted.
const UNUSABLE_NAMED: usize = 3;

impl Site<'_> {
    pub(super) fn may_replace(&self) -> Result<(), String> {
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
    pub(super) fn is_hurt(&self) -> Result<(), String> {
        let path = self.path();
        if self.facts.integrity.as_ref().is_some_and(|integrity| integrity.only_waste) {
            return Err(format!(
                "every row of {path} that can be reached is sound, and only some pages belong to nothing: no backup takes its place; \
                 compare it with one, then `VACUUM` it"
            ));
        }
        let rewritten = matches!((&self.facts.open, &self.memory.schema), (Some(Ok(open)), Some(known))
            if open.objects > 0 && open.schema.as_ref().is_some_and(|schema| creations_in(schema) != creations_in(known)));
        if rewritten {
            return Err(format!(
                "the schema's text in {path} differs from what guardiand remembers, and whatever else is wrong may follow from that: \
                 its rows can be read, and a backup would cost what was written since. Compare them (`.schema`); if it is damage, put the text back (PRAGMA writable_schema) or \
                 run `guardiand restore --from BACKUP --to PATH`"
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
    pub(super) fn has_readable_rows(&self) -> bool {
        let pages = match &self.facts.header {
            Some(HeaderFacts::Bad { pages_like_sqlite: Some((like, of)), .. }) => like * 3 >= *of,
            _ => false,
        };
        let commits = |wal: &WalFacts| wal.stranded_commits > 0 || wal.mark.is_some_and(|mark| mark.last_commit > 0);
        let wal = self.facts.wal.as_ref().is_some_and(commits);
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
    pub(super) fn replace(&self, may_recreate: bool) -> Result<Vec<Playbook>, String> {
        self.may_replace()?;
        let (mut before, mut after) = self.rebuilt_from_wal();
        let (better, worse) = self.own_files();
        before.extend(better);
        after.extend(worse);
        let of_its_own = before.len() + after.len();
        let (salvaged, salvaged_after_all) = self.salvaged();
        let ladder = self.backups();
        let unusable = self.unusable();
        let mended = self.mended_pages();
        let put_back = self.pages_put_back();
        if ladder.is_empty()
            && of_its_own == 0
            && let Some(why) = self.why_no_backup()
        {
            // What loses nothing waits for none.
            return mended.map(|mended| vec![mended]).ok_or(why);
        }
        // An empty one comes after every backup there is, and only where each of them proved damaged: what is merely held up, or
        // cannot be read by this version, ends the ladder before it.
        let all_tried =
            unusable.is_none() && ladder.len() == self.diagnosis.map_or(0, |diagnosis| diagnosis.backups.len());
        let backups = salvaged.into_iter().chain(ladder).chain(salvaged_after_all);
        let own = mended.into_iter().chain(put_back).chain(before);
        let mut ladder: Vec<_> = own.chain(backups).chain(after).collect();
        if all_tried && may_recreate {
            ladder.extend(self.salvaged_of_backups());
            ladder.extend(self.recreate());
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

    /// The database's own files, settled on a copy, and whether they have no fewer rows than the newest backup.
    fn settled(&self) -> Option<(Playbook, bool)> {
        let settled = self.diagnosis?.settled.as_ref().filter(|settled| settled.sound)?;
        let why = format!(
            "keep what the database's own files hold ({}); what lies beyond the damage stays in evidence",
            settled.detail
        );
        let schema = self.memory.schema.clone().filter(|_| settled.schema_put_back);
        let name = if schema.is_some() { "mend_schema" } else { "settle_copy" };
        let build = DatabaseStep::BuildFromCopy { owner: self.owner(), schema };
        let steps = [DatabaseStep::Preserve, build, DatabaseStep::Install];
        Some((playbook(name, why, &steps), self.is_no_less(&settled.tables)))
    }

    /// The text of its schema is all that is damaged, and what it was is known.
    pub(super) fn mended_schema(&self) -> Option<Playbook> {
        let put_back = self.diagnosis?.settled.as_ref()?.schema_put_back;
        self.settled().filter(|(_, no_less)| put_back && *no_less).map(|(playbook, _)| playbook)
    }

    /// No fewer rows than the newest backup has.
    fn is_no_less(&self, tables: &[TableRows]) -> bool {
        self.listed().first().is_none_or(|backup| TableRows::sum(tables) >= TableRows::sum(&backup.manifest.tables))
    }

    /// The database's own files, mended or settled on a copy: those that have no fewer rows than the newest backup, and those
    /// that have.
    fn own_files(&self) -> (Vec<Playbook>, Vec<Playbook>) {
        // Deleted rows may make fewer of more commits: what is proven to lack none goes first all the same.
        let mended = self.mended_wal().map(|(own, mended)| (own, mended.proven || self.is_no_less(&mended.tables)));
        let own = mended.filter(|_| self.facts.main.size() > 0).into_iter().chain(self.settled());
        let (better, worse): (Vec<_>, Vec<_>) = own.partition(|(_, better)| *better);
        let rungs = |own: Vec<(Playbook, bool)>| own.into_iter().map(|(rung, _)| rung).collect();
        (rungs(better), rungs(worse))
    }

    /// The database's own files against the newest backup: the one with more rows goes first.
    pub(super) fn replace_or_settle(&self) -> Result<Vec<Playbook>, String> {
        self.may_replace()?;
        let (better, worse) = self.own_files();
        let (salvaged, salvaged_after_all) = self.salvaged();
        let backups = salvaged.into_iter().chain(self.backups()).chain(salvaged_after_all);
        let ladder: Vec<_> = better.into_iter().chain(backups).chain(worse).collect();
        if ladder.is_empty() {
            return Err(format!(
                "neither the files of {} nor any backup pass{}; its files are left as they are",
                self.path(),
                self.unusable().map_or_else(String::new, |why| format!(": {why}"))
            ));
        }
        Ok(ladder)
    }

    /// The backups that are there, the newest first.
    pub(super) fn listed(&self) -> &[BackupEntry] {
        self.diagnosis.map(|diagnosis| diagnosis.backups.as_slice()).unwrap_or_default()
    }

    /// Why there is none to be restored, although there is one.
    pub(super) fn why_no_backup(&self) -> Option<String> {
        if let Some(unusable) = self.unusable() {
            return Some(format!(
                "no backup of {} can be used: {unusable}. Its files are left as they are: put that right, or move aside what cannot be used",
                self.path()
            ));
        }
        // A folder that is not mounted is no reason to begin anew without a row.
        let known = self.memory.backup.as_ref()?;
        if self.diagnosis.is_some_and(|diagnosis| !diagnosis.damaged.is_empty()) {
            return None;
        }
        Some(format!(
            "a backup of {:.3} was taken of {}, and none is to be found now: is the backups' folder there, and mounted? Its \
             files are left as they are",
            known.taken_at,
            self.path()
        ))
    }

    /// Which backups are there and cannot be used, and why.
    fn unusable(&self) -> Option<String> {
        let all = self.diagnosis.map(|diagnosis| diagnosis.unusable.as_slice()).unwrap_or_default();
        let named = all.iter().take(UNUSABLE_NAMED).map(String::as_str).collect::<Vec<_>>().join("; ");
        let more = all.len().saturating_sub(UNUSABLE_NAMED);
        match more {
            0 => (!all.is_empty()).then_some(named),
            more => Some(format!("{named}; and {more} more")),
        }
    }

    pub(super) fn backups(&self) -> Vec<Playbook> {
        let listed = self.listed().iter().enumerate().take(MAX_BACKUPS_TRIED);
        let restored = listed.map(|(at, backup)| {
            let lost = match at == 0 && self.newest_is_all() {
                true => "nothing was committed since, so that nothing is salvaged",
                false => "what was written since is lost",
            };
            let taken_at = backup.manifest.taken_at;
            self.restored(backup, format!("the backup of {taken_at:.3} takes its place; {lost}"))
        });
        restored.collect()
    }

    pub(super) fn restored(&self, backup: &BackupEntry, why: String) -> Playbook {
        let build = DatabaseStep::BuildFromBackup {
            backup: backup.file.clone(),
            blake3: backup.manifest.blake3.clone(),
            owner: self.owner().or(Some(backup.manifest.owner)),
        };
        playbook("restore_backup", why, &[DatabaseStep::Preserve, build, DatabaseStep::Install])
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
