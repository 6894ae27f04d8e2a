//! A state of a database whose every page is known, and what proves that nothing was committed since.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{BackupManifest, DatabaseFacts, FileFacts, Fingerprint, HeaderFacts, TableRows, WalPosition, WalState};

/// The name of a page map in the folder of a target's backups.
pub const PAGE_MAP: &str = "last-sound.pages";

/// The files at a moment at which all pages were known to be sound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownState {
    /// The files. Nobody wrote to them between this look at them and the end of the pass over the pages.
    pub print: Fingerprint,
    /// Where the WAL ended, if there was one with anything in it.
    #[serde(default)]
    pub wal: Option<WalPosition>,
    /// The wall clock, not after the pass over the pages began.
    pub at: Timestamp,
}

/// What the files say now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    /// The main file.
    pub main: FileFacts,
    /// The WAL, where it has any byte.
    pub wal: Option<FileFacts>,
    /// The header's change counter, and whether it says WAL; `None` where it is no header.
    pub head: Option<(u32, bool)>,
    /// Where the WAL ends; `None` where there is nothing in it, or it is not sound.
    pub position: Option<WalPosition>,
}

/// What proves that nothing was committed since a known state: so whatever differs from it is damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unwritten {
    /// Nobody wrote the file: its time stamp is what it was, and there was no WAL and is none, or it ends where it did.
    Untouched,
    /// The change counter is what it was. In rollback mode each transaction moves it on, and the first of each time that a program
    /// locks the file for its life (`pager_incr_changecounter` in `pager.c`); who was there when the state became known had no such lock.
    NoCommit {
        /// The counter.
        change_counter: u32,
    },
    /// The WAL is of the same generation and ends at the same commit. Each transaction in WAL mode adds frames, and what begins the file
    /// anew gives it other salts.
    SameWal,
}

impl KnownState {
    /// The state that a backup has, where its source stood still while it was taken.
    pub fn of_backup(manifest: &BackupManifest) -> Option<KnownState> {
        let print = manifest.source_fingerprint.clone()?;
        Some(KnownState { print, wal: manifest.wal, at: manifest.taken_at })
    }

    /// What proves that nothing was committed between then and `now`.
    ///
    /// # Errors
    /// Why it is not proven, in words.
    pub fn unwritten(&self, now: &Present) -> Result<Unwritten, &'static str> {
        let then = &self.print;
        // Another file may have come to the same counter on another way.
        if then.main.ino != now.main.ino {
            return Err("another file has taken its place since");
        }
        let wal = then.wal.filter(|wal| wal.size > 0);
        let same_wal = self.wal.is_some_and(|known| known.frame > 0 && now.position == Some(known))
            && wal.zip(now.wal).is_some_and(|(then, now)| then.ino == now.ino);
        let no_wal = wal.is_none() && now.wal.is_none();
        let is_settled = then.main.is_settled_at(self.at);
        if now.main.is_unwritten_since(&then.main) && is_settled && (no_wal || same_wal) {
            return Ok(Unwritten::Untouched);
        }
        match now.head {
            Some((_, true)) | None if then.wal_mode && same_wal => Ok(Unwritten::SameWal),
            Some((change_counter, false)) if !then.wal_mode && no_wal => match change_counter == then.change_counter {
                true => Ok(Unwritten::NoCommit { change_counter }),
                false => Err("a program has committed since"),
            },
            Some((_, true)) if then.wal_mode => Err("nothing tells whether a program has committed since"),
            Some(_) => Err("its journal mode is another since"),
            None => Err("its header does not tell whether a program has committed since"),
        }
    }
}

impl Present {
    /// As a look at the database saw them; `None` where there is no file to speak of, or it was not looked at.
    pub fn of(facts: &DatabaseFacts) -> Option<Present> {
        let main = *facts.main.file()?;
        let head = match facts.header.as_ref()? {
            HeaderFacts::Good { change_counter, wal_mode, .. } => Some((*change_counter, *wal_mode)),
            HeaderFacts::Bad { .. } | HeaderFacts::Empty => None,
        };
        let sound = facts.wal.as_ref()?;
        let mark = sound.mark.filter(|mark| sound.state == WalState::Sound && mark.last_commit > 0);
        Some(Present {
            main,
            wal: facts.wal_file.file().copied().filter(|wal| wal.size > 0),
            head,
            position: mark.map(|mark| WalPosition { salt: mark.salt, frame: mark.last_commit }),
        })
    }
}

/// Where what was on the pages is to be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PagesOf {
    /// A backup has them.
    Backup {
        /// Its database file.
        file: PathBuf,
        /// Its manifest's BLAKE3.
        blake3: String,
        /// Its rows.
        tables: Vec<TableRows>,
    },
    /// A map has their hashes, and one of the backups may have the pages.
    Map {
        /// The map.
        file: PathBuf,
    },
}

