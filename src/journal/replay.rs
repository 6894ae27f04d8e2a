//! What an incident's log amounts to. One `match` on (state, entry) rejects a history that cannot have happened, both
//! when an entry is about to be written and when it is read back after a crash.
//!
//! ```text
//! opened ─▶ planned ─▶ playbook_began ─▶ (step_intended ─▶ step_ended | step_resumed)* ─▶ verifying ─▶ proved ─▶ closed
//!   │          ▲            ▲  ▲                                                             └▶ disproved ─▶ (undo steps,
//!   │          │            │  └────────────────────────────── the next playbook ──────────────── a playbook, escalated)
//!   ├▶ asked ──┴▶ approved ─┤
//!   ├▶ deferred             │
//!   ├▶ escalated ───────────┘   (from anywhere but with a step unfinished or after the end)
//!   └▶ recovered ─▶ closed ─▶ rolled_back
//! ```
//!
//! `rolling_back` stands before the beginning of the playbook that takes a heal back; `rolled_back` is what the log of the
//! incident whose heal that was says in the end. `hold_lifted` is a person's word that it may be healed again after that.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::entry::{Entry, Read, Record};
use crate::clock::Moment;
use crate::job::Phase;
use crate::model::{
    Incident, IncidentEvent, IncidentId, IncidentState, Loss, Plan, Playbook, Resolution, Risk, Rung, StepOutcome,
    StepRecord, StepSpec,
};

/// A step that was begun, and of which nobody knows how far it got.
#[derive(Debug, Clone, PartialEq)]
pub struct Unfinished {
    /// Its playbook's place in the plan.
    pub playbook: usize,
    /// Its place in the playbook.
    pub index: usize,
    /// The step.
    pub spec: StepSpec,
    /// What was being done with it.
    pub phase: Phase,
}

/// One run of one playbook.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlaybookRun {
    /// The playbook.
    pub playbook: String,
    /// When it began.
    pub began_at: Timestamp,
    /// When it was proven or given up.
    pub ended_at: Option<Timestamp>,
    /// How long that took, on the boot-time clock.
    pub seconds: Option<f64>,
    /// The detector said healthy after it; `None` while it runs.
    pub success: Option<bool>,
}

/// What a log amounts to.
#[derive(Debug, Clone, PartialEq)]
pub struct Replayed {
    /// The incident as the log left it.
    pub incident: Incident,
    /// When it was opened, on both clocks.
    pub opened: Moment,
    /// The last entry's number.
    pub seq: u64,
    /// The last entry's time.
    pub last: Moment,
    /// The plan.
    pub playbooks: Vec<Playbook>,
    /// Why a person must say yes to it, whatever the policy.
    pub approval: Option<String>,
    /// What a person said yes to.
    pub approved: Option<Plan>,
    /// The playbook that ran last.
    pub current: Option<usize>,
    /// A step without an end.
    pub unfinished: Option<Unfinished>,
    /// Every run of a playbook.
    pub runs: Vec<PlaybookRun>,
    /// What the present playbook costs if it heals.
    pub loss: Option<Loss>,
    /// Something else stands in the target's place, and was not taken back: whatever made the target healthy afterwards, this
    /// is what it cost.
    pub replaced: bool,
    /// What was tried last was held up, and did nothing: it may be tried again.
    pub held: bool,
    /// A step that changes something without replacing it was done, and not to take a heal back: that a stopped program goes on,
    /// say. What made the target healthy afterwards was that, unless something else is known.
    pub acted: bool,
    /// The log has its last entry.
    pub closed: bool,
    /// Steps of the present run that have ended, with their places in the playbook.
    pub taken: Vec<(usize, StepOutcome)>,
    /// The plan takes back the heal of this incident, as somebody asked.
    pub rolling_back: Option<(IncidentId, String)>,
    /// What the last rollback took out of the database: whatever heals it afterwards, that is lost, unless it is put back.
    pub dropped: Option<Loss>,
    /// The same of the rollback that is under way.
    dropping: Option<Loss>,
    /// So many runs of playbooks are of no account when it is asked what was tried in vain: a person let it go on since.
    pub let_go: usize,
    /// Entries of a newer version, which were skipped.
    pub skipped: Vec<String>,
    run_began_ms: u64,
}

