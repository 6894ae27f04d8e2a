//! Whether programs go on with files that are not at the path any more: asked only where something hints at it, for it is a pass
//! over all processes.

use std::path::Path;
use std::time::{Duration, Instant};

use super::files::{Files, Looked};
use crate::job::{CutOff, Fingerprint};
use crate::worker::step::held::Sight;
use crate::worker::sweep::Sweep;

/// Time between two looks.
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);
/// A program that itself puts a new file in the place of its old one closes that within this time.
const SETTLES_WITHIN: Duration = Duration::from_millis(500);

/// Files that are not those of the last healthy look, or a program in WAL mode without a file that it must have.
pub(super) fn is_possible(files: &Files, last: Option<&Fingerprint>, wal_mode: bool, sweep: &Sweep) -> bool {
    let Some(main) = files.main.state.file() else { return true };
    // A device's number may change with the boot; an inode's does not.
    if last.is_none_or(|last| last.main.ino != main.ino) {
        return true;
    }
    let ino = |looked: &Looked| looked.state.file().map(|file| file.ino);
    let as_before = ino(&files.wal) == last.and_then(|last| last.wal.map(|wal| wal.ino)) && ino(&files.shm).is_some();
    wal_mode && !as_before && has_any_lock(&files.main, sweep)
}

/// In WAL mode every connection holds SHARED on the main file from its first look on.
fn has_any_lock(main: &Looked, sweep: &Sweep) -> bool {
    let (Some(facts), Some(table)) = (&main.host, sweep.locks()) else { return true };
    !table.of(sweep.mounts().lock_device(facts, &main.path), facts.id.ino).is_empty()
}

/// Seen twice: a file is open and without a name for a moment whenever a program closes it in the middle of its deletion.
/// `patient`: what might be done about it follows from this look.
pub(super) fn look(path: &Path, last: Option<&Fingerprint>, patient: bool) -> Option<CutOff> {
    let until = Instant::now() + if patient { SETTLES_WITHIN } else { Duration::ZERO };
    loop {
        Sight::of(path, last).ok()?.cut_off?;
        std::thread::sleep(BETWEEN_LOOKS);
        let seen = Sight::of(path, last).ok()?.cut_off;
        if seen.is_none() || Instant::now() >= until {
            return seen;
        }
    }
}
