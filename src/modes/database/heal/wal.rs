//! The rungs that a WAL gives: mended over its own main file, alone, or over a backup of its own time.

use super::{MAX_BACKUPS_TRIED, Site, playbook};
use crate::job::{BackupEntry, DatabaseStep, MendedCopy, TableRows, WalBase, WalPosition, WalState};
use crate::model::Playbook;
use crate::modes::database::memory::Pending;

impl<'a> Site<'a> {
    /// The WAL mended, where a private copy of that has passed.
    pub(super) fn mended_wal(&self) -> Option<(Playbook, &'a MendedCopy)> {
        let mended = self.diagnosis?.mended.as_ref().filter(|mended| mended.sound)?;
        let why = format!("mend the WAL on a copy: {}", mended.detail);
        Some((self.by_wal("mend_wal", why, WalBase::Main), mended))
    }

    /// What puts the database together again without its main file, or over one that is hurt: the rungs before the backups, and
    /// those after them.
    pub(super) fn rebuilt_from_wal(&self) -> (Vec<Playbook>, Vec<Playbook>) {
        let (mut before, mut after) = (Vec::new(), Vec::new());
        let wal = self.facts.wal.as_ref().filter(|wal| wal.state == WalState::Sound).and_then(|wal| wal.mark);
        let now = wal.filter(|now| now.last_commit > 0);
        for backup in self.listed().iter().take(MAX_BACKUPS_TRIED) {
            let fits = |then: &WalPosition| {
                now.is_some_and(|now| {
                    let same = then.salt == now.salt && backup.manifest.page_size == now.page_size;
                    same && then.frame <= now.last_commit && self.memory.is_of(&backup.manifest.source)
                })
            };
            let then = backup.manifest.wal.or_else(|| now.and_then(|now| self.begun_since(backup, now.salt)));
            let Some(wal) = then.filter(fits) else { continue };
            let onto = WalBase::Backup { file: backup.file.clone(), blake3: backup.manifest.blake3.clone(), wal };
            let why = format!(
                "the backup of {:.3} takes its place, and what was committed since is still in the WAL",
                backup.manifest.taken_at
            );
            before.push(self.by_wal("restore_backup_and_wal", why, onto));
        }
        let mended = self.diagnosis.and_then(|diagnosis| diagnosis.mended.as_ref()).filter(|mended| mended.sound);
        if let Some(mended) = mended.filter(|_| self.facts.main.size() == 0) {
            let why = format!("the WAL has every page of it: {}", mended.detail);
            let own = self.by_wal("rebuild_from_wal", why, WalBase::Nothing);
            match self.listed().first() {
                Some(newest) if self.is_behind(newest, mended) => after.push(own),
                _ => before.push(own),
            }
        }
        (before, after)
    }

    /// The backups that have what the database has and more of a WAL that is gone: the newest first.
    pub(super) fn what_has(&self, lost: Pending) -> Result<Vec<Playbook>, String> {
        self.may_replace()?;
        let path = self.path();
        let frames = format!("frames {} to {} of the -wal of {path} are gone", lost.copied + 1, lost.last_commit);
        let over = "whatever is written to it next ends this incident";
        let newer = self.facts.wal.as_ref().and_then(|wal| wal.mark).is_some_and(|mark| mark.last_commit > 0);
        let has_more = |backup: &&BackupEntry| {
            let wal = backup.manifest.wal.filter(|wal| wal.salt == lost.salt && wal.frame > lost.copied);
            wal.is_some() && self.memory.is_of(&backup.manifest.source)
        };
        let backups: Vec<_> = self.listed().iter().take(MAX_BACKUPS_TRIED).filter(has_more).collect();
        match backups.first() {
            None => Err(format!(
                "{frames}, and no backup was taken of them: what they held is lost, unless the file was only moved. Then stop \
                 guardiand, put it back before any program opens the database, and start guardiand. What is left is kept as it is; \
                 {over}, and so does `touch {path}`"
            )),
            Some(backup) if newer => Err(format!(
                "{frames}; {} has them as of {:.3}, and the database has been written since, so it is not put in its place: take from \
                 it what is missing",
                backup.file.display(),
                backup.manifest.taken_at
            )),
            Some(_) => {
                let why = |backup: &BackupEntry| {
                    format!(
                        "the backup of {:.3} has all that is left of the database, and of the WAL that is gone what was committed \
                         until then",
                        backup.manifest.taken_at
                    )
                };
                Ok(backups.into_iter().map(|backup| self.restored(backup, why(backup))).collect())
            }
        }
    }

    /// The WAL of this generation was begun over the very main file that `backup` is a copy of: that one had no WAL then, and
    /// when this WAL was last seen, not all of it copied, it was as it had been.
    fn begun_since(&self, backup: &BackupEntry, salt: [u32; 2]) -> Option<WalPosition> {
        let (then, last) = (backup.manifest.source_fingerprint.as_ref()?, self.memory.last_healthy.as_ref()?);
        let alone = then.wal.is_none_or(|wal| wal.size == 0);
        // A write within one tick of the clock after the copy would not show.
        let settled = then.main.is_settled_at(backup.manifest.taken_at);
        let same = alone && settled && last.main.is_unwritten_since(&then.main) && !last.locked;
        let seen = self.memory.pending.is_some_and(|pending| pending.salt == salt);
        (same && seen).then_some(WalPosition { salt, frame: 0 })
    }

    /// A WAL alone does not say whose it is, nor when it was given up: one that came since the last healthy look, or that was last
    /// written before a backup was taken, is another's or an older state, and one that is hurt and has fewer rows is less of it.
    fn is_behind(&self, backup: &BackupEntry, mended: &MendedCopy) -> bool {
        let written = self.facts.wal_file.file().map_or(0, |wal| i128::from(wal.mtime_ns));
        !self.memory.knows_wal(self.facts)
            || written < backup.manifest.taken_at.as_nanosecond()
            || !mended.proven && TableRows::sum(&mended.tables) < TableRows::sum(&backup.manifest.tables)
    }

    fn by_wal(&self, name: &str, why: String, onto: WalBase) -> Playbook {
        let build = DatabaseStep::BuildFromWal { onto, owner: self.owner() };
        playbook(name, why, &[DatabaseStep::Preserve, build, DatabaseStep::Install])
    }
}
