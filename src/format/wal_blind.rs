//! Looking for commits in a WAL whose header is bad, and whose page size is therefore unknown.

use super::wal::{FRAME_HEADER_LEN, FrameHeader, WAL_HEADER_LEN, frame_len};

/// Behind a bad header the page size is unknown: every one is tried, by frame headers alone. Frames belong together
/// when they repeat the first one's salts at that page size's distance.
#[derive(Debug)]
pub(super) struct Blind {
    candidates: Vec<Candidate>,
}

#[derive(Debug)]
struct Candidate {
    page_size: u32,
    /// Where the header that is being gathered begins.
    at: u64,
    gathered: Vec<u8>,
    salts: Option<(u32, u32)>,
    frames: u32,
    commits: u32,
}

impl Blind {
    pub(super) fn new() -> Blind {
        let sizes = (9..=16).map(|bits| 1u32 << bits);
        let candidate = |page_size| Candidate {
            page_size,
            at: WAL_HEADER_LEN as u64,
            gathered: Vec::with_capacity(FRAME_HEADER_LEN),
            salts: None,
            frames: 0,
            commits: 0,
        };
        Blind { candidates: sizes.map(candidate).collect() }
    }

    /// Takes the bytes at `offset`; they follow each other without a gap.
    pub(super) fn feed(&mut self, offset: u64, chunk: &[u8]) {
        let end = offset + chunk.len() as u64;
        for candidate in &mut self.candidates {
            loop {
                let next = candidate.at + candidate.gathered.len() as u64;
                if next < offset || next >= end {
                    break;
                }
                let from = (next - offset) as usize;
                let take = (FRAME_HEADER_LEN - candidate.gathered.len()).min(chunk.len() - from);
                candidate.gathered.extend_from_slice(&chunk[from..from + take]);
                if candidate.gathered.len() == FRAME_HEADER_LEN {
                    candidate.take();
                }
            }
        }
    }

    /// Frames and commits of the page size under which most frames belong together.
    pub(super) fn best(&self, file_len: u64) -> (u32, u32) {
        let plausible = |candidate: &&Candidate| {
            let one = WAL_HEADER_LEN as u64 + frame_len(candidate.page_size) as u64;
            // One frame agrees with itself under any page size: then the length of the file must fit.
            candidate.frames > 1 || candidate.frames == 1 && file_len == one
        };
        let best = self.candidates.iter().filter(plausible).max_by_key(|candidate| candidate.frames);
        best.map_or((0, 0), |candidate| (candidate.frames, candidate.commits))
    }
}

impl Candidate {
    fn take(&mut self) {
        if let Some(frame) = FrameHeader::parse(&self.gathered) {
            let salts = (frame.salt1, frame.salt2);
            let first = *self.salts.get_or_insert(salts);
            if salts == first && salts != (0, 0) && frame.page != 0 {
                self.frames += 1;
                self.commits += u32::from(frame.is_commit());
            }
        }
        self.gathered.clear();
        self.at += frame_len(self.page_size) as u64;
    }
}
