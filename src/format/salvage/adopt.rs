//! Whose the pages are that no tree leads to.
//!
//! A sound database has none: every page has an owner, or is free. So what is left over after all trees have claimed theirs belongs to
//! trees that lack something: below a page that is gone, behind a child's number that is hurt, under a root that nobody knows. Which one
//! it is, tells what is missing (rowids between neighbours), what may be in the table's columns, and what its other rows look like.

use std::collections::{BTreeMap, BTreeSet};

use super::super::page::PageKind;
use super::super::record::Record;
use super::claim::{Claimed, Claims, Gap, KeyGap};
use super::copies::astray;
use super::heard::{Has, pairs};
use super::named::Sample;
use super::recall::{Recalled, Was};
use super::roots::right_roots;
use super::{Pages, Profile, Survey, Tree, TreeUse};

/// A page of a table, to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Which.
    pub page: u32,
    /// Nothing led to it.
    pub orphan: bool,
}

/// Who owns which pages.
#[derive(Debug, Default)]
pub struct Assignment {
    /// Of each tree, in the order in which they were given: pages to read, the surest first.
    pub pieces: Vec<Vec<Piece>>,
    /// Trees that lack something which was not found.
    pub lacking: Vec<bool>,
    /// Of each tree of rowids: what it lacks, before orphans were found a place.
    pub gaps: Vec<Vec<Gap>>,
    /// Of each tree of keys: where it may lack some.
    pub key_gaps: Vec<Vec<KeyGap>>,
    /// Pages that fit nowhere: the topmost page that led to them, and the page.
    pub lost: Vec<(u32, u32)>,
    /// Orphans that only repeat what a tree has.
    pub repeated: u32,
    /// Pages of trees that the freelist or a pointer map calls free.
    pub free_in_use: u32,
}

/// Rows of a component that are looked at.
const SAMPLE_PAGES: usize = 12;
const SAMPLE_ROWS: usize = 12;
/// Being where something is missing speaks for a tree as much as this much likeness of each row.
const IN_A_GAP: f64 = 4.0;
/// Nothing missing there speaks against it.
const COMPLETE: f64 = 12.0;

/// Gives every page with rows an owner; a page map of an earlier moment may help.
pub fn assign(
    pages: &dyn Pages,
    survey: &Survey,
    trees: &[Tree],
    taken: &BTreeSet<u32>,
    recalled: Option<Recalled<'_>>,
) -> Assignment {
    let owners = vec![0; survey.notes.len()];
    let mut claims = Claims { pages, survey, owners, astray: Vec::new() };
    // The schema's own pages are nobody else's.
    taken.iter().for_each(|page| {
        claims.take(*page, usize::MAX - 1);
    });
    let roots = right_roots(&claims, trees);
    let mut claimed: Vec<Claimed> = trees.iter().map(|_| Claimed::default()).collect();
    for (at, (tree, root)) in trees.iter().zip(&roots).enumerate() {
        let Some(mine) = claimed.get_mut(at) else { continue };
        if *root == 0 {
            mine.gaps.push(Gap { low: None, high: None });
            mine.key_gaps.push(KeyGap { after: None, before: None });
            continue;
        }
        claims.claim(at, *root, &tree.shape, mine);
    }
    claims.astray = astray(&claims, &claimed);
    let hurt: BTreeSet<usize> = claims.astray.iter().map(|(tree, _)| *tree).collect();
    for at in hurt {
        let (Some(tree), Some(mine), Some(root)) = (trees.get(at), claimed.get_mut(at), roots.get(at)) else {
            continue;
        };
        claims.give_back(at);
        *mine = Claimed::default();
        claims.claim(at, *root, &tree.shape, mine);
    }
    for mine in &mut claimed {
        claims.learn(mine);
    }
    let mut adoption = Adoption::new(&mut claims, trees, &claimed, recalled);
    let (adopted, lost, repeated) = adoption.run();
    let in_use = claims.owners.iter().zip(&survey.notes).filter(|(owner, note)| **owner != 0 && note.free);
    let free_in_use = in_use.count() as u32;
    let mut assignment = Assignment { lost, repeated, free_in_use, ..Assignment::default() };
    for (mine, adopted) in claimed.into_iter().zip(adopted) {
        assignment.lacking.push(mine.lacks());
        let live = mine.live.iter().chain(&mine.doubtful).map(|page| Piece { page: *page, orphan: false });
        let orphans = adopted.into_iter().map(|page| Piece { page, orphan: true });
        assignment.pieces.push(live.chain(orphans).collect());
        assignment.gaps.push(mine.gaps);
        assignment.key_gaps.push(mine.key_gaps);
    }
    assignment
}

