//! A candidate with single pages put back: those that are not what they were at a moment since which nothing was committed.
//!
//! What is proven here is looked at anew, on the files as they are, whatever the plan was made from; what a page was is told by its hash,
//! so that a page of a backup counts by itself, whatever else has become of the backup. The copy is then what the database was, page for
//! page, and passes the same checks as any other candidate all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::build::{clean_up, fresh_part, ownership};
use super::header::{NAME, copy, recover, take};
use super::mend::verified;
use super::place::{Place, need_space};
use super::settle::make_private;
use super::{failed, while_};
use crate::backup::{Examined, examine, journal_is_hot, side_name};
use crate::format::header::HEADER_LEN;
use crate::format::wal::{FRAME_HEADER_LEN, WAL_HEADER_LEN};
use crate::format::{Header, PageHash, PageMap, page_hash, scan_wal};
use crate::host::{Folder, Ownership, fill, read_up_to};
use crate::job::{
    DatabaseSite, JobFailure, KnownPages, KnownState, Owner, PagesOf, Present, ScrubJob, ScrubVerdict, StepReport,
    Unwritten, WalPosition,
};
use crate::sqlite::Deadline;

/// Bytes that are read and hashed in one go.
const CHUNK_BYTES: usize = 256 << 10;
/// Pages that are named.
const PAGES_NAMED: usize = 10;

pub(super) fn build(
    place: &Place<'_>,
    known: &[KnownPages],
    sources: &[PathBuf],
    owner: Option<&Owner>,
) -> Result<StepReport, JobFailure> {
    let part = fresh_part(place)?;
    let built = (|| {
        let ownership = ownership(place, owner)?;
        let mut why = None;
        for known in known {
            match attempt(place, known, sources, &ownership) {
                Ok((folder, examined, how)) => return take(place, &folder, &part, &ownership, examined, (how, true)),
                // What is known of the latest moment says the most.
                Err(error) => why = why.or(Some(error)),
            }
        }
        Err(why.unwrap_or_else(|| failed("there is no moment of which every page of it is known")))
    })();
    clean_up(place, &part, built)
}

/// Leaves the mended copy in the private folder, which it gives back, checked in full.
fn attempt(
    place: &Place<'_>,
    known: &KnownPages,
    sources: &[PathBuf],
    ownership: &Ownership,
) -> Result<(Folder, Examined, String), JobFailure> {
    let now = present(place)?;
    let proof = known.then.unwritten(&now).map_err(failed)?;
    let (map, sources) = sought(known, sources)?;
    let was = u64::from(map.pages()) * u64::from(map.page_size);
    let wal = now.wal.map_or(0, |wal| wal.size);
    need_space(&place.folder, now.main.size.max(was).saturating_add(wal.saturating_mul(2)))?;
    let folder = make_private(place)?;
    let has_wal = copy(place, &folder, ownership)?;
    let in_wal = if has_wal { pages_in_wal(&folder, &map, &now)? } else { BTreeSet::new() };
    let file = folder.open_for_writing_in(NAME).map_err(while_("opening a private copy"))?;
    let mended = put_back(&file, &map, &in_wal, &sources)?;
    drop(file);
    let path = folder.path().join(NAME);
    if has_wal {
        recover(&path)?;
    }
    let examined = examine(&path, &Deadline::never())?;
    if let PagesOf::Backup { tables, .. } = &known.pages
        && examined.tables != *tables
    {
        return Err(failed("it has not the rows that it had then"));
    }
    is_clean(place, &path)?;
    // What was copied is what was proven.
    if present(place)? != now {
        return Err(failed("it was written to while its pages were put back"));
    }
    let proof = match proof {
        Unwritten::Untouched => "nobody has written the file".to_owned(),
        Unwritten::NoCommit { change_counter } => format!("nobody has committed (change counter {change_counter})"),
        Unwritten::SameWal => "nobody has committed (its WAL ends where it did)".to_owned(),
    };
    Ok((folder, examined, format!("{mended}; since {:.3} {proof}", known.then.at)))
}

