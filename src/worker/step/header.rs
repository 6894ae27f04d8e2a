//! A candidate with its first page, or its list of free pages, put right: what page arithmetic tells, what is remembered, and what a
//! backup has of page 1. All rows are in the trees; nothing but the way to them was hurt.
//!
//! Tried in this order, each on a private copy with the WAL beside it, and taken only if the whole content passes:
//!
//! | page 1 | where |
//! | --- | --- |
//! | its own, with what is always the same put right | its counters vouch for its other fields |
//! | its own behind a header from what is remembered | else |
//! | a backup's | the schema has not changed since that was taken |
//!
//! A list of free pages is believed where it has exactly the pages that no tree uses; else the list is sought that has; else, where the
//! header's own count is that of those pages, it is made anew.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use super::build::{clean_up, finish_examined, fresh_part, ownership};
use super::place::{Place, need_space};
use super::settle::make_private;
use super::{failed, while_};
use crate::backup::{Examined, examine, side_name};
use crate::format::header::HEADER_LEN;
use crate::format::{
    FreelistItem, Geometry, Header, KnownHeader, find_freelist, header_of_known, header_put_right, make_freelist,
    named_page_size, vouches_for_its_fields, walk_freelist,
};
use crate::host::{Folder, Ownership, copy_file};
use crate::job::{JobFailure, KnownPageOne, StepReport};
use crate::sqlite::{Access, Database, Deadline, creations_in, sqlite_version_number};

/// The copy's name in the private folder.
pub(super) const NAME: &str = "mended";

/// A header may count so many pages more than there are, or twice as many, and be believed.
const PROPORTION: u32 = 1024;

type Head = [u8; HEADER_LEN];

/// One way to put page 1 right.
struct Variant {
    head: Head,
    /// What stands behind the header; its own where there is none.
    body: Option<Vec<u8>>,
    /// The header's count of free pages can be believed.
    vouched: bool,
    /// The pages that the database had by its own header, where that can be believed.
    counted: Option<u32>,
    /// Page 1 stays as it is: only the list of free pages may be what is damaged.
    as_it_is: bool,
    how: String,
}

pub(super) fn build(place: &Place<'_>, known: &KnownPageOne) -> Result<StepReport, JobFailure> {
    let part = fresh_part(place)?;
    let size = |suffix: &str| Ok::<_, JobFailure>(place.stat(&place.side(suffix))?.map_or(0, |facts| facts.size));
    let main = place.stat(&place.name)?.map_or(0, |facts| facts.size);
    if size("-journal")? > 0 {
        return Err(failed("it has a rollback journal: it is mended by that"));
    }
    need_space(&place.folder, main.saturating_add(size("-wal")?.saturating_mul(2)))?;
    let built = (|| {
        let ownership = ownership(place, known.owner.as_ref())?;
        let mut why = failed("nothing of its header is known");
        for variant in variants(place, known, main)? {
            let folder = make_private(place)?;
            match attempt(place, &folder, &variant, known, &ownership) {
                Ok((examined, how, proven)) => {
                    return take(place, &folder, &part, &ownership, examined, (how, proven));
                }
                Err(error) => why = error,
            }
        }
        Err(why)
    })();
    clean_up(place, &part, built)
}

/// Makes of the mended copy in the private folder a candidate: that has lost nothing, if that is `proven`.
pub(super) fn take(
    place: &Place<'_>,
    folder: &Folder,
    part: &OsStr,
    ownership: &Ownership,
    examined: Examined,
    (how, proven): (String, bool),
) -> Result<StepReport, JobFailure> {
    let file = folder.open_for_writing_in(NAME).map_err(while_("opening the mended copy"))?;
    place.made(&file)?;
    drop(file);
    folder.rename_noreplace(NAME, &place.folder, part).map_err(while_("taking the mended copy"))?;
    let mut report = finish_examined(place, part, ownership, how, examined)?;
    if let Some(candidate) = &mut report.candidate {
        candidate.proven = proven;
    }
    Ok(report)
}

