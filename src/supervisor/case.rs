//! One incident under way: its story, told to the journal before it is acted on.

use crate::clock::Moment;
use crate::journal::{Entry, JournalError, LeftOpen, Replayed};
use crate::model::{Check, Finding, Incident, IncidentId, IncidentState, Kind, Loss, Plan, Resolution};
use crate::telemetry::{ApprovalAsked, IncidentClosed, IncidentEscalated, IncidentOpened};

use super::Context;

/// An open incident. What it holds is what its log amounts to, entry by entry: the same `match` serves both.
#[derive(Debug, Clone)]
pub struct Case {
    story: Replayed,
    /// Opened by this process: the boot-time clock measures it. After a restart only the wall clock does.
    ours: bool,
    /// The last attempt was held up, and did nothing: it may be made again.
    pub(super) held: bool,
    /// The kinds of failure that were planned for in this visit, one after the other. Not remembered over a restart.
    pub(super) planned_for: Vec<Kind>,
    /// The reason that a person was called for last.
    told: Option<String>,
    /// Not in the journal yet, which could not be written: nothing may be done for it before it is.
    unwritten: bool,
    /// What is shown of it while the journal cannot be written, in the place of what its log says.
    stuck: Option<Box<Incident>>,
    /// A person was called because the journal cannot be written: once for an incident.
    called_for_journal: bool,
}

impl Case {
    /// Opens this incident.
    ///
    /// # Errors
    /// When its log cannot be made durable: then nothing may be healed.
    pub(super) async fn open(cx: &Context, incident: Incident, opened: Moment) -> Result<Case, JournalError> {
        let mut case = Case::unwritten(incident, opened);
        case.write_down(cx).await?;
        IncidentOpened(&case.story.incident).emit();
        Ok(case)
    }

    /// Opens this incident in memory: a person must hear of it also where the journal cannot be written.
    pub(super) fn in_memory(incident: Incident, opened: Moment) -> Case {
        let case = Case::unwritten(incident, opened);
        IncidentOpened(&case.story.incident).emit();
        case
    }

    fn unwritten(incident: Incident, opened: Moment) -> Case {
        Case {
            story: Replayed::begin(incident, opened),
            ours: true,
            held: false,
            planned_for: Vec::new(),
            told: None,
            unwritten: true,
            stuck: None,
            called_for_journal: false,
        }
    }

    /// Puts an incident that is only in memory into the journal, with the time of its first unhealthy look.
    ///
    /// # Errors
    /// When its log cannot be made durable: then nothing may be healed.
    pub(super) async fn write_down(&mut self, cx: &Context) -> Result<(), JournalError> {
        if self.unwritten {
            let entry = Entry::Opened { incident: Box::new(self.story.incident.clone()) };
            cx.journal.append(&self.story.incident.id, entry).await?;
            (self.unwritten, self.stuck) = (false, None);
        }
        Ok(())
    }

    /// What its log says is shown again, until that cannot be written once more. True when it could not be so far.
    pub(super) fn try_again(&mut self) -> bool {
        self.stuck.take().is_some()
    }

    /// The journal cannot be written: nothing is healed, and that is shown. A person is `called` for it, once, over ways that
    /// need no disk.
    pub(super) async fn cannot_write(&mut self, cx: &Context, error: &JournalError, called: bool) {
        let mut words = format!(
            "its incident cannot be written down, so nothing is healed: {error}; {}; guardiand tries again by itself",
            cx.journal.room().await
        );
        let mut shown = self.story.incident.clone();
        if let Some(before) = shown.reason.take() {
            words = format!("{words} (before that: {before})");
        }
        shown.reason = Some(words.clone());
        if called {
            shown.state = IncidentState::Escalated;
        }
        cx.with_board(|board| board.incident(&shown));
        cx.journal.show(shown.clone()).await;
        if called && !std::mem::replace(&mut self.called_for_journal, true) {
            IncidentEscalated { incident: &shown, reason: &words }.emit();
            cx.notices.tell(&shown);
        }
        self.stuck = Some(Box::new(shown));
    }

    /// The incident that what `check` found is.
    pub(super) fn draft(check: &Check, opened: Moment, fault_time: Option<jiff::Timestamp>) -> Incident {
        Case::drafted(&check.target, check.mode, check.verdict.findings().to_vec(), opened, fault_time)
    }

