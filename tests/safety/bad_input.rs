//! Whatever stands where a database should: it is named or called unknown, soon, and stays exactly as it was.

use std::ffi::OsStr;
use std::path::Path;

use serde_json::Value;

use crate::picture::{assert_same, picture};
use crate::support::command::{Ran, guardiand};
use crate::support::scene::Scene;
use crate::zoo::{self, Exhibit, Expected};

struct Grounds {
    scene: Scene,
    exhibits: Vec<Exhibit>,
}

fn grounds() -> Grounds {
    let scene = Scene::new();
    std::fs::create_dir(scene.path("elsewhere")).unwrap();
    let exhibits = zoo::build(&scene.path("data"), &scene.path("elsewhere"));
    Grounds { scene, exhibits }
}

fn is_expected(exhibit: &Exhibit, check: &Value) -> bool {
    let verdict = check["verdict"].as_str().unwrap();
    match exhibit.expected {
        Expected::Healthy => verdict == "healthy",
        Expected::Unknown => verdict == "unknown",
        Expected::Kind(kind) => check["findings"][0]["kind"] == kind,
        Expected::NotHealthy => verdict != "healthy",
        Expected::NotUnhealthy => verdict != "unhealthy",
        Expected::Anything => ["healthy", "unhealthy", "unknown"].contains(&verdict),
    }
}

fn assert_expected(exhibit: &Exhibit, check: &Value) {
    let right = is_expected(exhibit, check);
    assert!(right, "{}: {:?} was expected: {check:#}", exhibit.path.display(), exhibit.expected);
}

impl Grounds {
    /// `guardiand WORDS… --json -- PATH`.
    fn asked(&self, words: &[&str], exhibit: &Exhibit) -> Ran {
        let mut arguments: Vec<&OsStr> = words.iter().map(OsStr::new).collect();
        arguments.extend(["--json", "--"].map(OsStr::new));
        arguments.push(exhibit.path.as_os_str());
        guardiand(&self.scene.path(""), &arguments)
    }

    /// Does `work`, and nothing may have changed by it.
    fn unchanged<T>(&self, what: &str, work: impl FnOnce() -> T) -> T {
        let before = [picture(&self.scene.path("data")), picture(&self.scene.path("elsewhere"))];
        let done = work();
        assert_same(&before[0], &picture(&self.scene.path("data")), what);
        assert_same(&before[1], &picture(&self.scene.path("elsewhere")), what);
        done
    }
}

#[test]
fn a_check_says_what_it_is_and_leaves_it_as_it_was() {
    let grounds = grounds();
    grounds.unchanged("a check", || {
        for exhibit in &grounds.exhibits {
            let ran = grounds.asked(&["check"], exhibit);
            let check = ran.json();
            assert_expected(exhibit, &check);
            let status = match check["verdict"].as_str().unwrap() {
                "healthy" => 0,
                "unhealthy" => 1,
                _ => 3,
            };
            assert_eq!(ran.status, status, "{:?}: {ran:#?}", exhibit.path);
        }
    });
    assert!(!grounds.scene.path("guardian-state").exists(), "a check left a state directory behind");
}

#[test]
fn a_heal_does_not_touch_what_is_not_its_to_heal() {
    let grounds = grounds();
    grounds.unchanged("a heal", || {
        // What is damaged, or has a torn side file, may be healed: these are the business of tests/healing.
        for exhibit in grounds.exhibits.iter().filter(|exhibit| !matches!(exhibit.expected, Expected::Anything)) {
            let ran = grounds.asked(&["heal", "--state-dir", "state"], exhibit);
            assert_expected(exhibit, &ran.json()["check"]);
            assert!([0, 1, 3].contains(&ran.status), "{:?}: {ran:#?}", exhibit.path);
        }
    });
}

#[test]
fn a_dry_run_touches_nothing_at_all() {
    let grounds = grounds();
    grounds.unchanged("a dry run", || {
        for exhibit in &grounds.exhibits {
            let ran = grounds.asked(&["heal", "--dry-run", "--state-dir", "state"], exhibit);
            assert!([0, 1, 3].contains(&ran.status), "{:?}: {ran:#?}", exhibit.path);
            ran.json();
        }
    });
}

/// All of them under the daemon at once, for several sweeps.
fn supervise(lines: &str, leave_out: impl Fn(&Exhibit) -> bool) {
    let Grounds { mut scene, exhibits } = grounds();
    let mut targets = Vec::new();
    for (n, exhibit) in exhibits.into_iter().enumerate() {
        let Some(path) = exhibit.path.to_str().map(ToOwned::to_owned) else { continue };
        // A configured path with these is a glob, or a mistake; the command line takes them.
        if leave_out(&exhibit) || path.contains(['*', '?', '[', '\n']) {
            continue;
        }
        let name = format!("t{n}");
        scene.database(&name, &path, lines);
        targets.push((name, exhibit));
    }
    std::fs::write(scene.path("schema.sql"), "CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT);").unwrap();
    let grounds = Grounds { scene, exhibits: Vec::new() };
    grounds.unchanged("the daemon", || {
        let mut daemon = grounds.scene.daemon();
        for (name, exhibit) in &targets {
            let target = daemon.wait_for(&format!("three looks at {name}, {}", exhibit.path.display()), |daemon| {
                let looked = |target: &Value| target["total_checks"].as_u64().unwrap() >= 3;
                // That its content cannot be checked shows when it is checked, a little later.
                let checked = |target: &Value| {
                    !matches!(exhibit.expected, Expected::Unknown) || is_expected(exhibit, &target["last_check"])
                };
                daemon.target(name).filter(|target| looked(target) && checked(target))
            });
            assert_expected(exhibit, &target["last_check"]);
        }
        assert_eq!(daemon.metric("guardian_worker_restarts_total{reason=\"crash\"}"), 0.0);
        assert!(daemon.stop().success());
    });
}

#[test]
fn the_daemon_looks_on_and_touches_nothing() {
    supervise("", |exhibit| matches!(exhibit.expected, Expected::Anything));
}

#[test]
fn not_even_with_a_schema_and_backups_to_put_in_its_place() {
    // A missing file is made anew from its schema, and so is one in whose place a directory stands: that is the promise.
    let place = |path: &Path| {
        let name = path.file_name().unwrap().to_str().unwrap_or_default();
        ["directory.db", "app.db", "missing-beside-wal.db", "empty-beside-wal.db"].contains(&name)
    };
    supervise("schema = \"schema.sql\"\nbackup = { every = \"1h\" }", |exhibit| {
        matches!(exhibit.expected, Expected::Anything) || place(&exhibit.path)
    });
}

#[test]
fn a_name_too_long_for_side_files_is_no_locked_database() {
    let folder = tempfile::tempdir().unwrap();
    // Of 255 bytes that a name may have, a `.lock` takes 5 and a `-journal` 8.
    for length in [247, 249, 251, 255] {
        let path = folder.path().join("n".repeat(length));
        std::fs::write(&path, "").unwrap();
        let answer = guardiand(folder.path(), &["check", "--json", path.to_str().unwrap()]);
        let check = answer.json_of(3);
        assert_eq!(check["verdict"], "unknown", "{length}: {check:#}");
    }
}