/// A history that cannot have happened.
#[derive(Debug, Clone, PartialEq, Error)]
#[error("entry {seq} ({entry}) cannot follow in an incident that is {state}: {reason}")]
pub struct Illegal {
    /// The entry's number.
    pub seq: u64,
    /// The entry's name.
    pub entry: String,
    /// The incident's state before it.
    pub state: &'static str,
    /// What is wrong.
    pub reason: String,
    /// What the entries before it amount to.
    pub before: Option<Box<Replayed>>,
}

/// What these records amount to.
///
/// # Errors
/// [`Illegal`] at the first entry that cannot follow; it carries what came before it.
pub fn replay(records: &[Record]) -> Result<Replayed, Illegal> {
    let mut known = records.iter();
    let Some(first) = known.next() else {
        return Err(illegal(0, "nothing", "not there", "the log is empty", None));
    };
    let Read::Known(Entry::Opened { incident }) = &first.entry else {
        return Err(illegal(first.seq, name(&first.entry), "not there", "a log begins with `opened`", None));
    };
    let mut replayed = Replayed::begin((**incident).clone(), first.at);
    for record in known {
        match &record.entry {
            Read::Known(entry) => replayed.apply(record.seq, record.at, entry)?,
            Read::Unknown { name, reason } => {
                replayed.seq = record.seq;
                replayed.skipped.push(format!("entry {} (`{name}`): {reason}", record.seq));
            }
        }
    }
    Ok(replayed)
}

impl Replayed {
    /// What a log with only its first entry amounts to.
    pub fn begin(incident: Incident, at: Moment) -> Replayed {
        Replayed {
            incident,
            opened: at,
            seq: 0,
            last: at,
            playbooks: Vec::new(),
            approval: None,
            approved: None,
            current: None,
            unfinished: None,
            runs: Vec::new(),
            loss: None,
            replaced: false,
            held: false,
            acted: false,
            closed: false,
            taken: Vec::new(),
            rolling_back: None,
            dropped: None,
            dropping: None,
            let_go: 0,
            skipped: Vec::new(),
            run_began_ms: at.boot_ms,
        }
    }

    /// The plan as it was last made.
    pub fn plan(&self) -> Plan {
        Plan { playbooks: self.playbooks.clone(), approval: self.approval.clone() }
    }

    /// A playbook was under way when the log ends: somebody died, or stopped, in the middle of it.
    pub fn is_interrupted(&self) -> bool {
        let healing = matches!(self.incident.state, IncidentState::Healing | IncidentState::Verifying);
        !self.closed && (healing || self.unfinished.is_some())
    }

    /// Moves on by one entry.
    ///
    /// # Errors
    /// [`Illegal`], and nothing has changed.
    pub fn apply(&mut self, seq: u64, at: Moment, entry: &Entry) -> Result<(), Illegal> {
        let mut next = self.clone();
        match next.step(at, entry) {
            Ok(()) => {
                next.seq = seq;
                next.last = at;
                *self = next;
                Ok(())
            }
            Err(reason) => {
                let before = Some(Box::new(self.clone()));
                Err(illegal(seq, entry.name(), self.incident.state.name(), &reason, before))
            }
        }
    }

