//! What will be done about an incident: playbooks of steps, the least lossy first.

use serde::{Deserialize, Serialize};

/// What guardiand may do about a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// Heal at once.
    Heal,
    /// Plan, then wait for `guardiand approve`.
    Approve,
    /// Tell, and touch nothing.
    Observe,
}

/// What a step can cost if it goes wrong; gates and approval go by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Risk {
    /// Changes no byte of the user's files: waiting, copying into evidence.
    Harmless,
    /// Changes bytes through SQLite's own locking, and loses nothing.
    Lossless,
    /// The content afterwards may be older or less than what was there.
    Lossy,
}

/// One step, as the journal keeps it: a later version of guardiand must be able to resume it, so the
/// arguments are plain data that the mode alone understands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepSpec {
    /// The step's name in incidents and metrics, such as `preserve`.
    pub name: String,
    /// The version of `args`' shape.
    pub version: u32,
    /// What it can cost.
    pub risk: Risk,
    /// What the mode needs to apply, verify, resume or undo it.
    pub args: serde_json::Value,
    /// Taken whether or not the steps before it succeeded, once they are done or taken back: what was stopped for a
    /// playbook is started again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub finally: bool,
}

/// One rung of a ladder: steps that are tried together, then proven together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Playbook {
    /// Its name in incidents and metrics, such as `restore_backup`.
    pub name: String,
    /// Why it is here and what it costs, for `--dry-run` and people.
    pub why: String,
    /// Applied in order; the first that fails ends the playbook, but for those that are to be taken `finally`.
    pub steps: Vec<StepSpec>,
}

impl Playbook {
    /// The name of the one that only adds to the evidence: no attempt to heal, so no gate counts it and nothing is proven after it.
    pub const KEEP_FILES: &str = "keep_files";

    /// The worst risk of its steps.
    pub fn risk(&self) -> Risk {
        self.steps.iter().map(|step| step.risk).max().unwrap_or(Risk::Harmless)
    }
}

/// What shall be done about an incident.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Plan {
    /// What to try, the least lossy first.
    pub playbooks: Vec<Playbook>,
    /// Why a person must say yes first, whatever the policy: what it costs, and whom it would touch.
    pub approval: Option<String>,
}

impl Plan {
    /// A plan that nobody needs to be asked about.
    pub fn of(playbooks: Vec<Playbook>) -> Plan {
        Plan { playbooks, approval: None }
    }

    /// True when a person who was asked about the one was asked about the other: the same steps, for the same reason.
    pub fn is_like(&self, other: &Plan) -> bool {
        let reason = |plan: &Plan| plan.approval.as_deref().map(words);
        let steps = |plan: &Plan| -> Vec<(String, Vec<StepSpec>)> {
            plan.playbooks.iter().map(|playbook| (playbook.name.clone(), playbook.steps.clone())).collect()
        };
        reason(self) == reason(other) && steps(self) == steps(other)
    }

    /// Why a yes to `approved` is no yes to this plan: what costs more than what was approved, or touches somebody else.
    /// `None`: it may run. What costs nothing may come or go.
    pub fn exceeds(&self, approved: &Plan) -> Option<String> {
        if let Some(now) = &self.approval
            && approved.approval.as_ref().is_none_or(|then| words(then) != words(now))
        {
            return Some(format!("it needs a yes for another reason now: {now}"));
        }
        let lossy = |plan: &Plan| -> Vec<Playbook> {
            plan.playbooks.iter().filter(|playbook| playbook.risk() > Risk::Lossless).cloned().collect()
        };
        let (now, then) = (lossy(self), lossy(approved));
        let same = |a: &Playbook, b: &Playbook| a.name == b.name && a.steps == b.steps;
        if let Some(new) = now.iter().find(|new| !then.iter().any(|old| same(old, new))) {
            return Some(format!("`{}` ({}) is not what was approved", new.name, new.why));
        }
        match (now.first(), then.first()) {
            // A later rung may lose more than the one before it.
            (Some(new), Some(old)) if !same(old, new) => {
                Some(format!("`{}` ({}) would come first now, and `{}` ({}) did", new.name, new.why, old.name, old.why))
            }
            _ => None,
        }
    }
}

/// A reason without its numbers: pids, counts and times change while it stays the same reason.
fn words(reason: &str) -> String {
    reason.chars().filter(|c| !c.is_ascii_digit()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn playbook(name: &str, risk: Risk, args: &str) -> Playbook {
        let step = StepSpec { name: "step".to_owned(), version: 1, risk, args: args.into(), finally: false };
        Playbook { name: name.to_owned(), why: format!("{name} {args}"), steps: vec![step] }
    }

    #[test]
    fn a_yes_covers_what_it_was_said_to_and_nothing_lossier() {
        let (wait, index) = (playbook("wait", Risk::Harmless, ""), playbook("index", Risk::Lossless, ""));
        let (new, old) = (playbook("backup", Risk::Lossy, "03:00"), playbook("backup", Risk::Lossy, "02:00"));
        let empty = playbook("recreate", Risk::Lossy, "");
        let of = |playbooks: &[&Playbook]| Plan::of(playbooks.iter().map(|playbook| (*playbook).clone()).collect());
        let approved = of(&[&index, &new, &old]);
        for (fresh, covered) in [
            (approved.clone(), true),
            (of(&[&wait]), true),
            (of(&[&wait, &index, &new]), true),
            (of(&[&new, &old]), true),
            (of(&[]), true),
            (of(&[&index, &new, &old, &empty]), false),
            (of(&[&old]), false),
            (of(&[&old, &new]), false),
            (of(&[&empty]), false),
            (Plan { approval: Some("it is in use".to_owned()), ..approved.clone() }, false),
        ] {
            assert_eq!(fresh.exceeds(&approved).is_none(), covered, "{fresh:?}");
        }
        let in_use = |who: &str| Plan { approval: Some(format!("{who} has it open")), ..approved.clone() };
        assert_eq!(in_use("app (pid 7)").exceeds(&in_use("app (pid 5)")), None, "the same program, started anew");
        assert!(in_use("cron (pid 5)").exceeds(&in_use("app (pid 5)")).is_some(), "another program");
    }
}
