//! The mass guard: when so many targets fail at once, the cause is elsewhere (a disk, a mount, a deployment), and to heal
//! each of them by itself would make it worse.
//!
//! Counted are targets that were seen healthy once and began to fail within the window: all of them against all that are
//! supervised, and those of one file system against all that stand on it. A target that cannot be told any more (its mount
//! is gone) counts from the second such look on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::clock::Moment;
use crate::model::{Kind, Verdict};

use super::inbox::SlotId;

/// What the incident for the cause is about: a name that no target may have.
pub const GUARDIAN: &str = "guardian";

/// The kind of the one incident that is opened for the cause when many targets fail at once. Its target is [`GUARDIAN`],
/// its mode that of the targets; it is escalated from its first moment and closed when the share falls below the limit or
/// a person says `guardiand resume --all`.
pub const MASS_FAILURE: Kind = Kind::new("mass_failure");

/// `mass = { share, min, within }`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MassLimits {
    /// Of all targets, from 0 to 1.
    pub share: f64,
    /// And at least so many.
    pub min: u32,
    /// Having begun to fail in this window.
    pub within: Duration,
}

impl MassLimits {
    /// No number of failures is too many.
    pub const NONE: MassLimits = MassLimits { share: 1.0, min: u32::MAX, within: Duration::ZERO };

    fn reached(self, failing: usize, of: usize) -> bool {
        failing >= self.min as usize && failing as f64 >= self.share * of as f64
    }
}

/// What is known of one target.
#[derive(Debug)]
struct Seen {
    looked: Moment,
    failing: Option<Moment>,
    /// Looks in a row that could not tell.
    unknowns: u32,
    /// It was seen healthy once.
    known: bool,
    ground: Option<String>,
}

/// Many targets that began to fail together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cause {
    /// The file system that they share; `None`: all targets are concerned.
    pub(super) ground: Option<String>,
    /// Those that fail.
    pub(super) members: BTreeSet<SlotId>,
    /// Of so many.
    pub(super) of: usize,
}

/// Who fails, since when, on which ground.
#[derive(Debug, Default)]
pub(super) struct Failing {
    seen: BTreeMap<SlotId, Seen>,
    /// Something was seen that may make or end a cause.
    pub(super) news: bool,
}

impl Failing {
    /// Takes in a look. `known` says that the target was seen healthy once, in whatever process: one that never was has
    /// not begun to fail.
    pub(super) fn saw(&mut self, id: SlotId, verdict: &Verdict, known: bool, ground: Option<&str>, now: Moment) {
        let new = Seen { looked: now, failing: None, unknowns: 0, known, ground: None };
        let seen = self.seen.entry(id).or_insert(new);
        (seen.looked, seen.known) = (now, known);
        let untold = matches!(verdict, Verdict::Unknown(_)) && !verdict.is_kept_out();
        seen.unknowns = if untold { seen.unknowns + 1 } else { 0 };
        let fails = known && (matches!(verdict, Verdict::Unhealthy(_)) || seen.unknowns > 1);
        // Not being able to tell is no recovery.
        let was = seen.failing.filter(|_| *verdict != Verdict::Healthy);
        let failing = was.or(fails.then_some(now));
        self.news |= failing != seen.failing;
        seen.failing = failing;
        if let Some(ground) = ground
            && seen.ground.as_deref() != Some(ground)
        {
            seen.ground = Some(ground.to_owned());
        }
    }

    pub(super) fn forget(&mut self, id: SlotId) {
        self.news |= self.seen.remove(&id).is_some();
    }

    /// True when `id` was looked at.
    pub(super) fn is_known(&self, id: SlotId) -> bool {
        self.seen.contains_key(&id)
    }

    /// True when `id` was looked at since `then`.
    pub(super) fn looked_since(&self, id: SlotId, then: Moment) -> bool {
        self.seen.get(&id).is_some_and(|seen| seen.looked.boot_ms >= then.boot_ms)
    }

    /// The cause to suspect now, of `total` targets.
    pub(super) fn cause(&self, limits: MassLimits, total: usize, now: Moment) -> Option<Cause> {
        let began = |seen: &Seen| seen.failing.is_some_and(|since| now.since(since) <= limits.within);
        let failing = self.seen.iter().filter(|(_, seen)| began(seen)).collect::<Vec<_>>();
        if failing.len() < limits.min as usize {
            return None;
        }
        if limits.reached(failing.len(), total) {
            return Some(Cause { ground: None, members: failing.iter().map(|(id, _)| **id).collect(), of: total });
        }
        // Who has not been looked at yet may be well.
        if self.seen.len() < total {
            return None;
        }
        let grounds = failing.iter().filter_map(|(_, seen)| seen.ground.as_deref()).collect::<BTreeSet<_>>();
        grounds.into_iter().find_map(|ground| {
            let on_it = |seen: &Seen| seen.ground.as_deref() == Some(ground);
            let of = self.seen.values().filter(|seen| on_it(seen)).count();
            let members = failing.iter().filter(|(_, seen)| on_it(seen)).map(|(id, _)| **id).collect::<BTreeSet<_>>();
            limits.reached(members.len(), of).then(|| Cause { ground: Some(ground.to_owned()), members, of })
        })
    }