    fn step(&mut self, at: Moment, entry: &Entry) -> Result<(), String> {
        use IncidentEvent as E;
        use IncidentState as S;
        if self.closed {
            return match entry {
                Entry::RolledBack { .. } => {
                    self.incident.outcome = Some(Resolution::RolledBack);
                    Ok(())
                }
                Entry::EvidenceExpired => {
                    self.evidence_expired(at);
                    Ok(())
                }
                _ => Err("the log has ended".into()),
            };
        }
        if let Some(open) = &self.unfinished
            && !matches!(entry, Entry::StepEnded { .. } | Entry::StepResumed { .. })
        {
            return Err(format!("step {} of playbook {} has no end yet", open.index, open.playbook));
        }
        match (self.incident.state, entry) {
            (_, Entry::Opened { .. }) => Err("it is open already".into()),
            (S::Open | S::AwaitingApproval | S::Escalated | S::Healing, Entry::Planned { playbooks, approval }) => {
                self.playbooks.clone_from(playbooks);
                self.approval.clone_from(approval);
                self.incident.plan = playbooks.iter().map(Rung::from).collect();
                self.current = None;
                self.rolling_back = None;
                Ok(())
            }
            (S::Open | S::AwaitingApproval | S::Escalated, Entry::RollingBack { of, by, loss }) => {
                self.dropping.clone_from(loss);
                self.rolling_back = Some((of.clone(), by.clone()));
                Ok(())
            }
            (S::Open | S::Escalated, Entry::HoldLifted { by }) => {
                self.rolling_back = None;
                self.let_go = self.runs.len();
                self.incident.reason = Some(format!("let go on by uid {by} after a rollback: healed like any other"));
                Ok(())
            }
            (_, Entry::Asked { reason }) => {
                self.incident.reason = Some(reason.clone());
                self.incident.approved_by = None;
                self.approved = None;
                self.advance(E::Ask)
            }
            (S::AwaitingApproval, Entry::Approved { by }) => {
                self.incident.approved_by = Some(*by);
                self.approved = Some(self.plan());
                Ok(())
            }
            (S::Open | S::AwaitingApproval | S::Escalated | S::Healing, Entry::PlaybookBegan { index, name }) => {
                self.playbook_began(at, *index, name)
            }
            (S::Healing, Entry::StepIntended { playbook, index, spec, phase }) => {
                if self.current != Some(*playbook) {
                    return Err(format!("playbook {playbook} has not begun"));
                }
                let (playbook, index, spec) = (*playbook, *index, spec.clone());
                self.unfinished = Some(Unfinished { playbook, index, spec, phase: *phase });
                Ok(())
            }
            (
                S::Healing,
                Entry::StepEnded { playbook, index, record, loss }
                | Entry::StepResumed { playbook, index, record, loss },
            ) => self.step_ended(*playbook, *index, record, loss.as_ref()),
            (_, Entry::Verifying) => {
                self.advance(E::StepsDone)?;
                if self.rolling_back.is_some() {
                    // The heal that it takes back costs nothing any more.
                    (self.loss, self.dropped) = (None, self.dropping.take());
                    self.incident.loss.clone_from(&self.dropped);
                }
                Ok(())
            }
            (_, Entry::Proved { .. }) => {
                self.advance(E::Proved)?;
                self.end_run(at, true);
                self.incident.loss = self.cost();
                Ok(())
            }
            (_, Entry::Disproved { .. }) => {
                self.advance(E::Disproved)?;
                self.end_run(at, false);
                Ok(())
            }
            (S::Closed, Entry::Deferred { .. }) => Err("it is over".into()),
            (_, Entry::Deferred { reason }) => {
                self.incident.reason = Some(reason.clone());
                Ok(())
            }
            (_, Entry::Interrupted) => {
                self.advance(E::Interrupted)?;
                self.end_run(at, false);
                Ok(())
            }
            (_, Entry::Escalated { reason, held }) => {
                self.advance(E::Escalate)?;
                self.end_run(at, false);
                self.held = *held;
                // A yes is for one attempt: what did not heal is asked about again.
                self.approved = None;
                self.incident.reason = Some(reason.clone());
                Ok(())
            }
            (_, Entry::Recovered) => {
                self.advance(E::Recovered)?;
                self.end_run(at, false);
                if self.replaced {
                    self.incident.loss = self.cost();
                }
                Ok(())
            }
            (S::Closed, Entry::Closed { incident }) => {
                self.incident = (**incident).clone();
                self.closed = true;
                Ok(())
            }
            (state, entry) => Err(format!("`{}` does not belong to `{}`", entry.name(), state.name())),
        }
    }

    fn playbook_began(&mut self, at: Moment, index: usize, name: &str) -> Result<(), String> {
        match self.playbooks.get(index) {
            Some(planned) if planned.name == name => {}
            Some(planned) => return Err(format!("playbook {index} of the plan is `{}`, not `{name}`", planned.name)),
            None => return Err(format!("the plan has no playbook {index}")),
        }
        if self.incident.state != IncidentState::Healing {
            self.advance(IncidentEvent::Begin)?;
        }
        self.end_run(at, false);
        self.current = Some(index);
        // What an earlier playbook put in place, and was not taken back, costs what it costs.
        self.loss = self.loss.take().filter(|_| self.replaced);
        self.taken.clear();
        self.incident.reason = None;
        name.clone_into(&mut self.incident.playbook);
        self.run_began_ms = at.boot_ms;
        if name == Playbook::KEEP_FILES {
            return Ok(());
        }
        self.runs.push(PlaybookRun {
            playbook: name.to_owned(),
            began_at: at.wall,
            ended_at: None,
            seconds: None,
            success: None,
        });
        Ok(())
    }

