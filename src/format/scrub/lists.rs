//! What is in no tree: the freelist, the pointer maps, pages that nobody has.

use super::super::geometry::Geometry;
use super::super::{FreelistItem, Header, PointerMapKind, pointer_map_entries, walk_freelist};
use super::accounts::{Accounts, Owner};
use super::fault::{PageUse, ScrubFaultKind};
use super::{PageSource, ScrubError, read_page};

/// The freelist, and the pages on it.
pub(super) fn freelist<S: PageSource>(
    source: &S,
    header: &Header,
    pages: u32,
    geometry: &Geometry,
    accounts: &mut Accounts,
) -> Result<u32, ScrubError<S::Error>> {
    let mut found = 0;
    // A page that is somebody's already may look like a trunk and name anything: it ends the list.
    let mut stray = false;
    let owner = Owner::Freelist;
    let read = |number| read_page(source, number, geometry);
    walk_freelist(header.freelist_head, pages, geometry, read, |item| {
        let (page, of) = match item {
            FreelistItem::Trunk(page) => (page, page),
            FreelistItem::Leaf { trunk, page } if !stray => (page, trunk),
            FreelistItem::Fault(fault) if !stray => return accounts.fault(0, owner, fault.into()),
            _ => return,
        };
        if stray {
            return;
        }
        match accounts.claim(page, PageUse::Free, 0, owner) {
            Ok(()) => found += 1,
            Err(fault) => {
                stray = page == of;
                accounts.fault(of, owner, fault);
            }
        }
    })?;
    if found != header.freelist_count {
        let written = header.freelist_count;
        accounts.fault(1, owner, ScrubFaultKind::FreelistCount { found, written });
    }
    Ok(found)
}

/// Every entry of the pointer maps, against who refers to the page.
pub(super) fn pointer_maps<S: PageSource>(
    source: &S,
    pages: u32,
    geometry: &Geometry,
    accounts: &mut Accounts,
) -> Result<(), ScrubError<S::Error>> {
    let maps: Vec<u32> = accounts.all(PageUse::PointerMap).collect();
    for map in maps {
        let bytes = read_page(source, map, geometry)?;
        for (page, entry) in pointer_map_entries(&bytes, map, pages, geometry) {
            let kind = match accounts.use_of(page) {
                PageUse::Root => PointerMapKind::Root,
                PageUse::Tree => PointerMapKind::Tree,
                PageUse::FirstOverflow => PointerMapKind::FirstOverflow,
                PageUse::LaterOverflow => PointerMapKind::LaterOverflow,
                PageUse::Free => PointerMapKind::Free,
                PageUse::Nothing | PageUse::PointerMap | PageUse::LockBytes => continue,
            };
            let (parent, written) = (accounts.parent_of(page), entry.map(|entry| (entry.kind, entry.parent)));
            if written != Some((kind, parent)) {
                let fault = ScrubFaultKind::PointerMap { kind, parent, written };
                accounts.fault(page, Owner::PointerMap, fault);
            }
        }
    }
    Ok(())
}

/// Pages that nobody refers to.
pub(super) fn unused(accounts: &mut Accounts) {
    let unused: Vec<u32> = accounts.all(PageUse::Nothing).collect();
    for page in unused {
        accounts.fault(page, Owner::Nobody, ScrubFaultKind::NeverUsed);
    }
}
