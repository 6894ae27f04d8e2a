//! The pages of one tree, from its root down, as far as they can be read.
//!
//! For what needs rows and not proof: the schema, a salvage. A page that cannot be read costs its own subtree and nothing else.

use std::collections::BTreeSet;

use thiserror::Error;

use super::geometry::Geometry;
use super::page::BtreePage;

/// Deeper than this no tree is (`BTCURSOR_MAX_DEPTH` in `btreeInt.h`).
pub const DEPTH_MAX: usize = 20;

/// Why a page below a root is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TreeFault {
    /// Page 0, or one that the database does not have.
    #[error("page {0} is not in the database")]
    OutOfRange(u32),
    /// The source does not give it.
    #[error("page {0} cannot be read")]
    Unreadable(u32),
    /// Its kind is none.
    #[error("page {0} is no b-tree page")]
    NoPage(u32),
    /// It belongs to an index in a table's tree, or the other way round.
    #[error("page {0} belongs to another kind of tree")]
    OtherTree(u32),
    /// The tree leads to it twice.
    #[error("page {0} is in the tree twice")]
    Twice(u32),
    /// Too many pages above it.
    #[error("page {0} lies too deep")]
    TooDeep(u32),
    /// A cell of it gives no child.
    #[error("a cell of page {0} cannot be read")]
    Cell(u32),
}

/// Shows `visit` each page of the tree at `root` once, a page before its children, and children in the order of their keys; read by
/// [`BtreePage::lenient`]. `source` gives a page's bytes, `pages` is how many there are. What is left out goes to `fault`.
pub fn walk_tree<P: AsRef<[u8]>>(
    root: u32,
    pages: u32,
    geometry: &Geometry,
    mut source: impl FnMut(u32) -> Option<P>,
    mut visit: impl FnMut(u32, &BtreePage<'_>),
    mut fault: impl FnMut(TreeFault),
) {
    let (mut seen, mut is_table) = (BTreeSet::new(), None);
    let mut waiting = Vec::new();
    // A page waits once at the most, so that no tree makes this longer than the database.
    let mut enter = |number: u32, depth: usize, waiting: &mut Vec<(u32, usize)>| {
        if !(1..=pages).contains(&number) {
            return Some(TreeFault::OutOfRange(number));
        }
        if depth > DEPTH_MAX {
            return Some(TreeFault::TooDeep(number));
        }
        if !seen.insert(number) {
            return Some(TreeFault::Twice(number));
        }
        waiting.push((number, depth));
        None
    };
    enter(root, 1, &mut waiting).into_iter().for_each(&mut fault);
    while let Some((number, depth)) = waiting.pop() {
        let Some(bytes) = source(number) else {
            fault(TreeFault::Unreadable(number));
            continue;
        };
        let Some(page) = BtreePage::lenient(bytes.as_ref(), number, geometry) else {
            fault(TreeFault::NoPage(number));
            continue;
        };
        if *is_table.get_or_insert(page.kind().is_table()) != page.kind().is_table() {
            fault(TreeFault::OtherTree(number));
            continue;
        }
        visit(number, &page);
        if page.kind().is_leaf() {
            continue;
        }
        // The last in comes out first.
        let left = page.cells().map(|cell| cell.ok().and_then(|cell| cell.left_child));
        for child in left.chain([page.right_child()]).rev() {
            let found = child.map_or(Some(TreeFault::Cell(number)), |child| enter(child, depth + 1, &mut waiting));
            found.into_iter().for_each(&mut fault);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interior(children: &[u32], right: u32) -> Vec<u8> {
        let mut page = vec![0; 512];
        page[0] = 5;
        page[4] = children.len() as u8;
        page[8..12].copy_from_slice(&right.to_be_bytes());
        for (index, child) in children.iter().enumerate() {
            let at = 512 - 8 * (index + 1);
            page[12 + 2 * index..14 + 2 * index].copy_from_slice(&(at as u16).to_be_bytes());
            page[at..at + 4].copy_from_slice(&child.to_be_bytes());
            page[at + 4] = 1;
        }
        page
    }

    fn leaf(kind: u8) -> Vec<u8> {
        let mut page = vec![0; 512];
        page[0] = kind;
        page
    }

    #[test]
    fn a_bad_child_costs_itself_alone() {
        let geometry = Geometry::new(512, 0).unwrap();
        // Page 1 is not of this tree: 2 is the root.
        let mut pages = vec![leaf(0), interior(&[3, 2, 99, 4, 1, 5], 6), leaf(13), leaf(10), vec![], interior(&[3], 7)];
        pages.push(leaf(13));
        let (mut visited, mut faults) = (Vec::new(), Vec::new());
        let source = |number: u32| pages.get(number as usize - 1).filter(|page| !page.is_empty());
        walk_tree(2, 7, &geometry, source, |number, _| visited.push(number), |fault| faults.push(fault));
        assert_eq!(visited, [2, 3, 6, 7]);
        use TreeFault::*;
        assert_eq!(faults, [OutOfRange(99), Twice(2), OtherTree(4), NoPage(1), Unreadable(5), Twice(3)]);
    }

    #[test]
    fn no_tree_is_deeper_than_any() {
        let geometry = Geometry::new(512, 0).unwrap();
        let (mut visited, mut faults) = (0, Vec::new());
        let source = |number: u32| Some(interior(&[], number + 1));
        walk_tree(2, 1000, &geometry, source, |_, _| visited += 1, |fault| faults.push(fault));
        assert_eq!((visited, faults), (DEPTH_MAX, vec![TreeFault::TooDeep(22)]));
    }
}
