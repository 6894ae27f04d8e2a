//! Gates: whether a heal may begin now. Cooldown counts from the attempt, not from its success; a budget bounds attempts; a
//! heal that does not last is not tried for ever; what a person paused, and what fails together with too many others, is
//! held.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;

use crate::clock::Moment;
use crate::model::Kind;
use crate::telemetry::DeferReason;

use super::forgiven::Forgiven;
use super::mass::MassLimits;
use super::pause::{Pauses, is_below};

/// More heals of one target than this need not be remembered: its budget ends long before.
const HEALED_MAX: usize = 1000;

/// The limits, per (target, mode); `mass` is for all together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GatesConfig {
    /// After an attempt, before the next.
    pub cooldown: Duration,
    /// At most so many attempts…
    pub heals_max: u32,
    /// … within this.
    pub heals_per: Duration,
    /// The same kind again so often after it was healed…
    pub repeat_max: u32,
    /// … within this: the heal does not last.
    pub repeat_within: Duration,
    /// So many targets at once: the cause is elsewhere.
    pub mass: MassLimits,
}

impl GatesConfig {
    /// Nothing is held back: for one pass, which a person watches.
    pub const OPEN: GatesConfig = GatesConfig {
        cooldown: Duration::ZERO,
        heals_max: u32::MAX,
        heals_per: Duration::from_secs(3600),
        repeat_max: u32::MAX,
        repeat_within: Duration::ZERO,
        mass: MassLimits::NONE,
    };
}

/// What a gate says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Admission {
    /// Begin; the attempt is counted.
    Go,
    /// Not now.
    Hold {
        /// Which gate holds.
        reason: DeferReason,
        /// When it opens.
        left: Duration,
    },
    /// Not without a person: it was healed so often, and came back.
    GiveUp {
        /// Heals that did not last.
        times: u32,
        /// Within this.
        within: Duration,
    },
}

/// What asks for admission.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// The configured name.
    pub target: &'a str,
    /// The failure mode.
    pub mode: &'a str,
    /// What failed.
    pub kind: &'a Kind,
    /// When its incident was opened: what lasts is judged by that, so that waiting alone is no release, and a restart neither.
    pub opened_at: Timestamp,
}

/// What is held because too many fail at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MassHold {
    /// Those on this ground; `None`: all.
    pub(super) ground: Option<String>,
    /// Why, in words that begin with `mass`.
    pub(super) words: String,
}

type Key = (String, String);

/// The gates of all targets.
#[derive(Debug)]
pub struct Gates {
    config: GatesConfig,
    attempts: HashMap<Key, Vec<Moment>>,
    healed: HashMap<Key, Vec<(Kind, Timestamp)>>,
    /// What a person paused.
    pub(super) pauses: Pauses,
    /// Whose earlier attempts a person forgave.
    pub(super) forgiven: Forgiven,
    pub(super) mass: Option<MassHold>,
}

impl Gates {
    /// Gates that have seen no attempt.
    pub fn new(config: GatesConfig) -> Gates {
        let (attempts, healed) = (HashMap::new(), HashMap::new());
        Gates { config, attempts, healed, pauses: Pauses::default(), forgiven: Forgiven::default(), mass: None }
    }

    /// Other limits from now on; attempts stay counted.
    pub fn reconfigure(&mut self, config: GatesConfig) {
        self.config = config;
    }

    /// The limits in force.
    pub fn config(&self) -> GatesConfig {
        self.config
    }

    /// An attempt of an earlier process, so that a restart does not refill the budget.
    pub fn recall(&mut self, target: &str, mode: &str, at: Moment) {
        let attempts = self.attempts.entry((target.to_owned(), mode.to_owned())).or_default();
        attempts.push(at);
        attempts.sort_by_key(|at| at.boot_ms);
    }

    /// What a person paused and forgave in the time of an earlier process.
    pub fn recall_words(&mut self, pauses: Pauses, forgiven: Forgiven) {
        (self.pauses, self.forgiven) = (pauses, forgiven);
    }

    /// A person has looked after `target` since `at`: what was attempted then is not held against it.
    pub fn is_forgiven(&self, target: &str, at: Timestamp, now: Timestamp) -> bool {
        self.forgiven.covers(target, at, now)
    }

    /// Healed and proven, by this process or an earlier one.
    pub fn healed(&mut self, target: &str, mode: &str, kind: &Kind, at: Timestamp) {
        let healed = self.healed.entry((target.to_owned(), mode.to_owned())).or_default();
        healed.push((kind.clone(), at));
        if healed.len() > HEALED_MAX {
            healed.remove(0);
        }
    }