    /// A new incident with these findings.
    pub(super) fn drafted(
        target: &str,
        mode: &str,
        findings: Vec<Finding>,
        opened: Moment,
        fault_time: Option<jiff::Timestamp>,
    ) -> Incident {
        let id = crate::journal::new_id(opened.wall);
        let kind = findings.first().map(|finding| finding.kind.clone());
        Incident {
            id,
            target: target.to_owned(),
            mode: mode.to_owned(),
            kind: kind.unwrap_or_else(|| Kind::new("unknown")),
            opened_at: opened.wall,
            closed_at: None,
            state: IncidentState::Open,
            outcome: None,
            detection_seconds: fault_time.map(|fault| seconds_between(fault, opened.wall)),
            mttr_seconds: None,
            heal_seconds: None,
            playbook: String::new(),
            steps: Vec::new(),
            loss: None,
            evidence: None,
            evidence_expired_at: None,
            reason: None,
            plan: Vec::new(),
            approved_by: None,
            findings,
        }
    }

    /// Takes up an incident that an earlier process left open.
    pub(super) fn carry_on(left: LeftOpen) -> Case {
        let told =
            left.replayed.incident.reason.clone().filter(|_| left.replayed.incident.state == IncidentState::Escalated);
        Case {
            held: left.replayed.held,
            story: left.replayed,
            ours: false,
            planned_for: Vec::new(),
            told,
            unwritten: false,
            stuck: None,
            called_for_journal: false,
        }
    }

    /// Makes `entry` durable, then takes it into account.
    ///
    /// # Errors
    /// When it cannot be made durable, or cannot follow: then it must not be acted on.
    pub(super) async fn tell(&mut self, cx: &Context, entry: Entry) -> Result<(), JournalError> {
        self.write_down(cx).await?;
        let id = self.story.incident.id.clone();
        cx.journal.append(&id, entry.clone()).await?;
        self.stuck = None;
        if let Err(illegal) = self.story.apply(self.story.seq + 1, cx.now(), &entry) {
            // The journal checks the same before it writes, so this cannot be; said rather than trusted.
            tracing::error!(incident = %id, error = %illegal, "the story and its log have parted");
        }
        // A person sees what goes on while it goes on, and not once it has ended.
        cx.with_board(|board| board.incident(&self.story.incident));
        Ok(())
    }

    /// The incident as it stands.
    pub fn incident(&self) -> &Incident {
        self.stuck.as_deref().unwrap_or(&self.story.incident)
    }

    /// Whether the reason that a person was called for says so, too.
    pub(super) fn says_already(&self, words: &str) -> bool {
        self.story.incident.reason.as_ref().is_some_and(|known| says(known, words))
    }

    pub(super) fn story(&self) -> &Replayed {
        &self.story
    }

    pub(super) fn id(&self) -> &IncidentId {
        &self.story.incident.id
    }

    /// Opened by this process: whoever asked for what it does is there to be answered.
    pub(super) fn is_ours(&self) -> bool {
        self.ours
    }

    /// Not closed yet.
    pub fn is_open(&self) -> bool {
        self.state() != IncidentState::Closed
    }

    pub(super) fn state(&self) -> IncidentState {
        self.story.incident.state
    }

    /// Ends it; `resolution` says how.
    ///
    /// # Errors
    /// As [`Case::tell`].
    pub(super) async fn close(&mut self, cx: &Context, resolution: Resolution) -> Result<(), JournalError> {
        let now = cx.now();
        let mut incident = self.story.incident.clone();
        incident.closed_at = Some(now.wall);
        incident.outcome = Some(resolution);
        incident.mttr_seconds = Some(match self.ours {
            true => now.since(self.story.opened).as_secs_f64(),
            false => seconds_between(incident.opened_at, now.wall),
        });
        let healing = self.story.runs.iter().filter_map(|run| run.seconds).sum::<f64>();
        incident.heal_seconds = (!self.story.runs.is_empty()).then_some(healing);
        incident.reason = None;
        incident.loss = incident.loss.or_else(|| gone(&incident.findings));
        self.tell(cx, Entry::Closed { incident: Box::new(incident.clone()) }).await?;
        self.story.incident = incident;
        let incident = &self.story.incident;
        IncidentClosed(incident).emit();
        if resolution == Resolution::Healed {
            cx.with_gates(|gates| gates.healed(&incident.target, &incident.mode, &incident.kind, now.wall));
        }
        cx.notices.tell(incident);
        Ok(())
    }

