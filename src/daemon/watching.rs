//! From the paths that the supervisor wants watched to its wakes.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::host::{Wake, Watcher};
use crate::supervisor::Message;

/// The second event of a file that keeps changing is held back this long, the next twice that, and so on…
const FIRST_HOLD: Duration = Duration::from_millis(5);
/// … up to this.
const LONGEST_HOLD: Duration = Duration::from_millis(500);
/// The kernel tells nothing of a folder above a watched one that was renamed: watches are put right this often.
const REFRESH: Duration = Duration::from_secs(30);

/// Keeps watches as `wanted` says and passes wakes on, until the supervisor is gone.
pub(super) async fn watch_files(
    mut wanted: watch::Receiver<BTreeSet<PathBuf>>,
    outbox: mpsc::UnboundedSender<Message>,
) {
    let mut watcher = match Watcher::start(FIRST_HOLD, LONGEST_HOLD) {
        Ok(watcher) => watcher,
        Err(error) => {
            tracing::warn!(%error, "file events cannot be had: failures are seen by the sweep alone");
            return;
        }
    };
    let mut folders = BTreeMap::<PathBuf, Option<PathBuf>>::new();
    let mut refresh = tokio::time::interval(REFRESH);
    refresh.tick().await;
    loop {
        let now = folders_of(&wanted.borrow_and_update());
        for (folder, only) in now.iter().filter(|(folder, only)| folders.get(*folder) != Some(*only)) {
            watcher.watch(folder, only.as_deref());
        }
        folders.keys().filter(|folder| !now.contains_key(*folder)).for_each(|folder| watcher.forget(folder));
        folders = now;
        tokio::select! {
            wake = watcher.next() => {
                let message = match wake {
                    Some(Wake::Path(path)) => Message::Changed { path, written: false },
                    Some(Wake::Written(path)) => Message::Changed { path, written: true },
                    Some(Wake::Everything) => Message::ChangedEverything,
                    None => return,
                };
                if outbox.send(message).is_err() {
                    return;
                }
            }
            changed = wanted.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            _ = refresh.tick() => watcher.refresh(),
        }
    }
}

/// The folders that they are in, each with the file that alone is wanted of it, if it is one with its side files.
fn folders_of(paths: &BTreeSet<PathBuf>) -> BTreeMap<PathBuf, Option<PathBuf>> {
    let mut folders = BTreeMap::<PathBuf, Option<PathBuf>>::new();
    // In order, so that a file comes before what is called after it; a wildcard's watch is for every name.
    let wildcard = |path: &Path| path.file_name().is_some_and(|name| name == "*");
    for path in paths {
        let Some(folder) = path.parent() else { continue };
        let is_of = |main: &Path| path.as_os_str().as_bytes().starts_with(main.as_os_str().as_bytes());
        folders
            .entry(folder.to_path_buf())
            .and_modify(|only| *only = only.take().filter(|main| is_of(main)))
            .or_insert_with(|| Some(path.clone()).filter(|path| !wildcard(path)));
    }
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_with_its_side_files_is_all_that_is_wanted_of_a_folder() {
        let paths = ["/a/app.db", "/a/app.db-journal", "/a/app.db-wal", "/b/one.db", "/b/one.db-wal", "/b/two.db"];
        let folders = folders_of(&paths.iter().map(PathBuf::from).collect());
        assert_eq!(folders[Path::new("/a")].as_deref(), Some(Path::new("/a/app.db")));
        assert_eq!(folders[Path::new("/b")], None);
        assert_eq!(folders_of(&BTreeSet::from([PathBuf::from("/c/*")]))[Path::new("/c")], None);
    }
}
