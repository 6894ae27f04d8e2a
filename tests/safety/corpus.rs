//! A corpus of damaged and sound databases, where there is one: `GUARDIAN_CORPUS` names a folder with `manifest.jsonl` (one
//! JSON object a line: `path`, and what `integrity_check` said in `integrity_check_3534.cls`) and the files that it lists.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::picture::{assert_same, picture};
use crate::support::command::guardiand;

const CORRUPT: [&str; 8] = [
    "db_not_a_database",
    "db_truncated",
    "db_corrupted",
    "db_integrity_failed",
    "db_index_corrupted",
    "db_schema_corrupted",
    "wal_corrupted",
    "stale_journal",
];

/// The entry and its side files in a folder of their own: looking must not change the corpus even where it fails.
fn copy(corpus: &Path, path: &Path, to: &Path) -> PathBuf {
    let name = path.file_name().unwrap();
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let side = |path: &Path| PathBuf::from(format!("{}{suffix}", path.display()));
        if side(&corpus.join(path)).exists() {
            fs::copy(side(&corpus.join(path)), side(&to.join(name))).unwrap();
        }
    }
    to.join(name)
}

/// What `guardiand COMMAND --json` says of each entry that the corpus has, and whether the entry is sound; false when there is no
/// corpus. It looks at copies, and leaves them byte for byte as they were.
fn each(command: &str, mut said: impl FnMut(&Value, bool, Value)) -> bool {
    let Some(corpus) = std::env::var_os("GUARDIAN_CORPUS").map(PathBuf::from) else {
        println!("skipped: needs GUARDIAN_CORPUS");
        return false;
    };
    let manifest = fs::read_to_string(corpus.join("manifest.jsonl")).unwrap();
    for line in manifest.lines() {
        let entry: Value = serde_json::from_str(line).unwrap();
        let path = Path::new(entry["path"].as_str().unwrap());
        let is_sound = entry["integrity_check_3534"]["cls"] == "ok" && entry["mutation"].is_null();
        let folder = tempfile::tempdir().unwrap();
        let db = copy(&corpus, path, folder.path());
        let before = picture(folder.path());
        let scratch = tempfile::tempdir().unwrap();
        let arguments = [command, "--json", db.to_str().unwrap(), "--state-dir", scratch.path().to_str().unwrap()];
        let document = guardiand(scratch.path(), &arguments).json();
        // Beside a WAL that was left without its index SQLite makes one: it holds nothing that the WAL does not.
        let mut after = picture(folder.path());
        after.retain(|path, _| before.contains_key(path) || !path.to_string_lossy().ends_with("-shm"));
        assert_same(&before, &after, &path.display().to_string());
        said(&entry, is_sound, document);
    }
    true
}

#[test]
fn what_is_sound_is_never_called_corrupt_and_nothing_is_changed() {
    let (mut sound, mut damaged, mut wrong, mut missed) = (0, 0, Vec::new(), Vec::new());
    let there = each("check", |entry, is_sound, check| {
        let mut kinds = check["findings"].as_array().unwrap().iter().map(|finding| finding["kind"].as_str().unwrap());
        *if is_sound { &mut sound } else { &mut damaged } += 1;
        if is_sound && kinds.any(|kind| CORRUPT.contains(&kind)) {
            wrong.push(format!("{}: {check:#}", entry["path"]));
        } else if !is_sound && check["verdict"] == "healthy" {
            missed.push(format!("{} {} {}", entry["path"], entry["kind"], entry["mutation"]));
        }
    });
    println!("sound: {sound}, called corrupt: {}; damaged: {damaged}, of which healthy: {}", wrong.len(), missed.len());
    println!("called healthy, all the same:\n  {}", missed.join("\n  "));
    assert!(!there || sound > 0, "the manifest names nothing sound");
    assert!(wrong.is_empty(), "called corrupt, and sound:\n{}", wrong.join("\n"));
}

#[test]
fn a_scrub_calls_nothing_sound_damaged_and_changes_nothing() {
    let (mut sound, mut damaged, mut found, mut wrong) = (0, 0, 0, Vec::new());
    let there = each("scrub", |entry, is_sound, document| {
        let is_damaged = document["verdict"] == "damaged";
        *if is_sound { &mut sound } else { &mut damaged } += 1;
        if is_sound && is_damaged {
            wrong.push(format!("{}: {document:#}", entry["path"]));
        } else if is_damaged {
            found += 1;
        }
    });
    println!("sound: {sound}, called damaged: {}; damaged to some check: {damaged}, to this: {found}", wrong.len());
    assert!(!there || sound > 0 && found > 0, "the manifest names nothing sound, or nothing damaged");
    assert!(wrong.is_empty(), "called damaged, and sound:\n{}", wrong.join("\n"));
}