fn variants(place: &Place<'_>, known: &KnownPageOne, len: u64) -> Result<Vec<Variant>, JobFailure> {
    let main = place.folder.open_own_in(&place.name).map_err(while_("opening the database"))?;
    let mut own: Head = [0; HEADER_LEN];
    main.read_exact_at(&mut own, 0).map_err(while_("reading its first page"))?;
    let remembered = known.schema.as_deref().and_then(|script| known_header(script, known));
    let pages_of =
        |size: u32| u32::try_from(len / u64::from(size)).ok().filter(|_| len.is_multiple_of(u64::from(size)));
    let mut variants = Vec::new();
    let vouched = vouches_for_its_fields(&own);
    let counted = own.get(28..32).and_then(|field| field.try_into().ok()).map(u32::from_be_bytes).filter(|_| vouched);
    if vouched {
        // Its own may be another power of two than it was.
        let mut sizes: Vec<u32> = remembered.iter().map(|known| known.page_size).collect();
        sizes.extend(named_page_size(&own));
        sizes.dedup();
        for (size, pages) in sizes.into_iter().filter_map(|size| Some((size, pages_of(size)?))) {
            let fallback = remembered.unwrap_or(KnownHeader { page_size: size, ..unknown(known) });
            let mut head = header_put_right(&own, size, pages, &fallback);
            // It is given once and for all when a database is made.
            if let Some(known) = &remembered {
                head[56..60].copy_from_slice(&known.encoding.to_be_bytes());
            }
            let as_it_is = head == own;
            let how = if as_it_is { "its first page as it is" } else { "its header put right" }.to_owned();
            variants.push(Variant { head, body: None, vouched, counted, as_it_is, how });
            if head[20] != 0 {
                let mut head = head;
                head[20] = 0;
                let how = "its header put right".to_owned();
                variants.push(Variant { head, body: None, vouched, counted, as_it_is: false, how });
            }
        }
    }
    let Some((remembered, pages)) = remembered.and_then(|known| Some((known, pages_of(known.page_size)?))) else {
        return Ok(variants);
    };
    if !vouched {
        let head = header_of_known(pages, &remembered);
        let how = "its header written anew from what is remembered".to_owned();
        variants.push(Variant { head, body: None, vouched, counted, as_it_is: false, how });
    }
    let mut first = vec![0; remembered.page_size as usize];
    main.read_exact_at(&mut first, 0).map_err(while_("reading its first page"))?;
    for backup in &known.page_ones {
        let theirs = page_one(backup, &remembered);
        // What it has already was tried.
        let is_another = |page: &Vec<u8>| page.get(HEADER_LEN..) != first.get(HEADER_LEN..) || page.get(20) != Some(&0);
        let Some(page) = theirs.filter(is_another) else { continue };
        let head = match vouched {
            true => header_put_right(&own, remembered.page_size, pages, &remembered),
            false => {
                let mut head = header_of_known(pages, &remembered);
                head[20] = page.get(20).copied().unwrap_or(0);
                head
            }
        };
        let how = format!("page 1 of the backup {}", backup.display());
        let body = page.get(HEADER_LEN..).map(<[u8]>::to_vec);
        variants.push(Variant { head, body, vouched, counted, as_it_is: false, how });
    }
    Ok(variants)
}

/// What a script of [`Database::schema_sql`] and the rest of what is remembered say of a header.
fn known_header(script: &str, known: &KnownPageOne) -> Option<KnownHeader> {
    let number = |pragma| said(script, pragma).and_then(|value| value.parse::<i32>().ok());
    Some(KnownHeader {
        page_size: u32::try_from(number("page_size")?).ok().filter(|size| Geometry::new(*size, 0).is_some())?,
        encoding: match said(script, "encoding")? {
            "UTF-8" => 1,
            "UTF-16le" => 2,
            "UTF-16be" => 3,
            _ => return None,
        },
        auto_vacuum: u8::try_from(number("auto_vacuum")?).ok()?,
        user_version: number("user_version")?,
        application_id: number("application_id")?,
        ..unknown(known)
    })
}

/// The value that a script of [`Database::schema_sql`] gives a pragma.
pub(super) fn said<'a>(script: &'a str, pragma: &str) -> Option<&'a str> {
    let from = script.find(&format!("PRAGMA {pragma}="))?;
    let (value, _) = script.get(from..)?.split_once('=')?.1.split_once(';')?;
    Some(value.trim_matches('\''))
}

/// The defaults, beside what is remembered without the script.
fn unknown(known: &KnownPageOne) -> KnownHeader {
    KnownHeader {
        page_size: 4096,
        encoding: 1,
        auto_vacuum: 0,
        user_version: 0,
        application_id: 0,
        schema_cookie: known.schema_cookie.unwrap_or(1),
        // Another than any that a program may remember the file by.
        change_counter: known.change_counter.unwrap_or(0).wrapping_add(1).max(1),
        wal_mode: known.wal_mode,
        sqlite_version: sqlite_version_number(),
    }
}

/// A backup's first page. The plan names those of just this schema alone: the roots in it are those of the trees.
fn page_one(backup: &Path, known: &KnownHeader) -> Option<Vec<u8>> {
    let (folder, name) = Folder::of_entry(backup).ok()?;
    let file = folder.open_in(&name).ok()?;
    let mut page = vec![0; known.page_size as usize];
    file.read_exact_at(&mut page, 0).ok()?;
    let header = Header::parse(&page).ok()?;
    (header.page_size == known.page_size).then_some(page)
}

