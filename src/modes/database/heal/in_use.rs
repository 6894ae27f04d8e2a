//! What a ladder means for a file that programs have open: which rungs go through SQLite under them, which need them stopped,
//! and which need a person's word first. Pure.

use std::time::Duration;

use super::header::{MEND_FREELIST, MEND_HEADER};
use super::pages::MEND_PAGES;
use super::salvage::SALVAGE_IN_PLACE;
use super::{Site, playbook};
use crate::job::{DatabaseStep, Ending, FileState, HeaderFacts, HolderFacts, JournalState, Member, WalState};
use crate::model::{Plan, Playbook, Program, StepRecord, StepSpec};
use crate::modes::database::config::WhenInUse;

impl Site<'_> {
    /// The ladder as it can be climbed while the file is as much in use as it is. `taken` are the steps of this incident so far.
    ///
    /// # Errors
    /// Why nothing of it may be done, with the next command for a person.
    pub(super) fn fit(&self, ladder: Vec<Playbook>, taken: &[StepRecord]) -> Result<Plan, String> {
        let in_use = self.in_use(needs_wal(&ladder));
        let Some(reason) = in_use.filter(|_| ladder.iter().any(swaps)) else { return Ok(Plan::of(ladder)) };
        let (lossy, lossless): (Vec<_>, Vec<_>) = ladder.into_iter().partition(swaps);
        let fitted = self.fit_lossy(&lossy, &reason);
        // What costs nothing needs nobody's word, and comes first; what it leaves is asked about afterwards.
        let tried = |playbook: &Playbook| {
            let steps = playbook.steps.iter().filter(|step| step.name != "preserve");
            steps.into_iter().any(|step| taken.iter().any(|record| record.step == step.name))
        };
        let asks = self.config.when_in_use.is_none() || fitted.is_err();
        if asks && !lossless.is_empty() && !lossless.iter().all(tried) {
            return Ok(Plan::of(lossless));
        }
        let fitted = fitted?;
        let approval = self.config.when_in_use.is_none().then(|| self.asking());
        let playbooks = match approval {
            Some(_) => fitted,
            None => lossless.into_iter().chain(fitted).collect(),
        };
        Ok(Plan { playbooks, approval })
    }

    fn fit_lossy(&self, lossy: &[Playbook], reason: &str) -> Result<Vec<Playbook>, String> {
        if let Some(holder) = self.cut_off() {
            return Err(format!(
                "{} (pid {}) has files of {} open that are no longer at their path: what it committed is in them alone. Do not stop \
                 it; its data is reachable through /proc/{}/fd",
                holder.comm,
                holder.pid,
                self.path(),
                holder.pid
            ));
        }
        let keep_wal = self.keep_wal(lossy);
        let stopped =
            |app: &Program| Ok(lossy.iter().map(|playbook| with_app_stopped(playbook, app, keep_wal)).collect());
        match (self.config.when_in_use, &self.config.app) {
            (Some(WhenInUse::Refuse), _) => Err(reason.to_owned()),
            (Some(WhenInUse::StopApp) | None, Some(app)) => stopped(app),
            // The configuration sees to it that `stop-app` has its `app`.
            (Some(WhenInUse::StopApp), None) => Err(reason.to_owned()),
            (Some(WhenInUse::InPlace) | None, app) => {
                // Only as far down as the ladder goes: what keeps more than a backup comes before it.
                let possible = self.in_place_possible();
                // What is mended is another file, which takes no program's place.
                let needs_it_alone = |rung: &&Playbook| [MEND_HEADER, MEND_FREELIST, MEND_PAGES].contains(&&*rung.name);
                let rungs = lossy.iter().filter(|rung| !needs_it_alone(rung));
                let in_place = possible.map(|()| rungs.map_while(|rung| self.in_place(rung)).collect::<Vec<_>>());
                let mut left_out: Vec<&str> = lossy.iter().filter(needs_it_alone).map(|rung| &*rung.name).collect();
                left_out.dedup();
                match (in_place, app) {
                    (Ok(in_place), _) if !in_place.is_empty() => {
                        Ok(in_place.into_iter().map(|rung| without(rung, &left_out, reason)).collect())
                    }
                    (_, Some(app)) => stopped(app),
                    (Ok(_), None) => Err(format!(
                        "{reason}{}; under a program only a backup can be restored, and there is better",
                        only_alone(&left_out)
                    )),
                    (Err(why), None) => Err(format!("{reason}: {why}")),
                }
            }
        }
    }

    /// Why its WAL is kept from programs that end, if so: they would copy it into the main file, and delete it.
    fn keep_wal(&self, lossy: &[Playbook]) -> Option<&'static str> {
        if self.facts.wal.as_ref().is_some_and(|wal| wal.state == WalState::Damaged) {
            return Some("whose damage it would copy into the database as it ends");
        }
        needs_wal(lossy).then_some("which has what was committed since, and which it would delete as it ends")
    }

    /// Somebody who has a file open that is gone from its path.
    fn cut_off(&self) -> Option<&HolderFacts> {
        let own = self.diagnosis?.holders.iter();
        let all = own.chain(self.members().iter().flat_map(|one| &one.users.holders));
        all.into_iter().find(|holder| holder.unlinked.iter().any(|what| what == "main" || what == "wal"))
    }

    /// Whether SQLite can be given a backup to put into the file under its programs (SQLITE.md, section 4); if not, why.
    fn in_place_possible(&self) -> Result<(), String> {
        let no = |why: &str| Err(format!("it cannot be restored under its program either, because {why}"));
        let facts = self.facts;
        if !self.members().is_empty() {
            return no("the databases of its group are restored together, which no lock of SQLite's can see to");
        }
        let sound_wal = facts.wal.as_ref().is_some_and(|wal| wal.state == WalState::Sound);
        match (&facts.main, &facts.header) {
            (FileState::Missing, _) => return no("it is gone"),
            (main, _) if main.size() == 0 => {
                return no("it has 0 bytes, and opening it would destroy the program's WAL");
            }
            // The programs hold SHARED for their whole lives, and an unreadable file is only emptied by who has it to himself.
            (_, Some(HeaderFacts::Bad { .. })) if self.is_in_wal_mode() && !sound_wal => {
                return no("its first page is damaged, and in WAL mode it is never free of the program's locks");
            }
            _ => {}
        }
        if facts.wal.as_ref().is_some_and(|wal| wal.state == WalState::Damaged) {
            return no("its WAL is damaged, and what is written behind the damage would be lost at the next crash");
        }
        if facts.journal.as_ref().is_some_and(|journal| journal.state == JournalState::Damaged) {
            return no("a damaged journal would be rolled back into it first");
        }
        if facts.dotfile_lock.is_some() {
            return no("its program uses the dotfile VFS, whose locks ours do not see");
        }
        Ok(())
    }

    fn is_in_wal_mode(&self) -> bool {
        match &self.facts.header {
            Some(HeaderFacts::Good { wal_mode, .. }) => *wal_mode,
            _ => {
                self.memory.journal_mode.as_deref() == Some("wal")
                    || self.facts.shm_file.size() > 0
                    || self.facts.wal_file.size() > 0
            }
        }
    }

    /// The same through SQLite; `None` where the rung is neither of a backup nor of the rows that can be read.
    fn in_place(&self, rung: &Playbook) -> Option<Playbook> {
        let (name, step) = rung.steps.iter().find_map(|spec| match step_of(spec)? {
            DatabaseStep::BuildFromBackup { backup, blake3, .. } => {
                let journal_mode = self.memory.journal_mode.clone();
                Some(("restore_in_place", DatabaseStep::RestoreInPlace { backup, blake3, journal_mode }))
            }
            DatabaseStep::BuildFromSalvage(rows) if rows.of_backup.is_none() => {
                Some((SALVAGE_IN_PLACE, DatabaseStep::SalvageInPlace(rows)))
            }
            _ => None,
        })?;
        let why = format!("{}, through SQLite, under the programs that have it open", rung.why);
        Some(playbook(name, why, &[DatabaseStep::Preserve, step]))
    }

    /// Why a person is asked, and whom it touches; what it costs is in the playbooks.
    fn asking(&self) -> String {
        let own = self.diagnosis.map(|diagnosis| diagnosis.holders.as_slice()).unwrap_or_default();
        let all = own.iter().chain(self.members().iter().flat_map(|one| &one.users.holders));
        let who = match all.collect::<Vec<_>>().as_slice() {
            [] => "it cannot be told whether a program has it open".to_owned(),
            [one] => format!("{} (pid {}) has it open", one.comm, one.pid),
            [one, others @ ..] => format!("{} (pid {}) and {} more have it open", one.comm, one.pid, others.len()),
        };
        format!("{who}, what is left to try may lose rows, and `when_in_use` does not say that it may be done")
    }
}

