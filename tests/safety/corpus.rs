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

#[test]
fn what_is_sound_is_never_called_corrupt_and_nothing_is_changed() {
    let Some(corpus) = std::env::var_os("GUARDIAN_CORPUS").map(PathBuf::from) else {
        return println!("skipped: needs GUARDIAN_CORPUS");
    };
    let manifest = fs::read_to_string(corpus.join("manifest.jsonl")).unwrap();
    let (mut sound, mut damaged, mut found, mut wrong) = (0, 0, 0, Vec::new());
    let mut missed = Vec::new();
    for line in manifest.lines() {
        let entry: Value = serde_json::from_str(line).unwrap();
        let path = Path::new(entry["path"].as_str().unwrap());
        let is_sound = entry["integrity_check_3534"]["cls"] == "ok" && entry["mutation"].is_null();
        let folder = tempfile::tempdir().unwrap();
        let db = copy(&corpus, path, folder.path());
        let before = picture(folder.path());
        let scratch = tempfile::tempdir().unwrap();
        let arguments = ["check", "--json", db.to_str().unwrap(), "--state-dir", scratch.path().to_str().unwrap()];
        let check = guardiand(scratch.path(), &arguments).json();
        // Beside a WAL that was left without its index SQLite makes one: it holds nothing that the WAL does not.
        let mut after = picture(folder.path());
        after.retain(|path, _| before.contains_key(path) || !path.to_string_lossy().ends_with("-shm"));
        assert_same(&before, &after, &path.display().to_string());
        let kinds = check["findings"].as_array().unwrap().iter().map(|finding| finding["kind"].as_str().unwrap());
        let corrupt = kinds.clone().any(|kind| CORRUPT.contains(&kind));
        if is_sound {
            sound += 1;
            if corrupt {
                wrong.push(format!("{}: {check:#}", path.display()));
            }
        } else {
            damaged += 1;
            found += usize::from(check["verdict"] != "healthy");
            if check["verdict"] == "healthy" {
                missed.push(format!("{} {} {}", path.display(), entry["kind"], entry["mutation"]));
            }
        }
    }
    println!("sound: {sound}, called corrupt: {}; damaged: {damaged}, not called healthy: {found}", wrong.len());
    println!("called healthy, all the same:\n  {}", missed.join("\n  "));
    assert!(sound > 0, "the manifest names nothing sound");
    assert!(wrong.is_empty(), "called corrupt, and sound:\n{}", wrong.join("\n"));
}

#[test]
fn a_scrub_calls_nothing_sound_damaged_and_changes_nothing() {
    let Some(corpus) = std::env::var_os("GUARDIAN_CORPUS").map(PathBuf::from) else {
        return println!("skipped: needs GUARDIAN_CORPUS");
    };
    let manifest = fs::read_to_string(corpus.join("manifest.jsonl")).unwrap();
    let (mut sound, mut damaged, mut found, mut wrong) = (0, 0, 0, Vec::new());
    for line in manifest.lines() {
        let entry: Value = serde_json::from_str(line).unwrap();
        let path = Path::new(entry["path"].as_str().unwrap());
        let is_sound = entry["integrity_check_3534"]["cls"] == "ok" && entry["mutation"].is_null();
        let folder = tempfile::tempdir().unwrap();
        let db = copy(&corpus, path, folder.path());
        let before = picture(folder.path());
        let scratch = tempfile::tempdir().unwrap();
        let arguments = ["scrub", "--json", db.to_str().unwrap(), "--state-dir", scratch.path().to_str().unwrap()];
        let document = guardiand(scratch.path(), &arguments).json();
        assert_same(&before, &picture(folder.path()), &path.display().to_string());
        let is_damaged = document["verdict"] == "damaged";
        if is_sound {
            sound += 1;
            if is_damaged {
                wrong.push(format!("{}: {document:#}", path.display()));
            }
        } else {
            damaged += 1;
            found += usize::from(is_damaged);
        }
    }
    println!(
        "sound: {sound}, called damaged: {}; not sound to some check: {damaged}, of which damaged: {found}",
        wrong.len()
    );
    assert!(sound > 0 && found > 0, "the manifest names nothing sound, or nothing damaged");
    assert!(wrong.is_empty(), "called damaged, and sound:\n{}", wrong.join("\n"));
}
