//! Who goes on with files that are not at the database's path any more (SQLITE.md, sections 1 and 3).

use std::path::Path;

use crate::host::{self, Device, FileId, FileKind, Holder, Mounts, Scan, Sought, find_holders, supervisor};
use crate::job::{CutOff, CutOffHolder, FileFacts, Fingerprint};

/// A database's files, with the suffixes of their names.
const FILES: [(What, &str); 4] =
    [(What::Main, ""), (What::Wal, "-wal"), (What::Shm, "-shm"), (What::Journal, "-journal")];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Main,
    Wal,
    /// The WAL as it was remembered, until it is known to be one still.
    LastWal,
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
    /// Looks through all processes once. `last`: the files when they were last seen healthy; they may have other names by now.
    pub(in crate::worker) fn of(path: &Path, last: Option<&Fingerprint>) -> Result<Sight, host::HostError> {
        let mounts = Mounts::read()?;
        let (sought, main_is_there) = sought(path, last, &mounts);
        let scan = Scan { maps: false, but_children_of: supervisor() };
        let seen = find_holders(&sought, &scan)?;
        let blind = !seen.blind.is_empty() || !seen.blind_for.is_empty();
        let mut found = seen.found;
        // Who can only read the old file beside a new one commits nothing to it.
        found.retain(|holder| !(holder.read_only && main_is_there));
        remembered_beside_main(&mut found);
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

fn sought(path: &Path, last: Option<&Fingerprint>, mounts: &Mounts) -> (Vec<Sought<Tag>>, bool) {
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
    for (what, suffix) in FILES.into_iter().skip(1) {
        let of = vec![(What::Main, false), (What::Main, true)];
        sought.push(Sought::UnlinkedBeside { tag: (what, true), of, suffix });
    }
    if let Some(last) = last {
        let is_at = |id, suffix| look(suffix).is_some_and(|facts| facts.id == id);
        let lasts = [(What::Main, "", Some(&last.main)), (What::LastWal, "-wal", last.wal.as_ref())];
        for (what, suffix, facts) in lasts {
            sought.extend(facts.filter(|facts| !is_at(id_of(facts), suffix)).map(|facts| known(what, facts)));
        }
    }
    (sought, main.is_some())
}

fn known(what: What, last: &FileFacts) -> Sought<Tag> {
    let rights = (last.uid, last.gid, last.mode);
    Sought::Known { tag: (what, true), id: id_of(last), changed_ns: i128::from(last.ctime_ns), rights }
}

fn id_of(facts: &FileFacts) -> FileId {
    FileId { dev: Device { major: rustix::fs::major(facts.dev), minor: rustix::fs::minor(facts.dev) }, ino: facts.ino }
}

/// A WAL comes and goes with its programs, its number is soon another file's, and not every file system tells when that was made:
/// by its number it is one where its process has the main file too.
fn remembered_beside_main(found: &mut Vec<Holder<Tag>>) {
    let mains: Vec<_> = found.iter().filter(|one| one.what.0 == What::Main).map(|one| one.pid).collect();
    found.retain(|one| one.what.0 != What::LastWal || mains.contains(&one.pid));
    found.iter_mut().filter(|one| one.what.0 == What::LastWal).for_each(|one| one.what.0 = What::Wal);
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
        What::Wal | What::LastWal => add(&mut holder.wals),
        What::Shm | What::Journal => {}
    }
    let name = match what {
        What::Main => "main",
        What::Wal | What::LastWal => "wal",
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
