//! Judging: facts, memory and configuration in, a verdict out. Pure.
//!
//! The layers are judged in order, and the first that fails hides those above it: what is missing cannot be
//! malformed. Whatever SQLite merely *cannot tell* (rules 10 and 20 of the measured facts) is `unknown`, and what was
//! never seen healthy is never called corrupt on SQLite's word alone.

mod content;
mod contention;
mod exclusive;
mod files;
#[cfg(test)]
pub(in crate::modes::database) mod tests;
mod unlinked;

use crate::clock::Moment;
use crate::job::{DatabaseFacts, FailureKind, IntegrityFacts, JobFailure, SqliteFault};
use crate::model::{FaultClass, Finding, Kind, Layer, LayerResult, LayerVerdict, Severity, Verdict};

use super::config::DatabaseConfig;
use super::kinds::{self, OPEN};
use super::memory::Memory;
pub use exclusive::{Exclusive, exclusive};

/// Judges what a probe saw.
pub fn judge(facts: &DatabaseFacts, memory: &Memory, config: &DatabaseConfig, now: Moment) -> Verdict {
    let mut judgement = Judgement { facts, memory, config, now, findings: Vec::new(), unknown: None };
    judgement.run();
    judgement.verdict()
}

/// Judges a probe that brought nothing back.
pub fn judge_failure(failure: &JobFailure) -> Verdict {
    match failure.kind {
        FailureKind::Deadline => Verdict::Unhealthy(vec![finding(
            &kinds::CONNECTION_FAILED,
            Severity::High,
            &OPEN,
            format!("the probe timed out: {}", failure.message),
            "guardiand looks again; check the disk under it, the canary query, and what holds the file",
        )]),
        FailureKind::Abandoned => Verdict::Unknown(format!("the disk under it does not answer: {}", failure.message)),
        FailureKind::Crashed
        | FailureKind::Failed
        | FailureKind::Refused
        | FailureKind::Blocked
        | FailureKind::Outdated => Verdict::Unknown(format!("the probe failed: {}", failure.message)),
    }
}

/// True when SQLite answered BUSY to the probe.
pub fn answered_busy(facts: &DatabaseFacts) -> bool {
    let busy = |fault: &SqliteFault| fault.class == FaultClass::Busy;
    matches!(&facts.open, Some(Err(fault)) if busy(fault)) || matches!(&facts.query, Some(Err(fault)) if busy(fault))
}

/// Each layer's verdict, from the findings and from what was looked at.
pub fn layers(facts: Option<&DatabaseFacts>, memory: &Memory, verdict: &Verdict) -> Vec<LayerResult> {
    // Nobody gets in beside a program that locks for its life: what was asked in vain was not looked at.
    let shut = facts.is_some_and(|facts| answered_busy(facts) && !matches!(exclusive(facts, memory), Exclusive::No));
    let failed = |layer: &str| verdict.findings().iter().any(|finding| finding.layer.as_str() == layer);
    // Where no file is there is nothing to find sound.
    let nothing = failed(kinds::EXISTS.as_str());
    let skipped = |layer: &str| nothing || shut && is_sqlites(layer);
    kinds::LAYERS
        .iter()
        .map(|name| {
            let looked = facts.and_then(|facts| facts.layers.iter().find(|time| time.layer == *name));
            let verdict = match (failed(name), looked, verdict) {
                (true, _, _) => LayerVerdict::Failed,
                (false, None, _) => LayerVerdict::Skipped,
                (false, Some(_), _) if skipped(name) => LayerVerdict::Skipped,
                (false, Some(_), Verdict::Unknown(_)) => LayerVerdict::Unknown,
                (false, Some(_), _) if facts.is_some_and(|facts| unsettled(facts, name)) => LayerVerdict::Unknown,
                (false, Some(_), _) => LayerVerdict::Ok,
            };
            LayerResult { layer: Layer::new(name), verdict, seconds: looked.map_or(0.0, |time| time.seconds) }
        })
        .collect()
}

