//! Where a step works: the target's folder, the names in it, the evidence.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::{failed, refused, while_};
use crate::backup::{BackupError, side_name, stat_of};
use crate::host::{Folder, Space};
use crate::job::{DatabaseStep, FileFacts, JobFailure, StepJob};

/// The side files of a database, with the names they have in evidence.
pub(super) const SIDES: [(&str, &str); 3] = [("-wal", "wal"), ("-shm", "shm"), ("-journal", "journal")];

/// What must stay free beside what a step writes, in bytes: the program needs to go on, and so do we.
const FLOOR_BYTES: u64 = 16 << 20;

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
}

impl<'a> Place<'a> {
    pub(super) fn of(job: &'a StepJob) -> Result<Place<'a>, JobFailure> {
        if job.incident.is_empty() || job.incident.contains('/') {
            return Err(failed(format!("{:?} is no incident's name", job.incident)));
        }
        let (folder, name) = Folder::of_entry(&job.site.path).map_err(while_("opening the database's folder"))?;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&job.evidence)
            .map_err(while_("making the evidence folder"))?;
        let evidence = Folder::open(&job.evidence).map_err(while_("opening the evidence folder"))?;
        Ok(Place { job, folder, name, evidence })
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
            DatabaseStep::RollBack { of, .. } => format!("`guardiand rollback {of}` again"),
            _ => "`guardiand heal`".to_owned(),
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

/// Refuses when `folder` has no room for `bytes` more.
pub(super) fn need_space(folder: &Folder, bytes: u64) -> Result<(), JobFailure> {
    let space = Space::at(folder.path()).map_err(while_("asking for free space"))?;
    if space.free_bytes >= bytes.saturating_add(FLOOR_BYTES) {
        return Ok(());
    }
    Err(refused(format!(
        "{} has {} bytes free, and {bytes} and a floor of {FLOOR_BYTES} are needed: free space there, then \
         try again",
        folder.path().display(),
        space.free_bytes
    )))
}
