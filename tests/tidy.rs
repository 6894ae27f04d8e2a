//! The rules of the house, held by a test: who may use whom, what stands where, and what is let into the lock file.
//!
//! The checker itself is tested on bad samples at the end: a rule that cannot fail is no rule.

#![allow(clippy::unwrap_used)] // a test that cannot read the house has failed

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A room, and the rooms that its code may name (DESIGN, "Folders"). Tests inside a room may use any.
const MAY_USE: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("format", &[]),
    ("clock", &[]),
    ("telemetry", &["model"]),
    ("job", &["model", "clock"]),
    ("host", &["model", "clock", "telemetry"]),
    ("probe", &["model", "clock", "telemetry"]),
    ("sqlite", &["model", "format", "host", "telemetry"]),
    ("journal", &["model", "format", "clock", "telemetry", "sqlite", "host", "job"]),
    ("backup", &["model", "format", "clock", "telemetry", "sqlite", "host", "job"]),
    ("pool", &["model", "format", "clock", "telemetry", "sqlite", "host", "job"]),
    ("worker", &["model", "format", "job", "sqlite", "backup", "host", "telemetry"]),
    ("notify", &["model", "clock", "telemetry", "journal"]),
    (
        "modes",
        &["model", "format", "clock", "telemetry", "job", "host", "probe", "sqlite", "journal", "backup", "pool"],
    ),
    // Of `modes` only what stands at its root: see `names_a_mode`.
    ("supervisor", &["model", "journal", "clock", "telemetry", "job", "modes"]),
    // Of `modes` only the configurations: see `more_than_a_modes_config`.
    ("config", &["model", "telemetry", "modes", "backup", "pool", "notify"]),
    ("api", &["model", "config", "telemetry", "supervisor", "journal", "clock", "job"]),
    ("cli", &["model", "config", "telemetry", "supervisor", "journal", "clock", "job", "api", "daemon"]),
    (
        "daemon",
        &[
            "model",
            "format",
            "clock",
            "telemetry",
            "job",
            "host",
            "probe",
            "sqlite",
            "journal",
            "backup",
            "pool",
            "worker",
            "modes",
            "notify",
            "supervisor",
            "config",
            "api",
            "cli",
        ],
    ),
];

/// Lines of code: without tests, comments and blank lines.
const LINES_MAX: usize = 500;

const NAMES_REFUSED: [&str; 4] = ["manager", "helper", "utils", "common"];

/// One source file, as the rules see it.
struct Source {
    /// Below `src`.
    path: String,
    /// Without comments and without tests; one entry a line, so that a line's number can be told.
    code: Vec<String>,
}

impl Source {
    fn new(path: &str, text: &str) -> Source {
        let mut code = Vec::new();
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            // A file's tests come last.
            if line == "#[cfg(test)]" && lines.peek().is_some_and(|next| next.contains("mod ") && next.ends_with('{')) {
                break;
            }
            let is_comment = line.trim_start().starts_with("//");
            code.push(if is_comment { String::new() } else { line.split(" // ").next().unwrap_or("").to_owned() });
        }
        Source { path: path.to_owned(), code }
    }

    /// `host` for `host/holders.rs` and for `host.rs`; `None` for `lib.rs` and `main.rs`.
    fn room(&self) -> Option<&str> {
        let room = self.path.split('/').next()?.trim_end_matches(".rs");
        (room != "lib" && room != "main").then_some(room)
    }

    fn is_tests(&self) -> bool {
        self.path.ends_with("tests.rs") || self.path.contains("/tests/")
    }

    /// Every path that begins with `crate::`, to two segments, with its line.
    fn crate_paths(&self) -> Vec<(usize, String)> {
        let text = self.code.join("\n");
        let line_of = |at: usize| text[..at].matches('\n').count() + 1;
        let mut paths = Vec::new();
        for (at, _) in text.match_indices("crate::") {
            if text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
                continue;
            }
            let rest = &text[at + "crate::".len()..];
            for path in members(rest) {
                paths.push((line_of(at), path));
            }
        }
        paths
    }
}