/// What the files say now.
fn present(place: &Place<'_>) -> Result<Present, JobFailure> {
    let main = place.stat(&place.name)?.ok_or_else(|| failed("it is gone"))?;
    let file = place.folder.open_own_in(&place.name).map_err(while_("opening the database"))?;
    if journal_is_hot(&place.folder, &place.name, &file)? {
        return Err(failed("it has a rollback journal: it is mended by that"));
    }
    let mut head = [0; HEADER_LEN];
    fill(&file, 0, &mut head).map_err(while_("reading its header"))?;
    let head = Header::parse(&head).ok().map(|header| (header.change_counter, header.is_wal()));
    let wal = place.stat(&place.side("-wal"))?.filter(|wal| wal.size > 0);
    let mut position = None;
    if let Some(facts) = wal {
        let file = place.folder.open_own_in(place.side("-wal")).map_err(while_("opening the WAL"))?;
        let scan = scan_wal(facts.size, None, |at, buffer| file.read_exact_at(buffer, at));
        let scan = scan.map_err(while_("reading the WAL"))?;
        let mark = scan.mark.filter(|mark| scan.is_sound() && mark.last_commit > 0);
        position = mark.map(|mark| WalPosition { salt: [mark.salt1, mark.salt2], frame: mark.last_commit });
    }
    Ok(Present { main, wal, head, position })
}

/// What was on the pages, and the files that may have them.
fn sought(known: &KnownPages, sources: &[PathBuf]) -> Result<(PageMap, Vec<(PathBuf, File)>), JobFailure> {
    // One that cannot be opened may not be needed.
    let opened = |source: &PathBuf| {
        let (folder, name) = Folder::of_entry(source).ok()?;
        Some((source.clone(), folder.open_in(&name).ok()?))
    };
    let (map, own) = match &known.pages {
        PagesOf::Backup { file, blake3, .. } => {
            // Only all of it together tells that its pages are what they were.
            let backup = verified(file, blake3)?;
            (map_of_backup(&backup, known)?, Some((file.clone(), backup)))
        }
        PagesOf::Map { file } => (read_map(file, known)?, None),
    };
    let others = sources.iter().filter(|source| own.as_ref().is_none_or(|(own, _)| own != *source));
    let others: Vec<_> = others.filter_map(opened).collect();
    Ok((map, own.into_iter().chain(others).collect()))
}

/// A map is believed only as its checksum says, and only of the moment that it is remembered to be of.
fn read_map(map: &Path, known: &KnownPages) -> Result<PageMap, JobFailure> {
    let (folder, name) = Folder::of_entry(map).map_err(while_("opening the folder of its page map"))?;
    let file = folder.open_in(&name).map_err(while_("opening its page map"))?;
    let mut bytes = Vec::new();
    file.take(PageMap::len_max()).read_to_end(&mut bytes).map_err(while_("reading its page map"))?;
    let map = PageMap::decode(&bytes).map_err(while_("reading its page map"))?;
    match serde_json::from_slice::<KnownState>(&map.about) {
        Ok(then) if then == known.then => Ok(map),
        _ => Err(failed("its page map is of another moment")),
    }
}

/// What is on a backup's pages.
fn map_of_backup(backup: &File, known: &KnownPages) -> Result<PageMap, JobFailure> {
    let reading = while_("reading a backup");
    let mut head = [0; HEADER_LEN];
    backup.read_exact_at(&mut head, 0).map_err(reading)?;
    let header = Header::parse(&head).map_err(while_("reading a backup's header"))?;
    let is_online = known.then.print.wal_mode;
    if !is_online && header.change_counter != known.then.print.change_counter {
        return Err(failed("the backup has another change counter than its source had"));
    }
    let len = backup.metadata().map_err(while_("looking at a backup"))?.len();
    let pages = u32::try_from(len / u64::from(header.page_size)).unwrap_or(u32::MAX);
    let mut hashes = Vec::with_capacity(pages as usize);
    each_page(backup, header.page_size, pages, |_, hash| hashes.push(hash)).map_err(while_("reading a backup"))?;
    let mut map = PageMap::of_hashes(header.page_size, hashes);
    if is_online {
        // A copy by SQLite has its own version of the schema, and a counter of its own.
        map.forget(1);
    }
    Ok(map)
}

/// The hash of each page, from the first on; zeros stand for what the file does not have.
fn each_page(file: &File, page_size: u32, pages: u32, mut is: impl FnMut(u32, PageHash)) -> std::io::Result<()> {
    let per_chunk = (CHUNK_BYTES as u32 / page_size).max(1);
    let mut buffer = vec![0; (per_chunk * page_size) as usize];
    for first in (1..=pages).step_by(per_chunk as usize) {
        let count = per_chunk.min(pages - first + 1);
        let bytes = buffer.get_mut(..(count * page_size) as usize).unwrap_or_default();
        fill(file, u64::from(first - 1) * u64::from(page_size), bytes)?;
        for (page, number) in bytes.chunks_exact(page_size as usize).zip(first..) {
            is(number, page_hash(page));
        }
    }
    Ok(())
}

