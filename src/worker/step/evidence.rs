//! The files as they were, and the paper that says so. A later preservation never touches an earlier one: it gets a folder of
//! its own, `2`, `3`, … inside.

use std::ffi::OsStr;
use std::io::Read as _;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::place::{Place, SIDES};
use super::{failed, while_};
use crate::host::{Folder, OUR_PREFIX, Ownership, sweep_out};
use crate::job::{FileFacts, JobFailure};

/// The paper's name. Written last, atomically: what is there without it is not complete, and counts for nothing.
pub(super) const MANIFEST: &str = "manifest.json";

/// More preservations than this of one incident mean that something turns in circles.
const GENERATIONS: u32 = 100;

/// What was preserved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Evidence {
    /// The shape's version.
    pub version: u32,
    pub incident: String,
    /// The database's path.
    pub path: PathBuf,
    pub preserved_at: Timestamp,
    pub files: Vec<Preserved>,
    /// What could not be done as it should, in words: who reads this must know.
    #[serde(default)]
    pub remarks: Vec<String>,
    /// For people: how to put it back by hand.
    pub put_back: String,
}

/// One file as it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Preserved {
    /// Its name in the evidence folder: `main`, `wal`, `shm`, `journal`.
    pub name: String,
    pub original: PathBuf,
    /// What `stat` said of the original.
    pub facts: FileFacts,
    pub size: u64,
    pub blake3: String,
    /// Owner, mode and extended attributes.
    pub ownership: Ownership,
}

impl Evidence {
    pub(super) fn file(&self, name: &str) -> Option<&Preserved> {
        self.files.iter().find(|file| file.name == name)
    }
}

/// A complete preservation.
#[derive(Debug)]
pub(super) struct Kept {
    /// Which one, from 1.
    pub generation: u32,
    pub folder: Folder,
    pub evidence: Evidence,
}

/// Every complete preservation in an incident's evidence folder, oldest first.
pub(super) fn all(evidence: &Folder) -> Result<Vec<Kept>, JobFailure> {
    let mut all = Vec::new();
    for generation in 1..=GENERATIONS {
        let folder = match open(evidence, generation) {
            Ok(folder) => folder,
            Err(error) if error.is_absent() => break,
            Err(error) => return Err(while_("opening the evidence folder")(error)),
        };
        if let Some(evidence) = read(&folder)? {
            all.push(Kept { generation, folder, evidence });
        }
    }
    Ok(all)
}

/// The last complete preservation.
pub(super) fn latest(place: &Place<'_>) -> Result<Option<Kept>, JobFailure> {
    Ok(all(&place.evidence)?.pop())
}

/// One certain preservation.
pub(super) fn one(evidence: &Folder, generation: u32) -> Result<Kept, JobFailure> {
    let folder = open(evidence, generation).map_err(while_("opening the evidence folder"))?;
    match read(&folder)? {
        Some(evidence) => Ok(Kept { generation, folder, evidence }),
        None => Err(failed(format!("evidence in {} is gone: there is nothing to put back", folder.path().display()))),
    }
}

/// An empty folder for the next preservation. Copies of one that was never completed are removed: the step before any change
/// was not over, so the originals are all there.
pub(super) fn next(place: &Place<'_>) -> Result<Folder, JobFailure> {
    for generation in 1..=GENERATIONS {
        let folder = match open(&place.evidence, generation) {
            Ok(folder) => folder,
            Err(error) if error.is_absent() => {
                let made = place.evidence.make_folder_in(generation.to_string(), 0o700);
                let folder = made.map_err(while_("making an evidence folder"))?;
                place.evidence.sync().map_err(while_("making the evidence folder durable"))?;
                return Ok(folder);
            }
            Err(error) => return Err(while_("opening the evidence folder")(error)),
        };
        if read(&folder)?.is_none() {
            for name in ["main"].into_iter().chain(SIDES.map(|(_, name)| name)) {
                match folder.unlink(name) {
                    Err(error) if !error.is_absent() => return Err(while_("removing an unfinished copy")(error)),
                    _ => {}
                }
            }
            return Ok(folder);
        }
    }
    Err(failed(format!(
        "{GENERATIONS} preservations of one incident: something turns in circles; look at {}",
        place.evidence.path().display()
    )))
}