/// Pages that hang together below one that nothing leads to.
struct Component {
    top: u32,
    /// With rows.
    pages: Vec<u32>,
    has_rowids: bool,
}

struct Adoption<'a, 'b> {
    claims: &'a mut Claims<'b>,
    trees: &'a [Tree],
    claimed: &'a [Claimed],
    /// Of each tree of rowids: its leaves, by their lowest.
    leaves: Vec<Vec<u32>>,
    /// Of each tree: the rowids of leaves that it was given, from, to.
    given: Vec<BTreeMap<i64, i64>>,
    /// Contents that a tree has, of those that an orphan has.
    known: BTreeSet<u64>,
    recalled: Option<Recalled<'a>>,
    /// Of trees whose columns nobody knows: what stands on pages that are surely theirs.
    learned: BTreeMap<usize, Profile>,
}

/// What a page map says of a component.
enum Told {
    /// Whose it is.
    Of(usize),
    /// It is left over from a table that has no place for it any more: it is nobody else's either.
    LeftOver,
    /// Nothing.
    Nothing,
}

type Adopted = (Vec<Vec<u32>>, Vec<(u32, u32)>, u32);

impl<'a, 'b> Adoption<'a, 'b> {
    fn new(
        claims: &'a mut Claims<'b>,
        trees: &'a [Tree],
        claimed: &'a [Claimed],
        recalled: Option<Recalled<'a>>,
    ) -> Adoption<'a, 'b> {
        let (leaves, given) = (Vec::new(), trees.iter().map(|_| BTreeMap::new()).collect());
        let (known, learned) = (BTreeSet::new(), BTreeMap::new());
        Adoption { claims, trees, claimed, leaves, given, known, recalled, learned }
    }

    /// Puts down where the trees' own rows stand, and which of them orphans repeat: a few bytes for a page, for there may be millions.
    fn take_stock(&mut self, orphans: &[u32]) {
        let survey = self.claims.survey;
        let mut of_orphans: Vec<u64> = orphans.iter().map(|page| survey.note(*page).hash).collect();
        of_orphans.sort_unstable();
        for (mine, tree) in self.claimed.iter().zip(self.trees) {
            let live = || mine.live.iter().copied().filter(|page| survey.note(*page).cells > 0);
            let hashes = live().map(|page| survey.note(page).hash);
            self.known.extend(hashes.filter(|hash| of_orphans.binary_search(hash).is_ok()));
            let mut leaves: Vec<u32> = live().filter(|_| tree.shape.has_rowids).collect();
            leaves.sort_by_key(|page| survey.note(*page).low);
            self.leaves.push(leaves);
        }
    }

    fn is_orphan(&self, page: u32) -> bool {
        let note = self.claims.survey.note(page);
        note.kind.is_some() && note.cells > 0 && !note.free && self.claims.owner(page) == 0
    }

