//! From the paths that the supervisor wants watched to its wakes.

use std::collections::BTreeSet;
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
    let mut folders = BTreeSet::new();
    let mut refresh = tokio::time::interval(REFRESH);
    refresh.tick().await;
    loop {
        let now = folders_of(&wanted.borrow_and_update());
        now.difference(&folders).for_each(|folder| watcher.watch(folder));
        folders.difference(&now).for_each(|folder| watcher.forget(folder));
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

fn folders_of(paths: &BTreeSet<PathBuf>) -> BTreeSet<PathBuf> {
    paths.iter().filter_map(|path| path.parent()).map(Path::to_path_buf).collect()
}
