//! A folder as one value: what is in it, byte for byte and stat for stat.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Larger files are told by their stat alone: a change of content changes their times.
const HASHED_BYTES_MAX: u64 = 256 << 20;

/// Everything below `folder`: kind, inode, owner, mode, links, size, time of change, and the content's hash.
pub fn picture(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        all.insert(folder.clone(), stat(&folder));
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let facts = path.symlink_metadata().unwrap();
            let what = if facts.is_file() && facts.len() <= HASHED_BYTES_MAX {
                std::fs::read(&path).map_or_else(|error| error.to_string(), |bytes| blake3::hash(&bytes).to_string())
            } else if facts.is_symlink() {
                std::fs::read_link(&path).unwrap().display().to_string()
            } else {
                String::new()
            };
            all.insert(path.clone(), format!("{} {what}", stat(&path)));
            if facts.is_dir() {
                folders.push(path);
            }
        }
    }
    all
}

fn stat(path: &Path) -> String {
    let facts = path.symlink_metadata().unwrap();
    // A folder's own times change when a side file comes and goes, which SQLite does with a WAL database in use.
    let times = match facts.is_dir() {
        true => String::new(),
        false => format!("{}.{:09}", facts.mtime(), facts.mtime_nsec()),
    };
    // The time of the last change of the inode is not told: as root, SQLite gives a journal that it opens its owner again.
    format!(
        "ino {} mode {:o} owner {}:{} links {} size {} {times}",
        facts.ino(),
        facts.mode(),
        facts.uid(),
        facts.gid(),
        if facts.is_dir() { 0 } else { facts.nlink() },
        if facts.is_dir() { 0 } else { facts.size() },
    )
}

/// Nothing changed, and nothing came or went.
pub fn assert_same(before: &BTreeMap<PathBuf, String>, after: &BTreeMap<PathBuf, String>, what: &str) {
    let mut changes = Vec::new();
    for path in before.keys().chain(after.keys().filter(|path| !before.contains_key(*path))) {
        let (was, is) = (before.get(path), after.get(path));
        if was != is {
            changes.push(format!("{}\n  was {was:?}\n  is  {is:?}", path.display()));
        }
    }
    assert!(changes.is_empty(), "{what} changed\n{}", changes.join("\n"));
}
