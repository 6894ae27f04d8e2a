//! The sum as what it is: a linear map over pairs of words, with an inverse.

use super::Patch;
use crate::format::wal::steps;

type Matrix = [[u32; 2]; 2];

/// The sum over frames of one page size and byte order.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sums {
    big_endian: bool,
    over_page: Matrix,
    back: Matrix,
}

/// What is summed of a frame: two fields of its header, and the page.
#[derive(Debug, Clone, Copy)]
pub(super) struct Summed {
    pub page: u32,
    pub commit_pages: u32,
    /// The sum over its page alone, from nothing.
    pub own: [u32; 2],
}

/// What became of a page, told by its sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// This byte, and no other explanation is worth a thought.
    Proven(Patch),
    /// This byte is the only one that explains it, and damage of a peculiar kind would as well.
    Likely(Patch),
    /// One bit, and it cannot be told which.
    OneBit,
}

impl Sums {
    pub(super) fn new(page_size: u32, big_endian: bool) -> Sums {
        let over_page = steps(page_size as usize / 8);
        let [[a, b], [c, d]] = over_page;
        // A step's matrix has the determinant 1, and so has every power of it.
        Sums { big_endian, over_page, back: [[d, b.wrapping_neg()], [c.wrapping_neg(), a]] }
    }

    /// A header's field, as it is summed.
    pub(super) fn word(&self, field: u32) -> u32 {
        if self.big_endian { field } else { field.swap_bytes() }
    }

    /// The sum after a frame, from the sum before it.
    pub(super) fn after(&self, before: [u32; 2], frame: &Summed) -> [u32; 2] {
        let head = pair(before, self.word(frame.page), self.word(frame.commit_pages));
        add(times(self.over_page, head), frame.own)
    }

    /// The sum before a frame, from the sum after it.
    pub(super) fn before(&self, after: [u32; 2], frame: &Summed) -> [u32; 2] {
        let head = times(self.back, sub(after, frame.own));
        unpair(head, self.word(frame.page), self.word(frame.commit_pages))
    }

    /// The two fields that lead from the sum before a frame to the sum after it, over this page: there is always one pair, and
    /// only a plausible one proves anything.
    pub(super) fn fields(&self, before: [u32; 2], after: [u32; 2], own: [u32; 2]) -> (u32, u32) {
        let [s1, s2] = times(self.back, sub(after, own));
        let first = s1.wrapping_sub(before[0]).wrapping_sub(before[1]);
        let second = s2.wrapping_sub(before[1]).wrapping_sub(s1);
        (self.word(first), self.word(second))
    }

    /// What of the page must be otherwise, that it comes to `wanted` and not to `found`, if it is one byte or one bit.
    ///
    /// Garbage has such a byte by chance once in 2^44. But a change of a word by `2^t` moves the sum by multiples of `2^t`
    /// alone, and the less of the sum moves, the more words explain it: a flip of the highest bit of any word of three looks
    /// the same. What the page's last word explains, a byte of the sum itself would, too: there the sum must be `confirmed`.
    pub(super) fn fault(&self, page: &[u8], found: [u32; 2], wanted: [u32; 2], confirmed: bool) -> Option<Fault> {
        let delta = sub(wanted, found);
        let (mut bytes, mut bits) = (Vec::new(), Vec::new());
        // What a change of 1 in the first and in the second word of the pair comes to at the page's end.
        let (mut first, mut second) = ([1, 1], [0, 1]);
        for (n, words) in page.chunks_exact(8).enumerate().rev() {
            for (offset, weight) in [(0, first), (4, second)] {
                let word = words.get(offset..offset + 4)?.try_into().ok()?;
                let Some(change) = quotient(delta, weight) else { continue };
                let Some((at, value, is_bit)) = self.single_byte(word, change) else { continue };
                let patch = Patch { at: u32::try_from(n * 8 + offset + at).ok()?, value };
                if weight == [0, 1] && !confirmed {
                    return None;
                }
                bytes.push(patch);
                if is_bit {
                    bits.push(patch);
                }
            }
            (first, second) = (times(STEP, first), times(STEP, second));
        }
        let words = page.len() / 4;
        match (bits.as_slice(), bytes.as_slice()) {
            ([], []) => None,
            (_, [byte]) if is_proof(delta, words * 255) => Some(Fault::Proven(*byte)),
            ([bit], _) if is_proof(delta, words) => Some(Fault::Proven(*bit)),
            ([bit], _) => Some(Fault::Likely(*bit)),
            ([], [byte]) => Some(Fault::Likely(*byte)),
            ([], _) => None,
            (_, _) => Some(Fault::OneBit),
        }
    }