    fn step_ended(
        &mut self,
        playbook: usize,
        index: usize,
        record: &StepRecord,
        loss: Option<&Loss>,
    ) -> Result<(), String> {
        match self.unfinished.take() {
            Some(open) if open.playbook == playbook && open.index == index => {
                let applied = open.phase != Phase::Undo && record.outcome == StepOutcome::Ok;
                self.acted |= applied && open.spec.risk == Risk::Lossless && self.rolling_back.is_none();
                if open.spec.risk == Risk::Lossy {
                    self.replaced = match (open.phase, record.outcome) {
                        // What stood in its place is what a rollback takes away.
                        (Phase::Apply | Phase::Resume, StepOutcome::Ok) => self.rolling_back.is_none(),
                        (_, StepOutcome::Undone) | (Phase::Undo, StepOutcome::Ok | StepOutcome::Skipped) => false,
                        (_, StepOutcome::Failed) | (Phase::Apply | Phase::Resume, StepOutcome::Skipped) => {
                            self.replaced
                        }
                    };
                }
            }
            Some(open) => return Err(format!("step {} of playbook {} is under way", open.index, open.playbook)),
            None => return Err("no step is under way".into()),
        }
        match record.outcome {
            // Of what stands in its place nothing is undone when its scaffolding is.
            StepOutcome::Undone if self.replaced => {}
            StepOutcome::Undone => self.loss = None,
            StepOutcome::Ok if loss.is_some() => self.loss = loss.cloned(),
            StepOutcome::Ok | StepOutcome::Failed | StepOutcome::Skipped => {}
        }
        if record.evidence.is_some() {
            self.incident.evidence.clone_from(&record.evidence);
        }
        self.incident.steps.push(record.clone());
        self.taken.push((index, record.outcome));
        Ok(())
    }

    /// What the present content costs: what was put in its place, and what a rollback before it took out of the database.
    fn cost(&self) -> Option<Loss> {
        match (&self.loss, &self.dropped) {
            (Some(loss), Some(dropped)) => Some(Loss {
                source: format!("{}; before it {}", loss.source, dropped.source),
                rows_lost: None,
                ..loss.clone()
            }),
            (loss, dropped) => loss.as_ref().or(dropped.as_ref()).cloned(),
        }
    }

    /// Nobody shall be sent to a folder that is gone.
    fn evidence_expired(&mut self, at: Moment) {
        self.incident.evidence = None;
        self.incident.steps.iter_mut().for_each(|step| step.evidence = None);
        self.incident.evidence_expired_at = Some(at.wall);
    }

    /// Step `index` of the present run was applied.
    pub fn was_taken(&self, index: usize) -> bool {
        self.taken
            .iter()
            .any(|(known, outcome)| *known == index && matches!(outcome, StepOutcome::Ok | StepOutcome::Skipped))
    }

    /// A heal was taken back, as a person wanted, and nothing was tried since: until a person says otherwise, nothing is.
    pub fn is_rolled_back(&self) -> bool {
        let playbook = self.rolling_back.as_ref().and(self.current).and_then(|index| self.playbooks.get(index));
        playbook.is_some_and(|playbook| {
            playbook.steps.iter().enumerate().filter(|(_, spec)| !spec.finally).all(|(index, _)| self.was_taken(index))
        })
    }

    /// The runs that count when it is asked what was tried in vain.
    pub fn attempts(&self) -> &[PlaybookRun] {
        self.runs.get(self.let_go..).unwrap_or_default()
    }

    fn end_run(&mut self, at: Moment, success: bool) {
        let began_ms = self.run_began_ms;
        if let Some(run) = self.runs.last_mut().filter(|run| run.success.is_none()) {
            run.ended_at = Some(at.wall);
            run.seconds = at.boot_ms.checked_sub(began_ms).map(|ms| ms as f64 / 1000.0);
            run.success = Some(success);
        }
    }

    fn advance(&mut self, event: IncidentEvent) -> Result<(), String> {
        self.incident.advance(event).map_err(|illegal| illegal.to_string())
    }
}

fn name(entry: &Read) -> &str {
    match entry {
        Read::Known(entry) => entry.name(),
        Read::Unknown { name, .. } => name,
    }
}

fn illegal(seq: u64, entry: &str, state: &'static str, reason: &str, before: Option<Box<Replayed>>) -> Illegal {
    Illegal { seq, entry: entry.to_owned(), state, reason: reason.to_owned(), before }
}
