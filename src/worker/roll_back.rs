//! A copied main file, taken back to before a transaction by all records of its journal that verify: SQLite stops at the first
//! that does not, and does nothing where the journal's header is gone.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use crate::format::{Header, MendedJournal, mend_journal};

/// What the journal has beyond what SQLite would roll back; `None` when there is no such thing.
pub(super) fn beyond_sqlite(main: &File, journal: &File) -> io::Result<Option<MendedJournal>> {
    let page_size = header(main)?.map(|header| header.page_size);
    let read = |at: u64, buffer: &mut [u8]| journal.read_exact_at(buffer, at);
    let mended = mend_journal(journal.metadata()?.len(), page_size, read)?;
    Ok(mended.filter(|mended| mended.bad > 0 || mended.header_hurt))
}

/// Takes `main`, a private copy, back; says what was done.
pub(super) fn roll_back(main: &File, journal: &File, mended: &MendedJournal) -> io::Result<String> {
    let page_size = u64::from(mended.page_size);
    let as_it_stands = header(main)?.and_then(|header| header.counted_pages());
    let Some(pages) = mended.initial_pages.or(as_it_stands) else {
        return Err(io::Error::other("it cannot be told how many pages there were before the transaction"));
    };
    let mut page = vec![0; mended.page_size as usize];
    for image in mended.pre_images.iter().filter(|image| image.page <= pages) {
        journal.read_exact_at(&mut page, image.at)?;
        main.write_all_at(&page, u64::from(image.page - 1) * page_size)?;
    }
    main.set_len(u64::from(pages) * page_size)?;
    main.sync_all()?;
    let header = if mended.header_hurt { ", its header rebuilt" } else { "" };
    Ok(format!(
        "with its journal rolled back as far as its records verify ({}, and {} do not{header})",
        mended.pre_images.len(),
        mended.bad
    ))
}

fn header(main: &File) -> io::Result<Option<Header>> {
    let mut head = [0_u8; 100];
    match main.read_exact_at(&mut head, 0) {
        Ok(()) => Ok(Header::parse(&head).ok()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}