/// Mends a copy in `folder`, and checks it in full.
fn attempt(
    place: &Place<'_>,
    folder: &Folder,
    variant: &Variant,
    known: &KnownPageOne,
    ownership: &Ownership,
) -> Result<(Examined, String, bool), JobFailure> {
    let has_wal = copy(place, folder, ownership)?;
    let file = folder.open_for_writing_in(NAME).map_err(while_("opening a private copy"))?;
    let put = |bytes: &[u8], at: u64| file.write_all_at(bytes, at).map_err(while_("mending a private copy"));
    put(&variant.head, 0)?;
    if let Some(body) = &variant.body {
        put(body, HEADER_LEN as u64)?;
    }
    drop(file);
    let path = folder.path().join(NAME);
    if has_wal {
        recover(&path)?;
    }
    let mut how = variant.how.clone();
    // A header that is its own may have nothing wrong with its list: the full check tells, and takes no longer.
    let may_pass = variant.vouched && !variant.as_it_is;
    let first = if may_pass { examine(&path, &Deadline::never()).ok() } else { None };
    let examined = match first {
        Some(examined) => examined,
        None => {
            let lists = mend_lists(folder, &path, variant.vouched)?;
            if variant.as_it_is && !lists.changed {
                return Err(failed("nothing is wrong with its header, nor with its list of free pages"));
            }
            how += &lists.how;
            examine(&path, &Deadline::never())?
        }
    };
    if examined.empty {
        return Err(failed("the mended copy has no table"));
    }
    is_the_known_schema(&examined, variant, known)?;
    let absent = absent_pages(&path, variant).map_err(while_("looking at the mended copy"))?;
    if absent > 0 {
        how += &format!("; by its header it had {absent} more pages, and whether commits were in them cannot be known");
    }
    Ok((examined, how, absent == 0))
}

/// Pages at the end that the database had by its own header and that are nowhere, not in the WAL either. Nothing that is left leads to
/// them, but page 1 is of a commit that had them. A count that is out of all proportion is a damaged field.
fn absent_pages(path: &Path, variant: &Variant) -> std::io::Result<u32> {
    let Some((counted, size)) = variant.counted.zip(named_page_size(&variant.head)) else { return Ok(0) };
    let there = u32::try_from(std::fs::metadata(path)?.len() / u64::from(size)).unwrap_or(u32::MAX);
    let absent = counted.saturating_sub(there);
    Ok(if absent <= there.max(PROPORTION) { absent } else { 0 })
}

/// A first page that lost an entry of the schema in order would have lost a table without a word.
fn is_the_known_schema(examined: &Examined, variant: &Variant, known: &KnownPageOne) -> Result<(), JobFailure> {
    let cookie = variant.head.get(40..44).and_then(|field| field.try_into().ok()).map(u32::from_be_bytes);
    let is_another = variant.vouched && variant.body.is_none() && cookie != known.schema_cookie;
    let is_same = known.schema.as_deref().is_some_and(|known| creations_in(known) == creations_in(&examined.schema));
    if is_another || is_same {
        return Ok(());
    }
    Err(failed("the mended copy has another schema than the database had"))
}

/// Copies main file and WAL under `NAME`; true when there is a WAL with anything in it.
pub(super) fn copy(place: &Place<'_>, folder: &Folder, ownership: &Ownership) -> Result<bool, JobFailure> {
    let mut has_wal = false;
    for suffix in ["", "-wal"] {
        let source = match place.folder.open_own_in(side_name(&place.name, suffix)) {
            Ok(source) => source,
            Err(error) if error.is_absent() && !suffix.is_empty() => continue,
            Err(error) => return Err(while_("opening the database's files")(error)),
        };
        if !suffix.is_empty() {
            has_wal = source.metadata().map_err(while_("looking at the WAL"))?.len() > 0;
            if !has_wal {
                continue;
            }
        }
        let name = side_name(OsStr::new(NAME), suffix);
        let target = folder.create_in(name, 0o600).map_err(while_("creating a private copy"))?;
        if suffix.is_empty() {
            ownership.prepare(&target);
        }
        copy_file(&source, &target).map_err(while_("making a private copy"))?;
    }
    Ok(has_wal)
}

/// Lets SQLite write the WAL back.
pub(super) fn recover(path: &Path) -> Result<(), JobFailure> {
    let doing = "recovering a private copy";
    let database = Database::open(path, Access::Copy, Duration::ZERO, Deadline::never())
        .map_err(while_("opening a private copy"))?;
    database.touch_schema().map_err(while_(doing))?;
    if database.journal_mode().map_err(while_(doing))? == "wal"
        && database.checkpoint_truncate(Duration::ZERO).map_err(while_(doing))?.busy
    {
        return Err(failed("a private copy is busy: somebody else has it open"));
    }
    database.close().map_err(while_("closing a private copy"))
}

/// What was done with the list of free pages and the largest root.
struct Lists {
    changed: bool,
    how: String,
}

