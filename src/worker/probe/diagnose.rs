//! All that a plan needs beyond the layers: who has it open, what a settled copy holds, which backups there are.

use std::io;
use std::time::Duration;

use super::content::{self, Content};
use super::files::{Files, Looked, open_raw};
use super::{Look, booted_ns, copy, raw};
use crate::backup;
use crate::host::{Folder, Scan, Sought, find_holders_patiently, supervisor};
use crate::job::{
    DatabaseSite, Diagnosis, FileState, FormatVersion, HeaderFacts, HolderFacts, IntegrityLevel, JournalState, Member,
    MemberFacts, MendedCopy, SettledCopy, Users, WalState,
};
use crate::sqlite::{Access, Database, Deadline, creations_in};
use crate::worker::mend::{Mended, Sources, mend};
use crate::worker::roll_back::{beyond_sqlite, roll_back};
use crate::worker::sweep::Sweep;

impl Look<'_> {
    /// Looks for it, where it was asked for.
    pub(super) fn diagnose(&mut self) {
        if self.facts.users.is_none() && (self.probe.diagnose || self.probe.users) {
            self.facts.users = Some(self.users(None));
        }
        if !self.probe.diagnose {
            return;
        }
        let users = self.facts.users.clone().unwrap_or_default();
        if self.copy.is_none() && self.is_damaged_in_place() {
            self.copy = Some(copy_of(&self.probe.site));
        }
        let mut settled = self.copy.as_ref().map(|copy| settle(&self.probe.site, copy));
        if self.calls_for_its_journal(settled.as_ref())
            && let Some(rolled_back) = rolled_back(&self.probe.site, &self.files)
        {
            settled = Some(rolled_back);
        }
        if let Some(put_back) = self.damaged_schema().and_then(|known| with_schema(&self.probe.site, known)) {
            settled = Some(put_back);
        }
        if let (Some(settled), Some(page)) = (&mut settled, self.page_lost()) {
            settled.sound = false;
            settled.detail = format!("page {page} is cut off, and a copy has zeros in its place: {}", settled.detail);
        }
        let mended = if self.calls_for_its_wal() { mended(&self.probe.site, &self.files) } else { None };
        let members = self.probe.members.iter().map(|one| member(one, self.sweep)).collect();
        let diagnosis = conclude(users, settled, mended, self.probe.backups.as_deref(), members);
        self.facts.diagnosis = Some(diagnosis);
    }

    /// The schema as it was known, where SQLite cannot parse what is there, or reads another text than that.
    fn damaged_schema(&self) -> Option<&str> {
        let known = self.probe.schema.as_deref()?;
        let malformed = |fault: &crate::job::SqliteFault| fault.message.contains("malformed database schema");
        let differs = match self.facts.open.as_ref()? {
            Ok(open) => open.schema.as_deref().is_some_and(|now| creations_in(now) != creations_in(known)),
            Err(fault) => malformed(fault),
        };
        let integrity = self.facts.integrity.as_ref().and_then(|integrity| integrity.fault.as_ref());
        (differs || integrity.is_some_and(malformed)).then_some(known)
    }

    /// A damaged journal is rolled back as far as its records verify; one without a header only where that is what is missing.
    fn calls_for_its_journal(&self, settled: Option<&SettledCopy>) -> bool {
        match self.facts.journal.as_ref().map(|journal| journal.state) {
            Some(JournalState::Damaged) => settled.is_some(),
            Some(JournalState::Absent) => {
                settled.is_some_and(|settled| !settled.sound) && self.files.journal.state.size() > 0
            }
            _ => false,
        }
    }

    /// The WAL may hold what SQLite does not read, or all that there is.
    fn calls_for_its_wal(&self) -> bool {
        let gone = matches!(self.files.main.state, FileState::Missing)
            || self.files.main.state.file().is_some_and(|main| main.size == 0);
        let damaged = self.facts.wal.as_ref().is_some_and(|wal| wal.state == WalState::Damaged);
        (damaged || gone) && self.files.wal.state.size() > 0
    }

    /// Found damaged where it is, so that a copy of it may be worth looking at.
    fn is_damaged_in_place(&self) -> bool {
        let journal = self.facts.journal.as_ref().map(|journal| journal.state);
        let wal = self.facts.wal.as_ref().map(|wal| wal.state);
        let raw = matches!(journal, Some(JournalState::Hot | JournalState::Damaged)) || wal == Some(WalState::Damaged);
        let checked = self.facts.integrity.as_ref().is_some_and(|found| {
            !found.messages.is_empty() || content::speaks_of_damage(Some(&found.fault.clone().map_or(Ok(()), Err)))
        });
        let opened = content::speaks_of_damage(self.facts.open.as_ref());
        let version = match self.facts.header {
            Some(HeaderFacts::Good { format, schema_format, .. }) => [format, schema_format],
            Some(HeaderFacts::Bad { format, .. }) => [format; 2],
            _ => [FormatVersion::Known; 2],
        }
        .contains(&FormatVersion::Damaged);
        // A missing main file has nothing to copy, and one without a byte nothing to settle.
        self.files.main.state.size() > 0 && (raw || checked || opened || version)
    }
}

