//! Names and manifests: `<UTC time>.db` with `<UTC time>.db.json` beside it.
//!
//! The manifest is written first, the database renamed in last: its appearing is the moment at which a backup exists.
//! Deleting goes the other way round. So a crash leaves at worst a manifest without a file, which counts for nothing and
//! goes with the next cleaning.

use std::ffi::OsStr;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::BackupError;
use crate::host::{FileKind, Folder, HostError, is_ours};
use crate::job::{BackupEntry, BackupManifest};

/// The shape's version that this program writes.
pub const VERSION: u32 = 1;

/// A manifest longer than this was not written by us.
const MANIFEST_MAX_BYTES: u64 = 64 << 20;

/// The backups of one folder.
#[derive(Debug, Default)]
pub struct Listing {
    /// Newest first.
    pub entries: Vec<BackupEntry>,
    /// Those whose file was found changed since, as their manifests say: newest first.
    pub damaged: Vec<BackupEntry>,
    /// What looks like a backup and cannot be used, and why.
    pub skipped: Vec<String>,
}

/// The database's file name for a backup of this moment: sorts by time, safe on any file system.
pub fn file_name(taken_at: Timestamp) -> String {
    format!("{}.{:03}Z.db", taken_at.strftime("%Y%m%dT%H%M%S"), taken_at.subsec_millisecond().max(0))
}

/// True for a name that [`file_name`] gives.
pub fn is_backup_name(name: &OsStr) -> bool {
    let shape = |byte: u8| if byte.is_ascii_digit() { b'0' } else { byte };
    name.as_encoded_bytes().iter().copied().map(shape).eq(*b"00000000T000000.000Z.db")
}

/// The name of a backup's manifest.
pub fn manifest_name(file_name: &str) -> String {
    format!("{file_name}.json")
}

/// Reads the manifest of the backup `file_name` in `folder`.
///
/// # Errors
/// [`BackupError::Host`] or [`BackupError::Manifest`].
pub fn read(folder: &Folder, file_name: &str) -> Result<BackupManifest, BackupError> {
    let name = manifest_name(file_name);
    let file = folder.open_in(&name).map_err(BackupError::host("opening a backup's manifest"))?;
    let bad = |reason: String| BackupError::Manifest { path: folder.path().join(&name), reason };
    let mut text = String::new();
    file.take(MANIFEST_MAX_BYTES).read_to_string(&mut text).map_err(|error| bad(error.to_string()))?;
    let manifest: BackupManifest = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
    if manifest.version > VERSION {
        return Err(bad(format!("a newer guardiand wrote it (version {})", manifest.version)));
    }
    Ok(manifest)
}

/// A folder's name is at most so long, in bytes.
const FOLDER_NAME_MAX: usize = 200;
/// Of a longer one so many bytes stay.
const FOLDER_NAME_CUT: usize = 160;

/// The name of the folder with one target's backups. A glob's targets have a `/` in their name; in the folder's name it is
/// `%2F`, so that no target's folder is inside another's.
pub fn folder_name(target: &str) -> String {
    let name = target.replace('%', "%25").replace('/', "%2F");
    if name.len() <= FOLDER_NAME_MAX {
        return name;
    }
    // A file system takes 255 bytes: what is longer is cut, and told apart by its hash.
    let cut = (0..=FOLDER_NAME_CUT).rev().find(|at| name.is_char_boundary(*at)).unwrap_or(0);
    let (head, _) = name.split_at(cut);
    format!("{head}~{}", &blake3::hash(target.as_bytes()).to_hex()[..16])
}

/// Whose backups a folder has: the target, and its path, as the newest manifest says that can be read. `None` when none can.
pub fn source_in(path: &Path) -> Option<(String, PathBuf)> {
    let folder = Folder::open(path).ok()?;
    let names = folder.names().ok()?;
    let mut names =
        names.iter().filter(|name| is_backup_name(name)).filter_map(|name| name.to_str()).collect::<Vec<_>>();
    names.sort_unstable();
    let manifest = names.into_iter().rev().find_map(|name| read(&folder, name).ok())?;
    Some((manifest.target, manifest.source))
}

/// The manifest that belongs to a backup's database file, wherever it is.
///
/// # Errors
/// [`BackupError::Host`], [`BackupError::Manifest`], or [`BackupError::Foreign`] where it has none.
pub fn of_file(file: &Path) -> Result<(Folder, String, BackupManifest), BackupError> {
    let (folder, name) = Folder::of_entry(file).map_err(BackupError::host("opening the backup's folder"))?;
    let name = name.to_string_lossy().into_owned();
    folder.stat_in(&name).map_err(BackupError::host("looking at the backup"))?;
    let manifest = match read(&folder, &name) {
        Err(BackupError::Host { source, .. }) if source.is_absent() => {
            return Err(BackupError::Foreign { path: file.to_owned(), manifest: manifest_name(&name) });
        }
        read => read?,
    };
    Ok((folder, name, manifest))
}

/// Writes a manifest durably.
pub(super) fn write(folder: &Folder, file_name: &str, manifest: &BackupManifest) -> Result<(), BackupError> {
    let name = manifest_name(file_name);
    let text = serde_json::to_vec_pretty(manifest)
        .map_err(|error| BackupError::Manifest { path: folder.path().join(&name), reason: error.to_string() })?;
    folder.write_atomically(&name, &text, 0o600).map_err(BackupError::host("writing the backup's manifest"))
}

