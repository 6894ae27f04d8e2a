//! Where rows may be missing, in order and apart, so that each of millions of rows is asked for in a few steps.

use std::ops::RangeInclusive;

use crate::format::salvage::Gap;

/// Parts of a tree of rowids, none of which meets another.
#[derive(Debug, Default)]
pub(super) struct Gaps(Vec<Gap>);

impl Gaps {
    /// Of parts that may lie in each other.
    pub(super) fn of(mut gaps: Vec<Gap>) -> Gaps {
        gaps.retain(|gap| gap.low.zip(gap.high).is_none_or(|(low, high)| low < high));
        // None is below all.
        gaps.sort_unstable_by_key(|gap| gap.low);
        gaps.dedup_by(|gap, before| {
            let meets = before.high.is_none_or(|high| gap.low.is_none_or(|low| low <= high));
            if meets {
                before.high = before.high.zip(gap.high).map(|(one, other)| one.max(other));
            }
            meets
        });
        Gaps(gaps)
    }

    /// Whether a row with this rowid would stand in one.
    pub(super) fn has(&self, rowid: i64) -> bool {
        self.meets(&(rowid..=rowid))
    }

    /// Whether one with any of these would.
    pub(super) fn meets(&self, rowids: &RangeInclusive<i64>) -> bool {
        let at = self.0.partition_point(|gap| gap.high.is_some_and(|high| high < *rowids.start()));
        self.0.get(at).is_some_and(|gap| gap.low.is_none_or(|low| low < *rowids.end()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_apart_say_what_gaps_in_each_other_say() {
        let mut dice = fastrand::Rng::with_seed(7);
        for _ in 0..2000 {
            let mut end = || if dice.u8(..6) == 0 { None } else { Some(dice.i64(-20..20)) };
            let gaps: Vec<Gap> = (0..5).map(|_| Gap { low: end(), high: end() }).collect();
            let apart = Gaps::of(gaps.clone());
            for rowid in -25..25 {
                assert_eq!(apart.has(rowid), gaps.iter().any(|gap| gap.has(rowid)), "{rowid} in {gaps:?}, {apart:?}");
                for last in rowid..25 {
                    let any = (rowid..=last).any(|rowid| apart.has(rowid));
                    assert_eq!(apart.meets(&(rowid..=last)), any, "{rowid}..={last} in {apart:?}");
                }
            }
        }
    }
}
