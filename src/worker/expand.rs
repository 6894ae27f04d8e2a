//! A glob, resolved to the database files that match it now.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::backup;
use crate::host::{is_our_state, is_ours};
use crate::job::{FailureKind, JobFailure, KeptMatches, Outcome};
use crate::model::glob;

/// How deep `**` goes.
const DEPTH: usize = 64;

/// So many unseen places are named.
const UNSEEN: usize = 20;

/// Resolves `pattern` to at most `max` regular files, sorted by path. What `exclude` names is none of them, and takes nobody's room.
///
/// Folders that a wildcard matched are not followed through links: a link planted beside a program's folder shall not name
/// a file elsewhere. Folders that are written out resolve as everywhere. What guardiand itself keeps, in `state_dir` or as
/// backups elsewhere, is no match: a backup that is supervised would be restored when the retention deletes it.
///
/// A match of before whose backups are in `kept` is still one, though its file is gone: that is what its backups are for.
pub(super) fn run(
    (pattern, exclude): (&str, &[String]),
    max: usize,
    state_dir: &Path,
    kept: Option<&KeptMatches>,
) -> Result<Outcome, JobFailure> {
    let Some(components) = glob::components(pattern) else {
        let message = format!("the pattern {pattern:?} is not absolute: give it from the root on");
        return Err(JobFailure { kind: FailureKind::Refused, message });
    };
    let keep_empty = glob::keeps_empty(&components);
    let mut walk = Walk { max, exclude, state_dir, keep_empty, matches: Vec::new(), unseen: Vec::new() };
    walk.visit(Path::new("/"), &components, &mut Vec::new(), 0)?;
    let Walk { mut matches, mut unseen, .. } = walk;
    matches.sort();
    matches.dedup_by(|one, other| one.0 == other.0);
    let truncated = matches.len() > max;
    matches.truncate(max);
    let kept = kept.map_or_else(Vec::new, |kept| backed_up(pattern, kept, &matches, max, &mut unseen));
    Ok(Outcome::Expanded { matches, truncated, unseen, kept })
}

/// What matched `pattern` when it was backed up, and is not among `matches`.
fn backed_up(
    pattern: &str,
    kept: &KeptMatches,
    matches: &[(PathBuf, String)],
    max: usize,
    unseen: &mut Vec<String>,
) -> Vec<(PathBuf, String)> {
    let target = |matched: &str| format!("{}/{matched}", kept.name);
    let there: HashSet<String> = matches.iter().map(|(_, matched)| backup::folder_name(&target(matched))).collect();
    let names = match std::fs::read_dir(&kept.folder) {
        Ok(entries) => entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()),
        Err(error) => {
            // Without a backup there is no such folder either.
            if error.kind() != ErrorKind::NotFound && unseen.len() < UNSEEN {
                unseen.push(format!("could not list {}: {error}", kept.folder.display()));
            }
            return Vec::new();
        }
    };
    let begins = backup::folder_name(&target(""));
    let missing = names.filter(|name| name.starts_with(&begins) && !there.contains(name));
    let mut found = Vec::new();
    for folder in missing.take(max) {
        let Some((of, source)) = backup::source_in(&kept.folder.join(&folder)) else { continue };
        let Some(matched) = source.to_str().and_then(|path| glob::matched(pattern, path)) else { continue };
        if of == target(&matched) {
            found.push((source, matched));
        }
    }
    found.sort();
    found
}

struct Walk<'a> {
    max: usize,
    exclude: &'a [String],
    state_dir: &'a Path,
    /// With one `**` its empty match can go unsaid; with two it tells which of them matched.
    keep_empty: bool,
    matches: Vec<(PathBuf, String)>,
    unseen: Vec<String>,
}

