//! Who has a file open: the one thing that decides whether a file may be swapped (SQLITE.md, rules 4 and 13).
//!
//! Looked for by what the file *is*, through `/proc/PID/fd`, for a name proves nothing: an unlinked file has none and an
//! idle connection in rollback mode holds no locks. What cannot be seen is said, never taken for absence. Out of
//! reach altogether: descriptors in flight over a socket, and tables of threads that unshared theirs.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Dir, readlinkat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::error::{HostError, at};
use super::facts::{Device, FileFacts, FileId};
use super::proc_files::{
    DELETED, DescriptorAccess, blind_everywhere, deleted_name, descriptor_access, identity, open_folder, parse_mapping,
    without_deleted,
};
use super::process::ProcessFacts;
use super::procfs;
use super::siblings;

/// A file whose holders are sought, with the caller's tag for it.
#[derive(Debug, Clone)]
pub enum Sought<T> {
    /// A file that was looked at.
    File {
        /// The caller's word for it.
        tag: T,
        /// What it is.
        facts: FileFacts,
        /// Its device in `/proc/PID/maps`: [`super::Mounts::lock_device`].
        device: Device,
    },
    /// A file that is gone from this absolute path, as long as some process has it open still.
    UnlinkedFrom {
        /// The caller's word for it.
        tag: T,
        /// Where it was.
        path: PathBuf,
        /// A file that stands for what its rights were: the one at the path now, say. `None`: anybody could have opened it.
        like: Option<FileFacts>,
    },
    /// A file that was looked at once, wherever it is called now, or not at all. Another file that got its number since is
    /// told by when it was made.
    Known {
        /// The caller's word for it.
        tag: T,
        /// What it is.
        id: FileId,
        /// Its last change of any kind as it was seen then, in nanoseconds since the epoch.
        changed_ns: i128,
        /// Its owner, group and mode then.
        rights: (u32, u32, u32),
    },
    /// A file that is gone and that a process has open beside another that is sought, under the name that this one has *there*:
    /// through a bind mount, or in a container, a database and its WAL have another path than the one that is supervised.
    UnlinkedBeside {
        /// The caller's word for it.
        tag: T,
        /// The tags of the other file.
        of: Vec<T>,
        /// What its name has after the other's.
        suffix: &'static str,
    },
}

impl<T> Sought<T> {
    fn tag(&self) -> &T {
        match self {
            Sought::File { tag, .. }
            | Sought::UnlinkedFrom { tag, .. }
            | Sought::Known { tag, .. }
            | Sought::UnlinkedBeside { tag, .. } => tag,
        }
    }

    /// False for a file that was made after the one that is sought was seen: its number is another's by now.
    fn can_be(&self, born_ns: Option<i128>) -> bool {
        match self {
            Sought::Known { changed_ns, .. } => born_ns.is_none_or(|born| born <= *changed_ns),
            Sought::File { .. } | Sought::UnlinkedFrom { .. } | Sought::UnlinkedBeside { .. } => true,
        }
    }

    /// Whether a process with these rights could *write* it; when unsure, yes. One that could only read it can lose nothing:
    /// it commits nothing, and in WAL mode it could not even take part. Otherwise no ordinary user could ever heal on a
    /// host that runs other users' services, for a database is mostly readable by all.
    fn open_to(&self, process: &ProcessFacts) -> bool {
        let (uid, gid, mode) = match self {
            Sought::File { facts, .. } | Sought::UnlinkedFrom { like: Some(facts), .. } => {
                (facts.uid, facts.gid, facts.mode)
            }
            Sought::UnlinkedFrom { like: None, .. } => return true,
            Sought::Known { rights, .. } => *rights,
            // Who has it has the other file, and that one is what cannot be seen.
            Sought::UnlinkedBeside { .. } => return false,
        };
        process.uid == 0
            || process.uid == uid
            || mode & 0o002 != 0
            || (mode & 0o020 != 0 && process.gids.contains(&gid))
    }
}

/// How to look.
#[derive(Debug, Clone, Default)]
pub struct Scan {
    /// Also read `/proc/PID/maps`: finds a mapping that outlived its descriptor, and costs a few times as much.
    /// SQLite keeps the descriptor, so a sweep goes without; before a swap it is due.
    pub maps: bool,
    /// A process to pass over with all its children, as this one is: guardiand's own open files for a moment, and use none.
    pub but_children_of: Option<i32>,
}

/// One process that has one of the files open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder<T> {
    /// Which file: the caller's tag.
    pub what: T,
    /// What that file is.
    pub file: FileId,
    /// The process.
    pub pid: i32,
    /// The name of its program.
    pub comm: String,
    /// Its effective user.
    pub uid: u32,
    /// Its state letter: T is stopped.
    pub state: char,
    /// When it started, in milliseconds since boot.
    pub started_boot_ms: u64,
    /// Its descriptors of the file: `/proc/PID/fd/N` leads to the bytes even when no name does.
    pub fds: Vec<i32>,
    /// Whether it is mapped into its memory (only when asked for).
    pub mapped: bool,
    /// Whether the name under which it was opened is gone.
    pub deleted: bool,
    /// Whether it is open for reading alone.
    pub read_only: bool,
}