    /// A person looked after it (a target, all targets of a glob, or all): heals that did not last are no longer held against
    /// it, nor are the attempts that they were. True where something was held against it.
    pub(super) fn forgive(&mut self, target: Option<&str>, now: Timestamp) -> bool {
        self.forgiven.note(target, now);
        let before = (self.healed.len(), self.attempts.len());
        let is_other = |name: &str| target.is_some_and(|target| name != target && !is_below(name, target));
        self.healed.retain(|(name, _), _| is_other(name));
        self.attempts.retain(|(name, _), _| is_other(name));
        before != (self.healed.len(), self.attempts.len())
    }

    /// The last attempt was none: it came too early, and touched nothing.
    pub(super) fn discount(&mut self, target: &str, mode: &str) {
        if let Some(attempts) = self.attempts.get_mut(&(target.to_owned(), mode.to_owned())) {
            attempts.pop();
        }
    }

    /// Why nothing is begun for a target on `ground`, whatever is planned; the words begin with the reason's name.
    pub(super) fn hold(&self, target: &str, ground: Option<&str>) -> Option<(DeferReason, String)> {
        if let Some(words) = self.pauses.words(target) {
            return Some((DeferReason::Paused, words));
        }
        let mass = self.mass.as_ref().filter(|mass| mass.ground.is_none() || mass.ground.as_deref() == ground)?;
        Some((DeferReason::Mass, mass.words.clone()))
    }

    /// Asks for one attempt.
    pub fn admit(&mut self, candidate: Candidate<'_>, now: Moment) -> Admission {
        let GatesConfig { cooldown, heals_max, heals_per, repeat_max, repeat_within, .. } = self.config;
        let key = (candidate.target.to_owned(), candidate.mode.to_owned());
        let from = candidate.opened_at.checked_sub(repeat_within).unwrap_or(Timestamp::MIN);
        let lasted_not =
            |(kind, at): &&(Kind, Timestamp)| kind == candidate.kind && (from..=candidate.opened_at).contains(at);
        let times = self.healed.get(&key).map_or(0, |healed| healed.iter().filter(lasted_not).count());
        if times >= repeat_max as usize {
            return Admission::GiveUp { times: u32::try_from(times).unwrap_or(u32::MAX), within: repeat_within };
        }
        let attempts = self.attempts.entry(key).or_default();
        attempts.retain(|at| now.since(*at) < heals_per);
        if let Some(last) = attempts.last() {
            let passed = now.since(*last);
            if passed < cooldown {
                return Admission::Hold { reason: DeferReason::Cooldown, left: cooldown - passed };
            }
        }
        if attempts.len() >= heals_max as usize {
            let left = attempts.first().map_or(heals_per, |first| heals_per.saturating_sub(now.since(*first)));
            return Admission::Hold { reason: DeferReason::Budget, left };
        }
        attempts.push(now);
        Admission::Go
    }