    /// The byte that differs when `change` is added to the word, when only one does, and whether one bit of it does.
    fn single_byte(&self, bytes: [u8; 4], change: u32) -> Option<(usize, u8, bool)> {
        let changed = if self.big_endian {
            u32::from_be_bytes(bytes).wrapping_add(change).to_be_bytes()
        } else {
            u32::from_le_bytes(bytes).wrapping_add(change).to_le_bytes()
        };
        let mut differing = (0..4).filter(|at| bytes[*at] != changed[*at]);
        let at = differing.next()?;
        let is_bit = (bytes[at] ^ changed[at]).is_power_of_two();
        differing.next().is_none().then_some((at, changed[at], is_bit))
    }
}

/// Whether it is no coincidence that one of so many `hypotheses` explains `delta`: of the 64 bits of a sum only those count that
/// such a change can move.
pub(super) fn is_proof(delta: [u32; 2], hypotheses: usize) -> bool {
    let moved = 2 * (32 - (delta[0] | delta[1]).trailing_zeros().min(32));
    moved > 20 + hypotheses.max(1).ilog2()
}

/// What one pair of words does to a sum, but for what it adds.
const STEP: Matrix = [[1, 1], [1, 2]];

/// One step over a pair of words.
pub(super) fn pair([s1, s2]: [u32; 2], first: u32, second: u32) -> [u32; 2] {
    let s1 = s1.wrapping_add(s2).wrapping_add(first);
    [s1, s2.wrapping_add(s1).wrapping_add(second)]
}

/// That step taken back.
fn unpair([s1, s2]: [u32; 2], first: u32, second: u32) -> [u32; 2] {
    let before2 = s2.wrapping_sub(s1).wrapping_sub(second);
    [s1.wrapping_sub(before2).wrapping_sub(first), before2]
}

fn times(m: Matrix, [x, y]: [u32; 2]) -> [u32; 2] {
    m.map(|[a, b]| a.wrapping_mul(x).wrapping_add(b.wrapping_mul(y)))
}

fn add([a, b]: [u32; 2], [c, d]: [u32; 2]) -> [u32; 2] {
    [a.wrapping_add(c), b.wrapping_add(d)]
}

/// The difference of two sums.
pub(super) fn sub([a, b]: [u32; 2], [c, d]: [u32; 2]) -> [u32; 2] {
    [a.wrapping_sub(c), b.wrapping_sub(d)]
}

/// The number that `weight` must be multiplied by to give `delta`. One of the weight's halves is odd, because it is a vector
/// of a matrix whose determinant is 1.
fn quotient(delta: [u32; 2], weight: [u32; 2]) -> Option<u32> {
    let odd = weight.iter().position(|half| half & 1 == 1)?;
    let change = delta[odd].wrapping_mul(inverse(weight[odd]));
    (change != 0 && [0, 1].iter().all(|at| weight[*at].wrapping_mul(change) == delta[*at])).then_some(change)
}

/// The inverse of an odd number modulo 2^32: each turn of Newton's doubles the bits that are right.
fn inverse(odd: u32) -> u32 {
    (0..5).fold(odd, |x, _| x.wrapping_mul(2_u32.wrapping_sub(odd.wrapping_mul(x))))
}