/// What one pass over /proc showed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holders<T> {
    /// One entry for each process and file.
    pub found: Vec<Holder<T>>,
    /// Why the picture is incomplete for all files, in words; empty when it is not.
    pub blind: Vec<String>,
    /// Why it is incomplete for one file, in words.
    pub blind_for: Vec<(T, String)>,
    /// A process of our own user, which is not root, could not be seen: as it is while it begins or ends.
    pub passing: bool,
    /// Processes of root were not looked at: any, when we are not root; init alone, when we are. Apart, for this is so
    /// on every host.
    pub root_unseen: bool,
}

impl<T: PartialEq> Holders<T> {
    /// The holders of one file.
    pub fn of<'a>(&'a self, tag: &'a T) -> impl Iterator<Item = &'a Holder<T>> {
        self.found.iter().filter(move |holder| holder.what == *tag)
    }

    /// All that could not be seen of one file; empty means that [`Holders::of`] is the whole truth, root apart.
    pub fn blind_to<'a>(&'a self, tag: &'a T) -> impl Iterator<Item = &'a str> {
        let own = self.blind_for.iter().filter(move |(what, _)| what == tag).map(|(_, why)| why.as_str());
        self.blind.iter().map(String::as_str).chain(own)
    }
}

/// A process that begins or ends is closed to everybody for a moment, and on a busy host for longer: it is given so many looks to show
/// what it has open.
const LOOKS_AT_PASSING: u32 = 15;

/// What may be closed for good is given these.
const LOOKS_AT_CLOSED: u32 = 4;

/// Time between two of them.
const BETWEEN_LOOKS: std::time::Duration = std::time::Duration::from_millis(10);

/// [`find_holders`], where a process that could be seen but for the moment is looked at again before it counts.
///
/// # Errors
/// As [`find_holders`].
pub fn find_holders_patiently<T: Clone + PartialEq>(
    sought: &[Sought<T>],
    scan: &Scan,
) -> Result<Holders<T>, HostError> {
    let mut found = find_holders(sought, scan)?;
    let mut looks = 1;
    while !found.blind_for.is_empty()
        && found.blind.is_empty()
        && looks < if found.passing { LOOKS_AT_PASSING } else { LOOKS_AT_CLOSED }
    {
        std::thread::sleep(BETWEEN_LOOKS);
        found = find_holders(sought, scan)?;
        looks += 1;
    }
    Ok(found)
}

/// Looks through all processes once for the holders of any of `sought`.
///
/// # Errors
/// [`HostError::ReadProc`] when /proc itself cannot be listed; a process that cannot be read is told in the result.
pub fn find_holders<T: Clone + PartialEq>(sought: &[Sought<T>], scan: &Scan) -> Result<Holders<T>, HostError> {
    let root = Path::new("/proc");
    let proc = open_folder(CWD, c"/proc").map_err(at(root, HostError::read_proc))?;
    let mut search = Search::new(sought, scan);
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    for entry in Dir::read_from(&proc).map_err(at(root, HostError::read_proc))? {
        let entry = entry.map_err(at(root, HostError::read_proc))?;
        let Some(pid) = entry.file_name().to_str().ok().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if pid == own {
            continue;
        }
        #[cfg(test)]
        if tests::is_copy_of_us(pid) {
            continue;
        }
        match search.look_at(&proc, pid) {
            Ok(()) => {}
            Err(Errno::NOENT | Errno::SRCH) => {} // it ended meanwhile: it holds nothing
            Err(_) if search.is_passed_over(pid) => {}
            Err(_) => search.unreadable(pid),
        }
    }
    Ok(search.conclude())
}

struct Search<'a, T> {
    sought: &'a [Sought<T>],
    by_id: HashMap<FileId, Vec<usize>>,
    by_device: HashMap<(Device, u64), Vec<usize>>,
    by_old_name: HashMap<Vec<u8>, Vec<usize>>,
    /// Files that have their names from others.
    beside: Vec<usize>,
    scan: &'a Scan,
    found: Vec<Holder<T>>,
    /// By file and uid: how many processes were closed to us, and one of them.
    closed: BTreeMap<(usize, u32), (usize, String)>,
    root_unseen: bool,
    we_are_root: bool,
}

/// What is gathered about one file in one process.
#[derive(Default)]
struct Sight {
    fds: Vec<i32>,
    mapped: bool,
    deleted: bool,
    writable: bool,
}

