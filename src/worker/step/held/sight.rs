//! Who goes on with files that are not at the database's path any more (SQLITE.md, sections 1 and 3).

use std::path::Path;

use crate::host::{
    self, Device, FileId, FileKind, Holder, Mounts, Scan, Sought, find_holders, supervisor_and_siblings,
};
use crate::job::{CutOff, CutOffHolder, FileFacts};

/// A database's files, with the suffixes of their names.
const FILES: [(What, &str); 4] =
    [(What::Main, ""), (What::Wal, "-wal"), (What::Shm, "-shm"), (What::Journal, "-journal")];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Main,
    Wal,
    Shm,
    Journal,
}

/// The file that is at the path, or another one that was.
type Tag = (What, bool);

/// One file that one process has open.
#[derive(Debug, Clone)]
pub(super) struct Hold {
    pub what: What,
    /// It is not at the path.
    pub gone: bool,
    pub file: FileId,
    pub pid: i32,
    pub fd: i32,
}

/// What was seen.
#[derive(Debug)]
pub(in crate::worker) struct Sight {
    /// `None` when nobody is cut off.
    pub(in crate::worker) cut_off: Option<CutOff>,
    pub(super) holds: Vec<Hold>,
    /// There may be processes that could not be looked into.
    pub(super) blind: bool,
}

impl Sight {
    /// Looks through all processes once. `last`: the main file when it was last seen healthy; it may have another name by now.
    pub(in crate::worker) fn of(path: &Path, last: Option<&FileFacts>) -> Result<Sight, host::HostError> {
        let mounts = Mounts::read()?;
        let (sought, main_is_there) = sought(path, last, &mounts);
        let scan = Scan { maps: false, except: supervisor_and_siblings() };
        let seen = find_holders(&sought, &scan)?;
        let blind = !seen.blind.is_empty() || !seen.blind_for.is_empty();
        let mut found = seen.found;
        // Who can only read the old file beside a new one commits nothing to it.
        found.retain(|holder| !(holder.read_only && main_is_there));
        let (cut, there): (Vec<_>, Vec<_>) =
            found.iter().partition(|one| found.iter().any(|other| other.pid == one.pid && is_cut_off(other)));
        let mut others = Vec::new();
        for holder in there.iter().filter(|holder| holder.what == (What::Main, false)) {
            others.push((holder.pid, holder.comm.clone()));
        }
        let mut holders: Vec<CutOffHolder> = Vec::new();
        for one in &cut {
            let at = holders.iter().position(|holder| holder.pid == one.pid).unwrap_or_else(|| {
                holders.push(begin(one));
                holders.len() - 1
            });
            if let Some(holder) = holders.get_mut(at) {
                note(holder, one);
            }
        }
        let holds = cut.iter().flat_map(|one| one.fds.first().map(|fd| hold(one, *fd))).collect();
        Ok(Sight { cut_off: (!holders.is_empty()).then_some(CutOff { holders, others }), holds, blind })
    }
}

fn sought(path: &Path, last: Option<&FileFacts>, mounts: &Mounts) -> (Vec<Sought<Tag>>, bool) {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let at = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        std::path::PathBuf::from(name)
    };
    let look = |suffix: &str| {
        host::FileFacts::of_path(&at(suffix), false).ok().filter(|facts| facts.kind == FileKind::Regular)
    };
    let main = look("");
    let mut sought = Vec::new();
    for (what, suffix) in FILES {
        let facts = look(suffix);
        let like = facts.clone().or_else(|| main.clone());
        sought.push(Sought::UnlinkedFrom { tag: (what, true), path: at(suffix), like });
        if let Some(facts) = facts {
            let device = mounts.lock_device(&facts, &at(suffix));
            sought.push(Sought::File { tag: (what, false), facts, device });
        }
    }
    if let Some(last) = last {
        let dev = Device { major: rustix::fs::major(last.dev), minor: rustix::fs::minor(last.dev) };
        let id = FileId { dev, ino: last.ino };
        if main.as_ref().is_none_or(|main| main.id != id) {
            let rights = (last.uid, last.gid, last.mode);
            sought.push(Sought::Known { tag: (What::Main, true), id, changed_ns: i128::from(last.ctime_ns), rights });
        }
    }
    (sought, main.is_some())
}

/// A journal comes and goes with every transaction; the other files are opened once.
fn is_cut_off(holder: &Holder<Tag>) -> bool {
    matches!(holder.what, (What::Main | What::Wal | What::Shm, true))
}

fn begin(one: &Holder<Tag>) -> CutOffHolder {
    CutOffHolder {
        pid: one.pid,
        comm: one.comm.clone(),
        state: one.state,
        started_ms: one.started_boot_ms,
        gone: Vec::new(),
        mains: Vec::new(),
        wals: Vec::new(),
    }
}

fn note(holder: &mut CutOffHolder, one: &Holder<Tag>) {
    let (what, gone) = one.what;
    let add = |list: &mut Vec<u64>| {
        if !list.contains(&one.file.ino) {
            list.push(one.file.ino);
        }
    };
    match what {
        What::Main => add(&mut holder.mains),
        What::Wal => add(&mut holder.wals),
        What::Shm | What::Journal => {}
    }
    let name = match what {
        What::Main => "main",
        What::Wal => "wal",
        What::Shm => "shm",
        What::Journal => return,
    };
    if gone && !holder.gone.iter().any(|known| known == name) {
        holder.gone.push(name.to_owned());
    }
}

fn hold(one: &Holder<Tag>, fd: i32) -> Hold {
    let (what, gone) = one.what;
    Hold { what, gone, file: one.file, pid: one.pid, fd }
}
