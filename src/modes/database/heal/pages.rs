//! The rung that puts single pages back: where nothing was committed since a moment of which every page is known, whatever differs
//! from that is damage, and nothing is lost with it.
//!
//! | known | what proves that nothing was committed since |
//! | --- | --- |
//! | a backup, of a source that stood still | neither the file nor a WAL was written (bits turned); or, in rollback mode, the change counter; or the WAL ends where it did |
//! | a page map, of the last check that passed | the same; the pages themselves are in a backup, by their hash |
//!
//! Where somebody has committed since, nothing tells a page that was written then from one that was hurt: putting it back would revert a
//! write without a word. Such a page is left to the salvage, which takes what is on all others; with a WAL of the backup's own generation
//! all that was committed since is in that (`restore_backup_and_wal`).

use super::{MAX_BACKUPS_TRIED, Site, playbook};
use crate::job::{DatabaseStep, JournalState, KnownPages, KnownState, PAGE_MAP, PagesOf, Present, Unwritten, WalState};
use crate::model::Playbook;

/// The playbook's name.
pub(super) const MEND_PAGES: &str = "mend_pages";

impl Site<'_> {
    /// The rung, where a state is known since which nothing was committed.
    pub(super) fn pages_put_back(&self) -> Option<Playbook> {
        let facts = self.facts;
        let now = Present::of(facts).filter(|now| now.main.size > 0)?;
        let wal = facts.wal.as_ref().map_or(WalState::Absent, |wal| wal.state);
        let is_wal_hurt = !matches!(wal, WalState::Absent | WalState::Unused | WalState::Sound);
        let journal = facts.journal.as_ref().map_or(JournalState::Absent, |journal| journal.state);
        // Locks that ours do not see; commits that were in a WAL which somebody took away.
        let is_dark = facts.dotfile_lock.is_some() || self.memory.lost_with_wal(facts).is_some();
        // A machine that lost its power may have written some pages of a commit, and neither page 1 nor the time.
        let is_of_this_boot = self.memory.place.as_ref().is_some_and(|place| place.boot_id == facts.place.boot_id);
        if !is_of_this_boot || is_wal_hurt || journal != JournalState::Absent || is_dark {
            return None;
        }
        let backups = self.listed().iter().filter(|backup| self.memory.is_of(&backup.manifest.source));
        let backups: Vec<_> = backups.take(MAX_BACKUPS_TRIED).collect();
        let newest = backups.first()?.manifest.taken_at;
        let of_backups = backups.iter().filter_map(|backup| {
            let manifest = &backup.manifest;
            let (file, blake3, tables) = (backup.file.clone(), manifest.blake3.clone(), manifest.tables.clone());
            Some(KnownPages { pages: PagesOf::Backup { file, blake3, tables }, then: KnownState::of_backup(manifest)? })
        });
        // The map is beside them.
        let folder = backups.first()?.file.parent()?;
        let of_map = self.memory.mapped.clone().map(|then| {
            let pages = PagesOf::Map { file: folder.join(PAGE_MAP) };
            KnownPages { pages, then }
        });
        let known = of_map.into_iter().chain(of_backups).filter(|known| self.is_unwritten(&known.then, &now));
        let mut known: Vec<_> = known.collect();
        // The sort keeps a map before a backup of the same moment.
        known.sort_by_key(|known| std::cmp::Reverse(known.then.at));
        let last = known.first()?.then.at;
        let build = DatabaseStep::BuildFromPages {
            known,
            sources: backups.iter().map(|backup| backup.file.clone()).collect(),
            owner: self.owner(),
        };
        let why = format!(
            "put the pages back that are not what they were at {last:.3}, out of the backup of {newest:.3} or one before it: nothing \
             was committed since, so that nothing is lost"
        );
        Some(playbook(MEND_PAGES, why, &[DatabaseStep::Preserve, build, DatabaseStep::Install]))
    }

    /// Nothing was committed since, by the files, and by what was seen of them meanwhile.
    fn is_unwritten(&self, then: &KnownState, now: &Present) -> bool {
        match then.unwritten(now) {
            Err(_) => false,
            Ok(Unwritten::Untouched | Unwritten::SameWal) => true,
            // A counter can come to the same number twice, if somebody puts an older file in the place of this one's content, or a
            // disk forgets the write of page 1: then a healthy look since has seen another file.
            Ok(Unwritten::NoCommit { .. }) => {
                let since = self.memory.healthy_at.is_some_and(|at| at > then.at);
                let last = self.memory.last_healthy.as_ref().filter(|_| since);
                last.is_none_or(|last| last.main.is_unwritten_since(&then.print.main))
            }
        }
    }
}
