//! What a watch says, and the box where it waits to be taken.

use std::collections::BTreeSet;
use std::path::PathBuf;

/// Something may have happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wake {
    /// To this file; or to all in this folder, when it is a watched one: it came, went, or is watched from now on.
    Path(PathBuf),
    /// Bytes of this file were written: what a database does all day, so its look may be put off a little.
    Written(PathBuf),
    /// To anything: events were lost.
    Everything,
}

/// Wakes that nobody has taken yet, each once.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    everything: bool,
    paths: BTreeSet<PathBuf>,
    written: BTreeSet<PathBuf>,
}

impl Outbox {
    /// Most wakes that wait: more of them mean "everything".
    const MOST: usize = 16_384;

    pub(super) fn put(&mut self, path: PathBuf) {
        if self.paths.len() >= Self::MOST {
            self.put_everything();
        } else if !self.everything {
            self.written.remove(&path);
            self.paths.insert(path);
        }
    }

    pub(super) fn put_written(&mut self, path: PathBuf) {
        if self.written.len() >= Self::MOST {
            self.put_everything();
        } else if !self.everything && !self.paths.contains(&path) {
            self.written.insert(path);
        }
    }

    pub(super) fn put_everything(&mut self) {
        self.everything = true;
        self.paths.clear();
        self.written.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.everything && self.paths.is_empty() && self.written.is_empty()
    }

    pub(super) fn take(&mut self) -> Wake {
        self.everything = false;
        let come_and_gone = self.paths.pop_first().map(Wake::Path);
        come_and_gone.or_else(|| self.written.pop_first().map(Wake::Written)).unwrap_or(Wake::Everything)
    }
}