fn note(
    sights: &mut BTreeMap<(usize, FileId), Sight>,
    what: (usize, FileId),
    fd: i32,
    name: &[u8],
    access: &DescriptorAccess,
) {
    let sight = sights.entry(what).or_default();
    sight.fds.push(fd);
    sight.deleted |= name.ends_with(DELETED);
    sight.writable |= *access == DescriptorAccess::Write;
}

impl<'a, T: Clone + PartialEq> Search<'a, T> {
    fn new(sought: &'a [Sought<T>], scan: &'a Scan) -> Self {
        let mut by_id: HashMap<_, Vec<usize>> = HashMap::new();
        let mut by_device: HashMap<_, Vec<usize>> = HashMap::new();
        let mut by_old_name: HashMap<_, Vec<usize>> = HashMap::new();
        let mut beside = Vec::new();
        for (index, file) in sought.iter().enumerate() {
            match file {
                Sought::File { facts, device, .. } => {
                    by_id.entry(facts.id).or_default().push(index);
                    by_device.entry((*device, facts.id.ino)).or_default().push(index);
                }
                Sought::UnlinkedFrom { path, .. } => {
                    by_old_name.entry(deleted_name(path)).or_default().push(index);
                }
                Sought::Known { id, .. } => by_id.entry(*id).or_default().push(index),
                Sought::UnlinkedBeside { .. } => beside.push(index),
            }
        }
        let we_are_root = rustix::process::geteuid().is_root();
        let (found, closed, root_unseen) = (Vec::new(), BTreeMap::new(), false);
        Search { sought, by_id, by_device, by_old_name, beside, scan, found, closed, root_unseen, we_are_root }
    }

    /// Asked of the few that matter: it costs a read of each.
    fn is_passed_over(&self, pid: i32) -> bool {
        self.scan.but_children_of.is_some_and(|supervisor| siblings::is_of(pid, supervisor))
    }

    fn look_at(&mut self, proc: &OwnedFd, pid: i32) -> Result<(), Errno> {
        let mut sights: BTreeMap<(usize, FileId), Sight> = BTreeMap::new();
        self.look_at_descriptors(proc, pid, &mut sights)?;
        if self.scan.maps {
            self.look_at_maps(pid, &mut sights)?;
        }
        if sights.is_empty() || self.is_passed_over(pid) {
            return Ok(());
        }
        let Ok(process) = ProcessFacts::of(pid) else { return Err(Errno::SRCH) };
        if super::keeper::is_ours(&process) {
            return Ok(());
        }
        for ((index, file), sight) in sights {
            let Some(sought) = self.sought.get(index) else { continue };
            self.found.push(Holder {
                what: sought.tag().clone(),
                file,
                pid,
                comm: process.comm.clone(),
                uid: process.uid,
                state: process.state,
                started_boot_ms: process.started_boot_ms,
                fds: sight.fds,
                mapped: sight.mapped,
                deleted: sight.deleted,
                read_only: !sight.writable,
            });
        }
        Ok(())
    }

    fn look_at_descriptors(
        &self,
        proc: &OwnedFd,
        pid: i32,
        sights: &mut BTreeMap<(usize, FileId), Sight>,
    ) -> Result<(), Errno> {
        let fds = open_folder(proc, format!("{pid}/fd").as_str())?;
        // What is gone, and the names under which the process has what is sought.
        let mut unlinked_ones: Vec<(i32, FileId, Vec<u8>)> = Vec::new();
        let mut names: Vec<(usize, Vec<u8>)> = Vec::new();
        for entry in Dir::read_from(&fds)? {
            let entry = entry?;
            let Some(fd) = entry.file_name().to_str().ok().and_then(|name| name.parse::<i32>().ok()) else { continue };
            let (id, nlink, born_ns) = match identity(&fds, entry.file_name()) {
                Ok(identity) => identity,
                Err(Errno::NOENT) => continue, // closed meanwhile
                Err(errno) => return Err(errno),
            };
            let known = self.by_id.get(&id).map_or(&[][..], Vec::as_slice);
            if known.is_empty() && (nlink > 0 || self.by_old_name.is_empty() && self.beside.is_empty()) {
                continue;
            }
            let name = readlinkat(&fds, entry.file_name(), Vec::new()).unwrap_or_default().into_bytes();
            if nlink == 0 && !self.beside.is_empty() {
                unlinked_ones.push((fd, id, name.clone()));
            }
            let unlinked = self.by_old_name.get(&name).map_or(&[][..], Vec::as_slice);
            let can_be = |index: &&usize| self.sought.get(**index).is_some_and(|sought| sought.can_be(born_ns));
            let these = known.iter().chain(unlinked).filter(can_be).collect::<Vec<_>>();
            if these.is_empty() {
                continue;
            }
            let Some(access) = descriptor_access(pid, fd) else { continue };
            for index in these {
                note(sights, (*index, id), fd, &name, &access);
                names.push((*index, without_deleted(&name).to_vec()));
            }
        }
        self.look_beside(pid, &unlinked_ones, &names, sights);
        Ok(())
    }