/// Pages that are known, and of when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownPages {
    /// Where.
    pub pages: PagesOf,
    /// When.
    pub then: KnownState,
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAL: WalPosition = WalPosition { salt: [7, 9], frame: 12 };

    fn file(ino: u64, size: u64, mtime_ns: i64) -> FileFacts {
        FileFacts { dev: 1, ino, size, mtime_ns, ctime_ns: 0, uid: 0, gid: 0, mode: 0o600, nlink: 1 }
    }

    /// A database as it was then, and as it is now with nothing changed. It was written ten seconds before that.
    fn standing_still(wal_mode: bool, has_wal: bool) -> (KnownState, Present) {
        let (main, wal) = (file(3, 40_960, 5_000_000_000), has_wal.then(|| file(4, 4152, 6_000_000_000)));
        let print = Fingerprint {
            main,
            wal,
            journal: None,
            change_counter: 21,
            schema_cookie: 2,
            wal_mode,
            copied: None,
            locked: false,
        };
        let position = has_wal.then_some(WAL);
        let at = Timestamp::from_nanosecond(15_000_000_000).unwrap();
        (KnownState { print, wal: position, at }, Present { main, wal, head: Some((21, wal_mode)), position })
    }

    #[test]
    fn a_file_that_nobody_wrote_has_what_it_had() {
        for (wal_mode, has_wal) in [(false, false), (true, false), (true, true)] {
            let (then, now) = standing_still(wal_mode, has_wal);
            assert_eq!(then.unwritten(&now), Ok(Unwritten::Untouched));
            // Whatever has become of its first page.
            assert_eq!(then.unwritten(&Present { head: None, ..now }), Ok(Unwritten::Untouched));
        }
    }

    /// The file was written: each of these alone was enough to say so, and another proof is needed.
    #[test]
    fn a_file_that_may_have_been_written_needs_another_proof() {
        let breaks: [fn(&mut KnownState, &mut Present); 4] = [
            |_, now| now.main.mtime_ns += 1,
            |_, now| now.main.size += 4096,
            // Within a tick of the clock a further write does not show.
            |then, _| then.at = Timestamp::from_nanosecond(6_999_999_999).unwrap(),
            |then, _| then.print.main.mtime_ns -= 1,
        ];
        for (at, broken) in breaks.into_iter().enumerate() {
            let (mut then, mut now) = standing_still(false, false);
            broken(&mut then, &mut now);
            assert_eq!(then.unwritten(&now), Ok(Unwritten::NoCommit { change_counter: 21 }), "{at}");
            let (mut then, mut now) = standing_still(true, true);
            broken(&mut then, &mut now);
            assert_eq!(then.unwritten(&now), Ok(Unwritten::SameWal), "{at}");
            // In WAL mode a commit need not touch page 1, and a WAL that came and went leaves nothing.
            let (mut then, mut now) = standing_still(true, false);
            broken(&mut then, &mut now);
            assert!(then.unwritten(&now).is_err(), "{at}");
        }
    }

    #[test]
    fn each_trace_of_a_commit_in_rollback_mode_refutes_it() {
        let breaks: [fn(&mut KnownState, &mut Present); 8] = [
            |_, now| now.head = Some((22, false)),
            |_, now| now.head = Some((20, false)),
            |_, now| now.head = Some((21, true)),
            |_, now| now.head = None,
            |_, now| now.main.ino = 99,
            |_, now| now.wal = Some(file(4, 32, 0)),
            |then, _| then.print.wal = Some(file(4, 32, 0)),
            |then, _| then.print.wal_mode = true,
        ];
        for (at, broken) in breaks.into_iter().enumerate() {
            let (mut then, mut now) = standing_still(false, false);
            now.main.mtime_ns += 1;
            broken(&mut then, &mut now);
            assert!(then.unwritten(&now).is_err(), "{at}");
        }
    }

    #[test]
    fn each_trace_of_a_commit_in_a_wal_refutes_it() {
        let breaks: [fn(&mut KnownState, &mut Present); 9] = [
            |_, now| now.position = Some(WalPosition { frame: 13, ..WAL }),
            |_, now| now.position = Some(WalPosition { frame: 11, ..WAL }),
            |_, now| now.position = Some(WalPosition { salt: [8, 9], ..WAL }),
            |_, now| now.position = None,
            |_, now| (now.position, now.wal) = (None, None),
            |_, now| now.wal = Some(file(5, 4152, 6_000_000_000)),
            |_, now| now.main.ino = 99,
            |then, _| then.wal = None,
            // Nothing was in it then, so that it may have been begun anew any number of times, and emptied.
            |then, now| {
                then.wal = Some(WalPosition { frame: 0, ..WAL });
                now.position = then.wal;
            },
        ];
        for (at, broken) in breaks.into_iter().enumerate() {
            let (mut then, mut now) = standing_still(true, true);
            now.main.mtime_ns += 1;
            broken(&mut then, &mut now);
            assert!(then.unwritten(&now).is_err(), "{at}");
        }
        // An untouched main file proves nothing of a WAL that went on.
        let (then, now) = standing_still(true, true);
        let on = WalPosition { frame: 13, ..WAL };
        assert!(then.unwritten(&Present { position: Some(on), ..now.clone() }).is_err());
        assert!(then.unwritten(&Present { position: None, wal: None, ..now }).is_err());
    }
}
