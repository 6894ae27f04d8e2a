//! What all the probes of one batch share: read once, by the first that asks (rule 22).

use std::cell::OnceCell;

use crate::host::{LockTable, Mounts, boot_id};

/// The host as it was when the batch began. The next batch has one of its own, so nothing here goes stale.
#[derive(Default)]
pub(super) struct Sweep {
    locks: OnceCell<Option<LockTable>>,
    mounts: OnceCell<Mounts>,
    boot_id: OnceCell<String>,
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

    /// This boot; empty when it cannot be told.
    pub(super) fn boot_id(&self) -> &str {
        self.boot_id.get_or_init(|| boot_id().unwrap_or_default())
    }
}