    fn run(&mut self) -> Adopted {
        let mut adopted: Vec<Vec<u32>> = self.trees.iter().map(|_| Vec::new()).collect();
        let (mut lost, mut repeated) = (Vec::new(), 0);
        let counted = self.claims.survey.header.and_then(|header| header.counted_pages()).unwrap_or(u32::MAX);
        let last = self.claims.survey.pages().min(counted);
        let orphans: Vec<u32> = (2..=last).filter(|page| self.is_orphan(*page)).collect();
        if orphans.is_empty() {
            return (adopted, lost, repeated);
        }
        self.take_stock(&orphans);
        let components = self.components(&orphans);
        let was = |component: &Component| {
            self.recalled.and_then(|recalled| recalled.was(self.claims.pages, &component.pages))
        };
        let mut components: Vec<(Component, Option<Was>)> = components
            .into_iter()
            .map(|component| {
                let was = was(&component);
                (component, was)
            })
            .collect();
        // What is sure comes first, for it says what the others must look like. The largest says the most about where it belongs, and
        // then about what is left for the others.
        components.sort_by_key(|(component, was)| {
            (!matches!(was, Some(Was::Surely(_))), std::cmp::Reverse(component.pages.len()))
        });
        let (components, was): (Vec<Component>, Vec<Option<Was>>) = components.into_iter().unzip();
        let heard = self.heard(&components);
        for (nth, component) in components.into_iter().enumerate() {
            let fresh: Vec<u32> = component.pages.iter().copied().filter(|page| !self.is_known(*page)).collect();
            repeated += (component.pages.len() - fresh.len()) as u32;
            if fresh.is_empty() {
                continue;
            }
            let was = was.get(nth).copied().flatten();
            let owner = match self.told(was, &component, &fresh) {
                Told::Of(tree) => Some(tree),
                Told::LeftOver => None,
                Told::Nothing => {
                    let named = self.named(&component, &fresh).or_else(|| heard.get(&nth).copied());
                    named.or_else(|| self.best(&component, &fresh))
                }
            };
            match owner {
                Some(tree) => {
                    if matches!(was, Some(Was::Surely(_))) {
                        self.learn(tree, &fresh);
                    }
                    for page in &fresh {
                        let note = self.claims.survey.note(*page);
                        self.known.insert(note.hash);
                        self.claims.take(*page, tree);
                        if let Some(given) = self.given.get_mut(tree) {
                            given.insert(note.low, note.high);
                        }
                    }
                    adopted.get_mut(tree).into_iter().for_each(|pages| pages.extend(&fresh));
                }
                None => lost.extend(fresh.iter().map(|page| (component.top, *page))),
            }
        }
        (adopted, lost, repeated)
    }

    fn is_known(&self, page: u32) -> bool {
        self.known.contains(&self.claims.survey.note(page).hash)
    }

    fn components(&self, orphans: &[u32]) -> Vec<Component> {
        let mut below = BTreeSet::new();
        let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for page in orphans {
            let kind = self.claims.survey.note(*page).kind;
            if kind.is_none_or(|kind| kind.is_leaf()) {
                continue;
            }
            let mine: Vec<u32> = self
                .claims
                .children_of(*page)
                .into_iter()
                .filter(|child| child != page && self.is_orphan(*child) && below.insert(*child))
                .collect();
            children.insert(*page, mine);
        }
        let mut components = Vec::new();
        let mut seen = BTreeSet::new();
        // Tops first; then what only a circle leads to.
        for top in orphans.iter().filter(|page| !below.contains(page)).chain(orphans) {
            let mut waiting = vec![*top];
            let mut pages = Vec::new();
            while let Some(page) = waiting.pop() {
                if !seen.insert(page) {
                    continue;
                }
                let kind = self.claims.survey.note(page).kind;
                if kind.is_some_and(|kind| kind != PageKind::TableInterior) {
                    pages.push(page);
                }
                waiting.extend(children.get(&page).into_iter().flatten().rev());
            }
            let has_rowids = self.claims.survey.note(*top).kind.is_some_and(PageKind::is_table);
            pages.retain(|page| self.claims.survey.note(*page).kind.is_some_and(|kind| kind.is_table() == has_rowids));
            if !pages.is_empty() {
                components.push(Component { top: *top, pages, has_rowids });
            }
        }
        components
    }

