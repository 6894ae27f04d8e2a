//! The rung between what is whole and the backups: rows salvaged from the database's own files.

use super::loss::is_content_of;
use super::{Site, playbook};
use crate::job::{DatabaseStep, HeaderFacts, TableRows};
use crate::model::Playbook;

/// The playbook's name.
pub(super) const SALVAGE: &str = "salvage_rows";

impl Site<'_> {
    /// The rung as it stands before the backups, where more rows may be salvaged than the newest of them has; and as it stands after
    /// them, where none of them passes. How many there are only the attempt tells: it gives up where the backup has no fewer.
    pub(super) fn salvaged(&self) -> (Option<Playbook>, Option<Playbook>) {
        if !self.has_rows_to_salvage() {
            return (None, None);
        }
        let after = self.salvage(None, "salvage the rows that can be read; what cannot be is lost".to_owned());
        // Nothing is lost by a backup of just this.
        let before = self.listed().first().filter(|newest| !is_content_of(newest, self.memory, self.facts));
        let before = before.map(|newest| {
            let (has, taken_at) = (super::replace::rows(&newest.manifest.tables), newest.manifest.taken_at);
            let why = format!(
                "salvage the rows that can be read, if they are more than the {has} of the backup of {taken_at:.3}; what cannot be \
                 read is lost"
            );
            self.salvage(Some(newest.manifest.tables.clone()), why)
        });
        (before, Some(after))
    }

    fn has_rows_to_salvage(&self) -> bool {
        let diagnosis = self.diagnosis;
        // Nothing is missing in what passes a check as it is.
        let is_whole = diagnosis.is_some_and(|diagnosis| {
            diagnosis.settled.as_ref().is_some_and(|settled| settled.sound)
                || diagnosis.mended.as_ref().is_some_and(|mended| mended.sound)
        });
        // A person can mount the folder, or put right what keeps a backup from being used.
        let is_backup_hidden = self.listed().is_empty() && self.why_no_backup().is_some();
        let is_noise = matches!(&self.facts.header, Some(HeaderFacts::Bad { pages_like_sqlite: Some((0, _)), .. }));
        // A WAL names no database, and a part of its pages is no answer to a file that is gone: a person may still have it.
        let there = self.facts.main.size() > 0 && !is_noise;
        there && !is_whole && !is_backup_hidden
    }

    fn salvage(&self, more_than: Option<Vec<TableRows>>, why: String) -> Playbook {
        let configured = || self.config.schema.as_ref().map(|schema| schema.sql.clone());
        let known = self.memory.schema.clone().filter(|schema| !schema.trim().is_empty());
        let build = DatabaseStep::BuildFromSalvage {
            schema: known.or_else(configured),
            journal_mode: self.memory.journal_mode.clone(),
            // The text may be another than what this version of the schema is remembered by.
            schema_cookie: self.memory.schema_version.map(|version| (version as u32).wrapping_add(1)),
            more_than,
            owner: self.owner(),
        };
        playbook(SALVAGE, why, &[DatabaseStep::Preserve, build, DatabaseStep::Install])
    }
}
