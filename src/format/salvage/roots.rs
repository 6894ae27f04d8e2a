//! Which page is whose root, where the schema's numbers cannot all be right.

use std::collections::{BTreeMap, BTreeSet};

use super::super::page::PageKind;
use super::super::record::Record;
use super::claim::Claims;
use super::{Profile, Tree};

/// Rows of a page that are looked at.
const SAMPLE_ROWS: usize = 12;

/// The trees' roots, without those that cannot be theirs: of another kind, or another tree's by what stands there.
pub(super) fn right_roots(claims: &Claims<'_>, trees: &[Tree]) -> Vec<u32> {
    let mut roots: Vec<u32> = trees
        .iter()
        .map(|tree| {
            let kind = claims.survey.note(tree.root).kind;
            if kind.is_some_and(|kind| kind.is_table() == tree.shape.has_rowids) { tree.root } else { 0 }
        })
        .collect();
    let mut sharing: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (at, root) in roots.iter().enumerate().filter(|(_, root)| **root != 0) {
        sharing.entry(*root).or_default().push(at);
    }
    for (root, sharers) in sharing {
        let rows = rows_below(claims, root);
        let fit = |at: &usize| {
            let shape = trees.get(*at).map(|tree| &tree.shape);
            let records = rows.iter().filter_map(|row| Record::parse(row).ok());
            let fitting = records.clone().filter(|record| shape.is_none_or(|shape| shape.fits(record))).count();
            let profile = Profile::default();
            let like: f64 = records.filter_map(|record| shape.map(|shape| profile.likeness(shape, &record))).sum();
            (fitting, like)
        };
        let fits: Vec<(usize, f64)> = sharers.iter().map(fit).collect();
        let best = (0..fits.len()).max_by(|a, b| {
            let (a, b) = (fits[*a], fits[*b]);
            a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
        });
        for (at, sharer) in sharers.iter().enumerate() {
            // Alone, it keeps a root of which at least some rows fit.
            let misfit = !rows.is_empty() && fits[at].0 * 4 < rows.len();
            if (Some(at) != best || misfit)
                && let Some(slot) = roots.get_mut(*sharer)
            {
                *slot = 0;
            }
        }
    }
    roots
}

/// Some rows of the tree at `root`: down its left edge, and on over the children of the lowest interior page.
fn rows_below(claims: &Claims<'_>, root: u32) -> Vec<Vec<u8>> {
    let mut rows = Vec::new();
    let mut waiting = vec![root];
    let mut seen = BTreeSet::new();
    while let Some(page) = waiting.pop() {
        if seen.len() > 40 || rows.len() >= 60 || !seen.insert(page) {
            continue;
        }
        match claims.survey.note(page).kind {
            Some(PageKind::TableInterior) => waiting.extend(claims.children_of(page).into_iter().take(12)),
            Some(kind) => {
                claims.each_row(page, SAMPLE_ROWS, |record| rows.push(record.payload().to_vec()));
                if !kind.is_leaf() {
                    waiting.extend(claims.children_of(page).into_iter().take(6));
                }
            }
            None => {}
        }
    }
    rows
}