    /// The tree that a page map says a component belongs to, where its rows agree and it lacks such a part.
    fn told(&self, was: Option<Was>, component: &Component, pages: &[u32]) -> Told {
        let (Some(Was::Surely(at) | Was::Perhaps(at)), Some(was)) = (was, was) else { return Told::Nothing };
        let (Some(tree), Some(mine)) = (self.trees.get(at), self.claimed.get(at)) else { return Told::Nothing };
        let is_surely = matches!(was, Was::Surely(_));
        let profile = self.learned.get(&at).unwrap_or(&mine.profile);
        let (mut rows, mut fitting) = (0usize, 0usize);
        let step = pages.len().div_ceil(SAMPLE_PAGES).max(1);
        for page in pages.iter().step_by(step) {
            self.claims.each_row(*page, SAMPLE_ROWS, |record| {
                rows += 1;
                // Of columns that nobody knows, only its own rows tell what may stand there.
                let is_like = is_surely || tree.shape.known || profile.has_seen(record);
                fitting += usize::from(is_like && tree.shape.fits(record));
            });
        }
        let fits = tree.shape.has_rowids == component.has_rowids && rows > 0 && fitting * 10 >= rows * 9;
        let clashing = pages.iter().filter(|page| self.clashes(at, **page)).count();
        let has_place = fits && mine.lacks() && (!component.has_rowids || clashing * 2 <= pages.len());
        match (has_place, is_surely) {
            (true, true) => Told::Of(at),
            (false, true) => Told::LeftOver,
            // Between the rowids of another table that lacks them it may be that one's by now.
            (true, false) if self.is_in_a_gap_of_another(at, component, pages) => Told::Nothing,
            (true, false) => Told::Of(at),
            (false, false) => Told::Nothing,
        }
    }

    fn is_in_a_gap_of_another(&self, tree: usize, component: &Component, pages: &[u32]) -> bool {
        let is_in = |mine: &Claimed| component.has_rowids && pages.iter().all(|page| self.is_in_a_gap(mine, *page));
        let is_bounded = |mine: &Claimed| mine.gaps.iter().all(|gap| gap.low.is_some() && gap.high.is_some());
        let other = |(at, mine): (usize, &Claimed)| at != tree && mine.lacks() && is_bounded(mine) && is_in(mine);
        !self.claimed.get(tree).is_some_and(|mine| is_bounded(mine) && is_in(mine))
            && self.claimed.iter().enumerate().any(other)
    }

    /// Learns from pages that are surely a tree's, where its own columns are not known.
    fn learn(&mut self, tree: usize, pages: &[u32]) {
        if self.trees.get(tree).is_none_or(|tree| tree.shape.known) {
            return;
        }
        let learned = self.learned.entry(tree).or_default();
        let step = pages.len().div_ceil(SAMPLE_PAGES).max(1);
        for page in pages.iter().step_by(step) {
            self.claims.each_row(*page, SAMPLE_ROWS, |record| learned.learn(record));
        }
    }

    /// The tables that components are by what SQLite's own tables say of them.
    fn heard(&self, components: &[Component]) -> BTreeMap<usize, usize> {
        let said = self.trees.iter().enumerate().filter_map(|(at, tree)| Some((at, tree.heard?)));
        let has = |component: &Component| {
            let notes = component.pages.iter().map(|page| self.claims.survey.note(*page));
            let rows = notes.clone().map(|note| u64::from(note.cells)).sum();
            Has { rows, greatest: notes.map(|note| note.high).max().unwrap_or(0) }
        };
        let trees = components.iter().enumerate().filter(|(_, component)| component.has_rowids);
        let trees: Vec<(usize, Has)> = trees.map(|(nth, component)| (nth, has(component))).collect();
        pairs(&said.collect::<Vec<_>>(), &trees)
    }

