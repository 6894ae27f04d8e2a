//! The keeper: it has the files open beside their programs, copies them while they change, and once more when they are free.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::sight::{Hold, Sight, What};
use super::{AtPath, HeldFile, MAIN, PREFIX, Paper, lock, numbered};
use crate::backup::{hash, job_facts, shared_lock, side_name};
use crate::host::{Bytes, Folder, HostError, OfdLock, Ownership, ProcessHandle, copy_file, open_descriptor_of};
use crate::job::{CutOff, FileFacts, JobFailure};
use crate::worker::step::evidence::{MANIFEST, same_content, write_json};
use crate::worker::step::place::{Place, need_space};
use crate::worker::step::{failed, while_};

/// `-shm`'s byte that a checkpoint holds.
const WAL_CHECKPOINT: Bytes = Bytes::new(121, 1);
/// A WAL's header: it changes when the WAL begins anew.
const WAL_HEADER_BYTES: usize = 32;
/// How often files that change under our hands are copied anew.
const TRIES: u32 = 3;
/// At most so often the files are looked at for changes…
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// … and copying them takes no more than this share of the time.
const COPY_SHARE: u32 = 20;
/// When a copy failed (no room, say), it is tried again after this.
const TRY_AGAIN: Duration = Duration::from_secs(2);

/// The files of one side, open.
pub(in crate::worker::step) struct Side {
    main: File,
    wal: Option<File>,
    shm: Option<File>,
}

/// What a keeper works on.
pub(in crate::worker::step) struct Keep<'a> {
    place: &'a Place<'a>,
    sides: Vec<Side>,
    handles: Vec<ProcessHandle>,
    by: String,
    contested: bool,
    at_path: AtPath,
    /// Nobody was found to have them open any more.
    free: bool,
    /// And nobody can have been missed.
    surely: bool,
}

