//! Which files are guardiand's own.

use std::path::Path;

use super::process::ProcessFacts;

/// What the name of every temporary file of guardiand begins with.
pub const OUR_PREFIX: &str = ".guardiand-";

/// Whether a file of this name is a temporary one of ours, which no glob matches and no watch reports.
///
/// SQLite's sidecars of such a file (`.guardiand-1.db-wal`) begin the same way, and so are ours too.
pub fn is_ours(file_name: impl AsRef<[u8]>) -> bool {
    file_name.as_ref().starts_with(OUR_PREFIX.as_bytes())
}

/// Removes from `folder` what processes of ours left there that were killed before they could: a name is
/// `prefix`, the pid of its maker, `-` or `.`, and whatever else. That of a process which lives stays: it may be its maker. What cannot be
/// removed is left to the next time.
pub fn sweep_out(folder: &Path, prefix: &str) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let maker = name.to_str().and_then(|name| name.strip_prefix(prefix)?.split(['-', '.']).next()?.parse().ok());
        if maker.is_some_and(|pid| ProcessFacts::of(pid).is_err_and(|error| error.is_absent())) {
            let _best_effort = match entry.file_type() {
                Ok(kind) if kind.is_dir() => std::fs::remove_dir_all(entry.path()),
                _ => std::fs::remove_file(entry.path()),
            };
        }
    }
}

/// What the name of a salvaged database begins with while it is made, before the pid.
pub const SALVAGE_PREFIX: &str = ".guardiand-salvage-";

/// What guardiand keeps in its state directory, by the beginnings of the names.
const OUR_STATE: [&str; 4] = ["state.db", "incidents", "backups", "scratch"];

/// Whether `path` is guardiand's own index, evidence, backup or private copy: never anybody's database to be supervised, also
/// where a state directory lies among the databases.
pub fn is_our_state(state_dir: &Path, path: &Path) -> bool {
    let Ok(below) = path.strip_prefix(state_dir) else { return false };
    let Some(first) = below.components().next() else { return false };
    let first = first.as_os_str().as_encoded_bytes();
    OUR_STATE.iter().any(|name| match *name {
        "state.db" => first.starts_with(name.as_bytes()),
        folder => first == folder.as_bytes() && below.components().nth(1).is_some(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_dead_left_is_swept_out_and_what_the_living_work_on_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let (dead, living) = (child.id(), std::process::id());
        child.wait().unwrap();
        let left = [format!("{OUR_PREFIX}{dead}-0.tmp"), format!("{OUR_PREFIX}{dead}-1.tmp")];
        let stays = [format!("{OUR_PREFIX}{living}-0.tmp"), format!("{dead}-0.tmp"), format!("{OUR_PREFIX}x-0.tmp")];
        std::fs::create_dir(folder.path().join(&left[1])).unwrap();
        for name in left[..1].iter().chain(&stays) {
            std::fs::write(folder.path().join(name), "x").unwrap();
        }
        sweep_out(folder.path(), OUR_PREFIX);
        let there = |name: &String| folder.path().join(name).exists();
        assert!(!left.iter().any(there) && stays.iter().all(there));
    }

    #[test]
    fn the_state_directory_s_own_files_are_ours_and_others_in_it_are_not() {
        for (path, ours) in [
            ("/s/state.db", true),
            ("/s/state.db-wal", true),
            ("/s/state.db.damaged-1", true),
            ("/s/incidents/1/evidence/main", true),
            ("/s/backups/app/1.db", true),
            ("/s/scratch/x", true),
            ("/s/app.db", false),
            ("/s/backups", false),
            ("/s/incidents.db", false),
            ("/other/state.db", false),
            ("/s", false),
        ] {
            assert_eq!(is_our_state(Path::new("/s"), Path::new(path)), ours, "{path}");
        }
    }

    #[test]
    fn only_names_that_begin_with_our_prefix_are_ours() {
        for (name, ours) in [
            (".guardiand-1.tmp", true),
            (".guardiand-1.db-wal", true),
            ("guardiand-1.tmp", false),
            ("app.db", false),
            ("app.guardiand-1", false),
            (".guardian", false),
            ("", false),
        ] {
            assert_eq!(is_ours(name), ours, "{name}");
        }
    }
}