/// Puts the list of free pages and the largest root right.
fn mend_lists(folder: &Folder, path: &Path, vouched: bool) -> Result<Lists, JobFailure> {
    let database = Database::open(path, Access::Immutable, Duration::ZERO, Deadline::never())
        .map_err(while_("opening a private copy"))?;
    let (used, largest_root) = database.pages_in_use().map_err(while_("walking the trees of a private copy"))?;
    database.close().map_err(while_("closing a private copy"))?;

    let file = folder.open_for_writing_in(NAME).map_err(while_("opening a private copy"))?;
    let mut head: Head = [0; HEADER_LEN];
    file.read_exact_at(&mut head, 0).map_err(while_("reading a private copy"))?;
    let header = Header::parse(&head).map_err(while_("reading a private copy's header"))?;
    let geometry = Geometry::of(&header).ok_or_else(|| failed("its pages have no size"))?;
    let len = file.metadata().map_err(while_("looking at a private copy"))?.len();
    let pages = u32::try_from(len / u64::from(header.page_size)).unwrap_or(u32::MAX);
    let is_of_none =
        |page: &u32| !used.contains(page) && !geometry.is_pointer_map(*page) && *page != geometry.lock_byte_page();
    let unused: BTreeSet<u32> = (2..=pages).filter(is_of_none).collect();
    let page = |number: u32| read_page(&file, number, &geometry);
    let count = u32::try_from(unused.len()).unwrap_or(u32::MAX);
    let put = |bytes: &[u8], at: u64| file.write_all_at(bytes, at).map_err(while_("mending a private copy"));
    if header.largest_root != 0 {
        put(&largest_root.to_be_bytes(), 52)?;
    }
    let reading = "reading free pages";
    let listed = listed(&header, pages, &geometry, page).map_err(while_(reading))?;
    let (first, how) = if listed.as_ref() == Some(&unused) {
        (header.freelist_head, String::new())
    } else if let Some(found) = find_freelist(&unused, &geometry, page).map_err(while_(reading))? {
        (found, format!("; its list of {count} free pages was found again"))
    } else if unused.is_empty() {
        (0, "; no page of it is free".to_owned())
    } else if vouched && header.freelist_count == count {
        let made = make_freelist(&unused, &geometry);
        for (trunk, bytes) in &made {
            put(bytes, geometry.offset_of(*trunk))?;
        }
        let first = made.first().map_or(0, |(first, _)| *first);
        (first, format!("; the list of its {count} free pages was made anew"))
    } else {
        return Err(failed(format!(
            "{count} pages belong to no tree, and no list of free pages has just these: rows may have been on them"
        )));
    };
    put(&first.to_be_bytes(), 32)?;
    put(&count.to_be_bytes(), 36)?;
    let is_as_it_was =
        how.is_empty() && header.freelist_count == count && [0, largest_root].contains(&header.largest_root);
    Ok(Lists { changed: !is_as_it_was, how })
}

/// The pages on the list that the header leads to; `None` where it is damaged.
fn listed(
    header: &Header,
    pages: u32,
    geometry: &Geometry,
    page: impl FnMut(u32) -> std::io::Result<Vec<u8>>,
) -> std::io::Result<Option<BTreeSet<u32>>> {
    let (mut all, mut sound) = (BTreeSet::new(), true);
    walk_freelist(header.freelist_head, pages, geometry, page, |item| match item {
        FreelistItem::Trunk(page) | FreelistItem::Leaf { page, .. } => sound &= all.insert(page),
        FreelistItem::Fault(_) => sound = false,
    })?;
    Ok(sound.then_some(all))
}

fn read_page(file: &File, number: u32, geometry: &Geometry) -> std::io::Result<Vec<u8>> {
    let mut page = vec![0; geometry.page_size() as usize];
    file.read_exact_at(&mut page, geometry.offset_of(number))?;
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_header_said_is_read_from_the_schemas_script() {
        let known =
            KnownPageOne { schema_cookie: Some(3), change_counter: Some(9), wal_mode: true, ..KnownPageOne::default() };
        let script = "PRAGMA page_size=8192;\nPRAGMA encoding='UTF-16le';\nPRAGMA auto_vacuum=2;\nBEGIN;\n\
                      CREATE TABLE t(a);\nPRAGMA user_version=-4;\nPRAGMA application_id=7;\nCOMMIT;\n";
        let header = known_header(script, &known).unwrap();
        assert_eq!((header.page_size, header.encoding, header.auto_vacuum), (8192, 2, 2));
        assert_eq!((header.user_version, header.application_id), (-4, 7));
        assert_eq!((header.schema_cookie, header.change_counter, header.wal_mode), (3, 10, true));
        assert_eq!(known_header("CREATE TABLE t(a);", &known), None);
        assert_eq!(known_header(&script.replace("8192", "8191"), &known), None);
    }
}
