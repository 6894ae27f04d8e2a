//! The rung between what is whole and the backups: rows salvaged from the database's own files.

use super::loss::is_content_of;
use super::{MAX_BACKUPS_TRIED, Site, playbook};
use crate::job::{DatabaseStep, HeaderFacts, RowsToSalvage, TableRows};
use crate::model::Playbook;

/// The playbook's name.
pub(super) const SALVAGE: &str = "salvage_rows";

/// The same under its programs.
pub(super) const SALVAGE_IN_PLACE: &str = "salvage_in_place";

/// What a salvage gets through, in bytes a second, with a backup to fill it from, the comparison with it, and the check at the end.
/// Measured: 57 MB a second, on two busy cores with a warm cache; a slow disk takes longer.
const BYTES_PER_SECOND: u64 = 40_000_000;
/// Below this nobody plans by it.
const SECONDS_WORTH_TELLING: u64 = 10;

impl Site<'_> {
    /// The rung as it stands before the backups, where less may be lost by it than by the newest of them; and as it stands after
    /// them, where none of them passes. What it would lose only the attempt tells: it gives up where the backup loses no more.
    pub(super) fn salvaged(&self) -> (Option<Playbook>, Option<Playbook>) {
        if !self.has_rows_to_salvage() {
            return (None, None);
        }
        let after = self.salvage(false, "salvage the rows that can be read; what cannot be is lost".to_owned());
        // Nothing is lost by a backup of just this.
        let before = self.listed().first().filter(|_| !self.newest_is_all()).map(|newest| {
            let (has, taken_at) = (TableRows::sum(&newest.manifest.tables), newest.manifest.taken_at);
            let why = format!(
                "salvage the rows that can be read, and take what they lack from the backup of {taken_at:.3}, if that loses fewer than \
                 the backup with its {has} rows; what neither has is lost"
            );
            self.salvage(true, why)
        });
        (before, Some(after))
    }

    /// Nothing was committed since the newest backup: no salvage can have more.
    pub(super) fn newest_is_all(&self) -> bool {
        self.listed().first().is_some_and(|newest| is_content_of(newest, self.memory, self.facts))
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

    fn salvage(&self, with_backups: bool, why: String) -> Playbook {
        let configured = || self.config.schema.as_ref().map(|schema| schema.sql.clone());
        let known = self.memory.schema.clone().filter(|schema| !schema.trim().is_empty());
        let backups = self.listed().iter().take(if with_backups { MAX_BACKUPS_TRIED } else { 0 });
        let build = RowsToSalvage {
            schema: known.or_else(configured),
            journal_mode: self.memory.journal_mode.clone(),
            // The text may be another than what this version of the schema is remembered by.
            schema_cookie: self.memory.schema_version.map(|version| (version as u32).wrapping_add(1)),
            more_than: None,
            backups: backups.map(|backup| backup.file.clone()).collect(),
            of_backup: None,
            owner: self.owner(),
        };
        let why = match self.salvage_takes() {
            Some(about) => format!("{why} (it takes about {about})"),
            None => why,
        };
        playbook(SALVAGE, why, &[DatabaseStep::Preserve, DatabaseStep::BuildFromSalvage(build), DatabaseStep::Install])
    }

    /// The rungs before an empty database, the newest backup first: each only matters where it proved damaged.
    pub(super) fn salvaged_of_backups(&self) -> Vec<Playbook> {
        let damaged = self.diagnosis.map(|diagnosis| diagnosis.damaged.as_slice()).unwrap_or_default();
        let mut all: Vec<_> = self.listed().iter().chain(damaged).collect();
        all.sort_by_key(|backup| std::cmp::Reverse(backup.age_order()));
        let rungs = all.into_iter().take(MAX_BACKUPS_TRIED).map(|backup| {
            let build = RowsToSalvage {
                schema: self.memory.schema.clone().filter(|schema| !schema.trim().is_empty()),
                journal_mode: self.memory.journal_mode.clone(),
                schema_cookie: None,
                more_than: None,
                backups: Vec::new(),
                of_backup: Some(backup.file.clone()),
                owner: self.owner().or(Some(backup.manifest.owner)),
            };
            let why = format!(
                "salvage the rows that can be read of the backup of {:.3}, should it be damaged; what was written since is lost, too",
                backup.manifest.taken_at
            );
            playbook(SALVAGE, why, &[DatabaseStep::Preserve, DatabaseStep::BuildFromSalvage(build), DatabaseStep::Install])
        });
        rungs.collect()
    }

    /// How long, where that matters.
    fn salvage_takes(&self) -> Option<String> {
        let seconds = (self.facts.main.size() + self.facts.wal_file.size()) / BYTES_PER_SECOND;
        match seconds {
            0..SECONDS_WORTH_TELLING => None,
            SECONDS_WORTH_TELLING..120 => Some(format!("{} seconds", seconds.div_ceil(10) * 10)),
            120..7200 => Some(format!("{} minutes", seconds.div_ceil(60))),
            _ => Some(format!("{} hours", seconds.div_ceil(3600))),
        }
    }
}
