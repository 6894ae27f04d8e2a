//! The layers `open`, `integrity` and `query`: what SQLite says of the content.

use crate::job::{HeaderFacts, IntegrityFacts, OpenFacts, SqliteFault};
use crate::model::{FaultClass, Kind, Layer, Severity};
use crate::sqlite::creations_in;

use super::super::elsewhere;
use super::super::kinds::{self, INTEGRITY, OPEN, QUERY};
use super::Judgement;

impl Judgement<'_> {
    pub(super) fn open(&mut self) -> bool {
        match &self.facts.open {
            None => true,
            Some(Ok(open)) if self.is_in_the_others_place(open) => {
                let path = self.config.path.display();
                let todo = elsewhere::what_to_do(&self.config.name, &self.config.path);
                self.cannot_tell(format!(
                    "{path} was on another file system, and what is there now has none of its tables: {todo}"
                ));
                false
            }
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
                if let (Some(now), Some(known)) = (&open.schema, &self.memory.schema)
                    && self.memory.schema_version == Some(open.schema_version)
                    && open.objects > 0
                    && creations_in(now) != creations_in(known)
                {
                    let differs = differing(creations_in(known), creations_in(now));
                    self.find(
                        &kinds::SCHEMA_CORRUPTED,
                        Severity::Critical,
                        &OPEN,
                        format!("its schema's text has changed and its version has not, so SQLite did not change it: {differs}"),
                        "compare it with a backup; its rows are there, and what their columns mean is not",
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

    /// A program that starts while its disk is not mounted makes an empty database of its own where the disk would be.
    fn is_in_the_others_place(&self, open: &OpenFacts) -> bool {
        let Some(known) = &self.memory.schema else { return false };
        let known = creations_in(known);
        let is_kept =
            |now: &str| known.lines().any(|line| !line.trim().is_empty() && now.lines().any(|now| now == line));
        // Where its schema was not read, that has not changed.
        let is_other = open.objects == 0 || open.schema.as_deref().is_some_and(|now| !is_kept(creations_in(now)));
        self.memory.is_elsewhere(&self.facts.place) && !known.trim().is_empty() && is_other
    }

    pub(super) fn open_fault(&mut self, fault: &SqliteFault) {
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
                self.malformed_schema(fault, &OPEN)
            }
            FaultClass::Corrupt => {
                let kind = self.cut_or(kinds::CORRUPTED);
                self.find_fault(&kind, Severity::Critical, &OPEN, fault, "restore the newest backup that passes");
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
            FaultClass::NoMemory | FaultClass::Constraint | FaultClass::Other => {
                self.cannot_tell(format!("SQLite answered {}: {}", fault.code, fault.message))
            }
        }
    }

    /// A schema that cannot be parsed is damage where nobody changed it through SQLite. Where its cookie moved, somebody did,
    /// and may have used words of a newer version than ours: a sound database, that no backup may take the place of (rule 20).
    fn malformed_schema(&mut self, fault: &SqliteFault, layer: &Layer) {
        let before = self.memory.last_healthy.as_ref().map(|print| i64::from(print.schema_cookie.cast_signed()));
        let moved = before.is_some_and(|before| self.facts.schema_version.is_some_and(|now| now != before));
        match (self.memory.ever_healthy, moved) {
            (false, _) => self.cannot_tell(format!(
                "SQLite cannot parse its schema ({}), and it was never seen healthy",
                fault.message
            )),
            (true, true) => self.cannot_tell(format!(
                "SQLite cannot parse its schema ({}), and that was changed through SQLite since it was last seen healthy: \
                 perhaps by a newer version than guardiand's {}",
                fault.message,
                crate::sqlite::sqlite_version()
            )),
            (true, false) => self.find_fault(
                &kinds::SCHEMA_CORRUPTED,
                Severity::Critical,
                layer,
                fault,
                "restore the newest backup that passes",
            ),
        }
    }

    pub(super) fn integrity(&mut self) {
        let Some(integrity) = &self.facts.integrity else { return };
        if integrity.ok {
            return;
        }
        if let Some(fault) = &integrity.fault {
            match fault.class {
                FaultClass::Corrupt if fault.message.contains("malformed database schema") => {
                    let fault = fault.clone();
                    self.malformed_schema(&fault, &INTEGRITY);
                }
                FaultClass::Corrupt if integrity.messages.is_empty() => {
                    let (fault, kind) = (fault.clone(), self.cut_or(kinds::CORRUPTED));
                    self.find_fault(
                        &kind,
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

    pub(super) fn damaged(&mut self, integrity: &IntegrityFacts) {
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
        if integrity.only_waste {
            return self.find(
                &kinds::INTEGRITY_FAILED,
                Severity::Medium,
                &INTEGRITY,
                format!("nothing refers to some pages, and every row that can be reached is sound: {shown}"),
                "`VACUUM` gives them back; compare with a backup first, for a lost write may have cut rows off",
            );
        }
        let kind = match integrity.fault {
            Some(_) => self.cut_or(kinds::CORRUPTED),
            None => self.cut_or(kinds::INTEGRITY_FAILED),
        };
        self.find(&kind, Severity::Critical, &INTEGRITY, shown, "restore the newest backup that passes");
    }

    /// A file that is shorter than its header promises was cut, whatever else SQLite says of it.
    fn cut_or(&self, kind: Kind) -> Kind {
        match self.facts.header {
            Some(HeaderFacts::Good { missing_bytes, .. }) if missing_bytes > 0 => kinds::TRUNCATED,
            _ => kind,
        }
    }

    /// SQLite reads zeros where the file ends within a page, and finds nothing wrong. Whatever else it did find says more of what
    /// is hurt: an index alone, perhaps.
    pub(super) fn end_is_lost(&mut self) {
        let Some(HeaderFacts::Good { missing_bytes, lost_page: Some(page), .. }) = &self.facts.header else { return };
        if !self.findings.is_empty() {
            return;
        }
        let path = self.config.path.display();
        self.find(
            &kinds::TRUNCATED,
            Severity::Critical,
            &INTEGRITY,
            format!("{path} lacks its last {missing_bytes} bytes, from within page {page} on: SQLite reads zeros in their place"),
            "restore the newest backup that passes; the rows of the other pages can be read",
        );
        self.at_stake("what was left when a program wrote on a file whose end had been cut off");
    }

    pub(super) fn query(&mut self) {
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
            FaultClass::Io => self.find_fault(
                &kinds::IO_ERROR,
                Severity::Critical,
                &QUERY,
                &fault,
                "look at the disk (`dmesg`, SMART)",
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
                match fault.class {
                    FaultClass::NoMemory => "the canary needs more memory than a child may use: make it cheaper",
                    _ => "see that the canary fits the schema",
                },
            ),
        }
    }
}

/// The first line that differs, as it was and as it is.
fn differing(known: &str, now: &str) -> String {
    let mut lines = known.lines().zip(now.lines());
    match lines.find(|(known, now)| known != now) {
        Some((known, now)) => format!("`{known}` is now `{now}`"),
        None => "an entry is there that was not, or is gone".to_owned(),
    }
}
