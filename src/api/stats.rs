//! `/api/v1/stats`: what healing came to in the last hours.

use std::collections::BTreeMap;

use serde::Serialize;

use super::source::Story;
use crate::model::{Resolution, rfc3339_millis};
use crate::supervisor::status::StatusBoard;

/// The newest so many runs are listed one by one.
const LAST_RUNS: usize = 20;

/// The document. Rates are from 0 to 1, and null where nothing was counted.
#[derive(Debug, PartialEq, Serialize)]
pub struct Stats {
    hours: u32,
    total_runs: u64,
    successful_runs: u64,
    failed_runs: u64,
    success_rate: Option<f64>,
    mttr_seconds: Option<f64>,
    last_runs: Vec<LastRun>,
    playbooks: BTreeMap<String, PlaybookStats>,
    detectors: BTreeMap<String, DetectorStats>,
    mttr_by_kind: BTreeMap<String, f64>,
}

#[derive(Debug, PartialEq, Serialize)]
struct LastRun {
    incident: String,
    target: String,
    mode: String,
    kind: String,
    playbook: String,
    started_at: String,
    seconds: Option<f64>,
    success: bool,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct PlaybookStats {
    executions: u64,
    successes: u64,
    failures: u64,
    success_rate: Option<f64>,
    last_executed: Option<String>,
}

#[derive(Debug, PartialEq, Serialize)]
struct DetectorStats {
    mode: &'static str,
    total_checks: u64,
    total_failures: u64,
    consecutive_failures: u64,
    last_check: Option<String>,
}

/// A mean that knows when it has nothing to say.
#[derive(Default)]
struct Mean {
    sum: f64,
    count: u64,
}

impl Mean {
    fn add(&mut self, value: f64) {
        self.sum += value;
        self.count += 1;
    }

    fn get(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

fn rate(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// Counts. A run that is still under way is not a run yet.
pub fn stats(hours: u32, stories: &[Story], board: &StatusBoard) -> Stats {
    let mut runs = Vec::new();
    let mut playbooks: BTreeMap<String, PlaybookStats> = BTreeMap::new();
    let mut mttr = Mean::default();
    let mut mttr_by_kind: BTreeMap<String, Mean> = BTreeMap::new();
    for Story { incident, runs: of_incident } in stories {
        if let (Some(Resolution::Healed), Some(seconds)) = (incident.outcome, incident.mttr_seconds) {
            mttr.add(seconds);
            mttr_by_kind.entry(incident.kind.to_string()).or_default().add(seconds);
        }
        for run in of_incident {
            let Some(success) = run.success else { continue };
            let of_playbook = playbooks.entry(run.playbook.clone()).or_default();
            of_playbook.executions += 1;
            of_playbook.successes += u64::from(success);
            of_playbook.failures += u64::from(!success);
            of_playbook.success_rate = rate(of_playbook.successes, of_playbook.executions);
            let began = rfc3339_millis(run.began_at);
            if of_playbook.last_executed.as_ref().is_none_or(|last| *last < began) {
                of_playbook.last_executed = Some(began.clone());
            }
            runs.push(LastRun {
                incident: incident.id.to_string(),
                target: incident.target.clone(),
                mode: incident.mode.clone(),
                kind: incident.kind.to_string(),
                playbook: run.playbook.clone(),
                started_at: began,
                seconds: run.seconds,
                success,
            });
        }
    }
    let total_runs = runs.len() as u64;
    let successful_runs = runs.iter().filter(|run| run.success).count() as u64;
    // RFC 3339 in UTC with a fixed number of decimals sorts by time.
    runs.sort_by(|a, b| b.started_at.cmp(&a.started_at));
    runs.truncate(LAST_RUNS);
    Stats {
        hours,
        total_runs,
        successful_runs,
        failed_runs: total_runs - successful_runs,
        success_rate: rate(successful_runs, total_runs),
        mttr_seconds: mttr.get(),
        last_runs: runs,
        playbooks,
        detectors: detectors(board),
        mttr_by_kind: mttr_by_kind.into_iter().filter_map(|(kind, mean)| Some((kind, mean.get()?))).collect(),
    }
}

fn detectors(board: &StatusBoard) -> BTreeMap<String, DetectorStats> {
    let of_target = |target: &crate::supervisor::status::TargetStatus| DetectorStats {
        mode: target.mode,
        total_checks: target.total_checks,
        total_failures: target.total_failures,
        consecutive_failures: target.consecutive_failures,
        last_check: target.last_check.as_ref().map(|check| rfc3339_millis(check.checked_at)),
    };
    board.targets().map(|target| (target.name.clone(), of_target(target))).collect()
}