impl Walk<'_> {
    fn visit(
        &mut self,
        folder: &Path,
        components: &[&str],
        captured: &mut Vec<String>,
        depth: usize,
    ) -> Result<(), JobFailure> {
        if self.matches.len() > self.max {
            return Ok(());
        }
        match components {
            [] => {}
            ["**", rest @ ..] => self.visit_deep(folder, rest, captured, depth)?,
            [literal, rest @ ..] if !glob::is_wild(literal) => {
                let path = folder.join(literal);
                if rest.is_empty() { self.keep_file(path, captured) } else { self.visit(&path, rest, captured, depth)? }
            }
            [wild, rest @ ..] => {
                for (name, is_folder) in self.names(folder, captured.is_empty())? {
                    let Some(mut found) = glob::captures(wild, &name) else { continue };
                    let before = captured.len();
                    captured.append(&mut found);
                    if rest.is_empty() {
                        self.keep_file(folder.join(&name), captured);
                    } else if is_folder {
                        self.visit(&folder.join(&name), rest, captured, depth)?;
                    }
                    captured.truncate(before);
                }
            }
        }
        Ok(())
    }

    /// `**`: `rest` here, and in every folder beneath.
    fn visit_deep(
        &mut self,
        folder: &Path,
        rest: &[&str],
        captured: &mut Vec<String>,
        depth: usize,
    ) -> Result<(), JobFailure> {
        // A `**` at the end means every file beneath.
        let rest = if rest.is_empty() { &["*"] } else { rest };
        let mut below = vec![(folder.to_owned(), Vec::<String>::new())];
        while let Some((folder, path)) = below.pop() {
            let before = captured.len();
            if !path.is_empty() || self.keep_empty {
                captured.push(path.join("/"));
            }
            self.visit(&folder, rest, captured, depth + 1)?;
            captured.truncate(before);
            if path.len() >= DEPTH || depth >= DEPTH || self.matches.len() > self.max {
                continue;
            }
            let names = self.names(&folder, captured.is_empty() && path.is_empty())?;
            for (name, _) in names.into_iter().rev().filter(|(name, is_folder)| *is_folder && !name.starts_with('.')) {
                let mut path = path.clone();
                path.push(name.clone());
                below.push((folder.join(name), path));
            }
        }
        Ok(())
    }

    /// The entries of `folder`, sorted, each with whether it is a folder itself. `written_out`: the user named this very
    /// folder, so that its failure is the glob's; one that a wildcard found is only unseen.
    fn names(&mut self, folder: &Path, written_out: bool) -> Result<Vec<(String, bool)>, JobFailure> {
        let mut names = Vec::new();
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(names),
            Err(error) if written_out => {
                let message = format!("could not list {}: {error}", folder.display());
                return Err(JobFailure { kind: FailureKind::Failed, message });
            }
            Err(error) => {
                self.leave_unseen(format!("could not list {}: {error}", folder.display()));
                return Ok(names);
            }
        };
        for entry in entries {
            match entry.and_then(|entry| Ok((entry.file_name(), entry.file_type()?.is_dir()))) {
                Ok((name, is_folder)) => match name.into_string() {
                    Ok(name) => names.push((name, is_folder)),
                    Err(name) => self.leave_unseen(format!("{} is not UTF-8", folder.join(name).display())),
                },
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => self.leave_unseen(format!("could not list all of {}: {error}", folder.display())),
            }
        }
        names.sort();
        Ok(names)
    }

    fn leave_unseen(&mut self, what: String) {
        if self.unseen.len() < UNSEEN {
            self.unseen.push(what);
        }
    }

    fn keep_file(&mut self, path: PathBuf, captured: &[String]) {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return };
        let side_file = ["-wal", "-shm", "-journal"].iter().any(|suffix| name.ends_with(suffix));
        if side_file || is_ours(name) || is_our_state(self.state_dir, &path) || is_backup(&path, name) {
            return;
        }
        let matched = captured.join("/");
        if !self.exclude.contains(&matched) && std::fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file()) {
            self.matches.push((path, matched));
        }
    }
}

