//! Reclaiming the unlinked file: what a program holds open under no name is copied, kept, and put back when it has ended.

use super::in_use::{Around, stop_and_start};
use super::{Site, spec};
use crate::job::{DatabaseStep, Ending, FileState, HeaderFacts};
use crate::model::{Plan, Playbook, Risk, StepOutcome, StepRecord, StepSpec, for_shell};
use crate::modes::database::config::WhenInUse;
use crate::modes::database::elsewhere::{self, move_away};

impl Site<'_> {
    /// The playbook, while somebody holds such files or a copy of them is kept. `taken` are the steps of this incident so far.
    ///
    /// # Errors
    /// Why nothing is put back, with the next command for a person.
    pub(super) fn reclaim(&self, taken: &[StepRecord]) -> Result<Option<Plan>, String> {
        let (cut_off, held) = (self.facts.cut_off.as_ref(), self.facts.held.as_ref());
        if cut_off.is_none() && held.is_none() {
            return Ok(None);
        }
        if let Some(reason) = &self.facts.place.observe_only {
            return Err(format!("nothing is healed here: {reason}"));
        }
        if self.memory.is_elsewhere(&self.facts.place) {
            let todo = elsewhere::what_to_do(&self.config.name, &self.config.path);
            return Err(format!(
                "{} was on another file system, and what its program holds is not put back here: {todo}",
                self.path()
            ));
        }
        if let Some(no_folder) = self.has_no_folder() {
            return Err(no_folder);
        }
        let contested = cut_off.is_some_and(crate::job::CutOff::is_contested);
        if let Some((held, why)) = held.and_then(|held| Some((held, held.contested.as_ref()?)))
            && !contested
            && cut_off.is_none()
        {
            return Err(format!(
                "{why}, so what {} had is not put in its place by itself: it is in {folder}, and `put_back` in its manifest says how to use \
                 it. To keep what is at {path}, run {move_away}, then `guardiand heal {name}`",
                held.by,
                folder = held.folder.display(),
                move_away = move_away(held.folder.display()),
                path = self.path(),
                name = for_shell(&self.config.name)
            ));
        }
        if let Some(in_the_way) = self.is_in_the_way() {
            return Err(in_the_way);
        }
        let app = self.config.app.as_ref().filter(|_| self.config.when_in_use != Some(WhenInUse::Refuse));
        if let Some(waits) = self.waits_for_its_holders(app.is_some(), taken) {
            return Err(waits);
        }
        let mut steps = vec![spec(&DatabaseStep::Preserve), spec(&DatabaseStep::KeepHeld)];
        if contested {
            let why = "programs work on different files of one name: the bytes of all are kept, and none is replaced";
            return Ok(Some(Plan::of(vec![reclaiming(why, steps)])));
        }
        let around = app.map(|app| stop_and_start(app, Ending::InOrder, Around::default()));
        if let Some([stop, _]) = &around {
            // What it writes at the path while it stops is preserved too.
            steps.extend([spec(stop), spec(&DatabaseStep::Preserve)]);
        }
        // The same bytes at the same path again lose nothing, if they are all of them.
        let risk =
            if cut_off.is_some() || held.is_some_and(|held| held.complete) { Risk::Lossless } else { Risk::Lossy };
        steps.push(spec(&DatabaseStep::BuildFromHeld));
        steps.push(StepSpec { risk, ..spec(&DatabaseStep::Install) });
        steps.extend(around.iter().map(|[_, start]| spec(start)));
        let why = match (cut_off.is_some(), app) {
            (true, Some(_)) => {
                "its program is stopped, and what it holds open under no name is put back; nothing is lost"
            }
            (true, None) => "what its program holds open under no name is copied now, and put back when it has ended",
            (false, _) => "what its program held open under no name is put back from the copy of it",
        };
        Ok(Some(Plan { playbooks: vec![reclaiming(why, steps)], approval: self.replaces_a_stranger() }))
    }

    /// There is no folder to put anything back into. What programs hold is kept all the same (`KeepHeld` needs none); none of them is
    /// stopped, for it could not be started again.
    fn has_no_folder(&self) -> Option<String> {
        let folder = self.config.path.parent().filter(|_| !self.facts.place.folder_exists)?;
        let (path, name) = (self.path(), for_shell(&self.config.name));
        let (folder, quoted) = (folder.display(), for_shell(folder.display()));
        let who = self.where_it_is()?;
        if !matches!(self.facts.main, FileState::Missing) {
            return Some(format!(
                "what stands at {folder} is no folder, so nothing can be put back into it; {who}. Move it away ({}) \
                 and make the folder again (`mkdir -p {quoted}`, with the owner and mode that it had): guardiand goes \
                 on then; if it does not, `guardiand heal {name}`",
                move_away(&folder)
            ));
        }
        Some(format!(
            "the folder of {path} is gone, so nothing can be put back into it; {who}. Make it again (`mkdir -p {quoted}`, with the owner and \
             mode that it had), or mount its file system if it is that which is gone: guardiand goes on then; if it does not, \
             `guardiand heal {name}`"
        ))
    }

    /// Something that is no regular file has one of the database's names: it is a person's to move, and never followed or opened. What
    /// programs hold is kept meanwhile, as where the folder is gone; none of them is stopped, for it could not be started again.
    fn is_in_the_way(&self) -> Option<String> {
        let files = [
            (&self.facts.main, ""),
            (&self.facts.wal_file, "-wal"),
            (&self.facts.shm_file, "-shm"),
            (&self.facts.journal_file, "-journal"),
        ];
        let (what, suffix) = files.into_iter().find_map(|(state, suffix)| match state {
            FileState::Symlink { target } => Some((format!("a symbolic link to {}", target.display()), suffix)),
            FileState::Other { what } => Some((what.clone(), suffix)),
            FileState::Missing | FileState::File(_) | FileState::Unreadable { .. } => None,
        })?;
        let (at, who) = (format!("{}{suffix}", self.path()), self.where_it_is()?);
        Some(format!(
            "{at} is {what}, so nothing can be put back there; {who}. Move it away ({}): guardiand goes on then, and \
             puts back what its program had once that has ended; if it does not, `guardiand heal {name}`",
            move_away(&at),
            name = for_shell(&self.config.name)
        ))
    }

    /// Where what was committed is, while nothing can be put back. The same words before there is a copy and after: a person is called
    /// once.
    fn where_it_is(&self) -> Option<String> {
        if let Some(cut_off) = &self.facts.cut_off {
            return Some(format!(
                "{cut_off} still has the old file of {} open, and what it commits is copied into `held-N` in this incident's evidence (if \
                 that fails, guardiand's log says why)",
                self.path()
            ));
        }
        self.facts.held.as_ref().map(|held| format!("what {} had is in {}", held.by, held.folder.display()))
    }

    /// Why there is nothing to do but wait, once a keeper has what the programs have: to preserve once more what they go on
    /// writing to would fill the disk with generations of it.
    fn waits_for_its_holders(&self, stoppable: bool, taken: &[StepRecord]) -> Option<String> {
        let cut_off = self.facts.cut_off.as_ref()?;
        let held = self.facts.held.as_ref().filter(|held| held.kept)?;
        let refused = taken.iter().rev().find(|record| record.outcome == StepOutcome::Failed);
        let refused_by = |step: DatabaseStep| refused.filter(|record| record.step == step.name());
        if cut_off.is_contested() {
            // Both sides' rows are in it.
            return refused_by(DatabaseStep::KeepHeld).map(|record| record.detail.clone());
        }
        let in_vain = refused_by(DatabaseStep::BuildFromHeld).is_some();
        let asks = self.replaces_a_stranger().is_some();
        let evidence = held.folder.parent().unwrap_or(&held.folder);
        (in_vain || !stoppable && !asks).then(|| cut_off.waits_for_its_end(&self.config.path, evidence))
    }

    /// Why a person must say first that what is at the path goes: it is not an older copy of what the program has.
    fn replaces_a_stranger(&self) -> Option<String> {
        let main = self.facts.main.file().filter(|main| main.size > 0)?;
        let known = self.memory.last_healthy.as_ref();
        // The program's own file: a side file is what is gone.
        if known.is_some_and(|known| known.main.ino == main.ino) {
            return None;
        }
        let older = match (&self.facts.header, known) {
            (Some(HeaderFacts::Good { change_counter, schema_cookie, .. }), Some(known)) => {
                *change_counter <= known.change_counter && *schema_cookie <= known.schema_cookie
            }
            _ => false,
        };
        let path = self.path();
        (!older).then(|| {
            format!(
                "{path} was replaced by a file that is no older copy of it, under a program that goes on with the former one. To put the \
                 program's own file back, and keep the new one in evidence"
            )
        })
    }
}

fn reclaiming(why: &str, steps: Vec<StepSpec>) -> Playbook {
    Playbook { name: "reclaim".to_owned(), why: why.to_owned(), steps }
}