/// Looks for the holders of the database and its side files, and of `more`; ourselves, our supervisor and its other children
/// left out. `elsewhere`: why the file system itself hides some.
pub(super) fn users(
    files: &Files,
    more: Option<(&'static str, &Looked)>,
    elsewhere: Option<&str>,
    sweep: &Sweep,
) -> Users {
    let sides = [("main", &files.main), ("wal", &files.wal), ("shm", &files.shm), ("journal", &files.journal)];
    let sides = sides.into_iter().chain(more);
    let sought: Vec<Sought<&'static str>> =
        sides.flat_map(|(tag, looked)| sought(tag, looked, &files.main, sweep)).collect();
    let scan = Scan { maps: false, but_children_of: supervisor() };
    let found = match find_holders_patiently(&sought, &scan) {
        Ok(found) => found,
        Err(error) => return Users { blind: vec![error.to_string()], ..Users::default() },
    };
    let mut holders: Vec<HolderFacts> = Vec::new();
    for one in found.found {
        let holder = match holders.iter().position(|holder| holder.pid == one.pid) {
            Some(at) => &mut holders[at],
            None => {
                holders.push(HolderFacts {
                    pid: one.pid,
                    comm: one.comm.clone(),
                    uid: one.uid,
                    state: one.state,
                    started_ms: one.started_boot_ms,
                    files: Vec::new(),
                    unlinked: Vec::new(),
                });
                let last = holders.len() - 1;
                &mut holders[last]
            }
        };
        let mut note = |list: fn(&mut HolderFacts) -> &mut Vec<String>| {
            let list = list(holder);
            if !list.iter().any(|tag| tag == one.what) {
                list.push(one.what.to_owned());
            }
        };
        note(|holder| &mut holder.files);
        if one.deleted {
            note(|holder| &mut holder.unlinked);
        }
    }
    let mut blind = elsewhere.map(str::to_owned).into_iter().collect::<Vec<_>>();
    blind.extend(found.blind);
    blind.extend(found.blind_for.into_iter().map(|(what, why)| format!("{what}: {why}")));
    // Of init alone root says nothing: it opens no database.
    let root_unseen = found.root_unseen && !rustix::process::geteuid().is_root();
    Users { holders, blind, root_unseen }
}

/// The file that is there, and any that was there before and lives on in a process.
fn sought(tag: &'static str, looked: &Looked, main: &Looked, sweep: &Sweep) -> Vec<Sought<&'static str>> {
    let like = looked.host.clone().or_else(|| main.host.clone());
    let mut sought = vec![Sought::UnlinkedFrom { tag, path: looked.path.clone(), like }];
    if let Some(facts) = &looked.host {
        let device = sweep.mounts().lock_device(facts, &looked.path);
        sought.push(Sought::File { tag, facts: facts.clone(), device });
    }
    sought
}

/// What a private copy looks like after SQLite has recovered it.
fn settle(site: &DatabaseSite, copy: &io::Result<copy::PrivateCopy>) -> SettledCopy {
    let copy = match copy {
        Ok(copy) => copy,
        Err(error) => {
            let detail = format!("no private copy could be made: {error}");
            return SettledCopy { sound: false, detail, tables: Vec::new(), schema_put_back: false };
        }
    };
    let main = copy.main();
    let content = Content { path: &main, access: Access::Copy, busy: Duration::ZERO, query: Duration::ZERO };
    let opened = content.open(None);
    let check = content::with_records(content.check(IntegrityLevel::Full, None), site, &main);
    let (tables, uncounted) = match content.rows() {
        Ok(tables) => (tables, String::new()),
        Err(fault) => (Vec::new(), format!("; its rows could not be counted: {}", fault.message)),
    };
    let (sound, detail) = match opened {
        Err(fault) => (false, format!("a private copy does not open: {}", fault.message)),
        Ok(open) if open.objects == 0 => (false, "a private copy has no schema after recovery".to_owned()),
        Ok(_) if check.ok => (true, "a private copy passes integrity_check after recovery".to_owned()),
        Ok(_) => {
            let first = check.messages.first().or(check.fault.as_ref().map(|fault| &fault.message));
            (
                false,
                format!("a private copy fails integrity_check: {}", first.map_or("no reason given", String::as_str)),
            )
        }
    };
    SettledCopy { sound, detail: detail + &uncounted, tables, schema_put_back: false }
}

/// What a private copy looks like with the text of the known schema put back, where it passes then.
fn with_schema(site: &DatabaseSite, schema: &str) -> Option<SettledCopy> {
    let copy = copy_of(site).ok()?;
    let database = Database::open(&copy.main(), Access::Copy, Duration::ZERO, Deadline::never()).ok()?;
    database.put_schema_back(schema).ok().filter(|changed| *changed > 0)?;
    database.close().ok()?;
    let settled = settle(site, &Ok(copy));
    let detail = format!("{}, with its schema as it was", settled.detail);
    settled.sound.then_some(SettledCopy { detail, schema_put_back: true, ..settled })
}

/// What a private copy looks like after every record of its journal that verifies was rolled back, where SQLite would not roll
/// them all back, and the copy passes then.
fn rolled_back(site: &DatabaseSite, files: &Files) -> Option<SettledCopy> {
    let (main, journal) = (open_raw(&files.main).ok()?, open_raw(&files.journal).ok()?);
    let mended = beyond_sqlite(&main, &journal).ok()??;
    let copy = copy::begin(site, files).ok()?;
    let path = copy.main();
    copy::duplicate(&main, &path, None).ok()?;
    let target = std::fs::File::options().read(true).write(true).open(&path).ok()?;
    let how = roll_back(&target, &journal, &mended).ok()?;
    drop(target);
    let settled = settle(site, &Ok(copy));
    settled.sound.then(|| SettledCopy { detail: format!("{}, {how}", settled.detail), ..settled })
}

/// What the WAL gives, put together on a private copy: over the main file, or where that is gone, alone.
fn mended(site: &DatabaseSite, files: &Files) -> Option<MendedCopy> {
    let not = |detail: String| MendedCopy { sound: false, proven: false, detail, tables: Vec::new() };
    let put_together = || -> Result<Mended, String> {
        let told = |error: io::Error| error.to_string();
        let wal = open_raw(&files.wal).map_err(told)?;
        let below = (files.main.state.size() > 0).then(|| open_raw(&files.main).map_err(told)).transpose()?;
        let index = raw::wal_index(&files.shm, booted_ns());
        let copy = copy::begin(site, files).map_err(told)?;
        let folder = Folder::open(copy.folder()).map_err(|error| error.to_string())?;
        let is_its_own = below.is_some();
        mend(&folder, &Sources { wal: &wal, index, below: below.as_ref(), is_its_own, frames_min: 0 })
    };
    files.wal.state.file()?;
    Some(match put_together() {
        Ok(mended) => MendedCopy { sound: true, proven: mended.proven, detail: mended.detail, tables: mended.tables },
        Err(why) => not(why),
    })
}

/// The rest of the diagnosis.
fn conclude(
    Users { holders, blind, .. }: Users,
    settled: Option<SettledCopy>,
    mended: Option<MendedCopy>,
    backups: Option<&std::path::Path>,
    members: Vec<MemberFacts>,
) -> Diagnosis {
    // A folder that cannot be listed has no backup to offer, and may be full of them.
    let listed = backups.map_or_else(|| Ok(backup::Listing::default()), backup::list);
    let (backups, damaged, unusable) = match listed {
        Ok(listing) => (listing.entries, listing.damaged, listing.skipped),
        Err(error) => (Vec::new(), Vec::new(), vec![error.to_string()]),
    };
    Diagnosis { holders, blind, settled, mended, backups, damaged, unusable, members }
}

/// Another database of the group: who uses it, and what it can be restored from.
fn member(member: &Member, sweep: &Sweep) -> MemberFacts {
    let files = Files::look(&member.path);
    let users = users(&files, None, None, sweep);
    let backups = member.backups.as_deref().and_then(|folder| backup::list(folder).ok()).unwrap_or_default().entries;
    MemberFacts { member: member.clone(), users, backups }
}

/// A copy for [`settle`], of a database that was looked at in place.
fn copy_of(site: &DatabaseSite) -> io::Result<copy::PrivateCopy> {
    copy::of_all(site)
}
