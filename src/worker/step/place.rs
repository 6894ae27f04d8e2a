//! Where a step works: the target's folder, the names in it, the evidence.

use std::cell::Cell;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::{failed, refused, while_};
use crate::backup::{BackupError, side_name, stat_of};
use crate::host::{self, FileId, Folder, Space, planted_name};
use crate::job::{DatabaseStep, FileFacts, JobFailure, StepJob};
use crate::model::for_shell;

/// The side files of a database, with the names they have in evidence.
pub(super) const SIDES: [(&str, &str); 3] = [("-wal", "wal"), ("-shm", "shm"), ("-journal", "journal")];

/// What must stay free beside what a step writes, in bytes (on a small file system less): the program needs to go on, and so do we.
const FLOOR_BYTES: u64 = 16 << 20;

/// The name, for a moment, of what stands for a folder that is gone.
const NO_FOLDER: &str = "no-folder";

/// Where a step works.
#[derive(Debug)]
pub(super) struct Place<'a> {
    pub job: &'a StepJob,
    /// The target's folder.
    pub folder: Folder,
    /// The main file's name in it.
    pub name: OsString,
    /// The incident's evidence.
    pub evidence: Folder,
    /// The file that is being built, whatever stands under its name.
    made: Cell<Option<FileId>>,
}

impl<'a> Place<'a> {
    pub(super) fn of(job: &'a StepJob) -> Result<Place<'a>, JobFailure> {
        if job.incident.is_empty() || job.incident.contains('/') {
            return Err(failed(format!("{:?} is no incident's name", job.incident)));
        }
        let evidence = Folder::make_all(&job.evidence, 0o700).map_err(while_("making the evidence folder"))?;
        let (folder, name) = match (Folder::of_entry(&job.site.path), job.site.path.file_name()) {
            // What programs hold is kept in evidence: it needs no folder that somebody removed or replaced under them.
            (Err(_), Some(name)) if job.step == DatabaseStep::KeepHeld => (in_its_place(&evidence)?, name.to_owned()),
            (found, _) => found.map_err(while_("opening the database's folder"))?,
        };
        Ok(Place { job, folder, name, evidence, made: Cell::default() })
    }

    /// A name of ours in the target's folder.
    pub(super) fn ours(&self, what: &str) -> OsString {
        OsString::from(format!(".guardiand-{}.{what}", self.job.incident))
    }

    /// The finished candidate's name.
    pub(super) fn candidate(&self) -> OsString {
        self.ours("new")
    }

    /// What a person types once what was in the way is gone.
    pub(super) fn again(&self) -> String {
        match &self.job.step {
            DatabaseStep::RollBack { of, .. } | DatabaseStep::StopApp { rollback_of: Some(of), .. } => {
                format!("`guardiand rollback {of}` again")
            }
            _ => format!("`guardiand heal {}`", for_shell(&self.job.site.name)),
        }
    }

    /// The main file's path.
    pub(super) fn path(&self) -> &Path {
        &self.job.site.path
    }

    /// The path of an entry of the target's folder.
    pub(super) fn path_of(&self, name: &OsStr) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A side file's name.
    pub(super) fn side(&self, suffix: &str) -> OsString {
        side_name(&self.name, suffix)
    }

    /// The facts of an entry of the target's folder; refused when it is there and no regular file.
    pub(super) fn stat(&self, name: &OsStr) -> Result<Option<FileFacts>, JobFailure> {
        stat_of(&self.folder, name).map_err(|error| match error {
            BackupError::Source { path, reason } => {
                refused(format!("{}: {reason}; move it away by hand", path.display()))
            }
            other => other.into(),
        })
    }

    /// Refuses a main file, and side files, that others may have given their names, to lead us to what is not theirs.
    pub(super) fn refuse_planted(&self) -> Result<(), JobFailure> {
        for (suffix, _) in SIDES {
            let side = self.side(suffix);
            if let Ok(facts) = self.folder.stat_in(&side)
                && let Err(error) = self.folder.refuse_planted(&side, &facts)
            {
                return Err(refused(format!("{} is not touched: {error}", self.path().display())));
            }
        }
        let Ok(mut main) = self.folder.stat_in(&self.name) else { return Ok(()) };
        let around = host::FileFacts::of_fd(&self.folder).map_err(while_("looking at the database's folder"))?;
        // An install that was interrupted may have left the second name that it gave it.
        if self.folder.stat_in(self.ours(super::install::OLD_MAIN)).is_ok_and(|old| old.id == main.id) {
            main.nlink = main.nlink.saturating_sub(1);
        }
        match planted_name(&main, &around) {
            Some(why) => Err(refused(format!("{} is not touched: {why}", self.path().display()))),
            None => Ok(()),
        }
    }

    /// Remembers the file that was created for a candidate.
    pub(super) fn made(&self, file: &std::fs::File) -> Result<(), JobFailure> {
        let facts = host::FileFacts::of_fd(file).map_err(while_("looking at the candidate"))?;
        self.made.set(Some(facts.id));
        Ok(())
    }

    /// Refuses another file than the one that was made: who owns the folder can have given its name to one that shall not be
    /// theirs.
    pub(super) fn is_made(&self, file: &std::fs::File) -> Result<(), JobFailure> {
        let facts = host::FileFacts::of_fd(file).map_err(while_("looking at the candidate"))?;
        if self.made.get().is_none_or(|made| made == facts.id && facts.nlink == 1) {
            return Ok(());
        }
        Err(refused(format!("somebody put another file in the place of the candidate for {}", self.path().display())))
    }

    /// Removes an entry of ours if it is there.
    pub(super) fn remove(&self, name: &OsStr) -> Result<(), JobFailure> {
        match self.folder.unlink(name) {
            Err(error) if !error.is_absent() => Err(while_("removing a file of ours")(error)),
            _ => Ok(()),
        }
    }

    /// Makes the entries of the target's folder durable.
    pub(super) fn sync(&self) -> Result<(), JobFailure> {
        self.folder.sync().map_err(while_("making the database's folder durable"))
    }
}

/// An empty folder that has no name any more, for one that is gone: nothing is in it, and nothing can be made in it.
fn in_its_place(evidence: &Folder) -> Result<Folder, JobFailure> {
    // One that a death left there.
    let _ = evidence.remove_folder(NO_FOLDER);
    let folder = evidence.make_folder_in(NO_FOLDER, 0o700).map_err(while_("making a folder for one that is gone"))?;
    evidence.remove_folder(NO_FOLDER).map_err(while_("removing the folder for one that is gone"))?;
    Ok(folder)
}

/// Refuses when `folder` has no room for `bytes` more.
pub(super) fn need_space(folder: &Folder, bytes: u64) -> Result<(), JobFailure> {
    let space = Space::at(folder.path()).map_err(while_("asking for free space"))?;
    let floor = space.floor(FLOOR_BYTES);
    if space.free_bytes >= bytes.saturating_add(floor) {
        return Ok(());
    }
    Err(refused(format!(
        "{} has {} bytes free, and {bytes} and a floor of {floor} are needed: free space there, then \
         try again",
        folder.path().display(),
        space.free_bytes
    )))
}
