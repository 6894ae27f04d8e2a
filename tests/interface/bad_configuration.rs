//! A configuration with any mistake: one message with line, column and caret, status 78, and nothing was started.

use std::path::Path;

use crate::{guardiand, stderr, stdout};

const BAD: &str = "[guardian]\nintervall = \"30s\"\nhttp = \"off\"\nstate_dir = \"state\"\n\
                   [[database]]\nname = \"a\"\npath = \"a.db\"\nwal_max = \"lots\"\nschema = \"missing.sql\"\n\
                   [[database]]\nname = \"a\"\npath = \"b.db\"\ninterval = \"0s\"\n[[api]]\n";

fn write(folder: &Path, text: &str) -> String {
    let path = folder.join("guardian.toml");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn every_command_that_reads_it_says_all_and_ends_with_78() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), BAD);
    for arguments in [
        vec!["--config", &file],
        vec!["run", "--config", &file],
        vec!["check", "--config", &file],
        vec!["heal", "--config", &file, "a"],
        vec!["config", "check", &file],
    ] {
        let output = guardiand(&arguments);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(78), "{arguments:?}: {said}");
        assert_eq!(stdout(&output), "", "{arguments:?}");
        for (place, words, culprit) in [
            (":2:1:", "unknown key `intervall`", "^^^^^^^^^"),
            (":8:11:", "\"lots\" is not a size", "^^^^^^"),
            (":9:10:", "cannot read the schema file", "^^^^^^^^^^^^^"),
            (":11:8:", "the name `a` is taken already", "^^^"),
            (":13:12:", "must be more than zero", "^^^^"),
            (":14:3:", "mode `api` is not built yet", "^^^"),
        ] {
            let mut lines = said.lines().skip_while(|line| !line.contains(&format!("{file}{place}")));
            assert!(lines.next().is_some_and(|line| line.contains(words)), "{place} {words}: {said}");
            let caret = lines.nth(2).unwrap().trim_start_matches([' ', '|']);
            assert_eq!(caret, culprit, "{said}");
        }
        assert!(!said.contains("panicked"), "{said}");
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["guardian.toml"], "something was started");
}

#[test]
fn scripts_get_the_same_as_one_document() {
    let folder = tempfile::tempdir().unwrap();
    let output = guardiand(&["config", "check", "--json", &write(folder.path(), BAD)]);
    assert_eq!(output.status.code(), Some(78));
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["valid"], false);
    let places: Vec<_> =
        document["errors"].as_array().unwrap().iter().map(|error| error["line"].as_u64().unwrap()).collect();
    assert_eq!(places, [2, 8, 9, 11, 13, 14]);

    let output =
        guardiand(&["config", "check", "--json", concat!(env!("CARGO_MANIFEST_DIR"), "/config/guardian.toml")]);
    assert_eq!(output.status.code(), Some(0));
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["valid"], true);
}

#[test]
fn what_is_no_configuration_at_all_is_78_too() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.toml").display().to_string();
    for file in [missing, folder.path().display().to_string(), "/dev/null/x".to_owned(), "/dev/zero".to_owned()] {
        let output = guardiand(&["--config", &file]);
        assert_eq!(output.status.code(), Some(78), "{file}: {}", stderr(&output));
        assert!(stderr(&output).contains(&file), "{file}: {}", stderr(&output));
    }
}

/// What would show only in the disaster that it is for.
#[test]
fn what_cannot_work_is_told_before_it_is_needed() {
    let folder = tempfile::tempdir().unwrap();
    for (name, sql) in
        [("typo.sql", "CREATE TABEL t(a)"), ("nothing.sql", "-- later"), ("more.sql", "ATTACH 'x.db' AS x")]
    {
        std::fs::write(folder.path().join(name), sql).unwrap();
    }
    for (line, culprit, why) in [
        ("path = \"a.db-wal\"", "\"a.db-wal\"", "side file"),
        ("path = \"a.db\"\ncanary = \"DELETE FROM t\"", "\"DELETE FROM t\"", "SELECT"),
        (
            "path = \"a.db\"\ncanary = \"SELECT count(*) FROM t; DROP TABLE t\"",
            "\"SELECT count",
            "more than one statement",
        ),
        ("path = \"a.db\"\ncanary = \"SELECT FROM WHERE\"", "\"SELECT FROM WHERE\"", "syntax error"),
        ("path = \"a.db\"\nschema = \"typo.sql\"", "\"typo.sql\"", "syntax error"),
        ("path = \"a.db\"\nschema = \"nothing.sql\"", "\"nothing.sql\"", "creates nothing"),
        ("path = \"a.db\"\nschema = \"more.sql\"", "\"more.sql\"", "attached"),
        ("path = \"a.db\"\nbackup = { to = \"\" }", "\"\"", "empty"),
    ] {
        let output =
            guardiand(&["config", "check", &write(folder.path(), &format!("[[database]]\nname = \"a\"\n{line}\n"))]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &stderr(&output);
        assert_eq!(output.status.code(), Some(78), "{line}: {said}");
        assert!(said.contains(culprit) && said.contains(why) && said.contains('^'), "{line}: {said}");
    }
    assert!(!folder.path().join("x.db").exists());
    // Which tables there are only the database tells.
    let sound = "[[database]]\nname = \"a\"\npath = \"a.db\"\ncanary = \"SELECT count(*) FROM t WHERE f(x) > ';' ;\"\n";
    assert_eq!(guardiand(&["config", "check", &write(folder.path(), sound)]).status.code(), Some(0));
}