impl<'a> Keep<'a> {
    /// Opens what is held, through the descriptors of those who hold it: the files have no other name.
    pub(in crate::worker::step) fn begin(place: &'a Place<'a>, sight: &Sight) -> Result<Keep<'a>, JobFailure> {
        let Some(cut_off) = &sight.cut_off else { return Err(failed("nobody goes on with files that are gone")) };
        let mut keys: Vec<(&Hold, Option<&Hold>)> = Vec::new();
        for holder in &cut_off.holders {
            let of = |what: What| sight.holds.iter().filter(move |hold| hold.pid == holder.pid && hold.what == what);
            let wals: Vec<_> = of(What::Wal).collect();
            let side_gone = |what: What| of(what).any(|hold| hold.gone);
            for main in of(What::Main).filter(|main| main.gone || side_gone(What::Wal) || side_gone(What::Shm)) {
                match wals.as_slice() {
                    [] => keys.push((main, None)),
                    wals => keys.extend(wals.iter().map(|wal| (main, Some(*wal)))),
                }
            }
        }
        let whole = |main: &Hold| keys.iter().any(|(other, wal)| other.file == main.file && wal.is_some());
        let mut sides: Vec<(&Hold, Option<&Hold>)> = Vec::new();
        for (main, wal) in &keys {
            let known = sides
                .iter()
                .any(|(other, with)| other.file == main.file && with.map(|wal| wal.file) == wal.map(|wal| wal.file));
            if !known && (wal.is_some() || !whole(main)) {
                sides.push((main, *wal));
            }
        }
        if sides.is_empty() {
            return Err(failed("a program has side files of the database open that are gone, and no main file"));
        }
        let open = sides.iter().map(|(main, wal)| {
            let shm = sight.holds.iter().filter(|hold| hold.pid == main.pid && hold.what == What::Shm);
            let shm = shm.max_by_key(|hold| hold.gone).and_then(|shm| open(shm, true).ok());
            Ok(Side { main: open_held(main)?, wal: wal.map(open_held).transpose()?, shm })
        });
        let sides = open.collect::<Result<Vec<_>, JobFailure>>()?;
        Ok(Keep {
            place,
            sides,
            handles: handles(cut_off),
            by: cut_off.to_string(),
            contested: cut_off.is_contested(),
            at_path: AtPath::of(&place.folder, &place.name)?,
            free: false,
            surely: false,
        })
    }

    /// The keeper's whole life. It ends when it has made the last copy, or when nobody wants one any more.
    pub(in crate::worker::step) fn live(mut self, tell: &mut dyn FnMut(&str)) {
        let _lock = match lock(&self.place.evidence) {
            Ok(lock) => lock,
            Err(error) => return tell(&format!("-{}", error.message)),
        };
        let mut due = Instant::now();
        match self.copy_all(false) {
            Ok(took) => {
                tell("+");
                due += LOOK_EVERY.max(took * COPY_SHARE);
            }
            Err(error) => {
                // What it has open is worth having for as long as it can.
                tell(&format!("-{}", error.message));
                due += TRY_AGAIN;
            }
        }
        while self.is_wanted() {
            self.wait(LOOK_EVERY);
            if !self.free && Instant::now() < due {
                continue;
            }
            match self.copy_all(self.surely) {
                Ok(_) if self.free => return,
                Ok(took) => due = Instant::now() + LOOK_EVERY.max(took * COPY_SHARE),
                Err(_) => {
                    std::thread::sleep(TRY_AGAIN);
                    due = Instant::now();
                }
            }
        }
    }

    fn is_wanted(&self) -> bool {
        crate::host::FileFacts::of_path(self.place.evidence.path(), false).is_ok()
    }

    /// Waits for the end of those who have the files open; when none is left, looks whether somebody else has them.
    fn wait(&mut self, span: Duration) {
        let ended = |handle: &ProcessHandle, span| handle.wait_gone(span).unwrap_or(false);
        if let Some(first) = self.handles.first() {
            ended(first, span);
        }
        self.handles.retain(|handle| !ended(handle, Duration::ZERO));
        if !self.handles.is_empty() {
            return;
        }
        match Sight::of(self.place.path(), self.place.job.last.as_ref()) {
            Ok(sight) => {
                self.handles = sight.cut_off.as_ref().map(handles).unwrap_or_default();
                self.contested |= sight.cut_off.as_ref().is_some_and(CutOff::is_contested);
                self.free = sight.cut_off.is_none();
                self.surely = self.free && !sight.blind;
            }
            // Nothing is taken for the end of it that was not seen.
            Err(_) => std::thread::sleep(span),
        }
    }

    /// A copy of every side that changed since its last; how long that took.
    fn copy_all(&self, complete: bool) -> Result<Duration, JobFailure> {
        let began = Instant::now();
        for (index, side) in self.sides.iter().enumerate() {
            self.copy(index + 1, side, complete)?;
        }
        Ok(began.elapsed())
    }

    fn copy(&self, number: usize, side: &Side, complete: bool) -> Result<(), JobFailure> {
        let evidence = &self.place.evidence;
        let earlier = super::copies(evidence)?.into_iter().find(|(_, paper)| paper.side == number);
        let main = facts(&side.main)?;
        let wal = side.wal.as_ref().map(facts).transpose()?;
        let as_kept = |suffix: &str, now: Option<&FileFacts>| {
            let kept = earlier.as_ref().and_then(|(_, paper)| paper.file(suffix)).map(|file| &file.facts);
            matches!((kept, now), (Some(kept), Some(now)) if same_content(kept, now)) || (kept, now) == (None, None)
        };
        if !self.free && as_kept("", Some(&main)) && as_kept("-wal", wal.as_ref()) {
            return Ok(());
        }
        let unchanged = earlier.as_ref().filter(|_| as_kept("", Some(&main)));
        let size = if unchanged.is_some() { 0 } else { main.size } + wal.map_or(0, |wal| wal.size);
        need_space(evidence, size)?;
        let last = numbered(evidence)?.last().map_or(0, |(number, _)| *number);
        let name = format!("{PREFIX}{}", last + 1);
        let folder = evidence.make_folder_in(&name, 0o700).map_err(while_("making a folder for what is held"))?;
        let filled = self.fill(&folder, number, side, complete, unchanged);
        if let Err(error) = filled {
            let _ = remove(evidence, &folder, OsStr::new(&name));
            return Err(error);
        }
        evidence.sync().map_err(while_("making the evidence folder durable"))?;
        if let Some((older, _)) = earlier
            && let Some(name) = older.path().file_name()
        {
            remove(evidence, &older, name)?;
        }
        Ok(())
    }

    fn fill(
        &self,
        folder: &Folder,
        number: usize,
        side: &Side,
        complete: bool,
        unchanged: Option<&(Folder, Paper)>,
    ) -> Result<(), JobFailure> {
        let mut remarks = Vec::new();
        let _still = hold_still(side, Duration::from_millis(self.place.job.site.busy_ms), &mut remarks);
        let mut files = Vec::new();
        for attempt in 1..=TRIES {
            let before = moment(side)?;
            // Main first: what a checkpoint had moved there is in the copy before the WAL that may have begun anew.
            files = vec![keep_main(folder, side, unchanged)?];
            if let Some(wal) = &side.wal {
                files.push(keep(folder, wal, "main-wal")?);
            } else if let Ok(journal) = self.place.folder.open_own_in(side_name(&self.place.name, "-journal")) {
                files.push(keep(folder, &journal, "main-journal")?);
            }
            if moment(side)? == before {
                break;
            }
            if attempt == TRIES {
                remarks.push("copied while it was written: it may be more than one moment's".to_owned());
            }
        }
        folder.sync().map_err(while_("making a copy of what is held durable"))?;
        let without_wal = side.wal.is_none() && is_in_wal_mode(&side.main);
        if without_wal {
            remarks.push(
                "its program is in WAL mode, and its WAL was not found: what was in that alone is not here".to_owned(),
            );
        }
        let paper = Paper {
            version: 1,
            incident: self.place.job.incident.clone(),
            path: self.place.path().to_owned(),
            taken_at: Timestamp::now(),
            side: number,
            complete: complete && !without_wal,
            contested: self.contested,
            by: self.by.clone(),
            files,
            ownership: Ownership::of(&side.main).map_err(while_("reading the held file's owner"))?,
            at_path: self.at_path.clone(),
            remarks,
            put_back: put_back(self.place.path(), folder),
        };
        write_json(folder, MANIFEST, &paper)
    }
}