    /// Counts an attempt that a person asked for: it passes every gate, and still starts the cooldown.
    pub fn note(&mut self, target: &str, mode: &str, now: Moment) {
        self.attempts.entry((target.to_owned(), mode.to_owned())).or_default().push(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Kind = Kind::new("db_file_missing");

    fn gates() -> Gates {
        Gates::new(GatesConfig {
            cooldown: Duration::from_secs(30),
            heals_max: 3,
            heals_per: Duration::from_secs(3600),
            repeat_max: 2,
            repeat_within: Duration::from_secs(600),
            ..GatesConfig::OPEN
        })
    }

    fn at(seconds: u64) -> Moment {
        Moment { wall: Timestamp::UNIX_EPOCH, boot_ms: 0 }.after(Duration::from_secs(seconds))
    }

    fn admit(gates: &mut Gates, target: &str, seconds: u64) -> Admission {
        let opened_at = at(seconds).wall;
        gates.admit(Candidate { target, mode: "database", kind: &KIND, opened_at }, at(seconds))
    }

    #[test]
    fn the_cooldown_counts_from_the_attempt() {
        let mut gates = gates();
        assert_eq!(admit(&mut gates, "app", 0), Admission::Go);
        let held = admit(&mut gates, "app", 10);
        assert_eq!(held, Admission::Hold { reason: DeferReason::Cooldown, left: Duration::from_secs(20) });
        assert_eq!(admit(&mut gates, "app", 30), Admission::Go);
    }

    #[test]
    fn the_budget_bounds_attempts_within_its_window() {
        let mut gates = gates();
        for start in [0, 100, 200] {
            assert_eq!(admit(&mut gates, "app", start), Admission::Go);
        }
        let held = admit(&mut gates, "app", 300);
        assert_eq!(held, Admission::Hold { reason: DeferReason::Budget, left: Duration::from_secs(3300) });
        assert_eq!(admit(&mut gates, "app", 3600), Admission::Go);
    }

    #[test]
    fn targets_do_not_share_gates() {
        let mut gates = gates();
        assert_eq!(admit(&mut gates, "a", 0), Admission::Go);
        assert_eq!(admit(&mut gates, "b", 0), Admission::Go);
        assert_ne!(admit(&mut gates, "a", 1), Admission::Go);
    }

    #[test]
    fn a_restart_does_not_refill_the_budget() {
        let mut gates = gates();
        for start in [0, 40, 80] {
            gates.recall("app", "database", at(start));
        }
        assert!(matches!(admit(&mut gates, "app", 200), Admission::Hold { reason: DeferReason::Budget, .. }));
    }

    #[test]
    fn the_same_failure_after_two_heals_is_given_up_until_a_person_looked() {
        let mut gates = gates();
        let healed = |gates: &mut Gates, seconds| gates.healed("app", "database", &KIND, at(seconds).wall);
        healed(&mut gates, 100);
        gates.healed("app", "database", &Kind::new("db_locked"), at(110).wall);
        gates.healed("other", "database", &KIND, at(120).wall);
        assert_eq!(admit(&mut gates, "app", 150), Admission::Go, "one heal of this kind, of this target");
        healed(&mut gates, 200);
        let opened_at = at(300).wall;
        let of = |gates: &mut Gates, seconds| {
            gates.admit(Candidate { target: "app", mode: "database", kind: &KIND, opened_at }, at(seconds))
        };
        let given_up = Admission::GiveUp { times: 2, within: Duration::from_secs(600) };
        assert_eq!(of(&mut gates, 300), given_up);
        assert_eq!(of(&mut gates, 9_000), given_up, "that incident is not tried again by waiting");
        assert_eq!(admit(&mut gates, "app", 9_000), Admission::Go, "a later one is another matter");
        assert!(gates.forgive(Some("app"), at(9_050).wall) && !gates.forgive(Some("app"), at(9_060).wall));
        assert_eq!(of(&mut gates, 9_100), Admission::Go);
    }

    #[test]
    fn a_persons_word_refills_the_budget_of_what_it_names() {
        let mut gates = gates();
        for target in ["app", "shop/a", "other"] {
            [0, 40, 80].into_iter().for_each(|at| assert_eq!(admit(&mut gates, target, at), Admission::Go));
        }
        gates.forgive(Some("app"), at(81).wall);
        gates.forgive(Some("shop"), at(81).wall);
        assert_eq!(admit(&mut gates, "app", 81), Admission::Go);
        assert_eq!(admit(&mut gates, "shop/a", 81), Admission::Go);
        assert!(matches!(admit(&mut gates, "app", 82), Admission::Hold { reason: DeferReason::Cooldown, .. }));
        assert!(matches!(admit(&mut gates, "other", 200), Admission::Hold { reason: DeferReason::Budget, .. }));
    }

    #[test]
    fn what_came_too_early_is_no_attempt() {
        let mut gates = gates();
        assert_eq!(admit(&mut gates, "app", 0), Admission::Go);
        gates.discount("app", "database");
        assert_eq!(admit(&mut gates, "app", 1), Admission::Go);
        assert_ne!(admit(&mut gates, "app", 2), Admission::Go);
    }

    #[test]
    fn a_mass_failure_of_one_ground_holds_that_ground() {
        let mut gates = gates();
        gates.mass = Some(MassHold { ground: Some("nfs".to_owned()), words: "mass: five of five".to_owned() });
        assert_eq!(gates.hold("app", Some("ext4")), None);
        assert!(matches!(gates.hold("app", Some("nfs")), Some((DeferReason::Mass, _))));
        gates.pauses.pause(Some("app"), None, 0, at(0));
        assert!(
            matches!(gates.hold("app", Some("ext4")), Some((DeferReason::Paused, words)) if words.starts_with("paused"))
        );
    }
}