/// Says what could have kept more.
fn without(rung: Playbook, left_out: &[&str], reason: &str) -> Playbook {
    if left_out.is_empty() {
        return rung;
    }
    Playbook { why: format!("{}; not tried before{}: {reason}", rung.why, only_alone(left_out)), ..rung }
}

fn only_alone(rungs: &[&str]) -> String {
    let named = rungs.iter().map(|rung| format!("`{rung}`")).collect::<Vec<_>>().join(", ");
    if named.is_empty() { named } else { format!(" (only for a file that nobody has open: {named})") }
}

/// What a program is stopped for.
#[derive(Debug, Default)]
pub(super) struct Around {
    /// The incident whose heal is taken back, if it is for that.
    rollback_of: Option<String>,
    /// The other databases of the group, if it is for all of them.
    members: Vec<Member>,
}

impl Around {
    fn of(rung: &Playbook) -> Around {
        let mut around = Around::default();
        for step in rung.steps.iter().filter_map(step_of) {
            let done = match step {
                DatabaseStep::OnMember { member, does } => {
                    if !around.members.contains(&member) {
                        around.members.push(member);
                    }
                    *does
                }
                own => own,
            };
            if let DatabaseStep::RollBack { of, .. } = done {
                around.rollback_of = Some(of);
            }
        }
        around
    }
}