fn open(evidence: &Folder, generation: u32) -> Result<Folder, crate::host::HostError> {
    match generation {
        1 => Folder::open(evidence.path()),
        later => evidence.open_folder_in(later.to_string()),
    }
}

fn read(folder: &Folder) -> Result<Option<Evidence>, JobFailure> {
    read_json(folder, MANIFEST)
}

/// Reads a small JSON file of ours; `None` when it is not there.
pub(super) fn read_json<T: serde::de::DeserializeOwned>(folder: &Folder, name: &str) -> Result<Option<T>, JobFailure> {
    let file = match folder.open_in(name) {
        Ok(file) => file,
        Err(error) if error.is_absent() => return Ok(None),
        Err(error) => return Err(while_("opening a paper in evidence")(error)),
    };
    let mut text = String::new();
    file.take(16 << 20).read_to_string(&mut text).map_err(while_("reading a paper in evidence"))?;
    let path = folder.path().join(name);
    serde_json::from_str(&text).map(Some).map_err(while_(format!("reading {}", path.display())))
}

/// Writes a small JSON file of ours, durably.
pub(super) fn write_json<T: Serialize>(folder: &Folder, name: &str, value: &T) -> Result<(), JobFailure> {
    // What a killed process was about to name is nobody's: it would lie here for as long as the evidence does.
    sweep_out(folder.path(), OUR_PREFIX);
    let text = serde_json::to_vec_pretty(value).map_err(while_("encoding a paper for evidence"))?;
    folder.write_atomically(name, &text, 0o600).map_err(while_("writing a paper into evidence"))
}

/// The originals with the names they have in evidence.
pub(super) fn originals(place: &Place<'_>) -> Vec<(std::ffi::OsString, &'static str)> {
    let sides = SIDES.into_iter().map(|(suffix, name)| (place.side(suffix), name));
    std::iter::once((place.name.clone(), "main")).chain(sides).collect()
}

/// True when two looks at a file saw the same inode with the same content. A change of its names or mode does not count.
pub(super) fn same_content(a: &FileFacts, b: &FileFacts) -> bool {
    (a.dev, a.ino, a.size, a.mtime_ns) == (b.dev, b.ino, b.size, b.mtime_ns)
}

/// Puts a file of evidence at `to` in the target's folder, with its owner and mode, durable but for the folder. What could
/// not be set comes back in words.
pub(super) fn copy_out(
    place: &Place<'_>,
    folder: &Folder,
    preserved: &Preserved,
    to: &OsStr,
) -> Result<Vec<String>, JobFailure> {
    let source = folder.open_in(&preserved.name).map_err(while_("opening a file in evidence"))?;
    place.remove(to)?;
    let target = place.folder.create_in(to, 0o600).map_err(while_("creating a file to put back"))?;
    let mut remarks = preserved.ownership.prepare(&target);
    crate::host::copy_file(&source, &target).map_err(while_("copying out of evidence"))?;
    // Of the copy: a disk that reads differently the second time is found out too.
    if let Err(unsound) = verify(&target, preserved, folder) {
        place.remove(to)?;
        return Err(unsound);
    }
    remarks.extend(preserved.ownership.apply(&target));
    // copy_file has synced the bytes; owner and mode came after.
    target.sync_all().map_err(while_("making a file put back durable"))?;
    Ok(remarks)
}

/// Refuses bytes that are not those which the manifest names.
pub(super) fn verify(file: &std::fs::File, preserved: &Preserved, folder: &Folder) -> Result<(), JobFailure> {
    let found = crate::backup::hash(file).map_err(while_("reading a file in evidence"))?;
    if found == preserved.blake3 {
        return Ok(());
    }
    Err(failed(format!(
        "{} in evidence is not what was preserved (BLAKE3 {found}, the manifest says {}): it is not put back",
        folder.path().join(&preserved.name).display(),
        preserved.blake3
    )))
}