/// `a::b` of `a::b::C`; each member of `{a::b, c}`.
fn members(rest: &str) -> Vec<String> {
    let Some(group) = rest.strip_prefix('{') else { return expand("", rest) };
    group_members(group).into_iter().flat_map(|member| expand("", member.trim())).collect()
}

fn expand(before: &str, rest: &str) -> Vec<String> {
    let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
    let (name, tail) = rest.split_at(end);
    if !before.is_empty() {
        return vec![format!("{before}::{name}")];
    }
    match tail.strip_prefix("::") {
        None => vec![name.to_owned()],
        Some(tail) => match tail.strip_prefix('{') {
            None => expand(name, tail),
            Some(group) => group_members(group).into_iter().flat_map(|member| expand(name, member.trim())).collect(),
        },
    }
}

/// The members of a group up to its closing brace, nested groups left whole.
fn group_members(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut members) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                members.push(&group[start..at]);
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                members.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    members.into_iter().filter(|member| !member.trim().is_empty()).collect()
}

/// Every violation of one file, as `path:line: words`.
fn violations(source: &Source, modes: &BTreeSet<String>) -> Vec<String> {
    let mut found = Vec::new();
    let mut say = |line: usize, words: String| found.push(format!("src/{}:{line}: {words}", source.path));
    let stem = Path::new(&source.path).file_stem().and_then(|stem| stem.to_str()).unwrap_or("");
    for part in source.path.split('/').map(|part| part.trim_end_matches(".rs")) {
        if NAMES_REFUSED.iter().any(|refused| part.split('_').any(|word| word == *refused)) {
            say(1, format!("`{part}` says nothing: name what it does"));
        }
    }
    if source.is_tests() {
        return found;
    }
    let lines = source.code.iter().filter(|line| !line.trim().is_empty()).count();
    if lines > LINES_MAX {
        say(1, format!("{lines} lines of code: does it answer two questions?"));
    }
    let Some(room) = source.room() else { return found };

    for (line, path) in source.crate_paths() {
        let (used, inner) = path.split_once("::").unwrap_or((&path, ""));
        if used == room || !used.starts_with(|c: char| c.is_ascii_lowercase()) {
            let own_mode = source.path.split('/').nth(1).unwrap_or("");
            if room == "modes" && modes.contains(inner) && inner != own_mode && stem != "mod" {
                say(line, format!("a mode may not use another mode (crate::{path})"));
            }
            continue;
        }
        match MAY_USE.iter().find(|(name, _)| *name == room) {
            None => say(line, format!("the room `{room}` is not in the table of tests/tidy.rs")),
            Some((_, may)) if !may.contains(&used) => {
                say(line, format!("`{room}` may not use `{used}` (crate::{path})"))
            }
            Some(_) if room == "supervisor" && names_a_mode(used, inner, modes) => {
                say(line, format!("the supervisor may not name a mode (crate::{path})"));
            }
            Some(_) => {}
        }
    }
    for (n, code) in source.code.iter().enumerate() {
        let line = n + 1;
        let words = |word: &str| code.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|is| is == word);
        let only_in = |rooms: &[&str]| !rooms.contains(&room);
        let opens = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "(unsafe_code)"];
        if opens.iter().any(|opens| code.contains(opens)) && only_in(&["sqlite", "host"]) {
            say(line, "`unsafe` stands in sqlite/ and host/ alone".to_owned());
        }
        if words("rusqlite") && only_in(&["sqlite"]) {
            say(line, "rusqlite is used in sqlite/ alone".to_owned());
        }
        if (words("inotify") || words("procfs")) && only_in(&["host"]) {
            say(line, "inotify and procfs are used in host/ alone".to_owned());
        }
        if code.contains("\"/proc/") && !code.contains("\"/proc/self/exe\"") && only_in(&["host"]) {
            say(line, "/proc is read in host/ alone".to_owned());
        }
        if ["println!", "eprintln!", "print!", "eprint!", "dbg!"].iter().any(|print| code.contains(print))
            && only_in(&["cli"])
        {
            say(line, "facts are printed by cli/ alone".to_owned());
        }
    }
    found
}

