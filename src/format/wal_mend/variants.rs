//! Which of the frames may be put together, and what is uncertain then.

use std::collections::BTreeSet;

use super::{FrameState, MendedWal, Patch};

/// More ways than this to end a WAL are not tried.
const VARIANTS_MAX: usize = 4;

/// A way to read the WAL: up to here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalVariant {
    /// Frames that it takes from the beginning.
    pub frames: usize,
    /// Transactions that these commit.
    pub transactions: u32,
    /// Every frame is proven to be what SQLite wrote, and nothing speaks of commits behind them: nothing is lost.
    pub proven: bool,
    /// Pages of which a version is hurt or unproven, and no later one stands in for it.
    pub uncertain: Vec<u32>,
    /// Frames of which not even the page number is known.
    pub lost: u32,
}

/// A frame to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptFrame {
    /// Where its page begins in the file.
    pub page_at: u64,
    /// The page number.
    pub page: u32,
    /// Database pages after this commit, or 0.
    pub commit_pages: u32,
    /// What to put right in its page.
    pub patch: Option<Patch>,
}

impl MendedWal {
    /// Ways to read it beyond what SQLite reads, the one with the most transactions first.
    pub fn variants(&self) -> Vec<WalVariant> {
        let doubtful = self.frames.iter().enumerate().filter(|(_, frame)| !frame.state.is_proven());
        let before = |end: usize| {
            let frames = self.frames.get(..end).unwrap_or_default();
            frames.iter().rposition(|frame| frame.commit_pages != 0).map_or(0, |last| last + 1)
        };
        let mut ends: BTreeSet<usize> = doubtful.map(|(at, _)| before(at)).collect();
        ends.insert(self.frames.len());
        let mut ends: Vec<usize> = ends.into_iter().filter(|end| *end > self.readable).rev().collect();
        // The most, and what is proven: of those in between, the longer ones.
        if let Some(shortest) = ends.last().copied().filter(|_| ends.len() > VARIANTS_MAX) {
            ends.truncate(VARIANTS_MAX - 1);
            ends.push(shortest);
        }
        ends.into_iter().map(|end| self.variant(end)).collect()
    }

    /// Transactions among the first `frames`.
    pub fn transactions(&self, frames: usize) -> u32 {
        let taken = self.frames.iter().take(frames);
        let commits = taken.filter(|frame| frame.commit_pages != 0 && frame.state != FrameState::Lost).count();
        u32::try_from(commits).unwrap_or(u32::MAX)
    }

    /// All that is in it, where nothing is hurt as well; `None` without a commit.
    pub fn whole(&self) -> Option<WalVariant> {
        (!self.frames.is_empty()).then(|| self.variant(self.frames.len()))
    }

    /// Nothing speaks of commits behind this frame.
    fn ends_at(&self, end: usize) -> bool {
        end == self.frames.len() && self.commits_left_alone == 0 && self.promised <= end
    }

    fn variant(&self, end: usize) -> WalVariant {
        let taken = self.frames.get(..end).unwrap_or_default();
        let mut proven_behind = BTreeSet::new();
        let mut uncertain = BTreeSet::new();
        for frame in taken.iter().rev() {
            match frame.state {
                FrameState::Sound | FrameState::FieldHurt | FrameState::ByteHurt => {
                    proven_behind.insert(frame.page);
                }
                FrameState::PageHurt | FrameState::Unproven if !proven_behind.contains(&frame.page) => {
                    uncertain.insert(frame.page);
                }
                FrameState::PageHurt | FrameState::Unproven | FrameState::Lost => {}
            }
        }
        let lost = taken.iter().filter(|frame| frame.state == FrameState::Lost).count();
        WalVariant {
            frames: end,
            transactions: self.transactions(end),
            proven: taken.iter().all(|frame| frame.state.is_proven()) && self.ends_at(end),
            uncertain: uncertain.into_iter().collect(),
            lost: u32::try_from(lost).unwrap_or(u32::MAX),
        }
    }

    /// The frames of a variant to write anew, in order. Of a page that is hurt the version before it stays; where that frame
    /// ended a transaction, the one before it in the same transaction does.
    pub fn kept(&self, variant: &WalVariant) -> Vec<KeptFrame> {
        let mut kept: Vec<KeptFrame> = Vec::new();
        for frame in self.frames.iter().take(variant.frames) {
            let commit_pages = frame.commit_pages;
            match frame.state {
                FrameState::PageHurt => {
                    if let Some(last) = kept.last_mut().filter(|last| last.commit_pages == 0) {
                        last.commit_pages = commit_pages;
                    }
                }
                FrameState::Lost => {}
                _ => {
                    kept.push(KeptFrame { page_at: frame.page_at, page: frame.page, commit_pages, patch: frame.patch })
                }
            }
        }
        // Behind the last commit nothing counts.
        kept.truncate(kept.iter().rposition(|frame| frame.commit_pages != 0).map_or(0, |last| last + 1));
        kept
    }

    /// Which of the pages 1 to the last commit's size the variant has no version of, at most `limit` of them.
    pub fn absent_pages(&self, variant: &WalVariant, limit: usize) -> Vec<u32> {
        let kept = self.kept(variant);
        let present: BTreeSet<u32> = kept.iter().map(|frame| frame.page).collect();
        let pages = kept.last().map_or(0, |frame| frame.commit_pages);
        (1..=pages).filter(|page| !present.contains(page)).take(limit).collect()
    }
}
