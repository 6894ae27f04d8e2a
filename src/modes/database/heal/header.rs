//! The rung that puts the way to the rows right, and touches none of them: header, page 1, list of free pages.

use super::{Site, playbook};
use crate::job::{
    BackupManifest, DatabaseStep, FileState, FormatVersion, HeaderFacts, JournalState, KnownPageOne, SqliteFault,
    WalState,
};
use crate::model::{FaultClass, Playbook};
use crate::sqlite::creations_in;

/// The playbooks' names.
pub(super) const MEND_HEADER: &str = "mend_header";
pub(super) const MEND_FREELIST: &str = "mend_freelist";

/// Backups whose first page is tried.
const PAGE_ONES_MAX: usize = 2;

impl Site<'_> {
    /// The rung, where the header, page 1 or the list of free pages may be all that is damaged. The attempt tells: it is taken only if the
    /// whole content passes, and then nothing is lost.
    pub(super) fn mended_pages(&self) -> Option<Playbook> {
        let facts = self.facts;
        if !matches!(&facts.main, FileState::File(main) if main.size > 0) {
            return None;
        }
        // What a damaged WAL or a journal has is another rung's, and may have a sound first page.
        let wal = facts.wal.as_ref().map_or(WalState::Absent, |wal| wal.state);
        let journal = facts.journal.as_ref().map_or(JournalState::Absent, |journal| journal.state);
        if !matches!(wal, WalState::Absent | WalState::Unused | WalState::Sound) || journal != JournalState::Absent {
            return None;
        }
        let (name, what) = if self.is_way_in_hurt() {
            (MEND_HEADER, "put its header and its first page right by what is known of them")
        } else if self.is_freelist_hurt() {
            (MEND_FREELIST, "put its list of free pages right")
        } else {
            return None;
        };
        let build = DatabaseStep::BuildMended { known: Box::new(self.known_page_one()) };
        let why = format!("{what}; taken only if its whole content passes, and then nothing is lost");
        Some(playbook(name, why, &[DatabaseStep::Preserve, build, DatabaseStep::Install]))
    }

    /// SQLite does not get as far as the rows, or would not write them.
    fn is_way_in_hurt(&self) -> bool {
        let header = match &self.facts.header {
            // Of noise there is nothing to mend.
            Some(HeaderFacts::Bad { pages_like_sqlite, .. }) => !matches!(pages_like_sqlite, Some((0, _))),
            Some(HeaderFacts::Good { format, schema_format, missing_bytes, lost_page, .. }) => {
                let is_damaged = [format, schema_format].contains(&&FormatVersion::Damaged);
                is_damaged || *missing_bytes > 0 && lost_page.is_none()
            }
            Some(HeaderFacts::Empty) | None => false,
        };
        let is_refused = |fault: &SqliteFault| matches!(fault.class, FaultClass::NotADatabase | FaultClass::Corrupt);
        header || matches!(&self.facts.open, Some(Err(fault)) if is_refused(fault))
    }

    fn is_freelist_hurt(&self) -> bool {
        let of_freelist = |line: &String| line.to_ascii_lowercase().contains("freelist");
        self.facts.integrity.as_ref().is_some_and(|found| found.messages.iter().any(of_freelist))
    }

    fn known_page_one(&self) -> KnownPageOne {
        let schema = self.memory.schema.clone().filter(|schema| !schema.trim().is_empty());
        let schema_cookie = self.memory.schema_version.map(|version| version as u32);
        // With each change of the schema, and each VACUUM, the cookie is another: only by it the roots are known to be the same.
        let is_same = |theirs: &BackupManifest| {
            let text = schema.as_deref().is_some_and(|own| creations_in(own) == creations_in(&theirs.schema));
            text && schema_cookie.is_some() && theirs.schema_cookie == schema_cookie
        };
        let backups = self.listed().iter().filter(|backup| is_same(&backup.manifest));
        let last = self.memory.last_healthy.as_ref();
        KnownPageOne {
            page_ones: backups.take(PAGE_ONES_MAX).map(|backup| backup.file.clone()).collect(),
            schema_cookie,
            change_counter: last.map(|print| print.change_counter),
            wal_mode: self.memory.journal_mode.as_deref() == Some("wal"),
            owner: self.owner(),
            schema,
        }
    }
}