/// In WAL mode nothing leaves the WAL while the checkpoint's byte is held, and programs go on committing; in rollback mode nobody
/// commits while SHARED is.
fn hold_still(side: &Side, patience: Duration, remarks: &mut Vec<String>) -> Option<OfdLock> {
    if side.wal.is_none() {
        let lock = shared_lock(&side.main, patience);
        return lock.map_err(|error| remarks.push(format!("copied while it may have been written: {error}"))).ok();
    }
    let until = Instant::now() + patience;
    loop {
        let Some(Ok(shm)) = side.shm.as_ref().map(File::try_clone) else { return None };
        match OfdLock::exclusive(shm.into(), WAL_CHECKPOINT) {
            Ok(lock) => return Some(lock),
            Err(HostError::LockHeld(_)) if Instant::now() < until => std::thread::sleep(Duration::from_millis(2)),
            Err(error) => {
                remarks.push(format!("copied while a checkpoint may have run: {error}"));
                return None;
            }
        }
    }
}

/// The header's versions say so (offsets 18 and 19).
fn is_in_wal_mode(main: &File) -> bool {
    let mut versions = [0; 2];
    main.read_exact_at(&mut versions, 18).is_ok() && versions == [2, 2]
}

/// What is the same before and after a copy that is of one moment.
fn moment(side: &Side) -> Result<(u64, i64, Vec<u8>), JobFailure> {
    let main = facts(&side.main)?;
    let mut header = vec![0; WAL_HEADER_BYTES];
    let read = side.wal.as_ref().and_then(|wal| wal.read_at(&mut header, 0).ok()).unwrap_or(0);
    header.truncate(read);
    Ok((main.size, main.mtime_ns, header))
}

fn keep_main(folder: &Folder, side: &Side, unchanged: Option<&(Folder, Paper)>) -> Result<HeldFile, JobFailure> {
    if let Some((earlier, paper)) = unchanged
        && let Some(file) = paper.file("")
        && facts(&side.main).is_ok_and(|now| same_content(&now, &file.facts))
    {
        unlink(folder, MAIN)?;
        // Two names of one copy, which nobody writes to.
        if earlier.link(MAIN, folder, MAIN).is_ok() {
            return Ok(file.clone());
        }
    }
    keep(folder, &side.main, MAIN)
}

fn keep(folder: &Folder, source: &File, name: &str) -> Result<HeldFile, JobFailure> {
    unlink(folder, name)?;
    let facts = facts(source)?;
    let target = folder.create_in(name, 0o600).map_err(while_("creating a file in evidence"))?;
    copy_file(source, &target).map_err(while_(format!("copying {name}, which a program holds, into evidence")))?;
    Ok(HeldFile { name: name.to_owned(), facts, blake3: hash(&target).map_err(while_("reading a copy back"))? })
}

fn unlink(folder: &Folder, name: &str) -> Result<(), JobFailure> {
    match folder.unlink(name) {
        Err(error) if !error.is_absent() => Err(while_("removing an unfinished copy")(error)),
        _ => Ok(()),
    }
}

/// A copy that a newer one has superseded: its manifest first, so that half of it never counts.
fn remove(evidence: &Folder, folder: &Folder, name: &OsStr) -> Result<(), JobFailure> {
    for file in [MANIFEST, MAIN, "main-wal", "main-journal"] {
        unlink(folder, file)?;
    }
    evidence.remove_folder(name).map_err(while_("removing a superseded copy"))
}

fn facts(file: &File) -> Result<FileFacts, JobFailure> {
    let facts = crate::host::FileFacts::of_fd(file).map_err(while_("looking at a held file"))?;
    Ok(job_facts(&facts))
}

fn open_held(hold: &Hold) -> Result<File, JobFailure> {
    open(hold, false).map_err(while_(format!("opening a file that process {} holds", hold.pid)))
}

fn open(hold: &Hold, writing: bool) -> Result<File, HostError> {
    open_descriptor_of(hold.pid, hold.fd, hold.file, writing)
}

fn handles(cut_off: &CutOff) -> Vec<ProcessHandle> {
    cut_off.holders.iter().filter_map(|holder| ProcessHandle::open(holder.pid, holder.started_ms).ok()).collect()
}

fn put_back(path: &Path, folder: &Folder) -> String {
    format!(
        "By hand: stop every program that uses {path}. Move {path}, {path}-wal, {path}-shm and {path}-journal away, all of them. Then \
         copy {from}/main to {path}, and {from}/main-wal or {from}/main-journal, if there is one, beside it under the same suffix; \
         give them their owner and mode, and start the programs. To keep what is at the path instead, move {from} away: guardiand \
         then looks at what is there.",
        path = path.display(),
        from = folder.path().display()
    )
}
