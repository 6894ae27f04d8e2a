//! The corpus's damaged WALs and journals, healed by the daemon and compared with the truth row by row: `GUARDIAN_CORPUS` names
//! the folder with `manifest.jsonl` and the unpacked files; `GUARDIAN_CORPUS_OUT` one for what was healed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use serde_json::Value;

use super::support::scene::Scene;
use super::support::truth::beside;

/// Each row of each table in words, and how often it is there: of a copy, recovered by SQLite.
fn rows(db: &Path) -> BTreeMap<String, u64> {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.db");
    for suffix in ["", "-wal", "-journal"] {
        if beside(db, suffix).exists() {
            fs::copy(beside(db, suffix), beside(&copy, suffix)).unwrap();
        }
    }
    let db = Connection::open(copy).unwrap();
    let mut rows = BTreeMap::new();
    let names = "SELECT name FROM sqlite_schema WHERE type='table' AND rootpage>0 AND name NOT LIKE 'sqlite_%'";
    let Ok(mut query) = db.prepare(names) else { return rows };
    let tables: Vec<String> = query.query_map([], |row| row.get(0)).unwrap().map_while(Result::ok).collect();
    for table in tables {
        let Ok(mut query) = db.prepare(&format!("SELECT * FROM \"{table}\"")) else { continue };
        let columns = query.column_count();
        let mut found = query.query([]).unwrap();
        while let Ok(Some(row)) = found.next() {
            let words: Vec<String> = (0..columns).map(|column| format!("{:?}", row.get_ref(column).unwrap())).collect();
            *rows.entry(format!("{table}: {words:?}")).or_default() += 1;
        }
    }
    rows
}

/// The share of the truth's rows that are there.
fn recall(truth: &BTreeMap<String, u64>, found: &BTreeMap<String, u64>) -> f64 {
    let all: u64 = truth.values().sum();
    let there: u64 = truth.iter().map(|(row, times)| found.get(row).map_or(0, |found| *found.min(times))).sum();
    there as f64 / all as f64
}

fn copy_over(from: &Path, to: &Path) {
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let (from, to) = (beside(from, suffix), beside(to, suffix));
        match fs::read(&from) {
            Ok(bytes) => fs::write(&to, bytes).unwrap(),
            Err(_) if to.exists() => fs::remove_file(&to).unwrap(),
            Err(_) => {}
        }
    }
}

#[test]
fn what_the_corpus_has_in_its_damaged_wals_and_journals_is_brought_back() {
    let Some(corpus) =
        std::env::var_os("GUARDIAN_CORPUS").map(PathBuf::from).filter(|path| path.join("files").is_dir())
    else {
        return println!("skipped: needs GUARDIAN_CORPUS, with its files unpacked");
    };
    let manifest = fs::read_to_string(corpus.join("manifest.jsonl")).unwrap();
    let mut short = Vec::new();
    for line in manifest.lines() {
        let entry: Value = serde_json::from_str(line).unwrap();
        let mutation = entry["mutation"].as_str().unwrap_or_default();
        if !mutation.starts_with("wal_") && !mutation.starts_with("jrnl_") {
            continue;
        }
        let damaged = corpus.join(entry["path"].as_str().unwrap());
        let pristine = corpus.join(entry["truth"]["path"].as_str().unwrap());
        let truth = rows(&pristine);

        // Seen healthy first; then the damage, while nobody looks.
        let scene = Scene::of("");
        copy_over(&pristine, &scene.db());
        let mut daemon = scene.daemon();
        daemon.healthy("app");
        assert!(daemon.stop().success());
        copy_over(&damaged, &scene.db());
        let mut daemon = scene.daemon();
        let what = daemon.wait_for("a verdict", |daemon| {
            let incident = daemon.incidents("app").into_iter().next();
            let state = incident.as_ref().and_then(|incident| incident["state"].as_str()).unwrap_or_default();
            let target = daemon.target("app")?;
            let looked = target["state"].as_str().filter(|_| target["total_checks"].as_u64() > Some(0));
            match (state, looked) {
                ("closed" | "escalated", _) => incident,
                ("", Some(verdict)) if verdict != "unhealthy" => Some(Value::String(verdict.to_owned())),
                _ => None,
            }
        });
        assert!(daemon.stop().success());
        let (before, after) = (recall(&truth, &rows(&damaged)), recall(&truth, &rows(&scene.db())));
        println!(
            "{mutation:18} {:20} SQLite alone {before:.4}  now {after:.4}  {} {} {} rows_lost {}",
            entry["base"].as_str().unwrap_or_default(),
            what.as_str().unwrap_or_else(|| what["state"].as_str().unwrap()),
            what["kind"].as_str().unwrap_or("-"),
            what["playbook"].as_str().unwrap_or("-"),
            what["loss"]["rows_lost"],
        );
        if let Some(out) = std::env::var_os("GUARDIAN_CORPUS_OUT") {
            copy_over(&scene.db(), &Path::new(&out).join(format!("{}.db", entry["id"].as_str().unwrap())));
        }
        let all = ["wal_hdr_zero", "wal_frame_flip", "wal_db_page1_zero"].contains(&mutation);
        if after < before || all && after < 1.0 || what["loss"]["rows_lost"] == 0 && after < 1.0 {
            short.push(format!("{mutation} {} {after}: {what:#}", damaged.display()));
        }
    }
    assert!(short.is_empty(), "{}", short.join("\n"));
}
