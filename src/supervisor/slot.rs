//! One target's place in the supervisor.

use std::path::PathBuf;
use std::time::Duration;

use tokio::task::AbortHandle;

use crate::clock::Moment;
use crate::journal::Remembered;
use crate::model::{Check, IncidentState};
use crate::modes::Supervised;

use super::schedule::{Due, Urgency};
use super::{Case, Command};

/// An incident that a person must look at is looked at again by itself after this at first, and then less and less often.
const ESCALATED_RETRY_MAX: Duration = Duration::from_secs(3600);

/// One that waits for a person's yes is planned anew after this at most: it may need none any more…
const WAITING_RETRY_MAX: Duration = Duration::from_secs(300);
/// … and when a file of it comes or goes, but no more often than this; nor is what was given up tried again more often for
/// what a program writes.
const WAITING_RETRY_MIN: Duration = Duration::from_secs(10);

/// An unhealthy look that is not attended yet: the others are looked at first, whether they fail too.
pub(super) struct Suspicion {
    pub(super) check: Check,
    pub(super) since: Moment,
}
/// What looks well and was not proven so is proven again after an interval at first, and then less and less often.
const PROVE_GAP_MAX: Duration = Duration::from_secs(300);

/// One target under supervision. While it is attended, the target itself is away: nothing else can touch it.
pub(super) struct Slot {
    pub(super) name: String,
    pub(super) mode: &'static str,
    /// What is supervised, the first path that is watched for it.
    pub(super) path: Option<PathBuf>,
    /// The paths whose changes wake it, the database itself first; known also while the target is away.
    pub(super) watches: Vec<PathBuf>,
    /// `None` while it is attended.
    pub(super) target: Option<Box<dyn Supervised>>,
    /// What takes its place when it comes back: the configuration changed meanwhile.
    pub(super) replacement: Option<Box<dyn Supervised>>,
    /// To be dropped when it comes back.
    pub(super) gone: bool,
    /// The glob that it came from.
    pub(super) origin: Option<String>,
    pub(super) due: Due,
    pub(super) looking: bool,
    /// Its last look could not even be ended.
    pub(super) stuck: bool,
    /// A file changed while it was looked at or attended.
    pub(super) changed_meanwhile: Option<Urgency>,
    pub(super) errand: Option<AbortHandle>,
    pub(super) case: Option<Case>,
    pub(super) suspicion: Option<Suspicion>,
    /// What was asked of it while it was away.
    pub(super) asked_meanwhile: Vec<Command>,
    attended: Option<Moment>,
    retry_at: Option<Moment>,
    retry_gap: Duration,
    prove_at: Option<Moment>,
    prove_gap: Duration,
}

impl Slot {
    pub(super) fn new(target: Box<dyn Supervised>, origin: Option<String>, due: Due) -> Slot {
        let settings = target.settings();
        Slot {
            path: settings.watches.first().cloned(),
            name: settings.target.clone(),
            mode: settings.mode,
            watches: settings.watches.clone(),
            retry_gap: settings.interval,
            prove_at: None,
            prove_gap: settings.interval,
            target: Some(target),
            replacement: None,
            gone: false,
            origin,
            due,
            looking: false,
            stuck: false,
            changed_meanwhile: None,
            errand: None,
            case: None,
            suspicion: None,
            asked_meanwhile: Vec::new(),
            attended: None,
            retry_at: None,
        }
    }

    /// Ends the errand that is under way, if one is.
    /// A child has its files open now, in a look or an errand.
    pub(super) fn is_out(&self) -> bool {
        self.looking || self.errand.as_ref().is_some_and(|errand| !errand.is_finished())
    }

    pub(super) fn give_up_errand(&mut self) {
        if let Some(errand) = self.errand.take() {
            errand.abort();
        }
    }

    /// True when a look that saw nothing wrong shall be proven in full, to close the open incident. Damage that only a full
    /// check sees makes every lesser look such a one: without a pause it would be checked in full without a break.
    pub(super) fn may_be_proven(&mut self, now: Moment) -> bool {
        if self.prove_at.is_some_and(|at| at.boot_ms > now.boot_ms) {
            return false;
        }
        self.prove_at = Some(now.after(self.prove_gap));
        self.prove_gap = (self.prove_gap * 2).min(PROVE_GAP_MAX);
        true
    }

    /// What its target has learnt and nobody has saved yet.
    pub(super) fn learnt(&mut self) -> Option<Remembered> {
        let memory = self.target.as_mut()?.memory()?;
        Some(Remembered { target: self.name.clone(), mode: self.mode.to_owned(), memory })
    }

    /// The open incident, if any.
    pub(super) fn open_case(&self) -> Option<&Case> {
        self.case.as_ref().filter(|case| case.is_open())
    }

    /// True when an unhealthy look shall be attended now, and not merely be counted.
    pub(super) fn wants_attention(&self, now: Moment) -> bool {
        match self.open_case().map(Case::state) {
            None => true,
            Some(_) => self.retry_at.is_none_or(|at| at.boot_ms <= now.boot_ms),
        }
    }

    /// After attending: when to attend again if the incident is still open.
    pub(super) fn pace(&mut self, now: Moment, retry_in: Option<Duration>, interval: Duration) {
        self.attended = Some(now);
        let longest = |state| if state == IncidentState::Escalated { ESCALATED_RETRY_MAX } else { WAITING_RETRY_MAX };
        match self.open_case().map(Case::state) {
            Some(state @ (IncidentState::Escalated | IncidentState::AwaitingApproval)) => {
                let gap = match state {
                    IncidentState::Escalated => self.retry_gap.max(retry_in.unwrap_or_default()),
                    // A yes that came just before a death is acted on at once.
                    _ => retry_in.unwrap_or(self.retry_gap),
                };
                self.retry_at = Some(now.after(gap));
                self.retry_gap = (self.retry_gap * 2).min(longest(state));
            }
            Some(_) => self.retry_at = retry_in.map(|left| now.after(left)),
            None => {
                self.retry_at = None;
                self.retry_gap = interval;
                self.prove_at = None;
                self.prove_gap = interval;
            }
        }
    }

    /// The time left until an open incident may be attended again: a look is due then, not an interval later.
    pub(super) fn retry_left(&self, now: Moment) -> Option<Duration> {
        let left = self.retry_at.map(|at| at.since(now)).filter(|left| !left.is_zero());
        left.filter(|_| self.open_case().is_some())
    }

    /// Something changed: what was given up may be worth another look, and what waits for a yes may need none any more. `came`
    /// says that a file came or went, as when a program ends; a program that goes on writing must not be read through at
    /// each of its commits.
    pub(super) fn forget_pace(&mut self, now: Moment, came: bool) {
        let rested = || self.attended.is_none_or(|at| now.since(at) >= WAITING_RETRY_MIN);
        let again = match self.open_case().map(Case::state) {
            Some(IncidentState::Escalated) => came || rested(),
            Some(IncidentState::AwaitingApproval) => came && rested(),
            _ => false,
        };
        if again {
            self.retry_at = None;
        }
    }

    /// A person, or the end of what held it back, calls for another look at once.
    pub(super) fn recheck(&mut self, now: Moment) {
        self.retry_at = None;
        self.retry_gap = self.target.as_ref().map_or(self.retry_gap, |target| target.settings().interval);
        self.due.now(now);
    }
}