    /// Hands it to a person, with the reason and the next command. Said once for the same reason, alone or among others.
    ///
    /// # Errors
    /// As [`Case::tell`].
    pub(super) async fn escalate(&mut self, cx: &Context, reason: String) -> Result<(), JournalError> {
        let says_so = |known: &Option<String>| known.as_ref().is_some_and(|known| says(known, &reason));
        let known = self.story.held == self.held && says_so(&self.story.incident.reason);
        if self.state() == IncidentState::Escalated && known {
            return Ok(());
        }
        self.tell(cx, Entry::Escalated { reason: reason.clone(), held: self.held }).await?;
        // Tried again by itself meanwhile, and to no other end: nobody is called twice for that.
        if !says_so(&self.told) {
            IncidentEscalated { incident: &self.story.incident, reason: &reason }.emit();
            cx.notices.tell(&self.story.incident);
            self.told = Some(reason);
        }
        Ok(())
    }

    /// Makes `plan` what the incident's next decision is about; written once while it stays the same.
    ///
    /// # Errors
    /// As [`Case::tell`].
    pub(super) async fn planned(&mut self, cx: &Context, plan: &Plan) -> Result<(), JournalError> {
        if self.story.plan() == *plan {
            return Ok(());
        }
        self.tell(cx, Entry::Planned { playbooks: plan.playbooks.clone(), approval: plan.approval.clone() }).await
    }

    /// Puts `plan` before a person, and says `why`. Said once for the same plan; true when it was said now.
    ///
    /// # Errors
    /// As [`Case::tell`].
    pub(super) async fn ask(&mut self, cx: &Context, plan: &Plan, why: &str) -> Result<bool, JournalError> {
        let approve = format!("run `guardiand approve {}`", self.id());
        let incident = &self.story.incident;
        // What a gate said meanwhile took the place of the question.
        let stands = incident.reason.as_ref().is_some_and(|reason| reason.contains(&approve));
        let waits = incident.state == IncidentState::AwaitingApproval && self.story.approved.is_none();
        if waits && stands && plan.is_like(&self.story.plan()) {
            return Ok(false);
        }
        self.planned(cx, plan).await?;
        let rungs = plan.playbooks.iter().map(|playbook| format!("`{}` ({})", playbook.name, playbook.why));
        let reason = format!("{why}; planned: {}; {approve}", rungs.collect::<Vec<_>>().join(", then "));
        self.tell(cx, Entry::Asked { reason: reason.clone() }).await?;
        ApprovalAsked { incident: &self.story.incident, reason: &reason }.emit();
        cx.notices.tell(&self.story.incident);
        Ok(true)
    }
}

fn seconds_between(earlier: jiff::Timestamp, later: jiff::Timestamp) -> f64 {
    later.duration_since(earlier).as_secs_f64().max(0.0)
}

/// What went with something damaged that no heal brought back: nobody can count it any more.
fn gone(findings: &[Finding]) -> Option<Loss> {
    let source = findings.iter().find_map(|finding| finding.at_stake.clone())?;
    Some(Loss { source, rows_kept: None, rows_lost: None, tables: Vec::new() })
}

/// Whether `known` says what `reason` does. That a program slept at one look and runs at the next is no news to anybody, nor
/// how long something lasts by now, or how many commits there are: the process of another number is.
fn says(known: &str, reason: &str) -> bool {
    let lasting = |words: &str| {
        let at_work = ["state R", "state D"].iter().fold(words.to_owned(), |all, one| all.replace(one, "state S"));
        let mut kept = String::with_capacity(at_work.len());
        for (index, digit) in at_work.char_indices() {
            let is_pid = || kept.trim_end_matches(|one: char| one.is_ascii_digit()).ends_with("pid ");
            match digit.is_ascii_digit() && !is_pid() {
                false => kept.push(digit),
                true if at_work[..index].ends_with(|one: char| one.is_ascii_digit()) => {}
                true => kept.push('0'),
            }
        }
        kept
    };
    lasting(known).contains(&lasting(reason))
}

#[cfg(test)]
mod tests {
    use super::says;

    #[test]
    fn a_program_that_sleeps_now_and_runs_then_is_told_of_once() {
        let of = |pid: u32, state: char| format!("pid {pid} `app` is the WAL writer since at least 1 s, state {state}");
        assert!(says(&of(7, 'S'), &of(7, 'R')) && says(&of(7, 'D'), &of(7, 'S')));
        assert!(says("2 commits since 14 min, pid 12 has it", "31 commits since 2 min, pid 12 has it"));
        assert!(says(&format!("{}; and more", of(7, 'R')), &of(7, 'S')));
        assert!(!says(&of(7, 'S'), &of(8, 'S')), "another program");
        assert!(!says(&of(7, 'S'), &of(7, 'T')), "it was stopped");
        assert!(!says(&of(7, 'S'), &of(71, 'S')), "another program");
    }
}