/// The layers that SQLite is asked for.
fn is_sqlites(layer: &str) -> bool {
    [OPEN, kinds::INTEGRITY, kinds::QUERY].iter().any(|one| one.as_str() == layer)
}

/// True when what SQLite was asked for this layer came to no good end, which is not this layer's own failure: where the layer
/// before it failed, or the answer was cut short.
fn unsettled(facts: &DatabaseFacts, layer: &str) -> bool {
    let shut = matches!(facts.open, Some(Err(_)));
    let is = |one: &Layer| one.as_str() == layer;
    (shut && is_sqlites(layer))
        || (is(&kinds::INTEGRITY) && facts.integrity.as_ref().is_some_and(|check| cut_short(check).is_some()))
        || (is(&kinds::QUERY) && matches!(facts.query, Some(Err(_))))
}

/// Why a check that found nothing does not say that nothing is there.
pub fn cut_short(check: &IntegrityFacts) -> Option<&str> {
    let fault = check.fault.as_ref().filter(|_| !check.ok).map(|fault| fault.message.as_str());
    check.unfinished.as_deref().or(fault)
}

fn finding(
    kind: &Kind,
    severity: Severity,
    layer: &Layer,
    detail: impl Into<String>,
    remediation: impl Into<String>,
) -> Finding {
    Finding {
        kind: kind.clone(),
        severity,
        layer: layer.clone(),
        detail: detail.into(),
        sqlite_code: None,
        at_stake: None,
        remediation: remediation.into(),
    }
}

struct Judgement<'a> {
    facts: &'a DatabaseFacts,
    memory: &'a Memory,
    config: &'a DatabaseConfig,
    now: Moment,
    findings: Vec<Finding>,
    unknown: Option<String>,
}

impl Judgement<'_> {
    fn verdict(mut self) -> Verdict {
        self.not_in_its_place();
        if !self.findings.is_empty() {
            self.findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
            return Verdict::Unhealthy(self.findings);
        }
        match self.unknown {
            Some(reason) => Verdict::Unknown(reason),
            None => Verdict::Healthy,
        }
    }

    fn find(
        &mut self,
        kind: &Kind,
        severity: Severity,
        layer: &Layer,
        detail: impl Into<String>,
        todo: impl Into<String>,
    ) {
        self.findings.push(finding(kind, severity, layer, detail, todo));
    }

    /// What is lost if the last finding goes away by itself.
    fn at_stake(&mut self, what_is_left: &str) {
        if let Some(last) = self.findings.last_mut() {
            last.at_stake = Some(what_is_left.to_owned());
        }
    }

    /// SQLite was not asked, and nothing that was found says more: that is no health.
    fn left_closed(&mut self) {
        if let Some(reason) = &self.facts.not_opened
            && self.findings.is_empty()
            && !self.facts.copy_waits
        {
            self.cannot_tell(format!("it was not opened: {reason}"));
        }
    }

    fn find_fault(&mut self, kind: &Kind, severity: Severity, layer: &Layer, fault: &SqliteFault, todo: &str) {
        let detail = match fault.errno {
            Some(errno) => format!("{} (SQLite code {}, errno {errno})", fault.message, fault.code),
            None => format!("{} (SQLite code {})", fault.message, fault.code),
        };
        let mut finding = finding(kind, severity, layer, detail, todo);
        finding.sqlite_code = Some(fault.code);
        self.findings.push(finding);
    }

    fn cannot_tell(&mut self, reason: impl Into<String>) {
        self.unknown.get_or_insert_with(|| reason.into());
    }

    fn run(&mut self) {
        if self.is_unlinked() || !self.exists() {
            return;
        }
        self.room_to_write();
        if self.facts.unchanged {
            return;
        }
        let readable = self.readable();
        self.wal_file();
        self.dotfile_lock();
        self.held_locks();
        if !self.read() || !readable || !self.header() || !self.side_files() {
            return;
        }
        if self.open() {
            self.integrity();
            self.query();
        }
        self.end_is_lost();
        self.left_closed();
    }
}
