//! The harm, and what it may cost.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;

use super::story::Situation;
use crate::support::damage::Dice;
use crate::support::truth::beside;

/// What happens to the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The main file is unlinked.
    Delete,
    /// An older copy is renamed over it, as people restore.
    RenameOver,
    /// The WAL and its index are unlinked, under a program that has them open.
    DeleteWal,
    /// The file is cut.
    Truncate,
    /// Random bytes over random pages.
    Pages,
    /// Some bits turn.
    Bits,
    /// Random bytes over the header.
    Header,
    /// Bits turn in the WAL, behind its header.
    WalFrame,
    /// Random bytes over the WAL's header.
    WalHeader,
    /// Bits turn in a journal.
    Journal,
    /// Nobody may read it.
    Chmod,
    /// The program is stopped for a while, whatever it holds.
    Stop,
    /// Somebody holds the file locked for a while.
    Lock,
    /// The program dies by SIGKILL.
    KillProgram,
    /// guardiand dies by SIGKILL, and starts again.
    KillGuardian,
    /// guardiand is stopped in order, and starts again.
    RestartGuardian,
    /// Every worker of guardiand dies by SIGKILL.
    KillWorkers,
    /// The database's file system has no room for a while.
    FullDisk,
}

impl Fault {
    pub fn roll(dice: &mut Dice, mode: &str, situation: Situation) -> Fault {
        let mut of = vec![
            Fault::Delete,
            Fault::RenameOver,
            Fault::Truncate,
            Fault::Pages,
            Fault::Bits,
            Fault::Header,
            Fault::Chmod,
            Fault::Lock,
            Fault::KillGuardian,
            Fault::RestartGuardian,
            Fault::KillWorkers,
        ];
        if mode == "wal" {
            of.extend([Fault::WalFrame, Fault::WalHeader]);
        } else {
            of.push(Fault::Journal);
        }
        if situation == Situation::Live {
            of.extend([Fault::Stop, Fault::KillProgram, Fault::KillProgram]);
            if mode == "wal" {
                of.push(Fault::DeleteWal);
            }
        }
        super::story::pick(dice, &of)
    }

    /// Whatever it meets, no acknowledged commit may be missing afterwards: no byte of one was touched.
    pub fn is_harmless(self) -> bool {
        self.is_guardians_own()
            || matches!(self, Fault::Chmod | Fault::Stop | Fault::Lock | Fault::KillProgram | Fault::FullDisk)
    }

    /// It happens to guardiand alone.
    pub fn is_guardians_own(self) -> bool {
        matches!(self, Fault::KillGuardian | Fault::RestartGuardian | Fault::KillWorkers)
    }

    /// It hurts what SQLite drops, without a word, when it opens the database.
    pub fn is_of_a_side_file(self) -> bool {
        matches!(self, Fault::WalFrame | Fault::WalHeader | Fault::Journal)
    }

    /// It takes files from their places, and not a byte from them.
    pub fn cuts_off(self) -> bool {
        matches!(self, Fault::Delete | Fault::RenameOver | Fault::DeleteWal)
    }

    /// Does it to the files, where it is one of those that are done to files. `older` is a copy of the main file.
    pub fn harm(self, db: &Path, older: &Path, dice: &mut Dice) {
        match self {
            Fault::Delete => drop(fs::remove_file(db)),
            Fault::RenameOver => drop(fs::rename(older, db)),
            Fault::DeleteWal => {
                for side in ["-wal", "-shm"] {
                    let _ = fs::remove_file(beside(db, side));
                }
            }
            Fault::Truncate => {
                let size = size(db);
                if let (Ok(file), 1..) = (File::options().write(true).open(db), size) {
                    file.set_len(dice.roll() % size).unwrap();
                }
            }
            Fault::Pages => {
                for _ in 0..1 + dice.below(5) {
                    let (at, bytes) = (place(db, 4096, dice), dice.bytes(512));
                    overwrite(db, at, &bytes);
                }
            }
            Fault::Bits => flip(db, 0, dice),
            Fault::Header => overwrite(db, 0, &dice.bytes(100)),
            Fault::WalFrame => flip(&beside(db, "-wal"), 32, dice),
            Fault::WalHeader => {
                if size(&beside(db, "-wal")) > 32 {
                    overwrite(&beside(db, "-wal"), 0, &dice.bytes(32));
                }
            }
            Fault::Journal => flip(&beside(db, "-journal"), 0, dice),
            Fault::Chmod => drop(fs::set_permissions(db, Permissions::from_mode(0o0))),
            Fault::Stop
            | Fault::Lock
            | Fault::KillProgram
            | Fault::KillGuardian
            | Fault::RestartGuardian
            | Fault::KillWorkers
            | Fault::FullDisk => {}
        }
    }
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |facts| facts.len())
}

fn place(path: &Path, step: u64, dice: &mut Dice) -> u64 {
    let places = (size(path) / step).max(1);
    dice.roll() % places * step
}

/// Never makes a file that is not there, nor a longer one.
fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    let room = size(path).saturating_sub(at).min(bytes.len() as u64) as usize;
    if let Ok(file) = File::options().write(true).open(path) {
        file.write_all_at(&bytes[..room], at).unwrap();
    }
}

fn flip(path: &Path, from: u64, dice: &mut Dice) {
    let size = size(path);
    let Ok(file) = File::options().read(true).write(true).open(path) else { return };
    for _ in 0..1 + dice.below(4) {
        if size <= from {
            return;
        }
        let at = from + dice.roll() % (size - from);
        let mut byte = [0];
        if file.read_exact_at(&mut byte, at).is_ok() {
            byte[0] ^= 1 << dice.below(8);
            file.write_all_at(&byte, at).unwrap();
        }
    }
}