/// The two steps between which `app` does not run.
pub(super) fn stop_and_start(program: &Program, ending: Ending, around: Around) -> [DatabaseStep; 2] {
    let Around { rollback_of, members } = around;
    let ms = |timeout: Duration| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    let app = || program.app.clone();
    [
        DatabaseStep::StopApp {
            app: app(),
            limit_ms: ms(program.stop_timeout),
            ending,
            rollback_of,
            members: members.clone(),
        },
        DatabaseStep::StartApp { app: app(), limit_ms: ms(program.start_timeout), members },
    ]
}

/// A rung of these builds from the WAL, which the last program that ends in order deletes.
pub(super) fn needs_wal(rungs: &[Playbook]) -> bool {
    let builds = |step: &StepSpec| matches!(step_of(step), Some(DatabaseStep::BuildFromWal { .. }));
    rungs.iter().any(|rung| rung.steps.iter().any(builds))
}

/// It puts another file in the place of the database.
pub(super) fn swaps(playbook: &Playbook) -> bool {
    playbook.steps.iter().any(|step| step_of(step) == Some(DatabaseStep::Install))
}

pub(super) fn step_of(spec: &StepSpec) -> Option<DatabaseStep> {
    serde_json::from_value(spec.args.clone()).ok()
}

/// The program is stopped for as short as can be (with `keep_wal`, which says why, under locks on its WAL): what does not need the files
/// as it leaves them is built before. What it writes while it stops is preserved too.
pub(in crate::modes::database) fn with_app_stopped(rung: &Playbook, app: &Program, keep_wal: Option<&str>) -> Playbook {
    let done = |spec: &StepSpec| match step_of(spec) {
        Some(DatabaseStep::OnMember { does, .. }) => Some(*does),
        step => step,
    };
    let ending = if keep_wal.is_some() { Ending::WalKept } else { Ending::InOrder };
    let [stop, start] = stop_and_start(app, ending, Around::of(rung));
    let before = |spec: &&StepSpec| {
        matches!(
            done(spec),
            Some(DatabaseStep::Preserve | DatabaseStep::BuildFromBackup { .. } | DatabaseStep::BuildFromSchema { .. })
        )
    };
    let mut steps = rung.steps.iter().take_while(before).cloned().collect::<Vec<_>>();
    let rest = rung.steps.iter().skip(steps.len()).cloned().collect::<Vec<_>>();
    let keep = rung.steps.iter().filter(|spec| done(spec) == Some(DatabaseStep::Preserve)).cloned().collect::<Vec<_>>();
    steps.push(super::spec(&stop));
    steps.extend(keep);
    steps.extend(rest);
    steps.push(super::spec(&start));
    Playbook {
        name: rung.name.clone(),
        why: match keep_wal {
            None => format!("{}; its program is stopped for it, and started again", rung.why),
            Some(because) => format!(
                "{}; its program is stopped for it under locks on its WAL, {because} (killed, where these cannot be had), and started again",
                rung.why
            ),
        },
        steps,
    }
}
