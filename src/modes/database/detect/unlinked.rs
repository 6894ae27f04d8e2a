//! Programs that go on with files which are not at the path any more, and what is kept of such files.

use super::super::kinds::{self, EXISTS};
use super::Judgement;
use crate::job::{CutOff, CutOffHolder, FileState};
use crate::model::Severity;

impl Judgement<'_> {
    /// True when nothing else needs to be judged: what is at the path is not what the program has.
    pub(super) fn is_unlinked(&mut self) -> bool {
        let path = self.config.path.display().to_string();
        if let Some(cut_off) = &self.facts.cut_off {
            let Some(holder) = cut_off.holders.first() else { return false };
            let detail = describe(&path, cut_off, holder, &self.facts.main);
            // Whether a copy could be made is not known before there is one.
            let kept = match &self.facts.held {
                Some(held) if held.kept => "guardiand keeps it",
                _ => "nowhere else until guardiand has a copy of it",
            };
            let pid = holder.pid;
            let todo = format!("do not kill pid {pid}: the data is reachable through /proc/{pid}/fd, and {kept}");
            self.find(&kinds::FILE_UNLINKED, Severity::Critical, &EXISTS, detail, todo);
            return true;
        }
        let Some(held) = &self.facts.held else { return false };
        let detail = format!(
            "{} had files of {path} open that are not at the path any more, and has ended; what it had is in {}",
            held.by,
            held.folder.display()
        );
        self.find(&kinds::FILE_UNLINKED, Severity::Critical, &EXISTS, detail, "put back what it had; guardiand does");
        true
    }
}

fn describe(path: &str, cut_off: &CutOff, holder: &CutOffHolder, main: &FileState) -> String {
    let (comm, pid) = (&holder.comm, holder.pid);
    let more = match cut_off.holders.len() - 1 {
        0 => String::new(),
        more => format!(", and {more} more do so too"),
    };
    let others =
        cut_off.others.first().map(|(pid, comm)| format!("; {comm} (pid {pid}) uses the file that is there now"));
    let others = others.unwrap_or_default();
    let gone = |what: &str| holder.gone.iter().any(|gone| gone == what);
    match main {
        _ if !gone("main") => {
            let what = if gone("wal") { "-wal" } else { "-shm" };
            format!(
                "the {what} of {path} was deleted or replaced, and {comm} (pid {pid}) still has the old one open{more}{others}"
            )
        }
        FileState::Missing => {
            format!("{path} is gone, and {comm} (pid {pid}) still has the old file open{more}{others}")
        }
        _ => format!("{path} was replaced, and {comm} (pid {pid}) still has the old file open{more}{others}"),
    }
}
