//! The one pass over all pages, in the order of the file, by a few threads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::super::coverage::Coverage;
use super::super::geometry::Geometry;
use super::note::{Head, Note, look};
use super::{PageSource, ScrubError, Watch};

/// Bytes per read: large enough for the disk, small enough that what was read is still in the processor's own cache when it is
/// looked at.
pub(super) const CHUNK_BYTES: usize = 256 << 10;

/// What the pass leaves.
pub(super) struct Notes {
    /// By page number, from page 1.
    notes: Vec<Note>,
    /// By chunk, in the order of the owner's number.
    heads: Vec<Vec<Head>>,
    per_chunk: usize,
}

impl Notes {
    /// Of page `number`.
    pub(super) fn of(&self, number: u32) -> Note {
        (number as usize).checked_sub(1).and_then(|at| self.notes.get(at)).copied().unwrap_or_default()
    }

    /// The overflow chains of page `owner`.
    pub(super) fn heads(&self, owner: u32) -> &[Head] {
        let chunk = (owner as usize).saturating_sub(1) / self.per_chunk;
        let heads = self.heads.get(chunk).map(Vec::as_slice).unwrap_or_default();
        let from = heads.partition_point(|head| head.owner < owner);
        let to = heads.partition_point(|head| head.owner <= owner);
        heads.get(from..to).unwrap_or_default()
    }
}

/// Looks at each page once.
pub(super) fn sweep<S: PageSource>(
    source: &S,
    pages: u32,
    geometry: &Geometry,
    threads: usize,
    watch: &Watch<'_>,
) -> Result<Notes, ScrubError<S::Error>> {
    let per_chunk = (CHUNK_BYTES / geometry.page_size() as usize).max(1);
    let mut notes = vec![Note::default(); pages as usize];
    let heads: Mutex<Vec<Vec<Head>>> = Mutex::new(vec![Vec::new(); notes.len().div_ceil(per_chunk)]);
    let (failed, stop) = (Mutex::new(None), AtomicBool::new(false));
    let chunks = Mutex::new(notes.chunks_mut(per_chunk).enumerate());
    let work = || {
        let mut buffer = vec![0; per_chunk * geometry.page_size() as usize];
        let mut coverage = Coverage::new();
        while !stop.load(Ordering::Relaxed) {
            let mut turn = turn(&chunks);
            let Some((chunk, notes)) = turn.next() else { break };
            let first = (chunk * per_chunk) as u32 + 1;
            let bytes = buffer.get_mut(..notes.len() * geometry.page_size() as usize).unwrap_or_default();
            // One at a time, in the order of the file: the kernel's read-ahead is made for one reader, and takes several for reads at
            // random. A cold file takes twice as long then, and half as long again where it is told what comes next.
            let read = source.read(first, bytes);
            drop(turn);
            if let Err(error) = read {
                lock(&failed).get_or_insert(ScrubError::Read { page: first, source: error });
                stop.store(true, Ordering::Relaxed);
                break;
            }
            let mut found = Vec::new();
            let pages = bytes.chunks_exact(geometry.page_size() as usize);
            for ((page, note), number) in pages.zip(notes.iter_mut()).zip(first..) {
                let before = found.len();
                *note = look(page, number, geometry, &mut coverage, |head| found.push(head), |_| {});
                if note.is_bad() {
                    // It is looked at again if it is anybody's; only sound cells do not overlap, which bounds their number.
                    found.truncate(before);
                }
            }
            if !found.is_empty() {
                found.shrink_to_fit();
                if let Some(slot) = lock(&heads).get_mut(chunk) {
                    *slot = found;
                }
            }
            if !watch(notes.len() as u32) {
                lock(&failed).get_or_insert(ScrubError::Stopped);
                stop.store(true, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // Where the system has no thread to give, those that there are do it all.
            let _ = std::thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(Notes { notes, heads: heads.into_inner().unwrap_or_else(PoisonError::into_inner), per_chunk }),
    }
}

/// How often a turn is asked for before it is slept for: about as long as a read takes that the disk has no part in. To be put to
/// sleep and woken takes longer than that.
const TRIES: u32 = 400;
/// Between two of them.
const PAUSES: u32 = 8;

/// Whoever has it reads next.
pub(super) fn turn<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    for _ in 0..TRIES {
        if let Ok(turn) = mutex.try_lock() {
            return turn;
        }
        for _ in 0..PAUSES {
            std::hint::spin_loop();
        }
    }
    lock(mutex)
}

/// Nothing is left half done under any of these locks.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
