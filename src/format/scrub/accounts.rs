//! Who has each page, and what was found wrong.

use super::super::geometry::Geometry;
use super::fault::{PageUse, ScrubFault, ScrubFaultKind};

/// Whose a fault is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// The database's as a whole.
    Database,
    /// A tree's, by its place in the list of trees.
    Tree(u32),
    Freelist,
    PointerMap,
    Nobody,
}

/// Of a page that no tree has.
pub(super) const NOBODY: u32 = u32::MAX;
/// Beside the tree, of a page that holds the rest of a payload.
pub(super) const OVERFLOW: u32 = 1 << 31;

/// The books.
pub(super) struct Accounts {
    pages: u32,
    uses: Vec<PageUse>,
    /// Who refers to the page; only where a pointer map is to be compared.
    parents: Vec<u32>,
    /// The tree that has the page, and [`OVERFLOW`] for what is no page of the tree itself; only where that is asked for.
    owners: Vec<u32>,
    /// Kept: at most so many as are asked for.
    pub faults: Vec<(u32, Owner, ScrubFaultKind)>,
    pub faults_total: u64,
    faults_max: usize,
}

impl Accounts {
    pub(super) fn new(pages: u32, geometry: &Geometry, faults_max: usize, with_owners: bool) -> Accounts {
        let mut accounts = Accounts {
            pages,
            uses: vec![PageUse::Nothing; pages as usize],
            parents: if geometry.has_pointer_maps() { vec![0; pages as usize] } else { Vec::new() },
            owners: if with_owners { vec![NOBODY; pages as usize] } else { Vec::new() },
            faults: Vec::new(),
            faults_total: 0,
            faults_max,
        };
        let set = |uses: &mut Vec<PageUse>, page: u32, what| {
            if let Some(slot) = uses.get_mut(page as usize - 1) {
                *slot = what;
            }
        };
        set(&mut accounts.uses, geometry.lock_byte_page(), PageUse::LockBytes);
        let mut map = geometry.pointer_map_of(2);
        while let Some(number) = map.filter(|number| *number <= pages) {
            set(&mut accounts.uses, number, PageUse::PointerMap);
            // The entries of a map's own span end before the next map; one for the lock page, which shifts a map by one.
            let next = number.saturating_add(geometry.usable() / 5);
            map = (next..next.saturating_add(3)).find(|next| *next > number && geometry.is_pointer_map(*next));
        }
        accounts
    }

    /// Enters that `parent` refers to a page.
    ///
    /// # Errors
    /// What is wrong with that: the database has no such page, or it has an owner.
    pub(super) fn claim(&mut self, page: u32, what: PageUse, parent: u32, owner: Owner) -> Result<(), ScrubFaultKind> {
        let at = (page as usize).wrapping_sub(1);
        let slot = self.uses.get_mut(at).ok_or(ScrubFaultKind::OutOfRange(page))?;
        if *slot != PageUse::Nothing {
            return Err(ScrubFaultKind::Twice { page, has: *slot });
        }
        *slot = what;
        if let Some(slot) = self.parents.get_mut(at) {
            *slot = parent;
        }
        if let (Some(slot), Owner::Tree(tree)) = (self.owners.get_mut(at), owner) {
            let is_overflow = matches!(what, PageUse::FirstOverflow | PageUse::LaterOverflow);
            *slot = if is_overflow { tree | OVERFLOW } else { tree };
        }
        Ok(())
    }

    pub(super) fn use_of(&self, page: u32) -> PageUse {
        (page as usize).checked_sub(1).and_then(|at| self.uses.get(at)).copied().unwrap_or_default()
    }

    pub(super) fn parent_of(&self, page: u32) -> u32 {
        (page as usize).checked_sub(1).and_then(|at| self.parents.get(at)).copied().unwrap_or(0)
    }

    /// By page, from page 1: see the field. They are not kept here.
    pub(super) fn take_owners(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.owners)
    }

    /// Every page that is used so, in order.
    pub(super) fn all(&self, what: PageUse) -> impl Iterator<Item = u32> + '_ {
        (1..=self.pages).zip(&self.uses).filter(move |(_, is)| **is == what).map(|(page, _)| page)
    }

    pub(super) fn fault(&mut self, page: u32, owner: Owner, what: ScrubFaultKind) {
        self.faults_total += 1;
        if self.faults.len() < self.faults_max {
            self.faults.push((page, owner, what));
        }
    }

    /// The faults with their owners' names; the books are closed.
    pub(super) fn told(self, name: impl Fn(u32) -> String) -> Vec<ScrubFault> {
        let words = |owner| match owner {
            Owner::Database => "database".to_owned(),
            Owner::Tree(tree) => name(tree),
            Owner::Freelist => "freelist".to_owned(),
            Owner::PointerMap => "pointer map".to_owned(),
            Owner::Nobody => "nobody".to_owned(),
        };
        self.faults.into_iter().map(|(page, owner, what)| ScrubFault { page, owner: words(owner), what }).collect()
    }
}
