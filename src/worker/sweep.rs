//! What all the probes of one batch share: read once, by the first that asks (rule 22).

use std::cell::{OnceCell, RefCell};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::host::{FileFacts, LockTable, Mounts, boot_id};
use crate::job::Place;

/// The host as it was when the batch began. The next batch has one of its own, so nothing here goes stale.
#[derive(Default)]
pub(super) struct Sweep {
    locks: OnceCell<Option<LockTable>>,
    mounts: OnceCell<Mounts>,
    ground: RefCell<Option<Ground>>,
}

/// The file system that the last look was at: the next is most often in the same folder.
struct Ground {
    folder: PathBuf,
    mount: Option<u64>,
    place: Place,
}

impl Sweep {
    /// Every lock of the host; `None` when that cannot be read, and then nothing counts as unlocked.
    pub(super) fn locks(&self) -> Option<&LockTable> {
        self.locks.get_or_init(|| LockTable::read().ok()).as_ref()
    }

    /// Every mount; none when they cannot be read.
    pub(super) fn mounts(&self) -> &Mounts {
        self.mounts.get_or_init(|| Mounts::read().unwrap_or_default())
    }

    /// This boot; empty when it cannot be told. No process outlives it, so this one asks once.
    pub(super) fn boot_id(&self) -> &str {
        static BOOT_ID: OnceLock<String> = OnceLock::new();
        BOOT_ID.get_or_init(|| boot_id().unwrap_or_default())
    }

    /// What `ask` says of the file system under `folder` and the file (or folder) `facts` in it, asked once for neighbours.
    pub(super) fn ground(&self, folder: &Path, facts: &FileFacts, ask: impl FnOnce() -> Place) -> Place {
        let mut ground = self.ground.borrow_mut();
        if let Some(known) = ground.as_ref()
            && known.mount.is_some()
            && known.mount == facts.mount_id
            && known.folder == folder
        {
            return known.place.clone();
        }
        let place = ask();
        *ground = Some(Ground { folder: folder.to_owned(), mount: facts.mount_id, place: place.clone() });
        place
    }
}