    /// Among what is gone: what has the name of one of the others with its suffix. What was found otherwise is not told twice.
    fn look_beside(
        &self,
        pid: i32,
        unlinked: &[(i32, FileId, Vec<u8>)],
        names: &[(usize, Vec<u8>)],
        sights: &mut BTreeMap<(usize, FileId), Sight>,
    ) {
        let tag_of = |index: usize| self.sought.get(index).map(Sought::tag);
        for index in &self.beside {
            let Some(Sought::UnlinkedBeside { tag, of, suffix }) = self.sought.get(*index) else { continue };
            let is_of = |base: &usize| tag_of(*base).is_some_and(|base| of.contains(base));
            let bases = names.iter().filter(|(base, _)| is_of(base)).map(|(_, name)| name.as_slice());
            let wanted = bases.map(|name| [name, suffix.as_bytes(), DELETED].concat()).collect::<Vec<_>>();
            for (fd, id, name) in unlinked.iter().filter(|(_, _, name)| wanted.contains(name)) {
                if sights.keys().any(|(other, file)| file == id && other != index && tag_of(*other) == Some(tag)) {
                    continue;
                }
                if let Some(access) = descriptor_access(pid, *fd) {
                    note(sights, (*index, *id), *fd, name, &access);
                }
            }
        }
    }

    /// A mapping does not tell whether its file was opened for writing: a shared writable one does.
    fn look_at_maps(&self, pid: i32, sights: &mut BTreeMap<(usize, FileId), Sight>) -> Result<(), Errno> {
        let maps = match procfs::text(Path::new(&format!("/proc/{pid}/maps"))) {
            Ok(maps) => maps,
            Err(error) => return Err(error.errno().unwrap_or(Errno::IO)),
        };
        for line in maps.lines() {
            let Some((permissions, device, ino, name)) = parse_mapping(line) else { continue };
            let known = self.by_device.get(&(device, ino)).map_or(&[][..], Vec::as_slice);
            let unlinked = self.by_old_name.get(name.as_bytes()).map_or(&[][..], Vec::as_slice);
            for index in known.iter().chain(unlinked) {
                let id = match self.sought.get(*index) {
                    Some(Sought::File { facts, .. }) => facts.id,
                    Some(Sought::UnlinkedFrom { .. }) => FileId { dev: device, ino },
                    // A mapping does not tell when its file was made.
                    Some(Sought::Known { .. } | Sought::UnlinkedBeside { .. }) | None => continue,
                };
                let sight = sights.entry((*index, id)).or_default();
                sight.mapped = true;
                sight.deleted |= name.as_bytes().ends_with(DELETED);
                sight.writable |= permissions.starts_with("rw") && permissions.ends_with('s');
            }
        }
        Ok(())
    }

    fn unreadable(&mut self, pid: i32) {
        let process = match ProcessFacts::of(pid) {
            Ok(process) if process.state == 'Z' => return,
            // Init of the host may be closed even to root (in another PID namespace all is blind anyway): it opens no
            // database, and to be blind for its sake would forbid every swap.
            Ok(process) if process.uid == 0 && (!self.we_are_root || pid == 1) => {
                self.root_unseen = true;
                return;
            }
            Ok(process) => process,
            Err(error) if error.is_absent() => return,
            // hidepid=1: not even its user is told. It counts as anybody.
            Err(_) => {
                ProcessFacts { pid, comm: "hidden".into(), uid: 0, gids: Vec::new(), state: '?', started_boot_ms: 0 }
            }
        };
        for (index, sought) in self.sought.iter().enumerate() {
            if sought.open_to(&process) {
                let example = || (0, format!("{pid} {}", process.comm));
                self.closed.entry((index, process.uid)).or_insert_with(example).0 += 1;
            }
        }
    }

    fn conclude(self) -> Holders<T> {
        let blind_for = self.closed.iter().filter_map(|((index, uid), (count, example))| {
            let why = format!(
                "the open files of {count} process(es) of uid {uid}, such as {example}, cannot be seen, and they could \
                 have it open: run guardiand as root or with CAP_SYS_PTRACE"
            );
            Some((self.sought.get(*index)?.tag().clone(), why))
        });
        let own = rustix::process::geteuid().as_raw();
        let passing = !self.we_are_root && self.closed.keys().any(|(_, uid)| *uid == own);
        Holders {
            blind: blind_everywhere(self.we_are_root),
            blind_for: blind_for.collect(),
            passing,
            root_unseen: self.root_unseen,
            found: self.found,
        }
    }
}

#[cfg(test)]
mod tests;
