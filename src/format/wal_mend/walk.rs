//! The second pass: along the chain, over what is hurt.

use super::reading::{Found, RawFrame};
use super::sums::{Fault, Sums, is_proof, sub};
use super::{FrameState, MendedFrame, MendedWal, WalHints, page_at};
use crate::format::window::Window;

/// Two fields that are at most this prove each other: a page that is garbage leads to such a pair once in 2^20.
const PAGES_PROVABLE: u32 = 1 << 22;

struct Walk<'a> {
    sums: Sums,
    frames: &'a [RawFrame],
    salts: (u32, u32),
    page_size: u32,
    /// Frames that a WAL index vouches for.
    vouched: u32,
    /// No page of this database has a higher number.
    pages_max: u32,
    mended: Vec<MendedFrame>,
}

pub(super) fn walk<E, R: FnMut(u64, &mut [u8]) -> Result<(), E>>(
    window: &mut Window<R>,
    found: &Found,
    hints: &WalHints,
) -> Result<MendedWal, E> {
    let header = found.header;
    let mut walk = Walk {
        sums: Sums::new(header.page_size, header.big_endian),
        frames: &found.frames,
        salts: (header.salt1, header.salt2),
        page_size: header.page_size,
        vouched: hints
            .index
            .filter(|(salts, _)| *salts == (header.salt1, header.salt2))
            .map_or(0, |(_, frames)| frames),
        pages_max: 0,
        mended: Vec::new(),
    };
    walk.pages_max = walk.highest_page(hints);
    walk.along(window, found.seed)?;
    let mut frames = std::mem::take(&mut walk.mended);
    let is_commit = |frame: &MendedFrame| frame.commit_pages != 0 && frame.state != FrameState::Lost;
    frames.truncate(frames.iter().rposition(is_commit).map_or(0, |last| last + 1));
    let behind = walk.frames.iter().skip(frames.len()).filter(|frame| frame.salts == walk.salts);
    let commits_left_alone = behind.filter(|frame| frame.summed.commit_pages != 0).count();
    let as_written = frames.iter().take_while(|frame| frame.state == FrameState::Sound).count();
    let sound = frames.get(..as_written).unwrap_or_default();
    let readable = sound.iter().rposition(|frame| frame.commit_pages != 0).map_or(0, |last| last + 1);
    Ok(MendedWal {
        header,
        header_hurt: found.header_hurt,
        commits_left_alone,
        promised: walk.vouched as usize,
        frames,
        readable: if found.header_hurt { 0 } else { readable },
    })
}