    /// The table that its indexes say a component belongs to.
    fn named(&self, component: &Component, pages: &[u32]) -> Option<usize> {
        let mut told = self.trees.iter().enumerate().filter(|(_, tree)| !tree.told_by.is_empty()).peekable();
        told.peek()?;
        let sample = Sample::of(self.claims, pages, component.has_rowids);
        let is_in = |index: &usize| self.claimed.get(*index).is_some_and(|index| sample.is_in(self.claims, index));
        told.find(|(_, tree)| tree.told_by.iter().any(is_in)).map(|(at, _)| at)
    }

    /// The tree that a component belongs to.
    fn best(&self, component: &Component, pages: &[u32]) -> Option<usize> {
        let step = pages.len().div_ceil(SAMPLE_PAGES).max(1);
        let mut rows = Vec::new();
        for page in pages.iter().step_by(step) {
            self.claims.each_row(*page, SAMPLE_ROWS, |record| rows.push(record.payload().to_vec()));
        }
        let records: Vec<Record<'_>> = rows.iter().filter_map(|row| Record::parse(row).ok()).collect();
        let mut best: Option<(f64, usize)> = None;
        for (at, (tree, mine)) in self.trees.iter().zip(self.claimed).enumerate() {
            // Of what only its indexes tell, nothing is known to compare with.
            if tree.shape.has_rowids != component.has_rowids || !tree.shape.known && mine.profile.rows() == 0.0 {
                continue;
            }
            let fitting = records.iter().filter(|record| tree.shape.fits(record)).count();
            if fitting * 10 < records.len() * 9 || records.is_empty() {
                continue;
            }
            // Where its columns are not known anything fits: what its own rows never had is another table's.
            let seen = records.iter().filter(|record| mine.profile.has_seen(record)).count();
            if !tree.shape.known && seen * 10 < records.len() * 9 {
                continue;
            }
            let mut score: f64 = records.iter().map(|record| mine.profile.likeness(&tree.shape, record)).sum();
            score /= records.len() as f64;
            if component.has_rowids {
                let clashing = pages.iter().filter(|page| self.clashes(at, **page)).count();
                if clashing * 2 > pages.len() {
                    continue;
                }
                if pages.iter().all(|page| self.is_in_a_gap(mine, *page)) {
                    score += IN_A_GAP;
                }
            }
            if !mine.lacks() {
                score -= COMPLETE;
            }
            if best.is_none_or(|(most, _)| score > most) {
                best = Some((score, at));
            }
        }
        let (_, at) = best?;
        // What is like a table that lacks nothing is a leftover of it, or of a table that the schema does not tell of any more.
        self.claimed.get(at).filter(|mine| mine.lacks()).map(|_| at)
    }

    /// Whether a tree has rowids of this page elsewhere.
    fn clashes(&self, tree: usize, page: u32) -> bool {
        let survey = self.claims.survey;
        let note = survey.note(page);
        let leaves = self.leaves.get(tree).map(Vec::as_slice).unwrap_or_default();
        let before = leaves.partition_point(|leaf| survey.note(*leaf).low <= note.high);
        let own = before.checked_sub(1).and_then(|at| leaves.get(at)).map(|leaf| survey.note(*leaf).high);
        let given = self.given.get(tree).and_then(|given| given.range(..=note.high).next_back()).map(|(_, high)| *high);
        own.into_iter().chain(given).any(|high| high >= note.low)
    }

    fn is_in_a_gap(&self, mine: &Claimed, page: u32) -> bool {
        let note = self.claims.survey.note(page);
        mine.gaps
            .iter()
            .any(|gap| gap.low.is_none_or(|low| note.low > low) && gap.high.is_none_or(|high| note.high <= high))
    }
}

impl Tree {
    /// Rows of its own.
    pub fn has_rows(&self) -> bool {
        self.use_ == TreeUse::Table
    }
}