    /// All that fail now, whenever they began: what an incident for a cause that an earlier process opened is about.
    pub(super) fn everything(&self, total: usize) -> Cause {
        let fails = |seen: &Seen| seen.failing.is_some() || seen.known && seen.unknowns > 0;
        let failing = self.seen.iter().filter(|(_, seen)| fails(seen));
        Cause { ground: None, members: failing.map(|(id, _)| *id).collect(), of: total }
    }

    /// True while so many of `cause`'s targets fail that they need an explanation.
    pub(super) fn lasts(&self, cause: &Cause, limits: MassLimits) -> bool {
        let fails = |id: &&SlotId| self.seen.get(id).is_some_and(|seen| seen.failing.is_some() || seen.unknowns > 0);
        limits.reached(cause.members.iter().filter(fails).count(), cause.of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: MassLimits = MassLimits { share: 0.5, min: 4, within: Duration::from_secs(60) };

    fn at(seconds: u64) -> Moment {
        Moment { wall: jiff::Timestamp::UNIX_EPOCH, boot_ms: 0 }.after(Duration::from_secs(seconds))
    }

    fn bad() -> Verdict {
        Verdict::Unhealthy(Vec::new())
    }

    fn unknown() -> Verdict {
        Verdict::Unknown("its mount is gone".to_owned())
    }

    fn failing(ids: impl IntoIterator<Item = (SlotId, u64)>) -> Failing {
        let mut failing = Failing::default();
        for (id, seconds) in ids {
            failing.saw(id, &bad(), true, Some("ext4"), at(seconds));
        }
        failing
    }

    #[test]
    fn half_of_all_at_once_have_one_cause_and_three_never() {
        assert_eq!(failing((0..3).map(|id| (id, 0))).cause(LIMITS, 3, at(1)), None, "fewer than `min`");
        assert_eq!(failing((0..4).map(|id| (id, 0))).cause(LIMITS, 9, at(1)), None, "a smaller share");
        let cause = failing((0..4).map(|id| (id, 0))).cause(LIMITS, 8, at(1)).unwrap();
        assert_eq!((cause.ground, cause.members.len(), cause.of), (None, 4, 8));
        assert_eq!(failing((0..4).map(|id| (id, id * 30))).cause(LIMITS, 4, at(90)), None, "one after the other");
    }

    #[test]
    fn what_shares_a_ground_has_a_cause_of_its_own() {
        let mut failing = failing([]);
        (0..20).for_each(|id| failing.saw(id, &Verdict::Healthy, true, Some("ext4"), at(0)));
        (20..25).for_each(|id| failing.saw(id, &bad(), true, Some("nfs"), at(1)));
        let cause = failing.cause(LIMITS, 25, at(2)).unwrap();
        assert_eq!((cause.ground.as_deref(), cause.members.len(), cause.of), (Some("nfs"), 5, 5));
    }

    #[test]
    fn a_target_that_never_was_healthy_has_not_begun_to_fail() {
        let mut failing = failing([]);
        (0..4).for_each(|id| failing.saw(id, &bad(), false, None, at(0)));
        assert_eq!(failing.cause(LIMITS, 4, at(1)), None);
    }

    #[test]
    fn what_cannot_be_told_twice_counts_and_once_does_not() {
        let mut failing = failing([]);
        (0..4).for_each(|id| failing.saw(id, &unknown(), true, None, at(0)));
        assert_eq!(failing.cause(LIMITS, 4, at(1)), None);
        (0..4).for_each(|id| failing.saw(id, &unknown(), true, None, at(30)));
        assert!(failing.cause(LIMITS, 4, at(31)).is_some());
    }

    #[test]
    fn programs_that_lock_their_files_have_no_cause_in_common() {
        for reason in [crate::model::LOCKED_FOR_NOW.to_owned(), format!("pid 7: {}", crate::model::LOCKED_BY_A_PROGRAM)]
        {
            let (mut failing, locked) = (failing([(0, 0)]), Verdict::Unknown(reason));
            for seconds in 0..9 {
                (1..4).for_each(|id| failing.saw(id, &locked, true, None, at(seconds)));
            }
            assert_eq!(failing.cause(LIMITS, 4, at(9)), None, "{locked:?}");
        }
    }

    #[test]
    fn it_lasts_until_the_share_falls() {
        let mut failing = failing((0..5).map(|id| (id, 0)));
        let cause = failing.cause(LIMITS, 8, at(1)).unwrap();
        assert!(failing.lasts(&cause, LIMITS), "and does not end with the window");
        failing.saw(0, &Verdict::Healthy, true, None, at(100));
        failing.saw(1, &unknown(), true, None, at(100));
        assert!(failing.lasts(&cause, LIMITS));
        failing.saw(2, &Verdict::Healthy, true, None, at(100));
        assert!(!failing.lasts(&cause, LIMITS));
    }
}
