//! The page map of a database that a check has just found sound: kept beside its backups, which are where its pages are sought when they
//! are hurt.
//!
//! A backup is a map of itself. This one is of a later moment: of pages that were as they are when that backup was taken, and of which
//! it is known now that nobody has written them since.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;

use super::super::dotfile;
use super::super::files::{self, Files, Looked, with_suffix};
use super::super::raw;
use super::told;
use super::view::{self, Stillness, View};
use crate::format::{self, Hashing, Header, MAP_PAGES_MAX, PageMap, ScrubPlan};
use crate::host::{Folder, Space, page_threads};
use crate::job::{DatabaseSite, FileState, Fingerprint, JournalState, KnownState, PAGE_MAP, WalPosition, WalState};
use crate::worker::sweep::Sweep;

/// Left free beside it, as beside a backup.
const FREE_FLOOR_BYTES: u64 = 64 << 20;

/// Maps it, by a scrub of its own that must find everything sound, and puts the map into `folder` in the place of an earlier one. In
/// rollback mode a writer that comes makes the map void, which its commit would in any case.
///
/// # Errors
/// Why there is none, in words. An earlier one stays.
pub(in crate::worker) fn make(site: &DatabaseSite, folder: &Path) -> Result<KnownState, String> {
    let folder = Folder::open(folder).map_err(told("opening the folder of its backups"))?;
    let files = Files::pinned(&site.path);
    let place = files::place(&files.main, &Sweep::default());
    // Through an overlay everything of this container's shows, and a change behind it shows on the file.
    let is_dark = place.observe_only.is_some() && place.fs_type != "overlay";
    if is_dark || dotfile::entry(&Looked::at(with_suffix(&site.path, ".lock"))).is_some() {
        return Err("whether anybody writes to it cannot be told".to_owned());
    }
    let FileState::File(main) = &files.main.state else { return Err("it is no file".to_owned()) };
    let id = (main.dev, main.ino);
    let patience = Duration::from_millis(site.busy_ms);
    let held = view::hold(&files, patience).map_err(told("locking it"))?;
    let at = Timestamp::now();
    // As they are under the locks.
    let files = Files::pinned(&site.path);
    let main = files.main.state.file().copied().filter(|main| (main.dev, main.ino) == id);
    let main = main.ok_or("another file took its place while it was locked")?;
    let journal = raw::journal(&files, None, false).map_err(told("reading its journal"))?;
    if journal.state != JournalState::Absent {
        return Err(format!("its journal: {}", journal.detail));
    }
    let view = View::open(&files).map_err(told("reading it"))?;
    let header = Header::parse(&view.head).map_err(told("reading its header"))?;
    let counted = view.wal_pages.or(header.counted_pages()).unwrap_or(view.there);
    if counted.min(view.there) > MAP_PAGES_MAX || view.wal_facts.state == WalState::Damaged {
        return Err("it is too large to be mapped, or its WAL is damaged".to_owned());
    }
    let mark = view.wal_facts.mark.filter(|mark| view.wal_facts.state == WalState::Sound && mark.last_commit > 0);
    let is_wal = mark.is_some() || files.shm.state.size() > 0 || header.is_wal();
    let block_max = Duration::from_millis(site.block_max_ms);
    let stillness = Stillness::new(held, &files, is_wal, true, block_max);
    let plan = ScrubPlan {
        header,
        counted,
        there: view.there,
        threads: page_threads(),
        faults_max: 1,
        // For the pages' owners.
        contents: Some(&[]),
    };
    let hashing = Hashing::new(&view, header.page_size, counted.min(view.there));
    let found = format::scrub(&hashing, &plan, &|_| stillness.lasts()).map_err(told("reading its pages"))?;
    let (held, was_still) = stillness.end(patience).map_err(told("locking it again"))?;
    drop(held);
    if !was_still {
        return Err("it was written while it was read".to_owned());
    }
    let print = Fingerprint {
        main,
        wal: files.wal.state.file().copied(),
        journal: files.journal.state.file().copied(),
        change_counter: header.change_counter,
        schema_cookie: header.schema_cookie,
        wal_mode: header.is_wal(),
        copied: None,
        locked: false,
    };
    let state =
        KnownState { print, wal: mark.map(|mark| WalPosition { salt: mark.salt, frame: mark.last_commit }), at };
    let about = serde_json::to_vec(&state).map_err(told("describing it"))?;
    let map = PageMap::of_scrub(&found, header.page_size, hashing.into_hashes(), about);
    let map = map.ok_or_else(|| format!("{} faults were found in it", found.faults_total))?;
    let bytes = map.encode().map_err(told("writing its map"))?;
    // Backups need the room more.
    let space = Space::at(folder.path()).map_err(told("asking for free space"))?;
    if space.free_bytes < bytes.len() as u64 + space.floor(FREE_FLOOR_BYTES) {
        return Err("there is no room for its map".to_owned());
    }
    folder.write_atomically(PAGE_MAP, &bytes, 0o600).map_err(told("writing its map"))?;
    Ok(state)
}
