//! Pages that were written over others: what a write leaves that went to a wrong place.
//!
//! Two trees of a sound database may have leaves of equal content: a table and a copy of it. So a leaf is called astray only where
//! another one of equal content stands where it belongs, and this one where its keys do not.

use std::cmp::Ordering;

use super::super::record::Owned;
use super::super::scrub::{Collation, KeyPart, key_order};
use super::claim::{Claimed, Claims};

/// Pages are compared in so many parts, one after the other, so that the list of a part is short.
const PARTS: u64 = 16;
/// So many groups of equal pages are looked into; a file with more is made of copies.
const GROUPS_MAX: usize = 1000;
/// Leaves on each side that tell the order of a tree's keys.
const NEIGHBOURS: usize = 3;

/// Leaves that a tree leads to and that are none of its: the tree, and the page.
pub(super) fn astray(claims: &Claims<'_>, claimed: &[Claimed]) -> Vec<(usize, u32)> {
    let mut astray = Vec::new();
    for group in groups(claims, claimed.len()) {
        let placed = group.iter().filter_map(|page| {
            let tree = (claims.owner(*page) as usize).checked_sub(1)?;
            Some((tree, *page, is_misplaced(claims, claimed.get(tree)?, *page)))
        });
        let placed: Vec<(usize, u32, bool)> = placed.collect();
        if placed.iter().any(|(.., misplaced)| !misplaced) && is_equal(claims, &group) {
            astray.extend(placed.iter().filter(|(.., misplaced)| *misplaced).map(|(tree, page, _)| (*tree, *page)));
        }
    }
    astray
}

/// Leaves of equal content that trees have.
fn groups(claims: &Claims<'_>, trees: usize) -> Vec<Vec<u32>> {
    let mut groups = Vec::new();
    let note = |page: &u32| claims.survey.note(*page);
    let is_owned_leaf = |page: &u32| {
        let note = note(page);
        let owned = (1..=trees).contains(&(claims.owner(*page) as usize));
        owned && note.cells > 0 && note.kind.is_some_and(|kind| kind.is_leaf())
    };
    for part in 0..PARTS {
        let of_part = (2..=claims.survey.pages()).filter(|page| note(page).hash % PARTS == part);
        let mut pages: Vec<u32> = of_part.filter(is_owned_leaf).collect();
        pages.sort_unstable_by_key(|page| (note(page).hash, *page));
        let equal = pages.chunk_by(|one, other| note(one).hash == note(other).hash).filter(|equal| equal.len() > 1);
        let room = GROUPS_MAX.saturating_sub(groups.len());
        groups.extend(equal.take(room).map(<[u32]>::to_vec));
    }
    groups
}

/// By accident the numbers that stand for two contents may be equal.
fn is_equal(claims: &Claims<'_>, group: &[u32]) -> bool {
    let pages: Vec<_> = group.iter().map(|page| claims.pages.page(*page)).collect();
    pages.windows(2).all(|pair| matches!(pair, [Some(one), Some(other)] if one == other))
}

/// Its rowids are others than the page above says; or its keys are out of an order that all those around it have.
fn is_misplaced(claims: &Claims<'_>, mine: &Claimed, page: u32) -> bool {
    if claims.survey.note(page).kind.is_some_and(|kind| kind.is_table()) {
        return mine.doubtful.contains(&page);
    }
    let is_leaf = |page: &&u32| claims.survey.note(**page).kind.is_some_and(|kind| kind.is_leaf());
    let leaves: Vec<u32> = mine.live.iter().filter(is_leaf).copied().collect();
    let Some(at) = leaves.iter().position(|leaf| *leaf == page) else { return false };
    let (before, behind) = (&leaves[at.saturating_sub(NEIGHBOURS)..at], &leaves[at + 1..]);
    let behind = &behind[..behind.len().min(NEIGHBOURS)];
    let keys = |pages: &[u32]| pages.iter().map(|page| first_columns(claims, *page)).collect::<Option<Vec<_>>>();
    let (Some(before), Some(own), Some(behind)) = (keys(before), first_columns(claims, page), keys(behind)) else {
        return false;
    };
    let around = order_of(before.iter().chain(&behind).flatten());
    let with_it = order_of(before.iter().flatten().chain(&own).chain(behind.iter().flatten()));
    matches!(around, Some(Ordering::Less | Ordering::Greater)) && with_it.is_none()
}

/// `Less` where each is as great as the one before it or greater, `Greater` where each is as great or less, `Equal` where all are the
/// same; `None` where they are in no order.
fn order_of<'a>(keys: impl Iterator<Item = &'a Owned>) -> Option<Ordering> {
    let mut order = Ordering::Equal;
    let mut last: Option<&Owned> = None;
    for key in keys {
        let step = last.map_or(Ordering::Equal, |last| compare(last, key));
        if step != Ordering::Equal && order != Ordering::Equal && step != order {
            return None;
        }
        order = if order == Ordering::Equal { step } else { order };
        last = Some(key);
    }
    Some(order)
}

/// As most indexes have them. In an order of another kind those around a page are in none.
fn compare(one: &Owned, other: &Owned) -> Ordering {
    let part = KeyPart { column: None, collation: Collation::Binary, descending: false };
    key_order(&[one.value()], &[other.value()], &[part])
}

/// The first column of each key of a page, in its order; `None` where one cannot be read.
fn first_columns(claims: &Claims<'_>, page: u32) -> Option<Vec<Owned>> {
    let mut keys = Vec::new();
    let mut whole = true;
    claims.each_row(page, usize::MAX, |record| match record.values().next() {
        Some(Ok(value)) => keys.push(Owned::of(value)),
        Some(Err(_)) | None => whole = false,
    });
    whole.then_some(keys)
}