fn names_a_mode(used: &str, inner: &str, modes: &BTreeSet<String>) -> bool {
    used == "modes" && modes.contains(inner)
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn modes() -> BTreeSet<String> {
    let folders = std::fs::read_dir(root().join("src/modes")).unwrap().map(|entry| entry.unwrap().path());
    folders.filter(|path| path.is_dir()).map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
}

#[test]
fn the_house_is_tidy() {
    let src = root().join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    assert!(files.len() > 50, "only {} files: is this the right folder?", files.len());
    files.sort();
    let modes = modes();
    let mut found = Vec::new();
    for file in &files {
        let path = file.strip_prefix(&src).unwrap().to_str().unwrap().replace('\\', "/");
        found.extend(violations(&Source::new(&path, &std::fs::read_to_string(file).unwrap()), &modes));
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn the_table_of_rooms_has_no_room_that_is_not_there() {
    // `probe` comes with a later issue.
    for (room, _) in MAY_USE.iter().filter(|(room, _)| *room != "probe") {
        let src = root().join("src");
        assert!(src.join(room).is_dir() || src.join(format!("{room}.rs")).is_file(), "{room}");
    }
}

#[test]
fn the_checker_notices_each_kind_of_violation() {
    let modes = BTreeSet::from(["database".to_owned(), "disk".to_owned()]);
    for (path, code, words) in [
        ("model/x.rs", "use crate::host::holders;", "`model` may not use `host`"),
        ("format/x.rs", "fn f() { crate::sqlite::open() }", "`format` may not use `sqlite`"),
        ("job/x.rs", "use crate::{clock::Clock, sqlite::Database};", "`job` may not use `sqlite`"),
        ("supervisor/x.rs", "use crate::modes::database::Database;", "may not name a mode"),
        ("supervisor/x.rs", "use crate::modes::{Look, database::MODE};", "may not name a mode"),
        ("supervisor/x.rs", "use crate::sqlite::Database;", "`supervisor` may not use `sqlite`"),
        ("modes/disk/x.rs", "use crate::modes::database::MODE;", "may not use another mode"),
        ("attic/x.rs", "use crate::model::Kind;", "not in the table"),
        ("api/x.rs", "unsafe { f() }", "`unsafe`"),
        ("journal/x.rs", "use rusqlite::Connection;", "rusqlite is used"),
        ("worker/x.rs", "let locks = read(\"/proc/locks\");", "/proc is read"),
        ("worker/x.rs", "use inotify::Inotify;", "inotify and procfs"),
        ("daemon/x.rs", "println!(\"hello\");", "printed by cli/"),
        ("api/helper.rs", "", "`helper` says nothing"),
        ("api/http_utils.rs", "", "`http_utils` says nothing"),
        ("cli/common/mod.rs", "", "`common` says nothing"),
    ] {
        let found = violations(&Source::new(path, code), &modes);
        assert_eq!(found.len(), 1, "{path}: {code}: {found:?}");
        assert!(found[0].contains(words), "{path}: {code}: {found:?}");
    }
    let long = "let x = 1;\n".repeat(LINES_MAX + 1);
    assert_eq!(violations(&Source::new("api/x.rs", &long), &modes).len(), 1);
    for (path, code) in [
        ("supervisor/x.rs", "use crate::modes::{Look, Supervised};"),
        ("modes/disk/x.rs", "use crate::modes::disk::MODE;\nuse crate::modes::Look;"),
        ("model/x.rs", "/// See [`crate::host`].\n// use crate::host;\nfn f() {}"),
        ("model/x.rs", "fn f() {}\n\n#[cfg(test)]\nmod tests {\n    use crate::host;\n}"),
        ("cli/x.rs", "println!(\"facts\");"),
        ("sqlite/x.rs", "use rusqlite::Connection;\nunsafe { f() }"),
    ] {
        assert_eq!(violations(&Source::new(path, code), &modes), Vec::<String>::new(), "{path}: {code}");
    }
}

/// Licences that the project may ship with; one of each crate's alternatives must be among them.
const LICENCES: [&str; 10] = [
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "0BSD",
    "Unicode-3.0",
    "CC0-1.0",
];

/// Crates that must never come in, and why.
const BANNED: [(&str, &str); 7] = [
    ("openssl", "rustls is used"),
    ("openssl-sys", "rustls is used"),
    ("native-tls", "rustls is used"),
    ("backoff", "unmaintained (RUSTSEC-2025-0012): backon is used"),
    ("r2d2", "its SQLite crates lag behind and would fix our SQLite"),
    ("r2d2_sqlite", "it lags behind and would fix our SQLite"),
    ("deadpool-sqlite", "it lags behind and would fix our SQLite"),
];

/// Development crates included.
const PACKAGES_MAX: usize = 260;

fn metadata() -> serde_json::Value {
    let output = Command::new(env!("CARGO"))
        // Only what is built here has been downloaded, and only that is shipped.
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// True for an SPDX expression that the allowed licences satisfy. Only what occurs is understood: alternatives (`OR`, `/`)
/// of conjunctions (`AND`), with brackets around either.
fn is_allowed(expression: &str) -> bool {
    let expression = expression.trim();
    if let Some(parts) = split_top(expression, &[" OR ", "/"]) {
        return parts.iter().any(|part| is_allowed(part));
    }
    if let Some(parts) = split_top(expression, &[" AND "]) {
        return parts.iter().all(|part| is_allowed(part));
    }
    match expression.strip_prefix('(').and_then(|inner| inner.strip_suffix(')')) {
        Some(inner) => is_allowed(inner),
        None => LICENCES.contains(&expression),
    }
}

/// Splits at the first separator that stands outside brackets; `None` when there is none.
fn split_top<'a>(expression: &'a str, separators: &[&str]) -> Option<[&'a str; 2]> {
    let mut depth = 0;
    for (at, c) in expression.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ if depth == 0 => {
                if let Some(separator) = separators.iter().find(|separator| expression[at..].starts_with(**separator)) {
                    return Some([&expression[..at], &expression[at + separator.len()..]]);
                }
            }
            _ => {}
        }
    }
    None
}

#[test]
fn only_free_licences_come_in() {
    for (expression, allowed) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("MIT OR GPL-3.0", true),
        ("MIT/Apache-2.0", true),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
        ("(MIT OR Apache-2.0) AND GPL-2.0", false),
        ("Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT", true),
    ] {
        assert_eq!(is_allowed(expression), allowed, "{expression}");
    }
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap();
    let refused: Vec<String> = packages
        .iter()
        .filter(|package| !is_allowed(package["license"].as_str().unwrap_or("none")))
        .map(|package| format!("{} {}: {}", package["name"], package["version"], package["license"]))
        .collect();
    assert!(refused.is_empty(), "{refused:#?}");
}

#[test]
fn the_lock_file_stays_small_and_clean() {
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let names: Vec<&str> = lock.lines().filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"')).collect();
    assert!(names.len() > 50 && names.len() < PACKAGES_MAX, "{} packages", names.len());
    for (banned, why) in BANNED {
        assert!(!names.contains(&banned), "{banned} came in: {why}");
    }
    let mut counted: BTreeMap<&str, usize> = BTreeMap::new();
    for name in &names {
        *counted.entry(name).or_default() += 1;
    }
    // Two copies of SQLite in one process drop each other's locks (rule 7).
    assert_eq!(counted.get("libsqlite3-sys"), Some(&1));
    assert_eq!(counted.get("rusqlite"), Some(&1));
}