/// The pages that the WAL has, as of its last commit: what the main file has of them counts for nothing.
fn pages_in_wal(folder: &Folder, map: &PageMap, now: &Present) -> Result<BTreeSet<u32>, JobFailure> {
    let reading = "reading a private copy of the WAL";
    let wal = folder.open_in(side_name(NAME.as_ref(), "-wal")).map_err(while_("opening a private copy of the WAL"))?;
    let frames = now.position.map_or(0, |position| position.frame);
    let frame_len = FRAME_HEADER_LEN as u64 + u64::from(map.page_size);
    let mut pages = BTreeSet::new();
    for frame in 0..u64::from(frames) {
        let mut page = [0; 4];
        wal.read_exact_at(&mut page, WAL_HEADER_LEN as u64 + frame * frame_len).map_err(while_(reading))?;
        pages.insert(u32::from_be_bytes(page));
    }
    Ok(pages)
}

/// Puts each page back that is not what it was; which, and out of what, in words.
fn put_back(
    file: &File,
    map: &PageMap,
    in_wal: &BTreeSet<u32>,
    sources: &[(PathBuf, File)],
) -> Result<String, JobFailure> {
    let doing = "putting pages back on a private copy";
    let (size, pages) = (u64::from(map.page_size), map.pages());
    let mut hurt = Vec::new();
    let differs = |page: u32, hash| !in_wal.contains(&page) && map.hash_of(page).is_some_and(|was| was != hash);
    each_page(file, map.page_size, pages, |page, hash| {
        if differs(page, hash) {
            hurt.push(page);
        }
    })
    .map_err(while_("reading a private copy"))?;
    let (len, was) = (file.metadata().map_err(while_(doing))?.len(), size * u64::from(pages));
    // With a WAL the length is what its last commit says.
    let is_of_other_length = in_wal.is_empty() && len != was;
    if is_of_other_length {
        file.set_len(was).map_err(while_(doing))?;
    }
    if hurt.is_empty() && !is_of_other_length {
        return Err(failed("every page is what it was: what is wrong was wrong then"));
    }
    let mut from: BTreeMap<&Path, usize> = BTreeMap::new();
    let mut bytes = vec![0; map.page_size as usize];
    for page in &hurt {
        let at = u64::from(page - 1) * size;
        let mut has = |source: &File| {
            let read = read_up_to(source, at, &mut bytes).is_ok_and(|read| read == bytes.len());
            read && Some(page_hash(&bytes)) == map.hash_of(*page)
        };
        let Some((source, _)) = sources.iter().find(|(_, source)| has(source)) else {
            return Err(failed(format!("page {page} is in no backup as it was")));
        };
        file.write_all_at(&bytes, at).map_err(while_(doing))?;
        *from.entry(source).or_default() += 1;
    }
    let over = if is_of_other_length { len.saturating_sub(was) } else { 0 };
    Ok(told(&hurt, &from, map, over))
}

fn told(hurt: &[u32], from: &BTreeMap<&Path, usize>, map: &PageMap, over: u64) -> String {
    let pages = map.pages();
    let name = |page: &u32| match map.owner_of(*page) {
        Some(tree) if tree.is_index => format!("{page} of index {}", tree.name),
        Some(tree) => format!("{page} of table {}", tree.name),
        None => page.to_string(),
    };
    let named = hurt.iter().take(PAGES_NAMED).map(name).collect::<Vec<_>>().join(", ");
    let more = if hurt.len() > PAGES_NAMED { ", …" } else { "" };
    let from = from.iter().map(|(source, count)| match from.len() {
        1 => format!("backup {}", source.display()),
        _ => format!("backup {} ({count})", source.display()),
    });
    let from = from.collect::<Vec<_>>().join(", ");
    let cut = if over > 0 { format!("{over} bytes behind its end cut off") } else { String::new() };
    match hurt.len() {
        0 if over == 0 => "its end put back".to_owned(),
        0 => cut,
        count => {
            let cut = if cut.is_empty() { cut } else { format!("; {cut}") };
            format!("{count} of its {pages} pages ({named}{more}) put back from {from}{cut}")
        }
    }
}

/// SQLite has passed it. What a scrub sees beyond that (a page that belongs to two, say) is refused as well.
fn is_clean(place: &Place<'_>, path: &Path) -> Result<(), JobFailure> {
    let site = DatabaseSite { path: path.to_owned(), ..place.job.site.clone() };
    let scrubbed = crate::worker::probe::scrub(&ScrubJob { site, faults_max: 1, full: true })?;
    match (scrubbed.verdict, scrubbed.faults.first()) {
        (ScrubVerdict::Damaged, Some(fault)) => {
            Err(failed(format!("page {} of the mended copy: {} ({})", fault.page, fault.what, fault.owner)))
        }
        _ => Ok(()),
    }
}