/// The backups in a folder; a folder that is not there has none.
///
/// # Errors
/// [`BackupError::Host`] when the folder cannot be read.
pub fn list(path: &Path) -> Result<Listing, BackupError> {
    let folder = match Folder::open(path) {
        Ok(folder) => folder,
        Err(error) if error.is_absent() => return Ok(Listing::default()),
        Err(error) => return Err(BackupError::host("opening the backups' folder")(error)),
    };
    list_in(&folder)
}

pub(super) fn list_in(folder: &Folder) -> Result<Listing, BackupError> {
    let mut listing = Listing::default();
    for name in folder.names().map_err(BackupError::host("listing the backups' folder"))? {
        let Some(name) = name.to_str().filter(|name| is_backup_name(OsStr::new(name))) else { continue };
        match entry(folder, name) {
            Ok(entry) if entry.manifest.damaged.is_some() => listing.damaged.push(entry),
            Ok(entry) => listing.entries.push(entry),
            // The retention took it since the folder was read.
            Err(BackupError::Host { source, .. }) if source.is_absent() && is_gone(folder, name) => {}
            Err(error) => listing.skipped.push(error.to_string()),
        }
    }
    for entries in [&mut listing.entries, &mut listing.damaged] {
        entries.sort_by(|a, b| b.age_order().cmp(&a.age_order()));
    }
    Ok(listing)
}

fn is_gone(folder: &Folder, name: &str) -> bool {
    folder.stat_in(name).is_err_and(|error| error.is_absent())
}

fn entry(folder: &Folder, name: &str) -> Result<BackupEntry, BackupError> {
    let manifest = read(folder, name)?;
    let facts = folder.stat_in(name).map_err(BackupError::host("looking at a backup"))?;
    let file = folder.path().join(name);
    let is_damaged = manifest.damaged.is_some() && facts.kind == FileKind::Regular;
    if !is_damaged && (facts.kind != FileKind::Regular || facts.size != manifest.size) {
        let reason =
            format!("it is {} of {} bytes, its manifest says {}", facts.kind.words(), facts.size, manifest.size);
        return Err(BackupError::Unsound { path: file, reason });
    }
    Ok(BackupEntry { file, manifest })
}

/// Removes what a crash left behind: our temporary files, and manifests without a file. Only under the folder's lock.
pub(super) fn remove_leftovers(folder: &Folder, lock_name: &str) -> Result<(), BackupError> {
    let names = folder.names().map_err(BackupError::host("listing the backups' folder"))?;
    for name in &names {
        let orphan = name.to_str().and_then(|name| name.strip_suffix(".json")).is_some_and(|file| {
            is_backup_name(OsStr::new(file)) && folder.stat_in(file).is_err_and(|error: HostError| error.is_absent())
        });
        if orphan || (is_ours(name.as_encoded_bytes()) && name != OsStr::new(lock_name)) {
            folder.unlink(name).map_err(BackupError::host("removing a leftover"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::entry;
    use super::*;

    fn put(folder: &Path, taken_at: &str) -> String {
        let taken_at: Timestamp = taken_at.parse().unwrap();
        let name = file_name(taken_at);
        std::fs::write(folder.join(&name), b"0123456789").unwrap();
        write(&Folder::open(folder).unwrap(), &name, &entry("x", taken_at, 10).manifest).unwrap();
        name
    }

    #[test]
    fn names_sort_by_time_and_are_recognised() {
        let early = file_name("2026-11-22T03:04:05.123Z".parse().unwrap());
        assert_eq!(early, "20261122T030405.123Z.db");
        assert!(early < file_name("2026-11-22T03:04:05.124Z".parse().unwrap()));
        assert!(is_backup_name(OsStr::new(&early)));
        for other in ["app.db", "20261122T030405.123Z.db.json", "20261122T030405.123Z", ".guardiand-x.db"] {
            assert!(!is_backup_name(OsStr::new(other)), "{other}");
        }
    }

    #[test]
    fn the_list_is_newest_first_and_says_what_it_skips() {
        let dir = tempfile::tempdir().unwrap();
        let old = put(dir.path(), "2026-11-22T03:00:00Z");
        let new = put(dir.path(), "2026-11-22T04:00:00Z");
        let short = put(dir.path(), "2026-11-22T05:00:00Z");
        std::fs::write(dir.path().join(&short), b"012345").unwrap();
        std::fs::write(dir.path().join("20261122T060000.000Z.db"), b"no manifest").unwrap();
        std::fs::write(dir.path().join("20261122T070000.000Z.db.json"), b"{}").unwrap();
        let listing = list(dir.path()).unwrap();
        let names: Vec<_> = listing.entries.iter().map(|e| e.file.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, [new, old]);
        assert_eq!(listing.skipped.len(), 2, "{:?}", listing.skipped);
        assert!(list(&dir.path().join("none")).unwrap().entries.is_empty());
    }

    #[test]
    fn leftovers_go_and_backups_stay() {
        let dir = tempfile::tempdir().unwrap();
        let kept = put(dir.path(), "2026-11-22T03:00:00Z");
        let orphan = put(dir.path(), "2026-11-22T04:00:00Z");
        std::fs::remove_file(dir.path().join(&orphan)).unwrap();
        for name in [".guardiand-half.db", ".guardiand-lock", "notes.txt"] {
            std::fs::write(dir.path().join(name), b"x").unwrap();
        }
        let folder = Folder::open(dir.path()).unwrap();
        remove_leftovers(&folder, ".guardiand-lock").unwrap();
        let mut names = folder.names().unwrap();
        names.sort();
        assert_eq!(names, [".guardiand-lock", &kept, &format!("{kept}.json"), "notes.txt"]);
    }
}