/// A backup of ours, or of another guardiand's: by its name, beside its manifest.
fn is_backup(path: &Path, name: &str) -> bool {
    crate::backup::is_backup_name(name.as_ref()) && path.with_file_name(crate::backup::manifest_name(name)).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        root
    }

    fn expand(root: &Path, pattern: &str, max: usize) -> (Vec<String>, bool, Vec<String>) {
        match run((&format!("{}/{pattern}", root.display()), &[]), max, &root.join("state"), None).unwrap() {
            Outcome::Expanded { matches, truncated, unseen, .. } => {
                assert!(matches.is_sorted());
                (matches.into_iter().map(|(_, captured)| captured).collect(), truncated, unseen)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_match_is_named_by_what_the_wildcards_matched() {
        let root = tree(&["a/db-1.sqlite", "b/db-2.sqlite", "b/other.txt", "c/d/db-3.sqlite"]);
        assert_eq!(expand(root.path(), "*/db-*.sqlite", 10).0, ["a/1", "b/2"]);
        assert_eq!(expand(root.path(), "**/db-*.sqlite", 10).0, ["a/1", "b/2", "c/d/3"]);
        assert_eq!(expand(root.path(), "a/**/db-?.sqlite", 10).0, ["1"]);
        assert_eq!(expand(root.path(), "b/**", 10).0, ["db-2.sqlite", "other.txt"]);
        assert_eq!(expand(root.path(), "nothing/*", 10).0, Vec::<String>::new());
    }

    #[test]
    fn side_files_and_files_of_ours_and_folders_and_links_never_match() {
        let root = tree(&["app.db", "app.db-wal", "app.db-shm", "app.db-journal", ".guardiand-x.db", "dir/x"]);
        std::os::unix::fs::symlink(root.path().join("app.db"), root.path().join("link.db")).unwrap();
        std::os::unix::fs::symlink(root.path().join("dir"), root.path().join("linked")).unwrap();
        assert_eq!(expand(root.path(), "*", 10).0, ["app.db"]);
        assert_eq!(expand(root.path(), "*/x", 10).0, ["dir"]);
        assert_eq!(expand(root.path(), ".*", 10).0, Vec::<String>::new());
    }

    #[test]
    fn what_guardiand_keeps_among_the_databases_never_matches() {
        let root = tree(&[
            "app.db",
            "state/state.db",
            "state/incidents/1/evidence/x.db",
            "state/users.db",
            "copies/app/20261122T061705.077Z.db",
            "copies/app/20261122T061705.077Z.db.json",
            "copies/app/20261122T061706.077Z.db",
        ]);
        let (names, ..) = expand(root.path(), "**/*.db", 10);
        assert_eq!(names, ["app", "copies/app/20261122T061706.077Z", "state/users"], "a name alone makes no backup");
    }

    #[test]
    fn more_than_the_bound_is_said_and_the_first_stay() {
        let root = tree(&["1.db", "2.db", "3.db"]);
        let (names, truncated, _) = expand(root.path(), "*.db", 2);
        assert_eq!((names.as_slice(), truncated), (["1".to_owned(), "2".to_owned()].as_slice(), true));
        assert!(!expand(root.path(), "*.db", 3).1);
    }

    #[test]
    fn a_name_that_is_not_utf_8_is_said_and_hides_no_other() {
        use std::os::unix::ffi::OsStrExt;
        let root = tree(&["a.db"]);
        std::fs::write(root.path().join(std::ffi::OsStr::from_bytes(b"\xff.db")), "x").unwrap();
        let (names, _, unseen) = expand(root.path(), "*.db", 9);
        assert_eq!(names, ["a"]);
        assert_eq!(unseen.len(), 1, "{unseen:?}");
    }

    #[test]
    fn a_relative_pattern_is_refused() {
        assert_eq!(run(("*.db", &[]), 1, Path::new("/s"), None).unwrap_err().kind, FailureKind::Refused);
    }
}