impl Walk<'_> {
    /// The sum behind the frame at `index`, as the next frame has it.
    fn implied(&self, index: usize) -> Option<[u32; 2]> {
        let next = self.frames.get(index + 1)?;
        Some(self.sums.before(next.stored, &next.summed))
    }

    fn is_ours(&self, index: usize) -> bool {
        self.frames.get(index).is_some_and(|frame| frame.salts == self.salts)
    }

    /// Its sum is right, whatever became of its page: the next frame goes on from it.
    fn is_anchor(&self, index: usize) -> bool {
        self.is_ours(index) && self.frames.get(index).is_some_and(|frame| Some(frame.stored) == self.implied(index))
    }

    /// From frames whose sum goes on from the one before, which is enough to believe their numbers.
    fn highest_page(&self, hints: &WalHints) -> u32 {
        let believed = (1..self.frames.len()).filter(|at| self.is_ours(*at) && self.is_anchor(at - 1));
        let most = believed.map(|at| self.frames[at].summed).map(|summed| summed.page.max(summed.commit_pages)).max();
        let frames = u32::try_from(self.frames.len()).unwrap_or(u32::MAX);
        most.unwrap_or(0).max(hints.database_pages).saturating_add(frames)
    }

    fn along<E, R: FnMut(u64, &mut [u8]) -> Result<(), E>>(
        &mut self,
        window: &mut Window<R>,
        mut seed: Option<[u32; 2]>,
    ) -> Result<(), E> {
        let last_anchor = (0..self.frames.len()).rev().find(|at| self.is_anchor(*at));
        for at in 0..self.frames.len() {
            if let Some(before) = seed
                && let Some((mended, after)) = self.told(window, at, before)?
            {
                self.mended.push(mended);
                seed = Some(after);
                continue;
            }
            // Nothing of this generation goes on behind.
            if last_anchor.is_none_or(|last| last < at) || self.may_be_abandoned(at) {
                break;
            }
            let frame = self.frames[at];
            let state =
                match (self.is_ours(at) && self.is_plausible(frame.summed.page, frame.summed.commit_pages), seed) {
                    (false, _) => FrameState::Lost,
                    (true, Some(_)) => FrameState::PageHurt,
                    (true, None) => FrameState::Unproven,
                };
            self.mended.push(self.as_it_stands(at, state));
            seed = self.is_anchor(at).then_some(frame.stored);
        }
        Ok(())
    }

    /// Right behind a commit, the frames that follow may be of commits that a power cut had undone.
    fn may_be_abandoned(&self, at: usize) -> bool {
        let behind_commit = self.mended.last().is_some_and(|last| last.commit_pages != 0 && last.state.is_proven());
        behind_commit && self.vouched as usize <= at
    }

    fn as_it_stands(&self, at: usize, state: FrameState) -> MendedFrame {
        let summed = self.frames[at].summed;
        let page_at = page_at(self.page_size, at);
        MendedFrame { page_at, page: summed.page, commit_pages: summed.commit_pages, state, patch: None }
    }

    /// The frame as SQLite wrote it (or but for one bit) and the sum behind it, when two witnesses agree.
    fn told<E, R: FnMut(u64, &mut [u8]) -> Result<(), E>>(
        &self,
        window: &mut Window<R>,
        at: usize,
        before: [u32; 2],
    ) -> Result<Option<(MendedFrame, [u32; 2])>, E> {
        let frame = self.frames[at];
        let implied = self.implied(at);
        let reached = self.sums.after(before, &frame.summed);
        if reached == frame.stored || Some(reached) == implied {
            let as_written = reached == frame.stored && self.is_ours(at);
            let state = if as_written { FrameState::Sound } else { FrameState::FieldHurt };
            // SQLite writes no page 0, and stops at one: a sum that is right over it is somebody else's work.
            return Ok((frame.summed.page != 0).then(|| (self.as_it_stands(at, state), reached)));
        }
        let told = Some(frame.stored).filter(|_| self.is_ours(at));
        let confirmed = told.is_some() && told == implied;
        let implied = implied.filter(|_| self.is_ours(at + 1) && !confirmed);
        for after in [told, implied].into_iter().flatten() {
            if let Some(fields) = self.fields(at, before, after) {
                return Ok(Some((fields, after)));
            }
            if !self.is_plausible(frame.summed.page, frame.summed.commit_pages) {
                continue;
            }
            let page = window.get(page_at(self.page_size, at), self.page_size as usize)?.unwrap_or_default();
            let (state, patch) = match self.sums.fault(page, reached, after, confirmed) {
                Some(Fault::Proven(patch)) => (FrameState::ByteHurt, Some(patch)),
                Some(Fault::Likely(patch)) if confirmed => (FrameState::Unproven, Some(patch)),
                Some(Fault::OneBit) if confirmed => (FrameState::Unproven, None),
                _ => continue,
            };
            return Ok(Some((MendedFrame { patch, ..self.as_it_stands(at, state) }, after)));
        }
        Ok(None)
    }

    /// The frame with the two fields that lead from the sum before it to the one behind it, over the page that it has: when
    /// they are plausible, and either stand in a header that is visibly hurt or are no coincidence.
    fn fields(&self, at: usize, before: [u32; 2], after: [u32; 2]) -> Option<MendedFrame> {
        let frame = self.frames[at];
        let stands = frame.summed;
        let (page, commit_pages) = self.sums.fields(before, after, stands.own);
        let is_hurt = !self.is_ours(at) || !self.is_plausible(stands.page, stands.commit_pages);
        let reached = self.sums.after(before, &stands);
        let pages = usize::try_from(self.pages_max).unwrap_or(usize::MAX);
        let proven =
            is_hurt && self.pages_max <= PAGES_PROVABLE || is_proof(sub(after, reached), pages.saturating_mul(pages));
        let mended = MendedFrame { page, commit_pages, ..self.as_it_stands(at, FrameState::FieldHurt) };
        (self.is_plausible(page, commit_pages) && proven).then_some(mended)
    }

    fn is_plausible(&self, page: u32, commit_pages: u32) -> bool {
        (1..=self.pages_max).contains(&page) && commit_pages <= self.pages_max
    }
}
